//! What goes wrong by the caller's or the machine's doing is said precisely, and costs nothing that was acknowledged.

mod common;
#[path = "common/faulty.rs"]
mod faulty;

use common::{Model, contents, tiny};
use faulty::FaultyVfs;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::base::ids::FileNumber;
use tinylsm::base::limits::{KEY_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX};
use tinylsm::format::checksum::{Place, Region};
use tinylsm::format::frame::{FRAME_HEADER_LEN_BYTES, FrameKind, FramePlace, seal_frame};
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::{LockMode, Vfs};
use tinylsm::{
    Background, Comparator, Db, DbBuilder, Error, ErrorKind, KeyspaceOptions, WriteBatch, WriteOptions,
};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny()).background(Background::Manual)
}

fn refusal(builder: DbBuilder) -> Error {
    builder.open().map(drop).expect_err("refused")
}

#[test]
fn keys_and_values_out_of_range_are_refused_and_nothing_is_written() {
    let db = Db::open_in_memory().expect("opens");
    let kind = |result: tinylsm::Result<tinylsm::SeqNum>| result.expect_err("refused").kind();
    assert_eq!(kind(db.put("", "v")), ErrorKind::InvalidArgument);
    assert_eq!(kind(db.delete("")), ErrorKind::InvalidArgument);
    let long_key = vec![b'k'; KEY_LEN_BYTES_MAX + 1];
    assert_eq!(kind(db.put(&long_key, "v")), ErrorKind::InvalidArgument);
    let error = db.put("k", vec![0; VALUE_LEN_BYTES_MAX + 1]).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains(&VALUE_LEN_BYTES_MAX.to_string()), "the limit is named: {error}");
    let mut batch = WriteBatch::new();
    batch.put(db.default_keyspace(), "good", "v");
    batch.put(db.default_keyspace(), "", "v");
    assert_eq!(kind(db.write(&batch, &WriteOptions::none())), ErrorKind::InvalidArgument);
    assert_eq!(contents(db.default_keyspace()), Model::new());
    db.put(&long_key[1..], "v").expect("the longest key is a key");
    assert_eq!(db.get(&long_key[1..]).expect("reads").as_deref(), Some(&b"v"[..]));
    assert_eq!(db.get(&long_key).expect("no such key can be there"), None);
}

#[test]
fn an_unknown_keyspace_is_not_found_and_another_databases_is_refused() {
    let (db, stranger) = (Db::open_in_memory().expect("opens"), Db::open_in_memory().expect("opens"));
    let error = db.keyspace("nowhere").map(drop).expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("nowhere"));
    let mut batch = WriteBatch::new();
    batch.put(stranger.default_keyspace(), "k", "v");
    let error = db.write(&batch, &WriteOptions::none()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    batch.clear();
    batch.put(db.default_keyspace(), "k", "v");
    batch.put(stranger.default_keyspace(), "k", "v");
    assert_eq!(
        db.write(&batch, &WriteOptions::none()).expect_err("refused").kind(),
        ErrorKind::InvalidArgument
    );
    assert_eq!(db.get("k").expect("reads"), None);
    let error = db.compact_range(stranger.default_keyspace(), ..).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

/// Orders keys by length first.
struct ByLength;

impl Comparator for ByLength {
    fn name(&self) -> &str {
        "test.by-length"
    }
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        a.len().cmp(&b.len()).then_with(|| a.cmp(b))
    }
}

