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
    Background, Cache, Comparator, Db, DbBuilder, Error, ErrorKind, KeyspaceOptions, Options, Slice,
    WriteBatch, WriteOptions,
};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny()).background(Background::Manual)
}

fn refusal(builder: DbBuilder) -> Error {
    builder.open().map(drop).expect_err("refused")
}

/// Lists every file with its bytes.
fn files_of(disk: &MemVfs) -> Vec<(PathBuf, Vec<u8>)> {
    let with_bytes = |path: PathBuf| {
        let bytes = disk.read(&path).expect("listed");
        (path, bytes)
    };
    disk.files().into_iter().map(with_bytes).collect()
}

/// Opens the database for writing and for reading, which must both be refused with the same words and change nothing.
fn both_refusals(disk: &MemVfs, builder: impl Fn() -> DbBuilder) -> Error {
    let before = files_of(disk);
    let error = refusal(builder());
    let readers = builder().open_read_only().map(drop).expect_err("refused");
    assert_eq!((error.kind(), error.to_string()), (readers.kind(), readers.to_string()));
    assert!(files_of(disk) == before, "a refused opener changes no file");
    error
}

/// Checks the kind of an error and that its text has all these parts.
#[track_caller]
fn check_error<T>(result: tinylsm::Result<T>, kind: ErrorKind, parts: &[&str]) {
    let error = result.map(drop).expect_err("refused");
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not named: {error}");
    }
}

/// What a first attempt to make a database may leave on a disk without order: the name of a WAL segment that was never
/// synced, with the bytes of a manifest of the same number that the attempt before it lost.
#[test]
fn a_lost_manifests_bytes_in_a_segment_are_no_commits() {
    let disk = MemVfs::new();
    drop(builder(&disk).open().expect("opens"));
    let files = files_of(&disk);
    let number_of = |path: &Path| Some(path.to_str()?.strip_prefix("db/MANIFEST-")?.to_owned());
    let manifest = files.into_iter().find_map(|(path, bytes)| Some((number_of(&path)?, bytes)));
    let (number, bytes) = manifest.expect("a database has one");
    let disk = MemVfs::new();
    disk.create_dir_all(Path::new("/db")).expect("made");
    // The lock file's name is durable before the others.
    disk.write(Path::new("/db/LOCK"), b"").expect("written");
    disk.write(Path::new(&format!("/db/{number}.wal")), &bytes).expect("written");
    let db = builder(&disk).open().expect("nothing shows that a database was here");
    assert_eq!(db.last_seq().get(), 0);
    db.put("k", "v").expect("writes");
    drop(db);
    assert_eq!(builder(&disk).open().expect("opens").get("k").expect("reads").as_deref(), Some(&b"v"[..]));
}

#[test]
fn keys_and_values_out_of_range_are_refused_and_nothing_is_written() {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    let before = files_of(&disk);
    let invalid = ErrorKind::InvalidArgument;
    let long_key = vec![b'k'; KEY_LEN_BYTES_MAX + 1];
    let (limit, len) = (KEY_LEN_BYTES_MAX.to_string(), (KEY_LEN_BYTES_MAX + 1).to_string());
    check_error(db.put(&long_key, "v"), invalid, &["put of key \"kkk", "keyspace \"default\"", &len, &limit]);
    check_error(
        db.delete(&long_key),
        invalid,
        &["delete of key \"kkk", "keyspace \"default\"", &len, &limit],
    );
    let long_value = vec![0; VALUE_LEN_BYTES_MAX + 1];
    let (limit, len) = (VALUE_LEN_BYTES_MAX.to_string(), (VALUE_LEN_BYTES_MAX + 1).to_string());
    check_error(db.put("k", &long_value), invalid, &["put of key \"k\" in", "the value", &len, &limit]);
    let mut batch = WriteBatch::new();
    batch.put(db.default_keyspace(), "good", "v").delete(db.default_keyspace(), &long_key);
    batch.put(db.default_keyspace(), "good too", "v");
    let said = ["operation 1 of the batch: delete of key \"kkk", "keyspace \"default\"", "65536"];
    check_error(db.write(&batch, WriteOptions::none()), invalid, &said);
    batch.clear();
    for key in ["a", "b"] {
        batch.put(db.default_keyspace(), key, &long_value[1..]);
    }
    check_error(db.write(&batch, WriteOptions::none()), invalid, &["a batch", "134217728"]);
    assert_eq!(contents(db.default_keyspace()), Model::new());
    assert!(files_of(&disk) == before, "a refused write changes no file");
    db.put(&long_key[1..], "v").expect("the longest key is a key");
    assert_eq!(db.get(&long_key[1..]).expect("reads").as_deref(), Some(&b"v"[..]));
    assert_eq!(db.get(&long_key).expect("no such key can be there"), None);
}

