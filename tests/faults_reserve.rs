//! What is set aside for a full disk: it is made, kept, used and given up when it should be, also where a call on it
//! fails, and what it cannot do never keeps a database from going on once there is space.
#![allow(clippy::disallowed_types, reason = "the tests count what other threads do")]

mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/small_disk.rs"]
mod small_disk;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{Model, contents, tiny};
use hooked::{Call, HookedVfs, Op};
use small_disk::SmallDisk;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as Atomic};
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::{
    Background, Compression, Db, DbBuilder, Durability, Error, ErrorKind, Keyspace, KeyspaceOptions, Options,
    Result, UnixMillis, WriteOptions,
};
use watchdog::{CHANCE, Gate, STALL_MAX, ends, start, within};

const BACKGROUNDS: [Background; 2] = [Background::Threads(2), Background::Manual];

/// A database of small memtables and tables.
fn small(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny())
}

/// Returns what the reserve takes, if there is one that was not used.
fn reserve_len(disk: &impl Vfs) -> Option<u64> {
    disk.metadata(Path::new("/db/RESERVE")).ok().map(|metadata| metadata.len).filter(|len| *len > 0)
}

fn numbered(i: u64) -> String {
    format!("key{i:05}")
}

/// Puts 50 keys, and lets the reserve follow them.
fn put_50(db: &Db) {
    for i in 0..50 {
        db.put(numbered(i), [7; 200]).expect("there is space");
    }
    db.wait_idle().expect("there is space");
}

/// Deletes until the disk is so full that the reserve is used.
fn delete_until_the_reserve_is_used(db: &Db, disk: &impl Vfs) {
    for i in 0.. {
        if reserve_len(disk).is_none() {
            return;
        }
        db.delete(numbered(i % 50)).expect("the reserve is there for deletes");
        assert!(i < 10_000, "the reserve is not used on a full disk");
    }
}

/// Deletes some keys again and again, on a disk where others take what merges free, until the reserve is used.
fn use_up_the_reserve(db: &Db, space: &SmallDisk, keys_count: u64) {
    let is_used = (0..10_000).any(|i| {
        space.leave_free(0);
        db.delete(numbered(i % keys_count)).expect("the reserve is there for deletes");
        reserve_len(space).is_none()
    });
    assert!(is_used, "the reserve is not used on a full disk");
}

/// Puts until the first failure; returns what was acknowledged, and the failure.
fn fill(db: &Db) -> (Model, Error) {
    let mut acknowledged = Model::new();
    for i in 0..100_000 {
        let (key, value) = (numbered(i), vec![i.to_le_bytes()[0]; 300]);
        match db.put(&key, &value) {
            Ok(_) => acknowledged.insert(key.into_bytes(), value),
            Err(error) => return (acknowledged, error),
        };
    }
    panic!("no put ever failed");
}

/// Checks that everything acknowledged is there.
#[track_caller]
fn check_acknowledged(db: &Db, acknowledged: &Model) {
    let found = contents(db.default_keyspace());
    for (key, value) in acknowledged {
        assert_eq!(found.get(key), Some(value), "{} was acknowledged", String::from_utf8_lossy(key));
    }
}

/// Checks that writing goes on, without a reopen, now that there is space.
#[track_caller]
fn check_goes_on(db: &Db, what: &str) {
    let resuming = db.clone();
    ends("resume", move || resuming.resume())
        .unwrap_or_else(|error| panic!("{what}: there is space, but resume says {error:?}"));
    let putting = db.clone();
    ends("a put", move || putting.put("more", "1"))
        .unwrap_or_else(|error| panic!("{what}: there is space, but a put says {error:?}"));
}

fn refused(kind: ErrorKind, call: &Call<'_>) -> Error {
    let operation = match call.op {
        Op::Append => "append",
        Op::Allocate => "allocate",
        Op::Create => "create",
        Op::Rename => "rename",
        Op::Remove => "remove",
        _ => "look at",
    };
    Error::new(kind, "refused by the test").with_operation(operation).with_file(call.path)
}

/// Refuses the first call that is `op` on a file whose name ends so.
fn refuse_once(disk: &HookedVfs, op: Op, end: &'static str, kind: ErrorKind) {
    let is_done = AtomicBool::new(false);
    disk.set_hook(move |call| {
        if call.is(op, end) && !is_done.swap(true, Atomic::SeqCst) {
            return Err(refused(kind, call));
        }
        Ok(())
    });
}

// ---- Where none is wanted ----

