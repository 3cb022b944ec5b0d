//! The commands that only look: `get`, `scan`, `stats`, `verify`, `dump`.
//!
//! All of them open the database read-only: not one byte of it changes, and several may run at once.

use crate::escape::{escaped, hex, shown};
use crate::failure::{Failure, Outcome, text_of};
use crate::modify::{KeyBounds, argument, bounds};
use crate::numbers;
use crate::output::Output;
use crate::place::{KeyspacePlace, Place};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tinylsm::format::names::FileName;
use tinylsm::vfs::{Vfs, os::OsVfs};
use tinylsm::{BackgroundError, ErrorKind, Iter, Keyspace, Slice, Stats};

/// `get KEY`
#[derive(Args)]
pub(crate) struct GetArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The key, with escapes.
    #[arg(allow_negative_numbers = true)]
    key: OsString,
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
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    from: Option<OsString>,
    /// The first key no longer wanted, with escapes; to the end without it.
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    to: Option<OsString>,
    /// Only keys that begin with this, with escapes.
    #[arg(long, value_name = "KEY", allow_negative_numbers = true, conflicts_with_all = ["from", "to"])]
    prefix: Option<OsString>,
    /// Largest keys first.
    #[arg(long)]
    reverse: bool,
    /// At most so many entries.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = numbers::parsed::<usize>)]
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
    /// A file of a database: NNNNNN.sst, NNNNNN.wal, MANIFEST-NNNNNN, CURRENT. A table or log may have another name.
    file: PathBuf,
    /// The directory to look for FILE in, so that its name is enough.
    #[arg(long, value_name = "DIR")]
    db: Option<PathBuf>,
}

/// Prints one value, or ends with the code for a missing key.
pub(crate) fn get(arguments: &GetArguments) -> Outcome {
    let key = argument("KEY", &arguments.key)?;
    let (_db, keyspace) = arguments.place.open_to_look()?;
    let Some(value) = keyspace.get(&key)? else {
        return Err(Failure::KeyNotFound(format!("key not found: {}", shortened(&key))));
    };
    let mut out = Output::new();
    if arguments.raw {
        out.bytes(&value)?;
    } else {
        out.line(escaped(&value))?;
    }
    out.flush()
}

/// Returns a key as a message shows it: whole, unless it is very long.
fn shortened(key: &[u8]) -> String {
    const SHOWN_LEN_BYTES_MAX: usize = 200;
    match key.get(..SHOWN_LEN_BYTES_MAX) {
        Some(head) if head.len() < key.len() => {
            format!("{}… ({} bytes)", escaped(head), numbers::count(key.len() as u64))
        }
        _ => escaped(key),
    }
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
            out.json(json_row(&key, &value))?;
        } else {
            out.line(tsv_row(&key, &value))?;
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

/// Returns an entry as a line that `load` reads back.
pub(crate) fn tsv_row(key: &[u8], value: &[u8]) -> String {
    format!("{}\t{}", escaped(key), escaped(value))
}

/// Returns an entry as a JSON object that `load` reads back.
pub(crate) fn json_row(key: &[u8], value: &[u8]) -> Value {
    json!({ "key": json_text(key), "value": json_text(value) })
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
    let files = files_in(&arguments.place.db, &stats)?;
    let damages = db.background_errors();
    let mut out = Output::new();
    if arguments.json {
        let object = stats_json(&stats, &damages, &files);
        out.json(
            serde_json::to_string_pretty(&object).expect("numbers and strings always have a JSON form"),
        )?;
    } else {
        print_stats(&mut out, &arguments.place.db, &stats, &damages, &files)?;
    }
    out.flush()
}

/// A file of the directory, or one that should be there.
struct FileFound {
    name: String,
    /// None if it is missing, or does not belong here and has no size: a link that leads nowhere, for one.
    len_bytes: Option<u64>,
    role: Role,
}

/// What a file is to the database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It belongs to it.
    Live,
    /// It did, or was to: a command that ended early left it.
    Leftover,
    /// It never did.
    Foreign,
    /// It belongs to it and is not there.
    Missing,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Live => "live",
            Role::Leftover => "leftover",
            Role::Foreign => "foreign",
            Role::Missing => "missing",
        }
    }

    /// Returns what to tell of it beside its size.
    fn remark(self) -> &'static str {
        match self {
            Role::Live | Role::Missing => "",
            Role::Leftover => "  left over: a command that writes removes it",
            Role::Foreign => "  not the database's",
        }
    }
}

