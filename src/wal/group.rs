//! Records that enter the log together or not at all.

use crate::base::error::Result;
use crate::base::seq::SeqNum;
use crate::wal::writer::{Mark, WalWriter};

/// A group of records on its way into a segment.
///
/// Ends with [`Group::hold`], [`Group::hand_over`] or [`Group::sync`]. If it ends in another way, or they fail to
/// append, the writer is as it was before: what was held back still is, and the numbers are free.
#[must_use = "a group that is only dropped never was"]
pub struct Group<'a> {
    wal: &'a mut WalWriter,
    /// Where to go back to; none once the group is in the log.
    mark: Option<Mark>,
}

impl<'a> Group<'a> {
    pub(in crate::wal) fn new(wal: &'a mut WalWriter) -> Group<'a> {
        let mark = Some(wal.mark());
        Group { wal, mark }
    }

    /// Seals a record behind all others. A short one is copied; one that is too long for that is expected again when the
    /// group is handed over.
    ///
    /// # Panics
    /// If the numbers do not follow those before.
    pub fn add(&mut self, frame: &mut [u8], first_seq: SeqNum, last_seq: SeqNum) {
        self.wal.add_frame(frame, first_seq, last_seq);
    }

    /// Tells whether so much is held back that the group should be handed over.
    pub fn is_holding_much(&self) -> bool {
        self.wal.is_holding_much()
    }

    /// Leaves the records in memory, until a later group or sync takes them along.
    ///
    /// # Panics
    /// If [`Group::is_holding_much`]: a long record is nowhere but with its owner.
    pub fn hold(mut self) {
        assert!(!self.wal.is_holding_much(), "much is handed over");
        self.mark = None;
    }

    /// Hands everything to the system in one append: it survives this process. `frames` are those that were added, in
    /// their order.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the segment takes nothing more, and the writer is as it was before the group.
    pub fn hand_over<'f>(mut self, frames: impl IntoIterator<Item = &'f [u8]>) -> Result<()> {
        self.append(frames)
    }

    /// Makes everything durable. `frames` as in [`Group::hand_over`].
    ///
    /// # Errors
    /// As [`Group::hand_over`] if nothing could be appended. If the sync failed, nobody knows what of the log is durable,
    /// and nobody ever will in this incarnation.
    pub fn sync<'f>(mut self, frames: impl IntoIterator<Item = &'f [u8]>) -> Result<()> {
        self.append(frames)?;
        self.wal.sync_handed()
    }

    fn append<'f>(&mut self, frames: impl IntoIterator<Item = &'f [u8]>) -> Result<()> {
        self.wal.append(frames)?;
        self.mark = None;
        Ok(())
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if let Some(mark) = self.mark.take() {
            self.wal.put_back(mark);
        }
    }
}
