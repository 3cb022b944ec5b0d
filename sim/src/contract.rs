//! The contract of `tinylsm::vfs` as tests that any disk can be put through.
//!
//! Owns one suite, which the real disk, the disk in memory and the simulated one pass. It checks what can be seen without a
//! loss of power: what is durable only a disk that loses power can show.
#![allow(clippy::unwrap_used, reason = "these are tests, and a panic is how they tell")]

use crate::schedule::panics::text_of;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tinylsm::base::error::ErrorKind;
use tinylsm::vfs::{Advice, Copied, LockMode, Vfs, WriteFile, read_full};

/// A disk and an empty directory on it.
struct Bench {
    disk: Arc<dyn Vfs>,
    root: PathBuf,
}

impl Bench {
    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Box<dyn WriteFile> {
        let mut file = self.disk.create_new(&self.at(name)).unwrap();
        file.append(&[IoSlice::new(bytes)]).unwrap();
        file
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let file = self.disk.open(&self.at(name)).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap() + 3];
        let count = read_full(file.as_ref(), &mut bytes, 0).unwrap();
        bytes.truncate(count);
        bytes
    }

    fn names(&self) -> Vec<String> {
        self.disk.read_dir(&self.root).unwrap().into_iter().map(|entry| entry.name).collect()
    }
}

/// A promise of the contract.
type Case = fn(&Bench);

/// Every promise, by name.
const CASES: &[(&str, Case)] = &[
    ("appended bytes are visible at once", appended_bytes_are_visible_at_once),
    ("a new name must be free", a_new_name_must_be_free),
    ("what is missing is not found", what_is_missing_is_not_found),
    ("reads end with the file", reads_end_with_the_file),
    ("a removed file lives in its handles", a_removed_file_lives_in_its_handles),
    ("a rename replaces", a_rename_replaces),
    ("a rename stays in its directory", a_rename_stays_in_its_directory),
    ("a link or copy has the bytes", a_link_or_copy_has_the_bytes),
    ("directories are made with their parents", directories_are_made_with_their_parents),
    ("a listing is sorted", a_listing_is_sorted),
    ("reserved space is zeros behind the logical end", reserved_space_is_zeros_behind_the_logical_end),
    ("locks exclude", locks_exclude),
    ("a shared lock changes nothing", a_shared_lock_changes_nothing),
    ("a lock is of the file that has its name", a_lock_is_of_the_file_that_has_its_name),
    ("a released lock is free", a_released_lock_is_free),
    ("a held directory is the same disk", a_held_directory_is_the_same_disk),
    ("a directory that is missing cannot be held", a_directory_that_is_missing_cannot_be_held),
    ("a trim gives back what was not appended", a_trim_gives_back_what_was_not_appended),
    ("a failed allocation leaves the file as it was", a_failed_allocation_leaves_the_file_as_it_was),
    ("many files can be synced at once", many_files_can_be_synced_at_once),
    ("a directory is no file", a_directory_is_no_file),
    ("everything can be synced", everything_can_be_synced),
    ("time goes on", time_goes_on),
];

/// Checks every promise twice: on the disk as it is, and in a view that holds the directory. Makes directories below `root`,
/// which is not there yet or empty, and leaves them. Takes a few milliseconds of [`Vfs::sleep`].
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
/// use tinylsm::vfs::{Vfs, mem::MemVfs};
/// let disk: Arc<dyn Vfs> = Arc::new(MemVfs::new());
/// tinylsm_sim::contract::check(&disk, Path::new("/contract"));
/// ```
///
/// # Panics
/// If the disk breaks a promise: the message names it. If there is anything below `root` already.
#[track_caller]
pub fn check(disk: &Arc<dyn Vfs>, root: &Path) {
    let is_empty = disk.read_dir(root).map_or(true, |entries| entries.is_empty());
    assert!(
        is_empty,
        "{} is not empty: the contract of `Vfs` is checked in a directory of its own",
        root.display()
    );
    for (index, (promise, case)) in CASES.iter().enumerate() {
        for view in ["plain", "held"] {
            let root = root.join(format!("{index}-{view}"));
            let run = || {
                disk.create_dir_all(&root).unwrap();
                let disk =
                    if view == "held" { Arc::clone(disk).hold_dir(&root).unwrap() } else { Arc::clone(disk) };
                case(&Bench { disk, root: root.clone() });
            };
            let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) else { continue };
            let text = text_of(payload.as_ref()).unwrap_or("no text");
            panic!("the disk breaks the contract of `Vfs`: {promise} ({view} directory): {text}");
        }
    }
}

