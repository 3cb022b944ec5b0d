//! Version edits: how the catalog changes, as data and as bytes.
//!
//! An edit is a list of changes applied together; one edit is one record of the manifest.
//!
//! ```text
//! edit:    change*            change:  tag (1) | length varint | body
//! ```

use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::codec::{Reader, put_bytes, put_varint};

/// What the catalog knows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMeta {
    /// The file's number.
    pub number: FileNumber,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// The smallest user key in it.
    pub smallest: Vec<u8>,
    /// The largest user key in it.
    pub largest: Vec<u8>,
    /// The smallest sequence number in it.
    pub smallest_seq: SeqNum,
    /// The largest sequence number in it.
    pub largest_seq: SeqNum,
    /// How many entries it has.
    pub entries: u64,
    /// How many of them are deletes.
    pub deletes: u64,
    /// The earliest expiry of an entry; `MAX` if none expires.
    pub earliest_expiry: UnixMillis,
    /// The latest expiry of an entry; `MIN` if none expires.
    pub latest_expiry: UnixMillis,
}

/// One change to the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A keyspace exists from here on. Its options are `name=value` lines.
    CreateKeyspace {
        /// Its number.
        id: KeyspaceId,
        /// Its name.
        name: String,
        /// Its comparator's name.
        comparator: String,
        /// Its options.
        options: String,
    },
    /// A table joins a level.
    AddTable {
        /// The keyspace it belongs to.
        keyspace: KeyspaceId,
        /// The level it joins.
        level: usize,
        /// What is known of it.
        meta: TableMeta,
    },
    /// A table leaves a level.
    RemoveTable {
        /// The keyspace it belongs to.
        keyspace: KeyspaceId,
        /// The level it leaves.
        level: usize,
        /// Its number.
        number: FileNumber,
    },
    /// File numbers below this one are taken.
    NextFile(FileNumber),
    /// The oldest WAL segment that holds commits not in tables, and the last number that is in tables.
    Flushed {
        /// The oldest segment still needed.
        wal_first: FileNumber,
        /// Everything up to this number is in tables.
        seq: SeqNum,
    },
    /// Commits may enter this WAL segment from here on.
    WalOpened(FileNumber),
    /// The database was closed in good order.
    Closed {
        /// The last segment.
        wal: FileNumber,
        /// Its whole length, durable.
        good_len: u64,
    },
    /// The latest wall-clock time that expiry was decided by.
    TimeHighWater(UnixMillis),
}

const TAG_CREATE_KEYSPACE: u8 = 1;
const TAG_ADD_TABLE: u8 = 2;
const TAG_REMOVE_TABLE: u8 = 3;
const TAG_NEXT_FILE: u8 = 4;
const TAG_FLUSHED: u8 = 5;
const TAG_WAL_OPENED: u8 = 6;
const TAG_CLOSED: u8 = 7;
const TAG_TIME_HIGH_WATER: u8 = 8;

const OPTIONS_LEN_BYTES_MAX: usize = 64 << 10;

/// Encodes changes as one record's payload.
pub fn encode(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body = Vec::new();
    for change in changes {
        body.clear();
        let tag = encode_body(change, &mut body);
        out.push(tag);
        put_bytes(&mut out, &body);
    }
    out
}

fn encode_body(change: &Change, out: &mut Vec<u8>) -> u8 {
    match change {
        Change::CreateKeyspace { id, name, comparator, options } => {
            put_varint(out, u64::from(id.0));
            put_bytes(out, name.as_bytes());
            put_bytes(out, comparator.as_bytes());
            put_bytes(out, options.as_bytes());
            TAG_CREATE_KEYSPACE
        }
        Change::AddTable { keyspace, level, meta } => {
            put_varint(out, u64::from(keyspace.0));
            put_varint(out, *level as u64);
            put_varint(out, meta.number.0);
            put_varint(out, meta.len_bytes);
            put_bytes(out, &meta.smallest);
            put_bytes(out, &meta.largest);
            put_varint(out, meta.smallest_seq.get());
            put_varint(out, meta.largest_seq.get());
            put_varint(out, meta.entries);
            put_varint(out, meta.deletes);
            out.extend_from_slice(&meta.earliest_expiry.0.to_le_bytes());
            out.extend_from_slice(&meta.latest_expiry.0.to_le_bytes());
            TAG_ADD_TABLE
        }
        Change::RemoveTable { keyspace, level, number } => {
            put_varint(out, u64::from(keyspace.0));
            put_varint(out, *level as u64);
            put_varint(out, number.0);
            TAG_REMOVE_TABLE
        }
        Change::NextFile(number) => {
            put_varint(out, number.0);
            TAG_NEXT_FILE
        }
        Change::Flushed { wal_first, seq } => {
            put_varint(out, wal_first.0);
            put_varint(out, seq.get());
            TAG_FLUSHED
        }
        Change::WalOpened(number) => {
            put_varint(out, number.0);
            TAG_WAL_OPENED
        }
        Change::Closed { wal, good_len } => {
            put_varint(out, wal.0);
            put_varint(out, *good_len);
            TAG_CLOSED
        }
        Change::TimeHighWater(time) => {
            out.extend_from_slice(&time.0.to_le_bytes());
            TAG_TIME_HIGH_WATER
        }
    }
}

