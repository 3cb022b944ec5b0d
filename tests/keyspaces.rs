//! Keyspaces made, opened, renamed, dropped and emptied, with whoever uses them meanwhile, over reopenings.

mod common;

use common::{Model, contents, tiny, tiny_keyspace};
use std::sync::Arc;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Db, Durability, Error, ErrorKind, Keyspace, KeyspaceOptions, ReverseBytewise, WriteBatch,
};

fn open(disk: &Arc<MemVfs>) -> Db {
    let builder = Db::builder("/db").vfs(disk.clone()).options(tiny()).background(Background::Manual);
    builder.comparator(Arc::new(ReverseBytewise)).open().expect("opens")
}

/// Runs what is due, and returns the names of the tables that are left.
fn settle(db: &Db, disk: &MemVfs) -> Vec<String> {
    while db.background_step().expect("nothing fails") {}
    db.wait_idle().expect("comes to rest");
    let names = disk.files().into_iter().map(|path| path.file_name().expect("a file").to_owned());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".sst")).collect()
}

fn fill(keyspace: &Keyspace, count: usize, value: &str) {
    for i in 0..count {
        let value = format!("{value} {i} {}", "x".repeat(60));
        keyspace.put_with(format!("key{i:03}"), value, Durability::None).expect("puts");
    }
}

fn check_dropped<T>(result: Result<T, Error>, what: &str) {
    let error = result.map(drop).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Closed, "{what}: {error}");
    assert!(error.to_string().contains("dropped"), "{what}: {error}");
}

#[test]
fn a_program_opens_its_keyspace_again_and_again() {
    let disk = Arc::new(MemVfs::new());
    for visit in 0..3u64 {
        let db = open(&disk);
        let keyspace = db.open_keyspace("users", tiny_keyspace()).expect("there or made");
        assert_eq!(keyspace.len().expect("reads"), visit);
        keyspace.put(visit.to_string(), "here").expect("puts");
        let other = db.open_keyspace("users", tiny_keyspace().block_bytes(512)).expect("the same one");
        assert_eq!((other.options().block_bytes, other.len().expect("reads")), (128, visit + 1));
        let reverse = KeyspaceOptions::default().comparator("tinylsm.reverse-bytewise");
        let error = db.open_keyspace("users", reverse).map(drop).expect_err("in another order");
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        db.close().expect("closes");
    }
    let db = Db::builder("/db").vfs(disk).open_read_only().expect("opens");
    assert_eq!(db.open_keyspace("users", tiny_keyspace()).expect("is there").len().expect("reads"), 3);
    let error = db.open_keyspace("others", tiny_keyspace()).map(drop).expect_err("cannot be made");
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
}