/// A reserve that an earlier incarnation set aside goes where none is wanted any more.
#[test]
fn a_reserve_of_an_earlier_life_goes_where_none_is_wanted() {
    within(|| {
        let disk = MemVfs::new();
        let open = |reserve_bytes_max| {
            let options = Options::default().reserve_bytes_max(reserve_bytes_max);
            Db::builder("/db").vfs(Arc::new(disk.clone())).options(options).open().expect("opens")
        };
        let db = open(64 << 20);
        db.put("k", "v").expect("puts");
        db.wait_idle().expect("idle");
        db.close().expect("closes");
        assert!(reserve_len(&disk).is_some(), "there is space for one");
        let db = open(0);
        db.put("k", "v").expect("puts");
        db.close().expect("closes");
        assert_eq!(reserve_len(&disk), None, "nobody wants it");
    });
}

/// A reserve that was used, and that nobody wants any more, goes, be it at the second attempt.
#[test]
fn a_used_reserve_that_nobody_wants_goes() {
    within(|| {
        let space = SmallDisk::new(4 << 20);
        let disk = HookedVfs::over(space.clone());
        let open = |reserve_bytes_max| {
            let options = tiny().reserve_bytes_max(reserve_bytes_max);
            small(&disk).options(options).background(Background::Manual).open().expect("opens")
        };
        let len = || space.metadata(Path::new("/db/RESERVE")).ok().map(|metadata| metadata.len);
        let db = open(64 << 20);
        put_50(&db);
        use_up_the_reserve(&db, &space, 50);
        assert_eq!(len(), Some(0), "it was used");
        db.close().expect("closes");
        refuse_once(&disk, Op::Remove, "RESERVE", ErrorKind::Io);
        space.leave_free(3 << 20);
        let db = open(0);
        db.put("k", "v").expect("puts");
        db.wait_idle().expect("idle");
        db.close().expect("closes");
        assert_eq!(len(), None, "nobody wants it");
    });
}

/// The reserve of an earlier incarnation, used or gone where none is wanted, is not waited for: with space, writing goes on.
#[test]
fn writing_goes_on_after_a_full_disk_where_no_reserve_is_wanted() {
    for is_removal_refused in [false, true] {
        for background in BACKGROUNDS {
            within(move || {
                let what = format!("{background:?}, removal refused: {is_removal_refused}");
                let space = SmallDisk::new(4 << 20);
                let disk = HookedVfs::over(space.clone());
                let open = |reserve_bytes_max| {
                    let options = tiny().reserve_bytes_max(reserve_bytes_max);
                    small(&disk).options(options).background(background.clone()).open().expect("opens")
                };
                let db = open(64 << 20);
                put_50(&db);
                db.close().expect("closes");
                assert!(reserve_len(&space).is_some(), "there is space for one");
                if is_removal_refused {
                    refuse_once(&disk, Op::Remove, "RESERVE", ErrorKind::Io);
                }
                let db = open(0);
                space.leave_free(0);
                delete_until_the_reserve_is_used(&db, &space);
                space.leave_free(3 << 20);
                check_goes_on(&db, &what);
            });
        }
    }
}

// ---- Once it is too large ----

/// Returns what the files of a database take, what is allocated ahead included.
fn len_of_files(disk: &MemVfs) -> u64 {
    disk.files().iter().map(|path| disk.metadata(path).expect("listed").len).sum()
}

/// A few keys that were overwritten again and again until the database was closed leave a reserve for the few keys, and not
/// for the memtable that they filled.
#[test]
fn closing_leaves_a_reserve_that_fits_what_is_live() {
    for background in BACKGROUNDS {
        within(move || {
            let disk = MemVfs::new();
            let options = Options::default().memtable_bytes(8 << 20).durability(Durability::Os);
            let db = small(&disk).options(options).background(background.clone()).open().expect("opens");
            let mut round = 0;
            while db.stats().memtable_bytes < 4 << 20 {
                for i in 0..10 {
                    db.put(numbered(i), [round; 1000]).expect("puts");
                }
                round = round.wrapping_add(1);
            }
            db.close().expect("closes");
            let (reserve, all) = (reserve_len(&disk).expect("there is one"), len_of_files(&disk));
            assert!(reserve < 256 << 10, "{background:?}: a reserve of {reserve} bytes for 10 KB");
            assert!(all < 512 << 10, "{background:?}: files of {all} bytes for 10 KB");
        });
    }
}

