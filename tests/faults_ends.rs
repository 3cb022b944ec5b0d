//! How a database ends: closing, by whom and how often ever, and waits that nobody would end.

#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]

mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{contents, keyspace_of, tiny, tiny_keyspace};
use hooked::{HookedVfs, Op};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering as Atomic};
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Cache, Db, DbBuilder, Error, ErrorKind, KeyspaceOptions, Result, WriteOptions};
use watchdog::{CALL_MAX, CHANCE, Gate, ends, start, within};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny())
}

fn open(disk: &(impl Vfs + Clone)) -> Db {
    builder(disk).open().expect("opens")
}

fn value_of(db: &Db, key: &str) -> Option<String> {
    let value = db.get(key).expect("reads")?;
    Some(String::from_utf8(value.to_vec()).expect("text"))
}

// ---- Closing ----

/// Closing happens once: of two that close at once one ends the database and the other is told `Closed` or waits;
/// nothing is written behind the freed lock, and what the next opener was told is durable stays.
#[test]
fn of_two_that_close_at_once_one_ends_the_database_and_the_next_opener_loses_nothing() {
    const ROUNDS: u32 = 400;
    within(|| {
        let disk = MemVfs::new();
        for round in 0..ROUNDS {
            let watched = HookedVfs::over(disk.clone());
            let db = builder(&watched).background(Background::Threads(1)).open().expect("opens");
            if round > 0 {
                assert_eq!(value_of(&db, "next"), Some((round - 1).to_string()), "acknowledged and lost");
            }
            db.put("k", "v").expect("puts");
            // Both come out of this within nanoseconds of each other.
            let ready_count = Arc::new(AtomicI64::new(0));
            let meet = move || {
                ready_count.fetch_add(1, Atomic::SeqCst);
                while ready_count.load(Atomic::SeqCst) < 2 {
                    std::hint::spin_loop();
                }
            };
            let other = start("closing", {
                let (db, meet) = (db.clone(), meet.clone());
                move || {
                    meet();
                    db.close()
                }
            });
            meet();
            let outcome = db.close();
            // Whichever of the two ended it: the directory is free for the next.
            let next = loop {
                match builder(&disk).background(Background::Manual).open() {
                    Ok(next) => break next,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Locked, "round {round}: {error}"),
                }
            };
            next.put("next", round.to_string()).expect("puts");
            let outcomes = [outcome, other.join()];
            assert_eq!(watched.late_calls(), [""; 0], "round {round}");
            let kinds = outcomes.map(|outcome| outcome.err().map(|error| error.kind()));
            let is_right = |kinds| kinds == [None, Some(ErrorKind::Closed)];
            assert!(
                is_right(kinds) || is_right([kinds[1], kinds[0]]),
                "one of them ends the database, once: {kinds:?} in round {round}"
            );
            next.close().expect("closes");
        }
    });
}

/// Work that a caller's own thread does in the directory.
#[derive(Clone, Debug)]
enum CallersWork {
    Compact(Background),
    Flush,
    Step,
}

impl CallersWork {
    fn background(&self) -> Background {
        match self {
            CallersWork::Compact(background) => background.clone(),
            CallersWork::Flush | CallersWork::Step => Background::Manual,
        }
    }

    fn run(&self, db: &Db) -> Result<()> {
        match self {
            CallersWork::Compact(_) => db.compact_range(db.default_keyspace(), ..),
            CallersWork::Flush => db.flush(),
            // Files are removed first.
            CallersWork::Step => {
                while db.background_step()? {}
                Ok(())
            }
        }
    }
}

/// The lock is freed only when nothing on any thread, a caller's included, can touch the directory any more.
#[test]
fn the_lock_stays_taken_while_a_callers_own_work_is_in_the_directory() {
    let works = [
        CallersWork::Compact(Background::Threads(2)),
        CallersWork::Compact(Background::Manual),
        CallersWork::Flush,
        CallersWork::Step,
    ];
    for work in works {
        within(move || {
            let disk = MemVfs::new();
            let watched = HookedVfs::over(disk.clone());
            let mut options = tiny();
            keyspace_of(&mut options).level0_compaction_trigger =
                if matches!(work, CallersWork::Step) { 2 } else { 10 };
            // So that the merge is the first job that is due.
            options.reserve_bytes_max = 0;
            let db = builder(&watched).options(options).background(work.background()).open().expect("opens");
            for round in 0..2 {
                for i in 0..10 {
                    db.put(format!("key{i}"), format!("{round}")).expect("puts");
                }
                if round == 0 || !matches!(work, CallersWork::Flush) {
                    db.flush().expect("flushes");
                }
            }
            let expected = contents(db.default_keyspace());
            let gate = Gate::default();
            let _opens = gate.opens_at_the_end();
            gate.close();
            let door = gate.clone();
            watched.set_hook(move |call| {
                if call.is(Op::Append, ".sst") {
                    door.pass();
                }
                Ok(())
            });
            let (callers, callers_work) = (db.clone(), work.clone());
            let working = start("the caller's work", move || callers_work.run(&callers));
            gate.await_parked();
            let closing = start("closing", move || db.close());
            closing.ends_within(CHANCE);
            assert!(!watched.is_released(), "{work:?}: the lock is free while the work appends to a table");
            gate.open();
            if let Err(error) = working.join() {
                assert_eq!(error.kind(), ErrorKind::Closed, "{work:?}: {error}");
            }
            closing.join().expect("closes");
            assert_eq!(watched.late_calls(), [""; 0], "{work:?}");
            let db = open(&disk);
            assert_eq!(contents(db.default_keyspace()), expected);
            db.verify().expect("sound");
        });
    }
}

