//! `demo`: what the engine is for, on real data, in one command.
//!
//! Loads the Unicode Character Database, looks up and scans it, lets a second process write synced batches and kills
//! it in the middle, recovers, and proves that every acknowledged batch is there and nothing but a prefix is. Every
//! answer is compared with what it must be; one that differs ends the command with exit code 1.
//!
//! A killed process loses nothing that the system has accepted, so this shows recovery of the process, not of the
//! disk. Power cuts, torn sectors and lost names are the simulator's work: `cargo sim`.

mod crash;
pub(crate) mod unicode;
pub(crate) mod writer;

use crate::demo::unicode::Record;
use crate::escape::{escaped, shown};
use crate::failure::{Failure, Outcome};
use crate::numbers;
use crate::output::Output;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tinylsm::{Db, Options, WriteBatch, WriteOptions};

/// Records of one batch of the load.
const LOAD_BATCH_RECORDS: usize = 500;
/// Random lookups that are timed.
const LOOKUPS_COUNT: u64 = 200_000;
/// Times the whole database is scanned, each way.
const SCANS_COUNT: u64 = 5;

/// `demo`
#[derive(Args)]
pub(crate) struct DemoArguments {
    /// A directory for the database, which must be empty or missing; it is kept. A temporary one without this.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long the writer may write before it is killed.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 700, value_parser = numbers::parsed::<u64>)]
    kill_after_ms: u64,
}

/// Runs the demonstration.
pub(crate) fn run(arguments: &DemoArguments) -> Outcome {
    let temporary;
    let dir = match &arguments.dir {
        Some(dir) => {
            must_be_empty(dir)?;
            dir.clone()
        }
        None => {
            temporary = tempfile::tempdir()
                .map_err(|error| Failure::system("cannot make a temporary directory", &error))?;
            temporary.path().join("db")
        }
    };
    let started = Instant::now();
    let mut out = Output::new();
    out.text(format_args!("TinyLSM {}: a demonstration in {}", env!("CARGO_PKG_VERSION"), shown(&dir)))?;

    let records = unicode::records();
    let db = open(&dir)?;
    load(&db, &records, &mut out)?;
    look_up(&db, &records, &mut out)?;
    scan(&db, &records, &mut out)?;
    db.close()?;

    let acknowledged =
        crash::write_until_killed(&dir, Duration::from_millis(arguments.kill_after_ms), &mut out)?;
    let db = crash::recover_and_prove(&dir, acknowledged, &mut out)?;
    final_check(&db, &records, &mut out)?;
    db.close()?;
    out.text(format_args!("\nAll as it must be, in {}.", numbers::span(started.elapsed())))?;
    out.flush()
}

fn must_be_empty(dir: &Path) -> Outcome {
    let Ok(mut entries) = std::fs::read_dir(dir) else {
        return Ok(());
    };
    if entries.next().is_some() {
        return Err(Failure::Usage(format!(
            "{} is not empty; the demonstration wants a new directory",
            shown(dir)
        )));
    }
    Ok(())
}

/// Opens the database with memtables so small that even two megabytes make several tables and a compaction.
pub(crate) fn open(dir: &Path) -> Outcome<Db> {
    let options = Options::default().memtable_bytes(1 << 20);
    Ok(Db::builder(dir).options(options).open()?)
}

/// Ends the demonstration if `holds` is false.
pub(crate) fn must(holds: bool, promise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failure::engine(format!("the demonstration failed: {}", promise()))) }
}

fn load(db: &Db, records: &[Record], out: &mut Output) -> Outcome {
    let started = Instant::now();
    let mut bytes = 0;
    for chunk in records.chunks(LOAD_BATCH_RECORDS) {
        let mut batch = WriteBatch::new();
        for record in chunk {
            batch.put(db.default_keyspace(), &record.key, record.value);
            bytes += (record.key.len() + record.value.len()) as u64;
        }
        db.write(&batch, WriteOptions::os())?;
    }
    db.sync()?;
    let taken = started.elapsed();
    db.flush()?;
    db.wait_idle()?;
    let count = records.len() as u64;
    out.text("\n1. Load")?;
    out.text(format_args!(
        "   {} records of the Unicode Character Database {}, {}, synced, in {}:",
        numbers::count(count),
        unicode::VERSION,
        numbers::bytes(bytes),
        numbers::span(taken)
    ))?;
    out.text(format_args!(
        "   {} records/s, {}",
        numbers::rate(count, taken),
        numbers::throughput(bytes, taken)
    ))?;
    let stats = db.stats();
    let levels = stats.keyspaces.iter().flat_map(|keyspace| keyspace.levels.iter().enumerate());
    let tables: Vec<String> = levels
        .filter(|(_, level)| level.files > 0)
        .map(|(number, level)| format!("{} in level {number} ({})", level.files, numbers::bytes(level.bytes)))
        .collect();
    out.text(format_args!(
        "   tables after {}: {}",
        numbers::counted(stats.flushes, "flush"),
        tables.join(", ")
    ))?;
    out.flush()
}

