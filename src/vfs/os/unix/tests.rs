//! What only the real disk can show: directories that move, a current directory, processes.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::vfs::os::lock;
use std::fs;
use std::io::IoSlice;
use std::path::PathBuf;

/// A temporary directory with a held directory `db` in it, named by its absolute path.
struct Bench {
    root: tempfile::TempDir,
    disk: Arc<dyn Vfs>,
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("db")).unwrap();
        let disk = Arc::new(OsVfs::new()).hold_dir(&root.path().join("db")).unwrap();
        Bench { root, disk }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let mut file = self.disk.create_new(&self.at(name)).unwrap();
        file.append(&[IoSlice::new(bytes)]).unwrap();
        file.sync().unwrap();
    }
}

#[test]
fn many_parts_and_empty_ones_arrive_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let bytes: Vec<u8> = (0..200u8).collect();
    let mut parts = vec![IoSlice::new(&[])];
    for byte in bytes.chunks(1) {
        parts.push(IoSlice::new(byte));
        parts.push(IoSlice::new(&[]));
    }
    let mut file = OsVfs::new().create_new(&path).unwrap();
    file.append(&parts).unwrap();
    file.append(&[]).unwrap();
    file.append(&parts[..1]).unwrap();
    assert_eq!(file.len(), 200);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_copy_stands_in_where_links_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&from, b"bytes").unwrap();
    let disk = OsVfs::new();
    disk.copy(&from, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"bytes");
    assert_eq!(disk.copy(&from, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(cannot_link(Errno::XDEV));
    assert!(!cannot_link(Errno::NOENT));
}

#[test]
fn relative_names_find_their_directory() {
    assert_eq!(parent_of(Path::new("db")), Path::new("."));
    assert_eq!(parent_of(Path::new("a/db")), Path::new("a"));
    assert_eq!(parent_of(Path::new("/")), Path::new("/"));
}

#[test]
fn a_held_directory_is_the_same_one_after_it_was_moved_and_replaced() {
    let bench = Bench::new();
    bench.write("db/before", b"before");
    let lock = bench.disk.lock(&bench.at("db/LOCK"), LockMode::Exclusive).unwrap();
    fs::rename(bench.at("db"), bench.at("moved")).unwrap();
    fs::create_dir(bench.at("db")).unwrap();
    fs::write(bench.at("db/foreign"), b"foreign").unwrap();
    fs::write(bench.at("db/LOCK"), b"").unwrap();

    bench.write("db/after", b"after");
    bench.disk.rename(&bench.at("db/before"), &bench.at("db/renamed")).unwrap();
    bench.disk.link_or_copy(&bench.at("db/renamed"), &bench.at("db/linked")).unwrap();
    bench.disk.remove_file(&bench.at("db/renamed")).unwrap();
    bench.disk.sync_file(&bench.at("db/linked")).unwrap();
    bench.disk.sync_dir(&bench.at("db")).unwrap();
    lock.check().unwrap();
    let names = |entries: Vec<DirEntry>| entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>();
    assert_eq!(names(bench.disk.read_dir(&bench.at("db")).unwrap()), ["LOCK", "after", "linked"]);
    assert_eq!(fs::read(bench.at("moved/after")).unwrap(), b"after");
    assert!(bench.disk.metadata(&bench.at("db")).unwrap().is_dir);
    assert_eq!(bench.disk.metadata(&bench.at("db/foreign")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(bench.disk.available_space(&bench.at("db")).unwrap() > 0);
    bench.disk.create_dir_all(&bench.at("db/below")).unwrap();
    assert!(fs::metadata(bench.at("moved/below")).unwrap().is_dir());
    // Nothing of this reached the directory that has the name now.
    assert_eq!(names(OsVfs::new().read_dir(&bench.at("db")).unwrap()), ["LOCK", "foreign"]);
}

#[test]
fn a_path_out_of_the_held_directory_is_the_systems() {
    let bench = Bench::new();
    fs::create_dir(bench.at("other")).unwrap();
    bench.write("db/f", b"f");
    bench.disk.link_or_copy(&bench.at("db/f"), &bench.at("other/f")).unwrap();
    assert_eq!(fs::read(bench.at("other/f")).unwrap(), b"f");
    fs::rename(bench.at("db"), bench.at("moved")).unwrap();
    // These are names of the system's, which nobody has any more.
    let kind = |name| bench.disk.open(&bench.at(name)).err().map(|error| error.kind());
    assert_eq!(kind("db/../db/f"), Some(ErrorKind::NotFound));
    assert_eq!(kind("db/../other/f"), Some(ErrorKind::NotFound));
    assert_eq!(kind("other/f"), None);
    assert_eq!(kind("db/f"), None);
}

#[test]
fn a_held_directory_that_was_removed_takes_nothing() {
    let bench = Bench::new();
    fs::remove_dir(bench.at("db")).unwrap();
    fs::create_dir(bench.at("db")).unwrap();
    let kind = bench.disk.create_new(&bench.at("db/f")).err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::NotFound));
    assert_eq!(fs::read_dir(bench.at("db")).unwrap().count(), 0);
}

#[test]
fn a_lock_knows_when_its_file_is_another() {
    let bench = Bench::new();
    let path = bench.at("db/LOCK");
    let lock = bench.disk.lock(&path, LockMode::Exclusive).unwrap();
    lock.check().unwrap();
    fs::remove_file(&path).unwrap();
    let error = lock.check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("removed or replaced"), "{error}");
    // Somebody else takes a lock on a file of its own, and ours does not come back by that.
    let other = bench.disk.lock(&path, LockMode::Exclusive).unwrap();
    other.check().unwrap();
    assert!(lock.check().is_err());
    other.release().unwrap();
    lock.release().unwrap();
}

