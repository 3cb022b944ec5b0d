//! A disk that loses power.
//!
//! [`SimDisk`] keeps the contract of `tinylsm::vfs` to the letter and not an inch further. What readers see and what
//! the disk has are kept apart, with every change between the two in order; a crash keeps a subset of these that
//! the disk's [`Profile`] allows (`crash.rs`). Every operation is a scheduling point, takes virtual time and may
//! fail as the [`FaultPlan`] says.
//!
//! Turning the power off freezes the disk at once: every later call on any handle fails without an effect, so that
//! the program on top unwinds; [`SimDisk::image`] is what the next start finds.
//!
//! A disk may also be used outside a simulated run, by real threads: for tests that look at what a crash leaves without
//! owning the schedule. Its choices are then drawn in the order in which the threads come, and its clock is the real one, on
//! which operations and sleeps take no time but move the clock ahead. A disk that was made inside a run is that run's alone.

mod contents;
mod crash;
mod damage;
mod descriptors;
mod event;
mod faults;
mod file;
mod inode;
mod losses;
mod outside;
mod profile;
mod shared;
mod vfs;
mod volume;
mod wish;

pub use crate::disk::damage::Damage;
pub use crate::disk::event::{DiskEvent, DiskOp, Observer};
pub use crate::disk::faults::{FaultPlan, Latency, LatencyPlan, PerMillion};
pub use crate::disk::file::READ_OF_REMOVED;
pub use crate::disk::losses::{CrashReport, Fill, Loss};
pub use crate::disk::profile::{FailedSync, Profile, SECTOR_LEN_BYTES};

use crate::disk::crash::Wreck;
use crate::disk::descriptors::Descriptor;
use crate::disk::shared::{FIRST_PROCESS, Shared};
use crate::disk::volume::{Dir, Node, Route, Volume};
pub use crate::disk::wish::CrashMode;
use crate::tape::Tape;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tinylsm::base::error::Result;

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    pub(in crate::disk) shared: Arc<Shared>,
    /// The process that this view belongs to.
    process: u32,
    /// The directory that this view holds.
    held: Option<Arc<HeldDir>>,
}

/// A directory that is held, and the names from the root that it had.
struct HeldDir {
    id: u64,
    names: Vec<String>,
    _descriptor: Descriptor,
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

impl SimDisk {
    /// Makes an empty disk without faults that takes no time.
    pub fn new(profile: Profile, tape: Tape) -> SimDisk {
        SimDisk::with_volume(profile, tape, Volume::new(), None)
    }

    fn with_volume(profile: Profile, tape: Tape, volume: Volume, report: Option<CrashReport>) -> SimDisk {
        let shared = Arc::new(Shared::new(profile, tape, volume, report));
        SimDisk { shared, process: FIRST_PROCESS, held: None }
    }