fn look_up(db: &Db, records: &[Record], out: &mut Output) -> Outcome {
    out.text("\n2. Look up")?;
    for (code, name) in [(0x41, "LATIN CAPITAL LETTER A"), (0x20AC, "EURO SIGN"), (0x1F980, "CRAB")] {
        let value = db.get(unicode::key(code))?;
        let found = value.as_deref().map(unicode::name_of);
        must(found == Some(name.as_bytes()), || format!("U+{code:04X} should be {name}, but is {found:?}"))?;
        let character = char::from_u32(code).expect("the three codes are characters");
        out.text(format_args!("   U+{code:04X} {character} {name}"))?;
    }
    must(db.get(unicode::key(0x0378))?.is_none(), || "U+0378 is not assigned, but was found".to_owned())?;
    out.text("   U+0378 is not assigned: not found, as it must be")?;

    let started = Instant::now();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..LOOKUPS_COUNT {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = usize::try_from(random >> 33).expect("31 bits fit") % records.len();
        let record = &records[index];
        let value = db.get(&record.key)?;
        must(value.as_deref() == Some(record.value), || {
            format!("a wrong value for {}", escaped(&record.key))
        })?;
    }
    let taken = started.elapsed();
    out.text(format_args!(
        "   {} random lookups, each value compared with the file: {} lookups/s",
        numbers::count(LOOKUPS_COUNT),
        numbers::rate(LOOKUPS_COUNT, taken)
    ))?;
    out.flush()
}

fn scan(db: &Db, records: &[Record], out: &mut Output) -> Outcome {
    out.text("\n3. Scan")?;
    let arrows = unicode::key(0x2190)..=unicode::key(0x21FF);
    let expected: Vec<&Record> = records.iter().filter(|record| arrows.contains(&record.key)).collect();
    let forwards: Vec<_> = db.range(arrows.clone())?.collect::<tinylsm::Result<_>>()?;
    let mut backwards: Vec<_> = db.range(arrows)?.rev().collect::<tinylsm::Result<_>>()?;
    backwards.reverse();
    must(forwards == backwards, || "a range scanned backwards differs from forwards".to_owned())?;
    must(forwards.len() == expected.len(), || {
        format!("{} arrows instead of {}", forwards.len(), expected.len())
    })?;
    let is_exact = forwards
        .iter()
        .zip(&expected)
        .all(|((key, value), record)| **key == *record.key && **value == *record.value);
    must(is_exact, || "an arrow differs from the file".to_owned())?;
    let name = |at: usize| String::from_utf8_lossy(unicode::name_of(expected[at].value));
    out.text(format_args!("   the arrows, U+2190 {} to U+21FF {}:", name(0), name(expected.len() - 1)))?;
    out.text(format_args!("   {} records forwards, the same {} backwards", forwards.len(), backwards.len()))?;

    let total = SCANS_COUNT * records.len() as u64;
    let started = Instant::now();
    for _ in 0..SCANS_COUNT {
        compare_whole(db, records)?;
    }
    out.text(format_args!(
        "   the whole database forwards:  {} records/s",
        numbers::rate(total, started.elapsed())
    ))?;
    let started = Instant::now();
    for _ in 0..SCANS_COUNT {
        let mut expected = records.iter().rev();
        for entry in db.iter()?.rev() {
            let (key, value) = entry?;
            let same = expected.next().is_some_and(|it| *key == *it.key && *value == *it.value);
            must(same, || format!("scanning backwards, {} is wrong", escaped(&key)))?;
        }
        must(expected.next().is_none(), || "a backward scan ended early".to_owned())?;
    }
    out.text(format_args!(
        "   the whole database backwards: {} records/s",
        numbers::rate(total, started.elapsed())
    ))?;
    out.flush()
}

/// Compares the default keyspace with the file, record by record.
fn compare_whole(db: &Db, records: &[Record]) -> Outcome {
    let mut expected = records.iter();
    for entry in db.iter()? {
        let (key, value) = entry?;
        let same = expected.next().is_some_and(|it| *key == *it.key && *value == *it.value);
        must(same, || format!("scanning forwards, {} is wrong", escaped(&key)))?;
    }
    must(expected.next().is_none(), || "a forward scan ended early".to_owned())
}

fn final_check(db: &Db, records: &[Record], out: &mut Output) -> Outcome {
    compare_whole(db, records)?;
    let started = Instant::now();
    let report = db.verify()?;
    out.text("\n6. Verify")?;
    out.text(format_args!(
        "   all {} Unicode records are as they were loaded",
        numbers::count(records.len() as u64)
    ))?;
    out.text(format_args!(
        "   {}, {}, {}, {} read and checked in {}",
        numbers::counted(report.files, "file"),
        numbers::counted(report.blocks, "block"),
        numbers::counted(report.entries, "entry"),
        numbers::bytes(report.bytes),
        numbers::span(started.elapsed())
    ))?;
    out.flush()
}
