//! Files as another version, or another program, might have left them: every checksum right, the contents not.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use tinylsm::UnixMillis;
use tinylsm::base::comparator::KeyOrder;
use tinylsm::base::ids::{FileNumber, KeyspaceId};
use tinylsm::base::key::{InternalKey, Kind, Tag};
use tinylsm::base::seq::SeqNum;
use tinylsm::format::batch::open_record;
use tinylsm::format::checksum::{FileChecksum, Place, Region};
use tinylsm::format::frame::{
    FRAME_HEADER_LEN_BYTES, FrameKind, FramePlace, FrameReader, FrameWriter, seal_frame,
};
use tinylsm::format::names::FileName;
use tinylsm::format::varint;
use tinylsm::table::footer::{FOOTER_LEN_BYTES, Footer, Handle};
use tinylsm::table::options::TableOptions;
use tinylsm::table::stored::{Packer, TRAILER_LEN_BYTES};
use tinylsm::table::writer::{TableSettings, TableSummary, TableWriter};
use tinylsm::version::edit::{self, Change, TableMeta};
use tinylsm::version::manifest::DATABASE_FORMAT_VERSION;
use tinylsm::version::pointer::{self, Pointer};
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::wal::writer::WalWriter;

/// The directory of every crafted database.
pub const DIRECTORY: &str = "/db";

/// One operation of a record, with any kind.
pub struct Operation {
    pub kind: u8,
    pub key: Vec<u8>,
    /// None for kinds that have none.
    pub value: Option<Vec<u8>>,
}

impl Operation {
    pub fn put(key: &str, value: &[u8]) -> Operation {
        Operation { kind: Kind::Put as u8, key: key.into(), value: Some(value.to_vec()) }
    }

    pub fn expiring_put(key: &str, value: &[u8], expires_at: UnixMillis) -> Operation {
        let stored = [&expires_at.0.to_le_bytes()[..], value].concat();
        Operation { kind: Kind::PutWithExpiry as u8, key: key.into(), value: Some(stored) }
    }
}

/// Encodes a record of the log with space for its frame's header.
pub fn record(committed_at: UnixMillis, first_seq: u64, operations: &[Operation]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_LEN_BYTES];
    frame.extend_from_slice(&committed_at.0.to_le_bytes());
    frame.extend_from_slice(&first_seq.to_le_bytes());
    let count = u32::try_from(operations.len()).expect("few");
    frame.extend_from_slice(&count.to_le_bytes());
    for operation in operations {
        frame.push(operation.kind);
        varint::write_u64(&mut frame, 0);
        varint::write_bytes(&mut frame, &operation.key);
        if let Some(value) = &operation.value {
            varint::write_bytes(&mut frame, value);
        }
    }
    frame
}

/// The newest WAL segment of a database that nobody has open, and where its readable part ends.
pub struct Tail {
    pub path: PathBuf,
    pub number: FileNumber,
    pub end: u64,
    pub last_seq: u64,
}

impl Tail {
    /// Finds it. The database must not have been closed in good order, or nothing behind the end counts.
    pub fn of(disk: &MemVfs) -> Tail {
        let names = disk.read_dir(Path::new(DIRECTORY)).expect("there is a database");
        let numbers = names.iter().filter_map(|entry| match FileName::parse(&entry.name) {
            Some(FileName::Wal(number)) => Some(number),
            _ => None,
        });
        let mut numbers: Vec<FileNumber> = numbers.collect();
        numbers.sort_unstable();
        let number = *numbers.last().expect("a database has a log");
        let path = FileName::Wal(number).path(Path::new(DIRECTORY));
        let mut last_seq = 0;
        for number in numbers {
            let path = FileName::Wal(number).path(Path::new(DIRECTORY));
            let file = disk.open(&path).expect("listed");
            let mut frames = FrameReader::new(file.as_ref(), &path, number).expect("measured");
            while let Some(frame) = frames.next_frame().expect("readable") {
                if frame.kind == FrameKind::Record {
                    last_seq = open_record(&frame.bytes).expect("sound").0.last_seq().get();
                }
            }
        }
        let file = disk.open(&path).expect("listed");
        let mut frames = FrameReader::new(file.as_ref(), &path, number).expect("measured");
        while frames.next_frame().expect("readable").is_some() {}
        let end = frames.offset();
        Tail { path, number, end, last_seq }
    }

