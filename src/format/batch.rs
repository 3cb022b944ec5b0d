//! The write batch: operations in their final encoding, ready to be one WAL record.
//!
//! The bytes of a batch are laid out once, as the frame that goes to the WAL.
//!
//! ```text
//! frame header (24) | commit time ms (8) | first sequence number (8) | operation count (4) | operations
//! operation:  kind (1) | keyspace varint | key length varint | key | value length varint | value
//! ```
//! A delete has no value part. The value of a put-with-expiry begins with 8 bytes of expiry.
//! What the operations of other kinds look like is not known here, so a record with one is refused as a whole.

use crate::base::error::{Error, ErrorKind};
use crate::base::ids::KeyspaceId;
use crate::base::key::Kind;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::codec::{Reader, put_bytes, put_varint};
use crate::format::frame::FRAME_HEADER_LEN_BYTES;
use std::ops::Range;
use std::path::Path;

/// Bytes of a record's payload in front of its operations.
pub const BATCH_HEADER_LEN_BYTES: usize = 20;
const OPERATIONS_START: usize = FRAME_HEADER_LEN_BYTES + BATCH_HEADER_LEN_BYTES;

/// Operations that are applied together or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    frame: Vec<u8>,
    count: u32,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// Makes an empty batch.
    pub fn new() -> Batch {
        Batch { frame: vec![0; OPERATIONS_START], count: 0 }
    }

    /// Makes an empty batch with space for `bytes` of operations.
    pub fn with_capacity(bytes: usize) -> Batch {
        let mut frame = Vec::with_capacity(OPERATIONS_START + bytes);
        frame.resize(OPERATIONS_START, 0);
        Batch { frame, count: 0 }
    }

    /// Adds a put.
    pub fn put(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8]) {
        self.operation(Kind::Put, keyspace, key);
        put_bytes(&mut self.frame, value);
    }

    /// Adds a delete.
    pub fn delete(&mut self, keyspace: KeyspaceId, key: &[u8]) {
        self.operation(Kind::Delete, keyspace, key);
    }

    fn operation(&mut self, kind: Kind, keyspace: KeyspaceId, key: &[u8]) {
        self.frame.push(kind as u8);
        put_varint(&mut self.frame, u64::from(keyspace.0));
        put_bytes(&mut self.frame, key);
        self.count += 1;
    }

    /// Returns how many operations there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns how many bytes the operations take.
    pub fn len_bytes(&self) -> usize {
        self.frame.len() - OPERATIONS_START
    }

    /// Removes every operation, keeping the memory.
    pub fn clear(&mut self) {
        self.frame.truncate(OPERATIONS_START);
        self.count = 0;
    }

    /// Stamps time and numbers, and lends the frame with space for its header.
    pub fn stamp(&mut self, committed_at: UnixMillis, first_seq: SeqNum) -> &mut [u8] {
        let header = &mut self.frame[FRAME_HEADER_LEN_BYTES..OPERATIONS_START];
        header[0..8].copy_from_slice(&committed_at.0.to_le_bytes());
        header[8..16].copy_from_slice(&first_seq.get().to_le_bytes());
        header[16..20].copy_from_slice(&self.count.to_le_bytes());
        &mut self.frame
    }

    /// Returns the operations, in order; their ranges are places in [`Batch::frame`].
    pub fn operations(&self) -> Operations<'_> {
        let mut reader = Reader::new(&self.frame);
        reader.take(OPERATIONS_START).expect("a batch begins with space for its header");
        Operations { reader, left: self.count }
    }

    /// Returns the frame as it was last stamped.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }
}

/// What a record says in front of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The wall clock when the commit group was stamped.
    pub committed_at: UnixMillis,
    /// The number of the first operation; the others follow without a gap.
    pub first_seq: SeqNum,
    /// How many operations follow.
    pub count: u32,
}

impl RecordHeader {
    /// Returns the number of the last operation.
    pub fn last_seq(&self) -> SeqNum {
        SeqNum::new((self.first_seq.get() + u64::from(self.count)).saturating_sub(1))
    }
}

/// One operation: where its parts lie in the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// Which keyspace it is for.
    pub keyspace: KeyspaceId,
    /// Where the key lies.
    pub key: Range<usize>,
    /// Where the value lies; empty for a delete.
    pub value: Range<usize>,
}

/// Reads a frame's operations in order.
#[derive(Debug)]
pub struct Operations<'a> {
    reader: Reader<'a>,
    left: u32,
}

/// Why a record, whose checksum is right, cannot be read on; offsets count from the start of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The bytes make no sense.
    Damaged {
        /// Where.
        at: usize,
    },
    /// An operation is of a kind that this version cannot read.
    UnknownKind {
        /// Where it begins.
        at: usize,
        /// The kind's code.
        code: u8,
    },
}

impl Unreadable {
    /// Makes an error of it, for the record at `record_offset` of `file`.
    pub fn into_error(self, file: &Path, record_offset: u64) -> Error {
        match self {
            Unreadable::Damaged { at } => {
                Error::corruption(file, record_offset + at as u64, "an operation of the record is unreadable")
            }
            Unreadable::UnknownKind { at, code } => {
                let message = format!("an operation has kind {code}, which this version cannot read");
                Error::new(ErrorKind::Incompatible, message)
                    .with_file(file)
                    .with_offset(record_offset + at as u64)
            }
        }
    }
}