/// Whoever waits for work of a database that another thread closes is told `Closed`, and does not wait forever.
#[test]
fn whoever_waits_while_the_database_is_closed_is_told() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let db = open(&disk);
        db.put("k", "v").expect("puts");
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
        let waits: [Wait; 3] =
            [Db::flush, Db::wait_idle, |db: &Db| db.compact_range(db.default_keyspace(), ..)];
        let waiters = waits.map(|wait| {
            let db = db.clone();
            start("waiting", move || wait(&db))
        });
        gate.await_parked();
        let closing = start("closing", move || db.close());
        closing.ends_within(CHANCE);
        gate.open();
        closing.join().expect("closes");
        for waiter in waiters {
            if let Err(error) = waiter.join() {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            }
        }
    });
}

/// After closing, every other handle gives `Closed` and changes nothing, though the directory is open again.
#[test]
fn old_handles_give_closed_and_change_nothing_when_the_database_is_open_again() {
    within(|| {
        let disk = MemVfs::new();
        let watched = HookedVfs::over(disk.clone());
        let db = open(&watched);
        let other = db.create_keyspace("other", tiny_keyspace()).expect("creates");
        db.put("k", "old").expect("puts");
        let snapshot = db.snapshot();
        let old = db.clone();
        db.close().expect("closes");
        let next = open(&disk);
        next.put("k", "new").expect("puts");
        type Use = Box<dyn Fn() -> Result<()>>;
        let uses: Vec<(&str, Use)> = vec![
            (
                "put",
                Box::new({
                    let other = other.clone();
                    move || other.put("k", "x").map(drop)
                }),
            ),
            (
                "delete",
                Box::new({
                    let old = old.clone();
                    move || old.delete("k").map(drop)
                }),
            ),
            (
                "get",
                Box::new({
                    let old = old.clone();
                    move || old.get("k").map(drop)
                }),
            ),
            (
                "range",
                Box::new({
                    let other = other.clone();
                    move || other.range(..).map(drop)
                }),
            ),
            (
                "snapshot",
                Box::new({
                    let other = other.clone();
                    move || snapshot.keyspace(&other).get("k").map(drop)
                }),
            ),
            (
                "sync",
                Box::new({
                    let old = old.clone();
                    move || old.sync()
                }),
            ),
            (
                "flush",
                Box::new({
                    let old = old.clone();
                    move || old.flush()
                }),
            ),
            (
                "compact",
                Box::new({
                    let old = old.clone();
                    move || old.compact_range(&other, ..)
                }),
            ),
            (
                "wait",
                Box::new({
                    let old = old.clone();
                    move || old.wait_idle()
                }),
            ),
            (
                "step",
                Box::new({
                    let old = old.clone();
                    move || old.background_step().map(drop)
                }),
            ),
            (
                "resume",
                Box::new({
                    let old = old.clone();
                    move || old.resume()
                }),
            ),
            (
                "verify",
                Box::new({
                    let old = old.clone();
                    move || old.verify().map(drop)
                }),
            ),
            (
                "keyspace",
                Box::new({
                    let old = old.clone();
                    move || old.keyspace("other").map(drop)
                }),
            ),
            (
                "create",
                Box::new({
                    let old = old.clone();
                    move || old.create_keyspace("third", KeyspaceOptions::default()).map(drop)
                }),
            ),
            ("close", Box::new(move || old.clone().close())),
        ];
        for (what, go) in uses {
            let error = go().expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Closed, "{what}: {error}");
        }
        assert_eq!(watched.late_calls(), [""; 0]);
        assert_eq!(value_of(&next, "k").as_deref(), Some("new"));
        next.close().expect("closes");
        assert_eq!(value_of(&open(&disk), "k").as_deref(), Some("new"));
    });
}

