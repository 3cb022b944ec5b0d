//! One WAL segment being written.
//!
//! Records are added, then handed to the system, then synced: each durability stops at one of these steps.
//! Records of the weakest durability wait in memory, and go out in front of the next stronger one, so that the
//! log never has a hole.
//!
//! Records enter as a [`Group`], whole or not at all: everything that is to be handed over goes out in *one* append,
//! and if that fails, writer and numbers are as they were when the group began. What the file holds behind
//! [`WalWriter::good_len`] is then unknown (any prefix of the append), so the segment takes nothing more. Its end is
//! stated by [`WalWriter::abandon`] in the header of a successor, and what it still holds back goes into that with
//! [`WalWriter::take_over`].
//!
//! Space is reserved ahead of the end in steps that grow with the segment. That is best effort: a disk that has none to
//! reserve may still take the append.

use crate::base::error::{Error, Result};
use crate::base::ids::FileNumber;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::format::batch::open_record;
use crate::format::frame::{FrameKind, FrameWriter, frame_len, seal_frame};
use crate::format::names::FileName;
use crate::vfs::Vfs;
use crate::wal::group::Group;
use crate::wal::segment::Segment;
use crate::wal::{Predecessor, encode_header};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// The open segment.
pub struct WalWriter {
    log: FrameWriter,
    segment: Arc<Segment>,
    /// Frames added, but not yet handed to the system, side by side; long ones are left out.
    held: Vec<u8>,
    /// How many frames these are.
    held_count: u64,
    /// The long frames among them, which only the group at hand has.
    long: Vec<LongFrame>,
    held_len_max: usize,
    ahead: Ahead,
    /// The last number that was handed over without an error.
    good_seq: SeqNum,
    last_seq: SeqNum,
    /// Why the segment takes nothing more.
    failure: Option<Error>,
}

/// A frame that is too long to be copied.
#[derive(Clone, Copy)]
struct LongFrame {
    /// How many held bytes stand before it.
    held_len_before: usize,
    len: usize,
}

/// What was reserved behind the end of the log.
struct Ahead {
    /// Up to where; what could not be reserved counts too, or each append would ask for it again.
    asked_len: u64,
    step_len_max: u64,
}

impl WalWriter {
    /// Creates segment `number`, durable in bytes and name when this returns.
    ///
    /// `allocate_len_max` is how many bytes are reserved ahead at most, 0 for none. Nothing is reserved yet.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the file may exist and must not be used.
    pub fn create(
        vfs: &dyn Vfs,
        directory: &Path,
        number: FileNumber,
        predecessor: Option<Predecessor>,
        allocate_len_max: u64,
    ) -> Result<WalWriter> {
        let path = FileName::Wal(number).path(directory);
        let segment = Arc::new(Segment::new(number, path.clone()));
        let mut log = FrameWriter::new(vfs.create_new(&path)?, path, number);
        log.append(FrameKind::Header, &encode_header(predecessor))?;
        log.sync()?;
        vfs.sync_dir(directory)?;
        let len = log.len();
        let last_seq = predecessor.map_or(SeqNum::ZERO, |before| before.last_seq);
        segment.note_handed(len);
        segment.sync(len, || Ok(()))?;
        Ok(WalWriter {
            log,
            segment,
            held: Vec::new(),
            held_count: 0,
            long: Vec::new(),
            held_len_max: limits::WAL_HELD_BACK_LEN_BYTES_MAX,
            ahead: Ahead { asked_len: len, step_len_max: allocate_len_max },
            good_seq: last_seq,
            last_seq,
            failure: None,
        })
    }

    /// Lowers how many bytes are held back, and how long a record is copied at most, so that small databases meet these
    /// limits too.
    #[must_use]
    pub fn with_held_len_max(mut self, len_bytes: usize) -> WalWriter {
        self.held_len_max = len_bytes.min(limits::WAL_HELD_BACK_LEN_BYTES_MAX);
        self
    }

