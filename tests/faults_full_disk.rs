//! A full disk: deletes are taken for as long as there is a reserve, whoever waits for space hears that there is none, what
//! nobody needs makes space in time, and what is said of it all is so.
#![allow(clippy::disallowed_types, reason = "the tests count what other threads do")]

mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/small_disk.rs"]
mod small_disk;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{keyspace_of, noise, tiny};
use hooked::{Call, HookedVfs, Op};
use small_disk::SmallDisk;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::{
    Background, Compression, Db, DbBuilder, Durability, Error, ErrorKind, KeyspaceOptions, Options, Stats,
    UnixMillis, WriteOptions,
};
use watchdog::{ends, within};

/// Each runs one sequence of calls.
const SEEDS: std::ops::Range<u64> = 1..40;

const BACKGROUNDS: [Background; 3] = [Background::Threads(2), Background::Threads(1), Background::Manual];

fn builder(disk: &(impl Vfs + Clone), options: Options, background: &Background) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(options).background(background.clone())
}

fn numbered(i: u64) -> String {
    format!("key{i:05}")
}

/// Returns what the reserve takes, if there is one that was not used.
fn reserve_len(disk: &impl Vfs) -> Option<u64> {
    disk.metadata(Path::new("/db/RESERVE")).ok().map(|metadata| metadata.len).filter(|len| *len > 0)
}

fn full(call: &Call<'_>) -> Error {
    let operation = if call.op == Op::Append { "append" } else { "create" };
    Error::new(ErrorKind::NoSpace, "full").with_operation(operation).with_file(call.path)
}

/// Options under which a few megabytes fill several levels of many tables.
fn scaled() -> Options {
    let keyspace = KeyspaceOptions::default()
        .compression(Compression::None)
        .block_bytes(1024)
        .level_base_bytes(256 << 10)
        .level_multiplier(4)
        .table_bytes(32 << 10);
    Options::default().memtable_bytes(64 << 10).wal_preallocate_bytes(64 << 10).default_keyspace(keyspace)
}

// ---- Deletes ----

/// The first delete on a disk that puts have filled is taken, however long it takes to make a table and whatever the puts
/// wait for when they give up.
#[test]
fn the_first_delete_on_a_full_disk_is_taken() {
    for (table_takes_ms, seed) in [(0, 0), (5, 1), (60, 2), (150, 3), (150, 4)] {
        within(move || {
            let clock = ManualClock::new(UnixMillis(0));
            let disk = SmallDisk::over(MemVfs::with_clock(clock.clone()), 4 << 20);
            let slow = HookedVfs::over(disk.clone());
            slow.set_hook(move |call| {
                if call.is(Op::Create, ".sst") {
                    clock.advance(Duration::from_millis(table_takes_ms));
                }
                Ok(())
            });
            let options = scaled().stall_timeout(Duration::from_secs(2));
            let db = builder(&slow, options, &Background::Manual).open().expect("opens");
            let put = |i| db.put(numbered((i * 7919 + seed * 31) % 6000), noise(i, 1000));
            let refused = (0..30_000).find_map(|i| put(i).err()).expect("the disk fills up");
            let reserve = reserve_len(&disk);
            db.delete(numbered(31)).unwrap_or_else(|error| {
                panic!("{table_takes_ms} ms a table, seed {seed}, a reserve of {reserve:?} bytes, after {refused}: {error:?}")
            });
        });
    }
}

/// Options under which four flushes stop writes until level 0 is merged.
fn soon_stopped() -> Options {
    let keyspace = KeyspaceOptions::default().compression(Compression::None);
    Options::default()
        .memtable_bytes(256 << 10)
        .level0_slowdown(4)
        .level0_stop(4)
        .stall_timeout(Duration::from_secs(5))
        .default_keyspace(keyspace)
}

/// Makes one of the four tables that stop writes.
fn flush_a_table(db: &Db, round: u64) {
    for i in 0..200 {
        db.put(numbered(i), noise(i + 1000 * round, 500)).expect("there is space");
    }
    db.flush().expect("there is space");
}

/// A delete that has to wait for a merge, which has no space, uses the reserve instead.
#[test]
fn a_delete_that_waits_for_a_merge_without_space_is_taken() {
    within(|| {
        let disk = SmallDisk::over(MemVfs::with_clock(ManualClock::new(UnixMillis(0))), 64 << 20);
        let db = builder(&disk, soon_stopped(), &Background::Manual).open().expect("opens");
        for round in 0..4 {
            flush_a_table(&db, round);
        }
        let reserve = reserve_len(&disk);
        assert!(reserve.is_some() && db.background_errors().is_empty());
        disk.leave_free(0);
        db.delete(numbered(1)).unwrap_or_else(|error| panic!("a reserve of {reserve:?} bytes: {error:?}"));
    });
}

