//! Litmus programs: small sequences of disk operations, and exactly what a power loss may leave of them.
//!
//! Each program runs once on each kind of disk; thousands of crashes are then drawn from it, and each image is
//! put into words. Every outcome on the `must` list has to turn up, and nothing may turn up that is on
//! neither list. What ext4 can leave, the worst disk must be able to leave too.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use tinylsm::base::error::ErrorKind;
use tinylsm::vfs::{LockMode, Vfs, WriteFile, read_full};
use tinylsm_sim::disk::{DiskOp, FaultPlan, LatencyPlan, Profile, SECTOR_LEN_BYTES, SimDisk};
use tinylsm_sim::tape::Tape;

/// Crashes drawn from each program.
const DRAWS_COUNT: usize = 4_000;
const ROOT: &str = "/db";
/// A fault that always happens.
const CERTAIN: u32 = 1_000_000;

/// A disk with an empty directory whose name is durable.
fn disk(profile: Profile) -> SimDisk {
    let disk = SimDisk::new(profile, Tape::from_seed(profile as u64 + 11));
    disk.create_dir_all(Path::new(ROOT)).unwrap();
    disk
}

fn at(name: &str) -> String {
    format!("{ROOT}/{name}")
}

fn create(disk: &SimDisk, name: &str) -> Box<dyn WriteFile> {
    disk.create_new(Path::new(&at(name))).unwrap()
}

/// Bytes without a zero among them, so that a hole shows; each letter has its own.
fn bytes(letter: u8, len: usize) -> Vec<u8> {
    (0..len).map(|index| letter ^ u8::try_from(index / 512 % 7 + 1).unwrap()).collect()
}

fn append(file: &mut dyn WriteFile, bytes: &[u8]) {
    file.append(&[IoSlice::new(bytes)]).unwrap();
}

fn sync_dir(disk: &SimDisk) {
    disk.sync_dir(Path::new(ROOT)).unwrap();
}

/// Puts a whole durable file on the disk.
fn durable(disk: &SimDisk, name: &str, content: &[u8]) -> Box<dyn WriteFile> {
    let mut file = create(disk, name);
    append(file.as_mut(), content);
    file.sync().unwrap();
    sync_dir(disk);
    file
}

fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    let file = match disk.open(Path::new(&at(name))) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(read_full(file.as_ref(), &mut content, 0).unwrap(), content.len());
    Some(content)
}

/// Says what is left of a file that should hold `whole`, of which the first `safe` bytes were synced.
fn state(disk: &SimDisk, name: &str, whole: &[u8], safe: usize) -> &'static str {
    let Some(found) = read(disk, name) else { return "absent" };
    if found.len() < safe || found[..safe] != whole[..safe] {
        return "DAMAGED";
    }
    if found == whole {
        return "whole";
    }
    if found.len() == safe {
        return if safe == 0 { "empty" } else { "safe part" };
    }
    if found.len() < whole.len() && whole.starts_with(&found) {
        return "prefix";
    }
    let good = found.iter().zip(whole).take_while(|(left, right)| left == right).count();
    if found[good.max(safe)..].iter().all(|byte| *byte == 0) {
        return if good <= safe { "zeros" } else { "prefix, zeros" };
    }
    let sectors = found.chunks(SECTOR_LEN_BYTES as usize).zip(whole.chunks(SECTOR_LEN_BYTES as usize));
    let is_hole_or_whole =
        |(left, right): (&[u8], &[u8])| left == &right[..left.len()] || left.iter().all(|byte| *byte == 0);
    if sectors.skip(safe.div_ceil(SECTOR_LEN_BYTES as usize)).all(is_hole_or_whole) {
        return "holes";
    }
    "garbage"
}

/// What a program may leave on one kind of disk.
struct Allowed {
    must: &'static [&'static str],
    may: &'static [&'static str],
}

const fn exactly(must: &'static [&'static str]) -> Allowed {
    Allowed { must, may: &[] }
}

