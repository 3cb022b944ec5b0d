//! Writing sealed memtables out as tables of level 0.

use crate::base::error::Result;
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::compaction::merge::{Entries, lies_anywhere, write_merged};
use crate::compaction::output::{JobContext, OutputSettings, Outputs, Unsynced};
use crate::compaction::space::LiveTable;
use crate::memtable::Memtable;
use crate::mvcc::retain::Retention;
use crate::read::tree::Tables;
use std::sync::Arc;

/// A memtable to be written, and how its table is to look.
pub struct FlushSource {
    /// The memtable.
    pub memtable: Arc<Memtable>,
    /// Everything of its keyspace that is older.
    pub tables: Arc<Tables>,
    /// Its keyspace, and the layout of its table.
    pub settings: OutputSettings,
}

/// Writes each memtable as one table, dropping versions that no live snapshot can see and deletes that hide
/// nothing; as none, if nothing is left. When this returns, the tables are durable and open, in the order of `sources`.
///
/// The tables are synced together, so that a thousand small ones cost little more than a few.
///
/// # Errors
/// `NoSpace`, `Exhausted`, `Io`, `Closed`; `Incompatible` for an entry of a kind that this version cannot read. The
/// memtables are as they were, and the files in `created` are nobody's.
pub fn flush_all(
    context: &JobContext<'_>,
    sources: Vec<FlushSource>,
    snapshots: &[SeqNum],
    created: &mut Vec<FileNumber>,
) -> Result<Vec<(KeyspaceId, LiveTable)>> {
    let mut unsynced = Unsynced::default();
    let mut written = Vec::new();
    for FlushSource { memtable, tables, settings } in sources {
        // Tables of level 0 may overlap, but one memtable makes one of them: a cut would only add reads.
        let settings = OutputSettings { table_len_bytes_max: u64::MAX, ..settings };
        let (keyspace, order) = (settings.keyspace, settings.order.clone());
        let outputs = Outputs::in_group(context, settings, created, &mut unsynced);
        let entries = Entries::new(vec![memtable.cursor()], order.clone());
        let is_bottom = |key: &[u8]| !lies_anywhere(&tables, key, &order);
        let live = write_merged(entries, outputs, Retention::new(snapshots), is_bottom)?;
        written.extend(live.into_iter().map(|table| (keyspace, table)));
    }
    unsynced.settle(context)?;
    Ok(written)
}
