//! The public interface as an application uses it, on the real disk where that matters.

mod common;

use common::{Model, contents, tiny};
use std::sync::Arc;
use tempfile::TempDir;
use tinylsm::sync::{Mutex, spawn};
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Db, Durability, ErrorKind, Iter, Keyspace, KeyspaceOptions, Options, ReverseBytewise, Slice,
    WriteBatch, WriteOptions,
};

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
    keyspace.put_with("none", "1", WriteOptions::none()).expect("puts");
    keyspace.put_with("os", "2", WriteOptions::os()).expect("puts");
    keyspace.put_with("gone", "3", WriteOptions::none()).expect("puts");
    keyspace.delete_with("gone", WriteOptions::disk()).expect("deletes");
    let late = WriteOptions::default().durability(Durability::None);
    keyspace.put_with("late", "4", late).expect("puts");
    assert_eq!(db.last_seq().get(), 5);
    let found = contents(&keyspace);
    assert_eq!(found.len(), 3);
    db.sync().expect("syncs");
    keyspace.put_with("latest", "5", late).expect("puts");
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
        let items = snapshot.iter().expect("open").map(|item| item.expect("readable"));
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
    assert_eq!(snapshot.get("key002").expect("reads").as_deref(), Some(&b"value 2"[..]));
    assert_eq!(db.get("key002").expect("reads"), None);
    let few = snapshot.multi_get(&["key000", "nothing"]).expect("reads");
    assert_eq!((few[0].as_deref(), few[1].as_deref()), (Some(&b"value 0"[..]), None));
    assert_eq!(keys(snapshot.prefix("key09").expect("open")).len(), 10);
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
fn the_back_of_an_iterator_seeks_too_and_either_end_stops_where_the_other_began() {
    let db = numbered(60);
    db.flush().expect("flushes");
    db.delete("key030").expect("deletes");
    let mut iter = db.range("key020".."key050").expect("open");
    iter.seek_back("key030").expect("seeks");
    assert_eq!(keys(iter.by_ref().rev().take(2)), ["key029", "key028"], "a deleted key is not there");
    iter.seek_back("key099").expect("seeks");
    assert_eq!(keys(iter.by_ref().rev().take(1)), ["key049"], "a seek stays inside the range");
    iter.seek_back("key022x").expect("seeks");
    assert_eq!(keys(iter.by_ref()), ["key020", "key021", "key022"], "the front ends where the back began");
    iter.seek_back("key024").expect("seeks");
    assert_eq!(keys(iter.by_ref().rev()), ["key024", "key023"], "what the front gave out stays given out");
    iter.seek_back("a").expect("seeks");
    assert_eq!(keys(iter.by_ref().rev()), [""; 0]);
    let shown = format!("{iter:?}");
    for part in ["default", "key020", "key050", "seq: 61"] {
        assert!(shown.contains(part), "{shown}");
    }
}

/// What an empty key meets on its way: memory, log, filter, block, index, merge, manifest, either order, either end.
#[test]
fn an_empty_key_is_a_key_like_any_other() {
    for comparator in ["tinylsm.bytewise", "tinylsm.reverse-bytewise"] {
        let disk = Arc::new(MemVfs::new());
        let open = || {
            let keyspace = KeyspaceOptions::default().comparator(comparator).block_bytes(64);
            let options = tiny().default_keyspace(keyspace);
            let reverse = Arc::new(ReverseBytewise);
            Db::builder("/db").vfs(disk.clone()).options(options).comparator(reverse).open().expect("opens")
        };
        let is_reverse = comparator != "tinylsm.bytewise";
        let others: Vec<String> = (0..40).map(|i| format!("key{i:03}")).collect();
        let check = |db: &Db, value: Option<&str>| {
            let found = db.get("").expect("reads");
            assert_eq!(found.as_deref(), value.map(str::as_bytes));
            assert_eq!(db.contains_key("").expect("reads"), value.is_some());
            assert_eq!(db.len().expect("reads"), 40 + u64::from(value.is_some()));
            let end = if is_reverse { db.last_key_value() } else { db.first_key_value() };
            let (key, _) = end.expect("reads").expect("there are some");
            match (value, is_reverse) {
                (Some(_), _) => assert_eq!(key, ""),
                (None, _) => assert_eq!(key, "key000"),
            }
            let upto = if is_reverse { db.range(""..) } else { db.range(..="") };
            assert_eq!(keys(upto.expect("open")).len(), usize::from(value.is_some()));
            if !is_reverse {
                assert_eq!(keys(db.range(..).expect("open")), keys(db.prefix("").expect("open")));
                let behind = db.range((std::ops::Bound::Excluded(""), std::ops::Bound::Unbounded));
                assert_eq!(keys(behind.expect("open")), others);
            }
            let mut iter = db.iter().expect("open");
            iter.seek("").expect("seeks");
            let first =
                if is_reverse { value.map(|_| String::new()) } else { keys(iter.by_ref().take(1)).pop() };
            let expected = if value.is_some() { "" } else { "key000" };
            assert!(first.is_none() || first.as_deref() == Some(expected));
        };
        let db = open();
        for key in &others {
            db.put(key, "some value").expect("puts");
        }
        check(&db, None);
        db.put("", "in memory").expect("puts");
        check(&db, Some("in memory"));
        let snapshot = db.snapshot();
        db.flush().expect("flushes");
        check(&db, Some("in memory"));
        db.put("", "again").expect("puts");
        drop(db);
        // The snapshot keeps it open; only without it the directory is free.
        assert_eq!(snapshot.get("").expect("reads").as_deref(), Some(&b"in memory"[..]));
        drop(snapshot);
        let db = open();
        check(&db, Some("again"));
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        check(&db, Some("again"));
        db.verify().expect("sound");
        db.delete("").expect("deletes");
        check(&db, None);
        db.compact_range(db.default_keyspace(), ..="").expect("merges");
        db.compact_range(db.default_keyspace(), ""..).expect("merges");
        check(&db, None);
        db.close().expect("closes");
        check(&open(), None);
    }
}

