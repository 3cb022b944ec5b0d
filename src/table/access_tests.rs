//! How a table comes to its file, and what it says when it cannot.

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::hash_key;
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::key::{InternalKey, Kind, Tag};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::cursor::Cursor;
use crate::table::cursor::{CacheUse, TableCursor};
use crate::table::options::{Compression, TableOptions};
use crate::table::reader::{Lookup, Table, TableFile, TableSource};
use crate::table::shared::Cache;
use crate::table::verify::verify;
use crate::table::writer::{TableSettings, TableWriter};
use crate::vfs::Vfs;
use crate::vfs::mem::MemVfs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ENTRIES_COUNT: u32 = 100;

fn path(number: u64) -> PathBuf {
    PathBuf::from(format!("{number:06}.sst"))
}

fn key(i: u32) -> Vec<u8> {
    format!("key{i:03}").into_bytes()
}

/// Writes a table of several blocks whose values begin with `value`; returns its length.
fn write(disk: &MemVfs, number: u64, value: u8) -> u64 {
    let settings = TableSettings {
        number: FileNumber(number),
        keyspace: KeyspaceId::DEFAULT,
        order: KeyOrder::Bytewise,
        created_at: UnixMillis(0),
        options: TableOptions {
            block_len_bytes: 256,
            compression: Compression::None,
            ..TableOptions::default()
        },
    };
    let mut writer = TableWriter::new(disk.create_new(&path(number)).expect("a new file"), settings);
    for i in 0..ENTRIES_COUNT {
        let tag = Tag::new(SeqNum::new(1), Kind::Put);
        writer.add(InternalKey::new(&key(i), tag), &[value; 20]).expect("memory does not fail");
    }
    writer.finish().expect("memory does not fail").len_bytes
}

fn open(disk: &MemVfs, number: u64, cache: &Arc<Cache>) -> Result<Arc<Table>> {
    let file = TableFile {
        source: TableSource::Path(Arc::new(disk.clone())),
        path: path(number),
        number: FileNumber(number),
        len_bytes: disk.metadata(&path(number)).map_or(1000, |metadata| metadata.len),
    };
    Table::open(file, KeyOrder::Bytewise, Arc::clone(cache)).map(Arc::new)
}

/// Reads a key that is there, or fails.
fn read(table: &Table, i: u32) -> Result<u8> {
    Ok(table.get(&key(i), SeqNum::MAX)?.found().expect("there").value[0])
}

/// Walks a whole table forwards and backwards.
fn walk(table: &Arc<Table>, cache_use: CacheUse) -> Result<()> {
    let mut cursor = TableCursor::new(Arc::clone(table), cache_use);
    cursor.seek_to_first()?;
    (1..ENTRIES_COUNT).try_for_each(|_| cursor.next())?;
    cursor.seek_to_last()?;
    (1..ENTRIES_COUNT).try_for_each(|_| cursor.prev())?;
    assert_eq!(cursor.key().user_key, key(0));
    Ok(())
}

#[test]
fn a_table_at_rest_has_no_open_file_and_cached_reads_open_none() {
    let (disk, cache) = (MemVfs::new(), Arc::new(Cache::new(1 << 20, 8)));
    write(&disk, 1, b'a');
    let table = open(&disk, 1, &cache).expect("intact");
    assert_eq!(cache.descriptors().stats().open_count, 0);
    assert!(matches!(table.get(b"zzz", SeqNum::MAX), Ok(Lookup::RuledOut | Lookup::Missing)));
    assert_eq!(cache.descriptors().stats().open_count, 0);
    walk(&table, CacheUse::Fill).expect("intact");
    assert_eq!(cache.descriptors().stats().open_count, 1);
    assert_eq!(cache.descriptors().stats().opened_count, 2, "once for its end, once for its blocks");
    cache.descriptors().close_idle();
    // Not even on the disk, and nobody notices.
    disk.remove_file(&path(1)).expect("there");
    walk(&table, CacheUse::Fill).expect("cached");
    (0..ENTRIES_COUNT).for_each(|i| assert_eq!(read(&table, i).expect("cached"), b'a'));
    assert_eq!(cache.descriptors().stats().opened_count, 2);
    drop(table);
    assert_eq!(cache.descriptors().stats().open_count, 0);
}

#[test]
fn many_tables_are_read_through_few_files() {
    let (disk, cache) = (MemVfs::new(), Arc::new(Cache::new(0, 8)));
    let tables: Vec<_> = (1..=100)
        .map(|number| {
            write(&disk, number, b'a');
            open(&disk, number, &cache).expect("intact")
        })
        .collect();
    let cursors: Vec<_> = tables
        .iter()
        .map(|table| {
            let mut cursor = TableCursor::new(Arc::clone(table), CacheUse::Fill);
            cursor.seek_to_first().expect("intact");
            cursor
        })
        .collect();
    assert!(cache.descriptors().stats().open_count <= 8, "a cursor that stands still needs no file");
    for (table, mut cursor) in tables.iter().zip(cursors) {
        while cursor.is_valid() {
            cursor.next().expect("intact");
        }
        assert_eq!(read(table, 7).expect("intact"), b'a');
        verify(table).expect("intact");
        assert!(cache.descriptors().stats().open_count <= 8);
    }
}

