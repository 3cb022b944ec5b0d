//! Handles: files being written, files being read, locks.
//!
//! A handle counts in its inode, so that a removed file lives while it is open. Dropping one only counts it out;
//! after the power went off that changes nothing any more.

use crate::disk::event::{DiskEvent, DiskOp};
use crate::disk::volume::Node;
use crate::disk::{Shared, SimDisk, event, volume};
use crate::tape::Label;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::base::error::Result;
use tinylsm::sync::yield_point;
use tinylsm::vfs::{Advice, DirLock, LockMode, ReadFile, WriteFile};

/// The event of reading a file that has no name any more.
pub const READ_OF_REMOVED: &str = "read of a removed file";

pub(in crate::disk) struct SimWriteFile {
    shared: Arc<Shared>,
    id: u64,
    path: PathBuf,
    len: u64,
    /// Set by a failed append, which leaves the end unknown.
    is_broken: bool,
}

impl SimWriteFile {
    pub(in crate::disk) fn new(shared: Arc<Shared>, id: u64, path: &Path) -> SimWriteFile {
        SimWriteFile { shared, id, path: path.to_owned(), len: 0, is_broken: false }
    }
}

impl Drop for SimWriteFile {
    fn drop(&mut self) {
        self.shared.volume.lock().release_open(self.id);
    }
}

impl WriteFile for SimWriteFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let shared = &self.shared;
        let path = self.path.as_path();
        shared.begin(DiskOp::Append, path)?;
        if self.is_broken {
            return Err(volume::failed("append", path, "an earlier append failed"));
        }
        let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let is_failing = shared.fails(|plan| plan.append, "append failed");
        let offset = self.len;
        let write = || -> Result<u64> {
            let mut volume = shared.volume.lock();
            let inode = volume.inode(self.id);
            let growth = (offset + total).saturating_sub(inode.len);
            let mut count = total;
            let full = shared.check_space(&volume, growth, DiskOp::Append, path);
            if full.is_err() || is_failing {
                count = shared.tape.below(Label::Fault, total + 1);
                if full.is_err() {
                    let room = shared.room(&volume) + volume.inode(self.id).len.saturating_sub(offset);
                    count = count.min(room);
                }
            }
            let seq = volume.next_seq();
            volume.charge(self.id, |inode| inode.write(seq, offset, parts, count));
            full?;
            if is_failing {
                return Err(volume::failed("append", path, "simulated write error").with_offset(offset));
            }
            Ok(count)
        };
        let result = write();
        match result {
            Ok(_) => self.len = offset + total,
            Err(_) => self.is_broken = true,
        }
        let event = DiskEvent { op: DiskOp::Append, path, to: None, offset, len: total, error: None };
        shared.end(event, result.map(drop))
    }

    fn sync(&mut self) -> Result<()> {
        self.shared.sync_inode(self.id, &self.path)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn allocate(&mut self, len: u64) -> Result<()> {
        let path = self.path.as_path();
        self.shared.begin(DiskOp::Allocate, path)?;
        if self.is_broken {
            return Err(volume::failed("allocate", path, "an earlier append failed"));
        }
        if self.shared.refuses_allocation() {
            return Ok(());
        }
        let result = self.reserve(len);
        let event = DiskEvent { op: DiskOp::Allocate, path, to: None, offset: 0, len, error: None };
        self.shared.end(event, result)
    }

    fn trim(&mut self) -> Result<()> {
        let path = self.path.as_path();
        self.shared.begin(DiskOp::Trim, path)?;
        self.cut(self.len);
        let event = DiskEvent { op: DiskOp::Trim, path, to: None, offset: 0, len: self.len, error: None };
        self.shared.end(event, Ok(()))
    }
}

impl SimWriteFile {
    /// Lengthens the file. A disk that is too full takes what it has, and only then says so.
    fn reserve(&self, len: u64) -> Result<()> {
        let shared = &self.shared;
        let mut volume = shared.volume.lock();
        let before = volume.inode(self.id).len;
        let growth = len.saturating_sub(before);
        let full = shared.check_space(&volume, growth, DiskOp::Allocate, &self.path);
        let taken = if full.is_ok() { growth } else { shared.room(&volume) };
        let seq = volume.next_seq();
        volume.charge(self.id, |inode| inode.reserve(seq, before + taken));
        drop(volume);
        full.inspect_err(|_| {
            // Others may meet the full disk before this one has given anything back.
            yield_point("allocate failed");
            self.cut(before);
        })
    }

    /// Shortens the file to `len` at most.
    fn cut(&self, len: u64) {
        let mut volume = self.shared.volume.lock();
        let seq = volume.next_seq();
        volume.charge(self.id, |inode| inode.trim(seq, len));
    }
}

pub(in crate::disk) struct SimReadFile {
    shared: Arc<Shared>,
    id: u64,
    path: PathBuf,
}

impl SimReadFile {
    pub(in crate::disk) fn new(shared: Arc<Shared>, id: u64, path: &Path) -> SimReadFile {
        SimReadFile { shared, id, path: path.to_owned() }
    }
}

impl Drop for SimReadFile {
    fn drop(&mut self) {
        self.shared.volume.lock().release_open(self.id);
    }
}

impl ReadFile for SimReadFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let shared = &self.shared;
        let path = self.path.as_path();
        shared.begin(DiskOp::Read, path)?;
        let mut read = || -> Result<usize> {
            if shared.fails(|plan| plan.read, "read failed") {
                return Err(volume::failed("read", path, "simulated read error").with_offset(offset));
            }
            let mut wanted = buffer.len();
            if wanted > 1 && shared.strikes(|plan| plan.short_read, "short read") {
                let fewer = shared.tape.below(Label::Fault, wanted as u64 - 1);
                wanted -= usize::try_from(fewer).expect("fewer than a buffer");
            }
            let volume = shared.volume.lock();
            let inode = volume.inode(self.id);
            if inode.live_names == 0 {
                // Legal on this disk, but not on every one: an engine keeps the names of what it reads.
                shared.count(READ_OF_REMOVED, 1);
            }
            Ok(inode.read(&mut buffer[..wanted], offset))
        };
        let result = read();
        let len = result.as_ref().map_or(0, |&count| count as u64);
        shared.end(DiskEvent { op: DiskOp::Read, path, to: None, offset, len, error: None }, result)
    }

    fn len(&self) -> Result<u64> {
        self.shared.check_power(DiskOp::Metadata, &self.path)?;
        Ok(self.shared.volume.lock().inode(self.id).len)
    }

    fn advise(&self, _advice: Advice, _offset: u64, _len: u64) {}
}

pub(in crate::disk) struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    id: u64,
    mode: LockMode,
}

impl SimLock {
    pub(in crate::disk) fn new(disk: SimDisk, path: &Path, id: u64, mode: LockMode) -> SimLock {
        SimLock { disk, path: path.to_owned(), id, mode }
    }
}

impl DirLock for SimLock {
    fn check(&self) -> Result<()> {
        let shared = &self.disk.shared;
        shared.begin(DiskOp::Metadata, &self.path)?;
        let check = || {
            let route = self.disk.route(&self.path)?;
            match shared.volume.lock().find("lock", &route) {
                Ok(Node::File(id)) if id == self.id => Ok(()),
                _ => Err(volume::failed(
                    "lock",
                    &self.path,
                    "the lock file was removed or replaced while the lock was held",
                )),
            }
        };
        shared.end(event(DiskOp::Metadata, &self.path), check())
    }

    fn release(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut volume = self.disk.shared.volume.lock();
        volume.inode_mut(self.id).holders.give_back(self.mode);
        volume.release_open(self.id);
    }
}
