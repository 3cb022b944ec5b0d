//! What to merge next: a pure function from a version to a plan.
//!
//! Leveled compaction after LevelDB: level 0 is due by its number of tables, a deeper level by its bytes against
//! a target that grows by a factor from level to level; the most overdue goes first. From a deeper level goes the
//! table that overlaps the least of the next level for its size, which wastes the least rewriting.
//!
//! Level 0 is due as well when reading it has cost as much as merging it would: each seek reads a block of every one
//! of its tables that it would not need if they were merged. LevelDB compacts after so many seeks, Pebble after so many
//! bytes; here the two sides are counted in the same unit.

use crate::base::comparator::KeyOrder;
use crate::base::ids::FileNumber;
use crate::base::limits::LEVELS_COUNT;
use crate::read::tree::Tables;
use crate::table::properties::Properties;
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::sync::Arc;

/// When levels are due.
#[derive(Clone, Copy, Debug)]
pub struct LevelLimits {
    /// Tables on level 0 that make it due.
    pub level0_trigger: usize,
    /// Target of level 1 in bytes.
    pub level_base_bytes: u64,
    /// How many times larger each deeper level is.
    pub level_multiplier: u64,
}

/// A merge to be done.
#[derive(Clone)]
pub struct Plan {
    /// Where the upper inputs are.
    pub level: usize,
    /// Where the outputs go: the next level, or the same one if it is only rewritten.
    pub target: usize,
    /// Tables of `level`.
    pub upper: Vec<Arc<Live<Arc<Table>>>>,
    /// Tables of the next level that share keys with them.
    pub lower: Vec<Arc<Live<Arc<Table>>>>,
}

impl Plan {
    /// Returns how many bytes the inputs have.
    pub fn len_bytes(&self) -> u64 {
        self.upper.iter().chain(&self.lower).map(|live| live.meta.len_bytes).sum()
    }

    /// Tells whether moving the only table down does the job.
    pub fn is_trivial_move(&self) -> bool {
        self.upper.len() == 1 && self.lower.is_empty() && self.target != self.level
    }
}

/// Returns the most overdue merge, if any level is due. `wasted_bytes` is what reading level 0 has cost since it was
/// last merged.
pub fn pick(tables: &Tables, limits: LevelLimits, order: &KeyOrder, wasted_bytes: u64) -> Option<Plan> {
    // Scores are in thousandths of what makes a level due, in whole numbers, so that every machine agrees.
    let mut best: Option<(u64, usize)> = None;
    let level0 = tables.level(0).len() as u64 * 1000 / limits.level0_trigger.max(1) as u64;
    let scores = std::iter::once(level0).chain((1..LEVELS_COUNT - 1).map(|level| {
        let target = target_bytes(level, limits);
        tables.level_len_bytes(level).saturating_mul(1000) / target.max(1)
    }));
    for (level, score) in scores.enumerate() {
        let is_due = if level == 0 { score >= 1000 } else { score > 1000 };
        if is_due && best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, level));
        }
    }
    let Some((_, level)) = best else {
        return plan_level0(tables, order).filter(|plan| wasted_bytes >= plan.len_bytes());
    };
    if level == 0 {
        return plan_level0(tables, order);
    }
    let cheapest = tables.level(level).iter().min_by_key(|live| {
        let overlap: u64 = tables
            .overlapping(level + 1, &live.meta.smallest, &live.meta.largest, order)
            .map(|below| below.meta.len_bytes)
            .sum();
        (overlap.saturating_mul(1000) / live.meta.len_bytes.max(1), live.meta.number)
    })?;
    plan_for(tables, level, vec![Arc::clone(cheapest)], order)
}

/// Plans to merge all of level 0 into level 1; `None` if there is nothing in it.
pub fn plan_level0(tables: &Tables, order: &KeyOrder) -> Option<Plan> {
    plan_for(tables, 0, tables.level(0).to_vec(), order)
}

/// Returns the target of a sorted level in bytes.
pub fn target_bytes(level: usize, limits: LevelLimits) -> u64 {
    assert!(level > 0, "level 0 is counted in tables");
    (1..level).fold(limits.level_base_bytes, |bytes, _| bytes.saturating_mul(limits.level_multiplier))
}

/// Plans to merge what a level holds of a range into the next; `None` if it holds nothing of it.
pub fn pick_range(
    tables: &Tables,
    level: usize,
    range: (&[u8], Option<&[u8]>),
    order: &KeyOrder,
) -> Option<Plan> {
    let mut touched = touched(tables, level, range, order).peekable();
    if touched.peek().is_none() || level + 1 >= LEVELS_COUNT {
        return None;
    }
    // Tables of level 0 overlap, so an older one left behind could sink below a newer one: take them all.
    let upper = if level == 0 { tables.level(0).to_vec() } else { touched.collect() };
    plan_for(tables, level, upper, order)
}

/// Plans to rewrite in place one table of a sorted level that holds some of a range, is older than file number `before`
/// and can shrink; `None` if there is none. One at a time, since a table between two of them may not be rewritten.
///
/// For the deepest level: what lies there is in no later merge's way, so deletes and old versions that a snapshot kept
/// there would stay for ever.
pub fn pick_rewrite(
    tables: &Tables,
    level: usize,
    range: (&[u8], Option<&[u8]>),
    order: &KeyOrder,
    before: FileNumber,
) -> Option<Plan> {
    assert!(level > 0, "the tables of level 0 overlap");
    let can_shrink = |live: &Arc<Live<Arc<Table>>>| {
        live.meta.number < before && live.table.properties().is_ok_and(Properties::may_shrink)
    };
    let upper = vec![touched(tables, level, range, order).find(can_shrink)?];
    Some(Plan { level, target: level, upper, lower: Vec::new() })
}

/// Returns the tables of a level that hold something of a range.
fn touched(
    tables: &Tables,
    level: usize,
    range: (&[u8], Option<&[u8]>),
    order: &KeyOrder,
) -> impl Iterator<Item = Arc<Live<Arc<Table>>>> {
    let is_touched = move |live: &&Arc<Live<Arc<Table>>>| {
        order.compare(&live.meta.largest, range.0).is_ge()
            && range.1.is_none_or(|end| order.compare(&live.meta.smallest, end).is_le())
    };
    tables.level(level).iter().filter(is_touched).cloned()
}

fn plan_for(
    tables: &Tables,
    level: usize,
    upper: Vec<Arc<Live<Arc<Table>>>>,
    order: &KeyOrder,
) -> Option<Plan> {
    let smallest = upper.iter().map(|live| &live.meta.smallest).min_by(|a, b| order.compare(a, b))?;
    let largest = upper.iter().map(|live| &live.meta.largest).max_by(|a, b| order.compare(a, b))?;
    let lower = tables.overlapping(level + 1, smallest, largest, order).cloned().collect();
    Some(Plan { level, target: level + 1, upper, lower })
}
