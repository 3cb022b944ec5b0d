//! A disk in memory that can be full and whose calls can fail.
#![allow(dead_code, reason = "each file of tests needs a part of it")]
#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tinylsm::sync::Mutex;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use tinylsm::{Error, ErrorKind, Result, UnixMillis};

/// The disk. What a failed append leaves is half of it, if nothing else was asked for; a removal frees nothing, a trim does.
#[derive(Clone)]
pub struct FaultyVfs {
    /// The disk behind it.
    pub disk: MemVfs,
    faults: Arc<Faults>,
}

struct Faults {
    free_bytes: Mutex<u64>,
    fails_next_wal_sync: AtomicBool,
    left_by_append: Mutex<Option<usize>>,
    calls_until_failure: Mutex<Option<u64>>,
}

impl FaultyVfs {
    pub fn new() -> FaultyVfs {
        let faults = Faults {
            free_bytes: Mutex::new(u64::MAX / 2),
            fails_next_wal_sync: AtomicBool::new(false),
            left_by_append: Mutex::new(None),
            calls_until_failure: Mutex::new(None),
        };
        FaultyVfs { disk: MemVfs::new(), faults: Arc::new(faults) }
    }

    /// Sets how many of its bytes an append leaves that meets the full disk.
    pub fn set_left_by_append(&self, bytes: usize) {
        *self.faults.left_by_append.lock() = Some(bytes);
    }

    /// Lets one call that changes the disk fail, behind `count` more that succeed.
    pub fn fail_call(&self, count: u64) {
        *self.faults.calls_until_failure.lock() = Some(count);
    }

    /// Sets how many bytes the disk can still take.
    pub fn set_free(&self, bytes: u64) {
        *self.faults.free_bytes.lock() = bytes;
    }

    /// Lets the next sync of a WAL segment fail, that one only.
    pub fn fail_next_wal_sync(&self) {
        self.faults.fails_next_wal_sync.store(true, Ordering::SeqCst);
    }
}

impl Faults {
    fn give_back(&self, bytes: u64) {
        *self.free_bytes.lock() += bytes;
    }

    fn charge(&self, bytes: u64, operation: &'static str, path: &Path) -> Result<()> {
        let mut free = self.free_bytes.lock();
        match free.checked_sub(bytes) {
            Some(left) => {
                *free = left;
                Ok(())
            }
            None => Err(Error::new(ErrorKind::NoSpace, "the test's disk is full")
                .with_operation(operation)
                .with_file(path)),
        }
    }
}

impl Faults {
    fn count_call(&self, operation: &'static str, path: &Path) -> Result<()> {
        let mut calls = self.calls_until_failure.lock();
        match calls.as_mut() {
            Some(0) => {
                *calls = None;
                let error = Error::new(ErrorKind::Io, "the test's disk fails this call");
                Err(error.with_operation(operation).with_file(path))
            }
            Some(count) => {
                *count -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

struct FaultyFile {
    file: Box<dyn WriteFile>,
    path: PathBuf,
    charged_len: u64,
    faults: Arc<Faults>,
}

impl WriteFile for FaultyFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        self.faults.count_call("append", &self.path)?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let end = self.file.len() + len as u64;
        let more = end.saturating_sub(self.charged_len);
        if let Err(error) = self.faults.charge(more, "append", &self.path) {
            let left = self.faults.left_by_append.lock().unwrap_or(len / 2);
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(left).collect();
            self.file.append(&[IoSlice::new(&bytes)])?;
            return Err(error);
        }
        self.charged_len = self.charged_len.max(end);
        self.file.append(parts)
    }

    fn sync(&mut self) -> Result<()> {
        self.faults.count_call("sync", &self.path)?;
        let is_wal = self.path.extension().is_some_and(|extension| extension == "wal");
        if is_wal && self.faults.fails_next_wal_sync.swap(false, Ordering::SeqCst) {
            let error = Error::new(ErrorKind::Io, "the test's disk cannot sync");
            return Err(error.with_operation("sync").with_file(&self.path));
        }
        self.file.sync()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn allocate(&mut self, len: u64) -> Result<()> {
        self.faults.charge(len.saturating_sub(self.charged_len), "allocate", &self.path)?;
        self.charged_len = self.charged_len.max(len);
        self.file.allocate(len)
    }

    fn allocated_len(&self) -> u64 {
        self.file.allocated_len()
    }

    fn trim(&mut self) -> Result<()> {
        self.file.trim()?;
        self.faults.give_back(self.charged_len.saturating_sub(self.file.len()));
        self.charged_len = self.charged_len.min(self.file.len());
        Ok(())
    }
}

impl Vfs for FaultyVfs {
    /// The disk in memory moves no directory, so a held one is the disk itself.
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        Arc::new(self.disk.clone()).hold_dir(path)?;
        Ok(self)
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.faults.count_call("create", path)?;
        self.faults.charge(1, "create", path)?;
        let file = self.disk.create_new(path)?;
        let faults = Arc::clone(&self.faults);
        Ok(Box::new(FaultyFile { file, path: path.to_owned(), charged_len: 0, faults }))
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        self.disk.open(path)
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        self.disk.sync_file(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.faults.count_call("rename", from)?;
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
        self.disk.read_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.faults.count_call("sync_dir", path)?;
        self.disk.sync_dir(path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.disk.lock(path, mode)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.disk.metadata(path)
    }
    fn available_space(&self, _path: &Path) -> Result<u64> {
        Ok(*self.faults.free_bytes.lock())
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