/// Lists what is in the directory, and what should be, by name.
fn files_in(dir: &Path, stats: &Stats) -> Outcome<Vec<FileFound>> {
    let disk = OsVfs::new();
    // A copy may lack the lock, and a reader makes none.
    let expected = stats.live_files.iter().filter(|name| *name != "LOCK");
    let mut found: BTreeMap<String, FileFound> = expected
        .map(|name| (name.clone(), FileFound { name: name.clone(), len_bytes: None, role: Role::Missing }))
        .collect();
    for entry in disk.read_dir(dir)?.into_iter().filter(|entry| !entry.is_dir) {
        let name = entry.name;
        let role = match FileName::parse(&name) {
            Some(FileName::Lock) => Role::Live,
            Some(_) if found.contains_key(&name) => Role::Live,
            Some(_) => Role::Leftover,
            None => Role::Foreign,
        };
        let len_bytes = match disk.metadata(&dir.join(&name)) {
            Ok(metadata) => Some(metadata.len),
            Err(_) if role != Role::Live => None,
            // It is missing by now.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        found.insert(name.clone(), FileFound { name, len_bytes, role });
    }
    Ok(found.into_values().collect())
}

/// Returns how many log segments belong to the database and how many bytes they take.
fn log_of(files: &[FileFound]) -> (u64, u64) {
    let segments = files.iter().filter(|file| file.role == Role::Live && file.name.ends_with(".wal"));
    segments.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.len_bytes.unwrap_or(0)))
}

/// Returns what a degraded opening found wrong with a keyspace; one table of several.
fn damage_of(damages: &[BackgroundError], keyspace: &str) -> Option<String> {
    let damage = damages.iter().find(|damage| damage.keyspace.as_deref() == Some(keyspace))?;
    Some(text_of(&damage.error))
}

fn print_stats(
    out: &mut Output,
    dir: &Path,
    stats: &Stats,
    damages: &[BackgroundError],
    files: &[FileFound],
) -> Outcome {
    let (segments_count, segments_len_bytes) = log_of(files);
    out.text(format_args!("database         {}", shown(dir)))?;
    out.line(format_args!("last sequence    {}", numbers::count(stats.last_seq.get())))?;
    out.text(format_args!(
        "write-ahead log  {}, {} with what is allocated ahead",
        numbers::counted(segments_count, "segment"),
        numbers::bytes(segments_len_bytes)
    ))?;
    for keyspace in &stats.keyspaces {
        out.line("")?;
        let (name, order) = (escaped(keyspace.name.as_bytes()), escaped(keyspace.comparator.as_bytes()));
        out.text(format_args!("keyspace \"{name}\"  ordered by {order}"))?;
        if let Some(damage) = damage_of(damages, &keyspace.name) {
            out.text(format_args!("  damaged: {damage}"))?;
        }
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
    print_files(out, files)
}

fn print_files(out: &mut Output, files: &[FileFound]) -> Outcome {
    out.line("")?;
    let present_count = files.iter().filter(|file| file.role != Role::Missing).count();
    out.line(numbers::counted(present_count as u64, "file"))?;
    for FileFound { name, len_bytes, role } in files {
        let name = escaped(name.as_bytes());
        let without_size = if *role == Role::Missing { "missing" } else { "no size" };
        let size = len_bytes.map_or(without_size.to_owned(), numbers::bytes);
        out.text(format_args!("  {name:<16} {size:>12}{}", role.remark()))?;
    }
    Ok(())
}

fn stats_json(stats: &Stats, damages: &[BackgroundError], files: &[FileFound]) -> Value {
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
            let damage = damage_of(damages, &keyspace.name);
            json!({
                "name": keyspace.name,
                "comparator": keyspace.comparator,
                "levels": levels,
                "damage": damage,
            })
        })
        .collect();
    let files: Vec<Value> = files
        .iter()
        .map(|file| json!({ "name": file.name, "bytes": file.len_bytes, "role": file.role.name() }))
        .collect();
    json!({
        "last_seq": stats.last_seq.get(),
        "wal_bytes": wal_len_bytes,
        "keyspaces": keyspaces,
        "files": files,
    })
}

