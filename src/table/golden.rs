//! A small table, byte by byte, as `docs/format/table.md` describes it.
//!
//! The table is not packed, because other versions of an LZ4 packer may choose other bytes.
//!
//! The annotator below knows the format from the document alone and uses nothing of the reader, so the
//! snapshot shows what the document means, and fails when writer and document part.

use crate::base::comparator::KeyOrder;
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::key::{InternalKey, Kind, Tag};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::format::annotate::{Annotator, varints};
use crate::table::options::{Compression, FilterPolicy, TableOptions};
use crate::table::writer::{TableSettings, TableWriter};
use crate::vfs::Vfs;
use crate::vfs::mem::MemVfs;
use std::path::Path;

fn sample() -> Vec<u8> {
    let disk = MemVfs::new();
    let path = Path::new("000009.sst");
    let settings = TableSettings {
        number: FileNumber(9),
        keyspace: KeyspaceId::DEFAULT,
        order: KeyOrder::Bytewise,
        created_at: UnixMillis(1_700_000_000_000),
        options: TableOptions {
            block_len_bytes: 160,
            compression: Compression::None,
            filter: FilterPolicy::Bloom { bits_per_key: 10 },
        },
    };
    let mut writer = TableWriter::new(disk.create_new(path).expect("a new file"), settings);
    let expiring = [&1_800_000_000_000i64.to_le_bytes()[..], b"tea"].concat();
    let entries: [(&str, u64, Kind, &[u8]); 6] = [
        ("apple", 12, Kind::Put, b"green"),
        ("apple", 3, Kind::Put, b"red"),
        ("apricot", 4, Kind::Delete, b""),
        ("avocado", 5, Kind::PutWithExpiry, &expiring),
        ("banana", 6, Kind::Put, &[b'-'; 90]),
        ("damson", 7, Kind::Put, &[b'='; 130]),
    ];
    for (key, seq, kind, value) in entries {
        let key = InternalKey::new(key.as_bytes(), Tag::new(SeqNum::new(seq), kind));
        writer.add(key, value).expect("memory does not fail");
    }
    writer.finish().expect("memory does not fail");
    disk.read(path).expect("just written")
}

impl Annotator<'_> {
    fn word(&self, at: usize) -> usize {
        let bytes = self.bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    }

    fn trailer(&mut self) {
        self.take(1, "type: plain");
        self.take(4, "checksum");
    }

    /// Annotates a plain block of entries up to `end`.
    fn entries(&mut self, end: usize, value_label: &str) {
        let start = self.at;
        let restarts_count = self.word(end - 4);
        let restarts_start = end - 4 - 8 * restarts_count;
        let entries_start = start + self.word(restarts_start);
        self.take(entries_start - start, value_label);
        while self.at < restarts_start {
            self.varint("shared");
            let unshared = self.varint("unshared");
            self.varint("value length");
            let key = self.bytes[self.at..self.at + unshared].escape_ascii().to_string();
            self.take(unshared, &format!("key …{key}"));
            let tag = u64::from_le_bytes(self.bytes[self.at..self.at + 8].try_into().expect("eight bytes"));
            self.take(8, &format!("tag: number {}, kind {}", tag >> 8, tag & 0xFF));
        }
        for _ in 0..restarts_count {
            self.take(4, "restart: entry offset");
            self.take(4, "restart: value offset");
        }
        self.take(4, "restarts");
    }
}

fn annotate(bytes: &[u8]) -> String {
    let mut out = Annotator::new(bytes);
    let footer = bytes.len() - 72;
    let [index, filter, properties] = [0, 8, 16].map(|field| out.word(footer + field));
    let [index_len, filter_len, properties_len] = [24, 28, 32].map(|field| out.word(footer + field));
    let index_end = index + index_len;
    let handles_end = index + out.word(index_end - 4 - 8 * out.word(index_end - 4));
    for (number, handle) in varints(&bytes[index..handles_end]).chunks(2).enumerate() {
        assert_eq!(handle[0], out.at, "the data blocks follow each other");
        out.title(&format!("data block {number}"));
        out.entries(handle[0] + handle[1], "values");
        out.trailer();
    }
    assert_eq!(out.at, filter);
    out.title("filter block");
    out.take(filter_len - 1, "lines");
    out.take(1, "probes");
    out.trailer();
    assert_eq!(out.at, index);
    out.title("index block");
    out.entries(index_end, "values: offset and length of each block");
    out.trailer();
    assert_eq!(out.at, properties);
    out.title("properties block");
    while out.at < properties + properties_len {
        let len = out.varint("name length");
        let name = out.bytes[out.at..out.at + len].escape_ascii().to_string();
        out.take(len, &name);
        let len = out.varint("value length");
        out.take(len, "value");
    }
    out.trailer();
    assert_eq!(out.at, footer);
    out.title("footer");
    let fields = [
        (8, "index offset"),
        (8, "filter offset"),
        (8, "properties offset"),
        (4, "index length"),
        (4, "filter length"),
        (4, "properties length"),
        (1, "index kind: flat"),
        (1, "filter kind: bloom"),
        (2, "zero"),
        (8, "file number"),
        (4, "file checksum"),
        (4, "footer length"),
        (4, "format version"),
        (4, "footer checksum"),
        (8, "magic"),
    ];
    for (len, label) in fields {
        out.take(len, label);
    }
    assert_eq!(out.at, bytes.len());
    out.text
}

#[test]
fn the_bytes_of_a_small_table_never_change() {
    insta::assert_snapshot!(annotate(&sample()));
}
