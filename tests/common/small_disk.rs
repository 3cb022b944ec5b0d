//! A disk in memory that has a size: files take whole blocks, what is reserved counts, what is removed comes back.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::Mutex;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use tinylsm::{Error, ErrorKind, Result, UnixMillis};

const BLOCK_LEN_BYTES: u64 = 4096;

/// The disk; clones share it. A failed append fills it until it is trimmed, a failed reservation takes nothing.
#[derive(Clone)]
pub struct SmallDisk {
    /// The disk behind it, which has no size.
    pub disk: MemVfs,
    space: Arc<Mutex<Space>>,
    /// What ends is a quota, of which the file system does not tell.
    is_quota: bool,
}

struct Space {
    capacity_bytes: u64,
    /// What the database does not own.
    others_bytes: u64,
    /// Bytes of each file, by name: what was written or reserved.
    files: BTreeMap<PathBuf, u64>,
}

fn whole_blocks(len: u64) -> u64 {
    len.next_multiple_of(BLOCK_LEN_BYTES)
}

impl Space {
    fn used_bytes(&self) -> u64 {
        self.files.values().map(|&len| whole_blocks(len)).sum()
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.others_bytes + self.used_bytes())
    }

    /// Returns how long a file can become.
    fn len_max(&self, path: &Path) -> u64 {
        let len = self.files.get(path).copied().unwrap_or(0);
        whole_blocks(len) + self.free_bytes()
    }
}

impl SmallDisk {
    pub fn new(capacity_bytes: u64) -> SmallDisk {
        SmallDisk::over(MemVfs::new(), capacity_bytes)
    }

    /// Gives a size to an empty disk.
    pub fn over(disk: MemVfs, capacity_bytes: u64) -> SmallDisk {
        let space = Space { capacity_bytes, others_bytes: 0, files: BTreeMap::new() };
        SmallDisk { disk, space: Arc::new(Mutex::new(space)), is_quota: false }
    }

    /// Gives a quota instead of a size: what does not fit is refused, though the disk says that there is space.
    pub fn with_quota(capacity_bytes: u64) -> SmallDisk {
        SmallDisk { is_quota: true, ..SmallDisk::new(capacity_bytes) }
    }

    /// Returns what the files of the database take.
    pub fn used_bytes(&self) -> u64 {
        self.space.lock().used_bytes()
    }

    pub fn free_bytes(&self) -> u64 {
        self.space.lock().free_bytes()
    }

    /// Lets somebody else's files take all of the disk but so much.
    pub fn leave_free(&self, bytes: u64) {
        let mut space = self.space.lock();
        space.others_bytes = space.capacity_bytes.saturating_sub(space.used_bytes() + bytes);
    }
}

fn full(operation: &'static str, path: &Path) -> Error {
    Error::new(ErrorKind::NoSpace, "the small disk is full").with_operation(operation).with_file(path)
}

struct SmallFile {
    file: Box<dyn WriteFile>,
    path: PathBuf,
    space: Arc<Mutex<Space>>,
}

impl SmallFile {
    /// Makes the file at least so long, if there is space.
    fn grow(&self, len: u64, operation: &'static str) -> Result<()> {
        let mut space = self.space.lock();
        if len > space.len_max(&self.path) {
            return Err(full(operation, &self.path));
        }
        // A file that was removed while it is written takes nothing any more.
        if let Some(taken) = space.files.get_mut(&self.path) {
            *taken = (*taken).max(len);
        }
        Ok(())
    }
}

impl WriteFile for SmallFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let Err(error) = self.grow(self.file.len() + len, "append") else { return self.file.append(parts) };
        // What it leaves nobody sees, but it takes the space until it is trimmed.
        let space = self.space.lock().len_max(&self.path);
        self.grow(space, "append")?;
        Err(error)
    }
    fn sync(&mut self) -> Result<()> {
        self.file.sync()
    }
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn allocate(&mut self, len: u64) -> Result<()> {
        self.grow(len, "allocate")?;
        self.file.allocate(len)
    }
    fn allocated_len(&self) -> u64 {
        self.file.allocated_len()
    }
    fn trim(&mut self) -> Result<()> {
        self.file.trim()?;
        if let Some(taken) = self.space.lock().files.get_mut(&self.path) {
            *taken = self.file.len();
        }
        Ok(())
    }
}

impl Vfs for SmallDisk {
    /// The disk in memory moves no directory, so a held one is the disk itself.
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        Arc::new(self.disk.clone()).hold_dir(path)?;
        Ok(self)
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = self.disk.create_new(path)?;
        self.space.lock().files.insert(path.to_owned(), 0);
        Ok(Box::new(SmallFile { file, path: path.to_owned(), space: Arc::clone(&self.space) }))
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        self.disk.open(path)
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        self.disk.sync_file(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)?;
        let mut space = self.space.lock();
        if let Some(len) = space.files.remove(from) {
            space.files.insert(to.to_owned(), len);
        }
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.disk.remove_file(path)?;
        self.space.lock().files.remove(path);
        Ok(())
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
        self.disk.sync_dir(path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.disk.lock(path, mode)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.disk.metadata(path)
    }
    fn available_space(&self, _path: &Path) -> Result<u64> {
        if self.is_quota { Ok(1 << 40) } else { Ok(self.free_bytes()) }
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
