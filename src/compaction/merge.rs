//! Merging entries of several sources into new tables of one level.
//!
//! Every entry is shown to retention, newest first within a key, and what it keeps is written. A plan may name tables
//! *above* its inputs: these only take part in the decision, so that entries they hide can go although they themselves
//! stay where they are.

use crate::base::comparator::KeyOrder;
use crate::base::error::Result;
use crate::base::ids::FileNumber;
use crate::base::key::{InternalKey, Tag};
use crate::base::limits::LEVELS_COUNT;
use crate::base::seq::SeqNum;
use crate::compaction::output::{JobContext, OutputSettings, Outputs};
use crate::compaction::plan::Plan;
use crate::compaction::space::LiveTable;
use crate::cursor::Cursor;
use crate::cursor::merge::MergeCursor;
use crate::mvcc::retain::{Reason, Retention, Verdict};
use crate::read::tree::Tables;
use crate::table::cursor::{CacheUse, TableCursor};
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::cmp::Ordering;
use std::sync::Arc;

/// Entries between two looks at whether the job has to stop.
const CHECK_INTERVAL_COUNT: u32 = 1024;

/// What decides, besides the entries themselves, which of them may go.
pub struct Surroundings<'a> {
    /// The version that the job began with.
    pub tables: &'a Tables,
    /// The snapshots that were live after that version was taken, ascending.
    pub snapshots: Vec<SeqNum>,
}

/// Merges a plan's inputs into new tables for its target level.
///
/// `around.tables` is the version the plan was made from. The outputs are a function of inputs and snapshots alone.
///
/// # Errors
/// `Corruption`, `NoSpace`, `Io`, `Closed`; `Incompatible` for an entry of a kind that this version cannot read. The
/// inputs are as they were, the files in `created` are nobody's.
pub fn merge(
    context: &JobContext<'_>,
    plan: &Plan,
    around: Surroundings<'_>,
    settings: OutputSettings,
    created: &mut Vec<FileNumber>,
) -> Result<Vec<Arc<Live<Arc<Table>>>>> {
    let order = settings.order.clone();
    // What stays on level 0 is one table, as a flush writes it.
    let settings = match plan.target {
        0 => OutputSettings { table_len_bytes_max: u64::MAX, ..settings },
        _ => settings,
    };
    let tables = plan.above.iter().chain(&plan.upper).chain(&plan.lower);
    let cursors = tables
        .map(|live| Box::new(TableCursor::new(Arc::clone(&live.table), CacheUse::Peek)) as Box<dyn Cursor>);
    let mut entries = Entries::new(cursors.collect(), order.clone());
    if !plan.above.is_empty() {
        entries.above_count = plan.above.len();
        entries.bounds = plan.bounds(&order);
    }
    let Surroundings { tables, snapshots } = around;
    // What stays of level 0 is newer than the inputs, unless the output stays there too.
    let stays: Vec<&LiveTable> = match plan.target {
        0 => tables.level(0).iter().skip(plan.upper.len()).collect(),
        _ => Vec::new(),
    };
    let is_bottom = |key: &[u8]| {
        !lies_in(tables, plan.target + 1, key, &order) && !stays.iter().any(|live| holds(live, key, &order))
    };
    let shaded_seq = plan.above.iter().map(|live| live.meta.largest_seq).max().unwrap_or_default();
    let outputs = Outputs::new(context, settings, created).shaded_up_to(shaded_seq);
    write_merged(entries, outputs, Retention::new(&snapshots), is_bottom)
}

/// Tells whether a key lies within a table's bounds.
fn holds(live: &LiveTable, key: &[u8], order: &KeyOrder) -> bool {
    order.compare(&live.meta.smallest, key).is_le() && order.compare(&live.meta.largest, key).is_ge()
}

/// Tells whether a sorted level at or below `from` may hold an entry of `key`.
fn lies_in(tables: &Tables, from: usize, key: &[u8], order: &KeyOrder) -> bool {
    (from..LEVELS_COUNT).any(|level| tables.find(level, key, order).is_some())
}

/// Tells whether any table may hold an entry of `key`.
pub fn lies_anywhere(tables: &Tables, key: &[u8], order: &KeyOrder) -> bool {
    lies_in(tables, 1, key, order) || tables.overlapping(0, key, key, order).next().is_some()
}

/// The entries of a merge in order, of which some only take part in the decision.
pub struct Entries {
    cursor: MergeCursor,
    order: KeyOrder,
    /// So many of the first sources are not rewritten.
    above_count: usize,
    /// The first and last key of what is rewritten; everything, if none.
    bounds: Option<(Vec<u8>, Vec<u8>)>,
}

impl Entries {
    /// Merges all entries of `sources`.
    pub fn new(sources: Vec<Box<dyn Cursor>>, order: KeyOrder) -> Entries {
        Entries { cursor: MergeCursor::new(sources, order.clone()), order, above_count: 0, bounds: None }
    }

    fn start(&mut self) -> Result<()> {
        match &self.bounds {
            Some((smallest, _)) => self.cursor.seek(InternalKey::new(smallest, Tag::NEWEST)),
            None => self.cursor.seek_to_first(),
        }
    }

    fn is_valid(&self) -> bool {
        self.cursor.is_valid()
            && self.bounds.as_ref().is_none_or(|(_, largest)| {
                self.order.compare(self.cursor.key().user_key, largest) != Ordering::Greater
            })
    }

    /// Tells whether the entry at hand is written if it is kept.
    fn is_rewritten(&self) -> bool {
        self.cursor.source() >= self.above_count
    }
}

/// Writes every entry that retention keeps; `is_bottom` tells whether nothing older of a key lies elsewhere.
///
/// # Errors
/// What reading or writing meets; `Incompatible` for an entry of a kind that this version cannot read.
pub fn write_merged(
    mut entries: Entries,
    mut outputs: Outputs<'_>,
    mut retention: Retention<'_>,
    is_bottom: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Arc<Live<Arc<Table>>>>> {
    let mut last_key: Vec<u8> = Vec::new();
    let mut has_last_key = false;
    let mut is_first_written = true;
    // Deletes of the current key that stay only if something older does.
    let mut waiting: Vec<(Tag, Reason)> = Vec::new();
    let mut countdown = CHECK_INTERVAL_COUNT;
    entries.start()?;
    while entries.is_valid() {
        let key = entries.cursor.key();
        if !has_last_key || last_key != key.user_key {
            last_key.clear();
            last_key.extend_from_slice(key.user_key);
            has_last_key = true;
            is_first_written = true;
            waiting.clear();
            retention.next_key();
        }
        match retention.judge(key.tag, || is_bottom(key.user_key))? {
            Verdict::Keep(reason) if entries.is_rewritten() => {
                // Each stays for two reasons: its own, and that of the older entry, which is noted with that one.
                for (tag, reason) in waiting.drain(..) {
                    let is_new_key = std::mem::take(&mut is_first_written);
                    outputs.add(InternalKey::new(&last_key, tag), &[], reason, is_new_key)?;
                }
                outputs.add(key, entries.cursor.value(), reason, std::mem::take(&mut is_first_written))?;
            }
            Verdict::Wait(reason) if entries.is_rewritten() => waiting.push((key.tag, reason)),
            Verdict::Keep(_) | Verdict::Wait(_) | Verdict::Drop => {}
        }
        countdown -= 1;
        if countdown == 0 {
            countdown = CHECK_INTERVAL_COUNT;
            outputs.check()?;
        }
        entries.cursor.next()?;
    }
    outputs.finish()
}
