//! How many files a database has open: few at rest, no more than it may while it works, whatever it holds.

#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]

mod common;
#[path = "common/limited.rs"]
mod limited;

use common::{contents, tiny};
use limited::LimitedVfs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tinylsm::base::comparator::KeyOrder;
use tinylsm::base::ids::{FileNumber, KeyspaceId};
use tinylsm::base::key::{InternalKey, Kind, Tag};
use tinylsm::base::time::UnixMillis;
use tinylsm::compaction::flush::{FlushSource, flush_all};
use tinylsm::compaction::output::{JobContext, OutputSettings};
use tinylsm::memtable::Memtable;
use tinylsm::memtable::arena::Arena;
use tinylsm::table::options::TableOptions;
use tinylsm::vfs::Vfs;
use tinylsm::{
    Background, Cache, Db, DbBuilder, ErrorKind, KeyspaceOptions, Options, SeqNum, WriteBatch, WriteOptions,
};

const TABLES_COUNT: usize = 300;
/// What a manual database has open besides tables that are read: the log, the manifest, one to list the directory or to
/// look into a file, and what is being written.
const OTHERS_COUNT: usize = 6;

/// Options under which each key makes a table.
fn options() -> Options {
    let keyspace =
        KeyspaceOptions::default().table_bytes(1024).level_base_bytes(1 << 30).filter_bits_per_key(0);
    tiny().memtable_bytes(4 << 20).block_cache_bytes(0).open_files_max(8).default_keyspace(keyspace)
}

fn key(i: usize) -> String {
    format!("key{i:04}")
}

/// Bytes that do not pack.
fn noise(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    };
    (0..1500).map(|_| next()).collect()
}

fn builder(disk: &LimitedVfs) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(options()).background(Background::Manual)
}

fn tables_count(db: &Db) -> usize {
    db.stats().keyspaces[0].levels.iter().map(|level| level.files).sum()
}

