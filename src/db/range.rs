//! Ranges of keys as callers write them: `..`, `a..b`, `a..=b`, pairs of bounds.

use std::ops::{Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// A range of keys, in the order of the keyspace it is used on: every range of the standard library over anything that
/// is bytes, pairs of bounds included, and references to them.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use std::ops::Bound;
/// let db = tinylsm::Db::open_in_memory()?;
/// for key in ["a", "b", "c"] {
///     db.put(key, "")?;
/// }
/// assert_eq!(db.range((Bound::Excluded("a"), Bound::Unbounded))?.count(), 2);
/// let owned = String::from("b")..String::from("c");
/// assert_eq!(db.range(&owned)?.count(), 1);
/// # Ok(())
/// # }
/// ```
pub trait KeyRange {
    /// Returns both bounds.
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>);
}

/// Returns both bounds of a range, copied.
pub(crate) fn owned_bounds(range: &impl KeyRange) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let (lower, upper) = range.key_bounds();
    (lower.map(<[u8]>::to_vec), upper.map(<[u8]>::to_vec))
}

fn bounds_of<'a, K: AsRef<[u8]> + 'a>(range: &'a impl RangeBounds<K>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (range.start_bound().map(AsRef::as_ref), range.end_bound().map(AsRef::as_ref))
}

impl KeyRange for RangeFull {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

impl<K: AsRef<[u8]>> KeyRange for Range<K> {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        bounds_of(self)
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeInclusive<K> {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        bounds_of(self)
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeFrom<K> {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        bounds_of(self)
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeTo<K> {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        bounds_of(self)
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeToInclusive<K> {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        bounds_of(self)
    }
}

// One type for both bounds: with two, the key type of an unbounded one could not be inferred.
impl<K: AsRef<[u8]>> KeyRange for (Bound<K>, Bound<K>) {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        bounds_of(self)
    }
}

impl<R: KeyRange + ?Sized> KeyRange for &R {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (**self).key_bounds()
    }
}

/// Returns the range of the keys that begin with `prefix`, in bytewise order.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let kept = prefix.iter().rposition(|&byte| byte != 0xFF).map_or(0, |at| at + 1);
    let mut end = prefix[..kept].to_vec();
    let upper = match end.last_mut() {
        Some(last) => {
            *last += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    };
    (Bound::Included(prefix.to_vec()), upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_has_its_bounds_whoever_owns_its_keys() {
        fn bounds(range: impl KeyRange) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
            owned_bounds(&range)
        }
        let (a, b) = (b"a".to_vec(), b"b".to_vec());
        let (included, excluded) = (Bound::Included(a.clone()), Bound::Excluded(b.clone()));
        assert_eq!(bounds(..), (Bound::Unbounded, Bound::Unbounded));
        assert_eq!(bounds("a".."b"), (included.clone(), excluded.clone()));
        assert_eq!(bounds(&(&a..&b)), (included.clone(), excluded.clone()));
        assert_eq!(bounds("a".to_owned()..), (included.clone(), Bound::Unbounded));
        assert_eq!(bounds(..b"b"), (Bound::Unbounded, excluded.clone()));
        assert_eq!(bounds(..=[b'b']), (Bound::Unbounded, Bound::Included(b.clone())));
        assert_eq!(bounds("a"..="b"), (included.clone(), Bound::Included(b.clone())));
        assert_eq!(bounds((Bound::Excluded("b"), Bound::Unbounded)), (excluded.clone(), Bound::Unbounded));
        assert_eq!(bounds((Bound::Unbounded, Bound::Excluded(&b))), (Bound::Unbounded, excluded));
    }

    #[test]
    fn prefix_range_ends_before_the_first_key_without_it() {
        assert_eq!(prefix_bounds(b"ab").1, Bound::Excluded(b"ac".to_vec()));
        assert_eq!(prefix_bounds(b"a\xFF\xFF").1, Bound::Excluded(b"b".to_vec()));
        assert_eq!(prefix_bounds(b"\xFF").1, Bound::Unbounded);
        assert_eq!(prefix_bounds(b"").1, Bound::Unbounded);
    }
}
