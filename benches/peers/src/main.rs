//! The ladder of `cargo tinylsm bench` on another engine: the same keys, values, orders and clocks, the same cache and
//! memtable sizes, its own crate so that nobody builds it by accident.
//!
//! Run with `cargo run --release --manifest-path benches/peers/Cargo.toml [KEYS]` beside `cargo tinylsm bench` on
//! the same quiet machine, and compare within a row only.

mod bench;
#[path = "../../../src/bin/tinylsm/escape.rs"]
#[allow(dead_code, reason = "shared with the command line, which uses all of it")]
mod escape;
#[path = "../../../src/bin/tinylsm/failure.rs"]
#[allow(dead_code, reason = "shared with the command line, which uses all of it")]
mod failure;
#[path = "../../../src/bin/tinylsm/numbers.rs"]
#[allow(dead_code, reason = "shared with the command line, which uses all of it")]
mod numbers;
use crate::bench::measure::{
    Measured, Sample, disk_bytes, peak_memory_bytes, reset_peak_memory, timed, timed_until, written_bytes,
};
use crate::bench::workload::{Permutation, Random, Values, Zipf, absent_key, key};
use crate::failure::{Failure, Outcome};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::{CompressionPolicy, FilterPolicy, FilterPolicyEntry, BloomConstructionPolicy},
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The one that `cargo tinylsm bench` has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE_LEN_BYTES: usize = 100;
const SYNCED_PUTS: u64 = 8_000;

fn main() {
    let keys = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().expect("the argument is a number of keys"));
    if let Err(failure) = run(keys) {
        eprintln!("{}", failure.message().unwrap_or_default());
        std::process::exit(1);
    }
}

/// Turns the engine's error into the ladder's.
fn bad(error: impl std::fmt::Display) -> Failure {
    Failure::engine(error.to_string())
}

struct Engine {
    db: Database,
    entries: Keyspace,
}

