//! What openings leave that were killed, and what an opening does with it: it never becomes much, it never keeps a
//! database from going on, and the number of a file that went is not given out again.

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
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use tinylsm::base::ids::FileNumber;
use tinylsm::format::names::FileName;
use tinylsm::sync::Mutex;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Db, DbBuilder, Error, ErrorKind};
use watchdog::within;

const DIRECTORY: &str = "/db";

/// How many files lie there at most: what openings may leave before one removes it, what one leaves, and what is needed.
const FILES_COUNT_MAX: usize = 16 + 5 + 8;
/// How many files a database of a few tables that was opened by itself has.
const USUAL_FILES_COUNT: usize = 10;

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder(DIRECTORY).vfs(Arc::new(disk.clone())).options(tiny()).background(Background::Manual)
}

/// Makes a database of a table and a log that ended with its process; returns what is in it.
fn fill(disk: &(impl Vfs + Clone)) -> Model {
    let db = builder(disk).open().expect("opens");
    for i in 0..10 {
        db.put(format!("flushed{i}"), [7; 100]).expect("puts");
    }
    db.flush().expect("flushes");
    for i in 0..10 {
        db.put(format!("logged{i}"), [8; 50]).expect("puts");
    }
    db.wait_idle().expect("idle");
    contents(db.default_keyspace())
}

/// Returns the names of the files of a database.
fn names(disk: &impl Vfs) -> Vec<FileName> {
    let entries = disk.read_dir(Path::new(DIRECTORY)).expect("there is a database");
    entries.iter().map(|entry| FileName::parse(&entry.name).expect("all are ours")).collect()
}

