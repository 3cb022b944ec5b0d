//! Blocks of sorted entries: how they are written, and how one key is found in them.
//!
//! Data blocks and index blocks have one layout. Values lie in front, keys behind: a search walks over keys
//! alone, a few cache lines of them, and touches one value. Keys leave out what they share with the key
//! before; every sixteenth is whole, a *restart*, and the list of restarts at the end allows a binary search.
//!
//! ```text
//! block   := value* entry* restart* restarts_count(u32 LE)
//! entry   := shared(varint) unshared(varint) value_len(varint) key[unshared] tag(u64 LE)
//! restart := entry_offset(u32 LE) value_offset(u32 LE)        from the start of the block
//! ```
//!
//! The first restart's entry offset is also where the values end. An entry's value begins where that of the
//! entry before ends. `shared` counts bytes of the user key only; the tag is never shortened, so that versions
//! of one key cost eleven bytes each and comparing needs no unpacking.
//!
//! [`BlockView::find`] searches for one key without building any: it carries along how much of the wanted
//! key the last entry matched, which `shared` alone tells how to continue.
//!
//! Bytes are checked as they are read. What does not parse is [`Damaged`], which the table turns into
//! corruption with file and offset. That the entries are in order is not checked here but by
//! `verify` (the checksum vouches for it).

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind};
use crate::base::key::{InternalKey, TAG_LEN_BYTES, Tag};
use crate::base::limits::KEY_LEN_BYTES_MAX;
use crate::format::varint;
use std::cmp::Ordering;
use std::path::Path;

/// Entries from one whole key to the next.
pub const RESTART_INTERVAL_COUNT: usize = 16;
const RESTART_LEN_BYTES: usize = 8;
const COUNT_LEN_BYTES: usize = 4;

/// What is wrong with a block whose checksum is right, or that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

/// A fault that is no damage: a newer version packed the block.
pub const UNKNOWN_BLOCK_TYPE: Damaged = Damaged("a block of a type that this version does not know");
/// The other one: a newer version says that its properties mean something else.
pub const UNKNOWN_FEATURES: Damaged = Damaged("a table that needs features which this version does not know");

impl Damaged {
    /// Makes an error of it, for a block at `offset` of `file`: `Corruption`, or `Incompatible` if that is what it is.
    pub fn into_error(self, file: &Path, offset: u64) -> Error {
        let is_unknown = self == UNKNOWN_BLOCK_TYPE || self == UNKNOWN_FEATURES;
        let kind = if is_unknown { ErrorKind::Incompatible } else { ErrorKind::Corruption };
        Error::new(kind, self.0).with_file(file).with_offset(offset)
    }
}

/// Returns how many bytes `a` and `b` have in common at their front.
#[inline]
pub fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    // Plain loops: a search of a block calls this some ten times, and each iterator that is not inlined is felt.
    let (mut rest_a, mut rest_b, mut len) = (a, b, 0);
    while let (Some((x, more_a)), Some((y, more_b))) =
        (rest_a.split_first_chunk::<8>(), rest_b.split_first_chunk::<8>())
    {
        let difference = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if difference != 0 {
            return len + (difference.trailing_zeros() / 8) as usize;
        }
        (rest_a, rest_b, len) = (more_a, more_b, len + 8);
    }
    while let (Some((x, more_a)), Some((y, more_b))) = (rest_a.split_first(), rest_b.split_first()) {
        if x != y {
            break;
        }
        (rest_a, rest_b, len) = (more_a, more_b, len + 1);
    }
    len
}

/// Builds one block after another.
#[derive(Default)]
pub struct BlockBuilder {
    /// The values; in the end the whole block.
    bytes: Vec<u8>,
    entries: Vec<u8>,
    /// Offsets into `entries` and `bytes`.
    restarts: Vec<(u32, u32)>,
    entries_count: usize,
}

impl BlockBuilder {
    /// Starts with an empty block.
    pub fn new() -> BlockBuilder {
        BlockBuilder::default()
    }

    /// Tells whether the block has no entry yet.
    pub fn is_empty(&self) -> bool {
        self.entries_count == 0
    }

