//! Handles: files being written, files being read, locks.
//!
//! A handle counts in its inode, so that a removed file lives while it is open. Dropping one only counts it out;
//! after the power went off that changes nothing any more.

use crate::disk::SimDisk;
use crate::disk::descriptors::Descriptor;
use crate::disk::event::{DiskEvent, DiskOp};
use crate::disk::profile::SECTOR_LEN_BYTES;
use crate::disk::shared::{Shared, event};
use crate::disk::volume::{self, Node, Volume};
use crate::tape::Label;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::base::error::{Error, ErrorKind, Result};
use tinylsm::sync::{host, process_id, yield_point};
use tinylsm::vfs::{Advice, DirLock, LockMode, ReadFile, WriteFile};

/// The event of reading a file that has no name any more.
pub const READ_OF_REMOVED: &str = "read of a removed file";

pub(in crate::disk) struct SimWriteFile {
    shared: Arc<Shared>,
    _descriptor: Descriptor,
    id: u64,
    path: PathBuf,
    len: u64,
    /// Set by a failed append, which leaves the end unknown.
    is_broken: bool,
}

impl SimWriteFile {
    /// Takes over a file that was counted as open.
    pub(in crate::disk) fn new(descriptor: Descriptor, id: u64, path: &Path) -> SimWriteFile {
        let shared = Arc::clone(&descriptor.shared);
        SimWriteFile { shared, _descriptor: descriptor, id, path: path.to_owned(), len: 0, is_broken: false }
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
                    let space = shared.space(&volume) + volume.inode(self.id).len.saturating_sub(offset);
                    count = count.min(space);
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
        let result = match self.shared.fails(|plan| plan.allocate, "allocate failed") {
            true => Err(volume::failed("allocate", path, "simulated error")),
            false => self.reserve(len),
        };
        let event = DiskEvent { op: DiskOp::Allocate, path, to: None, offset: 0, len, error: None };
        self.shared.end(event, result)
    }

    fn allocated_len(&self) -> u64 {
        self.shared.volume.lock().inode(self.id).len
    }

    fn trim(&mut self) -> Result<()> {
        let path = self.path.as_path();
        self.shared.begin(DiskOp::Trim, path)?;
        let is_failing = self.shared.fails(|plan| plan.trim, "trim failed");
        if !is_failing || self.shared.tape.below(Label::Fault, 2) == 1 {
            self.cut(self.len);
        }
        let result = if is_failing { Err(volume::failed("trim", path, "simulated error")) } else { Ok(()) };
        let event = DiskEvent { op: DiskOp::Trim, path, to: None, offset: 0, len: self.len, error: None };
        self.shared.end(event, result)
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
        let taken = if full.is_ok() { growth } else { shared.space(&volume) };
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
    _descriptor: Descriptor,
    id: u64,
    path: PathBuf,
}

impl SimReadFile {
    /// Takes over a file that was counted as open.
    pub(in crate::disk) fn new(descriptor: Descriptor, id: u64, path: &Path) -> SimReadFile {
        let shared = Arc::clone(&descriptor.shared);
        SimReadFile { shared, _descriptor: descriptor, id, path: path.to_owned() }
    }

    /// Puts wrong bytes into what was read, if a fault does that now.
    fn mislead(&self, volume: &Volume, offset: u64, read: &mut [u8]) {
        let shared = &self.shared;
        if !shared.has_wrong_reads_of(&self.path) || read.is_empty() {
            return;
        }
        if shared.draws_failure(|plan| plan.misdirected_read) {
            let (id, at) = self.draw_elsewhere(volume, offset);
            let mut wrong = vec![0; read.len()];
            volume.inode(id).read(&mut wrong, at);
            if wrong != *read {
                read.copy_from_slice(&wrong);
                shared.count_failure("misdirected read");
            }
        }
        if shared.draws_failure(|plan| plan.stale_read) {
            let (first, last) =
                (offset / SECTOR_LEN_BYTES, (offset + read.len() as u64 - 1) / SECTOR_LEN_BYTES);
            let sector = first + shared.tape.below(Label::Fault, last - first + 1);
            let old_end = volume.inode(self.id).older_end(sector * SECTOR_LEN_BYTES);
            let index = |at: u64| {
                usize::try_from(at.saturating_sub(offset)).expect("within a buffer").min(read.len())
            };
            let (start, end) = (index(old_end), index((sector + 1) * SECTOR_LEN_BYTES));
            if read[start..end].iter().any(|byte| *byte != 0) {
                read[start..end].fill(0);
                shared.count_failure("stale read");
            }
        }
    }

