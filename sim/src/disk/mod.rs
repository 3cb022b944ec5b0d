//! A disk that loses power.
//!
//! [`SimDisk`] keeps the contract of `tinylsm::vfs` to the letter and not an inch further. What readers see and what
//! the disk has are kept apart, with every change between the two in order; a crash keeps a subset of these that
//! the disk's [`Profile`] allows (`crash.rs`). Every operation is a scheduling point, takes virtual time and may
//! fail as the [`FaultPlan`] says.
//!
//! Turning the power off freezes the disk at once: every later call on any handle fails without an effect, so that
//! the program on top unwinds; [`SimDisk::image`] is what the next start finds.

mod contents;
mod crash;
mod event;
mod faults;
mod file;
mod inode;
mod losses;
mod profile;
mod volume;

pub use crate::disk::crash::CrashMode;
pub use crate::disk::event::{DiskEvent, DiskOp, Observer};
pub use crate::disk::faults::{FaultPlan, Latency, LatencyPlan, PerMillion};
pub use crate::disk::file::READ_OF_REMOVED;
pub use crate::disk::losses::{CrashStory, Fill, Loss};
pub use crate::disk::profile::{FailedSync, Profile, SECTOR_LEN_BYTES};

use crate::disk::crash::Wreck;
use crate::disk::faults::MILLION;
use crate::disk::file::{SimLock, SimReadFile, SimWriteFile};
use crate::disk::inode::Inode;
use crate::disk::volume::{Node, Volume, failed, missing};
use crate::tape::{Label, Tape};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tinylsm::UnixMillis;
use tinylsm::base::error::{Error, ErrorKind, Result};
use tinylsm::sync::{host, yield_point};
use tinylsm::vfs::{Copied, DirEntry, DirLock, LockMode, Metadata, ReadFile, Vfs, WriteFile};

/// Where virtual wall time begins: some day in 2026.
const WALL_ORIGIN_MS: i64 = 1_780_000_000_000;

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

/// Which operation the power goes at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Its kind; it must be a change.
    pub op: DiskOp,
    /// How many of the kind pass before.
    pub skipped: u64,
    /// How many changes follow it that still have their effect.
    pub changes_behind: u64,
}

/// A file as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenFile {
    /// Its name within its directory.
    pub name: String,
    /// Its length.
    pub len: u64,
    /// Its bytes up to the last that was written; zeros follow up to its length.
    pub bytes: Arc<Vec<u8>>,
}

pub(in crate::disk) struct Shared {
    pub(in crate::disk) profile: Profile,
    pub(in crate::disk) tape: Tape,
    pub(in crate::disk) volume: Mutex<Volume>,
    /// How the crash went that this disk came out of.
    story: Option<CrashStory>,
    faults: Mutex<FaultPlan>,
    latency: Mutex<LatencyPlan>,
    space_bytes: Mutex<Option<u64>>,
    counters: Mutex<BTreeMap<&'static str, u64>>,
    observer: Mutex<Option<Observer>>,
    failures_count: AtomicU64,
    is_off: AtomicBool,
    changes_count: AtomicU64,
    crash_after: AtomicU64,
    aim: Mutex<Option<Aim>>,
    wall_offset_ms: AtomicI64,
    /// Time outside a simulation: each look takes a microsecond.
    idle_ns: AtomicU64,
}

impl SimDisk {
    /// Makes an empty disk without faults that takes no time.
    pub fn new(profile: Profile, tape: Tape) -> SimDisk {
        SimDisk::with_volume(profile, tape, Volume::new(), None)
    }

    fn with_volume(profile: Profile, tape: Tape, volume: Volume, story: Option<CrashStory>) -> SimDisk {
        SimDisk {
            shared: Arc::new(Shared {
                profile,
                tape,
                volume: Mutex::new(volume),
                story,
                faults: Mutex::new(FaultPlan::default()),
                latency: Mutex::new(LatencyPlan::none()),
                space_bytes: Mutex::new(None),
                counters: Mutex::default(),
                observer: Mutex::new(None),
                failures_count: AtomicU64::new(0),
                is_off: AtomicBool::new(false),
                changes_count: AtomicU64::new(0),
                crash_after: AtomicU64::new(u64::MAX),
                aim: Mutex::new(None),
                wall_offset_ms: AtomicI64::new(0),
                idle_ns: AtomicU64::new(0),
            }),
        }
    }