    /// Returns how many bytes the block would have if it ended here.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.entries.len() + RESTART_LEN_BYTES * self.restarts.len() + COUNT_LEN_BYTES
    }

    /// Appends an entry, whose user key shares `shared` bytes with that of the entry added before.
    #[inline]
    pub fn add(&mut self, key: InternalKey<'_>, shared: usize, value: &[u8]) {
        let shared = if self.entries_count.is_multiple_of(RESTART_INTERVAL_COUNT) {
            self.restarts.push((len_u32(self.entries.len()), len_u32(self.bytes.len())));
            0
        } else {
            shared
        };
        let suffix = &key.user_key[shared..];
        let lens = [shared, suffix.len(), value.len()];
        if lens.iter().all(|&len| len < 0x80) {
            #[expect(clippy::cast_possible_truncation, reason = "each is below 128")]
            self.entries.extend_from_slice(&lens.map(|len| len as u8));
        } else {
            for len in lens {
                varint::write_u32(&mut self.entries, len_u32(len));
            }
        }
        self.entries.extend_from_slice(suffix);
        self.entries.extend_from_slice(&key.tag.raw().to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.entries_count += 1;
    }

    /// Ends the block and returns its bytes; [`BlockBuilder::clear`] starts the next.
    pub fn finish(&mut self) -> &[u8] {
        assert!(!self.is_empty(), "a block holds at least one entry");
        let entries_start = len_u32(self.bytes.len());
        self.bytes.extend_from_slice(&self.entries);
        for (entry, value) in &self.restarts {
            self.bytes.extend_from_slice(&(entries_start + entry).to_le_bytes());
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
        self.bytes.extend_from_slice(&len_u32(self.restarts.len()).to_le_bytes());
        &self.bytes
    }

    /// Forgets every entry but keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.restarts.clear();
        self.entries_count = 0;
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("limits.rs keeps blocks below 4 GiB")
}

/// Where an entry and its value begin, from the start of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Where the entry begins.
    pub entry: usize,
    /// Where its value begins.
    pub value: usize,
}

/// Where the parts of one entry lie in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// User key bytes taken over from the entry before.
    pub shared: usize,
    /// Where the rest of the user key begins.
    pub suffix_start: usize,
    /// Where it ends, and the tag begins.
    pub suffix_end: usize,
    /// Where the value begins.
    pub value_start: usize,
    /// Where the value ends.
    pub value_end: usize,
}

impl Entry {
    /// Returns where the next entry begins.
    #[inline]
    pub fn next(&self) -> Start {
        Start { entry: self.suffix_end + TAG_LEN_BYTES, value: self.value_end }
    }
}

/// A block's bytes, split into values, entries and restarts.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    /// Values and entries.
    bytes: &'a [u8],
    /// Where the values end and the entries begin.
    entries_start: usize,
    restarts: &'a [u8],
}

impl<'a> BlockView<'a> {
    /// Splits a block.
    #[inline]
    pub fn parse(block: &'a [u8]) -> Result<BlockView<'a>, Damaged> {
        const SHORT: Damaged = Damaged("a block is shorter than its list of restarts");
        let (rest, count) = block.split_last_chunk::<COUNT_LEN_BYTES>().ok_or(SHORT)?;
        let count = u32::from_le_bytes(*count) as usize;
        let restarts_len = count.checked_mul(RESTART_LEN_BYTES).ok_or(SHORT)?;
        let entries_end = rest.len().checked_sub(restarts_len).ok_or(SHORT)?;
        let (bytes, restarts) = rest.split_at(entries_end);
        let mut view = BlockView { bytes, entries_start: entries_end, restarts };
        view.entries_start = view.restart(0).entry;
        if view.entries_start >= entries_end {
            return Err(Damaged("a block without entries"));
        }
        Ok(view)
    }

    /// Returns how many keys are whole; at least one.
    #[inline]
    pub fn restarts_count(&self) -> usize {
        self.restarts.len() / RESTART_LEN_BYTES
    }

    /// Returns where the first entry begins.
    #[inline]
    pub fn first(&self) -> Start {
        Start { entry: self.entries_start, value: 0 }
    }

    /// Returns where the entries end.
    #[inline]
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// Returns where the entry of a restart begins; the end of all entries for the one past the last.
    #[inline]
    pub fn restart(&self, index: usize) -> Start {
        let at = RESTART_LEN_BYTES * index;
        let Some(bytes) = self.restarts.get(at..).and_then(|rest| rest.first_chunk::<RESTART_LEN_BYTES>())
        else {
            return Start { entry: self.bytes.len(), value: self.entries_start };
        };
        let word = u64::from_le_bytes(*bytes);
        Start { entry: (word & u64::from(u32::MAX)) as usize, value: (word >> 32) as usize }
    }

    /// Reads the entry at `start`.
    #[inline]
    pub fn entry(&self, start: Start) -> Result<Entry, Damaged> {
        self.decode(start).ok_or(Damaged("an entry reaches past its block"))
    }

    /// Reads the entry of a restart, whose suffix is the whole user key.
    #[inline]
    pub fn restart_entry(&self, index: usize) -> Result<Entry, Damaged> {
        let entry = self.entry(self.restart(index))?;
        if entry.shared != 0 {
            return Err(Damaged("a restart does not hold a whole key"));
        }
        Ok(entry)
    }

    /// Returns the part of an entry's user key that it does not share.
    #[inline]
    pub fn suffix(&self, entry: &Entry) -> &'a [u8] {
        &self.bytes[entry.suffix_start..entry.suffix_end]
    }

