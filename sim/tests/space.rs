//! Space that has to come back, under many schedules: what `compact_range` promises beside background merges, and what
//! a quiet database with threads does by itself.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::spawn;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, Durability, KeyspaceOptions, Options};
use tinylsm_sim::disk::{Profile, SimDisk};
use tinylsm_sim::schedule::{self, World};
use tinylsm_sim::tape::Tape;

/// Each runs one world.
const SEEDS: std::ops::Range<u64> = 0..100;

fn options() -> Options {
    let keyspace = KeyspaceOptions {
        block_bytes: 128,
        level0_compaction_trigger: 2,
        level_base_bytes: 2 << 10,
        level_multiplier: 2,
        table_bytes: 1 << 10,
        ..KeyspaceOptions::default()
    };
    Options {
        memtable_bytes: 2 << 10,
        wal_preallocate_bytes: 0,
        durability: Durability::Os,
        default_keyspace: Some(keyspace),
        ..Options::default()
    }
}

/// Runs `body` with an open database in the world of each seed.
fn in_worlds(body: fn(&mut Draws, &SimDisk, Db)) {
    for seed in SEEDS {
        let tape = Tape::from_seed(seed);
        let disk = SimDisk::new(Profile::Worst, tape.clone());
        let outcome = World::run(tape, schedule::Options::default(), move || {
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
}

/// Returns how many entries all tables have.
fn entries(db: &Db) -> u64 {
    db.stats().keyspaces[0].levels.iter().map(|level| level.entries).sum()
}

#[test]
fn compact_range_leaves_nothing_that_nobody_needs() {
    in_worlds(|draws, _, db| {
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
    in_worlds(|draws, _, db| {
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
    in_worlds(|draws, disk, db| {
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
