//! Blocks of sorted entries: how they are written, and how one key is found in them.
//!
//! Data blocks and index blocks have one layout. Keys leave out what they share with the key before; every
//! sixteenth is whole, a *restart*, and the restarts' offsets at the end allow a binary search.
//!
//! ```text
//! block   := entry* restart_offset(u32 LE)* restarts_count(u32 LE)
//! entry   := shared(varint) unshared(varint) value_len(varint) key[unshared] tag(u64 LE) value[value_len]
//! ```
//!
//! `shared` counts bytes of the user key only; the tag is never shortened, so that versions of one key cost
//! eleven bytes each and comparing needs no unpacking.
//!
//! [`BlockView::find`] searches for one key without building any: it carries along how much of the wanted
//! key the last entry matched, which `shared` alone tells how to continue.
//!
//! Bytes are checked as they are read. What does not parse is [`Damaged`], which the table turns into
//! corruption with file and offset. That the entries are in order is not checked here but by
//! `verify` (the checksum vouches for it).

use crate::base::comparator::KeyOrder;
use crate::base::key::{InternalKey, TAG_LEN_BYTES, Tag};
use crate::format::varint;
use std::cmp::Ordering;

/// Entries from one whole key to the next.
pub const RESTART_INTERVAL_COUNT: usize = 16;

/// What is wrong with a block whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

/// Returns how many bytes `a` and `b` have in common at their front.
#[inline]
pub fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    let mut len = 0;
    let words = a.chunks_exact(8).zip(b.chunks_exact(8));
    for (x, y) in words {
        let x = u64::from_le_bytes(x.try_into().expect("chunks of 8"));
        let y = u64::from_le_bytes(y.try_into().expect("chunks of 8"));
        if x != y {
            return len + ((x ^ y).trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    len + a[len..].iter().zip(&b[len..]).take_while(|(x, y)| x == y).count()
}

/// Builds one block after another.
#[derive(Default)]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
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
        self.bytes.len() + 4 * (self.restarts.len() + 1)
    }

    /// Appends an entry, whose user key shares `shared` bytes with that of the entry added before.
    #[inline]
    pub fn add(&mut self, key: InternalKey<'_>, shared: usize, value: &[u8]) {
        let shared = if self.entries_count.is_multiple_of(RESTART_INTERVAL_COUNT) {
            self.restarts.push(len_u32(self.bytes.len()));
            0
        } else {
            shared
        };
        let suffix = &key.user_key[shared..];
        let lens = [shared, suffix.len(), value.len()];
        if lens.iter().all(|&len| len < 0x80) {
            #[expect(clippy::cast_possible_truncation, reason = "each is below 128")]
            self.bytes.extend_from_slice(&lens.map(|len| len as u8));
        } else {
            for len in lens {
                varint::write_u32(&mut self.bytes, len_u32(len));
            }
        }
        self.bytes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(&key.tag.raw().to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.entries_count += 1;
    }

    /// Ends the block and returns its bytes; [`BlockBuilder::clear`] starts the next.
    pub fn finish(&mut self) -> &[u8] {
        assert!(!self.is_empty(), "a block holds at least one entry");
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        self.bytes.extend_from_slice(&len_u32(self.restarts.len()).to_le_bytes());
        &self.bytes
    }

    /// Forgets every entry but keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.restarts.clear();
        self.entries_count = 0;
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("limits.rs keeps blocks below 4 GiB")
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
    /// The version.
    pub tag: Tag,
    /// Where the value begins.
    pub value_start: usize,
    /// Where the value ends, and the next entry begins.
    pub value_end: usize,
}

/// A block's bytes, split into entries and restarts.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    /// The entries.
    pub entries: &'a [u8],
    restarts: &'a [u8],
}

