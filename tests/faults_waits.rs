//! Waiting: for one's own work, beside others, and no longer than was promised; merges that are never forgotten.
#![allow(clippy::disallowed_methods, reason = "the tests watch real threads for a while")]
#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]

mod common;
#[path = "common/faulty.rs"]
mod faulty;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{tiny, tiny_keyspace};
use faulty::FaultyVfs;
use hooked::{HookedVfs, Op};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Db, DbBuilder, Error, ErrorKind, Runtime, WriteOptions};
use watchdog::{CALL_MAX, Gate, start, within};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny())
}

/// Flushes the same keys twice, which makes a merge due.
fn make_merge_due(db: &Db) {
    for round in 0..2 {
        fill(db, round);
        db.flush().expect("flushes");
    }
}

fn fill(db: &Db, round: usize) {
    for i in 0..10 {
        db.put(format!("key{i:03}"), round.to_string()).expect("writes");
    }
}

fn level0_files(db: &Db) -> u64 {
    db.stats().keyspaces[0].levels[0].files as u64
}

/// Waits until a condition holds, at most so long as a call may take; tells whether it does.
fn comes_true(is_true: impl Fn() -> bool) -> bool {
    let slice = Duration::from_millis(10);
    let mut left = CALL_MAX;
    while !is_true() && left > Duration::ZERO {
        sleep(slice);
        left = left.saturating_sub(slice);
    }
    is_true()
}

/// Two databases on one runtime whose only permit to merge the first one holds until the gate opens; a merge is due in
/// the second.
fn one_merges_while_another_wants_to() -> (Db, Db, Gate) {
    let runtime = Runtime::new(2).expect("a test machine has threads to give");
    let disk = HookedVfs::over(MemVfs::new());
    let open = |builder: DbBuilder| {
        let db = builder.background(Background::Shared(runtime.clone())).open().expect("opens");
        db.wait_idle().expect("a sound disk");
        db
    };
    let (merging, refused) = (open(builder(&disk)), open(builder(&MemVfs::new())));
    let gate = Gate::default();
    gate.close();
    fill(&merging, 0);
    merging.flush().expect("flushes");
    let (door, tables_count) = (gate.clone(), AtomicU64::new(0));
    disk.set_hook(move |call| {
        // The first table is the second flush's, the second one the merge's.
        if call.is(Op::Create, ".sst") && tables_count.fetch_add(1, Ordering::SeqCst) == 1 {
            door.pass();
        }
        Ok(())
    });
    fill(&merging, 1);
    merging.flush().expect("flushes");
    gate.await_parked();
    make_merge_due(&refused);
    (merging, refused, gate)
}

/// How long a database is quiet before it looks at everything once more by itself, and a little.
const BEYOND_QUIET: Duration = Duration::from_millis(2500);

#[test]
fn a_merge_that_was_refused_for_another_databases_is_run_after_it() {
    within(|| {
        let (merging, refused, gate) = one_merges_while_another_wants_to();
        let _opens = gate.opens_at_the_end();
        sleep(BEYOND_QUIET);
        assert_eq!(level0_files(&refused), 2, "nobody may merge yet");
        gate.open();
        merging.wait_idle().expect("a sound disk");
        assert!(comes_true(|| level0_files(&refused) == 0), "the merge that is due is forgotten");
    });
}

#[test]
fn waiting_for_idleness_ends_after_a_merge_that_was_refused_for_another_databases() {
    within(|| {
        let (merging, refused, gate) = one_merges_while_another_wants_to();
        let _opens = gate.opens_at_the_end();
        let waiting = start("wait_idle", {
            let refused = refused.clone();
            move || refused.wait_idle()
        });
        sleep(BEYOND_QUIET);
        gate.open();
        merging.wait_idle().expect("a sound disk");
        waiting.join().expect("a sound disk");
        assert_eq!(level0_files(&refused), 0);
    });
}

#[test]
fn waiting_for_idleness_says_that_writing_is_off() {
    within(|| {
        for background in [Background::Threads(2), Background::Manual] {
            let disk = FaultyVfs::new();
            let db = builder(&disk).background(background).open().expect("opens");
            db.put("a", "b").expect("writes");
            db.wait_idle().expect("a sound disk");
            disk.fail_next_wal_sync();
            db.put("k", "v").expect_err("the log cannot be synced");
            for round in 0..3 {
                let waited = db.wait_idle().map_err(|error| error.kind());
                assert_eq!(waited, Err(ErrorKind::ReadOnly), "round {round}");
            }
        }
    });
}