#[test]
fn a_comparator_that_is_not_given_is_named_with_its_keyspace() {
    let disk = MemVfs::new();
    let options = KeyspaceOptions { comparator: "test.by-length".to_owned(), ..KeyspaceOptions::default() };
    let db = builder(&disk).open().expect("opens");
    let error = db.create_keyspace("sorted", options.clone()).map(drop).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    db.close().expect("closes");
    let with_order = || builder(&disk).comparator(Arc::new(ByLength));
    let db = with_order().open().expect("opens");
    let sorted = db.create_keyspace("sorted", options).expect("creates");
    for key in ["aaa", "b", "cc"] {
        sorted.put(key, "").expect("puts");
    }
    db.flush().expect("flushes");
    sorted.put("dddd", "").expect("puts");
    drop((db, sorted));
    for error in [refusal(builder(&disk)), builder(&disk).open_read_only().map(drop).expect_err("refused")] {
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        let text = error.to_string();
        assert!(text.contains("sorted") && text.contains("test.by-length"), "{text}");
    }
    let db = with_order().open().expect("opens");
    let sorted = db.keyspace("sorted").expect("there");
    let keys: Vec<_> = sorted.iter().expect("open").map(|item| item.expect("readable").0).collect();
    assert_eq!(keys, ["b", "cc", "aaa", "dddd"]);
}

#[test]
fn a_second_opener_is_locked_out_until_the_first_is_gone() {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    assert_eq!(refusal(builder(&disk)).kind(), ErrorKind::Locked);
    assert_eq!(builder(&disk).open_read_only().map(drop).expect_err("locked").kind(), ErrorKind::Locked);
    drop(db);
    let readers = [(); 2].map(|()| builder(&disk).open_read_only().expect("readers share"));
    assert_eq!(refusal(builder(&disk)).kind(), ErrorKind::Locked);
    drop(readers);
    builder(&disk).open().expect("opens");
}

#[test]
fn a_directory_of_something_else_is_left_as_it_is() {
    let disk = MemVfs::new();
    disk.create_dir_all(Path::new("/db")).expect("creates");
    disk.write(Path::new("/db/notes.txt"), b"mine").expect("writes");
    let error = refusal(builder(&disk));
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(disk.files(), [PathBuf::from("db/notes.txt")]);
    assert_eq!(disk.read(Path::new("/db/notes.txt")).expect("reads"), b"mine");
}

#[test]
fn a_database_that_must_exist_is_not_made() {
    let disk = MemVfs::new();
    let error = refusal(builder(&disk).create_if_missing(false));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(builder(&disk).open_read_only().map(drop).expect_err("none").kind(), ErrorKind::NotFound);
    assert_eq!(disk.metadata(Path::new("/db")).expect_err("nothing was made").kind(), ErrorKind::NotFound);
}

/// Leaves a database with a table and a log on a new disk, and finds the first file that ends with or begins with `part`.
fn closed_database(part: &str) -> (MemVfs, PathBuf) {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    db.put("a", "1").expect("puts");
    db.flush().expect("flushes");
    db.wait_idle().expect("idle");
    db.put("b", "2").expect("puts");
    db.close().expect("closes");
    let path = disk.files().into_iter().find(|path| path.to_string_lossy().contains(part));
    (disk, path.expect("such a file is part of the database"))
}

fn number_of(path: &Path) -> FileNumber {
    let name = path.to_string_lossy();
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    FileNumber(digits.parse().expect("the file is numbered"))
}

fn check_newer_version(disk: &MemVfs, path: &Path) {
    let error = refusal(builder(disk));
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert_eq!(error.file(), Some(Path::new("/").join(path).as_path()));
    let text = error.to_string();
    assert!(text.contains("version 77") && text.contains('1'), "both versions are named: {text}");
}

#[test]
fn a_newer_log_or_manifest_is_told_from_a_damaged_one() {
    for part in [".wal", "MANIFEST"] {
        let (disk, path) = closed_database(part);
        let mut bytes = disk.read(&path).expect("reads");
        let payload_len = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")) as usize;
        let header = &mut bytes[..FRAME_HEADER_LEN_BYTES + payload_len];
        let version_at = FRAME_HEADER_LEN_BYTES + 8;
        header[version_at..version_at + 4].copy_from_slice(&77u32.to_le_bytes());
        let place = FramePlace { number: number_of(&path), offset: 0, synced_len: 0 };
        seal_frame(header, FrameKind::Header, place);
        disk.write(&path, &bytes).expect("writes");
        check_newer_version(&disk, &path);
    }
}

