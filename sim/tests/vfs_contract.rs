//! The contract of `tinylsm::vfs`, on the real disk, the disk in memory, the simulated one, and disks made from outside.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tinylsm::base::error::{Error, ErrorKind, Result};
use tinylsm::sync::Mutex;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::os::OsVfs;
use tinylsm::vfs::wrap::{VfsWrapper, WriteFileWrapper};
use tinylsm::vfs::{DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile, hold_by_name};
use tinylsm::{Db, Options};
use tinylsm_sim::contract::check;
use tinylsm_sim::disk::{Profile, SimDisk};
use tinylsm_sim::tape::Tape;

#[test]
fn the_real_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    check(&(Arc::new(OsVfs::new()) as Arc<dyn Vfs>), dir.path());
}

#[test]
fn the_disk_in_memory_keeps_the_contract() {
    check(&(Arc::new(MemVfs::new()) as Arc<dyn Vfs>), Path::new("/db"));
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    for profile in Profile::ALL {
        let disk: Arc<dyn Vfs> = Arc::new(SimDisk::new(profile, Tape::from_seed(1)));
        check(&disk, Path::new("/db"));
    }
}

/// A disk from outside that overrides one call and wraps the files.
struct Wrapped {
    inner: Arc<dyn Vfs>,
    syncs: Arc<Mutex<u64>>,
}

struct WrappedFile {
    inner: Box<dyn WriteFile>,
    syncs: Arc<Mutex<u64>>,
}

impl VfsWrapper for Wrapped {
    fn inner(&self) -> &Arc<dyn Vfs> {
        &self.inner
    }
    fn around(&self, inner: Arc<dyn Vfs>) -> Wrapped {
        Wrapped { inner, syncs: Arc::clone(&self.syncs) }
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let inner = self.inner.create_new(path)?;
        Ok(Box::new(WrappedFile { inner, syncs: Arc::clone(&self.syncs) }))
    }
}

impl WriteFileWrapper for WrappedFile {
    fn inner(&self) -> &dyn WriteFile {
        self.inner.as_ref()
    }
    fn inner_mut(&mut self) -> &mut dyn WriteFile {
        self.inner.as_mut()
    }
    fn sync(&mut self) -> Result<()> {
        *self.syncs.lock() += 1;
        self.inner.sync()
    }
}

#[test]
fn a_wrapper_that_overrides_one_method_keeps_the_contract() {
    let syncs = Arc::new(Mutex::new(0));
    let disk: Arc<dyn Vfs> = Arc::new(Wrapped { inner: Arc::new(MemVfs::new()), syncs: Arc::clone(&syncs) });
    check(&disk, Path::new("/db"));
    assert!(*syncs.lock() > 20);
}

/// A disk made from scratch with as few methods as the traits ask for.
#[derive(Clone, Default)]
struct Least(Arc<Mutex<BTreeMap<PathBuf, Entry>>>);

#[derive(Clone)]
enum Entry {
    Dir,
    File(Arc<File>),
}

#[derive(Default)]
struct File {
    bytes: Mutex<Vec<u8>>,
    /// How many hold the lock; below 0, one holds it alone.
    holders: Mutex<i64>,
}

fn no(kind: ErrorKind, path: &Path) -> Error {
    Error::new(kind, "no").with_file(path)
}

impl Least {
    fn file(&self, path: &Path) -> Result<Arc<File>> {
        match self.0.lock().get(path) {
            Some(Entry::File(file)) => Ok(Arc::clone(file)),
            Some(Entry::Dir) => Err(no(ErrorKind::Io, path)),
            None => Err(no(ErrorKind::NotFound, path)),
        }
    }

    fn check_parent(&self, path: &Path) -> Result<()> {
        let parent = path.parent().unwrap();
        if self.metadata(parent)?.is_dir { Ok(()) } else { Err(no(ErrorKind::Io, parent)) }
    }
}

