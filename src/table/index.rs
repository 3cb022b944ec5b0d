//! The index: which data block may hold a key.
//!
//! On disk it is a block like any other, one entry a data block: a *separator* key at or above the block's
//! last key and below the next block's first, and the block's offset and length as value. The separator is
//! shortened where the comparator knows how.
//!
//! In memory it is a set of flat arrays. A search first goes over eight bytes of each separator as numbers,
//! without touching the keys; these eight begin behind what all separators have in common. Only separators
//! that tie are compared in full.
//!
//! Long keys that share most of what they have with their neighbours, though not with all, would take many times the
//! bytes of the block in such arrays. Then the block itself is what is searched: slower, but never larger than the file.

use crate::base::comparator::KeyOrder;
use crate::base::key::{InternalKey, Tag};
use crate::base::limits::BLOCK_LEN_BYTES_MAX;
use crate::format::varint;
use crate::table::block::{
    BlockBuilder, BlockView, Damaged, RESTART_INTERVAL_COUNT, Start, common_prefix_len,
};
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

/// Separators lie in flat arrays if these take at most so many times the bytes of the block ...
const FLAT_TIMES_MAX: usize = 4;
/// ... or if they are short anyway.
const FLAT_LEN_BYTES_MIN: usize = 1 << 20;

/// A table's index, in memory.
pub struct Index {
    /// Where each block begins, and where the last one ends.
    starts: Vec<u64>,
    separators: Separators,
    order: KeyOrder,
}

enum Separators {
    Flat(Flat),
    Packed(Packed),
}

impl Index {
    /// Reads an index block, whose data blocks must fill the file from 0 to `data_end` without a gap.
    pub fn parse(block: &[u8], data_end: u64, order: &KeyOrder) -> Result<Index, Damaged> {
        let view = BlockView::parse(block)?;
        let mut starts = Vec::new();
        let (mut end, mut keys_len, mut common) = (0, 0, None::<Vec<u8>>);
        for_each_entry(view, |key, _, value| {
            let handle = decode_handle(value).ok_or(Damaged("an index entry without a block"))?;
            if handle.offset != end || handle.end() > data_end {
                return Err(Damaged("the data blocks do not lie side by side"));
            }
            if handle.len as usize > BLOCK_LEN_BYTES_MAX {
                return Err(Damaged("a data block is longer than any may be"));
            }
            starts.push(handle.offset);
            end = handle.end();
            keys_len += key.len();
            match &mut common {
                Some(common) => common.truncate(common_prefix_len(common, key)),
                // Other orders need not compare the rests of keys as they compare the keys.
                None => common = Some(if order.is_bytewise() { key.to_vec() } else { Vec::new() }),
            }
            Ok(())
        })?;
        if end != data_end {
            return Err(Damaged("the index leaves data blocks out"));
        }
        let common = common.unwrap_or_default();
        let flat_len = keys_len - starts.len() * common.len();
        let flat_len_max = (FLAT_TIMES_MAX * block.len()).max(FLAT_LEN_BYTES_MIN).min(u32::MAX as usize);
        let separators = if flat_len <= flat_len_max {
            Separators::Flat(Flat::new(view, common, starts.len(), order)?)
        } else {
            Separators::Packed(Packed { block: block.into() })
        };
        starts.push(end);
        starts.shrink_to_fit();
        Ok(Index { starts, separators, order: order.clone() })
    }

    /// Returns how many data blocks there are; at least one.
    pub fn blocks_count(&self) -> usize {
        self.starts.len() - 1
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
        match &self.separators {
            Separators::Flat(flat) => flat.find(target, &self.order),
            Separators::Packed(packed) => packed.find(target, &self.order),
        }
        .filter(|&block_index| block_index < self.blocks_count())
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
        match &self.separators {
            Separators::Flat(flat) => {
                let rest = flat.rest(block_index);
                out.extend_from_slice(&flat.common);
                out.extend_from_slice(rest.user_key);
                rest.tag
            }
            Separators::Packed(packed) => packed.separator(block_index, out),
        }
    }

    /// Returns the bytes it takes in memory.
    pub fn len_bytes(&self) -> usize {
        let separators_len = match &self.separators {
            Separators::Flat(flat) => flat.tags.len() * (8 + 8 + 4) + flat.keys.len() + flat.common.len(),
            Separators::Packed(packed) => packed.block.len(),
        };
        self.starts.len() * 8 + separators_len
    }
}

/// Visits key, tag and value of every entry of an index block, and checks that its restarts are where they belong: a
/// key is whole in every sixteenth entry. So the keys take at most sixteen times the bytes of the block.
fn for_each_entry(
    view: BlockView<'_>,
    mut visit: impl FnMut(&[u8], Tag, &[u8]) -> Result<(), Damaged>,
) -> Result<(), Damaged> {
    const MISPLACED: Damaged = Damaged("the restarts of an index are not where they belong");
    let (mut start, mut key, mut count) = (view.first(), Vec::new(), 0usize);
    while start.entry < view.end() {
        if count.is_multiple_of(RESTART_INTERVAL_COUNT)
            && (view.restart(count / RESTART_INTERVAL_COUNT) != start || view.entry(start)?.shared != 0)
        {
            return Err(MISPLACED);
        }
        let (tag, value, next) = step(view, start, &mut key)?;
        visit(&key, tag, value)?;
        start = next;
        count += 1;
    }
    if view.restarts_count() == count.div_ceil(RESTART_INTERVAL_COUNT) { Ok(()) } else { Err(MISPLACED) }
}

