//! Internal keys: a user key, then what makes one version of it different from another.
//!
//! Order: user key by the keyspace's comparator, then newest first. So the first entry at or below a reader's
//! sequence number is the one that decides.

use crate::base::comparator::KeyOrder;
use crate::base::seq::SeqNum;
use std::cmp::Ordering;

/// Bytes a [`Tag`] takes behind the user key in an encoded internal key.
pub const TAG_LEN_BYTES: usize = 8;

/// What an entry says about its key. The codes are in tables and WAL records and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The key has no value from here on.
    Delete = 0,
    /// The key has this value from here on.
    Put = 1,
    /// The key has this value until its expiry. The value is 8 bytes of expiry, then the user's bytes.
    PutWithExpiry = 2,
    /// Every key of a range has no value from here on. Reserved: no writer makes it yet.
    RangeDelete = 3,
    /// An operand for a merge operator. Reserved.
    Merge = 4,
    /// A delete that cancels exactly one put. Reserved.
    SingleDelete = 5,
    /// The value lies in another file. Reserved.
    ValueReference = 6,
}

impl Kind {
    /// Reads a kind from a disk's byte, which may be anything.
    pub const fn from_disk(code: u8) -> Option<Kind> {
        Some(match code {
            0 => Kind::Delete,
            1 => Kind::Put,
            2 => Kind::PutWithExpiry,
            3 => Kind::RangeDelete,
            4 => Kind::Merge,
            5 => Kind::SingleDelete,
            6 => Kind::ValueReference,
            _ => return None,
        })
    }

    /// Tells whether this version of the engine can say what an entry of this kind means to a reader.
    pub const fn is_supported(self) -> bool {
        matches!(self, Kind::Delete | Kind::Put | Kind::PutWithExpiry)
    }
}

/// Sequence number and kind in one word: the number in the upper 56 bits, the kind's code in the lowest 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(u64);

impl Tag {
    /// Sorts before every other entry of its key: seeking to it finds the newest.
    pub const NEWEST: Tag = Tag(u64::MAX);
    /// Sorts after every other entry of its key.
    pub const OLDEST: Tag = Tag(0);

    /// Joins number and kind.
    pub const fn new(seq: SeqNum, kind: Kind) -> Tag {
        Tag(seq.get() << 8 | kind as u64)
    }

    /// Sorts before every entry at or below `seq`, and after every entry above it.
    pub const fn seek_at(seq: SeqNum) -> Tag {
        Tag(seq.get() << 8 | 0xFF)
    }

    /// Takes a tag as stored; [`Tag::kind`] tells later whether it makes sense.
    pub const fn from_raw(raw: u64) -> Tag {
        Tag(raw)
    }

    /// Returns the word as stored.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Returns the sequence number.
    pub const fn seq(self) -> SeqNum {
        SeqNum::new(self.0 >> 8)
    }

    /// Returns the kind, or `None` for a code that no version defines.
    pub const fn kind(self) -> Option<Kind> {
        Kind::from_disk(self.0.to_le_bytes()[0])
    }
}

/// One entry's key, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternalKey<'a> {
    /// The caller's key.
    pub user_key: &'a [u8],
    /// Which version of it.
    pub tag: Tag,
}

impl<'a> InternalKey<'a> {
    /// Joins a user key and a tag.
    pub const fn new(user_key: &'a [u8], tag: Tag) -> InternalKey<'a> {
        InternalKey { user_key, tag }
    }

    /// Splits an encoded internal key; `None` if it is too short to be one.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Option<InternalKey<'a>> {
        let (user_key, tag) = bytes.split_last_chunk::<TAG_LEN_BYTES>()?;
        Some(InternalKey { user_key, tag: Tag::from_raw(u64::from_le_bytes(*tag)) })
    }

    /// Appends user key and tag to `out`, as tables store them.
    #[inline]
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.user_key);
        out.extend_from_slice(&self.tag.raw().to_le_bytes());
    }

    /// Compares by user key, then newest first.
    #[inline]
    pub fn compare(&self, other: &InternalKey<'_>, order: &KeyOrder) -> Ordering {
        order.compare(self.user_key, other.user_key).then_with(|| other.tag.cmp(&self.tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_sorts_first_and_seek_finds_at_or_below() {
        let order = KeyOrder::Bytewise;
        let at = |seq, kind| InternalKey::new(b"k", Tag::new(SeqNum::new(seq), kind));
        assert_eq!(at(2, Kind::Delete).compare(&at(1, Kind::Put), &order), Ordering::Less);
        let seek = InternalKey::new(b"k", Tag::seek_at(SeqNum::new(5)));
        assert_eq!(seek.compare(&at(5, Kind::ValueReference), &order), Ordering::Less);
        assert_eq!(seek.compare(&at(6, Kind::Delete), &order), Ordering::Greater);
        let mut bytes = Vec::new();
        at(7, Kind::Put).encode_into(&mut bytes);
        assert_eq!(InternalKey::decode(&bytes), Some(at(7, Kind::Put)));
        assert_eq!(InternalKey::decode(&bytes[..7]), None);
    }
}