fn appended_bytes_are_visible_at_once(bench: &Bench) {
    let mut file = bench.disk.create_new(&bench.at("f")).unwrap();
    assert!(file.is_empty());
    let reader = bench.disk.open(&bench.at("f")).unwrap();
    assert!(reader.is_empty().unwrap());
    let mut buffer = b"ab".to_vec();
    file.append(&[IoSlice::new(&buffer), IoSlice::new(b""), IoSlice::new(b"cde")]).unwrap();
    buffer.fill(b'X');
    file.append(&[]).unwrap();
    file.append(&[IoSlice::new(b"f")]).unwrap();
    assert_eq!(file.len(), 6);
    assert_eq!(reader.len().unwrap(), 6);
    assert_eq!(bench.read("f"), b"abcdef");
    drop(file);
    let mut two = [0; 2];
    reader.advise(Advice::WillNeed, 0, 6);
    assert_eq!(read_full(reader.as_ref(), &mut two, 2).unwrap(), 2);
    assert_eq!(&two, b"cd");
}

fn a_new_name_must_be_free(bench: &Bench) {
    drop(bench.create("f", b"old"));
    let kind = |path: PathBuf| bench.disk.create_new(&path).err().unwrap().kind();
    assert_eq!(kind(bench.at("f")), ErrorKind::AlreadyExists);
    assert_eq!(kind(bench.at("missing/f")), ErrorKind::NotFound);
    assert_eq!(bench.read("f"), b"old");
}