    /// Appends a record that carries the next numbers; `synced_len` is what its watermark states.
    pub fn append(
        &mut self,
        disk: &MemVfs,
        committed_at: UnixMillis,
        synced_len: u64,
        operations: &[Operation],
    ) {
        let mut frame = record(committed_at, self.last_seq + 1, operations);
        let place = FramePlace { number: self.number, offset: self.end, synced_len };
        seal_frame(&mut frame, FrameKind::Record, place);
        self.last_seq += operations.len() as u64;
        self.append_frame(disk, &frame);
    }

    /// Appends a frame as it is.
    pub fn append_frame(&mut self, disk: &MemVfs, frame: &[u8]) {
        let mut bytes = disk.read(&self.path).expect("the log is there");
        let start = usize::try_from(self.end).expect("a file in memory has an index");
        bytes.resize(bytes.len().max(start + frame.len()), 0);
        bytes[start..start + frame.len()].copy_from_slice(frame);
        disk.write(&self.path, &bytes).expect("memory does not fail");
        self.end += frame.len() as u64;
    }
}

/// Makes a frame of a kind that no version of ours defines, with the right checksum.
pub fn frame_of_unknown_kind(kind: u8, place: FramePlace, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_LEN_BYTES];
    frame.extend_from_slice(payload);
    seal_frame(&mut frame, FrameKind::Record, place);
    frame[15] = kind;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.offset.to_le_bytes());
    hasher.update(&frame[4..]);
    frame[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    frame
}

/// Writes a table of the default keyspace, and returns what a catalog says of it.
pub fn table(disk: &MemVfs, number: u64, entries: &[(&str, u64, Kind, &[u8])]) -> TableMeta {
    let number = FileNumber(number);
    let settings = TableSettings {
        number,
        keyspace: KeyspaceId::DEFAULT,
        order: KeyOrder::Bytewise,
        created_at: UnixMillis(0),
        options: TableOptions::default(),
    };
    disk.create_dir_all(Path::new(DIRECTORY)).expect("memory does not fail");
    let file = disk.create_new(&path_of(number)).expect("a new file");
    let mut writer = TableWriter::new(file, settings);
    for (key, seq, kind, value) in entries {
        let key = InternalKey::new(key.as_bytes(), Tag::new(SeqNum::new(*seq), *kind));
        writer.add(key, value).expect("memory does not fail");
    }
    meta_of(&writer.finish().expect("memory does not fail"))
}

pub fn path_of(table: FileNumber) -> PathBuf {
    FileName::Table(table).path(Path::new(DIRECTORY))
}

fn meta_of(summary: &TableSummary) -> TableMeta {
    let properties = &summary.properties;
    TableMeta {
        number: summary.number,
        len_bytes: summary.len_bytes,
        smallest: properties.smallest.user_key.to_vec(),
        largest: properties.largest.user_key.to_vec(),
        smallest_seq: properties.seq_lowest,
        largest_seq: properties.seq_highest,
        entries: properties.entries_count,
        deletes: properties.deletes_count,
        earliest_expiry: properties.expires_earliest,
        latest_expiry: properties.expires_latest,
    }
}

/// The segment that every crafted database has, without a record.
pub const SEGMENT: FileNumber = FileNumber(899);

/// Returns the changes that make a database with these tables on level 0 of its default keyspace, and an empty log.
pub fn changes(tables: &[TableMeta]) -> Vec<Change> {
    let keyspace = KeyspaceId::DEFAULT;
    let mut changes = vec![
        Change::CreateKeyspace {
            id: keyspace,
            name: "default".to_owned(),
            comparator: KeyOrder::Bytewise.name().to_owned(),
            options: String::new(),
        },
        Change::NextFile(FileNumber(1000)),
    ];
    changes.extend(tables.iter().map(|meta| Change::AddTable { keyspace, level: 0, meta: meta.clone() }));
    let seq = tables.iter().map(|meta| meta.largest_seq).max().unwrap_or_default();
    changes.extend([Change::Flushed { wal_first: SEGMENT, seq }, Change::WalOpened(SEGMENT)]);
    changes
}

