//! Many databases in one process: one cache, one set of threads, few descriptors; and figures that say what it all takes.
#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests look at what the system counts, and at what files take on the real disk"
)]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/small_disk.rs"]
mod small_disk;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{contents, keyspace_of, tiny};
use small_disk::SmallDisk;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use tempfile::TempDir;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Cache, Comparator, Db, DbBuilder, Options, Runtime, Stats, WriteBatch, WriteOptions,
};
use watchdog::{ends, within};

/// Makes what several databases share.
fn shared(block_bytes: u64, open_files: usize) -> (Arc<Cache>, Background) {
    let runtime = Runtime::new(2).expect("a test machine has threads to give");
    (Arc::new(Cache::new(block_bytes, open_files)), Background::Shared(runtime))
}

/// Returns how many descriptors of tables below `dir` the process has open.
fn open_tables_count(dir: &Path) -> usize {
    let entries = fs::read_dir("/proc/self/fd").expect("Linux has it");
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(dir) && target.to_string_lossy().contains(".sst")).count()
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
    (0..1000).map(|_| next()).collect()
}

const TABLES_COUNT: usize = 80;

/// Options under which each key makes a table.
fn many_tables() -> Options {
    let mut options = tiny();
    options.memtable_bytes = 1 << 20;
    options.block_cache_bytes = 0;
    keyspace_of(&mut options).table_bytes = 1024;
    keyspace_of(&mut options).level_base_bytes = 1 << 30;
    options
}

