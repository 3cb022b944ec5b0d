//! Version edits: how the catalog changes, as data and as bytes.
//!
//! An edit is a list of changes applied together; one edit is one record of the manifest.
//!
//! ```text
//! edit:    change*            change:  tag (1) | length varint | body
//! ```
//!
//! A tag, or a field behind those of a body, that is unknown here was written by a newer version and may change what
//! everything else means: it is told from bytes that make no sense, and refused as well.

use crate::base::error::{Error, ErrorKind};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::codec::{Reader, put_bytes, put_varint};
use std::path::Path;

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
    /// A keyspace is gone, with its tables and with what the log has for it. Its number is never given out again.
    DropKeyspace(KeyspaceId),
    /// A keyspace has another name from here on.
    RenameKeyspace {
        /// Its number.
        id: KeyspaceId,
        /// Its name from here on.
        name: String,
    },
    /// A keyspace was emptied: its tables are gone, and what the log has for it up to this number.
    ClearKeyspace {
        /// Its number.
        id: KeyspaceId,
        /// The number of the commit that emptied it.
        seq: SeqNum,
    },
    /// Numbers of keyspaces below this one are taken.
    NextKeyspace(KeyspaceId),
}

const TAG_CREATE_KEYSPACE: u8 = 1;
const TAG_ADD_TABLE: u8 = 2;
const TAG_REMOVE_TABLE: u8 = 3;
const TAG_NEXT_FILE: u8 = 4;
const TAG_FLUSHED: u8 = 5;
const TAG_WAL_OPENED: u8 = 6;
const TAG_CLOSED: u8 = 7;
const TAG_TIME_HIGH_WATER: u8 = 8;
const TAG_DROP_KEYSPACE: u8 = 9;
const TAG_RENAME_KEYSPACE: u8 = 10;
const TAG_CLEAR_KEYSPACE: u8 = 11;
const TAG_NEXT_KEYSPACE: u8 = 12;

/// Encodes changes as one record's payload.
pub fn encode(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::new();
    for change in changes {
        encode_into(change, &mut out);
    }
    out
}

/// Appends a change to a record's payload.
pub fn encode_into(change: &Change, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    let tag = encode_body(change, &mut body);
    out.push(tag);
    put_bytes(out, &body);
}

/// Returns a bound on how many bytes a change takes in a record, without encoding it.
pub fn len_bytes_max(change: &Change) -> usize {
    // A tag, the body's length, and numbers of at most ten bytes.
    const NUMBERS: usize = 1 + 5 + 3 * 10;
    match change {
        Change::CreateKeyspace { name, comparator, options, .. } => {
            NUMBERS + name.len() + comparator.len() + options.len()
        }
        Change::RenameKeyspace { name, .. } => NUMBERS + name.len(),
        Change::AddTable { meta, .. } => NUMBERS + 80 + meta.smallest.len() + meta.largest.len(),
        _ => NUMBERS,
    }
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
        Change::DropKeyspace(id) => {
            put_varint(out, u64::from(id.0));
            TAG_DROP_KEYSPACE
        }
        Change::RenameKeyspace { id, name } => {
            put_varint(out, u64::from(id.0));
            put_bytes(out, name.as_bytes());
            TAG_RENAME_KEYSPACE
        }
        Change::ClearKeyspace { id, seq } => {
            put_varint(out, u64::from(id.0));
            put_varint(out, seq.get());
            TAG_CLEAR_KEYSPACE
        }
        Change::NextKeyspace(id) => {
            put_varint(out, u64::from(id.0));
            TAG_NEXT_KEYSPACE
        }
    }
}

/// Why an edit, whose checksum is right, cannot be read; offsets count from the start of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// A change makes no sense.
    Damaged {
        /// Where it begins.
        at: usize,
    },
    /// A change has a tag, or behind its fields more of them, that this version does not know.
    Unknown {
        /// Where it begins.
        at: usize,
        /// Its tag.
        tag: u8,
    },
}

impl Unreadable {
    /// Makes an error of it, for the edit whose payload begins at `payload_offset` of `file`.
    pub fn into_error(self, file: &Path, payload_offset: u64) -> Error {
        match self {
            Unreadable::Damaged { at } => {
                Error::corruption(file, payload_offset + at as u64, "a version edit is unreadable")
            }
            Unreadable::Unknown { at, tag } => {
                let message =
                    format!("a version edit has a change of kind {tag} that this version does not know");
                Error::new(ErrorKind::Incompatible, message)
                    .with_file(file)
                    .with_offset(payload_offset + at as u64)
            }
        }
    }
}

/// Reads an edit's changes one after another, so that a long edit is never in memory as a whole.
pub struct Changes<'a> {
    reader: Reader<'a>,
    is_broken: bool,
}

