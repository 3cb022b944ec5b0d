//! Codecs, checksums, framed records, file names and the write batch.