/// Runs a program on each kind of disk and compares what crashes leave of it with what may be.
fn litmus(
    program: impl Fn(&SimDisk) -> Option<SimDisk>,
    outcome: impl Fn(&SimDisk) -> String,
    worst: &Allowed,
    ext4: &Allowed,
) {
    let mut reached = BTreeMap::new();
    for (profile, allowed) in [(Profile::Worst, worst), (Profile::Ext4, ext4)] {
        let disk = disk(profile);
        let disk = program(&disk).unwrap_or(disk);
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..DRAWS_COUNT {
            let image = disk.image();
            let outcome = outcome(&image);
            if !allowed.must.contains(&outcome.as_str()) && !allowed.may.contains(&outcome.as_str()) {
                panic!("{profile:?} left {outcome:?}\n{}", image.crash_report().unwrap());
            }
            *seen.entry(outcome).or_default() += 1;
        }
        println!("{profile:?}: {seen:?}");
        for must in allowed.must {
            assert!(seen.contains_key(*must), "{profile:?} never left {must:?}, but {seen:?}");
        }
        reached.insert(profile, seen.into_keys().collect::<BTreeSet<_>>());
    }
    assert!(reached[&Profile::Ext4].is_subset(&reached[&Profile::Worst]), "{reached:?}");
}

const UNSYNCED_WORST: &[&str] = &["empty", "prefix", "whole", "zeros", "prefix, zeros", "holes", "garbage"];
const UNSYNCED_EXT4: &[&str] = &["empty", "prefix", "whole", "zeros", "prefix, zeros"];

#[test]
fn l01_a_synced_file_needs_its_name_synced() {
    let a = bytes(b'A', 700);
    litmus(
        |disk| {
            let mut file = create(disk, "f");
            append(file.as_mut(), &a);
            file.sync().unwrap();
            None
        },
        |disk| state(disk, "f", &a, 0).to_owned(),
        &exactly(&["absent", "whole"]),
        &exactly(&["whole"]),
    );
}

#[test]
fn l02_a_synced_name_says_nothing_of_the_bytes() {
    let a = bytes(b'A', 2000);
    litmus(
        |disk| {
            append(create(disk, "f").as_mut(), &a);
            sync_dir(disk);
            None
        },
        |disk| state(disk, "f", &a, 0).to_owned(),
        &exactly(UNSYNCED_WORST),
        &exactly(UNSYNCED_EXT4),
    );
}

#[test]
fn l03_bytes_and_name_synced_stay() {
    let a = bytes(b'A', 2000);
    litmus(
        |disk| {
            durable(disk, "f", &a);
            None
        },
        |disk| state(disk, "f", &a, 2000).to_owned(),
        &exactly(&["whole"]),
        &exactly(&["whole"]),
    );
}

#[test]
fn l04_reserved_sectors_are_written_or_zero_in_any_mix() {
    let a = bytes(b'A', 4096);
    for profile in [Profile::Worst, Profile::Ext4] {
        let disk = disk(profile);
        // Bytes of a file that is gone must not show: the space is on the disk as zeros.
        drop(durable(&disk, "old", &bytes(b'O', 8192)));
        disk.remove_file(Path::new(&at("old"))).unwrap();
        let mut file = create(&disk, "f");
        file.allocate(4096).unwrap();
        file.sync().unwrap();
        sync_dir(&disk);
        append(file.as_mut(), &a);
        let mut mixes = BTreeSet::new();
        for _ in 0..5 * DRAWS_COUNT {
            let found = read(&disk.image(), "f").unwrap();
            assert_eq!(found.len(), 4096);
            let mix: Vec<bool> = found
                .chunks(512)
                .zip(a.chunks(512))
                .map(|(found, written)| {
                    assert!(
                        found == written || found.iter().all(|byte| *byte == 0),
                        "{profile:?}: a third value"
                    );
                    found == written
                })
                .collect();
            mixes.insert(mix);
        }
        assert!(mixes.len() > 230, "{profile:?} left {} of 256 mixes", mixes.len());
    }
}

#[test]
fn l05_an_unsynced_append_leaves_the_synced_part_alone() {
    let a = bytes(b'A', 100 + 3 * 512);
    litmus(
        |disk| {
            let mut file = durable(disk, "f", &a[..100]);
            append(file.as_mut(), &a[100..]);
            None
        },
        |disk| state(disk, "f", &a, 100).to_owned(),
        &exactly(&["safe part", "prefix", "whole", "zeros", "prefix, zeros", "holes", "garbage"]),
        &exactly(&["safe part", "prefix", "whole", "zeros", "prefix, zeros"]),
    );
}

