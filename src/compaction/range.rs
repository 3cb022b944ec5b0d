//! Merging a range down on request: which merge comes next, until its promise is kept.
//!
//! The promise: of what was committed up to a number, nothing stays in the tables of the range that no live snapshot
//! needs. It is kept when all of it lies on the deepest level that holds anything of the range, in tables that were
//! written there with nothing left to drop. So the walk goes down level by level. At each it brings everything of the
//! range that is old enough one level further; at the deepest it rewrites, one after the other, the tables that can
//! shrink. Which those are, tables know themselves ([`Survey::can_shrink`]), whoever wrote them and when: a merge of the
//! background may have begun long before, with snapshots that are gone by now or above tables that are gone by now.
//!
//! Other merges may run between two steps. Entries only ever sink, so a level that was cleared of old entries stays
//! clear and the walk never goes back. It ends although writers go on: newer entries do not count, and at the deepest
//! level it goes from key to key.

use crate::base::comparator::KeyOrder;
use crate::base::limits::LEVELS_COUNT;
use crate::base::seq::SeqNum;
use crate::compaction::plan::{Plan, Thrift};
use crate::compaction::space::{LiveTable, Survey};
use crate::read::tree::Tables;
use std::cmp::Ordering;

/// A range on its way down.
#[derive(Debug)]
pub struct RangeWalk {
    /// The first key; every key, if none.
    smallest: Option<Vec<u8>>,
    /// The last key; every key, if none.
    largest: Option<Vec<u8>>,
    /// What has a higher number does not count.
    seq: SeqNum,
    /// No level above this has anything of the range that counts.
    level: usize,
    /// On the deepest level, everything up to this key is done.
    done_to: Option<Vec<u8>>,
}

impl RangeWalk {
    /// Starts a walk over the keys from `smallest` to `largest`, both included, each without bound if none, and over
    /// what was committed up to `seq`, all of which is in tables.
    pub fn new(smallest: Option<Vec<u8>>, largest: Option<Vec<u8>>, seq: SeqNum) -> RangeWalk {
        RangeWalk { smallest, largest, seq, level: 0, done_to: None }
    }

    /// Returns the next merge; `None` when the promise is kept. `tables` is the current version, and no merge of tables
    /// of the range is running; `snapshots` are those live now, ascending.
    ///
    /// Asked again before the merge was [installed](RangeWalk::installed), it gives what is right then.
    pub fn next(&mut self, tables: &Tables, order: &KeyOrder, snapshots: &[SeqNum]) -> Option<Plan> {
        let survey = Survey::new(tables, order, snapshots);
        while self.level < LEVELS_COUNT {
            let old: Vec<LiveTable> = self
                .touched(tables, self.level, order)
                .filter(|live| live.meta.smallest_seq <= self.seq)
                .cloned()
                .collect();
            let has_deeper = (self.level + 1..LEVELS_COUNT)
                .any(|level| self.touched(tables, level, order).next().is_some());
            if !old.is_empty() && self.level == 0 {
                return Plan::level0(&survey, Thrift::Thorough);
            }
            if !old.is_empty() && has_deeper {
                return Some(Plan::down(&survey, self.level, old, Thrift::Thorough));
            }
            if !has_deeper {
                let undone = old.iter().find(|live| self.is_undone(live, order) && survey.can_shrink(live));
                return undone.map(|live| Plan::in_place(&survey, self.level, live));
            }
            self.level += 1;
            self.done_to = None;
        }
        None
    }

    /// Hears that a merge that [`RangeWalk::next`] gave is installed.
    pub fn installed(&mut self, plan: &Plan, order: &KeyOrder) {
        if plan.target == plan.level
            && let Some((_, largest)) = plan.bounds(order)
        {
            self.done_to = Some(largest);
        }
    }

    fn is_undone(&self, live: &LiveTable, order: &KeyOrder) -> bool {
        self.done_to
            .as_ref()
            .is_none_or(|done_to| order.compare(&live.meta.largest, done_to) == Ordering::Greater)
    }

    /// Returns the tables of a level that hold something of the range.
    fn touched<'t>(
        &self,
        tables: &'t Tables,
        level: usize,
        order: &KeyOrder,
    ) -> impl Iterator<Item = &'t LiveTable> {
        tables.level(level).iter().filter(move |live| {
            let begins =
                self.largest.as_ref().is_none_or(|key| order.compare(&live.meta.smallest, key).is_le());
            let ends =
                self.smallest.as_ref().is_none_or(|key| order.compare(&live.meta.largest, key).is_ge());
            begins && ends
        })
    }
}
