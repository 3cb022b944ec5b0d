//! An entry of the skip list and how two of them compare.

use crate::base::comparator::{KeyOrder, bytewise_prefix};
use crate::base::key::{InternalKey, Tag};
use crate::base::slice::Slice;
use bytes::Bytes;
use std::borrow::Borrow;
use std::cmp::Ordering;

/// How user keys compare in one list, carried by each entry: nothing at all for bytewise order.
pub trait EntryOrder: Send + 'static {
    /// Returns the number that is compared first.
    fn prefix(&self, key: &[u8]) -> u128;
    /// Compares keys whose prefixes are equal.
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering;
}

/// Plain byte order.
#[derive(Clone, Copy)]
pub struct ByteOrder;

impl EntryOrder for ByteOrder {
    #[inline]
    fn prefix(&self, key: &[u8]) -> u128 {
        bytewise_prefix(key)
    }

    #[inline]
    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        // Equal prefixes of short keys differ at most in trailing zeros, so the shorter key is the smaller.
        if a.len() <= 16 && b.len() <= 16 { a.len().cmp(&b.len()) } else { a.cmp(b) }
    }
}

/// Any other order.
#[derive(Clone)]
pub struct CustomOrder(pub KeyOrder);

impl EntryOrder for CustomOrder {
    fn prefix(&self, key: &[u8]) -> u128 {
        self.0.sort_prefix(key)
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        self.0.compare(a, b)
    }
}

/// What a list compares: an entry of its own, or a key that is looked for.
pub trait Probe<O> {
    /// Returns the prefix of the key.
    fn prefix(&self) -> u128;
    /// Returns the whole key.
    fn internal_key(&self) -> InternalKey<'_>;
    /// Returns how keys compare.
    fn order(&self) -> &O;
}

fn compare_probes<O: EntryOrder>(a: &(dyn Probe<O> + '_), b: &(dyn Probe<O> + '_)) -> Ordering {
    a.prefix().cmp(&b.prefix()).then_with(|| {
        let (a_key, b_key) = (a.internal_key(), b.internal_key());
        a.order().compare(a_key.user_key, b_key.user_key).then_with(|| b_key.tag.cmp(&a_key.tag))
    })
}

impl<O: EntryOrder> PartialEq for dyn Probe<O> + '_ {
    fn eq(&self, other: &Self) -> bool {
        compare_probes(self, other) == Ordering::Equal
    }
}

impl<O: EntryOrder> Eq for dyn Probe<O> + '_ {}

impl<O: EntryOrder> PartialOrd for dyn Probe<O> + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<O: EntryOrder> Ord for dyn Probe<O> + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_probes(self, other)
    }
}

/// One entry: its key's prefix, its bytes, and its tag.
#[derive(Clone)]
pub struct Entry<O> {
    prefix: u128,
    /// The key, then the value.
    bytes: Bytes,
    tag: Tag,
    key_len: u32,
    order: O,
}

const _: () = assert!(size_of::<Entry<ByteOrder>>() == 64);

impl<O: EntryOrder> Entry<O> {
    /// Makes the entry of `key`, whose user key begins `bytes`.
    pub fn new(key: InternalKey<'_>, bytes: Bytes, order: O) -> Entry<O> {
        let key_len = u32::try_from(key.user_key.len()).expect("limits.rs keeps keys below 4 GiB");
        assert!(bytes.len() >= key.user_key.len(), "an entry's bytes begin with its key");
        Entry { prefix: order.prefix(key.user_key), bytes, tag: key.tag, key_len, order }
    }
}

impl<O> Entry<O> {
    pub fn user_key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    pub fn tag(&self) -> Tag {
        self.tag
    }

    pub fn value(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..]
    }

    pub fn value_slice(&self, skip: usize) -> Slice {
        assert!(skip <= self.value().len(), "a value is not shorter than its head");
        Slice::of_chunk(&self.bytes, self.key_len as usize + skip)
    }
}

impl<O> Probe<O> for Entry<O> {
    fn prefix(&self) -> u128 {
        self.prefix
    }
    fn internal_key(&self) -> InternalKey<'_> {
        InternalKey::new(self.user_key(), self.tag)
    }
    fn order(&self) -> &O {
        &self.order
    }
}

impl<'a, O: EntryOrder> Borrow<dyn Probe<O> + 'a> for Entry<O> {
    fn borrow(&self) -> &(dyn Probe<O> + 'a) {
        self
    }
}

impl<O: EntryOrder> PartialEq for Entry<O> {
    fn eq(&self, other: &Entry<O>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<O: EntryOrder> Eq for Entry<O> {}

impl<O: EntryOrder> PartialOrd for Entry<O> {
    fn partial_cmp(&self, other: &Entry<O>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<O: EntryOrder> Ord for Entry<O> {
    #[inline]
    fn cmp(&self, other: &Entry<O>) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| {
            self.order.compare(self.user_key(), other.user_key()).then_with(|| other.tag.cmp(&self.tag))
        })
    }
}

/// A key that is looked for.
pub struct Wanted<'a, O> {
    prefix: u128,
    key: InternalKey<'a>,
    order: O,
}

impl<'a, O: EntryOrder> Wanted<'a, O> {
    pub fn new(key: InternalKey<'a>, order: O) -> Wanted<'a, O> {
        Wanted { prefix: order.prefix(key.user_key), key, order }
    }
}

impl<O> Probe<O> for Wanted<'_, O> {
    fn prefix(&self) -> u128 {
        self.prefix
    }
    fn internal_key(&self) -> InternalKey<'_> {
        self.key
    }
    fn order(&self) -> &O {
        &self.order
    }
}
