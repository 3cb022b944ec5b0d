//! What one handle, group or keyspace does wrong, or has done to it, is nobody else's trouble.

mod common;
#[path = "common/faulty.rs"]
mod faulty;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{Model, contents, keyspace_of, tiny, tiny_keyspace};
use faulty::FaultyVfs;
use hooked::{HookedVfs, Op};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Comparator, Compression, Db, DbBuilder, Error, ErrorKind, Iter, Keyspace, KeyspaceOptions,
    Options, Result, ReverseBytewise, SeqNum, WriteOptions,
};
use watchdog::{CHANCE, Gate, ends, ends_somehow, start, within};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny())
}

// ---- Handles, public promises, options ----

/// A snapshot answers only for the database that it is of.
#[test]
fn a_snapshot_refuses_a_keyspace_of_another_database() {
    let (db, stranger) = (Db::open_in_memory().expect("opens"), Db::open_in_memory().expect("opens"));
    for i in 0..5 {
        db.put("k", format!("{i}")).expect("puts");
        stranger.put("k", "strange").expect("puts");
    }
    let snapshot = db.snapshot();
    let strange = stranger.default_keyspace();
    let answers: [(&str, Result<()>); 5] = [
        ("get", snapshot.keyspace(strange).get("k").map(drop)),
        ("multi_get", snapshot.keyspace(strange).multi_get(&["k"]).map(drop)),
        ("iter", snapshot.keyspace(strange).iter().map(drop)),
        ("range", snapshot.keyspace(strange).range("a"..).map(drop)),
        ("prefix", snapshot.keyspace(strange).prefix("k").map(drop)),
    ];
    for (what, answer) in answers {
        let error = answer.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
    }
    assert_eq!(snapshot.get("k").expect("reads").as_deref(), Some(&b"4"[..]));
}

fn entries_count(db: &Db) -> u64 {
    db.stats().keyspaces[0].levels.iter().map(|level| level.entries).sum()
}

/// After `compact_range`, deletes and old versions that no snapshot needs are gone, whatever the background was merging
/// when it was called.
#[test]
fn a_whole_compaction_leaves_no_delete_that_a_merge_of_the_background_kept() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let options = tiny().block_cache_bytes(0);
        let db = builder(&disk).options(options).open().expect("opens");
        for i in 0..10 {
            db.put(format!("key{i}"), "v").expect("puts");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        let snapshot = db.snapshot();
        for i in 0..10 {
            db.delete(format!("key{i}")).expect("deletes");
        }
        db.flush().expect("flushes");
        db.wait_idle().expect("idle");
        // The next merge of the background reads these tables, and keeps what the snapshot sees.
        let inputs = db.stats().live_files;
        let gate = Gate::default();
        let _opens = gate.opens_at_the_end();
        gate.close();
        let door = gate.clone();
        disk.set_hook(move |call| {
            let is_input = || inputs.iter().any(|name| call.path == Path::new("/db").join(name));
            if call.is(Op::Read, ".sst") && is_input() {
                door.pass();
            }
            Ok(())
        });
        // How much a merge takes to be due is not promised. Whether this much does, the database says itself: it is parked in
        // the merge, or nothing is due.
        let is_parked = (0..10).any(|_| {
            db.put("key5+", "v").expect("puts");
            db.flush().expect("flushes");
            let idle = {
                let db = db.clone();
                start("wait_idle", move || db.wait_idle())
            };
            let look = Duration::from_millis(5);
            while !gate.is_parked_within(look) && !idle.ends_within(look) {}
            gate.is_parked_within(Duration::ZERO)
        });
        assert!(is_parked, "no merge of the background reads these tables");
        drop(snapshot);
        let merging = {
            let db = db.clone();
            start("compact_range", move || db.compact_range(db.default_keyspace(), ..))
        };
        merging.ends_within(CHANCE);
        gate.open();
        merging.join().expect("merges");
        assert_eq!(entries_count(&db), 1, "of ten deletes and what they hide nothing is needed");
        assert_eq!(contents(db.default_keyspace()).len(), 1);
    });
}

