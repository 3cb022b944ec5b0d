//! Windows, through the standard library and `fs4`.
//!
//! How: names are paths, as there are no names relative to a directory's handle here. What keeps them meaning the same
//! files is that Windows refuses to move or remove what is open without leave to do so: a held directory and a lock
//! file are opened without that leave (`FILE_SHARE_DELETE`), so that neither can be moved, removed or replaced while they
//! are held. `sync` is `FlushFileBuffers`, for files and, through a handle that may write, for directories. Positioned
//! reads and writes move the handle's own offset, which nothing here uses.
//!
//! It holds no directory against what other systems do to a shared folder behind Windows' back.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::time::UnixMillis;
use crate::vfs::os::file::{OsReadFile, OsWriteFile};
use crate::vfs::os::{OsVfs, lock, name_below, parent_of};
use crate::vfs::{Advice, Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `FILE_SHARE_READ | FILE_SHARE_WRITE`: others may read and write, and not move or remove.
const SHARE_BUT_KEEP: u32 = 0x1 | 0x2;
/// `FILE_FLAG_BACKUP_SEMANTICS`: without it, Windows opens no directory.
const OPENS_DIRECTORIES: u32 = 0x0200_0000;

/// `ERROR_INVALID_FUNCTION`.
const INVALID_FUNCTION: i32 = 1;
/// `ERROR_ACCESS_DENIED`.
const ACCESS_DENIED: i32 = 5;
/// `ERROR_INVALID_HANDLE`.
const INVALID_HANDLE: i32 = 6;
/// `ERROR_NOT_SAME_DEVICE`.
const NOT_SAME_DEVICE: i32 = 17;
/// `ERROR_WRITE_PROTECT`.
const WRITE_PROTECTED: i32 = 19;
/// `ERROR_NOT_SUPPORTED`.
const NOT_SUPPORTED: i32 = 50;
/// `ERROR_INVALID_PARAMETER`.
const INVALID_PARAMETER: i32 = 87;
/// `ERROR_TOO_MANY_LINKS`.
const TOO_MANY_LINKS: i32 = 1142;

/// A directory held open, which cannot be moved or removed meanwhile, and the two paths that mean it.
#[derive(Debug)]
pub(in crate::vfs::os) struct HeldDir {
    /// Only kept: while it lives, `absolute` means this directory.
    _handle: File,
    /// As the caller named it.
    given: PathBuf,
    absolute: PathBuf,
}

impl HeldDir {
    fn open(path: &Path, real: &Path) -> Result<HeldDir> {
        let failed = |error| Error::from_io("hold_dir", path, error);
        // The current directory is looked at once, so that both paths and the handle mean the same.
        let absolute = std::path::absolute(real).map_err(failed)?;
        let handle = OpenOptions::new()
            .read(true)
            .share_mode(SHARE_BUT_KEEP)
            .custom_flags(OPENS_DIRECTORIES)
            .open(&absolute)
            .map_err(failed)?;
        if !handle.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        Ok(HeldDir { _handle: handle, given: path.to_owned(), absolute })
    }
}

impl OsVfs {
    /// Returns where a path leads: below the held directory as it was opened, else as the system reads it.
    fn real<'a>(&self, path: &'a Path) -> Cow<'a, Path> {
        let held = self.held.as_ref();
        let found = held.and_then(|held| Some((held, name_below(&[&held.given, &held.absolute], path)?)));
        match found {
            Some((held, name)) if name.as_os_str().is_empty() => Cow::Owned(held.absolute.clone()),
            Some((held, name)) => Cow::Owned(held.absolute.join(name)),
            None => Cow::Borrowed(path),
        }
    }

    /// Makes the name of a directory that was found durable: a process killed between creating and syncing it
    /// would have left a database whose very directory a power cut takes away.
    fn settle_existing_dir(&self, path: &Path) -> Result<()> {
        match self.sync_dir(parent_of(path)) {
            // Where we may not write to the parent we did not create the directory either.
            Err(error) if matches!(error.os_code(), Some(ACCESS_DENIED | WRITE_PROTECTED)) => Ok(()),
            other => other,
        }
    }

    /// Ends a sync of a directory that the file system refused.
    fn without_dir_sync(&self, path: &Path, error: io::Error) -> Result<()> {
        if self.accepts.missing_dir_sync {
            return Ok(());
        }
        let text = format!(
            "this file system cannot sync directories ({error}); an application can go without \
             (OsVfs::accept_missing_dir_sync)"
        );
        let error = Error::from_sync("sync_dir", path, error);
        Err(error.wrap(ErrorKind::Unsupported, text).with_operation("sync_dir"))
    }

    /// Copies a file's bytes under a new name; what a failed copy leaves is removed.
    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let mut reader = File::open(self.real(from)).map_err(|error| Error::from_io("copy", from, error))?;
        let target = self.real(to);
        let mut writer = File::create_new(&target).map_err(|error| Error::from_io("copy", to, error))?;
        let Err(error) = io::copy(&mut reader, &mut writer) else { return Ok(()) };
        let error = Error::from_io("copy", to, error);
        drop(writer);
        match fs::remove_file(&target) {
            Ok(()) => Err(error),
            Err(left) => Err(error.wrap(ErrorKind::Io, format!("a partial copy was left behind: {left}"))),
        }
    }
}

