//! The database's directory, held from opening to the end of closing.
//!
//! All disk access of a database goes through its [`Directory`]. Promises:
//!
//! - **It is the same directory all the time**, whatever is moved, put in its place, or becomes the current directory:
//!   the disk holds it ([`Vfs::hold_dir`]).
//! - **Nothing is written, renamed or removed in it by anybody but the holder of its lock.** Before each of these the lock
//!   file is checked to be the one that is locked, and the process to be the one that locked it. Appends, which go to
//!   files of our own, are checked once in a while, and before each sync.
//! - **It is let go of once**, and only when nothing on any thread is inside a change: from then on every operation is
//!   `Closed`, whoever still has a handle.
//! - **A failed sync of its names is final** for everybody ([`crate::vfs::final_sync`]).
//!
//! Reads of files are not counted in and out; they fail with `Closed` once the directory was let go of. A reader of a directory
//! without a lock file holds nothing that could keep a writer away; it is told when one has come.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::time::UnixMillis;
use crate::db::ends::{closed, forked};
use crate::format::names::FileName;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Condvar, Mutex, process_id, yield_point};
use crate::vfs::final_sync::FinalSync;
use crate::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long appends may go on after the last check of the lock.
const CHECK_INTERVAL_NANOS: u64 = 10_000_000;

/// A held directory and the disk that it lies on.
pub(crate) struct Directory {
    disk: Arc<dyn Vfs>,
    path: PathBuf,
    guard: Arc<Guard>,
    names: FinalSync,
}

/// What says whether the directory may be changed; shared with the files being written in it.
struct Guard {
    disk: Arc<dyn Vfs>,
    process: u32,
    /// None before it is taken and after it was let go of. Held over a look at the lock file, which waits for nobody.
    lock: Mutex<Option<Box<dyn DirLock>>>,
    /// Changes that are under way.
    inside_count: AtomicU64,
    is_shut: AtomicBool,
    checked_at: AtomicU64,
    leaving: Mutex<()>,
    left: Condvar,
}

/// A change that is under way.
struct Inside<'a>(&'a Guard);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let before = self.0.inside_count.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.0.is_shut.load(Ordering::SeqCst) {
            drop(self.0.leaving.lock());
            self.0.left.notify_all();
        }
    }
}

