//! The manifest: version edits in a framed log.
//!
//! Every edit is synced before it counts, so a manifest's torn tail is an edit that was never installed. Behind each
//! edit stands an empty one, not synced, whose watermark says that the edit was: without it, damage to the last edit
//! of a process that died would pass for a torn tail, and the log segment that the edit named be forgotten.
//!
//! When the log has grown by the caller's limit, or an edit is too long for one record, a new manifest begins: the
//! whole catalog, with the edit already in it, as several edits that are each no longer than a record may be. They are
//! synced together, and then `CURRENT` is switched. Until that begins the old manifest counts and goes on taking edits.
//!
//! An append or sync that fails, and a switch that fails half-way, leave in doubt what a reopen will find: from then on
//! nothing is installed ([`ManifestWriter::failure`]), and the caller stops writing for good.
//!
//! A full disk must not do that, so space for an edit is allocated before it is appended, and an edit that finds none is
//! refused with nothing changed. Some space always stays ahead of the end, for small edits only: those that seal a log
//! segment, take over from one, or state numbers as taken are what makes space on a full disk.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::format::codec::Reader;
use crate::format::frame::{FRAME_HEADER_LEN_BYTES, FrameKind, FrameReader, FrameWriter, Verdict, judge};
use crate::format::names::FileName;
use crate::version::catalog::Catalog;
use crate::version::edit::{self, Change, Changes};
use crate::version::pointer::{self, Pointer};
use crate::vfs::Vfs;
use std::path::{Path, PathBuf};

/// Version of the database's format as a whole; `docs/format/manifest.md` says when it changes.
pub const DATABASE_FORMAT_VERSION: u32 = 1;

/// The first bytes of a manifest's header.
pub const HEADER_MAGIC: &[u8; 8] = b"TLSM.man";

/// The open manifest with the catalog it adds up to.
pub struct ManifestWriter {
    log: FrameWriter,
    directory: PathBuf,
    catalog: Catalog,
    /// Length with the catalog only.
    first_len: u64,
    edit_len_max: usize,
    /// Where the space ends that was allocated.
    allocated_len: u64,
    /// How much of it stays behind an edit that is not small.
    ahead_len: u64,
    /// The disk allocates nothing, whatever space there is.
    is_unallocated: bool,
    /// Why nothing more may be installed.
    failure: Option<Error>,
}

/// Why an edit, or a new manifest, does not count.
#[derive(Debug)]
pub enum Failure {
    /// The manifest counts as before, without the edit, and takes further ones. What there is of a new manifest and of the
    /// temporary file may be removed.
    NotInstalled(Error),
    /// With it or without it, which will show when the database is opened again: all files stay, and nothing more is
    /// installed.
    InDoubt(Error),
}

impl Failure {
    /// Returns what went wrong.
    pub fn into_error(self) -> Error {
        match self {
            Failure::NotInstalled(error) | Failure::InDoubt(error) => error,
        }
    }
}

impl ManifestWriter {
    /// Creates manifest `number` with the whole catalog and makes it the one that counts.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the manifest that counted before still does, or this one does already.
    pub fn create(
        vfs: &dyn Vfs,
        directory: &Path,
        number: FileNumber,
        temporary: FileNumber,
        catalog: Catalog,
    ) -> Result<ManifestWriter, Failure> {
        let log = write_catalog(vfs, directory, number, &catalog, limits::EDIT_LEN_BYTES_MAX)?;
        let log = point_to(vfs, directory, log, temporary)?;
        let first_len = log.len();
        Ok(ManifestWriter {
            log,
            directory: directory.to_owned(),
            catalog,
            first_len,
            edit_len_max: limits::EDIT_LEN_BYTES_MAX,
            allocated_len: first_len,
            ahead_len: limits::MANIFEST_AHEAD_LEN_BYTES,
            is_unallocated: false,
            failure: None,
        })
    }

    /// Lowers the limit from which on an edit is too long for one record, so that small databases meet it too.
    #[must_use]
    pub fn with_edit_len_max(mut self, len_bytes: u64) -> ManifestWriter {
        self.edit_len_max = usize::try_from(len_bytes).unwrap_or(usize::MAX).min(limits::EDIT_LEN_BYTES_MAX);
        self.ahead_len = limits::manifest_ahead_len(len_bytes);
        self
    }

    /// Tells whether an edit is too long for [`ManifestWriter::install`]: [`ManifestWriter::roll_with`] takes it.
    pub fn is_oversized(&self, changes: &[Change]) -> bool {
        changes.iter().map(edit::len_bytes_max).sum::<usize>() > self.edit_len_max
    }

