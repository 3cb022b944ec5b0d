//! A WAL segment, byte by byte, as `docs/format/wal.md` and `docs/format/log.md` describe it.

use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::key::Kind;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::annotate::Annotator;
use crate::format::batch::{Batch, open_record};
use crate::format::names::FileName;
use crate::vfs::Vfs;
use crate::vfs::mem::MemVfs;
use crate::wal::Predecessor;
use crate::wal::writer::WalWriter;
use std::path::Path;

const COMMITTED_AT: UnixMillis = UnixMillis(1_700_000_000_000);

/// A record with one put that expires. No call of the engine makes one yet, so a put becomes one by its kind.
fn expiring_record(first_seq: SeqNum) -> Vec<u8> {
    let mut batch = Batch::new();
    let stored = [&1_800_000_000_000i64.to_le_bytes()[..], b"tea"].concat();
    batch.put(KeyspaceId::DEFAULT, b"avocado", &stored);
    let mut frame = batch.stamp(COMMITTED_AT, first_seq).to_vec();
    let (_, mut operations) = open_record(&frame).expect("just encoded");
    let put = operations.next_operation().expect("just encoded").expect("there is one");
    // In front of the key: the kind, the keyspace, the length; one byte each.
    frame[put.key.start - 3] = Kind::PutWithExpiry as u8;
    frame
}

/// A segment with every kind of operation that exists, closed in good order.
fn sample() -> Vec<u8> {
    let (disk, number) = (MemVfs::new(), FileNumber(7));
    disk.create_dir_all(Path::new("db")).expect("memory does not fail");
    let before = Predecessor { number: FileNumber(4), good_len: 4096, last_seq: SeqNum::new(300) };
    let mut wal = WalWriter::create(&disk, Path::new("db"), number, Some(before), 512).expect("memory");
    let mut batch = Batch::new();
    batch.put(KeyspaceId::DEFAULT, b"apple", b"red");
    batch.put(KeyspaceId(200), b"pear", b"");
    batch.delete(KeyspaceId::DEFAULT, b"plum");
    let [first, last, next] = [301, 303, 304].map(SeqNum::new);
    wal.add(batch.stamp(COMMITTED_AT, first), first, last).expect("memory does not fail");
    wal.sync().expect("memory does not fail");
    wal.add(&mut expiring_record(next), next, next).expect("memory does not fail");
    wal.finish().expect("memory does not fail");
    disk.read(&FileName::Wal(number).path(Path::new("db"))).expect("just written")
}

fn annotate(bytes: &[u8]) -> String {
    let mut out = Annotator::new(bytes);
    loop {
        let (kind, end) = out.frame_header();
        match kind {
            1 => header(&mut out),
            2 => record(&mut out),
            _ => break,
        }
        assert_eq!(out.at, end, "the payload is as long as the frame says");
    }
    // How much is allocated ahead is no part of the format.
    assert!(bytes[out.at..].iter().all(|&byte| byte == 0), "what is allocated ahead is zero");
    out.text
}

fn header(out: &mut Annotator<'_>) {
    out.take(8, "magic: TLSM.wal");
    out.number(4, "version");
    out.number(8, "segment before: number");
    out.number(8, "segment before: good length");
    out.number(8, "segment before: last sequence number");
}

fn record(out: &mut Annotator<'_>) {
    out.time("commit time");
    out.number(8, "first sequence number");
    let count = out.number(4, "operations");
    for _ in 0..count {
        let name = match out.bytes[out.at] {
            0 => "delete",
            1 => "put",
            2 => "put with expiry",
            kind => panic!("kind {kind} is reserved"),
        };
        out.take(1, &format!("kind: {name}"));
        out.varint("keyspace");
        out.prefixed("key");
        match name {
            "delete" => {}
            "put" => out.prefixed("value"),
            _ => {
                let len = out.varint("value: length");
                out.time("value: expiry");
                out.take(len - 8, "value: the user's bytes");
            }
        }
    }
}

#[test]
fn the_bytes_of_a_segment_never_change() {
    insta::assert_snapshot!(annotate(&sample()));
}
