//! Disk and clock, behind one trait.
//!
//! Everything the engine reads, writes or times goes through [`Vfs`]: [`os::OsVfs`] in production,
//! [`mem::MemVfs`] in memory, and the simulated disk of the crate `tinylsm-sim`, which loses power.
//!
//! # The durability contract
//!
//! What an implementation promises, and all that the engine relies on:
//!
//! - **Bytes.** [`WriteFile::append`] makes bytes visible to every reader at once and durable never. Bytes and
//!   length are durable when a [`WriteFile::sync`] that *began* after the append returned has itself returned
//!   `Ok`. Until then a crash keeps any part of them, in any order, and may leave zeros or stale bytes inside
//!   the new length.
//! - **Names.** Creating, renaming, linking and removing are visible at once and durable when a
//!   [`Vfs::sync_dir`] of that directory, begun afterwards, has returned `Ok`. Syncing a *file* does not make
//!   its name durable. Before that, a crash keeps any of them, later ones without earlier ones included.
//! - **Rename** within a directory replaces atomically: a crash leaves the old or the new file.
//! - **A failed sync** says nothing about what is on disk, and a later `Ok` from the same file does not mend
//!   it: the system may have dropped the bytes. No caller may retry it as if it could.
//! - **A sync that did not begin** fails with [`ErrorKind::Exhausted`]: there was no descriptor or memory to ask the
//!   disk at all. Nothing was lost by it, and it may be asked for again. No other error of a sync means that.
//! - **Space that was allocated** and not written reads as zeros, and so does whatever lies between the logical and the
//!   physical end of a file. It is part of the file's length: durable by a sync, kept or lost by a crash before that.
//! - **Trimming** gives such space back. It is visible at once and durable when a sync of the file, begun afterwards,
//!   has returned `Ok`; until then a crash may bring any part of that space back, as zeros. It never touches a byte
//!   that was appended.
//! - **A killed process** loses nothing that `append` accepted.
//! - **A held directory** ([`Vfs::hold_dir`]) is that very directory, whatever is renamed, removed or put in its place
//!   meanwhile, and whatever the process's current directory is. A lock can be asked whether its file is still the
//!   one with that name ([`DirLock::check`]).
//! - Overwriting in place, cutting off what was appended and memory maps do not exist here, which is what keeps the
//!   fault model small.
//!
//! What a file system cannot do at all (lock files, sync directories) is [`ErrorKind::Unsupported`], and
//! [`os::OsVfs`] has an option for each that says what is lost without it. Reserving space is optional: a file system
//! that cannot just does nothing.
//!
//! Errors carry operation, path, offset and the system's code. [`ErrorKind::Exhausted`] may come from every call that
//! opens something and means that nothing was done. No call panics on what a disk does.
//!
//! # Paths
//!
//! The engine uses the directory that it was given to open, exactly as it was given, and names directly below it, made by
//! [`Path::join`]: no deeper ones, no `.`, no `..`, no symbolic links of its own. The names are ASCII without separators:
//! `CURRENT`, `LOCK`, `RESERVE`, `MANIFEST-000001`, `000002.wal`, `000003.sst` and their like. The directory may be relative, to
//! what the disk says, and may be missing: then the engine creates it, with its parents. It is the same for a disk that
//! knows no directories but one, which may read paths as opaque names.
//!
//! # A disk of one's own
//!
//! - One that changes a few calls of another (counts, delays, encrypts) implements [`wrap::VfsWrapper`], all of whose methods
//!   forward to the one inside, and overrides what it changes.
//! - One made from scratch implements [`Vfs`], [`WriteFile`], [`ReadFile`] and [`DirLock`]. What the engine rarely calls or can
//!   do without has a default; [`hold_by_name`] is what [`Vfs::hold_dir`] does where directories are never moved. The clock is
//!   [`crate::sync::time`], or [`os::OsClock`], unless the disk has its own.
//! - Either one is checked by `tinylsm_sim::contract::check`, which tests every promise below, and runs inside a simulation if
//!   its locks are those of [`crate::sync`].
//!
//! [`ErrorKind::Exhausted`]: crate::base::error::ErrorKind::Exhausted
//! [`ErrorKind::Unsupported`]: crate::base::error::ErrorKind::Unsupported