/// Opens a database whose process is killed at its so many changes of the disk, or after it is open; `look` sees what
/// goes through.
fn open_until_change(disk: &HookedVfs, changes_count: u64, look: impl Fn(&Call<'_>) + Send + Sync + 'static) {
    let left = Mutex::new(changes_count);
    disk.set_hook(move |call| {
        let mut left = left.lock();
        *left = left.saturating_sub(u64::from(call.op.is_change()));
        if *left == 0 {
            // A dead process does nothing more.
            return Err(Error::new(ErrorKind::Io, "the process was killed"));
        }
        look(call);
        Ok(())
    });
    drop(builder(disk).open());
    disk.clear_hook();
}

/// Returns how many changes of the disk an opening makes.
fn changes_of_an_opening(disk: &MemVfs) -> u64 {
    let counting = HookedVfs::over(disk.fork());
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    counting.set_hook(move |call| {
        *counted.lock() += u64::from(call.op.is_change());
        Ok(())
    });
    drop(builder(&counting).open().expect("opens"));
    *count.lock()
}

/// Openings that are killed again and again, always at the same place, leave no more and no more files; the next one that
/// is not has everything, and only what it needs.
#[test]
fn openings_killed_at_the_same_place_again_and_again_leave_few_files() {
    within(|| {
        let disk = MemVfs::new();
        let expected = fill(&disk);
        // Some of them remove what others left, which takes more changes.
        for changes_count in 1..=2 * changes_of_an_opening(&disk) + 20 {
            let disk = HookedVfs::over(disk.fork());
            for opening in 0..60 {
                open_until_change(&disk, changes_count, |_| ());
                let names = names(&disk);
                assert!(
                    names.len() <= FILES_COUNT_MAX,
                    "opening {opening}, each killed at change {changes_count}: {names:?}"
                );
            }
            let db = builder(&disk).open().expect("opens");
            assert_eq!(contents(db.default_keyspace()), expected, "killed at change {changes_count}");
            db.put("more", "1").expect("puts");
            db.wait_idle().expect("idle");
            let names = names(&disk);
            assert!(names.len() <= USUAL_FILES_COUNT, "killed at change {changes_count}: {names:?}");
        }
    });
}

/// Whatever a killed opening has removed, nothing is ever made under the number that it had: what is left of it elsewhere,
/// a backup's link or a record of the log, would be taken for the new file's.
#[test]
fn the_number_of_a_file_that_went_is_not_given_out_again() {
    within(|| {
        let disk = MemVfs::new();
        fill(&disk);
        for changes_count in 1..=2 * changes_of_an_opening(&disk) + 20 {
            let disk = HookedVfs::over(disk.fork());
            let known = names(&disk).into_iter().filter_map(|name| Some((name.number()?, name)));
            let created: Arc<Mutex<BTreeMap<FileNumber, FileName>>> = Arc::new(Mutex::new(known.collect()));
            let again: Arc<Mutex<Vec<String>>> = Arc::default();
            for opening in 0..40 {
                let (created, again) = (Arc::clone(&created), Arc::clone(&again));
                open_until_change(&disk, changes_count, move |call| {
                    let name =
                        call.path.file_name().and_then(|name| FileName::parse(&name.to_string_lossy()));
                    // A temporary that became `CURRENT` leaves no trace of its number, which was never of any use.
                    let is_kept = |name: &FileName| !matches!(name, FileName::Temporary(_));
                    let Some(name) = name.filter(|_| call.op == Op::Create).filter(is_kept) else { return };
                    let number = name.number().expect("only numbered files are created anew");
                    if let Some(before) = created.lock().insert(number, name) {
                        again.lock().push(format!("opening {opening} made {name}; there was {before}"));
                    }
                });
            }
            let again = again.lock().clone();
            assert!(again.is_empty(), "killed at change {changes_count}: {again:?}");
        }
    });
}

// ---- A full disk ----

/// Writes a file of a process that was killed.
fn leave(disk: &SmallDisk, name: FileName, len_bytes: usize) {
    let mut file = disk.create_new(&name.path(Path::new(DIRECTORY))).expect("nobody has its name");
    file.append(&[IoSlice::new(&vec![0xA5; len_bytes])]).expect("there is space");
}

/// Fills a disk with what killed openings leave: manifests that `CURRENT` does not name, segments and temporaries.
fn fill_with_leftovers(disk: &SmallDisk) {
    let youngest = names(disk).iter().filter_map(FileName::number).max().expect("it has files");
    let kinds = [FileName::Wal, FileName::Manifest, FileName::Temporary];
    for number in youngest.0 + 1..youngest.0 + 31 {
        leave(disk, kinds[usize::try_from(number % 3).expect("small")](FileNumber(number)), 64 << 10);
    }
    disk.leave_free(0);
}

/// Leaves a manifest that was in force before the present one, and segments of its time.
fn leave_what_was_in_force(disk: &SmallDisk) {
    let names = names(disk);
    let is_manifest = |name: &&FileName| matches!(name, FileName::Manifest(_));
    let in_force = names.iter().find(is_manifest).and_then(FileName::number).expect("there is one");
    let is_free = |number: &u64| names.iter().all(|name| name.number() != Some(FileNumber(*number)));
    let mut free = (1..in_force.0).filter(is_free);
    leave(disk, FileName::Manifest(FileNumber(free.next().expect("several openings"))), 4 << 10);
    let segments_count = free.map(|number| leave(disk, FileName::Wal(FileNumber(number)), 64 << 10)).count();
    assert!(segments_count >= 5, "{segments_count} segments");
}

/// A disk that is full of what openings have left of which none came to its end: the next one makes space, and puts go on
/// without a delete. An older manifest that still lies there is no hindrance.
#[test]
fn an_opening_on_a_disk_full_of_leftovers_makes_space() {
    for has_older_manifest in [false, true] {
        within(move || {
            let disk = SmallDisk::new(8 << 20);
            let expected = fill(&disk);
            if has_older_manifest {
                for _ in 0..4 {
                    builder(&disk).open().expect("opens").wait_idle().expect("idle");
                }
                leave_what_was_in_force(&disk);
            }
            fill_with_leftovers(&disk);
            let full_bytes = disk.used_bytes();
            let db = builder(&disk).open().expect("opens");
            for i in 0..200 {
                db.put(format!("more{i}"), [9; 100]).unwrap_or_else(|error| {
                    panic!("an older manifest: {has_older_manifest}: put {i}: {error:?}")
                });
            }
            db.flush().expect("there is space");
            db.wait_idle().expect("there is space");
            let used_bytes = disk.used_bytes();
            assert!(used_bytes < full_bytes / 4, "{used_bytes} of {full_bytes} bytes are still taken");
            let found = contents(db.default_keyspace());
            assert_eq!(found.len(), expected.len() + 200);
            assert!(expected.iter().all(|(key, value)| found.get(key) == Some(value)));
            drop(db);
            assert_eq!(contents(builder(&disk).open().expect("opens").default_keyspace()), found);
        });
    }
}