#[test]
fn a_newer_table_is_told_from_a_damaged_one() {
    let (disk, path) = closed_database(".sst");
    let mut bytes = disk.read(&path).expect("reads");
    let offset = bytes.len() - 72;
    let footer = &mut bytes[offset..];
    footer[56..60].copy_from_slice(&77u32.to_le_bytes());
    let place = Place { region: Region::TableFooter, file: number_of(&path), offset: offset as u64 };
    let sum = place.checksum(&[&footer[..60], &footer[64..]]);
    footer[60..64].copy_from_slice(&sum.to_le_bytes());
    disk.write(&path, &bytes).expect("writes");
    check_newer_version(&disk, &path);
}

/// Puts numbered keys until a put fails; returns what was acknowledged and the failure.
fn put_until_refused(db: &Db) -> (Model, Error) {
    let mut acknowledged = Model::new();
    for i in 0..100_000u32 {
        let (key, value) = (format!("key{i:05}"), format!("value {i}"));
        match db.put(&key, &value) {
            Ok(_) => acknowledged.insert(key.into_bytes(), value.into_bytes()),
            Err(error) => return (acknowledged, error),
        };
    }
    panic!("the disk never filled up");
}

/// Checks that all acknowledged keys are there and that at most the refused one is besides.
fn check_acknowledged(db: &Db, acknowledged: &Model) {
    let found = contents(db.default_keyspace());
    for (key, value) in acknowledged {
        assert_eq!(found.get(key), Some(value), "{} was acknowledged", String::from_utf8_lossy(key));
    }
}

#[test]
fn a_disk_too_full_to_reserve_log_space_refuses_writes_until_there_is_room() {
    let disk = FaultyVfs::new();
    let db = builder(&disk).open().expect("opens");
    disk.set_free(3000);
    let (acknowledged, error) = put_until_refused(&db);
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.is_retryable());
    assert_eq!(contents(db.default_keyspace()), acknowledged);
    let error = db.put("more", vec![0; 3000]).expect_err("still full");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    disk.set_free(1 << 20);
    db.put("more", "").expect("there is room");
    check_acknowledged(&db, &acknowledged);
    db.close().expect("closes");
    let db = builder(&disk).open().expect("opens");
    check_acknowledged(&db, &acknowledged);
    assert!(db.get("more").expect("reads").is_some());
}

/// A database without preallocation, on which an append to the log has met a full disk.
fn full_log() -> (FaultyVfs, Db, Model) {
    let disk = FaultyVfs::new();
    let options = tinylsm::Options { wal_preallocate_bytes: 0, ..tiny() };
    let db = builder(&disk).options(options).open().expect("opens");
    disk.set_free(2000);
    let (acknowledged, error) = put_until_refused(&db);
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(contents(db.default_keyspace()), acknowledged, "reads go on");
    (disk, db, acknowledged)
}

#[test]
fn a_log_cut_off_by_a_full_disk_is_resumed() {
    let (disk, db, acknowledged) = full_log();
    let error = db.put("more", "").expect_err("writing is off");
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(db.background_error().is_some());
    disk.set_free(0);
    assert!(db.resume().is_err(), "the disk is still full");
    disk.set_free(1 << 20);
    db.resume().expect("resumes");
    db.put("more", "").expect("puts");
    db.flush().expect("flushes");
    check_acknowledged(&db, &acknowledged);
    drop(db);
    let db = builder(&disk).open().expect("opens");
    check_acknowledged(&db, &acknowledged);
    assert!(db.get("more").expect("reads").is_some());
}

/// However far `resume` comes on a disk that is still full, nothing is lost, and a manifest that took half an edit
/// takes nothing more.
#[test]
fn a_resume_that_fails_half_way_leaves_a_database_that_opens() {
    for free in 0..400 {
        let (disk, db, mut acknowledged) = full_log();
        disk.set_free(free);
        let resumed = db.resume();
        disk.set_free(1 << 20);
        if resumed
            .and_then(|()| db.put("more", "1"))
            .or_else(|_| db.resume().and_then(|()| db.put("more", "1")))
            .is_ok()
        {
            acknowledged.insert(b"more".to_vec(), b"1".to_vec());
        }
        check_acknowledged(&db, &acknowledged);
        drop(db);
        let db = builder(&disk).open().unwrap_or_else(|error| panic!("with {free} bytes: {error}"));
        check_acknowledged(&db, &acknowledged);
    }
}