/// Pages that nobody writes take no memory.
#[cfg(target_pointer_width = "64")]
#[test]
fn bytes_that_32_bits_do_not_count_are_refused_at_the_call() {
    let vast = Slice::from(vec![0; (u32::MAX as usize) + 100]);
    let db = builder(&MemVfs::new()).open().expect("memory");
    db.put("k", "v").expect("memory");
    db.flush().expect("memory");
    db.put("l", "v").expect("memory");
    let batch = |put: &dyn Fn(&mut WriteBatch)| {
        let mut batch = WriteBatch::new();
        put(&mut batch);
        db.write(batch, WriteOptions::default())
    };
    let keyspace = db.default_keyspace();
    for refused in [
        db.put("k", &vast),
        db.put(&vast, "v"),
        db.delete(&vast),
        batch(&|batch| _ = batch.put(keyspace, "k", &vast)),
        batch(&|batch| _ = batch.put(keyspace, &vast, "v")),
        batch(&|batch| _ = batch.delete(keyspace, &vast)),
    ] {
        check_error(refused, ErrorKind::InvalidArgument, &["4294967395 bytes", "at most"]);
    }
    // No such key can be there, which is no error.
    assert_eq!(db.get(&vast).expect("it reads"), None);
    assert_eq!(db.get("k").expect("it reads").expect("it is there"), "v");
}

#[test]
fn an_unknown_keyspace_is_not_found_and_another_databases_is_refused() {
    let (db, stranger) = (Db::open_in_memory().expect("opens"), Db::open_in_memory().expect("opens"));
    let error = db.keyspace("nowhere").map(drop).expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("nowhere"));
    let mut batch = WriteBatch::new();
    batch.put(stranger.default_keyspace(), "k", "v");
    let error = db.write(&batch, WriteOptions::none()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    batch.clear();
    batch.put(db.default_keyspace(), "k", "v");
    batch.put(stranger.default_keyspace(), "k", "v");
    assert_eq!(
        db.write(&batch, WriteOptions::none()).expect_err("refused").kind(),
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
    let options = KeyspaceOptions::default().comparator("test.by-length");
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
    let error = both_refusals(&disk, || builder(&disk));
    check_error::<()>(Err(error), ErrorKind::Incompatible, &["sorted", "test.by-length"]);
    let db = with_order().open().expect("opens");
    let sorted = db.keyspace("sorted").expect("there");
    let keys: Vec<_> = sorted.iter().expect("open").map(|item| item.expect("readable").0).collect();
    assert_eq!(keys, ["b", "cc", "aaa", "dddd"]);
}

#[test]
fn a_second_opener_is_locked_out_until_the_first_is_gone() {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    let error = both_refusals(&disk, || builder(&disk));
    check_error::<()>(Err(error), ErrorKind::Locked, &["/db/LOCK"]);
    db.put("k", "v").expect("the first goes on");
    drop(db);
    let readers = [(); 2].map(|()| builder(&disk).open_read_only().expect("readers share"));
    assert_eq!(refusal(builder(&disk)).kind(), ErrorKind::Locked);
    drop(readers);
    builder(&disk).open().expect("opens");
}

#[test]
fn foreign_files_in_the_directory_are_left_as_they_are() {
    let disk = MemVfs::new();
    disk.create_dir_all(Path::new("/db")).expect("creates");
    disk.write(Path::new("/db/notes.txt"), b"mine").expect("writes");
    let error = builder(&disk).open_read_only().expect_err("there is no database");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    builder(&disk).open().expect("they do not disturb").close().expect("closes");
    assert_eq!(disk.read(Path::new("/db/notes.txt")).expect("still there"), b"mine");
}

/// Where no database is, nothing is removed that none of ours can have left; what a crash in the middle of making one
/// left goes.
#[test]
fn a_new_database_removes_no_file_that_is_not_its_own() {
    for name in ["000007.tmp", "RESERVE"] {
        let disk = MemVfs::new();
        disk.create_dir_all(Path::new("/db")).expect("creates");
        let file = Path::new("/db").join(name);
        disk.write(&file, b"mine").expect("writes");
        let error = builder(&disk).open().expect_err("it would be removed");
        assert_eq!((error.kind(), error.file()), (ErrorKind::Incompatible, Some(file.as_path())), "{error}");
        assert_eq!(disk.read(&file).expect("still there"), b"mine");
    }
    let disk = MemVfs::new();
    disk.create_dir_all(Path::new("/db")).expect("creates");
    let left =
        ["LOCK", "000001.wal", "MANIFEST-000002", "000003.tmp"].map(|name| Path::new("/db").join(name));
    for file in &left {
        disk.write(file, b"").expect("writes");
    }
    let db = builder(&disk).open().expect("a crash leaves this");
    db.put("k", "v").expect("puts");
    db.close().expect("closes");
    for file in &left[1..] {
        assert!(disk.read(file).is_err(), "{} is still there", file.display());
    }
}

#[test]
fn a_reader_is_told_of_a_lost_pointer() {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    db.put("k", "v").expect("puts");
    db.flush().expect("flushes");
    db.close().expect("closes");
    disk.remove_file(Path::new("/db/CURRENT")).expect("it is there");
    for result in [
        builder(&disk).open_read_only().map(drop),
        builder(&disk).create_if_missing(false).open().map(drop),
        builder(&disk).open().map(drop),
    ] {
        let error = result.expect_err("tables are there");
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.to_string().contains("CURRENT is missing"), "{error}");
    }
}