#[test]
fn releasing_frees_the_lock_though_a_copy_of_the_descriptor_lives() {
    let bench = Bench::new();
    let path = bench.at("db/LOCK");
    // What a forked child would have: another descriptor of the same opened file.
    for ends in ["release", "drop"] {
        let vfs = OsVfs::new();
        let file = vfs.place(&path).open(OFlags::RDWR | OFlags::CREATE).unwrap();
        let copy = file.try_clone().unwrap();
        file.try_lock().unwrap();
        let lock = Box::new(lock::OsDirLock::held(file, &vfs, &path));
        assert_eq!(bench.disk.lock(&path, LockMode::Shared).err().unwrap().kind(), ErrorKind::Locked);
        if ends == "release" {
            lock.release().unwrap();
        } else {
            drop(lock);
        }
        drop(bench.disk.lock(&path, LockMode::Exclusive).unwrap());
        drop(copy);
    }
}

#[test]
fn a_lock_of_another_process_is_left_alone() {
    let bench = Bench::new();
    let path = bench.at("db/LOCK");
    let vfs = OsVfs::new();
    let file = vfs.place(&path).open(OFlags::RDWR | OFlags::CREATE).unwrap();
    let parents = file.try_clone().unwrap();
    parents.try_lock().unwrap();
    // What a forked child sees: the same opened file, taken by a process that it is not.
    let lock = |file: &std::fs::File| {
        let mut lock = lock::OsDirLock::held(file.try_clone().unwrap(), &vfs, &path);
        lock.process += 1;
        Box::new(lock)
    };
    drop(lock(&file));
    assert_eq!(lock(&file).release().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(bench.disk.lock(&path, LockMode::Exclusive).err().unwrap().kind(), ErrorKind::Locked);
}

#[test]
fn many_files_are_synced_together() {
    let bench = Bench::new();
    let mut files: Vec<Box<dyn WriteFile>> =
        (0..40).map(|index| bench.disk.create_new(&bench.at(&format!("db/{index}"))).unwrap()).collect();
    for file in &mut files {
        file.append(&[IoSlice::new(b"bytes")]).unwrap();
    }
    bench.disk.sync_files(&mut files).unwrap();
    bench.disk.sync_files(&mut []).unwrap();
}

#[test]
fn a_missing_ability_is_named() {
    assert!(is_unsupported(Errno::OPNOTSUPP) && !is_unsupported(Errno::IO) && !is_unsupported(Errno::ROFS));
    // A pipe cannot be synced, as directories cannot on some file systems.
    let (pipe, _writer) = std::io::pipe().unwrap();
    let path = Path::new("/odd/db");
    let error = OsVfs::new().sync_dir_of(&pipe, path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(
        text.starts_with("sync the directory /odd/db: this file system cannot sync directories (fsync: "),
        "{text}"
    );
    assert!(text.contains("OsVfs::accept_missing_dir_sync"), "{text}");
    OsVfs::new().accept_missing_dir_sync().sync_dir_of(&pipe, path).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_system_without_locks_is_named_and_can_be_accepted() {
    let bench = Bench::new();
    let path = bench.at("db/LOCK");
    bench.write("db/LOCK", b"");
    let vfs = OsVfs::new();
    // A descriptor that is only a path cannot be locked, as no file can on some file systems.
    let file = vfs.place(&path).open(OFlags::PATH).unwrap();
    let error = lock::try_lock(&file, &path, LockMode::Exclusive, vfs.accepts.missing_locks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("LOCK: this file system cannot lock files ("), "{text}");
    assert!(text.contains("OsVfs::accept_missing_locks"), "{text}");
    let accepts = vfs.accept_missing_locks().accepts.missing_locks;
    assert!(!lock::try_lock(&file, &path, LockMode::Exclusive, accepts).unwrap());
}
