//! Nothing is touched that is not ours: a directory that the process leaves, that is moved or taken over, a forked child.
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

use common::{Model, contents, tiny, tiny_keyspace};
use fork::Fork;
use hooked::{HookedVfs, Op};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tinylsm::sync::{Condvar, JoinHandle, Mutex, spawn};
use tinylsm::vfs::os::OsVfs;
use tinylsm::{
    Background, Cache, Db, DbBuilder, ErrorKind, Iter, Keyspace, KeyspaceOptions, Result, Runtime, Snapshot,
    WriteBatch, WriteOptions,
};
use watchdog::{CALL_MAX, Gate, ends, start, within};

fn value_of(db: &Db, key: &str) -> Option<String> {
    let value = db.get(key).expect("reads")?;
    Some(String::from_utf8(value.to_vec()).expect("text"))
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
            drop(first.create_keyspace("more", tiny_keyspace()));
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
        refused("a new keyspace", first.create_keyspace("more", tiny_keyspace()).map(drop));
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

/// Ends this process after a while, so that a forked child that hangs does not outlive the tests.
fn end_in_any_case() {
    let watch = || {
        let (mutex, nobody) = (Mutex::new(()), Condvar::new());
        for _ in 0..3 {
            nobody.wait_for(&mut mutex.lock(), CALL_MAX);
        }
        std::process::exit(3);
    };
    spawn("the end", watch).expect("a test machine has threads to give");
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
            end_in_any_case();
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

/// Handles that a parent has when it forks.
struct Handles {
    db: Db,
    keyspace: Keyspace,
    snapshot: Snapshot,
    iter: Iter,
}

impl Handles {
    fn of(db: &Db) -> Handles {
        let keyspace = db.default_keyspace().clone();
        let mut iter = keyspace.iter().expect("open");
        assert!(iter.next().is_some_and(|item| item.is_ok()), "there is something to read");
        Handles { db: db.clone(), keyspace, snapshot: db.snapshot(), iter }
    }
}

type Use = (&'static str, fn(&mut Handles) -> String);

/// Calls that are errors in a forked child.
const REFUSED: [Use; 33] = [
    ("put", |of| said_of(of.db.put("child", "1"))),
    ("put without durability", |of| said_of(of.keyspace.put_with("child", "1", WriteOptions::none()))),
    ("delete", |of| said_of(of.keyspace.delete("parent00"))),
    ("delete without durability", |of| said_of(of.keyspace.delete_with("parent00", WriteOptions::none()))),
    ("write", |of| {
        let mut batch = WriteBatch::new();
        batch.delete(&of.keyspace, "parent00");
        said_of(of.db.write(&batch, WriteOptions::default()))
    }),
    ("get", |of| said_of(of.db.get("parent00"))),
    ("multi_get", |of| said_of(of.db.multi_get(&["parent00"]))),
    ("iter", |of| said_of(of.db.iter())),
    ("range", |of| said_of(of.db.range("a".."z"))),
    ("prefix", |of| said_of(of.db.prefix("parent"))),
    ("get of a snapshot", |of| said_of(of.snapshot.keyspace(&of.keyspace).get("parent00"))),
    ("multi_get of a snapshot", |of| said_of(of.snapshot.keyspace(&of.keyspace).multi_get(&["parent00"]))),
    ("iter of a snapshot", |of| said_of(of.snapshot.keyspace(&of.keyspace).iter())),
    ("range of a snapshot", |of| said_of(of.snapshot.keyspace(&of.keyspace).range("a".."z"))),
    ("prefix of a snapshot", |of| said_of(of.snapshot.keyspace(&of.keyspace).prefix("parent"))),
    ("get of a snapshot of its own", |of| said_of(of.db.snapshot().keyspace(&of.keyspace).get("parent00"))),
    ("next", |of| said_of(of.iter.next().expect("not at its end"))),
    ("next_back", |of| said_of(of.iter.next_back().expect("not at its end"))),
    ("seek", |of| said_of(of.iter.seek("parent01"))),
    ("next and then error", |of| {
        let _ = of.iter.next();
        said_of(of.iter.error().cloned().map_or(Ok(()), Err))
    }),
    ("sync", |of| said_of(of.db.sync())),
    ("flush", |of| said_of(of.db.flush())),
    ("compact_range", |of| said_of(of.db.compact_range(&of.keyspace, ..))),
    ("wait_idle", |of| said_of(of.db.wait_idle())),
    ("background_step", |of| said_of(of.db.background_step())),
    ("background_error", |of| said_of(of.db.background_error().map_or(Ok(()), Err))),
    ("background_errors", |of| {
        let told = of.db.background_errors();
        said_of(told.into_iter().next().map_or(Ok(()), |told| Err(told.error)))
    }),
    ("resume", |of| said_of(of.db.resume())),
    ("verify", |of| said_of(of.db.verify())),
    ("keyspace", |of| said_of(of.db.keyspace("default"))),
    ("create_keyspace", |of| said_of(of.db.create_keyspace("child", KeyspaceOptions::default()))),
    ("close", |of| said_of(of.db.clone().close())),
    ("another opening", |of| said_of(Db::builder(of.db.path()).open())),
];

/// Calls that cannot fail, and answer in a forked child with what it has.
const ANSWERED: [Use; 8] = [
    ("stats", |of| {
        let stats = of.db.stats();
        let is_right =
            stats.last_seq.get() == 20 && stats.keyspaces.len() == 1 && stats.live_files.is_empty();
        if is_right { "done".to_owned() } else { format!("{stats:?}") }
    }),
    ("last_seq", |of| done_if(of.db.last_seq().get() == 20)),
    ("keyspaces", |of| done_if(of.db.keyspaces() == ["default"])),
    ("path", |of| done_if(of.db.path().ends_with("db"))),
    ("name and options", |of| {
        done_if(of.keyspace.name() == "default" && of.keyspace.options().block_bytes == 128)
    }),
    ("snapshot", |of| done_if(of.db.snapshot().seq() == of.snapshot.seq())),
    ("dropping an iterator", |of| {
        if let Ok(other) = of.keyspace.iter() {
            of.iter = other;
        }
        "done".to_owned()
    }),
    ("cloning and dropping", |of| {
        drop((of.db.clone(), of.keyspace.clone(), of.snapshot.clone()));
        "done".to_owned()
    }),
];

fn done_if(is_right: bool) -> String {
    if is_right { "done" } else { "another answer" }.to_owned()
}

/// Makes each call in a forked child of its own, which must answer.
fn check_calls(handles: &mut Handles) {
    for (calls, beginning) in [(&REFUSED[..], "refused"), (&ANSWERED[..], "done")] {
        for (what, call) in calls {
            let mut line = fork_off(|| call(handles));
            let said = line.hear().unwrap_or_else(|| "nothing".to_owned());
            line.say("go");
            assert!(said.starts_with(beginning), "a forked child's {what}: {said}");
        }
    }
}

/// Use in a forked child is an error, at once, and changes nothing for the parent.
#[test]
fn every_call_in_a_forked_child_is_refused_at_once() {
    const NAME: &str = "every_call_in_a_forked_child_is_refused_at_once";
    if let Some(place) = child::place_in_child(NAME) {
        let db = real(place.join("db")).open().expect("opens");
        let expected = fill(&db, "parent");
        db.wait_idle().expect("its own threads change nothing from here on");
        let before = files_in(&place.join("db"));
        check_calls(&mut Handles::of(&db));
        assert!(before == files_in(&place.join("db")), "a forked child changed a file");
        assert_eq!(contents(db.default_keyspace()), expected);
        db.put("after", "1").expect("the parent goes on");
        db.close().expect("closes");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

/// No call in a forked child waits for a lock that a thread of the parent held when it was forked: not for the leader's
/// and the manifest's, which are held over a sync, and not for the short ones.
#[test]
fn no_call_in_a_forked_child_waits_for_a_lock_of_its_parent() {
    const NAME: &str = "no_call_in_a_forked_child_waits_for_a_lock_of_its_parent";
    if let Some(place) = child::place_in_child(NAME) {
        let disk = HookedVfs::over(OsVfs::new());
        let builder = real(place.join("db")).vfs(Arc::new(disk.clone())).background(Background::Manual);
        let db = builder.open().expect("opens");
        fill(&db, "parent");
        let mut handles = Handles::of(&db);
        let (syncing, looking) = (Gate::default(), Gate::default());
        let _opens = [syncing.opens_at_the_end(), looking.opens_at_the_end()];
        syncing.close();
        let doors = [syncing.clone(), looking.clone()];
        disk.set_hook(move |call| {
            let is_manifest = call.path.to_string_lossy().contains("MANIFEST");
            match call.op {
                Op::Sync if is_manifest => doors[0].pass(),
                // The book is locked over a look at the clock.
                Op::Now => doors[1].pass(),
                _ => {}
            }
            Ok(())
        });
        let creator = db.clone();
        let creating = start("creating", move || creator.create_keyspace("new", tiny_keyspace()).map(drop));
        syncing.await_parked();
        looking.close();
        let stepper = db.clone();
        let stepping = start("a step", move || stepper.background_step().map(drop));
        looking.await_parked();
        check_calls(&mut handles);
        looking.open();
        syncing.open();
        creating.join().expect("creates");
        stepping.join().expect("steps");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

/// A forked child has no threads of a runtime that its parent made, and may find its cache half changed: opening a
/// database with either is an error at once, and with ones of its own it works.
#[test]
fn a_forked_child_opens_databases_with_a_runtime_and_a_cache_of_its_own_only() {
    const NAME: &str = "a_forked_child_opens_databases_with_a_runtime_and_a_cache_of_its_own_only";
    if let Some(place) = child::place_in_child(NAME) {
        let runtime = Runtime::new(2).expect("threads");
        let cache = Arc::new(Cache::new(1 << 20, 10));
        let use_it = |builder: DbBuilder| {
            let db = builder.open()?;
            db.put("k", "v")?;
            db.flush()?;
            db.wait_idle()?;
            db.close()
        };
        let own = place.join("own");
        let calls: [(&str, &str, &dyn Fn() -> String); 5] = [
            ("opening with the parent's runtime", "refused", &|| {
                said_of(use_it(real(place.join("a")).background(Background::Shared(runtime.clone()))))
            }),
            ("opening with the parent's cache", "refused", &|| {
                said_of(use_it(real(place.join("b")).cache(Arc::clone(&cache))))
            }),
            ("opening with the parent's cache for reading", "refused", &|| {
                said_of(real(place.join("b")).cache(Arc::clone(&cache)).open_read_only())
            }),
            ("opening with its own", "done", &|| {
                let runtime = Runtime::new(1).expect("threads");
                let cache = Arc::new(Cache::new(1 << 20, 10));
                said_of(use_it(real(&own).background(Background::Shared(runtime)).cache(cache)))
            }),
            ("looking and dropping", "done", &|| {
                cache.descriptors().close_idle();
                let counts = (runtime.threads_count(), cache.descriptors().stats().open_count);
                drop((runtime.clone(), Arc::clone(&cache)));
                done_if(counts == (2, 0))
            }),
        ];
        for (what, beginning, call) in calls {
            let mut line = fork_off(call);
            let said = line.hear().unwrap_or_else(|| "nothing".to_owned());
            line.say("go");
            assert!(said.starts_with(beginning), "a forked child's {what}: {said}");
        }
        assert!(!place.join("a").exists() && !place.join("b").exists(), "a refused opening makes nothing");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}

/// Threads that wait until they are let go.
#[derive(Default)]
struct Meeting {
    /// How many have come, and whether they may go.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Meeting {
    /// Starts threads that wait here, and returns when all do.
    fn gather(self: &Arc<Self>, count: usize) -> Vec<JoinHandle> {
        let expected_count = self.state.lock().0 + count;
        let threads = (0..count).map(|_| {
            let meeting = Arc::clone(self);
            spawn("a waiting thread", move || meeting.wait()).expect("a test machine has threads to give")
        });
        let threads = threads.collect();
        let mut state = self.state.lock();
        while state.0 < expected_count {
            self.changed.wait(&mut state);
        }
        threads
    }

    fn wait(&self) {
        let mut state = self.state.lock();
        state.0 += 1;
        self.changed.notify_all();
        while !state.1 {
            self.changed.wait(&mut state);
        }
    }

    fn let_go(&self, threads: Vec<JoinHandle>) {
        self.state.lock().1 = true;
        self.changed.notify_all();
        for thread in threads {
            assert!(thread.join(), "a waiting thread panicked");
        }
    }
}

/// A lock that threads of the parent wait at is free for a forked child's, and what they wait for wakes the child's own
/// threads, though these may get the memory of the stacks of those.
#[test]
fn threads_that_waited_at_a_fork_do_not_disturb_those_of_the_child() {
    const NAME: &str = "threads_that_waited_at_a_fork_do_not_disturb_those_of_the_child";
    const COUNT: usize = 4;
    if let Some(place) = child::place_in_child(NAME) {
        let here = Arc::new(Meeting::default());
        let parents = here.gather(COUNT);
        // Which stack each thread gets differs with those that are taken before.
        for elsewhere_count in 0..COUNT {
            let mut line = fork_off(|| {
                let elsewhere = Arc::new(Meeting::default());
                let others = elsewhere.gather(elsewhere_count);
                here.let_go(here.gather(COUNT));
                elsewhere.let_go(others);
                said_of(real(place.join("db")).open().and_then(Db::close))
            });
            let said = line.hear();
            assert_eq!(said.as_deref(), Some("done"), "threads of a forked child");
            line.say("go");
        }
        here.let_go(parents);
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
        db.wait_idle().expect("its own threads change nothing from here on");
        let before = files_in(&place.join("db"));
        let other = db.clone();
        let (mut ours, mut theirs) = Line::pair();
        if let Fork::Child = fork::fork().expect("a test machine has processes to give") {
            end_in_any_case();
            drop(ours);
            let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop((db, other))));
            theirs.say(if dropped.is_ok() { "done" } else { "a panic" });
            theirs.hear();
            std::process::exit(0);
        }
        drop(theirs);
        let said = ours.hear();
        assert_eq!(said.as_deref(), Some("done"), "dropping in a forked child");
        assert!(before == files_in(&place.join("db")), "a forked child changed a file");
        let refused = real(place.join("db")).open().map(drop).expect_err("the parent has it open");
        assert_eq!(refused.kind(), ErrorKind::Locked);
        db.put("after", "1").expect("the parent goes on");
        db.flush().expect("flushes");
        db.close().expect("the directory is the parent's");
        ours.say("go");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run(NAME, dir.path());
}
