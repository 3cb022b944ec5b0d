//! Attack: a damaged block that a merge met is forgotten by `background_errors` although it is as damaged as before.
#![allow(warnings, clippy::all)]
mod common;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::*;

fn damaged(clock: &ManualClock) -> (MemVfs, Db) {
    let disk = MemVfs::with_clock(clock.clone());
    let mut options = Options { memtable_bytes: 64 << 10, block_cache_bytes: 0, ..Options::default() };
    let db = Db::builder("/db")
        .vfs(Arc::new(disk.clone()))
        .options(options)
        .background(Background::Manual)
        .open()
        .unwrap();
    for round in 0..2 {
        for i in 0..100 {
            db.put(format!("key{i:03}"), vec![b'a' + round; 100]).unwrap();
        }
        db.flush().unwrap();
    }
    let tables: Vec<PathBuf> =
        disk.files().into_iter().filter(|p| p.to_string_lossy().ends_with(".sst")).collect();
    disk.flip(&tables[0], 50, 0x10).unwrap();
    (disk, db)
}

#[test]
fn damage_stays_named_after_ten_minutes() {
    let clock = ManualClock::new(UnixMillis(0));
    let (disk, db) = damaged(&clock);
    let error = db.compact_range(db.default_keyspace(), ..).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(!db.background_errors().is_empty());
    clock.advance(Duration::from_secs(601));
    while db.background_step().unwrap_or(true) {}
    let told = db.background_errors();
    let still = db.verify().unwrap_err();
    assert!(!told.is_empty(), "background_errors is empty, and verify says: {still}");
}

#[test]
fn damage_stays_named_after_waiting() {
    let clock = ManualClock::new(UnixMillis(0));
    let (disk, db) = damaged(&clock);
    db.compact_range(db.default_keyspace(), ..).unwrap_err();
    let waited = db.wait_idle();
    let told = db.background_errors();
    let still = db.verify().unwrap_err();
    assert!(
        !told.is_empty(),
        "wait_idle gave {waited:?}, background_errors is empty, and verify says: {still}"
    );
}

#[test]
fn damage_stays_named_after_resume() {
    let clock = ManualClock::new(UnixMillis(0));
    let (disk, db) = damaged(&clock);
    db.compact_range(db.default_keyspace(), ..).unwrap_err();
    let resumed = db.resume();
    while db.background_step().unwrap_or(true) {}
    let told = db.background_errors();
    let still = db.verify().unwrap_err();
    assert!(
        !told.is_empty(),
        "resume gave {resumed:?}, background_errors is empty, and verify says: {still}"
    );
}

/// A missing table of a degraded opening is forgotten as soon as another part of the keyspace was merged.
#[test]
fn a_missing_table_stays_named_after_a_merge_elsewhere() {
    let clock = ManualClock::new(UnixMillis(0));
    let disk = MemVfs::with_clock(clock.clone());
    let mut options = common::tiny();
    options.memtable_bytes = 64 << 10;
    options.default_keyspace.as_mut().unwrap().table_bytes = 1024;
    options.default_keyspace.as_mut().unwrap().level_base_bytes = 1 << 30;
    let builder = || {
        Db::builder("/db").vfs(Arc::new(disk.clone())).options(options.clone()).background(Background::Manual)
    };
    let db = builder().open().unwrap();
    let noise = |mut state: u64| -> Vec<u8> {
        (0..200)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as u8
            })
            .collect()
    };
    for i in 0..100u64 {
        db.put(format!("key{i:03}"), noise(i + 1000)).unwrap();
    }
    db.flush().unwrap();
    for i in 0..100u64 {
        db.put(format!("key{i:03}"), noise(i)).unwrap();
    }
    db.flush().unwrap();
    db.compact_range(db.default_keyspace(), ..).unwrap();
    db.wait_idle().unwrap();
    db.close().unwrap();
    let tables: Vec<PathBuf> =
        disk.files().into_iter().filter(|p| p.to_string_lossy().ends_with(".sst")).collect();
    assert!(tables.len() > 5);
    disk.remove_file(tables.last().unwrap()).unwrap(); // holds the last keys
    assert_eq!(builder().open().unwrap_err().kind(), ErrorKind::Corruption);
    let db = builder().degraded(true).open().unwrap();
    let before = db.background_errors();
    assert_eq!(before.len(), 1, "{before:?}");
    db.put("key000", "new").unwrap();
    db.compact_range(db.default_keyspace(), "key000".."key005").unwrap();
    let told = db.background_errors();
    let still = db.get("key099").unwrap_err();
    assert!(!told.is_empty(), "background_errors was {before:?}, is empty, and a get gives: {still}");
}