    /// Installs one edit: durable when this returns.
    ///
    /// # Errors
    /// [`Failure`] of kind `NoSpace` or `Io`.
    ///
    /// # Panics
    /// If the edit makes no sense or is oversized. Nothing more may be installed then either.
    pub fn install(&mut self, changes: &[Change]) -> Result<(), Failure> {
        self.check().map_err(Failure::InDoubt)?;
        assert!(!self.is_oversized(changes), "an edit that is too long for a record begins a new manifest");
        let payload = edit::encode(changes);
        self.allocate_for(payload.len()).map_err(Failure::NotInstalled)?;
        // Whatever ends this call early, the catalog may be ahead of the disk.
        self.failure = Some(in_doubt(self.log.path()));
        if let Err(reason) = self.catalog.apply(changes) {
            panic!("an edit of our own makes no sense: {reason}");
        }
        let installed = self.append_edit(&payload);
        self.is_unallocated = false;
        self.failure = installed.clone().err();
        installed.map_err(Failure::InDoubt)
    }

    /// Returns how many bytes the file has, with what was allocated ahead.
    pub fn disk_len(&self) -> u64 {
        self.log.allocated_len()
    }

    /// Does without allocated space for the next edit: the disk has space and allocates none.
    pub fn go_unallocated(&mut self) {
        self.is_unallocated = true;
    }