/// Opens the record in `frame` (header included). `None` if it makes no sense.
pub fn open_record(frame: &[u8]) -> Option<(RecordHeader, Operations<'_>)> {
    let mut reader = Reader::new(frame);
    reader.take(FRAME_HEADER_LEN_BYTES)?;
    let committed_at = UnixMillis(i64::from_le_bytes(*reader.take(8)?.first_chunk()?));
    let first_seq = SeqNum::from_disk(reader.u64()?)?;
    let count = reader.u32()?;
    // The last number is in bounds too, so that nobody who computes it has to think of overflow.
    SeqNum::from_disk((first_seq.get() + u64::from(count)).saturating_sub(1))?;
    Some((RecordHeader { committed_at, first_seq, count }, Operations { reader, left: count }))
}

impl Operations<'_> {
    /// Returns the next operation; `Ok(None)` after the last.
    ///
    /// # Errors
    /// [`Unreadable`]; the operations behind it cannot be read either.
    pub fn next_operation(&mut self) -> Result<Option<Operation>, Unreadable> {
        let at = self.reader.position();
        let damaged = Unreadable::Damaged { at };
        if self.left == 0 {
            return if self.reader.is_at_end() { Ok(None) } else { Err(damaged) };
        }
        self.left -= 1;
        let code = self.reader.u8().ok_or(damaged)?;
        let kind = Kind::from_disk(code).filter(|kind| kind.is_supported());
        let kind = kind.ok_or(Unreadable::UnknownKind { at, code })?;
        self.parse(kind).map(Some).ok_or(damaged)
    }

    fn parse(&mut self, kind: Kind) -> Option<Operation> {
        let reader = &mut self.reader;
        let keyspace = KeyspaceId(reader.varint32()?);
        let key = range_of(reader, limits::KEY_LEN_BYTES_MAX)?;
        let value = match kind {
            Kind::Delete => key.end..key.end,
            Kind::PutWithExpiry => range_of(reader, limits::STORED_VALUE_LEN_BYTES_MAX)
                .filter(|value| value.len() >= limits::EXPIRY_LEN_BYTES)?,
            _ => range_of(reader, limits::VALUE_LEN_BYTES_MAX)?,
        };
        Some(Operation { kind, keyspace, key, value })
    }
}

fn range_of(reader: &mut Reader<'_>, len_max: usize) -> Option<Range<usize>> {
    let len = reader.bytes(len_max)?.len();
    Some(reader.position() - len..reader.position())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn operations_come_back_as_they_were_added() {
        let mut batch = Batch::new();
        batch.put(KeyspaceId(0), b"apple", b"red");
        batch.delete(KeyspaceId(300), b"pear");
        let frame = &*batch.stamp(UnixMillis(-5), SeqNum::new(9));
        let (header, _) = open_record(frame).expect("just encoded");
        assert_eq!(
            header,
            RecordHeader { committed_at: UnixMillis(-5), first_seq: SeqNum::new(9), count: 2 }
        );
        assert_eq!(header.last_seq(), SeqNum::new(10));
        let mut early = batch.operations();
        let keyspaces =
            std::iter::from_fn(|| early.next_operation().expect("valid")).map(|each| each.keyspace);
        assert_eq!(keyspaces.collect::<Vec<_>>(), [KeyspaceId(0), KeyspaceId(300)]);
        let frame = &*batch.stamp(UnixMillis(-5), SeqNum::new(9));
        let (_, mut operations) = open_record(frame).expect("just encoded");
        let put = operations.next_operation().expect("valid").expect("first");
        assert_eq!((put.kind, &frame[put.key], &frame[put.value]), (Kind::Put, &b"apple"[..], &b"red"[..]));
        let delete = operations.next_operation().expect("valid").expect("second");
        assert_eq!(
            (delete.kind, delete.keyspace, &frame[delete.key]),
            (Kind::Delete, KeyspaceId(300), &b"pear"[..])
        );
        assert_eq!(operations.next_operation(), Ok(None));
    }

    #[test]
    fn an_unknown_kind_is_told_from_damage_and_ends_the_record() {
        let mut batch = Batch::new();
        batch.put(KeyspaceId(0), b"apple", b"red");
        batch.put(KeyspaceId(0), b"pear", b"green");
        let mut frame = batch.stamp(UnixMillis(0), SeqNum::new(1)).to_vec();
        let second = OPERATIONS_START + "?0?apple?red".len();
        for code in 3..=255u8 {
            frame[second] = code;
            let (_, mut operations) = open_record(&frame).expect("the header is sound");
            operations.next_operation().expect("the first is sound");
            let unreadable = operations.next_operation().expect_err("no such kind");
            assert_eq!(unreadable, Unreadable::UnknownKind { at: second, code });
            let error = unreadable.into_error(Path::new("db/000007.wal"), 1000);
            assert_eq!(error.kind(), ErrorKind::Incompatible);
            assert_eq!(error.offset(), Some(1000 + second as u64));
            assert!(error.to_string().contains(&format!("kind {code}")), "{error}");
        }
    }

    #[test]
    fn an_expiry_that_is_not_there_is_damage() {
        let mut batch = Batch::new();
        batch.put(KeyspaceId(0), b"k", b"1234567");
        let mut frame = batch.stamp(UnixMillis(0), SeqNum::new(1)).to_vec();
        frame[OPERATIONS_START] = Kind::PutWithExpiry as u8;
        let (_, mut operations) = open_record(&frame).expect("the header is sound");
        assert_eq!(operations.next_operation(), Err(Unreadable::Damaged { at: OPERATIONS_START }));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            if let Some((_, mut operations)) = open_record(&bytes) {
                while let Ok(Some(operation)) = operations.next_operation() {
                    prop_assert!(operation.value.end <= bytes.len());
                }
            }
        }
    }
}
