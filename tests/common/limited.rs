//! A disk that has only so many descriptors to give.

#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::{Advice, Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use tinylsm::{Error, ErrorKind, Result, UnixMillis};

/// The disk; clones share everything.
#[derive(Clone)]
pub struct LimitedVfs {
    disk: MemVfs,
    descriptors: Arc<Descriptors>,
}

struct Descriptors {
    open_count: AtomicUsize,
    open_count_highest: AtomicUsize,
    open_count_max: AtomicUsize,
    refused_count: AtomicUsize,
    group_syncs_count: AtomicUsize,
}

impl LimitedVfs {
    /// Makes an empty disk that gives out `open_count_max` descriptors at a time.
    pub fn new(open_count_max: usize) -> LimitedVfs {
        let descriptors = Descriptors {
            open_count: AtomicUsize::new(0),
            open_count_highest: AtomicUsize::new(0),
            open_count_max: AtomicUsize::new(open_count_max),
            refused_count: AtomicUsize::new(0),
            group_syncs_count: AtomicUsize::new(0),
        };
        LimitedVfs { disk: MemVfs::new(), descriptors: Arc::new(descriptors) }
    }

    /// Changes how many descriptors there are; those that are given out stay.
    pub fn set_open_count_max(&self, count: usize) {
        self.descriptors.open_count_max.store(count, Ordering::SeqCst);
    }

    /// Returns how many descriptors are given out.
    pub fn open_count(&self) -> usize {
        self.descriptors.open_count.load(Ordering::SeqCst)
    }

    /// Returns the most that were given out at a time since the last call.
    pub fn take_open_count_highest(&self) -> usize {
        self.descriptors.open_count_highest.swap(self.open_count(), Ordering::SeqCst)
    }

    /// Returns how often there was none to give.
    pub fn refused_count(&self) -> usize {
        self.descriptors.refused_count.load(Ordering::SeqCst)
    }

    /// Returns how often several files were synced in one call.
    pub fn group_syncs_count(&self) -> usize {
        self.descriptors.group_syncs_count.load(Ordering::SeqCst)
    }

    fn take(&self, operation: &'static str, path: &Path) -> Result<Descriptor> {
        let descriptors = &self.descriptors;
        let max = descriptors.open_count_max.load(Ordering::SeqCst);
        let taken = descriptors
            .open_count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| (count < max).then_some(count + 1));
        match taken {
            Ok(before) => {
                descriptors.open_count_highest.fetch_max(before + 1, Ordering::SeqCst);
                Ok(Descriptor(Arc::clone(descriptors)))
            }
            Err(_) => {
                descriptors.refused_count.fetch_add(1, Ordering::SeqCst);
                let error = Error::new(ErrorKind::Exhausted, "the test's disk has no descriptor to give");
                Err(error.with_operation(operation).with_file(path))
            }
        }
    }
}

/// Gives itself back.
struct Descriptor(Arc<Descriptors>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.open_count.fetch_sub(1, Ordering::SeqCst);
    }
}

struct LimitedWrite(Box<dyn WriteFile>, #[expect(dead_code, reason = "it counts while it lives")] Descriptor);

impl WriteFile for LimitedWrite {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        self.0.append(parts)
    }
    fn sync(&mut self) -> Result<()> {
        self.0.sync()
    }
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn allocate(&mut self, len: u64) -> Result<()> {
        self.0.allocate(len)
    }
    fn allocated_len(&self) -> u64 {
        self.0.allocated_len()
    }
    fn trim(&mut self) -> Result<()> {
        self.0.trim()
    }
}

struct LimitedRead(Arc<dyn ReadFile>, #[expect(dead_code, reason = "it counts while it lives")] Descriptor);

impl ReadFile for LimitedRead {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn len(&self) -> Result<u64> {
        self.0.len()
    }
    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.0.advise(advice, offset, len);
    }
}

impl Vfs for LimitedVfs {
    fn hold_dir(self: Arc<Self>, _path: &Path) -> Result<Arc<dyn Vfs>> {
        Ok(self)
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let descriptor = self.take("create", path)?;
        Ok(Box::new(LimitedWrite(self.disk.create_new(path)?, descriptor)))
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let descriptor = self.take("open", path)?;
        Ok(Arc::new(LimitedRead(self.disk.open(path)?, descriptor)))
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        self.take("sync", path)?;
        self.disk.sync_file(path)
    }
    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        self.descriptors.group_syncs_count.fetch_add(1, Ordering::SeqCst);
        files.iter_mut().try_for_each(|file| file.sync())
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.disk.remove_file(path)
    }
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        self.disk.link_or_copy(from, to)
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.disk.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.take("read_dir", path)?;
        self.disk.read_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.disk.sync_dir(path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.disk.lock(path, mode)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.disk.metadata(path)
    }
    fn available_space(&self, path: &Path) -> Result<u64> {
        self.disk.available_space(path)
    }
    fn now(&self) -> u64 {
        self.disk.now()
    }
    fn wall(&self) -> UnixMillis {
        self.disk.wall()
    }
    fn sleep(&self, duration: Duration) {
        self.disk.sleep(duration);
    }
}