// ---- Puts ----

/// A put that has to wait for a merge, which has no space, hears that there is none; it does not wait for its whole time to
/// hear that the database is busy.
#[test]
fn a_put_that_waits_for_a_merge_without_space_hears_so() {
    within(|| {
        let disk = SmallDisk::new(64 << 20);
        let hooked = HookedVfs::over(disk.clone());
        let db = builder(&hooked, soon_stopped(), &Background::Threads(2)).open().expect("opens");
        for round in 0..3 {
            flush_a_table(&db, round);
        }
        // The disk is full from the moment on when level 0 is to be merged.
        let created_count = AtomicU64::new(0);
        hooked.set_hook(move |call| {
            if call.is(Op::Create, ".sst") && created_count.fetch_add(1, Atomic::SeqCst) >= 1 {
                disk.leave_free(0);
                return Err(full(call));
            }
            Ok(())
        });
        flush_a_table(&db, 3);
        let error = ends("the put", move || db.put(numbered(1), "v")).expect_err("there is no space");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    });
}

/// Where only callers run jobs, puts go on once there is space again, without any other call.
#[test]
fn puts_go_on_by_themselves_once_there_is_space() {
    within(|| {
        let clock = ManualClock::new(UnixMillis(0));
        let disk = SmallDisk::over(MemVfs::with_clock(clock.clone()), 64 << 20);
        let options = Options::default().memtable_bytes(64 << 10);
        let db = builder(&disk, options, &Background::Manual).open().expect("opens");
        while db.background_step().expect("works") {}
        disk.leave_free(0);
        (0..10_000).find_map(|i| db.put(numbered(i), [7; 1000]).err()).expect("the disk fills up");
        db.delete(numbered(0)).expect("the reserve is there for deletes");
        assert_eq!(reserve_len(&disk), None, "the delete needs its space");
        disk.leave_free(60 << 20);
        let mut refused_count = 0;
        for i in 0..100 {
            clock.advance(Duration::from_secs(60));
            refused_count += u32::from(db.put(numbered(i), "v").is_err());
        }
        assert!(refused_count < 3, "{refused_count} of 100 puts were refused with space on the disk");
    });
}

// ---- What makes space ----

/// Puts again and again over the same few megabytes at full speed; returns the first that was refused.
fn overwrite(db: &Db, mut look: impl FnMut()) -> Option<Error> {
    for i in 0..20_000u64 {
        let key = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 4000;
        if let Err(error) = db.put(numbered(key), noise(i, 500)) {
            return Some(error);
        }
        if i % 16 == 0 {
            look();
        }
    }
    None
}

/// What nobody needs goes while merges are due, also when one thread does everything and merges are due all the time.
#[test]
fn removals_wait_for_no_merges() {
    for background in BACKGROUNDS {
        within(move || {
            let disk = SmallDisk::new(1 << 40);
            let options = scaled().durability(Durability::Os).reserve_bytes_max(0);
            let db = builder(&disk, options, &background).open().expect("opens");
            let mut peak = 0;
            let refused = overwrite(&db, || peak = peak.max(disk.used_bytes()));
            assert!(refused.is_none(), "{background:?}: {refused:?}");
            db.wait_idle().expect("idle");
            let rest = disk.used_bytes();
            assert!(peak < 6 * rest, "{background:?}: {peak} bytes at a time for {rest} bytes at rest");
        });
    }
}

/// So a disk eight times as large as the data is never full.
#[test]
fn a_disk_eight_times_as_large_as_the_data_is_enough() {
    for background in BACKGROUNDS {
        within(move || {
            let disk = SmallDisk::new(24 << 20);
            let options = scaled().durability(Durability::Os);
            let db = builder(&disk, options, &background).open().expect("opens");
            let refused = overwrite(&db, || ());
            assert!(refused.is_none(), "{background:?}: {} bytes used: {refused:?}", disk.used_bytes());
        });
    }
}

// ---- What is said of it ----

/// Once `wait_idle` says that nothing is due, nothing is, whatever a full disk has kept from being done before.
#[test]
fn nothing_is_due_once_wait_idle_says_so() {
    for seed in SEEDS {
        within(move || check_idle(seed));
    }
}

