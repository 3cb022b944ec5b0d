//! Recent writes in memory, sorted.
//!
//! Owns the entries of one keyspace that came through one WAL segment. One writer at a time inserts, any number
//! of readers look at the same time without a lock; entries are never removed.
//!
//! The structure is crossbeam's skip list. What makes it quick is how it is keyed: the first 16 bytes of the key
//! lie in the node as one number that is compared before the key itself is touched, and key and value lie in
//! chunks that the nodes share ([`arena`]). Nothing is ever removed from the list, so it hands no garbage to the
//! epoch collector. Nobody outside this module sees that it is a skip list (docs/decisions/0004-memtable.md).

pub mod arena;
pub mod cursor;
mod entry;
mod filter;

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::hash::hash_key;
use crate::base::key::{InternalKey, Tag};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::slice::Slice;
use crate::memtable::arena::{Arena, NODE_LEN_BYTES, charge_of};
use crate::memtable::entry::{ByteOrder, CustomOrder, Entry, Probe, Wanted};
use crate::memtable::filter::MemtableFilter;
use crate::sync::atomic::Counter;
use crossbeam_skiplist::SkipSet;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// Sorted entries in memory.
pub struct Memtable {
    list: List,
    filter: MemtableFilter,
    len_bytes: Counter,
    count: Counter,
    /// Entries that readers stepped over because of an entry in here.
    steps_count: Counter,
}

enum List {
    Bytewise(SkipSet<Entry<ByteOrder>>),
    Custom(SkipSet<Entry<CustomOrder>>, KeyOrder),
}

impl Memtable {
    /// Makes an empty memtable in `order` that will take about `expected_bytes`.
    pub fn new(order: &KeyOrder, expected_bytes: usize) -> Memtable {
        let list = match order {
            KeyOrder::Bytewise => List::Bytewise(SkipSet::new()),
            KeyOrder::Custom(_) => List::Custom(SkipSet::new(), order.clone()),
        };
        Memtable {
            list,
            filter: MemtableFilter::new(expected_bytes),
            len_bytes: Counter::new(0),
            count: Counter::new(0),
            steps_count: Counter::new(0),
        }
    }

    /// Copies an entry into `arena` and inserts it; visible to readers at once, whatever their sequence number makes
    /// of it.
    ///
    /// # Panics
    /// If key or value is over its limit of limits.rs.
    pub fn insert(&self, arena: &mut Arena, key: InternalKey<'_>, value: &[u8]) {
        self.filter.insert(hash_key(key.user_key), self.count());
        let bytes = arena.store(key.user_key, value);
        match &self.list {
            List::Bytewise(set) => {
                set.insert(Entry::new(key, bytes, ByteOrder));
            }
            List::Custom(set, order) => {
                set.insert(Entry::new(key, bytes, CustomOrder(order.clone())));
            }
        }
        self.len_bytes.add(charge_of(key.user_key, value));
        let count = self.count.add(1) + 1;
        if self.filter.is_outgrown(count) {
            self.grow_filter();
        }
    }

    /// Walks over some thousand entries, once.
    #[cold]
    fn grow_filter(&self) {
        match &self.list {
            List::Bytewise(set) => {
                self.filter.grow(set.iter().map(|entry| hash_key(entry.value().user_key())));
            }
            List::Custom(set, _) => {
                self.filter.grow(set.iter().map(|entry| hash_key(entry.value().user_key())));
            }
        }
    }

    /// Returns the newest entry of `key` at or below `seq`.
    pub fn get(&self, key: &[u8], seq: SeqNum) -> Option<(Tag, Slice)> {
        self.get_hashed(key, hash_key(key), seq)
    }

    /// Returns like [`Memtable::get`], given [`hash_key`] of the key.
    #[inline]
    pub fn get_hashed(&self, key: &[u8], hash: u64, seq: SeqNum) -> Option<(Tag, Slice)> {
        if !self.filter.may_contain(hash) {
            return None;
        }
        self.search(key, seq)
    }

    fn search(&self, key: &[u8], seq: SeqNum) -> Option<(Tag, Slice)> {
        let target = InternalKey::new(key, Tag::seek_at(seq));
        match &self.list {
            List::Bytewise(set) => {
                let wanted = Wanted::new(target, ByteOrder);
                let found = set.lower_bound(Bound::Included(&wanted as &dyn Probe<ByteOrder>))?;
                (found.user_key() == key).then(|| (found.tag(), found.value_slice(0)))
            }
            List::Custom(set, order) => {
                let wanted = Wanted::new(target, CustomOrder(order.clone()));
                let found = set.lower_bound(Bound::Included(&wanted as &dyn Probe<CustomOrder>))?;
                (found.user_key() == key).then(|| (found.tag(), found.value_slice(0)))
            }
        }
    }

    /// Checks that the entries are in order, and returns how many there are.
    ///
    /// # Errors
    /// `Internal`: memory is damaged, or the comparator contradicts itself.
    pub fn verify(self: &Arc<Memtable>, order: &KeyOrder) -> Result<u64> {
        let mut cursor = self.cursor();
        let (mut last_key, mut last_tag) = (Vec::new(), Tag::NEWEST);
        let mut count = 0;
        cursor.seek_to_first()?;
        while cursor.is_valid() {
            let key = cursor.key();
            let before = InternalKey::new(&last_key, last_tag);
            if count > 0 && before.compare(&key, order) != Ordering::Less {
                return Err(Error::new(ErrorKind::Internal, "the entries in memory are out of order"));
            }
            count += 1;
            last_key.clear();
            last_key.extend_from_slice(key.user_key);
            last_tag = key.tag;
            cursor.next()?;
        }
        Ok(count)
    }

    /// Returns about how much memory the entries take, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes.get()
    }

    /// Returns about how many bytes a table of the entries takes, without compression; none for no entry.
    pub fn table_len_bytes(&self) -> u64 {
        let count = self.count();
        if count == 0 {
            return 0;
        }
        let spared = count.saturating_mul(NODE_LEN_BYTES - limits::TABLE_ENTRY_LEN_BYTES);
        self.len_bytes().saturating_sub(spared) + limits::TABLE_OVERHEAD_LEN_BYTES
    }

    /// Returns how many entries there are.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Counts entries that a reader had to step over because of an entry in here; returns how many there were before.
    pub fn count_steps(&self, count: u64) -> u64 {
        self.steps_count.add(count)
    }

    /// Returns how many entries readers have stepped over because of an entry in here.
    pub fn steps_count(&self) -> u64 {
        self.steps_count.get()
    }

    /// Tells whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

#[cfg(test)]
mod tests;