#[test]
fn a_batch_chains_and_goes_in_by_value_or_by_reference() {
    let db = Db::open_in_memory().expect("opens");
    let keyspace = db.default_keyspace().db().create_keyspace("other", Default::default()).expect("made");
    let mut batch = WriteBatch::new();
    batch.put(&keyspace, "a", "1").put(&keyspace, "b", "2").delete(&keyspace, "a");
    assert_eq!(batch.len(), 3);
    db.write(&batch, Durability::Os).expect("writes");
    db.write(&mut batch, WriteOptions::none()).expect("writes");
    db.write(batch, WriteOptions::disk()).expect("writes");
    db.write(WriteBatch::new().put(&keyspace, "c", "3"), Durability::Disk).expect("writes");
    keyspace.put_with("d", "4", Durability::None).expect("puts");
    assert_eq!(db.last_seq().get(), 11);
    assert_eq!(keys(keyspace.iter().expect("open")), ["b", "c", "d"]);
}

#[test]
fn questions_about_a_whole_keyspace_have_their_answers() {
    let db = Db::builder("/db").vfs(Arc::new(MemVfs::new())).options(tiny()).open().expect("opens");
    assert!(db.is_empty().expect("reads"));
    assert_eq!((db.first_key_value().expect("reads"), db.last_key_value().expect("reads")), (None, None));
    for i in 0..200 {
        db.put(format!("key{i:03}"), [7; 50]).expect("puts");
    }
    db.delete("key000").expect("deletes");
    assert!(!db.is_empty().expect("reads") && db.contains_key("key001").expect("reads"));
    assert_eq!(db.len().expect("reads"), 199);
    let first = db.first_key_value().expect("reads").expect("there is one");
    assert_eq!(
        (first.0, db.last_key_value().expect("reads").expect("one").0),
        (Slice::from(&b"key001"[..]), Slice::from(&b"key199"[..]))
    );
    for step in 0..2 {
        let len = |range: (&str, &str)| db.approximate_len_bytes(range.0..range.1).expect("open");
        let (all, half) = (db.approximate_len_bytes(..).expect("open"), len(("key050", "key150")));
        assert!(half > all / 4 && half < all * 3 / 4, "step {step}: {half} of {all}");
        assert_eq!((len(("a", "b")), len(("x", "z")), len(("z", "a"))), (0, 0, 0), "step {step}");
        db.flush().expect("flushes");
        db.compact_range(db.default_keyspace(), ..).expect("merges");
    }
    let snapshot = db.snapshot();
    db.default_keyspace().delete("key001").expect("deletes");
    let view = snapshot.default_keyspace();
    assert_eq!((view.len().expect("reads"), view.is_empty().expect("reads")), (199, false));
    assert!(view.contains_key("key001").expect("reads") && snapshot.contains_key("key001").expect("reads"));
    assert_eq!(view.first_key_value().expect("reads").expect("one").0, "key001");
    assert_eq!(view.last_key_value().expect("reads").expect("one").0, "key199");
    assert_eq!(
        (view.snapshot().seq(), view.keyspace().name().to_string()),
        (snapshot.seq(), "default".to_owned())
    );
    assert_eq!(snapshot.db().path(), db.path());
}