pub mod final_sync;
pub mod lock_mark;
pub mod mem;
pub mod os;
pub mod wrap;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::time::UnixMillis;
use crate::sync::{thread, time};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that a copy moves at once.
const COPY_BYTES: usize = 64 << 10;

/// A disk and a clock.
pub trait Vfs: Send + Sync + 'static {
    /// Opens the directory `path` and returns a view of this disk that keeps it.
    ///
    /// In the view, `path` exactly as given here, the absolute path that it had, and every name below them mean that
    /// very directory, whatever becomes of its own name; all other paths are read as this disk reads them. Syncing
    /// the directory through the view opens nothing. A relative `path` is resolved here, once. The directory stays
    /// open while the view, or a lock taken through it, lives.
    ///
    /// # Errors
    /// `NotFound`; `Exhausted`; `Io`, also if `path` is not a directory.
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>>;

    /// Creates an empty file for appending.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken; `NotFound` if the directory is missing; `NoSpace`; `Io`.
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>>;

    /// Makes the bytes that a file holds now durable, whoever appended them.
    ///
    /// # Errors
    /// `NotFound`, `Exhausted`: the sync did not begin. Others as [`WriteFile::sync`].
    fn sync_file(&self, path: &Path) -> Result<()>;

    /// Syncs each of `files`; a disk that can do many at once does. Opens nothing. May take the longer the more other
    /// files of the same file system wait to be written.
    ///
    /// # Errors
    /// As [`WriteFile::sync`], for one of the files; which of the others are synced is not known.
    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        files.iter_mut().try_for_each(|file| file.sync())
    }

    /// Renames a file within one directory, replacing what has the new name.
    ///
    /// # Errors
    /// `NotFound`; `NoSpace`; `Io`. After an error either name may show the file.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file's name; open handles go on reading it.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn remove_file(&self, path: &Path) -> Result<()>;

    /// Gives a file a second name, or copies its bytes where the disk has no links, which is the default. A copy is not
    /// synced.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists`; `NoSpace`; `Io`.
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        let source = self.open(from)?;
        let mut target = self.create_new(to)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = read_full(source.as_ref(), &mut buffer, target.len())?;
            if count == 0 {
                return Ok(Copied::Copied);
            }
            target.append(&[IoSlice::new(&buffer[..count])])?;
        }
    }

    /// Creates a directory and its missing parents; `Ok` if it is there. The names of new directories are
    /// durable when this returns.
    ///
    /// # Errors
    /// `NoSpace`; `Exhausted`; `Unsupported` as [`Vfs::sync_dir`]; `Io`.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// Lists a directory, sorted by name. Either everything or an error.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// `NotFound`, `Exhausted`: the sync did not begin, which cannot be in a directory that is held. `Unsupported` if
    /// the file system cannot sync directories. Others as [`WriteFile::sync`].
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Locks a database directory through its lock file until the returned guard is released or drops, or the process
    /// ends. [`LockMode::Exclusive`] creates the file if it is missing, and may leave a note in an empty one for whoever is
    /// refused; [`LockMode::Shared`] changes no byte. When it returns, the locked file has the name `path`.
    ///
    /// # Errors
    /// `Locked` at once if another holder is in the way, in this process or another; `NotFound`; `Exhausted`;
    /// `Unsupported` if the file system cannot lock files; `Io`.
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>>;

    /// Tells length and type of what has a name.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn metadata(&self, path: &Path) -> Result<Metadata>;

    /// Returns how many bytes the disk behind `path` can still take. By default a disk has no end.
    ///
    /// # Errors
    /// `Io`.
    fn available_space(&self, path: &Path) -> Result<u64> {
        let _ = path;
        Ok(ENDLESS_SPACE_BYTES)
    }

    /// Returns nanoseconds of a clock that never goes back; its origin means nothing. By default [`crate::sync::time`]'s.
    fn now(&self) -> u64 {
        time::Instant::now().as_nanos()
    }

    /// Returns the wall clock, which may jump either way. By default [`crate::sync::time`]'s.
    fn wall(&self) -> UnixMillis {
        time::wall()
    }

    /// Sleeps at least `duration` of [`Vfs::now`].
    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// What [`Vfs::available_space`] says of a disk that has no end.
pub const ENDLESS_SPACE_BYTES: u64 = 1 << 60;

