//! May a reader see this entry?

use crate::base::error::{Error, ErrorKind};
use crate::base::key::{Kind, Tag};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;

/// What a reader sees: everything up to a number, as of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Entries above it do not exist yet.
    pub seq: SeqNum,
    /// Entries whose expiry is at or before it are gone.
    pub now: UnixMillis,
}

/// What the newest entry at or below a reader's number means to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The key has a value, which begins so many bytes into the stored one.
    Value(usize),
    /// The key has no value, and no older entry may be asked.
    Gone,
    /// Nobody knows: the entry is of a kind this version cannot read, or makes no sense.
    Unknown,
}

/// Reads the expiry in front of the value of a put-with-expiry.
pub fn expiry_of(stored: &[u8]) -> Option<UnixMillis> {
    Some(UnixMillis(i64::from_le_bytes(*stored.first_chunk()?)))
}

/// Decides what an entry means to a reader at `horizon`.
///
/// # Panics
/// If the entry is above the reader's number.
pub fn sight(tag: Tag, stored: &[u8], horizon: Horizon) -> Sight {
    assert!(tag.seq() <= horizon.seq, "a reader never looks at the future");
    match tag.kind() {
        Some(Kind::Put) => Sight::Value(0),
        Some(Kind::Delete) => Sight::Gone,
        Some(Kind::PutWithExpiry) => match expiry_of(stored) {
            // An expired entry hides the older ones, exactly as a delete does.
            Some(expiry) if expiry <= horizon.now => Sight::Gone,
            Some(_) => Sight::Value(8),
            None => Sight::Unknown,
        },
        _ => Sight::Unknown,
    }
}

/// Returns the error for an entry that this version cannot read.
pub fn unknown_kind(tag: Tag) -> Error {
    let [code, ..] = tag.raw().to_le_bytes();
    let message = format!("entry {} has kind {code}, which this version cannot read", tag.seq());
    Error::new(ErrorKind::Incompatible, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_value_hides_like_a_delete() {
        let horizon = Horizon { seq: SeqNum::new(9), now: UnixMillis(100) };
        let tag = Tag::new(SeqNum::new(3), Kind::PutWithExpiry);
        let stored = |expiry: i64| [&expiry.to_le_bytes()[..], b"v"].concat();
        assert_eq!(sight(tag, &stored(101), horizon), Sight::Value(8));
        assert_eq!(sight(tag, &stored(100), horizon), Sight::Gone);
        assert_eq!(sight(tag, b"short", horizon), Sight::Unknown);
        assert_eq!(sight(Tag::new(SeqNum::new(3), Kind::RangeDelete), b"", horizon), Sight::Unknown);
    }
}