/// A handle's reads are refused from the moment when somebody closes, those of an iterator at its next step: it does not
/// read on in a directory that somebody else has.
#[test]
fn an_iterator_gives_closed_once_the_database_is_closed() {
    within(|| {
        let disk = MemVfs::new();
        let db = open(&disk);
        for round in 0..2 {
            for i in 0..10 {
                db.put(format!("key{i}"), format!("{round}")).expect("puts");
            }
            if round == 0 {
                db.flush().expect("flushes");
            }
        }
        let iter = || db.iter().expect("open");
        let [mut unused, mut front, mut back, mut sought, mut ended] =
            [iter(), iter(), iter(), iter(), iter()];
        assert!(front.next().is_some_and(|item| item.is_ok()));
        assert!(back.next_back().is_some_and(|item| item.is_ok()));
        assert_eq!(ended.by_ref().count(), 10);
        db.close().expect("closes");
        let next = open(&disk);
        next.compact_range(next.default_keyspace(), ..).expect("merges");
        let kind = |item: Option<Result<_>>| item.map(|item| item.map(drop).map_err(|error| error.kind()));
        for (what, item) in [
            ("the first step", unused.next()),
            ("a step", front.next()),
            ("a step backwards", back.next_back()),
        ] {
            assert_eq!(kind(item), Some(Err(ErrorKind::Closed)), "{what}");
        }
        assert_eq!(sought.seek("key3").map_err(|error| error.kind()), Err(ErrorKind::Closed));
        for mut iter in [unused, front, back, sought] {
            assert_eq!(iter.error().map(Error::kind), Some(ErrorKind::Closed));
            assert!(iter.next().is_none() && iter.next_back().is_none(), "it has ended");
        }
        assert!(ended.next().is_none() && ended.error().is_none(), "one that came to its end stays there");
    });
}

/// Closing does not wait for a read under way. That ends with what was there before the close, or with `Closed`; never
/// with damage that the next owner of the directory seems to have done, nor with what that one has written.
#[test]
fn a_read_under_way_while_the_database_is_closed_ends_with_the_old_value_or_closed() {
    for parked_at in [Op::Open, Op::Read] {
        within(move || {
            let inner = MemVfs::new();
            let disk = HookedVfs::over(inner.clone());
            // Neither blocks nor files are kept, so that each read asks the disk.
            let db = builder(&disk).cache(Arc::new(Cache::new(0, 0))).open().expect("opens");
            for i in 0..10 {
                db.put(format!("key{i}"), "old").expect("puts");
            }
            db.flush().expect("flushes");
            db.wait_idle().expect("idle");
            let gate = Gate::default();
            let _opens = gate.opens_at_the_end();
            gate.close();
            let door = gate.clone();
            disk.set_hook(move |call| {
                if call.is(parked_at, ".sst") {
                    door.pass();
                }
                Ok(())
            });
            let reader = db.clone();
            let reading =
                start("get", move || reader.get("key3").map(|value| value.map(|value| value.to_vec())));
            gate.await_parked();
            ends("closing", move || db.close()).expect("closes");
            let next = open(&inner);
            next.put("key3", "new").expect("puts");
            next.compact_range(next.default_keyspace(), ..).expect("merges");
            next.wait_idle().expect("idle");
            gate.open();
            match reading.join() {
                Ok(value) => assert_eq!(value.as_deref(), Some(&b"old"[..]), "parked at {parked_at:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "parked at {parked_at:?}: {error}"),
            }
            assert_eq!(disk.late_calls(), [""; 0]);
        });
    }
}

/// A long log is written to tables by closing, also if all of it was recovered and nothing was written since.
#[test]
fn closing_writes_a_long_recovered_log_to_tables() {
    let disk = MemVfs::new();
    let options = tiny().memtable_bytes(16 << 20).wal_preallocate_bytes(0);
    let open =
        || builder(&disk).options(options.clone()).background(Background::Manual).open().expect("opens");
    let db = open();
    for i in 0..500 {
        let key = format!("key{i:03}");
        // What no sync has covered is committed again by the next opening.
        db.default_keyspace().put_with(key, vec![b'x'; 1000], WriteOptions::os()).expect("puts");
    }
    drop(db);
    open().close().expect("closes");
    let files = disk.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "wal"));
    let log_len: usize = files.map(|path| disk.read(&path).expect("listed").len()).sum();
    assert!(log_len < 10 << 10, "a closed database has {log_len} bytes of log");
    assert_eq!(contents(open().default_keyspace()).len(), 500);
}

// ---- Waits ----

/// A call that may wait for work of the background.
type Wait = fn(&Db) -> Result<()>;

