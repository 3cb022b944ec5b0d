//! A manifest and `CURRENT`, byte by byte, as `docs/format/manifest.md` and `docs/format/log.md` describe them.

use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::annotate::Annotator;
use crate::format::names::FileName;
use crate::version::catalog::Catalog;
use crate::version::edit::{Change, TableMeta, encode};
use crate::version::manifest::ManifestWriter;
use crate::vfs::Vfs;
use crate::vfs::mem::MemVfs;
use std::path::Path;

/// What the writer leaves on the disk.
struct Sample {
    manifest: Vec<u8>,
    current_when_created: Vec<u8>,
    current_when_closed: Vec<u8>,
}

fn table() -> TableMeta {
    TableMeta {
        number: FileNumber(300),
        len_bytes: 70_000,
        smallest: b"apple".to_vec(),
        largest: b"plum".to_vec(),
        smallest_seq: SeqNum::new(1),
        largest_seq: SeqNum::new(500),
        entries: 480,
        deletes: 20,
        earliest_expiry: UnixMillis(1_800_000_000_000),
        latest_expiry: UnixMillis(1_900_000_000_000),
    }
}

/// Writes a manifest with every kind of change, closed in good order.
fn sample() -> Sample {
    let (disk, directory, number) = (MemVfs::new(), Path::new("db"), FileNumber(5));
    disk.create_dir_all(directory).expect("memory does not fail");
    let current = || disk.read(&FileName::Current.path(directory)).expect("just written");
    let keyspace = KeyspaceId::DEFAULT;
    let mut catalog = Catalog::default();
    let first = [
        Change::CreateKeyspace {
            id: keyspace,
            name: "default".to_owned(),
            comparator: "tinylsm.bytewise".to_owned(),
            options: "block_bytes=4096\n".to_owned(),
        },
        Change::NextFile(FileNumber(7)),
        Change::TimeHighWater(UnixMillis(1_700_000_000_000)),
    ];
    catalog.apply(&first).expect("makes sense");
    let mut manifest =
        ManifestWriter::create(&disk, directory, number, FileNumber(6), catalog).expect("memory");
    let current_when_created = current();
    let edits = [
        vec![Change::WalOpened(FileNumber(299))],
        vec![
            Change::AddTable { keyspace, level: 0, meta: table() },
            Change::Flushed { wal_first: FileNumber(299), seq: SeqNum::new(500) },
            Change::NextFile(FileNumber(301)),
        ],
        vec![
            Change::RemoveTable { keyspace, level: 0, number: FileNumber(300) },
            Change::AddTable { keyspace, level: 6, meta: table() },
        ],
        vec![
            Change::TimeHighWater(UnixMillis(1_700_000_000_001)),
            Change::Closed { wal: FileNumber(299), good_len: 4096 },
        ],
    ];
    for edit in &edits {
        manifest.install(edit).expect("memory does not fail");
    }
    manifest.finish(&disk, FileNumber(302)).expect("memory does not fail");
    let bytes = disk.read(manifest.path()).expect("just written");
    Sample { manifest: bytes, current_when_created, current_when_closed: current() }
}

fn annotate(bytes: &[u8]) -> String {
    let mut out = Annotator::new(bytes);
    while out.at < bytes.len() {
        let (kind, end) = out.frame_header();
        match kind {
            1 => {
                out.take(8, "magic: TLSM.man");
                out.number(4, "version of the database");
            }
            2 => {
                while out.at < end {
                    change(&mut out);
                }
            }
            _ => {}
        }
        assert_eq!(out.at, end, "the payload is as long as the frame says");
    }
    out.text
}