/// Makes a database of 300 tables on level 1.
fn filled(disk: &LimitedVfs) -> Db {
    let db = builder(disk).open().expect("opens");
    for parity in 0..2 {
        let mut batch = WriteBatch::new();
        for i in (parity..TABLES_COUNT).step_by(2) {
            batch.put(db.default_keyspace(), key(i), noise(i));
        }
        db.write(&batch, WriteOptions::os()).expect("writes");
        db.flush().expect("flushes");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    assert_eq!(tables_count(&db), TABLES_COUNT);
    db
}

/// Reads, scans both ways and verifies.
fn read_all(db: &Db) {
    for i in (0..TABLES_COUNT).rev() {
        assert_eq!(db.get(key(i)).expect("reads").as_deref(), Some(&noise(i)[..]));
    }
    assert_eq!(contents(db.default_keyspace()).len(), TABLES_COUNT);
    assert_eq!(db.iter().expect("open").rev().filter(Result::is_ok).count(), TABLES_COUNT);
    db.verify().expect("sound");
}

/// Reads everything, then writes and merges it.
fn use_all(db: &Db) {
    read_all(db);
    for i in (0..TABLES_COUNT).step_by(50) {
        db.put(key(i), noise(i)).expect("puts");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
}

#[test]
fn three_hundred_tables_are_used_through_eight_files() {
    // Merging ends and syncs its tables in groups, whose files are open until then.
    let disk = LimitedVfs::new(1000);
    let db = filled(&disk);
    disk.set_open_count_max(8 + OTHERS_COUNT);
    use_all(&db);
    db.close().expect("closes");
    assert_eq!(disk.open_count(), 0);
    disk.take_open_count_highest();
    let db = builder(&disk).open().expect("opens");
    assert!(disk.take_open_count_highest() <= OTHERS_COUNT, "each table is looked at and closed");
    assert!(disk.open_count() <= 3, "{} files of a database at rest", disk.open_count());
    use_all(&db);
    assert!(disk.take_open_count_highest() <= 8 + OTHERS_COUNT);
}

#[test]
fn open_iterators_hold_no_files() {
    let disk = LimitedVfs::new(1000);
    let db = filled(&disk);
    disk.set_open_count_max(8 + OTHERS_COUNT);
    let mut iters: Vec<_> = (0..TABLES_COUNT)
        .map(|i| {
            let mut iter = db.range(key(i)..).expect("open");
            let (first, _) = iter.next().expect("there").expect("reads");
            assert_eq!(first, key(i).as_bytes());
            iter
        })
        .collect();
    for iter in iters.iter_mut().take(TABLES_COUNT - 1) {
        iter.next().expect("there").expect("reads");
    }
    assert!(disk.open_count() <= 8 + OTHERS_COUNT);
}

#[test]
fn running_out_closes_what_is_idle() {
    let disk = LimitedVfs::new(1000);
    drop(filled(&disk));
    // It may keep far more open than the disk has to give.
    let cache = Arc::new(Cache::new(0, 10_000));
    let db = builder(&disk).cache(Arc::clone(&cache)).open().expect("opens");
    disk.set_open_count_max(8 + OTHERS_COUNT);
    read_all(&db);
    assert!(disk.refused_count() > 0);
    assert!(cache.descriptors().stats().exhausted_count > 0);
}

#[test]
fn a_read_that_gets_no_descriptor_says_so_and_works_later() {
    let disk = LimitedVfs::new(1000);
    let db = filled(&disk);
    drop(db);
    let db = builder(&disk).open().expect("opens");
    disk.set_open_count_max(disk.open_count());
    let error = db.get(key(7)).expect_err("no descriptor");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.is_retryable());
    let mut iter = db.iter().expect("open");
    assert_eq!(iter.next().expect("an error").expect_err("no descriptor").kind(), ErrorKind::Exhausted);
    disk.set_open_count_max(1000);
    assert!(db.get(key(7)).expect("reads").is_some());
    assert_eq!(contents(db.default_keyspace()).len(), TABLES_COUNT);
}

#[test]
fn databases_share_memory_and_files() {
    let cache = Arc::new(Cache::new(64 << 10, 8));
    let disks: Vec<_> = (0..4).map(|_| LimitedVfs::new(1000)).collect();
    for disk in &disks {
        drop(filled(disk));
    }
    let dbs: Vec<_> =
        disks.iter().map(|disk| builder(disk).cache(Arc::clone(&cache)).open().expect("opens")).collect();
    for i in 0..TABLES_COUNT {
        for (number, db) in dbs.iter().enumerate() {
            if i % 7 == number {
                db.put(key(i), format!("database {number}")).expect("puts");
            }
        }
    }
    dbs.iter().for_each(|db| db.flush().expect("flushes"));
    for i in 0..TABLES_COUNT {
        for (number, db) in dbs.iter().enumerate() {
            let value = db.get(key(i)).expect("reads").expect("there");
            let own = format!("database {number}");
            let expected = if i % 7 == number { own.as_bytes().to_vec() } else { noise(i) };
            assert_eq!(value, expected);
        }
        assert!(cache.descriptors().stats().open_count <= 8);
        assert!(cache.blocks().stats().used_bytes <= 64 << 10);
    }
    drop(dbs);
    assert_eq!(cache.descriptors().stats().open_count, 0, "what is closed holds nothing");
}

/// Flushes a memtable of one entry for each of `count` keyspaces.
fn flush_keyspaces(disk: &LimitedVfs, count: u32) {
    disk.create_dir_all(Path::new("/db")).expect("memory");
    let next = AtomicU64::new(1);
    let context = JobContext {
        vfs: Arc::new(disk.clone()),
        directory: PathBuf::from("/db"),
        cache: Arc::new(Cache::new(0, 8)),
        next_number: &|| FileNumber(next.fetch_add(1, Ordering::SeqCst)),
        is_cancelled: &tinylsm::sync::atomic::AtomicBool::new(false),
        created_at: UnixMillis(0),
        space_bytes: None,
    };
    let sources = (0..count).map(|number| {
        let memtable = Memtable::new(&KeyOrder::Bytewise, 4096);
        let tag = Tag::new(SeqNum::new(u64::from(number) + 1), Kind::Put);
        memtable.insert(&mut Arena::new(4096), InternalKey::new(b"key", tag), &number.to_le_bytes());
        let settings = OutputSettings {
            keyspace: KeyspaceId(number),
            order: KeyOrder::Bytewise,
            table: TableOptions::default(),
            table_len_bytes_max: 1024,
        };
        FlushSource { memtable: Arc::new(memtable), tables: Arc::default(), settings }
    });
    let mut created = Vec::new();
    let tables = flush_all(&context, sources.collect(), &[], &mut created).expect("flushes");
    assert_eq!((tables.len(), created.len()), (count as usize, count as usize));
    for (number, (keyspace, live)) in (0..count).zip(&tables) {
        assert_eq!(*keyspace, KeyspaceId(number));
        let found = live.table.get(b"key", SeqNum::MAX).expect("reads").found().expect("there");
        assert_eq!(found.value, number.to_le_bytes());
    }
    assert!(disk.open_count() <= 8, "only tables that were read are open");
}

#[test]
fn the_tables_of_a_flush_are_synced_in_groups() {
    let disk = LimitedVfs::new(1000);
    flush_keyspaces(&disk, 1000);
    assert_eq!(disk.group_syncs_count(), 8);
    assert!(disk.take_open_count_highest() <= 128 + 8);
    flush_keyspaces(&LimitedVfs::new(1000), 1);
}

#[test]
fn a_group_is_synced_early_where_descriptors_are_few() {
    let disk = LimitedVfs::new(12);
    flush_keyspaces(&disk, 100);
    assert!(disk.group_syncs_count() >= 9 && disk.refused_count() > 0);
}

#[test]
fn a_shortage_is_told_until_the_job_that_met_it_has_nothing_left_to_do() {
    let disk = LimitedVfs::new(1000);
    let db = builder(&disk).open().expect("opens");
    let mut batch = WriteBatch::new();
    // An eighth of a memtable is left to the system then, which makes it due.
    for i in 0..400 {
        batch.put(db.default_keyspace(), key(i), noise(i));
    }
    while db.background_step().expect("descriptors are there") {}
    db.write(&batch, WriteOptions::os()).expect("writes");
    disk.set_open_count_max(0);
    // Syncing what the log left to the system takes a descriptor.
    let error = db.background_step().expect_err("there is none to give");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(db.background_errors()[0].job, "log write-back");
    disk.set_open_count_max(1000);
    assert!(db.background_error().is_some(), "it has not been tried again");
    // The sync is part of sealing, which no job does here.
    db.flush().expect("flushes");
    assert!(db.background_error().is_none(), "{:?}", db.background_errors());
}
