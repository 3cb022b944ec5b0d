//! The manifest: version edits in a framed log.
//!
//! Every edit is synced before it counts, so a manifest's torn tail is an edit that was never installed. Behind each
//! edit stands an empty one, not synced, whose watermark says that the edit was: without it, damage to the last edit
//! of a process that died would pass for a torn tail, and the log segment that the edit named be forgotten. When
//! the log has grown by [`ManifestWriter::install`]'s limit, the catalog is written as the first edit of a new
//! one and the pointer is switched. Any failure leaves the manifest in doubt: the caller stops writing for good.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::format::codec::Reader;
use crate::format::frame::{FrameKind, FrameReader, FrameWriter, Verdict, judge};
use crate::format::names::FileName;
use crate::version::catalog::Catalog;
use crate::version::edit::{self, Change};
use crate::version::pointer::{self, Pointer};
use crate::vfs::Vfs;
use std::path::{Path, PathBuf};

/// Version of the database's format as a whole; `docs/format/manifest.md` says when it changes.
pub const DATABASE_FORMAT_VERSION: u32 = 1;

const HEADER_MAGIC: &[u8; 8] = b"TLSM.man";

/// The open manifest with the catalog it adds up to.
pub struct ManifestWriter {
    log: FrameWriter,
    directory: PathBuf,
    catalog: Catalog,
    /// Length with the first edit only.
    first_len: u64,
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
    ) -> Result<ManifestWriter> {
        let path = FileName::Manifest(number).path(directory);
        let mut log = FrameWriter::new(vfs.create_new(&path)?, path, number);
        let mut header = HEADER_MAGIC.to_vec();
        header.extend_from_slice(&DATABASE_FORMAT_VERSION.to_le_bytes());
        log.append(FrameKind::Header, &header)?;
        log.append(FrameKind::Record, &edit::encode(&catalog.as_edit()))?;
        log.sync()?;
        vfs.sync_dir(directory)?;
        // The new manifest is safe here, and nobody points to it yet.
        pointer::switch(vfs, directory, Pointer { manifest: number, durable_len: log.len() }, temporary)?;
        let first_len = log.len();
        Ok(ManifestWriter { log, directory: directory.to_owned(), catalog, first_len })
    }

    /// Installs one edit: durable when this returns.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the edit may or may not be there after a reopen; nothing more may be installed.
    ///
    /// # Panics
    /// If the edit makes no sense.
    pub fn install(&mut self, changes: &[Change]) -> Result<()> {
        if let Err(reason) = self.catalog.apply(changes) {
            panic!("an edit of our own makes no sense: {reason}");
        }
        self.log.append(FrameKind::Record, &edit::encode(changes))?;
        self.log.sync()?;
        // The edit is durable. This states it; a crash may take the statement away again, and nothing else with it.
        self.log.append(FrameKind::Record, &edit::encode(&[]))
    }

    /// Tells whether the log has grown by more than `limit_bytes` since its first edit.
    pub fn is_grown(&self, limit_bytes: u64) -> bool {
        self.log.len() > self.first_len + limit_bytes
    }

    /// Starts manifest `number` with the same catalog; returns the number of the old one, now removable.
    ///
    /// # Errors
    /// As [`ManifestWriter::create`]; nothing more may be installed.
    pub fn roll(&mut self, vfs: &dyn Vfs, number: FileNumber, temporary: FileNumber) -> Result<FileNumber> {
        let old = self.log.number();
        assert!(number > old, "file numbers only grow");
        *self = ManifestWriter::create(vfs, &self.directory, number, temporary, self.catalog.clone())?;
        Ok(old)
    }

    /// Marks the end of a database closed in good order, and states the manifest's length in the pointer.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; everything installed stays.
    pub fn finish(&mut self, vfs: &dyn Vfs, temporary: FileNumber) -> Result<()> {
        self.log.append(FrameKind::End, &[])?;
        self.log.sync()?;
        let end = Pointer { manifest: self.log.number(), durable_len: self.log.len() };
        pointer::switch(vfs, &self.directory, end, temporary)
    }

    /// Returns what all edits add up to.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns the manifest's number.
    pub fn number(&self) -> FileNumber {
        self.log.number()
    }

    /// Returns the manifest's path.
    pub fn path(&self) -> &Path {
        self.log.path()
    }
}

/// Reads the catalog from the manifest that `pointer` names.
///
/// # Errors
/// `Corruption` with file and offset; `Incompatible` if the format is newer; `Io`.
pub fn read(vfs: &dyn Vfs, directory: &Path, pointer: Pointer) -> Result<Catalog> {
    let path = FileName::Manifest(pointer.manifest).path(directory);
    let file = vfs.open(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            error.wrap(ErrorKind::Corruption, "the manifest that CURRENT names is missing")
        }
        _ => error,
    })?;
    let mut frames = FrameReader::new(file.as_ref(), &path, pointer.manifest)?;
    let mut catalog = Catalog::default();
    let mut watermark = pointer.durable_len;
    let mut has_header = false;
    while let Some(frame) = frames.next_frame()? {
        watermark = watermark.max(frame.synced_len);
        match frame.kind {
            FrameKind::Header => {
                check_header(&path, frame.payload())?;
                has_header = true;
            }
            FrameKind::Record if has_header => {
                let changes = edit::decode(frame.payload()).map_err(|at| {
                    frames.corruption(frame.offset + at as u64, "a version edit is unreadable")
                })?;
                catalog.apply(&changes).map_err(|reason| frames.corruption(frame.offset, reason))?;
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
    Ok(catalog)
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