#[test]
fn l06_a_later_append_may_survive_an_earlier_one_only_on_the_worst_disk() {
    let whole = [bytes(b'A', 4096), bytes(b'B', 4096)].concat();
    let outcome = |disk: &SimDisk| {
        let found = read(disk, "f").unwrap();
        let has = |range: std::ops::Range<usize>| found.get(range.clone()) == Some(&whole[range]);
        match (has(0..4096), has(4096..8192)) {
            (true, true) => "both",
            (true, false) => "first",
            (false, true) => "second",
            (false, false) => "neither",
        }
        .to_owned()
    };
    litmus(
        |disk| {
            let mut file = create(disk, "f");
            sync_dir(disk);
            append(file.as_mut(), &whole[..4096]);
            append(file.as_mut(), &whole[4096..]);
            None
        },
        outcome,
        &exactly(&["both", "first", "second", "neither"]),
        &exactly(&["both", "first", "neither"]),
    );
}

#[test]
fn l06_a_sector_keeps_what_was_written_to_it_first() {
    let whole = bytes(b'A', 300);
    let allowed =
        Allowed { must: &["empty", "prefix", "whole"], may: &["zeros", "prefix, zeros", "garbage"] };
    litmus(
        |disk| {
            let mut file = create(disk, "f");
            sync_dir(disk);
            for part in whole.chunks(100) {
                append(file.as_mut(), part);
            }
            None
        },
        |disk| {
            let found = read(disk, "f").unwrap();
            let has = |start: usize| found.get(start..start + 100) == Some(&whole[start..start + 100]);
            assert!(has(0) || !has(100), "the second part without the first");
            assert!(has(100) || !has(200), "the third part without the second");
            state(disk, "f", &whole, 0).to_owned()
        },
        &allowed,
        &allowed,
    );
}

#[test]
fn l07_a_sync_of_one_file_does_nothing_for_the_bytes_of_another() {
    let (a, b) = (bytes(b'A', 600), bytes(b'B', 600));
    let states = |disk: &SimDisk| format!("{}/{}", state(disk, "f", &a, 0), state(disk, "g", &b, 600));
    litmus(
        |disk| {
            let (mut f, mut g) = (create(disk, "f"), create(disk, "g"));
            sync_dir(disk);
            append(f.as_mut(), &a);
            append(g.as_mut(), &b);
            g.sync().unwrap();
            None
        },
        states,
        &Allowed {
            must: &["empty/whole", "whole/whole", "zeros/whole"],
            may: &["prefix/whole", "prefix, zeros/whole", "holes/whole", "garbage/whole"],
        },
        &Allowed {
            must: &["empty/whole", "whole/whole", "zeros/whole"],
            may: &["prefix/whole", "prefix, zeros/whole"],
        },
    );
}

fn names(disk: &SimDisk) -> String {
    let names: Vec<String> =
        disk.read_dir(Path::new(ROOT)).unwrap().into_iter().map(|entry| entry.name).collect();
    names.join(" ")
}

#[test]
fn l08_names_survive_in_any_order_only_on_the_worst_disk() {
    litmus(
        |disk| {
            create(disk, "f");
            create(disk, "g");
            None
        },
        names,
        &exactly(&["", "f", "g", "f g"]),
        &exactly(&["", "f", "f g"]),
    );
}

#[test]
fn l08_changes_of_one_name_survive_in_order() {
    let a = bytes(b'A', 100);
    let allowed = exactly(&["whole/absent", "absent/whole", "empty/whole"]);
    litmus(
        |disk| {
            drop(durable(disk, "a", &a));
            disk.rename(Path::new(&at("a")), Path::new(&at("b"))).unwrap();
            create(disk, "a");
            None
        },
        |disk| format!("{}/{}", state(disk, "a", &a, 0), state(disk, "b", &a, 0)),
        &allowed,
        &allowed,
    );
}

#[test]
fn l09_a_sync_of_a_file_settles_names_only_with_a_journal() {
    litmus(
        |disk| {
            create(disk, "f");
            create(disk, "g").sync().unwrap();
            None
        },
        names,
        &exactly(&["", "f", "g", "f g"]),
        &exactly(&["f g"]),
    );
}

