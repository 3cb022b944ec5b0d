//! Whole tables against a model, under every option, and under every damage.

use crate::base::comparator::{KeyOrder, ReverseBytewise};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::key::{InternalKey, Kind, Tag};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::cache::{Access, BlockCache, BlockKey};
use crate::cursor::Cursor;
use crate::table::cursor::{CacheUse, TableCursor};
use crate::table::options::{Compression, FilterPolicy, TableOptions};
use crate::table::reader::{Lookup, Table, TableFile, TableSource};
use crate::table::shared::Cache;
use crate::table::verify::verify;
use crate::table::writer::{TableSettings, TableSummary, TableWriter};
use crate::vfs::Vfs;
use crate::vfs::mem::MemVfs;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const NUMBER: FileNumber = FileNumber(12);
const PATH: &str = "000012.sst";

/// One entry: user key, tag, stored value.
type Entry = (Vec<u8>, Tag, Vec<u8>);

fn tag(seq: u64, kind: Kind) -> Tag {
    Tag::new(SeqNum::new(seq), kind)
}

fn sort(entries: &mut Vec<Entry>, order: &KeyOrder) {
    let key = |entry: &Entry| (entry.0.clone(), entry.1);
    let compare =
        |a: &Entry, b: &Entry| InternalKey::new(&a.0, a.1).compare(&InternalKey::new(&b.0, b.1), order);
    entries.sort_by(compare);
    entries.dedup_by_key(|entry| key(entry));
}

fn settings(order: &KeyOrder, options: TableOptions) -> TableSettings {
    TableSettings {
        number: NUMBER,
        keyspace: KeyspaceId(3),
        order: order.clone(),
        created_at: UnixMillis(1_700_000_000_000),
        options,
    }
}

fn write(disk: &MemVfs, entries: &[Entry], settings: TableSettings) -> TableSummary {
    let mut writer = TableWriter::new(disk.create_new(Path::new(PATH)).expect("a new file"), settings);
    for (key, tag, value) in entries {
        writer.add(InternalKey::new(key, *tag), value).expect("memory does not fail");
    }
    let estimated = writer.estimated_len();
    let summary = writer.finish().expect("memory does not fail");
    let is_usual = entries.iter().all(|(key, ..)| key.len() < 1000);
    assert!(!is_usual || summary.len_bytes.abs_diff(estimated) < 1000 + estimated / 4, "{estimated}");
    summary
}

fn cache(blocks_bytes: u64) -> Arc<Cache> {
    Arc::new(Cache::new(blocks_bytes, 8))
}

fn file(disk: &MemVfs, len_bytes: u64) -> TableFile {
    let source = TableSource::Path(Arc::new(disk.clone()));
    TableFile { source, path: PATH.into(), number: NUMBER, len_bytes }
}

fn open(disk: &MemVfs, order: &KeyOrder, cache: &Arc<Cache>) -> Result<Arc<Table>, Error> {
    let len_bytes = disk.metadata(Path::new(PATH)).expect("the file is there").len;
    Table::open(file(disk, len_bytes), order.clone(), Arc::clone(cache)).map(Arc::new)
}

fn current(cursor: &impl Cursor) -> Option<Entry> {
    cursor.is_valid().then(|| {
        let key = cursor.key();
        assert_eq!(cursor.value_slice(0), *cursor.value());
        (key.user_key.to_vec(), key.tag, cursor.value().to_vec())
    })
}

/// What the model says a read of `key` at `seq` finds.
fn expected<'a>(entries: &'a [Entry], key: &[u8], seq: u64) -> Option<&'a Entry> {
    entries.iter().filter(|entry| entry.0 == key && entry.1.seq().get() <= seq).max_by_key(|entry| entry.1)
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(97u8..100, 0..8),
        2 => (0u32..500).prop_map(|number| format!("some/long/prefix/{number:08}").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let kind = prop_oneof![Just(Kind::Put), Just(Kind::Delete), Just(Kind::PutWithExpiry)];
    let entry = (keys(), 1u64..40, kind, prop::collection::vec(0u8..3, 0..200));
    let entry = entry.prop_map(|(key, seq, kind, mut value)| {
        if kind == Kind::PutWithExpiry {
            value.extend_from_slice(&[1; 8]);
        }
        (key, tag(seq, kind), value)
    });
    prop::collection::vec(entry, 1..200)
}

