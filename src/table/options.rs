//! What a caller may choose about a table, with its defaults.

/// How data blocks are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4, for each block that it makes smaller by 12 % or more.
    #[default]
    Lz4,
}

/// Which filter a table carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterPolicy {
    /// None: every read of a missing key searches a block.
    None,
    /// A bloom filter in blocks of one cache line. Bits outside 2..=24 are taken as the nearest of these.
    Bloom {
        /// Bits a key takes in memory and on disk.
        bits_per_key: u8,
    },
}

impl Default for FilterPolicy {
    /// Ten bits a key: one missing key in a hundred reads a block for nothing.
    fn default() -> FilterPolicy {
        FilterPolicy::Bloom { bits_per_key: 10 }
    }
}

/// Bits a key, probes, and false positives in a million that follow (a mix of Poisson-filled 512-bit lines;
/// where two probe counts differ by less than 6 %, the smaller one).
const BLOOM_TABLE: [(u8, u8, u32); 23] = [
    (2, 1, 393_469),
    (3, 2, 237_125),
    (4, 2, 155_304),
    (5, 3, 92_885),
    (6, 4, 57_535),
    (7, 4, 37_198),
    (8, 5, 23_121),
    (9, 5, 15_244),
    (10, 6, 9_576),
    (11, 6, 6_415),
    (12, 7, 4_092),
    (13, 7, 2_780),
    (14, 8, 1_807),
    (15, 8, 1_244),
    (16, 9, 826),
    (17, 9, 576),
    (18, 9, 408),
    (19, 10, 276),
    (20, 10, 197),
    (21, 11, 137),
    (22, 11, 99),
    (23, 12, 70),
    (24, 12, 52),
];

impl FilterPolicy {
    /// Chooses the smallest bloom filter whose false-positive rate is at most `rate` (0.01 is one in a
    /// hundred); no filter for a rate of 0.4 and above, the largest for what none reaches.
    pub fn for_false_positive_rate(rate: f64) -> FilterPolicy {
        if rate >= 0.4 {
            return FilterPolicy::None;
        }
        let fits = |entry: &&(u8, u8, u32)| f64::from(entry.2) <= rate * 1e6;
        let (bits_per_key, ..) = *BLOOM_TABLE.iter().find(fits).unwrap_or(&BLOOM_TABLE[22]);
        FilterPolicy::Bloom { bits_per_key }
    }

    /// Returns the false-positive rate to expect: 1 without a filter.
    pub fn false_positive_rate(self) -> f64 {
        match self {
            FilterPolicy::None => 1.0,
            FilterPolicy::Bloom { bits_per_key } => f64::from(bloom_entry(bits_per_key).2) / 1e6,
        }
    }
}

fn bloom_entry(bits_per_key: u8) -> &'static (u8, u8, u32) {
    &BLOOM_TABLE[usize::from(bits_per_key.clamp(2, 24)) - 2]
}

/// Returns how many bits a key sets in a filter of `bits_per_key`.
pub(crate) fn bloom_probes_count(bits_per_key: u8) -> u8 {
    bloom_entry(bits_per_key).1
}

/// How a table is laid out. Every choice is recorded in the file, so readers need none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Entries are gathered into one block until they take this many bytes before packing; 4096 by default.
    /// Larger blocks pack better and cost more to read one key from. Clamped to 64 bytes..=1 MiB.
    pub block_len_bytes: usize,
    /// How data blocks are packed.
    pub compression: Compression,
    /// Which filter is built.
    pub filter: FilterPolicy,
}

impl Default for TableOptions {
    fn default() -> TableOptions {
        TableOptions {
            block_len_bytes: 4096,
            compression: Compression::default(),
            filter: FilterPolicy::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_chooses_the_fewest_bits_that_reach_it() {
        let bits = |rate| FilterPolicy::for_false_positive_rate(rate);
        assert_eq!(bits(0.01), FilterPolicy::Bloom { bits_per_key: 10 });
        assert_eq!(bits(0.001), FilterPolicy::Bloom { bits_per_key: 16 });
        assert_eq!(bits(0.0), FilterPolicy::Bloom { bits_per_key: 24 });
        assert_eq!(bits(1.0), FilterPolicy::None);
        assert_eq!(bits(f64::NAN), FilterPolicy::Bloom { bits_per_key: 24 });
    }
}