/// A small disk that a database has filled and then left nearly empty has a small reserve too.
#[test]
fn a_reserve_shrinks_with_the_data_on_a_small_disk() {
    for background in BACKGROUNDS {
        within(move || {
            let disk = SmallDisk::new(64 << 20);
            let options = Options::default().stall_timeout(STALL_MAX);
            let db = small(&disk).options(options).background(background.clone()).open().expect("opens");
            let mut state = 1u64;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_le_bytes()[7]
            };
            let values: Vec<Vec<u8>> = (0..16).map(|_| (0..1 << 16).map(|_| noise()).collect()).collect();
            let mut count = 0;
            for i in 0..2000 {
                if db
                    .default_keyspace()
                    .put_with(numbered(i), &values[i as usize % 16], WriteOptions::os())
                    .is_err()
                {
                    count = i;
                    break;
                }
            }
            assert!(count > 0, "no put ever failed");
            let before = reserve_len(&disk);
            for i in 0..count {
                db.default_keyspace()
                    .delete_with(numbered(i), WriteOptions::os())
                    .expect("the reserve is there for deletes");
            }
            // One attempt may find the space taken by a merge that gives it back in the end.
            let settle = || db.flush().and_then(|()| db.compact_range(db.default_keyspace(), ..));
            let settled = (0..100).any(|_| settle().and_then(|()| db.wait_idle()).is_ok());
            assert!(settled, "{background:?}: there is space: {:?}", db.background_errors());
            db.resume().expect("there is space for a reserve");
            let after = reserve_len(&disk).expect("there is space for one");
            assert!(
                after < 1 << 20,
                "{background:?}: a reserve of {after} bytes for nothing, {before:?} before"
            );
        });
    }
}

// ---- Beside others who delete ----

/// A database of a few keys whose reserve was used on a full disk.
fn used_up(background: &Background) -> (SmallDisk, Db) {
    let space = SmallDisk::new(16 << 20);
    let disk = HookedVfs::over(space.clone());
    let options = tiny().memtable_bytes(256 << 10);
    let db = small(&disk).options(options).background(background.clone()).open().expect("opens");
    put_50(&db);
    use_up_the_reserve(&db, &space, 50);
    // Deletes overlap more often.
    let clock = MemVfs::new();
    disk.set_hook(move |call| {
        if matches!(call.op, Op::Sync | Op::SyncFile) {
            clock.sleep(Duration::from_millis(2));
        }
        Ok(())
    });
    (space, db)
}

/// Once there is space, writing goes on, whoever deletes meanwhile: these do not keep the reserve from coming back.
#[test]
fn writing_goes_on_beside_others_who_delete() {
    for background in BACKGROUNDS {
        within(move || {
            let (space, db) = used_up(&background);
            let is_over = Arc::new(AtomicBool::new(false));
            let deleters: Vec<_> = (0..8)
                .map(|thread| {
                    let (db, is_over) = (db.clone(), Arc::clone(&is_over));
                    start("deletes", move || {
                        for i in 0.. {
                            if is_over.load(Atomic::SeqCst) {
                                break;
                            }
                            drop(db.delete(format!("gone{thread}-{}", i % 50)));
                        }
                    })
                })
                .collect();
            MemVfs::new().sleep(Duration::from_millis(100));
            space.leave_free(12 << 20);
            check_goes_on(&db, &format!("{background:?}"));
            is_over.store(true, Atomic::SeqCst);
            deleters.into_iter().for_each(|deleter| deleter.join());
        });
    }
}

/// Puts that waited for a flush, which had space only because the reserve was used, do not take what deletes were given.
#[test]
fn puts_that_waited_leave_deletes_their_space() {
    within(|| {
        let space = SmallDisk::new(64 << 20);
        let disk = HookedVfs::over(space.clone());
        let keyspace = KeyspaceOptions::default().compression(Compression::None);
        let options = tiny().memtable_bytes(256 << 10).sealed_memtables_max(1).default_keyspace(keyspace);
        let options = options.stall_timeout(STALL_MAX);
        let db = small(&disk).options(options).background(Background::Threads(2)).open().expect("opens");
        put_50(&db);
        let gate = Gate::default();
        let _opens = gate.opens_at_the_end();
        gate.close();
        let (door, is_refused) = (gate.clone(), AtomicBool::new(false));
        disk.set_hook(move |call| {
            if call.is(Op::Create, ".sst") {
                door.pass();
                if !is_refused.swap(true, Atomic::SeqCst) {
                    return Err(refused(ErrorKind::NoSpace, call));
                }
            }
            Ok(())
        });
        let mut number = 0u32;
        // One memtable waits for its flush, and the next one is full.
        while db.stats().sealed_memtables == 0 || db.stats().memtable_bytes < 256 << 10 {
            db.put(format!("fill{number:05}"), vec![number.to_le_bytes()[0]; 2000]).expect("puts");
            number += 1;
        }
        gate.await_parked();
        let puts: Vec<_> = (0..4)
            .map(|n| {
                let db = db.clone();
                start("a put", move || db.put(format!("waited{n}"), vec![n; 200 << 10]).map(drop))
            })
            .collect();
        MemVfs::new().sleep(Duration::from_millis(100));
        space.leave_free(0);
        gate.open();
        drop(puts.into_iter().map(|put| put.join()).collect::<Vec<_>>());
        for i in 0..20 {
            db.delete(numbered(i)).unwrap_or_else(|error| panic!("delete {i}: {error:?}"));
        }
    });
}

