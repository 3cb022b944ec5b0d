//! Space follows what is alive: on the disk and in memory, at rest, over short incarnations, and where there is little of it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tests look at what files take on the real disk"
)]

mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/small_disk.rs"]
mod small_disk;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{Model, contents, keyspace_of, noise, tiny};
use hooked::{HookedVfs, Op};
use small_disk::SmallDisk;
use std::cmp::Ordering;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::time::Duration;
use tempfile::TempDir;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::{
    Background, Comparator, Compression, Db, DbBuilder, Durability, Error, ErrorKind, KeyspaceOptions,
    Options, UnixMillis,
};
use watchdog::{STALL_MAX, ends, within};

/// What an empty database, or a small one that was closed, may take.
const SMALL_DATABASE_LEN_BYTES: u64 = 100_000;

/// A disk without a size, with default options: what an application that chose nothing has.
fn usual(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone()))
}

/// Returns what each file of the database takes, what is allocated ahead included.
fn files_in_memory(disk: &MemVfs) -> Vec<(PathBuf, u64)> {
    let with_len = |path: PathBuf| {
        let len = disk.metadata(&path).expect("listed").len;
        (path, len)
    };
    disk.files().into_iter().map(with_len).collect()
}

fn len_in_memory(disk: &MemVfs) -> u64 {
    files_in_memory(disk).iter().map(|(_, len)| len).sum()
}

/// Returns what the files of a directory take on the real disk.
fn len_on_disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("the directory is there");
    entries.map(|entry| entry.expect("listed").metadata().expect("there").blocks() * 512).sum()
}

// ---- Small databases ----

/// An empty database takes little space while it is open, and so does a small one that was closed.
#[test]
fn an_empty_or_closed_small_database_takes_little_space() {
    let dir = TempDir::new().expect("a directory");
    let check = |when: &str| {
        let len = len_on_disk(dir.path());
        assert!(len < SMALL_DATABASE_LEN_BYTES, "{when}: {len} bytes");
    };
    let db = Db::open(dir.path()).expect("opens");
    check("just made");
    for i in 0..5 {
        db.put(format!("key{i}"), "value").expect("puts");
    }
    db.close().expect("closes");
    check("closed");
    let db = Db::open(dir.path()).expect("opens");
    assert_eq!(contents(db.default_keyspace()).len(), 5);
    db.close().expect("closes");
    check("closed again");
}

/// A hundred and fifty incarnations of a few puts each leave a small directory and few files, however they end.
#[test]
fn many_short_incarnations_leave_a_small_directory() {
    for is_closed in [true, false] {
        within(move || {
            let disk = MemVfs::new();
            for incarnation in 0..150 {
                let db = usual(&disk).open().expect("opens");
                for i in 0..5 {
                    db.put(format!("key{incarnation:03}{i}"), "value").expect("puts");
                }
                if is_closed {
                    db.close().expect("closes");
                }
            }
            let files = files_in_memory(&disk);
            let logs_count =
                files.iter().filter(|(path, _)| path.to_string_lossy().ends_with(".wal")).count();
            assert!(logs_count <= 6, "closed: {is_closed}: {logs_count} log segments are left");
            assert!(files.len() <= 16, "closed: {is_closed}: {} files are left", files.len());
            let db = usual(&disk).open().expect("opens");
            assert_eq!(contents(db.default_keyspace()).len(), 150 * 5);
            db.close().expect("closes");
            let len = len_in_memory(&disk);
            assert!(len < SMALL_DATABASE_LEN_BYTES, "closed: {is_closed}: {len} bytes");
        });
    }
}

/// What a process that dies leaves behind is small too: space is reserved as the log grows.
#[test]
fn a_process_that_dies_early_leaves_little_reserved_space() {
    let dir = TempDir::new().expect("a directory");
    for incarnation in 0..5 {
        let db = Db::open(dir.path()).expect("opens");
        db.put(format!("key{incarnation}"), "value").expect("puts");
    }
    let len = len_on_disk(dir.path());
    assert!(len < 4 << 20, "{len} bytes");
}

