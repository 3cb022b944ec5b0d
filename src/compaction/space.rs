//! Where space can be had: what a merge of which tables would free, and what it would cost.
//!
//! Pure estimates from what tables say about themselves; no entry is read. Two things can be freed:
//!
//! - *Garbage in a table*: deletes, and versions that were kept for a snapshot. With nothing of its range below, a
//!   table is rid of them by being rewritten where it is. What a live snapshot still holds is not counted, or the same
//!   table would be rewritten again and again: the merge that wrote it noted for whom it kept what
//!   ([`crate::mvcc::retain::Kept`]).
//! - *What it hides deeper down*: each of its entries may hide one of average size there, and no more than what lies in
//!   its range. It is freed by merging the table down. A delete surely was written to hide something; a put perhaps.
//!
//! Bytes of one table are spread over its entries by their kind and by the average lengths of keys and values. All
//! numbers are whole, so that every machine agrees.

use crate::base::comparator::KeyOrder;
use crate::base::key::{InternalKey, Tag};
use crate::base::limits::LEVELS_COUNT;
use crate::base::seq::SeqNum;
use crate::mvcc::retain::Kept;
use crate::read::tree::Tables;
use crate::read::waste::STEP_COST_BYTES;
use crate::table::properties::Properties;
use crate::table::reader::Table;
use crate::version::levels::Live;
use std::cell::OnceCell;
use std::ops::AddAssign;
use std::sync::Arc;

/// Bytes that an entry has besides key and value, about.
const ENTRY_OVERHEAD_BYTES: u64 = 12;

/// A table of a version.
pub type LiveTable = Arc<Live<Arc<Table>>>;

/// Tables that could be merged to free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where they are.
    pub source: Source,
    /// What the merge rewrites.
    pub price_bytes: u64,
    /// What the merge, and those that it makes possible, would free if everything above hid something.
    pub frees_bytes: u64,
    /// What of that is freed because of deletes and of snapshots that are gone.
    pub frees_surely_bytes: u64,
    /// What readers have spent on stepping over entries because of these tables.
    pub steps_bytes: u64,
}

/// Which tables a candidate is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// All of level 0, to be merged into level 1.
    Level0,
    /// One table of a level, to be merged into the next.
    Down(usize, usize),
    /// One table of a level, to be rewritten where it is.
    InPlace(usize, usize),
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// In bytes of tables.
    pub bytes: u64,
    /// In entries.
    pub entries: u64,
}

impl Amount {
    fn of(live: &LiveTable) -> Amount {
        Amount { bytes: live.meta.len_bytes, entries: live.meta.entries }
    }

    /// Returns what so many average entries have.
    pub fn share_bytes(self, entries: u64) -> u64 {
        proportion(self.bytes, entries.min(self.entries), self.entries)
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.bytes += other.bytes;
        self.entries += other.entries;
    }
}

/// The tables of a version with their sums, for looking up what lies below a range.
pub struct Survey<'a> {
    tables: &'a Tables,
    order: &'a KeyOrder,
    /// Live snapshots, ascending.
    snapshots: &'a [SeqNum],
    /// For each level and each place in it, what lies before that place; summed up when it is first asked for, since
    /// many a question is about one table alone.
    sums: [OnceCell<Vec<Amount>>; LEVELS_COUNT],
}

impl<'a> Survey<'a> {
    /// Looks at a version while `snapshots` are live, which ascend.
    pub fn new(tables: &'a Tables, order: &'a KeyOrder, snapshots: &'a [SeqNum]) -> Survey<'a> {
        Survey { tables, order, snapshots, sums: Default::default() }
    }

    fn sums(&self, level: usize) -> &[Amount] {
        self.sums[level].get_or_init(|| {
            let mut sum = Amount::default();
            let mut sums = vec![sum];
            for live in self.tables.level(level) {
                sum += Amount::of(live);
                sums.push(sum);
            }
            sums
        })
    }

    /// Returns the version.
    pub fn tables(&self) -> &'a Tables {
        self.tables
    }

