//! A disk that asks a test before each call: the test may park it, refuse it or count it.
//!
//! It also watches the end of a database: a call that changes the directory, running when the lock is given up or
//! begun after it, is noted in [`HookedVfs::late_calls`]. Give each incarnation a disk of its own over the same
//! inner one, so that its calls are told from those of the next.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tinylsm::sync::Mutex;
use tinylsm::vfs::{Advice, Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use tinylsm::{Result, UnixMillis};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Create,
    Open,
    SyncFile,
    Rename,
    Remove,
    Link,
    CreateDir,
    ReadDir,
    SyncFiles,
    SyncDir,
    Lock,
    Metadata,
    Append,
    Sync,
    Allocate,
    Trim,
    Read,
    /// A look at the monotonic clock, which takes no answer.
    Now,
}

impl Op {
    /// Tells whether the call changes the disk, or makes a change durable.
    pub fn is_change(self) -> bool {
        !matches!(self, Op::Open | Op::ReadDir | Op::Lock | Op::Metadata | Op::Read | Op::Now)
    }
}

/// One call, before it goes through.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub op: Op,
    pub path: &'a Path,
    /// Bytes appended, read or reserved.
    pub len: u64,
}

impl Call<'_> {
    /// Tells whether this is `op` on a file whose name ends so.
    pub fn is(&self, op: Op, end: &str) -> bool {
        self.op == op && self.path.to_string_lossy().ends_with(end)
    }
}