/// Segments whose records are all in tables go without anybody asking, at open and close too.
#[test]
fn a_log_that_recovery_does_not_need_is_removed_when_the_database_is_opened_or_closed() {
    let disk = MemVfs::new();
    let manual = || usual(&disk).options(tiny()).background(Background::Manual).open().expect("opens");
    let logs_count = || disk.files().iter().filter(|path| path.to_string_lossy().ends_with(".wal")).count();
    let db = manual();
    for i in 0..50 {
        db.put(format!("key{i:02}"), "x".repeat(100)).expect("puts");
    }
    db.flush().expect("flushes");
    db.close().expect("closes");
    assert!(logs_count() <= 1, "after closing: {}", logs_count());
    let db = manual();
    db.put("more", "1").expect("puts");
    drop(db);
    let db = manual();
    while db.background_step().expect("works") {}
    assert!(logs_count() <= 2, "after recovery: {}", logs_count());
    assert_eq!(contents(db.default_keyspace()).len(), 51);
    db.close().expect("closes");
    assert!(logs_count() <= 1, "after closing again: {}", logs_count());
}

// ---- Small and full disks ----

/// A put on a small disk takes what it needs and leaves the rest.
#[test]
fn a_small_disk_takes_puts_under_default_options() {
    within(|| {
        for capacity_mib in [1, 20, 60] {
            let disk = SmallDisk::new(capacity_mib << 20);
            let db = usual(&disk).open().unwrap_or_else(|error| panic!("{capacity_mib} MiB: {error:?}"));
            for i in 0..50 {
                db.put(format!("key{i}"), noise(i, 1000)).expect("there is space");
            }
            let free = disk.free_bytes();
            assert!(free >= (capacity_mib << 20) / 2, "{capacity_mib} MiB: 50 KB of puts left {free} bytes");
            db.flush().expect("there is space");
            db.close().expect("closes");
            let db = usual(&disk).open().expect("opens");
            assert_eq!(contents(db.default_keyspace()).len(), 50);
        }
    });
}

/// A disk on which somebody else left little space is opened and written.
#[test]
fn a_little_free_space_is_enough_to_open_and_write() {
    within(|| {
        let disk = SmallDisk::new(500 << 20);
        let db = usual(&disk).open().expect("opens");
        db.put("k", noise(1, 100_000)).expect("puts");
        drop(db);
        disk.leave_free(1 << 20);
        let db = usual(&disk).open().expect("a megabyte is enough");
        db.put("more", "1").expect("a megabyte is enough");
        assert_eq!(contents(db.default_keyspace()).len(), 2);
        db.close().expect("closes");
    });
}

/// Options under which a few megabytes fill several levels of many tables.
fn scaled() -> Options {
    let keyspace = KeyspaceOptions::default()
        .compression(Compression::None)
        .block_bytes(1024)
        .level0_compaction_trigger(4)
        .level_base_bytes(256 << 10)
        .level_multiplier(4)
        .table_bytes(32 << 10);
    Options::default()
        .memtable_bytes(64 << 10)
        .wal_preallocate_bytes(64 << 10)
        .block_cache_bytes(0)
        .manifest_roll_bytes(16 << 10)
        .stall_timeout(STALL_MAX)
        .default_keyspace(keyspace)
}

/// Puts until the disk is full; returns what was acknowledged.
fn fill(db: &Db) -> Model {
    let mut acknowledged = Model::new();
    for i in 0..100_000u64 {
        let (key, value) = (format!("key{i:05}"), noise(i, 1000));
        let Err(error) = db.put(&key, &value) else {
            acknowledged.insert(key.into_bytes(), value);
            continue;
        };
        let kinds = [ErrorKind::NoSpace, ErrorKind::ReadOnly, ErrorKind::Busy];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        return acknowledged;
    }
    panic!("the disk never filled up");
}

/// Checks that everything acknowledged is there, and at most the put that was refused besides.
#[track_caller]
fn check_acknowledged(db: &Db, acknowledged: &Model) {
    let found = contents(db.default_keyspace());
    for (key, value) in acknowledged {
        assert_eq!(found.get(key), Some(value), "{} was acknowledged", String::from_utf8_lossy(key));
    }
    assert!(found.len() <= acknowledged.len() + 1);
}

