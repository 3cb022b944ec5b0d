//! Merging tables of one level with those of the next.

use crate::base::comparator::KeyOrder;
use crate::base::error::Result;
use crate::base::ids::FileNumber;
use crate::base::limits::LEVELS_COUNT;
use crate::base::seq::SeqNum;
use crate::compaction::output::{JobContext, OutputSettings, Outputs};
use crate::compaction::picker::Plan;
use crate::cursor::Cursor;
use crate::cursor::merge::MergeCursor;
use crate::mvcc::retain::Retention;
use crate::read::tree::Tables;
use crate::table::cursor::{CacheUse, TableCursor};
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::sync::Arc;

/// Entries between two looks at whether the job was cancelled.
const CANCEL_CHECK_INTERVAL_COUNT: u32 = 1024;

/// Merges a plan's inputs into new tables for its target level.
///
/// `tables` is the version the plan was made from. The outputs are a function of inputs and snapshots alone.
///
/// # Errors
/// `Corruption`, `NoSpace`, `Io`, `Closed`; the inputs are as they were, the files in `created` are nobody's.
pub fn merge(
    context: &JobContext<'_>,
    plan: &Plan,
    tables: &Tables,
    settings: OutputSettings,
    snapshots: Vec<SeqNum>,
    created: &mut Vec<FileNumber>,
) -> Result<Vec<Arc<Live<Arc<Table>>>>> {
    let inputs = plan.upper.iter().chain(&plan.lower);
    let cursors = inputs
        .map(|live| Box::new(TableCursor::new(Arc::clone(&live.table), CacheUse::Peek)) as Box<dyn Cursor>);
    let order = settings.order.clone();
    let cursor = MergeCursor::new(cursors.collect(), order.clone());
    let target = plan.target;
    let is_bottom = |key: &[u8]| !lies_below(tables, target, key, &order);
    write_merged(
        Box::new(cursor),
        Outputs::new(context, settings, created),
        Retention::new(snapshots),
        is_bottom,
    )
}

/// Tells whether a level below `target` may hold an entry of `key`.
fn lies_below(tables: &Tables, target: usize, key: &[u8], order: &KeyOrder) -> bool {
    (target + 1..LEVELS_COUNT).any(|level| tables.find(level, key, order).is_some())
}

/// Writes every entry that retention keeps; `is_bottom` tells whether nothing older of a key lies elsewhere.
///
/// # Errors
/// What reading or writing meets.
pub fn write_merged(
    mut cursor: Box<dyn Cursor>,
    mut outputs: Outputs<'_>,
    mut retention: Retention,
    is_bottom: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Arc<Live<Arc<Table>>>>> {
    let mut last_key: Vec<u8> = Vec::new();
    let mut has_last_key = false;
    let mut is_first_written = true;
    let mut countdown = CANCEL_CHECK_INTERVAL_COUNT;
    cursor.seek_to_first()?;
    while cursor.is_valid() {
        let key = cursor.key();
        if !has_last_key || last_key != key.user_key {
            last_key.clear();
            last_key.extend_from_slice(key.user_key);
            has_last_key = true;
            is_first_written = true;
            retention.next_key();
        }
        if retention.keeps(key.tag, || is_bottom(key.user_key)) {
            outputs.add(key, cursor.value(), is_first_written)?;
            is_first_written = false;
        }
        countdown -= 1;
        if countdown == 0 {
            countdown = CANCEL_CHECK_INTERVAL_COUNT;
            outputs.check_cancelled()?;
        }
        cursor.next()?;
    }
    outputs.finish()
}