/// An option is applied or refused: a default keyspace that exists is not taken for one with other options.
#[test]
fn other_options_for_an_existing_default_keyspace_are_applied_or_refused() {
    let changes: [fn(&mut KeyspaceOptions); 5] = [
        |options| options.comparator = ReverseBytewise.name().to_owned(),
        |options| options.block_bytes = 1024,
        |options| options.compression = Compression::None,
        |options| options.table_bytes = 1 << 20,
        |options| options.level0_compaction_trigger = 3,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let disk = MemVfs::new();
        let db = builder(&disk).open().expect("opens");
        for key in ["a", "b", "c"] {
            db.put(key, key).expect("puts");
        }
        db.close().expect("closes");
        let mut options = tiny();
        change(keyspace_of(&mut options));
        match builder(&disk).options(options.clone()).open() {
            Ok(db) => {
                assert_eq!(
                    db.default_keyspace().options(),
                    keyspace_of(&mut options),
                    "change {number} is ignored in silence"
                );
                let keys: Vec<_> = db.iter().expect("open").map(|item| item.expect("readable").0).collect();
                assert_eq!(keys, ["a", "b", "c"]);
            }
            Err(error) => {
                let kinds = [ErrorKind::InvalidArgument, ErrorKind::Incompatible];
                assert!(kinds.contains(&error.kind()), "{error:?}");
            }
        }
        let db = builder(&disk).open().expect("the options it was made with are always right");
        assert_eq!(contents(db.default_keyspace()).len(), 3);
    }
}

// ---- Failed groups ----

const BIG_LEN: usize = (1 << 20) + (64 << 10);

/// A database without preallocation on a disk that can fill up, with space in memory for large records.
fn on_a_filling_disk() -> (FaultyVfs, HookedVfs, Db) {
    let faulty = FaultyVfs::new();
    let disk = HookedVfs::over(faulty.clone());
    let db = reopened(&disk);
    (faulty, disk, db)
}

fn reopened(disk: &HookedVfs) -> Db {
    let options = tiny().wal_preallocate_bytes(0).memtable_bytes(32 << 20);
    builder(disk).options(options).background(Background::Manual).open().expect("opens")
}

/// Commits a small record and, as one group behind it, two records that each go to the system at once; the disk is
/// full within the second. Tells the small one's number, if it came to that group.
fn fail_half_a_group(faulty: &FaultyVfs, disk: &HookedVfs, db: &Db) -> Option<SeqNum> {
    let gate = Gate::default();
    let _opens = gate.opens_at_the_end();
    gate.close();
    let door = gate.clone();
    disk.set_hook(move |call| {
        if call.is(Op::Append, ".wal") {
            door.pass();
        }
        Ok(())
    });
    let leader = {
        let db = db.clone();
        start("the leader", move || db.put("leader", "1"))
    };
    gate.await_parked();
    let followers = ["big one", "big two"].map(|key| {
        let db = db.clone();
        start(key, move || db.put(key, vec![b'b'; BIG_LEN]))
    });
    for follower in &followers {
        follower.ends_within(CHANCE);
    }
    faulty.set_free(BIG_LEN as u64 * 3 / 2);
    gate.open();
    let seq = leader.join().expect("there is space for the small one");
    let outcomes = followers.map(watchdog::Task::join);
    disk.clear_hook();
    let is_one_group = outcomes.iter().all(Result::is_err);
    if is_one_group {
        for outcome in outcomes {
            let error = outcome.expect_err("just seen");
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        }
        assert_eq!(db.last_seq(), seq, "a failed group has no number");
    }
    faulty.set_free(1 << 30);
    is_one_group.then_some(seq)
}

/// As [`fail_half_a_group`], on new disks until it comes to that group.
fn with_half_a_group(prepare: fn(&Db)) -> (HookedVfs, Db, SeqNum) {
    for _ in 0..20 {
        let (faulty, disk, db) = on_a_filling_disk();
        prepare(&db);
        if let Some(seq) = fail_half_a_group(&faulty, &disk, &db) {
            return (disk, db, seq);
        }
    }
    panic!("two writers never came into one group");
}

