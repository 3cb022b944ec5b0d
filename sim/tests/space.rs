//! Space that has to come back, under many schedules: what `compact_range` promises beside background merges, and what
//! a database with threads does by itself once it is quiet, read, or rid of a snapshot. All time is virtual.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::spawn;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, Durability, KeyspaceOptions, Options};
use tinylsm_sim::disk::{Profile, SimDisk};
use tinylsm_sim::schedule::{self, Simulation, StrategyKind};
use tinylsm_sim::tape::Tape;

/// Each runs one run.
const SEEDS: std::ops::Range<u64> = 0..100;

fn options() -> Options {
    let keyspace = KeyspaceOptions::default()
        .block_bytes(128)
        .level0_compaction_trigger(2)
        .level_base_bytes(2 << 10)
        .level_multiplier(2)
        .table_bytes(1 << 10);
    Options::default()
        .memtable_bytes(2 << 10)
        .wal_preallocate_bytes(0)
        .durability(Durability::Os)
        .default_keyspace(keyspace)
}

/// Options under which tables hold some dozens of entries, so that what a table has beside them is little.
fn larger_tables() -> Options {
    let mut options = options();
    let keyspace = options.default_keyspace.as_mut().unwrap();
    keyspace.table_bytes = 8 << 10;
    keyspace.level_base_bytes = 16 << 10;
    options.memtable_bytes(4 << 10)
}

/// Options under which the deletes of a test fit into a memtable.
fn larger_memtable() -> Options {
    options().memtable_bytes(64 << 10)
}

/// Runs `body` with an open database in the run of each seed.
fn in_runs(body: fn(&mut Draws, &SimDisk, Db)) {
    in_runs_with(options, body);
}

fn in_runs_with(options: fn() -> Options, body: fn(&mut Draws, &SimDisk, Db)) {
    for seed in SEEDS {
        let tape = Tape::from_seed(seed);
        let disk = SimDisk::new(Profile::Worst, tape.clone());
        // What is stated here comes within a time, and no thread starves for longer than that.
        let strategy = Some(StrategyKind::RandomWalk);
        let options_of_run = schedule::Options { strategy, ..schedule::Options::default() };
        let outcome = Simulation::run(tape, options_of_run, move || {
            let threads = Background::Threads(2);
            let db = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options()).background(threads);
            body(&mut Draws(seed * 2 + 1), &disk, db.open().unwrap());
        });
        assert!(outcome.failure.is_none(), "seed {seed}: {:?}", outcome.failure);
    }
}