type Hook = Arc<dyn Fn(&Call<'_>) -> Result<()> + Send + Sync>;

/// The disk; clones share everything.
#[derive(Clone)]
pub struct HookedVfs {
    inner: Arc<dyn Vfs>,
    shared: Arc<Shared>,
}

struct Shared {
    hook: Mutex<Hook>,
    ledger: Mutex<Ledger>,
    /// The one call that syncs several files is on its way through them.
    is_syncing_several: AtomicBool,
}

#[derive(Default)]
struct Ledger {
    counts: BTreeMap<Op, u64>,
    running: Vec<(Op, PathBuf)>,
    is_released: bool,
    late: Vec<String>,
}

impl HookedVfs {
    /// Stands in front of `inner`, and lets everything through.
    pub fn over(inner: impl Vfs) -> HookedVfs {
        let hook: Hook = Arc::new(|_| Ok(()));
        let shared = Shared {
            hook: Mutex::new(hook),
            ledger: Mutex::new(Ledger::default()),
            is_syncing_several: AtomicBool::new(false),
        };
        HookedVfs { inner: Arc::new(inner), shared: Arc::new(shared) }
    }

    /// Asks `hook` before each call from now on.
    pub fn set_hook(&self, hook: impl Fn(&Call<'_>) -> Result<()> + Send + Sync + 'static) {
        *self.shared.hook.lock() = Arc::new(hook);
    }

    /// Lets everything through from now on.
    pub fn clear_hook(&self) {
        self.set_hook(|_| Ok(()));
    }

    /// Returns how often so far.
    pub fn count(&self, op: Op) -> u64 {
        self.shared.ledger.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// Returns how many syncs of any kind there were so far; several files synced in one call are one.
    pub fn syncs_count(&self) -> u64 {
        [Op::Sync, Op::SyncFile, Op::SyncFiles, Op::SyncDir].map(|op| self.count(op)).iter().sum()
    }

    /// Tells whether the lock was taken and given up.
    pub fn is_released(&self) -> bool {
        self.shared.ledger.lock().is_released
    }

    /// Returns every change of the disk that was running when the lock was given up, or began after that.
    pub fn late_calls(&self) -> Vec<String> {
        self.shared.ledger.lock().late.clone()
    }
}

impl Shared {
    fn run<T>(&self, op: Op, path: &Path, len: u64, body: impl FnOnce() -> Result<T>) -> Result<T> {
        self.begin(op, path);
        let hook = Arc::clone(&self.hook.lock());
        let result = hook(&Call { op, path, len }).and_then(|()| body());
        self.end(op, path);
        result
    }

    fn begin(&self, op: Op, path: &Path) {
        let mut ledger = self.ledger.lock();
        *ledger.counts.entry(op).or_default() += 1;
        if !op.is_change() {
            return;
        }
        if ledger.is_released {
            ledger.late.push(format!("{op:?} of {} after the lock was given up", path.display()));
        }
        ledger.running.push((op, path.to_owned()));
    }

    fn end(&self, op: Op, path: &Path) {
        let mut ledger = self.ledger.lock();
        if let Some(at) = ledger.running.iter().position(|(each, of)| *each == op && of == path) {
            ledger.running.swap_remove(at);
        }
    }

    fn take(&self) {
        self.ledger.lock().is_released = false;
    }

    fn release(&self) {
        let mut ledger = self.ledger.lock();
        ledger.is_released = true;
        let running: Vec<String> = ledger
            .running
            .iter()
            .map(|(op, path)| format!("{op:?} of {} while the lock was given up", path.display()))
            .collect();
        ledger.late.extend(running);
    }
}

struct HookedLock {
    inner: Option<Box<dyn DirLock>>,
    shared: Arc<Shared>,
}

impl DirLock for HookedLock {
    fn check(&self) -> Result<()> {
        self.inner.as_ref().expect("it goes with its release").check()
    }

    fn release(mut self: Box<Self>) -> Result<()> {
        // Noted before it happens, so that nobody can take the lock in between.
        self.shared.release();
        self.inner.take().expect("it is released once").release()
    }
}

impl Drop for HookedLock {
    fn drop(&mut self) {
        if let Some(lock) = self.inner.take() {
            self.shared.release();
            drop(lock);
        }
    }
}

struct HookedWrite {
    inner: Box<dyn WriteFile>,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl WriteFile for HookedWrite {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        self.shared.run(Op::Append, &self.path, len, || self.inner.append(parts))
    }
    fn sync(&mut self) -> Result<()> {
        if self.shared.is_syncing_several.load(Ordering::SeqCst) {
            return self.inner.sync();
        }
        self.shared.run(Op::Sync, &self.path, 0, || self.inner.sync())
    }
    fn trim(&mut self) -> Result<()> {
        self.shared.run(Op::Trim, &self.path, 0, || self.inner.trim())
    }
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn allocate(&mut self, len: u64) -> Result<()> {
        self.shared.run(Op::Allocate, &self.path, len, || self.inner.allocate(len))
    }
    fn allocated_len(&self) -> u64 {
        self.inner.allocated_len()
    }
}

struct HookedRead {
    inner: Arc<dyn ReadFile>,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl ReadFile for HookedRead {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.shared.run(Op::Read, &self.path, buffer.len() as u64, || self.inner.read_at(buffer, offset))
    }
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.inner.advise(advice, offset, len);
    }
}

impl Vfs for HookedVfs {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        let inner = Arc::clone(&self.inner).hold_dir(path)?;
        Ok(Arc::new(HookedVfs { inner, shared: Arc::clone(&self.shared) }))
    }
    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        self.shared.run(Op::SyncFiles, Path::new(""), files.len() as u64, || {
            self.shared.is_syncing_several.store(true, Ordering::SeqCst);
            let result = files.iter_mut().try_for_each(|file| file.sync());
            self.shared.is_syncing_several.store(false, Ordering::SeqCst);
            result
        })
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let inner = self.shared.run(Op::Create, path, 0, || self.inner.create_new(path))?;
        Ok(Box::new(HookedWrite { inner, path: path.to_owned(), shared: Arc::clone(&self.shared) }))
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let inner = self.shared.run(Op::Open, path, 0, || self.inner.open(path))?;
        Ok(Arc::new(HookedRead { inner, path: path.to_owned(), shared: Arc::clone(&self.shared) }))
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        self.shared.run(Op::SyncFile, path, 0, || self.inner.sync_file(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.shared.run(Op::Rename, to, 0, || self.inner.rename(from, to))
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.shared.run(Op::Remove, path, 0, || self.inner.remove_file(path))
    }
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        self.shared.run(Op::Link, to, 0, || self.inner.link_or_copy(from, to))
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.shared.run(Op::CreateDir, path, 0, || self.inner.create_dir_all(path))
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.shared.run(Op::ReadDir, path, 0, || self.inner.read_dir(path))
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.shared.run(Op::SyncDir, path, 0, || self.inner.sync_dir(path))
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        let inner = self.shared.run(Op::Lock, path, 0, || self.inner.lock(path, mode))?;
        self.shared.take();
        Ok(Box::new(HookedLock { inner: Some(inner), shared: Arc::clone(&self.shared) }))
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.shared.run(Op::Metadata, path, 0, || self.inner.metadata(path))
    }
    fn available_space(&self, path: &Path) -> Result<u64> {
        self.inner.available_space(path)
    }
    fn now(&self) -> u64 {
        drop(self.shared.run(Op::Now, Path::new(""), 0, || Ok(())));
        self.inner.now()
    }
    fn wall(&self) -> UnixMillis {
        self.inner.wall()
    }
    fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration);
    }
}
