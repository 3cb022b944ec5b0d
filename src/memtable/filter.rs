//! A bloom filter beside the skip list: most keys that are looked for are not in it, and a search that finds nothing
//! costs a microsecond of cache misses.
//!
//! One line of 64 bytes a key, four bits in it (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom
//! Filters). Bits are only ever set, and before the entry is published, so that a reader that may see an entry sees
//! its bits.
//!
//! It grows once. A small one of 4 KiB comes with the first entry, so that an idle keyspace has none and a database with
//! few entries does not pay for many. When it has as many keys as it is good for, one of the final size is filled with
//! the keys so far and takes its place. A reader that still asks the small one then began before the change: what
//! was written behind it is too new for that reader.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const LINE_WORDS_COUNT: usize = 8;
/// Bytes of memtable for each byte of filter: about 13 bits an entry of 200 bytes.
const MEMTABLE_BYTES_PER_FILTER_BYTE: usize = 128;
const BITS_PER_KEY: usize = 13;
const SMALL_LINES_COUNT: usize = 64;
const SMALL_KEYS_COUNT_MAX: usize = SMALL_LINES_COUNT * LINE_WORDS_COUNT * 64 / BITS_PER_KEY;

/// Tells which keys are certainly absent.
pub struct MemtableFilter {
    small: OnceLock<Lines>,
    full: OnceLock<Lines>,
    full_lines_count: usize,
}

struct Lines(Box<[[AtomicU64; LINE_WORDS_COUNT]]>);

impl MemtableFilter {
    /// Makes an empty filter for a memtable that will take about `memtable_bytes`.
    pub fn new(memtable_bytes: usize) -> MemtableFilter {
        let full_lines_count = memtable_bytes / MEMTABLE_BYTES_PER_FILTER_BYTE / (LINE_WORDS_COUNT * 8);
        MemtableFilter {
            small: OnceLock::new(),
            full: OnceLock::new(),
            full_lines_count: full_lines_count.clamp(1, 1 << 26),
        }
    }

    /// Notes a key by its hash.
    pub fn insert(&self, hash: u64) {
        let lines = match self.full.get() {
            Some(full) => full,
            None => self.small.get_or_init(|| Lines::new(self.full_lines_count.min(SMALL_LINES_COUNT))),
        };
        lines.insert(hash);
    }

    /// Tells whether [`MemtableFilter::grow`] is to be called now that `entries_count` keys were noted.
    #[inline]
    pub fn is_outgrown(&self, entries_count: u64) -> bool {
        entries_count == SMALL_KEYS_COUNT_MAX as u64 && self.full_lines_count > SMALL_LINES_COUNT
    }

    /// Goes over to the final size, with the `hashes` of all keys so far.
    pub fn grow(&self, hashes: impl Iterator<Item = u64>) {
        let full = Lines::new(self.full_lines_count);
        hashes.for_each(|hash| full.insert(hash));
        self.full.get_or_init(|| full);
    }

    /// Tells whether a key with this hash may be there; `false` is certain.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        let lines = self.full.get().or_else(|| self.small.get());
        lines.is_some_and(|lines| lines.may_contain(hash))
    }
}

impl Lines {
    fn new(lines_count: usize) -> Lines {
        let empty_line = || [const { AtomicU64::new(0) }; LINE_WORDS_COUNT];
        Lines((0..lines_count).map(|_| empty_line()).collect())
    }

    fn insert(&self, hash: u64) {
        let line = &self.0[self.line_of(hash)];
        for (word, bit) in places(hash) {
            line[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    #[inline]
    fn may_contain(&self, hash: u64) -> bool {
        let line = &self.0[self.line_of(hash)];
        places(hash).all(|(word, bit)| line[word].load(Ordering::Relaxed) & bit != 0)
    }

    /// Spreads the upper half of the hash over the lines.
    #[inline]
    fn line_of(&self, hash: u64) -> usize {
        let spread = ((hash >> 32) * self.0.len() as u64) >> 32;
        usize::try_from(spread).expect("below the number of lines")
    }
}

/// Four places in a line, from the lower 36 bits of the hash.
#[inline]
fn places(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..4u32).map(move |probe| {
        let at = hash >> (9 * probe) & 511;
        ((at >> 6) as usize, 1u64 << (at & 63))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::hash_key;

    #[test]
    fn every_noted_key_may_be_there_and_few_others() {
        // Small for good; just before and behind growing; grown.
        for (memtable_bytes, keys_count) in
            [(1 << 19, 2_500), (2_000_000, 2_519), (2_000_000, 2_521), (2_000_000, 10_000)]
        {
            let filter = MemtableFilter::new(memtable_bytes);
            assert!(!filter.may_contain(hash_key(b"anything")));
            let key = |number: u32| hash_key(&number.to_le_bytes());
            for number in 0..keys_count {
                filter.insert(key(number));
                if filter.is_outgrown(u64::from(number) + 1) {
                    filter.grow((0..=number).map(key));
                }
            }
            assert_eq!(filter.full.get().is_some(), keys_count > 2_520);
            assert!((0..keys_count).all(|number| filter.may_contain(key(number))));
            let wrong_count = (10_000..110_000).filter(|&number| filter.may_contain(key(number))).count();
            assert!(wrong_count < 3_000, "{wrong_count} of 100000");
        }
    }
}