    /// Begins a group of records.
    ///
    /// # Errors
    /// The failure after which the segment takes nothing more.
    pub fn begin(&mut self) -> Result<Group<'_>> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        // What the background has synced is proven by the frames that follow, and not written again at an opening.
        self.log.note_synced(self.segment.synced_len());
        Ok(Group::new(self))
    }

    /// Adds one record as a group of its own, and hands over what is held when that has become much. How recovery
    /// writes records again; their numbers only have to ascend.
    ///
    /// # Errors
    /// As [`Group::hand_over`].
    ///
    /// # Panics
    /// If the numbers do not follow those before.
    pub fn add(&mut self, frame: &mut [u8], first_seq: SeqNum, last_seq: SeqNum) -> Result<()> {
        let mut group = self.begin()?;
        group.add(frame, first_seq, last_seq);
        if group.is_holding_much() {
            return group.hand_over([&*frame]);
        }
        group.hold();
        Ok(())
    }

    /// Hands everything added to the system in one append: it survives this process.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the segment ends at [`WalWriter::good_len`] and takes nothing more. What was held back still is.
    pub fn hand_over(&mut self) -> Result<()> {
        self.begin()?.hand_over([])
    }

    /// Makes every record added so far durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing is known about what was not durable before; the segment takes nothing more.
    pub fn sync(&mut self) -> Result<()> {
        self.begin()?.sync([])
    }

    /// Marks the segment as closed in good order, durably, and gives back what was reserved.
    ///
    /// # Errors
    /// As [`WalWriter::sync`].
    pub fn finish(&mut self) -> Result<()> {
        self.sync()?;
        self.log.append(FrameKind::End, &[]).inspect_err(|error| self.failure = Some(error.clone()))?;
        self.trim();
        self.sync_log()
    }

    /// Gives back what was reserved behind the end, for a segment that takes nothing more. What cannot be given back
    /// now goes with the file.
    pub fn trim(&mut self) {
        if self.log.trim().is_ok() {
            self.segment.note_reserved(0);
        }
        self.ahead.asked_len = self.log.len();
    }

    /// Gives the segment up after an append failed: makes durable what was appended before and states its end. Records
    /// that the failed append should have taken never happened; what was held back before still is, for
    /// [`WalWriter::take_over`]. May be called again if the successor could not be made.
    ///
    /// # Errors
    /// As [`WalWriter::sync`], which is final.
    pub fn abandon(&mut self) -> Result<Predecessor> {
        self.sync_log()?;
        Ok(Predecessor { number: self.log.number(), good_len: self.good_len(), last_seq: self.good_seq })
    }

    /// Takes over what `abandoned` holds back: commits that asked for no durability and that readers see. They are held
    /// back here as they were there, under the same numbers. Does no I/O; call it once the manifest names this segment
    /// and before any record enters it.
    ///
    /// # Panics
    /// If this segment does not follow the good end of `abandoned`, or has a record.
    pub fn take_over(&mut self, abandoned: &WalWriter) {
        assert!(self.held.is_empty(), "a successor begins with what its predecessor held back");
        assert!(self.held_len_max >= abandoned.held_len_max, "a successor holds back as much");
        assert!(self.last_seq == abandoned.good_seq, "a successor continues at its predecessor's good end");
        let mut rest = &abandoned.held[..];
        while !rest.is_empty() {
            let len = frame_len(rest).expect("whole frames are held back");
            // Frames are bound to file and offset, so each is sealed anew.
            let mut frame = rest[..len].to_vec();
            rest = &rest[len..];
            let (header, _) = open_record(&frame).expect("only records of our own are held back");
            self.add_frame(&mut frame, header.first_seq, header.last_seq());
        }
        assert!(self.last_seq == abandoned.last_seq, "nothing that was held back is lost");
    }

    /// States this segment's end for its successor's header.
    ///
    /// # Panics
    /// If something is not durable.
    pub fn as_predecessor(&self) -> Predecessor {
        assert!(self.held.is_empty(), "a successor may start only when nothing is held back");
        assert_eq!(self.log.synced_len(), self.good_len(), "a successor may start only when all is durable");
        Predecessor { number: self.log.number(), good_len: self.good_len(), last_seq: self.last_seq }
    }

    /// Returns the logical length with what is held back.
    pub fn len(&self) -> u64 {
        self.log.len() + self.pending_len()
    }

    /// Returns how many records wait in memory to be handed to the system.
    pub fn held_count(&self) -> u64 {
        self.held_count
    }

    /// Returns how many bytes these are.
    pub fn held_len_bytes(&self) -> u64 {
        self.held.len() as u64
    }

    /// Tells whether the segment has no record yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many bytes hold what was appended without an error.
    pub fn good_len(&self) -> u64 {
        self.log.len()
    }

    /// Returns what the background may do with the segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Returns the failure after which the segment takes nothing more.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
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

/// What a [`Group`] does.
impl WalWriter {
    /// Returns where the writer stands, for [`WalWriter::put_back`].
    pub(in crate::wal) fn mark(&self) -> Mark {
        assert!(self.long.is_empty(), "long frames leave with their group");
        Mark { held_len: self.held.len(), held_count: self.held_count, last_seq: self.last_seq }
    }