/// Makes of the key of the entry before that of the entry at `start`; returns its tag, its value and where the next
/// one begins.
fn step<'a>(view: BlockView<'a>, start: Start, key: &mut Vec<u8>) -> Result<(Tag, &'a [u8], Start), Damaged> {
    let entry = view.entry(start)?;
    if entry.shared > key.len() {
        return Err(Damaged("an index entry with an impossible key"));
    }
    key.truncate(entry.shared);
    key.extend_from_slice(view.suffix(&entry));
    Ok((view.tag(&entry), view.value(&entry), entry.next()))
}

/// Separators in arrays.
struct Flat {
    /// A number for each separator that never contradicts their order.
    prefixes: Vec<u64>,
    /// What all separators begin with; empty unless the order is bytewise.
    common: Vec<u8>,
    /// The rest of each separator, one after another.
    keys: Vec<u8>,
    key_ends: Vec<u32>,
    tags: Vec<Tag>,
}

impl Flat {
    fn new(view: BlockView<'_>, common: Vec<u8>, count: usize, order: &KeyOrder) -> Result<Flat, Damaged> {
        let mut flat = Flat {
            prefixes: Vec::with_capacity(count),
            keys: Vec::new(),
            key_ends: Vec::with_capacity(count),
            tags: Vec::with_capacity(count),
            common,
        };
        for_each_entry(view, |key, tag, _| {
            let rest = &key[flat.common.len()..];
            flat.prefixes.push(prefix_of(order, rest));
            flat.keys.extend_from_slice(rest);
            flat.key_ends.push(u32::try_from(flat.keys.len()).expect("what is longer is left packed"));
            flat.tags.push(tag);
            Ok(())
        })?;
        flat.keys.shrink_to_fit();
        Ok(flat)
    }

    #[inline]
    fn find(&self, target: InternalKey<'_>, order: &KeyOrder) -> Option<usize> {
        let user_key = target.user_key;
        let Some(rest) = user_key.strip_prefix(&self.common[..]) else {
            return (user_key < &self.common[..]).then_some(0);
        };
        let prefix = prefix_of(order, rest);
        let lower = self.prefixes.partition_point(|&each| each < prefix);
        if *self.prefixes.get(lower)? > prefix {
            return Some(lower);
        }
        let ties = self.prefixes[lower..].partition_point(|&each| each <= prefix);
        let rest = InternalKey::new(rest, target.tag);
        let (mut lower, mut upper) = (lower, lower + ties);
        while lower < upper {
            let middle = lower.midpoint(upper);
            if self.rest(middle).compare(&rest, order) == Ordering::Less {
                lower = middle + 1;
            } else {
                upper = middle;
            }
        }
        Some(lower)
    }

    #[inline]
    fn rest(&self, block_index: usize) -> InternalKey<'_> {
        let start = match block_index.checked_sub(1) {
            Some(before) => self.key_ends[before] as usize,
            None => 0,
        };
        InternalKey::new(&self.keys[start..self.key_ends[block_index] as usize], self.tags[block_index])
    }
}

/// Separators as they are on the disk.
struct Packed {
    block: Box<[u8]>,
}

impl Packed {
    const CHECKED: &'static str = "the whole block was walked over when it was parsed";

    fn view(&self) -> BlockView<'_> {
        BlockView::parse(&self.block).expect(Packed::CHECKED)
    }

    fn find(&self, target: InternalKey<'_>, order: &KeyOrder) -> Option<usize> {
        let view = self.view();
        let before = view.restarts_before(target, order).expect(Packed::CHECKED);
        let Some(restart) = before.checked_sub(1) else { return Some(0) };
        let (mut start, end) = (view.restart(restart), view.restart(before).entry);
        let (mut block_index, mut key) = (restart * RESTART_INTERVAL_COUNT, Vec::new());
        while start.entry < end {
            let (tag, _, next) = step(view, start, &mut key).expect(Packed::CHECKED);
            if InternalKey::new(&key, tag).compare(&target, order) != Ordering::Less {
                break;
            }
            block_index += 1;
            start = next;
        }
        Some(block_index)
    }

    fn separator(&self, block_index: usize, out: &mut Vec<u8>) -> Tag {
        let view = self.view();
        let mut start = view.restart(block_index / RESTART_INTERVAL_COUNT);
        let (mut key, mut tag) = (Vec::new(), Tag::OLDEST);
        for _ in 0..=block_index % RESTART_INTERVAL_COUNT {
            let (own_tag, _, next) = step(view, start, &mut key).expect(Packed::CHECKED);
            (tag, start) = (own_tag, next);
        }
        out.extend_from_slice(&key);
        tag
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
        KeyOrder::Custom(_) => (order.sort_prefix(key) >> 64) as u64,
    }
}

fn decode_handle(mut value: &[u8]) -> Option<Handle> {
    let offset = varint::take_u64(&mut value)?;
    let len = varint::take_u32(&mut value)?;
    value.is_empty().then_some(Handle { offset, len })
}

#[cfg(test)]
mod tests;