    /// Makes sure that an edit and the statement behind it have space.
    ///
    /// # Errors
    /// `NoSpace`: the manifest is as before. A disk that fails to allocate for another reason may still take the append.
    fn allocate_for(&mut self, payload_len: usize) -> Result<()> {
        let end = self.log.len() + (2 * FRAME_HEADER_LEN_BYTES + payload_len) as u64;
        let is_small = payload_len <= limits::SMALL_EDIT_LEN_BYTES_MAX;
        if self.is_unallocated || end + self.ahead_len <= self.allocated_len {
            return Ok(());
        }
        // Twice what has to stay, so that not every edit asks.
        let target_len = end + 2 * self.ahead_len;
        match self.log.allocate(target_len) {
            Ok(()) => self.allocated_len = target_len,
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                let least_len = end + if is_small { 0 } else { self.ahead_len };
                if least_len > self.allocated_len {
                    self.log.allocate(least_len)?;
                    self.allocated_len = least_len;
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Allocates what small edits may need. Where there is no space, the next edit is told.
    pub fn allocate_ahead(&mut self) {
        let target_len = self.log.len() + 2 * self.ahead_len;
        if self.log.allocate(target_len).is_ok() {
            self.allocated_len = target_len;
        }
    }

    fn append_edit(&mut self, payload: &[u8]) -> Result<()> {
        self.log.append(FrameKind::Record, payload)?;
        self.log.sync()?;
        // The edit is durable. This states it; a crash may take the statement away again, and nothing else with it.
        self.log.append(FrameKind::Record, &edit::encode(&[]))
    }

    /// Tells whether the log has grown by more than `limit_bytes` since its first edit.
    pub fn is_grown(&self, limit_bytes: u64) -> bool {
        self.log.len() > self.first_len.saturating_add(limit_bytes)
    }

    /// Lets the log grow by a part of `limit_bytes` before [`ManifestWriter::is_grown`] says so again: there was no space
    /// for another manifest.
    pub fn postpone_roll(&mut self, limit_bytes: u64) {
        self.first_len = self.log.len().saturating_sub(limit_bytes / 4 * 3);
    }

    /// Starts manifest `number` with the same catalog; returns the number of the old one, now removable.
    ///
    /// # Errors
    /// As [`ManifestWriter::roll_with`].
    pub fn roll(
        &mut self,
        vfs: &dyn Vfs,
        number: FileNumber,
        temporary: FileNumber,
    ) -> Result<FileNumber, Failure> {
        self.roll_with(vfs, &[], number, temporary)
    }

    /// Installs an edit of any length by starting manifest `number` with the catalog that it leads to; durable when this
    /// returns. Returns the number of the old manifest, now removable.
    ///
    /// # Errors
    /// [`Failure`] of kind `NoSpace` or `Io`. The catalog in memory is as before.
    ///
    /// # Panics
    /// If the edit makes no sense.
    pub fn roll_with(
        &mut self,
        vfs: &dyn Vfs,
        changes: &[Change],
        number: FileNumber,
        temporary: FileNumber,
    ) -> Result<FileNumber, Failure> {
        self.check().map_err(Failure::InDoubt)?;
        let old = self.log.number();
        assert!(number > old, "file numbers only grow");
        let mut catalog = self.catalog.clone();
        if let Err(reason) = catalog.apply(changes) {
            panic!("an edit of our own makes no sense: {reason}");
        }
        let log = write_catalog(vfs, &self.directory, number, &catalog, self.edit_len_max)?;
        let log = point_to(vfs, &self.directory, log, temporary).inspect_err(|failure| {
            if let Failure::InDoubt(error) = failure {
                self.failure = Some(error.clone());
            }
        })?;
        self.first_len = log.len();
        self.allocated_len = self.first_len;
        self.log = log;
        self.catalog = catalog;
        self.allocate_ahead();
        Ok(old)
    }

    /// Marks the end of a database closed in good order, and states the manifest's length in the pointer.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; everything installed stays.
    pub fn finish(&mut self, vfs: &dyn Vfs, temporary: FileNumber) -> Result<()> {
        self.check()?;
        self.failure = Some(in_doubt(self.log.path()));
        self.log.append(FrameKind::End, &[])?;
        // What cannot be given back now goes with the file.
        drop(self.log.trim());
        self.log.sync()?;
        let end = Pointer { manifest: self.log.number(), durable_len: self.log.len() };
        pointer::switch(vfs, &self.directory, end, temporary)
    }

    /// Returns why nothing more may be installed, if that is so.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Returns what all edits add up to.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns the manifest's number.
    pub fn number(&self) -> FileNumber {
        self.log.number()
    }

    /// Returns its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a manifest is never empty")]
    pub fn len(&self) -> u64 {
        self.log.len()
    }

    /// Returns the manifest's path.
    pub fn path(&self) -> &Path {
        self.log.path()
    }
}

fn in_doubt(path: &Path) -> Error {
    Error::new(ErrorKind::Io, "the manifest was ended, or an earlier edit did not come to its end")
        .with_file(path)
}

/// Writes manifest `number`, durable in bytes and name when this returns; nobody points to it yet.
fn write_catalog(
    vfs: &dyn Vfs,
    directory: &Path,
    number: FileNumber,
    catalog: &Catalog,
    edit_len_max: usize,
) -> Result<FrameWriter, Failure> {
    let write = || -> Result<FrameWriter> {
        let path = FileName::Manifest(number).path(directory);
        let mut log = FrameWriter::new(vfs.create_new(&path)?, path, number);
        let mut header = HEADER_MAGIC.to_vec();
        header.extend_from_slice(&DATABASE_FORMAT_VERSION.to_le_bytes());
        log.append(FrameKind::Header, &header)?;
        let mut payload = Vec::new();
        for change in catalog.changes() {
            if !payload.is_empty() && payload.len() + edit::len_bytes_max(&change) > edit_len_max {
                log.append(FrameKind::Record, &payload)?;
                payload.clear();
            }
            edit::encode_into(&change, &mut payload);
        }
        log.append(FrameKind::Record, &payload)?;
        log.sync()?;
        vfs.sync_dir(directory)?;
        Ok(log)
    };
    // Named apart from an edit: nothing in doubt comes of a manifest that nobody points to.
    write().map_err(|error| Failure::NotInstalled(error.with_operation("begin")))
}

/// Makes the manifest that `log` wrote the one that counts, all of it: it is durable.
fn point_to(
    vfs: &dyn Vfs,
    directory: &Path,
    log: FrameWriter,
    temporary: FileNumber,
) -> Result<FrameWriter, Failure> {
    assert!(log.synced_len() == log.len(), "what CURRENT states is durable");
    let pointer = Pointer { manifest: log.number(), durable_len: log.len() };
    pointer::prepare(vfs, directory, pointer, temporary).map_err(Failure::NotInstalled)?;
    // From here on either manifest may be the one that counts.
    pointer::put_in_place(vfs, directory, temporary).map_err(Failure::InDoubt)?;
    Ok(log)
}

/// Reads the catalog from the manifest that `pointer` names.
///
/// # Errors
/// `Corruption` with file and offset; `Incompatible` if the format is newer or a change is of an unknown kind; `Io`.
pub fn read(vfs: &dyn Vfs, directory: &Path, pointer: Pointer) -> Result<Catalog> {
    read_each(vfs, directory, pointer, &mut |_| {})
}

/// Reads the catalog as [`read`] does, and shows every change that it adds up from.
///
/// # Errors
/// As [`read`].
pub fn read_each(
    vfs: &dyn Vfs,
    directory: &Path,
    pointer: Pointer,
    see: &mut dyn FnMut(&Change),
) -> Result<Catalog> {
    let path = FileName::Manifest(pointer.manifest).path(directory);
    add_up(vfs, &path, pointer, see).map_err(|error| error.if_missing("the manifest that CURRENT names"))
}

fn add_up(vfs: &dyn Vfs, path: &Path, pointer: Pointer, see: &mut dyn FnMut(&Change)) -> Result<Catalog> {
    let file = vfs.open(path)?;
    let mut frames = FrameReader::new(file.as_ref(), path, pointer.manifest)?;
    let mut catalog = Catalog::default();
    let mut watermark = pointer.durable_len;
    let mut has_header = false;
    while let Some(frame) = frames.next_frame()? {
        watermark = watermark.max(frame.synced_len);
        match frame.kind {
            FrameKind::Header => {
                check_header(path, frame.payload())?;
                has_header = true;
            }
            FrameKind::Record if has_header => {
                let payload_offset = frame.offset + FRAME_HEADER_LEN_BYTES as u64;
                for change in Changes::new(frame.payload()) {
                    let change = change.map_err(|unreadable| unreadable.into_error(path, payload_offset))?;
                    catalog
                        .apply_change(&change)
                        .map_err(|reason| frames.corruption(frame.offset, reason))?;
                    see(&change);
                }
            }
            FrameKind::Record => return Err(frames.corruption(frame.offset, "the manifest has no header")),
            FrameKind::End => {}
        }
    }
    let end = frames.offset();
    if end < frames.file_len() {
        watermark = watermark.max(frames.watermark_behind(end)?);
    }
    if judge(end, watermark, None) == Verdict::Damaged {
        let message = format!("the manifest is unreadable here, but was durable up to byte {watermark}");
        return Err(frames.corruption(end, message));
    }
    catalog.check().map_err(|reason| Error::corruption(path, 0, reason))?;
    Ok(catalog)
}

/// Tells whether a file is a manifest that must have been in force: an edit or an end follows its catalog, or that says more
/// than the catalog of a database that is being made.
///
/// # Errors
/// `Io`.
pub fn was_in_force(vfs: &dyn Vfs, path: &Path, number: FileNumber) -> Result<bool> {
    let file = vfs.open(path)?;
    let mut frames = FrameReader::new(file.as_ref(), path, number)?;
    let is_manifest = frames
        .next_frame()?
        .is_some_and(|frame| frame.kind == FrameKind::Header && check_header(path, frame.payload()).is_ok());
    let first = if is_manifest { frames.next_frame()? } else { None };
    let Some(first) = first else { return Ok(false) };
    let says_more = |change: &Change| match change {
        Change::CreateKeyspace { id, .. } => *id != KeyspaceId::DEFAULT,
        Change::Flushed { seq, .. } => *seq > SeqNum::ZERO,
        Change::NextFile(_) | Change::WalOpened(_) | Change::TimeHighWater(_) => false,
        _ => true,
    };
    let is_more = Changes::new(first.payload()).any(|change| change.is_ok_and(|change| says_more(&change)));
    Ok(is_more || frames.next_frame()?.is_some())
}

fn check_header(path: &Path, payload: &[u8]) -> Result<()> {
    let mut reader = Reader::new(payload);
    let magic = reader.take(HEADER_MAGIC.len());
    let version = reader.u32();
    match (magic, version) {
        (Some(magic), Some(version)) if magic == HEADER_MAGIC && version > DATABASE_FORMAT_VERSION => {
            let message = format!(
                "the database has format version {version}; this program knows up to {DATABASE_FORMAT_VERSION}"
            );
            Err(Error::new(ErrorKind::Incompatible, message).with_file(path))
        }
        (Some(magic), Some(DATABASE_FORMAT_VERSION)) if magic == HEADER_MAGIC => Ok(()),
        _ => Err(Error::corruption(path, 0, "the manifest's header makes no sense")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::mem::MemVfs;

    #[test]
    fn damage_to_the_last_edit_is_not_taken_for_a_torn_tail() {
        let (disk, directory) = (MemVfs::new(), Path::new("db"));
        disk.create_dir_all(directory).expect("memory does not fail");
        let catalog = Catalog::default();
        let mut manifest =
            ManifestWriter::create(&disk, directory, FileNumber(1), FileNumber(2), catalog).expect("memory");
        let start = manifest.log.len();
        manifest.install(&[Change::WalOpened(FileNumber(3))]).expect("memory does not fail");
        let end = manifest.log.synced_len();
        let path = manifest.path().to_owned();
        drop(manifest);
        let pointer = pointer::read(&disk, directory).expect("reads").expect("there is one");
        let read = || read(&disk, directory, pointer);
        assert_eq!(read().expect("sound").wal_last, FileNumber(3));
        for offset in start..end {
            disk.flip(&path, offset, 1).expect("the byte is there");
            let error = read().expect_err("the edit was durable");
            assert_eq!((error.kind(), error.offset()), (ErrorKind::Corruption, Some(start)), "{error}");
            disk.flip(&path, offset, 1).expect("the byte is there");
        }
    }
}