    /// Sets what may fail from now on.
    pub fn set_faults(&self, faults: FaultPlan) {
        *self.shared.faults.lock() = faults;
    }

    /// Sets how long operations take from now on.
    pub fn set_latency(&self, latency: LatencyPlan) {
        *self.shared.latency.lock() = latency;
    }

    /// Sets how many bytes all files together may have; `None` is without end.
    pub fn set_space(&self, bytes: Option<u64>) {
        *self.shared.space_bytes.lock() = bytes;
    }

    /// Makes room for so many more bytes, where room is short.
    pub fn add_space(&self, bytes: u64) {
        if let Some(space) = self.shared.space_bytes.lock().as_mut() {
            *space += bytes;
        }
    }

    /// Returns every file with its length and the bytes that readers see, by name within its directory. Nothing is
    /// drawn, no time passes and nobody is told.
    pub fn files(&self) -> Vec<SeenFile> {
        let volume = self.shared.volume.lock();
        let names = volume.dirs.values().flat_map(|dir| &dir.live);
        names
            .filter_map(|(name, node)| match node {
                Node::File(id) => {
                    let inode = volume.inode(*id);
                    Some(SeenFile { name: name.to_string(), len: inode.len, bytes: inode.bytes.clone() })
                }
                Node::Dir(_) => None,
            })
            .collect()
    }

    /// Returns the files of one directory like [`SimDisk::files`]; none if there is no such directory.
    pub fn files_in(&self, directory: &Path) -> Vec<SeenFile> {
        let volume = self.shared.volume.lock();
        let Ok(dir) = volume.find_dir("look", directory) else { return Vec::new() };
        let names = volume.dir(dir).live.iter();
        names
            .filter_map(|(name, node)| match node {
                Node::File(id) => {
                    let inode = volume.inode(*id);
                    Some(SeenFile { name: name.to_string(), len: inode.len, bytes: inode.bytes.clone() })
                }
                Node::Dir(_) => None,
            })
            .collect()
    }

    /// Ends all faults, and makes room.
    pub fn heal(&self) {
        self.set_faults(FaultPlan::default());
        self.set_space(None);
    }

    /// Tells `observer` of every operation.
    pub fn observe(&self, observer: Observer) {
        *self.shared.observer.lock() = Some(observer);
    }

    /// Turns the power off after so many more changes: the last of them has its effect and never returns.
    pub fn power_off_after(&self, changes_count: u64) {
        let now = self.shared.changes_count.load(Ordering::Relaxed);
        self.shared.crash_after.store(now.saturating_add(changes_count), Ordering::Relaxed);
        *self.shared.aim.lock() = None;
    }

    /// Turns the power off a few changes behind an operation of one kind, as `aim` says.
    pub fn power_off_at(&self, aim: Aim) {
        assert!(aim.op.is_change(), "only a change can be the last one");
        *self.shared.aim.lock() = Some(aim);
    }

    /// Turns the power off now.
    pub fn power_off(&self) {
        self.shared.is_off.store(true, Ordering::SeqCst);
    }

    /// Tells whether the power is off.
    pub fn is_off(&self) -> bool {
        self.shared.is_off.load(Ordering::SeqCst)
    }

    /// Returns how many operations failed by a fault or for want of space since this disk was made. Faults that an
    /// engine must bear without an error (short reads, stalls, jumps of the clock) do not count.
    pub fn failures_count(&self) -> u64 {
        self.shared.failures_count.load(Ordering::Relaxed)
    }

    /// Returns how many changes were made.
    pub fn changes_count(&self) -> u64 {
        self.shared.changes_count.load(Ordering::Relaxed)
    }

    /// Returns a disk as a crash at this moment could leave it. This one runs on undisturbed.
    pub fn image(&self) -> SimDisk {
        let wreck = {
            let volume = self.shared.volume.lock();
            match self.shared.profile {
                Profile::Kill => crash::kill(&volume),
                profile => crash::cut_power(&volume, profile.rules(), &self.shared.tape),
            }
        };
        if let Some(mode) = wreck.story.mode() {
            self.shared.count(mode.name(), 1);
        }
        for loss in wreck.story.losses() {
            self.shared.count(loss.name(), 1);
        }
        self.successor(wreck)
    }

    /// Returns the disk as it is after its process was killed: all that is visible, and what was not synced is
    /// still not.
    pub fn killed(&self) -> SimDisk {
        let wreck = crash::kill(&self.shared.volume.lock());
        self.successor(wreck)
    }