impl<'a> BlockView<'a> {
    /// Splits a block.
    #[inline]
    pub fn parse(block: &'a [u8]) -> Result<BlockView<'a>, Damaged> {
        const SHORT: Damaged = Damaged("a block is shorter than its list of restarts");
        let (rest, count) = block.split_last_chunk::<4>().ok_or(SHORT)?;
        let restarts_len = (u32::from_le_bytes(*count) as usize).checked_mul(4).ok_or(SHORT)?;
        let entries_len = rest.len().checked_sub(restarts_len).ok_or(SHORT)?;
        if restarts_len == 0 || entries_len == 0 {
            return Err(Damaged("a block without entries"));
        }
        let (entries, restarts) = rest.split_at(entries_len);
        Ok(BlockView { entries, restarts })
    }

    /// Returns how many keys are whole; at least one.
    #[inline]
    pub fn restarts_count(&self) -> usize {
        self.restarts.len() / 4
    }

    /// Returns where the entry of a restart begins; the end of all entries for the one past the last.
    #[inline]
    pub fn restart(&self, index: usize) -> usize {
        match self.restarts.get(4 * index..4 * index + 4) {
            Some(offset) => u32::from_le_bytes(offset.try_into().expect("four bytes")) as usize,
            None => self.entries.len(),
        }
    }

    /// Reads the entry at `at`.
    #[inline]
    pub fn entry(&self, at: usize) -> Result<Entry, Damaged> {
        decode(self.entries, at).ok_or(Damaged("an entry reaches past its block"))
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
        &self.entries[entry.suffix_start..entry.suffix_end]
    }

    /// Counts the restarts whose keys come before `target`.
    #[inline]
    pub fn restarts_before(&self, target: InternalKey<'_>, order: &KeyOrder) -> Result<usize, Damaged> {
        let (mut lower, mut upper) = (0, self.restarts_count());
        while lower < upper {
            let middle = lower.midpoint(upper);
            let entry = self.restart_entry(middle)?;
            let key = InternalKey::new(self.suffix(&entry), entry.tag);
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
            let (mut at, end) = (self.restart(before - 1), self.restart(before));
            let mut matched = 0;
            while at < end {
                let entry = self.entry(at)?;
                at = entry.value_end;
                if entry.shared > matched {
                    continue;
                }
                let suffix = self.suffix(&entry);
                let rest = &wanted[entry.shared..];
                if suffix.len() == rest.len() && suffix == rest {
                    if entry.tag <= target.tag {
                        return Ok(Some(entry));
                    }
                    matched = wanted.len();
                } else {
                    matched = entry.shared + common_prefix_len(suffix, rest);
                }
            }
        }
        if before == self.restarts_count() {
            return Ok(None);
        }
        let entry = self.restart_entry(before)?;
        Ok((self.suffix(&entry) == wanted).then_some(entry))
    }
}

#[inline]
fn decode(entries: &[u8], at: usize) -> Option<Entry> {
    let bytes = entries.get(at..)?;
    let (shared, unshared, value_len, head_len) = match bytes.first_chunk::<3>()? {
        &[shared, unshared, value_len] if (shared | unshared | value_len) < 0x80 => {
            (usize::from(shared), usize::from(unshared), usize::from(value_len), 3)
        }
        _ => decode_long_head(bytes)?,
    };
    let suffix_start = at + head_len;
    let suffix_end = suffix_start.checked_add(unshared)?;
    let value_start = suffix_end.checked_add(TAG_LEN_BYTES)?;
    let value_end = value_start.checked_add(value_len)?;
    if value_end > entries.len() {
        return None;
    }
    let tag = entries[suffix_end..].first_chunk::<TAG_LEN_BYTES>()?;
    let tag = Tag::from_raw(u64::from_le_bytes(*tag));
    Some(Entry { shared, suffix_start, suffix_end, tag, value_start, value_end })
}

#[cold]
fn decode_long_head(bytes: &[u8]) -> Option<(usize, usize, usize, usize)> {
    let mut rest = bytes;
    let mut take = || Some(varint::take_u32(&mut rest)? as usize);
    let (shared, unshared, value_len) = (take()?, take()?, take()?);
    Some((shared, unshared, value_len, bytes.len() - rest.len()))
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