fn what_is_missing_is_not_found(bench: &Bench) {
    let (missing, other) = (bench.at("missing"), bench.at("other"));
    let disk = &bench.disk;
    assert_eq!(disk.open(&missing).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.sync_file(&missing).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.rename(&missing, &other).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove_file(&missing).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.link_or_copy(&missing, &other).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.read_dir(&missing).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.sync_dir(&missing).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.metadata(&missing).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(bench.names().is_empty());
}

fn reads_end_with_the_file(bench: &Bench) {
    drop(bench.create("f", b"abc"));
    let file = bench.disk.open(&bench.at("f")).unwrap();
    let mut buffer = [7; 4];
    assert_eq!(read_full(file.as_ref(), &mut buffer, 1).unwrap(), 2);
    assert_eq!(buffer, [b'b', b'c', 7, 7]);
    assert_eq!(file.read_at(&mut buffer, 3).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
}

fn a_removed_file_lives_in_its_handles(bench: &Bench) {
    let mut writer = bench.create("f", b"old");
    let reader = bench.disk.open(&bench.at("f")).unwrap();
    bench.disk.remove_file(&bench.at("f")).unwrap();
    assert!(bench.names().is_empty());
    drop(bench.create("f", b"new file"));
    writer.append(&[IoSlice::new(b"er")]).unwrap();
    writer.sync().unwrap();
    let mut buffer = [0; 5];
    assert_eq!(read_full(reader.as_ref(), &mut buffer, 0).unwrap(), 5);
    assert_eq!(&buffer, b"older");
    assert_eq!(bench.read("f"), b"new file");
}

fn a_rename_replaces(bench: &Bench) {
    drop(bench.create("a", b"a"));
    drop(bench.create("b", b"b"));
    let old = bench.disk.open(&bench.at("b")).unwrap();
    bench.disk.rename(&bench.at("a"), &bench.at("b")).unwrap();
    assert_eq!(bench.names(), ["b"]);
    assert_eq!(bench.read("b"), b"a");
    let mut buffer = [0; 1];
    assert_eq!(old.read_at(&mut buffer, 0).unwrap(), 1);
    assert_eq!(&buffer, b"b");
    bench.disk.rename(&bench.at("b"), &bench.at("b")).unwrap();
    bench.disk.rename(&bench.at("b"), &bench.at("c")).unwrap();
    assert_eq!(bench.names(), ["c"]);
}

fn a_rename_stays_in_its_directory(bench: &Bench) {
    drop(bench.create("f", b"f"));
    bench.disk.create_dir_all(&bench.at("dir")).unwrap();
    let kind = bench.disk.rename(&bench.at("f"), &bench.at("dir/f")).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert_eq!(bench.read("f"), b"f");
}

fn a_link_or_copy_has_the_bytes(bench: &Bench) {
    let mut file = bench.create("a", b"one");
    let copied = bench.disk.link_or_copy(&bench.at("a"), &bench.at("b")).unwrap();
    assert_eq!(bench.read("b"), b"one");
    if copied == Copied::Copied {
        file.append(&[IoSlice::new(b" two")]).unwrap();
        assert_eq!(bench.read("b"), b"one");
        let again = bench.disk.link_or_copy(&bench.at("a"), &bench.at("b")).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        return;
    }
    file.append(&[IoSlice::new(b" two")]).unwrap();
    assert_eq!(bench.read("b"), b"one two");
    let again = bench.disk.link_or_copy(&bench.at("a"), &bench.at("b")).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    // Two names of one file: renaming one to the other does nothing, as POSIX has it.
    bench.disk.rename(&bench.at("a"), &bench.at("b")).unwrap();
    assert_eq!(bench.names(), ["a", "b"]);
    bench.disk.remove_file(&bench.at("a")).unwrap();
    assert_eq!(bench.read("b"), b"one two");
}

fn directories_are_made_with_their_parents(bench: &Bench) {
    bench.disk.create_dir_all(&bench.at("a/b/c")).unwrap();
    bench.disk.create_dir_all(&bench.at("a/b/c")).unwrap();
    bench.disk.create_dir_all(&bench.at("a/b/d")).unwrap();
    let names: Vec<String> =
        bench.disk.read_dir(&bench.at("a/b")).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["c", "d"]);
    assert!(bench.disk.metadata(&bench.at("a/b/c")).unwrap().is_dir);
    drop(bench.create("f", b""));
    assert_eq!(bench.disk.create_dir_all(&bench.at("f")).unwrap_err().kind(), ErrorKind::Io);
}

fn a_listing_is_sorted(bench: &Bench) {
    for name in ["b", "10", "a", "2", "B"] {
        drop(bench.create(name, b""));
    }
    bench.disk.create_dir_all(&bench.at("aa")).unwrap();
    assert_eq!(bench.names(), ["10", "2", "B", "a", "aa", "b"]);
    let dirs: Vec<bool> =
        bench.disk.read_dir(&bench.root).unwrap().into_iter().map(|entry| entry.is_dir).collect();
    assert_eq!(dirs, [false, false, false, false, true, false]);
}

/// Returns `bytes` with zeros behind them up to what a file has allocated.
fn with_zeros(bytes: &[u8], file: &dyn WriteFile) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(usize::try_from(file.allocated_len()).unwrap().max(bytes.len()), 0);
    bytes
}

fn reserved_space_is_zeros_behind_the_logical_end(bench: &Bench) {
    let mut file = bench.create("f", b"ab");
    assert_eq!(file.allocated_len(), 2);
    file.allocate(0).unwrap();
    file.allocate(1).unwrap();
    assert_eq!((file.allocated_len(), bench.read("f")), (2, b"ab".to_vec()));
    file.allocate(6).unwrap();
    // A disk that cannot reserve does nothing.
    let reserved_len = file.allocated_len();
    assert!([2, 6].contains(&reserved_len), "of 6 bytes {reserved_len} are allocated");
    assert_eq!(file.len(), 2);
    assert_eq!(bench.read("f"), with_zeros(b"ab", file.as_ref()));
    assert_eq!(bench.disk.metadata(&bench.at("f")).unwrap().len, reserved_len);
    file.append(&[IoSlice::new(b"cd")]).unwrap();
    file.allocate(5).unwrap();
    assert_eq!(file.allocated_len(), reserved_len.max(4));
    assert_eq!(bench.read("f"), with_zeros(b"abcd", file.as_ref()));
    file.append(&[IoSlice::new(b"efgh")]).unwrap();
    assert_eq!((file.len(), file.allocated_len()), (8, 8));
    file.sync().unwrap();
    assert_eq!(bench.read("f"), b"abcdefgh");
}