    /// Returns a disk with the same visible content, all of it durable; nothing is drawn.
    pub fn copy(&self) -> SimDisk {
        let volume = crash::settle_everything(&self.shared.volume.lock());
        self.successor(Wreck { volume, story: CrashStory::default() })
    }

    /// Makes the disk that comes after this one. Its clocks go on from here.
    fn successor(&self, wreck: Wreck) -> SimDisk {
        let shared = &self.shared;
        let next = SimDisk::with_volume(shared.profile, shared.tape.clone(), wreck.volume, Some(wreck.story));
        next.shared.idle_ns.store(shared.idle_ns.load(Ordering::Relaxed), Ordering::Relaxed);
        next.shared.wall_offset_ms.store(shared.wall_offset_ms.load(Ordering::Relaxed), Ordering::Relaxed);
        next
    }

    /// Tells of the crash that this disk came out of; `None` for a new one.
    pub fn crash_story(&self) -> Option<&CrashStory> {
        self.shared.story.as_ref()
    }

    /// Forgets the page cache: where a failed sync left readers with bytes that the disk does not have, they
    /// now see the disk's.
    pub fn evict(&self) {
        for inode in self.shared.volume.lock().inodes.values_mut() {
            inode.evict();
        }
    }

    /// Flips one bit of a file, durably: damage that no crash explains.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` behind the file's end.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> Result<()> {
        let mut volume = self.shared.volume.lock();
        let id = volume.find_file("flip_bit", path)?;
        let inode = volume.inode_mut(id);
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset >= inode.len {
            return Err(Error::invalid("there is no such byte").with_file(path));
        }
        let bytes = Arc::make_mut(&mut inode.bytes);
        if at >= bytes.len() {
            bytes.resize(at + 1, 0);
        }
        bytes[at] ^= 1 << (bit % 8);
        Ok(())
    }

    /// Returns how often each rare event happened.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.shared.counters.lock().clone()
    }
}

impl Shared {
    pub(in crate::disk) fn count(&self, name: &'static str, count: u64) {
        *self.counters.lock().entry(name).or_default() += count;
    }

    /// Begins an operation: a scheduling point, then the time it takes.
    pub(in crate::disk) fn begin(&self, op: DiskOp, path: &Path) -> Result<()> {
        yield_point(op.name());
        self.check_power(op, path)?;
        let latency = {
            let plan = self.latency.lock();
            let latency = match op {
                DiskOp::Append | DiskOp::Allocate => plan.append,
                DiskOp::Read => plan.read,
                DiskOp::Sync | DiskOp::SyncDir => return Ok(()),
                _ => plan.name,
            };
            drop(plan);
            latency.draw(&self.tape)
        };
        self.pass(latency);
        self.check_power(op, path)
    }

    fn pass(&self, ns: u64) {
        if ns > 0 {
            if host::simulated() {
                host::sleep(Duration::from_nanos(ns));
            } else {
                self.idle_ns.fetch_add(ns, Ordering::Relaxed);
            }
        }
    }

    pub(in crate::disk) fn check_power(&self, op: DiskOp, path: &Path) -> Result<()> {
        if self.is_off.load(Ordering::SeqCst) {
            return Err(failed(op.name(), path, "power is off"));
        }
        Ok(())
    }

    /// Ends an operation: tells the observer, and turns the power off if this change was the last.
    pub(in crate::disk) fn end<T>(&self, event: DiskEvent<'_>, result: Result<T>) -> Result<T> {
        let event = DiskEvent { error: result.as_ref().err().map(Error::kind), ..event };
        let observer = self.observer.lock().clone();
        if let Some(observer) = observer {
            observer(&event);
        }
        if event.op.is_change() {
            let count = self.changes_count.fetch_add(1, Ordering::Relaxed) + 1;
            self.take_aim(event.op, count);
            if count >= self.crash_after.load(Ordering::Relaxed) && !self.is_off.swap(true, Ordering::SeqCst)
            {
                self.count("power off in an operation", 1);
            }
        }
        self.check_power(event.op, event.path)?;
        result
    }

    /// Sets the last change once the operation that was aimed at is there.
    fn take_aim(&self, op: DiskOp, changes_count: u64) {
        let mut slot = self.aim.lock();
        let Some(aim) = slot.as_mut().filter(|aim| aim.op == op) else { return };
        if aim.skipped > 0 {
            aim.skipped -= 1;
            return;
        }
        self.crash_after.store(changes_count + aim.changes_behind, Ordering::Relaxed);
        *slot = None;
    }

