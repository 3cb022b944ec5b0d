//! An entry of the skip list and how two of them compare.

use crate::base::comparator::{KeyOrder, bytewise_prefix};
use crate::base::key::{InternalKey, Tag};
use crate::base::slice::Slice;
use crate::memtable::Insert;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

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

/// One entry: its key's prefix, where the rest lies, and its tag.
#[derive(Clone)]
pub struct Entry<O> {
    prefix: u128,
    record: Arc<Vec<u8>>,
    tag: Tag,
    key_start: u32,
    key_len: u32,
    value_start: u32,
    value_len: u32,
    order: O,
}

const _: () = assert!(size_of::<Entry<ByteOrder>>() == 48);

impl<O: EntryOrder> Entry<O> {
    pub fn new(insert: Insert<'_>, order: O) -> Entry<O> {
        let Insert { record, key, value, tag } = insert;
        assert!(value.end <= record.len(), "an entry lies inside its record");
        let small = |at: usize| u32::try_from(at).expect("limits.rs keeps batches below 4 GiB");
        Entry {
            prefix: order.prefix(&record[key.clone()]),
            record: Arc::clone(record),
            tag,
            key_start: small(key.start),
            key_len: small(key.len()),
            value_start: small(value.start),
            value_len: small(value.len()),
            order,
        }
    }
}

impl<O> Entry<O> {
    pub fn user_key(&self) -> &[u8] {
        &self.record[self.key_start as usize..][..self.key_len as usize]
    }

    pub fn tag(&self) -> Tag {
        self.tag
    }

    pub fn value(&self) -> &[u8] {
        &self.record[self.value_start as usize..][..self.value_len as usize]
    }

    pub fn value_slice(&self, skip: usize) -> Slice {
        assert!(skip <= self.value_len as usize, "a value is not shorter than its head");
        Slice::of(&self.record, self.value_start as usize + skip, self.value_len as usize - skip)
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
