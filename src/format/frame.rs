//! The framed log: what the WAL and the manifest are made of.
//!
//! A log is a row of frames, each with its checksum, its log's number and the log's *watermark* at the time:
//!
//! ```text
//!  0      4      8            15     16             24
//!  +------+------+-------------+------+--------------+-----------------+
//!  | crc  | len  | log number  | kind | synced bytes | payload (len)   |
//!  +------+------+-------------+------+--------------+-----------------+
//!   crc32 of the frame's offset and of everything behind the crc
//! ```
//!
//! - The number says that old bytes of another log are not frames of this one; the offset in the checksum says
//!   that a frame in the wrong place is none.
//! - The watermark says how many bytes of this log had been synced when the frame was written. It tells a torn
//!   tail from damage ([`judge`]): bytes below a watermark were acknowledged, so losing them is corruption.
//! - A zero where a frame would begin is the log's end: logs are allocated ahead with zeros.
//! - A frame whose checksum is right and whose kind is unknown was written by a newer version: `Incompatible`.
//!
//! A readable frame behind a hole proves nothing by itself, since unsynced sectors reach the disk in any order;
//! only its watermark does. Segments are never appended to or truncated after recovery.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::base::limits;
use crate::vfs::{ReadFile, WriteFile, read_full};
use std::io::IoSlice;
use std::path::{Path, PathBuf};

/// Bytes in front of each payload.
pub const FRAME_HEADER_LEN_BYTES: usize = 24;

const READ_WINDOW_LEN_BYTES: usize = 256 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The first frame of a log.
    Header = 1,
    /// A batch or a version edit.
    Record = 2,
    /// The log was closed in good order here.
    End = 3,
}

impl FrameKind {
    fn from_disk(code: u8) -> Option<FrameKind> {
        match code {
            1 => Some(FrameKind::Header),
            2 => Some(FrameKind::Record),
            3 => Some(FrameKind::End),
            _ => None,
        }
    }
}

/// Where a frame lies and what its log knows.
#[derive(Clone, Copy, Debug)]
pub struct FramePlace {
    /// The log's number.
    pub number: FileNumber,
    /// Where the frame begins.
    pub offset: u64,
    /// How many bytes of the log are known to be synced.
    pub synced_len: u64,
}

/// Fills in the header of `frame`, whose first [`FRAME_HEADER_LEN_BYTES`] are space for it.
///
/// # Panics
/// If the frame is shorter than its header or longer than the limit.
pub fn seal_frame(frame: &mut [u8], kind: FrameKind, place: FramePlace) {
    let payload_len =
        frame.len().checked_sub(FRAME_HEADER_LEN_BYTES).expect("a frame has space for its header");
    assert!(payload_len <= limits::FRAME_PAYLOAD_LEN_BYTES_MAX, "callers check sizes before they log");
    assert!(place.synced_len <= place.offset, "what follows cannot be synced before it is written");
    let len = u32::try_from(payload_len).expect("limits.rs keeps payloads below 4 GiB");
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    frame[8..16].copy_from_slice(&identity(place.number, kind).to_le_bytes());
    frame[16..24].copy_from_slice(&place.synced_len.to_le_bytes());
    let crc = checksum(place.offset, &frame[4..]);
    frame[0..4].copy_from_slice(&crc.to_le_bytes());
}

/// Returns how long the sealed frame is that begins `bytes`; `None` if they end before it does.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let payload_len = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let len = FRAME_HEADER_LEN_BYTES + payload_len as usize;
    (len <= bytes.len()).then_some(len)
}

/// Returns the number of the log that begins with `bytes`, by what they say; `None` if it does not begin with a header.
pub fn header_number(bytes: &[u8]) -> Option<FileNumber> {
    let identity = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    let is_header = identity >> 56 == FrameKind::Header as u64;
    FileNumber::from_disk(identity & ((1 << 56) - 1)).filter(|_| is_header)
}

/// Number and kind in one word: the number in the lower 7 bytes, the kind in the last.
fn identity(number: FileNumber, kind: FrameKind) -> u64 {
    assert!(number.0 < 1 << 56, "file numbers stay below 2^56");
    number.0 | (kind as u64) << 56
}

