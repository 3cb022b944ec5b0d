//! The disk as the engine sees it.

use crate::disk::crash;
use crate::disk::event::{DiskEvent, DiskOp};
use crate::disk::file::{SimLock, SimReadFile, SimWriteFile};
use crate::disk::inode::Inode;
use crate::disk::shared::{UNLIMITED_BYTES, event};
use crate::disk::volume::{self, Node, Place, Volume, failed, missing};
use crate::disk::{HeldDir, SimDisk};
use crate::tape::Label;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tinylsm::UnixMillis;
use tinylsm::base::error::{Error, ErrorKind, Result};
use tinylsm::sync::host::{self, WALL_ORIGIN_MS};
use tinylsm::vfs::os::OsClock;
use tinylsm::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};

impl SimDisk {
    /// Returns a view of this disk that keeps the directory `path`, as `Vfs::hold_dir` does.
    ///
    /// # Errors
    /// As `Vfs::hold_dir`.
    pub fn hold(&self, path: &Path) -> Result<SimDisk> {
        let shared = &self.shared;
        shared.begin(DiskOp::Open, path)?;
        let hold = || -> Result<SimDisk> {
            let descriptor = self.take_descriptor(DiskOp::Open, path)?;
            let route = self.route(path)?;
            let id = shared.volume.lock().find_dir("hold_dir", &route)?;
            let names = volume::names_of(path)?.into_iter().map(str::to_owned).collect();
            let held = Arc::new(HeldDir { id, names, _descriptor: descriptor });
            Ok(SimDisk { held: Some(held), ..self.clone() })
        };
        shared.end(event(DiskOp::Open, path), hold())
    }
}