/// Fills a disk, lets the process end, and lets somebody else take whatever that gave back.
fn full_disk(capacity_kib: u64, background: &Background) -> (SmallDisk, Model) {
    let disk = SmallDisk::new(capacity_kib << 10);
    let db = usual(&disk).options(scaled()).background(background.clone()).open().expect("opens");
    let acknowledged = fill(&db);
    assert!(acknowledged.len() > 100, "{capacity_kib} KiB: only {} puts fit", acknowledged.len());
    drop(db);
    disk.leave_free(0);
    (disk, acknowledged)
}

/// Deletes every other key, which a full disk takes as well.
fn delete_half(db: &Db, acknowledged: &mut Model, what: &str) {
    let deleted: Vec<Vec<u8>> = acknowledged.keys().step_by(2).cloned().collect();
    for key in &deleted {
        db.delete(key).unwrap_or_else(|error| panic!("{what}: no delete on a full disk: {error:?}"));
        acknowledged.remove(key);
    }
}

const BACKGROUNDS: [Background; 2] = [Background::Threads(2), Background::Manual];

/// A full disk can be opened and read, and its keys can be deleted; nobody has to free anything outside the database.
#[test]
fn a_full_disk_is_opened_and_read_and_takes_deletes() {
    for background in BACKGROUNDS {
        for capacity_kib in [1024, 4096] {
            let background = background.clone();
            within(move || {
                let what = format!("{background:?}, {capacity_kib} KiB");
                let (disk, mut acknowledged) = full_disk(capacity_kib, &background);
                let open = || usual(&disk).options(scaled()).background(background.clone()).open();
                for _ in 0..2 {
                    let db =
                        open().unwrap_or_else(|error| panic!("{what}: a full disk is not opened: {error:?}"));
                    check_acknowledged(&db, &acknowledged);
                    db.close().unwrap_or_else(|error| panic!("{what}: not closed: {error:?}"));
                    disk.leave_free(0);
                }
                let db =
                    open().unwrap_or_else(|error| panic!("{what}: a full disk is not opened: {error:?}"));
                delete_half(&db, &mut acknowledged, &what);
                check_acknowledged(&db, &acknowledged);
                drop(db);
                let db =
                    open().unwrap_or_else(|error| panic!("{what}: a full disk is not opened: {error:?}"));
                check_acknowledged(&db, &acknowledged);
            });
        }
    }
}

/// Deleting and then merging on a full disk loses nothing, also where the merge of everything finds no space: then it says so.
#[test]
fn deleting_and_merging_on_a_full_disk_loses_nothing() {
    for background in BACKGROUNDS {
        for capacity_kib in [1024, 2048, 3000, 4096] {
            let background = background.clone();
            within(move || {
                let what = format!("{background:?}, {capacity_kib} KiB");
                let (disk, mut acknowledged) = full_disk(capacity_kib, &background);
                let open = || usual(&disk).options(scaled()).background(background.clone()).open();
                let db =
                    open().unwrap_or_else(|error| panic!("{what}: a full disk is not opened: {error:?}"));
                delete_half(&db, &mut acknowledged, &what);
                let merging = db.clone();
                let merged =
                    ends("compact_range", move || merging.compact_range(merging.default_keyspace(), ..));
                if let Err(error) = merged {
                    assert!(
                        matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::ReadOnly),
                        "{what}: {error:?}"
                    );
                }
                check_acknowledged(&db, &acknowledged);
                drop(db);
                let db = open().unwrap_or_else(|error| panic!("{what}: not opened again: {error:?}"));
                check_acknowledged(&db, &acknowledged);
            });
        }
    }
}

