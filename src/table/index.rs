//! The index: which data block may hold a key.
//!
//! On disk it is a block like any other, one entry a data block: a *separator* key at or above the block's
//! last key and below the next block's first, and the block's offset and length as value. The separator is
//! shortened where the comparator knows how.
//!
//! In memory it is a set of flat arrays. A search first goes over eight bytes of each separator as numbers,
//! without touching the keys; these eight begin behind what all separators have in common. Only separators
//! that tie are compared in full.

use crate::base::comparator::KeyOrder;
use crate::base::key::{InternalKey, Tag};
use crate::base::limits::KEY_LEN_BYTES_MAX;
use crate::format::varint;
use crate::table::block::{BlockBuilder, BlockView, Damaged, common_prefix_len};
use crate::table::footer::Handle;
use std::cmp::Ordering;

/// Gathers separators and blocks.
pub struct IndexBuilder {
    block: BlockBuilder,
    last: Vec<u8>,
    separator: Vec<u8>,
    value: Vec<u8>,
    order: KeyOrder,
}

impl IndexBuilder {
    /// Starts without blocks.
    pub fn new(order: KeyOrder) -> IndexBuilder {
        IndexBuilder {
            block: BlockBuilder::new(),
            last: Vec::new(),
            separator: Vec::new(),
            value: Vec::new(),
            order,
        }
    }

    /// Adds the data block at `handle`, whose last key is `last`; `next` is the first user key behind it.
    pub fn add(&mut self, last: InternalKey<'_>, next: Option<&[u8]>, handle: Handle) {
        let tag = self.separate(last, next);
        let shared = common_prefix_len(&self.last, &self.separator);
        self.value.clear();
        varint::write_u64(&mut self.value, handle.offset);
        varint::write_u32(&mut self.value, handle.len);
        self.block.add(InternalKey::new(&self.separator, tag), shared, &self.value);
        std::mem::swap(&mut self.last, &mut self.separator);
    }

    /// Puts a user key between `last` and `next` into `separator` and returns the tag that goes with it.
    fn separate(&mut self, last: InternalKey<'_>, next: Option<&[u8]>) -> Tag {
        self.separator.clear();
        if let Some(next) = next
            && next != last.user_key
        {
            self.order.separator(last.user_key, next, &mut self.separator);
            // A comparator may be the caller's; what it answers is checked rather than trusted.
            let is_above = self.order.compare(last.user_key, &self.separator) == Ordering::Less;
            if is_above && self.order.compare(&self.separator, next) == Ordering::Less {
                return Tag::NEWEST;
            }
            self.separator.clear();
        }
        self.separator.extend_from_slice(last.user_key);
        last.tag
    }

    /// Returns how many bytes the index block would have if it ended here.
    pub fn len_bytes(&self) -> usize {
        self.block.len()
    }

    /// Ends the index and returns its block.
    pub fn finish(&mut self) -> &[u8] {
        self.block.finish()
    }
}

/// A table's index, in memory.
pub struct Index {
    /// Where each block begins, and where the last one ends.
    starts: Vec<u64>,
    /// A number for each separator that never contradicts their order.
    prefixes: Vec<u64>,
    /// What all separators begin with; empty unless the order is bytewise.
    common: Vec<u8>,
    /// The rest of each separator, one after another.
    keys: Vec<u8>,
    key_ends: Vec<u32>,
    tags: Vec<Tag>,
    order: KeyOrder,
}

