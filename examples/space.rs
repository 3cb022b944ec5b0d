//! What deletes cost and give back: four measurements on the real disk.
//!
//! Run with `cargo run --release --example space -- half|scan|queue|snapshots [COUNT]`.
#![allow(
    clippy::disallowed_methods,
    reason = "an application has threads and a clock of its own; the bans are for the engine"
)]

use std::path::Path;
use std::time::{Duration, Instant};
use tinylsm::{Db, Durability, Options, Result, WriteBatch, WriteOptions};

const BATCH: u64 = 1000;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let count = words.next().and_then(|word| word.parse().ok());
    let dir = tempfile::tempdir_in(".").expect("a temporary directory can be made");
    match what.as_str() {
        "half" => half(dir.path(), count.unwrap_or(2_000_000)),
        "scan" => scan(dir.path(), count.unwrap_or(1_000_000)),
        "queue" => queue(dir.path(), count.unwrap_or(100_000)),
        "snapshots" => snapshots(dir.path(), count.unwrap_or(10_000_000)),
        _ => {
            eprintln!("one of: half, scan, queue, snapshots; then how many");
            Ok(())
        }
    }
}

fn open(path: &Path, durability: Durability) -> Result<Db> {
    Db::builder(path).options(Options::default().durability(durability)).open()
}

/// A key whose number is scattered over the whole range.
fn scattered(number: u64) -> Vec<u8> {
    format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into_bytes()
}

/// A value that hardly packs.
fn value(number: u64, len: usize) -> Vec<u8> {
    let mut state = number ^ 0xD1B5_4A32_D192_ED03;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn in_batches(
    db: &Db,
    count: u64,
    add: impl for<'b> Fn(&'b mut WriteBatch, u64) -> &'b mut WriteBatch,
) -> Result<()> {
    for first in (0..count).step_by(usize::try_from(BATCH).expect("small")) {
        let mut batch = WriteBatch::new();
        for number in first..(first + BATCH).min(count) {
            add(&mut batch, number);
        }
        db.write(batch, WriteOptions::default())?;
    }
    Ok(())
}

fn table_bytes(db: &Db) -> u64 {
    db.stats().keyspaces.iter().flat_map(|keyspace| &keyspace.levels).map(|level| level.bytes).sum()
}

fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path).expect("the database's directory is there");
    let lens =
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.blocks() * 512);
    lens.sum()
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Deletes every other one of `count` keys with a KiB each, and watches what comes back while nothing is done.
fn half(path: &Path, count: u64) -> Result<()> {
    let db = open(path, Durability::Os)?;
    let keyspace = db.default_keyspace().clone();
    let began = Instant::now();
    in_batches(&db, count, |batch, number| batch.put(&keyspace, scattered(number), value(number, 1024)))?;
    db.wait_idle()?;
    let stats = db.stats();
    println!(
        "{count} keys put in {:?}: tables {} MiB, disk {} MiB, written {} MiB",
        began.elapsed(),
        mib(table_bytes(&db)),
        mib(disk_bytes(path)),
        mib(stats.bytes_flushed + stats.bytes_compacted)
    );
    let began = Instant::now();
    in_batches(&db, count / 2, |batch, number| batch.delete(&keyspace, scattered(2 * number)))?;
    println!("half deleted in {:?}: disk {} MiB", began.elapsed(), mib(disk_bytes(path)));
    let began = Instant::now();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_secs(4));
        println!(
            "{:5.1} s of quiet: tables {} MiB, disk {} MiB",
            began.elapsed().as_secs_f64(),
            mib(table_bytes(&db)),
            mib(disk_bytes(path))
        );
    }
    let stats = db.stats();
    println!("merged {} MiB in all; levels: {:?}", mib(stats.bytes_compacted), stats.keyspaces[0].levels);
    db.close()
}

/// Deletes `count` keys in one run and looks for the first key behind them, again and again.
fn scan(path: &Path, count: u64) -> Result<()> {
    let db = open(path, Durability::Os)?;
    let keyspace = db.default_keyspace().clone();
    let key = |number: u64| format!("{number:012}");
    in_batches(&db, count + 1000, |batch, number| batch.put(&keyspace, key(number), value(number, 100)))?;
    db.wait_idle()?;
    in_batches(&db, count, |batch, number| batch.delete(&keyspace, key(number)))?;
    for round in 0..10 {
        let began = Instant::now();
        let first = db.iter()?.next().expect("one is left")?;
        println!("scan {round}: {:?}", began.elapsed());
        assert_eq!(first.0, key(count).as_bytes());
        if round == 4 {
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    let first = Instant::now();
    let last = db.range(..key(count))?.next_back();
    println!("backwards: {:?}", first.elapsed());
    assert!(last.is_none());
    db.close()
}

/// Puts `count` keys and pops the first one until none is left.
fn queue(path: &Path, count: u64) -> Result<()> {
    let db = open(path, Durability::Disk)?;
    let keyspace = db.default_keyspace().clone();
    let key = |number: u64| format!("{number:012}");
    in_batches(&db, count, |batch, number| batch.put(&keyspace, key(number), value(number, 100)))?;
    let share = (count / 10).max(1);
    let (mut reading, mut writing, mut slowest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for number in 0..count {
        let began = Instant::now();
        let (first, _) = db.iter()?.next().expect("the queue is not empty")?;
        let read = began.elapsed();
        db.delete(&first)?;
        let both = began.elapsed();
        (reading, writing, slowest) = (reading + read, writing + both - read, slowest.max(both));
        if (number + 1) % share == 0 {
            let part = u32::try_from(share).expect("a tenth of the queue");
            println!(
                "pop {:7}: finding {:?}, deleting {:?} on average; slowest {slowest:?}",
                number + 1,
                reading / part,
                writing / part
            );
            (reading, writing, slowest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        }
    }
    assert!(db.iter()?.next().is_none());
    let stats = db.stats();
    println!(
        "{} flushes, {} merges, {} MiB flushed, {} MiB merged",
        stats.flushes,
        stats.compactions,
        mib(stats.bytes_flushed),
        mib(stats.bytes_compacted)
    );
    db.close()
}

/// Takes and drops `count` snapshots, and tells what that took.
fn snapshots(path: &Path, count: u64) -> Result<()> {
    let db = open(path, Durability::Os)?;
    db.put("key", "value")?;
    let before = resident_kib();
    let began = Instant::now();
    for _ in 0..count {
        drop(db.snapshot());
    }
    println!(
        "{count} snapshots in {:?}, {} MiB more memory",
        began.elapsed(),
        resident_kib().saturating_sub(before) >> 10
    );
    db.close()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
