//! Attack: a delete on a full disk, with a reserve held, gets `Busy` instead of using the reserve.
#![allow(warnings, clippy::all)]
mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/small_disk.rs"]
mod small_disk;
use hooked::{HookedVfs, Op};
use small_disk::SmallDisk;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::*;

fn noise(mut state: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .collect()
}

/// Writing a table takes `slow` on this disk, as on a real one.
fn run(slow: Duration, timeout: Duration, seed: u64, background: Background) -> Option<String> {
    let clock = ManualClock::new(UnixMillis(0));
    let disk = match background {
        Background::Manual => SmallDisk::over(MemVfs::with_clock(clock.clone()), 8 << 20),
        _ => SmallDisk::over(MemVfs::new(), 8 << 20),
    };
    let hooked = HookedVfs::over(disk.clone());
    let keyspace = KeyspaceOptions {
        compression: Compression::None,
        block_bytes: 1024,
        level_base_bytes: 256 << 10,
        level_multiplier: 4,
        table_bytes: 32 << 10,
        ..KeyspaceOptions::default()
    };
    let options = Options {
        memtable_bytes: 64 << 10,
        wal_preallocate_bytes: 64 << 10,
        stall_timeout: timeout,
        default_keyspace: Some(keyspace),
        ..Options::default()
    };
    let db = Db::builder("/db")
        .vfs(Arc::new(hooked.clone()))
        .options(options)
        .background(background.clone())
        .open()
        .unwrap();
    let c = clock.clone();
    let manual = matches!(background, Background::Manual);
    hooked.set_hook(move |call| {
        if call.is(Op::Create, ".sst") {
            if manual { c.advance(slow) } else { std::thread::sleep(slow) }
        }
        Ok(())
    });
    let mut i = 0u64;
    let last = loop {
        i += 1;
        if let Err(e) = db.put(format!("key{:05}", (i * 7919 + seed * 31) % 6000), noise(i, 1000)) {
            break e;
        }
        if i > 30_000 {
            return None;
        }
    };
    let reserve = disk.metadata(Path::new("/db/RESERVE")).map_or(0, |m| m.len);
    let before: Vec<String> =
        db.background_errors().iter().map(|e| format!("{} {:?}", e.job, e.error.kind())).collect();
    let began = hooked.now();
    match db.delete("key00031") {
        Ok(_) => None,
        Err(e) => {
            let left = disk.metadata(Path::new("/db/RESERVE")).map_or(0, |m| m.len);
            Some(format!(
                "{background:?} slow {slow:?} seed {seed}: put {i} gave {:?} ({before:?}); the delete gave {:?} after {} ms, with a reserve of {reserve} bytes before and {left} after: {e}",
                last.kind(),
                e.kind(),
                (hooked.now() - began) / 1_000_000
            ))
        }
    }
}

#[test]
fn a_delete_uses_the_reserve() {
    let mut found = Vec::new();
    for slow in [0, 1, 5, 20, 60, 150] {
        for seed in 0..12 {
            found.extend(run(Duration::from_millis(slow), Duration::from_secs(2), seed, Background::Manual));
        }
    }
    for seed in 0..6 {
        found.extend(run(Duration::from_millis(1), Duration::from_millis(500), seed, Background::Threads(2)));
    }
    assert!(found.is_empty(), "{} times\n{}", found.len(), found.join("\n"));
}

/// Level 0 is at its stop, merging it finds no room, and a reserve is there: the first delete is refused with `Busy`.
#[test]
fn a_delete_that_waits_for_a_merge_without_room_uses_the_reserve() {
    let clock = ManualClock::new(UnixMillis(0));
    let disk = SmallDisk::over(MemVfs::with_clock(clock.clone()), 64 << 20);
    let options =
        Options { memtable_bytes: 256 << 10, level0_slowdown: 4, level0_stop: 4, ..Options::default() };
    let db = Db::builder("/db")
        .vfs(Arc::new(disk.clone()))
        .options(options)
        .background(Background::Manual)
        .open()
        .unwrap();
    for round in 0..4u64 {
        for i in 0..200 {
            db.put(format!("key{i:05}"), noise(i + 1000 * round, 500)).unwrap();
        }
        db.flush().unwrap();
    }
    let reserve = disk.metadata(Path::new("/db/RESERVE")).map_or(0, |m| m.len);
    assert!(reserve > 0 && db.background_errors().is_empty());
    disk.leave_free(0);
    let first = db.delete("key00001");
    let left = disk.metadata(Path::new("/db/RESERVE")).map_or(0, |m| m.len);
    let second = db.delete("key00001");
    assert!(
        first.is_ok(),
        "the first delete: {:?} {}, with a reserve of {reserve} bytes before and {left} after; the second: {second:?}",
        first.as_ref().unwrap_err().kind(),
        first.as_ref().unwrap_err()
    );
}

/// The same for a put, with threads: README says that puts give `NoSpace` on a full disk. It waits for its whole time and
/// gets `Busy`, though the merge that it waits for is known to find no room and nothing else can make any.
#[test]
fn a_put_that_waits_for_a_merge_without_room_hears_so() {
    let disk = SmallDisk::over(MemVfs::new(), 64 << 20);
    let hooked = HookedVfs::over(disk.clone());
    let options = Options {
        memtable_bytes: 256 << 10,
        level0_slowdown: 4,
        level0_stop: 4,
        stall_timeout: Duration::from_secs(5),
        default_keyspace: Some(KeyspaceOptions { compression: Compression::None, ..Default::default() }),
        ..Options::default()
    };
    let db = Db::builder("/db")
        .vfs(Arc::new(hooked.clone()))
        .options(options)
        .background(Background::Threads(2))
        .open()
        .unwrap();
    let d = disk.clone();
    for round in 0..4u64 {
        for i in 0..200 {
            db.put(format!("key{i:05}"), noise(i + 1000 * round, 500)).unwrap();
        }
        if round == 3 {
            // The disk is full from the moment on when level 0 is to be merged.
            let d = d.clone();
            let full = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
            hooked.set_hook(move |call| {
                if call.is(Op::Create, ".sst") && full.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= 1
                {
                    d.leave_free(0);
                    return Err(Error::new(ErrorKind::NoSpace, "full")
                        .with_operation("create")
                        .with_file(call.path));
                }
                Ok(())
            });
        }
        db.flush().unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let before: Vec<String> =
        db.background_errors().iter().map(|e| format!("{} {:?}", e.job, e.error.kind())).collect();
    let began = std::time::Instant::now();
    let put = db.put("key00001", "v");
    let error = put.expect_err("there is no room");
    assert_eq!(
        error.kind(),
        ErrorKind::NoSpace,
        "after {:?}, errors before {before:?}: {error}",
        began.elapsed()
    );
}
