//! The lock of a database directory: the system's lock of its lock file (`flock`, `LockFileEx`).
//!
//! Promises that a guard's lock is on the file that had the name when it was taken: between opening a file and locking
//! it somebody may remove the name or put another file there, and two holders would each have a file of their own. So
//! the name is looked at again once the lock is held, and here and in [`DirLock::check`] it must lead to the same file.
//!
//! The system counts a lock as held while any descriptor of the opened file lives, those of forked children included.
//! So the process that took it unlocks explicitly, and a child never does: its copy only closes.
//!
//! Whoever locks it for itself leaves its process's number in the file, as [`lock_mark`] has it, for the one who is
//! refused. Nothing depends on it: on a full disk it is left out, and a file that somebody else wrote keeps its bytes.

use crate::base::error::{Error, ErrorKind, Result};
use crate::sync::process_id;
use crate::vfs::lock_mark;
use crate::vfs::os::OsVfs;
use crate::vfs::os::system::{is_current, lacks_ability, open_lock_file};
use crate::vfs::{DirLock, LockMode};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How often a lock file may vanish between being opened and being locked. Others do that only as they remove or
/// replace a database, so more than a few times in a row is a mistake of theirs.
const LOCK_ATTEMPTS_MAX: usize = 8;

/// Locks the file `path`, which an exclusive lock creates.
pub(in crate::vfs::os) fn lock(vfs: &OsVfs, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let file = open_lock_file(vfs, path, mode).map_err(|error| with_way_out(error, mode))?;
        let is_locked = try_lock(&file, path, mode, vfs.accepts.missing_locks)?;
        let mut lock = OsDirLock::held(file, vfs, path);
        lock.is_locked = is_locked;
        if lock.is_current()? {
            if mode == LockMode::Exclusive {
                // Whether it is there makes a difference to people only.
                let _ = mark(&lock.file, lock.process);
            }
            return Ok(Box::new(lock));
        }
    }
    Err(Error::new(ErrorKind::Io, "the lock file is removed or replaced again and again")
        .with_file(path)
        .with_operation("lock"))
}

/// Says of a directory that cannot be written what goes there all the same.
fn with_way_out(error: Error, mode: LockMode) -> Error {
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
    let is_denied = cause.is_some_and(|cause| {
        matches!(cause.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    });
    if mode == LockMode::Shared || !is_denied {
        return error;
    }
    error.with_remark(
        "a database that cannot be written can still be opened for reading only (open_read_only)",
    )
}

/// Leaves the number of the process that holds the lock in the file, unless somebody else's bytes are there.
fn mark(mut file: &File, process: u32) -> io::Result<()> {
    let (len, mut bytes) = (file.metadata()?.len(), Vec::new());
    // A power cut may have kept the length and not the bytes.
    file.take(lock_mark::LEN_BYTES as u64).read_to_end(&mut bytes)?;
    let is_free = len <= lock_mark::LEN_BYTES as u64 && bytes.iter().all(|byte| *byte == 0);
    if !is_free && read_mark(file)?.is_none() {
        return Ok(());
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(lock_mark::encode(process).as_bytes())
}

/// Returns the process that left its number in the file last; `None` if the file says something else.
fn read_mark(mut file: &File) -> io::Result<Option<u32>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(lock_mark::LEN_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(lock_mark::decode(&bytes))
}

/// Says that others hold the lock, and who took it last for itself: it is one of them, or the holders only read.
fn is_held(file: &File) -> String {
    let text = "another process or handle has the database open";
    match read_mark(file) {
        Ok(Some(process)) if process == process_id() => {
            format!("{text}; this process itself, {process}, was the last to open it for writing")
        }
        Ok(Some(process)) => format!("{text}; process {process} was the last to open it for writing"),
        // Unreadable as well: some systems let nobody read what is locked.
        Ok(None) | Err(_) => text.to_owned(),
    }
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
                return Err(Error::new(ErrorKind::Locked, is_held(file))
                    .with_file(path)
                    .with_operation("lock"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_can_be_read() {
        let denied = |kind| Error::from_io("lock", Path::new("db/LOCK"), io::Error::from(kind));
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            let text = |mode| with_way_out(denied(kind), mode).to_string();
            assert!(text(LockMode::Exclusive).ends_with("for reading only (open_read_only)"));
            assert!(!text(LockMode::Shared).contains("open_read_only"));
        }
        let other = with_way_out(denied(io::ErrorKind::NotADirectory), LockMode::Exclusive);
        assert!(!other.to_string().contains("open_read_only"));
    }

    #[test]
    fn a_mark_overwrites_a_mark_and_nothing_else() {
        let mut file = tempfile::tempfile().expect("a temporary file can be made");
        for process in [u32::MAX, 7] {
            mark(&file, process).expect("it is written");
            assert_eq!(read_mark(&file).expect("it is read"), Some(process));
            assert_eq!(file.metadata().expect("it is there").len(), lock_mark::LEN_BYTES as u64);
        }
        file.write_all(b"more").expect("it is written");
        mark(&file, 8).expect("nothing fails");
        assert_eq!(read_mark(&file).expect("it is read"), None);
        assert_eq!(file.metadata().expect("it is there").len(), lock_mark::LEN_BYTES as u64 + 4);
    }
}