/// Makes a database of these changes.
pub fn database(disk: &MemVfs, changes: &[Change]) {
    database_with_edit(disk, &edit::encode(changes));
}

/// Makes a database whose manifest is one edit of these bytes.
pub fn database_with_edit(disk: &MemVfs, payload: &[u8]) {
    let directory = Path::new(DIRECTORY);
    disk.create_dir_all(directory).expect("memory does not fail");
    WalWriter::create(disk, directory, SEGMENT, None, 0).expect("memory does not fail");
    let number = FileNumber(900);
    let path = FileName::Manifest(number).path(directory);
    let mut log = FrameWriter::new(disk.create_new(&path).expect("a new file"), path, number);
    let mut header = b"TLSM.man".to_vec();
    header.extend_from_slice(&DATABASE_FORMAT_VERSION.to_le_bytes());
    log.append(FrameKind::Header, &header).expect("memory does not fail");
    log.append(FrameKind::Record, payload).expect("memory does not fail");
    log.sync().expect("memory does not fail");
    let pointer = Pointer { manifest: number, durable_len: log.len() };
    pointer::switch(disk, directory, pointer, FileNumber(901)).expect("memory does not fail");
}

/// The parts of a table's file behind its data blocks, taken apart.
pub struct End {
    number: FileNumber,
    data_end: u64,
    filter: Option<Vec<u8>>,
    pub index: Vec<u8>,
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
}

impl End {
    /// Takes the end of a table apart; its index must not be packed.
    pub fn take_apart(bytes: &[u8], number: FileNumber) -> End {
        let tail = &bytes[bytes.len() - FOOTER_LEN_BYTES..];
        let footer = Footer::decode(tail, bytes.len() as u64, number, Path::new("table")).expect("sound");
        let part = |handle: Handle| {
            let start = usize::try_from(handle.offset).expect("small");
            bytes[start..start + handle.len as usize].to_vec()
        };
        let mut properties = Vec::new();
        let block = part(footer.properties);
        let mut rest = &block[..];
        while !rest.is_empty() {
            let mut take = || varint::take_bytes(&mut rest, 1 << 20).expect("sound").to_vec();
            properties.push((take(), take()));
        }
        End {
            number,
            data_end: footer.data_end(),
            filter: footer.filter.map(part),
            index: part(footer.index),
            properties,
        }
    }

    pub fn set_property(&mut self, name: &str, value: u64) {
        let place = self.properties.iter_mut().find(|(each, _)| each == name.as_bytes());
        place.expect("every table has it").1 = value.to_le_bytes().to_vec();
    }

    /// Puts the end together again, to stand behind `data_end` bytes of data blocks.
    pub fn put_together(&self, data_end: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |block: &[u8]| {
            let offset = data_end + bytes.len() as u64;
            bytes.extend_from_slice(block);
            bytes.extend_from_slice(&Packer::wrap(block, self.number, offset));
            Handle { offset, len: u32::try_from(block.len()).expect("small") }
        };
        let filter = self.filter.as_ref().map(|block| add(block));
        let index = add(&self.index);
        let mut block = Vec::new();
        for (name, value) in &self.properties {
            varint::write_bytes(&mut block, name);
            varint::write_bytes(&mut block, value);
        }
        let properties = add(&block);
        // Only a whole verification looks at the sum over the file.
        let footer = Footer { index, filter, properties, file_checksum: FileChecksum::new().value() };
        let offset = data_end + bytes.len() as u64;
        bytes.extend_from_slice(&footer.encode(self.number, offset));
        bytes
    }

    pub fn data_end(&self) -> u64 {
        self.data_end
    }
}

/// Changes the type of a table's first block, which ends at `end`, to one that no version of ours defines.
pub fn set_block_type(bytes: &mut [u8], number: FileNumber, end: usize, kind: u8) {
    let payload_end = end - TRAILER_LEN_BYTES;
    let place = Place { region: Region::TableBlock, file: number, offset: 0 };
    let sum = place.checksum(&[&bytes[..payload_end], &[kind]]);
    bytes[payload_end] = kind;
    bytes[payload_end + 1..end].copy_from_slice(&sum.to_le_bytes());
}
