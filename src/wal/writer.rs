//! One WAL segment being written.
//!
//! Records are added, then handed to the system, then synced: each durability stops at one of these steps.
//! Records of the weakest durability wait in memory, and go out in front of the next stronger one, so that the
//! log never has a hole.

use crate::base::error::Result;
use crate::base::ids::FileNumber;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::format::batch::open_record;
use crate::format::frame::{FrameKind, FrameWriter, seal_frame};
use crate::format::names::FileName;
use crate::vfs::Vfs;
use crate::wal::{Predecessor, encode_header};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// The open segment.
pub struct WalWriter {
    log: FrameWriter,
    /// Added, but not yet handed to the system.
    held: Vec<Arc<Vec<u8>>>,
    held_len_bytes: u64,
    /// How many bytes the file was extended to; never less than what was handed over.
    allocated_len: u64,
    allocate_step: u64,
    /// The end of the last append that succeeded.
    good_len: u64,
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
        let mut log = FrameWriter::new(vfs.create_new(&path)?, path, number);
        log.allocate(allocate_step)?;
        log.append(FrameKind::Header, &encode_header(predecessor))?;
        log.sync()?;
        vfs.sync_dir(directory)?;
        let good_len = log.len();
        Ok(WalWriter {
            log,
            held: Vec::new(),
            held_len_bytes: 0,
            allocated_len: allocate_step,
            allocate_step,
            good_len,
            last_seq: predecessor.map_or(SeqNum::ZERO, |before| before.last_seq),
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

    /// Adds a record behind all others, still in memory only, and returns its final bytes.
    ///
    /// # Panics
    /// If the numbers do not follow those before.
    pub fn add(&mut self, mut frame: Vec<u8>, first_seq: SeqNum, last_seq: SeqNum) -> Arc<Vec<u8>> {
        assert!(first_seq > self.last_seq, "records enter the log in the order of their numbers");
        assert!(last_seq >= first_seq, "a record has at least one operation");
        seal_frame(&mut frame, FrameKind::Record, self.log.place(self.held_len_bytes));
        self.held_len_bytes += frame.len() as u64;
        self.last_seq = last_seq;
        let frame = Arc::new(frame);
        self.held.push(Arc::clone(&frame));
        frame
    }

    /// Tells whether so much is held back that it should be handed over.
    pub fn is_holding_much(&self) -> bool {
        self.held_len_bytes > limits::WAL_HELD_BACK_LEN_BYTES_MAX as u64
    }

    /// Hands everything added to the system in one append: it survives this process.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the segment ends at [`WalWriter::good_len`] and takes nothing more.
    pub fn hand_over(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        if let [frame] = self.held.as_slice() {
            self.log.append_sealed(&[IoSlice::new(frame)])?;
        } else {
            let parts: Vec<IoSlice<'_>> = self.held.iter().map(|frame| IoSlice::new(frame)).collect();
            self.log.append_sealed(&parts)?;
        }
        self.held.clear();
        self.held_len_bytes = 0;
        self.good_len = self.log.len();
        Ok(())
    }

    /// Makes every record added so far durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing is known about what was not durable before; the segment takes nothing more.
    pub fn sync(&mut self) -> Result<()> {
        self.hand_over()?;
        if self.log.synced_len() < self.log.len() {
            self.log.sync()?;
        }
        assert_eq!(self.log.synced_len(), self.good_len, "a sync covers all that was handed over");
        Ok(())
    }

    /// Marks the segment as closed in good order, durably.
    ///
    /// # Errors
    /// As [`WalWriter::sync`].
    pub fn finish(&mut self) -> Result<()> {
        self.sync()?;
        self.log.append(FrameKind::End, &[])?;
        self.log.sync()?;
        self.good_len = self.log.len();
        Ok(())
    }

    /// Gives the segment up after an append failed for lack of space: makes durable what was appended before and
    /// states its end. Records that the failed append should have taken never happened.
    ///
    /// # Errors
    /// As [`WalWriter::sync`].
    pub fn abandon(&mut self) -> Result<Predecessor> {
        if let Some(first) = self.held.first() {
            let (header, _) = open_record(first).expect("a record of our own");
            self.last_seq = SeqNum::new(header.first_seq.get() - 1);
        }
        self.held.clear();
        self.held_len_bytes = 0;
        self.log.sync()?;
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
        self.log.len() + self.held_len_bytes
    }

    /// Tells whether the segment has no record yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many bytes hold what was appended without an error.
    pub fn good_len(&self) -> u64 {
        self.good_len
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