fn locks_exclude(bench: &Bench) {
    let lock = |mode| bench.disk.lock(&bench.at("LOCK"), mode);
    let kind = |mode| lock(mode).err().map(|error| error.kind());
    let exclusive = lock(LockMode::Exclusive).unwrap();
    assert_eq!(kind(LockMode::Exclusive), Some(ErrorKind::Locked));
    assert_eq!(kind(LockMode::Shared), Some(ErrorKind::Locked));
    drop(exclusive);
    let first = lock(LockMode::Shared).unwrap();
    let second = lock(LockMode::Shared).unwrap();
    assert_eq!(kind(LockMode::Exclusive), Some(ErrorKind::Locked));
    drop(first);
    assert_eq!(kind(LockMode::Exclusive), Some(ErrorKind::Locked));
    drop(second);
    assert_eq!(kind(LockMode::Exclusive), None);
}

fn a_shared_lock_changes_nothing(bench: &Bench) {
    let path = bench.at("LOCK");
    let error = bench.disk.lock(&path, LockMode::Shared).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(bench.names().is_empty());
    drop(bench.create("LOCK", b"who"));
    drop(bench.disk.lock(&path, LockMode::Shared).unwrap());
    drop(bench.disk.lock(&path, LockMode::Exclusive).unwrap());
    assert_eq!(bench.read("LOCK"), b"who");
}

fn a_lock_is_of_the_file_that_has_its_name(bench: &Bench) {
    let path = bench.at("LOCK");
    let lock = || bench.disk.lock(&path, LockMode::Exclusive);
    let first = lock().unwrap();
    first.check().unwrap();
    bench.disk.remove_file(&path).unwrap();
    assert_eq!(first.check().unwrap_err().kind(), ErrorKind::Io);
    let second = lock().unwrap();
    second.check().unwrap();
    assert_eq!(first.check().unwrap_err().kind(), ErrorKind::Io);
    drop(first);
    assert_eq!(lock().err().unwrap().kind(), ErrorKind::Locked, "the first was of another file");
    drop(bench.create("new", b""));
    bench.disk.rename(&bench.at("new"), &path).unwrap();
    assert_eq!(second.check().unwrap_err().kind(), ErrorKind::Io);
    let third = lock().unwrap();
    third.check().unwrap();
}

fn a_released_lock_is_free(bench: &Bench) {
    let lock = |mode| bench.disk.lock(&bench.at("LOCK"), mode);
    lock(LockMode::Exclusive).unwrap().release().unwrap();
    let shared = lock(LockMode::Shared).unwrap();
    lock(LockMode::Shared).unwrap().release().unwrap();
    shared.check().unwrap();
    assert_eq!(lock(LockMode::Exclusive).err().unwrap().kind(), ErrorKind::Locked);
    shared.release().unwrap();
    lock(LockMode::Exclusive).unwrap().release().unwrap();
}

fn a_held_directory_is_the_same_disk(bench: &Bench) {
    let inner = bench.at("inner");
    bench.disk.create_dir_all(&inner).unwrap();
    let held = Arc::clone(&bench.disk).hold_dir(&inner).unwrap();
    held.create_dir_all(&inner).unwrap();
    let mut file = held.create_new(&inner.join("f")).unwrap();
    file.append(&[IoSlice::new(b"f")]).unwrap();
    file.sync().unwrap();
    held.sync_dir(&inner).unwrap();
    assert_eq!(bench.read("inner/f"), b"f");
    // Other places are there too, and files go from one to the other.
    held.link_or_copy(&inner.join("f"), &bench.at("outer")).unwrap();
    held.sync_dir(&bench.root).unwrap();
    assert_eq!(bench.read("outer"), b"f");
    held.remove_file(&bench.at("outer")).unwrap();
    held.create_dir_all(&inner.join("below")).unwrap();
    drop(held.create_new(&inner.join("below/g")).unwrap());
    held.sync_dir(&inner.join("below")).unwrap();
    assert!(bench.disk.metadata(&bench.at("inner/below/g")).is_ok());
    assert_eq!(bench.names(), ["inner"]);
    // A view of a view holds its own directory and leaves the rest to the one below it.
    let again = Arc::clone(&held).hold_dir(&inner.join("below")).unwrap();
    drop(held);
    assert_eq!(again.read_dir(&inner.join("below")).unwrap().len(), 1);
    assert_eq!(again.read_dir(&inner).unwrap().len(), 2);
    assert_eq!(again.open(&inner.join("h")).err().unwrap().kind(), ErrorKind::NotFound);
}

