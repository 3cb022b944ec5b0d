//! Bytes of another time: what was expired stays so when the clock steps back, and what this build cannot read it
//! refuses.

mod common;
#[path = "common/crafted.rs"]
mod crafted;

use common::{contents, tiny};
use crafted::{Operation, Tail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tinylsm::base::comparator::KeyOrder;
use tinylsm::base::ids::FileNumber;
use tinylsm::base::key::Kind;
use tinylsm::format::frame::FramePlace;
use tinylsm::table::reader::{Table, TableFile, TableSource};
use tinylsm::version::edit;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::{ManualClock, MemVfs};
use tinylsm::{Background, Cache, Db, DbBuilder, Error, ErrorKind, UnixMillis};

fn builder(disk: &MemVfs) -> DbBuilder {
    Db::builder(crafted::DIRECTORY).vfs(Arc::new(disk.clone())).options(tiny()).background(Background::Manual)
}

fn open(disk: &MemVfs) -> Db {
    builder(disk).open().expect("opens")
}

// ---- Time ----

const NOON: UnixMillis = UnixMillis(1_700_000_000_000);

/// What makes the time that was seen last durable, before the process dies.
#[derive(Clone, Copy, Debug)]
enum Witness {
    Flush,
    WriteAndFlush,
    Merge,
    Close,
}

/// A key that was seen to have expired never comes back, though the clock steps back and the process died in between.
#[test]
fn what_has_expired_stays_expired_when_the_clock_steps_back() {
    for witness in [Witness::Flush, Witness::WriteAndFlush, Witness::Merge, Witness::Close] {
        let clock = ManualClock::new(NOON);
        let disk = MemVfs::with_clock(clock.clone());
        let db = open(&disk);
        db.put("other", "1").expect("puts");
        drop(db);
        let expires_at = UnixMillis(NOON.0 + 1000);
        let tea = Operation::expiring_put("tea", b"hot", expires_at);
        Tail::of(&disk).append(&disk, NOON, 0, &[tea]);
        let db = open(&disk);
        assert_eq!(db.get("tea").expect("reads").as_deref(), Some(&b"hot"[..]), "it has not expired yet");
        clock.advance(Duration::from_millis(2000));
        assert_eq!(db.get("tea").expect("reads"), None, "it has expired");
        match witness {
            Witness::Flush => db.flush().expect("flushes"),
            Witness::WriteAndFlush => {
                db.put("more", "1").expect("puts");
                db.flush().expect("flushes");
            }
            Witness::Merge => db.compact_range(db.default_keyspace(), ..).expect("merges"),
            Witness::Close => db.clone().close().expect("closes"),
        }
        drop(db);
        clock.set_wall(NOON);
        for is_read_only in [true, false] {
            let builder = builder(&disk);
            let db = if is_read_only { builder.open_read_only() } else { builder.open() }.expect("opens");
            assert_eq!(db.get("tea").expect("reads"), None, "{witness:?}: it has expired and is back");
            assert!(
                !contents(db.default_keyspace()).contains_key(&b"tea"[..]),
                "{witness:?}: a scan finds it"
            );
            let snapshot = db.snapshot();
            assert_eq!(snapshot.get("tea").expect("reads"), None, "{witness:?}");
        }
    }
}

// ---- What this build cannot read ----

/// The kinds that are reserved for later versions, and two that nobody has defined.
const UNKNOWN_KINDS: [u8; 6] = [
    Kind::RangeDelete as u8,
    Kind::Merge as u8,
    Kind::SingleDelete as u8,
    Kind::ValueReference as u8,
    7,
    0xFE,
];

fn operation_of(kind: u8) -> Operation {
    let has_value = kind != Kind::SingleDelete as u8;
    Operation { kind, key: b"apple".to_vec(), value: has_value.then(|| b"pear".to_vec()) }
}

fn files_of(disk: &MemVfs) -> Vec<(PathBuf, Vec<u8>)> {
    let with_bytes = |path: PathBuf| {
        let bytes = disk.read(&path).expect("listed");
        (path, bytes)
    };
    disk.files().into_iter().map(with_bytes).collect()
}

#[track_caller]
fn check_incompatible(what: &str, error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{what}: {error:?}");
}

/// Checks that neither a writer nor a reader opens the database, and that nothing is changed by trying.
#[track_caller]
fn check_refused(what: &str, disk: &MemVfs) {
    let before = files_of(disk);
    for is_read_only in [true, false] {
        let builder = builder(disk);
        let opened = if is_read_only { builder.open_read_only() } else { builder.open() };
        let error = opened.map(drop).expect_err(what);
        check_incompatible(what, &error);
        assert!(error.file().is_some(), "{what}: no file is named: {error:?}");
    }
    let is_lock = |path: &Path| path.ends_with("LOCK");
    let after: Vec<_> = files_of(disk).into_iter().filter(|(path, _)| !is_lock(path)).collect();
    let before: Vec<_> = before.into_iter().filter(|(path, _)| !is_lock(path)).collect();
    assert!(before == after, "{what}: a refused opener changed a file");
}

/// A record with an operation of a kind that this build does not know is refused at open, wherever it lies in the log.
#[test]
fn a_record_with_an_unknown_kind_of_operation_is_incompatible() {
    for kind in UNKNOWN_KINDS {
        for is_proven in [false, true] {
            let disk = MemVfs::new();
            let db = open(&disk);
            db.put("apple", "red").expect("puts");
            drop(db);
            let mut tail = Tail::of(&disk);
            tail.append(&disk, NOON, 0, &[Operation::put("before", b"1"), operation_of(kind)]);
            if is_proven {
                // Its watermark says that the record in front of it was durable.
                let synced_len = tail.end;
                tail.append(&disk, NOON, synced_len, &[Operation::put("behind", b"1")]);
            }
            check_refused(&format!("kind {kind} in the log, proven: {is_proven}"), &disk);
        }
    }
}

/// A table with entries of a reserved kind is refused at open where its properties tell of them, and otherwise by
/// whatever would need them: no read, merge or verification passes over them.
#[test]
fn a_table_with_an_unknown_kind_of_entry_is_incompatible() {
    let kinds = [Kind::RangeDelete, Kind::Merge, Kind::SingleDelete, Kind::ValueReference];
    for kind in kinds {
        let disk = MemVfs::new();
        let base =
            crafted::table(&disk, 7, &[("apple", 1, Kind::Put, b"red"), ("fig", 2, Kind::Put, b"green")]);
        let value: &[u8] = if kind == Kind::SingleDelete { b"" } else { b"pear" };
        let newer = crafted::table(&disk, 8, &[("apple", 3, kind, value), ("plum", 4, Kind::Put, b"blue")]);
        let base_bytes = disk.read(&crafted::path_of(base.number)).expect("reads");
        crafted::database(&disk, &crafted::changes(&[base.clone(), newer]));
        let what = format!("a table with {kind:?}");
        let is_told = kind == Kind::RangeDelete;
        let db = match builder(&disk).open() {
            Err(error) => {
                check_incompatible(&what, &error);
                check_refused(&what, &disk);
                continue;
            }
            Ok(_) if is_told => panic!("{what} is opened, and its properties tell of it"),
            Ok(db) => db,
        };
        let check_reads = |db: &Db| {
            check_incompatible(&what, &db.get("apple").expect_err(&what));
            let scanned: tinylsm::Result<Vec<_>> = db.iter().expect("open").collect();
            check_incompatible(&what, &scanned.expect_err(&what));
            let scanned: tinylsm::Result<Vec<_>> = db.iter().expect("open").rev().collect();
            check_incompatible(&what, &scanned.expect_err(&what));
            check_incompatible(&what, &db.verify().expect_err(&what));
        };
        check_reads(&db);
        check_incompatible(&what, &db.compact_range(db.default_keyspace(), ..).expect_err(&what));
        check_reads(&db);
        assert!(disk.read(&crafted::path_of(base.number)).is_ok_and(|bytes| bytes == base_bytes), "{what}");
        drop(db);
        check_reads(&open(&disk));
    }
}

/// A table that needs a feature which this build does not know is refused at open.
#[test]
fn a_table_that_needs_an_unknown_feature_is_incompatible() {
    let disk = MemVfs::new();
    let mut meta = crafted::table(&disk, 7, &[("apple", 1, Kind::Put, b"red")]);
    let path = crafted::path_of(meta.number);
    let mut bytes = disk.read(&path).expect("just written");
    let mut end = crafted::End::take_apart(&bytes, meta.number);
    end.set_property("features", 1 << 40);
    bytes.truncate(usize::try_from(end.data_end()).expect("small"));
    bytes.extend_from_slice(&end.put_together(end.data_end()));
    meta.len_bytes = bytes.len() as u64;
    disk.write(&path, &bytes).expect("memory does not fail");
    crafted::database(&disk, &crafted::changes(&[meta]));
    check_refused("an unknown feature", &disk);
}

/// A block of a type that this build does not know is not taken for damage.
#[test]
fn a_block_of_an_unknown_type_is_incompatible() {
    let disk = MemVfs::new();
    let meta = crafted::table(&disk, 7, &[("apple", 1, Kind::Put, b"red")]);
    let path = crafted::path_of(meta.number);
    let mut bytes = disk.read(&path).expect("just written");
    let source = TableFile {
        source: TableSource::File(disk.open(&path).expect("just written")),
        path: path.clone(),
        number: meta.number,
        len_bytes: meta.len_bytes,
    };
    let table = Table::open(source, KeyOrder::Bytewise, Arc::new(Cache::new(0, 8))).expect("sound");
    let end = usize::try_from(table.index().expect("sound").span(0).end).expect("small");
    crafted::set_block_type(&mut bytes, meta.number, end, 9);
    disk.write(&path, &bytes).expect("memory does not fail");
    crafted::database(&disk, &crafted::changes(&[meta]));
    let db = open(&disk);
    check_incompatible("get", &db.get("apple").expect_err("unreadable"));
    let scanned: tinylsm::Result<Vec<_>> = db.iter().expect("open").collect();
    check_incompatible("a scan", &scanned.expect_err("unreadable"));
    check_incompatible("verify", &db.verify().expect_err("unreadable"));
}

/// A change of the catalog that this build does not know is refused at open and not taken for damage.
#[test]
fn a_manifest_with_an_unknown_change_is_incompatible() {
    for tag in [9u8, 0x7F, 0xFF] {
        let disk = MemVfs::new();
        let meta = crafted::table(&disk, 7, &[("apple", 1, Kind::Put, b"red")]);
        let mut payload = edit::encode(&crafted::changes(&[meta]));
        payload.extend_from_slice(&[tag, 3, b'n', b'e', b'w']);
        crafted::database_with_edit(&disk, &payload);
        check_refused(&format!("a change of kind {tag}"), &disk);
    }
}

/// A whole frame of a kind that this build does not know is neither a torn tail nor damage.
#[test]
fn a_log_with_an_unknown_kind_of_frame_is_incompatible() {
    for kind in [4u8, 0x80] {
        let disk = MemVfs::new();
        let db = open(&disk);
        db.put("apple", "red").expect("puts");
        drop(db);
        let mut tail = Tail::of(&disk);
        let place = FramePlace { number: tail.number, offset: tail.end, synced_len: 0 };
        tail.append_frame(&disk, &crafted::frame_of_unknown_kind(kind, place, b"of the future"));
        check_refused(&format!("a frame of kind {kind} in the log"), &disk);

        let disk = MemVfs::new();
        crafted::database(&disk, &crafted::changes(&[]));
        let number = FileNumber(900);
        let path = Path::new(crafted::DIRECTORY).join(format!("MANIFEST-{number}"));
        let mut bytes = disk.read(&path).expect("just written");
        let place = FramePlace { number, offset: bytes.len() as u64, synced_len: 0 };
        bytes.extend_from_slice(&crafted::frame_of_unknown_kind(kind, place, b"of the future"));
        disk.write(&path, &bytes).expect("memory does not fail");
        check_refused(&format!("a frame of kind {kind} in the manifest"), &disk);
    }
}