fn checksum(offset: u64, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

/// Appends frames to a log and knows how much of it is synced.
pub struct FrameWriter {
    file: Box<dyn WriteFile>,
    path: PathBuf,
    number: FileNumber,
    /// The end of the last append that succeeded; where the file ends after one that failed, nobody knows.
    len: u64,
    synced_len: u64,
    /// Why nothing more may be appended.
    failure: Option<Error>,
}

impl FrameWriter {
    /// Takes over an empty file.
    ///
    /// # Panics
    /// If something was appended to it.
    pub fn new(file: Box<dyn WriteFile>, path: PathBuf, number: FileNumber) -> FrameWriter {
        assert!(file.is_empty(), "a log is written from its first byte");
        FrameWriter { file, path, number, len: 0, synced_len: 0, failure: None }
    }

    /// Notes that the first `len` bytes were synced by another way: frames from now on say so.
    pub fn note_synced(&mut self, len: u64) {
        assert!(len <= self.len, "what is synced was written");
        self.synced_len = self.synced_len.max(len);
    }

    /// Returns the place of a frame that would begin `ahead` bytes behind the log's end.
    pub fn place(&self, ahead: u64) -> FramePlace {
        FramePlace { number: self.number, offset: self.len + ahead, synced_len: self.synced_len }
    }

    /// Appends frames that were sealed for exactly this place.
    ///
    /// # Errors
    /// As `WriteFile::append`; every later append fails with the same error.
    pub fn append_sealed(&mut self, frames: &[IoSlice<'_>]) -> Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.file.append(frames).inspect_err(|error| self.failure = Some(error.clone()))?;
        self.len += frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        assert!(self.file.len() == self.len, "only this writer appends to its file");
        Ok(())
    }

    /// Seals and appends one frame with `payload`.
    ///
    /// # Errors
    /// As [`FrameWriter::append_sealed`].
    pub fn append(&mut self, kind: FrameKind, payload: &[u8]) -> Result<()> {
        let mut frame = vec![0; FRAME_HEADER_LEN_BYTES];
        frame.extend_from_slice(payload);
        seal_frame(&mut frame, kind, self.place(0));
        self.append_sealed(&[IoSlice::new(&frame)])
    }

    /// Makes everything appended durable and raises the watermark. After an append that failed, it does so for what was
    /// appended before.
    ///
    /// # Errors
    /// As `WriteFile::sync`; nothing may be appended afterwards.
    pub fn sync(&mut self) -> Result<()> {
        let len = self.len;
        self.file.sync()?;
        self.synced_len = len;
        Ok(())
    }

    /// Reserves space as `WriteFile::allocate` does.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the log stays usable.
    pub fn allocate(&mut self, len: u64) -> Result<()> {
        self.file.allocate(len)
    }

    /// Returns the file's length with what is reserved, as `WriteFile::allocated_len` does.
    pub fn allocated_len(&self) -> u64 {
        self.file.allocated_len()
    }

    /// Gives back what was reserved behind the end, as `WriteFile::trim` does.
    ///
    /// # Errors
    /// `Io`; the log stays as it is.
    pub fn trim(&mut self) -> Result<()> {
        self.file.trim()
    }

    /// Returns the length in bytes of what was appended without an error.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns why nothing more may be appended, if an append failed.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Returns how many bytes are known to be durable.
    pub fn synced_len(&self) -> u64 {
        self.synced_len
    }

    /// Returns the log's number.
    pub fn number(&self) -> FileNumber {
        self.number
    }

    /// Returns the log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// One frame, read and checked.
#[derive(Debug)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// Where it begins.
    pub offset: u64,
    /// The watermark it states.
    pub synced_len: u64,
    /// The whole frame, header included.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// Returns what the frame carries.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_LEN_BYTES..]
    }

    /// Returns where the next frame begins.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// What a frame's header says.
#[derive(Clone, Copy)]
struct Found {
    kind_code: u8,
    synced_len: u64,
    /// Header and payload.
    len: usize,
}

/// A search for frames where bytes are unreadable.
struct Search {
    begin: u64,
    at: u64,
    /// How many bytes may still be summed.
    budget: u64,
}

/// Returns how many bytes may be summed in search of frames among so many. Values may hold copies of a log's frames, which are
/// as many bytes to sum as there are; only forged ones are many times that.
fn search_budget(len: u64) -> u64 {
    len.saturating_mul(16)
}

/// Reads a log's frames front to back through a window.
pub struct FrameReader<'a> {
    file: &'a dyn ReadFile,
    path: &'a Path,
    number: FileNumber,
    file_len: u64,
    offset: u64,
    window: Vec<u8>,
    window_offset: u64,
    /// How many bytes all calls of [`FrameReader::skip_to_frame`] together may still sum.
    skip_budget: u64,
}

impl<'a> FrameReader<'a> {
    /// Starts at the first byte of the log `number`.
    ///
    /// # Errors
    /// `Io`, if the file cannot be measured.
    pub fn new(file: &'a dyn ReadFile, path: &'a Path, number: FileNumber) -> Result<FrameReader<'a>> {
        let file_len = file.len()?;
        Ok(FrameReader {
            file,
            path,
            number,
            file_len,
            offset: 0,
            window: Vec::new(),
            window_offset: 0,
            skip_budget: search_budget(file_len),
        })
    }

    /// Returns where the next frame would begin: after `None`, the end of the readable part.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the file's length in bytes, allocated zeros included.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Returns the next frame, or `None` where there is no valid one: [`judge`] says what that means.
    ///
    /// # Errors
    /// `Incompatible` for a frame of a kind that this version does not know; `Io`.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let offset = self.offset;
        let Some(found) = self.frame_at(offset)? else { return Ok(None) };
        let Some(kind) = FrameKind::from_disk(found.kind_code) else {
            let message = format!("a frame of kind {}, which this version does not know", found.kind_code);
            return Err(Error::new(ErrorKind::Incompatible, message)
                .with_file(self.path)
                .with_offset(offset));
        };
        let bytes = self.bytes_at(offset, found.len)?.expect("the frame was just read").to_vec();
        self.offset = offset + found.len as u64;
        Ok(Some(Frame { kind, offset, synced_len: found.synced_len, bytes }))
    }

    /// Finds the frame that begins at `offset`, whatever its kind.
    fn frame_at(&mut self, offset: u64) -> Result<Option<Found>> {
        let Some(found) = self.plausible_at(offset)? else { return Ok(None) };
        let Some(bytes) = self.bytes_at(offset, found.len)? else { return Ok(None) };
        let crc = u32::from_le_bytes(*bytes.first_chunk().expect("a header was read"));
        if checksum(offset, &bytes[4..]) != crc {
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// Reads the header of a frame at `offset`, if these bytes could be one of this log. Not checked yet is the sum.
    fn plausible_at(&mut self, offset: u64) -> Result<Option<Found>> {
        let Some(header) = self.bytes_at(offset, FRAME_HEADER_LEN_BYTES)? else { return Ok(None) };
        let word = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("24 bytes were read"));
        let payload_len = (word(0) >> 32) as usize;
        let (identity, synced_len) = (word(8), word(16));
        let [.., kind_code] = identity.to_le_bytes();
        let is_plausible = kind_code != 0
            && identity & ((1 << 56) - 1) == self.number.0
            && payload_len <= limits::FRAME_PAYLOAD_LEN_BYTES_MAX
            && synced_len <= offset;
        Ok(is_plausible.then_some(Found { kind_code, synced_len, len: FRAME_HEADER_LEN_BYTES + payload_len }))
    }

    /// Returns `len` bytes at `offset`, or `None` if the file ends before.
    fn bytes_at(&mut self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.file_len) {
            return Ok(None);
        }
        let is_inside = offset >= self.window_offset
            && offset + len as u64 <= self.window_offset + self.window.len() as u64;
        if !is_inside {
            let left = usize::try_from(self.file_len - offset).unwrap_or(usize::MAX);
            self.window.resize(len.max(READ_WINDOW_LEN_BYTES).min(left), 0);
            let count = read_full(self.file, &mut self.window, offset)?;
            self.window.truncate(count);
            self.window_offset = offset;
            if count < len {
                return Ok(None);
            }
        }
        let start = usize::try_from(offset - self.window_offset).expect("inside the window");
        Ok(Some(&self.window[start..start + len]))
    }

    /// Returns the highest watermark stated by any readable frame at or behind `from`, of whatever kind.
    ///
    /// # Errors
    /// `Corruption` if so much there looks like frames and is none that the search would not end in decent time; `Io`.
    pub fn watermark_behind(&mut self, from: u64) -> Result<u64> {
        let mut watermark = 0;
        let budget = search_budget(self.file_len.saturating_sub(from));
        let mut search = Search { begin: from, at: from, budget };
        while let Some((at, found)) = self.find_frame(&mut search)? {
            watermark = watermark.max(found.synced_len);
            search.at = at + found.len as u64;
        }
        Ok(watermark)
    }

    /// Goes on to the next readable frame, over whatever is unreadable in front of it, and returns where it begins; `None` if
    /// there is none. Its checksum, which covers its place and its log, proves that it was written there. What it means for
    /// the log is another question; recovery never asks.
    ///
    /// # Errors
    /// As [`FrameReader::watermark_behind`].
    pub fn skip_to_frame(&mut self) -> Result<Option<u64>> {
        let mut search = Search { begin: self.offset, at: self.offset, budget: self.skip_budget };
        let found = self.find_frame(&mut search)?;
        self.skip_budget = search.budget;
        self.offset = found.map_or(self.offset, |(at, _)| at);
        Ok(found.map(|(at, _)| at))
    }

    /// Finds the first readable frame from where a search stands.
    fn find_frame(&mut self, search: &mut Search) -> Result<Option<(u64, Found)>> {
        let Search { begin, mut at, .. } = *search;
        while at + FRAME_HEADER_LEN_BYTES as u64 <= self.file_len {
            if let Some(zeros) = self.zeros_at(at)? {
                // The frame's identity is never zero, so a run of zeros holds no beginning but near its end.
                at += zeros;
                continue;
            }
            let Some(plausible) = self.plausible_at(at)? else {
                at += 1;
                continue;
            };
            let cost = (plausible.len as u64).min(self.file_len - at);
            search.budget = search.budget.checked_sub(cost).ok_or_else(|| {
                self.corruption(
                    begin,
                    "unreadable here, and too much behind it looks like frames and is none",
                )
            })?;
            match self.frame_at(at)? {
                Some(found) => return Ok(Some((at, found))),
                None => at += 1,
            }
        }
        Ok(None)
    }

    /// Tells whether there is nothing but zeros from `offset` to the end of the file, as where a log is allocated ahead.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_zero_behind(&self, mut offset: u64) -> Result<bool> {
        let mut buffer = vec![0; READ_WINDOW_LEN_BYTES];
        while offset < self.file_len {
            let count = read_full(self.file, &mut buffer, offset)?;
            if buffer[..count].iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            if count < buffer.len() {
                break;
            }
            offset += count as u64;
        }
        Ok(true)
    }

    /// Returns how far one may skip over zeros at `offset`, if that is far enough to be worth it.
    fn zeros_at(&mut self, offset: u64) -> Result<Option<u64>> {
        const STRIDE: usize = 4096;
        let Some(bytes) = self.bytes_at(offset, STRIDE)? else { return Ok(None) };
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        Ok(is_zero.then_some((STRIDE - FRAME_HEADER_LEN_BYTES) as u64))
    }

    /// Returns the log's path.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// Returns the error for damage at `offset` of this log.
    pub fn corruption(&self, offset: u64, message: impl Into<String>) -> Error {
        Error::corruption(self.path, offset, message)
    }
}

/// What the end of the readable part of a log means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was ever acknowledged is in front of it.
    End,
    /// Bytes that were synced are not readable: the log is damaged here.
    Damaged,
}

/// Judges the first unreadable byte of a log (`docs/format/log.md` has the table).
///
/// `watermark` is the highest one stated anywhere in the log; `declared_len` is the good length that a later
/// file states for this log, once there is one.
pub fn judge(unreadable_at: u64, watermark: u64, declared_len: Option<u64>) -> Verdict {
    let must_reach = declared_len.unwrap_or(0).max(watermark);
    if unreadable_at < must_reach { Verdict::Damaged } else { Verdict::End }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_bytes_below_a_watermark_are_damage_and_above_it_a_torn_tail() {
        assert_eq!(judge(100, 0, None), Verdict::End);
        assert_eq!(judge(100, 100, None), Verdict::End);
        assert_eq!(judge(99, 100, None), Verdict::Damaged);
        assert_eq!(judge(100, 0, Some(101)), Verdict::Damaged);
        assert_eq!(judge(101, 0, Some(101)), Verdict::End);
    }
}
