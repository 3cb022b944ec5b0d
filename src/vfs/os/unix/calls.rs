//! What handles and locks ask of the system, by descriptor.

use crate::base::error::Result;
use crate::vfs::os::OsVfs;
use crate::vfs::{Advice, LockMode};
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Parts of one system call. The system takes 1024; this many fit the stack in one kilobyte.
const PARTS_PER_CALL_MAX: usize = 64;

/// Reads at `offset`, perhaps less than the buffer takes.
pub(in crate::vfs::os) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

/// Writes all of `bytes` at `offset`.
pub(in crate::vfs::os) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Writes all parts at `offset`; returns how many bytes they have.
pub(in crate::vfs::os) fn write_parts_at(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let mut end = offset;
    for group in parts.chunks(PARTS_PER_CALL_MAX) {
        end += write_group(file, group, end)?;
    }
    Ok(end - offset)
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

/// Extends a file to `len` bytes with blocks of its own; `false` where the file system cannot, which changes nothing.
#[cfg(target_os = "linux")]
pub(in crate::vfs::os) fn reserve(file: &File, len: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(true),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno)),
        }
    }
}

/// Reserving is optional, and only Linux does it in one call.
#[cfg(not(target_os = "linux"))]
pub(in crate::vfs::os) fn reserve(_file: &File, _len: u64) -> io::Result<bool> {
    Ok(false)
}

/// Makes the file `len` bytes long.
pub(in crate::vfs::os) fn set_len(file: &File, len: u64) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::ftruncate(file, len))?)
}

#[cfg(target_os = "linux")]
pub(in crate::vfs::os) fn advise(file: &File, advice: Advice, offset: u64, len: u64) {
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
pub(in crate::vfs::os) fn advise(_file: &File, _advice: Advice, _offset: u64, _len: u64) {}

/// Makes the names in an open directory durable.
pub(in crate::vfs::os::unix) fn sync_directory(dir: impl AsFd) -> Result<(), Errno> {
    // Here fsync leaves names in the disk's own memory, which the power takes with it.
    #[cfg(target_vendor = "apple")]
    return retry_on_intr(|| rustix::fs::fcntl_fullfsync(&dir));
    #[cfg(not(target_vendor = "apple"))]
    return retry_on_intr(|| rustix::fs::fsync(&dir));
}

/// Opens a lock file, which an exclusive lock creates.
pub(in crate::vfs::os) fn open_lock_file(vfs: &OsVfs, path: &Path, mode: LockMode) -> Result<File> {
    let flags = match mode {
        LockMode::Exclusive => OFlags::RDWR | OFlags::CREATE,
        LockMode::Shared => OFlags::RDONLY,
    };
    let place = vfs.place(path);
    place.open(flags).map_err(|errno| place.error("lock", errno))
}

/// Tells whether the name `path` still leads to the open file.
pub(in crate::vfs::os) fn is_current(vfs: &OsVfs, path: &Path, file: &File) -> Result<bool> {
    let place = vfs.place(path);
    let ours = rustix::fs::fstat(file).map_err(|errno| place.error("lock", errno))?;
    match place.stat() {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(place.error("lock", errno)),
    }
}

/// Tells whether a failed lock means that the file system, or its server, has none.
pub(in crate::vfs::os) fn lacks_ability(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| errno == Errno::NOLCK || is_unsupported(errno))
}

/// Tells whether a call failed because the file system has no such ability, and not because the disk failed.
pub(in crate::vfs::os) fn is_unsupported(errno: Errno) -> bool {
    [Errno::INVAL, Errno::BADF, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS].contains(&errno)
}
