//! Walking over one block, both ways.
//!
//! Forwards, the current key is kept in a buffer, cut to what the next entry shares and extended. Backwards a
//! shared prefix is of no use, so the whole interval between two restarts is unpacked once: its keys side by
//! side in the same buffer, and a list of spots that steps then walk down.

use crate::base::comparator::KeyOrder;
use crate::base::key::{InternalKey, Tag};
use crate::base::slice::Slice;
use crate::cache::BlockKey;
use crate::table::block::{BlockView, Damaged, Entry, RESTART_INTERVAL_COUNT, Start};
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

const SHARES_TOO_MUCH: Damaged = Damaged("an entry shares more than there is");

/// A place in one block.
#[derive(Default)]
pub struct BlockCursor {
    /// The block, followed by its stamp; empty before the first [`BlockCursor::enter`].
    block: Arc<Vec<u8>>,
    is_valid: bool,
    current: Spot,
    /// The current key alone, or the keys of all of `interval`.
    keys: Vec<u8>,
    /// The entries of one restart interval up to some point; empty while walking forwards.
    interval: Vec<Spot>,
    /// Where `current` stands in `interval`.
    interval_index: usize,
}

/// One entry, unpacked.
///
/// Offsets have 32 bits, as blocks are shorter than 4 GiB, and so are sixteen keys.
#[derive(Clone, Copy)]
struct Spot {
    tag: Tag,
    entry_start: u32,
    /// Where the next entry begins.
    entry_end: u32,
    key_start: u32,
    key_end: u32,
    value_start: u32,
    value_end: u32,
}

impl Default for Spot {
    fn default() -> Spot {
        let (entry_start, entry_end, key_start, key_end, value_start, value_end) = (0, 0, 0, 0, 0, 0);
        Spot { tag: Tag::OLDEST, entry_start, entry_end, key_start, key_end, value_start, value_end }
    }
}

impl BlockCursor {
    /// Takes up a stamped block, standing on no entry.
    pub fn enter(&mut self, block: Arc<Vec<u8>>) {
        self.block = block;
        self.leave();
    }

    /// Stands on no entry.
    pub fn leave(&mut self) {
        self.is_valid = false;
        self.interval.clear();
        self.keys.clear();
    }

    /// Tells whether it stands on an entry.
    #[inline]
    pub fn is_valid(&self) -> bool {
        self.is_valid
    }

