//! The database's directory, where a failed sync is final for everybody.
//!
//! Several threads give names to files in one directory and sync it, each for its own file, so these syncs go through
//! one [`FinalSync`].

use crate::base::error::{Error, Result};
use crate::base::time::UnixMillis;
use crate::vfs::final_sync::FinalSync;
use crate::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A disk whose directory syncs are final. Everything else goes straight through.
pub(crate) struct FinalDirSync {
    inner: Arc<dyn Vfs>,
    syncs: FinalSync,
}

impl FinalDirSync {
    pub(crate) fn new(inner: Arc<dyn Vfs>) -> FinalDirSync {
        FinalDirSync { inner, syncs: FinalSync::default() }
    }

    /// Returns the failure that no later sync can mend.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.syncs.failure()
    }
}

impl Vfs for FinalDirSync {
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.syncs.run(|| self.inner.sync_dir(path))
    }

    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        let inner = Arc::clone(&self.inner).hold_dir(path)?;
        Ok(Arc::new(FinalDirSync::new(inner)))
    }
    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        self.inner.sync_files(files)
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.inner.create_new(path)
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        self.inner.open(path)
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        self.inner.sync_file(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.inner.remove_file(path)
    }
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        self.inner.link_or_copy(from, to)
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.inner.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.inner.read_dir(path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.inner.lock(path, mode)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.inner.metadata(path)
    }
    fn available_space(&self, path: &Path) -> Result<u64> {
        self.inner.available_space(path)
    }
    fn now(&self) -> u64 {
        self.inner.now()
    }
    fn wall(&self) -> UnixMillis {
        self.inner.wall()
    }
    fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration);
    }
}