    /// Forgets what was added since `mark` and was not handed over.
    pub(in crate::wal) fn put_back(&mut self, mark: Mark) {
        self.held.truncate(mark.held_len);
        self.held_count = mark.held_count;
        self.long.clear();
        self.last_seq = mark.last_seq;
    }

    /// Seals a record behind all others.
    pub(in crate::wal) fn add_frame(&mut self, frame: &mut [u8], first_seq: SeqNum, last_seq: SeqNum) {
        assert!(first_seq > self.last_seq, "records enter the log in the order of their numbers");
        assert!(last_seq >= first_seq, "a record has at least one operation");
        seal_frame(frame, FrameKind::Record, self.log.place(self.pending_len()));
        self.last_seq = last_seq;
        if frame.len() > self.held_len_max {
            self.long.push(LongFrame { held_len_before: self.held.len(), len: frame.len() });
        } else {
            self.held.extend_from_slice(frame);
            self.held_count += 1;
        }
    }

    /// Tells whether so much is held back that it should be handed over; a long frame always is.
    pub(in crate::wal) fn is_holding_much(&self) -> bool {
        !self.long.is_empty() || self.held.len() > self.held_len_max
    }

    /// Appends all that was added. `frames` are the group's, in their order; the long ones among them are needed.
    pub(in crate::wal) fn append<'f>(&mut self, frames: impl IntoIterator<Item = &'f [u8]>) -> Result<()> {
        if self.pending_len() == 0 {
            return Ok(());
        }
        self.reserve(self.len());
        let appended = if self.long.is_empty() {
            self.log.append_sealed(&[IoSlice::new(&self.held)])
        } else {
            let long_frames = frames.into_iter().filter(|frame| frame.len() > self.held_len_max);
            let parts = interleave(&self.held, &self.long, long_frames);
            self.log.append_sealed(&parts)
        };
        appended.inspect_err(|error| self.failure = Some(error.clone()))?;
        self.long.clear();
        self.held.clear();
        self.held_count = 0;
        self.held.shrink_to(self.held_len_max);
        self.good_seq = self.last_seq;
        self.segment.note_handed(self.good_len());
        Ok(())
    }

    /// Syncs what was handed over.
    pub(in crate::wal) fn sync_handed(&mut self) -> Result<()> {
        if self.log.synced_len() < self.log.len() {
            self.sync_log()?;
        }
        assert_eq!(self.log.synced_len(), self.good_len(), "a sync covers all that was handed over");
        Ok(())
    }

    fn sync_log(&mut self) -> Result<()> {
        let WalWriter { log, segment, .. } = self;
        let synced = segment.sync(log.len(), || log.sync());
        synced.inspect_err(|error| self.failure = Some(error.clone()))
    }

    /// Bytes that were added and not yet handed over.
    fn pending_len(&self) -> u64 {
        let long_len: usize = self.long.iter().map(|long| long.len).sum();
        (self.held.len() + long_len) as u64
    }

    /// Reserves space up to `end_len` and some ahead, unless it was asked for already.
    fn reserve(&mut self, end_len: u64) {
        let Ahead { asked_len, step_len_max } = &mut self.ahead;
        if end_len <= *asked_len || *step_len_max == 0 {
            return;
        }
        let step_len_min = limits::WAL_ALLOCATE_LEN_BYTES_MIN.min(*step_len_max);
        *asked_len = end_len.saturating_add((end_len / 4).clamp(step_len_min, *step_len_max));
        // A disk that is too full for this much, or cannot reserve, may still take the append, which tells if not.
        if self.log.allocate(*asked_len).is_ok() {
            self.segment.note_reserved(self.log.allocated_len());
        }
    }
}

/// Where a writer stood before something was added.
#[derive(Clone, Copy)]
pub(in crate::wal) struct Mark {
    held_len: usize,
    held_count: u64,
    last_seq: SeqNum,
}

/// Puts long frames between the held bytes where they belong.
fn interleave<'p, 'f: 'p>(
    held: &'p [u8],
    long: &[LongFrame],
    mut frames: impl Iterator<Item = &'f [u8]>,
) -> Vec<IoSlice<'p>> {
    let mut parts = Vec::with_capacity(2 * long.len() + 1);
    let mut held_start = 0;
    for place in long {
        let frame = frames.next().expect("the group's own frames are handed over");
        assert!(frame.len() == place.len, "the group's frames come in their order");
        parts.push(IoSlice::new(&held[held_start..place.held_len_before]));
        parts.push(IoSlice::new(frame));
        held_start = place.held_len_before;
    }
    assert!(frames.next().is_none(), "every long frame of the group was added");
    parts.push(IoSlice::new(&held[held_start..]));
    parts.retain(|part| !part.is_empty());
    parts
}
