//! The manifest takes edits of any length, and a failure leaves either the old state or the new one, never a mixture.

#[path = "common/faulty.rs"]
mod faulty;

use faulty::FaultyVfs;
use std::path::Path;
use tinylsm::ErrorKind;
use tinylsm::base::ids::{FileNumber, KeyspaceId};
use tinylsm::base::limits::{EDIT_LEN_BYTES_MAX, KEY_LEN_BYTES_MAX};
use tinylsm::base::seq::SeqNum;
use tinylsm::base::time::UnixMillis;
use tinylsm::format::frame::{FrameKind, FrameReader};
use tinylsm::format::names::FileName;
use tinylsm::version::catalog::Catalog;
use tinylsm::version::edit::{Change, TableMeta};
use tinylsm::version::manifest::{Failure, ManifestWriter, read};
use tinylsm::version::pointer;
use tinylsm::vfs::Vfs;

const DIRECTORY: &str = "/db";

fn table(number: u64, key_len: usize) -> Change {
    let mut smallest = vec![b'k'; key_len];
    smallest[..8].copy_from_slice(&number.to_be_bytes());
    let meta = TableMeta {
        number: FileNumber(number),
        len_bytes: 1 << 20,
        largest: smallest.clone(),
        smallest,
        smallest_seq: SeqNum::new(1),
        largest_seq: SeqNum::new(9),
        entries: 10,
        deletes: 1,
        earliest_expiry: UnixMillis::MAX,
        latest_expiry: UnixMillis::MIN,
    };
    Change::AddTable { keyspace: KeyspaceId::DEFAULT, level: 1, meta }
}

fn begin(disk: &FaultyVfs) -> ManifestWriter {
    disk.create_dir_all(Path::new(DIRECTORY)).expect("made");
    let mut catalog = Catalog::default();
    let first = [
        Change::CreateKeyspace {
            id: KeyspaceId::DEFAULT,
            name: "default".to_owned(),
            comparator: "tinylsm.bytewise".to_owned(),
            options: "block_bytes=4096\n".to_owned(),
        },
        Change::NextFile(FileNumber(10_000)),
        Change::WalOpened(FileNumber(3)),
        Change::Flushed { wal_first: FileNumber(3), seq: SeqNum::new(9) },
    ];
    catalog.apply(&first).expect("makes sense");
    let (number, temporary) = (FileNumber(5), FileNumber(6));
    ManifestWriter::create(disk, Path::new(DIRECTORY), number, temporary, catalog).expect("there is space")
}

fn read_back(disk: &FaultyVfs) -> Catalog {
    let pointer = pointer::read(&disk.disk, Path::new(DIRECTORY)).expect("readable").expect("there is one");
    read(&disk.disk, Path::new(DIRECTORY), pointer).expect("readable")
}

/// Returns the lengths of the records of manifest `number`.
fn record_lens(disk: &FaultyVfs, number: FileNumber) -> Vec<usize> {
    let path = FileName::Manifest(number).path(Path::new(DIRECTORY));
    let file = disk.disk.open(&path).expect("there");
    let mut frames = FrameReader::new(file.as_ref(), &path, number).expect("measured");
    let mut lens = Vec::new();
    while let Some(frame) = frames.next_frame().expect("readable") {
        if frame.kind == FrameKind::Record {
            lens.push(frame.payload().len());
        }
    }
    lens
}

/// A merge of 1,100 tables whose keys are as long as keys may be: 144 MB of edit, more than a frame takes.
#[test]
fn an_edit_of_any_length_is_installed() {
    let disk = FaultyVfs::new();
    let mut manifest = begin(&disk);
    let edit: Vec<Change> = (100..1200).map(|number| table(number, KEY_LEN_BYTES_MAX)).collect();
    assert!(manifest.is_oversized(&edit));
    let old = manifest.roll_with(&disk, &edit, FileNumber(7), FileNumber(8)).expect("there is space");
    assert_eq!(old, FileNumber(5));
    drop(edit);
    manifest.install(&[table(2000, 8)]).expect("there is space");
    assert_eq!(read_back(&disk), *manifest.catalog());
    assert_eq!(read_back(&disk).tables().count(), 1101);
    let lens = record_lens(&disk, FileNumber(7));
    assert!(lens.len() > 5, "the catalog is written in pieces");
    assert!(lens.iter().all(|&len| len <= EDIT_LEN_BYTES_MAX));
    let removal: Vec<Change> = (100..1200)
        .map(|number| Change::RemoveTable {
            keyspace: KeyspaceId::DEFAULT,
            level: 1,
            number: FileNumber(number),
        })
        .collect();
    assert!(!manifest.is_oversized(&removal));
    manifest.install(&removal).expect("there is space");
    assert_eq!(read_back(&disk).tables().count(), 1);
}

