//! Counting the entries that one end of a scan steps over, each where the entry lies that hides it.
//!
//! The counts are gathered here, one for each source of the merging cursor, and added to those of memtables and tables
//! now and then, so that a step costs no shared memory.

use crate::memtable::Memtable;
use crate::read::tree::Tree;
use crate::read::waste::ReadWaste;
use std::cmp::Ordering;
use std::sync::Arc;

/// Steps that are gathered before they are told.
const STEPS_BEFORE_REPORT: u64 = 256;

/// The steps of one end of a scan.
#[derive(Default)]
pub struct Steps {
    /// Whether the active memtable, which may have been empty when the end was made, is the first of the sources.
    has_active: bool,
    /// The level of each source behind the memtables, and the place of its first table there.
    runs: Vec<(usize, usize)>,
    /// By source; shorter if the others have none.
    by_source: Vec<Gathered>,
    /// Steps in all of them that were not told yet.
    untold_count: u64,
}

/// The steps because of entries of one source.
#[derive(Clone, Copy, Default)]
struct Gathered {
    count: u64,
    holder: Holder,
}

/// Where the counted steps belong.
#[derive(Clone, Copy, Default)]
enum Holder {
    /// Nobody has asked yet.
    #[default]
    Unknown,
    /// The active memtable.
    Active,
    /// A sealed memtable, by its place among all.
    Sealed(usize),
    /// A table, by its level and its place there.
    Table(usize, usize),
}

impl Steps {
    /// Starts without any. The sources are the active memtable if `has_active`, the sealed ones that are not empty, and
    /// runs of tables, of which each has its level and the place of its first table there.
    pub fn new(has_active: bool, runs: Vec<(usize, usize)>) -> Steps {
        Steps { has_active, runs, ..Steps::default() }
    }

    /// Counts steps because of an entry of `key` in `source`; tells whether the background ought to look at them.
    pub fn count(
        &mut self,
        tree: &Tree,
        waste: &ReadWaste,
        (source, key): (usize, &[u8]),
        count: u64,
    ) -> bool {
        if self.by_source.len() <= source {
            self.by_source.resize(source + 1, Gathered::default());
        }
        let gathered = self.by_source[source];
        if !is_at(tree, gathered.holder, key) {
            tell(tree, waste, gathered);
            self.by_source[source] = Gathered { count: 0, holder: self.find(tree, source, key) };
        }
        self.by_source[source].count += count;
        self.untold_count += count;
        self.untold_count >= STEPS_BEFORE_REPORT && self.tell_all(tree, waste)
    }

    /// Adds what was counted where it belongs; tells whether the background ought to look at it.
    pub fn tell_all(&mut self, tree: &Tree, waste: &ReadWaste) -> bool {
        self.untold_count = 0;
        let mut is_noticed = false;
        for gathered in &mut self.by_source {
            is_noticed |= tell(tree, waste, *gathered);
            gathered.count = 0;
        }
        is_noticed
    }

    /// Finds where a source stands at `key`.
    fn find(&self, tree: &Tree, source: usize, key: &[u8]) -> Holder {
        let mut index = source;
        if self.has_active {
            let Some(rest) = index.checked_sub(1) else { return Holder::Active };
            index = rest;
        }
        let sealed = tree.sealed.iter().enumerate().filter(|(_, memtable)| !memtable.is_empty());
        for (at, _) in sealed {
            let Some(rest) = index.checked_sub(1) else { return Holder::Sealed(at) };
            index = rest;
        }
        match self.runs[index] {
            (0, at) => Holder::Table(0, at),
            (level, _) => Holder::Table(level, tree.tables.span(level, key, key, &tree.order).start),
        }
    }
}

/// Tells whether a holder is where its source stands at `key`.
fn is_at(tree: &Tree, holder: Holder, key: &[u8]) -> bool {
    match holder {
        Holder::Unknown => false,
        Holder::Active | Holder::Sealed(_) | Holder::Table(0, _) => true,
        Holder::Table(level, at) => tree.tables.level(level).get(at).is_some_and(|live| {
            tree.order.compare(&live.meta.smallest, key) != Ordering::Greater
                && tree.order.compare(&live.meta.largest, key) != Ordering::Less
        }),
    }
}

/// Adds steps where they belong; tells whether the background ought to look at them.
fn tell(tree: &Tree, waste: &ReadWaste, Gathered { count, holder }: Gathered) -> bool {
    if count == 0 {
        return false;
    }
    let of_memtable = |memtable: &Arc<Memtable>| memtable.count_steps(count);
    let before = match holder {
        Holder::Unknown => None,
        Holder::Active => Some(of_memtable(&tree.active)),
        Holder::Sealed(at) => tree.sealed.get(at).map(of_memtable),
        Holder::Table(level, at) => tree.tables.level(level).get(at).map(|live| live.count_steps(count)),
    };
    before.is_some_and(|before| waste.note_steps(before, count))
}