/// A drop or clear of what is not there leaves the reserve for those that free space.
#[test]
fn a_drop_of_nothing_leaves_the_reserve() {
    within(|| {
        let disk = SmallDisk::new(4 << 20);
        let options = tiny().memtable_bytes(1 << 20);
        let db = small(&disk).options(options).background(Background::Manual).open().expect("opens");
        let gone = db.create_keyspace("gone", KeyspaceOptions::default()).expect("creates");
        db.drop_keyspace("gone").expect("drops");
        put_50(&db);
        disk.leave_free(0);
        while db.put("more", [7; 500]).is_ok() {}
        let refused = db.put("more", "1").expect_err("writing is off");
        assert_eq!(refused.kind(), ErrorKind::ReadOnly, "{refused:?}");
        let before = reserve_len(&disk);
        assert!(before.is_some());
        assert_eq!(db.drop_keyspace("typo").expect_err("there is none").kind(), ErrorKind::NotFound);
        assert_eq!(gone.clear().expect_err("it was dropped").kind(), ErrorKind::Closed);
        assert_eq!(reserve_len(&disk), before);
    });
}

/// A merge goes on where its tables fit, however long the values are before they are packed.
#[test]
fn a_merge_of_what_packs_well_fits() {
    for background in BACKGROUNDS {
        within(move || {
            let disk = SmallDisk::new(64 << 20);
            let keyspace = KeyspaceOptions::default().level0_compaction_trigger(12);
            let options = tiny().memtable_bytes(256 << 10).default_keyspace(keyspace);
            let db = small(&disk).options(options).background(background.clone()).open().expect("opens");
            for i in 0..4 {
                db.put(numbered(i), vec![0; 4 << 20]).expect("puts");
                db.flush().expect("flushes");
            }
            db.wait_idle().expect("idle");
            use_up_the_reserve(&db, &disk, 2);
            disk.leave_free(300 << 10);
            let compacted = db.compact_range(db.default_keyspace(), ..);
            assert!(compacted.is_ok(), "{background:?}: {compacted:?}");
        });
    }
}

// ---- Where the background is busy ----

/// The reserve keeps up with a memtable that fills while the background is busy: what memory holds can be flushed on the disk
/// that puts have filled.
#[test]
fn the_reserve_follows_a_memtable_while_the_background_is_busy() {
    within(|| {
        let space = SmallDisk::new(16 << 20);
        let disk = HookedVfs::over(space.clone());
        let keyspace = KeyspaceOptions::default().compression(Compression::None);
        let options =
            tiny().memtable_bytes(6 << 20).stall_timeout(Duration::from_secs(2)).default_keyspace(keyspace);
        let db = small(&disk).options(options).background(Background::Threads(1)).open().expect("opens");
        db.put("first", "1").expect("puts");
        db.wait_idle().expect("idle");
        let gate = Gate::default();
        let _opens = gate.opens_at_the_end();
        gate.close();
        let door = gate.clone();
        disk.set_hook(move |call| {
            if call.is(Op::Create, ".sst") {
                door.pass();
            }
            Ok(())
        });
        let flushing = db.clone();
        let flush = start("flush", move || flushing.flush());
        gate.await_parked();
        let put = |i| db.default_keyspace().put_with(numbered(i), vec![7; 64 << 10], WriteOptions::os());
        let count = (0..2000).find(|i| put(*i).is_err()).expect("the disk fills up");
        gate.open();
        drop(flush.join());
        for i in 0..count {
            let deleted = db.default_keyspace().delete_with(numbered(i), WriteOptions::os());
            deleted.expect("the reserve is there for deletes");
        }
        let settle = || db.flush().and_then(|()| db.compact_range(db.default_keyspace(), ..));
        let settled = (0..100).any(|_| settle().is_ok());
        assert!(settled, "there is space: {:?}", db.background_errors());
    });
}

// ---- After a time with little space ----

