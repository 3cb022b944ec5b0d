//! A commit group that cannot be logged never was: the log, its numbers and what it holds back are as they were, and it
//! can go on in a new segment, where nothing that was acknowledged is missing.

#[allow(dead_code, reason = "what the tests of other files need")]
mod common;
#[path = "common/faulty.rs"]
mod faulty;

use common::tiny;
use faulty::FaultyVfs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::base::ids::{FileNumber, KeyspaceId};
use tinylsm::base::limits::{WAL_ALLOCATE_LEN_BYTES_MIN, WAL_HELD_BACK_LEN_BYTES_MAX};
use tinylsm::format::batch::Batch;
use tinylsm::format::names::FileName;
use tinylsm::vfs::Vfs;
use tinylsm::wal::Predecessor;
use tinylsm::wal::reader::replay;
use tinylsm::wal::writer::WalWriter;
use tinylsm::{
    Background, Db, DbBuilder, Durability, ErrorKind, Options, Result, SeqNum, UnixMillis, WriteBatch,
    WriteOptions,
};

const DIRECTORY: &str = "/db";
const OLD: FileNumber = FileNumber(5);
const NEW: FileNumber = FileNumber(6);

fn path_of(number: FileNumber) -> PathBuf {
    FileName::Wal(number).path(Path::new(DIRECTORY))
}

/// A record of one put with number `seq`.
fn record(seq: u64, value_len: usize) -> Vec<u8> {
    let mut batch = Batch::new();
    batch.put(KeyspaceId::DEFAULT, &seq.to_be_bytes(), &vec![b'v'; value_len]);
    batch.stamp(UnixMillis(0), SeqNum::new(seq)).to_vec()
}

fn create(disk: &FaultyVfs, number: FileNumber, before: Option<Predecessor>) -> Result<WalWriter> {
    WalWriter::create(disk, Path::new(DIRECTORY), number, before, 0)
}

/// How far a group's records are to go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    Memory,
    System,
    Disk,
}

/// Logs one group of records with values of these lengths, numbered from `first`.
fn log_group(wal: &mut WalWriter, first: u64, value_lens: &[usize], reach: Reach) -> Result<()> {
    let mut frames: Vec<Vec<u8>> =
        (first..).zip(value_lens).map(|(seq, &value_len)| record(seq, value_len)).collect();
    let mut group = wal.begin()?;
    for (seq, frame) in (first..).zip(&mut frames) {
        group.add(frame, SeqNum::new(seq), SeqNum::new(seq));
    }
    let frames = frames.iter().map(|frame| &frame[..]);
    match reach {
        Reach::Memory => {
            group.hold();
            Ok(())
        }
        Reach::System => group.hand_over(frames),
        Reach::Disk => group.sync(frames),
    }
}

/// Returns the numbers of the durable records of a segment and of those that are not proven.
fn numbers_in(disk: &FaultyVfs, number: FileNumber, declared_len: Option<u64>) -> (Vec<u64>, Vec<u64>) {
    let mut durable = Vec::new();
    let replayed = replay(&disk.disk, &path_of(number), number, declared_len, &mut |record| {
        durable.push(record.header.first_seq.get());
        Ok(())
    });
    let unproven = replayed.expect("readable").unproven;
    (durable, unproven.iter().map(|record| record.header.first_seq.get()).collect())
}

/// A segment with one durable record and two that are held back.
fn log_with_held_records() -> (FaultyVfs, WalWriter) {
    let disk = FaultyVfs::new();
    disk.create_dir_all(Path::new(DIRECTORY)).expect("made");
    let mut wal = create(&disk, OLD, None).expect("created");
    log_group(&mut wal, 1, &[10], Reach::Disk).expect("there is space");
    log_group(&mut wal, 2, &[20, 30], Reach::Memory).expect("memory is enough");
    (disk, wal)
}

const LONG: usize = WAL_HELD_BACK_LEN_BYTES_MAX;
const GROUPS: [&[usize]; 5] = [&[40], &[40, LONG, 50], &[LONG, 40], &[LONG, LONG], &[40, 50, LONG]];