impl Index {
    /// Reads an index block, whose data blocks must fill the file from 0 to `data_end` without a gap.
    pub fn parse(block: &[u8], data_end: u64, order: &KeyOrder) -> Result<Index, Damaged> {
        let view = BlockView::parse(block)?;
        let mut index = Index {
            starts: Vec::new(),
            prefixes: Vec::new(),
            common: Vec::new(),
            keys: Vec::new(),
            key_ends: Vec::new(),
            tags: Vec::new(),
            order: order.clone(),
        };
        let (mut start, mut end, mut key) = (view.first(), 0, Vec::new());
        while start.entry < view.end() {
            let entry = view.entry(start)?;
            if entry.shared > key.len() || entry.shared + view.suffix(&entry).len() > KEY_LEN_BYTES_MAX {
                return Err(Damaged("an index entry with an impossible key"));
            }
            key.truncate(entry.shared);
            key.extend_from_slice(view.suffix(&entry));
            index.common_with(&key);
            let handle =
                decode_handle(view.value(&entry)).ok_or(Damaged("an index entry without a block"))?;
            if handle.offset != end || handle.end() > data_end {
                return Err(Damaged("the data blocks do not lie side by side"));
            }
            index.starts.push(handle.offset);
            index.tags.push(view.tag(&entry));
            index.keys.extend_from_slice(&key);
            let key_end = u32::try_from(index.keys.len()).or(Err(Damaged("an index beyond 4 GiB")))?;
            index.key_ends.push(key_end);
            end = handle.end();
            start = entry.next();
        }
        if end != data_end {
            return Err(Damaged("the index leaves data blocks out"));
        }
        index.starts.push(end);
        index.strip();
        Ok(index)
    }

    /// Shortens `common` to what `key` has in common with it.
    fn common_with(&mut self, key: &[u8]) {
        if !self.order.is_bytewise() {
            return;
        }
        if self.tags.is_empty() {
            self.common.extend_from_slice(key);
        } else {
            let len = common_prefix_len(&self.common, key);
            self.common.truncate(len);
        }
    }

    /// Takes the common part off every key and fills `prefixes`.
    fn strip(&mut self) {
        let mut keys = Vec::new();
        let mut start = 0;
        for end in &mut self.key_ends {
            let key = &self.keys[start..*end as usize];
            start = *end as usize;
            let rest = &key[self.common.len()..];
            self.prefixes.push(prefix_of(&self.order, rest));
            keys.extend_from_slice(rest);
            *end = u32::try_from(keys.len()).expect("not longer than before");
        }
        keys.shrink_to_fit();
        self.keys = keys;
        self.starts.shrink_to_fit();
        self.tags.shrink_to_fit();
        self.key_ends.shrink_to_fit();
        self.prefixes.shrink_to_fit();
    }

    /// Returns how many data blocks there are; at least one.
    pub fn blocks_count(&self) -> usize {
        self.tags.len()
    }

    /// Returns where a block lies.
    #[inline]
    pub fn span(&self, block_index: usize) -> Span {
        Span { start: self.starts[block_index], end: self.starts[block_index + 1] }
    }

    /// Returns the first block whose separator is at or after `target`: the only one that can hold it. None
    /// if all lie before it.
    #[inline]
    pub fn find(&self, target: InternalKey<'_>) -> Option<usize> {
        let user_key = target.user_key;
        let Some(rest) = user_key.strip_prefix(&self.common[..]) else {
            return (user_key < &self.common[..]).then_some(0);
        };
        let prefix = prefix_of(&self.order, rest);
        let lower = self.prefixes.partition_point(|&each| each < prefix);
        if *self.prefixes.get(lower)? > prefix {
            return Some(lower);
        }
        let ties = self.prefixes[lower..].partition_point(|&each| each <= prefix);
        let rest = InternalKey::new(rest, target.tag);
        let (mut lower, mut upper) = (lower, lower + ties);
        while lower < upper {
            let middle = lower.midpoint(upper);
            if self.separator_rest(middle).compare(&rest, &self.order) == Ordering::Less {
                lower = middle + 1;
            } else {
                upper = middle;
            }
        }
        (lower < self.blocks_count()).then_some(lower)
    }

    /// Returns where a read that begins with block `from` and may go on to `end` should stop: at the end of
    /// the last block it covers in full, and at least of `from` itself.
    pub fn end_of_run(&self, from: usize, end: u64) -> u64 {
        let within = self.starts.partition_point(|&start| start <= end).saturating_sub(1);
        self.starts[within.max(from + 1)]
    }

    /// Returns where a read that ends with block `upto` and may go back to `start` should begin: at the start
    /// of the first block it covers in full, and at most of `upto` itself.
    pub fn start_of_run(&self, start: u64, upto: usize) -> u64 {
        self.starts[self.starts.partition_point(|&each| each < start).min(upto)]
    }

    /// Appends a block's separator to `out` and returns its tag.
    pub fn separator(&self, block_index: usize, out: &mut Vec<u8>) -> Tag {
        let rest = self.separator_rest(block_index);
        out.extend_from_slice(&self.common);
        out.extend_from_slice(rest.user_key);
        rest.tag
    }