    /// Returns the order of its keys.
    pub fn order(&self) -> &'a KeyOrder {
        self.order
    }

    /// Returns what all tables have.
    pub fn all(&self) -> Amount {
        let mut all = Amount::default();
        (0..LEVELS_COUNT).filter_map(|level| self.sums(level).last()).for_each(|&sum| all += sum);
        all
    }

    /// Returns what the tables of a sorted level have that share keys with a range.
    pub fn overlap(&self, level: usize, (smallest, largest): (&[u8], &[u8])) -> Amount {
        let span = self.tables.span(level, smallest, largest, self.order);
        let (start, end) = (self.sums(level)[span.start], self.sums(level)[span.end]);
        Amount { bytes: end.bytes - start.bytes, entries: end.entries - start.entries }
    }

    /// Returns what the tables of all sorted levels below `level` have that share keys with a range.
    pub fn below(&self, level: usize, range: (&[u8], &[u8])) -> Amount {
        let mut sum = Amount::default();
        (level + 1..LEVELS_COUNT).for_each(|deeper| sum += self.overlap(deeper, range));
        sum
    }

    /// Tells whether rewriting a table with nothing below it can free anything.
    pub fn can_shrink(&self, live: &LiveTable) -> bool {
        live.table.properties().is_ok_and(Properties::may_shrink)
            && live.kept.as_ref().is_none_or(|kept| {
                kept.for_deeper_count() > 0 || kept.for_snapshots().iter().any(|seq| !self.is_live(seq))
            })
    }

    /// Estimates what rewriting a table with nothing below it would free; never nothing where it can free anything.
    pub fn reclaimable_bytes(&self, live: &LiveTable) -> u64 {
        if !self.can_shrink(live) {
            return 0;
        }
        let garbage = garbage_bytes(live);
        let freed = live.kept.as_ref().map_or(garbage, |kept| {
            let held_for = kept.for_snapshots();
            let gone_count = held_for.iter().filter(|seq| !self.is_live(seq)).count() as u64;
            let deletes = deletes_bytes(live, kept.for_deeper_count()).min(garbage);
            deletes + proportion(garbage - deletes, gone_count, held_for.len() as u64)
        });
        freed.max(1)
    }

    /// Estimates what merging a table down to what lies `below` would free in both: in all, and because of its deletes.
    pub fn freed_by(&self, live: &LiveTable, below: Amount) -> (u64, u64) {
        let (entries, deletes) = (live.meta.entries, live.meta.deletes);
        let all = below.share_bytes(entries) + garbage_bytes(live);
        let surely = below.share_bytes(deletes) + deletes_bytes(live, deletes);
        (all, surely)
    }

    /// As [`Survey::freed_by`], for tables of a level that are merged down together.
    pub fn freed_by_all(&self, level: usize, tables: &[LiveTable], mut below: Amount) -> (u64, u64) {
        let (mut all, mut surely) = (0u64, 0u64);
        // The newer tables of level 0, which come first, hide entries of the older ones as well.
        for live in tables.iter().rev() {
            let freed = self.freed_by(live, below);
            (all, surely) = (all.saturating_add(freed.0), surely.saturating_add(freed.1));
            if level == 0 {
                below += Amount::of(live);
            }
        }
        (all, surely)
    }

    /// Returns the tables above a table of a sorted level that may hide something in it and were not asked yet.
    pub fn shading(&self, level: usize, live: &LiveTable) -> Vec<LiveTable> {
        let meta = &live.meta;
        let asked_seq = live.kept.as_ref().map_or(SeqNum::ZERO, Kept::shaded_seq);
        let above = (0..level)
            .flat_map(|above| self.tables.overlapping(above, &meta.smallest, &meta.largest, self.order));
        above.filter(|above| above.meta.largest_seq > asked_seq).map(Arc::clone).collect()
    }

    /// Estimates what the tables above a table of a sorted level hide in it.
    pub fn shaded_bytes(&self, level: usize, live: &LiveTable) -> u64 {
        let here = Amount::of(live);
        let hiding = self.shading(level, live).into_iter().map(|above| {
            // Its entries lie evenly over what it overlaps here, or denser.
            let all = self.overlap(level, (&above.meta.smallest[..], &above.meta.largest[..]));
            let evenly = proportion(above.meta.entries, here.entries, all.entries);
            evenly.max(entries_within(&above, (&live.meta.smallest, &live.meta.largest)))
        });
        here.share_bytes(hiding.fold(0, u64::saturating_add))
    }

    fn is_live(&self, seq: &SeqNum) -> bool {
        self.snapshots.binary_search(seq).is_ok()
    }

    /// Returns every merge that may free something, level by level.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = self.level0().into_iter().collect();
        for (level, tables) in self.tables.levels().iter().enumerate().skip(1) {
            candidates
                .extend(tables.iter().enumerate().filter_map(|(at, live)| self.sorted(level, at, live)));
        }
        candidates
    }

    /// Returns the live snapshots that keep a good part of a table from being freed, ascending.
    pub fn awaited(&self) -> Vec<SeqNum> {
        let mut awaited = Vec::new();
        for live in self.tables.levels().iter().flatten() {
            let Some(kept) = &live.kept else { continue };
            if !kept.for_snapshots().is_empty()
                && garbage_bytes(live).saturating_mul(16) >= live.meta.len_bytes
            {
                awaited.extend(kept.for_snapshots().iter().filter(|seq| self.is_live(seq)));
            }
        }
        awaited.sort_unstable();
        awaited.dedup();
        awaited
    }

    fn level0(&self) -> Option<Candidate> {
        let tables = self.tables.level(0);
        let range = range_of(tables, self.order)?;
        let next = self.overlap(1, range);
        let below = self.below(0, range);
        let steps_bytes = steps_bytes(tables);
        let price_bytes = next.bytes + self.tables.level_len_bytes(0);
        if tables.len() == 1 && below.bytes == 0 {
            let frees_bytes = self.reclaimable_bytes(&tables[0]);
            let source = Source::Level0;
            let candidate =
                Candidate { source, price_bytes, frees_bytes, frees_surely_bytes: frees_bytes, steps_bytes };
            return (frees_bytes > 0).then_some(candidate);
        }
        let (frees_bytes, frees_surely_bytes) = self.freed_by_all(0, tables, below);
        let source = Source::Level0;
        let candidate = Candidate { source, price_bytes, frees_bytes, frees_surely_bytes, steps_bytes };
        Some(candidate.bounded(below.bytes + self.tables.level_len_bytes(0)))
    }

    fn sorted(&self, level: usize, at: usize, live: &LiveTable) -> Option<Candidate> {
        let range = (&live.meta.smallest[..], &live.meta.largest[..]);
        let steps_bytes = steps_bytes(std::slice::from_ref(live));
        let below = self.below(level, range);
        if below.bytes == 0 {
            let frees_bytes = self.reclaimable_bytes(live);
            return (frees_bytes > 0).then_some(Candidate {
                source: Source::InPlace(level, at),
                price_bytes: live.meta.len_bytes,
                frees_bytes,
                frees_surely_bytes: frees_bytes,
                steps_bytes,
            });
        }
        let price_bytes = live.meta.len_bytes + self.overlap(level + 1, range).bytes;
        let (frees_bytes, frees_surely_bytes) = self.freed_by(live, below);
        let source = Source::Down(level, at);
        let candidate = Candidate { source, price_bytes, frees_bytes, frees_surely_bytes, steps_bytes };
        Some(candidate.bounded(below.bytes + live.meta.len_bytes))
    }
}