    /// Returns an entry's tag.
    #[inline]
    pub fn tag(&self, entry: &Entry) -> Tag {
        let bytes = self.bytes[entry.suffix_end..].first_chunk::<TAG_LEN_BYTES>();
        Tag::from_raw(u64::from_le_bytes(*bytes.expect("decode found space for it")))
    }

    /// Returns an entry's value.
    #[inline]
    pub fn value(&self, entry: &Entry) -> &'a [u8] {
        &self.bytes[entry.value_start..entry.value_end]
    }

    /// Counts the restarts whose keys come before `target`.
    #[inline]
    pub fn restarts_before(&self, target: InternalKey<'_>, order: &KeyOrder) -> Result<usize, Damaged> {
        let (mut lower, mut upper) = (0, self.restarts_count());
        while lower < upper {
            let middle = lower.midpoint(upper);
            let entry = self.restart_entry(middle)?;
            let key = InternalKey::new(self.suffix(&entry), self.tag(&entry));
            if key.compare(&target, order) == Ordering::Less {
                lower = middle + 1;
            } else {
                upper = middle;
            }
        }
        Ok(lower)
    }

    /// Finds the first entry at or after `target` if it has the same user key. Builds no key.
    ///
    /// Equal keys are byte-equal whatever the order is, so the scan between two restarts needs no order:
    /// `matched` is how many bytes of the wanted key the last entry began with. An entry that shares more
    /// than that repeats the byte which did not match; one that shares less or as much has its suffix
    /// compared from `shared` on.
    #[inline]
    pub fn find(&self, target: InternalKey<'_>, order: &KeyOrder) -> Result<Option<Entry>, Damaged> {
        let wanted = target.user_key;
        let before = self.restarts_before(target, order)?;
        if before > 0 {
            let (mut start, end) = (self.restart(before - 1), self.restart(before).entry);
            let mut matched = 0;
            while start.entry < end {
                let entry = self.entry(start)?;
                start = entry.next();
                if entry.shared > matched {
                    continue;
                }
                let (suffix, rest) = (self.suffix(&entry), &wanted[entry.shared..]);
                matched = entry.shared;
                if suffix.first() != rest.first() {
                    continue;
                }
                let common = common_prefix_len(suffix, rest);
                matched += common;
                let is_wanted = matched == wanted.len() && common == suffix.len();
                if is_wanted && self.tag(&entry) <= target.tag {
                    return Ok(Some(entry));
                }
            }
        }
        if before == self.restarts_count() {
            return Ok(None);
        }
        let entry = self.restart_entry(before)?;
        Ok((self.suffix(&entry) == wanted).then_some(entry))
    }

    #[inline]
    fn decode(&self, start: Start) -> Option<Entry> {
        let bytes = self.bytes.get(start.entry..)?;
        let (shared, unshared, value_len, head_len) = match bytes.first_chunk::<3>()? {
            &[shared, unshared, value_len] if (shared | unshared | value_len) < 0x80 => {
                (usize::from(shared), usize::from(unshared), usize::from(value_len), 3)
            }
            _ => decode_long_head(bytes)?,
        };
        let suffix_start = start.entry + head_len;
        let suffix_end = suffix_start.checked_add(unshared)?;
        let value_end = start.value.checked_add(value_len)?;
        if value_end > self.entries_start || suffix_end.checked_add(TAG_LEN_BYTES)? > self.bytes.len() {
            return None;
        }
        Some(Entry { shared, suffix_start, suffix_end, value_start: start.value, value_end })
    }
}

/// Reads lengths that take more than one byte each. Only such can add up to a key over its limit.
#[cold]
fn decode_long_head(bytes: &[u8]) -> Option<(usize, usize, usize, usize)> {
    let mut rest = bytes;
    let mut take = || Some(varint::take_u32(&mut rest)? as usize);
    let (shared, unshared, value_len) = (take()?, take()?, take()?);
    let is_key = shared.checked_add(unshared).is_some_and(|len| len <= KEY_LEN_BYTES_MAX);
    is_key.then_some((shared, unshared, value_len, bytes.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn common_prefix_is_counted(common: Vec<u8>, a: Vec<u8>, b: Vec<u8>) {
            let (a, b) = ([&common[..], &a].concat(), [&common[..], &b].concat());
            let expected = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
            prop_assert_eq!(common_prefix_len(&a, &b), expected);
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes: Vec<u8>, key: Vec<u8>, raw_tag: u64) {
            let target = InternalKey::new(&key, Tag::from_raw(raw_tag));
            if let Ok(view) = BlockView::parse(&bytes) {
                let _ = view.find(target, &KeyOrder::Bytewise);
            }
        }
    }
}
