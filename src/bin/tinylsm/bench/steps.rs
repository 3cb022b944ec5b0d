//! The rungs of the ladder: what each one does, and nothing about how it is shown.
//!
//! Every answer read is compared with what was written; a wrong one ends the run.

use crate::bench::measure::{Measured, Sample, peak_memory_bytes, timed, timed_until, written_bytes};
use crate::bench::stage::{Loaded, Stage};
use crate::bench::workload::{Random, Values, Zipf, absent_key, key};
use crate::failure::{Failure, Outcome};
use clap::ValueEnum;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tinylsm::{Db, Durability, Slice, WriteBatch, WriteOptions};

/// Puts of one batch in `fillbatch100`.
const BATCH_PUTS: u64 = 100;
/// Most synced puts of each of the two synced fills, so that they take about a second each.
const SYNCED_PUTS_MAX: u64 = 8_000;
/// Threads of `fillsync8`.
const SYNCED_THREADS: u64 = 8;

/// One rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Step {
    /// Puts in key order, into an empty database.
    FillSeq,
    /// Batches of 100 puts in random order, into an empty database.
    FillBatch100,
    /// Puts in random order, into an empty database that the following steps use.
    FillRandom,
    /// Every key put once more, in another order.
    Overwrite,
    /// Gets of keys chosen evenly.
    ReadRandom,
    /// Gets of keys chosen by Zipf's law, 0.99.
    ReadZipf,
    /// Gets of keys that are absent, between present ones.
    ReadMissing,
    /// A seek to a random key and 10 steps.
    Seek10,
    /// A seek to a random key and 100 steps.
    Seek100,
    /// A seek to a random key and 100 steps backwards.
    RSeek100,
    /// Every entry in key order.
    ScanAll,
    /// Every entry backwards.
    RScanAll,
    /// Two threads, Zipf, half gets and half puts.
    YcsbA,
    /// Two threads, Zipf, 95 % gets and 5 % puts.
    YcsbB,
    /// One thread reads evenly while another puts at full speed; both are reported.
    ReadWhileWriting,
    /// Every key deleted, in random order.
    DeleteRandom,
    /// Synced puts of one thread, into an empty database.
    FillSync1,
    /// Synced puts of eight threads, into an empty database.
    FillSync8,
}

/// What one rung gave.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) measured: Measured,
    /// For rungs that write: the time until no flush or compaction was due any more.
    pub(crate) time_to_quiescence: Option<Duration>,
    /// The most memory that the process held from the start of the rung to the end of its operations, in bytes.
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl Step {
    /// Tells whether the rung works on the loaded database.
    pub(crate) fn needs_loaded(self) -> bool {
        !matches!(
            self,
            Step::FillSeq | Step::FillBatch100 | Step::FillRandom | Step::FillSync1 | Step::FillSync8
        )
    }

    /// Runs the rung.
    pub(crate) fn run(self, stage: &mut Stage) -> Outcome<Vec<Row>> {
        let entries = stage.keys;
        let one = |row: Outcome<Row>| row.map(|row| vec![row]);
        match self {
            Step::FillSeq => one(fill_seq(stage)),
            Step::FillBatch100 => one(fill_batch(stage)),
            Step::FillRandom => one(fill_random(stage)),
            Step::Overwrite => one(overwrite(stage)),
            Step::ReadRandom => one(read(stage, "readrandom", |random| random.below(entries))),
            Step::ReadZipf => {
                let zipf = Zipf::new(entries);
                one(read(stage, "readzipf", move |random| zipf.next(random)))
            }
            Step::ReadMissing => one(read_missing(stage)),
            Step::Seek10 => one(seek(stage, "seek10", 10)),
            Step::Seek100 => one(seek(stage, "seek100", 100)),
            Step::RSeek100 => one(seek_back(stage)),
            Step::ScanAll => one(scan_all(stage, "scanall", |db| Ok(Box::new(db.iter()?)))),
            Step::RScanAll => one(scan_all(stage, "rscanall", |db| Ok(Box::new(db.iter()?.rev())))),
            Step::YcsbA => one(ycsb(stage, "ycsbA", 50)),
            Step::YcsbB => one(ycsb(stage, "ycsbB", 95)),
            Step::ReadWhileWriting => read_while_writing(stage),
            Step::DeleteRandom => one(delete_random(stage)),
            Step::FillSync1 => one(fill_sync(stage, "fillsync1", 1)),
            Step::FillSync8 => one(fill_sync(stage, "fillsync8", SYNCED_THREADS)),
        }
    }
}

/// Ends a rung that only read.
fn read_row(name: &'static str, measured: Measured) -> Row {
    Row { name, measured, time_to_quiescence: None, peak_memory_bytes: peak_memory_bytes() }
}

