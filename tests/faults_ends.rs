//! How a database ends, whoever ends it and whatever happens meanwhile: closing, a directory that is moved or taken
//! over, a forked child, a panic, a wait that nobody would end.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tests move directories, fork, and look at the files that are left"
)]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{Model, contents, tiny};
use fork::Fork;
use hooked::{HookedVfs, Op};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering as Atomic};
use std::time::Duration;
use tempfile::TempDir;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Comparator, Db, DbBuilder, Error, ErrorKind, Keyspace, KeyspaceOptions, Options, Result,
    WriteOptions,
};
use watchdog::{CALL_MAX, CHANCE, Gate, Task, ends, ends_somehow, start, within};

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
    const ROUNDS: u32 = 2_000;
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
#[derive(Clone, Copy, Debug)]
enum CallersWork {
    Compact(Background),
    Flush,
    Step,
}

impl CallersWork {
    fn background(self) -> Background {
        match self {
            CallersWork::Compact(background) => background,
            CallersWork::Flush | CallersWork::Step => Background::Manual,
        }
    }

    fn run(self, db: &Db) -> Result<()> {
        match self {
            CallersWork::Compact(_) => db.compact_range(db.default_keyspace(), ..),
            CallersWork::Flush => db.flush(),
            CallersWork::Step => db.background_step().map(drop),
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
            options.default_keyspace.level0_compaction_trigger =
                if matches!(work, CallersWork::Step) { 2 } else { 10 };
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
            let callers = db.clone();
            let working = start("the caller's work", move || work.run(&callers));
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

/// Whoever waits for work of a database that another thread closes is told `Closed`, and does not wait for ever.
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
        let waits: [fn(&Db) -> Result<()>; 3] =
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
        let other = db.create_keyspace("other", tiny().default_keyspace).expect("creates");
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
                    move || snapshot.get(&other, "k").map(drop)
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

// ---- The directory ----

fn real(path: impl AsRef<Path>) -> DbBuilder {
    Db::builder(path).options(tiny())
}

/// Puts some keys that name their database, and returns them all.
fn fill(db: &Db, owner: &str) -> Model {
    for i in 0..20 {
        db.put(format!("{owner}{i:02}"), owner).expect("puts");
    }
    contents(db.default_keyspace())
}

/// Reads every file of a directory.
fn files_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("the directory is there");
    entries
        .map(|entry| {
            let entry = entry.expect("listed");
            let name = entry.file_name().into_string().expect("text");
            (name, fs::read(entry.path()).expect("readable"))
        })
        .collect()
}

/// A relative path names one directory, the one it named when the database was opened.
#[test]
fn a_relative_path_stays_the_directory_it_was_when_the_process_goes_elsewhere() {
    const NAME: &str = "a_relative_path_stays_the_directory_it_was_when_the_process_goes_elsewhere";
    if let Some(place) = child::place_in_child(NAME) {
        let db = real("db").open().expect("opens");
        fill(&db, "first");
        std::env::set_current_dir(place.join("elsewhere")).expect("goes there");
        ends("a flush", {
            let db = db.clone();
            move || db.flush()
        })
        .expect("flushes");
        fill(&db, "second");
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        db.wait_idle().expect("idle");
        db.put("last", "1").expect("puts");
        db.close().expect("closes");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    fs::create_dir(dir.path().join("elsewhere")).expect("creates");
    child::run(NAME, dir.path());
    assert!(files_in(&dir.path().join("elsewhere")).is_empty(), "files lie where the process went");
    let db = real(dir.path().join("db")).open().expect("opens");
    assert_eq!(contents(db.default_keyspace()).len(), 41);
    db.verify().expect("sound");
}

/// Two databases under one relative path, opened in two current directories, are two.
#[test]
fn two_databases_under_one_relative_path_keep_apart() {
    const NAME: &str = "two_databases_under_one_relative_path_keep_apart";
    const PLACES: [&str; 2] = ["one", "two"];
    if let Some(place) = child::place_in_child(NAME) {
        let mut dbs = Vec::new();
        for owner in PLACES {
            fs::create_dir(place.join(owner)).expect("creates");
            std::env::set_current_dir(place.join(owner)).expect("goes there");
            dbs.push((owner, real("db").open().expect("opens")));
        }
        for _ in 0..2 {
            for (owner, db) in &dbs {
                fill(db, owner);
                db.flush().expect("flushes");
            }
        }
        for (_, db) in dbs {
            db.close().expect("closes");
        }
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
    for owner in PLACES {
        let db = real(dir.path().join(owner).join("db")).open().expect("opens");
        let found = contents(db.default_keyspace());
        assert_eq!(found.len(), 20);
        assert!(found.values().all(|value| value == owner.as_bytes()), "keys of the other database");
        db.verify().expect("sound");
    }
}

/// What an operator does to an open database's directory.
#[derive(Clone, Copy, Debug)]
enum Meddling {
    /// Moves it away and makes another database in its place.
    Move,
    /// Removes it and makes another database in its place.
    Remove,
}

/// Whatever is done to the directory of an open database, its calls go on in that very directory or fail; they never
/// touch another database that has its name now.
#[test]
fn a_database_never_touches_another_one_that_was_put_in_its_place() {
    for meddling in [Meddling::Move, Meddling::Remove] {
        within(move || {
            let dir = TempDir::new().expect("a directory");
            let (place, away) = (dir.path().join("db"), dir.path().join("away"));
            let first = real(&place).background(Background::Manual).open().expect("opens");
            let mut acknowledged = fill(&first, "first");
            first.flush().expect("flushes");
            match meddling {
                Meddling::Move => fs::rename(&place, &away).expect("moves"),
                Meddling::Remove => fs::remove_dir_all(&place).expect("removes"),
            }
            let second = real(&place).background(Background::Manual).open().expect("opens");
            let seconds = fill(&second, "second");
            second.flush().expect("flushes");
            let before = files_in(&place);
            for i in 0..20 {
                let key = format!("first{i:02}");
                let is_acknowledged = first.put(&key, "again").is_ok();
                assert!(
                    !is_acknowledged || matches!(meddling, Meddling::Move),
                    "there is no directory to put it"
                );
                if is_acknowledged {
                    acknowledged.insert(key.into_bytes(), b"again".to_vec());
                }
            }
            let check = |doing: &str| {
                let after = files_in(&place);
                assert!(before == after, "{meddling:?}: {doing} of the first touched the second");
            };
            check("a put");
            // Each may end in an error; which one follows from how much the file system still allows.
            drop(first.flush());
            check("a flush");
            drop(first.compact_range(first.default_keyspace(), ..));
            check("a merge");
            drop(first.create_keyspace("more", tiny().default_keyspace));
            check("a new keyspace");
            drop(first.wait_idle());
            check("a removal");
            drop(first.close());
            check("closing");
            assert_eq!(contents(second.default_keyspace()), seconds);
            second.close().expect("closes");
            let second = real(&place).open().expect("opens");
            assert_eq!(contents(second.default_keyspace()), seconds);
            second.verify().expect("sound");
            if matches!(meddling, Meddling::Move) {
                let first = real(&away).open().expect("opens");
                assert_eq!(contents(first.default_keyspace()), acknowledged, "acknowledged and lost");
            }
        });
    }
}

/// A database whose lock file was removed does not know who else is there: it acknowledges and changes nothing more.
#[test]
fn a_database_whose_lock_was_taken_over_changes_nothing_more() {
    within(|| {
        let dir = TempDir::new().expect("a directory");
        let first = real(dir.path()).background(Background::Manual).open().expect("opens");
        fill(&first, "first");
        first.flush().expect("flushes");
        fill(&first, "more");
        fs::remove_file(dir.path().join("LOCK")).expect("removes");
        let second = real(dir.path()).background(Background::Manual).open().expect("nobody holds this lock");
        second.put("second", "1").expect("puts");
        second.flush().expect("flushes");
        second.wait_idle().expect("idle");
        let seconds = contents(second.default_keyspace());
        let before = files_in(dir.path());
        let refused = |what: &str, result: Result<()>| {
            assert!(result.is_err(), "{what} is acknowledged");
            assert!(before == files_in(dir.path()), "{what} changed a file");
        };
        refused("a put", first.put("first99", "1").map(drop));
        refused("a flush", first.flush());
        refused("a merge", first.compact_range(first.default_keyspace(), ..));
        refused("a new keyspace", first.create_keyspace("more", tiny().default_keyspace).map(drop));
        refused("closing", first.close());
        second.close().expect("closes");
        let second = real(dir.path()).open().expect("opens");
        assert_eq!(contents(second.default_keyspace()), seconds);
    });
}

// ---- Forked children ----

/// How the forked child and its parent talk.
struct Line(UnixStream);

impl Line {
    fn pair() -> (Line, Line) {
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        for end in [&one, &other] {
            end.set_read_timeout(Some(CALL_MAX)).expect("a timeout is allowed");
        }
        (Line(one), Line(other))
    }

    fn say(&mut self, text: &str) {
        let len = u8::try_from(text.len().min(255)).expect("at most 255");
        self.0.write_all(&[len]).expect("the other end lives");
        self.0.write_all(&text.as_bytes()[..usize::from(len)]).expect("the other end lives");
    }

    /// Returns what the other end says, or `None` if it dies or says nothing for too long.
    fn hear(&mut self) -> Option<String> {
        let mut len = [0];
        self.0.read_exact(&mut len).ok()?;
        let mut text = vec![0; usize::from(len[0])];
        self.0.read_exact(&mut text).ok()?;
        String::from_utf8(text).ok()
    }
}

/// Forks; the child does `body`, says what it returns, waits to be let go, and ends without unwinding.
fn fork_off(body: impl FnOnce() -> String) -> Line {
    let (ours, mut theirs) = Line::pair();
    match fork::fork().expect("a test machine has processes to give") {
        Fork::Parent(_) => {
            drop(theirs);
            ours
        }
        Fork::Child => {
            drop(ours);
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            theirs.say(&said.unwrap_or_else(|_| "a panic".to_owned()));
            theirs.hear();
            std::process::exit(0);
        }
    }
}

fn said_of<T>(result: Result<T>) -> String {
    result.map_or_else(|error| format!("refused: {error}"), |_| "done".to_owned())
}

/// Use in a forked child is an error, at once, and changes nothing for the parent.
#[test]
fn every_call_in_a_forked_child_is_refused_at_once() {
    const NAME: &str = "every_call_in_a_forked_child_is_refused_at_once";
    if let Some(place) = child::place_in_child(NAME) {
        let db = real(place.join("db")).open().expect("opens");
        let expected = fill(&db, "parent");
        let before = files_in(&place.join("db"));
        let calls: [(&str, fn(&Db) -> String); 9] = [
            ("put", |db| said_of(db.put("child", "1"))),
            ("put without durability", |db| {
                said_of(db.default_keyspace().put_with("child", "1", &WriteOptions::none()))
            }),
            ("get", |db| said_of(db.get("parent00"))),
            ("range", |db| said_of(db.range("a"..))),
            ("sync", |db| said_of(db.sync())),
            ("flush", |db| said_of(db.flush())),
            ("compact_range", |db| said_of(db.compact_range(db.default_keyspace(), ..))),
            ("create_keyspace", |db| said_of(db.create_keyspace("child", KeyspaceOptions::default()))),
            ("close", |db| said_of(db.clone().close())),
        ];
        for (what, call) in calls {
            let mut line = fork_off(|| call(&db));
            let said = line.hear().unwrap_or_else(|| "nothing".to_owned());
            line.say("go");
            assert!(said.starts_with("refused"), "a forked child's {what}: {said}");
            assert!(before == files_in(&place.join("db")), "a forked child's {what} changed a file");
        }
        assert_eq!(contents(db.default_keyspace()), expected);
        db.put("after", "1").expect("the parent goes on");
        db.close().expect("closes");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

/// Closing in the parent unlocks the directory, though a forked child still has its copies of everything.
#[test]
fn closing_unlocks_while_a_forked_child_lives() {
    const NAME: &str = "closing_unlocks_while_a_forked_child_lives";
    if let Some(place) = child::place_in_child(NAME) {
        let db = real(place.join("db")).open().expect("opens");
        db.put("k", "v").expect("puts");
        let mut line = fork_off(|| "born".to_owned());
        assert_eq!(line.hear().as_deref(), Some("born"));
        db.close().expect("closes");
        let db = real(place.join("db")).open().expect("the lock is free");
        assert_eq!(value_of(&db, "k").as_deref(), Some("v"));
        db.close().expect("closes");
        line.say("go");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

/// The end of a forked child, its handles dropped or not, neither panics nor waits nor unlocks the parent's directory.
#[test]
fn dropping_in_a_forked_child_does_nothing() {
    const NAME: &str = "dropping_in_a_forked_child_does_nothing";
    if let Some(place) = child::place_in_child(NAME) {
        let db = real(place.join("db")).open().expect("opens");
        fill(&db, "parent");
        let before = files_in(&place.join("db"));
        // Both processes have the handle; the child drops its own.
        let mut handle = Some(db.clone());
        let keeper = Some(db);
        let (mut ours, mut theirs) = Line::pair();
        if let Fork::Child = fork::fork().expect("a test machine has processes to give") {
            let dropped =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop((handle.take(), keeper))));
            theirs.say(if dropped.is_ok() { "done" } else { "a panic" });
            ours.hear();
            std::process::exit(0);
        }
        let said = ours.hear();
        assert_eq!(said.as_deref(), Some("done"), "dropping in a forked child");
        assert!(before == files_in(&place.join("db")), "a forked child changed a file");
        let refused = real(place.join("db")).open().map(drop).expect_err("the parent has it open");
        assert_eq!(refused.kind(), ErrorKind::Locked);
        let db = keeper.expect("the parent keeps it");
        db.put("after", "1").expect("the parent goes on");
        db.flush().expect("flushes");
        db.close().expect("the directory is the parent's");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

// ---- Panics ----

/// Orders like bytes, until it is told to panic.
#[derive(Default)]
struct Fragile {
    /// How many more comparisons go well; negative for ever.
    left: AtomicI64,
    /// Panics only on the engine's own threads.
    is_for_background: AtomicBool,
}

const PANIC: &str = "the comparator panics on purpose";

impl Fragile {
    fn sound() -> Arc<Fragile> {
        Arc::new(Fragile { left: AtomicI64::new(-1), is_for_background: AtomicBool::new(false) })
    }

    /// Lets every comparison after the next `count` panic.
    fn break_after(&self, count: i64) {
        self.left.store(count, Atomic::SeqCst);
    }

    fn mend(&self) {
        self.left.store(-1, Atomic::SeqCst);
    }
}

impl Comparator for Fragile {
    fn name(&self) -> &str {
        "test.fragile"
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        let is_background = || std::thread::current().name().is_some_and(|name| name.starts_with("tinylsm"));
        if self.left.load(Atomic::SeqCst) >= 0
            && (!self.is_for_background.load(Atomic::SeqCst) || is_background())
            && self.left.fetch_sub(1, Atomic::SeqCst) <= 0
        {
            self.left.store(0, Atomic::SeqCst);
            panic!("{PANIC}");
        }
        a.cmp(b)
    }
}

/// A database with a sound keyspace, the default one, and one whose order is fragile.
fn fragile(disk: &(impl Vfs + Clone), order: &Arc<Fragile>, background: Background) -> (Db, Keyspace) {
    let db = fragile_builder(disk, order, background).open().expect("opens");
    let options = KeyspaceOptions {
        comparator: order.name().to_owned(),
        level0_compaction_trigger: 10,
        ..tiny().default_keyspace
    };
    let keyspace = db.create_keyspace("fragile", options).expect("creates");
    for i in 0..20 {
        keyspace.put(format!("key{i:02}"), "v").expect("puts");
        db.put(format!("key{i:02}"), "v").expect("puts");
    }
    (db, keyspace)
}

fn fragile_builder(disk: &(impl Vfs + Clone), order: &Arc<Fragile>, background: Background) -> DbBuilder {
    let options = Options { memtable_bytes: 64 << 10, stall_timeout: Duration::from_millis(200), ..tiny() };
    builder(disk).options(options).comparator(Arc::clone(order) as Arc<dyn Comparator>).background(background)
}

/// Checks that a call met the comparator's panic and returned it as an error that says so.
#[track_caller]
fn check_contained<T>(what: &str, outcome: watchdog::Outcome<Result<T>>) {
    match outcome {
        Ok(Ok(_)) => panic!("{what} is done, though the comparator panicked"),
        Ok(Err(error)) => check_names_the_panic(what, &error),
        Err(text) => panic!("the panic got out of {what}: {text}"),
    }
}

#[track_caller]
fn check_names_the_panic(what: &str, error: &Error) {
    assert!(format!("{error:?}").contains(PANIC), "{what} does not say what panicked: {error:?}");
}

/// A panic in a comparator during a put is that put's error; every other writer, to any keyspace, is told something, and
/// reads go on.
#[test]
fn a_panic_in_a_put_is_its_error_and_nobody_waits_for_ever() {
    let disk = MemVfs::new();
    let order = Fragile::sound();
    let (db, keyspace) = fragile(&disk, &order, Background::Threads(2));
    order.break_after(0);
    let outcome = ends_somehow("the put", {
        let keyspace = keyspace.clone();
        move || keyspace.put("key05x", "new")
    });
    let later = [db.default_keyspace().clone(), keyspace.clone()]
        .map(|keyspace| start("a later put", move || keyspace.put("later", "1")));
    let later = later.map(Task::outcome);
    check_contained("the put", outcome);
    for outcome in later {
        // Whether writing goes on or is off until a reopen is the engine's to say; that it says so is not.
        assert!(outcome.is_ok(), "the panic got out of a later put: {outcome:?}");
    }
    check_names_the_panic("background_error", &db.background_error().expect("the panic is latched"));
    assert_eq!(value_of(&db, "key07").as_deref(), Some("v"));
    order.mend();
    ends("closing", move || db.close()).map_or_else(drop, drop);
    drop(keyspace);
    let db = fragile_builder(&disk, &order, Background::Threads(2)).open().expect("opens");
    assert_eq!(contents(&db.keyspace("fragile").expect("there")).get(&b"key05"[..]), Some(&b"v".to_vec()));
    db.put("more", "1").expect("a reopened database takes writes");
}

/// Writers that queue up behind one whose comparator panics are all answered.
#[test]
fn writers_behind_a_panic_are_all_answered() {
    within(|| {
        let order = Fragile::sound();
        let (db, keyspace) = fragile(&MemVfs::new(), &order, Background::Threads(2));
        order.break_after(30);
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let keyspaces = [db.default_keyspace().clone(), keyspace.clone()];
                start("a writer", move || {
                    for i in 0..10 {
                        drop(keyspaces[writer % 2].put(format!("w{writer}{i}"), "1"));
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = writers.into_iter().map(Task::outcome).collect();
        order.mend();
        for outcome in outcomes {
            outcome.expect("no panic gets out of a put");
        }
        assert_eq!(value_of(&db, "key07").as_deref(), Some("v"));
        ends("closing", move || db.close()).map_or_else(drop, drop);
    });
}

/// A panic on one of the engine's threads is an error that says what panicked, for whoever waits and for those who
/// look later; the rest goes on, and once the cause is gone so is the failure.
#[test]
fn a_panic_in_the_background_is_told_to_those_who_wait() {
    let order = Fragile::sound();
    let (db, keyspace) = fragile(&MemVfs::new(), &order, Background::Threads(2));
    order.is_for_background.store(true, Atomic::SeqCst);
    order.break_after(0);
    let outcome = ends_somehow("the flush", {
        let db = db.clone();
        move || db.flush()
    });
    check_contained("the flush", outcome);
    check_names_the_panic("background_error", &db.background_error().expect("the panic is latched"));
    assert_eq!(contents(&keyspace).len(), 20, "reads go on");
    ends("a put", {
        let db = db.clone();
        move || db.put("more", "1")
    })
    .expect("puts");
    order.mend();
    ends("resuming", {
        let db = db.clone();
        move || db.resume()
    })
    .expect("resumes");
    ends("a flush", {
        let db = db.clone();
        move || db.flush()
    })
    .expect("the cause is gone");
    drop(keyspace);
    ends("closing", move || db.close()).expect("closes");
}

/// A panic in a merge that a caller runs is that call's error, and leaves no claim behind that later merges or closing
/// would wait for.
#[test]
fn a_panic_in_a_callers_merge_leaves_no_claim_behind() {
    for background in [Background::Threads(2), Background::Manual] {
        within(move || {
            let disk = HookedVfs::over(MemVfs::new());
            let order = Fragile::sound();
            let (db, keyspace) = fragile(&disk, &order, background);
            for round in 0..2 {
                for i in 0..20 {
                    keyspace.put(format!("key{i:02}"), format!("{round}")).expect("puts");
                }
                db.flush().expect("flushes");
            }
            let expected = contents(&keyspace);
            // The merge has its claim and its inputs by the time it makes its first table.
            let breaking = Arc::clone(&order);
            disk.set_hook(move |call| {
                if call.is(Op::Create, ".sst") {
                    breaking.break_after(0);
                }
                Ok(())
            });
            let merge = {
                let (db, keyspace) = (db.clone(), keyspace.clone());
                move || db.compact_range(&keyspace, ..)
            };
            let outcome = ends_somehow("the merge", merge.clone());
            disk.clear_hook();
            order.mend();
            ends("the merge again", merge).expect("the comparator is sound again");
            check_contained("the merge", outcome);
            assert_eq!(contents(&keyspace), expected);
            drop(keyspace);
            ends("closing", move || db.close()).expect("closes");
        });
    }
}

/// A panic in a comparator during a read is that read's error; the next read goes on.
#[test]
fn a_panic_in_a_read_is_its_error() {
    let order = Fragile::sound();
    let (db, keyspace) = fragile(&MemVfs::new(), &order, Background::Manual);
    for is_flushed in [false, true] {
        if is_flushed {
            db.flush().expect("flushes");
        }
        let get = {
            let keyspace = keyspace.clone();
            move || keyspace.get("key11")
        };
        let scan = {
            let keyspace = keyspace.clone();
            move || keyspace.range("key03".."key09")?.collect::<Result<Vec<_>>>()
        };
        order.break_after(0);
        let outcomes = (ends_somehow("a get", get.clone()), ends_somehow("a scan", scan.clone()));
        order.mend();
        assert_eq!(get().expect("reads").as_deref(), Some(&b"v"[..]));
        assert_eq!(scan().expect("reads").len(), 6);
        check_contained("a get", outcomes.0);
        check_contained("a scan", outcomes.1);
    }
}

/// A panic while a database is opened is an error of opening; the directory is not left locked.
#[test]
fn a_panic_while_opening_is_an_error_and_leaves_no_lock() {
    let disk = MemVfs::new();
    let order = Fragile::sound();
    drop(fragile(&disk, &order, Background::Manual));
    for is_read_only in [false, true] {
        order.break_after(5);
        let opener = fragile_builder(&disk, &order, Background::Manual);
        let outcome = ends_somehow("opening", move || {
            if is_read_only { opener.open_read_only().map(drop) } else { opener.open().map(drop) }
        });
        order.mend();
        let db = fragile_builder(&disk, &order, Background::Manual).open().expect("opens");
        assert_eq!(contents(&db.keyspace("fragile").expect("there")).len(), 20);
        drop(db);
        check_contained("opening", outcome);
    }
}

// ---- Waits ----

/// Checks that every blocking call on a database that takes no writes ends, and says why it did nothing.
fn check_waits_end(db: &Db, kind: ErrorKind) {
    let calls: [(&str, fn(&Db) -> Result<()>); 4] = [
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
            options.default_keyspace.level0_compaction_trigger = 1;
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
    let waits: [(&str, fn(&Db) -> Result<()>); 2] =
        [("flush", Db::flush), ("compact_range", |db| db.compact_range(db.default_keyspace(), ..))];
    for (what, wait) in waits {
        within(move || {
            let disk = HookedVfs::over(MemVfs::new());
            let options = Options { memtable_bytes: 2 << 10, sealed_memtables_max: 8, ..tiny() };
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
        let calls: [(&str, fn(&Db) -> Result<()>); 3] = [
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
