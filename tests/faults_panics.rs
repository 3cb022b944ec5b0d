//! A panic, in the engine's code or the caller's, is contained where it happened and told to whoever waits.
#![allow(clippy::disallowed_methods, reason = "the comparator asks which thread it runs on")]
#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]

mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{contents, keyspace_of, tiny, tiny_keyspace};
use hooked::{HookedVfs, Op};
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering as Atomic};
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Comparator, Db, DbBuilder, Error, Keyspace, KeyspaceOptions, Result, WriteBatch, WriteOptions,
};
use watchdog::{Task, ends, ends_somehow, start, within};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny())
}

fn value_of(db: &Db, key: &str) -> Option<String> {
    let value = db.get(key).expect("reads")?;
    Some(String::from_utf8(value.to_vec()).expect("text"))
}

/// Orders like bytes, until it is told to panic.
#[derive(Default)]
struct Fragile {
    /// How many more comparisons go well; negative forever.
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
    let options = tiny_keyspace().comparator(order.name()).level0_compaction_trigger(10);
    let keyspace = db.create_keyspace("fragile", options).expect("creates");
    for i in 0..20 {
        keyspace.put(format!("key{i:02}"), "v").expect("puts");
        db.put(format!("key{i:02}"), "v").expect("puts");
    }
    (db, keyspace)
}

fn fragile_builder(disk: &(impl Vfs + Clone), order: &Arc<Fragile>, background: Background) -> DbBuilder {
    let options = tiny().memtable_bytes(64 << 10).stall_timeout(Duration::from_secs(3));
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
    let text = error.to_string();
    assert!(text.contains(PANIC), "{what} does not say what panicked: {error:?}");
    let is_named = ["default", "fragile", "moody", "other"]
        .iter()
        .any(|name| text.contains(&format!("comparator of keyspace {name:?}")));
    assert!(is_named, "{what} does not say which keyspace: {error:?}");
    assert_eq!(text.matches("comparator of keyspace").count(), 1, "{what} says it more than once: {error:?}");
}

