//! The process that is killed: writes numbered batches, each synced, and reports each number once the engine has
//! acknowledged it.
//!
//! Batch `n` puts [`ENTRIES_PER_BATCH`] entries into the keyspace `ledger` and `n` itself into the keyspace
//! `progress`, in one atomic write over both. [`crate::demo::crash`] knows from this what must be found afterwards.

use crate::demo::open;
use crate::failure::{Failure, Outcome};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use tinylsm::{KeyspaceOptions, WriteBatch, WriteOptions};

/// The keyspace of the entries.
pub(crate) const LEDGER: &str = "ledger";
/// The keyspace of the counter.
pub(crate) const PROGRESS: &str = "progress";
/// The one key in [`PROGRESS`]: the number of the last batch.
pub(crate) const LAST_KEY: &str = "last";
/// Entries of one batch in [`LEDGER`].
pub(crate) const ENTRIES_PER_BATCH: u64 = 10;

/// `demo-writer DIR`
#[derive(Args)]
pub(crate) struct WriterArguments {
    /// The directory of the demonstration's database.
    dir: PathBuf,
}

/// Returns the key of entry `index` of batch `number`; keys sort as batches were written.
pub(crate) fn entry_key(number: u64, index: u64) -> Vec<u8> {
    format!("{number:010}/{index:02}").into_bytes()
}

/// Returns the value that belongs to that key and to no other.
pub(crate) fn entry_value(number: u64, index: u64) -> Vec<u8> {
    format!("entry {index} of batch {number}, ").repeat(4).into_bytes()
}

/// Writes batches until killed, or until nobody reads the reports any more.
pub(crate) fn run(arguments: &WriterArguments) -> Outcome {
    let db = open(&arguments.dir)?;
    let ledger = db.create_keyspace(LEDGER, KeyspaceOptions::default())?;
    let progress = db.create_keyspace(PROGRESS, KeyspaceOptions::default())?;
    let mut reports = std::io::stdout().lock();
    for number in 1_u64.. {
        let mut batch = WriteBatch::new();
        for index in 0..ENTRIES_PER_BATCH {
            batch.put(&ledger, entry_key(number, index), entry_value(number, index));
        }
        batch.put(&progress, LAST_KEY, number.to_string());
        db.write(&batch, WriteOptions::disk())?;
        // One write and one flush a report: what is in the pipe survives our death.
        writeln!(reports, "{number}")
            .and_then(|()| reports.flush())
            .map_err(|error| Failure::output(&error))?;
    }
    Ok(())
}
