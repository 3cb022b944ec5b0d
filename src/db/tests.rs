use super::*;
use crate::base::comparator::{Comparator, ReverseBytewise};
use crate::db::options::Background;
use crate::vfs::Vfs;
use std::collections::BTreeMap;

fn tiny() -> Options {
    let keyspace = KeyspaceOptions {
        block_bytes: 128,
        level0_compaction_trigger: 2,
        level_base_bytes: 8 << 10,
        level_multiplier: 2,
        table_bytes: 2 << 10,
        ..KeyspaceOptions::default()
    };
    Options {
        memtable_bytes: 4 << 10,
        wal_preallocate_bytes: 2 << 10,
        manifest_roll_bytes: 1 << 10,
        block_cache_bytes: 16 << 10,
        default_keyspace: Some(keyspace),
        ..Options::default()
    }
}

fn open(disk: &Arc<MemVfs>, background: &Background) -> Db {
    Db::builder("/db").vfs(disk.clone()).options(tiny()).background(background.clone()).open().expect("opens")
}

fn contents(db: &Db) -> BTreeMap<Vec<u8>, Vec<u8>> {
    db.iter()
        .expect("open")
        .map(|item| item.expect("readable"))
        .map(|(k, v)| (k.to_vec(), v.to_vec()))
        .collect()
}

fn backwards(db: &Db) -> Vec<Vec<u8>> {
    db.iter().expect("open").rev().map(|item| item.expect("readable").0.to_vec()).collect()
}

fn fill_and_check(background: &Background) {
    let disk = Arc::new(MemVfs::new());
    let mut model = BTreeMap::new();
    for round in 0..6u32 {
        let db = open(&disk, background);
        assert_eq!(contents(&db), model, "round {round}");
        for i in 0..400u32 {
            let key = format!("key{:04}", (i * 37 + round * 11) % 500).into_bytes();
            if (i + round) % 5 == 0 {
                db.delete(&key).expect("deletes");
                model.remove(&key);
            } else {
                let value = format!("value {round} {i} {}", "x".repeat(i as usize % 60)).into_bytes();
                db.put(&key, &value).expect("puts");
                model.insert(key, value);
            }
        }
        assert_eq!(contents(&db), model, "round {round}");
        let mut keys: Vec<_> = model.keys().cloned().collect();
        keys.reverse();
        assert_eq!(backwards(&db), keys);
        db.wait_idle().expect("idle");
        assert_eq!(contents(&db), model, "round {round}, after compaction");
        db.verify().expect("sound");
        let listed: Vec<String> =
            disk.read_dir(Path::new("/db")).expect("lists").into_iter().map(|entry| entry.name).collect();
        assert_eq!(listed, db.stats().live_files);
        if round % 2 == 0 {
            db.close().expect("closes");
        }
    }
    let db = open(&disk, background);
    assert!(db.stats().keyspaces[0].levels.iter().filter(|level| level.files > 0).count() >= 2);
}

#[test]
fn data_survive_reopening_flush_and_compaction() {
    fill_and_check(&Background::Threads(2));
}

#[test]
fn a_manual_database_does_its_own_background_work() {
    fill_and_check(&Background::Manual);
}

#[test]
fn a_batch_covers_keyspaces_and_a_snapshot_sees_it_whole() {
    let db = Db::open_in_memory().expect("opens");
    let reverse =
        KeyspaceOptions { comparator: ReverseBytewise.name().to_owned(), ..KeyspaceOptions::default() };
    let other = db.create_keyspace("other", reverse).expect("creates");
    let before = db.snapshot();
    let mut batch = WriteBatch::new();
    batch.put(db.default_keyspace(), "a", "1");
    batch.put(&other, "a", "2");
    batch.put(&other, "b", "3");
    let seq = db.write(&batch, WriteOptions::none()).expect("writes");
    assert_eq!(seq.get(), 3);
    db.flush().expect("flushes");
    assert_eq!(before.keyspace(&other).get("a").expect("reads"), None);
    let keys: Vec<_> = other.iter().expect("open").map(|item| item.expect("readable").0).collect();
    assert_eq!(keys, [Slice::from(&b"b"[..]), Slice::from(&b"a"[..])]);
    assert!(other.prefix("a").is_err());
    assert_eq!(
        db.create_keyspace("other", KeyspaceOptions::default()).map(|_| ()).expect_err("taken").kind(),
        ErrorKind::AlreadyExists
    );
}

#[test]
fn both_ends_of_an_iterator_meet() {
    let db = Db::open_in_memory().expect("opens");
    for i in 0..10u8 {
        db.put([i], [i]).expect("puts");
    }
    let mut iter = db.range([2u8]..=[7u8]).expect("open");
    let mut seen = Vec::new();
    while let Some(item) = if seen.len() % 2 == 0 { iter.next() } else { iter.next_back() } {
        seen.push(item.expect("readable").0[0]);
    }
    assert_eq!(seen, [2, 7, 3, 6, 4, 5]);
    assert!(iter.next().is_none() && iter.next_back().is_none());
    let mut iter = db.iter().expect("open");
    iter.seek([5u8]).expect("seeks");
    assert_eq!(iter.next().expect("there").expect("readable").0[0], 5);
    iter.seek([1u8]).expect("seeks");
    assert_eq!(iter.next().expect("there").expect("readable").0[0], 1);
}

#[test]
fn a_reader_changes_no_byte_and_sees_unflushed_data() {
    let disk = Arc::new(MemVfs::new());
    let db = open(&disk, &Background::Manual);
    db.put("a", "1").expect("puts");
    let options = WriteOptions::os();
    db.default_keyspace().put_with("b", "2", options).expect("puts");
    drop(db);
    let before = disk.fork();
    let reader = Db::builder("/db").vfs(disk.clone()).open_read_only().expect("opens");
    assert_eq!(reader.get("b").expect("reads").as_deref(), Some(&b"2"[..]));
    assert_eq!(reader.put("c", "3").expect_err("refuses").kind(), ErrorKind::ReadOnly);
    drop(reader);
    for entry in disk.read_dir(Path::new("/db")).expect("lists") {
        let path = Path::new("/db").join(&entry.name);
        assert_eq!(disk.read(&path).expect("reads"), before.read(&path).expect("reads"), "{}", entry.name);
    }
}

#[test]
fn a_snapshot_that_goes_while_a_keyspace_is_emptied_takes_nothing_along() {
    let db = Db::open_in_memory().expect("opens");
    db.put("k", "v").expect("puts");
    let (core, id) = (db.core(), db.default_keyspace().id());
    let older = db.snapshot();
    // As far as a clear has come when its number is not visible yet.
    let seq = db.last_seq().plus(1);
    core.change_state(&mut core.book.lock(), |state| state.clear_keyspace(id, seq, 4 << 10));
    drop(older);
    assert!(db.contains_key("k").expect("reads"));
    let before = db.snapshot();
    core.view.publish(seq);
    core.forget_past();
    assert!(before.contains_key("k").expect("reads") && !db.contains_key("k").expect("reads"));
    drop(before);
    assert!(!core.view.state().has_past());
}