impl Vfs for SimDisk {
    fn hold_dir(self: Arc<Self>, path: &Path) -> Result<Arc<dyn Vfs>> {
        Ok(Arc::new(self.hold(path)?))
    }

    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let shared = &self.shared;
        shared.begin(DiskOp::Create, path)?;
        let is_failing = shared.fails(|plan| plan.create, "create failed");
        let happens = !is_failing || shared.tape.below(Label::Fault, 2) == 1;
        let create = || -> Result<SimWriteFile> {
            let descriptor = self.take_descriptor(DiskOp::Create, path)?;
            let route = self.route(path)?;
            let mut volume = shared.volume.lock();
            let place = volume.place("create", &route)?;
            if volume.node(place).is_some() {
                let error = Error::new(ErrorKind::AlreadyExists, "the name is taken");
                return Err(error.with_file(path).with_operation("create"));
            }
            shared.check_space(&volume, 1, DiskOp::Create, path)?;
            let mut id = 0;
            if happens {
                id = volume.add_inode(Inode::default());
                volume.add_name(place, Node::File(id));
            }
            if is_failing {
                return Err(failed("create", path, "simulated error"));
            }
            volume.hold_open(id);
            Ok(SimWriteFile::new(descriptor, id, path))
        };
        let file = shared.end(event(DiskOp::Create, path), create())?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let shared = &self.shared;
        shared.begin(DiskOp::Open, path)?;
        let open = || -> Result<SimReadFile> {
            let descriptor = self.take_descriptor(DiskOp::Open, path)?;
            if shared.fails(|plan| plan.open, "open failed") {
                return Err(failed("open", path, "simulated error"));
            }
            let route = self.route(path)?;
            let mut volume = shared.volume.lock();
            let id = volume.find_file("open", &route)?;
            volume.hold_open(id);
            Ok(SimReadFile::new(descriptor, id, path))
        };
        let file = shared.end(event(DiskOp::Open, path), open())?;
        Ok(Arc::new(file))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        let shared = &self.shared;
        shared.begin(DiskOp::Open, path)?;
        let _descriptor = self.take_descriptor(DiskOp::Open, path)?;
        let route = self.route(path)?;
        let id = {
            let mut volume = shared.volume.lock();
            let id = volume.find_file("sync", &route)?;
            // Held open, because its name may go while the sync takes its time.
            volume.hold_open(id);
            id
        };
        let result = shared.sync_inode(id, path);
        shared.volume.lock().release_open(id);
        result
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let shared = &self.shared;
        shared.begin(DiskOp::Rename, from)?;
        let is_failing = shared.fails(|plan| plan.rename, "rename failed");
        let rename = || -> Result<()> {
            let (old, new) = (self.route(from)?, self.route(to)?);
            if old.above() != new.above() {
                return Err(Error::invalid("a rename stays within its directory")
                    .with_file(from)
                    .with_operation("rename"));
            }
            let mut volume = shared.volume.lock();
            let source = volume.place("rename", &old)?;
            let target = volume.place("rename", &new)?;
            let moved = volume.find_file("rename", &old)?;
            match volume.node(target) {
                Some(Node::Dir(_)) => return Err(failed("rename", to, "is a directory")),
                // Two names of one file: nothing changes, as POSIX has it.
                Some(Node::File(there)) if there == moved && !is_failing => return Ok(()),
                _ => {}
            }
            if !is_failing || shared.tape.below(Label::Fault, 2) == 1 {
                volume.rename(source, target);
            }
            if is_failing { Err(failed("rename", from, "simulated error")) } else { Ok(()) }
        };
        shared.end(DiskEvent { to: Some(to), ..event(DiskOp::Rename, from) }, rename())
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let shared = &self.shared;
        shared.begin(DiskOp::Remove, path)?;
        let is_failing = shared.fails(|plan| plan.remove, "remove failed");
        let remove = || -> Result<()> {
            let route = self.route(path)?;
            let mut volume = shared.volume.lock();
            volume.find_file("remove", &route)?;
            if !is_failing || shared.tape.below(Label::Fault, 2) == 1 {
                let place = volume.place("remove", &route)?;
                volume.remove_name(place);
            }
            if is_failing { Err(failed("remove", path, "simulated error")) } else { Ok(()) }
        };
        shared.end(event(DiskOp::Remove, path), remove())
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> Result<Copied> {
        let shared = &self.shared;
        shared.begin(DiskOp::Link, from)?;
        let refuses_links = shared.faults.lock().refuses_links;
        let link = || -> Result<Copied> {
            if shared.fails(|plan| plan.link, "link failed") {
                return Err(failed("link", from, "simulated error"));
            }
            let (source, target) = (self.route(from)?, self.route(to)?);
            let mut volume = shared.volume.lock();
            let id = volume.find_file("link", &source)?;
            let place = volume.place("link", &target)?;
            if volume.node(place).is_some() {
                let error = Error::new(ErrorKind::AlreadyExists, "the name is taken");
                return Err(error.with_file(to).with_operation("link"));
            }
            if !refuses_links {
                volume.add_name(place, Node::File(id));
                return Ok(Copied::Linked);
            }
            let (bytes, len) = (volume.inode(id).seen_bytes(), volume.inode(id).len);
            shared.check_space(&volume, len, DiskOp::Link, to)?;
            let copy = volume.add_inode(Inode::default());
            volume.add_name(place, Node::File(copy));
            let seq = volume.next_seq();
            let count = bytes.len() as u64;
            volume.charge(copy, |inode| {
                inode.write(seq, 0, &[std::io::IoSlice::new(&bytes)], count);
                inode.reserve(seq, len);
            });
            Ok(Copied::Copied)
        };
        shared.end(DiskEvent { to: Some(to), ..event(DiskOp::Link, from) }, link())
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let shared = &self.shared;
        shared.begin(DiskOp::CreateDir, path)?;
        let create = || -> Result<()> {
            // The parent is opened to be synced.
            let _descriptor = self.take_descriptor(DiskOp::CreateDir, path)?;
            shared.check_dir_sync(DiskOp::CreateDir, path)?;
            let route = self.route(path)?;
            let mut volume = shared.volume.lock();
            let mut dir = route.start;
            for name in route.names {
                let place = Place { dir, name };
                dir = match volume.node(place) {
                    Some(Node::Dir(below)) => below,
                    Some(Node::File(_)) => return Err(failed("create_dir", path, "not a directory")),
                    None => {
                        let below = volume.add_dir(place);
                        let upto = volume.seq;
                        // The contract: names of new directories are durable when this returns.
                        volume.settle_names(dir, upto);
                        below
                    }
                };
            }
            Ok(())
        };
        shared.end(event(DiskOp::CreateDir, path), create())
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let shared = &self.shared;
        shared.begin(DiskOp::ReadDir, path)?;
        let list = || -> Result<Vec<DirEntry>> {
            if shared.fails(|plan| plan.read_dir, "read_dir failed") {
                return Err(failed("read_dir", path, "simulated error"));
            }
            let _descriptor = self.take_descriptor(DiskOp::ReadDir, path)?;
            let route = self.route(path)?;
            let volume = shared.volume.lock();
            let id = volume.find_dir("read_dir", &route)?;
            let names = volume.dir(id).live.iter();
            let entry = |(name, node): (&Arc<str>, &Node)| DirEntry {
                name: name.to_string(),
                is_dir: matches!(node, Node::Dir(_)),
            };
            Ok(names.map(entry).collect())
        };
        let listed = list();
        let len = listed.as_ref().map_or(0, Vec::len) as u64;
        shared.end(DiskEvent { len, ..event(DiskOp::ReadDir, path) }, listed)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let shared = &self.shared;
        shared.begin(DiskOp::SyncDir, path)?;
        let route = self.route(path)?;
        // What is held is synced through its own descriptor.
        let is_held = self.held.as_ref().is_some_and(|held| held.id == route.start) && route.names.is_empty();
        let _descriptor = if is_held { None } else { Some(self.take_descriptor(DiskOp::SyncDir, path)?) };
        shared.check_dir_sync(DiskOp::SyncDir, path)?;
        let (id, upto, waiting) = {
            let volume = shared.volume.lock();
            let id = volume.find_dir("sync_dir", &route)?;
            (id, volume.seq, volume.dir(id).pending.len() as u64)
        };
        shared.end(DiskEvent { len: waiting, ..event(DiskOp::SyncDirBegin, path) }, Ok(()))?;
        shared.pass_sync(0);
        shared.check_power(DiskOp::SyncDir, path)?;
        let is_failing = shared.fails(|plan| plan.sync_dir, "sync_dir failed");
        let rules = shared.profile.rules();
        let settle = |volume: &mut Volume| match rules.has_journal {
            true => crash::settle_journal(volume, rules, upto),
            false => volume.settle_names(id, upto),
        };
        let mut volume = shared.volume.lock();
        let result = if is_failing {
            // The changes are there, or never will be, or wait for another sync.
            match shared.tape.below(Label::Fault, 3) {
                0 => {}
                1 => settle(&mut volume),
                _ if rules.has_journal => {}
                _ => volume.lose_names(id, upto),
            }
            Err(failed("sync_dir", path, "simulated sync error"))
        } else {
            settle(&mut volume);
            Ok(())
        };
        drop(volume);
        shared.end(DiskEvent { len: waiting, ..event(DiskOp::SyncDir, path) }, result)
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        let shared = &self.shared;
        shared.begin(DiskOp::Lock, path)?;
        let lock = || -> Result<SimLock> {
            let descriptor = self.take_descriptor(DiskOp::Lock, path)?;
            let route = self.route(path)?;
            let mut volume = shared.volume.lock();
            let place = volume.place("lock", &route)?;
            let id = match volume.node(place) {
                Some(Node::File(id)) => id,
                Some(Node::Dir(_)) => return Err(failed("lock", path, "is a directory")),
                None if mode == LockMode::Shared => return Err(missing("lock", path)),
                None => {
                    let id = volume.add_inode(Inode::default());
                    volume.add_name(place, Node::File(id));
                    id
                }
            };
            if shared.faults.lock().refuses_locks {
                let error = Error::new(ErrorKind::Unsupported, "the simulated disk cannot lock files");
                return Err(error.with_file(path).with_operation("lock"));
            }
            if !volume.inode(id).holders.admits(mode) {
                let error = Error::new(ErrorKind::Locked, "another holder is in the way");
                return Err(error.with_file(path).with_operation("lock"));
            }
            volume.inode_mut(id).holders.take(mode);
            volume.hold_open(id);
            Ok(SimLock::new(self, descriptor, path, (id, mode)))
        };
        let lock = shared.end(event(DiskOp::Lock, path), lock())?;
        Ok(Box::new(lock))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let shared = &self.shared;
        shared.begin(DiskOp::Metadata, path)?;
        let look = || -> Result<Metadata> {
            if shared.fails(|plan| plan.metadata, "metadata failed") {
                return Err(failed("metadata", path, "simulated error"));
            }
            let route = self.route(path)?;
            let volume = shared.volume.lock();
            Ok(match volume.find("metadata", &route)? {
                Node::File(id) => Metadata { len: volume.inode(id).len, is_dir: false },
                Node::Dir(_) => Metadata { len: 0, is_dir: true },
            })
        };
        shared.end(event(DiskOp::Metadata, path), look())
    }

