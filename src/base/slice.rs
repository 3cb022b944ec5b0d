//! Bytes handed to callers: cheap to clone, without a copy of the block they lie in.

use bytes::Bytes;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

const INLINE_LEN_BYTES_MAX: usize = 38;

/// Immutable bytes: up to 38 lie inline, longer ones share the block or chunk of a memtable they were read from.
///
/// A slice keeps its whole block or chunk in memory. Call [`Slice::detach`] before keeping a small value for long.
#[derive(Clone)]
pub struct Slice(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_LEN_BYTES_MAX] },
    Block { owner: Arc<Vec<u8>>, start: u32, len: u32 },
    Chunk(Bytes),
}

const _: () = assert!(size_of::<Slice>() <= 40);

impl Slice {
    /// Copies `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Slice {
        if bytes.len() <= INLINE_LEN_BYTES_MAX {
            return Slice::inline(bytes);
        }
        Slice::shared(Arc::new(bytes.to_vec()), 0, bytes.len())
    }

    /// Shares `len` bytes of `owner` from `start`; copies them if they are few enough to lie inline.
    ///
    /// # Panics
    /// If the range lies outside `owner`.
    #[inline]
    pub fn shared(owner: Arc<Vec<u8>>, start: usize, len: usize) -> Slice {
        let bytes = &owner[start..start + len];
        if len <= INLINE_LEN_BYTES_MAX {
            return Slice::inline(bytes);
        }
        match (u32::try_from(start), u32::try_from(len)) {
            (Ok(start), Ok(len)) => Slice(Repr::Block { owner, start, len }),
            _ => Slice::vast(owner, start, len),
        }
    }

    /// Shares what 32 bits do not reach. No block or buffer of ours is so long (limits.rs); a caller's bytes may be.
    #[cold]
    fn vast(owner: Arc<Vec<u8>>, start: usize, len: usize) -> Slice {
        struct Owner(Arc<Vec<u8>>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Slice(Repr::Chunk(Bytes::from_owner(Owner(owner)).slice(start..start + len)))
    }

    /// Shares like [`Slice::shared`], cloning the owner only when the bytes are too many to lie inline.
    #[inline]
    pub fn of(owner: &Arc<Vec<u8>>, start: usize, len: usize) -> Slice {
        if len <= INLINE_LEN_BYTES_MAX {
            return Slice::inline(&owner[start..start + len]);
        }
        Slice::shared(Arc::clone(owner), start, len)
    }

    /// Shares the part of `chunk` from byte `start` on; copies it if it is short enough to lie inline.
    ///
    /// # Panics
    /// If `chunk` is shorter than `start`.
    #[inline]
    pub fn of_chunk(chunk: &Bytes, start: usize) -> Slice {
        let bytes = &chunk[start..];
        if bytes.len() <= INLINE_LEN_BYTES_MAX {
            return Slice::inline(bytes);
        }
        Slice(Repr::Chunk(chunk.slice(start..)))
    }

    #[inline]
    fn inline(bytes: &[u8]) -> Slice {
        let mut inline = [0u8; INLINE_LEN_BYTES_MAX];
        inline[..bytes.len()].copy_from_slice(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "at most 38, checked by the callers")]
        Slice(Repr::Inline { len: bytes.len() as u8, bytes: inline })
    }

    /// Returns the bytes in a buffer of their own, letting go of the block.
    #[must_use]
    pub fn detach(&self) -> Slice {
        Slice::copy_from(self)
    }
}