/// Decodes one record's payload; the error is the offset where it stops making sense.
///
/// # Errors
/// The offset in `payload` of the change that could not be read.
pub fn decode(payload: &[u8]) -> Result<Vec<Change>, usize> {
    let mut reader = Reader::new(payload);
    let mut changes = Vec::new();
    while !reader.is_at_end() {
        let at = reader.position();
        let mut parse = || {
            let tag = reader.u8()?;
            decode_body(tag, reader.bytes(payload.len())?)
        };
        changes.push(parse().ok_or(at)?);
    }
    Ok(changes)
}

fn decode_body(tag: u8, body: &[u8]) -> Option<Change> {
    let mut reader = Reader::new(body);
    let reader = &mut reader;
    let change = match tag {
        TAG_CREATE_KEYSPACE => Change::CreateKeyspace {
            id: KeyspaceId(reader.varint32()?),
            name: reader.text(limits::NAME_LEN_BYTES_MAX)?.to_owned(),
            comparator: reader.text(limits::NAME_LEN_BYTES_MAX)?.to_owned(),
            options: reader.text(OPTIONS_LEN_BYTES_MAX)?.to_owned(),
        },
        TAG_ADD_TABLE => Change::AddTable {
            keyspace: KeyspaceId(reader.varint32()?),
            level: level(reader)?,
            meta: table_meta(reader)?,
        },
        TAG_REMOVE_TABLE => Change::RemoveTable {
            keyspace: KeyspaceId(reader.varint32()?),
            level: level(reader)?,
            number: FileNumber(reader.varint()?),
        },
        TAG_NEXT_FILE => Change::NextFile(FileNumber(reader.varint()?)),
        TAG_FLUSHED => Change::Flushed {
            wal_first: FileNumber(reader.varint()?),
            seq: SeqNum::from_disk(reader.varint()?)?,
        },
        TAG_WAL_OPENED => Change::WalOpened(FileNumber(reader.varint()?)),
        TAG_CLOSED => Change::Closed { wal: FileNumber(reader.varint()?), good_len: reader.varint()? },
        TAG_TIME_HIGH_WATER => Change::TimeHighWater(time(reader)?),
        _ => return None,
    };
    reader.is_at_end().then_some(change)
}

fn table_meta(reader: &mut Reader<'_>) -> Option<TableMeta> {
    Some(TableMeta {
        number: FileNumber(reader.varint()?),
        len_bytes: reader.varint()?,
        smallest: reader.bytes(limits::KEY_LEN_BYTES_MAX)?.to_vec(),
        largest: reader.bytes(limits::KEY_LEN_BYTES_MAX)?.to_vec(),
        smallest_seq: SeqNum::from_disk(reader.varint()?)?,
        largest_seq: SeqNum::from_disk(reader.varint()?)?,
        entries: reader.varint()?,
        deletes: reader.varint()?,
        earliest_expiry: time(reader)?,
        latest_expiry: time(reader)?,
    })
}

fn time(reader: &mut Reader<'_>) -> Option<UnixMillis> {
    Some(UnixMillis(i64::from_le_bytes(*reader.take(8)?.first_chunk()?)))
}

fn level(reader: &mut Reader<'_>) -> Option<usize> {
    usize::try_from(reader.varint()?).ok().filter(|&level| level < limits::LEVELS_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_change_comes_back_as_it_was() {
        let meta = TableMeta {
            number: FileNumber(9),
            len_bytes: 1 << 40,
            smallest: b"a".to_vec(),
            largest: vec![0xFF; 300],
            smallest_seq: SeqNum::new(1),
            largest_seq: SeqNum::MAX,
            entries: 12,
            deletes: 3,
            earliest_expiry: UnixMillis::MAX,
            latest_expiry: UnixMillis(-7),
        };
        let id = KeyspaceId(4);
        let changes = vec![
            Change::CreateKeyspace { id, name: "x".into(), comparator: "c".into(), options: "a=1\n".into() },
            Change::AddTable { keyspace: id, level: 6, meta },
            Change::RemoveTable { keyspace: id, level: 0, number: FileNumber(3) },
            Change::NextFile(FileNumber(11)),
            Change::Flushed { wal_first: FileNumber(8), seq: SeqNum::new(77) },
            Change::WalOpened(FileNumber(8)),
            Change::Closed { wal: FileNumber(8), good_len: 5000 },
            Change::TimeHighWater(UnixMillis(1)),
        ];
        assert_eq!(decode(&encode(&changes)), Ok(changes));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