#[test]
fn a_dropped_keyspace_is_gone_for_everybody_and_for_good() {
    let disk = Arc::new(MemVfs::new());
    let db = open(&disk);
    fill(db.default_keyspace(), 50, "stays");
    let keyspace = db.create_keyspace("old", tiny_keyspace()).expect("made");
    fill(&keyspace, 150, "goes");
    db.flush().expect("flushes");
    fill(&keyspace, 20, "goes from memory and log");
    let stays = contents(db.default_keyspace());
    let snapshot = db.snapshot();
    let mut iter = keyspace.iter().expect("open");
    iter.next().expect("there are some").expect("reads");
    let mut batch = WriteBatch::new();
    batch.put(db.default_keyspace(), "never", "written").put(&keyspace, "k", "v");
    db.drop_keyspace("old").expect("drops");
    check_dropped(keyspace.get("key001"), "get");
    check_dropped(keyspace.multi_get(&["key001"]), "multi_get");
    check_dropped(keyspace.iter(), "iter");
    check_dropped(keyspace.prefix("k"), "prefix");
    check_dropped(keyspace.len(), "len");
    check_dropped(keyspace.approximate_len_bytes(..), "approximate_len_bytes");
    check_dropped(keyspace.put("k", "v"), "put");
    check_dropped(keyspace.delete("k"), "delete");
    check_dropped(keyspace.clear(), "clear");
    check_dropped(db.compact_range(&keyspace, ..), "compact_range");
    check_dropped(db.write(&batch, Durability::Disk), "a batch");
    check_dropped(snapshot.keyspace(&keyspace).get("key001"), "get of a snapshot");
    check_dropped(snapshot.keyspace(&keyspace).iter(), "iter of a snapshot");
    check_dropped(iter.next().expect("tells why"), "a step");
    check_dropped(iter.seek("a"), "a seek");
    assert!(iter.next().is_none() && iter.error().is_some());
    assert_eq!((keyspace.name(), db.keyspaces()), ("old".to_owned(), vec!["default".to_owned()]));
    for name in ["old", "nowhere"] {
        let error = db.drop_keyspace(name).expect_err("is not there");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    let error = db.drop_keyspace("default").expect_err("has to be there");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    drop((iter, snapshot));
    let number_of = |db: &Db, name: &str| {
        let stats = db.stats().keyspaces.into_iter();
        stats.filter(|stats| stats.name == name).map(|stats| stats.id).next().expect("is there")
    };
    let mut numbers = vec![number_of(&db, "default"), 1];
    drop((keyspace, batch));
    let mut db = Some(db);
    for round in 0..5 {
        let current = db.take().unwrap_or_else(|| open(&disk));
        assert_eq!(contents(current.default_keyspace()), stays);
        let again = current.create_keyspace("old", tiny_keyspace()).expect("the name is free");
        assert_eq!(contents(&again), Model::new(), "round {round}");
        numbers.push(number_of(&current, "old"));
        fill(&again, 30, "goes too");
        current.drop_keyspace("old").expect("drops");
        if round > 1 {
            // The manifest is written anew meanwhile, and the numbers stay taken.
            settle(&current, &disk);
        }
        drop(again);
        if round % 2 == 0 {
            current.close().expect("closes");
        }
    }
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let db = open(&disk);
    assert_eq!((db.keyspaces().len(), contents(db.default_keyspace())), (1, stays));
}

#[test]
fn the_files_of_a_dropped_keyspace_go_once_nobody_reads_them() {
    let disk = Arc::new(MemVfs::new());
    let db = open(&disk);
    let keyspace = db.create_keyspace("old", tiny_keyspace()).expect("made");
    fill(&keyspace, 200, "goes");
    db.flush().expect("flushes");
    assert!(settle(&db, &disk).len() > 1);
    let iter = keyspace.iter().expect("open");
    db.drop_keyspace("old").expect("drops");
    assert!(!settle(&db, &disk).is_empty(), "an iterator keeps what it reads");
    drop(iter);
    assert_eq!(settle(&db, &disk), [""; 0]);
    assert_eq!(db.stats().live_files.iter().filter(|name| name.ends_with(".sst")).count(), 0);
}

/// A segment that held nothing else has numbers all the same, and recovery looks for every one of them.
#[test]
fn log_segments_of_a_dropped_keyspace_leave_no_hole_in_the_numbers() {
    for steps_count in 0..6 {
        let disk = Arc::new(MemVfs::new());
        let options = || tiny().sealed_memtables_max(8);
        let open = || {
            let builder = Db::builder("/db").vfs(disk.clone()).options(options());
            builder.background(Background::Manual).open().expect("opens")
        };
        let db = open();
        let keyspace = db.create_keyspace("old", tiny_keyspace()).expect("made");
        // Some segments of one, then some of the other.
        for target in [db.default_keyspace(), &keyspace, db.default_keyspace(), &keyspace] {
            fill(target, 60, "something");
        }
        assert!(db.stats().sealed_memtables > 4);
        db.drop_keyspace("old").expect("drops");
        let (stays, last_seq) = (contents(db.default_keyspace()), db.last_seq());
        drop((keyspace, db));
        for _ in 0..3 {
            let db = open();
            assert_eq!((contents(db.default_keyspace()), db.last_seq()), (stays.clone(), last_seq));
            for _ in 0..steps_count {
                db.background_step().expect("nothing fails");
            }
        }
    }
}

#[test]
fn a_renamed_keyspace_is_the_same_one() {
    let disk = Arc::new(MemVfs::new());
    let db = open(&disk);
    let keyspace = db.create_keyspace("old", tiny_keyspace()).expect("made");
    let other = db.create_keyspace("other", tiny_keyspace()).expect("made");
    fill(&keyspace, 60, "stays");
    let stays = contents(&keyspace);
    let mut iter = keyspace.iter().expect("open");
    db.rename_keyspace("old", "new").expect("renames");
    assert_eq!((keyspace.name(), contents(&keyspace)), ("new".to_owned(), stays.clone()));
    assert!(iter.next().expect("there are some").is_ok());
    drop(iter);
    let refused =
        [("old", "x"), ("new", "other"), ("new", "new"), ("default", "x"), ("new", ""), ("new", "default")];
    let kinds =
        refused.map(|(name, new_name)| db.rename_keyspace(name, new_name).expect_err("refused").kind());
    let (exists, invalid) = (ErrorKind::AlreadyExists, ErrorKind::InvalidArgument);
    assert_eq!(kinds, [ErrorKind::NotFound, exists, exists, invalid, invalid, exists]);
    db.drop_keyspace("other").expect("drops");
    check_dropped(other.get("k"), "get");
    db.rename_keyspace("new", "other").expect("free again");
    let old = db.create_keyspace("old", tiny_keyspace()).expect("free too");
    old.put("k", "v").expect("puts");
    drop((keyspace, other, old, db));
    let db = open(&disk);
    assert_eq!(db.keyspaces(), ["default", "other", "old"]);
    assert_eq!(contents(&db.keyspace("other").expect("is there")), stays);
    db.rename_keyspace("other", "again").expect("renames");
    db.drop_keyspace("again").expect("drops under the new name");
    drop(db);
    assert_eq!(open(&disk).keyspaces(), ["default", "old"]);
}

#[test]
fn a_cleared_keyspace_is_empty_at_once_and_snapshots_see_what_was_there() {
    let disk = Arc::new(MemVfs::new());
    let db = open(&disk);
    let keyspace = db.create_keyspace("cache", tiny_keyspace()).expect("made");
    fill(db.default_keyspace(), 40, "stays");
    let stays = contents(db.default_keyspace());
    let mut seen = Vec::new();
    for round in 0..3 {
        fill(&keyspace, 120, "in a table");
        db.flush().expect("flushes");
        fill(&keyspace, 30, &format!("in memory {round}"));
        seen.push((db.snapshot(), contents(&keyspace)));
        let iter = keyspace.iter().expect("open");
        let seq = keyspace.clear().expect("clears");
        assert_eq!(db.last_seq(), seq);
        assert_eq!((contents(&keyspace), keyspace.get("key001").expect("reads")), (Model::new(), None));
        assert_eq!(iter.count(), 120, "an iterator sees what was there");
        seen.push((db.snapshot(), Model::new()));
        for (snapshot, model) in &seen {
            let items = snapshot.keyspace(&keyspace).iter().expect("open").map(|item| item.expect("reads"));
            let found: Model = items.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            assert_eq!(&found, model, "round {round} at {:?}", snapshot.seq());
            let found = snapshot.keyspace(&keyspace).get("key007").expect("reads");
            assert_eq!(found.as_deref(), model.get(&b"key007"[..]).map(Vec::as_slice));
        }
        settle(&db, &disk);
    }
    // In no order: each keeps its own.
    for at in [2, 0, 1, 1, 0] {
        drop(seen.remove(at));
        let (snapshot, model) = seen.first().expect("one is left");
        let count = snapshot.keyspace(&keyspace).len().expect("reads");
        assert_eq!(count, model.len() as u64);
    }
    drop(seen);
    assert_eq!(contents(db.default_keyspace()), stays);
    let tables = settle(&db, &disk);
    let live = db.stats().live_files;
    assert!(tables.iter().all(|table| live.contains(table)), "nothing is left of it: {tables:?} {live:?}");
    assert_eq!(db.stats().keyspaces[1].levels.iter().map(|level| level.files).sum::<usize>(), 0);
    keyspace.put("", "after").expect("puts");
    drop((db, keyspace));
    for end in 0..3 {
        let db = open(&disk);
        let keyspace = db.keyspace("cache").expect("is there");
        assert_eq!(keyspace.len().expect("reads"), 1);
        assert_eq!(contents(db.default_keyspace()), stays);
        if end == 1 {
            db.flush().expect("flushes");
        }
        drop(keyspace);
        match end {
            0 => db.close().expect("closes"),
            _ => drop(db),
        }
    }
}

#[test]
fn clearing_again_and_again_keeps_numbers_in_order_and_the_default_keyspace_too() {
    let disk = Arc::new(MemVfs::new());
    for round in 0..6 {
        let db = open(&disk);
        let before = db.last_seq().get();
        for more in 1..=3 {
            assert_eq!(db.default_keyspace().clear().expect("clears").get(), before + more);
        }
        db.put("k", round.to_string()).expect("puts");
        assert_eq!(db.last_seq().get(), before + 4);
        db.verify().expect("sound");
        match round % 2 {
            0 => db.close().expect("closes"),
            _ => drop(db),
        }
        let db = open(&disk);
        assert_eq!((db.len().expect("reads"), db.last_seq().get()), (1, before + 4));
    }
}

/// The edit is the moment: a manifest that lost it, and the log behind it, has everything as before.
#[test]
fn a_log_that_lost_the_number_of_a_clear_is_damaged() {
    let disk = Arc::new(MemVfs::new());
    let db = open(&disk);
    db.put("k", "v").expect("puts");
    db.default_keyspace().clear().expect("clears");
    drop(db);
    let segments = disk.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "wal"));
    let last = segments.max().expect("there is a log");
    let bytes = disk.read(&last).expect("is there");
    let record = bytes.len() - bytes.iter().rev().take_while(|&&byte| byte == 0).count() - 1;
    disk.flip(&last, record as u64, 1).expect("is there");
    let error = Db::builder("/db").vfs(disk).options(tiny()).open().map(drop).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
}

