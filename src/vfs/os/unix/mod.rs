//! The systems that know descriptors of directories: Linux, macOS, the BSDs.
//!
//! How: every name is used relative to a descriptor (`place`): that of the held directory where the path leads into
//! it, else the current directory. `sync` is `fdatasync`, which covers the bytes, the length and the block map; a held
//! directory is synced through the descriptor that holds it. Apple's systems keep both from the disk itself until asked
//! with `F_FULLFSYNC`, which is what is done there. Locks are `flock`. An interrupted sync is asked for again: the
//! system reports a failure of writing back in preference to the interruption, so none is forgotten.

mod calls;
mod place;

pub(in crate::vfs::os) use crate::vfs::os::unix::calls::{
    advise, is_current, lacks_ability, open_lock_file, read_at, reserve, set_len, write_all_at,
    write_parts_at,
};
pub(in crate::vfs::os) use crate::vfs::os::unix::place::HeldDir;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::time::UnixMillis;
use crate::vfs::os::file::{OsReadFile, OsWriteFile};
use crate::vfs::os::unix::calls::{is_unsupported, sync_directory};
use crate::vfs::os::unix::place::Place;
use crate::vfs::os::{OsVfs, lock, parent_of};
use crate::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use rustix::fs::{CWD, FileType, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// From so many files on, the whole file system is asked to write back first. Measured on ext4 with new files of 20
/// bytes: 1,000 take 66 to 91 ms instead of 190 to 260; a handful takes the same either way, and a call for the whole
/// file system waits for what others wrote too.
const FILES_SYNCED_EACH_MAX: usize = 8;

impl OsVfs {
    /// Finds out what a path is relative to.
    fn place<'a>(&'a self, path: &'a Path) -> Place<'a> {
        match self.held.as_ref().and_then(|held| Some((held, held.name_of(path)?))) {
            Some((held, name)) => held.place(name, path),
            None => Place { dir: CWD, name: path, path, held: None },
        }
    }

    /// Syncs a directory through a descriptor of it.
    fn sync_dir_of(&self, dir: impl AsFd, path: &Path) -> Result<()> {
        let Err(errno) = sync_directory(&dir) else { return Ok(()) };
        if !is_unsupported(errno) {
            return Err(Error::from_sync("sync_dir", path, io::Error::from(errno)));
        }
        if self.accepts.missing_dir_sync {
            return Ok(());
        }
        let text = format!(
            "this file system cannot sync directories (fsync: {errno}); an application can go without \
             (OsVfs::accept_missing_dir_sync)"
        );
        let error = Error::from_sync("sync_dir", path, io::Error::from(errno));
        Err(error.wrap(ErrorKind::Unsupported, text).with_operation("sync_dir"))
    }

    /// Makes the name of a directory that was found durable: a process killed between creating and syncing it
    /// would have left a database whose very directory a power cut takes away.
    fn settle_existing_dir(&self, path: &Path) -> Result<()> {
        let parent = self.place(parent_of(path));
        let dir = match parent.open(OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            // Where we may not read the parent we did not create the directory either.
            Err(Errno::ACCESS | Errno::PERM) => return Ok(()),
            Err(errno) => return Err(parent.error("sync_dir", errno)),
        };
        let device_above = rustix::fs::fstat(&dir).map_err(|errno| parent.error("sync_dir", errno))?.st_dev;
        let device =
            self.place(path).stat().map_err(|errno| self.place(path).error("create_dir", errno))?.st_dev;
        if device != device_above {
            // Something is mounted here: the name is not the file system's to lose, and the one above may be read-only.
            return Ok(());
        }
        match self.sync_dir_of(&dir, parent.path) {
            // Nothing that waits to be synced lies on a read-only file system.
            Err(error) if error.os_code() == Some(Errno::ROFS.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    /// Copies a file's bytes under a new name; what a failed copy leaves is removed.
    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let (source, target) = (self.place(from), self.place(to));
        let mut reader = source.open(OFlags::RDONLY).map_err(|errno| source.error("copy", errno))?;
        let mut writer = target.create().map_err(|errno| target.error("copy", errno))?;
        let Err(error) = io::copy(&mut reader, &mut writer) else { return Ok(()) };
        let error = Error::from_io("copy", to, error);
        match target.remove() {
            Ok(()) => Err(error),
            Err(left) => Err(error.wrap(ErrorKind::Io, format!("a partial copy was left behind: {left}"))),
        }
    }
}

impl Vfs for OsVfs {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        let held = HeldDir::open(&self.place(path))?;
        Ok(Arc::new(OsVfs { held: Some(Arc::new(held)), ..(*self).clone() }))
    }

    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let place = self.place(path);
        let file = place.create().map_err(|errno| place.error("create", errno))?;
        Ok(Box::new(OsWriteFile::new(file, path)))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let place = self.place(path);
        let file = place.open(OFlags::RDONLY).map_err(|errno| place.error("open", errno))?;
        Ok(Arc::new(OsReadFile::new(file, path)))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        // A descriptor opened for reading is enough: the system syncs the file, not the descriptor.
        let place = self.place(path);
        let file = place.open(OFlags::RDONLY).map_err(|errno| place.error("sync", errno))?;
        file.sync_data().map_err(|error| Error::from_sync("sync", path, error))
    }

    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        if let Some(held) = &self.held
            && files.len() > FILES_SYNCED_EACH_MAX
        {
            held.write_back_file_system();
        }
        files.iter_mut().try_for_each(|file| file.sync())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        if from.parent() != to.parent() {
            return Err(Error::invalid("a rename stays within its directory")
                .with_file(from)
                .with_operation("rename"));
        }
        let (old, new) = (self.place(from), self.place(to));
        let renamed =
            rustix::io::retry_on_intr(|| rustix::fs::renameat(old.dir, old.name, new.dir, new.name));
        renamed.map_err(|errno| old.error("rename", errno))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let place = self.place(path);
        place.remove().map_err(|errno| place.error("remove", errno))
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        let (source, target) = (self.place(from), self.place(to));
        match source.link(&target) {
            Ok(()) => Ok(Copied::Linked),
            Err(errno) if cannot_link(errno) => self.copy(from, to).map(|()| Copied::Copied),
            Err(errno) => Err(source.error("link", errno)),
        }
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let place = self.place(path);
        if path.as_os_str().is_empty() || place.is_held_dir() {
            return Ok(());
        }
        match place.file_type() {
            Ok(FileType::Directory) => return self.settle_existing_dir(path),
            Ok(_) => {
                return Err(Error::new(ErrorKind::Io, "the name is taken by a file")
                    .with_file(path)
                    .with_operation("create_dir"));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(place.error("create_dir", errno)),
        }
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        match place.create_dir() {
            Ok(()) => {}
            // Somebody else was quicker.
            Err(Errno::EXIST) if place.file_type() == Ok(FileType::Directory) => {}
            Err(errno) => return Err(place.error("create_dir", errno)),
        }
        self.sync_dir(parent_of(path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.place(path).list()
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let place = self.place(path);
        match place.held {
            Some(held) if place.is_held_dir() => self.sync_dir_of(held, path),
            _ => {
                let dir = place.open(OFlags::RDONLY).map_err(|errno| place.error("sync_dir", errno))?;
                self.sync_dir_of(&dir, path)
            }
        }
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        lock::lock(self, path, mode)
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let place = self.place(path);
        let stat = place.stat().map_err(|errno| place.error("metadata", errno))?;
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        let len = if is_dir { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) };
        Ok(Metadata { len, is_dir })
    }

    fn available_space(&self, path: &Path) -> Result<u64> {
        let place = self.place(path);
        let stat = match place.held {
            Some(held) => rustix::fs::fstatvfs(held),
            None => rustix::fs::statvfs(path),
        };
        let stat = stat.map_err(|errno| place.error("available_space", errno))?;
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

/// Tells whether a failed link only means that this disk, or this file, takes no further name.
fn cannot_link(errno: Errno) -> bool {
    [Errno::XDEV, Errno::MLINK, Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS].contains(&errno)
}

#[cfg(test)]
mod tests;
