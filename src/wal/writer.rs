//! One WAL segment being written.
//!
//! Records are added, then handed to the system, then synced: each durability stops at one of these steps.
//! Records of the weakest durability wait in memory, and go out in front of the next stronger one, so that the
//! log never has a hole.

use crate::base::error::Result;
use crate::base::ids::FileNumber;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::format::frame::{FrameKind, FrameWriter, seal_frame};
use crate::format::names::FileName;
use crate::vfs::Vfs;
use crate::wal::segment::Segment;
use crate::wal::{Predecessor, encode_header};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// The open segment.
pub struct WalWriter {
    log: FrameWriter,
    segment: Arc<Segment>,
    /// Frames added, but not yet handed to the system, side by side.
    held: Vec<u8>,
    /// How many bytes the file was extended to; never less than what was handed over.
    allocated_len: u64,
    allocate_step: u64,
    /// The end of the last append that succeeded.
    good_len: u64,
    /// The last number before `good_len`.
    good_seq: SeqNum,
    last_seq: SeqNum,
}

impl WalWriter {
    /// Creates segment `number`, durable in bytes and name when this returns.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the file may exist and must not be used.
    pub fn create(
        vfs: &dyn Vfs,
        directory: &Path,
        number: FileNumber,
        predecessor: Option<Predecessor>,
        allocate_step: u64,
    ) -> Result<WalWriter> {
        let path = FileName::Wal(number).path(directory);
        let segment = Arc::new(Segment::new(number, path.clone()));
        let mut log = FrameWriter::new(vfs.create_new(&path)?, path, number);
        log.allocate(allocate_step)?;
        log.append(FrameKind::Header, &encode_header(predecessor))?;
        log.sync()?;
        vfs.sync_dir(directory)?;
        let good_len = log.len();
        let last_seq = predecessor.map_or(SeqNum::ZERO, |before| before.last_seq);
        segment.note_handed(good_len);
        segment.sync(good_len, || Ok(()))?;
        Ok(WalWriter {
            log,
            segment,
            held: Vec::new(),
            allocated_len: allocate_step,
            allocate_step,
            good_len,
            good_seq: last_seq,
            last_seq,
        })
    }

    /// Makes sure that `len_bytes` more fit into what is allocated.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the segment stays usable.
    pub fn reserve(&mut self, len_bytes: u64) -> Result<()> {
        let needed = self.len() + len_bytes;
        if needed > self.allocated_len && self.allocate_step > 0 {
            let target = needed.next_multiple_of(self.allocate_step);
            self.log.allocate(target)?;
            self.allocated_len = target;
        }
        Ok(())
    }

    /// Seals a record behind all others. A short one stays in memory; one that is too long to be copied there goes to
    /// the system at once, with all before it.
    ///
    /// # Errors
    /// As [`WalWriter::hand_over`].
    ///
    /// # Panics
    /// If the numbers do not follow those before.
    pub fn add(&mut self, frame: &mut [u8], first_seq: SeqNum, last_seq: SeqNum) -> Result<()> {
        assert!(first_seq > self.last_seq, "records enter the log in the order of their numbers");
        assert!(last_seq >= first_seq, "a record has at least one operation");
        seal_frame(frame, FrameKind::Record, self.log.place(self.held.len() as u64));
        self.last_seq = last_seq;
        if frame.len() > limits::WAL_HELD_BACK_LEN_BYTES_MAX {
            return self.append(&[IoSlice::new(frame)]);
        }
        self.held.extend_from_slice(frame);
        Ok(())
    }

    /// Tells whether so much is held back that it should be handed over.
    pub fn is_holding_much(&self) -> bool {
        self.held.len() > limits::WAL_HELD_BACK_LEN_BYTES_MAX
    }

    /// Hands everything added to the system in one append: it survives this process.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the segment ends at [`WalWriter::good_len`] and takes nothing more.
    pub fn hand_over(&mut self) -> Result<()> {
        if self.held.is_empty() { Ok(()) } else { self.append(&[]) }
    }

    /// Appends what is held, and `more` behind it.
    fn append(&mut self, more: &[IoSlice<'_>]) -> Result<()> {
        match more {
            [] => self.log.append_sealed(&[IoSlice::new(&self.held)])?,
            _ => {
                let held = std::iter::once(IoSlice::new(&self.held)).filter(|held| !held.is_empty());
                let parts: Vec<IoSlice<'_>> = held.chain(more.iter().copied()).collect();
                self.log.append_sealed(&parts)?;
            }
        }
        self.held.clear();
        self.held.shrink_to(limits::WAL_HELD_BACK_LEN_BYTES_MAX);
        self.good_len = self.log.len();
        self.good_seq = self.last_seq;
        self.segment.note_handed(self.good_len);
        Ok(())
    }

    /// Makes every record added so far durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing is known about what was not durable before; the segment takes nothing more.
    pub fn sync(&mut self) -> Result<()> {
        self.hand_over()?;
        if self.log.synced_len() < self.log.len() {
            self.sync_log()?;
        }
        assert_eq!(self.log.synced_len(), self.good_len, "a sync covers all that was handed over");
        Ok(())
    }

    fn sync_log(&mut self) -> Result<()> {
        let WalWriter { log, segment, .. } = self;
        segment.sync(log.len(), || log.sync())
    }

    /// Marks the segment as closed in good order, durably.
    ///
    /// # Errors
    /// As [`WalWriter::sync`].
    pub fn finish(&mut self) -> Result<()> {
        self.sync()?;
        self.log.append(FrameKind::End, &[])?;
        self.sync_log()?;
        self.good_len = self.log.len();
        Ok(())
    }

    /// Gives the segment up after an append failed for lack of space: makes durable what was appended before and
    /// states its end. Records that the failed append should have taken never happened.
    ///
    /// # Errors
    /// As [`WalWriter::sync`].
    pub fn abandon(&mut self) -> Result<Predecessor> {
        self.last_seq = self.good_seq;
        self.held.clear();
        self.sync_log()?;
        Ok(Predecessor { number: self.log.number(), good_len: self.good_len, last_seq: self.last_seq })
    }

    /// States this segment's end for its successor's header.
    ///
    /// # Panics
    /// If something is not durable.
    pub fn as_predecessor(&self) -> Predecessor {
        assert!(self.held.is_empty(), "a successor may start only when nothing is held back");
        assert_eq!(self.log.synced_len(), self.good_len, "a successor may start only when all is durable");
        Predecessor { number: self.log.number(), good_len: self.good_len, last_seq: self.last_seq }
    }

    /// Returns the logical length with what is held back.
    pub fn len(&self) -> u64 {
        self.log.len() + self.held.len() as u64
    }

    /// Tells whether the segment has no record yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many bytes hold what was appended without an error.
    pub fn good_len(&self) -> u64 {
        self.good_len
    }

    /// Returns what the background may do with the segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Returns the segment's number.
    pub fn number(&self) -> FileNumber {
        self.log.number()
    }

    /// Returns the segment's path.
    pub fn path(&self) -> &Path {
        self.log.path()
    }
}