    /// Returns the current key.
    #[inline]
    pub fn key(&self) -> InternalKey<'_> {
        assert!(self.is_valid, "the cursor stands on no entry");
        InternalKey::new(
            &self.keys[self.current.key_start as usize..self.current.key_end as usize],
            self.current.tag,
        )
    }

    /// Returns the current value.
    #[inline]
    pub fn value(&self) -> &[u8] {
        assert!(self.is_valid, "the cursor stands on no entry");
        &self.block[self.current.value_start as usize..self.current.value_end as usize]
    }

    /// Returns the current value from byte `skip` on, sharing the block.
    #[inline]
    pub fn value_slice(&self, skip: usize) -> Slice {
        assert!(self.is_valid, "the cursor stands on no entry");
        let (start, end) = (self.current.value_start as usize + skip, self.current.value_end as usize);
        assert!(start <= end, "the value is shorter than what is to be skipped");
        Slice::of(&self.block, start, end - start)
    }

    /// Goes to the first entry.
    pub fn seek_to_first(&mut self) -> Result<(), Damaged> {
        self.start_at_restart(0)
    }

    /// Goes to the last entry.
    pub fn seek_to_last(&mut self) -> Result<(), Damaged> {
        self.leave();
        let view = view(&self.block)?;
        let (last, end) = (view.restarts_count() - 1, view.end());
        self.unpack_interval(last, end, |_| true)
    }

    /// Goes to the first entry at or after `target`; to none if all lie before it.
    pub fn seek(&mut self, target: InternalKey<'_>, order: &KeyOrder) -> Result<(), Damaged> {
        let before = view(&self.block)?.restarts_before(target, order)?;
        self.start_at_restart(before.saturating_sub(1))?;
        while self.is_valid && self.key().compare(&target, order) == Ordering::Less {
            self.next()?;
        }
        Ok(())
    }

    /// Goes to the last entry before `target`; to none if all lie at or after it.
    pub fn seek_before(&mut self, target: InternalKey<'_>, order: &KeyOrder) -> Result<(), Damaged> {
        self.leave();
        let view = view(&self.block)?;
        let before = view.restarts_before(target, order)?;
        if before == 0 {
            return Ok(());
        }
        let end = view.restart(before).entry;
        self.unpack_interval(before - 1, end, |key| key.compare(&target, order) == Ordering::Less)
    }

    /// Goes to the next entry; to none behind the last.
    #[inline]
    pub fn next(&mut self) -> Result<(), Damaged> {
        assert!(self.is_valid, "the cursor stands on no entry");
        if !self.interval.is_empty() {
            self.keep_current_key_only();
        }
        self.is_valid = false;
        let start = self.current.next();
        let view = view(&self.block)?;
        if start.entry >= view.end() {
            return Ok(());
        }
        let entry = view.entry(start)?;
        if entry.shared > self.keys.len() {
            return Err(SHARES_TOO_MUCH);
        }
        self.keys.truncate(entry.shared);
        self.keys.extend_from_slice(view.suffix(&entry));
        self.current = Spot::new(start, &entry, view.tag(&entry), 0..self.keys.len());
        self.is_valid = true;
        Ok(())
    }

    /// Goes to the previous entry; to none before the first.
    #[inline]
    pub fn prev(&mut self) -> Result<(), Damaged> {
        assert!(self.is_valid, "the cursor stands on no entry");
        if self.interval_index > 0 && !self.interval.is_empty() {
            self.interval_index -= 1;
            self.current = self.interval[self.interval_index];
            return Ok(());
        }
        self.enter_interval_before(self.current.entry_start as usize)
    }

    /// Goes to the last entry that begins before `end`.
    fn enter_interval_before(&mut self, end: usize) -> Result<(), Damaged> {
        self.leave();
        let view = view(&self.block)?;
        if end <= view.first().entry {
            return Ok(());
        }
        let (mut lower, mut upper) = (0, view.restarts_count());
        while lower < upper {
            let middle = lower.midpoint(upper);
            if view.restart(middle).entry < end {
                lower = middle + 1;
            } else {
                upper = middle;
            }
        }
        let before = lower.checked_sub(1).ok_or(Damaged("the restarts leave entries out"))?;
        self.unpack_interval(before, end, |_| true)
    }

    fn start_at_restart(&mut self, index: usize) -> Result<(), Damaged> {
        self.leave();
        let view = view(&self.block)?;
        let entry = view.restart_entry(index)?;
        self.keys.extend_from_slice(view.suffix(&entry));
        self.current = Spot::new(view.restart(index), &entry, view.tag(&entry), 0..self.keys.len());
        self.is_valid = true;
        Ok(())
    }

    /// Unpacks the entries from a restart to `end` for as long as `is_wanted` says so, and goes to the last
    /// of them; to none if there is none.
    fn unpack_interval(
        &mut self,
        restart: usize,
        end: usize,
        is_wanted: impl Fn(InternalKey<'_>) -> bool,
    ) -> Result<(), Damaged> {
        assert!(!self.is_valid && self.interval.is_empty(), "the caller left the old place");
        let view = view(&self.block)?;
        let mut start = view.restart(restart);
        let (mut last_start, mut last_len) = (0, 0);
        while start.entry < end {
            let entry = view.entry(start)?;
            if entry.shared > last_len {
                return Err(SHARES_TOO_MUCH);
            }
            if self.interval.len() == RESTART_INTERVAL_COUNT {
                return Err(Damaged("more entries between two restarts than there may be"));
            }
            let key_start = self.keys.len();
            self.keys.extend_from_within(last_start..last_start + entry.shared);
            self.keys.extend_from_slice(view.suffix(&entry));
            let tag = view.tag(&entry);
            if !is_wanted(InternalKey::new(&self.keys[key_start..], tag)) {
                break;
            }
            (last_start, last_len) = (key_start, self.keys.len() - key_start);
            self.interval.push(Spot::new(start, &entry, tag, key_start..self.keys.len()));
            start = entry.next();
        }
        if let Some(&spot) = self.interval.last() {
            self.current = spot;
            self.interval_index = self.interval.len() - 1;
            self.is_valid = true;
        }
        Ok(())
    }

    /// Turns from walking backwards to walking forwards.
    fn keep_current_key_only(&mut self) {
        let Spot { key_start, key_end, .. } = self.current;
        self.keys.copy_within(key_start as usize..key_end as usize, 0);
        self.keys.truncate((key_end - key_start) as usize);
        (self.current.key_start, self.current.key_end) = (0, key_end - key_start);
        self.interval.clear();
    }
}