fn options() -> impl Strategy<Value = TableOptions> {
    let block_len_bytes = prop_oneof![Just(64usize), Just(300), Just(4096)];
    let compression = prop_oneof![Just(Compression::None), Just(Compression::Lz4)];
    let filter = prop_oneof![
        Just(FilterPolicy::None),
        Just(FilterPolicy::default()),
        Just(FilterPolicy::Bloom { bits_per_key: 2 })
    ];
    (block_len_bytes, compression, filter).prop_map(|(block_len_bytes, compression, filter)| TableOptions {
        block_len_bytes,
        compression,
        filter,
    })
}

fn orders() -> impl Strategy<Value = KeyOrder> {
    prop_oneof![Just(KeyOrder::Bytewise), Just(KeyOrder::custom(Arc::new(ReverseBytewise)))]
}

#[derive(Clone, Debug)]
enum Step {
    First,
    Last,
    Seek(Vec<u8>, u64),
    SeekBefore(Vec<u8>, u64),
    Next(usize),
    Prev(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::First),
        1 => Just(Step::Last),
        4 => (keys(), 0u64..41).prop_map(|(key, seq)| Step::Seek(key, seq)),
        4 => (keys(), 0u64..41).prop_map(|(key, seq)| Step::SeekBefore(key, seq)),
        4 => (1usize..40).prop_map(Step::Next),
        4 => (1usize..40).prop_map(Step::Prev),
    ];
    prop::collection::vec(step, 1..40)
}

/// Walks a cursor and an index into the model side by side.
fn walk(cursor: &mut impl Cursor, entries: &[Entry], order: &KeyOrder, steps: &[Step]) {
    let mut place: Option<usize> = None;
    let position = |key: &[u8], seq: u64| {
        let target = InternalKey::new(key, Tag::seek_at(SeqNum::new(seq)));
        entries.partition_point(|entry| InternalKey::new(&entry.0, entry.1).compare(&target, order).is_lt())
    };
    for step in steps {
        match step {
            Step::First => {
                cursor.seek_to_first().expect("intact");
                place = Some(0);
            }
            Step::Last => {
                cursor.seek_to_last().expect("intact");
                place = Some(entries.len() - 1);
            }
            Step::Seek(key, seq) => {
                let target = InternalKey::new(key, Tag::seek_at(SeqNum::new(*seq)));
                cursor.seek(target).expect("intact");
                place = Some(position(key, *seq)).filter(|&place| place < entries.len());
            }
            Step::SeekBefore(key, seq) => {
                let target = InternalKey::new(key, Tag::seek_at(SeqNum::new(*seq)));
                cursor.seek_before(target).expect("intact");
                place = position(key, *seq).checked_sub(1);
            }
            Step::Next(count) => {
                for _ in 0..*count {
                    let Some(at) = place else { break };
                    cursor.next().expect("intact");
                    place = Some(at + 1).filter(|&place| place < entries.len());
                    assert_eq!(current(cursor).as_ref(), place.map(|place| &entries[place]));
                }
            }
            Step::Prev(count) => {
                for _ in 0..*count {
                    let Some(at) = place else { break };
                    cursor.prev().expect("intact");
                    place = at.checked_sub(1);
                    assert_eq!(current(cursor).as_ref(), place.map(|place| &entries[place]));
                }
            }
        }
        assert_eq!(current(cursor).as_ref(), place.map(|place| &entries[place]), "after {step:?}");
    }
}

proptest! {
    #[test]
    fn every_read_agrees_with_the_model(
        mut entries in entries(),
        options in options(),
        order in orders(),
        steps in steps(),
        strangers in prop::collection::vec(keys(), 0..50),
        cache_capacity in prop_oneof![Just(0u64), Just(3000), Just(1 << 20)],
    ) {
        sort(&mut entries, &order);
        let disk = MemVfs::new();
        let summary = write(&disk, &entries, settings(&order, options));
        let cache = cache(cache_capacity);
        let table = open(&disk, &order, &cache).expect("intact");
        prop_assert_eq!(&summary.properties, table.properties().expect("open"));
        prop_assert_eq!(summary.file_checksum, table.file_checksum().expect("open"));
        prop_assert_eq!(summary.properties.entries_count, entries.len() as u64);
        verify(&table).expect("intact");
        for key in entries.iter().map(|entry| &entry.0).chain(&strangers) {
            for seq in [0, 1, 7, 20, 39, 40] {
                let found = table.get(key, SeqNum::new(seq)).expect("intact").found();
                let found = found.map(|found| (key.clone(), found.tag, found.value.to_vec()));
                prop_assert_eq!(found.as_ref(), expected(&entries, key, seq));
            }
        }
        for cache_use in [CacheUse::Fill, CacheUse::Peek, CacheUse::Bypass] {
            walk(&mut TableCursor::new(Arc::clone(&table), cache_use), &entries, &order, &steps);
        }
        prop_assert!(cache.blocks().stats().used_bytes <= cache_capacity);
    }

    #[test]
    fn the_same_entries_make_the_same_bytes(mut entries in entries(), options in options()) {
        sort(&mut entries, &KeyOrder::Bytewise);
        let files = [(); 2].map(|()| {
            let disk = MemVfs::new();
            write(&disk, &entries, settings(&KeyOrder::Bytewise, options));
            disk.read(Path::new(PATH)).expect("written")
        });
        prop_assert_eq!(&files[0], &files[1]);
    }
}

