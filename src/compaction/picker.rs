//! What to merge next: a pure function from a version and a situation to a plan.
//!
//! Leveled compaction after LevelDB: level 0 is due by its number of tables, a deeper level by its bytes against
//! a target that grows by a factor from level to level; the most overdue goes first. From a deeper level goes the
//! table that overlaps the least of the next level for its size, which wastes the least rewriting; deletes count as
//! what they hide, since it shrinks what they meet.
//!
//! While no level is due, these are, in this order:
//!
//! - level 0, when reading it has cost as much as merging it would: each seek reads a block of every one of its tables
//!   that it would not need if they were merged. LevelDB compacts after so many seeks, Pebble after so many bytes; here
//!   the two sides are counted in the same unit.
//! - a merge that frees a good part of what it rewrites, because of deletes or of snapshots that are gone.
//! - a merge that spares readers at least as many steps over hidden entries as it costs.
//! - in a quiet database, whatever frees most for its cost, until what may be garbage is a small part of the whole.
//!
//! Every merge brings entries down or is rid of some, so without writes, reads and released snapshots there comes the
//! moment when none is due. What a merge could not drop because of a live snapshot is due again when that one is gone.
//!
//! A merge that has no space on the disk is not begun; a smaller one that frees something is, or one that has space if it
//! frees what is to be expected. Level 0 is merged within itself where it cannot go down, so that writers need not wait.

use crate::base::comparator::KeyOrder;
use crate::base::ids::FileNumber;
use crate::base::limits::LEVELS_COUNT;
use crate::base::seq::SeqNum;
use crate::compaction::plan::{Plan, Thrift};
use crate::compaction::space::{Candidate, LiveTable, Source, Survey, range_of};
use crate::read::tree::Tables;
use crate::read::waste::STEP_COST_BYTES;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A merge that frees so much of what it rewrites is due: one part of this many.
const WORTHWHILE_PART: u64 = 4;
/// In a quiet database, one part of this many of the live bytes may be garbage.
const QUIET_GARBAGE_PART: u64 = 8;
/// And besides, one part of this many of a memtable's size.
const QUIET_SLACK_PART: u64 = 4;
/// In a quiet database, a memtable that is filled to one part of this many is sealed: its log and the space set aside for
/// its flush may be many times what is live in it.
const QUIET_SEAL_PART: u64 = 4;
/// What sealing a memtable costs besides writing its bytes: one part of this many of a memtable's size. A segment of
/// the log is begun and a table named, which takes a few milliseconds.
const SEAL_PRICE_PART: u64 = 16;

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

/// What counts besides the version.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Whether nothing was written for a while, or somebody waits for nothing to be due.
    pub is_quiet: bool,
    /// Live snapshots, ascending.
    pub snapshots: &'a [SeqNum],
    /// What seeks have wasted on level 0 since it was last merged, in bytes.
    pub level0_wasted_bytes: u64,
    /// The size at which a memtable of the keyspace is sealed, in bytes: the scale for what is small.
    pub memtable_bytes: u64,
    /// Bytes free on the disk for new tables, if that is known to be short.
    pub available_bytes: Option<u64>,
    /// Tables that cannot be read for now: no merge is of any use that needs one.
    pub parked: &'a BTreeSet<FileNumber>,
}

/// What is in the active memtable of a keyspace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unflushed {
    /// Entries.
    pub entries_count: u64,
    /// Memory in bytes.
    pub len_bytes: u64,
    /// Entries that readers have stepped over because of an entry in it.
    pub steps_count: u64,
}

/// What the picker found.
#[derive(Clone, Default)]
pub struct Pick {
    /// The merge that is due, if any is.
    pub plan: Option<Plan>,
    /// A merge would be due if there were space on the disk.
    pub lacks_space: bool,
    /// Live snapshots, ascending, whose end may make a merge due.
    pub awaited: Vec<SeqNum>,
}