#[test]
fn l10_a_removal_may_overtake_the_bytes_that_replace_it() {
    let (m, w) = (bytes(b'M', 300), bytes(b'W', 300));
    let states =
        |disk: &SimDisk| format!("{}/{}", state(disk, "manifest", &m, 0), state(disk, "wal", &w, 300));
    litmus(
        |disk| {
            let mut manifest = create(disk, "manifest");
            drop(durable(disk, "wal", &w));
            append(manifest.as_mut(), &m);
            disk.remove_file(Path::new(&at("wal"))).unwrap();
            None
        },
        states,
        &Allowed {
            must: &["empty/absent", "whole/absent", "empty/whole", "whole/whole", "zeros/absent"],
            may: &["zeros/whole", "garbage/absent", "garbage/whole"],
        },
        &Allowed {
            must: &["empty/absent", "whole/absent", "empty/whole", "whole/whole", "zeros/absent"],
            may: &["zeros/whole"],
        },
    );
}

/// Says whether `CURRENT` is the old file, the new one, or what else.
fn current(disk: &SimDisk, new: &[u8]) -> String {
    match read(disk, "CURRENT") {
        Some(found) if found == b"old" => "old".to_owned(),
        _ => state(disk, "CURRENT", new, 0).to_owned(),
    }
}

#[test]
fn l11_replacing_an_unsynced_file_is_flushed_only_by_ext4() {
    let new = bytes(b'N', 100);
    for is_dir_synced in [false, true] {
        litmus(
            |disk| {
                durable(disk, "CURRENT", b"old");
                append(create(disk, "tmp").as_mut(), &new);
                disk.rename(Path::new(&at("tmp")), Path::new(&at("CURRENT"))).unwrap();
                if is_dir_synced {
                    sync_dir(disk);
                }
                None
            },
            |disk| current(disk, &new),
            &Allowed {
                must: &["whole", "empty", "zeros", "garbage"],
                may: if is_dir_synced { &[] } else { &["old"] },
            },
            if is_dir_synced {
                &Allowed { must: &["whole"], may: &[] }
            } else {
                &Allowed { must: &["old", "whole"], may: &[] }
            },
        );
    }
}

#[test]
fn l12_renaming_an_unsynced_file_to_a_free_name_may_leave_it_empty() {
    let new = bytes(b'N', 100);
    litmus(
        |disk| {
            append(create(disk, "tmp").as_mut(), &new);
            disk.rename(Path::new(&at("tmp")), Path::new(&at("CURRENT"))).unwrap();
            None
        },
        |disk| current(disk, &new),
        &exactly(&["absent", "whole", "empty", "zeros", "garbage"]),
        &exactly(&["absent", "whole", "empty", "zeros"]),
    );
}

#[test]
fn l13_a_rename_shows_one_name_and_never_none() {
    let a = bytes(b'A', 100);
    let allowed = exactly(&["whole/absent", "absent/whole"]);
    litmus(
        |disk| {
            drop(durable(disk, "a", &a));
            disk.rename(Path::new(&at("a")), Path::new(&at("b"))).unwrap();
            None
        },
        |disk| format!("{}/{}", state(disk, "a", &a, 100), state(disk, "b", &a, 100)),
        &allowed,
        &allowed,
    );
}

#[test]
fn l15_a_removed_file_comes_back_until_its_own_directory_is_synced() {
    let a = bytes(b'A', 100);
    litmus(
        |disk| {
            disk.create_dir_all(Path::new("/other")).unwrap();
            drop(durable(disk, "old", &a));
            disk.remove_file(Path::new(&at("old"))).unwrap();
            let mut new = disk.create_new(Path::new("/other/new")).unwrap();
            new.sync().unwrap();
            disk.sync_dir(Path::new("/other")).unwrap();
            None
        },
        |disk| {
            assert!(disk.open(Path::new("/other/new")).is_ok());
            state(disk, "old", &a, 100).to_owned()
        },
        &exactly(&["absent", "whole"]),
        &exactly(&["absent"]),
    );
}

#[test]
fn l17_a_synced_record_in_reserved_space_is_followed_by_zeros() {
    let mut record = bytes(b'R', 300);
    let allowed = exactly(&["whole"]);
    record.resize(64 << 10, 0);
    litmus(
        |disk| {
            let mut file = create(disk, "f");
            file.allocate(64 << 10).unwrap();
            append(file.as_mut(), &record[..300]);
            file.sync().unwrap();
            sync_dir(disk);
            None
        },
        |disk| state(disk, "f", &record, 64 << 10).to_owned(),
        &allowed,
        &allowed,
    );
}

