//! The commands that only look: `get`, `scan`, `stats`, `verify`, `dump`.
//!
//! All of them open the database read-only: not one byte of it changes, and several may run at once.

use crate::escape::{escaped, hex};
use crate::failure::{Failure, Outcome};
use crate::modify::{KeyBounds, argument, bounds};
use crate::numbers;
use crate::output::Output;
use crate::place::{KeyspacePlace, Place};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tinylsm::vfs::{Vfs, os::OsVfs};
use tinylsm::{Iter, Keyspace, Slice, Stats};

/// `get KEY`
#[derive(Args)]
pub(crate) struct GetArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The key, with escapes.
    key: String,
    /// Print the value's bytes as they are, with no newline behind.
    #[arg(long)]
    raw: bool,
}

/// `scan`
#[derive(Args)]
pub(crate) struct ScanArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The first key, with escapes; from the beginning without it.
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// The first key no longer wanted, with escapes; to the end without it.
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// Only keys that begin with this, with escapes.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["from", "to"])]
    prefix: Option<String>,
    /// Largest keys first.
    #[arg(long)]
    reverse: bool,
    /// At most so many entries.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// One JSON object a line; bytes that are not UTF-8 as {"hex": "…"}.
    #[arg(long)]
    json: bool,
}

/// `stats`
#[derive(Args)]
pub(crate) struct StatsArguments {
    #[command(flatten)]
    place: Place,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// `verify`
#[derive(Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    place: Place,
}

/// `dump FILE`
#[derive(Args)]
pub(crate) struct DumpArguments {
    /// A file of a database: NNNNNN.sst, NNNNNN.wal, MANIFEST-NNNNNN, CURRENT, LOCK.
    file: PathBuf,
}

/// Prints one value, or ends with the code for a missing key.
pub(crate) fn get(arguments: &GetArguments) -> Outcome {
    let key = argument("KEY", &arguments.key)?;
    let (_db, keyspace) = arguments.place.open_to_look()?;
    let Some(value) = keyspace.get(&key)? else {
        return Err(Failure::KeyNotFound(format!("key not found: {}", escaped(&key))));
    };
    let mut out = Output::new();
    if arguments.raw {
        out.bytes(&value)?;
    } else {
        out.line(escaped(&value))?;
    }
    out.flush()
}

/// Prints the entries of a range.
pub(crate) fn scan(arguments: &ScanArguments) -> Outcome {
    let range = bounds(arguments.from.as_deref(), arguments.to.as_deref())?;
    let prefix = arguments.prefix.as_deref().map(|text| argument("--prefix", text)).transpose()?;
    let (_db, keyspace) = arguments.place.open_to_look()?;
    let entries = chosen_entries(&keyspace, range, prefix)?;
    let limit = arguments.limit.unwrap_or(usize::MAX);
    let ordered: Box<dyn Iterator<Item = tinylsm::Result<(Slice, Slice)>>> =
        if arguments.reverse { Box::new(entries.rev()) } else { Box::new(entries) };
    let mut out = Output::new();
    for entry in ordered.take(limit) {
        let (key, value) = entry?;
        if arguments.json {
            out.line(json!({ "key": json_text(&key), "value": json_text(&value) }))?;
        } else {
            out.line(format_args!("{}\t{}", escaped(&key), escaped(&value)))?;
        }
    }
    out.flush()
}

fn chosen_entries(keyspace: &Keyspace, range: KeyBounds, prefix: Option<Vec<u8>>) -> Outcome<Iter> {
    Ok(match prefix {
        Some(prefix) => keyspace.prefix(prefix)?,
        None => keyspace.range(range)?,
    })
}

/// Gives bytes a form in JSON that `load` reads back: text where they are text, hexadecimal where not.
fn json_text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// Prints what the database consists of.
pub(crate) fn stats(arguments: &StatsArguments) -> Outcome {
    let db = arguments.place.open_to_look()?;
    let stats = db.stats();
    let files = files_in(&arguments.place.db)?;
    let mut out = Output::new();
    if arguments.json {
        let object = stats_json(&stats, &files);
        out.line(
            serde_json::to_string_pretty(&object).expect("numbers and strings always have a JSON form"),
        )?;
    } else {
        print_stats(&mut out, &arguments.place.db, &stats, &files)?;
    }
    out.flush()
}