    /// Reads a path as this view does.
    pub(in crate::disk) fn route<'p>(&self, path: &'p Path) -> Result<Route<'p>> {
        let mut names = volume::names_of(path)?;
        let mut start = volume::ROOT;
        if let Some(held) = &self.held
            && names.len() >= held.names.len()
            && held.names.iter().zip(&names).all(|(held, name)| held == name)
        {
            start = held.id;
            names.drain(..held.names.len());
        }
        Ok(Route { start, names, path })
    }

    /// Sets what may fail from now on.
    pub fn set_faults(&self, faults: FaultPlan) {
        *self.shared.faults.lock() = faults;
        self.shared.chained_count.store(0, Ordering::Relaxed);
    }

    /// Sets how long operations take from now on.
    pub fn set_latency(&self, latency: LatencyPlan) {
        *self.shared.latency.lock() = latency;
    }

    /// Sets how many bytes all files together may have; `None` is without end. Nobody else changes it from then on.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.shared.space_to_come.lock().clear();
        *self.shared.space_bytes.lock() = bytes;
    }

    /// Has somebody else fill the disk behind so many more changes, until `left` bytes are free; or make space without
    /// end, with `None`. Ask for what comes first first.
    pub fn change_space_behind(&self, changes: u64, left: Option<u64>) {
        let at = self.shared.changes_count.load(Ordering::Relaxed) + changes;
        self.shared.space_to_come.lock().push_back((at, left));
    }

    /// Tells whether what the disk says of its free space knows nothing of its limit.
    pub fn hides_limit(&self) -> bool {
        self.shared.faults.lock().hides_limit
    }

    /// Tells whether all files together may have so many bytes and no more.
    pub fn is_limited(&self) -> bool {
        self.shared.space_bytes.lock().is_some()
    }

    /// Makes space for so many more bytes, where space is short.
    pub fn add_space(&self, bytes: u64) {
        if let Some(space) = self.shared.space_bytes.lock().as_mut() {
            *space += bytes;
        }
    }

    /// Returns how many bytes the files take that a name or a handle reaches, allocated ones included: what a limit
    /// set by [`SimDisk::set_space`] counts.
    pub fn space_used(&self) -> u64 {
        self.shared.volume.lock().charged_bytes
    }

    /// Returns every file with its length, allocated zeros included, and the bytes that readers see, by name within its
    /// directory. Nothing is drawn, no time passes and nobody is told.
    pub fn files(&self) -> Vec<SeenFile> {
        let volume = self.shared.volume.lock();
        volume.dirs.values().flat_map(|dir| seen_files(&volume, dir)).collect()
    }

    /// Returns the files of one directory like [`SimDisk::files`]; none if there is no such directory. In a view that
    /// holds it, of that very directory.
    pub fn files_in(&self, directory: &Path) -> Vec<SeenFile> {
        let Ok(route) = self.route(directory) else { return Vec::new() };
        let volume = self.shared.volume.lock();
        let Ok(dir) = volume.find_dir("files_in", &route) else { return Vec::new() };
        seen_files(&volume, volume.dir(dir)).collect()
    }

    /// Makes the bytes of these files unreadable, and of no others, until it is called again or the disk is healed: each
    /// read of them fails. They can still be opened, and asked for their length.
    ///
    /// # Errors
    /// `NotFound`, and nothing is changed.
    pub fn set_unreadable(&self, paths: &[PathBuf]) -> Result<()> {
        let volume = self.shared.volume.lock();
        let find = |path: &PathBuf| volume.find_file("set_unreadable", &self.route(path)?);
        let ids = paths.iter().map(find).collect::<Result<BTreeSet<u64>>>()?;
        drop(volume);
        self.shared.has_unreadable.store(!ids.is_empty(), Ordering::Relaxed);
        *self.shared.unreadable.lock() = ids;
        Ok(())
    }

    /// Ends all faults, and makes space.
    pub fn heal(&self) {
        self.shared.has_unreadable.store(false, Ordering::Relaxed);
        self.shared.unreadable.lock().clear();
        self.set_faults(FaultPlan::default());
        self.set_space(None);
    }

    /// Calls `when_off` when an operation turns the power off, from the thread whose operation it was.
    pub(crate) fn when_off(&self, when_off: Arc<dyn Fn() + Send + Sync>) {
        *self.shared.when_off.lock() = Some(when_off);
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
        if let Some(mode) = wreck.report.mode() {
            self.shared.count(mode.name(), 1);
        }
        for loss in wreck.report.losses() {
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
        self.successor(Wreck { volume, report: CrashReport::default() })
    }

    /// Makes the disk that comes after this one. Its clocks go on from here.
    fn successor(&self, wreck: Wreck) -> SimDisk {
        let shared = &self.shared;
        let next =
            SimDisk::with_volume(shared.profile, shared.tape.clone(), wreck.volume, Some(wreck.report));
        next.shared.idle_ns.store(shared.idle_ns.load(Ordering::Relaxed), Ordering::Relaxed);
        next.shared.wall_offset_ms.store(shared.wall_offset_ms.load(Ordering::Relaxed), Ordering::Relaxed);
        next
    }

    /// Tells of the crash that this disk came out of; `None` for a new one.
    pub fn crash_report(&self) -> Option<&CrashReport> {
        self.shared.report.as_ref()
    }

    /// Forgets the page cache: where a failed sync left readers with bytes that the disk does not have, they
    /// now see the disk's.
    pub fn evict(&self) {
        for inode in self.shared.volume.lock().inodes.values_mut() {
            inode.evict();
        }
    }

    /// Returns how often each rare event happened.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.shared.counters.lock().clone()
    }
}

fn seen_files(volume: &Volume, dir: &Dir) -> impl Iterator<Item = SeenFile> {
    dir.live.iter().filter_map(|(name, node)| match node {
        Node::File(id) => {
            let inode = volume.inode(*id);
            Some(SeenFile { name: name.to_string(), len: inode.len, bytes: inode.seen_bytes() })
        }
        Node::Dir(_) => None,
    })
}