/// A panic names the keyspace by the name that it has now, and of several the one that it is of.
#[test]
fn a_panic_names_its_keyspace() {
    let disk = MemVfs::new();
    let order = Fragile::sound();
    let (db, keyspace) = fragile(&disk, &order, Background::Manual);
    let options = tiny_keyspace().comparator(order.name());
    let twin = db.create_keyspace("twin", options).expect("creates");
    twin.put("a", "1").and_then(|_| twin.put("b", "2")).expect("puts");
    let check = |what: &str, name: &str, call: &dyn Fn() -> Result<()>| {
        order.break_after(0);
        let error = call().expect_err("the comparator panicked");
        order.mend();
        let text = error.to_string();
        assert!(
            text.contains(&format!("the comparator of keyspace {name:?} says: {PANIC}")),
            "{what}: {text}"
        );
    };
    check("a get", "fragile", &|| keyspace.get("key05").map(drop));
    check("another's get", "twin", &|| twin.get("b").map(drop));
    db.rename_keyspace("fragile", "renamed").expect("renames");
    check("a get behind the new name", "renamed", &|| keyspace.get("key05").map(drop));
    check("a scan", "renamed", &|| keyspace.range("key03".."key09")?.try_for_each(|item| item.map(drop)));
    check("the measure of a range", "renamed", &|| keyspace.approximate_len_bytes("a".."z").map(drop));
    let mut batch = WriteBatch::new();
    batch.put(db.default_keyspace(), "k", "v").put(&twin, "c", "3").put(&keyspace, "key05x", "v");
    check("a batch over keyspaces", "twin", &|| db.write(&batch, WriteOptions::default()).map(drop));
    drop((keyspace, twin));
    drop(db);
    let opener = || fragile_builder(&disk, &order, Background::Manual).open();
    check("opening", "renamed", &|| opener().map(drop));
    opener().expect("it is mended").close().expect("closes");
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

/// A comparator's panic, wherever it happens in whichever call, is an error of that call or nobody's, and never a panic of
/// the caller's.
#[test]
fn a_comparators_panic_gets_out_of_no_call() {
    type Call = (&'static str, fn(&Db, &Keyspace) -> Result<()>);
    let calls: [Call; 15] = [
        ("put", |_, keyspace| keyspace.put("key05", "w").map(drop)),
        ("delete", |_, keyspace| keyspace.delete("key05").map(drop)),
        ("get", |_, keyspace| keyspace.get("key05").map(drop)),
        ("multi_get", |_, keyspace| keyspace.multi_get(&["key05", "key07"]).map(drop)),
        ("scan", |_, keyspace| keyspace.range("key03".."key09")?.try_for_each(|item| item.map(drop))),
        ("scan backwards", |_, keyspace| {
            keyspace.range("key03".."key09")?.rev().try_for_each(|item| item.map(drop))
        }),
        ("seek", |_, keyspace| keyspace.iter()?.seek("key07")),
        ("snapshot get", |db, keyspace| db.snapshot().keyspace(keyspace).get("key05").map(drop)),
        ("flush", |db, _| db.flush()),
        ("compact_range", |db, keyspace| db.compact_range(keyspace, "key02".."key08")),
        ("wait_idle", |db, _| db.wait_idle()),
        ("background_step", |db, _| db.background_step().map(drop)),
        ("verify", |db, _| db.verify().map(drop)),
        ("resume", |db, _| db.resume()),
        ("close", |db, _| db.clone().close()),
    ];
    for (what, call) in calls {
        within(move || {
            for count in 0.. {
                let order = Fragile::sound();
                let (db, keyspace) = fragile(&MemVfs::new(), &order, Background::Manual);
                for round in 0..2 {
                    for i in 0..6 {
                        keyspace.put(format!("key{i:02}"), format!("{round}")).expect("puts");
                    }
                    db.flush().expect("flushes");
                }
                keyspace.put("key04", "in memory").expect("puts");
                order.break_after(count);
                let (callers, of) = (db.clone(), keyspace.clone());
                let outcome = ends_somehow(what, move || call(&callers, &of));
                let has_panicked = order.left.load(Atomic::SeqCst) == 0;
                order.mend();
                let result =
                    outcome.unwrap_or_else(|text| panic!("the panic got out of {what}, {count}: {text}"));
                if let Err(error) = result {
                    assert!(has_panicked, "{what}: {error}");
                    check_names_the_panic(what, &error);
                }
                if !has_panicked || count > 300 {
                    break;
                }
            }
        });
    }
}

/// Orders like bytes, and panics in the one of its other answers that it is told to.
#[derive(Default)]
struct Moody {
    panics_in: AtomicU64,
}

/// What a comparator gives besides an order.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Name = 1,
    SortPrefix = 2,
    Separator = 3,
}

impl Moody {
    fn break_in(&self, answer: Answer) {
        self.panics_in.store(answer as u64, Atomic::SeqCst);
    }

    fn mend(&self) {
        self.panics_in.store(0, Atomic::SeqCst);
    }

    fn check(&self, answer: Answer) {
        assert!(self.panics_in.load(Atomic::SeqCst) != answer as u64, "{PANIC}");
    }
}

impl Comparator for Moody {
    fn name(&self) -> &str {
        self.check(Answer::Name);
        "test.moody"
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        a.cmp(b)
    }

    fn sort_prefix(&self, _key: &[u8]) -> u128 {
        self.check(Answer::SortPrefix);
        0
    }

    fn separator(&self, a: &[u8], _b: &[u8], out: &mut Vec<u8>) {
        self.check(Answer::Separator);
        out.extend_from_slice(a);
    }
}

/// A database with a keyspace of a moody order, and the options of one.
fn moody() -> (Arc<Moody>, Db, Keyspace, KeyspaceOptions) {
    let order = Arc::new(Moody::default());
    let comparator = Arc::clone(&order) as Arc<dyn Comparator>;
    let db = builder(&MemVfs::new()).background(Background::Manual).comparator(comparator).open();
    let db = db.expect("opens");
    let options = tiny_keyspace().comparator(order.name().to_owned());
    let keyspace = db.create_keyspace("moody", options.clone()).expect("creates");
    for i in 0..60 {
        keyspace.put(format!("key{i:02}"), [7; 100]).expect("puts");
    }
    (order, db, keyspace, options)
}

/// A panic in whatever else a comparator answers is an error of the call as well, or nobody's.
#[test]
fn a_panic_in_any_of_a_comparators_answers_gets_out_of_no_call() {
    type Call = (&'static str, fn(&Db, &Keyspace, KeyspaceOptions) -> Result<()>);
    let calls: [Call; 17] = [
        ("create_keyspace", |db, _, options| db.create_keyspace("other", options).map(drop)),
        ("get", |_, keyspace, _| keyspace.get("key00").map(drop)),
        ("scan", |_, keyspace, _| keyspace.range("a".."z")?.try_for_each(|item| item.map(drop))),
        ("prefix", |_, keyspace, _| {
            // Refused, since the order is not that of bytes.
            drop(keyspace.prefix("key0"));
            Ok(())
        }),
        ("seek", |_, keyspace, _| keyspace.iter()?.seek("key")),
        ("put", |_, keyspace, _| keyspace.put("key", "v").map(drop)),
        ("delete", |_, keyspace, _| keyspace.delete("key00").map(drop)),
        ("flush", |db, _, _| db.flush()),
        ("compact_range", |db, keyspace, _| db.compact_range(keyspace, ..)),
        ("wait_idle", |db, _, _| db.wait_idle()),
        ("background_step", |db, _, _| db.background_step().map(drop)),
        ("verify", |db, _, _| db.verify().map(drop)),
        ("resume", |db, _, _| db.resume()),
        ("stats", |db, _, _| {
            drop(db.stats());
            Ok(())
        }),
        ("background_errors", |db, _, _| {
            drop(db.background_errors());
            Ok(())
        }),
        ("formatting", |db, keyspace, _| {
            drop(format!("{db:?} {keyspace:?} {:?}", keyspace.options()));
            Ok(())
        }),
        ("close", |db, _, _| db.clone().close()),
    ];
    let mut has_met = [false; 3];
    for answer in [Answer::Name, Answer::SortPrefix, Answer::Separator] {
        for (what, call) in calls {
            let (order, db, keyspace, options) = moody();
            order.break_in(answer);
            let outcome = ends_somehow(what, {
                let (db, keyspace) = (db.clone(), keyspace.clone());
                move || call(&db, &keyspace, options)
            });
            order.mend();
            let result =
                outcome.unwrap_or_else(|text| panic!("the panic in {answer:?} got out of {what}: {text}"));
            if let Err(error) = result {
                has_met[answer as usize - 1] = true;
                check_names_the_panic(what, &error);
            }
        }
    }
    assert_eq!(has_met, [true; 3], "each panic is met by some call");
}

/// A flush or a merge that meets a panic, at whichever comparison, is done when it is asked for again, and leaves no file
/// behind that belongs to nobody.
#[test]
fn a_panic_anywhere_in_a_flush_or_a_merge_leaves_no_file_behind() {
    type Work = (&'static str, fn(&Db, &Keyspace) -> Result<()>);
    let works: [Work; 2] =
        [("flush", |db, _| db.flush()), ("compact_range", |db, keyspace| db.compact_range(keyspace, ..))];
    for (what, work) in works {
        within(move || {
            for count in 0.. {
                let disk = MemVfs::new();
                let order = Fragile::sound();
                let (db, keyspace) = fragile(&disk, &order, Background::Manual);
                for round in 0..2 {
                    db.flush().expect("flushes");
                    for i in 0..20 {
                        keyspace.put(format!("key{i:02}{round}"), [round; 40]).expect("puts");
                    }
                }
                order.break_after(count);
                let done = work(&db, &keyspace);
                let has_panicked = order.left.load(Atomic::SeqCst) == 0;
                order.mend();
                assert!(has_panicked || done.is_ok(), "{what}: {done:?}");
                work(&db, &keyspace).unwrap_or_else(|error| panic!("{what} again, {count}: {error:?}"));
                db.wait_idle().unwrap_or_else(|error| panic!("after {what}, {count}: {error:?}"));
                let stray = stray_files(&disk, &db);
                assert!(stray.is_empty(), "{what}, comparison {count}: {stray:?} belong to nobody");
                assert_eq!(contents(&keyspace).len(), 60);
                if !has_panicked {
                    break;
                }
            }
        });
    }
}

/// Returns the files in the directory that the database does not know.
fn stray_files(disk: &MemVfs, db: &Db) -> Vec<String> {
    let live = db.stats().live_files;
    let name = |path: &std::path::PathBuf| path.file_name().expect("a file").to_string_lossy().into_owned();
    disk.files().iter().map(name).filter(|name| !live.contains(name)).collect()
}

/// Orders like bytes, and panics at one key, a little after it has said so.
#[derive(Default)]
struct Telling {
    is_armed: AtomicBool,
    is_panicking: AtomicBool,
    /// How long it waits then, in turns of a loop.
    turns_count: AtomicU64,
}

const PANIC_KEY: &str = "panics";

impl Comparator for Telling {
    fn name(&self) -> &str {
        "test.telling"
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        if self.is_armed.load(Atomic::SeqCst) && [a, b].contains(&PANIC_KEY.as_bytes()) {
            self.is_panicking.store(true, Atomic::SeqCst);
            for _ in 0..self.turns_count.load(Atomic::SeqCst) {
                std::hint::spin_loop();
            }
            panic!("{PANIC}");
        }
        a.cmp(b)
    }
}

/// Lets a batch panic when half of it is applied while another thread runs `work`, again and again, each time at another
/// moment of the panic; checks that the database opens, and that the batch is there as a whole or not at all.
fn race_a_panic_in_a_commit(what: &'static str, work: fn(Db) -> Result<()>) {
    for trial in 0..150 {
        let order = Arc::new(Telling::default());
        order.turns_count.store(trial % 40 * 20, Atomic::SeqCst);
        let disk = MemVfs::new();
        let mut options = tiny().reserve_bytes_max(0).memtable_bytes(64 << 10);
        keyspace_of(&mut options).comparator = order.name().to_owned();
        let open = || {
            let builder = builder(&disk).options(options.clone()).background(Background::Manual);
            builder.comparator(Arc::clone(&order) as Arc<dyn Comparator>).open()
        };
        let db = open().expect("opens");
        for i in 0..400 {
            db.put(format!("key{i:03}"), [7; 100]).expect("puts");
        }
        let racing = start(what, {
            let (db, order) = (db.clone(), Arc::clone(&order));
            move || {
                while !order.is_panicking.load(Atomic::SeqCst) {
                    std::hint::spin_loop();
                }
                work(db)
            }
        });
        let mut batch = WriteBatch::new();
        batch.put(db.default_keyspace(), "half", "1");
        batch.put(db.default_keyspace(), PANIC_KEY, "2");
        order.is_armed.store(true, Atomic::SeqCst);
        let written = db.write(&batch, WriteOptions::default());
        order.is_armed.store(false, Atomic::SeqCst);
        let raced = racing.join();
        check_names_the_panic("the write", &written.expect_err("the comparator panicked"));
        drop(db);
        let db = open().unwrap_or_else(|error| panic!("trial {trial}: {what} gave {raced:?}: {error:?}"));
        let found = || ["half", PANIC_KEY].map(|key| value_of(&db, key).is_some());
        let found_at_first = found();
        db.put("more", "1").expect("a reopened database takes writes");
        for [half, rest] in [found_at_first, found()] {
            assert_eq!(half, rest, "trial {trial}: half of a batch is there; {what} gave {raced:?}");
        }
    }
}

/// Nothing is flushed between a panic in a commit and the end of writing: half a batch would be in a table.
#[test]
fn a_flush_beside_a_panic_in_a_commit_makes_no_half_batch_durable() {
    within(|| race_a_panic_in_a_commit("a flush", |db| db.flush()));
}

/// Nor does closing.
#[test]
fn a_close_beside_a_panic_in_a_commit_makes_no_half_batch_durable() {
    within(|| race_a_panic_in_a_commit("closing", Db::close));
}