#[test]
fn a_file_that_is_only_named_like_a_table_proves_no_database() {
    for words in [&b""[..], b"a letter", &[7; 500]] {
        let disk = MemVfs::new();
        disk.create_dir_all(Path::new("/db")).expect("memory");
        let path = Path::new("/db/000007.sst");
        disk.create_new(path)
            .and_then(|mut file| file.append(&[std::io::IoSlice::new(words)]))
            .expect("memory");
        let before = files_of(&disk);
        let error = refusal(builder(&disk));
        assert_eq!((error.kind(), error.file()), (ErrorKind::Incompatible, Some(path)), "{error}");
        assert!(error.to_string().contains("move it away"), "{error}");
        check_error(builder(&disk).open_read_only(), ErrorKind::NotFound, &["there is no database"]);
        assert!(before.iter().all(|file| files_of(&disk).contains(file)), "it is as it was");
    }
}

/// Whoever only reads lists the files that the database consists of, all of them.
#[test]
fn a_reader_knows_the_live_files() {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    db.put("k", "v").expect("puts");
    db.flush().expect("flushes");
    db.put("l", "v").expect("puts");
    db.close().expect("closes");
    disk.write(Path::new("/db/000099.sst"), b"left over").expect("writes");
    let live = builder(&disk).open_read_only().expect("opens").stats().live_files;
    let mut expected: Vec<String> = disk
        .files()
        .iter()
        .map(|path| path.file_name().expect("named").to_string_lossy().into_owned())
        .filter(|name| name != "000099.sst")
        .collect();
    expected.sort();
    assert_eq!(live, expected);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_left_as_it_is() {
    let disk = MemVfs::new();
    disk.write(Path::new("/db"), b"mine").expect("writes");
    let before = files_of(&disk);
    for result in [builder(&disk).open().map(drop), builder(&disk).open_read_only().map(drop)] {
        let error = result.expect_err("refused");
        assert!(error.to_string().contains("/db"), "{error}");
    }
    assert!(files_of(&disk) == before);
}

#[test]
fn a_lost_lock_file_hinders_nobody() {
    let (disk, _) = closed_database("LOCK");
    disk.remove_file(Path::new("/db/LOCK")).expect("removes");
    let before = files_of(&disk);
    let reader = builder(&disk).open_read_only().expect("opens");
    assert_eq!(reader.get("a").expect("reads").as_deref(), Some(&b"1"[..]));
    drop(reader);
    assert!(files_of(&disk) == before, "a reader makes none");
    let db = builder(&disk).open().expect("opens");
    assert_eq!(refusal(builder(&disk)).kind(), ErrorKind::Locked);
    assert_eq!(db.get("b").expect("reads").as_deref(), Some(&b"2"[..]));
}

/// Without a lock file nothing keeps a writer away from a reader, which is told what has happened once it misses what the
/// writer has removed: the database is not damaged.
#[test]
fn a_reader_without_a_lock_file_is_told_that_a_writer_came() {
    let (disk, _) = closed_database("LOCK");
    disk.remove_file(Path::new("/db/LOCK")).expect("removes");
    // Neither blocks nor files are kept, so that each read asks the disk.
    let reader = builder(&disk).cache(Arc::new(Cache::new(0, 0))).open_read_only().expect("opens");
    assert!(reader.get("a").expect("reads").is_some());
    let writer = builder(&disk).open().expect("nothing keeps it away");
    assert!(reader.get("a").expect("all is there").is_some());
    writer.put("a", "new").expect("puts");
    writer.compact_range(writer.default_keyspace(), ..).expect("merges");
    writer.wait_idle().expect("idle");
    check_error(reader.get("a"), ErrorKind::Locked, &["/db/LOCK", "a writer has opened"]);
    let item = reader.iter().expect("open").next().expect("there is something");
    check_error(item, ErrorKind::Locked, &["a writer has opened"]);
    check_error(reader.verify(), ErrorKind::Locked, &["a writer has opened"]);
    writer.verify().expect("sound");
    check_error(builder(&disk).open_read_only(), ErrorKind::Locked, &["/db/LOCK"]);
}

#[test]
fn options_out_of_range_are_named_and_nothing_is_made() {
    let disk = MemVfs::new();
    let refuse = |change: fn(&mut Options)| {
        let mut options = tiny();
        change(&mut options);
        builder(&disk).options(options).open()
    };
    let invalid = ErrorKind::InvalidArgument;
    check_error(refuse(|options| options.memtable_bytes = 0), invalid, &["memtable_bytes", "1024"]);
    check_error(refuse(|options| options.level0_stop = 1), invalid, &["level0_s"]);
    let no_block = |options: &mut Options| options.default_keyspace.get_or_insert_default().block_bytes = 0;
    check_error(refuse(no_block), invalid, &["block_bytes", "64"]);
    check_error(builder(&disk).background(Background::Threads(0)).open(), invalid, &["Threads", "1 to 64"]);
    assert!(disk.files().is_empty());
    let db = builder(&disk).open().expect("opens");
    check_error(db.create_keyspace("", KeyspaceOptions::default()), invalid, &["name", "1 to 255"]);
    let exists = ErrorKind::AlreadyExists;
    check_error(db.create_keyspace("default", KeyspaceOptions::default()), exists, &["\"default\""]);
    assert_eq!(db.keyspaces(), ["default"]);
}

#[test]
fn options_that_only_concern_writing_hinder_no_reader() {
    let (disk, _) = closed_database("CURRENT");
    let mut options = Options::default().level0_slowdown(9).level0_stop(1).sealed_memtables_max(0);
    options.manifest_roll_bytes = 0;
    let refused = builder(&disk).options(options.clone()).open().expect_err("out of range");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    let db = builder(&disk).options(options).open_read_only().expect("reading needs none of them");
    assert!(!db.is_empty().expect("it reads"));
    // A stop below the trigger of a keyspace, which only the stored options tell.
    drop(db);
    let options = Options::default().level0_slowdown(1).level0_stop(1);
    assert!(builder(&disk).options(options.clone()).open().is_err());
    builder(&disk)
        .options(options)
        .open_read_only()
        .expect("nothing is going to be merged")
        .verify()
        .expect("whole");
    let options = Options::default().memtable_bytes(1);
    let refused = builder(&disk).options(options).open_read_only().expect_err("the log is read into memory");
    assert!(refused.to_string().contains("memtable_bytes"), "{refused}");
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
    let error = both_refusals(disk, || builder(disk));
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
fn a_disk_too_full_to_reserve_log_space_takes_writes_until_it_is_full() {
    let disk = FaultyVfs::new();
    let db = builder(&disk).open().expect("opens");
    // Less than what would be reserved ahead.
    disk.set_free(900);
    let (acknowledged, error) = put_until_refused(&db);
    assert!(acknowledged.len() > 5, "{} fitted", acknowledged.len());
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.is_retryable());
    assert_eq!(contents(db.default_keyspace()), acknowledged);
    disk.set_free(1 << 20);
    db.resume().expect("there is space");
    db.put("more", "").expect("there is space");
    check_acknowledged(&db, &acknowledged);
    db.close().expect("closes");
    let db = builder(&disk).open().expect("opens");
    check_acknowledged(&db, &acknowledged);
    assert!(db.get("more").expect("reads").is_some());
}

/// A database without preallocation, on which an append to the log has met a full disk.
fn full_log() -> (FaultyVfs, Db, Model) {
    let disk = FaultyVfs::new();
    let options = tiny().wal_preallocate_bytes(0);
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
fn a_disk_too_full_for_a_table_keeps_everything_in_memory_and_log() {
    let disk = FaultyVfs::new();
    let db = builder(&disk).options(tiny().memtable_bytes(1 << 20)).open().expect("opens");
    for i in 0..100 {
        db.put(format!("key{i:03}"), "x".repeat(50)).expect("puts");
    }
    let everything = contents(db.default_keyspace());
    // Space for the next segment and its edit, not for the table.
    disk.set_free(2500);
    let error = db.flush().expect_err("the disk is full");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.file().is_some_and(|file| file.extension().is_some_and(|it| it == "sst")), "{error}");
    assert_eq!(db.background_error().map(|error| error.kind()), Some(ErrorKind::NoSpace));
    assert_eq!(contents(db.default_keyspace()), everything, "reads go on");
    disk.set_free(1 << 20);
    db.resume().expect("there is space");
    db.flush().expect("flushes");
    db.wait_idle().expect("idle");
    assert!(db.background_error().is_none());
    let names = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let found: Vec<String> = disk.disk.files().iter().filter_map(names).collect();
    assert_eq!(found, db.stats().live_files, "the half table is gone");
    assert_eq!(contents(db.default_keyspace()), everything);
}

#[test]
fn a_disk_too_full_to_open_changes_nothing_that_counts() {
    let disk = FaultyVfs::new();
    let db = builder(&disk).open().expect("opens");
    db.put("a", "1").expect("puts");
    drop(db);
    let before = files_of(&disk.disk);
    for free in 0..1500 {
        disk.set_free(free);
        let Err(error) = builder(&disk).open() else { continue };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(error.file().is_some(), "{error}");
        let reader = builder(&disk).open_read_only().expect("a reader needs no space");
        assert_eq!(reader.get("a").expect("reads").as_deref(), Some(&b"1"[..]));
        if free == 0 {
            assert!(files_of(&disk.disk) == before, "nothing could be written");
        }
    }
    disk.set_free(1 << 20);
    let db = builder(&disk).open().expect("there is space");
    assert_eq!(db.get("a").expect("reads").as_deref(), Some(&b"1"[..]));
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
fn handles_of_a_closed_database_say_so() {
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
    is_closed(snapshot.keyspace(&keyspace).get("a").expect_err("closed"));
    is_closed(snapshot.keyspace(&keyspace).iter().map(drop).expect_err("closed"));
    is_closed(other.flush().expect_err("closed"));
    is_closed(other.sync().expect_err("closed"));
    is_closed(other.background_step().expect_err("closed"));
    is_closed(other.close().expect_err("closed already"));
    // The lock is free at once, whoever still holds handles.
    let db = builder(&disk).open().expect("opens");
    db.put("b", "new").expect("puts");
    is_closed(iter.next().expect("not at its end").map(drop).expect_err("closed"));
    assert!(iter.next().is_none(), "it has ended");
    drop(snapshot);
    assert!(disk.lock(Path::new("/db/LOCK"), LockMode::Exclusive).is_err(), "the new database has the lock");
}
