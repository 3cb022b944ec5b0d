//! Nothing is touched that is not ours: a directory that the process leaves, that is moved or taken over, a forked child.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tests move directories, fork, and look at the files that are left"
)]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{Model, contents, tiny, tiny_keyspace};
use fork::Fork;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use tempfile::TempDir;
use tinylsm::sync::{Condvar, Mutex, spawn};
use tinylsm::{Background, Db, DbBuilder, ErrorKind, KeyspaceOptions, Result, WriteOptions};
use watchdog::{CALL_MAX, ends, within};

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

/// Use in a forked child is an error, at once, and changes nothing for the parent.
#[test]
fn every_call_in_a_forked_child_is_refused_at_once() {
    const NAME: &str = "every_call_in_a_forked_child_is_refused_at_once";
    if let Some(place) = child::place_in_child(NAME) {
        let db = real(place.join("db")).open().expect("opens");
        let expected = fill(&db, "parent");
        let before = files_in(&place.join("db"));
        type Use = fn(&Db) -> String;
        let calls: [(&str, Use); 9] = [
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
