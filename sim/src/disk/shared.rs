//! What all views and handles of one disk share: its state, and what every operation goes through.
//!
//! An operation begins with a scheduling point and the time it takes, draws whether it fails, changes the volume, and
//! ends by telling the observer and counting towards the power cut. A rate of zero draws nothing.

#![allow(clippy::disallowed_types, reason = "below the scheduler, whose own threads do not interleave")]

use crate::disk::Aim;
use crate::disk::crash;
use crate::disk::descriptors::DescriptorTable;
use crate::disk::event::{DiskEvent, DiskOp, Observer};
use crate::disk::faults::{FaultPlan, LatencyPlan, MILLION, PerMillion};
use crate::disk::losses::CrashReport;
use crate::disk::profile::Profile;
use crate::disk::volume::{Volume, failed};
use crate::tape::{Label, Tape};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tinylsm::base::error::{Error, ErrorKind, Result};
use tinylsm::sync::{host, yield_point};
use tinylsm::vfs::os::OsClock;

/// What a disk without a limit says of its free space.
pub(in crate::disk) const UNLIMITED_BYTES: u64 = 1 << 40;

/// The number of the process that a new disk belongs to.
pub(in crate::disk) const FIRST_PROCESS: u32 = 1;

/// A disk's state.
pub(in crate::disk) struct Shared {
    pub(in crate::disk) profile: Profile,
    pub(in crate::disk) tape: Tape,
    pub(in crate::disk) volume: Mutex<Volume>,
    /// How the crash went that this disk came out of.
    pub(in crate::disk) report: Option<CrashReport>,
    pub(in crate::disk) faults: Mutex<FaultPlan>,
    /// How many of the next opportunities fail because one has just failed.
    pub(in crate::disk) chained_count: AtomicU32,
    pub(in crate::disk) latency: Mutex<LatencyPlan>,
    pub(in crate::disk) space_bytes: Mutex<Option<u64>>,
    /// What somebody else will leave free, and behind which change, in order.
    pub(in crate::disk) space_to_come: Mutex<VecDeque<(u64, Option<u64>)>>,
    pub(in crate::disk) descriptors: Mutex<DescriptorTable>,
    pub(in crate::disk) counters: Mutex<BTreeMap<&'static str, u64>>,
    pub(in crate::disk) observer: Mutex<Option<Observer>>,
    pub(in crate::disk) failures_count: AtomicU64,
    pub(in crate::disk) is_off: AtomicBool,
    pub(in crate::disk) changes_count: AtomicU64,
    pub(in crate::disk) crash_after: AtomicU64,
    pub(in crate::disk) aim: Mutex<Option<Aim>>,
    /// Files whose bytes cannot be read.
    pub(in crate::disk) unreadable: Mutex<BTreeSet<u64>>,
    pub(in crate::disk) has_unreadable: AtomicBool,
    pub(in crate::disk) wall_offset_ms: AtomicI64,
    /// Time outside a simulation, beside the real one: each look takes a microsecond, and operations what they take.
    pub(in crate::disk) idle_ns: AtomicU64,
    /// Real time outside a simulation, since somebody looked first.
    pub(in crate::disk) real_clock: OnceLock<OsClock>,
    /// The run that the disk was made in; 0 for none.
    pub(in crate::disk) run: u32,
    /// Who is told that the power went in an operation.
    pub(in crate::disk) when_off: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    /// The number of the last process that uses the disk.
    pub(in crate::disk) last_process: AtomicU32,
}

impl Shared {
    pub(in crate::disk) fn new(
        profile: Profile,
        tape: Tape,
        volume: Volume,
        report: Option<CrashReport>,
    ) -> Shared {
        Shared {
            profile,
            tape,
            volume: Mutex::new(volume),
            report,
            faults: Mutex::new(FaultPlan::default()),
            chained_count: AtomicU32::new(0),
            latency: Mutex::new(LatencyPlan::none()),
            space_bytes: Mutex::new(None),
            space_to_come: Mutex::default(),
            descriptors: Mutex::default(),
            counters: Mutex::default(),
            observer: Mutex::new(None),
            failures_count: AtomicU64::new(0),
            is_off: AtomicBool::new(false),
            changes_count: AtomicU64::new(0),
            crash_after: AtomicU64::new(u64::MAX),
            aim: Mutex::new(None),
            unreadable: Mutex::default(),
            has_unreadable: AtomicBool::new(false),
            wall_offset_ms: AtomicI64::new(0),
            idle_ns: AtomicU64::new(0),
            real_clock: OnceLock::new(),
            run: host::current().map_or(0, |host| host.run()),
            when_off: Mutex::new(None),
            last_process: AtomicU32::new(FIRST_PROCESS),
        }
    }