impl Guard {
    /// Begins a change, unless the directory was let go of or this process is not its holder.
    fn enter(&self) -> Result<Inside<'_>> {
        if self.is_forked() {
            return Err(forked());
        }
        // In this order, against `shut`: either it sees us inside, or we see it shut.
        self.inside_count.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        yield_point("directory: entered");
        if self.is_shut.load(Ordering::SeqCst) {
            return Err(closed());
        }
        Ok(inside)
    }

    /// Begins a change of names, after a look whether the lock is still the one that is held.
    fn enter_checked(&self) -> Result<Inside<'_>> {
        let inside = self.enter()?;
        self.check()?;
        Ok(inside)
    }

    fn check(&self) -> Result<()> {
        if let Some(lock) = self.lock.lock().as_ref() {
            lock.check()?;
            self.checked_at.store(self.disk.now(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks the lock if that was long ago.
    fn check_sometimes(&self) -> Result<()> {
        let since = self.disk.now().saturating_sub(self.checked_at.load(Ordering::Relaxed));
        if since >= CHECK_INTERVAL_NANOS { self.check() } else { Ok(()) }
    }

    fn is_forked(&self) -> bool {
        process_id() != self.process
    }
}

impl Directory {
    /// Holds a directory that exists; nothing is locked yet.
    ///
    /// # Errors
    /// `NotFound`, `Io`, `Exhausted`.
    pub(crate) fn hold(disk: Arc<dyn Vfs>, path: PathBuf) -> Result<Directory> {
        let disk = disk.hold_dir(&path)?;
        let guard = Guard {
            disk: Arc::clone(&disk),
            process: process_id(),
            lock: Mutex::new(None),
            inside_count: AtomicU64::new(0),
            is_shut: AtomicBool::new(false),
            checked_at: AtomicU64::new(0),
            leaving: Mutex::new(()),
            left: Condvar::new(),
        };
        Ok(Directory { disk, path, guard: Arc::new(guard), names: FinalSync::default() })
    }

    /// Returns the path that it was opened under.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what a file takes, with what was allocated ahead; 0 if that cannot be told.
    pub(crate) fn len_of(&self, name: FileName) -> u64 {
        self.metadata(&name.path(&self.path)).map_or(0, |metadata| metadata.len)
    }

    /// Locks it until it is let go of.
    ///
    /// # Errors
    /// As [`Vfs::lock`].
    ///
    /// # Panics
    /// If it is locked already.
    pub(crate) fn lock_with(&self, lock_file: &Path, mode: LockMode) -> Result<()> {
        let lock = self.disk.lock(lock_file, mode)?;
        let before = self.guard.lock.lock().replace(lock);
        assert!(before.is_none(), "a directory is locked once");
        Ok(())
    }

    /// Returns the failure of a sync of its names, which no later sync can mend.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.names.failure()
    }

    /// Waits until no change is under way, lets none begin any more, and unlocks the directory. Does nothing the second
    /// time, and nothing in a forked process.
    ///
    /// # Errors
    /// What unlocking meets; the lock ends with the process at the latest.
    pub(crate) fn let_go(&self) -> Result<()> {
        let guard = &self.guard;
        if guard.is_forked() || guard.is_shut.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        yield_point("directory: shut");
        let mut leaving = guard.leaving.lock();
        while guard.inside_count.load(Ordering::SeqCst) > 0 {
            guard.left.wait(&mut leaving);
        }
        drop(leaving);
        let lock = guard.lock.lock().take();
        lock.map_or(Ok(()), DirLock::release)
    }

    fn check_held(&self) -> Result<()> {
        if self.guard.is_shut.load(Ordering::SeqCst) { Err(closed()) } else { Ok(()) }
    }

    /// Fails if a writer has opened the directory beside this reader, which found no lock file to hold: whatever is
    /// missing or changed then is the writer's doing and no damage. Whoever opens it to write makes the lock file, and
    /// nobody removes that.
    ///
    /// # Errors
    /// `Locked`.
    pub(crate) fn check_alone(&self) -> Result<()> {
        let lock_file = FileName::Lock.path(&self.path);
        if self.guard.lock.lock().is_some() || self.disk.metadata(&lock_file).is_err() {
            return Ok(());
        }
        let message = "a writer has opened the database since it was opened here for reading only, without a lock \
                       file that would have kept the writer away; open it anew";
        Err(Error::new(ErrorKind::Locked, message).with_file(&lock_file))
    }
}

impl Vfs for Directory {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        Arc::clone(&self.disk).hold_dir(path)
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let _inside = self.guard.enter_checked()?;
        let file = self.disk.create_new(path)?;
        Ok(Box::new(GuardedFile { file, guard: Arc::clone(&self.guard) }))
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        self.check_held()?;
        let opened = self.disk.open(path);
        // Once it is somebody else's, what is there or missing says nothing of ours.
        self.check_held()?;
        if opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            self.check_alone()?;
        }
        opened
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        let _inside = self.guard.enter_checked()?;
        self.disk.sync_file(path)
    }
    fn sync_files(&self, files: &mut [Box<dyn WriteFile>]) -> Result<()> {
        let _inside = self.guard.enter_checked()?;
        self.disk.sync_files(files)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let _inside = self.guard.enter_checked()?;
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        let _inside = self.guard.enter_checked()?;
        self.disk.remove_file(path)
    }
    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        let _inside = self.guard.enter_checked()?;
        self.disk.link_or_copy(from, to)
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let _inside = self.guard.enter_checked()?;
        self.disk.create_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        let _inside = self.guard.enter_checked()?;
        self.names.run(|| self.disk.sync_dir(path))
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let _inside = self.guard.enter()?;
        self.disk.read_dir(path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.disk.lock(path, mode)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let _inside = self.guard.enter()?;
        self.disk.metadata(path)
    }
    fn available_space(&self, path: &Path) -> Result<u64> {
        self.check_held()?;
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

/// A file being written in a held directory.
struct GuardedFile {
    file: Box<dyn WriteFile>,
    guard: Arc<Guard>,
}

impl WriteFile for GuardedFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let _inside = self.guard.enter()?;
        self.guard.check_sometimes()?;
        self.file.append(parts)
    }
    fn sync(&mut self) -> Result<()> {
        let _inside = self.guard.enter_checked()?;
        self.file.sync()
    }
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn allocate(&mut self, len: u64) -> Result<()> {
        let _inside = self.guard.enter()?;
        self.file.allocate(len)
    }
    fn allocated_len(&self) -> u64 {
        self.file.allocated_len()
    }
    fn trim(&mut self) -> Result<()> {
        let _inside = self.guard.enter()?;
        self.file.trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::spawn;
    use crate::vfs::mem::MemVfs;
    use crate::vfs::wrap::VfsWrapper;

    const LOCK: &str = "/db/LOCK";

    fn held(disk: Arc<dyn Vfs>) -> Directory {
        disk.create_dir_all(Path::new("/db")).expect("created");
        let directory = Directory::hold(disk, PathBuf::from("/db")).expect("held");
        directory.lock_with(Path::new(LOCK), LockMode::Exclusive).expect("locked");
        directory
    }

    #[test]
    fn no_change_of_names_is_made_once_the_lock_is_gone() {
        let disk = Arc::new(MemVfs::new());
        let directory = held(disk.clone());
        let path = Path::new("/db/a");
        drop(directory.create_new(path).expect("created"));
        disk.remove_file(Path::new(LOCK)).expect("somebody removes it");
        let other = Path::new("/db/b");
        let changes = [
            ("create_new", directory.create_new(other).map(drop)),
            ("rename", directory.rename(path, other)),
            ("remove_file", directory.remove_file(path)),
            ("link_or_copy", directory.link_or_copy(path, other).map(drop)),
            ("create_dir_all", directory.create_dir_all(Path::new("/db/c"))),
            ("sync_file", directory.sync_file(path)),
            ("sync_files", directory.sync_files(&mut [])),
            ("sync_dir", directory.sync_dir(Path::new("/db"))),
        ];
        for (change, answer) in changes {
            assert!(answer.is_err(), "{change}");
        }
        let names: Vec<_> =
            disk.read_dir(Path::new("/db")).expect("listed").into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["a"]);
    }

    /// Something that others wait for.
    #[derive(Default)]
    struct Gate {
        is_open: Mutex<bool>,
        opened: Condvar,
    }

    impl Gate {
        fn open(&self) {
            *self.is_open.lock() = true;
            self.opened.notify_all();
        }

        fn pass(&self) {
            let mut is_open = self.is_open.lock();
            while !*is_open {
                self.opened.wait(&mut is_open);
            }
        }
    }

    /// A disk whose renames wait until they may go on.
    struct Slow {
        inner: Arc<dyn Vfs>,
        begun: Arc<Gate>,
        may_go_on: Arc<Gate>,
    }

    impl VfsWrapper for Slow {
        fn inner(&self) -> &Arc<dyn Vfs> {
            &self.inner
        }
        fn around(&self, inner: Arc<dyn Vfs>) -> Slow {
            Slow { inner, begun: Arc::clone(&self.begun), may_go_on: Arc::clone(&self.may_go_on) }
        }
        fn rename(&self, from: &Path, to: &Path) -> Result<()> {
            self.begun.open();
            self.may_go_on.pass();
            self.inner.rename(from, to)
        }
    }

    #[test]
    fn it_is_not_let_go_of_under_a_change() {
        let (begun, may_go_on, mem) =
            (Arc::<Gate>::default(), Arc::<Gate>::default(), Arc::new(MemVfs::new()));
        let slow = Slow { inner: mem.clone(), begun: Arc::clone(&begun), may_go_on: Arc::clone(&may_go_on) };
        let directory = Arc::new(held(Arc::new(slow)));
        drop(directory.create_new(Path::new("/db/a")).expect("created"));
        let renaming = Arc::clone(&directory);
        let renamer = spawn("renamer", move || {
            renaming.rename(Path::new("/db/a"), Path::new("/db/b")).expect("it was begun in time");
        });
        begun.pass();
        let (leaving, has_left) = (Arc::clone(&directory), Arc::new(AtomicBool::new(false)));
        let left = Arc::clone(&has_left);
        let leaver = spawn("leaver", move || {
            leaving.let_go().expect("unlocked");
            left.store(true, Ordering::SeqCst);
        });
        while !directory.guard.is_shut.load(Ordering::SeqCst) {
            crate::sync::thread::yield_now();
        }
        // It has no reason to be through, however long one waits.
        crate::sync::thread::sleep(Duration::from_millis(20));
        assert!(!has_left.load(Ordering::SeqCst), "let go of under a rename");
        assert!(mem.lock(Path::new(LOCK), LockMode::Exclusive).is_err(), "unlocked under a rename");
        may_go_on.open();
        assert!(renamer.expect("a thread").join() && leaver.expect("a thread").join());
        drop(mem.lock(Path::new(LOCK), LockMode::Exclusive).expect("it is free"));
    }
}
