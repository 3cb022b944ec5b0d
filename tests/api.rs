//! The public interface as an application uses it, on the real disk where that matters.

mod common;

use common::{Model, contents, tiny};
use std::sync::Arc;
use tempfile::TempDir;
use tinylsm::sync::{Mutex, spawn};
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Db, Durability, Iter, WriteBatch, WriteOptions};

fn numbered(count: u32) -> Db {
    let db = Db::builder("/db").vfs(Arc::new(MemVfs::new())).options(tiny()).open().expect("opens");
    for i in 0..count {
        db.put(format!("key{i:03}"), format!("value {i}")).expect("puts");
    }
    db
}

fn keys(iter: impl Iterator<Item = <Iter as Iterator>::Item>) -> Vec<String> {
    let keys = iter.map(|item| item.expect("readable").0.to_vec());
    keys.map(|key| String::from_utf8(key).expect("text")).collect()
}

#[test]
fn every_durability_is_seen_at_once_and_kept_by_a_good_end() {
    let dir = TempDir::new().expect("a directory");
    let db = Db::open(dir.path()).expect("opens");
    let keyspace = db.default_keyspace().clone();
    keyspace.put_with("none", "1", &WriteOptions::none()).expect("puts");
    keyspace.put_with("os", "2", &WriteOptions::os()).expect("puts");
    keyspace.put_with("gone", "3", &WriteOptions::none()).expect("puts");
    keyspace.delete_with("gone", &WriteOptions::disk()).expect("deletes");
    let late = WriteOptions { durability: Some(Durability::None) };
    keyspace.put_with("late", "4", &late).expect("puts");
    assert_eq!(db.last_seq().get(), 5);
    let found = contents(&keyspace);
    assert_eq!(found.len(), 3);
    db.sync().expect("syncs");
    keyspace.put_with("latest", "5", &late).expect("puts");
    drop(keyspace);
    db.close().expect("closes");
    let db = Db::open(dir.path()).expect("opens");
    assert_eq!(contents(db.default_keyspace()).len(), found.len() + 1);
    assert_eq!(db.last_seq().get(), 6);
}

#[test]
fn a_snapshot_stays_frozen_through_flush_and_compaction() {
    let db = numbered(100);
    let frozen = contents(db.default_keyspace());
    let snapshot = db.snapshot();
    let read = |snapshot: &tinylsm::Snapshot| -> Model {
        let items = snapshot.iter(db.default_keyspace()).expect("open").map(|item| item.expect("readable"));
        items.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    };
    for round in 0..3 {
        for i in 0..100 {
            let key = format!("key{i:03}");
            if i % 3 == round {
                db.delete(&key).expect("deletes");
            } else {
                db.put(&key, format!("new {round}")).expect("puts");
            }
        }
        db.flush().expect("flushes");
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        assert_eq!(read(&snapshot), frozen);
    }
    assert_eq!(
        snapshot.get(db.default_keyspace(), "key002").expect("reads").as_deref(),
        Some(&b"value 2"[..])
    );
    assert_eq!(db.get("key002").expect("reads"), None);
    let few = snapshot.multi_get(db.default_keyspace(), &["key000", "nothing"]).expect("reads");
    assert_eq!((few[0].as_deref(), few[1].as_deref()), (Some(&b"value 0"[..]), None));
    assert_eq!(keys(snapshot.prefix(db.default_keyspace(), "key09").expect("open")).len(), 10);
    assert!(snapshot.seq() < db.last_seq());
    drop(snapshot);
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    assert!(contents(db.default_keyspace()).len() < 100);
}