impl Vfs for Least {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        hold_by_name(self, path)
    }
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.check_parent(path)?;
        let mut tree = self.0.lock();
        if tree.contains_key(path) {
            return Err(no(ErrorKind::AlreadyExists, path));
        }
        let file = Arc::new(File::default());
        tree.insert(path.to_owned(), Entry::File(Arc::clone(&file)));
        Ok(Box::new(LeastFile(file)))
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        Ok(Arc::new(LeastFile(self.file(path)?)))
    }
    fn sync_file(&self, path: &Path) -> Result<()> {
        self.file(path).map(drop)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let file = self.file(from)?;
        if from.parent() != to.parent() {
            return Err(no(ErrorKind::InvalidArgument, to));
        }
        let mut tree = self.0.lock();
        if matches!(tree.get(to), Some(Entry::Dir)) {
            return Err(no(ErrorKind::Io, to));
        }
        tree.remove(from);
        tree.insert(to.to_owned(), Entry::File(file));
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.file(path)?;
        self.0.lock().remove(path);
        Ok(())
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut tree = self.0.lock();
        for dir in path.ancestors() {
            if let Entry::File(_) = tree.entry(dir.to_owned()).or_insert(Entry::Dir) {
                return Err(no(ErrorKind::Io, dir));
            }
        }
        Ok(())
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        if !self.metadata(path)?.is_dir {
            return Err(no(ErrorKind::Io, path));
        }
        let tree = self.0.lock();
        let inside = tree.iter().filter(|(entry, _)| entry.parent() == Some(path));
        let name = |entry: &PathBuf| entry.file_name().unwrap().to_string_lossy().into_owned();
        let mut listed: Vec<DirEntry> = inside
            .map(|(entry, what)| DirEntry { name: name(entry), is_dir: matches!(what, Entry::Dir) })
            .collect();
        listed.sort();
        Ok(listed)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.metadata(path).map(drop)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        if mode == LockMode::Exclusive && self.metadata(path).is_err() {
            drop(self.create_new(path)?);
        }
        let file = self.file(path)?;
        let mut holders = file.holders.lock();
        match (mode, *holders) {
            (LockMode::Exclusive, 0) => *holders = -1,
            (LockMode::Shared, 0..) => *holders += 1,
            _ => return Err(no(ErrorKind::Locked, path)),
        }
        drop(holders);
        Ok(Box::new(LeastLock { disk: self.clone(), path: path.to_owned(), file }))
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let found = self.0.lock().get(path).cloned();
        match found {
            Some(Entry::File(file)) => Ok(Metadata { len: file.bytes.lock().len() as u64, is_dir: false }),
            Some(Entry::Dir) => Ok(Metadata { len: 0, is_dir: true }),
            None => Err(no(ErrorKind::NotFound, path)),
        }
    }
}

struct LeastFile(Arc<File>);

impl WriteFile for LeastFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let mut bytes = self.0.bytes.lock();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn len(&self) -> u64 {
        self.0.bytes.lock().len() as u64
    }
}

impl ReadFile for LeastFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = self.0.bytes.lock();
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }
    fn len(&self) -> Result<u64> {
        Ok(self.0.bytes.lock().len() as u64)
    }
}

struct LeastLock {
    disk: Least,
    path: PathBuf,
    file: Arc<File>,
}

