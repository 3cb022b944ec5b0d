//! Sequence numbers: one order over every committed operation of a database.

use std::fmt;

/// The place of one committed operation in the order of all of them; 56 bits, starting at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNum(u64);

impl SeqNum {
    /// Before the first commit.
    pub const ZERO: SeqNum = SeqNum(0);
    /// The largest number that fits beside a kind in an internal key.
    pub const MAX: SeqNum = SeqNum((1 << 56) - 1);
    /// The largest number that a commit may have. The rest is space: a number from a disk and the count of a batch
    /// never add up to more than [`SeqNum::MAX`].
    pub const LAST: SeqNum = SeqNum(SeqNum::MAX.0 - 0xFFFF_FFFF);

    /// Makes a sequence number.
    ///
    /// # Panics
    /// If `raw` needs more than 56 bits.
    pub const fn new(raw: u64) -> SeqNum {
        assert!(raw <= SeqNum::MAX.0, "a sequence number has 56 bits");
        SeqNum(raw)
    }

    /// Makes a sequence number from bytes of a disk, which may be anything; none above [`SeqNum::LAST`] was ever written.
    pub const fn from_disk(raw: u64) -> Option<SeqNum> {
        if raw <= SeqNum::LAST.0 { Some(SeqNum(raw)) } else { None }
    }

    /// Returns the bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number `count` places later.
    ///
    /// # Panics
    /// After 2^56 commits.
    #[must_use]
    pub const fn plus(self, count: u64) -> SeqNum {
        SeqNum::new(self.0 + count)
    }
}

impl fmt::Display for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