/// Lists what is in the directory, by name, with lengths.
fn files_in(dir: &Path) -> Outcome<Vec<(String, u64)>> {
    let disk = OsVfs::new();
    let names = disk.read_dir(dir)?.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name);
    names.map(|name| Ok((name.clone(), disk.metadata(&dir.join(name))?.len))).collect()
}

/// Returns how many log segments there are and how many bytes they take, those allocated ahead included.
fn log_of(files: &[(String, u64)]) -> (u64, u64) {
    let segments = files.iter().filter(|(name, _)| name.ends_with(".wal"));
    segments.fold((0, 0), |(count, bytes), (_, len)| (count + 1, bytes + len))
}

fn print_stats(out: &mut Output, dir: &Path, stats: &Stats, files: &[(String, u64)]) -> Outcome {
    let (segments_count, segments_len_bytes) = log_of(files);
    out.line(format_args!("database         {}", dir.display()))?;
    out.line(format_args!("last sequence    {}", numbers::count(stats.last_seq.get())))?;
    out.line(format_args!(
        "write-ahead log  {}, {} with what is allocated ahead",
        numbers::counted(segments_count, "segment"),
        numbers::bytes(segments_len_bytes)
    ))?;
    for keyspace in &stats.keyspaces {
        out.line("")?;
        out.line(format_args!("keyspace \"{}\"  ordered by {}", keyspace.name, keyspace.comparator))?;
        if keyspace.levels.iter().all(|level| level.files == 0) {
            out.line("  no tables; what it has is in the log")?;
            continue;
        }
        out.line(format_args!("  {:>5} {:>7} {:>12} {:>12}", "level", "files", "size", "entries"))?;
        for (number, level) in keyspace.levels.iter().enumerate().filter(|(_, level)| level.files > 0) {
            out.line(format_args!(
                "  {:>5} {:>7} {:>12} {:>12}",
                number,
                numbers::count(level.files as u64),
                numbers::bytes(level.bytes),
                numbers::count(level.entries)
            ))?;
        }
    }
    out.line("")?;
    out.line(numbers::counted(files.len() as u64, "file"))?;
    for (name, len_bytes) in files {
        out.line(format_args!("  {name:<16} {:>12}", numbers::bytes(*len_bytes)))?;
    }
    Ok(())
}

fn stats_json(stats: &Stats, files: &[(String, u64)]) -> Value {
    let (_, wal_len_bytes) = log_of(files);
    let keyspaces: Vec<Value> = stats
        .keyspaces
        .iter()
        .map(|keyspace| {
            let levels: Vec<Value> = keyspace
                .levels
                .iter()
                .map(|level| json!({ "files": level.files, "bytes": level.bytes, "entries": level.entries }))
                .collect();
            json!({ "name": keyspace.name, "comparator": keyspace.comparator, "levels": levels })
        })
        .collect();
    let files: Vec<Value> =
        files.iter().map(|(name, len_bytes)| json!({ "name": name, "bytes": len_bytes })).collect();
    json!({
        "last_seq": stats.last_seq.get(),
        "wal_bytes": wal_len_bytes,
        "keyspaces": keyspaces,
        "files": files,
    })
}

/// Reads everything and reports how much that was; the first damage ends it with file and offset.
pub(crate) fn verify(arguments: &VerifyArguments) -> Outcome {
    let started = Instant::now();
    let db = arguments.place.open_to_look()?;
    let report = db.verify()?;
    let mut out = Output::new();
    out.line(format_args!(
        "all right: {}, {}, {}, {} read and checked in {}; manifest and log read",
        numbers::counted(report.files, "table"),
        numbers::counted(report.blocks, "block"),
        numbers::counted(report.entries, "entry"),
        numbers::bytes(report.bytes),
        numbers::span(started.elapsed())
    ))?;
    out.flush()
}

/// Prints one file as text. Needs no database around it.
pub(crate) fn dump(arguments: &DumpArguments) -> Outcome {
    let mut out = Output::new();
    let dumped = tinylsm::inspect::dump_file(&OsVfs::new(), &arguments.file, &mut out);
    // An output that broke reaches us as the dump's failure too; its own reason is the better one.
    out.check()?;
    out.flush()?;
    Ok(dumped?)
}
