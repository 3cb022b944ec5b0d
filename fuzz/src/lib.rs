//! What the fuzz targets share: a small database to damage, and a database beside its model.
//!
//! Everything lives on a disk in memory and runs its jobs on the calling thread, so an input always does the same.

pub mod damage;
pub mod ops;

use std::sync::Arc;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, DbBuilder, KeyspaceOptions, Options};

/// Prepares to open the database `/db` of `disk` with limits so small that a handful of operations reaches all levels.
pub fn builder(disk: &Arc<MemVfs>) -> DbBuilder {
    let default_keyspace = KeyspaceOptions::default()
        .block_bytes(64)
        .level0_compaction_trigger(2)
        .level_base_bytes(2048)
        .level_multiplier(2)
        .table_bytes(1024);
    let options = Options::default()
        .memtable_bytes(1024)
        .sealed_memtables_max(1)
        .wal_preallocate_bytes(256)
        .block_cache_bytes(512)
        .manifest_roll_bytes(512)
        .level0_slowdown(3)
        .level0_stop(4)
        .default_keyspace(default_keyspace);
    tinylsm::Db::builder("/db").vfs(disk.clone()).options(options).background(Background::Manual)
}