fn a_directory_that_is_missing_cannot_be_held(bench: &Bench) {
    let kind = |name| Arc::clone(&bench.disk).hold_dir(&bench.at(name)).err().map(|error| error.kind());
    assert_eq!(kind("missing"), Some(ErrorKind::NotFound));
    drop(bench.create("f", b"f"));
    assert_eq!(kind("f"), Some(ErrorKind::Io));
}

fn a_trim_gives_back_what_was_not_appended(bench: &Bench) {
    let mut file = bench.create("f", b"ab");
    file.trim().unwrap();
    file.allocate(9_000).unwrap();
    file.trim().unwrap();
    file.trim().unwrap();
    assert_eq!(bench.read("f"), b"ab");
    assert_eq!(bench.disk.metadata(&bench.at("f")).unwrap().len, 2);
    assert_eq!((file.len(), file.allocated_len()), (2, 2));
    file.append(&[IoSlice::new(b"cd")]).unwrap();
    file.allocate(6).unwrap();
    assert_eq!(bench.read("f"), with_zeros(b"abcd", file.as_ref()));
    file.append(&[IoSlice::new(b"efghi")]).unwrap();
    file.trim().unwrap();
    file.sync().unwrap();
    assert_eq!(bench.read("f"), b"abcdefghi");
}

fn a_failed_allocation_leaves_the_file_as_it_was(bench: &Bench) {
    let mut file = bench.create("f", b"ab");
    file.allocate(5).unwrap();
    // More than any disk has; the one in memory has it all the same.
    if file.allocate(1 << 62).is_ok() {
        file.trim().unwrap();
        file.allocate(5).unwrap();
    }
    assert_eq!(bench.read("f"), with_zeros(b"ab", file.as_ref()));
    file.append(&[IoSlice::new(b"cdef")]).unwrap();
    file.sync().unwrap();
    assert_eq!(bench.read("f"), b"abcdef");
}

fn many_files_can_be_synced_at_once(bench: &Bench) {
    let mut files: Vec<Box<dyn WriteFile>> =
        (0..20).map(|index| bench.create(&index.to_string(), b"bytes")).collect();
    bench.disk.sync_files(&mut files[..1]).unwrap();
    bench.disk.sync_files(&mut files).unwrap();
    bench.disk.sync_files(&mut []).unwrap();
    bench.disk.sync_dir(&bench.root).unwrap();
    for file in &mut files {
        file.append(&[IoSlice::new(b" more")]).unwrap();
    }
    assert_eq!(bench.read("7"), b"bytes more");
}

fn a_directory_is_no_file(bench: &Bench) {
    bench.disk.create_dir_all(&bench.at("dir")).unwrap();
    drop(bench.create("f", b"f"));
    let disk = &bench.disk;
    assert_eq!(disk.create_new(&bench.at("dir")).err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(disk.remove_file(&bench.at("dir")).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(disk.rename(&bench.at("f"), &bench.at("dir")).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(disk.read_dir(&bench.at("f")).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(disk.create_new(&bench.at("f/g")).err().unwrap().kind(), ErrorKind::Io);
    let metadata = disk.metadata(&bench.at("dir")).unwrap();
    assert!(metadata.is_dir);
    assert_eq!(metadata.len, 0);
}

fn everything_can_be_synced(bench: &Bench) {
    let mut file = bench.create("f", b"bytes");
    file.sync().unwrap();
    file.sync().unwrap();
    bench.disk.sync_file(&bench.at("f")).unwrap();
    bench.disk.sync_dir(&bench.root).unwrap();
    bench.disk.sync_dir(bench.root.parent().unwrap()).unwrap();
    assert_eq!(bench.read("f"), b"bytes");
    assert!(bench.disk.available_space(&bench.root).unwrap() > 0);
}

fn time_goes_on(bench: &Bench) {
    let (start, wall) = (bench.disk.now(), bench.disk.wall());
    bench.disk.sleep(Duration::from_millis(2));
    assert!(bench.disk.now() >= start + 2_000_000);
    assert!(bench.disk.wall() >= wall);
    assert!(wall.0 > 1_700_000_000_000);
}