impl Spot {
    #[inline]
    fn new(start: Start, entry: &Entry, tag: Tag, key: Range<usize>) -> Spot {
        #[expect(clippy::cast_possible_truncation, reason = "blocks and sixteen keys are below 4 GiB")]
        let offset = |offset: usize| offset as u32;
        Spot {
            tag,
            entry_start: offset(start.entry),
            entry_end: offset(entry.next().entry),
            key_start: offset(key.start),
            key_end: offset(key.end),
            value_start: offset(entry.value_start),
            value_end: offset(entry.value_end),
        }
    }

    #[inline]
    fn next(&self) -> Start {
        Start { entry: self.entry_end as usize, value: self.value_end as usize }
    }
}

/// Leaves the stamp out.
#[inline]
fn view(block: &[u8]) -> Result<BlockView<'_>, Damaged> {
    let len = block.len().checked_sub(BlockKey::STAMP_LEN_BYTES).ok_or(Damaged("no block"))?;
    BlockView::parse(&block[..len])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Kind;
    use crate::base::seq::SeqNum;
    use crate::cache::BlockCache;
    use crate::table::block::{BlockBuilder, common_prefix_len};
    use proptest::prelude::*;

    fn intact_block(entries_count: u32) -> Vec<u8> {
        let mut builder = BlockBuilder::new();
        let mut last = Vec::new();
        for number in 0..entries_count {
            let key = format!("key{:05}", number / 3).into_bytes();
            let tag = Tag::new(SeqNum::new(u64::from(1000 - number)), Kind::Put);
            builder.add(InternalKey::new(&key, tag), common_prefix_len(&last, &key), &number.to_le_bytes());
            last = key;
        }
        builder.finish().to_vec()
    }

    /// Walks in every way; whatever the bytes are, that ends without a panic.
    fn walk_everywhere(block: Vec<u8>, target: InternalKey<'_>) -> Result<(), Damaged> {
        let entries_count_max = block.len();
        let mut stamped = block;
        BlockKey { owner: BlockCache::new(0).register(), offset: 0 }.stamp(&mut stamped);
        let mut cursor = BlockCursor::default();
        cursor.enter(Arc::new(stamped));
        let order = KeyOrder::Bytewise;
        let turn = |cursor: &mut BlockCursor, forward| if forward { cursor.next() } else { cursor.prev() };
        for forward in [true, false] {
            cursor.seek(target, &order)?;
            for _ in 0..entries_count_max {
                if cursor.is_valid() {
                    turn(&mut cursor, forward)?;
                }
            }
            cursor.seek_before(target, &order)?;
            for _ in 0..entries_count_max {
                if cursor.is_valid() {
                    turn(&mut cursor, forward)?;
                }
            }
            assert!(!cursor.is_valid(), "a walk one way comes to an end");
        }
        cursor.seek_to_last()?;
        cursor.seek_to_first()
    }

    proptest! {
        #[test]
        fn damaged_blocks_are_walked_or_refused(
            entries_count in 1u32..60,
            damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            wanted in 0u32..22,
        ) {
            let mut block = intact_block(entries_count);
            for (place, byte) in &damages {
                let place = place.index(block.len());
                block[place] = *byte;
            }
            let key = format!("key{wanted:05}");
            let outcome = walk_everywhere(block, InternalKey::new(key.as_bytes(), Tag::NEWEST));
            prop_assert!(outcome.is_ok() || !damages.is_empty());
        }
    }
}
