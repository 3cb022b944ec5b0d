//! What the simulated disk can do to a program besides losing power: refuse, run out, bring wrong bytes, be damaged, and
//! be used by others at the same time.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::base::error::{ErrorKind, Result};
use tinylsm::sync::process_id;
use tinylsm::vfs::{LockMode, Vfs, WriteFile, read_full};
use tinylsm_sim::disk::{Damage, FaultPlan, Profile, SimDisk};
use tinylsm_sim::schedule::{self, Options, Simulation};
use tinylsm_sim::tape::Tape;

const ROOT: &str = "/db";
/// A fault that always happens.
const CERTAIN: u32 = 1_000_000;

fn disk() -> SimDisk {
    disk_of(7)
}

fn disk_of(seed: u64) -> SimDisk {
    let disk = SimDisk::new(Profile::Worst, Tape::from_seed(seed));
    disk.create_dir_all(Path::new(ROOT)).unwrap();
    disk
}

fn at(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Puts a synced file there.
fn put(disk: &dyn Vfs, name: &str, bytes: &[u8]) -> Box<dyn WriteFile> {
    let mut file = disk.create_new(&at(name)).unwrap();
    file.append(&[IoSlice::new(bytes)]).unwrap();
    file.sync().unwrap();
    file
}

fn read(disk: &dyn Vfs, name: &str) -> Vec<u8> {
    let file = disk.open(&at(name)).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(read_full(file.as_ref(), &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// Checks that damage is there for good: for readers, and after a crash in which everything synced is kept.
fn assert_damaged(disk: &SimDisk, name: &str, expected: &[u8]) {
    assert_eq!(read(disk, name), expected);
    disk.sync_dir(Path::new(ROOT)).unwrap();
    assert_eq!(read(&disk.image(), name), expected);
    assert_eq!(read(&disk.copy(), name), expected);
}

#[test]
fn descriptors_run_out_and_come_back() {
    let disk = disk();
    let first = put(&disk, "a", b"a");
    assert_eq!(disk.descriptors_open(), 1);
    disk.set_descriptors(Some(2));
    let reader = disk.open(&at("a")).unwrap();
    let refused = [
        kind(disk.open(&at("a"))),
        kind(disk.create_new(&at("b"))),
        kind(disk.sync_file(&at("a"))),
        kind(disk.read_dir(Path::new(ROOT))),
        kind(disk.sync_dir(Path::new(ROOT))),
        kind(disk.lock(&at("LOCK"), LockMode::Exclusive)),
        kind(disk.create_dir_all(&at("dir"))),
        kind(Arc::new(disk.clone()).hold_dir(Path::new(ROOT))),
    ];
    assert_eq!(refused, [Some(ErrorKind::Exhausted); 8]);
    assert_eq!(disk.failures_count(), 8);
    assert_eq!(disk.counters()["descriptors exhausted"], 8);
    assert_eq!(disk.files().len(), 1, "what was refused made no file");
    // Another process has its own.
    assert!(disk.foreign().open(&at("a")).is_ok());
    drop(reader);
    let held = Arc::new(disk.clone()).hold_dir(Path::new(ROOT)).unwrap();
    held.sync_dir(Path::new(ROOT)).unwrap();
    assert_eq!(kind(held.read_dir(Path::new(ROOT))), Some(ErrorKind::Exhausted));
    drop((first, held));
    assert_eq!(disk.descriptors_open(), 0);
    let lock = disk.lock(&at("LOCK"), LockMode::Exclusive).unwrap();
    assert_eq!(disk.descriptors_open(), 1);
    lock.release().unwrap();
    assert_eq!(disk.descriptors_open(), 0);
    disk.set_faults(FaultPlan { exhausted: CERTAIN, ..FaultPlan::default() });
    assert_eq!(kind(disk.open(&at("a"))), Some(ErrorKind::Exhausted));
    assert_eq!(disk.counters()["descriptor refused"], 1);
}

#[test]
fn a_disk_that_is_full_from_the_start_takes_nothing_and_can_be_read() {
    let disk = disk();
    disk.set_space(Some(0));
    assert_eq!(kind(disk.create_new(&at("a"))), Some(ErrorKind::NoSpace));
    assert_eq!(disk.available_space(Path::new(ROOT)).unwrap(), 0);
    disk.add_space(100);
    let mut file = put(&disk, "a", b"0123456789");
    file.allocate(60).unwrap();
    assert_eq!(disk.space_used(), 60);
    let seen = disk.files_in(Path::new(ROOT));
    assert_eq!((seen[0].name.as_str(), seen[0].len, seen[0].bytes.len()), ("a", 60, 10));
    disk.remove_file(&at("a")).unwrap();
    assert_eq!((disk.space_used(), disk.files().len()), (60, 0), "an open file keeps its space");
    drop(file);
    assert_eq!(disk.space_used(), 0);
}

#[test]
fn what_a_disk_cannot_do_is_refused_by_name() {
    let disk = disk();
    disk.set_faults(FaultPlan {
        refuses_locks: true,
        refuses_dir_sync: true,
        refuses_allocation: true,
        ..FaultPlan::default()
    });
    let locked = disk.lock(&at("LOCK"), LockMode::Exclusive);
    assert_eq!(kind(locked), Some(ErrorKind::Unsupported));
    assert_eq!(kind(disk.sync_dir(Path::new(ROOT))), Some(ErrorKind::Unsupported));
    assert_eq!(kind(disk.create_dir_all(&at("dir"))), Some(ErrorKind::Unsupported));
    let mut file = put(&disk, "a", b"a");
    file.allocate(100).unwrap();
    assert_eq!(read(&disk, "a"), b"a");
}

#[test]
fn every_operation_can_fail() {
    let disk = disk();
    let mut file = put(&disk, "a", b"a");
    let lock = disk.lock(&at("LOCK"), LockMode::Shared).err();
    assert!(lock.is_some(), "a shared lock makes no file");
    let lock = disk.lock(&at("LOCK"), LockMode::Exclusive).unwrap();
    let reader = disk.open(&at("a")).unwrap();
    let mut fails = |plan: FaultPlan, name: &str, call: &mut dyn FnMut(&mut dyn WriteFile) -> Result<()>| {
        disk.set_faults(plan);
        assert_eq!(kind(call(file.as_mut())), Some(ErrorKind::Io), "{name}");
        disk.set_faults(FaultPlan::default());
        assert_eq!(disk.counters()[name], 1);
    };
    let none = FaultPlan::default;
    fails(FaultPlan { read_dir: CERTAIN, ..none() }, "read_dir failed", &mut |_| {
        disk.read_dir(Path::new(ROOT)).map(drop)
    });
    fails(FaultPlan { link: CERTAIN, ..none() }, "link failed", &mut |_| {
        disk.link_or_copy(&at("a"), &at("b")).map(drop)
    });
    fails(FaultPlan { open: CERTAIN, ..none() }, "open failed", &mut |_| disk.open(&at("a")).map(drop));
    fails(FaultPlan { read: CERTAIN, ..none() }, "read failed", &mut |_| {
        reader.read_at(&mut [0], 0).map(drop)
    });
    fails(FaultPlan { allocate: CERTAIN, ..none() }, "allocate failed", &mut |file| file.allocate(10));
    fails(FaultPlan { trim: CERTAIN, ..none() }, "trim failed", &mut |file| file.trim());
    fails(FaultPlan { metadata: CERTAIN, ..none() }, "metadata failed", &mut |_| lock.check());
    fails(FaultPlan { create: CERTAIN, ..none() }, "create failed", &mut |_| {
        disk.create_new(&at("c")).map(drop)
    });
    fails(FaultPlan { rename: CERTAIN, ..none() }, "rename failed", &mut |_| disk.rename(&at("a"), &at("d")));
    fails(FaultPlan { sync: CERTAIN, ..none() }, "sync failed", &mut |file| file.sync());
    fails(FaultPlan { sync_dir: CERTAIN, ..none() }, "sync_dir failed", &mut |_| {
        disk.sync_dir(Path::new(ROOT))
    });
    fails(FaultPlan { append: CERTAIN, ..none() }, "append failed", &mut |file| file.append(&[]));
    assert_eq!(disk.failures_count(), 12);
}

#[test]
fn one_failure_brings_others_with_it() {
    let mut runs = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = disk_of(seed);
        put(&disk, "a", b"a");
        let plan = FaultPlan { open: 100_000, metadata: 1, chain: 2, ..FaultPlan::default() };
        disk.set_faults(plan.clone());
        let failed: Vec<bool> = (0..100).map(|_| disk.open(&at("a")).is_err()).collect();
        // Once one has failed the next two do, whatever they are, and nothing that the plan does not know.
        let first = failed.iter().position(|failed| *failed).unwrap();
        runs.insert(first);
        assert!(failed[first..].iter().take(3).all(|failed| *failed), "{failed:?}");
        disk.set_faults(plan);
        while disk.open(&at("a")).is_ok() {}
        assert!(disk.read_dir(Path::new(ROOT)).is_ok());
        assert!(disk.metadata(&at("a")).is_err());
        assert!(disk.counters()["fault chained to another"] >= 2);
    }
    assert!(runs.len() > 3, "{runs:?}");
}

#[test]
fn a_read_brings_other_bytes_or_older_ones_once() {
    let first: Vec<u8> = (0..3000u32).map(|index| (index / 512 + 1) as u8).collect();
    let plans = [
        ("misdirected read", FaultPlan { misdirected_read: CERTAIN, ..FaultPlan::default() }),
        ("stale read", FaultPlan { stale_read: CERTAIN, ..FaultPlan::default() }),
    ];
    for (name, plan) in plans {
        let mut wrong = 0;
        for seed in 0..40 {
            let disk = disk_of(seed);
            put(&disk, "a.sst", &first);
            put(&disk, "b.wal", b"another file");
            disk.set_faults(FaultPlan { wrong_reads_of: ".sst", ..plan.clone() });
            let reader = disk.open(&at("a.sst")).unwrap();
            let mut bytes = [0; 700];
            assert_eq!(reader.read_at(&mut bytes, 900).unwrap(), 700);
            let is_wrong = bytes != first[900..1600];
            assert_eq!(disk.counters().contains_key(name), is_wrong);
            assert_eq!(disk.failures_count(), u64::from(is_wrong));
            wrong += u32::from(is_wrong);
            assert_eq!(read(&disk, "b.wal"), b"another file");
            disk.set_faults(FaultPlan::default());
            assert_eq!(read(&disk, "a.sst"), first);
        }
        assert!(wrong > 20, "{name}: {wrong}");
    }
}

#[test]
fn damage_is_durable_and_exactly_what_it_says() {
    let bytes: Vec<u8> = (0..2000u32).map(|index| (index % 251) as u8 + 1).collect();
    let damaged = |damage: &Damage, change: &dyn Fn(&mut Vec<u8>)| {
        let disk = disk();
        put(&disk, "a", &bytes);
        put(&disk, "b", &[9; 600]);
        assert!(disk.damage(&at("a"), damage).unwrap(), "{damage}");
        assert_eq!(disk.counters()[damage.name()], 1);
        let mut expected = bytes.clone();
        change(&mut expected);
        assert_damaged(&disk, "a", &expected);
        assert_eq!(disk.space_used(), 600 + expected.len() as u64);
    };
    damaged(&Damage::Flip { at: 5, bit: 3 }, &|bytes| bytes[5] ^= 8);
    damaged(&Damage::Zero { start: 512, len: 512 }, &|bytes| bytes[512..1024].fill(0));
    damaged(&Damage::Cut { len: 700 }, &|bytes| bytes.truncate(700));
    damaged(&Damage::Copied { start: 512, len: 512, from: at("b"), at: 512 }, &|bytes| {
        bytes[512..600].fill(9);
        bytes[600..1024].fill(0);
    });
    damaged(&Damage::Copied { start: 0, len: 512, from: at("a"), at: 1024 }, &|bytes| {
        bytes.copy_within(1024..1536, 0);
    });
    let lengthened = disk();
    put(&lengthened, "a", &bytes);
    assert!(lengthened.damage(&at("a"), &Damage::Lengthened { len: 600, seed: 3 }).unwrap());
    let found = read(&lengthened, "a");
    assert_eq!((found.len(), &found[..2000]), (2600, &bytes[..]));
    assert_damaged(&lengthened, "a", &found);
    // What is not there cannot be damaged, and zeros cannot be zeroed.
    let disk = disk();
    drop(put(&disk, "a", &[0; 600]));
    assert!(!disk.damage(&at("a"), &Damage::Zero { start: 10, len: 500 }).unwrap());
    assert!(!disk.damage(&at("a"), &Damage::Cut { len: 600 }).unwrap());
    assert!(!disk.damage(&at("a"), &Damage::Former).unwrap());
    let behind = disk.damage(&at("a"), &Damage::Zero { start: 590, len: 11 });
    assert_eq!(kind(behind), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(disk.flip_bit(&at("b"), 0, 0)), Some(ErrorKind::NotFound));
    assert!(disk.counters().is_empty());
}

#[test]
fn a_stale_sector_is_as_it_was_before_the_last_append_to_it() {
    let disk = disk();
    let mut file = put(&disk, "a", &[1; 600]);
    file.append(&[IoSlice::new(&[2; 100])]).unwrap();
    file.append(&[IoSlice::new(&[3; 900])]).unwrap();
    file.sync().unwrap();
    assert!(disk.damage(&at("a"), &Damage::Stale { start: 1000, len: 1 }).unwrap());
    let mut expected = [vec![1; 600], vec![2; 100], vec![3; 900]].concat();
    expected[700..1024].fill(0);
    assert_damaged(&disk, "a", &expected);
    // A sector that one append wrote was zeros before it; so is one of a copy.
    let copy = disk.copy();
    assert!(copy.damage(&at("a"), &Damage::Stale { start: 1024, len: 512 }).unwrap());
    expected[1024..1536].fill(0);
    assert_damaged(&copy, "a", &expected);
}

#[test]
fn a_write_that_went_astray_is_missing_here_and_there_instead() {
    let disk = disk();
    put(&disk, "a", &[1; 1024]);
    put(&disk, "b", &[2; 1024]);
    assert!(disk.misdirect_write(&at("a"), (512, 512), &at("b"), 0).unwrap());
    assert_damaged(&disk, "a", &[vec![1; 512], vec![0; 512]].concat());
    assert_damaged(&disk, "b", &[vec![1; 512], vec![2; 512]].concat());
}

#[test]
fn the_file_that_a_name_had_before_comes_back() {
    let disk = disk();
    put(&disk, "CURRENT", b"MANIFEST-1");
    put(&disk, "tmp", b"MANIFEST-2");
    disk.rename(&at("tmp"), &at("CURRENT")).unwrap();
    let copy = disk.copy();
    for disk in [disk, copy] {
        assert!(disk.damage(&at("CURRENT"), &Damage::Former).unwrap());
        assert_damaged(&disk, "CURRENT", b"MANIFEST-1");
    }
}

#[test]
fn damage_reaches_a_file_that_is_open_and_half_synced() {
    let disk = disk();
    let mut file = put(&disk, "a", &[1; 1000]);
    disk.sync_dir(Path::new(ROOT)).unwrap();
    file.append(&[IoSlice::new(&[2; 1000])]).unwrap();
    disk.damage(&at("a"), &Damage::Zero { start: 0, len: 100 }).unwrap();
    disk.damage(&at("a"), &Damage::Cut { len: 1500 }).unwrap();
    for _ in 0..200 {
        let found = read(&disk.image(), "a");
        assert!((1000..=1500).contains(&found.len()), "{}", found.len());
        assert_eq!(found[..1000], [vec![0; 100], vec![1; 900]].concat());
    }
    file.sync().unwrap();
    assert_damaged(&disk, "a", &[vec![0; 100], vec![1; 900], vec![2; 500]].concat());
}

#[test]
fn two_processes_exclude_each_other() {
    let disk = disk();
    let other = disk.foreign();
    assert_ne!(disk.process_id(), other.process_id());
    assert_ne!(other.process_id(), disk.foreign().process_id());
    let lock = disk.lock(&at("LOCK"), LockMode::Exclusive).unwrap();
    assert_eq!(kind(other.lock(&at("LOCK"), LockMode::Shared)), Some(ErrorKind::Locked));
    // The other one takes the file away, and has a lock of its own then.
    other.take_away(&at("LOCK")).unwrap();
    assert_eq!(kind(lock.check()), Some(ErrorKind::Io));
    let theirs = other.lock(&at("LOCK"), LockMode::Exclusive).unwrap();
    assert_eq!(kind(lock.check()), Some(ErrorKind::Io));
    theirs.check().unwrap();
    disk.put_in_place(&at("LOCK"), b"somebody").unwrap();
    assert_eq!(kind(theirs.check()), Some(ErrorKind::Io));
    assert_eq!(read(&disk, "LOCK"), b"somebody");
    assert_eq!(other.descriptors_open(), 1);
}

#[test]
fn who_holds_a_directory_goes_with_it() {
    let disk = disk();
    put(&disk, "a", b"ours");
    disk.create_dir_all(Path::new("/else")).unwrap();
    let held = Arc::new(disk.clone()).hold_dir(Path::new(ROOT)).unwrap();
    let lock = held.lock(&at("LOCK"), LockMode::Exclusive).unwrap();
    for target in ["/moved", "/else/moved"] {
        let from = if target == "/moved" { ROOT } else { "/moved" };
        disk.move_dir(Path::new(from), Path::new(target)).unwrap();
        disk.create_dir_all(Path::new(ROOT)).unwrap();
        assert_eq!(read(held.as_ref(), "a"), b"ours");
        lock.check().unwrap();
        assert_eq!(kind(disk.open(&at("a"))), Some(ErrorKind::NotFound));
    }
    drop(put(&disk, "b", b"theirs"));
    drop(put(held.as_ref(), "c", b"ours"));
    held.sync_dir(Path::new(ROOT)).unwrap();
    let names = |disk: &dyn Vfs, dir: &str| {
        let entries = disk.read_dir(Path::new(dir)).unwrap();
        entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert_eq!(names(held.as_ref(), ROOT), ["LOCK", "a", "c"]);
    assert_eq!(names(&disk, ROOT), ["b"]);
    assert_eq!(names(&disk.copy(), "/else/moved"), ["LOCK", "a", "c"]);
    assert_eq!(names(&disk.image(), "/else/moved").len(), 3, "it is durable where it is now");
    let into_itself = disk.move_dir(Path::new("/else"), Path::new("/else/moved/x"));
    assert_eq!(kind(into_itself), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(disk.move_dir(Path::new("/else"), Path::new(ROOT))), Some(ErrorKind::AlreadyExists));
}

#[test]
fn a_forked_child_in_a_simulation_has_another_number_and_frees_no_lock() {
    let outcome = Simulation::run(Tape::from_seed(1), Options::default(), || {
        let disk = disk();
        let lock = disk.lock(&at("LOCK"), LockMode::Exclusive).unwrap();
        let parent = process_id();
        let child = tinylsm::sync::spawn("child", move || {
            assert_eq!(process_id(), parent, "a thread belongs to the process that started it");
            assert_eq!(schedule::enter_process(parent + 1), Some(parent));
            assert_eq!(process_id(), parent + 1);
            assert_eq!(kind(lock.release()), Some(ErrorKind::Closed));
        });
        assert!(child.unwrap().join());
        assert_eq!(process_id(), parent);
        assert_eq!(kind(disk.lock(&at("LOCK"), LockMode::Exclusive)), Some(ErrorKind::Locked));
    });
    assert_eq!(outcome.failure, None);
    assert_eq!(schedule::enter_process(3), None);
}