#[test]
fn a_log_cut_off_by_a_full_disk_is_reported_by_close_and_reopened() {
    let (disk, db, acknowledged) = full_log();
    let error = db.close().expect_err("close reports");
    assert!(format!("{error:?}").contains("disk is full"), "the cause is named: {error:?}");
    disk.set_free(1 << 20);
    let db = builder(&disk).open().expect("opens");
    check_acknowledged(&db, &acknowledged);
    db.put("more", "").expect("puts");
}

#[test]
fn a_failed_sync_turns_writing_off_and_loses_nothing_acknowledged() {
    let disk = FaultyVfs::new();
    let db = builder(&disk).open().expect("opens");
    db.put("a", "1").expect("puts");
    disk.fail_next_wal_sync();
    let error = db.put("b", "2").expect_err("the sync failed");
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Io, Some("sync")), "{error}");
    for _ in 0..2 {
        let error = db.put("c", "3").expect_err("writing is off");
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        let file = error.file().expect("the file is named");
        assert!(file.extension().is_some_and(|extension| extension == "wal"), "{error}");
        assert!(error.to_string().contains("the test's disk cannot sync"), "the cause is named: {error}");
    }
    assert_eq!(db.flush().expect_err("writing is off").kind(), ErrorKind::ReadOnly);
    assert_eq!(db.resume().expect_err("nobody knows what is durable").kind(), ErrorKind::ReadOnly);
    assert_eq!(db.get("a").expect("reads").as_deref(), Some(&b"1"[..]));
    assert_eq!(db.get("b").expect("reads"), None, "what was refused is not seen");
    assert_eq!(contents(db.default_keyspace()).len(), 1);
    assert_eq!(db.close().expect_err("close reports").kind(), ErrorKind::ReadOnly);
    let db = builder(&disk).open().expect("opens");
    assert_eq!(db.get("a").expect("reads").as_deref(), Some(&b"1"[..]));
    assert_eq!(db.get("c").expect("reads"), None);
    db.put("c", "3").expect("writing is on again");
}

#[test]
fn handles_of_a_closed_database_say_so_and_iterators_read_on() {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    for key in ["a", "b", "c"] {
        db.put(key, key).expect("puts");
    }
    db.flush().expect("flushes");
    let keyspace = db.default_keyspace().clone();
    let snapshot = db.snapshot();
    let mut iter = db.iter().expect("open");
    assert_eq!(iter.next().expect("there").expect("readable").0, "a");
    let other = db.clone();
    db.close().expect("closes");
    let is_closed = |error: Error| assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    is_closed(keyspace.put("d", "").expect_err("closed"));
    is_closed(keyspace.get("a").expect_err("closed"));
    is_closed(keyspace.iter().map(drop).expect_err("closed"));
    is_closed(snapshot.get(&keyspace, "a").expect_err("closed"));
    is_closed(snapshot.iter(&keyspace).map(drop).expect_err("closed"));
    is_closed(other.flush().expect_err("closed"));
    is_closed(other.sync().expect_err("closed"));
    is_closed(other.background_step().expect_err("closed"));
    is_closed(other.close().expect_err("closed already"));
    // The lock is free at once, whoever still holds handles.
    let db = builder(&disk).open().expect("opens");
    db.put("b", "new").expect("puts");
    let rest: Vec<_> = iter.map(|item| item.expect("readable")).collect();
    assert_eq!(
        rest.iter().map(|(key, value)| (&**key, &**value)).collect::<Vec<_>>(),
        [(&b"b"[..], &b"b"[..]), (b"c", b"c")]
    );
    drop(snapshot);
    assert!(disk.lock(Path::new("/db/LOCK"), LockMode::Exclusive).is_err(), "the new database has the lock");
}
