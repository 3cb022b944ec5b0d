//! Disks that change a few calls of another disk, and files that do.

use crate::base::error::Result;
use crate::base::time::UnixMillis;
use crate::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A disk around another one. Every method forwards to [`VfsWrapper::inner`] unless it is overridden; whatever implements
/// this is a [`Vfs`].
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
/// use tinylsm::sync::atomic::Counter;
/// use tinylsm::vfs::{Vfs, mem::MemVfs, wrap::VfsWrapper};
///
/// /// Counts the syncs of directories.
/// struct Counting {
///     inner: Arc<dyn Vfs>,
///     count: Arc<Counter>,
/// }
///
/// impl VfsWrapper for Counting {
///     fn inner(&self) -> &Arc<dyn Vfs> {
///         &self.inner
///     }
///     fn around(&self, inner: Arc<dyn Vfs>) -> Counting {
///         Counting { inner, count: Arc::clone(&self.count) }
///     }
///     fn sync_dir(&self, path: &Path) -> tinylsm::Result<()> {
///         self.count.add(1);
///         self.inner.sync_dir(path)
///     }
/// }
///
/// # fn main() -> tinylsm::Result<()> {
/// let count = Arc::new(Counter::new(0));
/// let disk = Counting { inner: Arc::new(MemVfs::new()), count: Arc::clone(&count) };
/// let db = tinylsm::Db::builder("/db").vfs(Arc::new(disk)).open()?;
/// assert!(count.get() > 0);
/// # db.close()
/// # }
/// ```
#[expect(missing_docs, reason = "the methods below the first two are those of `Vfs`")]
pub trait VfsWrapper: Send + Sync + Sized + 'static {
    /// Returns the disk inside.
    fn inner(&self) -> &Arc<dyn Vfs>;

    /// Puts the same around another disk, which is a view of the one inside that holds a directory. The engine uses a
    /// database through such a view, so what is counted or kept belongs behind an `Arc` that both share.
    #[must_use]
    fn around(&self, inner: Arc<dyn Vfs>) -> Self;

    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.inner().create_new(path)
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        self.inner().open(path)
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        self.inner().sync_file(path)
    }
    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        self.inner().sync_files(files)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner().rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.inner().remove_file(path)
    }
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        self.inner().link_or_copy(from, to)
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.inner().create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.inner().read_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.inner().sync_dir(path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.inner().lock(path, mode)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.inner().metadata(path)
    }
    fn available_space(&self, path: &Path) -> Result<u64> {
        self.inner().available_space(path)
    }
    fn now(&self) -> u64 {
        self.inner().now()
    }
    fn wall(&self) -> UnixMillis {
        self.inner().wall()
    }
    fn sleep(&self, duration: Duration) {
        self.inner().sleep(duration);
    }
}

impl<W: VfsWrapper> Vfs for W {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        let held = Arc::clone(self.inner()).hold_dir(path)?;
        Ok(Arc::new(self.around(held)))
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        VfsWrapper::create_new(self, path)
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        VfsWrapper::open(self, path)
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        VfsWrapper::sync_file(self, path)
    }
    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        VfsWrapper::sync_files(self, files)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        VfsWrapper::rename(self, from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        VfsWrapper::remove_file(self, path)
    }
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        VfsWrapper::link_or_copy(self, from, to)
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        VfsWrapper::create_dir_all(self, path)
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        VfsWrapper::read_dir(self, path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        VfsWrapper::sync_dir(self, path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        VfsWrapper::lock(self, path, mode)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        VfsWrapper::metadata(self, path)
    }
    fn available_space(&self, path: &Path) -> Result<u64> {
        VfsWrapper::available_space(self, path)
    }
    fn now(&self) -> u64 {
        VfsWrapper::now(self)
    }
    fn wall(&self) -> UnixMillis {
        VfsWrapper::wall(self)
    }
    fn sleep(&self, duration: Duration) {
        VfsWrapper::sleep(self, duration);
    }
}

/// A file being written around another one. Every method forwards to the file inside unless it is overridden; whatever
/// implements this is a [`WriteFile`].
#[expect(missing_docs, reason = "the methods below the first two are those of `WriteFile`")]
pub trait WriteFileWrapper: Send {
    /// Returns the file inside.
    fn inner(&self) -> &dyn WriteFile;

    /// Returns the file inside, to change it.
    fn inner_mut(&mut self) -> &mut dyn WriteFile;

    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        self.inner_mut().append(parts)
    }
    fn sync(&mut self) -> Result<()> {
        self.inner_mut().sync()
    }
    fn len(&self) -> u64 {
        self.inner().len()
    }
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn allocate(&mut self, len: u64) -> Result<()> {
        self.inner_mut().allocate(len)
    }
    fn allocated_len(&self) -> u64 {
        self.inner().allocated_len()
    }
    fn trim(&mut self) -> Result<()> {
        self.inner_mut().trim()
    }
}

impl<W: WriteFileWrapper> WriteFile for W {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        WriteFileWrapper::append(self, parts)
    }
    fn sync(&mut self) -> Result<()> {
        WriteFileWrapper::sync(self)
    }
    fn len(&self) -> u64 {
        WriteFileWrapper::len(self)
    }
    fn is_empty(&self) -> bool {
        WriteFileWrapper::is_empty(self)
    }
    fn allocate(&mut self, len: u64) -> Result<()> {
        WriteFileWrapper::allocate(self, len)
    }
    fn allocated_len(&self) -> u64 {
        WriteFileWrapper::allocated_len(self)
    }
    fn trim(&mut self) -> Result<()> {
        WriteFileWrapper::trim(self)
    }
}