/// A disk that fills up before the first flush can be emptied too: what is set aside is enough to flush what memory
/// holds, and a merge gives the space of what was deleted back.
#[test]
fn a_disk_that_is_full_before_the_first_flush_gives_space_back() {
    for background in BACKGROUNDS {
        within(move || {
            let disk = SmallDisk::new(4 << 20);
            let options = scaled().memtable_bytes(1 << 20);
            let open = || usual(&disk).options(options.clone()).background(background.clone()).open();
            let db = open().expect("opens");
            // So little that quiet leaves it in memory; the reserve follows it.
            for i in 0..200 {
                db.put(numbered(i), noise(i, 1000)).expect("there is space");
            }
            db.wait_idle().expect("idle");
            drop(db);
            disk.leave_free(0);
            let used_bytes = disk.used_bytes();
            let db = open().expect("a full disk is opened");
            for i in 0..160 {
                db.delete(numbered(i)).expect("a full disk takes deletes");
            }
            let merging = db.clone();
            ends("compact_range", move || merging.compact_range(merging.default_keyspace(), ..))
                .expect("there is space for what is left");
            assert_eq!(contents(db.default_keyspace()).len(), 40);
            db.close().expect("closes");
            let left_bytes = disk.used_bytes();
            assert!(left_bytes < used_bytes / 2, "{left_bytes} of {used_bytes} bytes are left");
        });
    }
}

/// Openings that find no space for a log segment and a manifest leave no more behind than the first one did, and take dead
/// files of earlier incarnations away before they give up.
#[test]
fn openings_of_a_full_disk_take_no_more_of_it_each_time() {
    within(|| {
        let disk = SmallDisk::new(1 << 20);
        let open = || usual(&disk).options(scaled()).background(Background::Manual).open().expect("opens");
        let db = open();
        for i in 0..50 {
            db.put(numbered(i), noise(i, 1000)).expect("puts");
        }
        drop(db);
        drop(disk.remove_file(Path::new("/db/RESERVE")));
        // A half table and a segment that no manifest names, as a process leaves them that is killed.
        for name in ["000900.sst", "000901.wal"] {
            let mut file = disk.create_new(&Path::new("/db").join(name)).expect("creates");
            file.append(&[std::io::IoSlice::new(&noise(1, 40_000))]).expect("appends");
        }
        disk.leave_free(0);
        let used_bytes = disk.used_bytes();
        let db = open();
        db.delete(numbered(1)).expect("there is the space of dead files");
        drop(db);
        for _ in 0..5 {
            disk.leave_free(4096);
            drop(open());
        }
        assert!(disk.used_bytes() <= used_bytes, "{} bytes of {used_bytes}", disk.used_bytes());
        disk.leave_free(200 << 10);
        let db = open();
        assert_eq!(contents(db.default_keyspace()).len(), 49);
        db.put("more", "1").expect("there is space");
        db.close().expect("closes");
    });
}

/// An opening that finds no space for a manifest gives back what it has allocated for its log segment: that may be what the
/// removal of the segment needs.
#[test]
fn an_opening_in_vain_keeps_nothing_that_it_has_allocated() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let mut options = tiny();
        options.wal_preallocate_bytes = 64 << 10;
        let open = || {
            let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options.clone());
            builder.background(Background::Manual).open().expect("opens")
        };
        open().put("key", "carried into the next segment").expect("puts");
        disk.set_hook(|call| {
            let is_refused = call.op == Op::Create && call.path.extension().is_none_or(|it| it != "wal");
            let full =
                || Error::new(ErrorKind::NoSpace, "full").with_operation("create").with_file(call.path);
            if is_refused { Err(full()) } else { Ok(()) }
        });
        let db = open();
        assert_eq!(db.get("key").expect("reads").as_deref(), Some(&b"carried into the next segment"[..]));
        assert!(!db.background_errors().is_empty() || db.put("more", "").is_err(), "it found no space");
        drop(db);
        let entries = disk.read_dir(Path::new("/db")).expect("lists");
        let logs = entries.iter().map(|entry| Path::new("/db").join(&entry.name));
        let logs: Vec<_> = logs.filter(|path| path.extension().is_some_and(|it| it == "wal")).collect();
        assert!(logs.len() >= 2, "the attempt begins a segment: {logs:?}");
        for path in &logs[1..] {
            let len = disk.metadata(path).expect("is there").len;
            assert!(len < 4096, "{path:?} has {len} bytes");
        }
    });
}

