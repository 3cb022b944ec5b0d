//! The real disk and clock.
//!
//! Owns every call to the operating system's files and clocks: nothing else in the engine names `std::fs` or
//! `std::time::Instant`. Promises the contract of [`crate::vfs`] on a file system that keeps it.
//!
//! How: one file descriptor per handle, positioned reads and writes, so that no two calls share an offset.
//! A write handle keeps its own logical end and does not use `O_APPEND`, because preallocation moves the
//! system's idea of the end ahead of ours. `sync` is `fdatasync`, which covers the bytes, the length and
//! the block map; a directory is synced through a descriptor opened for that. Interrupted calls and short
//! writes are continued here; short reads are passed on, as the trait allows.
//!
//! It does not cache, retry errors, use memory maps or bypass the page cache. Unix only.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file is the one door to the real disk and the real clock"
)]

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::time::UnixMillis;
use crate::vfs::{Advice, Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Parts of one system call. The system takes 1024; this many fit the stack in one kilobyte.
const PARTS_PER_CALL_MAX: usize = 64;

/// The disk and clocks of this machine.
///
/// Cheap to clone; clones share the origin of [`Vfs::now`].
#[derive(Clone, Debug)]
pub struct OsVfs {
    clock: OsClock,
}

impl OsVfs {
    /// Opens the door to the real disk. Touches nothing.
    pub fn new() -> OsVfs {
        OsVfs { clock: OsClock::new() }
    }
}

impl Default for OsVfs {
    fn default() -> OsVfs {
        OsVfs::new()
    }
}

/// The clocks of this machine.
#[derive(Clone, Debug)]
pub(in crate::vfs) struct OsClock {
    origin: Instant,
}

impl OsClock {
    /// Starts a monotonic clock at zero.
    pub(in crate::vfs) fn new() -> OsClock {
        OsClock { origin: Instant::now() }
    }

    /// Returns nanoseconds since [`OsClock::new`].
    pub(in crate::vfs) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the wall clock, before 1970 as a negative number.
    pub(in crate::vfs) fn wall(&self) -> UnixMillis {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        UnixMillis(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        })
    }

    /// Blocks this thread for at least `duration`.
    pub(in crate::vfs) fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

impl Vfs for OsVfs {
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| Error::from_io("create", path, error))?;
        Ok(Box::new(OsWriteFile { file, path: path.to_owned(), len: 0, is_broken: false }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let file = File::open(path).map_err(|error| Error::from_io("open", path, error))?;
        Ok(Arc::new(OsReadFile { file, path: path.to_owned() }))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        // A descriptor opened for reading is enough: the system syncs the file, not the descriptor.
        File::open(path)
            .and_then(|file| file.sync_data())
            .map_err(|error| Error::from_io("sync", path, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        if from.parent() != to.parent() {
            return Err(Error::invalid("a rename stays within its directory")
                .with_file(from)
                .with_operation("rename"));
        }
        fs::rename(from, to).map_err(|error| Error::from_io("rename", from, error))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|error| Error::from_io("remove", path, error))
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        match fs::hard_link(from, to) {
            Ok(()) => Ok(Copied::Linked),
            Err(error) if cannot_link(&error) => copy(from, to).map(|()| Copied::Copied),
            Err(error) => Err(Error::from_io("link", from, error)),
        }
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return settle_existing_dir(path),
            Ok(_) => {
                return Err(Error::new(ErrorKind::Io, "the name is taken by a file")
                    .with_file(path)
                    .with_operation("create_dir"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::from_io("create_dir", path, error)),
        }
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(path) {
            Ok(()) => {}
            // Somebody else was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(Error::from_io("create_dir", path, error)),
        }
        self.sync_dir(parent_of(path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let failed = |error| Error::from_io("read_dir", path, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            entries.push(DirEntry { name, is_dir });
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        File::open(path)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| Error::from_io("sync_dir", path, error))
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        let failed = |error| Error::from_io("lock", path, error);
        let (file, outcome) = match mode {
            LockMode::Exclusive => {
                let mut options = OpenOptions::new();
                let file = options.read(true).write(true).create(true).truncate(false).open(path);
                let file = file.map_err(failed)?;
                let outcome = file.try_lock();
                (file, outcome)
            }
            LockMode::Shared => {
                let file = File::open(path).map_err(failed)?;
                let outcome = file.try_lock_shared();
                (file, outcome)
            }
        };
        match outcome {
            Ok(()) => Ok(Box::new(OsDirLock { _file: file })),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::Locked, "another process or handle has the database open")
                    .with_file(path)
                    .with_operation("lock"))
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let metadata = fs::metadata(path).map_err(|error| Error::from_io("metadata", path, error))?;
        Ok(Metadata { len: if metadata.is_dir() { 0 } else { metadata.len() }, is_dir: metadata.is_dir() })
    }

    fn available_space(&self, path: &Path) -> Result<u64> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|errno| Error::from_io("available_space", path, io::Error::from(errno)))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
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

/// Returns the directory that holds `path`'s name; a bare name lives in the current one.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Makes the name of a directory that was found durable: a process killed between creating and syncing it
/// would have left a database whose very directory a power cut takes away.
fn settle_existing_dir(path: &Path) -> Result<()> {
    let parent = parent_of(path);
    match File::open(parent) {
        Ok(dir) => dir.sync_all().map_err(|error| Error::from_io("sync_dir", parent, error)),
        // Where we may not read the parent we did not create the directory either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(Error::from_io("sync_dir", parent, error)),
    }
}

/// Tells whether a failed link only means that this disk, or this file, takes no further name.
fn cannot_link(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::XDEV, Errno::MLINK, Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Copies a file's bytes under a new name; what a failed copy leaves is removed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|error| Error::from_io("copy", from, error))?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(|error| Error::from_io("copy", to, error))?;
    let Err(error) = io::copy(&mut source, &mut target) else { return Ok(()) };
    let error = Error::from_io("copy", to, error);
    match fs::remove_file(to) {
        Ok(()) => Err(error),
        Err(left) => Err(error.wrap(ErrorKind::Io, format!("a partial copy was left behind: {left}"))),
    }
}

/// Holds an advisory lock of the system, which ends with the descriptor.
struct OsDirLock {
    _file: File,
}

impl DirLock for OsDirLock {}

struct OsWriteFile {
    file: File,
    path: PathBuf,
    /// The logical end: where the next append goes, whatever is allocated behind it.
    len: u64,
    /// Set by a failed append, which leaves the end unknown.
    is_broken: bool,
}

impl OsWriteFile {
    fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::from_io(operation, &self.path, source).with_offset(self.len)
    }

    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<u64> {
        if let [part] = parts {
            self.file.write_all_at(part, self.len)?;
            return Ok(part.len() as u64);
        }
        let mut offset = self.len;
        for group in parts.chunks(PARTS_PER_CALL_MAX) {
            offset += write_group(&self.file, group, offset)?;
        }
        Ok(offset - self.len)
    }
}

impl WriteFile for OsWriteFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        if self.is_broken {
            return Err(Error::new(ErrorKind::Io, "an earlier append failed")
                .with_file(&self.path)
                .with_operation("append"));
        }
        match self.write_parts(parts) {
            Ok(written) => {
                self.len += written;
                Ok(())
            }
            Err(error) => {
                self.is_broken = true;
                Err(self.error("append", error))
            }
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|error| self.error("sync", error))
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn allocate(&mut self, len: u64) -> Result<()> {
        if len <= self.len {
            return Ok(());
        }
        reserve(&self.file, len).map_err(|error| self.error("allocate", error))
    }
}

/// Writes up to [`PARTS_PER_CALL_MAX`] parts at `offset`, all of them; returns how many bytes they have.
#[cfg(not(any(target_vendor = "apple", target_os = "solaris")))]
fn write_group(file: &File, group: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let mut slots = [IoSlice::new(&[]); PARTS_PER_CALL_MAX];
    slots[..group.len()].copy_from_slice(group);
    let mut left = &mut slots[..group.len()];
    let mut written = 0;
    // Advancing by nothing drops empty parts in front, so that a call that writes nothing is a fault.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match rustix::io::pwritev(file, left, offset + written) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(count) => {
                written += count as u64;
                IoSlice::advance_slices(&mut left, count);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno)),
        }
    }
    Ok(written)
}

