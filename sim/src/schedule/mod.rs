//! Simulations: programs of simulated threads whose schedule and time a tape decides.
//!
//! Owns [`Simulation::run`] and what code inside a simulation may call. A simulation runs on a fresh OS thread as its only
//! thread: simulated ones are coroutines that take turns, so there is no true parallelism, and every switch
//! happens at a scheduling point (a lock, a wait, a sleep, a spawn, a [`yield_point`]). Time is virtual: it
//! passes by a fixed cost per step and by jumps to the next timer when nobody can run.
//!
//! Promises: the same tape, options and program give the same [`Trace`], on every machine and in every build.
//! A simulation ends when all its threads have; one that cannot is a [`Failure`] with a picture of who waits for
//! whom. A panic in any thread ends the simulation and is its failure; nothing is printed.
//!
//! ```
//! use std::sync::Arc;
//! use tinylsm::sync::{Mutex, spawn};
//! use tinylsm_sim::schedule::{Options, Simulation};
//! use tinylsm_sim::tape::Tape;
//!
//! let outcome = Simulation::run(Tape::from_seed(7), Options::default(), || {
//!     let total = Arc::new(Mutex::new(0));
//!     let other = Arc::clone(&total);
//!     let thread = spawn("adder", move || *other.lock() += 1).expect("a simulation has threads to give");
//!     *total.lock() += 1;
//!     thread.join();
//!     *total.lock()
//! });
//! assert_eq!(outcome.value, Some(2));
//! assert!(outcome.failure.is_none());
//! ```
//!
//! What is not here: memory reordering (atomics are as strong as the machine's), real parallelism, and code
//! that blocks in another way than through `tinylsm::sync`, which stops the whole simulation for real.

mod failure;
pub(crate) mod panics;
mod scheduler;
mod scoped;
mod state;
mod strategy;
mod watch;

pub use crate::schedule::failure::{Failure, WaitGraph, WaitingThread};
pub use crate::schedule::strategy::{StrategyKind, ThreadId};
pub use crate::schedule::watch::{Slept, Watch};

use crate::schedule::panics::Listener;
use crate::schedule::scheduler::Scheduler;
use crate::schedule::state::State;
use crate::schedule::strategy::Strategy;
use crate::tape::Tape;
use crate::trace::{Keep, Trace};
use std::cell::RefCell;
use std::io;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::host::{self, End, Host, WaitKey};

/// Steps after which a simulation counts as stuck, unless [`Options::steps_max`] says otherwise.
const STEPS_MAX: u64 = 20_000_000;

/// How a simulation is run. What is not said here, the tape decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps after which the simulation counts as stuck. Default: twenty million.
    pub steps_max: u64,
    /// The schedule's strategy; drawn from the tape if `None`, which is the default.
    pub strategy: Option<StrategyKind>,
    /// Which events the trace keeps in readable form. Default: none.
    pub keep: Keep,
    /// Who is told how far the run is. Default: nobody.
    pub watch: Option<Arc<Watch>>,
}

impl Default for Options {
    fn default() -> Options {
        Options { steps_max: STEPS_MAX, strategy: None, keep: Keep::Nothing, watch: None }
    }
}

/// How a simulation went.
#[derive(Debug)]
pub struct Outcome<R> {
    /// What `main` returned; `None` if it did not get there.
    pub value: Option<R>,
    /// Why the simulation did not end quietly; `None` if it did.
    pub failure: Option<Failure>,
    /// Everything that happened, as a fingerprint.
    pub trace: Trace,
    /// The strategy that was drawn or asked for.
    pub strategy: StrategyKind,
    /// Scheduling decisions made.
    pub steps: u64,
    /// Virtual time at the end, in nanoseconds.
    pub now_ns: u64,
    /// Threads that ran in all, `main` included.
    pub threads: u32,
    /// Threads that could not be unwound after a failure and were leaked with all they own.
    pub leaked: u32,
    /// Whether the run ended early without having failed: a process that had met its end could not be cleared away.
    pub is_cut_short: bool,
    /// The names of the threads, by number.
    pub thread_names: Vec<String>,
}

/// A program of simulated threads.
pub struct Simulation(());