#[test]
fn what_a_snapshot_kept_on_the_deepest_level_goes_when_asked_after_it() {
    let db = numbered(100);
    let snapshot = db.snapshot();
    for i in 0..100 {
        db.delete(format!("key{i:03}")).expect("deletes");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    let entries = |db: &Db| db.stats().keyspaces[0].levels.iter().map(|level| level.entries).sum::<u64>();
    assert_eq!(entries(&db), 200, "the snapshot needs the values, and they need the deletes");
    drop(snapshot);
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    assert_eq!(entries(&db), 0);
}

#[test]
fn an_iterator_goes_from_both_ends_and_seeks() {
    let db = numbered(60);
    db.flush().expect("flushes");
    for i in 60..90 {
        db.put(format!("key{i:03}"), "in memory").expect("puts");
    }
    let mut backward = keys(db.iter().expect("open").rev());
    backward.reverse();
    assert_eq!(keys(db.iter().expect("open")), backward);
    assert_eq!(backward.len(), 90);
    assert_eq!(keys(db.range("key010".."key013").expect("open")), ["key010", "key011", "key012"]);
    assert_eq!(keys(db.range("key088"..).expect("open")), ["key088", "key089"]);
    assert_eq!(keys(db.range(..="key001").expect("open")), ["key000", "key001"]);
    assert_eq!(keys(db.range("z".."a").expect("open")), [""; 0]);
    assert_eq!(keys(db.prefix("key05").expect("open").rev()).len(), 10);
    assert_eq!(keys(db.prefix("nothing").expect("open")), [""; 0]);
    let mut iter = db.range("key020".."key070").expect("open");
    assert_eq!(keys(iter.by_ref().rev().take(2)), ["key069", "key068"]);
    iter.seek("key065x").expect("seeks");
    assert_eq!(keys(iter.by_ref()), ["key066", "key067"]);
    iter.seek("key000").expect("seeks");
    assert_eq!(keys(iter.by_ref().take(1)), ["key020"], "a seek stays inside the range");
    assert!(iter.error().is_none());
}

#[test]
fn several_keys_are_read_in_the_order_they_were_asked_for() {
    let db = numbered(10);
    let values = db.multi_get(&["key007", "missing", "key001", "key007"]).expect("reads");
    let values: Vec<_> = values.iter().map(Option::as_deref).collect();
    assert_eq!(values, [Some(&b"value 7"[..]), None, Some(b"value 1"), Some(b"value 7")]);
    assert!(db.multi_get::<&str>(&[]).expect("reads").is_empty());
}

#[test]
fn a_manual_database_works_only_when_it_is_stepped() {
    let options = tinylsm::Options { memtable_bytes: 16 << 10, sealed_memtables_max: 8, ..tiny() };
    let builder = Db::builder("/db").vfs(Arc::new(MemVfs::new())).options(options);
    let db = builder.background(Background::Manual).open().expect("opens");
    for i in 0..200 {
        db.put(format!("key{i:03}"), "x".repeat(30)).expect("puts");
    }
    let before = db.stats();
    assert_eq!((before.flushes, before.bytes_flushed), (0, 0), "nobody has asked for a flush");
    assert!(before.sealed_memtables > 0 && before.memtable_bytes > 0);
    let mut steps_count = 0;
    while db.background_step().expect("works") {
        steps_count += 1;
    }
    let after = db.stats();
    assert!(steps_count >= after.flushes + after.compactions && after.flushes > 0);
    assert_eq!(after.sealed_memtables, 0);
    assert!(after.bytes_flushed > 0 && after.keyspaces[0].levels.iter().any(|level| level.files > 0));
    assert_eq!(after.last_seq.get(), 200);
    assert_eq!((after.keyspaces[0].name.as_str(), after.keyspaces[0].id), ("default", 0));
    let report = db.verify().expect("sound");
    assert_eq!(report.files, after.keyspaces[0].levels.iter().map(|level| level.files as u64).sum::<u64>());
    assert_eq!(contents(db.default_keyspace()).len(), 200);
    assert!(!db.background_step().expect("works"), "nothing is left to do");
}

#[test]
fn an_iterator_moves_to_another_thread() {
    let db = numbered(50);
    let iter = db.iter().expect("open");
    let found = Arc::new(Mutex::new(Vec::new()));
    let place = Arc::clone(&found);
    let thread = spawn("reader", move || *place.lock() = keys(iter)).expect("a thread");
    for i in 0..50 {
        db.delete(format!("key{i:03}")).expect("deletes");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    assert!(thread.join());
    assert_eq!(found.lock().len(), 50);
    assert_eq!(contents(db.default_keyspace()), Model::new());
}

#[test]
fn eight_threads_write_on_a_real_disk_and_everything_is_there_afterwards() {
    let dir = TempDir::new().expect("a directory");
    let options = tinylsm::Options { memtable_bytes: 16 << 10, ..tiny() };
    let db = Db::builder(dir.path()).options(options.clone()).open().expect("opens");
    let other =
        db.create_keyspace("other", options.default_keyspace.clone().expect("given")).expect("creates");
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (db, other) = (db.clone(), other.clone());
            spawn("writer", move || {
                for i in 0..100 {
                    let mut batch = WriteBatch::new();
                    let key = format!("{thread}-{i:03}");
                    batch.put(db.default_keyspace(), &key, "x".repeat(i));
                    batch.put(&other, &key, "y");
                    db.write(&batch, &WriteOptions::disk()).expect("writes");
                    assert!(other.get(&key).expect("reads").is_some(), "a writer reads its own writes");
                }
            })
            .expect("a thread")
        })
        .collect();
    for thread in threads {
        assert!(thread.join());
    }
    assert_eq!(db.last_seq().get(), 1600);
    let expected = contents(db.default_keyspace());
    assert_eq!((expected.len(), contents(&other).len()), (800, 800));
    drop((db, other));
    let db = Db::builder(dir.path()).options(options).open().expect("opens");
    assert_eq!(contents(db.default_keyspace()), expected);
    assert_eq!(contents(&db.keyspace("other").expect("there")).len(), 800);
    db.wait_idle().expect("idle");
    db.verify().expect("sound");
}

#[test]
fn a_database_dropped_without_a_close_reopens_at_once_and_whole() {
    let dir = TempDir::new().expect("a directory");
    for round in 0..5u8 {
        let db = Db::builder(dir.path()).options(tiny()).open().expect("the lock is free at once");
        assert_eq!(contents(db.default_keyspace()).len(), usize::from(round) * 40);
        for i in 0..40u8 {
            let options = WriteOptions::os();
            db.default_keyspace().put_with([round, i], [i; 200], &options).expect("puts");
        }
    }
    let reader = Db::builder(dir.path()).open_read_only().expect("nobody else has it open");
    assert_eq!(contents(reader.default_keyspace()).len(), 200);
    let second = Db::builder(dir.path()).open_read_only().expect("readers share");
    assert_eq!(contents(second.default_keyspace()), contents(reader.default_keyspace()));
    assert_eq!(reader.flush().expect_err("refused").kind(), tinylsm::ErrorKind::ReadOnly);
    reader.close().expect("closes");
}
