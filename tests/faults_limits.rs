//! Limits that compose: whatever a call or a disk says is bounded before it is used, and memory follows what is alive.
#![allow(clippy::disallowed_methods, reason = "the tests make directories for processes of their own")]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/crafted.rs"]
mod crafted;
#[path = "common/watchdog.rs"]
mod watchdog;

use common::{contents, keyspace_of, tiny, tiny_keyspace};
use crafted::{Operation, Tail};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tinylsm::base::comparator::KeyOrder;
use tinylsm::base::ids::FileNumber;
use tinylsm::base::key::{InternalKey, Kind, Tag};
use tinylsm::base::limits::{KEY_LEN_BYTES_MAX, VALUE_LEN_BYTES_MAX};
use tinylsm::base::seq::SeqNum;
use tinylsm::table::footer::Handle;
use tinylsm::table::index::IndexBuilder;
use tinylsm::table::reader::{Table, TableFile, TableSource};
use tinylsm::version::edit::Change as CatalogChange;
use tinylsm::vfs::Vfs;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{
    Background, Cache, Compression, Db, DbBuilder, ErrorKind, Keyspace, KeyspaceOptions, Options, Result,
    UnixMillis, WriteBatch, WriteOptions,
};
use watchdog::{STALL_MAX, ends_somehow, within};

fn builder(disk: &(impl Vfs + Clone)) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(disk.clone())).options(tiny())
}

// ---- What is registered ----

/// Memory follows the snapshots that are alive, not those that were ever taken.
#[test]
fn snapshots_that_were_dropped_take_no_memory() {
    let db = Db::open_in_memory().expect("opens");
    db.put("k", "v").expect("puts");
    for is_one_kept in [false, true] {
        let kept = is_one_kept.then(|| db.snapshot());
        let info = allocation_counter::measure(|| {
            for _ in 0..2_000_000 {
                drop(db.snapshot());
            }
        });
        assert!(info.bytes_max < 1 << 20, "kept one: {is_one_kept}: {} bytes", info.bytes_max);
        drop(kept);
    }
}

// ---- Limits ----

/// An edit of any number of tables with the longest keys is installed, and read again.
#[test]
fn a_merge_into_a_thousand_tables_with_the_longest_keys_is_installed() {
    const TABLES_COUNT: u32 = 1100;
    within(|| {
        let disk = MemVfs::new();
        let mut options = Options::default().memtable_bytes(512 << 20).wal_preallocate_bytes(0);
        keyspace_of(&mut options).filter_bits_per_key = 0;
        keyspace_of(&mut options).table_bytes = 1024;
        let open =
            || builder(&disk).options(options.clone()).background(Background::Manual).open().expect("opens");
        let db = open();
        let long_key = |i: u32| {
            let mut key = vec![b'k'; 65_535];
            key[..4].copy_from_slice(&i.to_be_bytes());
            // So that one does not pack below the size of a table.
            let mut state = u64::from(i) + 1;
            for byte in &mut key[4..2004] {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = state.to_le_bytes()[7];
            }
            key
        };
        for parity in 0..2 {
            for i in (parity..TABLES_COUNT).step_by(2) {
                db.default_keyspace().put_with(long_key(i), "v", WriteOptions::os()).expect("puts");
            }
            db.flush().expect("flushes");
        }
        db.compact_range(db.default_keyspace(), ..).expect("merges");
        let files: usize = db.stats().keyspaces[0].levels.iter().map(|level| level.files).sum();
        assert_eq!(files, TABLES_COUNT as usize, "each key has a table of its own");
        db.close().expect("closes");
        let db = open();
        let found: Result<Vec<_>> = db.iter().expect("open").collect();
        assert_eq!(found.expect("readable").len(), files);
    });
}

