//! Writing sealed memtables out as tables of level 0.

use crate::base::error::Result;
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::compaction::merge::write_merged;
use crate::compaction::output::{JobContext, OutputSettings, Outputs, Unsynced};
use crate::memtable::Memtable;
use crate::mvcc::retain::Retention;
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::sync::Arc;

/// A memtable to be written, and how its table is to look.
pub struct FlushSource {
    /// The memtable.
    pub memtable: Arc<Memtable>,
    /// Its keyspace, and the layout of its table.
    pub settings: OutputSettings,
}

/// Writes each memtable as one table, dropping versions that no live snapshot can see. When this returns, the tables are
/// durable and open, in the order of `sources`.
///
/// The tables are synced together, so that a thousand small ones cost little more than a few.
///
/// # Errors
/// `NoSpace`, `Exhausted`, `Io`, `Closed`; the memtables are as they were, and the files in `created` are nobody's.
pub fn flush_all(
    context: &JobContext<'_>,
    sources: Vec<FlushSource>,
    snapshots: &[SeqNum],
    created: &mut Vec<FileNumber>,
) -> Result<Vec<(KeyspaceId, Arc<Live<Arc<Table>>>)>> {
    let mut unsynced = Unsynced::default();
    let mut written = Vec::new();
    for FlushSource { memtable, settings } in sources {
        // Tables of level 0 may overlap, but one memtable makes one of them: a cut would only add reads.
        let settings = OutputSettings { table_len_bytes_max: u64::MAX, ..settings };
        let keyspace = settings.keyspace;
        let outputs = Outputs::in_group(context, settings, created, &mut unsynced);
        let retention = Retention::new(snapshots.to_vec());
        let tables = write_merged(memtable.cursor(), outputs, retention, |_| false)?;
        written.extend(tables.into_iter().map(|table| (keyspace, table)));
    }
    unsynced.settle(context)?;
    Ok(written)
}