/// Memtables that were sealed early while there was no space for a reserve that follows them grow again with space.
#[test]
fn memtables_grow_again_once_there_is_space_for_their_reserve() {
    within(|| {
        let clock = ManualClock::new(UnixMillis(1_700_000_000_000));
        let disk = SmallDisk::over(MemVfs::with_clock(clock.clone()), 400 << 20);
        let options = Options::default().memtable_bytes(8 << 20).durability(Durability::Os);
        let db = small(&disk).options(options).background(Background::Manual).open().expect("opens");
        let work = || while db.background_step().expect("works") {};
        let mut state = 1u64;
        let mut write = |kib_count: u64| {
            for i in 0..kib_count {
                let value: Vec<u8> = (0..1000)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        state.to_le_bytes()[7]
                    })
                    .collect();
                db.put(numbered(i % 1000), value).expect("there is space");
                if i % 32 == 0 {
                    work();
                }
            }
        };
        write(2 << 10);
        disk.leave_free(5 << 19);
        write(3 << 9);
        disk.leave_free(390 << 20);
        // A look for space comes after a pause.
        for _ in 0..30 {
            clock.advance(Duration::from_secs(1));
            db.put("tick", "1").expect("there is space");
            work();
        }
        let before = db.stats().flushes;
        write(32 << 10);
        let flushes_count = db.stats().flushes - before;
        assert!(flushes_count <= 5, "{flushes_count} flushes of 32 MiB with memtables of 8 MiB");
    });
}

/// Fills a disk with a reserve that memory has outgrown; the pause until it is looked after again never ends.
fn outgrown(background: Background) -> (SmallDisk, Db) {
    let clock = ManualClock::new(UnixMillis(1_700_000_000_000));
    let disk = SmallDisk::over(MemVfs::with_clock(clock), 4 << 20);
    let options = tiny().memtable_bytes(256 << 10);
    let db = small(&disk).options(options).background(background).open().expect("opens");
    db.wait_idle().expect("idle");
    assert!(reserve_len(&disk).is_some(), "there is space for one");
    disk.leave_free(40 << 10);
    for i in 0..20 {
        db.put(numbered(i), [7; 1000]).expect("there is space");
    }
    db.wait_idle().expect("idle");
    disk.leave_free(0);
    delete_until_the_reserve_is_used(&db, &disk);
    (disk, db)
}

/// A resume looks for space at once, also in a pause after a look that found none.
#[test]
fn a_resume_looks_for_space_without_waiting() {
    for background in BACKGROUNDS {
        within(move || {
            let (disk, db) = outgrown(background.clone());
            disk.leave_free(3 << 20);
            check_goes_on(&db, &format!("{background:?}"));
        });
    }
}

// ---- After a reopening ----

/// That a reserve was used is known after a reopening, be it after a close or without one: puts do not take what the deletes
/// were given, and deletes go on.
#[test]
fn a_used_reserve_is_not_forgotten_by_a_reopening() {
    for (background, is_closed) in BACKGROUNDS.into_iter().flat_map(|it| [(it.clone(), true), (it, false)]) {
        within(move || {
            let disk = SmallDisk::new(8 << 20);
            disk.leave_free(3 << 20);
            let options = tiny().memtable_bytes(256 << 10);
            let open = || small(&disk).options(options.clone()).background(background.clone()).open();
            let db = open().expect("opens");
            fill(&db);
            use_up_the_reserve(&db, &disk, 50);
            if is_closed {
                db.close().expect("closes");
            } else {
                drop(db);
            }
            let what = format!("{background:?}, closed: {is_closed}");
            let db = open().expect("opens");
            let refused = fill(&db).1;
            assert_eq!(refused.kind(), ErrorKind::NoSpace, "{what}: {refused:?}");
            for i in 0..50 {
                db.delete(numbered(100 + i)).unwrap_or_else(|error| panic!("{what}: delete {i}: {error:?}"));
            }
            disk.leave_free(4 << 20);
            check_goes_on(&db, &what);
        });
    }
}

// ---- Calls that fail once ----

/// A reserve whose removal fails once is there for the next delete.
#[test]
fn a_failed_removal_of_the_reserve_costs_one_delete_at_most() {
    for background in BACKGROUNDS {
        within(move || {
            let space = SmallDisk::new(4 << 20);
            let disk = HookedVfs::over(space.clone());
            let db = small(&disk).background(background.clone()).open().expect("opens");
            put_50(&db);
            space.leave_free(0);
            let removals_count = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&removals_count);
            disk.set_hook(move |call| match call.is(Op::Remove, "RESERVE") {
                true if counted.fetch_add(1, Atomic::SeqCst) == 0 => Err(refused(ErrorKind::Io, call)),
                _ => Ok(()),
            });
            // So few fit into the space of the reserve.
            let deletes = (0..60).map(|i| db.delete(numbered(i % 50)));
            let failures: Vec<Error> = deletes.filter_map(Result::err).take(2).collect();
            let len = reserve_len(&space);
            assert!(failures.len() <= 1, "{background:?}: with a reserve of {len:?} bytes: {failures:?}");
            let removals_count = removals_count.load(Atomic::SeqCst);
            assert!(removals_count >= 2, "{background:?}: the deletes needed the space of the reserve");
        });
    }
}

