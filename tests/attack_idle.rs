//! Attack: `wait_idle` returns Ok on a full disk although a merge is due: the very next `background_step` runs one.
//! No writer, no reader, no snapshot, no iterator, clock stands still.
#![allow(warnings, clippy::all)]
mod common;
#[path = "common/small_disk.rs"]
mod small_disk;
use small_disk::SmallDisk;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::*;

fn noise(mut state: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .collect()
}

#[test]
fn nothing_is_due_once_wait_idle_says_so() {
    let mut found = Vec::new();
    let seeds: Vec<u64> = std::env::var("SEED").map_or((1..200).collect(), |s| vec![s.parse().unwrap()]);
    for seed in seeds {
        let clock = ManualClock::new(UnixMillis(1_000_000));
        let disk = SmallDisk::over(MemVfs::with_clock(clock.clone()), 64 << 20);
        disk.leave_free(200 << 10);
        let mut options = common::tiny();
        options.stall_timeout = Duration::from_millis(100);
        let open = || {
            Db::builder("/db")
                .vfs(Arc::new(disk.clone()))
                .options(options.clone())
                .background(Background::Manual)
                .open()
                .unwrap()
        };
        let mut db = open();
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut rand = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 20) % n
        };
        let mut log = Vec::new();
        for step in 0..400u64 {
            match rand(20) {
                0..=8 => {
                    let ok = db
                        .put(format!("key{:03}", rand(120)), noise(step * 1000 + seed, rand(700) as usize))
                        .is_ok();
                    log.push(format!("put {ok}"));
                }
                9..=12 => {
                    let ok = db.delete(format!("key{:03}", rand(120))).is_ok();
                    log.push(format!("delete {ok}"));
                }
                13 => log.push(format!("flush {}", db.flush().is_ok())),
                14 => {
                    let n = [0, 8 << 10, 40 << 10, 120 << 10][rand(4) as usize];
                    disk.leave_free(n);
                    log.push(format!("leave {n}"));
                }
                15 => {
                    drop(db);
                    db = open();
                    log.push("drop and open".into());
                }
                16 => log.push(format!("resume {}", db.resume().is_ok())),
                _ => {
                    if db.wait_idle().is_ok() {
                        let before = db.stats();
                        let step = db.background_step();
                        let after = db.stats();
                        let of = |s: &Stats| (s.flushes, s.compactions, s.trivial_moves);
                        if of(&before) != of(&after) {
                            found.push(format!("seed {seed}: wait_idle said Ok, and the next background_step ({step:?}) ran a job: (flushes, merges, moves) {:?} -> {:?}; before that: {}; errors {:?}", of(&before), of(&after), log.iter().rev().take(8).rev().cloned().collect::<Vec<_>>().join(", "), db.background_errors()));
                            break;
                        }
                    }
                    log.push("idle".into());
                }
            }
        }
    }
    assert!(found.is_empty(), "{} times\n{}", found.len(), found.join("\n"));
}
