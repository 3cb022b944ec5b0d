//! The commands that change a database on purpose, one step at a time: `put`, `delete`, `compact`.
//!
//! Each is synced before it reports success, and closes the database so that a failure of the end is heard. What was done
//! before something failed is said first: a full disk can keep a database from being closed in good order, and takes
//! nothing back.

use crate::escape::unescaped;
use crate::failure::{Failure, Outcome};
use crate::numbers;
use crate::output::Output;
use crate::place::KeyspacePlace;
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::time::Instant;
use tinylsm::{
    BackgroundError, Db, Error, ErrorKind, KEY_LEN_BYTES_MAX, Keyspace, Stats, VALUE_LEN_BYTES_MAX,
};

/// `put KEY VALUE`
#[derive(Args)]
pub(crate) struct PutArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The key, with escapes.
    #[arg(allow_negative_numbers = true)]
    key: OsString,
    /// The value, with escapes.
    #[arg(allow_negative_numbers = true)]
    value: OsString,
}

/// `delete KEY`
#[derive(Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The key, with escapes.
    #[arg(allow_negative_numbers = true)]
    key: OsString,
}

/// `compact`
#[derive(Args)]
pub(crate) struct CompactArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The first key to merge, with escapes; from the beginning without it.
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    from: Option<OsString>,
    /// The first key no longer to merge, with escapes; to the end without it.
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    to: Option<OsString>,
}

/// Understands an argument's escapes.
pub(crate) fn argument(name: &str, text: &OsStr) -> Outcome<Vec<u8>> {
    let bytes = bytes_of(text).ok_or_else(|| {
        Failure::Usage(format!("{name}: this is no text in Unicode; write its bytes as \\xNN"))
    })?;
    unescaped(bytes).map_err(|problem| Failure::Usage(format!("{name}: {problem}")))
}

/// Returns an argument's bytes, which need not be UTF-8.
#[cfg(unix)]
pub(crate) fn bytes_of(text: &OsStr) -> Option<&[u8]> {
    Some(std::os::unix::ffi::OsStrExt::as_bytes(text))
}

/// Returns an argument's bytes; arguments are text on this system, and `None` stands for what is none.
#[cfg(not(unix))]
pub(crate) fn bytes_of(text: &OsStr) -> Option<&[u8]> {
    text.to_str().map(str::as_bytes)
}