/// Ends a rung that wrote: waits until nothing is due and charges that to it.
fn write_row(name: &'static str, measured: Measured, db: &Db) -> Outcome<Row> {
    let peak = peak_memory_bytes();
    let before = Instant::now();
    db.wait_idle()?;
    let time_to_quiescence = Some(measured.time + before.elapsed());
    Ok(Row { name, measured, time_to_quiescence, peak_memory_bytes: peak })
}

fn fill_seq(stage: &Stage) -> Outcome<Row> {
    let (db, dir) = stage.fresh("fillseq", Durability::Os)?;
    let mut value = Vec::new();
    let measured = timed(stage.keys, Sample::Every16th, |index| {
        stage.values.fill(index, &mut value);
        db.put(key(index), &value)?;
        Ok(())
    })?;
    let row = write_row("fillseq", measured, &db)?;
    stage.discard(db, &dir)?;
    Ok(row)
}

fn fill_batch(stage: &Stage) -> Outcome<Row> {
    let (db, dir) = stage.fresh("fillbatch100", Durability::Os)?;
    let order = stage.order(0);
    let mut value = Vec::new();
    let mut batch = WriteBatch::new();
    let mut measured = timed(stage.keys.div_ceil(BATCH_PUTS), Sample::Every16th, |number| {
        batch.clear();
        for place in number * BATCH_PUTS..((number + 1) * BATCH_PUTS).min(stage.keys) {
            let index = order.at(place);
            stage.values.fill(index, &mut value);
            batch.put(db.default_keyspace(), key(index), &value);
        }
        db.write(&batch, WriteOptions::default())?;
        Ok(())
    })?;
    // The latency is that of a batch; the throughput is that of puts, as for every other fill.
    measured.operations = stage.keys;
    let row = write_row("fillbatch100", measured, &db)?;
    stage.discard(db, &dir)?;
    Ok(row)
}

fn fill_random(stage: &mut Stage) -> Outcome<Row> {
    let written_before = written_bytes();
    let (db, dir) = stage.fresh("loaded", Durability::Os)?;
    let measured = put_all(stage, &db, 0)?;
    let row = write_row("fillrandom", measured, &db)?;
    stage.keep(Loaded { db, dir, written_before })?;
    Ok(row)
}

fn overwrite(stage: &Stage) -> Outcome<Row> {
    let db = &stage.loaded().db;
    let measured = put_all(stage, db, 1)?;
    write_row("overwrite", measured, db)
}

/// Puts every key once, in the order of `round`.
fn put_all(stage: &Stage, db: &Db, round: u64) -> Outcome<Measured> {
    let order = stage.order(round);
    let mut value = Vec::new();
    timed(stage.keys, Sample::Every16th, |place| {
        let index = order.at(place);
        stage.values.fill(index, &mut value);
        db.put(key(index), &value)?;
        Ok(())
    })
}

/// Gets record `index` and compares it.
fn get_checked(db: &Db, values: &Values, index: u64) -> Outcome {
    match db.get(key(index))? {
        Some(value) if values.is_of(index, &value) => Ok(()),
        Some(_) => Err(Failure::engine(format!("record {index} has a wrong value"))),
        None => Err(Failure::engine(format!("record {index} is missing"))),
    }
}

fn read(stage: &Stage, name: &'static str, choose: impl Fn(&mut Random) -> u64) -> Outcome<Row> {
    let db = &stage.loaded().db;
    let mut random = Random::new(1);
    let measured =
        timed(stage.keys, Sample::Every16th, |_| get_checked(db, &stage.values, choose(&mut random)))?;
    Ok(read_row(name, measured))
}

fn read_missing(stage: &Stage) -> Outcome<Row> {
    let db = &stage.loaded().db;
    let mut random = Random::new(2);
    let measured = timed(stage.keys, Sample::Every16th, |_| {
        let index = random.below(stage.keys);
        match db.get(absent_key(index))? {
            None => Ok(()),
            Some(_) => Err(Failure::engine(format!("a key behind record {index} is there and must not be"))),
        }
    })?;
    Ok(read_row("readmissing", measured))
}

fn seek(stage: &Stage, name: &'static str, steps: u64) -> Outcome<Row> {
    let db = &stage.loaded().db;
    let mut random = Random::new(3);
    let measured = timed(stage.keys / steps.max(10), Sample::Every16th, |_| {
        let first = random.below(stage.keys - steps);
        let mut entries = db.range(key(first)..)?;
        for index in first..first + steps {
            check_entry(stage, index, entries.next())?;
        }
        Ok(())
    })?;
    Ok(read_row(name, measured))
}

