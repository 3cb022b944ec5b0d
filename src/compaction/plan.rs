//! A merge to be done: which tables go in, and where what comes out belongs.

use crate::base::comparator::KeyOrder;
use crate::compaction::space::{LiveTable, Survey, range_of};
use std::sync::Arc;

/// A table that is moved to where nothing lies below is rewritten if so much of it is freed: one part of this many.
const MOVED_GARBAGE_PART: u64 = 8;

/// A table of level 0 that is so many times larger than all newer ones together stays apart from them.
const RUN_GROWTH: u64 = 4;

/// A merge to be done.
#[derive(Clone)]
pub struct Plan {
    /// Where the upper inputs are.
    pub level: usize,
    /// Where the outputs go: the next level, or the same one if it is only rewritten. On level 0 that is one table.
    pub target: usize,
    /// Tables of `level`.
    pub upper: Vec<LiveTable>,
    /// Tables of the next level that share keys with them.
    pub lower: Vec<LiveTable>,
    /// Tables of higher levels that share keys with them and stay as they are: what they hide goes. They need not be
    /// claimed: whatever becomes of them meanwhile, it hides no less.
    pub above: Vec<LiveTable>,
    /// An estimate of what the outputs are smaller by than the inputs because of deletes and snapshots that are gone.
    pub frees_bytes: u64,
    is_move: bool,
}

/// What becomes of a table that could be moved, but could also be rid of something where it comes to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thrift {
    /// It is rewritten if that frees a good part of it.
    Frugal,
    /// It is rewritten if that frees anything.
    Thorough,
}

impl Plan {
    /// Returns every table that is read.
    pub fn inputs(&self) -> impl Iterator<Item = &LiveTable> {
        self.upper.iter().chain(&self.lower).chain(&self.above)
    }

    /// Returns how many bytes the inputs have.
    pub fn len_bytes(&self) -> u64 {
        self.upper.iter().chain(&self.lower).map(|live| live.meta.len_bytes).sum()
    }

    /// Returns how many bytes the outputs take at most. They lie beside the inputs until the merge is installed and
    /// nobody reads those any more.
    pub fn needs_bytes(&self) -> u64 {
        if self.is_move { 0 } else { self.len_bytes() }
    }

    /// Returns how many bytes the outputs will hardly exceed, if deletes hide what they seem to: three quarters of what
    /// is expected to go are taken off.
    pub fn likely_needs_bytes(&self) -> u64 {
        self.needs_bytes().saturating_sub(self.frees_bytes - self.frees_bytes / 4)
    }

    /// Tells whether moving the only table down does the job.
    pub fn is_trivial_move(&self) -> bool {
        self.is_move
    }

    /// Returns the first and last key of the inputs; `None` if there are none.
    pub fn bounds(&self, order: &KeyOrder) -> Option<(Vec<u8>, Vec<u8>)> {
        let ranges = range_of(&self.upper, order).into_iter().chain(range_of(&self.lower, order));
        let (smallest, largest) = ranges.reduce(|(a, b), (c, d)| {
            (if order.compare(a, c).is_le() { a } else { c }, if order.compare(b, d).is_ge() { b } else { d })
        })?;
        Some((smallest.to_vec(), largest.to_vec()))
    }

    /// Plans to merge all of level 0 into level 1; `None` if there is nothing in it.
    pub fn level0(survey: &Survey<'_>, thrift: Thrift) -> Option<Plan> {
        let tables = survey.tables().level(0);
        (!tables.is_empty()).then(|| Plan::down(survey, 0, tables.to_vec(), thrift))
    }

    /// Plans to merge tables of a level into the next; of level 0, all of them.
    ///
    /// # Panics
    /// If there are none.
    pub fn down(survey: &Survey<'_>, level: usize, upper: Vec<LiveTable>, thrift: Thrift) -> Plan {
        let (tables, order) = (survey.tables(), survey.order());
        assert!(level > 0 || upper.len() == tables.level(0).len(), "an older table of level 0 cannot stay");
        let range = range_of(&upper, order).expect("a merge has inputs");
        let lower: Vec<LiveTable> =
            tables.overlapping(level + 1, range.0, range.1, order).map(Arc::clone).collect();
        let below = survey.below(level, range);
        let (_, frees_bytes) = survey.freed_by_all(level, &upper, below);
        let is_single = upper.len() == 1 && lower.is_empty();
        let shed_bytes = if is_single && below.bytes == 0 { survey.reclaimable_bytes(&upper[0]) } else { 0 };
        let is_shedding = match thrift {
            Thrift::Frugal => shed_bytes >= upper[0].meta.len_bytes / MOVED_GARBAGE_PART,
            Thrift::Thorough => shed_bytes > 0,
        };
        let is_move = is_single && (shed_bytes == 0 || !is_shedding);
        let mut plan =
            Plan { level, target: level + 1, upper, lower, above: Vec::new(), frees_bytes, is_move };
        plan.frees_bytes = frees_bytes.min(plan.len_bytes());
        plan
    }

    /// Plans to merge the newest tables of level 0 into one that stays there; `None` if there are no two that `may_take`
    /// accepts together. That unblocks writers and readers where merging them into level 1 is not possible for now. An older
    /// table much larger than what would be merged into it is left alone, so that none is rewritten each time (RocksDB calls
    /// it an intra-level-0 compaction).
    pub fn level0_run(survey: &Survey<'_>, may_take: impl Fn(&LiveTable, u64) -> bool) -> Option<Plan> {
        let (mut upper, mut len_bytes) = (Vec::new(), 0_u64);
        // Newest first.
        for live in survey.tables().level(0) {
            let sum = len_bytes.saturating_add(live.meta.len_bytes);
            let is_large = !upper.is_empty() && live.meta.len_bytes / RUN_GROWTH > len_bytes;
            if is_large || !may_take(live, sum) {
                break;
            }
            upper.push(Arc::clone(live));
            len_bytes = sum;
        }
        (upper.len() > 1).then(|| Plan {
            level: 0,
            target: 0,
            upper,
            lower: Vec::new(),
            above: Vec::new(),
            frees_bytes: 0,
            is_move: false,
        })
    }

    /// Plans to rewrite one table of a sorted level where it is.
    pub fn in_place(survey: &Survey<'_>, level: usize, live: &LiveTable) -> Plan {
        assert!(level > 0, "the tables of level 0 overlap");
        Plan {
            level,
            target: level,
            upper: vec![Arc::clone(live)],
            lower: Vec::new(),
            above: Vec::new(),
            frees_bytes: survey.reclaimable_bytes(live),
            is_move: false,
        }
    }

    /// Plans to rewrite one table of a sorted level where it is, without what tables of higher levels hide in it.
    pub fn shaded(survey: &Survey<'_>, level: usize, live: &LiveTable) -> Plan {
        let mut plan = Plan::in_place(survey, level, live);
        plan.above = survey.shading(level, live);
        plan.frees_bytes = survey.shaded_bytes(level, live);
        plan
    }
}
