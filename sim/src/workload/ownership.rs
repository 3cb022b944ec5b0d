//! The disk as one incarnation of a database has it, watched.
//!
//! An incarnation may touch a directory while it holds the directory's lock, and at no other time: before it has the
//! lock it may look, and once the lock is free, nothing on any thread may look, create, write, rename or remove there
//! any more, since the directory may be somebody else's. The time from one to the other is its ownership. Every
//! operation is passed on and judged when its effect is there; only a table that somebody still reads may be opened at
//! any time, since no other file ever gets its number. File numbers are judged too: none is given out twice.

#![allow(clippy::disallowed_types, reason = "below the scheduler, whose own threads do not interleave")]

use crate::disk::SimDisk;
use crate::schedule;
use crate::workload::judge::{Context, Judge};
use parking_lot::Mutex;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tinylsm::format::names::FileName;
use tinylsm::vfs::{Advice, Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use tinylsm::{Result, UnixMillis};

/// The event of reading a file that was open when the ownership ended.
pub const READ_BY_OLD_HANDLE: &str = "read through an old handle";

const BEFORE: u8 = 0;
const HELD: u8 = 1;
const OVER: u8 = 2;

/// A disk in the hands of one opening of a database.
#[derive(Clone)]
pub struct Ownership(Arc<Shared>);

struct Shared {
    disk: SimDisk,
    judge: Arc<Mutex<Judge>>,
    stage: AtomicU8,
    /// Whether no file number may come twice: not on a copy beside the run's own disk.
    judges_numbers: bool,
    /// Whether it is the run's own database, whose clients commit no earlier than any time it has told them.
    is_runs_own: bool,
}

impl Ownership {
    /// Puts the run's disk into the hands of an opening.
    pub fn new(disk: &SimDisk, context: &Context) -> Arc<Ownership> {
        Ownership::make(disk, context, true, true)
    }

    /// Puts the run's disk into the hands of an opening of another database.
    pub fn of_neighbour(disk: &SimDisk, context: &Context) -> Arc<Ownership> {
        Ownership::make(disk, context, true, false)
    }

    /// Puts a copy of the run's disk into the hands of an opening.
    pub fn on_copy(disk: &SimDisk, context: &Context) -> Arc<Ownership> {
        Ownership::make(disk, context, false, false)
    }

    fn make(disk: &SimDisk, context: &Context, judges_numbers: bool, is_runs_own: bool) -> Arc<Ownership> {
        let judge = Arc::clone(&context.judge);
        let (disk, stage) = (disk.clone(), AtomicU8::new(BEFORE));
        Arc::new(Ownership(Arc::new(Shared { disk, judge, stage, judges_numbers, is_runs_own })))
    }

    fn wrap(&self, file: Box<dyn WriteFile>) -> Box<dyn WriteFile> {
        Box::new(File { file, ownership: self.clone() })
    }
}

impl Shared {
    fn stage(&self) -> u8 {
        self.stage.load(Ordering::Relaxed)
    }

    /// Judges a change that has just had its effect.
    fn changed(&self, what: &str, path: &Path) {
        match self.stage() {
            HELD => {}
            BEFORE => self.violate(format!("{what} of {} without the lock", path.display())),
            _ => self.violate(format!("{what} of {} after the lock was freed", path.display())),
        }
    }

    /// Judges a look at a name that has just been taken.
    fn looked(&self, what: &str, path: &Path) {
        if self.stage() == OVER {
            self.violate(format!("{what} of {} after the lock was freed", path.display()));
        }
    }

    fn violate(&self, message: String) {
        if !self.disk.is_off() {
            self.judge.lock().violate("hands off what is not ours", message);
        }
    }

    fn note_number(&self, path: &Path) {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(FileName::parse);
        // A temporary file's bytes are not bound to its number.
        let is_bound = |name: &FileName| self.judges_numbers && !matches!(name, FileName::Temporary(_));
        let name = name.filter(is_bound);
        let Some(number) = name.and_then(|name| name.number()) else { return };
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut judge = self.judge.lock();
        if !judge.file_numbers.insert((directory, number.0)) {
            judge.violate(
                "file numbers",
                format!("number {number} was given out twice, now to {}", path.display()),
            );
        }
    }
}

impl Vfs for Ownership {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        let shared = &self.0;
        let disk = shared.disk.hold(path)?;
        let (judge, stage) = (Arc::clone(&shared.judge), AtomicU8::new(BEFORE));
        Ok(Arc::new(Ownership(Arc::new(Shared {
            disk,
            judge,
            stage,
            judges_numbers: shared.judges_numbers,
            is_runs_own: shared.is_runs_own,
        }))))
    }

    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let created = self.0.disk.create_new(path);
        self.0.changed("creation", path);
        let created = created?;
        self.0.note_number(path);
        Ok(self.wrap(created))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let opened = self.0.disk.open(path);
        if path.extension().is_none_or(|extension| extension != "sst") {
            self.0.looked("opening", path);
        }
        Ok(Arc::new(Reader { file: opened?, ownership: self.clone() }))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        let synced = self.0.disk.sync_file(path);
        self.0.changed("sync", path);
        synced
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.0.disk.rename(from, to);
        self.0.changed("rename", from);
        renamed
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let removed = self.0.disk.remove_file(path);
        self.0.changed("removal", path);
        removed
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        let linked = self.0.disk.link_or_copy(from, to);
        self.0.changed("link", from);
        linked
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        // Before there can be a lock there must be a directory.
        let created = self.0.disk.create_dir_all(path);
        self.0.looked("creation", path);
        created
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let listed = self.0.disk.read_dir(path);
        self.0.looked("listing", path);
        listed
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let synced = self.0.disk.sync_dir(path);
        self.0.changed("sync", path);
        synced
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        let lock = self.0.disk.lock(path, mode)?;
        self.0.stage.store(HELD, Ordering::Relaxed);
        Ok(Box::new(Lock { lock: Some(lock), ownership: self.clone() }))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let metadata = self.0.disk.metadata(path);
        self.0.looked("metadata", path);
        metadata
    }

    fn available_space(&self, path: &Path) -> Result<u64> {
        self.0.disk.available_space(path)
    }

    fn now(&self) -> u64 {
        self.0.disk.now()
    }

    fn wall(&self) -> UnixMillis {
        let wall = self.0.disk.wall();
        if let Some(thread) = schedule::thread_id()
            && self.0.is_runs_own
            && self.0.stage() == HELD
        {
            let mut judge = self.0.judge.lock();
            let told = judge.told_times.entry(thread).or_insert(wall.0);
            *told = (*told).max(wall.0);
        }
        wall
    }

    fn sleep(&self, duration: Duration) {
        self.0.disk.sleep(duration);
    }
}

