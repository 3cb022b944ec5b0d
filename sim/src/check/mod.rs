//! Testing an application's own code by seed: the one entry point for users.
//!
//! [`check`] calls a closure once for each seed. In it the application opens databases on simulated disks, starts threads,
//! sleeps, loses power or is killed, starts again, and says what must hold. A seed decides everything that could go
//! differently; one that fails is reported with what was done last, and `TINYLSM_SEED=n` runs it again with all of that.
//!
//! ```
//! use tinylsm_sim::Run;
//!
//! fn counter_never_goes_back(run: &Run) -> tinylsm::Result<()> {
//!     let mut acknowledged = 0;
//!     for _ in 0..3 {
//!         // A process: it ends when it returns, or when the power goes, or when it is killed.
//!         run.incarnation(|| -> tinylsm::Result<()> {
//!             let db = run.db("/counter").open()?;
//!             for count in acknowledged + 1..acknowledged + 10 {
//!                 db.put("count", format!("{count}"))?;
//!                 acknowledged = count;
//!             }
//!             Ok(())
//!         });
//!         // What is left on the disk can be looked at between two processes.
//!         let db = run.db("/counter").open()?;
//!         let stored = db.get("count")?.map_or(0, |value| String::from_utf8_lossy(&value).parse().unwrap_or(0));
//!         run.always("no acknowledged count is lost", stored >= acknowledged);
//!         acknowledged = stored;
//!     }
//!     Ok(())
//! }
//!
//! tinylsm_sim::check(0..20, counter_never_goes_back);
//! ```
//!
//! Rules for what runs inside: threads, locks, channels and clocks are those of [`tinylsm::sync`]; disks are the run's; what is
//! random is drawn from the [`Run`]. What breaks a rule is found and named where it can be: a thread of the operating system
//! that touches the run, a lock of the standard library held at a switch (the run hangs, and a watchdog says where), real
//! sleeping, and whatever else makes a seed go differently the second time ([`Check::runs_compared`]).
//!
//! Seeds run side by side on all cores. [`Check::run_in_turn`] takes a closure that cannot be shared between threads.

mod report;
mod run;
mod runner;

pub use crate::check::report::{Finding, Report};
pub use crate::check::run::{Outcome, Run};

use crate::check::runner::{Body, Runner};
use crate::disk::{FaultPlan, Profile};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// The variable that runs one seed only, with everything that happens.
pub const SEED_VARIABLE: &str = "TINYLSM_SEED";

/// Runs `body` once for each seed, with the defaults of [`Check`].
///
/// # Panics
/// At the lowest seed for which `body` panics, returns an error, breaks an invariant, never ends or breaks a rule of the module.
/// The message tells seed, cause and the last operations.
#[track_caller]
pub fn check<F, O>(seeds: impl IntoIterator<Item = u64>, body: F)
where
    F: Fn(&Run) -> O + Send + Sync + 'static,
    O: Outcome,
{
    Check::new(seeds).run(body).expect_clean();
}

/// How to run a closure for many seeds.
///
/// ```
/// use tinylsm_sim::{Check, disk::Profile};
/// let report = Check::new(0..10).profile(Profile::Kill).run(|run| {
///     run.incarnation(|| run.db("/db").open()?.put("k", "v"));
/// });
/// report.expect_clean();
/// ```
#[derive(Clone, Debug)]
#[must_use = "it checks nothing until it is run"]
pub struct Check {
    seeds: Vec<u64>,
    settings: Settings,
    threads_count: Option<usize>,
    runs_compared: usize,
    stuck_after: Duration,
}

/// What one run is told beside its seed.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) profile: Profile,
    pub(crate) faults: FaultPlan,
    pub(crate) steps_max: u64,
}

impl Check {
    /// Prepares to run each of the seeds; the variable [`SEED_VARIABLE`] of the environment replaces them by one.
    pub fn new(seeds: impl IntoIterator<Item = u64>) -> Check {
        let settings =
            Settings { profile: Profile::Worst, faults: FaultPlan::default(), steps_max: 5_000_000 };
        Check {
            seeds: seeds.into_iter().collect(),
            settings,
            threads_count: None,
            runs_compared: 3,
            stuck_after: Duration::from_secs(10),
        }
    }

    /// Sets what the disks may do when the power goes. [`Profile::Worst`]: everything that the contract of `tinylsm::vfs` allows;
    /// with [`Profile::Kill`], processes are killed and the power never goes.
    pub fn profile(mut self, profile: Profile) -> Check {
        self.settings.profile = profile;
        self
    }

    /// Sets which operations of the disks fail, and how often. None.
    pub fn faults(mut self, faults: FaultPlan) -> Check {
        self.settings.faults = faults;
        self
    }

    /// Sets after how many scheduling steps a run counts as endless. Five million.
    pub fn steps_max(mut self, steps_max: u64) -> Check {
        self.settings.steps_max = steps_max;
        self
    }

    /// Sets how many seeds run side by side. As many as the machine has cores.
    pub fn threads_count(mut self, threads_count: usize) -> Check {
        self.threads_count = Some(threads_count.max(1));
        self
    }

    /// Sets how many of the seeds run a second time, to see whether they go the same. 3.
    pub fn runs_compared(mut self, runs_compared: usize) -> Check {
        self.runs_compared = runs_compared;
        self
    }

    /// Sets after how much real time without a scheduling step a run counts as stuck. 10 s.
    pub fn stuck_after(mut self, stuck_after: Duration) -> Check {
        self.stuck_after = stuck_after;
        self
    }

    /// Runs `body` once for each seed, side by side on several threads. Never panics; ends at the first failure.
    pub fn run<F, O>(self, body: F) -> Report
    where
        F: Fn(&Run) -> O + Send + Sync + 'static,
        O: Outcome,
    {
        self.run_body(Arc::new(move |run: &Run| body(run).into_result().map(drop)))
    }

    /// Runs `body` once for each seed, one after the other, for closures that cannot be shared or that change what they have
    /// captured. What is changed makes a seed depend on those before it; a replay of that seed alone may then go differently.
    pub fn run_in_turn<F, O>(mut self, body: F) -> Report
    where
        F: FnMut(&Run) -> O + Send + 'static,
        O: Outcome,
    {
        self.threads_count = Some(1);
        let body = Mutex::new(body);
        self.run_body(Arc::new(move |run: &Run| {
            // Runs come one by one; only one that got stuck still has it.
            let mut body = body.try_lock().ok_or("an earlier run of this closure never ended")?;
            body(run).into_result().map(drop)
        }))
    }

    fn run_body(self, body: Body) -> Report {
        let runner = Runner {
            body,
            settings: self.settings,
            stuck_after: self.stuck_after,
            runs_compared: self.runs_compared,
        };
        match seed_from_environment() {
            Ok(None) => runner.run_all(&self.seeds, self.threads_count),
            Ok(Some(seed)) => runner.replay(seed),
            Err(message) => Report::of_wrong_use(message),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one variable by which users replay a run")]
fn seed_from_environment() -> Result<Option<u64>, String> {
    let Some(text) = std::env::var_os(SEED_VARIABLE) else { return Ok(None) };
    let seed = text.to_str().and_then(|text| text.trim().parse().ok());
    seed.map(Some).ok_or_else(|| format!("{SEED_VARIABLE} is {text:?}, which is no seed: give a number"))
}
