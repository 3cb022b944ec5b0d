//! What reading allocates: nothing, beyond what it hands out.
//!
//! Every database here runs its jobs on the test's own thread, whose allocations are what is counted.

use allocation_counter::measure;
use std::sync::Arc;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Db, Iter, KeyspaceOptions, Options};

const KEYS_COUNT: usize = 256;
/// A scan over a memtable fetches its entries in runs that grow up to 64: behind so many steps they grow no more.
const STEPS_BEFORE_COUNTING: usize = 130;
const STEPS_COUNT: usize = 100;

#[derive(Clone, Copy, Debug)]
enum Place {
    Memtable,
    Level0,
    LastLevel,
}

const PLACES: [Place; 3] = [Place::Memtable, Place::Level0, Place::LastLevel];

/// A key of `len_bytes`; up to 38 lie inline in a slice.
fn key(i: usize, len_bytes: usize) -> String {
    format!("key{i:0digits_count$}", digits_count = len_bytes - 3)
}

/// A database whose entries lie in `place`, all in one block if it is a table.
fn filled(place: Place, key_len_bytes: usize, value_len_bytes: usize) -> Db {
    let default_keyspace = KeyspaceOptions::default().block_bytes(1 << 20);
    let options = Options::default().default_keyspace(default_keyspace).wal_preallocate_bytes(0);
    let builder = Db::builder("/db").vfs(Arc::new(MemVfs::new())).options(options);
    let db = builder.background(Background::Manual).open().expect("opens");
    for i in 0..KEYS_COUNT {
        db.put(key(i, key_len_bytes), vec![b'v'; value_len_bytes]).expect("puts");
    }
    match place {
        Place::Memtable => {}
        Place::Level0 => db.flush().expect("flushes"),
        Place::LastLevel => db.compact_range(db.default_keyspace(), ..).expect("merges"),
    }
    db
}

/// Counts the allocations of `work`. It is done once before, which fills the cache and makes what a thread needs once.
fn allocations(db: &Db, mut work: impl FnMut()) -> u64 {
    work();
    let before = db.stats();
    let count = measure(work).count_total;
    assert_eq!(db.stats().cache_misses, before.cache_misses, "all blocks are cached");
    count
}

#[test]
fn a_lookup_allocates_nothing() {
    for place in PLACES {
        for (key_len_bytes, value_len_bytes) in [(6, 0), (6, 20), (6, 100), (40, 100), (6, 4096)] {
            let db = filled(place, key_len_bytes, value_len_bytes);
            let keys: Vec<String> = (0..KEYS_COUNT).map(|i| key(i, key_len_bytes)).collect();
            let count = allocations(&db, || {
                for key in &keys {
                    let value = db.get(key).expect("reads").expect("there");
                    assert_eq!(value.len(), value_len_bytes);
                }
            });
            assert_eq!(count, 0, "keys of {key_len_bytes}, values of {value_len_bytes} bytes in {place:?}");
        }
    }
}

#[test]
fn a_lookup_of_a_missing_key_allocates_nothing() {
    for place in PLACES {
        let db = filled(place, 6, 100);
        // In front of all keys, among them, behind them; so many that some pass the filters.
        let mut keys: Vec<String> = (0..5000).map(|i| format!("key{:03}-{i}", i % KEYS_COUNT)).collect();
        keys.extend(["a".to_owned(), "z".to_owned()]);
        let count = allocations(&db, || {
            for key in &keys {
                assert!(db.get(key).expect("reads").is_none());
            }
        });
        assert_eq!(count, 0, "in {place:?}");
    }
}

#[test]
fn a_lookup_through_a_snapshot_allocates_nothing() {
    for place in PLACES {
        let db = filled(place, 6, 100);
        let snapshot = db.snapshot();
        let count = allocations(&db, || {
            assert!(snapshot.get("key007").expect("reads").is_some());
            assert!(snapshot.get("nothing").expect("reads").is_none());
        });
        assert_eq!(count, 0, "in {place:?}");
    }
}

type Step = fn(&mut Iter) -> Option<<Iter as Iterator>::Item>;

/// Counts the allocations of `STEPS_COUNT` steps in the middle of a scan.
fn allocations_of_steps(db: &Db, step: Step) -> u64 {
    let mut iter = db.iter().expect("open");
    let mut walk = |steps_count| {
        for _ in 0..steps_count {
            step(&mut iter).expect("there").expect("readable");
        }
    };
    walk(STEPS_BEFORE_COUNTING);
    measure(|| walk(STEPS_COUNT)).count_total
}

#[test]
fn a_step_of_a_scan_inside_a_cached_block_or_a_memtable_allocates_nothing() {
    for place in PLACES {
        for value_len_bytes in [20, 100, 1000] {
            let db = filled(place, 6, value_len_bytes);
            for step in [Iter::next as Step, Iter::next_back] {
                let count = allocations_of_steps(&db, step);
                assert_eq!(count, 0, "values of {value_len_bytes} bytes in {place:?}");
            }
        }
    }
}

/// A key that is too long to lie inline lies in parts in its block, so the slice that is handed out needs a buffer of
/// its own and an owner for it. Nothing else is allocated, and nothing for the value.
#[test]
fn a_step_of_a_scan_over_long_keys_allocates_the_key_that_it_hands_out() {
    for place in PLACES {
        let db = filled(place, 40, 100);
        for step in [Iter::next as Step, Iter::next_back] {
            let count = allocations_of_steps(&db, step);
            assert!(count <= 2 * STEPS_COUNT as u64, "{count} in {place:?}");
        }
    }
}
