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
//! - **A killed process** loses nothing that `append` accepted.
//! - Overwriting in place, truncating and memory maps do not exist here, which is what keeps the fault model
//!   small.
//!
//! Errors carry operation, path, offset and the system's code. No call panics on what a disk does.

pub mod final_sync;
pub mod mem;
pub mod os;

use crate::base::error::Result;
use crate::base::time::UnixMillis;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A disk and a clock.
pub trait Vfs: Send + Sync + 'static {
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
    /// As [`WriteFile::sync`].
    fn sync_file(&self, path: &Path) -> Result<()>;

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

    /// Gives a file a second name, or copies its bytes where the disk has no links. A copy is not synced.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists`; `NoSpace`; `Io`.
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied>;

    /// Creates a directory and its missing parents; `Ok` if it is there. The names of new directories are
    /// durable when this returns.
    ///
    /// # Errors
    /// `NoSpace`; `Io`.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// Lists a directory, sorted by name. Either everything or an error.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As [`WriteFile::sync`].
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Locks a database directory through its lock file until the returned guard drops or the process ends.
    /// [`LockMode::Exclusive`] creates the file if it is missing; [`LockMode::Shared`] changes no byte.
    ///
    /// # Errors
    /// `Locked` at once if another holder is in the way, in this process or another; `NotFound`; `Io`.
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>>;

    /// Tells length and type of what has a name.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn metadata(&self, path: &Path) -> Result<Metadata>;

    /// Returns how many bytes the disk behind `path` can still take.
    ///
    /// # Errors
    /// `Io`.
    fn available_space(&self, path: &Path) -> Result<u64>;

    /// Returns nanoseconds of a clock that never goes back; its origin means nothing.
    fn now(&self) -> u64;

    /// Returns the wall clock, which may jump either way.
    fn wall(&self) -> UnixMillis;

    /// Sleeps at least `duration`.
    fn sleep(&self, duration: Duration);
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
    /// `NoSpace`, `Io`: nothing is known about bytes not synced before, for ever.
    fn sync(&mut self) -> Result<()>;

    /// Returns how many bytes were appended: the logical end, whatever was allocated ahead of it.
    fn len(&self) -> u64;

    /// Tells whether nothing was appended.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reserves space so that the file is at least `len` bytes long, zeros behind the logical end; a later
    /// append inside it does not meet a full disk. A disk that cannot reserve may do nothing.
    ///
    /// # Errors
    /// `NoSpace`; `Io`. What was appended stays.
    fn allocate(&mut self, len: u64) -> Result<()>;

    /// Gives back what was allocated behind the logical end.
    ///
    /// # Errors
    /// `Io`. What was appended stays.
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

    /// Hints how `len` bytes from `offset` will be read. May do nothing.
    fn advise(&self, advice: Advice, offset: u64, len: u64);
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
pub trait DirLock: Send + Sync {}

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