impl DirLock for LeastLock {
    fn check(&self) -> Result<()> {
        let is_same = self.disk.file(&self.path).is_ok_and(|file| Arc::ptr_eq(&file, &self.file));
        if is_same { Ok(()) } else { Err(no(ErrorKind::Io, &self.path)) }
    }
    fn release(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for LeastLock {
    fn drop(&mut self) {
        let mut holders = self.file.holders.lock();
        *holders = if *holders < 0 { 0 } else { *holders - 1 };
    }
}

#[test]
fn a_disk_with_the_fewest_methods_serves_a_database() {
    let disk = Arc::new(Least::default());
    let open = || Db::builder("some/dir").vfs(disk.clone()).options(Options::small()).open().unwrap();
    let db = open();
    for number in 0..500 {
        db.put(format!("{number:03}"), [7; 100]).unwrap();
    }
    db.compact_range(db.default_keyspace(), ..).unwrap();
    db.close().unwrap();
    assert_eq!(open().iter().unwrap().count(), 500);
}

#[test]
fn a_broken_promise_is_named() {
    struct Forgetful(Arc<dyn Vfs>);
    impl VfsWrapper for Forgetful {
        fn inner(&self) -> &Arc<dyn Vfs> {
            &self.0
        }
        fn around(&self, inner: Arc<dyn Vfs>) -> Forgetful {
            Forgetful(inner)
        }
        fn remove_file(&self, _: &Path) -> Result<()> {
            Ok(())
        }
    }
    let disk: Arc<dyn Vfs> = Arc::new(Forgetful(Arc::new(MemVfs::new())));
    let payload = catch_unwind(AssertUnwindSafe(|| check(&disk, Path::new("/db")))).unwrap_err();
    let text = payload.downcast_ref::<String>().unwrap();
    assert!(text.contains("breaks the contract") && text.contains("what is missing is not found"), "{text}");
}

#[test]
fn a_simulated_disk_serves_a_database_outside_a_run() {
    let disk = Arc::new(SimDisk::new(Profile::Worst, Tape::from_seed(1)));
    let db = Db::builder("/db").vfs(disk.clone()).options(Options::small()).open().unwrap();
    let began = disk.now();
    for number in 0..300_u32 {
        db.put(number.to_be_bytes(), [1; 100]).unwrap();
    }
    // It waits for a time at which the database counts as quiet.
    db.wait_idle().unwrap();
    // Time passes by itself.
    while disk.now() - began < 5_000_000 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    db.close().unwrap();
}

/// A disk of the fewest methods cannot reserve, and keeps the contract in everything that it has; one whose files tell a wrong
/// length does not.
#[test]
fn what_is_allocated_is_looked_at() {
    struct Disk(Arc<dyn Vfs>, fn(Box<dyn WriteFile>) -> Box<dyn WriteFile>);
    impl VfsWrapper for Disk {
        fn inner(&self) -> &Arc<dyn Vfs> {
            &self.0
        }
        fn around(&self, inner: Arc<dyn Vfs>) -> Disk {
            Disk(inner, self.1)
        }
        fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
            Ok(self.1(self.0.create_new(path)?))
        }
    }
    struct ReservesNothing(Box<dyn WriteFile>);
    impl WriteFileWrapper for ReservesNothing {
        fn inner(&self) -> &dyn WriteFile {
            self.0.as_ref()
        }
        fn inner_mut(&mut self) -> &mut dyn WriteFile {
            self.0.as_mut()
        }
        fn allocate(&mut self, _len: u64) -> Result<()> {
            Ok(())
        }
    }
    struct TellsAnything(Box<dyn WriteFile>);
    impl WriteFileWrapper for TellsAnything {
        fn inner(&self) -> &dyn WriteFile {
            self.0.as_ref()
        }
        fn inner_mut(&mut self) -> &mut dyn WriteFile {
            self.0.as_mut()
        }
        fn allocated_len(&self) -> u64 {
            7
        }
    }
    let around = |file| Arc::new(Disk(Arc::new(MemVfs::new()), file)) as Arc<dyn Vfs>;
    check(&around(|file| Box::new(ReservesNothing(file))), Path::new("/db"));
    let wrong = around(|file| Box::new(TellsAnything(file)));
    let found = catch_unwind(AssertUnwindSafe(|| check(&wrong, Path::new("/db"))));
    assert!(found.is_err(), "a wrong length passes");
}

#[test]
fn a_directory_that_is_in_use_is_not_checked() {
    let disk: Arc<dyn Vfs> = Arc::new(MemVfs::new());
    check(&disk, Path::new("/db"));
    let again = catch_unwind(AssertUnwindSafe(|| check(&disk, Path::new("/db"))));
    let text = *again.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("is not empty"), "{text}");
}
