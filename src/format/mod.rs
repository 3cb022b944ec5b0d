//! How things become bytes: codecs, checksums, framed records, file names and the write batch.
//!
//! Owns every encoding that more than one module shares. Promises that decoding any bytes gives a value or an
//! error, never a panic and never an allocation larger than the bound in `limits.rs`. The byte maps are in
//! `docs/format/`.

#[cfg(test)]
pub(crate) mod annotate;
pub mod batch;
pub mod checksum;
pub mod codec;
pub mod frame;
pub mod names;
pub mod varint;