/// Checks that every blocking call on a database that takes no writes ends, and says why it did nothing.
fn check_waits_end(db: &Db, kind: ErrorKind) {
    let calls: [(&str, Wait); 4] = [
        ("flush", Db::flush),
        ("compact_range", |db| db.compact_range(db.default_keyspace(), ..)),
        ("sync", Db::sync),
        ("put", |db| db.put("k", "v").map(drop)),
    ];
    for (what, call) in calls {
        let db = db.clone();
        let error = ends(what, move || call(&db)).expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
    let waiting = db.clone();
    if let Err(error) = ends("wait_idle", move || waiting.wait_idle()) {
        assert_eq!(error.kind(), kind, "wait_idle: {error}");
    }
}

/// Every wait ends on a database that was opened read-only, whatever is due in it.
#[test]
fn no_call_waits_for_ever_on_a_read_only_database() {
    within(|| {
        for is_flushed in [false, true] {
            let disk = MemVfs::new();
            let mut options = tiny();
            keyspace_of(&mut options).level0_compaction_trigger = 1;
            let db = builder(&disk).options(options).background(Background::Manual).open().expect("opens");
            db.put("k", "v").expect("puts");
            if is_flushed {
                db.background_step().map(drop).expect("works");
                db.flush().expect("flushes");
                db.put("k", "w").expect("puts");
                db.flush().expect("flushes");
            }
            drop(db);
            for background in [Background::Threads(2), Background::Manual] {
                let db = builder(&disk).background(background).open_read_only().expect("opens");
                check_waits_end(&db, ErrorKind::ReadOnly);
            }
        }
    });
}

/// Every wait ends on a database whose writing was turned off by a failure.
#[test]
fn no_call_waits_for_ever_on_a_failed_database() {
    within(|| {
        for background in [Background::Threads(2), Background::Manual] {
            let disk = HookedVfs::over(MemVfs::new());
            let db = builder(&disk).background(background).open().expect("opens");
            db.put("k", "v").expect("puts");
            disk.set_hook(|call| {
                if call.is(Op::Sync, ".wal") {
                    return Err(Error::new(ErrorKind::Io, "the test's disk cannot sync"));
                }
                Ok(())
            });
            db.put("k", "w").expect_err("the sync fails");
            check_waits_end(&db, ErrorKind::ReadOnly);
        }
    });
}

/// A flush waits for what was in memory when it was called, not for what others write meanwhile.
#[test]
fn a_flush_waits_for_its_own_work_only() {
    let waits: [(&str, Wait); 2] =
        [("flush", Db::flush), ("compact_range", |db| db.compact_range(db.default_keyspace(), ..))];
    for (what, wait) in waits {
        within(move || {
            let disk = HookedVfs::over(MemVfs::new());
            let options = tiny().memtable_bytes(2 << 10).sealed_memtables_max(8);
            let db = builder(&disk).options(options).open().expect("opens");
            let (first, second) = (Gate::default(), Gate::default());
            let _opens = [first.opens_at_the_end(), second.opens_at_the_end()];
            first.close();
            second.close();
            let (doors, tables_count) = ([first.clone(), second.clone()], AtomicI64::new(0));
            disk.set_hook(move |call| {
                if call.is(Op::Create, ".sst") {
                    let is_first = tables_count.fetch_add(1, Atomic::SeqCst) == 0;
                    doors[usize::from(!is_first)].pass();
                }
                Ok(())
            });
            db.put("mine", "1").expect("puts");
            let waiter = db.clone();
            let waiting = start(what, move || wait(&waiter));
            first.await_parked();
            while db.stats().sealed_memtables < 2 {
                db.put("others", vec![b'x'; 500]).expect("puts");
            }
            first.open();
            second.await_parked();
            let has_ended = waiting.ends_within(CALL_MAX);
            second.open();
            assert!(has_ended, "{what} waits for what was written after it began");
            waiting.join().expect("done");
        });
    }
}

/// In a manual database too every wait ends, with the error of the work that it ran.
#[test]
fn a_wait_in_a_manual_database_ends_with_the_error_of_its_work() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let db = builder(&disk).background(Background::Manual).open().expect("opens");
        db.put("k", "v").expect("puts");
        disk.set_hook(|call| {
            if call.is(Op::Create, ".sst") {
                return Err(Error::new(ErrorKind::Io, "the test's disk makes no table"));
            }
            Ok(())
        });
        let calls: [(&str, Wait); 3] = [
            ("flush", Db::flush),
            ("wait_idle", Db::wait_idle),
            ("compact_range", |db| db.compact_range(db.default_keyspace(), ..)),
        ];
        for (what, call) in calls {
            let waiter = db.clone();
            let error = ends(what, move || call(&waiter)).expect_err(what);
            assert!(format!("{error:?}").contains("makes no table"), "{what}: {error:?}");
        }
        disk.clear_hook();
        ends("wait_idle", {
            let db = db.clone();
            move || db.wait_idle()
        })
        .expect("idle");
        ends("flush", {
            let db = db.clone();
            move || db.flush()
        })
        .expect("flushes");
        db.close().expect("closes");
    });
}