/// A range of keys, as the engine takes it.
pub(crate) type KeyBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Makes the bounds of a range from the arguments `--from` (included) and `--to` (not included).
pub(crate) fn bounds(from: Option<&OsStr>, to: Option<&OsStr>) -> Outcome<KeyBounds> {
    let lower = from.map(|text| argument("--from", text)).transpose()?;
    let upper = to.map(|text| argument("--to", text)).transpose()?;
    Ok((lower.map_or(Bound::Unbounded, Bound::Included), upper.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// Gives a key a value and returns when it is on disk.
pub(crate) fn put(arguments: &PutArguments) -> Outcome {
    let key = argument("KEY", &arguments.key)?;
    let value = argument("VALUE", &arguments.value)?;
    // Before a database is created for them.
    for (what, len, len_max) in
        [("key", key.len(), KEY_LEN_BYTES_MAX), ("value", value.len(), VALUE_LEN_BYTES_MAX)]
    {
        if len > len_max {
            return Err(Failure::Usage(format!("the {what} has {len} bytes; at most {len_max} are allowed")));
        }
    }
    let (db, keyspace) = arguments.place.open_or_create()?;
    if let Err(error) = keyspace.put(key, value) {
        return Err(given_up(db, |db| not_written(db, error)));
    }
    close(db, "the value is in the database and on disk")
}

/// Deletes a key and returns when that is on disk.
pub(crate) fn delete(arguments: &DeleteArguments) -> Outcome {
    let key = argument("KEY", &arguments.key)?;
    let (db, keyspace) = arguments.place.open_to_change()?;
    if let Err(error) = keyspace.delete(key) {
        return Err(given_up(db, |db| not_written(db, error)));
    }
    close(db, "deleted, and that is on disk")
}

/// Says what became of a write that failed.
pub(crate) fn not_written(db: &Db, error: Error) -> Failure {
    let is_in_doubt = is_in_doubt(db, error.kind());
    let failure = Failure::from(error);
    if !matches!(failure, Failure::Engine(..)) {
        return failure;
    }
    let became = match is_in_doubt {
        true => "failed, and only the next opening shows whether it is done or not",
        false => "nothing was changed",
    };
    failure.retold(|text| format!("{became}: {text}"))
}

/// Tells whether a write that failed like this may be in the log all the same: only a failure of the log turns writing off, and
/// what is refused because it is off was not attempted.
pub(crate) fn is_in_doubt(db: &Db, kind: ErrorKind) -> bool {
    kind != ErrorKind::ReadOnly && db.background_errors().iter().any(|error| error.job == "writing")
}

/// Closes the database behind a failure, which is what is told: so that nothing of the attempt stays on a full disk.
pub(crate) fn given_up(db: Db, failure: impl FnOnce(&Db) -> Failure) -> Failure {
    let failure = failure(&db);
    drop(db.close());
    failure
}

/// Closes the database behind what `done` tells; that stands, whatever closing meets.
pub(crate) fn close(db: Db, done: &str) -> Outcome {
    db.close().map_err(|error| Failure::after(done, CLOSING, &error))
}

/// How a failure of closing is introduced: what was synced before is safe, and recovery does what closing did not.
pub(crate) const CLOSING: &str = "nothing of it is lost, but closing";

/// Merges a range of keys to the last level and reports what that changed.
pub(crate) fn compact(arguments: &CompactArguments) -> Outcome {
    let range = bounds(arguments.from.as_deref(), arguments.to.as_deref())?;
    let (db, keyspace) = arguments.place.open_to_change()?;
    let started = Instant::now();
    let (before, after) = match merge(&db, &keyspace, range) {
        Ok(figures) => figures,
        Err(error) => return Err(given_up(db, |_| error.into())),
    };
    let taken = started.elapsed();
    let report = what_changed(&arguments.place.keyspace, &before, &after);
    let mut out = Output::new();
    out.text(format_args!("{report}, in {}", numbers::span(taken)))?;
    out.flush()?;
    close(db, "merged as reported")
}

/// Merges a range, and returns the figures before and after.
fn merge(db: &Db, keyspace: &Keyspace, range: KeyBounds) -> Result<(Stats, Stats), Error> {
    db.flush()?;
    let before = db.stats();
    db.compact_range(keyspace, range)?;
    if let Err(error) = db.wait_idle() {
        // What merges of other keyspaces meet is not this one's.
        let is_of_others =
            |told: &BackgroundError| told.keyspace.as_deref().is_some_and(|name| name != keyspace.name());
        if !db.background_errors().iter().all(is_of_others) {
            return Err(error);
        }
    }
    Ok((before, db.stats()))
}

/// Says what happened to a keyspace's tables between two looks.
fn what_changed(keyspace: &str, before: &Stats, after: &Stats) -> String {
    let size = |stats: &Stats| {
        let levels = stats.keyspaces.iter().filter(|it| it.name == keyspace).flat_map(|it| &it.levels);
        levels.fold((0, 0), |(files, bytes), level| (files + level.files as u64, bytes + level.bytes))
    };
    let ((files_before, bytes_before), (files_after, bytes_after)) = (size(before), size(after));
    let merges = after.compactions - before.compactions;
    let moves = after.trivial_moves - before.trivial_moves;
    let tables_before =
        format!("{} of {}", numbers::counted(files_before, "table"), numbers::bytes(bytes_before));
    match (merges, moves) {
        (0, 0) => format!("nothing to merge: {tables_before}, unchanged"),
        (0, _) => format!("nothing to merge: {tables_before}, moved down unchanged"),
        _ => format!(
            "compacted {tables_before} into {} of {} by {}",
            numbers::count(files_after),
            numbers::bytes(bytes_after),
            numbers::counted(merges, "merge")
        ),
    }
}