/// A value at its limit is flushed, merged and read back, under the longest key, and with an expiry in front of it.
#[test]
fn the_longest_value_is_flushed_merged_and_read_with_an_expiry_too() {
    for is_expiring in [false, true] {
        within(move || {
            let disk = MemVfs::new();
            let mut options = Options::default().block_cache_bytes(0).wal_preallocate_bytes(0);
            keyspace_of(&mut options).compression = Compression::None;
            let open = || {
                builder(&disk).options(options.clone()).background(Background::Manual).open().expect("opens")
            };
            let db = open();
            let (key, value) = ("k".repeat(KEY_LEN_BYTES_MAX), vec![b'v'; VALUE_LEN_BYTES_MAX]);
            if is_expiring {
                db.put("a", "1").expect("puts");
                drop(db);
                let operation = Operation::expiring_put(&key, &value, UnixMillis::MAX);
                Tail::of(&disk).append(&disk, UnixMillis(0), 0, &[operation]);
            } else {
                db.default_keyspace().put_with(&key, &value, WriteOptions::os()).expect("puts");
                drop(db);
            }
            // What the log holds and recovery accepts can be flushed.
            let db = open();
            db.put("b", "1").expect("puts");
            let flushing = db.clone();
            ends_somehow("the flush", move || flushing.flush()).expect("no panic").expect("flushes");
            let merging = db.clone();
            ends_somehow("the merge", move || merging.compact_range(merging.default_keyspace(), ..))
                .expect("no panic")
                .expect("merges");
            drop(db);
            let found = open().get(&key).expect("reads").expect("there");
            assert!(found == value.as_slice());
        });
    }
}

/// Limits of a keyspace and of its database that contradict each other are refused where they meet, or work.
#[test]
fn a_merge_trigger_above_the_write_stop_is_refused_or_works() {
    within(|| {
        let keyspace_options = |trigger| tiny_keyspace().level0_compaction_trigger(trigger);
        let options = |stop, trigger| {
            tiny()
                .memtable_bytes(2 << 10)
                .level0_slowdown(3)
                .level0_stop(stop)
                .stall_timeout(STALL_MAX)
                .default_keyspace(keyspace_options(trigger))
        };
        let check_writes = |db: &Db, what: &str| {
            for keyspace in db.keyspaces() {
                let keyspace = db.keyspace(&keyspace).expect("there");
                for i in 0..400 {
                    if let Err(error) = keyspace.put(format!("key{i}"), vec![b'x'; 100]) {
                        panic!("{what}: accepted, and then no writes: {error:?}");
                    }
                }
            }
        };
        // At the creation of a keyspace.
        let db = builder(&MemVfs::new()).options(options(6, 2)).open().expect("opens");
        match db.create_keyspace("lazy", keyspace_options(20)) {
            Ok(_) => check_writes(&db, "create_keyspace"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}"),
        }
        check_writes(&db, "a database that refused a keyspace");
        // At a reopen, where the stored trigger of any keyspace meets another stop.
        for name in ["default", "lazy"] {
            let disk = MemVfs::new();
            let (first, second) = if name == "default" { (20, 2) } else { (2, 20) };
            let db = builder(&disk).options(options(36, first)).open().expect("opens");
            db.create_keyspace("lazy", keyspace_options(second)).expect("creates");
            db.close().expect("closes");
            let mut reopened = options(6, first);
            // These options are legal by themselves; they say nothing of the stored keyspaces.
            keyspace_of(&mut reopened).level0_compaction_trigger = first.min(6);
            match builder(&disk).options(reopened).open() {
                Ok(db) => check_writes(&db, &format!("a reopen with a lazy keyspace {name}")),
                Err(error) => {
                    let kinds = [ErrorKind::InvalidArgument, ErrorKind::Incompatible];
                    assert!(kinds.contains(&error.kind()), "{error:?}");
                }
            }
        }
    });
}

type Choice = fn(&mut Options);

/// Options at their far ends, each alone.
const EXTREMES: [(&str, Choice); 15] = [
    ("memtable_bytes", |options| options.memtable_bytes = usize::MAX),
    ("memtable_bytes of a terabyte", |options| options.memtable_bytes = 1 << 40),
    ("sealed_memtables_max", |options| options.sealed_memtables_max = usize::MAX),
    ("wal_preallocate_bytes", |options| options.wal_preallocate_bytes = u64::MAX),
    ("wal_preallocate_bytes of a petabyte", |options| options.wal_preallocate_bytes = 1 << 50),
    ("block_cache_bytes of a terabyte", |options| options.block_cache_bytes = 1 << 40),
    ("block_cache_bytes", |options| options.block_cache_bytes = u64::MAX),
    ("manifest_roll_bytes", |options| options.manifest_roll_bytes = u64::MAX),
    ("stall_timeout", |options| options.stall_timeout = Duration::MAX),
    ("level0_stop", |options| options.level0_stop = usize::MAX),
    ("level0_compaction_trigger", |options| {
        options.level0_slowdown = usize::MAX;
        options.level0_stop = usize::MAX;
        keyspace_of(options).level0_compaction_trigger = usize::MAX;
    }),
    ("level_base_bytes", |options| keyspace_of(options).level_base_bytes = u64::MAX),
    ("level_multiplier", |options| keyspace_of(options).level_multiplier = u64::MAX),
    ("table_bytes", |options| keyspace_of(options).table_bytes = u64::MAX),
    ("block_bytes", |options| keyspace_of(options).block_bytes = 1 << 20),
];

