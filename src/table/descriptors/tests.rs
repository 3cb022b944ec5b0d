use super::*;
use crate::base::error::Error;
use crate::vfs::mem::MemVfs;

/// A disk with `count` files of one byte each, which is their number.
fn disk(count: u8) -> MemVfs {
    let disk = MemVfs::new();
    (0..count).for_each(|number| disk.write(Path::new(&path(number)), &[number]).expect("memory"));
    disk
}

fn path(number: u8) -> String {
    format!("/{number}")
}

fn slots(count: usize) -> Vec<Arc<Slot>> {
    (0..count).map(|_| Arc::default()).collect()
}

fn get(descriptors: &Descriptors, disk: &MemVfs, slots: &[Arc<Slot>], number: u8) -> Arc<OpenFile> {
    let open = || descriptors.open(disk, Path::new(&path(number)));
    let file = descriptors.get(&slots[usize::from(number)], open).expect("there");
    let mut byte = [0];
    assert_eq!(file.file().read_at(&mut byte, 0).expect("memory"), 1);
    assert_eq!(byte, [number]);
    file
}

fn is_open(slot: &Slot) -> bool {
    slot.file.load().is_some()
}

#[test]
fn the_least_used_idle_file_makes_space() {
    let (disk, slots, descriptors) = (disk(20), slots(20), Descriptors::new(4));
    for round in 1..4 {
        for number in 0..20 {
            drop(get(&descriptors, &disk, &slots, number));
            assert!(descriptors.stats().open_count <= 4);
        }
        assert_eq!(descriptors.stats().opened_count, 20 * round);
    }
    // Used again and again, a file stays while others pass.
    for number in 0..20 {
        drop(get(&descriptors, &disk, &slots, 19));
        drop(get(&descriptors, &disk, &slots, number));
    }
    assert_eq!(descriptors.stats().opened_count, 60 + 19);
    assert!(is_open(&slots[19]));
}

#[test]
fn a_file_that_is_read_is_never_closed() {
    let (disk, slots, descriptors) = (disk(20), slots(20), Descriptors::new(4));
    let held: Vec<_> = (0..4).map(|number| get(&descriptors, &disk, &slots, number)).collect();
    // All that may be kept are in use: others are open as long as somebody reads them.
    for number in 4..20 {
        drop(get(&descriptors, &disk, &slots, number));
        assert_eq!(descriptors.stats().open_count, 4);
        assert!(!is_open(&slots[usize::from(number)]));
    }
    descriptors.close_idle();
    assert_eq!(descriptors.stats().open_count, 4);
    assert!((0..4).all(|number| is_open(&slots[number])));
    drop(held);
    drop(get(&descriptors, &disk, &slots, 9));
    assert!(is_open(&slots[9]));
    descriptors.close_idle();
    assert_eq!(descriptors.stats().open_count, 0);
    drop(get(&descriptors, &disk, &slots, 1));
    assert_eq!(descriptors.stats().open_count, 1);
}

#[test]
fn a_table_that_goes_takes_its_file_along_and_its_place_is_free() {
    let (disk, mut slots, descriptors) = (disk(8), slots(8), Descriptors::new(4));
    (0..4).for_each(|number| drop(get(&descriptors, &disk, &slots, number)));
    assert_eq!(descriptors.stats().open_count, 4);
    slots[1] = Arc::default();
    slots[2] = Arc::default();
    assert_eq!(descriptors.stats().open_count, 2);
    (4..8).for_each(|number| drop(get(&descriptors, &disk, &slots, number)));
    assert_eq!(descriptors.stats().open_count, 4);
    let ring = descriptors.ring.lock();
    assert_eq!(ring.slots.iter().filter(|slot| slot.strong_count() > 0).count(), 4);
}

#[test]
fn running_out_closes_what_is_idle_and_tries_once_more() {
    let (disk, slots, descriptors) = (disk(8), slots(8), Descriptors::new(100));
    let exhausted = || Error::new(ErrorKind::Exhausted, "the test has no descriptor");
    let limited = |number: u8, limit: u64| {
        descriptors.get(&slots[usize::from(number)], || {
            descriptors.with_retry(|| match descriptors.stats().open_count {
                open_count if open_count >= limit => Err(exhausted()),
                _ => descriptors.open(&disk, Path::new(&path(number))),
            })
        })
    };
    for number in 0..8 {
        drop(limited(number, 3).expect("idle files give way"));
    }
    assert_eq!(descriptors.stats(), DescriptorStats { open_count: 2, opened_count: 8, exhausted_count: 2 });
    let held = [6, 7].map(|number| limited(number, 3).expect("open"));
    let error = limited(0, 2).map(drop).expect_err("nothing is idle");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(!is_open(&slots[0]));
    drop(held);
    limited(0, 2).expect("now something is");
}

#[test]
fn no_file_is_kept_where_none_may_be() {
    let (disk, slots, descriptors) = (disk(2), slots(2), Descriptors::new(0));
    drop(get(&descriptors, &disk, &slots, 0));
    drop(get(&descriptors, &disk, &slots, 0));
    assert_eq!(descriptors.stats(), DescriptorStats { open_count: 0, opened_count: 2, exhausted_count: 0 });
}

#[test]
fn a_failed_opening_leaves_nothing_behind() {
    let (disk, slots, descriptors) = (disk(1), slots(2), Descriptors::new(4));
    let open = || descriptors.open(&disk, Path::new("/missing"));
    assert_eq!(descriptors.get(&slots[1], open).map(drop).expect_err("missing").kind(), ErrorKind::NotFound);
    assert_eq!(descriptors.stats(), DescriptorStats::default());
    assert!(descriptors.ring.lock().slots.is_empty());
}

#[test]
fn threads_share_the_files_and_stay_within_the_bound() {
    const THREADS_COUNT: u64 = 4;
    let (disk, descriptors) = (disk(16), Arc::new(Descriptors::new(4)));
    let slots = Arc::new(slots(16));
    let threads: Vec<_> = (0..THREADS_COUNT)
        .map(|thread| {
            let (disk, descriptors, slots) = (disk.clone(), Arc::clone(&descriptors), Arc::clone(&slots));
            let body = move || {
                for i in 0..5_000u64 {
                    let number = u8::try_from(i * (2 * thread + 1) % 16).expect("small");
                    drop(get(&descriptors, &disk, &slots, number));
                    assert!(descriptors.stats().open_count <= 4 + 2 * THREADS_COUNT);
                }
            };
            crate::sync::spawn("descriptors-test", body).expect("the system has threads")
        })
        .collect();
    threads.into_iter().for_each(|thread| assert!(thread.join()));
    assert!(descriptors.stats().open_count <= 4);
}
