//! Writing a sealed memtable out as tables of level 0.

use crate::base::error::Result;
use crate::base::ids::FileNumber;
use crate::compaction::merge::{Entries, Surroundings, lies_anywhere, write_merged};
use crate::compaction::output::{JobContext, OutputSettings, Outputs};
use crate::memtable::Memtable;
use crate::mvcc::retain::Retention;
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::sync::Arc;

/// Writes `memtable` as one table, dropping versions that no live snapshot can see and deletes that hide nothing; as
/// none, if nothing is left.
///
/// `around.tables` has to hold everything that is older than the memtable.
///
/// # Errors
/// `NoSpace`, `Io`, `Closed`; `Incompatible` for an entry of a kind that this version cannot read. The memtable is as
/// it was, and the files in `created` are nobody's.
pub fn flush(
    context: &JobContext<'_>,
    memtable: &Arc<Memtable>,
    around: Surroundings<'_>,
    settings: OutputSettings,
    created: &mut Vec<FileNumber>,
) -> Result<Vec<Arc<Live<Arc<Table>>>>> {
    // Tables of level 0 may overlap, but one memtable makes one of them: a cut would only add reads.
    let settings = OutputSettings { table_len_bytes_max: u64::MAX, ..settings };
    let order = settings.order.clone();
    let entries = Entries::new(vec![memtable.cursor()], order.clone());
    let Surroundings { tables, snapshots } = around;
    let is_bottom = |key: &[u8]| !lies_anywhere(tables, key, &order);
    write_merged(entries, Outputs::new(context, settings, created), Retention::new(snapshots), is_bottom)
}
