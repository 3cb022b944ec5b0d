//! TinyLSM: an embedded, ordered key-value engine (a log-structured merge tree) whose disk, clock, threads and locks
//! a simulator can own.
//!
//! ```
//! # fn main() -> tinylsm::Result<()> {
//! use tinylsm::{Db, WriteBatch, WriteOptions};
//!
//! let db = Db::open_in_memory()?; // Db::open("some/directory") for one that stays
//! db.put("apple", "red")?; // on disk when it returns
//! assert_eq!(db.get("apple")?.as_deref(), Some(b"red".as_slice()));
//!
//! let mut batch = WriteBatch::new(); // all or nothing
//! batch.put(db.default_keyspace(), "banana", "yellow");
//! batch.delete(db.default_keyspace(), "apple");
//! db.write(&batch, &WriteOptions::default())?;
//!
//! for entry in db.range("a".."c")?.rev() {
//!     let (key, value) = entry?;
//!     println!("{} is {}", key.escape_ascii(), value.escape_ascii());
//! }
//! db.close()
//! # }
//! ```
//!
//! # Where to find what
//!
//! **Open, read and write**
//!
//! | | |
//! |---|---|
//! | [`Db`] | a database: open it, put, get, delete, iterate, flush, compact, verify, close |
//! | [`DbBuilder`] | opens one with options, comparators, another disk, read-only or degraded |
//! | [`Keyspace`] | a named tree with an order and options of its own; batches and snapshots span them all |
//! | [`WriteBatch`] | operations that become visible and durable together or not at all |
//! | [`Snapshot`], [`KeyspaceSnapshot`] | the database, or one keyspace, as it was at one moment, whatever is written meanwhile |
//! | [`Iter`] | entries in order, from either end, with seeks |
//! | [`KeyRange`] | what can be given as a range of keys |
//! | [`Slice`] | bytes that were read: a key or a value, without a copy |
//!
//! **Choose**
//!
//! | | |
//! |---|---|
//! | [`Options`] | memory, background threads, limits and durability of a database |
//! | [`KeyspaceOptions`] | order, compression, filters and levels of a keyspace |
//! | [`WriteOptions`] | durability of one write |
//! | [`Durability`] | what a write survives: nothing, the end of the process, the loss of power |
//! | [`Background`] | who runs flushes and merges: threads, or the caller |
//! | [`Compression`] | how blocks are packed |
//! | [`Comparator`], [`KeyOrder`], [`ReverseBytewise`] | the order of keys |
//! | [`Runtime`], [`Cache`] | threads and memory that many databases share |
//! | [`KEY_LEN_BYTES_MAX`], [`VALUE_LEN_BYTES_MAX`], [`BATCH_LEN_BYTES_MAX`] | how much a write may hold |
//! | [`NAME_LEN_BYTES_MAX`], [`KEYSPACES_COUNT_MAX`] | how long the name of a keyspace may be, and how many there may be |
//!
//! **Hear how it goes**
//!
//! | | |
//! |---|---|
//! | [`Error`], [`ErrorKind`], [`Result`] | what went wrong, in which file and where, and what can be done about it |
//! | [`BackgroundError`] | what flushes, merges or writing have met and how often |
//! | [`Stats`], [`KeyspaceStats`], [`LevelStats`] | figures about an open database |
//! | [`VerifyReport`] | what reading and checking everything came to |
//! | [`SeqNum`], [`UnixMillis`] | the place of a write in the order of all; a moment |
//!
//! **Look inside, or replace what is below**
//!
//! | | |
//! |---|---|
//! | [`vfs`] | disk and clock as a trait, the contract of durability, the real disk and one in memory |
//! | [`sync`] | the threads, locks and atomics that a simulator can own |
//! | [`inspect`] | any file of a database as text |
//!
//! # Stability
//!
//! What is listed here is what an application builds on. The other modules are public for the project's own tools (the
//! simulator, fuzz targets, measurements), hidden from these pages, and may change in any release;
//! `docs/architecture.md` in the repository has their plan.
//!
//! # Features
//!
//! None is needed. `cli` builds the program `tinylsm`; `sim` lets the simulator (crate `tinylsm-sim`) host the engine.

#[doc(hidden)]
pub mod base;
#[doc(hidden)]
pub mod cache;
#[doc(hidden)]
pub mod compaction;
#[doc(hidden)]
pub mod cursor;
#[doc(hidden)]
pub mod db;
#[doc(hidden)]
pub mod format;
pub mod inspect;
#[doc(hidden)]
pub mod memtable;
#[doc(hidden)]
pub mod mvcc;
#[doc(hidden)]
pub mod read;
pub mod sync;
#[doc(hidden)]
pub mod table;
#[doc(hidden)]
pub mod version;
pub mod vfs;
#[doc(hidden)]
pub mod wal;
#[doc(hidden)]
pub mod write;

#[doc(inline)]
pub use base::comparator::{Comparator, KeyOrder, ReverseBytewise};
#[doc(inline)]
pub use base::error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use base::limits::{
    BATCH_LEN_BYTES_MAX, KEY_LEN_BYTES_MAX, KEYSPACES_COUNT_MAX, NAME_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX,
};
#[doc(inline)]
pub use base::seq::SeqNum;
#[doc(inline)]
pub use base::slice::Slice;
#[doc(inline)]
pub use base::time::UnixMillis;
#[doc(inline)]
pub use db::Db;
#[doc(inline)]
pub use db::batch::WriteBatch;
#[doc(inline)]
pub use db::builder::DbBuilder;
#[doc(inline)]
pub use db::iter::Iter;
#[doc(inline)]
pub use db::keyspace::Keyspace;
#[doc(inline)]
pub use db::options::{Background, KeyspaceOptions, Options, WriteOptions};
#[doc(inline)]
pub use db::range::KeyRange;
#[doc(inline)]
pub use db::runtime::Runtime;
#[doc(inline)]
pub use db::snapshot::{KeyspaceSnapshot, Snapshot};
#[doc(inline)]
pub use db::stats::{BackgroundError, KeyspaceStats, LevelStats, Stats, VerifyReport};
#[doc(inline)]
pub use table::options::Compression;
#[doc(inline)]
pub use table::shared::Cache;
#[doc(inline)]
pub use write::commit::Durability;

/// The examples of the first page, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct FirstPage;
