//! A bloom filter beside the skip list: most keys that are looked for are not in it, and a search that finds nothing
//! costs a microsecond of cache misses.
//!
//! One line of 64 bytes a key, four bits in it (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom
//! Filters). Bits are only ever set, and before the entry is published, so that a reader that may see an entry sees
//! its bits. Allocated with the first entry: an idle keyspace has none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const LINE_WORDS_COUNT: usize = 8;
/// Bytes of memtable for each byte of filter: about 13 bits an entry of 200 bytes.
const MEMTABLE_BYTES_PER_FILTER_BYTE: usize = 128;

/// Tells which keys are certainly absent.
pub struct MemtableFilter {
    lines: OnceLock<Box<[[AtomicU64; LINE_WORDS_COUNT]]>>,
    lines_count: usize,
}

impl MemtableFilter {
    /// Makes an empty filter for a memtable that will take about `memtable_bytes`.
    pub fn new(memtable_bytes: usize) -> MemtableFilter {
        let lines_count = memtable_bytes / MEMTABLE_BYTES_PER_FILTER_BYTE / (LINE_WORDS_COUNT * 8);
        MemtableFilter { lines: OnceLock::new(), lines_count: lines_count.clamp(1, 1 << 26) }
    }

    /// Notes a key by its hash.
    pub fn insert(&self, hash: u64) {
        let lines = self.lines.get_or_init(|| {
            let empty_line = || [const { AtomicU64::new(0) }; LINE_WORDS_COUNT];
            (0..self.lines_count).map(|_| empty_line()).collect()
        });
        let line = &lines[self.line_of(hash)];
        for (word, bit) in places(hash) {
            line[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Tells whether a key with this hash may be there; `false` is certain.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        let Some(lines) = self.lines.get() else { return false };
        let line = &lines[self.line_of(hash)];
        places(hash).all(|(word, bit)| line[word].load(Ordering::Relaxed) & bit != 0)
    }

    /// Spreads the upper half of the hash over the lines.
    #[inline]
    fn line_of(&self, hash: u64) -> usize {
        let spread = ((hash >> 32) * self.lines_count as u64) >> 32;
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
        let filter = MemtableFilter::new(200 * 10_000);
        assert!(!filter.may_contain(hash_key(b"anything")));
        let key = |number: u32| hash_key(&number.to_le_bytes());
        (0..10_000).for_each(|number| filter.insert(key(number)));
        assert!((0..10_000).all(|number| filter.may_contain(key(number))));
        let wrong_count = (10_000..110_000).filter(|&number| filter.may_contain(key(number))).count();
        assert!(wrong_count < 3_000, "{wrong_count} of 100000");
    }
}