/// An opening that cannot look at the reserve fails, since it could neither use it nor make it anew on a full disk; the
/// next one has it.
#[test]
fn an_opening_that_cannot_look_at_the_reserve_fails_and_keeps_it() {
    within(|| {
        let space = SmallDisk::new(4 << 20);
        let disk = HookedVfs::over(space.clone());
        let open = || small(&disk).background(Background::Manual).open();
        let db = open().expect("opens");
        put_50(&db);
        drop(db);
        space.leave_free(0);
        refuse_once(&disk, Op::Metadata, "RESERVE", ErrorKind::Io);
        let error = open().expect_err("the look at the reserve is refused");
        assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
        assert!(format!("{error:?}").contains("RESERVE"), "{error:?}");
        let db = open().expect("the next look goes through");
        let (_, error) = fill(&db);
        for i in 0..20 {
            db.delete(numbered(i)).unwrap_or_else(|deleting| {
                panic!("puts took the space of the reserve until {error}: {deleting:?}")
            });
        }
    });
}

/// Resuming may meet an error; the next attempt goes on from where it was.
#[test]
fn a_resume_that_fails_can_be_tried_again() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let options = tiny().reserve_bytes_max(0);
        let db = small(&disk).options(options).background(Background::Manual).open().expect("opens");
        db.put("a", "1").expect("puts");
        refuse_once(&disk, Op::Append, ".wal", ErrorKind::NoSpace);
        db.put("b", "2").expect_err("the log is refused");
        refuse_once(&disk, Op::Create, ".wal", ErrorKind::Io);
        db.resume().expect_err("the next segment is refused");
        disk.clear_hook();
        check_goes_on(&db, "after a hiccup");
        assert!(db.get("a").expect("reads").is_some());
    });
}

/// A rename of `CURRENT` that fails leaves it open which manifest counts: no space mends that, so writing is off until a
/// reopen, which is what the error says, and which finds everything acknowledged.
#[test]
fn a_full_disk_that_leaves_the_manifest_in_doubt_asks_for_a_reopen() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let open = || small(&disk).background(Background::Manual).open().expect("opens");
        let db = open();
        refuse_once(&disk, Op::Rename, "CURRENT", ErrorKind::NoSpace);
        let (acknowledged, _) = fill(&db);
        for error in [db.resume().expect_err("off"), db.put("x", "y").expect_err("off")] {
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
            assert!(error.to_string().contains("until it is reopened"), "{error}");
            assert!(!error.to_string().contains("resume"), "resuming does not help: {error}");
        }
        check_acknowledged(&db, &acknowledged);
        drop(db);
        let db = open();
        check_acknowledged(&db, &acknowledged);
        db.put("x", "y").expect("a reopened database takes writes");
    });
}

// ---- A disk that says that there is space ----

/// A quota that is used up is as good as a full disk: with space, writing goes on.
#[test]
fn writing_goes_on_after_a_quota_was_used_up() {
    within(|| {
        for free_kib in [100, 200, 300, 400, 500, 700, 1000] {
            let disk = SmallDisk::with_quota(64 << 20);
            disk.leave_free(free_kib << 10);
            let options = tiny().stall_timeout(STALL_MAX);
            let db = small(&disk).options(options).background(Background::Manual).open().expect("opens");
            // The reserve is set aside by a step.
            db.wait_idle().expect("there is space");
            let (acknowledged, _) = fill(&db);
            drop(db.flush());
            db.delete("unknown").unwrap_or_else(|error| panic!("{free_kib} KiB: no delete: {error:?}"));
            disk.leave_free(10 << 20);
            check_goes_on(&db, &format!("{free_kib} KiB"));
            check_acknowledged(&db, &acknowledged);
        }
    });
}

