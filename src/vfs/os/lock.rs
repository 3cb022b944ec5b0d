//! The lock of a database directory: the system's lock of its lock file (`flock`, `LockFileEx`).
//!
//! Promises that a guard's lock is on the file that had the name when it was taken: between opening a file and locking
//! it somebody may remove the name or put another file there, and two holders would each have a file of their own. So
//! the name is looked at again once the lock is held, and here and in [`DirLock::check`] it must lead to the same file.
//!
//! The system counts a lock as held while any descriptor of the opened file lives, those of forked children included.
//! So the process that took it unlocks explicitly, and a child never does: its copy only closes.

use crate::base::error::{Error, ErrorKind, Result};
use crate::sync::process_id;
use crate::vfs::os::OsVfs;
use crate::vfs::os::system::{is_current, lacks_ability, open_lock_file};
use crate::vfs::{DirLock, LockMode};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// How often a lock file may vanish between being opened and being locked. Others do that only as they remove or
/// replace a database, so more than a few times in a row is a mistake of theirs.
const LOCK_ATTEMPTS_MAX: usize = 8;

/// Locks the file `path`, which an exclusive lock creates.
pub(in crate::vfs::os) fn lock(vfs: &OsVfs, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let file = open_lock_file(vfs, path, mode)?;
        let is_locked = try_lock(&file, path, mode, vfs.accepts.missing_locks)?;
        let mut lock = OsDirLock::held(file, vfs, path);
        lock.is_locked = is_locked;
        if lock.is_current()? {
            return Ok(Box::new(lock));
        }
    }
    Err(Error::new(ErrorKind::Io, "the lock file is removed or replaced again and again")
        .with_file(path)
        .with_operation("lock"))
}

/// Locks an open file; `false` where the file system has no locks and that is accepted.
pub(in crate::vfs::os) fn try_lock(
    file: &File,
    path: &Path,
    mode: LockMode,
    accepts_missing: bool,
) -> Result<bool> {
    loop {
        let outcome = match mode {
            LockMode::Exclusive => file.try_lock(),
            LockMode::Shared => file.try_lock_shared(),
        };
        let error = match outcome {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {
                let text = "another process or handle has the database open";
                return Err(Error::new(ErrorKind::Locked, text).with_file(path).with_operation("lock"));
            }
            Err(TryLockError::Error(error)) => error,
        };
        if error.kind() == io::ErrorKind::Interrupted {
            continue;
        }
        if !lacks_ability(&error) {
            return Err(Error::from_io("lock", path, error));
        }
        if accepts_missing {
            return Ok(false);
        }
        let text = format!(
            "this file system cannot lock files ({error}); an application can go without if nothing else opens the \
             database (OsVfs::accept_missing_locks)"
        );
        let error = Error::from_io("lock", path, error);
        return Err(error.wrap(ErrorKind::Unsupported, text).with_operation("lock"));
    }
}

/// Holds the lock; it ends with this guard or the process that took it.
pub(in crate::vfs::os) struct OsDirLock {
    file: File,
    /// The disk as the lock's path is to be read.
    vfs: OsVfs,
    path: PathBuf,
    /// Who took it.
    pub(in crate::vfs::os) process: u32,
    /// Whether there is something to unlock.
    is_locked: bool,
}

impl OsDirLock {
    /// Takes over a file that this process has locked.
    pub(in crate::vfs::os) fn held(file: File, vfs: &OsVfs, path: &Path) -> OsDirLock {
        OsDirLock { file, vfs: vfs.clone(), path: path.to_owned(), process: process_id(), is_locked: true }
    }

    /// Tells whether the name still leads to the locked file.
    fn is_current(&self) -> Result<bool> {
        is_current(&self.vfs, &self.path, &self.file)
    }

    fn error(&self, kind: ErrorKind, text: &str) -> Error {
        Error::new(kind, text).with_file(&self.path).with_operation("lock")
    }
}

impl DirLock for OsDirLock {
    fn check(&self) -> Result<()> {
        if self.is_current()? {
            return Ok(());
        }
        Err(self.error(ErrorKind::Io, "the lock file was removed or replaced while the lock was held"))
    }

    fn release(mut self: Box<Self>) -> Result<()> {
        if process_id() != self.process {
            return Err(self
                .error(ErrorKind::Closed, "the lock belongs to the process that this one was forked from"));
        }
        if !std::mem::take(&mut self.is_locked) {
            return Ok(());
        }
        self.file.unlock().map_err(|error| Error::from_io("unlock", &self.path, error))
    }
}

impl Drop for OsDirLock {
    fn drop(&mut self) {
        if self.is_locked && process_id() == self.process {
            // Nobody is there to hear of an error, and closing the descriptor unlocks too unless a child has a copy.
            let _ = self.file.unlock();
        }
    }
}
