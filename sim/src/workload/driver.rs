//! A run's frame: incarnations of one database on one disk, each ending in an accident or in good order, each beginning
//! with a check.
//!
//! An incarnation is: open (perhaps cut short by a loss of power, more than once), judge what was recovered, let
//! clients and a photographer loose (`incarnation.rs`), come to quiet where nothing has failed (`quiet.rs`), end
//! (`endings.rs`). What ends one by loss of power is a change of the disk drawn beforehand, so it hits inside
//! operations, jobs and recoveries alike. After the last one all faults are healed and the database must work, be idle
//! within bounds, and leave no file behind (`rest.rs`).

use crate::disk::{FaultPlan, LatencyPlan, Profile, READ_OF_REMOVED, SimDisk};
use crate::tape::{Label, Tape};
use crate::workload::apart;
use crate::workload::judge::{Context, Judge, Violation, violation};
use crate::workload::operations::Operation;
use crate::workload::operators::LOCK_FILE_REMOVED;
use crate::workload::orders::Fuse;
use crate::workload::ownership::READ_BY_OLD_HANDLE;
use crate::workload::scene::Pictures;
use crate::workload::swarm::{Habit, Swarm};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tinylsm::ErrorKind;
use tinylsm::format::names::FileName;

/// What a failed operation of the disk may show as, at once or later.
pub(in crate::workload) const DISK_KINDS: [ErrorKind; 4] =
    [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::Exhausted, ErrorKind::ReadOnly];

/// What is asked of a run beside its tape.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// An operation that no client does.
    pub without: Option<Operation>,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Losses of power, those inside recoveries included.
    pub crashes_count: u64,
    /// Databases opened on what an accident left, images included.
    pub recoveries_count: u64,
    /// Operations of clients; each write of a batch and each key of a `multi_get` counts.
    pub operations_count: u64,
    /// How often each event happened.
    pub events: BTreeMap<&'static str, u64>,
    /// The longest virtual time that each kind of call has taken, in nanoseconds.
    pub slowest: BTreeMap<&'static str, u64>,
    /// What was decided before it began.
    pub character: Option<Arc<Swarm>>,
}

/// Shows a disk to whoever watches the run.
pub(in crate::workload) type Watcher = fn(&SimDisk);

pub(in crate::workload) struct Driver {
    pub(in crate::workload) context: Context,
    pub(in crate::workload) disk: SimDisk,
    /// Operations of the disk that had failed before this incarnation.
    pub(in crate::workload) failures_before: u64,
    /// Comparisons that had panicked before this incarnation.
    pub(in crate::workload) panics_before: u64,
    /// Whether no opening has succeeded yet.
    pub(in crate::workload) is_first: bool,
    pub(in crate::workload) watcher: Watcher,
    pub(in crate::workload) crashes_count: u64,
    /// Directories that an operator has put aside.
    pub(in crate::workload) asides_count: u64,
    /// Names of tables that an incarnation with other options for the default keyspace has packed in another way.
    pub(in crate::workload) packed_otherwise: Vec<String>,
}

/// Tells the driver of a tape; call inside a simulation of `schedule`.
pub fn drive(
    tape: &Tape,
    profile: Profile,
    pictures: Pictures,
    (watcher, settings): (Watcher, &Settings),
) -> Summary {
    let swarm = Arc::new(Swarm::draw(tape, settings.without));
    let disk = SimDisk::new(profile, tape.clone());
    let context = Context {
        tape: tape.clone(),
        swarm: Arc::clone(&swarm),
        profile,
        judge: Arc::new(Mutex::new(Judge::default())),
        pictures,
        fuse: Fuse::default(),
        runtime: swarm.runtime(),
    };
    let mut driver = Driver {
        context,
        disk,
        failures_before: 0,
        panics_before: 0,
        is_first: true,
        watcher,
        crashes_count: 0,
        asides_count: 0,
        packed_otherwise: Vec::new(),
    };
    watcher(&driver.disk);
    let violation = driver.live_all().err();
    driver.context.pictures.add(&driver.disk, || "the end".to_owned());
    driver.note_disk();
    let mut judge = driver.context.judge.lock();
    let mut summary = Summary {
        // What a thread has seen first says more than what came of it.
        violation: judge.violation.take().or(violation),
        crashes_count: driver.crashes_count,
        recoveries_count: judge.events.get("recovery").copied().unwrap_or(0),
        operations_count: judge.operations_count,
        events: std::mem::take(&mut judge.events),
        slowest: std::mem::take(&mut judge.slowest),
        character: Some(swarm),
    };
    drop(judge);
    let has_met = |event: &str| summary.events.contains_key(event);
    // Whoever opens a directory whose lock file is gone removes what a database that is still open there reads.
    let is_excused = has_met(READ_BY_OLD_HANDLE) || has_met(LOCK_FILE_REMOVED);
    if summary.violation.is_none() && has_met(READ_OF_REMOVED) && !is_excused {
        let message = "a file was read after its name was removed".to_owned();
        summary.violation = Some(violation_of_pins(message));
    }
    summary
}

fn violation_of_pins(message: String) -> Violation {
    violation("readers pin their files", message)
}