fn fill(db: &Db) {
    for parity in 0..2 {
        let mut batch = WriteBatch::new();
        for i in (parity..TABLES_COUNT).step_by(2) {
            batch.put(db.default_keyspace(), key(i), noise(i));
        }
        db.write(&batch, WriteOptions::os()).expect("writes");
        db.flush().expect("flushes");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
}

/// At most so many descriptors of tables are open as the options say, and no reader notices.
#[test]
fn open_tables_are_bounded_and_no_reader_loses_its_own() {
    const OPEN_FILES_MAX: usize = 8;
    within(|| {
        let dir = TempDir::new().expect("a directory");
        let options = many_tables().open_files_max(OPEN_FILES_MAX);
        let db = Db::builder(dir.path()).options(options).open().expect("opens");
        fill(&db);
        let check = |when: &str| {
            let count = open_tables_count(dir.path());
            assert!(count <= OPEN_FILES_MAX, "{when}: {count} tables are open");
        };
        check("after merging");
        assert_eq!(contents(db.default_keyspace()).len(), TABLES_COUNT);
        check("after a scan");
        // Many more readers than descriptors, each in the middle of its own table, in turns.
        let mut iters: Vec<_> = (0..30).map(|i| db.range(key(i * 2)..).expect("open")).collect();
        for step in 0..20 {
            for (start, iter) in iters.iter_mut().enumerate() {
                let (found, value) = iter.next().expect("there are more").expect("readable");
                let i = start * 2 + step;
                assert_eq!((&*found, &*value), (key(i).as_bytes(), &*noise(i)));
            }
        }
        // Their tables are merged away under them.
        for i in 0..TABLES_COUNT {
            db.put(key(i), "new").expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        for (start, iter) in iters.into_iter().enumerate() {
            let rest: Vec<_> = iter.map(|item| item.expect("its tables are still there")).collect();
            assert_eq!(rest.len(), TABLES_COUNT - start * 2 - 20);
            assert!(rest.iter().all(|(_, value)| value.len() == 1000), "a reader sees a later write");
        }
        db.wait_idle().expect("idle");
        check("at rest");
    });
}

/// Databases that share a cache do not see each other's blocks, and share its bounds.
#[test]
fn databases_share_a_cache_and_keep_apart() {
    within(|| {
        let dir = TempDir::new().expect("a directory");
        let (cache, background) = shared(64 << 10, 10);
        let dbs: Vec<Db> = (0..3)
            .map(|number| {
                let opener = Db::builder(dir.path().join(number.to_string())).options(many_tables());
                let db =
                    opener.cache(Arc::clone(&cache)).background(background.clone()).open().expect("opens");
                for i in 0..TABLES_COUNT {
                    db.put(key(i), noise(i + 1000 * number)).expect("puts");
                }
                db.flush().expect("flushes");
                fill_again(&db, number);
                db
            })
            .collect();
        for _ in 0..2 {
            for i in 0..TABLES_COUNT {
                for (number, db) in dbs.iter().enumerate() {
                    let value = db.get(key(i)).expect("reads").expect("there");
                    assert!(value == noise(i + 1000 * number).as_slice(), "a value of another database");
                }
            }
        }
        assert!(open_tables_count(dir.path()) <= 10, "{} tables are open", open_tables_count(dir.path()));
        assert!(dbs[0].stats().block_cache_bytes <= 64 << 10);
    });
}

fn fill_again(db: &Db, number: usize) {
    for i in (0..TABLES_COUNT).step_by(3) {
        db.put(key(i), noise(i + 1000 * number)).expect("puts");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
}

fn status_number(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(name)).expect("it has such a line");
    line.split_whitespace().nth(1).expect("a value").parse().expect("a number")
}

/// A hundred open empty databases that share their threads and cache take a twentieth of what two thousand may.
#[test]
fn a_hundred_idle_databases_share_two_threads_and_take_little() {
    const NAME: &str = "a_hundred_idle_databases_share_two_threads_and_take_little";
    const COUNT: u64 = 100;
    if let Some(place) = child::place_in_child(NAME) {
        let before = (status_number("Threads:"), status_number("VmRSS:"));
        let (cache, background) = shared(8 << 20, 100);
        let dbs: Vec<Db> = (0..COUNT)
            .map(|number| {
                let opener = Db::builder(place.join(number.to_string()));
                opener.cache(Arc::clone(&cache)).background(background.clone()).open().expect("opens")
            })
            .collect();
        let (threads_count, memory_kib) =
            (status_number("Threads:") - before.0, status_number("VmRSS:") - before.1);
        assert!(threads_count <= 4, "{threads_count} threads");
        assert!(memory_kib <= COUNT * 1024, "{memory_kib} KiB of memory");
        let disk: u64 = (0..COUNT).map(|number| len_on_disk(&place.join(number.to_string()))).sum();
        assert!(disk <= COUNT * 100_000, "{disk} bytes of disk");
        // They all work, and one that ends takes nobody's threads along.
        for (number, db) in dbs.iter().enumerate() {
            db.put("k", number.to_string()).expect("puts");
        }
        let mut dbs = dbs;
        for db in dbs.drain(..COUNT as usize / 2) {
            db.close().expect("closes");
        }
        for db in &dbs {
            let flushing = db.clone();
            ends("flush", move || flushing.flush()).expect("flushes");
            assert_eq!(db.stats().sealed_memtables, 0);
        }
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

/// Orders like bytes, unless it is broken.
#[derive(Default)]
struct Fragile {
    is_broken: AtomicBool,
}

impl Comparator for Fragile {
    fn name(&self) -> &str {
        "test.fragile"
    }
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        assert!(!self.is_broken.load(Atomic::SeqCst), "the comparator panics on purpose");
        a.cmp(b)
    }
}

/// A panic in the work of one database is not felt by another that shares its threads.
#[test]
fn a_panic_in_one_database_does_not_stop_another_on_the_same_threads() {
    within(|| {
        let (cache, background) = shared(1 << 20, 100);
        let order = Arc::new(Fragile::default());
        let mut options = tiny();
        keyspace_of(&mut options).comparator = order.name().to_owned();
        let open = |options: Options| {
            let opener =
                Db::builder("/db").vfs(Arc::new(MemVfs::new())).options(options).comparator(order.clone());
            opener.cache(Arc::clone(&cache)).background(background.clone()).open().expect("opens")
        };
        let (fragile, sound) = (open(options), open(tiny()));
        for i in 0..10 {
            fragile.put(key(i), "v").expect("puts");
        }
        order.is_broken.store(true, Atomic::SeqCst);
        for _ in 0..4 {
            let flushing = fragile.clone();
            assert!(ends("flush", move || flushing.flush()).is_err());
        }
        for i in 0..200 {
            sound.put(key(i), noise(i)).expect("puts");
        }
        let flushing = sound.clone();
        ends("flush", move || flushing.flush()).expect("flushes");
        order.is_broken.store(false, Atomic::SeqCst);
        ends("closing", move || fragile.close()).map_or_else(drop, drop);
        assert_eq!(contents(sound.default_keyspace()).len(), 200);
        ends("closing", move || sound.close()).expect("closes");
    });
}

fn len_on_disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("the directory is there");
    entries.map(|entry| entry.expect("listed").metadata().expect("there").blocks() * 512).sum()
}

/// The figures say what lies on the disk, space that is only reserved and files that are to be removed included.
#[test]
fn the_stats_count_what_lies_on_the_disk() {
    const TOLERANCE_LEN_BYTES: u64 = 64 << 10;
    within(|| {
        let dir = TempDir::new().expect("a directory");
        let options = Options::default().memtable_bytes(4 << 20);
        let db =
            Db::builder(dir.path()).options(options).background(Background::Manual).open().expect("opens");
        let check = |when: &str| {
            let (said, found) = (db.stats().disk_bytes, len_on_disk(dir.path()));
            assert!(
                said.abs_diff(found) <= TOLERANCE_LEN_BYTES,
                "{when}: {said} bytes by the stats, {found} found"
            );
        };
        check("empty");
        for i in 0..1000 {
            db.default_keyspace().put_with(key(i), noise(i), WriteOptions::os()).expect("puts");
        }
        db.sync().expect("syncs");
        check("with a log");
        db.flush().expect("flushes");
        check("with a table, and a log that is to be removed");
        // The files that the merge replaces are not removed while an iterator reads them.
        let mut iter = db.iter().expect("open");
        assert!(iter.next().is_some());
        for i in 0..1000 {
            db.default_keyspace().put_with(key(i), noise(i + 1), WriteOptions::os()).expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        check("with tables that are still read");
        drop(iter);
        db.wait_idle().expect("idle");
        check("at rest");
    });
}

fn on_disk_in_memory(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny()).background(Background::Manual)
}

/// Returns the files in a database's directory with their lengths.
fn lens_of(disk: &impl Vfs) -> BTreeMap<String, u64> {
    let listed = disk.read_dir(Path::new("/db")).expect("the directory is there");
    let len_of = |name: &str| disk.metadata(&Path::new("/db").join(name)).expect("listed").len;
    listed.into_iter().map(|entry| (entry.name.clone(), len_of(&entry.name))).collect()
}

/// Checks that the figures know each file, and every byte but those of `CURRENT`.
#[track_caller]
fn check_knows_all(when: &str, stats: &Stats, files: &BTreeMap<String, u64>) {
    let bytes: u64 = files.iter().filter(|(name, _)| *name != "CURRENT").map(|(_, len)| len).sum();
    assert_eq!(stats.live_files, files.keys().cloned().collect::<Vec<_>>(), "{when}");
    assert_eq!(stats.disk_bytes, bytes, "{when}: {files:?}");
}

/// Segments of an earlier incarnation that stay needed count with what they take.
#[test]
fn the_stats_count_recovered_segments() {
    for durability in [WriteOptions::os(), WriteOptions::disk()] {
        let disk = MemVfs::new();
        let options = tiny().memtable_bytes(8 << 20);
        let open = || on_disk_in_memory(&disk).options(options.clone()).open().expect("opens");
        let db = open();
        for i in 0..100 {
            db.default_keyspace().put_with(key(i), noise(i), durability).expect("puts");
        }
        drop(db);
        let db = open();
        check_knows_all("recovered", &db.stats(), &lens_of(&disk));
        db.flush().expect("flushes");
        db.wait_idle().expect("idle");
        check_knows_all("flushed", &db.stats(), &lens_of(&disk));
    }
}

/// The length of the open segment is that of the one that is open now: after a recovery, a write and a flush.
#[test]
fn the_stats_tell_the_length_of_the_open_segment() {
    let disk = MemVfs::new();
    let options = tiny().memtable_bytes(1 << 20).wal_preallocate_bytes(0);
    let open = || on_disk_in_memory(&disk).options(options.clone()).open().expect("opens");
    let check = |when: &str, db: &Db| {
        let files = lens_of(&disk);
        let segments: Vec<u64> =
            files.iter().filter(|(name, _)| name.ends_with(".wal")).map(|(_, len)| *len).collect();
        assert_eq!(segments, [db.stats().wal_bytes], "{when}");
    };
    let db = open();
    check("new", &db);
    for i in 0..20 {
        db.put(key(i), noise(i)).expect("puts");
    }
    check("written", &db);
    db.flush().expect("flushes");
    db.wait_idle().expect("idle");
    check("flushed", &db);
    db.put("k", noise(0)).expect("puts");
    drop(db);
    let db = open();
    check("recovered", &db);
    let old = db.clone();
    db.close().expect("closes");
    check("closed", &old);
}

/// A database that is only read knows its files too, and so does one that was opened on a disk too full to write.
#[test]
fn the_stats_of_a_database_that_is_only_read_know_its_files() {
    let disk = SmallDisk::new(1 << 20);
    let db = on_disk_in_memory(&disk).open().expect("opens");
    for i in 0..30 {
        db.put(key(i), "v").expect("puts");
    }
    db.flush().expect("flushes");
    db.wait_idle().expect("idle");
    assert!(db.stats().live_files.contains(&"RESERVE".to_owned()));
    db.put("k", "v").expect("puts");
    db.close().expect("closes");
    let files = lens_of(&disk);
    let reader = on_disk_in_memory(&disk).open_read_only().expect("opens");
    check_knows_all("opened for reading", &reader.stats(), &files);
    drop(reader);
    disk.leave_free(0);
    let db = on_disk_in_memory(&disk).open().expect("opens");
    assert!(db.background_error().is_some(), "there is no space to write");
    let stats = db.stats();
    assert_eq!(stats.live_files, files.keys().cloned().collect::<Vec<_>>(), "on a full disk");
    disk.leave_free(1 << 20);
    db.resume().expect("there is space");
    db.wait_idle().expect("idle");
    check_knows_all("resumed", &db.stats(), &lens_of(&disk));
}

/// Obsolete tables are those that a reader holds, and no others.
#[test]
fn the_stats_count_the_obsolete_tables_that_a_reader_holds() {
    let db = on_disk_in_memory(&MemVfs::new()).open().expect("opens");
    for round in 0..3 {
        for i in 0..10 {
            db.put(key(i), format!("{round}")).expect("puts");
        }
        db.flush().expect("flushes");
    }
    let iter = db.iter().expect("open");
    let tables_count = db.stats().keyspaces[0].levels[0].files;
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    assert_eq!(db.stats().obsolete_tables, tables_count);
    drop(iter);
    assert_eq!(db.stats().obsolete_tables, 0, "nobody holds any, though no purge has come by");
}