/// Returns the merge that is due, if any is.
pub fn pick(tables: &Tables, limits: LevelLimits, order: &KeyOrder, situation: Situation<'_>) -> Pick {
    let survey = Survey::new(tables, order, situation.snapshots);
    let mut picker =
        Picker { survey, limits, situation, needs: Plan::needs_bytes, is_short: Cell::new(false) };
    let mut plan = picker.due();
    if plan.is_none() && picker.is_short.get() {
        // No merge is sure to have space. One of them probably has, and it gives up when it has not.
        picker.needs = Plan::likely_needs_bytes;
        plan = picker.due();
    }
    let awaited = if plan.is_none() { picker.survey.awaited() } else { Vec::new() };
    Pick { lacks_space: plan.is_none() && picker.is_short.get(), plan, awaited }
}

/// Returns a merge of a level that has grown over its limit, if one has: what writers may come to wait for. What it costs
/// to find that none has does not grow with the tables.
pub fn pick_overdue(
    tables: &Tables,
    limits: LevelLimits,
    order: &KeyOrder,
    situation: Situation<'_>,
) -> Option<Plan> {
    let survey = Survey::new(tables, order, situation.snapshots);
    Picker { survey, limits, situation, needs: Plan::needs_bytes, is_short: Cell::new(false) }.by_score()
}

/// Returns what merging level 0 would rewrite, in bytes; `None` if there is nothing in it.
pub fn level0_price_bytes(tables: &Tables, order: &KeyOrder) -> Option<u64> {
    let (smallest, largest) = range_of(tables.level(0), order)?;
    let next = tables.overlapping(1, smallest, largest, order).map(|live| live.meta.len_bytes).sum::<u64>();
    Some(tables.level_len_bytes(0) + next)
}

/// Tells whether the active memtable ought to be sealed before it is full: because readers step over what it hides
/// again and again, or in a quiet database because it may hide a good part of what lies below it, or has a long log. Asked
/// when no merge is due and no memtable waits for its flush.
pub fn is_seal_due(
    unflushed: Unflushed,
    tables: &Tables,
    limits: LevelLimits,
    order: &KeyOrder,
    situation: Situation<'_>,
) -> bool {
    if unflushed.entries_count == 0
        || situation.available_bytes.is_some_and(|available| unflushed.len_bytes > available)
    {
        return false;
    }
    // Each flush brings the next merge of level 0 nearer.
    let level0_bytes = level0_price_bytes(tables, order).unwrap_or(0) / limits.level0_trigger.max(1) as u64;
    let price_bytes = unflushed.len_bytes + situation.memtable_bytes / SEAL_PRICE_PART + level0_bytes;
    if unflushed.steps_count.saturating_mul(STEP_COST_BYTES) >= price_bytes {
        return true;
    }
    if situation.is_quiet && unflushed.len_bytes >= situation.memtable_bytes / QUIET_SEAL_PART {
        return true;
    }
    let survey = Survey::new(tables, order, situation.snapshots);
    let picker = Picker { survey, limits, situation, needs: Plan::needs_bytes, is_short: Cell::new(false) };
    let hidden_bytes = picker.survey.all().share_bytes(unflushed.entries_count);
    situation.is_quiet
        && hidden_bytes > 0
        && is_much(hidden_bytes + picker.mergeable_garbage_bytes(), picker.survey.all().bytes, situation)
}

/// Tells whether so much garbage among all the bytes is more than a quiet database keeps.
fn is_much(garbage_bytes: u64, total_bytes: u64, situation: Situation<'_>) -> bool {
    let live_bytes = total_bytes.saturating_sub(garbage_bytes);
    garbage_bytes > live_bytes / QUIET_GARBAGE_PART + situation.memtable_bytes / QUIET_SLACK_PART
}

fn garbage_bytes(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|candidate| candidate.frees_bytes).fold(0, u64::saturating_add)
}