fn seek_back(stage: &Stage) -> Outcome<Row> {
    const STEPS: u64 = 100;
    let db = &stage.loaded().db;
    let mut random = Random::new(4);
    let measured = timed(stage.keys / STEPS, Sample::Every16th, |_| {
        let last = STEPS + random.below(stage.keys - STEPS);
        let mut entries = db.range(..=key(last))?;
        for index in (last + 1 - STEPS..=last).rev() {
            check_entry(stage, index, entries.next_back())?;
        }
        Ok(())
    })?;
    Ok(read_row("rseek100", measured))
}

fn check_entry(stage: &Stage, index: u64, entry: Option<tinylsm::Result<(Slice, Slice)>>) -> Outcome {
    match entry.transpose()? {
        Some((found, value)) if *found == key(index) && stage.values.is_of(index, &value) => Ok(()),
        _ => Err(Failure::engine(format!("a scan does not come to record {index}"))),
    }
}

type Entries = Box<dyn Iterator<Item = tinylsm::Result<(Slice, Slice)>>>;

fn scan_all(stage: &Stage, name: &'static str, open: impl Fn(&Db) -> Outcome<Entries>) -> Outcome<Row> {
    let mut entries = open(&stage.loaded().db)?;
    let mut bytes = 0;
    let measured = timed(stage.keys, Sample::Every16th, |index| match entries.next().transpose()? {
        Some((key, value)) => {
            bytes += key.len() + value.len();
            Ok(())
        }
        None => Err(Failure::engine(format!("the scan ends after {index} entries"))),
    })?;
    if entries.next().is_some() {
        return Err(Failure::engine("the scan does not end".to_owned()));
    }
    std::hint::black_box(bytes);
    Ok(read_row(name, measured))
}

fn ycsb(stage: &Stage, name: &'static str, reads_percent: u64) -> Outcome<Row> {
    const THREADS: u64 = 2;
    let db = &stage.loaded().db;
    let zipf = Zipf::new(stage.keys);
    let measured = on_threads(THREADS, |thread| {
        let mut random = Random::new(10 + thread);
        let mut value = Vec::new();
        timed(stage.keys / THREADS, Sample::Every16th, |_| {
            let index = zipf.next(&mut random);
            if random.below(100) < reads_percent {
                return get_checked(db, &stage.values, index);
            }
            stage.values.fill(index, &mut value);
            db.put(key(index), &value)?;
            Ok(())
        })
    })?;
    write_row(name, measured, db)
}

fn read_while_writing(stage: &Stage) -> Outcome<Vec<Row>> {
    let db = &stage.loaded().db;
    let is_over = AtomicBool::new(false);
    let (reads, writes) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut random = Random::new(21);
            let mut value = Vec::new();
            timed_until(Sample::Every16th, |_| {
                let index = random.below(stage.keys);
                stage.values.fill(index, &mut value);
                db.put(key(index), &value)?;
                Ok(!is_over.load(Ordering::Relaxed))
            })
        });
        let mut random = Random::new(20);
        let reads = timed(stage.keys / 2, Sample::Every16th, |_| {
            get_checked(db, &stage.values, random.below(stage.keys))
        });
        is_over.store(true, Ordering::Relaxed);
        (reads, writer.join().expect("the writing thread does not panic"))
    });
    let read_row = read_row("readwhilewriting", reads?);
    Ok(vec![read_row, write_row("writewhilereading", writes?, db)?])
}

fn delete_random(stage: &Stage) -> Outcome<Row> {
    let db = &stage.loaded().db;
    let order = stage.order(2);
    let measured = timed(stage.keys, Sample::Every16th, |place| {
        db.delete(key(order.at(place)))?;
        Ok(())
    })?;
    write_row("deleterandom", measured, db)
}

fn fill_sync(stage: &Stage, name: &'static str, threads: u64) -> Outcome<Row> {
    let (db, dir) = stage.fresh(name, Durability::Disk)?;
    let measured = on_threads(threads, |thread| {
        let mut value = Vec::new();
        timed(stage.keys.min(SYNCED_PUTS_MAX) / threads, Sample::Each, |number| {
            let index = number * threads + thread;
            stage.values.fill(index, &mut value);
            db.put(key(index), &value)?;
            Ok(())
        })
    })?;
    let row = write_row(name, measured, &db)?;
    stage.discard(db, &dir)?;
    Ok(row)
}

/// Runs `body` on so many threads at once, with their numbers.
fn on_threads(threads: u64, body: impl Fn(u64) -> Outcome<Measured> + Sync) -> Outcome<Measured> {
    let parts: Outcome<Vec<Measured>> = thread::scope(|scope| {
        let body = &body;
        let handles: Vec<_> = (0..threads).map(|number| scope.spawn(move || body(number))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no measuring thread panics")).collect()
    });
    Ok(Measured::side_by_side(parts?))
}
