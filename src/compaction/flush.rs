//! Writing a sealed memtable out as tables of level 0.

use crate::base::error::Result;
use crate::base::ids::FileNumber;
use crate::base::seq::SeqNum;
use crate::compaction::merge::write_merged;
use crate::compaction::output::{JobContext, OutputSettings, Outputs};
use crate::memtable::Memtable;
use crate::mvcc::retain::Retention;
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::sync::Arc;

/// Writes `memtable` as one table, dropping versions that no live snapshot can see.
///
/// # Errors
/// `NoSpace`, `Io`, `Closed`; the memtable is as it was, and the files in `created` are nobody's.
pub fn flush(
    context: &JobContext<'_>,
    memtable: &Arc<Memtable>,
    settings: OutputSettings,
    snapshots: Vec<SeqNum>,
    created: &mut Vec<FileNumber>,
) -> Result<Vec<Arc<Live<Arc<Table>>>>> {
    // Tables of level 0 may overlap, but one memtable makes one of them: a cut would only add reads.
    let settings = OutputSettings { table_len_bytes_max: u64::MAX, ..settings };
    let outputs = Outputs::new(context, settings, created);
    write_merged(memtable.cursor(), outputs, Retention::new(snapshots), |_| false)
}