/// So it is after flushes and deletes have taken the last of it, wherever that was.
#[test]
fn writing_goes_on_after_flushes_and_deletes_used_a_quota_up() {
    within(|| {
        for free_kib in (100..400).step_by(7) {
            let disk = SmallDisk::with_quota(64 << 20);
            let options = tiny().stall_timeout(STALL_MAX).manifest_roll_bytes(4 << 20);
            let db = small(&disk).options(options).background(Background::Manual).open().expect("opens");
            disk.leave_free(free_kib << 10);
            let (acknowledged, _) = fill(&db);
            for _ in 0..3 {
                drop(db.flush());
            }
            let deletes = (0..3000).map(|i| db.delete(format!("unknown{:03}-{i}", i % 200)));
            let failures_count = deletes.filter(Result::is_err).take(4).count();
            disk.leave_free(20 << 20);
            check_goes_on(&db, &format!("{free_kib} KiB, {failures_count} deletes refused"));
            check_acknowledged(&db, &acknowledged);
        }
    });
}

/// A disk that refuses what a reserve takes: descriptors, or the allocation.
fn without_a_reserve(disk: MemVfs, op: Op) -> HookedVfs {
    let disk = HookedVfs::over(disk);
    let temporaries_count = AtomicU64::new(0);
    disk.set_hook(move |call| match (op, call.is(op, ".tmp")) {
        // The first one is what `CURRENT` comes from.
        (Op::Create, true) if temporaries_count.fetch_add(1, Atomic::SeqCst) > 0 => {
            Err(refused(ErrorKind::Exhausted, call))
        }
        (Op::Allocate, true) => Err(refused(ErrorKind::NoSpace, call)),
        _ => Ok(()),
    });
    disk
}

/// While the reserve cannot be made, it is tried again after a pause, and not over and over: in no time at all, it is tried a
/// few times.
#[test]
fn a_reserve_that_cannot_be_made_keeps_no_thread_busy() {
    for op in [Op::Create, Op::Allocate] {
        within(move || {
            let clock = ManualClock::new(UnixMillis(0));
            let disk = HookedVfs::over(without_a_reserve(MemVfs::with_clock(clock.clone()), op));
            let gate = Gate::default();
            gate.close();
            let attempts_count = Arc::new(AtomicU64::new(0));
            let (counting, parking) = (Arc::clone(&attempts_count), gate.clone());
            disk.set_hook(move |call| {
                if call.is(Op::Create, ".tmp") && counting.fetch_add(1, Atomic::SeqCst) >= 10 {
                    parking.pass();
                }
                Ok(())
            });
            let builder = Db::builder("/db").vfs(Arc::new(disk.clone()));
            let db = builder.background(Background::Threads(1)).open().expect("opens");
            let _open = gate.opens_at_the_end();
            db.put("k", "v").expect("puts");
            assert!(!gate.is_parked_within(2 * CHANCE), "{op:?}: ten attempts without a pause");
            gate.open();
            let waiting = {
                let db = db.clone();
                start("wait_idle", move || db.wait_idle())
            };
            while !waiting.ends_within(Duration::from_millis(5)) {
                clock.advance(Duration::from_secs(1));
            }
            waiting.join().expect("nobody needs the reserve yet");
            // The first temporary file is that of `CURRENT`.
            assert!(attempts_count.load(Atomic::SeqCst) > 1, "{op:?}: the reserve is tried");
        });
    }
}

/// And a database whose reserve cannot be made comes to rest.
#[test]
fn a_database_whose_reserve_cannot_be_made_comes_to_rest() {
    for op in [Op::Create, Op::Allocate] {
        for background in BACKGROUNDS {
            within(move || {
                let disk = without_a_reserve(MemVfs::new(), op);
                let builder = Db::builder("/db").vfs(Arc::new(disk.clone()));
                let db = builder.background(background.clone()).open().expect("opens");
                db.put("k", "v").expect("puts");
                let waiting = db.clone();
                ends("wait_idle", move || waiting.wait_idle()).expect("nobody needs the reserve yet");
            });
        }
        within(move || {
            let disk = without_a_reserve(MemVfs::new(), op);
            let builder = Db::builder("/db").vfs(Arc::new(disk.clone()));
            let db = builder.background(Background::Manual).open().expect("opens");
            db.put("k", "v").expect("puts");
            let mut steps_count = 0;
            while db.background_step().expect("works") {
                steps_count += 1;
                assert!(steps_count < 1000, "{op:?}: there is always another job to do");
            }
        });
    }
}

