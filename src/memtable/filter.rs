//! A bloom filter beside the skip list: most keys that are looked for are not in it, and a search that finds nothing
//! costs a microsecond of cache misses.
//!
//! One line of 64 bytes a key, four bits in it (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom
//! Filters). Bits are only ever set, and before the entry is published, so that a reader that may see an entry sees
//! its bits.
//!
//! It grows with its keys, whatever a memtable may take at most. A small one of 4 KiB comes with the first entry, so that
//! an idle keyspace has none and a database with few entries does not pay for many. When it has as many keys as it is good
//! for, a larger one is filled with the keys so far and takes its place. A reader that still asks the small one then began
//! before the change: what was written behind it is too new for that reader. In a memtable so large that this is not the
//! end, the next filter is put beside the ones before, eight times as large, and takes the keys that come; a reader asks
//! them all.

#![allow(clippy::disallowed_types, reason = "bits are set before what they stand for can be seen")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const LINE_WORDS_COUNT: usize = 8;
/// Bytes of memtable for each byte of filter: about 13 bits an entry of 200 bytes.
const MEMTABLE_BYTES_PER_FILTER_BYTE: usize = 128;
const BITS_PER_KEY: usize = 13;
const SMALL_LINES_COUNT: usize = 64;
const SMALL_KEYS_COUNT_MAX: u64 = keys_count_max(SMALL_LINES_COUNT);
/// The filter that takes the place of the small one has so many lines at most, 1 MiB: it comes with a few thousand keys.
const FIRST_LINES_COUNT_MAX: usize = 1 << 14;
/// Each filter beside it is so many times as large as the one before, and so no larger than a small part of the entries.
const GROWTH: usize = 8;
/// All of them together.
const LINES_COUNT_MAX: usize = 1 << 26;

/// Tells which keys are certainly absent.
pub struct MemtableFilter {
    small: OnceLock<Lines>,
    /// Takes the place of the small one.
    first: OnceLock<Lines>,
    first_lines_count: usize,
    /// Stand beside the first one, and come into being one after the other.
    others: Box<[Other]>,
}

/// A filter that comes when those before have as many keys as they are good for.
struct Other {
    lines: OnceLock<Lines>,
    lines_count: usize,
    /// It takes the keys behind so many.
    keys_before_count: u64,
}

struct Lines(Box<[[AtomicU64; LINE_WORDS_COUNT]]>);

const fn keys_count_max(lines_count: usize) -> u64 {
    (lines_count * LINE_WORDS_COUNT * 64 / BITS_PER_KEY) as u64
}

impl MemtableFilter {
    /// Makes an empty filter for a memtable that will take about `memtable_bytes`. Takes no memory yet.
    pub fn new(memtable_bytes: usize) -> MemtableFilter {
        let lines_count = memtable_bytes / MEMTABLE_BYTES_PER_FILTER_BYTE / (LINE_WORDS_COUNT * 8);
        let lines_count = lines_count.clamp(1, LINES_COUNT_MAX);
        let first_lines_count = lines_count.min(FIRST_LINES_COUNT_MAX);
        let mut others = Vec::new();
        let (mut count_so_far, mut last_count) = (first_lines_count, first_lines_count);
        while count_so_far < lines_count {
            last_count = (GROWTH * last_count).min(lines_count - count_so_far);
            let keys_before_count = keys_count_max(count_so_far);
            others.push(Other { lines: OnceLock::new(), lines_count: last_count, keys_before_count });
            count_so_far += last_count;
        }
        MemtableFilter {
            small: OnceLock::new(),
            first: OnceLock::new(),
            first_lines_count,
            others: others.into(),
        }
    }

    /// Notes a key by its hash; `keys_before_count` were noted before it.
    pub fn insert(&self, hash: u64, keys_before_count: u64) {
        let lines = match self.first.get() {
            Some(first) => self.at_end(keys_before_count).unwrap_or(first),
            None => self.small.get_or_init(|| Lines::new(self.first_lines_count.min(SMALL_LINES_COUNT))),
        };
        lines.insert(hash);
    }

    /// Returns the filter beside the first one that takes the next key; none if the first one does.
    fn at_end(&self, keys_count: u64) -> Option<&Lines> {
        let other = self.others.iter().rev().find(|other| other.keys_before_count <= keys_count)?;
        Some(other.lines.get_or_init(|| Lines::new(other.lines_count)))
    }

    /// Tells whether [`MemtableFilter::grow`] is to be called now that `keys_count` keys were noted.
    #[inline]
    pub fn is_outgrown(&self, keys_count: u64) -> bool {
        keys_count == SMALL_KEYS_COUNT_MAX && self.first_lines_count > SMALL_LINES_COUNT
    }

    /// Goes over from the small filter to the first one, with the `hashes` of all keys so far.
    pub fn grow(&self, hashes: impl Iterator<Item = u64>) {
        let first = Lines::new(self.first_lines_count);
        hashes.for_each(|hash| first.insert(hash));
        self.first.get_or_init(|| first);
    }

    /// Tells whether a key with this hash may be there; `false` is certain.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        let Some(lines) = self.first.get().or_else(|| self.small.get()) else { return false };
        lines.may_contain(hash)
            || self.others.iter().map_while(|other| other.lines.get()).any(|lines| lines.may_contain(hash))
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
        // Small for good; just before and behind growing; grown; in the largest memtable.
        for (memtable_bytes, keys_count) in [
            (1 << 19, 2_500),
            (2_000_000, 2_519),
            (2_000_000, 2_521),
            (2_000_000, 10_000),
            (usize::MAX, 2_521),
            (usize::MAX, 700_000),
        ] {
            let filter = MemtableFilter::new(memtable_bytes);
            assert!(!filter.may_contain(hash_key(b"anything")));
            let key = |number: u32| hash_key(&number.to_le_bytes());
            for number in 0..keys_count {
                filter.insert(key(number), u64::from(number));
                if filter.is_outgrown(u64::from(number) + 1) {
                    filter.grow((0..=number).map(key));
                }
            }
            assert_eq!(filter.first.get().is_some(), keys_count > 2_520);
            let others_count = filter.others.iter().filter(|other| other.lines.get().is_some()).count();
            assert_eq!(others_count > 0, keys_count > 645_277, "a filter comes when it is needed");
            assert!((0..keys_count).all(|number| filter.may_contain(key(number))));
            let wrong_count =
                (1_000_000..1_100_000).filter(|&number| filter.may_contain(key(number))).count();
            assert!(wrong_count < 3_000, "{wrong_count} of 100000");
        }
    }

    #[test]
    fn a_filter_takes_a_small_part_of_what_its_keys_take_whatever_the_limit() {
        for memtable_bytes in [1 << 10, 64 << 20, 1 << 30, 1 << 40, usize::MAX] {
            let filter = MemtableFilter::new(memtable_bytes);
            assert!(filter.first_lines_count * LINE_WORDS_COUNT * 8 <= 1 << 20);
            let mut before_count = filter.first_lines_count;
            for other in &filter.others {
                assert_eq!(other.keys_before_count, keys_count_max(before_count));
                let bytes_per_key =
                    (other.lines_count * LINE_WORDS_COUNT * 8) as u64 / other.keys_before_count;
                assert!(bytes_per_key <= 13, "{bytes_per_key} bytes for each key so far");
                before_count += other.lines_count;
            }
        }
    }
}