/// A failed append may leave any of its bytes, from none to all.
fn lengths_left(group: &[usize]) -> Vec<usize> {
    let all: usize = 200 + group.iter().map(|len| len + 80).sum::<usize>();
    let step = (all / 40).max(1);
    (0..=all).step_by(step).chain([75, 76, 150, 151]).collect()
}

#[test]
fn a_group_that_meets_a_full_disk_leaves_the_writer_as_it_was() {
    for group in GROUPS {
        for (left, reach) in
            lengths_left(group).into_iter().flat_map(|left| [(left, Reach::System), (left, Reach::Disk)])
        {
            let (disk, mut wal) = log_with_held_records();
            let (len, good_len) = (wal.len(), wal.good_len());
            disk.set_free(0);
            disk.set_left_by_append(left);
            let error = log_group(&mut wal, 4, group, reach).expect_err("the disk is full");
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert_eq!(
                (wal.len(), wal.good_len()),
                (len, good_len),
                "{group:?} of which {left} bytes were left"
            );
            let again = log_group(&mut wal, 4, &[1], Reach::Memory).expect_err("the end is unknown");
            assert_eq!(again.to_string(), error.to_string());

            // The process dies now: what is found is all that was durable, and then some of what followed.
            let (durable, unproven) = numbers_in(&disk, OLD, None);
            let found = [durable, unproven].concat();
            assert!(found.iter().copied().eq(1..=found.len() as u64), "an exact prefix: {found:?}");
            assert!(!found.is_empty());

            // Or it goes on in another segment, however often that takes.
            let before = wal.abandon().expect("a sync needs no space");
            assert_eq!(before, Predecessor { number: OLD, good_len, last_seq: SeqNum::new(1) });
            create(&disk, NEW, Some(before)).map(drop).expect_err("the disk is still full");
            assert_eq!(wal.abandon().expect("a sync needs no space"), before);
            disk.set_free(1 << 30);
            let mut next = create(&disk, FileNumber(7), Some(before)).expect("there is space");
            next.take_over(&wal);
            log_group(&mut next, 4, group, Reach::Disk).expect("there is space");
            assert_eq!(numbers_in(&disk, OLD, Some(before.good_len)), (vec![1], vec![]));
            let expected: Vec<u64> = (2..4 + group.len() as u64).collect();
            let end = next.good_len();
            assert_eq!(numbers_in(&disk, FileNumber(7), Some(end)), (expected, vec![]), "{group:?}");
        }
    }
}

#[test]
fn a_group_that_is_dropped_never_was() {
    let (disk, mut wal) = log_with_held_records();
    let len = wal.len();
    for value_len in [10, LONG] {
        let mut group = wal.begin().expect("sound");
        group.add(&mut record(4, value_len), SeqNum::new(4), SeqNum::new(4));
        drop(group);
        assert_eq!(wal.len(), len);
    }
    log_group(&mut wal, 4, &[50], Reach::Disk).expect("there is space");
    let (durable, unproven) = numbers_in(&disk, OLD, Some(wal.good_len()));
    assert_eq!((durable, unproven), (vec![1, 2, 3, 4], vec![]));
}

#[test]
fn a_failed_sync_is_final() {
    let (disk, mut wal) = log_with_held_records();
    disk.fail_next_wal_sync();
    let error = log_group(&mut wal, 4, &[40], Reach::Disk).expect_err("the sync failed");
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Io, Some("sync")));
    assert_eq!(wal.begin().map(drop).expect_err("final").to_string(), error.to_string());
    assert_eq!(wal.abandon().expect_err("final").to_string(), error.to_string());
    assert_eq!(wal.sync().expect_err("final").to_string(), error.to_string());
}

#[test]
fn a_disk_that_cannot_reserve_takes_what_it_has_space_for() {
    let disk = FaultyVfs::new();
    disk.create_dir_all(Path::new(DIRECTORY)).expect("made");
    let mut wal = WalWriter::create(&disk, Path::new(DIRECTORY), OLD, None, 64 << 20).expect("created");
    // Far less than the first step of reserving.
    disk.set_free(5000);
    for seq in 1..=40 {
        log_group(&mut wal, seq, &[10], Reach::Disk).expect("there is space for this");
    }
    assert_eq!(numbers_in(&disk, OLD, None).0.len(), 39, "all but the last are proven");
    let error = log_group(&mut wal, 41, &[5000], Reach::Disk).expect_err("not for this");
    assert_eq!((error.kind(), error.operation()), (ErrorKind::NoSpace, Some("append")));
}