/// A group that was logged in part and failed leaves log, numbers and memory as they were at its start: after `resume`
/// writing goes on with the next number, and nothing of the group is ever seen.
#[test]
fn a_group_that_was_logged_in_part_leaves_nothing_behind_when_writing_is_resumed() {
    within(|| {
        let (disk, db, seq) = with_half_a_group(|_| ());
        let is_unseen = |db: &Db, when: &str| {
            for key in ["big one", "big two"] {
                assert!(db.get(key).expect("reads").is_none(), "{key} failed and is seen {when}");
            }
        };
        is_unseen(&db, "at once");
        ends("resume", {
            let db = db.clone();
            move || db.resume()
        })
        .expect("there is space again");
        let put = |key: &'static str| {
            let db = db.clone();
            ends_somehow(key, move || db.put(key, "1")).expect("no panic").expect("puts")
        };
        assert_eq!(put("after").get(), seq.get() + 1, "numbers go on where they were");
        assert_eq!(put("later").get(), seq.get() + 2);
        is_unseen(&db, "after resume");
        let expected = contents(db.default_keyspace());
        assert_eq!(expected.len(), 3);
        drop(db);
        let db = reopened(&disk);
        is_unseen(&db, "after a reopen");
        assert_eq!(contents(db.default_keyspace()), expected);
        assert_eq!(db.last_seq().get(), seq.get() + 2);
        ends("closing", move || db.close()).expect("closes");
    });
}

/// Commits that wait in memory for a stronger write survive a failed group and `resume`: they are still seen, and the
/// next stronger write takes them along.
#[test]
fn commits_held_back_in_memory_survive_a_failed_group_and_resume() {
    fn hold_back(db: &Db) {
        db.default_keyspace().put_with("held", "1", WriteOptions::none()).expect("puts");
    }
    within(|| {
        // Once held back in front of a group that fails at once, once in front of one that was logged in part.
        for is_half_logged in [false, true] {
            let (disk, db) = if is_half_logged {
                let (disk, db, _) = with_half_a_group(hold_back);
                (disk, db)
            } else {
                let (faulty, disk, db) = on_a_filling_disk();
                db.put("leader", "1").expect("puts");
                hold_back(&db);
                faulty.set_free(20);
                let error = db.put("lost", vec![b'x'; 100]).expect_err("the disk is full");
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
                faulty.set_free(1 << 30);
                (disk, db)
            };
            assert!(db.get("held").expect("reads").is_some(), "committed and gone");
            ends("resume", {
                let db = db.clone();
                move || db.resume()
            })
            .expect("nothing is lost");
            assert!(db.get("held").expect("reads").is_some(), "committed and gone after resume");
            ends("a put", {
                let db = db.clone();
                move || db.put("after", "1")
            })
            .expect("puts");
            let expected = contents(db.default_keyspace());
            assert_eq!(expected.len(), 3, "leader, held, after");
            drop(db);
            let db = reopened(&disk);
            assert_eq!(
                contents(db.default_keyspace()),
                expected,
                "a stronger write takes along what was held back"
            );
        }
    });
}

// ---- Damage ----

const STOP: usize = 6;

fn damaged_options() -> Options {
    let mut options = tiny();
    options.memtable_bytes = 2 << 10;
    options.level0_slowdown = STOP - 1;
    options.level0_stop = STOP;
    options.stall_timeout = Duration::from_secs(3);
    options.block_cache_bytes = 0;
    options
}

/// A database with a table of keyspace `bad` in which a byte of its first block is changed.
struct Damaged {
    disk: MemVfs,
    db: Db,
    bad: Keyspace,
    good: Keyspace,
    table: PathBuf,
}

impl Damaged {
    fn new(background: Background) -> Damaged {
        let disk = MemVfs::new();
        let db =
            builder(&disk).options(damaged_options()).background(Background::Manual).open().expect("opens");
        let bad = db.create_keyspace("bad", tiny_keyspace()).expect("creates");
        db.create_keyspace("good", tiny_keyspace()).expect("creates");
        for i in 0..30 {
            bad.put(format!("key{i:02}"), "v".repeat(20)).expect("puts");
        }
        db.flush().expect("flushes");
        db.wait_idle().expect("idle");
        let tables: Vec<String> =
            db.stats().live_files.into_iter().filter(|name| name.ends_with(".sst")).collect();
        assert_eq!(tables.len(), 1);
        let table = Path::new("/db").join(&tables[0]);
        drop(bad);
        db.close().expect("closes");
        disk.flip(&table, 10, 0x20).expect("the byte is there");
        let db = builder(&disk).options(damaged_options()).background(background).open().expect("opens");
        let [bad, good] = ["bad", "good"].map(|name| db.keyspace(name).expect("there"));
        Damaged { disk, db, bad, good, table }
    }

