//! Names relative to a descriptor, and the directory that a view of the disk holds.
//!
//! A [`Place`] is what a path leads to: a directory's descriptor and a name below it. In a view that holds a directory,
//! paths that lead into it use its descriptor, so they reach that very directory whatever happens to its own name and
//! to the process's current directory. All other paths are the system's to resolve. Every call of the module that
//! names a file goes through here.

use crate::base::error::{Error, Result};
use crate::vfs::DirEntry;
use crate::vfs::os::name_below;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// A directory held open, and the two paths that mean it.
#[derive(Debug)]
pub(in crate::vfs::os) struct HeldDir {
    file: File,
    /// As the caller named it.
    given: PathBuf,
    /// Where it was when it was opened. Only a name for it: nothing is resolved through it again.
    absolute: PathBuf,
}

impl HeldDir {
    pub(in crate::vfs::os) fn open(place: &Place<'_>) -> Result<HeldDir> {
        let failed = |error| Error::from_io("hold_dir", place.path, error);
        // The current directory is looked at once, so that both paths and the descriptor mean the same.
        let absolute = std::path::absolute(place.path).map_err(failed)?;
        let place = if place.held.is_some() { *place } else { Place { name: &absolute, ..*place } };
        let file = place.open(OFlags::RDONLY | OFlags::DIRECTORY);
        let file = file.map_err(|errno| place.error("hold_dir", errno))?;
        Ok(HeldDir { file, given: place.path.to_owned(), absolute })
    }

    /// Returns what follows this directory in `path`; `None` if the path does not lead into it.
    pub(in crate::vfs::os) fn name_of<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        name_below(&[&self.given, &self.absolute], path)
    }

    pub(in crate::vfs::os) fn place<'a>(&'a self, name: &'a Path, path: &'a Path) -> Place<'a> {
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        Place { dir: self.file.as_fd(), name, path, held: Some(self.file.as_fd()) }
    }

    /// Asks the system to write back everything on this directory's file system, and waits.
    #[cfg(target_os = "linux")]
    pub(in crate::vfs::os) fn write_back_file_system(&self) {
        // It only saves time: whether a file's bytes are safe is what the file's own sync says, and an error that
        // another file met here is none of ours. A failure seen here is reported there again.
        let _ = rustix::fs::syncfs(&self.file);
    }

    #[cfg(not(target_os = "linux"))]
    pub(in crate::vfs::os) fn write_back_file_system(&self) {}
}

/// What a path leads to.
#[derive(Clone, Copy)]
pub(in crate::vfs::os) struct Place<'a> {
    /// The directory that `name` is relative to.
    pub(in crate::vfs::os) dir: BorrowedFd<'a>,
    /// What to ask the system for.
    pub(in crate::vfs::os) name: &'a Path,
    /// What to tell the caller.
    pub(in crate::vfs::os) path: &'a Path,
    /// The held directory, if the path leads into it.
    pub(in crate::vfs::os) held: Option<BorrowedFd<'a>>,
}

impl Place<'_> {
    /// Tells whether this is the held directory itself.
    pub(in crate::vfs::os) fn is_held_dir(&self) -> bool {
        self.held.is_some() && self.name == Path::new(".")
    }

    pub(in crate::vfs::os) fn error(&self, operation: &'static str, errno: Errno) -> Error {
        Error::from_io(operation, self.path, io::Error::from(errno))
    }

    pub(in crate::vfs::os) fn open(&self, flags: OFlags) -> Result<File, Errno> {
        let mode = Mode::from_raw_mode(0o666);
        let file = retry_on_intr(|| rustix::fs::openat(self.dir, self.name, flags | OFlags::CLOEXEC, mode))?;
        Ok(File::from(file))
    }

    /// Creates a file for writing under a name that is free.
    pub(in crate::vfs::os) fn create(&self) -> Result<File, Errno> {
        self.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }

    pub(in crate::vfs::os) fn create_dir(&self) -> Result<(), Errno> {
        retry_on_intr(|| rustix::fs::mkdirat(self.dir, self.name, Mode::from_raw_mode(0o777)))
    }

    pub(in crate::vfs::os) fn remove(&self) -> Result<(), Errno> {
        retry_on_intr(|| rustix::fs::unlinkat(self.dir, self.name, AtFlags::empty()))
    }

    pub(in crate::vfs::os) fn link(&self, to: &Place<'_>) -> Result<(), Errno> {
        retry_on_intr(|| rustix::fs::linkat(self.dir, self.name, to.dir, to.name, AtFlags::empty()))
    }

    pub(in crate::vfs::os) fn stat(&self) -> Result<Stat, Errno> {
        retry_on_intr(|| rustix::fs::statat(self.dir, self.name, AtFlags::empty()))
    }

    pub(in crate::vfs::os) fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::from_raw_mode(self.stat()?.st_mode))
    }

    /// Lists the directory, sorted by name.
    pub(in crate::vfs::os) fn list(&self) -> Result<Vec<DirEntry>> {
        let failed = |errno| self.error("read_dir", errno);
        // A descriptor of its own, because the place in a listing belongs to the descriptor.
        let file = self.open(OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let mut dir = Dir::new(file).map_err(failed)?;
        let mut entries = Vec::new();
        while let Some(entry) = dir.read() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let mut file_type = entry.file_type();
            // Not every file system tells.
            if file_type == FileType::Unknown {
                let dir = dir.fd().map_err(failed)?;
                file_type = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // Removed since it was listed.
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(failed(errno)),
                };
            }
            entries.push(DirEntry { name: name.to_string_lossy().into_owned(), is_dir: file_type.is_dir() });
        }
        entries.sort_unstable();
        Ok(entries)
    }
}