/// Two dozen entries over several small blocks, one of them packed.
fn small_table() -> (MemVfs, Vec<Entry>) {
    let mut entries: Vec<Entry> = (0..20u8)
        .map(|i| (format!("key{:02}", i / 2).into_bytes(), tag(100 - u64::from(i), Kind::Put), vec![i; 5]))
        .collect();
    entries.push((b"key05".to_vec(), tag(7, Kind::Delete), Vec::new()));
    entries.push((b"key20".to_vec(), tag(50, Kind::Put), vec![0; 120]));
    let expiry = [&1_800_000_000_000i64.to_le_bytes()[..], b"soon gone"].concat();
    entries.push((b"key30".to_vec(), tag(51, Kind::PutWithExpiry), expiry));
    sort(&mut entries, &KeyOrder::Bytewise);
    let disk = MemVfs::new();
    let options = TableOptions { block_len_bytes: 128, ..TableOptions::default() };
    write(&disk, &entries, settings(&KeyOrder::Bytewise, options));
    (disk, entries)
}

/// Reads everything in every way; each read gives what is right or an error that names file and offset.
fn read_damaged(disk: &MemVfs, entries: &[Entry], what: &str) -> usize {
    let mut errors_count = 0;
    let mut note = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error}");
        assert_eq!(error.file(), Some(Path::new(PATH)), "{what}: {error}");
        assert!(error.offset().is_some(), "{what}: {error}");
        errors_count += 1;
    };
    let table = match open(disk, &KeyOrder::Bytewise, &cache(1 << 20)) {
        Ok(table) => table,
        Err(error) => {
            note(error);
            return errors_count;
        }
    };
    for (key, ..) in entries {
        match table.get(key, SeqNum::MAX) {
            Ok(lookup) => {
                let found = lookup.found().map(|found| (key.clone(), found.tag, found.value.to_vec()));
                assert_eq!(found.as_ref(), expected(entries, key, SeqNum::MAX.get()), "{what}");
            }
            Err(error) => note(error),
        }
    }
    for cache_use in [CacheUse::Fill, CacheUse::Bypass] {
        let mut cursor = TableCursor::new(Arc::clone(&table), cache_use);
        let mut rest = entries.iter();
        let mut result = cursor.seek_to_first();
        while result.is_ok() {
            assert_eq!(current(&cursor).as_ref(), rest.next(), "{what}");
            if !cursor.is_valid() {
                break;
            }
            result = cursor.next();
        }
        if let Err(error) = result {
            assert!(!cursor.is_valid());
            note(error);
        }
        let mut rest = entries.iter().rev();
        let mut result = cursor.seek_to_last();
        while result.is_ok() {
            assert_eq!(current(&cursor).as_ref(), rest.next(), "{what}");
            if !cursor.is_valid() {
                break;
            }
            result = cursor.prev();
        }
        if let Err(error) = result {
            assert!(!cursor.is_valid());
            note(error);
        }
    }
    if let Err(error) = verify(&table) {
        note(error);
    }
    errors_count
}

