//! What a disk states is not believed beyond its bounds, what a newer version wrote is told from damage, and what a call
//! accepts can be logged, flushed, merged and read back, up to the limits.
//!
//! Files are forged here: their checksums are right, and what they say is not what this version writes.

#[allow(dead_code, reason = "what the tests of other files need")]
mod common;

use common::tiny;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::base::comparator::KeyOrder;
use tinylsm::base::ids::{FileNumber, KeyspaceId};
use tinylsm::base::key::{InternalKey, Kind, Tag};
use tinylsm::base::limits::{FILE_NUMBER_MAX, KEY_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX};
use tinylsm::format::batch::{BATCH_HEADER_LEN_BYTES, Batch};
use tinylsm::format::frame::{
    FRAME_HEADER_LEN_BYTES, FrameKind, FramePlace, FrameReader, FrameWriter, seal_frame,
};
use tinylsm::format::names::FileName;
use tinylsm::table::options::TableOptions;
use tinylsm::table::writer::{TableSettings, TableWriter};
use tinylsm::version::catalog::Catalog;
use tinylsm::version::edit::{self, Change, TableMeta};
use tinylsm::version::manifest::{self, ManifestWriter};
use tinylsm::version::pointer::{self, Pointer};
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::wal::writer::WalWriter;
use tinylsm::{Background, Db, DbBuilder, Error, ErrorKind, SeqNum, UnixMillis};

const DIRECTORY: &str = "/db";

fn directory() -> &'static Path {
    Path::new(DIRECTORY)
}

fn builder(disk: &MemVfs) -> DbBuilder {
    let options = tiny().wal_preallocate_bytes(0);
    Db::builder(DIRECTORY).vfs(Arc::new(disk.clone())).options(options).background(Background::Manual)
}

fn refusal(builder: DbBuilder) -> Error {
    builder.open().map(drop).expect_err("refused")
}

/// Opens for writing and for reading: both are refused with the same words, and no file is changed.
fn both_refusals(disk: &MemVfs) -> Error {
    let files = || -> Vec<(PathBuf, Vec<u8>)> {
        let with_bytes = |path: PathBuf| (path.clone(), disk.read(&path).expect("listed"));
        disk.files().into_iter().map(with_bytes).collect()
    };
    let before = files();
    let error = refusal(builder(disk));
    let readers = builder(disk).open_read_only().map(drop).expect_err("refused");
    assert_eq!((error.kind(), error.to_string()), (readers.kind(), readers.to_string()));
    assert!(files() == before, "a refused opener changes no file");
    error
}

#[track_caller]
fn check_refused(disk: &MemVfs, kind: ErrorKind, file: &Path, parts: &[&str]) {
    let error = both_refusals(disk);
    assert_eq!((error.kind(), error.file()), (kind, Some(file)), "{error}");
    assert!(error.offset().is_some(), "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not named: {error}");
    }
}

/// A database that was just made and closed, what its catalog says, and where its one segment is.
struct Forge {
    disk: MemVfs,
    catalog: Catalog,
    segment: FileNumber,
}

impl Forge {
    fn new() -> Forge {
        let disk = MemVfs::new();
        builder(&disk).open().expect("opens").close().expect("closes");
        let pointer = pointer::read(&disk, directory()).expect("readable").expect("there is one");
        let catalog = manifest::read(&disk, directory(), pointer).expect("readable");
        let segment = catalog.wal_last;
        Forge { disk, catalog, segment }
    }

    fn segment_path(&self) -> PathBuf {
        FileName::Wal(self.segment).path(directory())
    }

    fn take_number(&mut self) -> FileNumber {
        let number = self.catalog.next_file;
        self.catalog.next_file = FileNumber(number.0 + 1);
        number
    }

    /// Makes a manifest with the catalog, which does not say where the last segment ends.
    fn install(&mut self) {
        let (number, temporary) = (self.take_number(), self.take_number());
        self.catalog.closed_len = None;
        let catalog = self.catalog.clone();
        ManifestWriter::create(&self.disk, directory(), number, temporary, catalog).expect("memory");
    }