impl<'a> Changes<'a> {
    /// Starts with the first change of one record's payload.
    pub fn new(payload: &'a [u8]) -> Changes<'a> {
        Changes { reader: Reader::new(payload), is_broken: false }
    }

    fn parse(&mut self) -> Result<Change, Unreadable> {
        let at = self.reader.position();
        let damaged = Unreadable::Damaged { at };
        let tag = self.reader.u8().ok_or(damaged)?;
        let body = self.reader.bytes(limits::FRAME_PAYLOAD_LEN_BYTES_MAX).ok_or(damaged)?;
        let unknown = Unreadable::Unknown { at, tag };
        if !(TAG_CREATE_KEYSPACE..=TAG_NEXT_KEYSPACE).contains(&tag) {
            return Err(unknown);
        }
        let mut fields = Reader::new(body);
        let change = decode_body(tag, &mut fields).ok_or(damaged)?;
        if fields.is_at_end() { Ok(change) } else { Err(unknown) }
    }
}

impl Iterator for Changes<'_> {
    type Item = Result<Change, Unreadable>;

    /// Returns the next change; none behind one that cannot be read.
    fn next(&mut self) -> Option<Result<Change, Unreadable>> {
        if self.is_broken || self.reader.is_at_end() {
            return None;
        }
        let change = self.parse();
        self.is_broken = change.is_err();
        Some(change)
    }
}

/// Decodes one record's payload.
///
/// # Errors
/// [`Unreadable`] for the first change that cannot be read.
pub fn decode(payload: &[u8]) -> Result<Vec<Change>, Unreadable> {
    Changes::new(payload).collect()
}

fn decode_body(tag: u8, reader: &mut Reader<'_>) -> Option<Change> {
    Some(match tag {
        TAG_CREATE_KEYSPACE => Change::CreateKeyspace {
            id: KeyspaceId(reader.varint32()?),
            name: reader.text(limits::NAME_LEN_BYTES_MAX)?.to_owned(),
            comparator: reader.text(limits::NAME_LEN_BYTES_MAX)?.to_owned(),
            options: reader.text(limits::OPTIONS_LEN_BYTES_MAX)?.to_owned(),
        },
        TAG_ADD_TABLE => Change::AddTable {
            keyspace: KeyspaceId(reader.varint32()?),
            level: level(reader)?,
            meta: table_meta(reader)?,
        },
        TAG_REMOVE_TABLE => Change::RemoveTable {
            keyspace: KeyspaceId(reader.varint32()?),
            level: level(reader)?,
            number: file_number(reader)?,
        },
        TAG_NEXT_FILE => Change::NextFile(file_number(reader)?),
        TAG_FLUSHED => {
            Change::Flushed { wal_first: file_number(reader)?, seq: SeqNum::from_disk(reader.varint()?)? }
        }
        TAG_WAL_OPENED => Change::WalOpened(file_number(reader)?),
        TAG_CLOSED => Change::Closed { wal: file_number(reader)?, good_len: count(reader)? },
        TAG_TIME_HIGH_WATER => Change::TimeHighWater(time(reader)?),
        TAG_DROP_KEYSPACE => Change::DropKeyspace(KeyspaceId(reader.varint32()?)),
        TAG_RENAME_KEYSPACE => Change::RenameKeyspace {
            id: KeyspaceId(reader.varint32()?),
            name: reader.text(limits::NAME_LEN_BYTES_MAX)?.to_owned(),
        },
        TAG_CLEAR_KEYSPACE => Change::ClearKeyspace {
            id: KeyspaceId(reader.varint32()?),
            seq: SeqNum::from_disk(reader.varint()?)?,
        },
        TAG_NEXT_KEYSPACE => Change::NextKeyspace(KeyspaceId(reader.varint32()?)),
        _ => return None,
    })
}

fn table_meta(reader: &mut Reader<'_>) -> Option<TableMeta> {
    Some(TableMeta {
        number: file_number(reader)?,
        len_bytes: count(reader)?,
        smallest: reader.bytes(limits::KEY_LEN_BYTES_MAX)?.to_vec(),
        largest: reader.bytes(limits::KEY_LEN_BYTES_MAX)?.to_vec(),
        smallest_seq: SeqNum::from_disk(reader.varint()?)?,
        largest_seq: SeqNum::from_disk(reader.varint()?)?,
        entries: count(reader)?,
        deletes: count(reader)?,
        earliest_expiry: time(reader)?,
        latest_expiry: time(reader)?,
    })
}

fn file_number(reader: &mut Reader<'_>) -> Option<FileNumber> {
    FileNumber::from_disk(reader.varint()?)
}

/// Reads a length or a count, which sums of must not overflow.
fn count(reader: &mut Reader<'_>) -> Option<u64> {
    reader.varint().filter(|&count| count <= limits::COUNT_FROM_DISK_MAX)
}

fn time(reader: &mut Reader<'_>) -> Option<UnixMillis> {
    Some(UnixMillis(i64::from_le_bytes(*reader.take(8)?.first_chunk()?)))
}

fn level(reader: &mut Reader<'_>) -> Option<usize> {
    usize::try_from(reader.varint()?).ok().filter(|&level| level < limits::LEVELS_COUNT)
}

#[cfg(test)]
mod tests;
