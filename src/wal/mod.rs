//! The write-ahead log: segments of framed records, one record a batch.
//!
//! Owns the segment files. Promises that a record is durable once [`writer::WalWriter::sync`] returned, and that
//! [`reader::replay`] finds exactly the records that were handed over, or says where the log is damaged.
//!
//! ```text
//! 000006.wal   Header{version, predecessor} Record Record … Record [End] 000000…
//!                               |
//!                               +-- number, good length and last sequence number of the segment before
//! ```
//!
//! A segment is created, synced and named in the manifest before the first record enters it, and its
//! predecessor is synced to the last byte before that. So only the last segment can have a torn tail, and every
//! other one ends exactly where its successor says. Knows nothing of memtables or tables.

#[cfg(test)]
mod golden;
pub mod group;
pub mod reader;
pub mod segment;
pub mod writer;

use crate::base::ids::FileNumber;
use crate::base::seq::SeqNum;
use crate::format::codec::Reader;

/// Version of the WAL's format; `docs/format/wal.md` says when it changes.
pub const WAL_FORMAT_VERSION: u32 = 1;

/// The first bytes of a segment's header.
pub const HEADER_MAGIC: &[u8; 8] = b"TLSM.wal";

/// What a segment states about the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its number.
    pub number: FileNumber,
    /// How many of its bytes count: all of them are durable.
    pub good_len: u64,
    /// The last sequence number committed in it or before it.
    pub last_seq: SeqNum,
}

/// Encodes a segment's header payload; a database's first segment has no predecessor.
fn encode_header(predecessor: Option<Predecessor>) -> Vec<u8> {
    let (number, good_len, last_seq) =
        predecessor.map_or((0, 0, 0), |before| (before.number.0, before.good_len, before.last_seq.get()));
    let mut out = HEADER_MAGIC.to_vec();
    out.extend_from_slice(&WAL_FORMAT_VERSION.to_le_bytes());
    for word in [number, good_len, last_seq] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out
}

/// What a header payload says.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    Known(Option<Predecessor>),
    NewerVersion(u32),
    Nonsense,
}

fn decode_header(payload: &[u8]) -> Header {
    let mut reader = Reader::new(payload);
    let mut parse = || {
        let magic = reader.take(HEADER_MAGIC.len())?;
        let version = reader.u32()?;
        if magic != HEADER_MAGIC || version == 0 {
            return None;
        }
        if version > WAL_FORMAT_VERSION {
            return Some(Header::NewerVersion(version));
        }
        let number = FileNumber::from_disk(reader.u64()?)?;
        let good_len = reader.u64()?;
        let last_seq = SeqNum::from_disk(reader.u64()?)?;
        let predecessor = (number.0 != 0).then_some(Predecessor { number, good_len, last_seq });
        Some(Header::Known(predecessor))
    };
    parse().unwrap_or(Header::Nonsense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_the_predecessor_and_refuses_a_newer_version() {
        let before = Predecessor { number: FileNumber(7), good_len: 4096, last_seq: SeqNum::new(99) };
        let mut bytes = encode_header(Some(before));
        assert_eq!(decode_header(&bytes), Header::Known(Some(before)));
        assert_eq!(decode_header(&encode_header(None)), Header::Known(None));
        bytes[8] = 2;
        assert_eq!(decode_header(&bytes), Header::NewerVersion(2));
        assert_eq!(decode_header(&bytes[..11]), Header::Nonsense);
    }
}