/// Reads everything and reports how much of it is in order, with each table that is not by file and offset.
pub(crate) fn verify(arguments: &VerifyArguments) -> Outcome {
    let started = Instant::now();
    let db = arguments.place.open_to_look()?;
    let mut damages = Vec::new();
    let report = db.verify_all(|keyspace, error| {
        damages.push(format!("keyspace \"{}\": {}", escaped(keyspace.as_bytes()), text_of(&error)));
    })?;
    let in_log = db.stats().keyspaces.iter().map(|keyspace| keyspace.unflushed_entries).sum();
    let mut out = Output::new();
    for damage in &damages {
        out.text(damage)?;
    }
    out.text(format_args!(
        "{}: {}, {}, {}, {} read and checked;\n  {} more in the log; manifest and log read; {}",
        if damages.is_empty() { "all right" } else { "the rest is all right" },
        numbers::counted(report.files, "table"),
        numbers::counted(report.blocks, "block"),
        numbers::counted(report.entries, "entry"),
        numbers::bytes(report.bytes),
        numbers::counted(in_log, "entry"),
        numbers::span(started.elapsed())
    ))?;
    out.flush()?;
    let Some(first) = damages.first() else { return Ok(()) };
    let text = match damages.len() {
        1 => format!("1 table is damaged: {first}"),
        count => format!("{count} tables are damaged, the first: {first}"),
    };
    let hint =
        "Everything else can be read and written. Only a copy of the directory brings back what is damaged.";
    Err(Failure::Engine(text, Some(hint.to_owned())))
}

/// Prints one file as text. Needs no database around it.
pub(crate) fn dump(arguments: &DumpArguments) -> Outcome {
    let file = arguments.db.as_ref().map_or(arguments.file.clone(), |dir| dir.join(&arguments.file));
    check_is_file(&file)?;
    let mut out = Output::new();
    let dumped = tinylsm::inspect::dump_file(&OsVfs::new(), &file, &mut out);
    // An output that broke reaches us as the dump's failure too; its own reason is the better one.
    out.check()?;
    out.flush()?;
    // What can be done about a damaged file is what is being done.
    dumped.map_err(|error| match Failure::from(error) {
        Failure::Engine(text, _) => Failure::engine(text),
        other => other,
    })
}

/// Says of what is no file which files can be dumped.
fn check_is_file(file: &Path) -> Outcome {
    let name = shown(file);
    if file.is_dir() {
        return Err(Failure::Usage(match files_to_dump(file) {
            Some(names) => format!("{name}: this is a directory; name one of its files: {names}"),
            None => format!("{name}: this is a directory, and no file in it is a database's"),
        }));
    }
    if file.try_exists().unwrap_or(true) {
        return Ok(());
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        return Err(Failure::engine(format!("{}: there is no such directory", shown(dir))));
    }
    Err(Failure::engine(match files_to_dump(dir) {
        Some(names) => format!("{name}: there is no such file; the directory has {names}"),
        None => format!("{name}: there is no such file"),
    }))
}

/// Names the files of a directory that say something when they are dumped, or the first of them; none if it has none.
fn files_to_dump(dir: &Path) -> Option<String> {
    const NAMES_MAX: usize = 8;
    let entries = OsVfs::new().read_dir(dir).ok()?;
    let says_something = |name: &String| {
        use FileName::{Current, Manifest, Table, Wal};
        matches!(FileName::parse(name), Some(Current | Manifest(_) | Table(_) | Wal(_)))
    };
    let files = entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name);
    let mut names: Vec<String> = files.filter(says_something).collect();
    names.sort();
    let more_count = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let listed = names.join(", ");
    match (names.len(), more_count) {
        (0, _) => None,
        (_, 0) => Some(listed),
        _ => Some(format!("{listed} and {}", numbers::counted(more_count as u64, "other"))),
    }
}