/// What is set aside for a full disk becomes less again when there is less data.
#[test]
fn deletes_that_meet_a_full_disk_before_writing_is_off_use_the_reserve() {
    for background in [Background::Threads(2), Background::Manual] {
        within(move || {
            let disk = SmallDisk::new(4 << 20);
            let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(scaled());
            let db = builder.background(background.clone()).open().expect("opens");
            for i in 0..40 {
                db.put(format!("key{i:03}"), [0; 1000]).expect("there is space");
            }
            db.wait_idle().expect("there is space");
            disk.leave_free(0);
            // The memtable is full before the log is: the next segment is what finds no space.
            for i in 0..400 {
                let deleted = db.delete(format!("key{:03}", i % 40));
                assert!(deleted.is_ok(), "{background:?}: delete {i} gives {deleted:?}");
            }
        });
    }
}

#[test]
fn an_opening_on_a_full_disk_flushes_nothing() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let mut options = tiny();
        (options.sealed_memtables_max, options.memtable_bytes, options.reserve_bytes_max) = (10, 16 << 10, 0);
        let open = |options: &Options| {
            let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options.clone());
            builder.background(Background::Manual).open().expect("opens")
        };
        let db = open(&options);
        for i in 0..400 {
            db.put(format!("{i:05}"), [b'x'; 50]).expect("there is space");
        }
        assert!(db.stats().sealed_memtables >= 3);
        drop(db);
        options.sealed_memtables_max = 1;
        disk.set_hook(|call| match call.is(Op::Append, ".wal") {
            true => Err(Error::new(ErrorKind::NoSpace, "full").with_operation("append").with_file(call.path)),
            false => Ok(()),
        });
        let errors = open(&options).background_errors();
        assert!(errors.iter().all(|told| told.error.kind() == ErrorKind::NoSpace), "{errors:?}");
    });
}

#[test]
fn the_reserve_follows_the_data_both_ways() {
    within(|| {
        let quiet = Quiet::new();
        let reserve_len = || quiet.disk.metadata(Path::new("/db/RESERVE")).expect("there is one").len;
        let before = reserve_len();
        assert!(before > 48 << 10, "{before} bytes for a megabyte");
        for i in 0..KEYS_COUNT {
            quiet.db.delete(numbered(i)).expect("deletes");
        }
        quiet.db.compact_range(quiet.db.default_keyspace(), ..).expect("merges");
        quiet.db.wait_idle().expect("idle");
        let after = reserve_len();
        assert!(after < 48 << 10, "{after} bytes for nothing, {before} for a megabyte");
    });
}

/// A database that met a full disk goes on as soon as a little space is made outside it, without a reopen.
#[test]
fn a_little_space_is_enough_to_go_on_after_a_full_disk() {
    within(|| {
        let disk = SmallDisk::new(3 << 20);
        disk.leave_free(2 << 20);
        let db = usual(&disk).options(scaled()).background(Background::Manual).open().expect("opens");
        let acknowledged = fill(&db);
        disk.leave_free(disk.free_bytes() + (300 << 10));
        let resuming = db.clone();
        ends("resume", move || resuming.resume()).expect("there is space");
        db.put("more", "1").expect("there is space");
        db.flush().expect("there is space");
        check_acknowledged(&db, &acknowledged);
        db.close().expect("closes");
    });
}

/// A flush that meets a full disk gives back what its half table took.
#[test]
fn a_step_that_meets_a_full_disk_gives_back_what_it_took() {
    within(|| {
        let disk = SmallDisk::new(64 << 20);
        // With a reserve it would fit.
        let options = scaled().memtable_bytes(1 << 20).reserve_bytes_max(0);
        let db = usual(&disk).options(options).background(Background::Manual).open().expect("opens");
        for i in 0..400 {
            db.put(format!("key{i}"), noise(i, 1000)).expect("puts");
        }
        disk.leave_free(200 << 10);
        let error = db.flush().expect_err("400 KB do not fit");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        // The removal of the half table is a job as well.
        for _ in 0..10 {
            drop(db.background_step());
        }
        let free = disk.free_bytes();
        assert!(free >= 100 << 10, "{free} of 200 KiB are left");
        assert_eq!(contents(db.default_keyspace()).len(), 400);
    });
}

