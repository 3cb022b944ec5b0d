//! What the workloads write and ask for: keys, values and orders, all of them functions of numbers, so that two runs
//! do the same and nothing but the engine is measured.

/// Bytes of every key: the decimal digits of an even number, so that the odd ones between are absent.
pub(crate) const KEY_LEN_BYTES: usize = 16;
/// Bytes at the head of a value that tell which key it belongs to.
const STAMP_LEN_BYTES: usize = 8;
const POOL_LEN_BYTES: usize = 1 << 20;

/// A key on the stack.
pub(crate) type Key = [u8; KEY_LEN_BYTES];

/// Returns the key of record `index`.
pub(crate) fn key(index: u64) -> Key {
    digits(index * 2)
}

/// Returns a key that is absent and lies just behind that of record `index`.
pub(crate) fn absent_key(index: u64) -> Key {
    digits(index * 2 + 1)
}

fn digits(mut number: u64) -> Key {
    let mut key = [b'0'; KEY_LEN_BYTES];
    for digit in key.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit fits");
        number /= 10;
    }
    assert_eq!(number, 0, "the number of keys is bounded by the arguments");
    key
}

/// SplitMix64: tiny, fast, and good enough to choose keys.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0)
    }

    /// Returns a number below `bound`.
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a product of two u64 fits")
    }
}

#[inline]
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Visits every number below `count` exactly once in an order that looks random: a Feistel network over the next
/// even number of bits, walked until it lands below `count`.
#[derive(Clone)]
pub(crate) struct Permutation {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Permutation {
    pub(crate) fn new(count: u64, seed: u64) -> Permutation {
        let bits = (u64::BITS - count.leading_zeros()).max(2);
        Permutation { count, half_bits: bits.div_ceil(2), seed }
    }

    /// Returns the number at place `index` of the order.
    #[inline]
    pub(crate) fn at(&self, index: u64) -> u64 {
        assert!(index < self.count, "the order has that many places");
        let mut number = index;
        loop {
            number = self.shuffled(number);
            if number < self.count {
                return number;
            }
        }
    }

    #[inline]
    fn shuffled(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..4 {
            let turned = mixed(right ^ self.seed.wrapping_add(round)) & mask;
            (left, right) = (right, left ^ turned);
        }
        (left << self.half_bits) | right
    }
}

/// Zipfian choice after Gray et al., as YCSB does it, scattered over the key range by a permutation.
#[derive(Clone)]
pub(crate) struct Zipf {
    count: f64,
    theta: f64,
    alpha: f64,
    zeta_n: f64,
    eta: f64,
    scatter: Permutation,
}

impl Zipf {
    /// Prepares choices below `count` with the skew 0.99. Takes some 20 ms for a million.
    pub(crate) fn new(count: u64) -> Zipf {
        let theta: f64 = 0.99;
        let zeta = |n: u64| (1..=n).map(|i| 1.0 / crate::numbers::as_f64(i).powf(theta)).sum::<f64>();
        let zeta_n = zeta(count);
        let count_f = crate::numbers::as_f64(count);
        let eta = (1.0 - (2.0 / count_f).powf(1.0 - theta)) / (1.0 - zeta(2) / zeta_n);
        let scatter = Permutation::new(count, 0x2199);
        Zipf { count: count_f, theta, alpha: 1.0 / (1.0 - theta), zeta_n, eta, scatter }
    }

    /// Chooses a record.
    pub(crate) fn next(&self, random: &mut Random) -> u64 {
        let u = crate::numbers::as_f64(random.next() >> 11) / crate::numbers::as_f64(1 << 53);
        let uz = u * self.zeta_n;
        let rank = if uz < 1.0 {
            0.0
        } else if uz < 1.0 + 0.5_f64.powf(self.theta) {
            1.0
        } else {
            (self.count * (self.eta * u - self.eta + 1.0).powf(self.alpha)).min(self.count - 1.0)
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank from 0 to count - 1"
        )]
        self.scatter.at(rank as u64)
    }
}

/// Values that compress to about half, each stamped with the record it belongs to.
pub(crate) struct Values {
    pool: Vec<u8>,
    len: usize,
}

impl Values {
    /// Prepares values of `len` bytes each.
    pub(crate) fn new(len: usize) -> Values {
        let mut random = Random::new(0x7A1);
        let mut pool = Vec::with_capacity(POOL_LEN_BYTES + len);
        let half = len.div_ceil(2).max(1);
        while pool.len() < POOL_LEN_BYTES {
            let start = pool.len();
            pool.extend((0..half).map(|_| u8::try_from(random.next() & 0xFF).expect("one byte")));
            pool.extend_from_within(start..start + half);
        }
        Values { pool, len }
    }

    /// Writes the value of record `index` into `value`.
    #[inline]
    pub(crate) fn fill(&self, index: u64, value: &mut Vec<u8>) {
        let slots = (self.pool.len() / self.len.max(1)).max(1) as u64;
        let start = usize::try_from(mixed(index) % slots).expect("far below 2^32") * self.len;
        value.clear();
        value.extend_from_slice(&self.pool[start..start + self.len]);
        let stamp = STAMP_LEN_BYTES.min(self.len);
        value[..stamp].copy_from_slice(&index.to_le_bytes()[..stamp]);
    }

    /// Tells whether `value` can belong to record `index`.
    #[inline]
    pub(crate) fn is_of(&self, index: u64, value: &[u8]) -> bool {
        let stamp = STAMP_LEN_BYTES.min(self.len);
        value.len() == self.len && value[..stamp] == index.to_le_bytes()[..stamp]
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::workload::{Permutation, Random, Values, Zipf, absent_key, key};

    #[test]
    fn a_permutation_visits_every_number_once() {
        for count in [1, 2, 3, 10, 1_000, 4_097] {
            let order = Permutation::new(count, 7);
            let mut seen: Vec<u64> = (0..count).map(|index| order.at(index)).collect();
            assert!(count < 100 || !seen.is_sorted());
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..count));
        }
    }

    #[test]
    fn keys_sort_by_number_and_absent_ones_lie_between() {
        assert_eq!(&key(21), b"0000000000000042");
        assert!(key(5) < absent_key(5) && absent_key(5) < key(6));
    }

    #[test]
    fn zipf_prefers_few_and_stays_in_bounds() {
        let zipf = Zipf::new(1_000);
        let mut random = Random::new(1);
        let mut hits = vec![0_u32; 1_000];
        for _ in 0..100_000 {
            hits[usize::try_from(zipf.next(&mut random)).expect("below 1,000")] += 1;
        }
        hits.sort_unstable_by(|a, b| b.cmp(a));
        assert!(hits[0] > 10_000 && hits[..100].iter().sum::<u32>() > 60_000, "{:?}", &hits[..10]);
    }

    #[test]
    fn a_value_knows_its_record() {
        for len in [0, 1, 8, 100, 5_000] {
            let values = Values::new(len);
            let mut value = Vec::new();
            values.fill(77, &mut value);
            assert_eq!(value.len(), len);
            assert!(values.is_of(77, &value));
            assert!(len == 0 || !values.is_of(78, &value));
        }
    }
}
