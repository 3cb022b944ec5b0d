//! The filter: tells in one memory access that a table does not have a key.
//!
//! A bloom filter whose bits for one key all lie in one line of 512 bits. The upper half of the key's hash
//! picks the line, the lower half, multiplied on, picks the bits. A `true` may be wrong, a `false` never is.
//!
//! ```text
//! filter block := line[64 bytes]* probes_count(u8)
//! line         := 8 words, u64 LE
//! ```
//!
//! It hashes user keys as bytes, which fits every comparator because equal keys are byte-equal.

use crate::base::hash::hash_key;
use crate::table::block::Damaged;
use crate::table::options::{FilterPolicy, bloom_probes_count};

const LINE_LEN_BYTES: usize = 64;
const LINE_LEN_BITS: u64 = 512;
const PROBES_COUNT_MAX: u8 = 16;
/// A larger filter is thinned out: it must fit a block's 32-bit length with space to spare.
const LINES_COUNT_MAX: u64 = (1 << 30) / LINE_LEN_BYTES as u64;

/// Gathers the hashes of a table's keys (8 bytes each) and makes the filter at the end, when their number is
/// known.
pub struct FilterBuilder {
    policy: FilterPolicy,
    hashes: Vec<u64>,
}

impl FilterBuilder {
    /// Starts without keys.
    pub fn new(policy: FilterPolicy) -> FilterBuilder {
        FilterBuilder { policy, hashes: Vec::new() }
    }

    /// Adds a user key.
    #[inline]
    pub fn add(&mut self, user_key: &[u8]) {
        if self.policy != FilterPolicy::None {
            self.hashes.push(hash_key(user_key));
        }
    }

    /// Returns how many bytes the filter block will take.
    pub fn len_bytes(&self) -> usize {
        match self.policy {
            FilterPolicy::None => 0,
            FilterPolicy::Bloom { bits_per_key } => {
                lines_count(self.hashes.len(), bits_per_key) * LINE_LEN_BYTES + 1
            }
        }
    }

    /// Makes the filter block, or nothing if the policy wants none.
    pub fn finish(self) -> Option<Vec<u8>> {
        let FilterPolicy::Bloom { bits_per_key } = self.policy else { return None };
        let probes_count = bloom_probes_count(bits_per_key);
        let lines = vec![Line([0; 8]); lines_count(self.hashes.len(), bits_per_key)];
        let mut filter = Filter { lines, probes_count };
        for &hash in &self.hashes {
            filter.insert(hash);
        }
        let mut block = Vec::with_capacity(filter.lines.len() * LINE_LEN_BYTES + 1);
        for word in filter.lines.iter().flat_map(|line| line.0) {
            block.extend_from_slice(&word.to_le_bytes());
        }
        block.push(probes_count);
        Some(block)
    }
}

fn lines_count(keys_count: usize, bits_per_key: u8) -> usize {
    let bits = keys_count as u64 * u64::from(bits_per_key.clamp(2, 24));
    let lines = bits.div_ceil(LINE_LEN_BITS).clamp(1, LINES_COUNT_MAX);
    usize::try_from(lines).expect("clamped")
}

/// One cache line, and aligned as one.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

const _: () = assert!(size_of::<Line>() == LINE_LEN_BYTES);

/// A table's filter, in memory.
pub struct Filter {
    lines: Vec<Line>,
    probes_count: u8,
}

impl Filter {
    /// Reads a filter block.
    pub fn parse(block: &[u8]) -> Result<Filter, Damaged> {
        let (&probes_count, bytes) = block.split_last().ok_or(Damaged("an empty filter"))?;
        if !(1..=PROBES_COUNT_MAX).contains(&probes_count) {
            return Err(Damaged("a filter with an impossible number of probes"));
        }
        if bytes.is_empty() || !bytes.len().is_multiple_of(LINE_LEN_BYTES) {
            return Err(Damaged("a filter that is not made of whole lines"));
        }
        if (bytes.len() / LINE_LEN_BYTES) as u64 > LINES_COUNT_MAX {
            return Err(Damaged("a filter is longer than any may be"));
        }
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        let line = |bytes: &[u8]| {
            let mut line = Line([0; 8]);
            for (to, from) in line.0.iter_mut().zip(bytes.chunks_exact(8)) {
                *to = word(from);
            }
            line
        };
        Ok(Filter { lines: bytes.chunks_exact(LINE_LEN_BYTES).map(line).collect(), probes_count })
    }

    /// Tells whether a key with this hash may be in the table; `false` is certain.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        let line = &self.lines[self.line_of(hash)].0;
        let mut probes = Probes::new(hash);
        for _ in 0..self.probes_count {
            let (word, bit) = probes.next();
            if line[word] & bit == 0 {
                return false;
            }
        }
        true
    }

    /// Returns the bytes it takes in memory.
    pub fn len_bytes(&self) -> usize {
        self.lines.len() * LINE_LEN_BYTES
    }

    fn insert(&mut self, hash: u64) {
        let index = self.line_of(hash);
        let mut probes = Probes::new(hash);
        for _ in 0..self.probes_count {
            let (word, bit) = probes.next();
            self.lines[index].0[word] |= bit;
        }
    }

    /// Maps the hash to a line by its upper bits, without a division.
    #[inline]
    fn line_of(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.lines.len() as u128) >> 64) as usize
    }
}

/// The bits of one key within its line.
struct Probes(u64);

impl Probes {
    /// The line took the upper bits of the hash; multiplying brings the lower ones up.
    #[inline]
    fn new(hash: u64) -> Probes {
        Probes(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Takes nine bits from the top: three for the word, six for the bit in it.
    #[inline]
    fn next(&mut self) -> (usize, u64) {
        let word = (self.0 >> 61) as usize;
        let bit = 1u64 << (self.0 >> 55 & 63);
        self.0 = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (word, bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(policy: FilterPolicy, keys: impl Iterator<Item = Vec<u8>>) -> Filter {
        let mut builder = FilterBuilder::new(policy);
        keys.for_each(|key| builder.add(&key));
        let len = builder.len_bytes();
        let block = builder.finish().expect("a bloom policy");
        assert_eq!(block.len(), len);
        Filter::parse(&block).expect("intact")
    }

    fn key(number: u32) -> Vec<u8> {
        format!("key{number:09}").into_bytes()
    }

    #[test]
    fn false_positives_stay_within_what_is_promised() {
        for bits_per_key in [4, 8, 10, 12, 16] {
            let policy = FilterPolicy::Bloom { bits_per_key };
            let filter = build(policy, (0..20_000).map(key));
            let wrong =
                (20_000..220_000).filter(|&number| filter.may_contain(hash_key(&key(number)))).count();
            let expected = policy.false_positive_rate() * 200_000.0;
            let slack = 1.1 * expected + 30.0;
            assert!((wrong as f64) < slack, "{bits_per_key} bits: {wrong} against {expected}");
        }
    }

    proptest! {
        #[test]
        fn what_is_in_is_never_denied(keys: Vec<Vec<u8>>, bits_per_key: u8) {
            let filter = build(FilterPolicy::Bloom { bits_per_key }, keys.iter().cloned());
            for key in &keys {
                prop_assert!(filter.may_contain(hash_key(key)));
            }
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes: Vec<u8>, hash: u64) {
            if let Ok(filter) = Filter::parse(&bytes) {
                let _ = filter.may_contain(hash);
            }
        }
    }
}
