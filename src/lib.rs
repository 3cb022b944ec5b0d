//! TinyLSM: an embedded, ordered key-value engine (a log-structured merge tree) whose disk, clock, threads and locks
//! a simulator can own.
//!
//! Begin with [`Db`]; [`Options`] has what can be chosen, [`vfs`] the contract with the disk.
//!
//! ```
//! # fn main() -> tinylsm::Result<()> {
//! use tinylsm::Db;
//! let db = Db::open_in_memory()?;
//! db.put("apple", "red")?;
//! for item in db.range("a".."b")? {
//!     let (key, value) = item?;
//!     println!("{key:?} = {value:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The modules, layer by layer (`docs/architecture.md` has the plan): [`base`]; [`vfs`], [`sync`],
//! [`cursor`], [`cache`], [`mvcc`]; [`format`](mod@format); [`memtable`], [`wal`], [`table`], [`version`]; [`read`], [`write`](mod@write),
//! [`compaction`], [`inspect`]; [`db`].

pub mod base;
pub mod cache;
pub mod compaction;
pub mod cursor;
pub mod db;
pub mod format;
pub mod inspect;
pub mod memtable;
pub mod mvcc;
pub mod read;
pub mod sync;
pub mod table;
pub mod version;
pub mod vfs;
pub mod wal;
pub mod write;

pub use base::comparator::{Comparator, KeyOrder, ReverseBytewise};
pub use base::error::{Error, ErrorKind, Result};
pub use base::seq::SeqNum;
pub use base::slice::Slice;
pub use base::time::UnixMillis;
pub use db::Db;
pub use db::batch::WriteBatch;
pub use db::builder::DbBuilder;
pub use db::iter::Iter;
pub use db::keyspace::Keyspace;
pub use db::options::{Background, KeyspaceOptions, Options, WriteOptions};
pub use db::range::KeyRange;
pub use db::runtime::Runtime;
pub use db::snapshot::{KeyspaceSnapshot, Snapshot};
pub use db::stats::{BackgroundError, KeyspaceStats, LevelStats, Stats, VerifyReport};
pub use table::options::Compression;
pub use table::shared::Cache;
pub use write::commit::Durability;

/// The examples of the first page, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct FirstPage;