#[test]
fn what_is_reserved_ahead_grows_with_the_segment() {
    let disk = FaultyVfs::new();
    disk.create_dir_all(Path::new(DIRECTORY)).expect("made");
    let max = 1 << 20;
    let mut wal = WalWriter::create(&disk, Path::new(DIRECTORY), OLD, None, max).expect("created");
    let file_len = || disk.metadata(&path_of(OLD)).expect("there").len;
    assert!(file_len() < 100, "nothing is reserved for nothing");
    let (mut steps_count, mut last_len) = (0, 0);
    for seq in 1..=10_000 {
        log_group(&mut wal, seq, &[1000], Reach::System).expect("there is space");
        let (len, ahead_max) = (file_len(), (wal.len() / 4).clamp(WAL_ALLOCATE_LEN_BYTES_MIN, max));
        assert!(len >= wal.len());
        assert!(len - wal.len() <= ahead_max, "{len} bytes for {}", wal.len());
        steps_count += u32::from(len != last_len);
        last_len = len;
    }
    assert!(steps_count < 30, "{steps_count} steps for 10 MB");
    wal.trim();
    assert_eq!(file_len(), wal.good_len(), "what takes nothing more keeps nothing reserved");
    log_group(&mut wal, 20_000, &[10], Reach::Disk).expect("trimmed is not ended");
    wal.finish().expect("there is space");
    assert_eq!(file_len(), wal.good_len());
}

fn builder(disk: &FaultyVfs) -> DbBuilder {
    let options = tiny().wal_preallocate_bytes(0).memtable_bytes(64 << 20);
    Db::builder(DIRECTORY).vfs(Arc::new(disk.clone())).options(options).background(Background::Manual)
}

fn put(db: &Db, key: &str, value_len: usize, durability: Durability) -> Result<SeqNum> {
    let mut batch = WriteBatch::new();
    batch.put(db.default_keyspace(), key, vec![b'v'; value_len]);
    db.write(&batch, WriteOptions::default().durability(durability))
}

fn keys_of(db: &Db) -> Vec<String> {
    let keys = db.iter().expect("open").map(|item| item.expect("readable").0);
    keys.map(|key| String::from_utf8(key.to_vec()).expect("ours")).collect()
}

/// Commits that waited in memory, in front of ones that met a full disk, twice, with a crash and with a flush.
#[test]
fn resuming_keeps_the_commits_that_waited_in_memory() {
    for with_flush in [false, true] {
        let disk = FaultyVfs::new();
        let db = builder(&disk).open().expect("opens");
        put(&db, "a", 10, Durability::Disk).expect("there is space");
        for (waiting, refused, value_len) in [("b", "x", 10), ("c", "y", 2 << 20)] {
            put(&db, waiting, 10, Durability::None).expect("memory is enough");
            let seq = db.last_seq();
            disk.set_free(0);
            let error = put(&db, refused, value_len, Durability::Disk).expect_err("the disk is full");
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert_eq!(db.last_seq(), seq, "the numbers are free again");
            db.resume().expect_err("the disk is still full");
            disk.set_free(1 << 30);
            db.resume().expect("there is space");
            assert_eq!(put(&db, "z", 10, Durability::None).expect("writing is on").get(), seq.get() + 1);
        }
        assert_eq!(keys_of(&db), ["a", "b", "c", "z"]);
        if with_flush {
            db.flush().expect("flushes");
        } else {
            db.sync().expect("syncs");
        }
        put(&db, "d", 10, Durability::Disk).expect("there is space");
        drop(db);
        let db = builder(&disk).open().expect("opens");
        assert_eq!(keys_of(&db), ["a", "b", "c", "d", "z"]);
        db.verify().expect("sound");
    }
}

