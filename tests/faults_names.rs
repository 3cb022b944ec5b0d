//! Files by their names: what is ours and what is not, what proves that there was a database, and what is said of each.

#![allow(clippy::disallowed_methods, reason = "the test plays an operator, who has the disk")]

use std::cmp::Ordering;
use std::fs;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::os::OsVfs;
use tinylsm::{Comparator, Db, ErrorKind, KeyspaceOptions, Options, inspect};

fn dumped(disk: &dyn Vfs, path: &str) -> tinylsm::Result<String> {
    let mut text = String::new();
    inspect::dump_file(disk, Path::new(path), &mut text).map(|()| text)
}

/// Whatever has a name that a new database would take for its own is refused and stays.
#[test]
fn a_new_database_removes_nobodys_file() {
    for name in ["000009.sst", "000004.tmp", "RESERVE", "000007.wal", "MANIFEST-000003"] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(name);
        fs::write(&file, "a text that is no database's\n").expect("written");
        let error = Db::open(dir.path()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{name}: {error}");
        assert!(file.exists(), "{name} is gone");
    }
}

/// A database that lost `CURRENT` is not made anew where its manifest says more than a new one would.
#[test]
fn a_lost_pointer_costs_no_keyspace() {
    for reserve_bytes_max in [0, 64 << 20] {
        let disk = Arc::new(MemVfs::new());
        let options = || Options::default().reserve_bytes_max(reserve_bytes_max);
        let open = || Db::builder("/db").vfs(disk.clone()).options(options()).open();
        let db = open().expect("opens");
        db.create_keyspace("users", KeyspaceOptions::default()).expect("created");
        db.wait_idle().expect("idle");
        db.close().expect("closes");
        disk.remove_file(Path::new("/db/CURRENT")).expect("it is there");
        for result in [open(), Db::builder("/db").vfs(disk.clone()).open_read_only()] {
            let error = result.map(drop).expect_err("it is damaged");
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            assert!(error.to_string().contains("CURRENT is missing"), "{error}");
        }
        assert!(inspect::pointer_line(disk.as_ref(), Path::new("/db")).expect("readable").is_some());
    }
}

#[test]
fn figures_count_every_file_but_current() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("db");
    let options = Options::default().reserve_bytes_max(0).wal_preallocate_bytes(0);
    let db = Db::builder(&path).options(options).open().expect("opens");
    db.put("a", "b").expect("puts");
    db.flush().expect("flushes");
    db.wait_idle().expect("idle");
    let found = |db: &Db| -> u64 {
        let names = db.stats().live_files.into_iter().filter(|name| name != "CURRENT");
        names.map(|name| fs::metadata(path.join(name)).expect("live").len()).sum()
    };
    assert_eq!(db.stats().disk_bytes, found(&db), "a writer");
    db.close().expect("closes");
    let reader = Db::builder(&path).open_read_only().expect("opens");
    assert_eq!(reader.stats().disk_bytes, found(&reader), "a reader");
}

struct Backwards;

impl Comparator for Backwards {
    fn name(&self) -> &str {
        "an application's own"
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        b.cmp(a)
    }
}

#[test]
fn a_table_in_an_applications_order_is_shown() {
    let disk = Arc::new(MemVfs::new());
    let db = Db::builder("/db").vfs(disk.clone()).comparator(Arc::new(Backwards)).open().expect("opens");
    let options = KeyspaceOptions::default().comparator(Backwards.name());
    let keyspace = db.create_keyspace("backwards", options).expect("created");
    for number in 0..300 {
        keyspace.put(format!("key{number:03}"), vec![b'v'; 100]).expect("puts");
    }
    db.flush().expect("flushes");
    let table = db.stats().live_files.into_iter().find(|name| name.ends_with(".sst")).expect("a table");
    let text = dumped(disk.as_ref(), &format!("/db/{table}")).expect("shown");
    assert!(text.contains(Backwards.name()) && text.contains("\"key299\"") && text.contains("\"key000\""));
}

#[test]
fn a_temporary_file_is_said_to_become_current_only_if_it_can() {
    let disk = Arc::new(MemVfs::new());
    Db::builder("/db").vfs(disk.clone()).open().expect("opens").close().expect("closes");
    let mut zeros = disk.create_new(Path::new("/db/000099.tmp")).expect("new");
    zeros.append(&[IoSlice::new(&[0; 4096])]).expect("memory");
    assert!(dumped(disk.as_ref(), "/db/000099.tmp").expect("shown").contains("mean nothing"));
    disk.rename(Path::new("/db/CURRENT"), Path::new("/db/000100.tmp")).expect("there");
    assert!(dumped(disk.as_ref(), "/db/000100.tmp").expect("shown").contains("become CURRENT"));
}

#[test]
fn a_manifest_that_is_shorter_than_current_says_is_damaged() {
    let disk = Arc::new(MemVfs::new());
    let db = Db::builder("/db").vfs(disk.clone()).open().expect("opens");
    let manifest = db.stats().live_files.into_iter().find(|name| name.starts_with("MANIFEST")).expect("one");
    db.close().expect("closes");
    let path = format!("/db/{manifest}");
    let len = disk.metadata(Path::new(&path)).expect("there").len;
    disk.flip(Path::new(&path), len - 5, 1).expect("there");
    assert_eq!(dumped(disk.as_ref(), &path).expect_err("damaged").kind(), ErrorKind::Corruption);
}

#[test]
fn a_lock_file_of_somebody_else_names_no_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let lock = dir.path().join("LOCK");
    fs::write(&lock, "7\n").expect("written");
    Db::open(dir.path()).expect("opens").close().expect("closes");
    assert_eq!(fs::read(&lock).expect("there"), b"7\n", "left alone");
    let text = dumped(&OsVfs::new(), &lock.to_string_lossy()).expect("shown");
    assert!(!text.contains("process 7"), "{text}");
}