    /// Puts frames in place of the last segment's, behind its header. `work` gets the log, synced up to the header.
    fn write_segment(&mut self, work: impl FnOnce(&mut FrameWriter)) {
        let path = self.segment_path();
        let file = self.disk.open(&path).expect("there");
        let mut frames = FrameReader::new(file.as_ref(), &path, self.segment).expect("measured");
        let header = frames.next_frame().expect("readable").expect("there is a header");
        self.disk.remove_file(&path).expect("there");
        let file = self.disk.create_new(&path).expect("removed");
        let mut log = FrameWriter::new(file, path, self.segment);
        log.append(FrameKind::Header, header.payload()).expect("memory");
        log.sync().expect("memory");
        work(&mut log);
        self.install();
    }

    /// Makes a manifest of these records, behind the catalog's.
    fn write_manifest(&mut self, records: &[Vec<u8>]) -> PathBuf {
        let (number, temporary) = (self.take_number(), self.take_number());
        let path = FileName::Manifest(number).path(directory());
        let mut log = FrameWriter::new(self.disk.create_new(&path).expect("new"), path.clone(), number);
        let header = [&b"TLSM.man"[..], &1u32.to_le_bytes()].concat();
        log.append(FrameKind::Header, &header).expect("memory");
        let catalog: Vec<Change> = self.catalog.changes().collect();
        log.append(FrameKind::Record, &edit::encode(&catalog)).expect("memory");
        for record in records {
            log.append(FrameKind::Record, record).expect("memory");
        }
        log.sync().expect("memory");
        let pointer = Pointer { manifest: number, durable_len: log.len() };
        pointer::switch(&self.disk, directory(), pointer, temporary).expect("memory");
        path
    }

    /// Writes a table of these entries and names it in the catalog, on level 1.
    fn add_table(&mut self, entries: &[(&[u8], Tag, &[u8])]) -> PathBuf {
        let number = self.take_number();
        let path = FileName::Table(number).path(directory());
        let settings = TableSettings {
            number,
            keyspace: KeyspaceId::DEFAULT,
            order: KeyOrder::Bytewise,
            created_at: UnixMillis(0),
            options: TableOptions::default(),
        };
        let mut writer = TableWriter::new(self.disk.create_new(&path).expect("new"), settings);
        for &(key, tag, value) in entries {
            writer.add(InternalKey::new(key, tag), value).expect("memory");
        }
        let summary = writer.finish().expect("memory");
        let properties = &summary.properties;
        let meta = TableMeta {
            number,
            len_bytes: summary.len_bytes,
            smallest: properties.smallest.user_key.to_vec(),
            largest: properties.largest.user_key.to_vec(),
            smallest_seq: properties.seq_lowest,
            largest_seq: properties.seq_highest,
            entries: properties.entries_count,
            deletes: properties.deletes_count,
            earliest_expiry: properties.expires_earliest,
            latest_expiry: properties.expires_latest,
        };
        let seq = meta.largest_seq;
        let edit = [
            Change::AddTable { keyspace: KeyspaceId::DEFAULT, level: 1, meta },
            Change::Flushed { wal_first: self.segment, seq },
        ];
        self.catalog.apply(&edit).expect("makes sense");
        self.install();
        path
    }
}

/// The payload of a record with two puts, numbered from `first`, whose second operation has the kind `code`.
fn record_with_kind(first: u64, code: u8) -> Vec<u8> {
    let mut batch = Batch::new();
    batch.put(KeyspaceId::DEFAULT, b"apple", b"red");
    batch.put(KeyspaceId::DEFAULT, b"pear", b"green and yellow");
    let mut payload =
        batch.stamp(UnixMillis(0), SeqNum::new(first)).to_vec().split_off(FRAME_HEADER_LEN_BYTES);
    payload[BATCH_HEADER_LEN_BYTES + "?0?apple?red".len()] = code;
    payload
}

#[test]
fn a_log_record_with_an_unknown_kind_is_refused_at_open() {
    for code in [3, 4, 5, 6, 7, 100, 255] {
        for is_proven in [true, false] {
            let mut forge = Forge::new();
            forge.write_segment(|log| {
                log.append(FrameKind::Record, &record_with_kind(1, 1)).expect("memory");
                log.append(FrameKind::Record, &record_with_kind(3, code)).expect("memory");
                if is_proven {
                    log.sync().expect("memory");
                    log.append(FrameKind::Record, &record_with_kind(5, 1)).expect("memory");
                }
            });
            let path = forge.segment_path();
            check_refused(&forge.disk, ErrorKind::Incompatible, &path, &[&format!("kind {code}")]);
        }
    }
    let mut forge = Forge::new();
    forge.write_segment(|log| log.append(FrameKind::Record, &record_with_kind(1, 1)).expect("memory"));
    let db = builder(&forge.disk).open().expect("what is known is read");
    assert_eq!(db.get("pear").expect("reads").as_deref(), Some(&b"green and yellow"[..]));
}

