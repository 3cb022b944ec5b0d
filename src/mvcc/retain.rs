//! May this entry be dropped?
//!
//! A merge shows the entries of one key newest first. Live snapshots cut the sequence into stretches; of the
//! entries in one stretch only the newest can ever be seen, so the others go (INV-3). A delete with nothing of its
//! key below it, neither in the merge nor elsewhere, hides nothing and goes too (INV-4), whatever snapshots live:
//! below it they find nothing either way. Whether something below stays is known only when the merge has shown it,
//! so such a delete waits for the next entry of its key that is kept.
//!
//! Whatever is kept although the newest reader does not need it has a reason, which [`Kept`] notes for the table it
//! goes into: only when that reason is gone is it worth reading the table again.
//!
//! An entry of a kind that this version does not know is an error: what it means for the entries below, nobody
//! here can say. Expiry is not judged here yet: an entry with one is kept like any other.

use crate::base::error::Result;
use crate::base::key::{Kind, Tag};
use crate::base::seq::SeqNum;
use crate::mvcc::visible::unknown_kind;
use std::collections::BTreeSet;

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep(Reason),
    /// It stays for a reason if an older entry of its key does, and is written before that one. A delete.
    Wait(Reason),
    /// It goes.
    Drop,
}

/// Why an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is what a reader of now sees.
    Newest,
    /// It is a delete, and an older entry of its key may lie deeper.
    Deeper,
    /// It is an older version, or a delete between two that stay, and this snapshot sees it.
    Snapshot(SeqNum),
}

/// Decides entry by entry, in the order of a merge.
#[derive(Debug)]
pub struct Retention<'a> {
    /// Live snapshots, ascending.
    snapshots: &'a [SeqNum],
    /// The stretch of the entry before, of the same key; `None` at a new key.
    stretch: Option<usize>,
}

impl<'a> Retention<'a> {
    /// Starts a merge while `snapshots` are live, which ascend. They are borrowed: a flush starts one of these for every
    /// keyspace.
    pub fn new(snapshots: &'a [SeqNum]) -> Retention<'a> {
        Retention { snapshots, stretch: None }
    }

    /// Says that the next entry is of another key.
    pub fn next_key(&mut self) {
        self.stretch = None;
    }

    /// Decides about the next entry of the current key. `is_bottom` asks whether no older entry of the key can lie
    /// outside the merge; it is asked only when the answer matters.
    ///
    /// # Errors
    /// `Incompatible` for an entry of a kind that this version cannot read.
    pub fn judge(&mut self, tag: Tag, is_bottom: impl FnOnce() -> bool) -> Result<Verdict> {
        let kind = tag.kind().filter(|kind| kind.is_supported()).ok_or_else(|| unknown_kind(tag))?;
        // Stretch i holds the numbers up to snapshot i and above snapshot i - 1; the last one has no end.
        let stretch = self.snapshots.partition_point(|&snapshot| snapshot < tag.seq());
        if self.stretch == Some(stretch) {
            return Ok(Verdict::Drop);
        }
        assert!(self.stretch.is_none_or(|before| stretch < before), "versions come newest first");
        let is_newest = self.stretch.is_none();
        self.stretch = Some(stretch);
        // An older version in the stretch without an end would be in the newest one's.
        let reason = if is_newest { Reason::Newest } else { Reason::Snapshot(self.snapshots[stretch]) };
        Ok(match kind {
            Kind::Delete if is_bottom() => Verdict::Wait(reason),
            Kind::Delete => Verdict::Keep(Reason::Deeper),
            _ => Verdict::Keep(reason),
        })
    }
}

/// Why the merge that wrote a table left in it what the newest reader does not need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Deletes that an older entry deeper down may have needed.
    for_deeper_count: u64,
    /// Snapshots for which old versions, and deletes above them, stayed. A set, since the versions of one key name them
    /// newest first and one key may have a version for every snapshot.
    for_snapshots: BTreeSet<SeqNum>,
    /// Up to this number, what lies above it has been asked what it hides in the table.
    shaded_seq: SeqNum,
}

impl Kept {
    /// Starts a table that is written with what lies above it, up to `shaded_seq`, taken into account.
    pub fn shaded(shaded_seq: SeqNum) -> Kept {
        Kept { shaded_seq, ..Kept::default() }
    }

    /// Notes why one entry stays.
    pub fn note(&mut self, reason: Reason) {
        match reason {
            Reason::Newest => {}
            Reason::Deeper => self.for_deeper_count += 1,
            Reason::Snapshot(seq) => drop(self.for_snapshots.insert(seq)),
        }
    }

    /// Returns how many deletes stayed because of what may lie deeper.
    pub fn for_deeper_count(&self) -> u64 {
        self.for_deeper_count
    }

    /// Returns up to which number what lies above has been asked what it hides in the table; zero if it was not.
    pub fn shaded_seq(&self) -> SeqNum {
        self.shaded_seq
    }

    /// Returns the snapshots for which something stayed, ascending.
    pub fn for_snapshots(&self) -> &BTreeSet<SeqNum> {
        &self.for_snapshots
    }
}

#[cfg(test)]
mod tests;