    #[track_caller]
    fn check_names_the_damage(&self, what: &str, error: Option<Error>) {
        let error = error.unwrap_or_else(|| panic!("{what} says nothing of the damage"));
        assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error:?}");
        assert_eq!(error.file(), Some(&*self.table), "{what}: {error:?}");
    }

    /// Makes a merge of the damaged table due and lets it fail.
    fn let_the_merge_fail(&self) {
        for _ in 0..2 {
            self.bad.put("key00", "w").expect("puts");
            self.db.flush().map_or_else(drop, drop);
        }
        for _ in 0..20 {
            if self.db.background_step().is_err() {
                return;
            }
        }
        panic!("no merge meets the damage");
    }
}

/// A keyspace whose merges fail for good does not stop the others: they take writes far beyond every stall limit, are
/// flushed and merged, and read right.
#[test]
fn a_damaged_keyspace_does_not_stop_writes_to_the_others() {
    for background in [Background::Threads(2), Background::Manual] {
        within(move || {
            let ground = Damaged::new(background.clone());
            let mut expected = Model::new();
            let mut is_bad_written = true;
            for round in 0..8 * STOP {
                // Whether the damaged keyspace itself still takes writes is not promised.
                is_bad_written = is_bad_written && ground.bad.put("key00", format!("{round}")).is_ok();
                for i in 0..12 {
                    let (key, value) = (format!("key{i:02}"), format!("{round}{}", "x".repeat(100)));
                    for keyspace in [&ground.good, ground.db.default_keyspace()] {
                        keyspace.put(&key, &value).unwrap_or_else(|error| {
                            panic!("{background:?}, round {round}: {keyspace:?} takes no writes: {error:?}")
                        });
                    }
                    expected.insert(key.into_bytes(), value.into_bytes());
                }
            }
            for keyspace in [&ground.good, ground.db.default_keyspace()] {
                assert_eq!(contents(keyspace), expected);
            }
            let db = ground.db.clone();
            ends("flush", move || db.flush()).expect("a flush does not wait behind failing merges");
            let db = ground.db.clone();
            drop(ends("wait_idle", move || db.wait_idle()));
            ground.check_names_the_damage("background_error", ground.db.background_error());
            let error = ground.bad.get("key01").expect_err("its block is damaged");
            ground.check_names_the_damage("get", Some(error));
            let last = ground.bad.get("key29").expect("its block is sound");
            assert!(last.is_some());
            for keyspace in [&ground.good, ground.db.default_keyspace()] {
                let level0 = ground
                    .db
                    .stats()
                    .keyspaces
                    .iter()
                    .find(|each| each.name == keyspace.name())
                    .map_or(0, |each| each.levels[0].files);
                assert!(level0 < STOP, "{keyspace:?} is not merged: {level0} tables on level 0");
            }
            let Damaged { disk, db, bad, good, .. } = ground;
            drop((bad, good));
            ends("closing", move || db.close()).expect("closes");
            let db = builder(&disk).options(damaged_options()).open().expect("opens");
            assert_eq!(contents(&db.keyspace("good").expect("there")), expected);
        });
    }
}

/// A failure of the background is told until its own cause is gone, whatever else succeeds meanwhile.
#[test]
fn an_error_stays_visible_while_other_work_succeeds() {
    within(|| {
        let ground = Damaged::new(Background::Manual);
        ground.let_the_merge_fail();
        ground.check_names_the_damage("background_error", ground.db.background_error());
        for round in 0..4 {
            ground.good.put("k", format!("{round}")).expect("puts");
            ground.db.flush().expect("flushes");
            ground.check_names_the_damage("background_error after a flush", ground.db.background_error());
        }
        ground.db.compact_range(&ground.good, ..).expect("merges");
        ground.check_names_the_damage("background_error after a merge", ground.db.background_error());
        let error = ground.db.compact_range(&ground.bad, ..).expect_err("its input is damaged");
        ground.check_names_the_damage("compact_range", Some(error));
    });
}