impl Engine {
    fn open(dir: &Path) -> Outcome<Engine> {
        let db = Database::builder(dir).cache_size(32 << 20).open().map_err(bad)?;
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(64 << 20)
                .data_block_compression_policy(CompressionPolicy::all(fjall::CompressionType::Lz4))
                .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0))))
        };
        let entries = db.keyspace("entries", options).map_err(bad)?;
        Ok(Engine { db, entries })
    }

    fn put(&self, index: u64, value: &[u8]) -> Outcome {
        self.entries.insert(key(index), value).map_err(bad)
    }

    fn get_checked(&self, values: &Values, index: u64) -> Outcome {
        match self.entries.get(key(index)).map_err(bad)? {
            Some(value) if values.is_of(index, &value) => Ok(()),
            _ => Err(Failure::engine(format!("record {index} is wrong"))),
        }
    }

    /// Waits until no flush or compaction is under way.
    fn settle(&self) {
        let mut quiet = 0;
        while quiet < 20 {
            let is_busy = self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0;
            quiet = if is_busy { 0 } else { quiet + 1 };
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn report(name: &str, measured: &Measured, settled: Option<Duration>) {
    let rate = |time: Duration| numbers::per_second(measured.operations, time) / 1e3;
    println!(
        "{name:<18} {:>12.1} {:>14} {:>10.1} {:>10.1} {:>10.1} {:>9}",
        rate(measured.time),
        settled.map(|time| format!("{:.1}", rate(measured.time + time))).unwrap_or_default(),
        measured.latency_micros(0.5),
        measured.latency_micros(0.99),
        measured.latency_micros(0.999),
        peak_memory_bytes().unwrap_or_default() / 1_000_000
    );
    reset_peak_memory();
}

fn report_write(name: &str, measured: &Measured, engine: &Engine) {
    let before = Instant::now();
    engine.settle();
    report(name, measured, Some(before.elapsed()));
}

fn put_all(engine: &Engine, values: &Values, keys: u64, choose: impl Fn(u64) -> u64) -> Outcome<Measured> {
    let mut value = Vec::new();
    timed(keys, Sample::Every16th, |place| {
        let index = choose(place);
        values.fill(index, &mut value);
        engine.put(index, &value)
    })
}

fn run(keys: u64) -> Outcome {
    let root = tempfile::tempdir().map_err(bad)?;
    let values = Values::new(VALUE_LEN_BYTES);
    let order = |round: u64| Permutation::new(keys, 0xF111 + round);
    reset_peak_memory();

    let engine = Engine::open(&root.path().join("fillseq"))?;
    let measured = put_all(&engine, &values, keys, |place| place)?;
    report_write("fillseq", &measured, &engine);
    drop(engine);

    let engine = Engine::open(&root.path().join("fillbatch100"))?;
    let shuffled = order(0);
    let mut value = Vec::new();
    let mut measured = timed(keys / 100, Sample::Every16th, |number| {
        let mut batch = engine.db.batch();
        for place in number * 100..(number + 1) * 100 {
            let index = shuffled.at(place);
            values.fill(index, &mut value);
            batch.insert(&engine.entries, key(index), value.as_slice());
        }
        batch.commit().map_err(bad)
    })?;
    measured.operations = keys;
    report_write("fillbatch100", &measured, &engine);
    drop(engine);

    let loaded = root.path().join("loaded");
    let written = written_bytes();
    let engine = Engine::open(&loaded)?;
    for (round, name) in [(0, "fillrandom"), (1, "overwrite")] {
        let shuffled = order(round);
        let measured = put_all(&engine, &values, keys, |place| shuffled.at(place))?;
        report_write(name, &measured, &engine);
    }
    let live = keys * 116;
    if let (Some(before), Some(now)) = (written, written_bytes()) {
        println!("write amplification {:.2}", numbers::as_f64(now - before) / numbers::as_f64(2 * live));
    }
    println!("disk {}", numbers::bytes(engine.db.disk_space().map_err(bad)?.max(disk_bytes(&loaded)?)));
    reads(&engine, &values, keys)?;
    mixes(&engine, &values, keys)?;
    let shuffled = order(2);
    let measured =
        timed(keys, Sample::Every16th, |place| engine.entries.remove(key(shuffled.at(place))).map_err(bad))?;
    report_write("deleterandom", &measured, &engine);
    drop(engine);
    for (name, threads) in [("fillsync1", 1), ("fillsync8", 8)] {
        let engine = Engine::open(&root.path().join(name))?;
        let measured = on_threads(threads, |thread| {
            let mut value = Vec::new();
            timed(SYNCED_PUTS / threads, Sample::Each, |number| {
                let index = number * threads + thread;
                values.fill(index, &mut value);
                engine.put(index, &value)?;
                engine.db.persist(PersistMode::SyncData).map_err(bad)
            })
        })?;
        report_write(name, &measured, &engine);
    }
    Ok(())
}

fn reads(engine: &Engine, values: &Values, keys: u64) -> Outcome {
    let mut random = Random::new(1);
    let measured = timed(keys, Sample::Every16th, |_| engine.get_checked(values, random.below(keys)))?;
    report("readrandom", &measured, None);
    let (zipf, mut random) = (Zipf::new(keys), Random::new(1));
    let measured = timed(keys, Sample::Every16th, |_| engine.get_checked(values, zipf.next(&mut random)))?;
    report("readzipf", &measured, None);
    let mut random = Random::new(2);
    let measured = timed(keys, Sample::Every16th, |_| {
        match engine.entries.get(absent_key(random.below(keys))).map_err(bad)? {
            None => Ok(()),
            Some(_) => Err(Failure::engine("an absent key was found")),
        }
    })?;
    report("readmissing", &measured, None);
    for (name, steps) in [("seek10", 10), ("seek100", 100)] {
        let mut random = Random::new(3);
        let measured = timed(keys / steps, Sample::Every16th, |_| {
            let first = random.below(keys - steps);
            let mut entries = engine.entries.range(key(first)..);
            (first..first + steps).try_for_each(|index| check_entry(values, index, entries.next()))
        })?;
        report(name, &measured, None);
    }
    let mut random = Random::new(4);
    let measured = timed(keys / 100, Sample::Every16th, |_| {
        let last = 100 + random.below(keys - 100);
        let mut entries = engine.entries.range(..=key(last));
        (last - 99..=last).rev().try_for_each(|index| check_entry(values, index, entries.next_back()))
    })?;
    report("rseek100", &measured, None);
    let mut entries = engine.entries.iter();
    let measured = timed(keys, Sample::Every16th, |index| check_entry(values, index, entries.next()))?;
    report("scanall", &measured, None);
    let mut entries = engine.entries.iter();
    let measured =
        timed(keys, Sample::Every16th, |place| check_entry(values, keys - 1 - place, entries.next_back()))?;
    report("rscanall", &measured, None);
    Ok(())
}

fn check_entry(values: &Values, index: u64, entry: Option<fjall::Guard>) -> Outcome {
    let Some(entry) = entry else {
        return Err(Failure::engine(format!("a scan ends before record {index}")));
    };
    let (found, value) = entry.into_inner().map_err(bad)?;
    if *found == key(index) && values.is_of(index, &value) {
        return Ok(());
    }
    Err(Failure::engine(format!("a scan does not come to record {index}")))
}

fn mixes(engine: &Engine, values: &Values, keys: u64) -> Outcome {
    let zipf = Zipf::new(keys);
    for (name, reads_percent) in [("ycsbA", 50), ("ycsbB", 95)] {
        let measured = on_threads(2, |thread| {
            let mut random = Random::new(10 + thread);
            let mut value = Vec::new();
            timed(keys / 2, Sample::Every16th, |_| {
                let index = zipf.next(&mut random);
                if random.below(100) < reads_percent {
                    return engine.get_checked(values, index);
                }
                values.fill(index, &mut value);
                engine.put(index, &value)
            })
        })?;
        report_write(name, &measured, engine);
    }
    let is_over = AtomicBool::new(false);
    let (reads, writes) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut random = Random::new(21);
            let mut value = Vec::new();
            timed_until(Sample::Every16th, |_| {
                let index = random.below(keys);
                values.fill(index, &mut value);
                engine.put(index, &value)?;
                Ok(!is_over.load(Ordering::Relaxed))
            })
        });
        let mut random = Random::new(20);
        let reads =
            timed(keys / 2, Sample::Every16th, |_| engine.get_checked(values, random.below(keys)));
        is_over.store(true, Ordering::Relaxed);
        (reads, writer.join().expect("the writing thread does not panic"))
    });
    report("readwhilewriting", &reads?, None);
    report_write("writewhilereading", &writes?, engine);
    Ok(())
}

fn on_threads(threads: u64, body: impl Fn(u64) -> Outcome<Measured> + Sync) -> Outcome<Measured> {
    let parts: Outcome<Vec<Measured>> = std::thread::scope(|scope| {
        let body = &body;
        let handles: Vec<_> = (0..threads).map(|number| scope.spawn(move || body(number))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no measuring thread panics")).collect()
    });
    Ok(Measured::side_by_side(parts?))
}