#[test]
fn every_flipped_byte_gives_the_right_answer_or_an_error_with_its_place() {
    let (disk, entries) = small_table();
    assert_eq!(read_damaged(&disk, &entries, "intact"), 0);
    let len = disk.read(Path::new(PATH)).expect("written").len() as u64;
    for offset in 0..len {
        for mask in [0x01, 0x80, 0xFF] {
            let damaged = disk.fork();
            damaged.flip(Path::new(PATH), offset, mask).expect("within the file");
            let errors_count = read_damaged(&damaged, &entries, &format!("byte {offset} ^ {mask:#x}"));
            assert!(errors_count > 0, "byte {offset} is not covered by any check");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (disk, _) = small_table();
    let bytes = disk.read(Path::new(PATH)).expect("written");
    for len in 0..bytes.len() {
        let cut = disk.fork();
        cut.truncate(Path::new(PATH), len as u64).expect("shorter");
        let cache = cache(0);
        let error = open(&cut, &KeyOrder::Bytewise, &cache).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::Corruption, "{len} bytes: {error}");
        // The length a version remembers is checked before anything else.
        let len_bytes = bytes.len() as u64;
        let error = Table::open(file(&cut, len_bytes), KeyOrder::Bytewise, cache).expect_err("cut");
        assert!(error.to_string().contains(&format!("should have {len_bytes}")), "{error}");
    }
}

#[test]
fn another_comparator_or_number_is_refused_by_name() {
    let (disk, _) = small_table();
    let cache = cache(0);
    let order = KeyOrder::custom(Arc::new(ReverseBytewise));
    let error = open(&disk, &order, &cache).expect_err("another order");
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let text = error.to_string();
    assert!(text.contains("tinylsm.bytewise") && text.contains("tinylsm.reverse-bytewise"), "{text}");
}

#[test]
fn long_keys_and_values_come_back_whole() {
    let order = KeyOrder::Bytewise;
    let mut entries: Vec<Entry> =
        (0..40u8).map(|i| (vec![b'k'; 65_535 - usize::from(i)], tag(9, Kind::Put), vec![i; 300])).collect();
    entries.push((
        b"large".to_vec(),
        tag(1, Kind::Put),
        (0..3 << 20).map(|i: u32| i.to_be_bytes()[2]).collect(),
    ));
    sort(&mut entries, &order);
    let disk = MemVfs::new();
    write(&disk, &entries, settings(&order, TableOptions::default()));
    let table = open(&disk, &order, &cache(1 << 20)).expect("intact");
    verify(&table).expect("intact");
    for (key, tag, value) in &entries {
        let found = table.get(key, SeqNum::MAX).expect("intact").found().expect("present");
        assert_eq!((found.tag, &*found.value), (*tag, &value[..]));
    }
}

#[test]
fn a_missing_key_is_ruled_out_without_a_read() {
    let (disk, _) = small_table();
    let cache = cache(1 << 20);
    let table = open(&disk, &KeyOrder::Bytewise, &cache).expect("intact");
    let ruled_out = (0..1000)
        .filter(|i| table.get(format!("no{i}").as_bytes(), SeqNum::MAX).expect("intact") == Lookup::RuledOut)
        .count();
    assert!(ruled_out > 900);
    let stats = cache.blocks().stats();
    assert!(stats.hits_count + stats.misses_count <= 1000 - ruled_out as u64);
}

#[test]
fn a_value_outlives_table_cursor_and_cache() {
    let (disk, entries) = small_table();
    let table = open(&disk, &KeyOrder::Bytewise, &cache(300)).expect("intact");
    let found = table.get(b"key20", SeqNum::MAX).expect("intact").found().expect("present");
    let mut cursor = TableCursor::new(Arc::clone(&table), CacheUse::Bypass);
    cursor.seek(InternalKey::new(b"key20", Tag::NEWEST)).expect("intact");
    let shared = cursor.value_slice(20);
    while cursor.is_valid() {
        cursor.next().expect("intact");
    }
    drop((cursor, table));
    assert_eq!(found.value, vec![0; 120]);
    assert_eq!(shared, vec![0; 100]);
    assert_eq!(entries.len(), 23);
}

#[test]
#[should_panic(expected = "ascending order")]
fn entries_out_of_order_are_refused() {
    let disk = MemVfs::new();
    let entries =
        [(b"b".to_vec(), tag(1, Kind::Put), Vec::new()), (b"a".to_vec(), tag(2, Kind::Put), Vec::new())];
    write(&disk, &entries, settings(&KeyOrder::Bytewise, TableOptions::default()));
}

#[test]
fn threads_share_a_cache_and_find_only_what_they_ask_for() {
    let cache = Arc::new(BlockCache::new(64 << 10));
    let owner = cache.register();
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let cache = Arc::clone(&cache);
            let body = move || {
                for i in 0..20_000u64 {
                    let key = BlockKey { owner, offset: i.wrapping_mul(thread * 2 + 1) % 50 };
                    let mut stamped = vec![0; 2000];
                    key.stamp(&mut stamped);
                    let found = cache.get(key, Access::Point).map(crate::cache::Pinned::into_block);
                    let found = found.unwrap_or_else(|| cache.insert(key, Arc::new(stamped.clone())));
                    assert_eq!(*found, stamped);
                }
            };
            crate::sync::spawn("cache-test", body).expect("the system has threads")
        })
        .collect();
    for thread in threads {
        assert!(thread.join());
    }
    assert!(cache.stats().used_bytes <= 64 << 10);
}
