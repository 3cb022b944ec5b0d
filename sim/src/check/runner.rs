//! Running a closure for many seeds: side by side, watched, some of them twice.
//!
//! Each run has an OS thread of its own, so that one that hangs for real can be left behind, and so that nothing of a thread
//! survives from run to run. A failure is told by running its seed once more with everything kept.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "runs are run from outside: real threads, channels and clocks"
)]

use crate::check::Settings;
use crate::check::report::{Finding, Report, readable};
use crate::check::run::{Run, State};
use crate::schedule::panics::text_of;
use crate::schedule::{Failure, Options, Outcome, Simulation, Slept, Watch};
use crate::tape::Tape;
use crate::trace::{self, Keep};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What users wrote, as one type.
pub(crate) type Body = Arc<dyn Fn(&Run) -> Result<(), String> + Send + Sync>;

/// How often a watchdog looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often two runs of a seed that differed are run again to name the first difference.
const ATTEMPTS_TO_DIFFER: usize = 5;

pub(crate) struct Runner {
    pub(crate) body: Body,
    pub(crate) settings: Settings,
    pub(crate) stuck_after: Duration,
    pub(crate) runs_compared: usize,
}

/// How one run went.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome<()>,
    pub(crate) state: State,
    pub(crate) slept: Option<Slept>,
}

impl Ran {
    /// Returns why the run failed, if it did.
    fn failure(&self) -> Option<String> {
        match (&self.outcome.failure, &self.state.broken) {
            (Some(Failure::Foreign { message }), _) => Some(message.clone()),
            // What else its destructors would have waited for says nothing to the one who reads.
            (Some(Failure::Panic { thread, message, location, .. }), _) => {
                let at = location.as_ref().map_or(String::new(), |location| format!(" at {location}"));
                Some(format!("thread '{thread}' panicked{at}: {message}"))
            }
            (_, Some(broken)) => Some(broken.clone()),
            (Some(failure), None) => Some(failure.to_string()),
            (None, None) => None,
        }
    }
}

/// A run that came to no end.
enum Lost {
    /// It made no step for too long.
    Stuck { watch: Arc<Watch>, after: Duration },
    /// What runs it has panicked, with these words.
    Panicked(String),
}

impl Lost {
    fn told(&self, seed: u64) -> Finding {
        let text = match self {
            Lost::Stuck { watch, after } => format!(
                "the run is stuck: for {} s of real time it has made no scheduling step\n{watch}\
                 All threads of a run take turns on one thread of the operating system. The one that runs now either computes for \
                 very long, or waits for something that no other can give it: most likely a lock or channel of `std` (or of \
                 another crate) which a thread above holds, or fills, that lost its turn meanwhile. Use tinylsm::sync::Mutex, RwLock, \
                 Condvar and mpsc, which a run can schedule, or hold the lock over no call that reaches the database.",
                after.as_secs()
            ),
            Lost::Panicked(words) => {
                format!("the simulator itself panicked, which is a fault of its own: {words}")
            }
        };
        Finding::without_trace(seed, text)
    }
}

