//! What the end of a keyspace's data ends: emptied or dropped, it keeps nothing that nobody sees, and nothing that went wrong
//! with it holds up others or stays told.
#![allow(clippy::disallowed_types, reason = "a comparator is shared with the engine's threads")]

mod common;
#[path = "common/watchdog.rs"]
mod watchdog;

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::{Background, Comparator, Db, Keyspace, KeyspaceOptions, Options, UnixMillis};
use watchdog::within;

fn tables_of(disk: &MemVfs) -> Vec<std::path::PathBuf> {
    disk.files().into_iter().filter(|file| file.extension().is_some_and(|it| it == "sst")).collect()
}

// ---- What snapshots see ----

fn open(disk: &MemVfs) -> Db {
    let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(Options::small());
    builder.background(Background::Manual).open().expect("opens")
}

/// A snapshot keeps what it sees and no more: what was put behind it and emptied again goes.
#[test]
fn what_was_put_and_emptied_behind_a_snapshot_goes() {
    within(|| {
        let disk = MemVfs::new();
        let db = open(&disk);
        let keyspace = db.create_keyspace("cache", KeyspaceOptions::small()).expect("creates");
        keyspace.put("k", "first").expect("puts");
        let snapshot = db.snapshot();
        for round in 0..20 {
            keyspace.clear().expect("empties");
            for i in 0..50 {
                keyspace.put(format!("{i:04}"), vec![7; 100]).expect("puts");
            }
            // Flushed or not.
            if round % 2 == 0 {
                db.flush().expect("flushes");
            }
        }
        keyspace.clear().expect("empties");
        db.wait_idle().expect("idle");
        assert_eq!(snapshot.keyspace(&keyspace).get("k").expect("reads").as_deref(), Some(&b"first"[..]));
        assert!(keyspace.is_empty().expect("reads"));
        let tables = tables_of(&disk);
        assert!(tables.len() <= 1, "nobody sees {tables:?}");
    });
}

/// Each of many snapshots sees its own moment between two clears, and what each of them kept goes with it.
#[test]
fn every_snapshot_sees_its_own_moment_between_two_clears() {
    within(|| {
        let disk = MemVfs::new();
        let db = open(&disk);
        let keyspace = db.create_keyspace("cache", KeyspaceOptions::small()).expect("creates");
        let mut snapshots = Vec::new();
        for round in 0..12 {
            keyspace.put("round", format!("{round}")).expect("puts");
            db.flush().expect("flushes");
            // None between some of them.
            if round % 3 > 0 {
                snapshots.push((round, db.snapshot()));
            }
            keyspace.clear().expect("empties");
        }
        // In some order.
        for at in [3, 0, 4, 2, 0, 0, 1, 0] {
            for (round, snapshot) in &snapshots {
                let seen = snapshot.keyspace(&keyspace).get("round").expect("reads");
                assert_eq!(seen.as_deref(), Some(round.to_string().as_bytes()));
            }
            drop(snapshots.remove(at));
            db.wait_idle().expect("idle");
            let tables = tables_of(&disk);
            assert_eq!(tables.len(), snapshots.len(), "{tables:?}");
        }
    });
}

/// However often it was emptied under a snapshot, letting go of that takes no stack.
#[test]
fn a_snapshot_over_many_clears_goes_on_a_small_stack() {
    within(|| {
        let db = Db::open_in_memory().expect("opens");
        let keyspace = db.default_keyspace().clone();
        let mut snapshots = Vec::new();
        for _ in 0..2_000 {
            snapshots.push(db.snapshot());
            keyspace.clear().expect("empties");
        }
        let small = std::thread::Builder::new().stack_size(64 << 10);
        let dropped = small.spawn(move || drop((snapshots, keyspace, db))).expect("a thread");
        dropped.join().expect("it has stack enough");
    });
}

// ---- What went wrong ----

/// An order that panics when told to.
struct Fragile(Arc<AtomicBool>);

