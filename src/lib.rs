//! TinyLSM: an embedded, ordered key-value engine.

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