impl Runner {
    /// Runs every seed, until one fails.
    pub(crate) fn run_all(self, seeds: &[u64], threads_count: Option<usize>) -> Report {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads_count = threads_count.unwrap_or(cores).min(seeds.len()).max(1);
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let results: Mutex<(Report, BTreeMap<u64, Finding>)> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..threads_count {
                scope.spawn(|| {
                    // Seeds are begun in their order, so whatever is below one that failed was begun before it and ends.
                    while !is_over.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&seed) = seeds.get(index) else { return };
                        let (state, finding) = self.run_one(seed, index < self.runs_compared);
                        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        results.0.add(&state);
                        if let Some(finding) = finding {
                            is_over.store(true, Ordering::Relaxed);
                            results.1.insert(index as u64, finding);
                        }
                    }
                });
            }
        });
        let (mut report, mut findings) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.finding = findings.pop_first().map(|(_, finding)| finding);
        report
    }

    /// Runs one seed; returns what it counted, and what is wrong.
    fn run_one(&self, seed: u64, is_compared: bool) -> (State, Option<Finding>) {
        let ran = match self.run_watched(seed, Keep::Nothing) {
            Ok(ran) => ran,
            Err(lost) => return (State::default(), Some(lost.told(seed))),
        };
        let finding = match (ran.failure(), &ran.slept) {
            (Some(cause), _) => Some(self.tell(seed, cause)),
            (None, Some(slept)) => self.confirm_sleep(seed, slept),
            (None, None) => None,
        };
        let finding = finding.or_else(|| if is_compared { self.compare(seed, &ran) } else { None });
        (ran.state, finding)
    }

    /// Runs one seed with everything told, on standard error.
    pub(crate) fn replay(self, seed: u64) -> Report {
        let mut report = Report::default();
        let ran = match self.run_watched(seed, Keep::Told) {
            Ok(ran) => ran,
            Err(lost) => {
                report.finding = Some(lost.told(seed));
                return report;
            }
        };
        eprintln!("seed {seed}, everything that happened:");
        for line in readable(&ran.outcome) {
            eprintln!("{line}");
        }
        report.add(&ran.state);
        report.finding = match ran.failure() {
            Some(cause) => Some(Finding::new(seed, cause, &ran)),
            None => ran.slept.as_ref().and_then(|slept| self.confirm_sleep(seed, slept)),
        };
        if report.finding.is_none() {
            report.finding = self.compare(seed, &ran);
        }
        if report.finding.is_none() {
            eprintln!("seed {seed}: nothing failed");
        }
        // What should happen in some run need not happen in this one.
        report.never_happened.clear();
        report
    }

    /// Runs a seed on an OS thread of its own, and gives it up if it makes no step any more.
    fn run_watched(&self, seed: u64, keep: Keep) -> Result<Ran, Lost> {
        let watch = Arc::new(Watch::default());
        let (sender, receiver) = channel();
        let (body, settings, seen) = (Arc::clone(&self.body), self.settings.clone(), Arc::clone(&watch));
        let run = move || {
            let ran = run_here(seed, &body, settings, keep, &seen);
            drop(sender.send(ran));
        };
        let thread = std::thread::Builder::new().name(format!("simulated run {seed}"));
        let thread = thread.spawn(run).expect("the system has a thread for a run");
        let (mut steps, mut since) = (0, Instant::now());
        loop {
            match receiver.recv_timeout(LOOK_EVERY) {
                Ok(ran) => return Ok(ran),
                Err(RecvTimeoutError::Disconnected) => match thread.join() {
                    Ok(()) => unreachable!("a run that returned has sent what it gave"),
                    Err(payload) => {
                        return Err(Lost::Panicked(
                            text_of(payload.as_ref()).unwrap_or("no text").to_owned(),
                        ));
                    }
                },
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = watch.steps();
            if now != steps {
                (steps, since) = (now, Instant::now());
            } else if since.elapsed() >= self.stuck_after {
                // The thread is left behind: nobody can end it.
                return Err(Lost::Stuck { watch, after: since.elapsed() });
            }
        }
    }

    /// Runs a failed seed once more, to tell what it did.
    fn tell(&self, seed: u64, cause: String) -> Finding {
        match self.run_watched(seed, Keep::Told) {
            Ok(again) => match again.failure() {
                Some(same) if same == cause => Finding::new(seed, cause, &again),
                other => {
                    let second = other.unwrap_or_else(|| "nothing".to_owned());
                    let text = format!(
                        "{cause}\n\nThe second run of this seed went differently, and found: {second}\nSomething that the seed \
                         does not decide has a part in it. {RULES}"
                    );
                    Finding::new(seed, text, &again)
                }
            },
            Err(lost) => lost.told(seed),
        }
    }

    /// Runs a seed again that slept, since a machine under load may look like that once.
    fn confirm_sleep(&self, seed: u64, slept: &Slept) -> Option<Finding> {
        let again = self.run_watched(seed, Keep::Told).ok()?;
        let is_same = again.slept.as_ref().is_some_and(|other| other.step == slept.step);
        is_same.then(|| {
            let text = format!(
                "thread '{}' slept for about {} ms of real time, behind its scheduling point '{}': time in a run is virtual, \
                 and nothing in it may wait for the real one. Use tinylsm::sync::thread::sleep instead of \
                 std::thread::sleep, Run::disk instead of real files, and tinylsm::sync::mpsc instead of other channels.",
                slept.thread,
                slept.duration.as_millis(),
                slept.site,
            );
            Finding::new(seed, text, &again)
        })
    }

    /// Runs a seed again, and tells where the two runs part if they do.
    fn compare(&self, seed: u64, first: &Ran) -> Option<Finding> {
        let second = self.run_watched(seed, Keep::Nothing).ok()?;
        let (one, other) = (&first.outcome.trace, &second.outcome.trace);
        if (one.hash(), one.events()) == (other.hash(), other.events()) && second.failure().is_none() {
            return None;
        }
        let mut difference = String::from("  (runs with a trace did not differ)\n");
        for _ in 0..ATTEMPTS_TO_DIFFER {
            let (left, right) = (
                self.run_watched(seed, Keep::Everything).ok()?,
                self.run_watched(seed, Keep::Everything).ok()?,
            );
            if left.outcome.trace.hash() != right.outcome.trace.hash() {
                let found = trace::compare(left.outcome.trace.entries(), right.outcome.trace.entries());
                difference = found.to_string();
                break;
            }
        }
        let text = format!(
            "two runs of the same seed differ, and this is where they part:\n{difference}Something that the seed does not \
             decide has a part in it. {RULES}"
        );
        Some(Finding::without_trace(seed, text))
    }
}

/// What to look for where a run does not repeat itself.
const RULES: &str = "Look for std::time::Instant::now and SystemTime::now (use tinylsm::sync::time), random numbers (draw \
                     them from the Run), the order of a HashMap or HashSet (use BTreeMap and BTreeSet), statics and \
                     thread-locals that keep something from one run to the next, and std::thread::spawn (use tinylsm::sync::thread).";

/// Runs a seed on the calling OS thread.
fn run_here(seed: u64, body: &Body, settings: Settings, keep: Keep, watch: &Arc<Watch>) -> Ran {
    let tape = Tape::from_seed(seed);
    let options =
        Options { keep, steps_max: settings.steps_max, watch: Some(Arc::clone(watch)), ..Options::default() };
    let run = Run::new(seed, tape.clone(), settings);
    let (body, inside) = (Arc::clone(body), run.clone());
    let outcome = Simulation::run_here(tape, options, move || {
        if let Err(error) = body(&inside) {
            inside.fail(format!("the run returned an error: {error}"));
        }
        inside.hash_disks();
    });
    let mut state = run.take_state();
    state.is_unjudged = outcome.is_cut_short;
    Ran { outcome, state, slept: watch.slept() }
}