    /// Draws whether a fault happens now.
    pub(in crate::disk) fn strikes(
        &self,
        rate: impl FnOnce(&FaultPlan) -> PerMillion,
        name: &'static str,
    ) -> bool {
        let rate = rate(&self.faults.lock());
        if rate == 0 || !self.tape.chance(Label::Fault, u64::from(rate), MILLION) {
            return false;
        }
        self.count(name, 1);
        true
    }

    /// Draws whether this operation fails.
    pub(in crate::disk) fn fails(
        &self,
        rate: impl FnOnce(&FaultPlan) -> PerMillion,
        name: &'static str,
    ) -> bool {
        let is_failing = self.strikes(rate, name);
        self.failures_count.fetch_add(u64::from(is_failing), Ordering::Relaxed);
        is_failing
    }

    pub(in crate::disk) fn refuses_allocation(&self) -> bool {
        self.faults.lock().refuses_allocation
    }

    /// Returns how many bytes still fit.
    pub(in crate::disk) fn room(&self, volume: &Volume) -> u64 {
        self.space_bytes.lock().map_or(1 << 40, |space| space.saturating_sub(volume.charged_bytes))
    }

    /// Checks that `more` bytes fit, given the volume.
    pub(in crate::disk) fn check_space(
        &self,
        volume: &Volume,
        more: u64,
        op: DiskOp,
        path: &Path,
    ) -> Result<()> {
        match *self.space_bytes.lock() {
            Some(space) if volume.charged_bytes + more > space => {
                self.count("disk full", 1);
                self.failures_count.fetch_add(1, Ordering::Relaxed);
                let error = Error::new(ErrorKind::NoSpace, "no space left on the simulated disk");
                Err(error.with_file(path).with_operation(op.name()))
            }
            _ => Ok(()),
        }
    }

    /// Syncs a file: covers what was written before it began, and takes its time.
    pub(in crate::disk) fn sync_inode(&self, id: u64, path: &Path) -> Result<()> {
        self.begin(DiskOp::Sync, path)?;
        let (upto, waiting) = {
            let volume = self.volume.lock();
            (volume.seq, volume.inode(id).pending_len())
        };
        let event = DiskEvent { op: DiskOp::SyncBegin, path, to: None, offset: 0, len: waiting, error: None };
        self.end(event, Ok(()))?;
        self.pass_sync(waiting);
        self.check_power(DiskOp::Sync, path)?;
        let is_failing = self.fails(|plan| plan.sync, "sync failed");
        let mut volume = self.volume.lock();
        let result = if is_failing {
            let model = *self.tape.pick(Label::Fault, self.profile.rules().failed_sync);
            let tape = self.tape.clone();
            volume.charge(id, |inode| inode.fail_sync(upto, model, &tape));
            Err(failed("sync", path, "simulated sync error"))
        } else {
            volume.inode_mut(id).settle(upto);
            if self.profile.rules().has_journal {
                crash::settle_journal(&mut volume, self.profile.rules(), upto);
            }
            Ok(())
        };
        drop(volume);
        self.end(DiskEvent { op: DiskOp::Sync, path, to: None, offset: 0, len: waiting, error: None }, result)
    }

    fn pass_sync(&self, waiting: u64) {
        let (latency, per_kib) = {
            let plan = self.latency.lock();
            (plan.sync, plan.sync_ns_per_kib)
        };
        self.pass(latency.draw(&self.tape) + waiting / 1024 * per_kib);
        let stall_ns_max = self.faults.lock().stall_ns_max;
        if self.strikes(|plan| plan.stall, "sync stalled") {
            self.pass(self.tape.below(Label::Latency, stall_ns_max.max(1)));
        }
    }
}

fn event<'a>(op: DiskOp, path: &'a Path) -> DiskEvent<'a> {
    DiskEvent { op, path, to: None, offset: 0, len: 0, error: None }
}

