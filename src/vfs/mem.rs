//! A plain disk in memory.
//!
//! Owns [`MemVfs`], which stands behind `Db::open_in_memory`, doc examples and tests. Promises the contract of
//! [`crate::vfs`] on a machine that never loses power: what was appended stays until the last clone of the
//! disk is dropped, so every sync is a no-op that succeeds.
//!
//! How: a map of directories, each a map of names to shared files, under one lock; the bytes of a file under
//! a lock of its own, so that readers of different files do not meet. These are always the plain
//! locks of [`crate::sync`]: none is held across anything that waits or yields, and a disk is below the scheduler that a
//! simulator puts there. Space that was only reserved costs no memory.
//!
//! Paths are read as a sequence of names: `a//b`, `./a/b` and `/a/b` are one file, and `..` goes up.
//!
//! Directories are never moved or removed, so a held directory is the disk itself.
//!
//! It does not fail, lose power, fill up or take time; the crate `tinylsm-sim` has the disk that does.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::time::UnixMillis;
use crate::sync::plain::{Mutex, MutexGuard};
use crate::sync::{thread, time};
use crate::vfs::{Advice, Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IoSlice;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What [`Vfs::available_space`] says of a disk that has no end.
const AVAILABLE_SPACE_BYTES: u64 = 1 << 60;

/// A disk in memory.
///
/// Clones share the disk; [`MemVfs::fork`] copies it.
///
/// ```
/// use std::io::IoSlice;
/// use std::path::Path;
/// use tinylsm::vfs::{Vfs, mem::MemVfs};
///
/// let disk = MemVfs::new();
/// disk.create_dir_all(Path::new("db"))?;
/// let mut file = disk.create_new(Path::new("db/notes"))?;
/// file.append(&[IoSlice::new(b"hello "), IoSlice::new(b"there")])?;
/// assert_eq!(disk.read(Path::new("db/notes"))?, b"hello there");
/// # Ok::<(), tinylsm::base::error::Error>(())
/// ```
#[derive(Clone)]
pub struct MemVfs {
    tree: Arc<Mutex<Tree>>,
    clock: Clock,
}

#[derive(Clone)]
enum Clock {
    /// The machine's; inside a simulated run, the run's.
    Real,
    Manual(ManualClock),
}

/// A clock that stands still until a test moves it. Clones share the time.
#[derive(Clone, Debug)]
pub struct ManualClock {
    time: Arc<Mutex<ManualTime>>,
}

#[derive(Debug)]
struct ManualTime {
    now_ns: u64,
    wall: UnixMillis,
}

impl ManualClock {
    /// Starts a clock that shows `wall` and a monotonic time of zero.
    pub fn new(wall: UnixMillis) -> ManualClock {
        ManualClock { time: Arc::new(Mutex::new(ManualTime { now_ns: 0, wall })) }
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, duration: Duration) {
        let mut time = self.time.lock();
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        time.now_ns = time.now_ns.saturating_add(ns);
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        time.wall = UnixMillis(time.wall.0.saturating_add(ms));
    }

    /// Sets the wall clock, backwards too; the monotonic clock does not notice.
    pub fn set_wall(&self, wall: UnixMillis) {
        self.time.lock().wall = wall;
    }
}

impl MemVfs {
    /// Creates an empty disk with the machine's clocks.
    pub fn new() -> MemVfs {
        MemVfs::on(Clock::Real)
    }

    /// Creates an empty disk whose time is `clock`'s; sleeping on it advances the clock and returns at once.
    pub fn with_clock(clock: ManualClock) -> MemVfs {
        MemVfs::on(Clock::Manual(clock))
    }

    fn on(clock: Clock) -> MemVfs {
        MemVfs { tree: Arc::new(Mutex::new(Tree::new())), clock }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock()
    }
}

impl Default for MemVfs {
    fn default() -> MemVfs {
        MemVfs::new()
    }
}

/// For tests: looking at the disk from outside, and damaging it behind the engine's back.
impl MemVfs {
    /// Copies the disk as it is now: files, links and directories, but no locks and no open handles.
    #[must_use]
    pub fn fork(&self) -> MemVfs {
        MemVfs { tree: Arc::new(Mutex::new(self.tree().deep_copy())), clock: self.clock.clone() }
    }

    /// Lists every file of the disk, sorted by path, without a leading slash.
    pub fn files(&self) -> Vec<PathBuf> {
        let tree = self.tree();
        let mut paths = Vec::new();
        for (dir, names) in &tree.dirs {
            let files = names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
            paths.extend(files.map(|(name, _)| dir.join(name)));
        }
        paths.sort_unstable();
        paths
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound`; `Io` for a directory.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let file = self.tree().file("read", path)?;
        let content = file.content.lock();
        let mut bytes = content.bytes.clone();
        bytes.resize(content.len_in_memory(), 0);
        Ok(bytes)
    }

    /// Puts a file with these bytes in place of whatever has the name; handles of the old file keep it.
    ///
    /// # Errors
    /// `NotFound` if the directory is missing.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let path = Resolved::new(path);
        let file = MemFile::new(Content { bytes: bytes.to_vec(), len: bytes.len() as u64 });
        self.tree().names_mut("write", &path)?.insert(path.name.clone(), Node::File(Arc::new(file)));
        Ok(())
    }

    /// Damages one byte of a file by turning over the bits of `mask`; open handles see it.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` if the file has no byte at `offset`.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> Result<()> {
        let file = self.tree().file("flip", path)?;
        let mut content = file.content.lock();
        if offset >= content.len {
            return Err(Error::invalid("no byte there").with_file(path).with_offset(offset));
        }
        let len = content.len_in_memory();
        content.bytes.resize(len, 0);
        let index = usize::try_from(offset).expect("a file in memory has addressable offsets");
        content.bytes[index] ^= mask;
        Ok(())
    }

    /// Cuts a file to `len` bytes, or lengthens it with zeros; open handles see it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn truncate(&self, path: &Path, len: u64) -> Result<()> {
        let file = self.tree().file("truncate", path)?;
        let mut content = file.content.lock();
        let kept = content.bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        content.bytes.truncate(kept);
        content.len = len;
        Ok(())
    }
}

/// A path as a directory and a name in it. The root has an empty name.
struct Resolved {
    dir: PathBuf,
    name: OsString,
}

impl Resolved {
    fn new(path: &Path) -> Resolved {
        let mut dir = normalize(path);
        let name = dir.file_name().map(OsStr::to_owned).unwrap_or_default();
        dir.pop();
        Resolved { dir, name }
    }

    fn is_root(&self) -> bool {
        self.name.is_empty()
    }
}

/// Reduces a path to its names, from the root.
fn normalize(path: &Path) -> PathBuf {
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => {
                names.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    names
}

/// Names of one directory.
type Names = BTreeMap<OsString, Node>;

/// Every directory by its normalized path; the root, the empty path, is always there.
struct Tree {
    dirs: BTreeMap<PathBuf, Names>,
}

#[derive(Clone)]
enum Node {
    Dir,
    File(Arc<MemFile>),
}

impl Tree {
    fn new() -> Tree {
        Tree { dirs: BTreeMap::from([(PathBuf::new(), Names::new())]) }
    }

    fn names_mut(&mut self, operation: &'static str, path: &Resolved) -> Result<&mut Names> {
        if path.is_root() {
            return Err(is_a_directory(operation, &path.dir));
        }
        if !self.dirs.contains_key(&path.dir) {
            return Err(self.absent(operation, &path.dir));
        }
        Ok(self.dirs.get_mut(&path.dir).expect("looked up a line above"))
    }

    fn node(&self, path: &Resolved) -> Option<&Node> {
        if path.is_root() { Some(&Node::Dir) } else { self.dirs.get(&path.dir)?.get(&path.name) }
    }

    fn file(&self, operation: &'static str, path: &Path) -> Result<Arc<MemFile>> {
        match self.node(&Resolved::new(path)) {
            Some(Node::File(file)) => Ok(file.clone()),
            Some(Node::Dir) => Err(is_a_directory(operation, path)),
            None => Err(self.absent(operation, path)),
        }
    }

    /// Tells why nothing is at `path`: nobody made it, or a file stands where a directory would have to.
    fn absent(&self, operation: &'static str, path: &Path) -> Error {
        let names = normalize(path);
        let is_file = |above: &Path| matches!(self.node(&Resolved::new(above)), Some(Node::File(_)));
        let (kind, text) = if names.ancestors().any(is_file) {
            (ErrorKind::Io, "not a directory")
        } else {
            (ErrorKind::NotFound, "no such file or directory")
        };
        Error::new(kind, text).with_file(path).with_operation(operation)
    }

    /// Gives a new name to a file.
    fn add(&mut self, operation: &'static str, path: &Path, file: Arc<MemFile>) -> Result<()> {
        let resolved = Resolved::new(path);
        if self.node(&resolved).is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "the name is taken")
                .with_file(path)
                .with_operation(operation));
        }
        self.names_mut(operation, &resolved)?.insert(resolved.name, Node::File(file));
        Ok(())
    }

    fn create_dir_all(&mut self, path: &Path) -> Result<()> {
        let mut dir = PathBuf::new();
        for name in &normalize(path) {
            let names = self.dirs.get_mut(&dir).expect("every directory above was found or made");
            match names.entry(name.to_owned()).or_insert(Node::Dir) {
                Node::Dir => {}
                Node::File(_) => {
                    return Err(Error::new(ErrorKind::Io, "the name is taken by a file")
                        .with_file(path)
                        .with_operation("create_dir"));
                }
            }
            dir.push(name);
            self.dirs.entry(dir.clone()).or_default();
        }
        Ok(())
    }

    /// Copies everything; names that shared a file share its copy.
    fn deep_copy(&self) -> Tree {
        let mut copies: Vec<(Arc<MemFile>, Arc<MemFile>)> = Vec::new();
        let mut dirs = self.dirs.clone();
        for node in dirs.values_mut().flat_map(BTreeMap::values_mut) {
            let Node::File(file) = node else { continue };
            let met = copies.iter().find(|(original, _)| Arc::ptr_eq(original, file));
            let copy = match met {
                Some((_, copy)) => copy.clone(),
                None => {
                    let copy = Arc::new(MemFile::new(file.content.lock().clone()));
                    copies.push((file.clone(), copy.clone()));
                    copy
                }
            };
            *file = copy;
        }
        Tree { dirs }
    }
}

