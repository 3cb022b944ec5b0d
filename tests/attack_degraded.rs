//! Attack: README, "A block or table is damaged. Only what needs it fails; other keyspaces and ranges are read and written
//! as ever." A keyspace with one missing table takes no more writes to its sound ranges after a while.
#![allow(warnings, clippy::all)]
mod common;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::*;

fn noise(mut state: u64) -> Vec<u8> {
    (0..200)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .collect()
}

fn run(background: Background) {
    let disk = MemVfs::new();
    let mut options = common::tiny();
    options.memtable_bytes = 16 << 10;
    options.default_keyspace.as_mut().unwrap().table_bytes = 1024;
    options.default_keyspace.as_mut().unwrap().level_base_bytes = 1 << 30;
    let builder = || {
        Db::builder("/db").vfs(Arc::new(disk.clone())).options(options.clone()).background(background.clone())
    };
    let db = builder().open().unwrap();
    for round in 0..2 {
        for i in 0..100u64 {
            db.put(format!("key{i:03}"), noise(i + round * 1000)).unwrap();
        }
        db.flush().unwrap();
    }
    db.compact_range(db.default_keyspace(), ..).unwrap();
    db.wait_idle().unwrap();
    db.close().unwrap();
    let tables: Vec<PathBuf> =
        disk.files().into_iter().filter(|p| p.to_string_lossy().ends_with(".sst")).collect();
    assert!(tables.len() > 5);
    disk.remove_file(tables.last().unwrap()).unwrap(); // holds the last keys
    let db = builder().degraded(true).open().unwrap();
    for i in 0..20_000u64 {
        // Sound keys only.
        if let Err(e) = db.put(format!("key{:03}", i % 10), noise(i)) {
            let level0 = db.stats().keyspaces[0].levels[0].files;
            // Merging them would go well, and then it goes on:
            let merged = db.compact_range(db.default_keyspace(), "key000".."key011");
            let again = db.put("key000", "v").map(drop);
            panic!(
                "put {i} to a sound range, {level0} tables on level 0: {e}\n  merging the range by hand: {merged:?}, and then a put: {again:?}"
            );
        }
    }
}

#[test]
fn sound_ranges_are_written_as_ever_manual() {
    run(Background::Manual);
}
#[test]
fn sound_ranges_are_written_as_ever_threads() {
    run(Background::Threads(2));
}