impl Candidate {
    fn bounded(self, bytes: u64) -> Candidate {
        Candidate {
            frees_bytes: self.frees_bytes.min(bytes),
            frees_surely_bytes: self.frees_surely_bytes.min(bytes),
            ..self
        }
    }
}

/// Returns the smallest and the largest key of some tables.
pub fn range_of<'a>(tables: &'a [LiveTable], order: &KeyOrder) -> Option<(&'a [u8], &'a [u8])> {
    let smallest = tables.iter().map(|live| &live.meta.smallest[..]).min_by(|a, b| order.compare(a, b))?;
    let largest = tables.iter().map(|live| &live.meta.largest[..]).max_by(|a, b| order.compare(a, b))?;
    Some((smallest, largest))
}

/// Estimates how many entries of a table lie within a range of keys, by its blocks: one that the range cuts counts for half.
fn entries_within(live: &LiveTable, (smallest, largest): (&[u8], &[u8])) -> u64 {
    // Of a table that cannot be read nothing is known.
    let Ok(index) = live.table.index() else { return 0 };
    let (order, count) = (live.table.order(), index.blocks_count() as u64);
    let block_of = |key| index.find(key).map_or(count, |block| block as u64);
    let is_cut = |is_inside: bool| u64::from(!is_inside);
    // In halves of a block, from the first that may hold such a key to the last.
    let first = 2 * block_of(InternalKey::new(smallest, Tag::NEWEST))
        + is_cut(order.compare(smallest, &live.meta.smallest).is_le());
    let last = match order.compare(largest, &live.meta.largest).is_ge() {
        true => 2 * count,
        false => 2 * block_of(InternalKey::new(largest, Tag::OLDEST)) + 1,
    };
    proportion(live.meta.entries, last.saturating_sub(first), 2 * count)
}