/// Appends a frame of a kind that does not exist, with a checksum that is right.
fn append_unknown_frame(disk: &MemVfs, path: &Path, number: FileNumber, code: u8) -> u64 {
    let mut bytes = disk.read(path).expect("there");
    let offset = bytes.len() as u64;
    let mut frame = vec![0; FRAME_HEADER_LEN_BYTES + 5];
    seal_frame(&mut frame, FrameKind::End, FramePlace { number, offset, synced_len: offset });
    frame[15] = code;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&frame[4..]);
    frame[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    bytes.extend_from_slice(&frame);
    disk.write(path, &bytes).expect("memory");
    offset
}

#[test]
fn a_frame_of_an_unknown_kind_is_refused_at_open() {
    for code in [4, 9, 255] {
        let mut forge = Forge::new();
        forge.write_segment(|log| log.append(FrameKind::Record, &record_with_kind(1, 1)).expect("memory"));
        let path = forge.segment_path();
        let offset = append_unknown_frame(&forge.disk, &path, forge.segment, code);
        check_refused(&forge.disk, ErrorKind::Incompatible, &path, &[&format!("kind {code}")]);
        // One bit more, and it is damage or a torn tail as any other.
        forge.disk.flip(&path, offset + 27, 1).expect("there");
        builder(&forge.disk).open().expect("a torn tail is cut");

        let mut forge = Forge::new();
        let path = forge.write_manifest(&[]);
        let number = FileNumber(forge.catalog.next_file.0 - 2);
        append_unknown_frame(&forge.disk, &path, number, code);
        check_refused(&forge.disk, ErrorKind::Incompatible, &path, &[&format!("kind {code}")]);
    }
}

#[test]
fn a_manifest_change_of_an_unknown_kind_is_refused_at_open() {
    for tag in [0, 9, 77, 255] {
        let mut forge = Forge::new();
        let known = edit::encode(&[Change::TimeHighWater(UnixMillis(7))]);
        let path = forge.write_manifest(&[[&known[..], &[tag, 3, 1, 2, 3]].concat()]);
        check_refused(&forge.disk, ErrorKind::Incompatible, &path, &[&format!("kind {tag}")]);
    }
}

#[test]
fn manifest_numbers_beyond_their_bounds_are_refused_at_open() {
    let changes = [
        Change::NextFile(FileNumber(u64::MAX)),
        Change::NextFile(FileNumber(FILE_NUMBER_MAX + 1)),
        Change::WalOpened(FileNumber(u64::MAX)),
        Change::Flushed { wal_first: FileNumber(1), seq: SeqNum::MAX },
    ];
    for change in changes {
        let mut forge = Forge::new();
        let path = forge.write_manifest(&[edit::encode(&[change])]);
        check_refused(&forge.disk, ErrorKind::Corruption, &path, &[]);
    }
    let mut forge = Forge::new();
    forge.write_manifest(&[edit::encode(&[Change::NextFile(FileNumber(FILE_NUMBER_MAX))])]);
    let error = both_refusals(&forge.disk);
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("numbers"), "{error}");
}

#[test]
fn tables_that_cannot_be_as_the_manifest_says_are_refused_at_open() {
    let put = |seq| Tag::new(SeqNum::new(seq), Kind::Put);
    let refuse = |change: fn(&mut Catalog)| {
        let mut forge = Forge::new();
        forge.add_table(&[(b"a", put(5), b"v"), (b"b", put(7), b"v")]);
        change(&mut forge.catalog);
        let path = forge.write_manifest(&[]);
        check_refused(&forge.disk, ErrorKind::Corruption, &path, &[]);
    };
    refuse(|catalog| catalog.flushed_seq = SeqNum::new(6));
    refuse(|catalog| catalog.wal_first = FileNumber(catalog.wal_last.0 + 1));
    refuse(|catalog| {
        let table = catalog.tables().next().map(|(.., meta)| meta.clone()).expect("there is one");
        let levels = &mut catalog.keyspaces.get_mut(&KeyspaceId::DEFAULT).expect("there").levels;
        levels[2].insert(table.number, table);
    });
}

