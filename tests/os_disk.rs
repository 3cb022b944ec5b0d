//! The real disk where it takes a process of its own: another current directory, no descriptor left, a forked child.
//!
//! One test, because each part changes what belongs to the whole process.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "the test looks at the disk past the library")]
#![allow(unsafe_code, reason = "there is no safe way to fork")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use tinylsm::ErrorKind;
use tinylsm::sync::process_id;
use tinylsm::vfs::os::OsVfs;
use tinylsm::vfs::{DirLock, LockMode, Vfs};

#[test]
fn a_process_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    std::env::set_current_dir(dir.path()).unwrap();
    fs::create_dir_all("one/db").unwrap();
    fs::create_dir_all("two/db").unwrap();
    std::env::set_current_dir("one").unwrap();
    let held = Arc::new(OsVfs::new()).hold_dir(Path::new("db")).unwrap();
    a_relative_path_stays_the_same_directory(held.as_ref(), dir.path());
    running_out_of_descriptors_is_told_and_harms_nothing(held.as_ref());
    a_forked_child_leaves_the_lock_alone(held.as_ref());
}

fn a_relative_path_stays_the_same_directory(held: &dyn Vfs, root: &Path) {
    let lock = held.lock(Path::new("db/LOCK"), LockMode::Exclusive).unwrap();
    drop(held.create_new(Path::new("db/a")).unwrap());
    std::env::set_current_dir(root.join("two")).unwrap();
    fs::write("db/LOCK", b"").unwrap();
    drop(held.create_new(Path::new("db/b")).unwrap());
    held.rename(Path::new("db/a"), Path::new("db/c")).unwrap();
    held.sync_dir(Path::new("db")).unwrap();
    lock.check().unwrap();
    let names = |path: &Path| {
        let entries = OsVfs::new().read_dir(path).unwrap();
        entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&root.join("one/db")), ["LOCK", "b", "c"]);
    assert_eq!(names(&root.join("two/db")), ["LOCK"]);
    // The absolute path that it had means the held directory as well.
    let absolute = root.join("one/db");
    fs::rename(root.join("one"), root.join("moved")).unwrap();
    assert!(held.open(&absolute.join("b")).is_ok());
    assert_eq!(held.open(&root.join("one/elsewhere")).err().unwrap().kind(), ErrorKind::NotFound);
    lock.release().unwrap();
}

fn running_out_of_descriptors_is_told_and_harms_nothing(held: &dyn Vfs) {
    let mut file = held.create_new(Path::new("db/open")).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let kinds = [
        held.create_new(Path::new("db/new")).err(),
        held.open(Path::new("db/b")).err(),
        held.sync_file(Path::new("db/b")).err(),
        held.read_dir(Path::new("db")).err(),
        held.lock(Path::new("db/LOCK"), LockMode::Exclusive).err(),
        OsVfs::new().sync_dir(Path::new(".")).err(),
    ]
    .map(|error| error.map(|error| error.kind()));
    // What is open goes on, and the held directory is synced all the same.
    let appended = file.append(&[IoSlice::new(b"bytes")]).and_then(|()| file.sync());
    let synced = held.sync_dir(Path::new("db"));
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(kinds, [Some(ErrorKind::Exhausted); 6]);
    appended.unwrap();
    synced.unwrap();
    assert_eq!(held.metadata(Path::new("db/new")).unwrap_err().kind(), ErrorKind::NotFound);
    drop(held.create_new(Path::new("db/new")).unwrap());
}

fn a_forked_child_leaves_the_lock_alone(held: &dyn Vfs) {
    let lock = |mode| held.lock(Path::new("db/LOCK"), mode);
    let parent = process_id();
    let locks = [lock(LockMode::Exclusive).unwrap()];
    // The child drops its copy, and finds that the parent's lock is there; then it lives on with a copy of its own.
    let locks = in_a_child(locks, |[copy]| {
        let is_another = process_id() != parent && process_id() == std::process::id();
        drop(copy);
        is_another && lock(LockMode::Exclusive).is_err()
    });
    let [ours] = locks;
    assert_eq!(process_id(), parent);
    ours.check().unwrap();
    assert_eq!(lock(LockMode::Exclusive).err().unwrap().kind(), ErrorKind::Locked);
    let [ours] =
        in_a_child([ours], |[copy]| copy.release().is_err_and(|error| error.kind() == ErrorKind::Closed));
    assert_eq!(lock(LockMode::Exclusive).err().unwrap().kind(), ErrorKind::Locked);

    // A child that lives on does not keep what the parent releases.
    let (mut alive, mut told) = std::io::pipe().unwrap();
    // SAFETY: the child only waits and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(told);
        // Ends when the parent has closed its end, or has died.
        let _ = std::io::Read::read(&mut alive, &mut [0]);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) }
    }
    ours.release().unwrap();
    lock(LockMode::Exclusive).unwrap().release().unwrap();
    std::io::Write::write_all(&mut told, b"x").unwrap();
    assert_eq!(exit_code(child), Some(0));
}

/// Runs `body` on a forked child's copy of the locks, which says whether all was well; gives the parent's back.
fn in_a_child(
    locks: [Box<dyn DirLock>; 1],
    body: impl FnOnce([Box<dyn DirLock>; 1]) -> bool,
) -> [Box<dyn DirLock>; 1] {
    // SAFETY: the child runs only calls of the system and the allocator, which the C library makes safe over a fork, and
    // ends without returning into the test's harness.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_well = body(locks);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(i32::from(!is_well)) }
    }
    assert_eq!(exit_code(child), Some(0), "the child found something wrong");
    locks
}

/// Waits for a child's end.
fn exit_code(child: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    (waited == child && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status))
}