#[test]
fn l18_a_failed_sync_is_not_mended_by_a_good_one() {
    let a = bytes(b'A', 3 * 4096);
    for profile in [Profile::Worst, Profile::Ext4] {
        let mut seen = BTreeSet::new();
        for seed in 0..400 {
            let disk = SimDisk::new(profile, Tape::from_seed(seed));
            disk.create_dir_all(Path::new(ROOT)).unwrap();
            let mut file = create(&disk, "f");
            sync_dir(&disk);
            append(file.as_mut(), &a[..8192]);
            disk.set_faults(FaultPlan { sync: CERTAIN, ..FaultPlan::default() });
            assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::Io);
            disk.heal();
            append(file.as_mut(), &a[8192..]);
            file.sync().unwrap();
            let image = disk.image();
            let found = read(&image, "f").unwrap();
            assert_eq!(found.get(8192..), Some(&a[8192..]), "what the good sync covered is there");
            seen.insert((found[..4096] == a[..4096], found[4096..8192] == a[4096..8192]));
        }
        let every = [(false, false), (false, true), (true, false), (true, true)];
        assert!(every.iter().all(|outcome| seen.contains(outcome)), "{profile:?}: {seen:?}");
    }
}

#[test]
fn l18_a_failed_sync_may_take_visible_bytes_back_on_the_worst_disk() {
    let mut lens = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(Profile::Worst, Tape::from_seed(seed));
        disk.create_dir_all(Path::new(ROOT)).unwrap();
        let mut file = durable(&disk, "f", b"synced");
        append(file.as_mut(), b" not synced");
        disk.set_faults(FaultPlan { sync: CERTAIN, ..FaultPlan::default() });
        assert!(file.sync().is_err());
        let found = read(&disk, "f").unwrap();
        assert!(found.starts_with(b"synced"));
        lens.insert(found.len());
    }
    assert_eq!(lens, BTreeSet::from([6, 17]));
}

#[test]
fn l19_bytes_of_a_failed_sync_are_readable_until_the_cache_forgets_them() {
    let a = bytes(b'A', 16 * 4096);
    let disk = disk(Profile::Ext4);
    let mut file = create(&disk, "f");
    append(file.as_mut(), &a);
    disk.set_faults(FaultPlan { sync: CERTAIN, ..FaultPlan::default() });
    assert!(file.sync().is_err());
    disk.heal();
    file.sync().unwrap();
    assert_eq!(state(&disk, "f", &a, 0), "whole");
    disk.evict();
    assert_ne!(state(&disk, "f", &a, 0), "whole");
}

#[test]
fn l23_an_append_under_way_may_be_there_or_not() {
    let a = bytes(b'A', 400);
    litmus(
        |disk| {
            let mut file = create(disk, "f");
            sync_dir(disk);
            disk.power_off_after(1);
            let error = file.append(&[IoSlice::new(&a)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().ends_with("power is off"), "{error}");
            None
        },
        |disk| state(disk, "f", &a, 0).to_owned(),
        &exactly(&["empty", "whole", "zeros", "garbage"]),
        &exactly(&["empty", "whole", "zeros"]),
    );
}

#[test]
fn l24_a_sync_under_way_may_have_kept_any_part() {
    let a = bytes(b'A', 1500);
    litmus(
        |disk| {
            let mut file = create(disk, "f");
            sync_dir(disk);
            append(file.as_mut(), &a);
            disk.power_off_after(1);
            assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::Io);
            None
        },
        |disk| state(disk, "f", &a, 0).to_owned(),
        &exactly(UNSYNCED_WORST),
        &exactly(UNSYNCED_EXT4),
    );
}

#[test]
fn a_sync_covers_only_what_was_written_before_it_began() {
    let a = bytes(b'A', 1024);
    litmus(
        |disk| {
            disk.set_latency(LatencyPlan::fast());
            let mut file = create(disk, "f");
            sync_dir(disk);
            append(file.as_mut(), &a[..512]);
            let late = parking_lot::Mutex::new(Some((file, a[512..].to_vec())));
            disk.observe(Arc::new(move |event| {
                if event.op == DiskOp::SyncBegin
                    && let Some((mut file, rest)) = late.lock().take()
                {
                    append(file.as_mut(), &rest);
                }
            }));
            disk.sync_file(Path::new(&at("f"))).unwrap();
            None
        },
        |disk| state(disk, "f", &a, 512).to_owned(),
        &exactly(&["safe part", "whole", "zeros", "garbage"]),
        &exactly(&["safe part", "whole", "zeros"]),
    );
}