/// Writes the parts one after another, where the system has no vectored positioned write.
#[cfg(any(target_vendor = "apple", target_os = "solaris"))]
fn write_group(file: &File, group: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let mut written = 0;
    for part in group {
        file.write_all_at(part, offset + written)?;
        written += part.len() as u64;
    }
    Ok(written)
}

/// Extends a file to `len` bytes with blocks of its own; a disk that cannot is left alone.
#[cfg(target_os = "linux")]
fn reserve(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno)),
        }
    }
}

/// Reserving is optional, and only Linux does it in one call.
#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _len: u64) -> io::Result<()> {
    Ok(())
}

struct OsReadFile {
    file: File,
    path: PathBuf,
}

impl ReadFile for OsReadFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_io("read", &self.path, error).with_offset(offset)),
            }
        }
    }

    fn len(&self) -> Result<u64> {
        match self.file.metadata() {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(Error::from_io("len", &self.path, error)),
        }
    }

    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        advise(&self.file, advice, offset, len);
    }
}

#[cfg(target_os = "linux")]
fn advise(file: &File, advice: Advice, offset: u64, len: u64) {
    use rustix::fs::Advice as Hint;
    let hint = match advice {
        Advice::Random => Hint::Random,
        Advice::Sequential => Hint::Sequential,
        Advice::WillNeed => Hint::WillNeed,
    };
    // A length of nothing means "to the end" to the system; here it means nothing.
    let Some(len) = std::num::NonZeroU64::new(len) else { return };
    // A refused hint changes only speed, and the caller has asked for no answer.
    let _ = rustix::fs::fadvise(file, offset, Some(len), hint);
}

#[cfg(not(target_os = "linux"))]
fn advise(_file: &File, _advice: Advice, _offset: u64, _len: u64) {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn many_parts_and_empty_ones_arrive_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..200u8).collect();
        let mut parts = vec![IoSlice::new(&[])];
        for byte in bytes.chunks(1) {
            parts.push(IoSlice::new(byte));
            parts.push(IoSlice::new(&[]));
        }
        let mut file = OsVfs::new().create_new(&path).unwrap();
        file.append(&parts).unwrap();
        file.append(&[]).unwrap();
        file.append(&parts[..1]).unwrap();
        assert_eq!(file.len(), 200);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn failed_append_breaks_the_handle() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let file = OpenOptions::new().write(true).open(full).unwrap();
        let mut file = OsWriteFile { file, path: full.to_owned(), len: 0, is_broken: false };
        let error = file.append(&[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(file.append(&[]).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(file.len(), 0);
    }

    #[test]
    fn a_copy_stands_in_where_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&from, b"bytes").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"bytes");
        assert_eq!(copy(&from, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(cannot_link(&io::Error::from_raw_os_error(rustix::io::Errno::XDEV.raw_os_error())));
        assert!(!cannot_link(&io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error())));
    }

    #[test]
    fn relative_names_find_their_directory() {
        assert_eq!(parent_of(Path::new("db")), Path::new("."));
        assert_eq!(parent_of(Path::new("a/db")), Path::new("a"));
        assert_eq!(parent_of(Path::new("/")), Path::new("/"));
    }
}