/// Choices of the workload.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Returns a value that hardly packs.
    fn value(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

/// How long a database may take to give back by itself what nobody needs.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(30);

/// Returns what the directory takes without the manifest, whose size follows the history of edits.
fn disk_bytes(disk: &SimDisk) -> u64 {
    let files = disk.files_in(Path::new("/db")).into_iter();
    files.filter(|file| !file.name.starts_with("MANIFEST")).map(|file| file.len).sum()
}

/// Checks that what lies there is at most 1.15 times, and a constant more than, what a merge of everything leaves.
fn check_small(disk: &SimDisk, db: &Db) {
    let before = disk_bytes(disk);
    db.compact_range(db.default_keyspace(), ..).unwrap();
    db.wait_idle().unwrap();
    let live = disk_bytes(disk);
    let constant = 2 * larger_tables().memtable_bytes as u64;
    assert!(before <= live * 115 / 100 + constant, "{before} bytes lay there, {live} are live");
}

/// Walks over everything; returns how many keys there are, and how many blocks were asked for.
fn walk(db: &Db) -> (usize, u64) {
    let blocks = || {
        let stats = db.stats();
        stats.cache_hits + stats.cache_misses
    };
    let before = blocks();
    let count = db.iter().unwrap().map(Result::unwrap).count();
    (count, blocks() - before)
}

/// Returns how many entries all tables have.
fn entries(db: &Db) -> u64 {
    db.stats().keyspaces[0].levels.iter().map(|level| level.entries).sum()
}

#[test]
fn compact_range_leaves_nothing_that_nobody_needs() {
    in_runs(|draws, _, db| {
        let mut live: BTreeSet<u64> = BTreeSet::new();
        let mut snapshots = Vec::new();
        for _ in 0..6 {
            for _ in 0..draws.below(60) {
                let key = draws.below(40);
                match draws.below(10) {
                    0 => snapshots.push(db.snapshot()),
                    1 if !snapshots.is_empty() => drop(snapshots.remove(0)),
                    2..=5 => {
                        db.delete(format!("key{key:02}")).unwrap();
                        live.remove(&key);
                    }
                    _ => {
                        db.put(format!("key{key:02}"), "a value of some length").unwrap();
                        live.insert(key);
                    }
                }
            }
            // A merge that has begun may keep what they see, and above what lies deeper now.
            snapshots.clear();
            db.compact_range(db.default_keyspace(), ..).unwrap();
            assert_eq!(entries(&db), live.len() as u64, "{:?}", db.stats().keyspaces[0]);
        }
        db.close().unwrap();
    });
}

#[test]
fn compact_range_ends_while_others_write() {
    in_runs(|draws, _, db| {
        let writers: Vec<_> = (0..2u64)
            .map(|which| {
                let (db, mut draws) = (db.clone(), Draws(draws.0 ^ which));
                spawn("writer", move || {
                    for _ in 0..150 {
                        let key =
                            format!("{}{:02}", ["a", "z"][usize::try_from(which).unwrap()], draws.below(40));
                        if draws.below(3) == 0 {
                            db.delete(key).unwrap();
                        } else {
                            db.put(key, "a value of some length").unwrap();
                        }
                    }
                })
                .unwrap()
            })
            .collect();
        for _ in 0..3 {
            for key in 0..10 {
                db.put(format!("m{key}"), "a value").unwrap();
            }
            db.compact_range(db.default_keyspace(), "m".."n").unwrap();
            for key in 0..10 {
                db.delete(format!("m{key}")).unwrap();
            }
            db.compact_range(db.default_keyspace(), "m".."n").unwrap();
        }
        for writer in writers {
            assert!(writer.join());
        }
        let live = db.iter().unwrap().count() as u64;
        db.compact_range(db.default_keyspace(), ..).unwrap();
        assert_eq!(entries(&db), live);
        db.close().unwrap();
    });
}

#[test]
fn a_quiet_database_gives_back_what_was_deleted_and_what_a_snapshot_held() {
    in_runs(|draws, disk, db| {
        let put_all = || {
            for key in 0..120 {
                db.put(format!("key{key:03}"), [7; 60]).unwrap();
            }
        };
        put_all();
        let quiet = Duration::from_secs(30);
        disk.sleep(quiet);
        for key in 0..100 {
            db.delete(format!("key{key:03}")).unwrap();
        }
        disk.sleep(quiet);
        assert!(entries(&db) < 60, "{:?}", db.stats().keyspaces[0]);
        put_all();
        let snapshots: Vec<_> = (0..1 + draws.below(3)).map(|_| db.snapshot()).collect();
        put_all();
        db.flush().unwrap();
        disk.sleep(quiet);
        assert!(entries(&db) >= 240);
        drop(snapshots);
        // Nobody writes, reads or asks for it.
        disk.sleep(quiet);
        assert!(entries(&db) < 160, "{:?}", db.stats().keyspaces[0]);
        db.close().unwrap();
    });
}

#[test]
fn half_of_the_data_comes_back_within_its_time_once_it_is_deleted() {
    in_runs_with(larger_tables, |draws, disk, db| {
        for key in 0..400 {
            db.put(format!("key{key:03}"), draws.value(60)).unwrap();
        }
        let odd = draws.below(2);
        for key in (odd..400).step_by(2) {
            db.delete(format!("key{key:03}")).unwrap();
        }
        disk.sleep(GIVEN_BACK_WITHIN);
        check_small(disk, &db);
        assert_eq!(entries(&db), 200);
        db.close().unwrap();
    });
}

#[test]
fn what_a_snapshot_held_comes_back_within_its_time_once_it_is_released() {
    in_runs_with(larger_tables, |draws, disk, db| {
        let put_all = |draws: &mut Draws| {
            for key in 0..200 {
                db.put(format!("key{key:03}"), draws.value(60)).unwrap();
            }
        };
        put_all(draws);
        let snapshots: Vec<_> = (0..1 + draws.below(3))
            .map(|_| {
                let snapshot = db.snapshot();
                put_all(draws);
                snapshot
            })
            .collect();
        db.flush().unwrap();
        disk.sleep(GIVEN_BACK_WITHIN);
        let versions = 1 + snapshots.len() as u64;
        assert_eq!(entries(&db), 200 * versions, "every snapshot holds a version of each key");
        let merges = db.stats().compactions;
        disk.sleep(GIVEN_BACK_WITHIN);
        assert_eq!(db.stats().compactions, merges, "what is held makes nothing due");
        // Nobody writes, reads or asks for what comes.
        drop(snapshots);
        disk.sleep(GIVEN_BACK_WITHIN);
        assert!(entries(&db) < 250, "{:?}", db.stats().keyspaces[0]);
        check_small(disk, &db);
        assert_eq!(entries(&db), 200);
        db.close().unwrap();
    });
}

#[test]
fn walking_over_deletes_makes_the_merge_due_that_removes_them() {
    in_runs_with(larger_memtable, |draws, disk, db| {
        for key in 0..400 {
            db.put(format!("key{key:03}"), draws.value(20)).unwrap();
        }
        db.flush().unwrap();
        db.wait_idle().unwrap();
        for key in 50..350 {
            db.delete(format!("key{key:03}")).unwrap();
        }
        // Too short to count as quiet: without a reader, the deletes stay where they are.
        let quiet_at = disk.now() + 2_000_000_000;
        let flushes = db.stats().flushes;
        disk.sleep(Duration::from_secs(1));
        assert_eq!((entries(&db), db.stats().flushes), (400, flushes));
        let (count, blocks_first) = walk(&db);
        assert_eq!(count, 100);
        // Five walks pay for it. It runs behind them, in threads that a schedule may keep from running for a while.
        for _ in 1..5 {
            walk(&db);
        }
        while entries(&db) > 100 {
            assert!(disk.now() < quiet_at, "{:?}", db.stats());
            disk.sleep(Duration::from_millis(10));
        }
        let (count, blocks) = walk(&db);
        assert_eq!(count, 100);
        assert!(blocks <= blocks_first / 2, "{blocks} blocks, {blocks_first} at first");
        db.close().unwrap();
    });
}