#[test]
fn l25_a_full_disk_takes_a_part_and_frees_at_the_last_close() {
    let disk = disk(Profile::Worst);
    let mut held = durable(&disk, "held", &bytes(b'H', 1000));
    disk.set_space(Some(4000));
    assert_eq!(disk.available_space(Path::new(ROOT)).unwrap(), 3000);
    let mut file = create(&disk, "f");
    let a = bytes(b'A', 8000);
    assert_eq!(file.append(&[IoSlice::new(&a)]).unwrap_err().kind(), ErrorKind::NoSpace);
    let written = read(&disk, "f").unwrap();
    assert!(written.len() <= 3000);
    assert!(a.starts_with(&written));
    assert_eq!(file.append(&[IoSlice::new(b"x")]).unwrap_err().kind(), ErrorKind::Io);
    drop(file);
    disk.remove_file(Path::new(&at("f"))).unwrap();
    assert_eq!(disk.available_space(Path::new(ROOT)).unwrap(), 3000);
    disk.remove_file(Path::new(&at("held"))).unwrap();
    assert_eq!(disk.available_space(Path::new(ROOT)).unwrap(), 3000, "an open file keeps its space");
    assert_eq!(held.allocate(5000).unwrap_err().kind(), ErrorKind::NoSpace);
    held.allocate(4000).unwrap();
    let full = disk.create_new(Path::new(&at("g"))).err().unwrap();
    assert_eq!(full.kind(), ErrorKind::NoSpace);
    append(held.as_mut(), &bytes(b'H', 3000));
    drop(held);
    assert_eq!(disk.available_space(Path::new(ROOT)).unwrap(), 4000);
}

/// A synced record at the start of reserved space that was given back.
fn trimmed_record(disk: &SimDisk, record: &[u8]) -> Box<dyn WriteFile> {
    let mut file = create(disk, "f");
    file.allocate(8192).unwrap();
    append(file.as_mut(), record);
    file.sync().unwrap();
    sync_dir(disk);
    file.trim().unwrap();
    file
}

#[test]
fn a_trim_is_not_durable_and_what_comes_back_is_zeros() {
    let mut record = bytes(b'R', 300);
    let whole = {
        record.resize(8192, 0);
        &record
    };
    litmus(
        |disk| {
            trimmed_record(disk, &whole[..300]);
            assert_eq!(read(disk, "f").unwrap(), whole[..300]);
            None
        },
        |disk| state(disk, "f", whole, 300).to_owned(),
        &exactly(&["safe part", "prefix", "whole"]),
        &exactly(&["safe part", "whole"]),
    );
}

#[test]
fn a_synced_trim_is_durable() {
    let record = bytes(b'R', 300);
    litmus(
        |disk| {
            trimmed_record(disk, &record).sync().unwrap();
            None
        },
        |disk| state(disk, "f", &record, 300).to_owned(),
        &exactly(&["whole"]),
        &exactly(&["whole"]),
    );
}

#[test]
fn a_sync_of_another_file_makes_a_trim_durable_only_with_a_journal() {
    let mut record = bytes(b'R', 300);
    record.resize(8192, 0);
    litmus(
        |disk| {
            trimmed_record(disk, &record[..300]);
            create(disk, "g").sync().unwrap();
            None
        },
        |disk| state(disk, "f", &record, 300).to_owned(),
        &exactly(&["safe part", "prefix", "whole"]),
        &exactly(&["safe part"]),
    );
}

#[test]
fn appending_goes_on_behind_a_trim() {
    let a = bytes(b'A', 2000);
    litmus(
        |disk| {
            let mut file = trimmed_record(disk, &a[..700]);
            append(file.as_mut(), &a[700..]);
            file.sync().unwrap();
            None
        },
        |disk| state(disk, "f", &a, 2000).to_owned(),
        &exactly(&["whole"]),
        &exactly(&["whole"]),
    );
    // Without a sync, all of the space may come back, too.
    let mut padded = a.clone();
    padded.resize(8192, 0);
    litmus(
        |disk| {
            let mut file = trimmed_record(disk, &a[..700]);
            append(file.as_mut(), &a[700..]);
            None
        },
        |disk| state(disk, "f", &padded, 700).to_owned(),
        &exactly(&["safe part", "prefix", "whole", "prefix, zeros", "zeros", "holes", "garbage"]),
        // Where the trim is lost, the space is as it was: sectors written or zero, in any mix.
        &Allowed { must: &["safe part", "prefix", "whole", "prefix, zeros", "zeros"], may: &["holes"] },
    );
}