struct File {
    file: Box<dyn WriteFile>,
    ownership: Ownership,
}

impl WriteFile for File {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let appended = self.file.append(parts);
        self.ownership.0.changed("append", Path::new("an open file"));
        appended
    }

    fn sync(&mut self) -> Result<()> {
        let synced = self.file.sync();
        self.ownership.0.changed("sync", Path::new("an open file"));
        synced
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn allocate(&mut self, len: u64) -> Result<()> {
        let allocated = self.file.allocate(len);
        self.ownership.0.changed("allocation", Path::new("an open file"));
        allocated
    }

    fn allocated_len(&self) -> u64 {
        self.file.allocated_len()
    }

    fn trim(&mut self) -> Result<()> {
        let trimmed = self.file.trim();
        self.ownership.0.changed("trim", Path::new("an open file"));
        trimmed
    }
}

/// A file open for reading, which a reader may keep beyond the ownership.
struct Reader {
    file: Arc<dyn ReadFile>,
    ownership: Ownership,
}

impl ReadFile for Reader {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let read = self.file.read_at(buffer, offset);
        if self.ownership.0.stage() == OVER {
            self.ownership.0.judge.lock().reach(READ_BY_OLD_HANDLE);
        }
        read
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.file.advise(advice, offset, len);
    }
}

struct Lock {
    /// Here until the ownership is over.
    lock: Option<Box<dyn DirLock>>,
    ownership: Ownership,
}

impl DirLock for Lock {
    fn check(&self) -> Result<()> {
        self.lock.as_ref().expect("here until the ownership is over").check()
    }

    fn release(mut self: Box<Self>) -> Result<()> {
        let lock = self.lock.take().expect("here until the ownership is over");
        let released = lock.release();
        self.ownership.0.stage.store(OVER, Ordering::Relaxed);
        released
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nothing between the two suspends.
        drop(self.lock.take());
        self.ownership.0.stage.store(OVER, Ordering::Relaxed);
    }
}