fn is_a_directory(operation: &'static str, path: &Path) -> Error {
    Error::new(ErrorKind::Io, "is a directory").with_file(path).with_operation(operation)
}

struct MemFile {
    content: Mutex<Content>,
    holders: Mutex<Holders>,
}

/// Bytes of a file. Behind `bytes` and before `len` lie zeros that take no memory.
#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    len: u64,
}

/// Who holds a file's lock.
#[derive(Default)]
struct Holders {
    is_exclusive: bool,
    shared_count: usize,
}

impl MemFile {
    fn new(content: Content) -> MemFile {
        MemFile { content: Mutex::new(content), holders: Mutex::new(Holders::default()) }
    }
}

impl Content {
    fn len_in_memory(&self) -> usize {
        usize::try_from(self.len).expect("a file that is looked at whole fits the address space")
    }

    /// Writes `parts` at `offset`, which is at or before the end of what was appended.
    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) {
        let mut at = usize::try_from(offset).expect("what is in memory has an index");
        for part in parts {
            // Only a test's damage puts bytes behind, or the end before, what the writer appended.
            if at > self.bytes.len() {
                self.bytes.resize(at, 0);
            }
            let over = part.len().min(self.bytes.len() - at);
            self.bytes[at..at + over].copy_from_slice(&part[..over]);
            self.bytes.extend_from_slice(&part[over..]);
            at += part.len();
        }
        self.len = self.len.max(at as u64);
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> usize {
        let left = self.len.saturating_sub(offset);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let stored = count.min(self.bytes.len() - start);
        buffer[..stored].copy_from_slice(&self.bytes[start..start + stored]);
        buffer[stored..count].fill(0);
        count
    }
}