#[test]
fn a_trim_takes_away_a_failed_append_for_readers_and_a_sync_for_good() {
    let a = bytes(b'A', 4000);
    for is_synced in [false, true] {
        let outcome = |disk: &SimDisk| match read(disk, "f").unwrap() {
            found if found == a[..1000] => "as trimmed",
            found if a.starts_with(&found) => "more came back",
            found if found.starts_with(&a[..1000]) => "something came back",
            _ => "DAMAGED",
        };
        litmus(
            |disk| {
                let mut file = durable(disk, "f", &a[..1000]);
                // Space for three quarters of it, of which any part is taken.
                disk.set_space(Some(1000 + 2250));
                while read(disk, "f").unwrap().len() == 1000 {
                    file = durable_again(disk, &a[..1000]);
                    assert!(file.append(&[IoSlice::new(&a[1000..])]).is_err());
                }
                file.trim().unwrap();
                assert_eq!(read(disk, "f").unwrap(), a[..1000]);
                assert_eq!(disk.space_used(), 1000);
                if is_synced {
                    file.sync().unwrap();
                }
                None
            },
            |disk| outcome(disk).to_owned(),
            &if is_synced {
                exactly(&["as trimmed"])
            } else {
                exactly(&["as trimmed", "more came back", "something came back"])
            },
            &if is_synced {
                exactly(&["as trimmed"])
            } else {
                Allowed { must: &["as trimmed", "more came back"], may: &["something came back"] }
            },
        );
    }
}

/// Puts the durable file `f` there afresh.
fn durable_again(disk: &SimDisk, content: &[u8]) -> Box<dyn WriteFile> {
    disk.remove_file(Path::new(&at("f"))).unwrap();
    durable(disk, "f", content)
}

#[test]
fn a_failed_allocation_gives_back_what_it_took() {
    for profile in Profile::ALL {
        let disk = disk(profile);
        let mut file = durable(&disk, "f", &bytes(b'A', 1000));
        file.allocate(2000).unwrap();
        disk.set_space(Some(5000));
        assert_eq!(file.allocate(5001).unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(disk.space_used(), 2000);
        assert_eq!(disk.available_space(Path::new(ROOT)).unwrap(), 3000);
        append(file.as_mut(), &bytes(b'A', 4000));
        // Until a sync, a crash may show the space that it took for a moment.
        let lens: BTreeSet<usize> = (0..500).map(|_| read(&disk.image(), "f").unwrap().len()).collect();
        assert!(lens.iter().all(|len| (1000..=5000).contains(len)), "{lens:?}");
        file.sync().unwrap();
        assert_eq!(read(&disk.image(), "f").unwrap().len(), 5000);
    }
}

#[test]
fn l26_a_link_shares_the_bytes_through_a_crash() {
    let a = bytes(b'A', 1400);
    let disk = disk(Profile::Worst);
    let mut file = durable(&disk, "a", &a[..400]);
    disk.link_or_copy(Path::new(&at("a")), Path::new(&at("b"))).unwrap();
    sync_dir(&disk);
    append(file.as_mut(), &a[400..]);
    for _ in 0..DRAWS_COUNT {
        let image = disk.image();
        assert_eq!(read(&image, "a").unwrap(), read(&image, "b").unwrap());
    }
}

#[test]
fn l28_a_killed_process_loses_nothing() {
    let a = bytes(b'A', 2000);
    let disk = disk(Profile::Kill);
    let mut file = create(&disk, "f");
    append(file.as_mut(), &a);
    disk.rename(Path::new(&at("f")), Path::new(&at("g"))).unwrap();
    let (first, second) = (disk.image(), disk.image().image());
    for image in [first, second] {
        assert_eq!(names(&image), "g");
        assert_eq!(state(&image, "g", &a, 2000), "whole");
    }
}

#[test]
fn l29_what_a_killed_process_left_is_still_not_durable() {
    let (a, b) = (bytes(b'A', 500), bytes(b'B', 500));
    let law_of_g =
        Allowed { must: &["whole/empty", "whole/whole", "whole/zeros", "whole/garbage"], may: &[] };
    litmus(
        |disk| {
            let (mut f, mut g) = (create(disk, "f"), create(disk, "g"));
            sync_dir(disk);
            append(f.as_mut(), &a);
            append(g.as_mut(), &b);
            let next = disk.killed();
            next.sync_file(Path::new(&at("f"))).unwrap();
            Some(next)
        },
        |disk| format!("{}/{}", state(disk, "f", &a, 500), state(disk, "g", &b, 0)),
        &law_of_g,
        &exactly(&["whole/empty", "whole/whole", "whole/zeros"]),
    );
}

#[test]
fn l30_a_second_power_loss_changes_nothing() {
    for profile in [Profile::Worst, Profile::Ext4] {
        let disk = disk(profile);
        for (name, len) in [("a", 5000), ("b", 300), ("c", 1700)] {
            let mut file = create(&disk, name);
            file.allocate(len as u64).unwrap();
            append(file.as_mut(), &bytes(name.as_bytes()[0], len + 900));
        }
        disk.remove_file(Path::new(&at("b"))).unwrap();
        for _ in 0..300 {
            let image = disk.image();
            let again = image.image();
            assert_eq!(names(&image), names(&again));
            for name in ["a", "b", "c"] {
                assert_eq!(read(&image, name), read(&again, name));
            }
            let report = again.crash_report().unwrap();
            assert!(report.losses().is_empty(), "{report}");
        }
    }
}

#[test]
fn l31_a_crash_frees_locks() {
    for profile in Profile::ALL {
        let disk = disk(profile);
        let path = at("LOCK");
        let held = disk.lock(Path::new(&path), LockMode::Exclusive).unwrap();
        let error = disk.lock(Path::new(&path), LockMode::Exclusive).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Locked);
        let image = disk.image();
        assert!(image.lock(Path::new(&path), LockMode::Exclusive).is_ok());
        drop(held);
        assert!(disk.lock(Path::new(&path), LockMode::Shared).is_ok());
    }
}