/// Holds a directory ([`Vfs::hold_dir`]) of a disk whose directories are never moved or replaced: the disk itself is the view.
///
/// # Errors
/// `NotFound`; `Io` if `path` is not a directory; what looking it up met.
pub fn hold_by_name<V: Vfs>(disk: Arc<V>, path: &Path) -> Result<Arc<dyn Vfs>> {
    if disk.metadata(path)?.is_dir {
        return Ok(disk);
    }
    Err(Error::new(ErrorKind::Io, "not a directory").with_file(path).with_operation("hold_dir"))
}

/// A file being written, front to back, by one owner.
pub trait WriteFile: Send {
    /// Appends all of `parts` behind what this handle appended before, and returns when readers see them.
    /// The caller may reuse the buffers afterwards.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: any prefix of the bytes may be in the file; no more may be appended.
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()>;

    /// Makes every byte appended before this call, and the length, durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing is known about bytes not synced before, forever. Never `Exhausted`: the file is open.
    fn sync(&mut self) -> Result<()>;

    /// Returns how many bytes were appended: the logical end, whatever was allocated ahead of it.
    fn len(&self) -> u64;

    /// Tells whether nothing was appended.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reserves space so that the file is at least `len` bytes long, zeros behind the logical end; a later
    /// append inside it does not meet a full disk. Best effort: a disk that cannot reserve does nothing, which is the
    /// default. After an error the file is as it was before the call, and appending may go on.
    ///
    /// # Errors
    /// `NoSpace`; `Io`, also after a failed append.
    fn allocate(&mut self, len: u64) -> Result<()> {
        let _ = len;
        Ok(())
    }

    /// Returns how long the file is, what was allocated ahead included, as far as this handle knows: a disk that cannot
    /// reserve allocates nothing.
    fn allocated_len(&self) -> u64 {
        self.len()
    }

    /// Gives back what lies behind the logical end: what was allocated and not used, and what a failed append left. Nothing
    /// by default, which is right where neither ever lies there.
    ///
    /// # Errors
    /// `Io`: nothing, or all of it, was given back. What was appended stays.
    fn trim(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A file open for reading.
pub trait ReadFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer is legal, none means the end of the file.
    ///
    /// # Errors
    /// `Io`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// Returns the file's length in bytes.
    ///
    /// # Errors
    /// `Io`.
    fn len(&self) -> Result<u64>;

    /// Tells whether the file has no byte.
    ///
    /// # Errors
    /// As [`ReadFile::len`].
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Hints how `len` bytes from `offset` will be read. May do nothing, which is the default.
    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        let _ = (advice, offset, len);
    }
}

/// Reads until `buffer` is full or the file ends; returns how many bytes were read.
///
/// # Errors
/// As [`ReadFile::read_at`].
pub fn read_full(file: &dyn ReadFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let count = file.read_at(&mut buffer[filled..], offset + filled as u64)?;
        if count == 0 {
            break;
        }
        filled += count;
    }
    Ok(filled)
}

/// Holds a directory's lock while it lives.
///
/// Dropping it frees the lock in the process that took it. In a forked child, dropping does nothing: the lock is the
/// parent's.
pub trait DirLock: Send + Sync {
    /// Checks that the locked file is still the one with the lock's name, in the directory as it was held when the
    /// lock was taken.
    ///
    /// # Errors
    /// `Io` if the file was removed or replaced, or could not be looked at.
    fn check(&self) -> Result<()>;

    /// Frees the lock, also where a forked child has a copy of the descriptor.
    ///
    /// # Errors
    /// `Closed` in a forked child, where nothing is done; `Io` if the system refuses, in which case the lock is free
    /// once no descriptor of its file is left.
    fn release(self: Box<Self>) -> Result<()>;
}

/// Who else may hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody.
    Exclusive,
    /// Other shared holders.
    Shared,
}

/// How [`Vfs::link_or_copy`] did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Both names show one file.
    Linked,
    /// The bytes were copied, and are not yet durable.
    Copied,
}

/// How bytes will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Here and there.
    Random,
    /// Front to back.
    Sequential,
    /// Soon.
    WillNeed,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, without its directory. Names that are not UTF-8 are shown with replacement characters.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Length in bytes, allocated zeros included.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}