impl Vfs for OsVfs {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        let held = HeldDir::open(path, &self.real(path))?;
        Ok(Arc::new(OsVfs { held: Some(Arc::new(held)), ..(*self).clone() }))
    }

    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(self.real(path));
        let file = file.map_err(|error| Error::from_io("create", path, error))?;
        Ok(Box::new(OsWriteFile::new(file, path)))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let file = open_to_read(&self.real(path)).map_err(|error| Error::from_io("open", path, error))?;
        Ok(Arc::new(OsReadFile::new(file, path)))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        // Windows flushes only what was opened for writing.
        let file = OpenOptions::new().write(true).open(self.real(path));
        let file = file.map_err(|error| Error::from_io("sync", path, error))?;
        file.sync_data().map_err(|error| Error::from_sync("sync", path, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        if from.parent() != to.parent() {
            return Err(Error::invalid("a rename stays within its directory")
                .with_file(from)
                .with_operation("rename"));
        }
        fs::rename(self.real(from), self.real(to)).map_err(|error| Error::from_io("rename", from, error))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(self.real(path)).map_err(|error| Error::from_io("remove", path, error))
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        match fs::hard_link(self.real(from), self.real(to)) {
            Ok(()) => Ok(Copied::Linked),
            Err(error) if cannot_link(&error) => self.copy(from, to).map(|()| Copied::Copied),
            Err(error) => Err(Error::from_io("link", from, error)),
        }
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let failed = |error| Error::from_io("create_dir", path, error);
        let real = self.real(path);
        match fs::metadata(&real) {
            Ok(metadata) if metadata.is_dir() => return self.settle_existing_dir(path),
            Ok(_) => {
                return Err(Error::new(ErrorKind::Io, "the name is taken by a file")
                    .with_file(path)
                    .with_operation("create_dir"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(&real) {
            Ok(()) => {}
            // Somebody else was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && real.is_dir() => {}
            Err(error) => return Err(failed(error)),
        }
        self.sync_dir(parent_of(path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let failed = |error| Error::from_io("read_dir", path, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.real(path)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            entries.push(DirEntry { name: entry.file_name().to_string_lossy().into_owned(), is_dir });
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let opened = OpenOptions::new().write(true).custom_flags(OPENS_DIRECTORIES).open(self.real(path));
        let dir = match opened {
            Ok(dir) => dir,
            Err(error) if refuses_directories(&error) => return self.without_dir_sync(path, error),
            Err(error) => return Err(Error::from_io("sync_dir", path, error)),
        };
        match dir.sync_all() {
            Ok(()) => Ok(()),
            Err(error) if refuses_directories(&error) => self.without_dir_sync(path, error),
            Err(error) => Err(Error::from_sync("sync_dir", path, error)),
        }
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        lock::lock(self, path, mode)
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let metadata =
            fs::metadata(self.real(path)).map_err(|error| Error::from_io("metadata", path, error))?;
        let is_dir = metadata.is_dir();
        Ok(Metadata { len: if is_dir { 0 } else { metadata.len() }, is_dir })
    }

    fn available_space(&self, path: &Path) -> Result<u64> {
        fs4::available_space(self.real(path)).map_err(|error| Error::from_io("available_space", path, error))
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn wall(&self) -> UnixMillis {
        self.clock.wall()
    }

    fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration);
    }
}

/// Opens a file for reading; Windows calls it a lack of permission if it is a directory.
fn open_to_read(path: &Path) -> io::Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied if path.is_dir() => io::Error::from(io::ErrorKind::IsADirectory),
        _ => error,
    })
}

/// Reads at `offset`, perhaps less than the buffer takes.
pub(in crate::vfs::os) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}

/// Writes all of `bytes` at `offset`.
pub(in crate::vfs::os) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.seek_write(&bytes[written..], offset + written as u64) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all parts at `offset`, one after another; returns how many bytes they have.
pub(in crate::vfs::os) fn write_parts_at(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let mut end = offset;
    for part in parts {
        write_all_at(file, part, end)?;
        end += part.len() as u64;
    }
    Ok(end - offset)
}

/// Extends a file to `len` bytes with clusters of its own; `false` where the file system cannot.
pub(in crate::vfs::os) fn reserve(file: &File, len: u64) -> io::Result<bool> {
    match fs4::FileExt::allocate(file, len) {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the file `len` bytes long.
pub(in crate::vfs::os) fn set_len(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)
}

/// Windows takes such hints only as a file is opened.
pub(in crate::vfs::os) fn advise(_file: &File, _advice: Advice, _offset: u64, _len: u64) {}

/// Opens a lock file, which an exclusive lock creates, so that its name cannot change while it is open.
pub(in crate::vfs::os) fn open_lock_file(vfs: &OsVfs, path: &Path, mode: LockMode) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).share_mode(SHARE_BUT_KEEP);
    if mode == LockMode::Exclusive {
        options.write(true).create(true);
    }
    options.open(vfs.real(path)).map_err(|error| Error::from_io("lock", path, error))
}

/// Tells whether the name `path` still leads to the open file: it does while it is there at all, as nobody could put
/// another file in the place of one that is open.
pub(in crate::vfs::os) fn is_current(vfs: &OsVfs, path: &Path, _file: &File) -> Result<bool> {
    match fs::metadata(vfs.real(path)) {
        Ok(metadata) => Ok(metadata.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::from_io("lock", path, error)),
    }
}

/// Tells whether a failed lock means that the file system, or its server, has none.
pub(in crate::vfs::os) fn lacks_ability(error: &io::Error) -> bool {
    is_unsupported(error)
}

/// Tells whether a call failed because the file system has no such ability, and not because the disk failed.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(INVALID_FUNCTION | INVALID_HANDLE | NOT_SUPPORTED | INVALID_PARAMETER)
    )
}

/// Tells whether a file system opens no directory for writing, or flushes none.
fn refuses_directories(error: &io::Error) -> bool {
    is_unsupported(error) || error.raw_os_error() == Some(ACCESS_DENIED)
}

/// Tells whether a failed link only means that this disk, or this file, takes no further name.
fn cannot_link(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(INVALID_FUNCTION | ACCESS_DENIED | NOT_SAME_DEVICE | NOT_SUPPORTED | TOO_MANY_LINKS)
    )
}