#[test]
fn l34_bytes_of_a_file_that_is_gone_show_only_on_the_worst_disk() {
    let (x, y) = (bytes(b'X', 2048), bytes(b'Y', 2048));
    let outcome = |disk: &SimDisk| {
        let found = read(disk, "y").unwrap();
        let is_stale = found.chunks(512).zip(x.chunks(512)).any(|(found, old)| found == old);
        if is_stale { "old bytes" } else { "none" }.to_owned()
    };
    litmus(
        |disk| {
            drop(durable(disk, "x", &x));
            disk.remove_file(Path::new(&at("x"))).unwrap();
            let mut file = create(disk, "y");
            sync_dir(disk);
            append(file.as_mut(), &y);
            None
        },
        outcome,
        &exactly(&["old bytes", "none"]),
        &exactly(&["none"]),
    );
}

#[test]
fn nothing_happens_on_a_disk_without_power() {
    let disk = disk(Profile::Worst);
    let mut file = durable(&disk, "f", b"f");
    let reader = disk.open(Path::new(&at("f"))).unwrap();
    let lock = disk.lock(Path::new(&at("f")), LockMode::Shared).unwrap();
    let image = disk.image();
    disk.power_off();
    let path = at("f");
    let path = Path::new(&path);
    let errors = [
        file.append(&[IoSlice::new(b"x")]).unwrap_err(),
        file.sync().unwrap_err(),
        file.allocate(9).unwrap_err(),
        file.trim().unwrap_err(),
        lock.check().unwrap_err(),
        Arc::new(disk.clone()).hold_dir(Path::new(ROOT)).err().unwrap(),
        reader.read_at(&mut [0], 0).unwrap_err(),
        reader.len().unwrap_err(),
        disk.create_new(Path::new("/db/g")).err().unwrap(),
        disk.open(path).err().unwrap(),
        disk.sync_file(path).unwrap_err(),
        disk.rename(path, Path::new("/db/g")).unwrap_err(),
        disk.remove_file(path).unwrap_err(),
        disk.link_or_copy(path, Path::new("/db/g")).unwrap_err(),
        disk.create_dir_all(Path::new("/other")).unwrap_err(),
        disk.read_dir(Path::new(ROOT)).unwrap_err(),
        disk.sync_dir(Path::new(ROOT)).unwrap_err(),
        disk.lock(path, LockMode::Shared).err().unwrap(),
        disk.metadata(path).unwrap_err(),
        disk.available_space(path).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().ends_with("power is off"), "{error}");
    }
    assert_eq!(names(&image), "f");
    assert_eq!(read(&image, "f").unwrap(), b"f");
}
