//! Sorted tables: immutable files of entries.
//!
//! Owns the format of a table (`docs/format/table.md` has the byte map), its writer, its reader and the cursor
//! over it. Promises that what was added is found again, that a missing key costs one memory access where a
//! filter is kept, and that damaged bytes give the right answer or an error with file and offset.
//!
//! ```text
//! table := data block* filter block? index block properties block footer
//! ```
//!
//! From the bytes up: [`stored`] packs and sums one block, [`block`] lays entries out in it, `block_cursor`
//! walks over it; [`filter`], [`index`], [`properties`] and [`footer`] are what follows the data; [`writer`],
//! [`reader`], [`cursor`] and [`verify`] work on the whole, as [`options`] say. Open tables share blocks in memory and
//! open files ([`shared`], [`descriptors`]).
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//! use tinylsm::base::{comparator::KeyOrder, ids::*, key::*, seq::SeqNum, time::UnixMillis};
//! use tinylsm::cursor::Cursor;
//! use tinylsm::table::cursor::{CacheUse, TableCursor};
//! use tinylsm::table::options::TableOptions;
//! use tinylsm::table::reader::{Table, TableFile, TableSource};
//! use tinylsm::table::shared::Cache;
//! use tinylsm::table::writer::{TableSettings, TableWriter};
//! use tinylsm::vfs::{Vfs, mem::MemVfs};
//!
//! let (disk, path) = (Arc::new(MemVfs::new()), Path::new("000007.sst"));
//! let settings = TableSettings {
//!     number: FileNumber(7),
//!     keyspace: KeyspaceId::DEFAULT,
//!     order: KeyOrder::Bytewise,
//!     created_at: UnixMillis(0),
//!     options: TableOptions::default(),
//! };
//! let mut writer = TableWriter::new(disk.create_new(path)?, settings);
//! writer.add(InternalKey::new(b"hello", Tag::new(SeqNum::new(1), Kind::Put)), b"world")?;
//! let summary = writer.finish()?;
//!
//! let file = TableFile {
//!     source: TableSource::Path(disk),
//!     path: path.to_owned(),
//!     number: summary.number,
//!     len_bytes: summary.len_bytes,
//! };
//! let table = Arc::new(Table::open(file, KeyOrder::Bytewise, Arc::new(Cache::new(1 << 20, 8)))?);
//! let found = table.get(b"hello", SeqNum::MAX)?.found().expect("it was added");
//! assert_eq!(found.value, b"world");
//!
//! let mut cursor = TableCursor::new(table, CacheUse::Fill);
//! cursor.seek_to_first()?;
//! assert_eq!(cursor.key().user_key, b"hello");
//! # Ok::<(), tinylsm::base::error::Error>(())
//! ```
//!
//! It has not heard of levels, versions, snapshots or expiry: an entry is a key, a tag and bytes. It never
//! removes, renames or overwrites a file.

pub mod block;
pub(crate) mod block_cursor;
pub mod cursor;
pub mod descriptors;
pub mod filter;
pub mod footer;
pub mod index;
pub mod options;
pub mod properties;
pub mod reader;
pub mod shared;
pub mod stored;
pub mod verify;
pub mod writer;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod golden;

#[cfg(test)]
mod access_tests;
