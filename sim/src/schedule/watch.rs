//! What others may know of a run while it goes on: how far it is, which thread runs, where each was seen last, and whether
//! it has slept for real.
//!
//! The run's OS thread writes, a watchdog reads. Nothing here changes what the run does.

#![allow(clippy::disallowed_methods, reason = "here real time is what is looked at")]

use crate::schedule::strategy::ThreadId;
use parking_lot::Mutex;
use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

/// A step that takes so long is looked at: nothing in a run should ever wait for real time to pass.
const SUSPICIOUS: Duration = Duration::from_millis(1);

/// What is known of a run. Shared with whoever watches it.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    steps: u64,
    running: Option<ThreadId>,
    threads: Vec<SeenThread>,
    meter: Option<Meter>,
    slept: Option<Slept>,
}

#[derive(Debug)]
struct SeenThread {
    name: String,
    site: &'static str,
    at: Option<&'static Location<'static>>,
}

/// A step in which the OS thread slept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slept {
    /// Which step, counted from the beginning of the run.
    pub step: u64,
    /// The simulated thread that ran.
    pub thread: String,
    /// Its last scheduling point before.
    pub site: &'static str,
    /// How long, about.
    pub duration: Duration,
}

/// Real time and the processor's as of one moment.
#[derive(Clone, Copy, Debug)]
struct Meter {
    at: Instant,
    /// As of the last long step.
    read_at: Instant,
    usage: Option<Usage>,
}

/// Time that an OS thread has used, and waited for a processor.
#[derive(Clone, Copy, Debug)]
struct Usage {
    busy: Duration,
    waited: Duration,
}

impl Usage {
    /// Asks the system about the calling thread; `None` where it does not tell.
    fn read() -> Option<Usage> {
        let busy = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let busy = Duration::new(u64::try_from(busy.tv_sec).ok()?, u32::try_from(busy.tv_nsec).ok()?);
        #[expect(clippy::disallowed_methods, reason = "the system's own figures, of no disk")]
        let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let waited = schedule.split_whitespace().nth(1)?.parse().ok()?;
        Some(Usage { busy, waited: Duration::from_nanos(waited) })
    }
}

impl Watch {
    /// Begins to measure on the calling OS thread, which is the run's.
    pub(crate) fn begin(&self) {
        let now = Instant::now();
        self.seen.lock().meter = Some(Meter { at: now, read_at: now, usage: Usage::read() });
    }

    pub(crate) fn add_thread(&self, name: &str) {
        self.seen.lock().threads.push(SeenThread { name: name.to_owned(), site: "start", at: None });
    }

    /// Notes that a step begins in which `thread` goes on from `site`.
    pub(crate) fn step(&self, steps: u64, thread: ThreadId, site: &'static str) {
        let mut seen = self.seen.lock();
        seen.look_at_last_step();
        seen.steps = steps;
        seen.running = Some(thread);
        seen.threads[thread as usize].site = site;
    }

    /// Notes that the run is over.
    pub(crate) fn end(&self) {
        let mut seen = self.seen.lock();
        seen.look_at_last_step();
        seen.steps += 1;
    }

    /// Notes at which line `thread` is.
    pub(crate) fn at(&self, thread: ThreadId, at: &'static Location<'static>) {
        self.seen.lock().threads[thread as usize].at = Some(at);
    }

    /// Returns how many steps were begun.
    pub fn steps(&self) -> u64 {
        self.seen.lock().steps
    }

    /// Returns the first step in which the run slept for real.
    pub fn slept(&self) -> Option<Slept> {
        self.seen.lock().slept.clone()
    }
}

impl Seen {
    /// Tells a step that slept from one that was long for another reason: a thread that works, or that waits for a processor
    /// to run on, does not sleep.
    fn look_at_last_step(&mut self) {
        let Some(meter) = self.meter else { return };
        let now = Instant::now();
        let took = now - meter.at;
        if took < SUSPICIOUS || self.slept.is_some() {
            self.meter = Some(Meter { at: now, ..meter });
            return;
        }
        let usage = Usage::read();
        if let (Some(usage), Some(before), Some(thread)) = (usage, meter.usage, self.running) {
            let passed = now - meter.read_at;
            let awake = (usage.busy - before.busy) + (usage.waited.saturating_sub(before.waited));
            let slept = passed.saturating_sub(awake).min(took);
            if slept >= took * 3 / 4 {
                let thread = &self.threads[thread as usize];
                let (name, site) = (thread.name.clone(), thread.site);
                self.slept = Some(Slept { step: self.steps, thread: name, site, duration: slept });
            }
        }
        // Reading the figures is no part of the next step.
        let now = Instant::now();
        self.meter = Some(Meter { at: now, read_at: now, usage });
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.seen.lock();
        for (number, thread) in seen.threads.iter().enumerate() {
            let runs = if seen.running == Some(number as ThreadId) { ", RUNS NOW" } else { "" };
            write!(f, "  thread {number} '{}'{runs}: last scheduling point '{}'", thread.name, thread.site)?;
            match thread.at {
                Some(at) => writeln!(f, ", last lock or wait at {at}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