// ---- Deleted space ----

/// A database whose clock a test moves.
struct Quiet {
    disk: MemVfs,
    clock: ManualClock,
    db: Db,
}

const KEYS_COUNT: u64 = 2000;
const VALUE_LEN_BYTES: usize = 500;

fn numbered(i: u64) -> String {
    format!("key{i:06}")
}

/// What is fixed scales with the memtable and the tables, which are a thousandth of the usual ones.
fn quiet_options() -> Options {
    scaled().reserve_bytes_max(64 << 10)
}

impl Quiet {
    /// Opens one with two thousand keys on deep levels, a megabyte of them.
    fn new() -> Quiet {
        let clock = ManualClock::new(UnixMillis(1_700_000_000_000));
        let disk = MemVfs::with_clock(clock.clone());
        let db = usual(&disk).options(quiet_options()).background(Background::Manual).open().expect("opens");
        for i in 0..KEYS_COUNT {
            db.put(numbered(i), noise(i, VALUE_LEN_BYTES)).expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        db.wait_idle().expect("idle");
        Quiet { disk, clock, db }
    }

    /// Lets the background do all it finds to do in thirty seconds in which nobody calls.
    fn rest(&self) {
        for _ in 0..30 {
            while self.db.background_step().expect("works") {}
            self.clock.advance(Duration::from_secs(1));
        }
        while self.db.background_step().expect("works") {}
    }

    #[track_caller]
    fn check_size(&self, live_keys_count: u64) {
        let live = live_keys_count * (VALUE_LEN_BYTES + 9) as u64;
        let bound = live * 115 / 100 + (192 << 10);
        let len = len_in_memory(&self.disk);
        assert!(len <= bound, "{len} bytes for {live} bytes of live data");
        assert_eq!(contents(self.db.default_keyspace()).len() as u64, live_keys_count);
    }
}

/// The space of deleted keys comes back when the database is quiet: after a flush, and without one.
#[test]
fn a_quiet_database_gives_back_the_space_of_deleted_keys() {
    for is_flushed in [true, false] {
        within(move || {
            let quiet = Quiet::new();
            for i in (0..KEYS_COUNT).filter(|i| i % 4 != 0) {
                quiet.db.delete(numbered(i)).expect("deletes");
            }
            if is_flushed {
                quiet.db.flush().expect("flushes");
            }
            quiet.rest();
            quiet.check_size(KEYS_COUNT / 4);
        });
    }
}

/// The space of versions that only a snapshot needed comes back once it is dropped and the database is quiet.
#[test]
fn a_quiet_database_gives_back_the_space_of_what_a_snapshot_kept() {
    within(|| {
        let quiet = Quiet::new();
        let snapshot = quiet.db.snapshot();
        for i in 0..KEYS_COUNT {
            quiet.db.put(numbered(i), noise(i + KEYS_COUNT, VALUE_LEN_BYTES)).expect("puts");
        }
        quiet.db.compact_range(quiet.db.default_keyspace(), ..).expect("merges");
        quiet.rest();
        drop(snapshot);
        quiet.rest();
        quiet.check_size(KEYS_COUNT);
    });
}

/// Deleted space comes back in a database that is opened again too.
#[test]
fn a_reopened_quiet_database_gives_back_the_space_of_deleted_keys() {
    within(|| {
        let Quiet { disk, clock, db } = Quiet::new();
        for i in (0..KEYS_COUNT).filter(|i| i % 4 != 0) {
            db.delete(numbered(i)).expect("deletes");
        }
        db.close().expect("closes");
        let db = usual(&disk).options(quiet_options()).background(Background::Manual).open().expect("opens");
        let quiet = Quiet { disk, clock, db };
        quiet.rest();
        quiet.check_size(KEYS_COUNT / 4);
    });
}

/// A key that is overwritten again and again leaves little, though its versions fit into a memtable that is never full: the
/// log goes with the memtable once the database is quiet, or somebody waits for nothing to be due.
#[test]
fn a_quiet_database_gives_back_the_log_of_an_overwritten_key() {
    for is_awaited in [true, false] {
        within(move || {
            let clock = ManualClock::new(UnixMillis(1_700_000_000_000));
            let disk = MemVfs::with_clock(clock.clone());
            let options = Options::default().memtable_bytes(16 << 20).durability(Durability::Os);
            let db = usual(&disk).options(options).background(Background::Manual).open().expect("opens");
            for i in 0..100_000u64 {
                db.put("key", i.to_le_bytes()).expect("puts");
            }
            assert_eq!(db.stats().flushes, 0, "the memtable is not full");
            let quiet = Quiet { disk, clock, db };
            if is_awaited {
                quiet.db.wait_idle().expect("idle");
            } else {
                quiet.rest();
            }
            let (told, there) = (quiet.db.stats().disk_bytes, len_in_memory(&quiet.disk));
            assert!(there < 1 << 20, "awaited: {is_awaited}: {there} bytes for one key");
            assert!(told < 1 << 20, "awaited: {is_awaited}: stats tell of {told} bytes");
            assert_eq!(contents(quiet.db.default_keyspace()).len(), 1);
        });
    }
}

/// What a scan had to step over is merged away by the time it is done again.
#[test]
fn a_scan_does_not_walk_the_same_deleted_keys_again_and_again() {
    within(|| {
        let clock = ManualClock::new(UnixMillis(1_700_000_000_000));
        let disk = HookedVfs::over(MemVfs::with_clock(clock.clone()));
        let options = scaled().memtable_bytes(4 << 20);
        let db = usual(&disk).options(options).background(Background::Manual).open().expect("opens");
        for i in 0..KEYS_COUNT {
            db.put(numbered(i), noise(i, 100)).expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        for i in 0..KEYS_COUNT - 10 {
            db.delete(numbered(i)).expect("deletes");
        }
        db.flush().expect("flushes");
        let first_key =
            || db.iter().expect("open").next().expect("ten are left").expect("readable").0.to_vec();
        let expected = numbered(KEYS_COUNT - 10).into_bytes();
        for _ in 0..3 {
            assert_eq!(first_key(), expected);
            while db.background_step().expect("works") {}
            clock.advance(Duration::from_secs(1));
        }
        let before = disk.count(Op::Read);
        assert_eq!(first_key(), expected);
        let reads_count = disk.count(Op::Read) - before;
        assert!(reads_count <= 4, "{reads_count} reads to the first of ten keys");
    });
}

/// Orders like bytes and counts.
#[derive(Default)]
struct Counting {
    count: AtomicU64,
}

impl Comparator for Counting {
    fn name(&self) -> &str {
        "test.counting"
    }
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        self.count.fetch_add(1, Atomic::Relaxed);
        a.cmp(b)
    }
}

/// Taking the first key of a queue does not become dearer with every key that was taken before.
#[test]
fn popping_the_first_key_over_and_over_stays_cheap() {
    within(|| {
        let order = Arc::new(Counting::default());
        let mut options = scaled();
        options.memtable_bytes = 8 << 20;
        keyspace_of(&mut options).comparator = order.name().to_owned();
        let db = usual(&MemVfs::new())
            .options(options)
            .comparator(order.clone())
            .background(Background::Manual)
            .open()
            .expect("opens");
        let count = 2 * KEYS_COUNT;
        for i in 0..count {
            db.put(numbered(i), "").expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        let mut dearest = 0;
        for i in 0..count - 10 {
            let before = order.count.load(Atomic::Relaxed);
            let (key, _) = db.iter().expect("open").next().expect("some are left").expect("readable");
            dearest = dearest.max(order.count.load(Atomic::Relaxed) - before);
            assert_eq!(key, numbered(i).as_str());
            db.delete(&key).expect("deletes");
            while db.background_step().expect("works") {}
        }
        assert!(dearest <= KEYS_COUNT, "{dearest} comparisons to find the first key");
    });
}
