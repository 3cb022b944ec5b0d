//! Reading WAL segments back after a stop, however it came about.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::format::batch::{RecordHeader, open_record};
use crate::format::frame::{FrameKind, FrameReader, Verdict, judge};
use crate::vfs::Vfs;
use crate::wal::{Header, Predecessor, WAL_FORMAT_VERSION, decode_header};
use std::collections::VecDeque;
use std::path::Path;

/// One record of a segment.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its numbers and time.
    pub header: RecordHeader,
    /// Where it begins.
    pub offset: u64,
    /// The whole frame.
    pub frame: Vec<u8>,
}

impl Record {
    fn end(&self) -> u64 {
        self.offset + self.frame.len() as u64
    }
}

/// What replaying a segment found besides the records it visited.
#[derive(Debug)]
pub struct Replayed {
    /// Where the part ends that is known to be durable.
    pub durable_len: u64,
    /// Records behind that: readable, but perhaps only in the system's memory.
    pub unproven: Vec<Record>,
    /// Whether unreadable bytes were cut off at the end.
    pub is_torn: bool,
}

/// Reads which segment came before `number`; `None` for a database's first.
///
/// # Errors
/// `Corruption` if the header is unreadable; `Incompatible` if the format is newer; `NotFound`; `Io`.
pub fn read_predecessor(vfs: &dyn Vfs, path: &Path, number: FileNumber) -> Result<Option<Predecessor>> {
    let file = vfs.open(path)?;
    let mut frames = FrameReader::new(file.as_ref(), path, number)?;
    let Some(frame) = frames.next_frame()? else {
        return Err(Error::corruption(path, 0, "the WAL segment has no readable header"));
    };
    if frame.kind != FrameKind::Header {
        return Err(Error::corruption(path, 0, "the WAL segment does not begin with a header"));
    }
    match decode_header(frame.payload()) {
        Header::Known(predecessor) => Ok(predecessor),
        Header::Nonsense => {
            Err(Error::corruption(path, frame.offset, "the WAL segment's header makes no sense"))
        }
        Header::NewerVersion(version) => Err(Error::new(
            ErrorKind::Incompatible,
            format!("the WAL has format version {version}; this program knows up to {WAL_FORMAT_VERSION}"),
        )
        .with_file(path)),
    }
}

/// Visits the durable records of segment `number` in order.
///
/// `declared_len` is the good length that a later file states; all of it is durable, and nothing behind it
/// counts. Without it the segment was the last one, and its watermarks tell a torn tail from damage.
///
/// # Errors
/// `Corruption` with the offset if something that was durable cannot be read; `Io`; what `visit` returns.
pub fn replay(
    vfs: &dyn Vfs,
    path: &Path,
    number: FileNumber,
    declared_len: Option<u64>,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<Replayed> {
    let file = vfs.open(path)?;
    let mut frames = FrameReader::new(file.as_ref(), path, number)?;
    let mut watermark = declared_len.unwrap_or(0);
    let mut waiting: VecDeque<Record> = VecDeque::new();
    let mut end_mark: Option<(u64, u64)> = None;
    while declared_len.is_none_or(|len| frames.offset() < len) {
        let Some(frame) = frames.next_frame()? else { break };
        watermark = watermark.max(frame.synced_len);
        if frame.kind == FrameKind::End {
            end_mark = Some((frame.offset, frame.end()));
        }
        if frame.kind == FrameKind::Record {
            let Some((header, _)) = open_record(&frame.bytes).filter(|(header, _)| header.count > 0) else {
                return Err(
                    frames.corruption(frame.offset, "a record's checksum is right but its header is not")
                );
            };
            waiting.push_back(Record { header, offset: frame.offset, frame: frame.bytes });
        }
        while waiting.front().is_some_and(|record| record.end() <= watermark) {
            let record = waiting.pop_front().expect("the front was just seen");
            visit(record)?;
        }
    }
    let end = frames.offset();
    if declared_len.is_some_and(|len| end > len) {
        return Err(
            frames.corruption(end, "a record crosses the length that a later file states for this one")
        );
    }
    if declared_len.is_none() && end < frames.file_len() {
        watermark = watermark.max(frames.watermark_behind(end)?);
    }
    if judge(end, watermark, declared_len) == Verdict::Damaged {
        let must_reach = watermark.max(declared_len.unwrap_or(0));
        let message = format!("the WAL is unreadable here, but was durable up to byte {must_reach}");
        return Err(frames.corruption(end, message));
    }
    let is_torn = declared_len.is_none() && has_bytes_behind(file.as_ref(), end, frames.file_len())?;
    // Watermarks are frame boundaries, so what is left waiting begins exactly at the durable end.
    // A mark of the end whose own sync failed is readable and not proven, and must not be stated as durable.
    let unproven_mark = end_mark.filter(|mark| mark.1 > watermark).map(|mark| mark.0);
    let first_waiting = waiting.front().map(|record| record.offset);
    let durable_len = first_waiting.or(unproven_mark).unwrap_or(end);
    Ok(Replayed { durable_len, unproven: waiting.into(), is_torn })
}

/// Tells whether a file begins with a segment's header and a readable record behind it.
///
/// The header counts: in a directory where a database was only being made, the disk may show in a file that was
/// never synced the bytes of another one that had the same number.
///
/// # Errors
/// `Io`.
pub fn has_records(vfs: &dyn Vfs, path: &Path, number: FileNumber) -> Result<bool> {
    let file = vfs.open(path)?;
    let mut frames = FrameReader::new(file.as_ref(), path, number)?;
    let is_segment = frames.next_frame()?.is_some_and(|frame| {
        frame.kind == FrameKind::Header && decode_header(frame.payload()) != Header::Nonsense
    });
    Ok(is_segment && frames.next_frame()?.is_some_and(|frame| frame.kind == FrameKind::Record))
}

/// Tells whether anything but zeros lies behind `offset`, looking at the first bytes only.
fn has_bytes_behind(file: &dyn crate::vfs::ReadFile, offset: u64, file_len: u64) -> Result<bool> {
    let mut head = [0u8; 64];
    let wanted = usize::try_from(file_len.saturating_sub(offset)).unwrap_or(usize::MAX).min(head.len());
    let count = crate::vfs::read_full(file, &mut head[..wanted], offset)?;
    Ok(head[..count].iter().any(|&byte| byte != 0))
}