/// A key that drops a keyspace when it is looked at.
struct DropsKeyspace<'a>(&'a Db);

impl AsRef<[u8]> for DropsKeyspace<'_> {
    fn as_ref(&self) -> &[u8] {
        drop(self.0.drop_keyspace("goes"));
        b"k"
    }
}

#[test]
fn one_multi_get_reads_one_state() {
    let db = open(&Arc::new(MemVfs::new()));
    let make = || {
        let keyspace = db.create_keyspace("goes", tiny_keyspace()).expect("made");
        keyspace.put("k", "v").expect("puts");
        keyspace
    };
    let check = |what: &str, answers: tinylsm::Result<Vec<Option<tinylsm::Slice>>>| {
        let answers = answers.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(answers.len() == 2 && answers.iter().all(Option::is_some), "{what}: {answers:?}");
        assert_eq!(db.keyspaces(), ["default"], "{what}");
    };
    let keys = [DropsKeyspace(&db), DropsKeyspace(&db)];
    check("of a keyspace", make().multi_get(&keys));
    let keyspace = make();
    check("of a snapshot", db.snapshot().keyspace(&keyspace).multi_get(&keys));
}

/// A keyspace goes by the name that it had last, though another one has its first name by now.
#[test]
fn a_dropped_keyspace_goes_by_its_last_name() {
    let db = Db::open_in_memory().expect("opens");
    let handle = db.create_keyspace("a", KeyspaceOptions::default()).expect("creates");
    let iter = handle.iter().expect("opens");
    db.rename_keyspace("a", "b").expect("renames");
    assert!(format!("{iter:?}").contains("\"b\""), "{iter:?}");
    let _other = db.create_keyspace("a", KeyspaceOptions::default()).expect("creates");
    db.drop_keyspace("b").expect("drops");
    assert_eq!(handle.name(), "b");
    let error = handle.get("k").expect_err("it was dropped").to_string();
    assert!(error.contains("keyspace \"b\" was dropped"), "{error}");
}