impl Driver {
    fn live_all(&mut self) -> Result<(), Violation> {
        if self.context.swarm.habit == Habit::Apart {
            self.reach("only a database apart");
            return apart::ask(&self.context, self.watcher);
        }
        if self.context.swarm.has_foreign_names {
            self.leave_foreign_names()?;
        }
        for _ in 0..self.context.swarm.incarnations_count {
            self.prepare_disk();
            self.live_once()?;
        }
        self.come_to_rest()
    }

    pub(in crate::workload) fn reach(&self, event: &'static str) {
        self.context.reach(event);
    }

    /// Sets latencies and faults for an incarnation.
    pub(in crate::workload) fn prepare_disk(&mut self) {
        let tape = &self.context.tape;
        let latency = *tape.pick(Label::Latency, &[0u8, 1, 1, 2]);
        self.disk.set_latency(match latency {
            0 => LatencyPlan::none(),
            1 => LatencyPlan::fast(),
            _ => LatencyPlan::slow(),
        });
        let mut faults = FaultPlan {
            stall: if tape.chance(Label::Options, 1, 4) { 5_000 } else { 0 },
            stall_ns_max: 3_000_000_000,
            short_read: if tape.chance(Label::Options, 1, 4) { 50_000 } else { 0 },
            refuses_allocation: tape.chance(Label::Options, 1, 8),
            hides_limit: tape.chance(Label::Options, 1, 8),
            wall_jump: if tape.chance(Label::Options, 1, 6) { 20_000 } else { 0 },
            wall_jump_ms_max: 100_000_000,
            ..FaultPlan::default()
        };
        let mut space = None;
        if self.context.swarm.has_faults {
            let rate = |high: u32| if tape.chance(Label::Options, 1, 3) { high } else { 0 };
            faults.sync = rate(15_000);
            faults.sync_dir = rate(40_000);
            faults.append = rate(3_000);
            faults.read = rate(3_000);
            faults.open = rate(3_000);
            faults.create = rate(8_000);
            faults.rename = rate(20_000);
            faults.remove = rate(30_000);
            faults.read_dir = rate(30_000);
            faults.allocate = rate(20_000);
            faults.trim = rate(20_000);
            faults.metadata = rate(1_000);
            faults.exhausted = rate(3_000);
            faults.chain = u32::try_from(tape.below(Label::Options, 3)).expect("below 3");
            if tape.chance(Label::Options, 1, 2) {
                space = Some(15_000 + tape.below(Label::Options, 120_000));
            }
            if self.context.swarm.has_big_values {
                // So that a record that goes out at once fits, and what follows it does not.
                let big = (900 << 10) + tape.below(Label::Options, 4 << 20);
                space = Some(big);
            }
        }
        if self.context.swarm.habit == Habit::SmallDisk {
            space = self.context.swarm.disk_bytes;
        }
        self.disk.set_faults(faults);
        self.disk.set_space(space);
        let descriptors = self.context.swarm.descriptors_max;
        self.disk.set_descriptors(descriptors.filter(|_| tape.chance(Label::Options, 1, 2)));
        self.failures_before = self.disk.failures_count();
    }

    /// Ends all faults and delays.
    pub(in crate::workload) fn heal_disk(&mut self) {
        self.mend_disk();
        self.disk.set_latency(LatencyPlan::none());
        self.failures_before = self.disk.failures_count();
    }

    /// Ends all faults, makes space, and gives descriptors.
    pub(in crate::workload) fn mend_disk(&self) {
        self.disk.heal();
        self.disk.set_descriptors(None);
    }

    /// Tells whether an error of this incarnation may have come from the disk: an operation failed.
    pub(in crate::workload) fn has_cause(&self) -> bool {
        self.disk.failures_count() > self.failures_before
    }

    /// Goes on with what a loss of power has left.
    pub(in crate::workload) fn lose_power(&mut self, event: &'static str) {
        self.reach(event);
        self.crashes_count += 1;
        let is_owed = self.context.profile == Profile::Kill && self.disk.failures_count() == 0;
        self.next_disk();
        self.context.pictures.add_crash(&self.disk, || event.to_owned());
        if !is_owed {
            let model = &mut self.context.judge.lock().model;
            model.process_floor = model.durable_floor;
        }
    }

    fn next_disk(&mut self) {
        // The system may stay: then the next opening sees what no sync has covered, and a loss of power behind it takes that.
        let may_stay = self.context.profile != Profile::Kill && self.context.tape.chance(Label::Crash, 1, 3);
        let next = if may_stay { self.disk.killed() } else { self.disk.image() };
        if may_stay {
            self.reach("only the process died");
        }
        // After the image, which counts what it loses on the disk that it is made of.
        self.note_disk();
        self.disk = next;
        (self.watcher)(&self.disk);
        self.note_names();
        self.prepare_disk();
    }

    /// Forgets the file numbers that left no trace on the disk: they may be given out again.
    fn note_names(&self) {
        let mut numbers = std::collections::BTreeSet::new();
        for directory in [crate::workload::client::DIRECTORY, crate::workload::neighbour::DIRECTORY] {
            let files = self.disk.files_in(std::path::Path::new(directory));
            for file in files {
                let number = FileName::parse(&file.name).and_then(|name| name.number());
                numbers.extend(number.map(|number| (PathBuf::from(directory), number.0)));
            }
        }
        self.context.judge.lock().file_numbers = numbers;
    }

    fn note_disk(&mut self) {
        let mut judge = self.context.judge.lock();
        for (name, count) in self.disk.counters() {
            judge.reach_often(name, count);
        }
    }
}