#[test]
fn waiting_for_idleness_ends_although_writers_go_on() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        // Tables take a while, so that there is always one more to write.
        disk.set_hook(|call| {
            if call.is(Op::Create, ".sst") || call.is(Op::Sync, ".sst") {
                sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let db = builder(&disk).open().expect("opens");
        let is_over = Arc::new(AtomicBool::new(false));
        let write = |writer: usize| {
            let (db, is_over) = (db.clone(), Arc::clone(&is_over));
            move || {
                let numbers = (0..3000).cycle().take_while(|_| !is_over.load(Ordering::SeqCst));
                numbers.for_each(|number| {
                    let key = format!("{writer}{number:06}");
                    let put = db.default_keyspace().put_with(key, [b'v'; 50], WriteOptions::none());
                    put.expect("writes");
                });
            }
        };
        let writers = [start("a writer", write(0)), start("another writer", write(1))];
        assert!(comes_true(|| db.stats().flushes > 20), "nothing is flushed");
        let waiting = start("wait_idle", {
            let db = db.clone();
            move || db.wait_idle()
        });
        let has_ended = waiting.ends_within(CALL_MAX);
        is_over.store(true, Ordering::SeqCst);
        writers.into_iter().for_each(|writer| writer.join());
        assert!(has_ended, "it waits for what writers make due later");
        waiting.join().expect("a sound disk");
    });
}

#[test]
fn a_put_waits_for_a_job_of_another_caller_no_longer_than_it_may() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let mut options = tiny();
        options.sealed_memtables_max = 1;
        options.stall_timeout = Duration::from_millis(100);
        let db = builder(&disk).options(options).background(Background::Manual).open().expect("opens");
        let gate = Gate::default();
        let _opens = gate.opens_at_the_end();
        gate.close();
        let door = gate.clone();
        disk.set_hook(move |call| {
            if call.is(Op::Append, ".sst") {
                door.pass();
            }
            Ok(())
        });
        let put = |key: String| {
            let db = db.clone();
            move || db.put(key, [b'x'; 100]).map_err(|error| error.kind())
        };
        let many = {
            let db = db.clone();
            move || (0..200).try_for_each(|i| db.put(format!("{i:05}"), [b'x'; 100]).map(drop))
        };
        // Whoever needs space runs the flush itself and is parked in it. Another one must be told.
        let _parked = start("puts", many);
        gate.await_parked();
        assert_eq!(start("another put", put("other".to_owned())).join(), Err(ErrorKind::Busy));
    });
}

#[test]
fn merging_a_range_beside_failures_that_are_mended_never_panics() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let mut options = tiny();
        options.reserve_bytes_max = 0;
        options.stall_timeout = Duration::from_millis(100);
        let db = builder(&disk).options(options).open().expect("opens");
        let is_over = Arc::new(AtomicBool::new(false));
        let merge = || {
            let (db, is_over) = (db.clone(), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::SeqCst) {
                    // Whether writing is off right now is luck.
                    drop(db.compact_range(db.default_keyspace(), ..));
                }
            }
        };
        let merging: Vec<_> = (0..4).map(|_| start("merging", merge())).collect();
        let is_full = Arc::new(AtomicBool::new(false));
        let full = Arc::clone(&is_full);
        disk.set_hook(move |call| {
            if call.is(Op::Append, ".wal") && call.len > 1000 && full.load(Ordering::SeqCst) {
                let error = Error::new(ErrorKind::NoSpace, "full").with_operation("append");
                return Err(error.with_file(call.path));
            }
            Ok(())
        });
        for round in 0..400 {
            for number in 0..20 {
                let key = format!("{:04}", (round * 20 + number) % 500);
                drop(db.default_keyspace().put_with(key, [b'x'; 100], WriteOptions::os()));
            }
            is_full.store(true, Ordering::SeqCst);
            drop(db.put("big", [b'x'; 1200]));
            is_full.store(false, Ordering::SeqCst);
            drop(db.resume());
        }
        is_over.store(true, Ordering::SeqCst);
        merging.into_iter().for_each(|merging| merging.join());
        disk.clear_hook();
        db.resume().expect("there is space");
        // The background lives, and nothing is left claimed.
        make_merge_due(&db);
        db.wait_idle().expect("a sound disk");
        assert!(comes_true(|| level0_files(&db) < 2), "merges stopped");
    });
}

#[test]
fn failing_jobs_of_a_new_keyspace_can_be_asked_for_at_once() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let db = builder(&disk).background(Background::Manual).open().expect("opens");
        let is_over = Arc::new(AtomicBool::new(false));
        let look = || {
            let (db, is_over) = (db.clone(), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::SeqCst) {
                    drop(db.background_errors());
                }
            }
        };
        let looking: Vec<_> = (0..4).map(|_| start("looking", look())).collect();
        for count in 0..300 {
            let keyspace = db.create_keyspace(&format!("k{count}"), tiny_keyspace()).expect("creates");
            for _ in 0..2 {
                keyspace.put_with("k", "v", WriteOptions::none()).expect("writes");
                db.flush().expect("flushes");
            }
            disk.set_hook(|call| match call.is(Op::Create, ".sst") {
                true => Err(Error::new(ErrorKind::Io, "no").with_file(call.path)),
                false => Ok(()),
            });
            while db.background_step().is_ok_and(|has_run| has_run) {}
            disk.clear_hook();
        }
        is_over.store(true, Ordering::SeqCst);
        looking.into_iter().for_each(|looking| looking.join());
    });
}
