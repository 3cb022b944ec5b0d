//! Names and files: what everybody sees, what the disk has, and the changes between the two.
//!
//! Names belong to directories and bytes to inodes. Each directory keeps two maps, the live one and the disk's,
//! and the list of changes that no sync has carried from one to the other; each change has a number that
//! orders it among all changes of names and bytes. A rename is one change that touches two names.
//!
//! A file lives while anything can reach it: a live name, a handle, a name the disk still has, or a change
//! that a crash might keep. Then its bytes go to the pool of freed ones, which may show up later in files
//! whose own bytes a crash lost. Knows no rules: which profile settles what is the callers' business.

use crate::disk::inode::Inode;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Component, Path};
use std::sync::Arc;
use tinylsm::base::error::{Error, ErrorKind, Result};

/// Freed files whose bytes are remembered; a handful makes them likely to meet.
const FREED_FILES_MAX: usize = 8;

/// Files whose name another file took, and whose bytes are remembered with it.
const FORMER_FILES_MAX: usize = 8;

/// The number of the root directory.
pub(in crate::disk) const ROOT: u64 = 0;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::disk) enum Node {
    File(u64),
    Dir(u64),
}

/// Names of a directory.
pub(in crate::disk) type Names = BTreeMap<Arc<str>, Node>;

/// A change of names that no sync covered yet.
#[derive(Clone, Debug)]
pub(in crate::disk) struct NameChange {
    pub(in crate::disk) seq: u64,
    pub(in crate::disk) kind: NameChangeKind,
}

#[derive(Clone, Debug)]
pub(in crate::disk) enum NameChangeKind {
    Add { name: Arc<str>, node: Node },
    Remove { name: Arc<str> },
    Rename { from: Arc<str>, to: Arc<str>, node: Node, replaces: bool },
}

impl NameChangeKind {
    /// Returns the names it touches.
    pub(in crate::disk) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let (first, second) = match self {
            NameChangeKind::Add { name, .. } | NameChangeKind::Remove { name } => (name, None),
            NameChangeKind::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    /// Returns what it gives a name to.
    pub(in crate::disk) fn node(&self) -> Option<Node> {
        match self {
            NameChangeKind::Add { node, .. } | NameChangeKind::Rename { node, .. } => Some(*node),
            NameChangeKind::Remove { .. } => None,
        }
    }

    /// Makes the change in a map that need not have seen the ones before it.
    pub(in crate::disk) fn apply(&self, names: &mut Names) {
        match self {
            NameChangeKind::Add { name, node } => {
                names.insert(name.clone(), *node);
            }
            NameChangeKind::Remove { name } => {
                names.remove(name);
            }
            NameChangeKind::Rename { from, to, node, .. } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// A directory.
#[derive(Clone, Debug, Default)]
pub(in crate::disk) struct Dir {
    pub(in crate::disk) live: Names,
    pub(in crate::disk) disk: Names,
    /// Ordered by `seq`.
    pub(in crate::disk) pending: Vec<NameChange>,
}

/// A path as one view of the disk reads it.
#[derive(Clone, Debug)]
pub(in crate::disk) struct Route<'p> {
    /// Where it begins: the root, or a directory that is held.
    pub(in crate::disk) start: u64,
    /// The names from there.
    pub(in crate::disk) names: Vec<&'p str>,
    /// What the caller said.
    pub(in crate::disk) path: &'p Path,
}

impl Route<'_> {
    /// Returns the way to the directory of the last name.
    pub(in crate::disk) fn above(&self) -> (u64, Option<&[&str]>) {
        (self.start, self.names.split_last().map(|(_, above)| above))
    }
}

/// Where a name is, or would be.
#[derive(Clone, Copy, Debug)]
pub(in crate::disk) struct Place<'p> {
    pub(in crate::disk) dir: u64,
    /// Empty for the directory itself.
    pub(in crate::disk) name: &'p str,
}

/// What is left of a file that is gone.
#[derive(Clone, Debug)]
pub(in crate::disk) struct Freed {
    /// The directory that it was made in.
    pub(in crate::disk) home: Option<u64>,
    pub(in crate::disk) bytes: Arc<Vec<u8>>,
}

/// Everything on a disk.
#[derive(Clone, Debug)]
pub(in crate::disk) struct Volume {
    /// The number of the last change.
    pub(in crate::disk) seq: u64,
    pub(in crate::disk) inodes: BTreeMap<u64, Inode>,
    pub(in crate::disk) dirs: BTreeMap<u64, Dir>,
    /// Numbers of inodes and directories are never used twice.
    pub(in crate::disk) next_id: u64,
    /// Files that are gone, newest last.
    pub(in crate::disk) freed: VecDeque<Freed>,
    /// Bytes of files by a name that another file took, newest last.
    pub(in crate::disk) former: VecDeque<(u64, Arc<str>, Arc<Vec<u8>>)>,
    /// Lengths of all files that a name or a handle reaches.
    pub(in crate::disk) charged_bytes: u64,
}

pub(in crate::disk) fn missing(operation: &'static str, path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, "no such file or directory").with_file(path).with_operation(operation)
}

pub(in crate::disk) fn failed(operation: &'static str, path: &Path, text: &str) -> Error {
    Error::new(ErrorKind::Io, text).with_file(path).with_operation(operation)
}

impl Volume {
    /// Makes an empty disk.
    pub(in crate::disk) fn new() -> Volume {
        Volume {
            seq: 0,
            inodes: BTreeMap::new(),
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            next_id: ROOT + 1,
            freed: VecDeque::new(),
            former: VecDeque::new(),
            charged_bytes: 0,
        }
    }

