//! The commands that change a database on purpose, one step at a time: `put`, `delete`, `compact`.
//!
//! Each is synced before it reports success, and closes the database so that a failure of the end is heard.

use crate::escape::unescaped;
use crate::failure::{Failure, Outcome};
use crate::numbers;
use crate::output::Output;
use crate::place::KeyspacePlace;
use clap::Args;
use std::ops::Bound;
use std::time::Instant;

/// `put KEY VALUE`
#[derive(Args)]
pub(crate) struct PutArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The key, with escapes.
    key: String,
    /// The value, with escapes.
    value: String,
}

/// `delete KEY`
#[derive(Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The key, with escapes.
    key: String,
}

/// `compact`
#[derive(Args)]
pub(crate) struct CompactArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The first key to merge, with escapes; from the beginning without it.
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// The first key no longer to merge, with escapes; to the end without it.
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
}

/// Understands an argument's escapes.
pub(crate) fn argument(name: &str, text: &str) -> Outcome<Vec<u8>> {
    unescaped(text.as_bytes()).map_err(|problem| Failure::Usage(format!("{name}: {problem}")))
}

/// A range of keys, as the engine takes it.
pub(crate) type KeyBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Makes the bounds of a range from the arguments `--from` (included) and `--to` (not included).
pub(crate) fn bounds(from: Option<&str>, to: Option<&str>) -> Outcome<KeyBounds> {
    let lower = from.map(|text| argument("--from", text)).transpose()?;
    let upper = to.map(|text| argument("--to", text)).transpose()?;
    Ok((lower.map_or(Bound::Unbounded, Bound::Included), upper.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// Gives a key a value and returns when it is on disk.
pub(crate) fn put(arguments: &PutArguments) -> Outcome {
    let key = argument("KEY", &arguments.key)?;
    let value = argument("VALUE", &arguments.value)?;
    let (db, keyspace) = arguments.place.open_or_create()?;
    keyspace.put(key, value)?;
    Ok(db.close()?)
}

/// Deletes a key and returns when that is on disk.
pub(crate) fn delete(arguments: &DeleteArguments) -> Outcome {
    let key = argument("KEY", &arguments.key)?;
    let (db, keyspace) = arguments.place.open_to_change()?;
    keyspace.delete(key)?;
    Ok(db.close()?)
}

/// Merges a range of keys to the last level and reports sizes before and after.
pub(crate) fn compact(arguments: &CompactArguments) -> Outcome {
    let range = bounds(arguments.from.as_deref(), arguments.to.as_deref())?;
    let (db, keyspace) = arguments.place.open_to_change()?;
    let size = |db: &tinylsm::Db| -> (u64, u64) {
        let stats = db.stats();
        let levels =
            stats.keyspaces.iter().filter(|it| it.name == arguments.place.keyspace).flat_map(|it| &it.levels);
        levels.fold((0, 0), |(files, bytes), level| (files + level.files as u64, bytes + level.bytes))
    };
    let started = Instant::now();
    db.flush()?;
    let (files_before, bytes_before) = size(&db);
    db.compact_range(&keyspace, range)?;
    db.wait_idle()?;
    let (files_after, bytes_after) = size(&db);
    let taken = started.elapsed();
    db.close()?;
    Output::new().line(format_args!(
        "compacted {} of {} into {} of {} in {}",
        numbers::counted(files_before, "table"),
        numbers::bytes(bytes_before),
        numbers::count(files_after),
        numbers::bytes(bytes_after),
        numbers::span(taken)
    ))
}