/// A database without descriptors says that these are what it lacks, keeps the reserve, which is no help, and goes on
/// once it has some.
#[test]
fn a_delete_that_lacks_descriptors_does_not_use_the_reserve() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let open = || small(&disk).background(Background::Manual).open().expect("opens");
        let db = open();
        put_50(&db);
        drop(db);
        assert!(reserve_len(&disk).is_some(), "there is space for one");
        disk.set_hook(|call| match call.op {
            Op::Create => Err(refused(ErrorKind::Exhausted, call)),
            _ => Ok(()),
        });
        let db = open();
        let errors = [
            db.delete(numbered(1)).expect_err("there is no descriptor for a log"),
            db.put("c", "1").expect_err("there is no descriptor for a log"),
        ];
        for error in errors {
            assert!(error.to_string().contains("descriptors"), "{error}");
        }
        assert!(reserve_len(&disk).is_some(), "the disk has space");
        disk.clear_hook();
        check_goes_on(&db, "with descriptors");
        db.delete(numbered(1)).expect("deletes");
    });
}

/// Where a quota refuses to allocate and to write, looks for space leave no file behind.
#[test]
fn looks_for_space_leave_no_file() {
    within(|| {
        let disk = HookedVfs::over(MemVfs::new());
        let options = tiny().reserve_bytes_max(0).manifest_roll_bytes(64 << 10);
        let builder = Db::builder("/db").vfs(Arc::new(disk.clone())).options(options);
        let db = builder.background(Background::Manual).open().expect("opens");
        disk.set_hook(|call| {
            let is_manifest = call.path.to_string_lossy().contains("MANIFEST");
            match is_manifest && call.op == Op::Allocate || call.is(Op::Append, ".tmp") {
                true => Err(Error::new(ErrorKind::NoSpace, "quota").with_file(call.path)),
                false => Ok(()),
            }
        });
        let mut looks_count = 0;
        for round in 0..400 {
            for i in 0..5 {
                looks_count += u64::from(db.put(numbered(i), [round as u8; 300]).is_err());
            }
            looks_count += u64::from(db.flush().is_err());
            drop(db.resume());
            while let Ok(true) = db.background_step() {}
        }
        assert!(looks_count > 10, "{looks_count} calls found no space");
        let names = || disk.read_dir(Path::new("/db")).expect("lists").into_iter().map(|entry| entry.name);
        let left: Vec<_> = names().filter(|name| name.ends_with(".tmp")).collect();
        assert!(left.is_empty(), "left: {left:?}");
    });
}

// ---- Many keyspaces ----

/// Deletes in each of so many keyspaces on a full disk, however little each has, are taken, flushed and merged.
fn check_full_disk_with_keyspaces(keyspaces_count: u32, background: Background) {
    let disk = SmallDisk::new(256 << 20);
    let keyspace = KeyspaceOptions::default().compression(Compression::None);
    let options = Options::default()
        .stall_timeout(STALL_MAX)
        .memtable_bytes(4 << 20)
        .default_keyspace(keyspace.clone());
    let db = small(&disk).options(options).background(background).open().expect("opens");
    let create = |i| db.create_keyspace(&format!("keyspace{i:04}"), keyspace.clone()).expect("creates");
    let keyspaces: Vec<Keyspace> = (0..keyspaces_count).map(create).collect();
    for keyspace in &keyspaces {
        for i in 0..5 {
            keyspace.put_with(numbered(i), [7; 200], WriteOptions::os()).expect("there is space");
        }
    }
    db.flush().expect("there is space");
    db.wait_idle().expect("there is space");
    let what = format!("a reserve of {:?} bytes", reserve_len(&disk));
    disk.leave_free(0);
    for i in 0..5 {
        for keyspace in &keyspaces {
            keyspace
                .delete_with(numbered(i), WriteOptions::os())
                .unwrap_or_else(|error| panic!("{what}: no delete {i} in {}: {error:?}", keyspace.name()));
        }
    }
    db.flush().unwrap_or_else(|error| panic!("{what}: no flush: {error:?}"));
    for keyspace in &keyspaces {
        db.compact_range(keyspace, ..)
            .unwrap_or_else(|error| panic!("{what}: no merge of {}: {error:?}", keyspace.name()));
        assert!(contents(keyspace).is_empty());
    }
}

/// Each keyspace needs space for its tables, and a few have it.
#[test]
fn the_reserve_is_enough_for_five_keyspaces() {
    for background in BACKGROUNDS {
        within(move || check_full_disk_with_keyspaces(5, background));
    }
}

/// So do more of them, whose small tables take more than an eighth of what is in them.
#[test]
fn the_reserve_is_enough_for_fifty_keyspaces() {
    for background in BACKGROUNDS {
        within(move || check_full_disk_with_keyspaces(50, background));
    }
}

/// And so do many.
#[test]
fn the_reserve_is_enough_for_three_hundred_keyspaces() {
    for background in BACKGROUNDS {
        within(move || check_full_disk_with_keyspaces(300, background));
    }
}