impl Comparator for Fragile {
    fn name(&self) -> &str {
        "test.fragile"
    }
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        assert!(!self.0.load(Atomic::SeqCst), "the comparator panics on purpose");
        a.cmp(b)
    }
}

/// Opens a database with a keyspace of that order; time stands still, so that no pause ends by itself.
fn fragile(options: Options) -> (Db, Keyspace, Arc<AtomicBool>) {
    let disk = MemVfs::with_clock(ManualClock::new(UnixMillis(1_000_000)));
    let is_broken = Arc::new(AtomicBool::new(false));
    let builder = Db::builder("/db").vfs(Arc::new(disk)).options(options);
    let builder = builder.comparator(Arc::new(Fragile(Arc::clone(&is_broken))));
    let db = builder.background(Background::Manual).open().expect("opens");
    let bad = KeyspaceOptions::small().comparator("test.fragile");
    let bad = db.create_keyspace("bad", bad).expect("creates");
    (db, bad, is_broken)
}

/// Dropping or emptying the keyspace at which every flush fails lets flushes, and with them everybody's writes, go on.
#[test]
fn writing_goes_on_once_what_flushes_fail_at_is_gone() {
    for is_dropped in [true, false] {
        within(move || {
            let options = Options::small().sealed_memtables_max(1).stall_timeout(Duration::from_secs(100));
            let (db, bad, is_broken) = fragile(options);
            for i in 0..10 {
                bad.put(format!("{i}"), "v").expect("puts");
            }
            is_broken.store(true, Atomic::SeqCst);
            db.flush().expect_err("the comparator panics");
            if is_dropped {
                db.drop_keyspace("bad").expect("drops");
            } else {
                is_broken.store(false, Atomic::SeqCst);
                bad.clear().expect("empties");
            }
            for i in 0..1000 {
                let put = db.put(format!("{i:04}"), vec![1; 100]);
                put.unwrap_or_else(|error| panic!("put {i}, dropped: {is_dropped}: {error}"));
            }
            db.wait_idle().expect("idle");
            assert!(db.background_errors().is_empty(), "{:?}", db.background_errors());
        });
    }
}

/// What a merge has met in a keyspace is over when it is emptied.
#[test]
fn a_failed_merge_is_not_told_of_an_emptied_keyspace() {
    within(|| {
        let (db, bad, is_broken) = fragile(Options::small());
        for round in 0..4 {
            for i in 0..10 {
                bad.put(format!("{i}"), format!("{round}")).expect("puts");
            }
            db.flush().expect("flushes");
        }
        is_broken.store(true, Atomic::SeqCst);
        while db.background_step().is_ok_and(|has_run| has_run) {}
        assert!(!db.background_errors().is_empty(), "the merge panics");
        is_broken.store(false, Atomic::SeqCst);
        bad.clear().expect("empties");
        while db.background_step().expect("nothing is left to fail") {}
        assert!(db.background_errors().is_empty(), "{:?}", db.background_errors());
    });
}

/// A damaged table is named for as long as it is there, and not when emptying has taken it.
#[test]
fn damage_goes_with_the_table_that_is_emptied_away() {
    within(|| {
        let disk = MemVfs::new();
        let db = open(&disk);
        let keyspace = db.create_keyspace("a", KeyspaceOptions::small()).expect("creates");
        for round in 0..2 {
            for i in 0..100 {
                keyspace.put(format!("{i:04}"), vec![round; 40]).expect("puts");
            }
            db.flush().expect("flushes");
        }
        let damaged = tables_of(&disk).pop().expect("there are tables");
        disk.flip(&damaged, 10, 1).expect("it is there");
        db.compact_range(&keyspace, ..).expect_err("it is damaged");
        keyspace.clear().expect("empties");
        keyspace.put("x", "y").expect("puts");
        db.compact_range(&keyspace, ..).expect("nothing is damaged");
        db.wait_idle().expect("idle");
        assert!(disk.metadata(&damaged).is_err(), "the table is gone");
        assert!(db.background_errors().is_empty(), "{:?}", db.background_errors());
    });
}