    pub(in crate::disk) fn count(&self, name: &'static str, count: u64) {
        *self.counters.lock().entry(name).or_default() += count;
    }

    /// Begins an operation: a scheduling point, then the time it takes.
    pub(in crate::disk) fn begin(&self, op: DiskOp, path: &Path) -> Result<()> {
        if self.run != 0 && !host::simulated() {
            host::check_foreign(self.run, "the simulated disk");
        }
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

    pub(in crate::disk) fn pass(&self, ns: u64) {
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
            self.change_space(count);
            if count >= self.crash_after.load(Ordering::Relaxed) && !self.is_off.swap(true, Ordering::SeqCst)
            {
                self.count("power off in an operation", 1);
                let when_off = self.when_off.lock().clone();
                if let Some(when_off) = when_off {
                    when_off();
                }
            }
        }
        self.check_power(event.op, event.path)?;
        result
    }

    /// Lets somebody else take space or free some once it is time.
    fn change_space(&self, changes_count: u64) {
        let mut to_come = self.space_to_come.lock();
        while let Some(&(at, left)) = to_come.front()
            && at <= changes_count
        {
            to_come.pop_front();
            let used = self.volume.lock().charged_bytes;
            *self.space_bytes.lock() = left.map(|left| used + left);
            self.count(if left.is_some() { "space taken under way" } else { "space freed under way" }, 1);
        }
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

    /// Draws whether a fault happens now that an engine must bear without an error.
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
        let is_failing = self.draws_failure(rate);
        if is_failing {
            self.count_failure(name);
        }
        is_failing
    }

    /// Draws a failure without counting it. Once one was drawn, the next few opportunities of any kind that the plan
    /// knows fail as well, as many as it says.
    pub(in crate::disk) fn draws_failure(&self, rate: impl FnOnce(&FaultPlan) -> PerMillion) -> bool {
        let (rate, chain) = {
            let plan = self.faults.lock();
            (rate(&plan), plan.chain)
        };
        if rate == 0 {
            return false;
        }
        let chained = self.chained_count.load(Ordering::Relaxed).min(chain);
        if chained > 0 {
            self.chained_count.store(chained - 1, Ordering::Relaxed);
            self.count("fault chained to another", 1);
            return true;
        }
        let is_failing = self.tape.chance(Label::Fault, u64::from(rate), MILLION);
        if is_failing {
            self.chained_count.store(chain, Ordering::Relaxed);
        }
        is_failing
    }

    pub(in crate::disk) fn count_failure(&self, name: &'static str) {
        self.count(name, 1);
        self.failures_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells whether reads of this file may bring wrong bytes.
    pub(in crate::disk) fn has_wrong_reads_of(&self, path: &Path) -> bool {
        let plan = self.faults.lock();
        let has_any = plan.misdirected_read > 0 || plan.stale_read > 0;
        has_any && path.as_os_str().as_encoded_bytes().ends_with(plan.wrong_reads_of.as_bytes())
    }

    /// Refuses what needs a directory to be synced, where the disk cannot.
    pub(in crate::disk) fn check_dir_sync(&self, op: DiskOp, path: &Path) -> Result<()> {
        if self.faults.lock().refuses_dir_sync {
            let error = Error::new(ErrorKind::Unsupported, "the simulated disk cannot sync directories");
            return Err(error.with_file(path).with_operation(op.name()));
        }
        Ok(())
    }

    /// Tells whether the bytes of a file cannot be read.
    pub(in crate::disk) fn is_unreadable(&self, id: u64) -> bool {
        self.has_unreadable.load(Ordering::Relaxed) && self.unreadable.lock().contains(&id)
    }

    pub(in crate::disk) fn refuses_allocation(&self) -> bool {
        self.faults.lock().refuses_allocation
    }

    /// Returns how many bytes still fit.
    pub(in crate::disk) fn space(&self, volume: &Volume) -> u64 {
        self.space_bytes.lock().map_or(UNLIMITED_BYTES, |space| space.saturating_sub(volume.charged_bytes))
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
                self.count_failure("disk full");
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

    pub(in crate::disk) fn pass_sync(&self, waiting: u64) {
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

pub(in crate::disk) fn event<'a>(op: DiskOp, path: &'a Path) -> DiskEvent<'a> {
    DiskEvent { op, path, to: None, offset: 0, len: 0, error: None }
}
