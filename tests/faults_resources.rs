//! Descriptors, many keyspaces, many databases, and file systems that lack something.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tests use up their process's descriptors and look at what the system counts"
)]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{contents, keyspace_of, tiny, tiny_keyspace};
use hooked::{HookedVfs, Op};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::os::OsVfs;
use tinylsm::vfs::{LockMode, Vfs};
use tinylsm::{Background, Db, DbBuilder, Error, ErrorKind, Options, WriteBatch, WriteOptions};
use watchdog::{ends, within};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny())
}

// ---- Descriptors ----

const DESCRIPTORS_COUNT: u32 = 64;
const TABLES_COUNT: usize = 150;

/// Options under which each of a few keys makes a table.
fn many_tables() -> Options {
    let mut options = tiny();
    options.memtable_bytes = 1 << 20;
    keyspace_of(&mut options).table_bytes = 1024;
    keyspace_of(&mut options).level_base_bytes = 1 << 30;
    options
}

/// Bytes that do not pack.
fn noise(number: u64) -> Vec<u8> {
    let mut state = number + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    };
    (0..1000).map(|_| next()).collect()
}

fn key(i: usize) -> String {
    format!("key{i:04}")
}

fn tables_count(db: &Db) -> usize {
    db.stats().keyspaces[0].levels.iter().map(|level| level.files).sum()
}

