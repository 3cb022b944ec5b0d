//! What a memtable says it takes is what it takes: memory stays within its bounds because memtables are sealed by
//! their own estimate.

use allocation_counter::{AllocationInfo, measure};
use tinylsm::base::comparator::KeyOrder;
use tinylsm::base::ids::KeyspaceId;
use tinylsm::base::seq::SeqNum;
use tinylsm::base::time::UnixMillis;
use tinylsm::format::batch::Batch;
use tinylsm::memtable::Memtable;
use tinylsm::memtable::arena::Arena;
use tinylsm::write::commit::apply;
use tinylsm::{Background, Cache, Db, KeyspaceOptions, WriteBatch, WriteOptions};

const VALUE_LENS_BYTES: [usize; 3] = [20, 100, 4096];
const BATCH_LENS: [u64; 2] = [1, 100];
const ERROR_PERCENT_MAX: f64 = 15.0;
/// What the system's allocator takes for itself with each allocation: a header of 8 bytes, and 8 on average to round
/// up to 16.
const ALLOCATION_OVERHEAD_LEN_BYTES: i64 = 16;

/// Returns a key of 16 bytes, in no order.
fn key(i: u64) -> String {
    format!("{:016x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn check(what: &str, estimated_bytes: u64, info: &AllocationInfo) {
    let taken_bytes = info.bytes_current + info.count_current * ALLOCATION_OVERHEAD_LEN_BYTES;
    let error_percent = (estimated_bytes as f64 / taken_bytes as f64 - 1.0) * 100.0;
    println!(
        "{what}: {estimated_bytes} bytes by the memtable, {taken_bytes} taken ({} asked for in {} allocations): \
         {error_percent:+.1} %",
        info.bytes_current, info.count_current
    );
    assert!(error_percent.abs() <= ERROR_PERCENT_MAX, "{what}: the estimate is off by {error_percent:+.1} %");
}

/// Applies a record of `count` puts, as a commit does.
fn apply_record(arena: &mut Arena, memtable: &Memtable, first: u64, count: u64, value: &[u8]) {
    let mut batch = Batch::new();
    for i in first..first + count {
        batch.put(KeyspaceId::DEFAULT, key(i).as_bytes(), value);
    }
    apply(batch.stamp(UnixMillis(0), SeqNum::new(first)), arena, &|_, _| Some(memtable));
}

#[test]
fn a_memtables_estimate_is_close_to_what_is_allocated() {
    for value_len_bytes in VALUE_LENS_BYTES {
        for batch_len in BATCH_LENS {
            let memtable = Memtable::new(&KeyOrder::Bytewise, 1 << 20);
            let mut arena = Arena::new(1 << 20);
            let value = vec![b'v'; value_len_bytes];
            // The filter comes with the first entries; its size follows from the options and not from the entries.
            apply_record(&mut arena, &memtable, 1, 5_000, &value);
            let before = memtable.len_bytes();
            let info = measure(|| {
                for record in 0..10_000 / batch_len {
                    apply_record(&mut arena, &memtable, 5_010 + record * batch_len, batch_len, &value);
                }
            });
            let what = format!("values of {value_len_bytes} bytes, {batch_len} a record");
            check(&what, memtable.len_bytes() - before, &info);
        }
    }
}

fn write(db: &Db, first: u64, count: u64, value: &[u8]) {
    let options = WriteOptions::os();
    if count == 1 {
        db.default_keyspace().put_with(key(first), value, options).expect("puts");
        return;
    }
    let mut batch = WriteBatch::new();
    for i in first..first + count {
        batch.put(db.default_keyspace(), key(i), value);
    }
    db.write(&batch, options).expect("writes");
}

#[test]
fn the_memtable_bytes_of_the_stats_are_close_to_what_is_allocated() {
    const PUTS_COUNT: u64 = 5_000;
    for value_len_bytes in VALUE_LENS_BYTES {
        for batch_len in BATCH_LENS {
            // On the real disk: one in memory would take the log into account.
            let dir = tempfile::tempdir().expect("a directory");
            let db = Db::builder(dir.path()).background(Background::Manual).open().expect("opens");
            let value = vec![b'v'; value_len_bytes];
            // The filter grows to its size within these; that follows from the options and not from the entries.
            write(&db, 1, PUTS_COUNT, &value);
            let before = db.stats();
            let info = measure(|| {
                for first in (10 + PUTS_COUNT..10 + 2 * PUTS_COUNT).step_by(batch_len as usize) {
                    write(&db, first, batch_len, &value);
                }
            });
            let after = db.stats();
            let what = format!("Db, values of {value_len_bytes} bytes, {batch_len} a batch");
            check(&what, after.memtable_bytes - before.memtable_bytes, &info);
            assert_eq!(after.sealed_memtables, 0);
        }
    }
}

/// A capacity is a bound and not a reservation.
#[test]
fn a_cache_takes_memory_for_what_it_holds() {
    for (blocks_bytes, bytes_max) in
        [(0, 4 << 10), (64 << 20, 8 << 10), (1 << 40, 8 << 20), (u64::MAX, 8 << 20)]
    {
        let mut cache = None;
        let info = measure(|| cache = Some(Cache::new(blocks_bytes, 512)));
        println!("cache of {blocks_bytes} bytes: {} taken", info.bytes_current);
        assert!(info.bytes_max <= bytes_max, "{} bytes for a cache of {blocks_bytes}", info.bytes_max);
        drop(cache);
    }
}

/// What an open database takes that nobody uses, or that holds a few keys, so that a process can have thousands.
#[test]
fn an_idle_database_takes_kilobytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || Db::builder(dir.path().join("db")).background(Background::Manual).open().expect("opens");
    drop(open());
    let mut db = None;
    let info = measure(|| db = Some(open()));
    println!("an empty database: {} bytes, {} at most", info.bytes_current, info.bytes_max);
    assert!(info.bytes_current <= 32 << 10, "{} bytes for an empty database", info.bytes_current);
    let db = db.expect("opened");
    let keyspaces = measure(|| {
        for number in 0..100 {
            db.create_keyspace(&format!("keyspace{number}"), KeyspaceOptions::default()).expect("creates");
        }
    });
    println!("a keyspace: {} bytes", keyspaces.bytes_current / 100);
    assert!(keyspaces.bytes_current / 100 <= 3 << 10, "{} bytes each", keyspaces.bytes_current / 100);
    let puts = measure(|| {
        db.put("key", "value").expect("puts");
    });
    println!("a first put: {} bytes", puts.bytes_current);
    assert!(puts.bytes_current <= 32 << 10, "{} bytes for a put", puts.bytes_current);
}