    pub(in crate::disk) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Finds the directory of a path's last name.
    pub(in crate::disk) fn place<'p>(&self, operation: &'static str, route: &Route<'p>) -> Result<Place<'p>> {
        let Some((name, above)) = route.names.split_last() else {
            return Ok(Place { dir: route.start, name: "" });
        };
        let mut dir = route.start;
        for name in above {
            dir = match self.dirs[&dir].live.get(*name) {
                Some(Node::Dir(below)) => *below,
                Some(Node::File(_)) => return Err(failed(operation, route.path, "not a directory")),
                None => return Err(missing(operation, route.path)),
            };
        }
        Ok(Place { dir, name })
    }

    pub(in crate::disk) fn node(&self, place: Place<'_>) -> Option<Node> {
        if place.name.is_empty() {
            return Some(Node::Dir(place.dir));
        }
        self.dirs[&place.dir].live.get(place.name).copied()
    }

    pub(in crate::disk) fn find(&self, operation: &'static str, route: &Route<'_>) -> Result<Node> {
        let place = self.place(operation, route)?;
        self.node(place).ok_or_else(|| missing(operation, route.path))
    }

    pub(in crate::disk) fn find_file(&self, operation: &'static str, route: &Route<'_>) -> Result<u64> {
        match self.find(operation, route)? {
            Node::File(inode) => Ok(inode),
            Node::Dir(_) => Err(failed(operation, route.path, "is a directory")),
        }
    }

    pub(in crate::disk) fn find_dir(&self, operation: &'static str, route: &Route<'_>) -> Result<u64> {
        match self.find(operation, route)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(failed(operation, route.path, "not a directory")),
        }
    }

    pub(in crate::disk) fn inode(&self, inode: u64) -> &Inode {
        self.inodes.get(&inode).expect("a file lives while a name or handle reaches it")
    }

