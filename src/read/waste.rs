//! What readers did in vain, so that the merge that would have spared them becomes due.
//!
//! Two things are counted. A seek reads a block of every table of level 0 that it would not need if they were merged:
//! that is counted here, in bytes. And a scan steps over deletes and over entries that newer ones hide: that is counted
//! at the table or memtable that holds the entry which hid them ([`Live::count_steps`], [`Memtable::count_steps`]), for
//! to be rid of them that one has to be merged with what lies below; the count ends with the table it belongs to.
//!
//! Whether a merge is due is decided elsewhere, by comparing these counts with what the merge costs. Here is only told
//! when it is worth looking: the background is woken each time a count has grown by a fixed amount.
//!
//! [`Live::count_steps`]: crate::version::levels::Live::count_steps
//! [`Memtable::count_steps`]: crate::memtable::Memtable::count_steps

use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::yield_point;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What stepping over one entry costs, in bytes that a merge rewrites in the same time: a step takes 0.05 to 0.1 µs, and
/// a merge about 3 ns a byte. A reader waits for its steps and for no merge, so they count a little more than that.
pub const STEP_COST_BYTES: u64 = 32;

/// Wakes the background; takes no lock that a reader's caller could hold.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What reading one keyspace has cost in vain; shared by all its moments.
pub struct ReadWaste {
    /// Bytes of blocks that seeks would not have read from a merged tree, since level 0 was last merged.
    level0_bytes: AtomicU64,
    /// From how many on a merge of level 0 is worth its cost.
    due_at_bytes: AtomicU64,
    /// A count of steps has crossed a multiple of this since somebody looked.
    is_noticed: AtomicBool,
    notice_steps: u64,
    wake: Wake,
}

impl ReadWaste {
    /// Starts counting; `wake` is called each time that somewhere `notice_bytes` more have been wasted by steps.
    pub fn new(notice_bytes: u64, wake: Wake) -> ReadWaste {
        ReadWaste {
            level0_bytes: AtomicU64::new(0),
            due_at_bytes: AtomicU64::new(u64::MAX),
            is_noticed: AtomicBool::new(false),
            notice_steps: (notice_bytes / STEP_COST_BYTES).max(1),
            wake,
        }
    }

    /// Counts what a seek wastes on level 0; tells whether it is time to look for a merge.
    ///
    /// A seek adds and then looks at the price, `weigh` sets the price and then looks at the sum: in one order of all
    /// four, at least one of the two sees what the other did, and no merge waits for the next occasion.
    pub fn count_seek(&self, bytes: u64) -> bool {
        let is_due = bytes > 0 && {
            let before = self.level0_bytes.fetch_add(bytes, Ordering::SeqCst);
            let due_at = self.due_at_bytes.load(Ordering::SeqCst);
            before < due_at && before + bytes >= due_at
        };
        let is_noticed = self.is_noticed.load(Ordering::Relaxed);
        if is_noticed {
            self.is_noticed.store(false, Ordering::Relaxed);
        }
        is_due || is_noticed
    }

    /// Hears that a count of steps has grown by `count` from `before`; tells whether the background ought to look.
    /// The next seek will say so too, in case that nobody can be woken now.
    pub fn note_steps(&self, before: u64, count: u64) -> bool {
        let is_crossed = before / self.notice_steps != (before + count) / self.notice_steps;
        if is_crossed {
            self.is_noticed.store(true, Ordering::Relaxed);
        }
        is_crossed
    }

    /// Makes the background look for a merge.
    pub fn wake(&self) {
        yield_point("waste: before waking");
        (self.wake)();
    }

    /// Returns what seeks have wasted on level 0 so far, and learns what merging it would cost now.
    pub fn weigh(&self, merge_bytes: Option<u64>) -> u64 {
        self.due_at_bytes.store(merge_bytes.unwrap_or(u64::MAX), Ordering::SeqCst);
        self.level0_bytes.load(Ordering::SeqCst)
    }

    /// Begins anew: level 0 was merged.
    pub fn forget(&self) {
        self.level0_bytes.store(0, Ordering::Relaxed);
    }
}

impl fmt::Debug for ReadWaste {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadWaste").field("level0_bytes", &self.level0_bytes).finish_non_exhaustive()
    }
}