/// Many writers at once, long records among short ones, on a disk that fills up again and again.
#[test]
fn no_writer_hangs_and_nothing_acknowledged_is_lost_when_a_group_meets_a_full_disk() {
    let disk = FaultyVfs::new();
    let options = tiny().wal_preallocate_bytes(0).memtable_bytes(256 << 20);
    let open = || Db::builder(DIRECTORY).vfs(Arc::new(disk.clone())).options(options.clone()).open();
    let db = open().expect("opens");
    let mut acknowledged = Vec::new();
    for round in 0..12 {
        disk.set_free(100_000 + 777_777 * round);
        let writers: Vec<_> = (0..4u64)
            .map(|writer| {
                let db = db.clone();
                let keys = Arc::new(tinylsm::sync::Mutex::new(Vec::new()));
                let done = Arc::clone(&keys);
                let work = move || {
                    for i in 0..20u64 {
                        let value_len = if (i + writer) % 5 == 0 { 1_100_000 } else { 100 };
                        let key = format!("{round:02}-{writer}-{i:02}");
                        match put(&db, &key, value_len, Durability::Disk) {
                            Ok(_) => done.lock().push(key),
                            Err(_) => return,
                        }
                    }
                };
                (tinylsm::sync::spawn("writer", work).expect("a thread"), keys)
            })
            .collect();
        for (thread, keys) in writers {
            assert!(thread.join(), "no writer panics");
            acknowledged.append(&mut keys.lock());
        }
        disk.set_free(1 << 30);
        db.resume().expect("there is space");
    }
    acknowledged.sort_unstable();
    assert_eq!(keys_of(&db), acknowledged, "what was refused is not there");
    drop(db);
    let db = open().expect("opens");
    assert_eq!(keys_of(&db), acknowledged);
}

/// Bytes of all files, what is reserved behind their ends included.
fn disk_bytes(disk: &FaultyVfs) -> u64 {
    disk.disk.files().iter().map(|path| disk.metadata(path).expect("listed").len).sum()
}

#[test]
fn a_small_database_takes_little_while_it_is_open() {
    let disk = FaultyVfs::new();
    // The reserve is made by a thread, some time after the opening.
    let options = Options::default().reserve_bytes_max(0);
    let db = Db::builder(DIRECTORY).vfs(Arc::new(disk.clone())).options(options).open().expect("opens");
    assert!(disk_bytes(&disk) < 10_000, "{} bytes when empty", disk_bytes(&disk));
    for key in ["a", "b", "c", "d", "e"] {
        db.put(key, key).expect("puts");
    }
    assert!(disk_bytes(&disk) < 100_000, "{} bytes with five keys", disk_bytes(&disk));
    let segments_bytes = || -> u64 {
        let segments = disk.disk.files().into_iter().filter(|path| path.to_string_lossy().ends_with(".wal"));
        segments.map(|path| disk.metadata(&path).expect("listed").len).sum()
    };
    db.close().expect("closes");
    assert!(segments_bytes() < 1000, "{} bytes of log when closed", segments_bytes());
    assert!(disk_bytes(&disk) < 5000, "{} bytes when closed", disk_bytes(&disk));
}

/// A segment that is full is sealed, and gives back what it does not need, long before its memtable is flushed.
#[test]
fn a_sealed_segment_keeps_nothing_reserved() {
    let disk = FaultyVfs::new();
    let options = tiny().wal_preallocate_bytes(64 << 20).sealed_memtables_max(4);
    let db = Db::builder(DIRECTORY).vfs(Arc::new(disk.clone())).options(options);
    let db = db.background(Background::Manual).open().expect("opens");
    let mut count = 0;
    while db.stats().sealed_memtables < 3 {
        db.put(format!("{count:05}"), "value").expect("puts");
        count += 1;
    }
    let segments = disk.disk.files().into_iter().filter(|path| path.to_string_lossy().ends_with(".wal"));
    let lens: Vec<u64> = segments.map(|path| disk.metadata(&path).expect("listed").len).collect();
    let (open, sealed) = lens.split_last().expect("there is one");
    assert!(*open < 100_000, "{open} bytes");
    assert!(sealed.len() >= 3 && sealed.iter().all(|&len| len < 10_000), "{sealed:?}");
}