impl Vfs for SimDisk {
    fn create_new(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let shared = &self.shared;
        shared.begin(DiskOp::Create, path)?;
        let is_failing = shared.fails(|plan| plan.create, "create failed");
        let happens = !is_failing || shared.tape.below(Label::Fault, 2) == 1;
        let create = || -> Result<u64> {
            let mut volume = shared.volume.lock();
            let place = volume.place("create", path)?;
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
            Ok(id)
        };
        let id = shared.end(event(DiskOp::Create, path), create())?;
        Ok(Box::new(SimWriteFile::new(Arc::clone(shared), id, path)))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let shared = &self.shared;
        shared.begin(DiskOp::Open, path)?;
        let open = || -> Result<u64> {
            if shared.fails(|plan| plan.open, "open failed") {
                return Err(failed("open", path, "simulated error"));
            }
            let mut volume = shared.volume.lock();
            let id = volume.find_file("open", path)?;
            volume.hold_open(id);
            Ok(id)
        };
        let id = shared.end(event(DiskOp::Open, path), open())?;
        Ok(Arc::new(SimReadFile::new(Arc::clone(shared), id, path)))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        let shared = &self.shared;
        shared.begin(DiskOp::Open, path)?;
        let id = {
            let mut volume = shared.volume.lock();
            let id = volume.find_file("sync", path)?;
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
            let (old, new) = (volume::names_of(from)?, volume::names_of(to)?);
            if old.split_last().map(|(_, above)| above) != new.split_last().map(|(_, above)| above) {
                return Err(Error::invalid("a rename stays within its directory")
                    .with_file(from)
                    .with_operation("rename"));
            }
            let mut volume = shared.volume.lock();
            let source = volume.place("rename", from)?;
            let target = volume.place("rename", to)?;
            let moved = volume.find_file("rename", from)?;
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
            let mut volume = shared.volume.lock();
            volume.find_file("remove", path)?;
            if !is_failing || shared.tape.below(Label::Fault, 2) == 1 {
                let place = volume.place("remove", path)?;
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
            let mut volume = shared.volume.lock();
            let id = volume.find_file("link", from)?;
            let place = volume.place("link", to)?;
            if volume.node(place).is_some() {
                let error = Error::new(ErrorKind::AlreadyExists, "the name is taken");
                return Err(error.with_file(to).with_operation("link"));
            }
            if !refuses_links {
                volume.add_name(place, Node::File(id));
                return Ok(Copied::Linked);
            }
            let (bytes, len) = (Arc::clone(&volume.inode(id).bytes), volume.inode(id).len);
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
            let mut volume = shared.volume.lock();
            let mut at = std::path::PathBuf::from("/");
            for name in volume::names_of(path)? {
                at.push(name);
                let place = volume.place("create_dir", &at)?;
                match volume.node(place) {
                    Some(Node::Dir(_)) => {}
                    Some(Node::File(_)) => return Err(failed("create_dir", &at, "not a directory")),
                    None => {
                        let above = place.dir;
                        volume.add_dir(place);
                        let upto = volume.seq;
                        // The contract: names of new directories are durable when this returns.
                        volume.settle_names(above, upto);
                    }
                }
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
            let volume = shared.volume.lock();
            let id = volume.find_dir("read_dir", path)?;
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
        let (id, upto, waiting) = {
            let volume = shared.volume.lock();
            let id = volume.find_dir("sync_dir", path)?;
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
        let lock = || -> Result<u64> {
            let mut volume = shared.volume.lock();
            let place = volume.place("lock", path)?;
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
            if !volume.inode(id).holders.admits(mode) {
                let error = Error::new(ErrorKind::Locked, "another holder is in the way");
                return Err(error.with_file(path).with_operation("lock"));
            }
            volume.inode_mut(id).holders.take(mode);
            volume.hold_open(id);
            Ok(id)
        };
        let id = shared.end(event(DiskOp::Lock, path), lock())?;
        Ok(Box::new(SimLock::new(Arc::clone(shared), id, mode)))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let shared = &self.shared;
        shared.begin(DiskOp::Metadata, path)?;
        let look = || -> Result<Metadata> {
            let volume = shared.volume.lock();
            Ok(match volume.find("metadata", path)? {
                Node::File(id) => Metadata { len: volume.inode(id).len, is_dir: false },
                Node::Dir(_) => Metadata { len: 0, is_dir: true },
            })
        };
        shared.end(event(DiskOp::Metadata, path), look())
    }

    fn available_space(&self, path: &Path) -> Result<u64> {
        let shared = &self.shared;
        shared.begin(DiskOp::Space, path)?;
        let left = shared.room(&shared.volume.lock());
        shared.end(event(DiskOp::Space, path), Ok(left))
    }

    fn now(&self) -> u64 {
        if host::simulated() {
            return host::now();
        }
        self.shared.idle_ns.fetch_add(1_000, Ordering::Relaxed)
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