impl Vfs for MemVfs {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        if !self.tree().dirs.contains_key(&normalize(path)) {
            return Err(self.tree().absent("hold_dir", path));
        }
        Ok(self)
    }

    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = Arc::new(MemFile::new(Content::default()));
        self.tree().add("create", path, file.clone())?;
        Ok(Box::new(MemWriteFile { file, len: 0 }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        Ok(Arc::new(MemReadFile { file: self.tree().file("open", path)? }))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        self.tree().file("sync", path).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (old, new) = (Resolved::new(from), Resolved::new(to));
        if old.dir != new.dir {
            return Err(Error::invalid("a rename stays within its directory")
                .with_file(from)
                .with_operation("rename"));
        }
        let mut tree = self.tree();
        let file = tree.file("rename", from)?;
        if let Some(Node::Dir) = tree.node(&new) {
            return Err(is_a_directory("rename", to));
        }
        // Two names of one file: renaming one to the other changes nothing, as POSIX has it.
        if let Some(Node::File(there)) = tree.node(&new)
            && Arc::ptr_eq(there, &file)
        {
            return Ok(());
        }
        let names = tree.names_mut("rename", &old)?;
        names.remove(&old.name);
        names.insert(new.name, Node::File(file));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let mut tree = self.tree();
        tree.file("remove", path)?;
        let path = Resolved::new(path);
        tree.names_mut("remove", &path)?.remove(&path.name);
        Ok(())
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        let mut tree = self.tree();
        let file = tree.file("link", from)?;
        tree.add("link", to, file)?;
        Ok(Copied::Linked)
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.tree().create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let tree = self.tree();
        let Some(names) = tree.dirs.get(&normalize(path)) else {
            return Err(tree.absent("read_dir", path));
        };
        let mut entries: Vec<DirEntry> = names
            .iter()
            .map(|(name, node)| DirEntry {
                name: name.to_string_lossy().into_owned(),
                is_dir: matches!(node, Node::Dir),
            })
            .collect();
        entries.sort_unstable();
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let tree = self.tree();
        if tree.dirs.contains_key(&normalize(path)) { Ok(()) } else { Err(tree.absent("sync_dir", path)) }
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        // Held until the lock is taken, so that the file cannot lose its name before.
        let mut tree = self.tree();
        let file = match (tree.file("lock", path), mode) {
            (Err(error), LockMode::Exclusive) if error.kind() == ErrorKind::NotFound => {
                let file = Arc::new(MemFile::new(Content::default()));
                tree.add("lock", path, file.clone())?;
                file
            }
            (found, _) => found?,
        };
        let mut holders = file.holders.lock();
        let is_free = match mode {
            LockMode::Exclusive => !holders.is_exclusive && holders.shared_count == 0,
            LockMode::Shared => !holders.is_exclusive,
        };
        if !is_free {
            return Err(Error::new(ErrorKind::Locked, "another handle has the database open")
                .with_file(path)
                .with_operation("lock"));
        }
        match mode {
            LockMode::Exclusive => holders.is_exclusive = true,
            LockMode::Shared => holders.shared_count += 1,
        }
        drop(holders);
        Ok(Box::new(MemDirLock { tree: self.tree.clone(), path: path.to_owned(), file, mode }))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let tree = self.tree();
        match tree.node(&Resolved::new(path)) {
            Some(Node::Dir) => Ok(Metadata { len: 0, is_dir: true }),
            Some(Node::File(file)) => Ok(Metadata { len: file.content.lock().len, is_dir: false }),
            None => Err(tree.absent("metadata", path)),
        }
    }

    fn available_space(&self, _path: &Path) -> Result<u64> {
        Ok(AVAILABLE_SPACE_BYTES)
    }

    fn now(&self) -> u64 {
        match &self.clock {
            Clock::Real => time::Instant::now().as_nanos(),
            Clock::Manual(clock) => clock.time.lock().now_ns,
        }
    }

    fn wall(&self) -> UnixMillis {
        match &self.clock {
            Clock::Real => time::wall(),
            Clock::Manual(clock) => clock.time.lock().wall,
        }
    }

    fn sleep(&self, duration: Duration) {
        match &self.clock {
            Clock::Real => thread::sleep(duration),
            Clock::Manual(clock) => clock.advance(duration),
        }
    }
}