fn tag(seq: u64, code: u64) -> Tag {
    Tag::from_raw(seq << 8 | code)
}

#[test]
fn an_entry_of_an_unknown_kind_in_a_table_is_refused_wherever_it_is_met() {
    for code in [3, 4, 5, 6] {
        let mut forge = Forge::new();
        let path =
            forge.add_table(&[(b"a", tag(1, 1), b"v"), (b"b", tag(2, code), b"v"), (b"c", tag(3, 1), b"v")]);
        if code == Kind::RangeDelete as u64 {
            // The properties tell of it.
            check_refused(&forge.disk, ErrorKind::Incompatible, &path, &["range deletes"]);
            continue;
        }
        let db = builder(&forge.disk).open().expect("nothing tells of it yet");
        assert_eq!(db.get("a").expect("reads").as_deref(), Some(&b"v"[..]));
        assert_eq!(db.get("b").expect_err("unknown").kind(), ErrorKind::Incompatible);
        assert!(db.iter().expect("open").any(|item| item.is_err()));
        let error = db.verify().map(drop).expect_err("unknown");
        assert_eq!((error.kind(), error.file()), (ErrorKind::Incompatible, Some(&*path)), "{error}");
        assert!(error.to_string().contains(&format!("kind {code}")) && error.offset().is_some(), "{error}");
    }
    for entries in [
        [(&b"a"[..], tag(1, 4), &b"v"[..]), (b"b", tag(2, 1), b"v")],
        [(b"a", tag(1, 1), b"v"), (b"b", tag(2, 6), b"v")],
    ] {
        let mut forge = Forge::new();
        let path = forge.add_table(&entries);
        check_refused(&forge.disk, ErrorKind::Incompatible, &path, &["kind"]);
    }
}

#[test]
fn sequence_numbers_that_are_used_up_end_in_an_error() {
    let mut forge = Forge::new();
    let edit = [Change::Flushed { wal_first: forge.segment, seq: SeqNum::new(SeqNum::LAST.get() - 2) }];
    forge.catalog.apply(&edit).expect("makes sense");
    forge.install();
    let db = builder(&forge.disk).open().expect("opens");
    db.put("a", "1").expect("one is left");
    assert_eq!(db.put("b", "2").expect("the last one"), SeqNum::LAST);
    for _ in 0..2 {
        let error = db.put("c", "3").expect_err("none is left");
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        assert!(error.to_string().contains("sequence numbers"), "{error}");
    }
    db.flush().expect("flushes");
    db.sync().expect("an empty batch needs no number");
    db.close().expect("closes");
    let db = builder(&forge.disk).open().expect("opens");
    assert_eq!(db.get("b").expect("reads").as_deref(), Some(&b"2"[..]));
    assert_eq!(db.get("c").expect("reads"), None);
    drop(db);
    // A record that goes on behind the last number.
    let mut forge = Forge::new();
    forge.write_segment(|log| {
        let payload = record_with_kind(SeqNum::LAST.get(), 1);
        log.append(FrameKind::Record, &payload).expect("memory");
    });
    let path = forge.segment_path();
    check_refused(&forge.disk, ErrorKind::Corruption, &path, &[]);
}

#[test]
fn files_with_numbers_that_no_database_counts_to_use_none_up() {
    let disk = MemVfs::new();
    let db = builder(&disk).open().expect("opens");
    db.put("a", "1").expect("puts");
    drop(db);
    for beyond in [FILE_NUMBER_MAX + 1, u64::MAX] {
        let path = directory().join(format!("{beyond}.sst"));
        disk.write(&path, b"mine").expect("memory");
        drop(builder(&disk).open().expect("not ours"));
        assert_eq!(disk.read(&path).expect("untouched"), b"mine");
    }
    let path = directory().join(format!("{FILE_NUMBER_MAX}.sst"));
    disk.write(&path, b"mine").expect("memory");
    let error = both_refusals(&disk);
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains(&FILE_NUMBER_MAX.to_string()), "{error}");
    disk.remove_file(&path).expect("there");
    let db = builder(&disk).open().expect("opens");
    assert_eq!(db.get("a").expect("reads").as_deref(), Some(&b"1"[..]));
}