#[test]
fn a_missing_file_is_corruption_at_open_and_later() {
    let (disk, cache) = (MemVfs::new(), Arc::new(Cache::new(0, 8)));
    let check = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(error.to_string().contains("a table that the manifest names is missing"), "{error}");
        assert_eq!(error.file(), Some(&*path(1)));
    };
    check(open(&disk, 1, &cache).expect_err("missing"));
    write(&disk, 1, b'a');
    let table = open(&disk, 1, &cache).expect("intact");
    disk.remove_file(&path(1)).expect("there");
    check(read(&table, 1).expect_err("missing"));
    check(walk(&table, CacheUse::Peek).expect_err("missing"));
    check(verify(&table).expect_err("missing"));
    write(&disk, 1, b'a');
    read(&table, 1).expect("the same bytes are back, and nothing remembers that they were away");
}

#[test]
fn another_table_of_the_same_name_number_and_length_is_not_read() {
    let (disk, cache) = (MemVfs::new(), Arc::new(Cache::new(0, 8)));
    let len = write(&disk, 1, b'a');
    let table = open(&disk, 1, &cache).expect("intact");
    disk.remove_file(&path(1)).expect("there");
    assert_eq!(write(&disk, 1, b'b'), len);
    for error in [read(&table, 1).map(drop), walk(&table, CacheUse::Fill), verify(&table)] {
        let error = error.expect_err("another file");
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(error.to_string().contains("another file has taken the place"), "{error}");
    }
    assert_eq!(cache.descriptors().stats().open_count, 0);
}

#[test]
fn verify_sees_what_lies_on_the_disk_and_not_what_is_cached() {
    let (disk, cache) = (MemVfs::new(), Arc::new(Cache::new(1 << 20, 8)));
    write(&disk, 1, b'a');
    let table = open(&disk, 1, &cache).expect("intact");
    walk(&table, CacheUse::Fill).expect("intact");
    verify(&table).expect("intact");
    disk.flip(&path(1), 300, 1).expect("within the file");
    walk(&table, CacheUse::Fill).expect("cached");
    assert_eq!(verify(&table).expect_err("damaged").kind(), ErrorKind::Corruption);
}

#[test]
fn databases_that_share_a_cache_find_their_own_blocks() {
    let cache = Arc::new(Cache::new(1 << 20, 8));
    let tables = [b'a', b'b'].map(|value| {
        let disk = MemVfs::new();
        write(&disk, 1, value);
        open(&disk, 1, &cache).expect("intact")
    });
    for _ in 0..2 {
        for i in 0..ENTRIES_COUNT {
            assert_eq!(tables.each_ref().map(|table| read(table, i).expect("intact")), [b'a', b'b']);
        }
    }
    assert_eq!(cache.descriptors().stats().open_count, 2);
}

#[test]
fn a_stand_in_answers_every_read_with_its_error() {
    let error = Error::corruption(&path(1), 7, "the reason");
    let table = Table::unavailable(path(1), FileNumber(1), 1000, KeyOrder::Bytewise, error);
    let table = Arc::new(table);
    assert!(table.failure().is_some());
    assert!(table.may_contain(hash_key(b"anything")));
    assert_eq!((table.number(), table.len_bytes(), table.memory_len_bytes()), (FileNumber(1), 1000, 0));
    let target = InternalKey::new(b"k", Tag::NEWEST);
    let cursor = || TableCursor::new(Arc::clone(&table), CacheUse::Fill);
    let reads: [Result<()>; 11] = [
        table.get(b"k", SeqNum::MAX).map(drop),
        table.get_hashed(b"k", 0, SeqNum::MAX).map(drop),
        table.properties().map(drop),
        table.index().map(drop),
        table.footer().map(drop),
        table.file_checksum().map(drop),
        cursor().seek_to_first(),
        cursor().seek_to_last(),
        cursor().seek(target),
        cursor().seek_before(target),
        verify(&table),
    ];
    for read in reads {
        let error = read.expect_err("it cannot be read");
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corruption, Some(7)));
        assert!(error.to_string().contains("the reason"));
    }
    let mut cursor = cursor();
    assert!(cursor.seek_to_first().is_err() && !cursor.is_valid());
    assert!(Path::new(&path(1)) == table.path() && format!("{table:?}").contains("the reason"));
}