fn change(out: &mut Annotator<'_>) {
    let tag = out.bytes[out.at];
    let name = match tag {
        1 => "create keyspace",
        2 => "add table",
        3 => "remove table",
        4 => "next file",
        5 => "flushed",
        6 => "WAL opened",
        7 => "closed",
        8 => "time high water",
        9 => "drop keyspace",
        10 => "rename keyspace",
        11 => "clear keyspace",
        12 => "next keyspace",
        _ => panic!("tag {tag} is in no document"),
    };
    out.take(1, &format!("tag: {name}"));
    let len = out.varint("body length");
    let end = out.at + len;
    match tag {
        1 => {
            out.varint("id");
            out.prefixed("name");
            out.prefixed("comparator");
            out.prefixed("options");
        }
        2 => add_table(out),
        3 => {
            out.varint("keyspace");
            out.varint("level");
            out.varint("table");
        }
        4 | 12 => drop(out.varint("taken below")),
        5 => {
            out.varint("oldest segment needed");
            out.varint("last sequence number in tables");
        }
        6 => drop(out.varint("segment")),
        7 => {
            out.varint("last segment");
            out.varint("its durable length");
        }
        8 => out.time("time"),
        9 => drop(out.varint("keyspace")),
        10 => {
            out.varint("keyspace");
            out.prefixed("name");
        }
        _ => {
            out.varint("keyspace");
            out.varint("sequence number");
        }
    }
    assert_eq!(out.at, end, "the body is as long as the change says");
}

fn add_table(out: &mut Annotator<'_>) {
    out.varint("keyspace");
    out.varint("level");
    out.varint("table");
    out.varint("bytes");
    out.prefixed("smallest key");
    out.prefixed("largest key");
    out.varint("smallest sequence number");
    out.varint("largest sequence number");
    out.varint("entries");
    out.varint("deletes");
    out.time("earliest expiry");
    out.time("latest expiry");
}

/// Takes the one line of `CURRENT` apart.
fn annotate_current(bytes: &[u8]) -> String {
    let mut out = Annotator::new(bytes);
    let part_len = |at: usize, end: u8| {
        bytes[at..].iter().position(|&byte| byte == end).expect("the line has three parts")
    };
    let name_len = part_len(0, b' ');
    out.take(name_len, "name of the manifest");
    out.take(1, "space");
    let digits_len = part_len(out.at, b' ');
    out.take(digits_len, "bytes that are durable, decimal");
    let crc = format!("{:08x}", crc32fast::hash(&bytes[..out.at]));
    out.take(1, "space");
    assert_eq!(out.take(8, "crc32 of name, space and digits, in hexadecimal digits"), crc.as_bytes());
    out.take(1, "newline");
    assert_eq!(out.at, bytes.len());
    format!("{}\n{}", bytes.escape_ascii(), out.text)
}

#[test]
fn the_bytes_of_a_manifest_never_change() {
    insta::assert_snapshot!(annotate(&sample().manifest));
}

#[test]
fn the_bytes_of_changes_to_keyspaces_never_change() {
    let id = KeyspaceId(200);
    let changes = [
        Change::RenameKeyspace { id, name: "other".to_owned() },
        Change::ClearKeyspace { id, seq: SeqNum::new(500) },
        Change::DropKeyspace(id),
        Change::NextKeyspace(KeyspaceId(201)),
    ];
    let bytes = encode(&changes);
    let mut out = Annotator::new(&bytes);
    while out.at < bytes.len() {
        change(&mut out);
    }
    insta::assert_snapshot!(out.text);
}

#[test]
fn the_bytes_of_current_never_change() {
    let sample = sample();
    let lines = [
        ("when the manifest is new", &sample.current_when_created),
        ("when the database was closed", &sample.current_when_closed),
    ];
    let text: Vec<String> =
        lines.iter().map(|(when, bytes)| format!("{when}: {}", annotate_current(bytes))).collect();
    insta::assert_snapshot!(text.join("\n"));
    // What the line states is what there is.
    let stated = sample.current_when_closed.split(|&byte| byte == b' ').nth(1).expect("three parts");
    assert_eq!(stated, sample.manifest.len().to_string().as_bytes());
}