    pub(in crate::disk) fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("a file lives while a name or handle reaches it")
    }

    pub(in crate::disk) fn dir(&self, dir: u64) -> &Dir {
        self.dirs.get(&dir).expect("directories are not removed")
    }

    fn dir_mut(&mut self, dir: u64) -> &mut Dir {
        self.dirs.get_mut(&dir).expect("directories are not removed")
    }

    /// Adds a file without a name; the caller names or opens it before letting go of the lock.
    pub(in crate::disk) fn add_inode(&mut self, inode: Inode) -> u64 {
        let id = self.next_id();
        self.inodes.insert(id, inode);
        id
    }

    /// Adds an empty directory under a name that is free.
    pub(in crate::disk) fn add_dir(&mut self, place: Place<'_>) -> u64 {
        let id = self.next_id();
        self.dirs.insert(id, Dir::default());
        self.add_name(place, Node::Dir(id));
        id
    }

    /// Gives a name that is free.
    pub(in crate::disk) fn add_name(&mut self, place: Place<'_>, node: Node) {
        let name: Arc<str> = Arc::from(place.name);
        if let Node::File(id) = node {
            self.inode_mut(id).home.get_or_insert(place.dir);
        }
        self.hold_live(node);
        let there = self.dir_mut(place.dir).live.insert(name.clone(), node);
        assert!(there.is_none(), "a name is given only when it is free");
        self.change_names(place.dir, NameChangeKind::Add { name, node });
    }

    /// Takes a name away.
    pub(in crate::disk) fn remove_name(&mut self, place: Place<'_>) {
        let gone = self.dir_mut(place.dir).live.remove_entry(place.name);
        let (name, node) = gone.expect("the caller found the name under the same lock");
        self.change_names(place.dir, NameChangeKind::Remove { name });
        self.release_live(node);
    }

    /// Moves a file from one name of a directory to another, replacing what is there.
    pub(in crate::disk) fn rename(&mut self, from: Place<'_>, to: Place<'_>) {
        assert_eq!(from.dir, to.dir, "a rename stays within its directory");
        let live = &mut self.dir_mut(from.dir).live;
        let (from, node) =
            live.remove_entry(from.name).expect("the caller found the name under the same lock");
        let to_name: Arc<str> = Arc::from(to.name);
        let replaced = live.insert(to_name.clone(), node);
        let replaces = replaced.is_some();
        if let Some(replaced) = replaced {
            self.remember_former(to.dir, &to_name, replaced);
        }
        self.change_names(to.dir, NameChangeKind::Rename { from, to: to_name, node, replaces });
        if let Some(replaced) = replaced {
            self.release_live(replaced);
        }
    }

    fn change_names(&mut self, dir: u64, kind: NameChangeKind) {
        let seq = self.next_seq();
        if let Some(node) = kind.node() {
            self.hold_disk(node);
        }
        self.dir_mut(dir).pending.push(NameChange { seq, kind });
    }

    /// Carries a directory's changes up to `upto` to the disk.
    pub(in crate::disk) fn settle_names(&mut self, dir: u64, upto: u64) {
        for change in self.take_changes(dir, upto) {
            let touched = self.dir_mut(dir);
            let before: Vec<Node> =
                change.kind.names().filter_map(|name| touched.disk.get(name)).copied().collect();
            change.kind.apply(&mut touched.disk);
            // What the change held passes to the name the disk has now; what the disk had lets go.
            for node in before {
                self.release_disk(node);
            }
        }
    }

    /// Forgets that a directory's changes up to `upto` would ever reach the disk.
    pub(in crate::disk) fn lose_names(&mut self, dir: u64, upto: u64) {
        for change in self.take_changes(dir, upto) {
            if let Some(node) = change.kind.node() {
                self.release_disk(node);
            }
        }
    }

    fn take_changes(&mut self, dir: u64, upto: u64) -> Vec<NameChange> {
        let pending = &mut self.dir_mut(dir).pending;
        let covered = pending.partition_point(|change| change.seq <= upto);
        pending.drain(..covered).collect()
    }

    fn hold_live(&mut self, node: Node) {
        if let Node::File(id) = node {
            self.charge(id, |inode| inode.live_names += 1);
        }
    }

    fn release_live(&mut self, node: Node) {
        if let Node::File(id) = node {
            self.charge(id, |inode| inode.live_names -= 1);
            self.free_if_unreachable(id);
        }
    }

    fn hold_disk(&mut self, node: Node) {
        if let Node::File(id) = node {
            self.inode_mut(id).disk_names += 1;
        }
    }

    fn release_disk(&mut self, node: Node) {
        if let Node::File(id) = node {
            self.inode_mut(id).disk_names -= 1;
            self.free_if_unreachable(id);
        }
    }

    /// Counts a handle in.
    pub(in crate::disk) fn hold_open(&mut self, id: u64) {
        self.charge(id, |inode| inode.opens += 1);
    }

    /// Counts a handle out.
    pub(in crate::disk) fn release_open(&mut self, id: u64) {
        self.charge(id, |inode| inode.opens -= 1);
        self.free_if_unreachable(id);
    }

    /// Changes an inode and keeps the account of used space.
    pub(in crate::disk) fn charge<T>(&mut self, id: u64, change: impl FnOnce(&mut Inode) -> T) -> T {
        let inode = self.inodes.get_mut(&id).expect("a file lives while a name or handle reaches it");
        let before = if inode.is_charged() { inode.len } else { 0 };
        let answer = change(inode);
        let after = if inode.is_charged() { inode.len } else { 0 };
        self.charged_bytes = self.charged_bytes - before + after;
        answer
    }

    fn free_if_unreachable(&mut self, id: u64) {
        if self.inode(id).is_reachable() {
            return;
        }
        let inode = self.inodes.remove(&id).expect("looked at a line above");
        self.remember_freed(&inode);
    }

    /// Remembers the bytes of a file whose name another file takes.
    fn remember_former(&mut self, dir: u64, name: &Arc<str>, node: Node) {
        let Node::File(id) = node else { return };
        if self.former.len() == FORMER_FILES_MAX {
            self.former.pop_front();
        }
        let bytes = self.inode(id).seen_bytes();
        self.former.push_back((dir, name.clone(), bytes));
    }

    /// Returns the bytes of the file that had a name before the one that has it now.
    pub(in crate::disk) fn former(&self, place: Place<'_>) -> Option<Arc<Vec<u8>>> {
        let met = self.former.iter().rev().find(|(dir, name, _)| *dir == place.dir && **name == *place.name);
        met.map(|(_, _, bytes)| bytes.clone())
    }

    /// Puts a gone file's bytes where a crash can find them.
    pub(in crate::disk) fn remember_freed(&mut self, inode: &Inode) {
        if inode.bytes.is_empty() {
            return;
        }
        if self.freed.len() == FREED_FILES_MAX {
            self.freed.pop_front();
        }
        self.freed.push_back(Freed { home: inode.home, bytes: inode.bytes.clone() });
    }
}

/// Splits a path into names from the root; `..` goes up, and the root is above itself.
pub(in crate::disk) fn names_of(path: &Path) -> Result<Vec<&str>> {
    let mut names = Vec::with_capacity(4);
    for component in path.components() {
        match component {
            Component::Normal(name) => match name.to_str() {
                Some(name) => names.push(name),
                None => return Err(Error::invalid("the simulated disk has names in UTF-8").with_file(path)),
            },
            Component::ParentDir => {
                names.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    Ok(names)
}