/// A database may have more tables than the process may have descriptors: it is written, merged, read, scanned, verified
/// and opened again.
#[test]
fn more_tables_than_descriptors_are_no_obstacle() {
    const NAME: &str = "more_tables_than_descriptors_are_no_obstacle";
    if let Some(place) = child::place_in_child(NAME) {
        let open = || Db::builder(place.join("db")).options(many_tables()).open().expect("opens");
        let db = open();
        for parity in 0..2 {
            let mut batch = WriteBatch::new();
            for i in (parity..TABLES_COUNT).step_by(2) {
                batch.put(db.default_keyspace(), key(i), noise(i as u64));
            }
            db.write(&batch, WriteOptions::os()).expect("writes");
            db.flush().expect("flushes");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        assert!(tables_count(&db) > 2 * DESCRIPTORS_COUNT as usize, "{} tables", tables_count(&db));
        let use_it = |db: &Db| {
            for i in (0..TABLES_COUNT).rev() {
                assert!(db.get(key(i)).expect("reads").is_some(), "{}", key(i));
            }
            assert_eq!(contents(db.default_keyspace()).len(), TABLES_COUNT);
            db.verify().expect("sound");
            db.put(key(0), "new").expect("puts");
            db.compact_range(db.default_keyspace(), ..).expect("merges");
            db.wait_idle().expect("idle");
        };
        use_it(&db);
        db.close().expect("closes");
        use_it(&open());
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run_with_few_descriptors(NAME, dir.path(), DESCRIPTORS_COUNT);
}

/// Takes every descriptor of the process but so many.
fn take_descriptors_but(spared: usize) -> Vec<File> {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - spared);
    taken
}

/// Checks that an error that came of missing descriptors is not taken for anything else.
#[track_caller]
fn check_not_mistaken(what: &str, error: &Error) {
    let mistaken = [
        ErrorKind::NotFound,
        ErrorKind::Corruption,
        ErrorKind::Incompatible,
        ErrorKind::ReadOnly,
        ErrorKind::Locked,
        ErrorKind::InvalidArgument,
    ];
    assert!(!mistaken.contains(&error.kind()), "{what}: {error:?}");
}

/// Running out of descriptors is told and retried; once there are some again everything goes on, without a reopen.
#[test]
fn a_database_goes_on_when_there_are_descriptors_again() {
    const NAME: &str = "a_database_goes_on_when_there_are_descriptors_again";
    if let Some(place) = child::place_in_child(NAME) {
        for spared in 0..6 {
            let what = format!("{spared} descriptors are left");
            let db = Db::builder(place.join(spared.to_string())).options(tiny()).open().expect("opens");
            for i in 0..20 {
                db.put(key(i), "old").expect("puts");
            }
            db.flush().expect("flushes");
            let taken = take_descriptors_but(spared);
            let put = db.put(key(0), "new").map(drop);
            let get = db.get(key(1));
            let scan: tinylsm::Result<Vec<_>> = db.iter().and_then(Iterator::collect);
            let flush = {
                let db = db.clone();
                ends("flush", move || db.flush())
            };
            let merge = {
                let db = db.clone();
                ends("merge", move || db.compact_range(db.default_keyspace(), ..))
            };
            drop(taken);
            for result in [&put, &flush, &merge] {
                if let Err(error) = result {
                    check_not_mistaken(&what, error);
                }
            }
            match get {
                Ok(value) => assert_eq!(value.as_deref(), Some(&b"old"[..]), "{what}: not there"),
                Err(error) => check_not_mistaken(&what, &error),
            }
            match scan {
                Ok(rows) => assert_eq!(rows.len(), 20, "{what}: rows are missing"),
                Err(error) => check_not_mistaken(&what, &error),
            }
            db.put("after", "1").unwrap_or_else(|error| panic!("{what}, then all: {error:?}"));
            let flushing = db.clone();
            ends("flush", move || flushing.flush())
                .unwrap_or_else(|error| panic!("{what}, then all: {error:?}"));
            let merging = db.clone();
            ends("merge", move || merging.compact_range(merging.default_keyspace(), ..))
                .unwrap_or_else(|error| panic!("{what}, then all: {error:?}"));
            assert!(db.background_error().is_none(), "{what}: its cause is gone");
            assert_eq!(contents(db.default_keyspace()).len(), 21);
            db.close().unwrap_or_else(|error| panic!("{what}, then all: {error:?}"));
        }
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run_with_few_descriptors(NAME, dir.path(), DESCRIPTORS_COUNT);
}

/// Opening without enough descriptors fails, changes nothing that counts, and works when there are some.
#[test]
fn opening_without_descriptors_is_not_taken_for_a_missing_or_damaged_database() {
    const NAME: &str = "opening_without_descriptors_is_not_taken_for_a_missing_or_damaged_database";
    if let Some(place) = child::place_in_child(NAME) {
        let opener = || Db::builder(place.join("db")).options(tiny());
        let db = opener().open().expect("opens");
        for i in 0..20 {
            db.put(key(i), "v").expect("puts");
        }
        db.flush().expect("flushes");
        db.put("last", "v").expect("puts");
        drop(db);
        for spared in 0..10 {
            for is_read_only in [true, false] {
                let taken = take_descriptors_but(spared);
                let opened = if is_read_only { opener().open_read_only() } else { opener().open() };
                drop(taken);
                if let Err(error) = opened.map(drop) {
                    check_not_mistaken(&format!("{spared} descriptors, read-only: {is_read_only}"), &error);
                }
                let db = opener().open_read_only().expect("there are descriptors");
                assert_eq!(contents(db.default_keyspace()).len(), 21);
            }
        }
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run_with_few_descriptors(NAME, dir.path(), DESCRIPTORS_COUNT);
}

/// Returns resident memory of the process in bytes.
fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = text.split_whitespace().nth(1).expect("the second field");
    pages.parse::<u64>().expect("a number") * 4096
}

/// Forty open empty databases take as little as a fiftieth of what two thousand may.
#[test]
fn idle_empty_databases_take_little_of_everything() {
    const NAME: &str = "idle_empty_databases_take_little_of_everything";
    const COUNT: u64 = 40;
    if let Some(place) = child::place_in_child(NAME) {
        let before = resident_bytes();
        let dbs: Vec<Db> = (0..COUNT).map(|i| Db::open(place.join(i.to_string())).expect("opens")).collect();
        let memory = resident_bytes() - before;
        let descriptors_count = fs::read_dir("/proc/self/fd").expect("Linux has it").count() as u64;
        let disk: u64 = (0..COUNT)
            .flat_map(|i| fs::read_dir(place.join(i.to_string())).expect("it is there"))
            .map(|entry| entry.expect("listed").metadata().expect("there").blocks() * 512)
            .sum();
        assert!(disk <= COUNT * 100_000, "{} bytes of disk each", disk / COUNT);
        assert!(memory <= COUNT << 20, "{} bytes of memory each", memory / COUNT);
        assert!(descriptors_count <= 6 * COUNT + 20, "{descriptors_count} descriptors");
        drop(dbs);
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

// ---- Many keyspaces ----

/// A flush of a thousand keyspaces waits for the disk a few times, and one of a single keyspace pays for that one.
#[test]
fn a_flush_of_a_thousand_keyspaces_syncs_a_few_times() {
    const KEYSPACES_COUNT: usize = 1000;
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let options = tiny().memtable_bytes(64 << 20).manifest_roll_bytes(64 << 20);
        let db = builder(&disk).options(options).background(Background::Manual).open().expect("opens");
        let keyspaces: Vec<_> = (0..KEYSPACES_COUNT)
            .map(|i| db.create_keyspace(&format!("keyspace{i}"), tiny_keyspace()).expect("creates"))
            .collect();
        let mut batch = WriteBatch::new();
        for keyspace in &keyspaces {
            batch.put(keyspace, "key", "twenty bytes or so");
        }
        db.write(&batch, WriteOptions::disk()).expect("writes");
        let before = disk.syncs_count();
        db.flush().expect("flushes");
        let syncs_count = disk.syncs_count() - before;
        assert!(syncs_count <= 20, "{syncs_count} syncs to flush {KEYSPACES_COUNT} keyspaces");
        for keyspace in &keyspaces {
            assert!(keyspace.get("key").expect("reads").is_some());
        }
        keyspaces[500].put("more", "1").expect("puts");
        let (files_before, syncs_before) = (disk.count(Op::Create), disk.syncs_count());
        db.flush().expect("flushes");
        assert!(disk.count(Op::Create) - files_before <= 3, "files for keyspaces that did not change");
        assert!(disk.syncs_count() - syncs_before <= 12, "syncs for keyspaces that did not change");
    });
}

// ---- Systems ----

/// A fresh volume is not empty, and takes a database all the same; what is not ours stays as it is.
#[test]
fn a_fresh_volume_with_lost_and_found_takes_a_database() {
    let dir = TempDir::new().expect("a directory");
    fs::create_dir(dir.path().join("lost+found")).expect("creates");
    fs::write(dir.path().join("lost+found").join("#12"), b"a lost file").expect("writes");
    let db = Db::builder(dir.path()).options(tiny()).open().expect("opens");
    db.put("k", "v").expect("puts");
    db.flush().expect("flushes");
    db.close().expect("closes");
    let db = Db::builder(dir.path()).options(tiny()).open_read_only().expect("opens");
    assert_eq!(db.get("k").expect("reads").as_deref(), Some(&b"v"[..]));
    assert_eq!(fs::read(dir.path().join("lost+found").join("#12")).expect("there"), b"a lost file");
}

/// Foreign entries in a database's directory do not disturb it and stay as they are.
#[test]
fn foreign_entries_beside_a_database_stay_as_they_are() {
    let dir = TempDir::new().expect("a directory");
    let open = || Db::builder(dir.path()).options(tiny()).open().expect("opens");
    drop(open());
    let files = ["notes.txt", ".nfs0001", "000007.sst.bak", "CURRENT~", "7.wal"];
    for name in files {
        fs::write(dir.path().join(name), name).expect("writes");
    }
    let dirs = ["lost+found", "000099.sst", "000098.wal", "MANIFEST-000097", "000096.tmp"];
    for name in dirs {
        fs::create_dir(dir.path().join(name)).expect("creates");
    }
    for round in 0..3 {
        let db = open();
        for i in 0..50 {
            db.put(key(i), vec![round; 200]).expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        db.wait_idle().expect("idle");
        db.close().expect("closes");
    }
    for name in files {
        assert_eq!(fs::read(dir.path().join(name)).expect(name), name.as_bytes());
    }
    for name in dirs {
        assert!(dir.path().join(name).is_dir(), "{name} is gone");
    }
}

/// Space that cannot be reserved is no obstacle, whatever the disk answers; only space that is written is needed.
#[test]
fn a_disk_that_cannot_reserve_space_is_written_all_the_same() {
    within(|| {
        let refusals: [fn(&Path) -> Error; 3] = [
            |path| Error::from_io("allocate", path, io::Error::from_raw_os_error(22)),
            |path| Error::from_io("allocate", path, io::Error::from_raw_os_error(27)),
            |path| {
                Error::new(ErrorKind::NoSpace, "no space to reserve")
                    .with_file(path)
                    .with_operation("allocate")
            },
        ];
        for refuse in refusals {
            let disk = HookedVfs::over(MemVfs::new());
            disk.set_hook(move |call| if call.op == Op::Allocate { Err(refuse(call.path)) } else { Ok(()) });
            let db = builder(&disk).options(Options::default()).open().expect("opens");
            for i in 0..100 {
                db.put(key(i), vec![b'x'; 2000]).expect("puts");
            }
            db.flush().expect("flushes");
            db.put("last", "v").expect("puts");
            db.close().expect("closes");
            let db = builder(&disk).options(Options::default()).open().expect("opens");
            assert_eq!(contents(db.default_keyspace()).len(), 101);
        }
    });
}

/// A file system without locks is refused with an error that says so, and nothing is made of the directory.
#[test]
fn a_disk_without_locks_is_named_and_not_written() {
    for code in [95, 37, 38] {
        let disk = HookedVfs::over(MemVfs::new());
        disk.set_hook(move |call| {
            if call.op == Op::Lock {
                return Err(Error::from_io("lock", call.path, io::Error::from_raw_os_error(code)));
            }
            Ok(())
        });
        let error = builder(&disk).open().map(drop).expect_err("nobody can have it for itself");
        assert!(
            ![ErrorKind::Locked, ErrorKind::NotFound, ErrorKind::Corruption].contains(&error.kind()),
            "{error:?}"
        );
        assert!(format!("{error:?}").contains("lock"), "{error:?}");
        assert_eq!(disk.count(Op::Create), 0, "a database that cannot be locked is not made");
    }
}

/// A directory that cannot be synced is refused with an error that names the missing ability of the file system.
/// Directories of `/proc` are such.
#[test]
fn a_directory_that_cannot_be_synced_is_named() {
    let error = OsVfs::new().sync_dir(Path::new("/proc")).expect_err("proc has no such call");
    let text = format!("{error:?}");
    assert!(text.contains("/proc"), "{text}");
    for part in ["file system", "director", "sync"] {
        assert!(text.contains(part), "{part:?} is not named: {text}");
    }
}

/// A disk whose directories cannot be synced acknowledges nothing: names would not survive.
#[test]
fn a_disk_whose_directories_cannot_be_synced_acknowledges_nothing() {
    within(|| {
        let counts = Arc::new(AtomicU64::new(0));
        let disk = HookedVfs::over(MemVfs::new());
        let refused = Arc::clone(&counts);
        disk.set_hook(move |call| {
            if call.op == Op::SyncDir {
                refused.fetch_add(1, Ordering::SeqCst);
                return Err(Error::from_io("sync_dir", call.path, io::Error::from_raw_os_error(22)));
            }
            Ok(())
        });
        let error = builder(&disk).open().map(drop).expect_err("no name is durable");
        assert!(counts.load(Ordering::SeqCst) > 0);
        assert!(![ErrorKind::NotFound, ErrorKind::Corruption].contains(&error.kind()), "{error:?}");
        assert_eq!(error.operation(), Some("sync_dir"), "{error:?}");
        disk.clear_hook();
        assert!(disk.lock(Path::new("/db/LOCK"), LockMode::Exclusive).is_ok(), "the lock is left behind");
    });
}