/// Deletes, puts and the like on a disk that is full now and then, with a look behind each `wait_idle`.
fn check_idle(seed: u64) {
    let disk = SmallDisk::over(MemVfs::with_clock(ManualClock::new(UnixMillis(1_000_000))), 64 << 20);
    disk.leave_free(200 << 10);
    let options = tiny().stall_timeout(Duration::from_millis(100));
    let open = || builder(&disk, options.clone(), &Background::Manual).open().expect("opens");
    let mut db = open();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % bound
    };
    let jobs_counts = |stats: &Stats| (stats.flushes, stats.compactions, stats.trivial_moves);
    for step in 0..400 {
        // Most of it may fail on a full disk.
        match below(20) {
            0..=8 => {
                let len = usize::try_from(below(700)).expect("small");
                drop(db.put(format!("key{:03}", below(120)), noise(step * 1000 + seed, len)));
            }
            9..=12 => drop(db.delete(format!("key{:03}", below(120)))),
            13 => drop(db.flush()),
            14 => {
                disk.leave_free([0, 8 << 10, 40 << 10, 120 << 10][usize::try_from(below(4)).expect("small")]);
            }
            15 => {
                drop(db);
                db = open();
            }
            16 => drop(db.resume()),
            _ => {
                if db.wait_idle().is_ok() {
                    let before = jobs_counts(&db.stats());
                    let stepped = db.background_step();
                    let after = jobs_counts(&db.stats());
                    assert_eq!(
                        before, after,
                        "seed {seed}, step {step}: flushes, merges, moves; the step gave {stepped:?}"
                    );
                }
            }
        }
    }
}

/// Records that a full log held back are counted once when they have gone into the next one.
#[test]
fn what_a_full_log_held_back_is_counted_once() {
    let disk = MemVfs::new();
    let hooked = HookedVfs::over(disk.clone());
    let options = Options::default().wal_preallocate_bytes(0).reserve_bytes_max(0);
    let db = builder(&hooked, options, &Background::Manual).open().expect("opens");
    for i in 0..100 {
        db.default_keyspace().put_with(numbered(i), [7; 1000], WriteOptions::none()).expect("puts");
    }
    hooked.set_hook(|call| if call.is(Op::Append, ".wal") { Err(full(call)) } else { Ok(()) });
    db.put("one", "more").expect_err("the log is full");
    hooked.clear_hook();
    db.resume().expect("there is space");
    db.sync().expect("there is space");
    db.wait_idle().expect("idle");
    let files = disk.files().into_iter().filter(|path| !path.ends_with("CURRENT"));
    let there: u64 = files.map(|path| disk.metadata(&path).expect("listed").len).sum();
    assert_eq!(db.stats().disk_bytes, there, "Stats::disk_bytes against what lies there");
}

// ---- Level 0 where it cannot go down ----

/// Where there is no space to merge level 0 with what lies below it, it is merged within itself: however many flushes come,
/// writes and deletes go on, and once there is space it goes down.
#[test]
fn level_0_is_merged_within_itself_where_it_cannot_go_down() {
    for background in [Background::Threads(2), Background::Manual] {
        within(move || {
            let disk = SmallDisk::new(64 << 20);
            let mut options = tiny().reserve_bytes_max(0).stall_timeout(Duration::from_secs(100));
            keyspace_of(&mut options).compression = Compression::None;
            keyspace_of(&mut options).level_base_bytes = 64 << 20;
            let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options.clone());
            let db = builder.background(background.clone()).open().expect("opens");
            for i in 0..1000 {
                db.put(numbered(i), noise(i, 1000)).expect("there is space");
            }
            db.compact_range(db.default_keyspace(), ..).expect("there is space");
            db.wait_idle().expect("there is space");
            // A fifth of what is there; merging any of it down takes all of it.
            disk.leave_free(256 << 10);
            for i in 0..4 * options.level0_stop as u64 {
                // Both ends, so that every table of level 0 overlaps all that lies below.
                db.put(numbered(0), noise(i, 100)).unwrap_or_else(|error| panic!("put {i}: {error}"));
                let key = if i % 5 == 0 { numbered(10) } else { numbered(999) };
                db.delete(key).unwrap_or_else(|error| panic!("delete {i}: {error}"));
                db.flush().unwrap_or_else(|error| panic!("flush {i}: {error}"));
                // Where nobody else does.
                while matches!(background, Background::Manual) && db.background_step().expect("merges") {}
            }
            let levels =
                |db: &Db| db.stats().keyspaces[0].levels.iter().map(|it| it.files).collect::<Vec<_>>();
            assert!(levels(&db)[0] < options.level0_stop, "{:?}", levels(&db));
            let check = |db: &Db| {
                assert!(!db.contains_key(numbered(10)).expect("reads"), "a delete is kept");
                assert_eq!(db.iter().expect("reads").count(), 998);
            };
            check(&db);
            disk.leave_free(16 << 20);
            db.resume().expect("there is space");
            for _ in 0..options.level0_stop {
                db.put(numbered(0), "last").expect("there is space");
                db.flush().expect("there is space");
            }
            db.wait_idle().expect("there is space");
            check(&db);
            assert!(levels(&db)[0] < 4, "{:?}", levels(&db));
        });
    }
}