impl Simulation {
    /// Runs `main` as thread 0 of a new simulation until every thread has ended, on an OS thread of its own.
    ///
    /// Inside a madsim runtime, where OS threads cannot be started, it runs on the calling one.
    ///
    /// # Panics
    /// If it is called inside a simulation, or the system has no thread to give.
    pub fn run<R, M>(tape: Tape, options: Options, main: M) -> Outcome<R>
    where
        R: Send + 'static,
        M: FnOnce() -> R + Send + 'static,
    {
        assert!(!host::simulated(), "simulations do not nest");
        #[cfg(madsim)]
        if madsim::runtime::Handle::try_current().is_ok() {
            return Simulation::run_here(tape, options, main);
        }
        // A fresh thread has fresh thread-locals, above all the keys of the standard library's hash maps.
        let thread = std::thread::Builder::new().name("simulation".to_owned());
        let thread = thread.spawn(move || Simulation::run_here(tape, options, main));
        match thread.expect("the system has a thread for a simulation").join() {
            Ok(outcome) => outcome,
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Runs a simulation like [`Simulation::run`], but on the calling OS thread, which saves starting one.
    ///
    /// For fuzzers and tight loops over small simulations. Thread-locals survive from one simulation to the next, so
    /// the run repeats itself only if nothing in it depends on them; the module
    /// `envelope` has the check.
    ///
    /// # Panics
    /// Inside a simulation, and if an earlier simulation on this OS thread leaked a thread in the midst of a panic.
    pub fn run_here<R: 'static>(
        tape: Tape,
        options: Options,
        main: impl FnOnce() -> R + 'static,
    ) -> Outcome<R> {
        assert!(!std::thread::panicking(), "a simulation begins on an OS thread that is not panicking");
        assert!(!host::simulated(), "simulations do not nest");
        let kind = options.strategy.unwrap_or_else(|| StrategyKind::draw(&tape));
        let strategy = Strategy::draw(kind, &tape);
        let mut state = State::new(tape, strategy, Trace::new(options.keep), options.steps_max);
        if let Some(watch) = &options.watch {
            watch.begin();
        }
        state.watch = options.watch.clone();
        let scheduler = Rc::new(Scheduler::new(state));
        let value = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&value);
        let main = move || {
            let returned = main();
            *slot.borrow_mut() = Some(returned);
        };
        scheduler.spawn_local("main", Box::new(main)).expect("the system has memory for a stack");

        let hosted = host::install(Rc::clone(&scheduler) as Rc<dyn Host>);
        SCHEDULER.set(Some(Rc::clone(&scheduler)));
        let listener = Listener::new();
        let verdict = scheduler.run();
        if let Some(watch) = &options.watch {
            watch.end();
        }
        drop(listener);
        SCHEDULER.set(None);
        drop(hosted);
        // Threads that were left behind may keep the scheduler.
        scheduler.with_state(|state| state.live.end());

        let value = value.borrow_mut().take();
        scheduler.with_state(|state| Outcome {
            value,
            failure: verdict.failure,
            strategy: kind,
            trace: std::mem::replace(&mut state.trace, Trace::new(Keep::Nothing)),
            steps: state.steps,
            now_ns: state.now_ns,
            threads: state.threads.len() as u32,
            leaked: verdict.leaked,
            is_cut_short: verdict.is_cut_short,
            thread_names: state.threads.iter().map(|thread| thread.name.clone()).collect(),
        })
    }
}

thread_local! {
    /// The scheduler of the simulation on this OS thread.
    static SCHEDULER: RefCell<Option<Rc<Scheduler>>> = const { RefCell::new(None) };
}

fn current() -> Option<Rc<Scheduler>> {
    // None as well while the OS thread ends, when its thread-locals are gone.
    SCHEDULER.try_with(|slot| slot.borrow().clone()).ok().flatten()
}

fn expect_current() -> Rc<Scheduler> {
    current().expect("only code inside a simulation may call this")
}

/// Starts a simulated thread, whose body need not be `Send`. `tinylsm::sync::spawn` starts one as well.
///
/// # Errors
/// If the simulation has too many threads or the system no memory for a stack.
///
/// # Panics
/// Outside a simulation.
pub fn spawn(name: &str, body: impl FnOnce() + 'static) -> io::Result<ThreadId> {
    let scheduler = expect_current();
    let thread = scheduler.spawn_local(name, Box::new(body))?;
    scheduler.yield_point("spawn");
    Ok(thread)
}