/// Every call that changes the disk fails once, and before and after that all goes well.
#[test]
fn a_roll_that_fails_leaves_the_old_state_or_the_new_one() {
    let edit: Vec<Change> = (100..120).map(|number| table(number, 16)).collect();
    let mut seen = [0; 3];
    for call in 0.. {
        let disk = FaultyVfs::new();
        let mut manifest = begin(&disk).with_edit_len_max(200);
        assert!(manifest.is_oversized(&edit));
        let before = manifest.catalog().clone();
        let mut after = before.clone();
        after.apply(&edit).expect("makes sense");
        disk.fail_call(call);
        match manifest.roll_with(&disk, &edit, FileNumber(7), FileNumber(8)) {
            Err(Failure::NotInstalled(_)) => {
                seen[0] += 1;
                assert_eq!(*manifest.catalog(), before);
                assert_eq!(read_back(&disk), before, "call {call}");
                // The old manifest goes on, and the edit is tried again.
                manifest.install(&[table(50, 8)]).expect("as good as before");
                assert_eq!(read_back(&disk), *manifest.catalog());
                manifest.roll_with(&disk, &edit, FileNumber(9), FileNumber(10)).expect("the disk is well");
                assert_eq!(read_back(&disk), *manifest.catalog());
                assert_eq!(read_back(&disk).tables().count(), 21);
            }
            Err(Failure::InDoubt(error)) => {
                seen[1] += 1;
                let found = read_back(&disk);
                assert!(found == before || found == after, "call {call}");
                assert_eq!(*manifest.catalog(), before);
                // Nobody knows which one it is, so neither takes anything more.
                let refused = manifest.install(&[table(50, 8)]).expect_err("in doubt");
                assert_eq!(refused.into_error().to_string(), error.to_string());
                assert!(manifest.roll(&disk, FileNumber(9), FileNumber(10)).is_err());
                assert!(manifest.finish(&disk, FileNumber(11)).is_err());
                assert_eq!(read_back(&disk), found);
            }
            Ok(_) => {
                seen[2] += 1;
                assert_eq!((manifest.catalog(), &read_back(&disk)), (&after, &after));
                assert!(record_lens(&disk, FileNumber(7)).len() > 10, "the catalog was written in pieces");
                break;
            }
        }
    }
    assert!(seen[0] > 10 && seen[1] == 2 && seen[2] == 1, "rename and directory sync leave doubt: {seen:?}");
}

#[test]
fn an_install_that_fails_is_the_last() {
    for call in 0..3 {
        let disk = FaultyVfs::new();
        let mut manifest = begin(&disk);
        let before = manifest.catalog().clone();
        disk.fail_call(call);
        let error = manifest.install(&[table(50, 8)]).expect_err("a call failed").into_error();
        assert_eq!(error.kind(), ErrorKind::Io);
        let again = manifest.install(&[table(51, 8)]).expect_err("the last").into_error();
        assert_eq!(again.to_string(), error.to_string());
        assert_eq!(manifest.failure().map(ToString::to_string), Some(error.to_string()));
        let found = read_back(&disk);
        assert!(found == before || found == *manifest.catalog(), "call {call}");
        assert_eq!(found == before, call == 0, "only an append that took nothing surely left nothing");
    }
}

/// An edit that finds no space is refused and changes nothing; those that need next to none still go in, and with space all
/// do.
#[test]
fn a_full_disk_refuses_an_edit_and_goes_on() {
    let disk = FaultyVfs::new();
    let mut manifest = begin(&disk);
    manifest.allocate_ahead();
    disk.set_free(0);
    let before = manifest.catalog().clone();
    let refused = manifest.install(&[table(50, 20_000)]).expect_err("there is no space");
    assert!(matches!(refused, Failure::NotInstalled(_)), "{refused:?}");
    assert_eq!(refused.into_error().kind(), ErrorKind::NoSpace);
    assert!(manifest.failure().is_none() && *manifest.catalog() == before);
    for number in 10_001..10_041 {
        manifest.install(&[Change::NextFile(FileNumber(number))]).expect("allocated ahead");
    }
    assert_eq!(read_back(&disk), *manifest.catalog());
    disk.set_free(1 << 20);
    manifest.install(&[table(50, 20_000)]).expect("there is space");
    assert_eq!(read_back(&disk), *manifest.catalog());
}

/// Going without allocated space is for one edit: the next one is refused again before anything of it is written.
#[test]
fn one_edit_alone_goes_unallocated() {
    let disk = FaultyVfs::new();
    let mut manifest = begin(&disk);
    manifest.go_unallocated();
    manifest.install(&[table(50, 20_000)]).expect("there is space");
    disk.set_free(0);
    let before = manifest.catalog().clone();
    let refused = manifest.install(&[table(51, 20_000)]).expect_err("there is no space");
    assert!(matches!(refused, Failure::NotInstalled(_)), "{refused:?}");
    assert!(manifest.failure().is_none() && *manifest.catalog() == before);
    disk.set_free(1 << 20);
    manifest.install(&[table(51, 20_000)]).expect("there is space");
    assert_eq!(read_back(&disk), *manifest.catalog());
}