impl Deref for Slice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Block { owner, start, len } => &owner[*start as usize..*start as usize + *len as usize],
            Repr::Chunk(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Slice {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for Slice {
    fn from(bytes: &[u8]) -> Slice {
        Slice::copy_from(bytes)
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Slice {
        let len = bytes.len();
        Slice::shared(Arc::new(bytes), 0, len)
    }
}

impl From<Slice> for Vec<u8> {
    /// Takes the bytes over where nobody else holds them, and copies them otherwise.
    fn from(slice: Slice) -> Vec<u8> {
        match slice.0 {
            Repr::Block { owner, start: 0, len } if owner.len() == len as usize => {
                Arc::try_unwrap(owner).unwrap_or_else(|shared| shared.to_vec())
            }
            repr => Slice(repr).to_vec(),
        }
    }
}

impl From<Slice> for Bytes {
    /// Goes on sharing what the slice shares; only bytes that lie inline are copied.
    fn from(slice: Slice) -> Bytes {
        match slice.0 {
            Repr::Chunk(bytes) => bytes,
            Repr::Inline { len, bytes } => Bytes::copy_from_slice(&bytes[..usize::from(len)]),
            repr @ Repr::Block { .. } => Bytes::from_owner(Slice(repr)),
        }
    }
}

impl PartialEq for Slice {
    fn eq(&self, other: &Slice) -> bool {
        **self == **other
    }
}

impl Eq for Slice {}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Slice
where
    T: NotSlice,
{
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

/// Types that a [`Slice`] compares with byte by byte.
pub trait NotSlice {}
impl NotSlice for [u8] {}
impl<const N: usize> NotSlice for [u8; N] {}
impl NotSlice for &[u8] {}
impl<const N: usize> NotSlice for &[u8; N] {}
impl NotSlice for Vec<u8> {}
impl NotSlice for &Vec<u8> {}
impl NotSlice for Bytes {}
impl NotSlice for str {}
impl NotSlice for &str {}
impl NotSlice for String {}
impl NotSlice for &String {}

/// Compares with the slice on the right as well.
macro_rules! equals_slice {
    ($($other:ty),*) => {$(
        impl PartialEq<Slice> for $other {
            fn eq(&self, other: &Slice) -> bool {
                other == self
            }
        }
    )*};
}

equals_slice!([u8], &[u8], Vec<u8>, Bytes, str, &str, String);

impl PartialOrd for Slice {
    fn partial_cmp(&self, other: &Slice) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slice {
    fn cmp(&self, other: &Slice) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Slice {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_become_what_callers_keep_without_a_copy_where_nobody_shares_them() {
        let long = vec![7u8; 100];
        let address = long.as_ptr();
        let kept = Vec::from(Slice::from(long));
        assert_eq!(kept.as_ptr(), address);
        let slice = Slice::from(kept);
        let shared = Bytes::from(slice.clone());
        assert_eq!(shared.as_ptr(), address);
        assert_eq!(Vec::from(slice), shared);
        assert_eq!(Bytes::from(Slice::copy_from(b"short")), "short");
        let chunk = Bytes::from(vec![8u8; 50]);
        assert_eq!(Bytes::from(Slice::of_chunk(&chunk, 2)).as_ptr(), chunk[2..].as_ptr());
        let part = Slice::of(&Arc::new(vec![9u8; 100]), 1, 60);
        assert_eq!(Vec::from(part), [9u8; 60]);
    }

    #[test]
    fn a_slice_equals_the_same_bytes_of_any_type_on_either_side() {
        let (slice, text, bytes) = (Slice::copy_from(b"ab"), "ab".to_owned(), vec![b'a', b'b']);
        assert!(slice == "ab" && slice == *"ab" && slice == text);
        assert!(slice == b"ab" && slice == bytes && slice == Bytes::from_static(b"ab"));
        assert!("ab" == slice && text == slice && bytes == slice && *b"ab".as_slice() == slice);
        assert!(slice != "abc" && "a" != slice);
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn bytes_that_32_bits_do_not_count_are_a_slice_like_any_other() {
        // Pages that nobody writes take no memory.
        const LEN: usize = (u32::MAX as usize) + 100;
        let slice = Slice::from(vec![0; LEN]);
        assert_eq!((slice.len(), slice[LEN - 1]), (LEN, 0));
        let Repr::Chunk(bytes) = &slice.0 else { panic!("32 bits do not hold its length") };
        let part = Slice::of_chunk(bytes, LEN - 50);
        assert_eq!(part, [0; 50]);
    }

    #[test]
    fn short_bytes_lie_inline_and_long_ones_share() {
        let owner = Arc::new(vec![7u8; 100]);
        let short = Slice::of(&owner, 3, 38);
        assert_eq!(Arc::strong_count(&owner), 1);
        let long = Slice::of(&owner, 3, 39);
        assert_eq!(Arc::strong_count(&owner), 2);
        assert_eq!(&*short, &[7u8; 38]);
        assert_eq!(&*long, &[7u8; 39]);
        let kept = long.detach();
        drop(long);
        assert_eq!(Arc::strong_count(&owner), 1);
        assert_eq!(kept.len(), 39);
        let chunk = Bytes::from(vec![8u8; 50]);
        assert!(chunk.is_unique());
        let (short, long) = (Slice::of_chunk(&chunk, 12), Slice::of_chunk(&chunk, 11));
        assert_eq!((&*short, &*long), (&[8u8; 38][..], &[8u8; 39][..]));
        assert!(!chunk.is_unique());
        drop(long);
        assert!(chunk.is_unique());
    }
}
