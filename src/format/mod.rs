//! Codecs, checksums, framed records, file names and the write batch.

pub mod checksum;
pub mod varint;
