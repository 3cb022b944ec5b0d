//! One keyspace's tables by level, immutable: a reader that holds a version holds its files.
//!
//! Level 0 holds flushed tables, newest first, with overlapping ranges. Each deeper level is sorted, its tables
//! share no user key (INV-1), and for any key its entries are older than those above (INV-2).

use crate::base::comparator::KeyOrder;
use crate::base::ids::FileNumber;
use crate::base::limits::LEVELS_COUNT;
use crate::mvcc::retain::Kept;
use crate::version::edit::TableMeta;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

/// A table of a version, with whatever handle reads it.
#[derive(Debug)]
pub struct Live<T> {
    /// What is known of it.
    pub meta: Arc<TableMeta>,
    /// The open table.
    pub table: T,
    /// Why the merge that wrote it kept what the newest reader does not need; unknown of a table that was found when
    /// the database was opened.
    pub kept: Option<Kept>,
    /// Entries that readers stepped over because of an entry in this table.
    steps_count: AtomicU64,
}

impl<T> Live<T> {
    /// Makes a table of a version.
    pub fn new(meta: Arc<TableMeta>, table: T, kept: Option<Kept>) -> Live<T> {
        Live { meta, table, kept, steps_count: AtomicU64::new(0) }
    }

    /// Counts entries that a reader had to step over because of an entry in this table; returns how many there were
    /// before.
    pub fn count_steps(&self, count: u64) -> u64 {
        self.steps_count.fetch_add(count, Atomic::Relaxed)
    }

    /// Returns how many entries readers have stepped over because of an entry in this table.
    pub fn steps_count(&self) -> u64 {
        self.steps_count.load(Atomic::Relaxed)
    }
}

/// The tables of one keyspace at one moment.
#[derive(Debug)]
pub struct Version<T> {
    levels: [Vec<Arc<Live<T>>>; LEVELS_COUNT],
}

impl<T> Default for Version<T> {
    fn default() -> Version<T> {
        Version { levels: Default::default() }
    }
}

impl<T> Version<T> {
    /// Returns the tables of a level in its order.
    pub fn level(&self, level: usize) -> &[Arc<Live<T>>] {
        &self.levels[level]
    }

    /// Returns every level.
    pub fn levels(&self) -> &[Vec<Arc<Live<T>>>] {
        &self.levels
    }

    /// Returns the deepest level with a table.
    pub fn deepest(&self) -> Option<usize> {
        self.levels.iter().rposition(|tables| !tables.is_empty())
    }

    /// Returns how many bytes a level holds.
    pub fn level_len_bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|live| live.meta.len_bytes).sum()
    }

    /// Returns a version without `removed` and with `added`.
    ///
    /// # Panics
    /// If a removed table is not there, or the result breaks INV-1.
    #[must_use]
    pub fn with(
        &self,
        removed: &[(usize, FileNumber)],
        added: Vec<(usize, Arc<Live<T>>)>,
        order: &KeyOrder,
    ) -> Version<T> {
        let mut levels = self.levels.clone();
        for (level, number) in removed {
            let before = levels[*level].len();
            levels[*level].retain(|live| live.meta.number != *number);
            assert_eq!(levels[*level].len() + 1, before, "table {number} leaves level {level} once");
        }
        for (level, live) in added {
            levels[level].push(live);
        }
        let version = Version { levels }.sorted(order);
        if let Err(reason) = version.check(order) {
            panic!("a version of our own is broken: {reason}");
        }
        version
    }

    fn sorted(mut self, order: &KeyOrder) -> Version<T> {
        let [level0, deeper @ ..] = &mut self.levels;
        // A table's newest entry decides, since flushes follow the order of commits.
        level0.sort_by_key(|live| std::cmp::Reverse((live.meta.largest_seq, live.meta.number)));
        for tables in deeper {
            tables.sort_by(|a, b| order.compare(&a.meta.smallest, &b.meta.smallest));
        }
        self
    }

    /// Builds a version from tables that a disk named; [`Version::check`] has to follow.
    pub fn from_tables(tables: Vec<(usize, Arc<Live<T>>)>, order: &KeyOrder) -> Version<T> {
        let mut version = Version::default();
        for (level, live) in tables {
            version.levels[level].push(live);
        }
        version.sorted(order)
    }

    /// Checks INV-1 and that every range is a range.
    ///
    /// # Errors
    /// A sentence that names the tables.
    pub fn check(&self, order: &KeyOrder) -> Result<(), String> {
        for (level, tables) in self.levels.iter().enumerate() {
            for live in tables {
                if order.compare(&live.meta.smallest, &live.meta.largest) == Ordering::Greater {
                    return Err(format!("table {} ends before it begins", live.meta.number));
                }
            }
            let pairs = tables.windows(2).filter(|_| level > 0);
            for pair in pairs {
                let (left, right) = (&pair[0].meta, &pair[1].meta);
                if order.compare(&left.largest, &right.smallest) != Ordering::Less {
                    return Err(format!(
                        "tables {} and {} overlap on level {level}",
                        left.number, right.number
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns the table of a sorted level that may hold `key`.
    #[inline]
    pub fn find(&self, level: usize, key: &[u8], order: &KeyOrder) -> Option<&Arc<Live<T>>> {
        let tables = &self.levels[level];
        let at = tables.partition_point(|live| order.compare(&live.meta.largest, key) == Ordering::Less);
        tables.get(at).filter(|live| order.compare(&live.meta.smallest, key) != Ordering::Greater)
    }

    /// Returns the tables of a level that share keys with `smallest..=largest`, in the level's order.
    pub fn overlapping(
        &self,
        level: usize,
        smallest: &[u8],
        largest: &[u8],
        order: &KeyOrder,
    ) -> impl Iterator<Item = &Arc<Live<T>>> {
        // The tables of level 0 are in no order of keys.
        let candidates =
            if level == 0 { 0..self.levels[0].len() } else { self.span(level, smallest, largest, order) };
        self.levels[level][candidates].iter().filter(move |live| {
            order.compare(&live.meta.largest, smallest) != Ordering::Less
                && order.compare(&live.meta.smallest, largest) != Ordering::Greater
        })
    }

    /// Returns where in a sorted level the tables lie that share keys with `smallest..=largest`.
    ///
    /// # Panics
    /// If the level is 0, whose tables overlap.
    pub fn span(&self, level: usize, smallest: &[u8], largest: &[u8], order: &KeyOrder) -> Range<usize> {
        assert!(level > 0, "the tables of level 0 overlap");
        let tables = &self.levels[level];
        let start =
            tables.partition_point(|live| order.compare(&live.meta.largest, smallest) == Ordering::Less);
        let end =
            tables.partition_point(|live| order.compare(&live.meta.smallest, largest) != Ordering::Greater);
        start..end.max(start)
    }
}