/// Estimates how many bytes of a table are deletes and old versions.
fn garbage_bytes(live: &LiveTable) -> u64 {
    // Of a table that cannot be read nothing is known.
    let Ok(properties) = live.table.properties() else { return 0 };
    let old_count = properties.keys_count.map_or(0, |keys| properties.entries_count.saturating_sub(keys));
    let puts_count = properties.entries_count.saturating_sub(properties.deletes_count);
    let old_raw = proportion(
        properties.values_len_bytes.saturating_add(puts_count.saturating_mul(delete_raw_bytes(properties))),
        old_count.min(puts_count),
        puts_count,
    );
    let deletes = deletes_bytes(live, properties.deletes_count);
    (deletes + proportion(live.meta.len_bytes, old_raw, raw_bytes(properties))).min(live.meta.len_bytes)
}

/// Estimates how many bytes of a table so many deletes are.
fn deletes_bytes(live: &LiveTable, count: u64) -> u64 {
    // Of a table that cannot be read nothing is known.
    let Ok(properties) = live.table.properties() else { return 0 };
    let raw = count.min(properties.deletes_count).saturating_mul(delete_raw_bytes(properties));
    proportion(live.meta.len_bytes, raw, raw_bytes(properties))
}

fn delete_raw_bytes(properties: &Properties) -> u64 {
    properties.keys_len_bytes / properties.entries_count.max(1) + ENTRY_OVERHEAD_BYTES
}

fn raw_bytes(properties: &Properties) -> u64 {
    let overhead = properties.entries_count.saturating_mul(ENTRY_OVERHEAD_BYTES);
    overhead.saturating_add(properties.keys_len_bytes).saturating_add(properties.values_len_bytes)
}

fn steps_bytes(tables: &[LiveTable]) -> u64 {
    let steps = tables.iter().map(|live| live.steps_count()).fold(0, u64::saturating_add);
    steps.saturating_mul(STEP_COST_BYTES)
}

/// Returns `part` / `whole` of `bytes`, at most all of them; nothing of nothing.
fn proportion(bytes: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    let share = u128::from(bytes) * u128::from(part.min(whole)) / u128::from(whole);
    u64::try_from(share).expect("no more than the bytes")
}