/// Waits for the end of a thread.
///
/// It needs no result: a thread that panics ends the simulation.
///
/// # Panics
/// Outside a simulation, or if there is no such thread.
#[track_caller]
pub fn join(thread: ThreadId) {
    let scheduler = expect_current();
    assert!(scheduler.with_state(|state| (thread as usize) < state.threads.len()), "no thread {thread}");
    let at = std::panic::Location::caller();
    while scheduler.end_of(u64::from(thread)).is_none() {
        scheduler.block(WaitKey::Thread(u64::from(thread)), None, at);
    }
    assert_ne!(scheduler.end_of(u64::from(thread)), Some(End::Panicked), "a panic ends the simulation");
}

/// Returns the running thread's number; `None` outside a simulation and in its scheduler.
pub fn thread_id() -> Option<ThreadId> {
    current()?.running()
}

/// Returns how many scheduling decisions were made; 0 outside a simulation.
pub fn steps() -> u64 {
    current().map_or(0, |scheduler| scheduler.with_state(|state| state.steps))
}

/// Returns the virtual time in nanoseconds since the simulation began.
///
/// # Panics
/// Outside a simulation.
pub fn now() -> u64 {
    host::now()
}

/// Lets at least `duration` of virtual time pass.
///
/// # Panics
/// Outside a simulation.
pub fn sleep(duration: Duration) {
    host::sleep(duration);
}

/// Lets another thread run here; nothing outside a simulation.
pub fn yield_point(site: &'static str) {
    tinylsm::sync::yield_point(site);
}

/// Adds an event to the simulation's trace; nothing outside a simulation. Never suspends.
///
/// `values` must not hold what differs between two runs of one tape: addresses, real time, process ids.
pub fn event(kind: u32, values: &[u64]) {
    if let Some(scheduler) = current() {
        scheduler.event(kind, values, || format!("event {kind} {values:?}"));
    }
}

/// Adds an event like [`event`], under words of its own where the trace is kept; these do not change the hash.
pub fn event_in_words(kind: u32, values: &[u64], text: impl FnOnce() -> String) {
    if let Some(scheduler) = current() {
        scheduler.event(kind, values, text);
    }
}

/// Makes the running thread part of another process, as a forked child is; what it starts belongs there too. Threads
/// begin in process 1. Returns the process it was in; nothing outside a simulation. Never suspends.
///
/// # Panics
/// If the thread borrows from another one or has lent something to one, as in a scope: it could outlive what it borrows if
/// their processes ended apart.
pub fn enter_process(process: u32) -> Option<u32> {
    let scheduler = current()?;
    let thread = scheduler.running()?;
    scheduler.with_state(|state| {
        let thread = &mut state.threads[thread as usize];
        assert!(
            thread.loans_count == 0,
            "a thread of a scope stays in its process: what they borrow ends with the process"
        );
        Some(std::mem::replace(&mut thread.process, process))
    })
}

/// Runs `body` as the only thread of a new process, and waits for its end and that of all threads it has started; returns
/// what it returned. `None` if it panicked, or was killed, after [`begin_dying`] was called for the process.
///
/// # Panics
/// Outside a simulation.
#[track_caller]
pub(crate) fn run_process<T>(process: u32, name: &str, body: impl FnOnce() -> T) -> Option<T> {
    scoped::run_process(&expect_current(), process, name, body)
}

/// Begins the end of a process: its threads run on alone, into the errors that they meet from now on, and those that do not
/// come to their end are killed. Never suspends.
pub(crate) fn begin_dying(process: u32) {
    if let Some(scheduler) = current() {
        scheduler.begin_dying(process);
    }
}

/// Returns how many events the simulation's trace has, if it keeps the last one in readable form.
pub fn events_kept() -> Option<u64> {
    current()?.with_state(|state| state.trace.keeps().then(|| state.trace.events()))
}

/// Runs `look` in one step of the calling thread: whatever it takes or reads is no scheduling point. It must not wait.
///
/// # Panics
/// If it would have to wait, for a lock that is held or for anything else.
pub fn look<T>(look: impl FnOnce() -> T) -> T {
    match current() {
        Some(scheduler) => scheduler.look(look),
        None => look(),
    }
}

/// Keeps a remark beside the last event, if the trace keeps that; the hash does not change. Never suspends.
pub fn note(text: impl FnOnce() -> String) {
    if let Some(scheduler) = current() {
        scheduler.note(text);
    }
}