#[test]
fn figures_tell_what_only_memory_has_and_what_would_be_lost() {
    let disk = Arc::new(MemVfs::new());
    let options =
        Options::default().durability(Durability::None).wal_preallocate_bytes(0).reserve_bytes_max(0);
    let open = || Db::builder("/db").vfs(disk.clone()).options(options.clone()).open().expect("opens");
    let db = open();
    let keyspace = db.default_keyspace().clone();
    keyspace.put("kept", "1").expect("puts");
    keyspace.flush().expect("flushes");
    for key in ["a", "b"] {
        keyspace.put(key, "2").expect("puts");
    }
    let stats = db.stats();
    assert_eq!((stats.held_back_commits, stats.keyspaces[0].unflushed_entries), (2, 2));
    assert!(stats.held_back_bytes > 0 && stats.held_back_bytes < stats.wal_bytes);
    assert!(stats.keyspaces[0].unflushed_bytes > 0);
    let report = db.verify().expect("sound");
    assert_eq!((report.entries, report.unflushed_entries), (1, 2));
    db.sync().expect("syncs");
    assert_eq!((db.stats().held_back_commits, db.stats().held_back_bytes), (0, 0));
    keyspace.put("c", "3").expect("puts");
    assert_eq!(db.stats().held_back_commits, 1);
    drop((db, keyspace));
    let db = open();
    assert_eq!(
        keys(db.iter().expect("open")),
        ["a", "b", "kept"],
        "what was held back went with the last handle"
    );
}

#[test]
fn a_snapshot_answers_what_a_keyspace_does() {
    let db = numbered(300);
    let users = db.create_keyspace("users", Default::default()).expect("memory");
    users.put("ada", "admin").expect("memory");
    let snapshot = db.snapshot();
    let view = snapshot.keyspace(&users);
    let handles = db.keyspace_handles();
    assert_eq!(handles.iter().map(Keyspace::name).collect::<Vec<_>>(), db.keyspaces());
    let (first, last) = (db.first_key_value().expect("reads"), db.last_key_value().expect("reads"));
    for handle in &handles {
        handle.clear().expect("memory");
        assert!(handle.is_empty().expect("reads"));
    }
    assert_eq!(snapshot.first_key_value().expect("reads"), first);
    assert_eq!(snapshot.last_key_value().expect("reads"), last);
    assert_eq!((snapshot.len().expect("reads"), snapshot.is_empty().expect("reads")), (300, false));
    assert!(snapshot.approximate_len_bytes(..).expect("reads") > 300);
    assert_eq!(db.approximate_len_bytes(..).expect("reads"), 0);
    assert_eq!((view.len().expect("reads"), view.approximate_len_bytes(..).expect("reads") > 0), (1, true));
    let other = Db::open_in_memory().expect("memory");
    let foreign = snapshot.keyspace(other.default_keyspace()).approximate_len_bytes(..);
    assert_eq!(foreign.expect_err("of another database").kind(), ErrorKind::InvalidArgument);
}

#[test]
fn limits_are_told_before_they_are_met() {
    use tinylsm::{BATCH_LEN_BYTES_MAX, KEY_LEN_BYTES_MAX, NAME_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX};
    let db = Db::open_in_memory().expect("memory");
    let kind = |result: tinylsm::Result<()>| result.map_err(|error| error.kind());
    let put =
        |key_len: usize, value_len: usize| kind(db.put(vec![b'k'; key_len], vec![0; value_len]).map(drop));
    let name = |len: usize| kind(db.create_keyspace(&"n".repeat(len), Default::default()).map(drop));
    let refused = Err(ErrorKind::InvalidArgument);
    assert_eq!((put(KEY_LEN_BYTES_MAX, 1), put(KEY_LEN_BYTES_MAX + 1, 1)), (Ok(()), refused));
    assert_eq!((put(1, VALUE_LEN_BYTES_MAX), put(1, VALUE_LEN_BYTES_MAX + 1)), (Ok(()), refused));
    assert_eq!((name(NAME_LEN_BYTES_MAX), name(NAME_LEN_BYTES_MAX + 1)), (Ok(()), refused));
    let mut batch = WriteBatch::new();
    let half = vec![0; BATCH_LEN_BYTES_MAX / 2 - 100];
    batch.put(db.default_keyspace(), "a", &half).put(db.default_keyspace(), "b", &half);
    assert!(batch.byte_len() < BATCH_LEN_BYTES_MAX && batch.len() == 2);
    batch.put(db.default_keyspace(), "c", vec![0; 1000]);
    assert_eq!(kind(db.write(batch, Durability::None).map(drop)), refused);
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
    let options = tiny().memtable_bytes(16 << 10).sealed_memtables_max(8);
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
    let options = tiny().memtable_bytes(16 << 10);
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
                    db.write(&batch, WriteOptions::disk()).expect("writes");
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
            db.default_keyspace().put_with([round, i], [i; 200], options).expect("puts");
        }
    }
    let reader = Db::builder(dir.path()).open_read_only().expect("nobody else has it open");
    assert_eq!(contents(reader.default_keyspace()).len(), 200);
    let second = Db::builder(dir.path()).open_read_only().expect("readers share");
    assert_eq!(contents(second.default_keyspace()), contents(reader.default_keyspace()));
    assert_eq!(reader.flush().expect_err("refused").kind(), tinylsm::ErrorKind::ReadOnly);
    reader.close().expect("closes");
}