/// The longest key with the longest value, and the longest value with an expiry in front of it.
#[test]
fn the_longest_entries_are_logged_flushed_merged_and_read_back() {
    let key = vec![b'k'; KEY_LEN_BYTES_MAX];
    let value = vec![b'v'; VALUE_LEN_BYTES_MAX];
    let mut forge = Forge::new();
    // No call makes an expiry yet, so the record is.
    let expiring = {
        let mut batch = Batch::new();
        batch.put(KeyspaceId::DEFAULT, &key, &[&i64::MAX.to_le_bytes()[..], &value].concat());
        let mut payload =
            batch.stamp(UnixMillis(0), SeqNum::new(1)).to_vec().split_off(FRAME_HEADER_LEN_BYTES);
        payload[BATCH_HEADER_LEN_BYTES] = Kind::PutWithExpiry as u8;
        payload
    };
    forge.write_segment(|log| log.append(FrameKind::Record, &expiring).expect("memory"));
    drop(expiring);
    let db = builder(&forge.disk).open().expect("opens");
    let check = |db: &Db| {
        for key in [&key[..], b"j"] {
            assert!(
                db.get(key).expect("reads").is_some_and(|found| found.as_ref() == value),
                "the value is whole"
            );
        }
        assert_eq!(
            db.iter().expect("open").map(|item| item.expect("readable").1.len()).sum::<usize>(),
            2 * value.len()
        );
    };
    db.put("j", &value).expect("within the limits");
    check(&db);
    db.flush().expect("flushes");
    check(&db);
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    check(&db);
    db.verify().expect("sound");
    db.close().expect("closes");
    check(&builder(&forge.disk).open().expect("opens"));
}

/// Recovery may write records again that are proven, in a first segment or behind another one, under their numbers.
#[test]
fn proven_records_can_be_carried_into_a_fresh_segment() {
    let disk = MemVfs::new();
    disk.create_dir_all(directory()).expect("memory");
    let number = FileNumber(9);
    let wal = WalWriter::create(&disk, directory(), number, None, 0).expect("memory");
    let mut wal = wal.with_held_len_max(1000);
    let mut frames = Vec::new();
    for seq in 70..110u64 {
        let mut batch = Batch::new();
        batch.put(
            KeyspaceId::DEFAULT,
            &seq.to_be_bytes(),
            &vec![7; usize::try_from(seq % 7 * 300).expect("small")],
        );
        let mut frame = batch.stamp(UnixMillis(0), SeqNum::new(seq)).to_vec();
        wal.add(&mut frame, SeqNum::new(seq), SeqNum::new(seq)).expect("memory");
        assert!(wal.len() - wal.good_len() <= 1000, "what waits in memory is bounded");
        frames.push(frame);
    }
    wal.sync().expect("memory");
    let path = FileName::Wal(number).path(directory());
    let mut found = Vec::new();
    let len = Some(wal.good_len());
    tinylsm::wal::reader::replay(&disk, &path, number, len, &mut |record| {
        found.push(record.header.first_seq.get());
        Ok(())
    })
    .expect("readable");
    assert!(found.into_iter().eq(70..110));
}

/// Bytes behind the readable part that look like frames without end do not make opening take forever.
#[test]
fn a_tail_full_of_forged_frame_headers_is_refused_in_decent_time() {
    let mut forge = Forge::new();
    forge.write_segment(|log| log.append(FrameKind::Record, &record_with_kind(1, 1)).expect("memory"));
    let path = forge.segment_path();
    let mut bytes = forge.disk.read(&path).expect("there");
    let end = bytes.len() as u64;
    bytes.resize(bytes.len() + (4 << 20), 0);
    let mut header = [0; FRAME_HEADER_LEN_BYTES];
    seal_frame(
        &mut header,
        FrameKind::Record,
        FramePlace { number: forge.segment, offset: 0, synced_len: 0 },
    );
    // Each claims a megabyte of payload.
    header[4..8].copy_from_slice(&(1u32 << 20).to_le_bytes());
    for at in bytes[usize::try_from(end).expect("small")..].chunks_exact_mut(FRAME_HEADER_LEN_BYTES) {
        at.copy_from_slice(&header);
    }
    forge.disk.write(&path, &bytes).expect("memory");
    let error = both_refusals(&forge.disk);
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corruption, Some(end)), "{error}");
}
