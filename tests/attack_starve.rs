//! Attack: files that nobody needs stay for as long as merges are due, with one background thread (or Manual): the disk
//! fills up with them.
#![allow(warnings, clippy::all)]
mod common;
#[path = "common/small_disk.rs"]
mod small_disk;
use small_disk::SmallDisk;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::*;

fn noise(mut state: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .collect()
}

fn options() -> Options {
    let keyspace = KeyspaceOptions {
        compression: Compression::None,
        level_base_bytes: 256 << 10,
        level_multiplier: 4,
        table_bytes: 32 << 10,
        ..KeyspaceOptions::default()
    };
    Options {
        memtable_bytes: 64 << 10,
        wal_preallocate_bytes: 64 << 10,
        reserve_bytes_max: 0,
        durability: Durability::Os,
        default_keyspace: Some(keyspace),
        ..Options::default()
    }
}

/// Overwrites 2 MiB of data again and again at full speed; returns the most that the files took meanwhile, and what they
/// take at rest.
fn peak(background: Background, size: u64) -> (u64, u64, u64, Option<Error>) {
    let disk = SmallDisk::new(size);
    let db = Db::builder("/db")
        .vfs(Arc::new(disk.clone()))
        .options(options())
        .background(background)
        .open()
        .unwrap();
    let mut peak = 0;
    let mut peak_obsolete = 0;
    let mut error = None;
    for i in 0..40_000u64 {
        let key = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 4000;
        if let Err(e) = db.put(format!("key{key:05}"), noise(i, 500)) {
            error = Some(e);
            break;
        }
        if i % 16 == 0 {
            peak = peak.max(disk.used_bytes());
        }
    }
    let _ = db.wait_idle();
    (peak, disk.used_bytes(), disk.used_bytes(), error)
}

#[test]
fn removals_wait_for_no_merges() {
    let mut out = Vec::new();
    for (name, background) in [
        ("Threads(2)", Background::Threads(2)),
        ("Threads(1)", Background::Threads(1)),
        ("Manual", Background::Manual),
    ] {
        let (peak, rest, _, error) = peak(background, 1 << 40);
        println!("{name}: peak {} KiB, at rest {} KiB, {error:?}", peak >> 10, rest >> 10);
        out.push((name, peak, rest));
    }
    for (name, peak, rest) in out {
        assert!(
            peak < 6 * rest,
            "{name}: {} KiB lay on the disk at a time for {} KiB at rest",
            peak >> 10,
            rest >> 10
        );
    }
}

/// 3 MiB of data on a disk of 24 MiB: no put fails.
#[test]
fn a_disk_eight_times_as_large_is_enough() {
    let mut bad = Vec::new();
    for (name, background) in [
        ("Threads(2)", Background::Threads(2)),
        ("Threads(1)", Background::Threads(1)),
        ("Manual", Background::Manual),
    ] {
        let disk = SmallDisk::new(24 << 20);
        let options = Options { reserve_bytes_max: Options::default().reserve_bytes_max, ..options() };
        let db = Db::builder("/db")
            .vfs(Arc::new(disk.clone()))
            .options(options)
            .background(background)
            .open()
            .unwrap();
        let mut failed = 0;
        let mut first = None;
        for i in 0..40_000u64 {
            let key = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 4000;
            if let Err(e) = db.put(format!("key{key:05}"), noise(i, 500)) {
                failed += 1;
                first.get_or_insert(format!("put {i}: {e}"));
                if failed > 200 {
                    break;
                }
            }
        }
        println!("{name}: {failed} puts failed, first {first:?}; errors {:?}", db.background_errors());
        let used = disk.used_bytes();
        let live: u64 = db.stats().keyspaces.iter().flat_map(|k| k.levels.iter()).map(|l| l.bytes).sum();
        println!(
            "{name}: {} KiB on the disk, of which tables {} KiB, disk_bytes {}",
            used >> 10,
            live >> 10,
            db.stats().disk_bytes >> 10
        );
        if failed > 0 {
            bad.push(name);
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}