    fn available_space(&self, path: &Path) -> Result<u64> {
        let shared = &self.shared;
        shared.begin(DiskOp::Space, path)?;
        let is_hidden = shared.faults.lock().hides_limit;
        let left = if is_hidden { UNLIMITED_BYTES } else { shared.space(&shared.volume.lock()) };
        shared.end(event(DiskOp::Space, path), Ok(left))
    }

    fn now(&self) -> u64 {
        if host::simulated() {
            return host::now();
        }
        // Real time passes too, so that whoever waits for a time comes to its end.
        self.shared.idle_ns.fetch_add(1_000, Ordering::Relaxed)
            + self.shared.real_clock.get_or_init(OsClock::new).now()
    }

    fn wall(&self) -> UnixMillis {
        let shared = &self.shared;
        if shared.strikes(|plan| plan.wall_jump, "wall clock jumped") {
            let widest = shared.faults.lock().wall_jump_ms_max;
            let jump = i64::try_from(shared.tape.below(Label::Fault, widest.max(1))).unwrap_or(0);
            let jump = if shared.tape.below(Label::Fault, 2) == 0 { jump } else { -jump };
            shared.wall_offset_ms.fetch_add(jump, Ordering::Relaxed);
        }
        let since = i64::try_from(self.now() / 1_000_000).unwrap_or(i64::MAX / 4);
        UnixMillis(WALL_ORIGIN_MS + since + shared.wall_offset_ms.load(Ordering::Relaxed))
    }

    fn sleep(&self, duration: Duration) {
        self.shared.pass(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}
