//! One keyspace's tables by level, immutable: a reader that holds a version holds its files.
//!
//! Level 0 holds flushed tables, newest first, with overlapping ranges. Each deeper level is sorted, its tables
//! share no user key (INV-1), and for any key its entries are older than those above (INV-2).

use crate::base::comparator::KeyOrder;
use crate::base::ids::FileNumber;
use crate::base::limits::{CATALOG_ENTRY_LEN_BYTES, LEVELS_COUNT};
use crate::mvcc::retain::Kept;
use crate::sync::atomic::Counter;
use crate::version::edit::TableMeta;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

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
    steps_count: Counter,
}

impl<T> Live<T> {
    /// Makes a table of a version.
    pub fn new(meta: Arc<TableMeta>, table: T, kept: Option<Kept>) -> Live<T> {
        Live { meta, table, kept, steps_count: Counter::new(0) }
    }

    /// Counts entries that a reader had to step over because of an entry in this table; returns how many there were
    /// before.
    pub fn count_steps(&self, count: u64) -> u64 {
        self.steps_count.add(count)
    }

    /// Returns how many entries readers have stepped over because of an entry in this table.
    pub fn steps_count(&self) -> u64 {
        self.steps_count.get()
    }
}

/// The tables of one keyspace at one moment.
#[derive(Debug)]
pub struct Version<T> {
    levels: [Vec<Arc<Live<T>>>; LEVELS_COUNT],
    levels_len_bytes: [u64; LEVELS_COUNT],
    levels_catalog_bytes: [u64; LEVELS_COUNT],
}

impl<T> Default for Version<T> {
    fn default() -> Version<T> {
        let (levels_len_bytes, levels_catalog_bytes) = ([0; LEVELS_COUNT], [0; LEVELS_COUNT]);
        Version { levels: Default::default(), levels_len_bytes, levels_catalog_bytes }
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
        self.levels_len_bytes[level]
    }

    /// Returns how many bytes all levels hold.
    pub fn len_bytes(&self) -> u64 {
        self.levels_len_bytes.iter().sum()
    }

    /// Returns about how many bytes the tables take in a manifest.
    pub fn catalog_len_bytes(&self) -> u64 {
        self.levels_catalog_bytes.iter().sum()
    }

    /// Returns a version without `removed` and with `added`. Keys are compared where something has changed, and only there.
    ///
    /// # Panics
    /// If a removed table is not there, or an added one breaks INV-1.
    #[must_use]
    pub fn with(
        &self,
        removed: &[(usize, FileNumber)],
        added: Vec<(usize, Arc<Live<T>>)>,
        order: &KeyOrder,
    ) -> Version<T> {
        let mut leaving: [BTreeSet<FileNumber>; LEVELS_COUNT] = Default::default();
        for (level, number) in removed {
            assert!(leaving[*level].insert(*number), "table {number} leaves level {level} once");
        }
        let mut joining: [Vec<Arc<Live<T>>>; LEVELS_COUNT] = Default::default();
        for (level, live) in added {
            joining[level].push(live);
        }
        let mut version = Version {
            levels: self.levels.clone(),
            levels_len_bytes: self.levels_len_bytes,
            levels_catalog_bytes: self.levels_catalog_bytes,
        };
        let changed = leaving.into_iter().zip(joining).enumerate();
        for (level, (leaving, joining)) in
            changed.filter(|(_, (old, new))| !old.is_empty() || !new.is_empty())
        {
            let tables = &mut version.levels[level];
            let before = tables.len();
            if !leaving.is_empty() {
                tables.retain(|live| !leaving.contains(&live.meta.number));
            }
            assert_eq!(tables.len() + leaving.len(), before, "what leaves level {level} was there");
            if level == 0 {
                tables.extend(joining);
                sort_level0(tables);
            } else if let Err(reason) = insert_sorted(level, tables, joining, order) {
                panic!("a version of our own is broken: {reason}");
            }
            version.weigh(level);
        }
        version
    }

    /// Sums up a level whose tables have changed.
    fn weigh(&mut self, level: usize) {
        let metas = self.levels[level].iter().map(|live| &live.meta);
        self.levels_len_bytes[level] = metas.clone().map(|meta| meta.len_bytes).sum();
        let bounds = metas.map(|meta| (meta.smallest.len() + meta.largest.len()) as u64);
        self.levels_catalog_bytes[level] = bounds.map(|len| CATALOG_ENTRY_LEN_BYTES + len).sum();
    }

    fn sorted(mut self, order: &KeyOrder) -> Version<T> {
        let [level0, deeper @ ..] = &mut self.levels;
        sort_level0(level0);
        for tables in deeper {
            tables.sort_by(|a, b| order.compare(&a.meta.smallest, &b.meta.smallest));
        }
        (0..LEVELS_COUNT).for_each(|level| self.weigh(level));
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
                check_range(&live.meta, order)?;
            }
            let pairs = tables.windows(2).filter(|_| level > 0);
            for pair in pairs {
                check_pair(level, &pair[0].meta, &pair[1].meta, order)?;
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
            level > 0
                || order.compare(&live.meta.largest, smallest) != Ordering::Less
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

/// Puts tables into a sorted level, each where it belongs, and checks that none overlaps its neighbours.
fn insert_sorted<T>(
    level: usize,
    tables: &mut Vec<Arc<Live<T>>>,
    mut joining: Vec<Arc<Live<T>>>,
    order: &KeyOrder,
) -> Result<(), String> {
    joining.sort_by(|a, b| order.compare(&a.meta.smallest, &b.meta.smallest));
    let mut rest = std::mem::take(tables);
    let mut tails = Vec::new();
    // From the last one backwards, so that places before it stay what they are.
    for live in joining.into_iter().rev() {
        check_range(&live.meta, order)?;
        let begins_before =
            |other: &Arc<Live<T>>| order.compare(&other.meta.smallest, &live.meta.smallest).is_lt();
        let tail = rest.split_off(rest.partition_point(begins_before));
        let next = tail.first().or(tails.last().map(|(joined, _)| joined));
        if let Some(next) = next {
            check_pair(level, &live.meta, &next.meta, order)?;
        }
        if let Some(before) = rest.last() {
            check_pair(level, &before.meta, &live.meta, order)?;
        }
        tails.push((live, tail));
    }
    for (live, tail) in tails.into_iter().rev() {
        rest.push(live);
        rest.extend(tail);
    }
    *tables = rest;
    Ok(())
}

fn sort_level0<T>(tables: &mut [Arc<Live<T>>]) {
    // A table's newest entry decides, since flushes follow the order of commits.
    tables.sort_by_key(|live| std::cmp::Reverse((live.meta.largest_seq, live.meta.number)));
}

fn check_range(meta: &TableMeta, order: &KeyOrder) -> Result<(), String> {
    if order.compare(&meta.smallest, &meta.largest) == Ordering::Greater {
        return Err(format!("table {} ends before it begins", meta.number));
    }
    Ok(())
}

/// Checks that two neighbours of a sorted level share no key.
fn check_pair(level: usize, left: &TableMeta, right: &TableMeta, order: &KeyOrder) -> Result<(), String> {
    if order.compare(&left.largest, &right.smallest) != Ordering::Less {
        return Err(format!("tables {} and {} overlap on level {level}", left.number, right.number));
    }
    Ok(())
}
