//! Databases that were written once, are checked in, and must keep opening.
//!
//! `tests/data/format-N` has one database of each format version that a program must still read: one that was closed
//! in good order, and one whose process died, with commits that are only in sealed and open WAL segments. They never
//! change. For a new version delete nothing: add its number below and run the test, which makes the directory of the
//! newest version if there is none and asks to look at it.

mod common;

use common::{Model, contents, tiny};
use std::fmt::Write as _;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::os::OsVfs;
use tinylsm::vfs::{Vfs, read_full};
use tinylsm::{
    Background, Comparator, Compression, Db, DbBuilder, Keyspace, Options, ReverseBytewise, WriteBatch,
    WriteOptions,
};

/// Every format version of a whole database that this program reads, the newest last.
const VERSIONS: [u32; 1] = [1];
const ENDINGS: [&str; 2] = ["closed", "crashed"];

fn options() -> Options {
    let default_keyspace = common::tiny_keyspace().block_bytes(256).level0_compaction_trigger(10);
    tiny()
        .memtable_bytes(64 << 10)
        .sealed_memtables_max(8)
        .wal_preallocate_bytes(256)
        .default_keyspace(default_keyspace)
}

fn builder(disk: &Arc<MemVfs>) -> DbBuilder {
    Db::builder("/db").vfs(disk.clone()).options(options()).background(Background::Manual)
}

fn key(i: u32) -> String {
    format!("key{i:03}")
}

/// What both keyspaces hold after everything below; worked out apart from the engine.
fn expected() -> [Model; 2] {
    let mut model = Model::new();
    for round in 0..4 {
        for i in (round..40).step_by(round as usize + 1) {
            if (i + round) % 4 == 3 {
                model.remove(key(i).as_bytes());
            } else {
                model.insert(key(i).into_bytes(), value(round, i));
            }
        }
    }
    [model.clone(), model]
}

fn value(round: u32, i: u32) -> Vec<u8> {
    format!("{}{round}-{i}", "abc".repeat(i as usize % 9)).into_bytes()
}

fn write_round(db: &Db, other: &Keyspace, round: u32) {
    let mut batch = WriteBatch::new();
    for i in (round..40).step_by(round as usize + 1) {
        for keyspace in [db.default_keyspace(), other] {
            if (i + round) % 4 == 3 {
                batch.delete(keyspace, key(i));
            } else {
                batch.put(keyspace, key(i), value(round, i));
            }
        }
        if batch.len() >= 10 {
            db.write(&batch, WriteOptions::disk()).expect("writes");
            batch.clear();
        }
    }
    db.write(&batch, WriteOptions::os()).expect("writes");
}

/// Writes the database of `ending` with this program.
fn make(ending: &str) -> Arc<MemVfs> {
    let disk = Arc::new(MemVfs::new());
    let db = builder(&disk).open().expect("opens");
    let reverse = options()
        .default_keyspace
        .expect("given")
        .comparator(ReverseBytewise.name())
        .compression(Compression::None);
    let other = db.create_keyspace("other", reverse).expect("creates");
    for round in 0..2 {
        write_round(&db, &other, round);
        db.flush().expect("flushes");
        if round == 0 {
            db.compact_range(db.default_keyspace(), ..).expect("merges");
            db.compact_range(&other, ..).expect("merges");
        }
    }
    db.wait_idle().expect("idle");
    write_round(&db, &other, 2);
    if ending == "crashed" {
        // Opening again seals what was replayed and starts a segment; nothing is flushed before the next death.
        let died = Arc::new(disk.fork());
        drop((other, db));
        let db = builder(&died).open().expect("opens");
        write_round(&db, &db.keyspace("other").expect("there"), 3);
        return Arc::new(died.fork());
    }
    write_round(&db, &other, 3);
    drop(other);
    db.close().expect("closes");
    disk
}

fn directory(version: u32, ending: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{version}/{ending}"))
}

fn write_out(disk: &MemVfs, directory: &Path) {
    let real = OsVfs::new();
    real.create_dir_all(directory).expect("makes the directory");
    for path in disk.files() {
        let name = path.file_name().expect("a file");
        let mut file = real.create_new(&directory.join(name)).expect("a new file");
        file.append(&[IoSlice::new(&disk.read(&path).expect("listed"))]).expect("writes");
        file.sync().expect("syncs");
    }
}

/// Copies the checked-in directory to `/db` of a disk in memory.
fn checked_in(version: u32, ending: &str) -> Arc<MemVfs> {
    let directory = directory(version, ending);
    let real = OsVfs::new();
    if real.metadata(&directory).is_err() {
        assert_eq!(Some(&version), VERSIONS.last(), "{} is gone", directory.display());
        write_out(&make(ending), &directory);
        panic!("{} was made just now; look at it and check it in", directory.display());
    }
    let disk = MemVfs::new();
    disk.create_dir_all(Path::new("/db")).expect("memory");
    for entry in real.read_dir(&directory).expect("the directory is listed") {
        let file = real.open(&directory.join(&entry.name)).expect("listed");
        let mut bytes = vec![0; usize::try_from(file.len().expect("measured")).expect("small")];
        read_full(file.as_ref(), &mut bytes, 0).expect("reads");
        disk.write(&Path::new("/db").join(&entry.name), &bytes).expect("memory");
    }
    Arc::new(disk)
}

fn check_contents(db: &Db) {
    let [default, other] = expected();
    assert_eq!(contents(db.default_keyspace()), default);
    assert_eq!(contents(&db.keyspace("other").expect("there")), other);
    db.verify().expect("sound");
}

/// Lists the files with their lengths and checksums.
fn listing(disk: &MemVfs) -> String {
    let mut text = String::new();
    for path in disk.files() {
        let bytes = disk.read(&path).expect("listed");
        writeln!(text, "{} {} {:08x}", path.display(), bytes.len(), crc32fast::hash(&bytes)).expect("grows");
    }
    text
}

#[test]
fn this_program_writes_what_the_test_expects() {
    for ending in ENDINGS {
        check_contents(&builder(&make(ending)).open().expect("opens"));
    }
}

fn check_that_it_reads_back(disk: &Arc<MemVfs>) {
    let before = listing(disk);
    check_contents(&builder(disk).open_read_only().expect("opens"));
    assert_eq!(listing(disk), before, "a reader changes no byte");
}

fn check_that_it_takes_writes(disk: &Arc<MemVfs>) {
    let db = builder(disk).open().expect("opens");
    check_contents(&db);
    let seq = db.last_seq();
    assert!(db.put("new", "value").expect("writes") > seq);
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    db.delete("new").expect("deletes");
    drop(db);
    check_contents(&builder(disk).open().expect("opens again"));
}

#[test]
fn a_database_of_every_known_version_opens_reads_back_and_takes_writes() {
    for version in VERSIONS {
        for ending in ENDINGS {
            let disk = checked_in(version, ending);
            insta::assert_snapshot!(format!("format_{version}_{ending}"), listing(&disk));
            check_that_it_reads_back(&disk);
            check_that_it_takes_writes(&disk);
        }
    }
}