/// Steps of a manual database do the work that can be done, though some cannot.
#[test]
fn steps_go_on_with_other_work_when_one_merge_fails() {
    within(|| {
        let ground = Damaged::new(Background::Manual);
        ground.let_the_merge_fail();
        for round in 0..3 * STOP {
            ground.good.put("k", format!("{round}")).expect("puts");
            ground.db.flush().expect("flushes");
        }
        for _ in 0..100 {
            if let Ok(false) = ground.db.background_step() {
                break;
            }
        }
        let stats = ground.db.stats();
        let good = stats.keyspaces.iter().find(|keyspace| keyspace.name == "good").expect("there");
        assert!(good.levels[0].files < 2, "its merges are due and not done: {:?}", good.levels);
        assert_eq!(stats.sealed_memtables, 0);
    });
}

fn rows(iter: Iter) -> (Vec<String>, Option<Error>) {
    split(iter)
}

fn rows_backward(iter: Iter) -> (Vec<String>, Option<Error>) {
    split(iter.rev())
}

/// Returns the keys that a scan gives before it fails, and how it fails.
fn split(items: impl Iterator<Item = <Iter as Iterator>::Item>) -> (Vec<String>, Option<Error>) {
    let mut keys = Vec::new();
    for item in items {
        match item {
            Ok((key, _)) => keys.push(String::from_utf8(key.to_vec()).expect("text")),
            Err(error) => return (keys, Some(error)),
        }
    }
    (keys, None)
}

/// A scan gives every row in front of a damaged block, from both ends, before it gives the error; ranges beside it are
/// read as ever.
#[test]
fn a_scan_gives_the_rows_in_front_of_the_damage_from_both_ends() {
    let disk = MemVfs::new();
    let options = || {
        let mut options = damaged_options();
        options.memtable_bytes = 1 << 20;
        options.level0_stop = 36;
        keyspace_of(&mut options).level0_compaction_trigger = 10;
        options
    };
    let manual = || builder(&disk).options(options()).background(Background::Manual).open().expect("opens");
    let db = manual();
    for i in 40..80 {
        db.put(format!("key{i}"), "older").expect("puts");
    }
    db.flush().expect("flushes");
    let table = db.stats().live_files.into_iter().find(|name| name.ends_with(".sst")).expect("one table");
    for i in 10..30 {
        db.put(format!("key{i}"), "newer").expect("puts");
    }
    db.flush().expect("flushes");
    let whole = split(db.iter().expect("open")).0;
    assert_eq!(whole.len(), 60);
    db.close().expect("closes");
    let table = Path::new("/db").join(table);
    disk.flip(&table, 10, 0x20).expect("the byte is there");
    let db = manual();
    let first_sound =
        (40..80).find(|i| db.get(format!("key{i}")).is_ok()).expect("only the first block is damaged");
    assert!(first_sound > 40, "the first block is damaged");
    let (keys, error) = rows(db.iter().expect("open"));
    assert_eq!(error.expect("the damage is met").file(), Some(&*table));
    assert_eq!(keys, whole[..20], "rows in front of the damaged table");
    let (keys, error) = rows_backward(db.iter().expect("open"));
    assert_eq!(error.expect("the damage is met").file(), Some(&*table));
    let behind: Vec<String> = (first_sound..80).rev().map(|i| format!("key{i}")).collect();
    assert_eq!(keys, behind, "rows behind the damaged block");
    let (keys, error) = rows(db.range("key10".."key30").expect("open"));
    assert!(error.is_none() && keys.len() == 20, "a range that the damaged table has nothing of: {error:?}");
    let (keys, error) = rows(db.range(format!("key{first_sound}")..).expect("open"));
    assert!(error.is_none() && keys.len() == 80 - first_sound, "a range behind the damaged block: {error:?}");
}