/// Returns the target of a sorted level in bytes.
pub fn target_bytes(level: usize, limits: LevelLimits) -> u64 {
    assert!(level > 0, "level 0 is counted in tables");
    (1..level).fold(limits.level_base_bytes, |bytes, _| bytes.saturating_mul(limits.level_multiplier))
}

struct Picker<'a> {
    survey: Survey<'a>,
    limits: LevelLimits,
    situation: Situation<'a>,
    /// How many bytes on the disk a merge asks for.
    needs: fn(&Plan) -> u64,
    /// A merge that was due had no space on the disk.
    is_short: Cell<bool>,
}

impl Picker<'_> {
    fn due(&self) -> Option<Plan> {
        self.by_score().or_else(|| self.by_worth())
    }

    /// Returns a merge from the most overdue level that has one with space on the disk.
    fn by_score(&self) -> Option<Plan> {
        // Scores are in thousandths of what makes a level due, in whole numbers, so that every machine agrees.
        let tables = self.survey.tables();
        let level0 = tables.level(0).len() as u64 * 1000 / self.limits.level0_trigger.max(1) as u64;
        let scores = std::iter::once(level0).chain((1..LEVELS_COUNT - 1).map(|level| {
            let target = target_bytes(level, self.limits);
            tables.level_len_bytes(level).saturating_mul(1000) / target.max(1)
        }));
        let is_due = |&(level, score): &(usize, u64)| if level == 0 { score >= 1000 } else { score > 1000 };
        let mut due: Vec<(usize, u64)> = scores.enumerate().filter(is_due).collect();
        due.sort_by_key(|&(level, score)| (Reverse(score), level));
        due.into_iter().find_map(|(level, _)| match level {
            0 => Plan::level0(&self.survey, Thrift::Frugal)
                .filter(|plan| self.fits(plan))
                .or_else(|| self.level0_run()),
            _ => self.cheapest(level),
        })
    }

    /// Returns a merge of level 0 within itself, where it cannot go down: there is no space for that, or a table in its way
    /// cannot be read.
    fn level0_run(&self) -> Option<Plan> {
        let Situation { parked, available_bytes, .. } = self.situation;
        Plan::level0_run(&self.survey, |live, len_bytes| {
            !parked.contains(&live.meta.number)
                && available_bytes.is_none_or(|available| len_bytes <= available)
        })
    }

    /// Returns the merge of one table of a level that rewrites least for what it brings down and frees.
    fn cheapest(&self, level: usize) -> Option<Plan> {
        let tables = self.survey.tables().level(level);
        let cost = |live: &LiveTable| {
            let range = (&live.meta.smallest[..], &live.meta.largest[..]);
            let (_, freed) = self.survey.freed_by(live, self.survey.below(level, range));
            let overlap = self.survey.overlap(level + 1, range).bytes;
            (overlap.saturating_mul(1000) / (live.meta.len_bytes + freed).max(1), live.meta.number)
        };
        let plan = |live: &LiveTable| Plan::down(&self.survey, level, vec![Arc::clone(live)], Thrift::Frugal);
        if self.situation.available_bytes.is_none() && self.situation.parked.is_empty() {
            return tables.iter().min_by_key(|live| cost(live)).map(plan);
        }
        let mut by_cost: Vec<&LiveTable> = tables.iter().collect();
        by_cost.sort_by_cached_key(|live| cost(live));
        by_cost.into_iter().map(plan).find(|plan| self.fits(plan))
    }

    /// Returns a merge that pays although no level is due.
    fn by_worth(&self) -> Option<Plan> {
        let Situation { is_quiet, level0_wasted_bytes, .. } = self.situation;
        let candidates = self.survey.candidates();
        let level0_steps = candidates.iter().find(|candidate| candidate.source == Source::Level0);
        let level0_spent =
            level0_wasted_bytes.saturating_add(level0_steps.map_or(0, |level0| level0.steps_bytes));
        let worn = Plan::level0(&self.survey, Thrift::Frugal).filter(|plan| level0_spent >= plan.len_bytes());
        if let Some(plan) = worn.filter(|plan| self.fits(plan)) {
            return Some(plan);
        }
        let worth = |candidate: &Candidate| candidate.frees_surely_bytes.saturating_mul(WORTHWHILE_PART);
        let surely = |candidate: &Candidate| candidate.frees_surely_bytes;
        self.best(&candidates, surely, |candidate| worth(candidate) >= candidate.price_bytes)
            .or_else(|| {
                let steps = |candidate: &Candidate| candidate.steps_bytes;
                self.best(&candidates, steps, |candidate| steps(candidate) >= candidate.price_bytes)
            })
            .or_else(|| {
                let is_due =
                    is_quiet && is_much(garbage_bytes(&candidates), self.survey.all().bytes, self.situation);
                self.best(&candidates, |candidate| candidate.frees_bytes, |_| is_due)
            })
            .or_else(|| if self.is_short.get() { self.shaded() } else { None })
    }

    /// Returns the merge of a single table with what lies above it that frees the largest part of it and has space on
    /// the disk.
    fn shaded(&self) -> Option<Plan> {
        let levels = self.survey.tables().levels().iter().enumerate().skip(1);
        let plans = levels.flat_map(|(level, tables)| {
            tables.iter().map(move |live| Plan::shaded(&self.survey, level, live))
        });
        let is_due = |plan: &Plan| {
            !plan.above.is_empty()
                && plan.frees_bytes.saturating_mul(WORTHWHILE_PART) >= plan.len_bytes()
                && self.fits(plan)
        };
        plans.filter(is_due).max_by(|a, b| {
            let (left, right) =
                (product(a.frees_bytes, b.len_bytes()), product(b.frees_bytes, a.len_bytes()));
            left.cmp(&right)
        })
    }

    /// Returns the merge with the best ratio of gain to price of those that are due and have space on the disk.
    fn best(
        &self,
        candidates: &[Candidate],
        gain: impl Fn(&Candidate) -> u64,
        is_due: impl Fn(&Candidate) -> bool,
    ) -> Option<Plan> {
        let mut due: Vec<&Candidate> =
            candidates.iter().filter(|candidate| gain(candidate) > 0 && is_due(candidate)).collect();
        due.sort_by(|a, b| {
            let (left, right) = (product(gain(a), b.price_bytes), product(gain(b), a.price_bytes));
            right.cmp(&left).then(a.source.cmp(&b.source))
        });
        due.into_iter().map(|candidate| self.plan(candidate.source)).find(|plan| self.fits(plan))
    }

    fn plan(&self, source: Source) -> Plan {
        let tables = self.survey.tables();
        match source {
            Source::Level0 => Plan::level0(&self.survey, Thrift::Frugal).expect("a candidate has tables"),
            Source::Down(level, at) => {
                Plan::down(&self.survey, level, vec![Arc::clone(&tables.level(level)[at])], Thrift::Frugal)
            }
            Source::InPlace(level, at) => Plan::in_place(&self.survey, level, &tables.level(level)[at]),
        }
    }

    /// Returns how much garbage is not behind a table that cannot be read.
    fn mergeable_garbage_bytes(&self) -> u64 {
        let mut candidates = self.survey.candidates();
        if !self.situation.parked.is_empty() {
            candidates.retain(|candidate| !self.is_parked(&self.plan(candidate.source)));
        }
        garbage_bytes(&candidates)
    }

    /// Tells whether a merge needs a table that cannot be read.
    fn is_parked(&self, plan: &Plan) -> bool {
        plan.inputs().any(|live| self.situation.parked.contains(&live.meta.number))
    }

    /// Tells whether a merge can be done: it has space on the disk, and what it reads can be read.
    fn fits(&self, plan: &Plan) -> bool {
        if self.is_parked(plan) {
            return false;
        }
        let fits = self.situation.available_bytes.is_none_or(|available| (self.needs)(plan) <= available);
        self.is_short.set(self.is_short.get() || !fits);
        fits
    }
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}