    /// Draws where a misdirected read goes: some sectors away in this file, or to the same place of another one.
    fn draw_elsewhere(&self, volume: &Volume, offset: u64) -> (u64, u64) {
        let tape = &self.shared.tape;
        let others = volume.inodes.len() as u64;
        if tape.below(Label::Fault, 2) == 0 {
            let sectors = volume.inode(self.id).len.div_ceil(SECTOR_LEN_BYTES).max(1);
            let sector = tape.below(Label::Fault, sectors);
            (self.id, sector * SECTOR_LEN_BYTES + offset % SECTOR_LEN_BYTES)
        } else {
            let index = usize::try_from(tape.below(Label::Fault, others)).expect("below a usize");
            (*volume.inodes.keys().nth(index).expect("the index lies below the count"), offset)
        }
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
            if shared.is_unreadable(self.id) {
                shared.count_failure("bad sectors read");
                return Err(volume::failed("read", path, "simulated bad sectors").with_offset(offset));
            }
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
            let count = inode.read(&mut buffer[..wanted], offset);
            self.mislead(&volume, offset, &mut buffer[..count]);
            Ok(count)
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
    _descriptor: Descriptor,
    path: PathBuf,
    id: u64,
    mode: LockMode,
    /// The process of the simulated thread that took it.
    process: Option<u32>,
}

impl SimLock {
    /// Takes over a file that was counted as open and whose lock was taken in a mode.
    pub(in crate::disk) fn new(
        disk: &SimDisk,
        descriptor: Descriptor,
        path: &Path,
        (id, mode): (u64, LockMode),
    ) -> SimLock {
        let disk = disk.clone();
        SimLock {
            disk,
            _descriptor: descriptor,
            path: path.to_owned(),
            id,
            mode,
            process: simulated_process(),
        }
    }

    /// Tells whether another process took it, of which the running one is a forked child.
    fn is_anothers(&self) -> bool {
        let running = simulated_process();
        running.is_some() && self.process.is_some() && running != self.process
    }
}

impl DirLock for SimLock {
    fn check(&self) -> Result<()> {
        let shared = &self.disk.shared;
        // It precedes every change of names, which passes time and lets others run between the two: doing so here as
        // well would take a sixth of a sweep and show nothing more. Only a look that fails is an event.
        shared.check_power(DiskOp::Metadata, &self.path)?;
        let check = || {
            if shared.fails(|plan| plan.metadata, "metadata failed") {
                return Err(volume::failed("lock", &self.path, "simulated error"));
            }
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
        check().or_else(|error| shared.end(event(DiskOp::Metadata, &self.path), Err(error)))
    }

    fn release(self: Box<Self>) -> Result<()> {
        if self.is_anothers() {
            let text = "the lock belongs to the process that this one was forked from";
            return Err(Error::new(ErrorKind::Closed, text).with_file(&self.path).with_operation("lock"));
        }
        // Dropping frees it, and that cannot fail here.
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut volume = self.disk.shared.volume.lock();
        if !self.is_anothers() {
            volume.inode_mut(self.id).holders.give_back(self.mode);
        }
        volume.release_open(self.id);
    }
}

/// Returns the process of the running simulated thread.
fn simulated_process() -> Option<u32> {
    host::simulated().then(process_id)
}