struct MemWriteFile {
    file: Arc<MemFile>,
    /// The logical end, before what is only allocated.
    len: u64,
}

impl WriteFile for MemWriteFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        self.file.content.lock().write_at(self.len, parts);
        self.len += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn allocate(&mut self, len: u64) -> Result<()> {
        let mut content = self.file.content.lock();
        content.len = content.len.max(len);
        Ok(())
    }

    fn allocated_len(&self) -> u64 {
        self.file.content.lock().len
    }

    fn trim(&mut self) -> Result<()> {
        let mut content = self.file.content.lock();
        content.len = content.len.min(self.len);
        // Only a test's damage puts bytes behind the writer's end.
        let kept = content.bytes.len().min(content.len_in_memory());
        content.bytes.truncate(kept);
        Ok(())
    }
}

struct MemReadFile {
    file: Arc<MemFile>,
}

impl ReadFile for MemReadFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        Ok(self.file.content.lock().read_at(buffer, offset))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.content.lock().len)
    }

    fn advise(&self, _advice: Advice, _offset: u64, _len: u64) {}
}

struct MemDirLock {
    tree: Arc<Mutex<Tree>>,
    path: PathBuf,
    file: Arc<MemFile>,
    mode: LockMode,
}

impl DirLock for MemDirLock {
    fn check(&self) -> Result<()> {
        match self.tree.lock().node(&Resolved::new(&self.path)) {
            Some(Node::File(file)) if Arc::ptr_eq(file, &self.file) => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Io,
                "the lock file was removed or replaced while the lock was held",
            )
            .with_file(&self.path)
            .with_operation("lock")),
        }
    }

    fn release(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for MemDirLock {
    fn drop(&mut self) {
        let mut holders = self.file.holders.lock();
        match self.mode {
            LockMode::Exclusive => {
                assert!(holders.is_exclusive, "a held lock is on record");
                holders.is_exclusive = false;
            }
            LockMode::Shared => {
                assert!(holders.shared_count > 0, "a held lock is on record");
                holders.shared_count -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn disk_with(path: &str, bytes: &[u8]) -> MemVfs {
        let disk = MemVfs::new();
        disk.write(Path::new(path), bytes).unwrap();
        disk
    }

    #[test]
    fn a_fork_goes_its_own_way_and_keeps_links() {
        let disk = disk_with("a", b"one");
        disk.link_or_copy(Path::new("a"), Path::new("b")).unwrap();
        let fork = disk.fork();
        fork.flip(Path::new("a"), 0, 0xff).unwrap();
        assert_eq!(fork.read(Path::new("b")).unwrap(), [b'o' ^ 0xff, b'n', b'e']);
        assert_eq!(disk.read(Path::new("a")).unwrap(), b"one");
    }

    #[test]
    fn damage_reaches_open_handles() {
        let disk = disk_with("f", b"abcdef");
        let file = disk.open(Path::new("f")).unwrap();
        disk.truncate(Path::new("f"), 2).unwrap();
        assert_eq!(file.len().unwrap(), 2);
        disk.truncate(Path::new("f"), 4).unwrap();
        disk.flip(Path::new("f"), 3, 1).unwrap();
        assert_eq!(disk.read(Path::new("f")).unwrap(), b"ab\0\x01");
        assert_eq!(disk.flip(Path::new("f"), 4, 1).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn reserved_space_costs_no_memory() {
        let disk = MemVfs::new();
        let mut file = disk.create_new(Path::new("f")).unwrap();
        file.allocate(1 << 50).unwrap();
        file.append(&[IoSlice::new(b"x")]).unwrap();
        assert_eq!(disk.metadata(Path::new("f")).unwrap().len, 1 << 50);
        let mut buffer = [7; 3];
        assert_eq!(disk.open(Path::new("f")).unwrap().read_at(&mut buffer, (1 << 50) - 2).unwrap(), 2);
        assert_eq!(buffer, [0, 0, 7]);
    }

    #[test]
    fn manual_time_moves_only_when_told() {
        let clock = ManualClock::new(UnixMillis(-5));
        let disk = MemVfs::with_clock(clock.clone());
        disk.sleep(Duration::from_millis(7));
        assert_eq!((disk.now(), disk.wall()), (7_000_000, UnixMillis(2)));
        clock.set_wall(UnixMillis(0));
        assert_eq!((disk.now(), disk.wall()), (7_000_000, UnixMillis(0)));
    }
}