/// Every option at the end of its range works or is refused at open; none takes the process down.
#[test]
fn every_option_at_its_far_end_works_or_is_refused() {
    const NAME: &str = "every_option_at_its_far_end_works_or_is_refused";
    if let Some(place) = child::place_in_child(NAME) {
        let number = place.file_name().and_then(|name| name.to_str()?.parse::<usize>().ok());
        let (what, change) = EXTREMES[number.expect("the place is a number")];
        let mut options = Options::default();
        change(&mut options);
        let builder = Db::builder(place.join("db")).options(options);
        for round in 0..2 {
            let db = match builder.clone().open() {
                Ok(db) => db,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error:?}");
                    return;
                }
            };
            db.put(format!("key{round}"), "v").unwrap_or_else(|error| panic!("{what}: {error:?}"));
            db.flush().unwrap_or_else(|error| panic!("{what}: {error:?}"));
            db.compact_range(db.default_keyspace(), ..).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert_eq!(contents(db.default_keyspace()).len(), round + 1, "{what}");
            db.close().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        }
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let mut failures = Vec::new();
    for (number, (what, _)) in EXTREMES.iter().enumerate() {
        let place = dir.path().join(number.to_string());
        fs::create_dir(&place).expect("creates");
        let outcome = std::panic::catch_unwind(|| child::run_with_little_memory(NAME, &place, 2048));
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            failures.push(format!("{what}: {text}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The largest memtable means "flush when I say so": its memory follows what is in it.
#[test]
fn a_memtable_without_a_limit_takes_memory_for_its_entries_only() {
    const NAME: &str = "a_memtable_without_a_limit_takes_memory_for_its_entries_only";
    if let Some(place) = child::place_in_child(NAME) {
        let options = Options::default().memtable_bytes(usize::MAX);
        let db = Db::builder(place.join("db")).options(options).open().expect("opens");
        let put = |i: u32| {
            let keyspace = db.default_keyspace();
            keyspace.put_with(format!("key{i:05}"), "v", WriteOptions::none()).expect("puts");
        };
        let info = allocation_counter::measure(|| (0..20_000).for_each(put));
        assert!(info.bytes_max < 8 << 20, "{} bytes for 20,000 small entries", info.bytes_max);
        db.close().expect("closes");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    child::run_with_little_memory(NAME, dir.path(), 2048);
}

/// There may be more keyspaces than a memtable has bytes to share out among them.
#[test]
fn more_keyspaces_than_a_memtable_has_bytes_are_written_flushed_and_opened() {
    within(|| {
        let disk = MemVfs::new();
        let options = tiny().memtable_bytes(1024);
        let open =
            || builder(&disk).options(options.clone()).background(Background::Manual).open().expect("opens");
        let db = open();
        let create = |i| db.create_keyspace(&format!("k{i}"), KeyspaceOptions::default()).expect("creates");
        let keyspaces: Vec<Keyspace> = (0..1100).map(create).collect();
        let mut batch = WriteBatch::new();
        for keyspace in &keyspaces {
            batch.put(keyspace, "a", "1");
        }
        db.write(&batch, WriteOptions::default()).expect("writes");
        db.flush().expect("flushes");
        let mut batch = WriteBatch::new();
        for keyspace in &keyspaces {
            batch.delete(keyspace, "a");
        }
        db.write(&batch, WriteOptions::default()).expect("writes");
        db.wait_idle().expect("idle");
        for keyspace in &keyspaces {
            assert_eq!(keyspace.get("a").expect("reads"), None, "{}", keyspace.name());
        }
        drop(keyspaces);
        db.close().expect("closes");
        let db = open();
        db.wait_idle().expect("idle");
        assert!(db.background_errors().is_empty(), "{:?}", db.background_errors());
    });
}

/// Uses a crafted database as an application would: opens it, and if that is not refused writes and flushes. No panic.
#[track_caller]
fn check_no_panic(what: &str, disk: &MemVfs) {
    for is_read_only in [true, false] {
        let opener = builder(disk).background(Background::Manual);
        let outcome = ends_somehow(what, move || -> Result<()> {
            if is_read_only {
                return opener.open_read_only().map(drop);
            }
            let db = opener.open()?;
            db.put("k", "v")?;
            db.flush()?;
            db.put("k", "w")?;
            db.close()
        });
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let kinds = [ErrorKind::Corruption, ErrorKind::Incompatible];
                assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
            }
            Err(text) => panic!("{what}: a panic: {text}"),
        }
    }
}

/// A number in a file's name is bounded before anything is reckoned with it.
#[test]
fn the_largest_numbers_in_file_names_do_no_harm() {
    let largest = [u64::MAX, u64::MAX - 1, 1 << 56, (1 << 56) - 1, (1 << 56) - 2];
    for number in largest {
        for name in [
            format!("{number}.tmp"),
            format!("{number}.sst"),
            format!("{number}.wal"),
            format!("MANIFEST-{number}"),
        ] {
            let disk = MemVfs::new();
            let db = builder(&disk).open().expect("opens");
            db.put("k", "v").expect("puts");
            db.close().expect("closes");
            disk.write(&Path::new("/db").join(&name), b"").expect("memory does not fail");
            check_no_panic(&name, &disk);
        }
    }
}

/// A number in the manifest is bounded before anything is reckoned with it.
#[test]
fn the_largest_numbers_in_a_manifest_do_no_harm() {
    let largest = [u64::MAX, u64::MAX - 1, 1 << 56, (1 << 56) - 1];
    let next_files = largest.map(|number| CatalogChange::NextFile(FileNumber(number)));
    let logs = largest.map(|number| CatalogChange::WalOpened(FileNumber(number)));
    let [last, but_one] = [SeqNum::MAX, SeqNum::new(SeqNum::MAX.get() - 1)];
    let flushed = [last, but_one].map(|seq| CatalogChange::Flushed { wal_first: crafted::SEGMENT, seq });
    for change in next_files.into_iter().chain(logs).chain(flushed) {
        let disk = MemVfs::new();
        let mut changes = crafted::changes(&[]);
        changes.push(change.clone());
        crafted::database(&disk, &changes);
        check_no_panic(&format!("{change:?}"), &disk);
    }
}

/// A length in a table's index is bounded before memory is taken for it.
#[test]
fn a_length_in_an_index_is_checked_before_memory_is_taken_for_it() {
    const CLAIMED_LEN_BYTES: u32 = 700 << 20;
    let disk = MemVfs::new();
    let meta = crafted::table(&disk, 7, &[("apple", 1, Kind::Put, b"red")]);
    let path = crafted::path_of(meta.number);
    let bytes = disk.read(&path).expect("just written");
    let mut end = crafted::End::take_apart(&bytes, meta.number);
    let handle = Handle { offset: 0, len: CLAIMED_LEN_BYTES };
    let mut index = IndexBuilder::new(KeyOrder::Bytewise);
    index.add(InternalKey::new(b"apple", Tag::new(SeqNum::new(1), Kind::Put)), None, handle);
    end.index = index.finish().to_vec();
    end.set_property("data_len", handle.end());
    let tail = end.put_together(handle.end());
    // A file as long as it claims to be, of which nothing but its end is stored.
    let file = Arc::new(Sparse { zeros_len: handle.end(), tail });
    let len_bytes = handle.end() + file.tail.len() as u64;
    let source = TableFile { source: TableSource::File(file), path, number: meta.number, len_bytes };
    let info = allocation_counter::measure(|| {
        let opened = Table::open(source, KeyOrder::Bytewise, Arc::new(Cache::new(0, 8)));
        let found = opened.and_then(|table| table.get(b"apple", SeqNum::MAX));
        let error = found.map(drop).expect_err("no block is so long");
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error:?}");
    });
    assert!(info.bytes_max < 256 << 20, "{} bytes were taken", info.bytes_max);
}

/// Zeros, and some bytes behind them.
struct Sparse {
    zeros_len: u64,
    tail: Vec<u8>,
}

impl tinylsm::vfs::ReadFile for Sparse {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        if offset < self.zeros_len {
            let zeros = usize::try_from(self.zeros_len - offset).expect("addressable").min(buffer.len());
            buffer[..zeros].fill(0);
            return Ok(zeros);
        }
        let start = usize::try_from(offset - self.zeros_len).expect("addressable").min(self.tail.len());
        let count = buffer.len().min(self.tail.len() - start);
        buffer[..count].copy_from_slice(&self.tail[start..start + count]);
        Ok(count)
    }
    fn len(&self) -> Result<u64> {
        Ok(self.zeros_len + self.tail.len() as u64)
    }
    fn advise(&self, _advice: tinylsm::vfs::Advice, _offset: u64, _len: u64) {}
}
