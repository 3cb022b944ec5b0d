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
use std::ops::Bound;

/// A range on its way down.
#[derive(Debug)]
pub struct RangeWalk {
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    /// What has a higher number does not count.
    seq: SeqNum,
    /// No level above this has anything of the range that counts.
    level: usize,
    /// On the deepest level, everything up to this key is done.
    done_to: Option<Vec<u8>>,
}

impl RangeWalk {
    /// Starts a walk over the keys between two bounds, which do not exclude each other, and over what was committed up to
    /// `seq`, all of which is in tables.
    pub fn new((lower, upper): (Bound<Vec<u8>>, Bound<Vec<u8>>), seq: SeqNum) -> RangeWalk {
        RangeWalk { lower, upper, seq, level: 0, done_to: None }
    }

    /// Returns the next merge; `None` when the promise is kept. `tables` is the current version, and no merge of tables
    /// of the range is running; `snapshots` are those live now, ascending.
    ///
    /// Asked again before the merge was [installed](RangeWalk::installed), it gives what is right then.
    pub fn next(&mut self, tables: &Tables, order: &KeyOrder, snapshots: &[SeqNum]) -> Option<Plan> {
        let survey = Survey::new(tables, order, snapshots);
        while self.level < LEVELS_COUNT {
            let is_old = |live: &&LiveTable| live.meta.smallest_seq <= self.seq;
            if self.level == 0 && self.touched_of_level0(tables, order).any(|live| is_old(&live)) {
                return Plan::level0(&survey, Thrift::Thorough);
            }
            let mut deeper = self.level + 1..LEVELS_COUNT;
            let has_deeper = deeper.any(|level| !self.touched(tables, level, order).is_empty());
            if !has_deeper {
                let undone = self.undone(tables, order).iter().filter(is_old);
                let shrinkable = undone.into_iter().find(|live| survey.can_shrink(live));
                return shrinkable.map(|live| Plan::in_place(&survey, self.level, live));
            }
            if self.level > 0 {
                let old: Vec<LiveTable> =
                    self.touched(tables, self.level, order).iter().filter(is_old).cloned().collect();
                if !old.is_empty() {
                    return Some(Plan::down(&survey, self.level, old, Thrift::Thorough));
                }
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

    /// Returns the tables of the walk's level that hold something of the range and are not done; none of level 0, of which
    /// nothing is left to do when this is asked.
    fn undone<'t>(&self, tables: &'t Tables, order: &KeyOrder) -> &'t [LiveTable] {
        if self.level == 0 {
            return &[];
        }
        let touched = self.touched(tables, self.level, order);
        let Some(done_to) = &self.done_to else { return touched };
        &touched[touched.partition_point(|live| order.compare(&live.meta.largest, done_to).is_le())..]
    }

    /// Returns the tables of a sorted level that hold something of the range. They lie side by side, so that a walk of
    /// many steps does not compare the keys of every table at each.
    fn touched<'t>(&self, tables: &'t Tables, level: usize, order: &KeyOrder) -> &'t [LiveTable] {
        assert!(level > 0, "the tables of level 0 overlap");
        let tables = tables.level(level);
        let tables = &tables[tables.partition_point(|live| self.is_behind(live, order))..];
        &tables[..tables.partition_point(|live| !self.is_ahead(live, order))]
    }

    fn touched_of_level0<'t>(
        &self,
        tables: &'t Tables,
        order: &KeyOrder,
    ) -> impl Iterator<Item = &'t LiveTable> {
        tables.level(0).iter().filter(move |live| !self.is_behind(live, order) && !self.is_ahead(live, order))
    }

    /// Tells whether all of a table lies before the range.
    fn is_behind(&self, live: &LiveTable, order: &KeyOrder) -> bool {
        match &self.lower {
            Bound::Included(key) => order.compare(&live.meta.largest, key).is_lt(),
            Bound::Excluded(key) => order.compare(&live.meta.largest, key).is_le(),
            Bound::Unbounded => false,
        }
    }

    /// Tells whether all of a table lies after the range.
    fn is_ahead(&self, live: &LiveTable, order: &KeyOrder) -> bool {
        match &self.upper {
            Bound::Included(key) => order.compare(&live.meta.smallest, key).is_gt(),
            Bound::Excluded(key) => order.compare(&live.meta.smallest, key).is_ge(),
            Bound::Unbounded => false,
        }
    }
}