    /// Returns the bytes it takes in memory.
    pub fn len_bytes(&self) -> usize {
        self.starts.len() * 8 + self.tags.len() * (8 + 8 + 4) + self.keys.len() + self.common.len()
    }

    #[inline]
    fn separator_rest(&self, block_index: usize) -> InternalKey<'_> {
        let start = match block_index.checked_sub(1) {
            Some(before) => self.key_ends[before] as usize,
            None => 0,
        };
        InternalKey::new(&self.keys[start..self.key_ends[block_index] as usize], self.tags[block_index])
    }
}

/// The bytes of a stored block in its file, trailer included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start: u64,
    /// Where the next begins.
    pub end: u64,
}

impl Span {
    /// Returns its length in bytes.
    #[inline]
    pub fn len_bytes(self) -> usize {
        usize::try_from(self.end - self.start)
            .expect("a block's length has 32 bits (checked by Index::parse)")
    }
}

#[inline]
fn prefix_of(order: &KeyOrder, key: &[u8]) -> u64 {
    match order {
        KeyOrder::Bytewise => match key.first_chunk::<8>() {
            Some(head) => u64::from_be_bytes(*head),
            None => {
                let mut head = [0; 8];
                head[..key.len()].copy_from_slice(key);
                u64::from_be_bytes(head)
            }
        },
        KeyOrder::Custom(comparator) => (comparator.sort_prefix(key) >> 64) as u64,
    }
}

fn decode_handle(mut value: &[u8]) -> Option<Handle> {
    let offset = varint::take_u64(&mut value)?;
    let len = varint::take_u32(&mut value)?;
    value.is_empty().then_some(Handle { offset, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::comparator::ReverseBytewise;
    use crate::base::key::Kind;
    use crate::base::seq::SeqNum;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn tag(seq: u64) -> Tag {
        Tag::new(SeqNum::new(seq), Kind::Put)
    }

    proptest! {
        #[test]
        fn the_block_that_can_hold_a_key_is_found(
            keys in prop::collection::btree_set(prop::collection::vec(97u8..100, 0..12), 2..40),
            common in prop::collection::vec(97u8..100, 0..4),
            wanted in prop::collection::vec(96u8..101, 0..14),
            is_reverse: bool,
        ) {
            let keys: BTreeSet<Vec<u8>> = keys.iter().map(|key| [&common[..], key].concat()).collect();
            let mut keys: Vec<_> = keys.into_iter().collect();
            let order = if is_reverse {
                keys.reverse();
                KeyOrder::Custom(Arc::new(ReverseBytewise))
            } else {
                KeyOrder::Bytewise
            };
            // Each key is a block of its own: last and first key at once.
            let mut builder = IndexBuilder::new(order.clone());
            let mut offset = 0;
            for (position, key) in keys.iter().enumerate() {
                let next = keys.get(position + 1).map(|key| &key[..]);
                let handle = Handle { offset, len: 10 };
                builder.add(InternalKey::new(key, tag(7)), next, handle);
                offset = handle.end();
            }
            let block = builder.finish().to_vec();
            let index = Index::parse(&block, offset, &order).expect("intact");
            prop_assert_eq!(index.blocks_count(), keys.len());
            for (position, key) in keys.iter().enumerate() {
                prop_assert_eq!(index.find(InternalKey::new(key, tag(7))), Some(position));
                prop_assert_eq!(index.find(InternalKey::new(key, Tag::NEWEST)), Some(position));
            }
            let target = InternalKey::new(&wanted, tag(7));
            let at_or_after =
                keys.iter().position(|key| InternalKey::new(key, tag(7)).compare(&target, &order).is_ge());
            let found = index.find(target);
            // The separator may reach into the gap, so the block before the first key is as good.
            prop_assert!(found == at_or_after || found.map(|i| i + 1) == at_or_after.or(Some(keys.len())));
            prop_assert!(Index::parse(&block, offset + 1, &order).is_err());
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes: Vec<u8>, data_end: u64) {
            let _ = Index::parse(&bytes, data_end, &KeyOrder::Bytewise);
        }
    }
}
