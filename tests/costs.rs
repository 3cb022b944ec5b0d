//! What a call costs follows what it changes, not how much lies beside it. Work is counted, in comparisons and in bytes
//! that are allocated: how long it takes says little on a busy machine.

#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]
#[allow(dead_code, reason = "what the tests of other files need")]
mod common;

use common::{keyspace_of, tiny};
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use tinylsm::vfs::mem::MemVfs;
use tinylsm::{Background, Comparator, Db, DbBuilder, Keyspace, KeyspaceOptions, Options, WriteOptions};

/// Bytewise order that counts its work.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU64>);

impl Counting {
    const NAME: &str = "test.counting";

    fn count(&self) -> u64 {
        self.0.load(Atomic::Relaxed)
    }
}

impl Comparator for Counting {
    fn name(&self) -> &str {
        Counting::NAME
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        self.0.fetch_add(1, Atomic::Relaxed);
        a.cmp(b)
    }
}

/// A database whose jobs run on the test's own thread, where they can be counted.
fn builder(options: Options) -> DbBuilder {
    Db::builder("/db").vfs(Arc::new(MemVfs::new())).options(options).background(Background::Manual)
}

fn with_keyspaces(count: usize) -> (Db, Vec<Keyspace>) {
    let db = builder(Options::default().memtable_bytes(count << 10)).open().expect("opens");
    let create = |i| db.create_keyspace(&format!("k{i}"), KeyspaceOptions::default()).expect("creates");
    let keyspaces = (0..count).map(create).collect();
    (db, keyspaces)
}

/// Returns how many bytes are allocated by making `count` keyspaces, and by merging them all.
fn keyspaces_cost(count: usize) -> (u64, u64) {
    let mut made = None;
    let making = allocation_counter::measure(|| made = Some(with_keyspaces(count)));
    let (db, keyspaces) = made.expect("made");
    let mut merging = 0;
    for round in 0..2 {
        for keyspace in &keyspaces {
            keyspace.put_with("key", format!("{round}"), WriteOptions::none()).expect("puts");
        }
        db.flush().expect("flushes");
        let merges_before = db.stats().compactions;
        merging = allocation_counter::measure(|| db.wait_idle().expect("idle")).bytes_total;
        assert_eq!(db.stats().compactions - merges_before, round * count as u64, "each is merged once");
    }
    (making.bytes_total, merging)
}

#[test]
fn making_and_merging_a_keyspace_costs_about_the_same_however_many_there_are() {
    let (few, many) = (keyspaces_cost(200), keyspaces_cost(1600));
    assert!(many.0 < few.0 * 8 * 2, "bytes allocated to make 200 and 1,600: {} and {}", few.0, many.0);
    assert!(many.1 < few.1 * 8 * 2, "bytes allocated to merge 200 and 1,600: {} and {}", few.1, many.1);
}

/// Returns how many bytes are allocated by a put to one keyspace of `count`, its flush and the rest that follows.
fn single_cost(count: usize) -> u64 {
    let (db, keyspaces) = with_keyspaces(count);
    db.wait_idle().expect("idle");
    let info = allocation_counter::measure(|| {
        for round in 0..20 {
            keyspaces[count / 2].put("key", format!("{round}")).expect("puts");
            db.flush().expect("flushes");
            while db.background_step().expect("memory") {}
        }
    });
    info.bytes_total
}

#[test]
fn a_put_and_a_flush_of_one_keyspace_cost_the_same_however_many_there_are() {
    let (few, many) = (single_cost(200), single_cost(1600));
    assert!(many < few * 2, "bytes allocated with 200 and with 1,600 keyspaces: {few} and {many}");
}

/// Bytes that do not pack.
fn noise(seed: u32) -> Vec<u8> {
    (0..1000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()[0] ^ seed.to_le_bytes()[0])
        .collect()
}

/// Returns how many comparisons it takes to rewrite about `tables_count` tables of the deepest level.
fn compact_range_cost(tables_count: u32) -> u64 {
    let order = Counting::default();
    let mut options = tiny();
    options.memtable_bytes = 64 << 20;
    options.manifest_roll_bytes = 4 << 20;
    let keyspace = keyspace_of(&mut options);
    keyspace.comparator = Counting::NAME.into();
    keyspace.table_bytes = 1 << 10;
    keyspace.level0_compaction_trigger = 30;
    keyspace.level_base_bytes = 1 << 40;
    let db = builder(options).comparator(Arc::new(order.clone())).open().expect("opens");
    let mut held = Vec::new();
    for round in 0..2 {
        for i in 0..tables_count {
            let key = format!("key{i:06}");
            let keyspace = db.default_keyspace();
            keyspace.put_with(key, noise(i + round), WriteOptions::none()).expect("puts");
        }
        held.push(db.snapshot());
        db.flush().expect("flushes");
    }
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    assert!(db.stats().keyspaces[0].levels.iter().any(|level| level.files >= tables_count as usize));
    drop(held);
    let before = order.count();
    db.compact_range(db.default_keyspace(), ..).expect("merges");
    assert!(db.stats().keyspaces[0].levels.iter().any(|level| level.entries == u64::from(tables_count)));
    order.count() - before
}

#[test]
fn compact_range_compares_in_proportion_to_what_it_rewrites() {
    let (few, many) = (compact_range_cost(200), compact_range_cost(1600));
    assert!(many < few * 8 * 2, "comparisons for 200 and for 1,600 tables: {few} and {many}");
}
