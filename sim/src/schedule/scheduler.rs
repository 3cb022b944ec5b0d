//! The scheduler: runs a simulation's threads, one at a time, until all have ended or something went wrong.
//!
//! Owns the fibers and the loop that resumes them, and answers the questions of `tinylsm::sync` as its
//! [`Host`]. A thread at a scheduling point decides itself who comes next, and goes on without a switch if
//! that is it; otherwise it leaves the decision for the loop and suspends.
//!
//! After a failure the threads that are left are unwound, youngest first, with the trace frozen. A thread
//! that would have to wait while it unwinds is leaked instead, and counted.
//!
//! A process may come to its end within a run ([`Scheduler::begin_dying`]). Its threads run on into errors, and since
//! nobody else runs meanwhile, one of them may even wait while it panics: what that makes the others believe, who belong
//! to the same process, does not matter any more. Panics are its end and no failure.

#![allow(clippy::disallowed_types, reason = "below the scheduler, whose own threads do not interleave")]

use crate::coroutine::{self, Ended, Fiber, Paused, Resume};
use crate::schedule::failure::Failure;
use crate::schedule::panics;
use crate::schedule::scoped;
use crate::schedule::state::{BlockedOn, Next, State};
use crate::schedule::strategy::ThreadId;
use std::cell::{Cell, RefCell};
use std::io;
use std::panic::Location;
use std::sync::atomic::AtomicU64;
use std::thread::panicking;
use std::time::Duration;
use tinylsm::sync::host::{End, Host, HostScope, WaitKey, Waiters, Wake};

/// Threads a simulation may start in all: far more than an engine needs, few enough for the stacks to fit.
const THREADS_MAX: usize = 4_096;

/// How often a thread that catches its own teardown is told again before it is leaked.
const TEARDOWN_RESUMES_MAX: u32 = 1_000;

/// How often a thread of a dying process is unwound, which may catch that and go on, before it is leaked.
const KILLS_MAX: u32 = 100;

/// Events of users are kept apart from the scheduler's own.
const EVENT_USER: u64 = 1 << 32;

/// Runs one simulation.
pub(crate) struct Scheduler {
    state: RefCell<State>,
    /// Fibers of threads that were spawned since the loop looked last, in order of their numbers.
    fresh: RefCell<Vec<Fiber>>,
    /// Threads that were left behind with all they own.
    leaked: Cell<u32>,
    /// How many looks are under way, one within another: no other thread runs until they end.
    looks: Cell<u32>,
    /// A thread of a dying process was left behind in the midst of a panic, so that nothing else may run on this OS thread.
    is_cut_short: Cell<bool>,
    /// Panics of threads that wait for others before they go on with them.
    held_panics: RefCell<Vec<(ThreadId, panics::Words)>>,
}

/// How a simulation went.
pub(crate) struct Verdict {
    pub(crate) failure: Option<Failure>,
    /// How many threads could not be unwound after the failure.
    pub(crate) leaked: u32,
    /// Whether the run ended early without having failed.
    pub(crate) is_cut_short: bool,
}

impl Scheduler {
    pub(crate) fn new(state: State) -> Scheduler {
        Scheduler {
            state: RefCell::new(state),
            fresh: RefCell::default(),
            leaked: Cell::new(0),
            looks: Cell::new(0),
            is_cut_short: Cell::new(false),
            held_panics: RefCell::default(),
        }
    }

    /// Notes what the running thread has panicked with before it waits for others. If they never come to their end, that is
    /// what they wait for.
    pub(crate) fn hold_panic(&self, words: panics::Words) {
        if let Some(thread) = self.running() {
            self.held_panics.borrow_mut().push((thread, words));
        }
    }

    /// Gives the running thread its panic back, with which it goes on now.
    pub(crate) fn release_panic(&self) {
        let mut held = self.held_panics.borrow_mut();
        if let Some(place) = held.iter().rposition(|(thread, _)| Some(*thread) == self.running()) {
            panics::put_back(held.remove(place).1);
        }
    }

    /// Returns the first panic that somebody waits with, instead of what came of it.
    fn or_held_panic(&self, state: &State, failure: Failure) -> Failure {
        let mut held = std::mem::take(&mut *self.held_panics.borrow_mut()).into_iter();
        let first = held.find(|(thread, _)| state.end_of(u64::from(*thread)).is_none());
        first.map_or(failure, |(thread, words)| panic_failure(state, thread, words, None))
    }

    /// Lets `read` look at the state.
    pub(crate) fn with_state<T>(&self, read: impl FnOnce(&mut State) -> T) -> T {
        read(&mut self.state.borrow_mut())
    }

    /// Adds a thread; it runs when it is first chosen.
    pub(crate) fn spawn_local(&self, name: &str, body: Box<dyn FnOnce()>) -> io::Result<ThreadId> {
        if self.state.borrow().threads.len() >= THREADS_MAX {
            return Err(io::Error::other("the simulation has as many threads as it may have"));
        }
        let fiber = Fiber::new(body)?;
        self.fresh.borrow_mut().push(fiber);
        Ok(self.state.borrow_mut().add_thread(name))
    }

    /// Runs every thread to its end.
    pub(crate) fn run(&self) -> Verdict {
        let mut fibers: Vec<Option<Fiber>> = Vec::new();
        let failure = self.run_until_over(&mut fibers);
        let is_cut_short = self.is_cut_short.get();
        if failure.is_some() || is_cut_short {
            self.tear_down(&mut fibers);
        }
        assert!(fibers.iter().all(Option::is_none), "no thread outlives its simulation");
        Verdict { failure, leaked: self.leaked.get(), is_cut_short }
    }

    fn run_until_over(&self, fibers: &mut Vec<Option<Fiber>>) -> Option<Failure> {
        loop {
            self.adopt(fibers);
            let mut state = self.state.borrow_mut();
            let next = match state.next.take() {
                Some(next) => next,
                None => state.decide(),
            };
            let thread = match next {
                Next::Run(thread) => thread,
                Next::Quiet | Next::Foreign => return foreign_use(&state),
                Next::Kill(thread) => {
                    drop(state);
                    let failure = self.kill(thread, &mut fibers[thread as usize]);
                    if failure.is_some() || self.is_cut_short.get() {
                        return failure;
                    }
                    continue;
                }
                Next::Deadlock => {
                    let failure = Failure::Deadlock { graph: state.wait_graph() };
                    return Some(self.or_held_panic(&state, failure));
                }
                Next::StepBound => {
                    let (steps_max, graph) = (state.steps, state.wait_graph());
                    return Some(self.or_held_panic(&state, Failure::StepBound { steps_max, graph }));
                }
            };
            state.current = Some(thread);
            drop(state);
            let slot = &mut fibers[thread as usize];
            let paused = slot.as_mut().expect("who can run has a fiber").resume(Resume::Go);
            if let Some(failure) = self.after(thread, paused, slot) {
                return Some(failure);
            }
        }
    }

    /// Unwinds a thread of a dying process that does not end by itself. It may wait while it does, as any of them.
    fn kill(&self, thread: ThreadId, slot: &mut Option<Fiber>) -> Option<Failure> {
        let mut state = self.state.borrow_mut();
        let is_left_behind = state.begin_kill(thread) > KILLS_MAX;
        let is_in_panic = state.threads[thread as usize].is_suspended_in_panic;
        if is_left_behind || is_in_panic {
            state.end_thread(thread, End::Panicked);
            state.current = None;
            *slot = None;
            self.leaked.set(self.leaked.get() + 1);
            self.is_cut_short.set(is_in_panic);
            return None;
        }
        state.current = Some(thread);
        drop(state);
        let paused = slot.as_mut().expect("who has not ended has a fiber").resume(Resume::Unwind);
        self.after(thread, paused, slot)
    }

    /// Begins the end of a process: its threads run on into errors, and nobody else runs until they have ended.
    pub(crate) fn begin_dying(&self, process: u32) {
        self.state.borrow_mut().begin_dying(process);
    }

    /// Tells whether the run is over, and its threads only unwind.
    pub(crate) fn is_tearing_down(&self) -> bool {
        self.state.borrow().tearing_down
    }

    /// Checks that the running thread could wait for another one that it lends something to.
    ///
    /// # Errors
    /// What keeps it from that.
    pub(crate) fn check_can_lend(&self) -> io::Result<()> {
        let why = match self.running() {
            _ if self.is_tearing_down() => "the run is over",
            None => "this is no thread of the run, and cannot wait for one",
            Some(_) if self.looks.get() > 0 => {
                "a look must not wait, so it starts no thread that is waited for"
            }
            Some(_) => return Ok(()),
        };
        Err(io::Error::other(why))
    }

    /// Tells whether the running thread panics and must therefore not be suspended. One of a dying process may.
    fn panics(&self, thread: ThreadId) -> bool {
        panicking() && {
            let state = self.state.borrow();
            state.tearing_down || !state.is_dying(thread)
        }
    }

    /// Suspends the running thread, which may be panicking if its process is dying.
    fn suspend(&self, thread: ThreadId) {
        self.state.borrow_mut().threads[thread as usize].is_suspended_in_panic = panicking();
        coroutine::suspend();
        self.state.borrow_mut().threads[thread as usize].is_suspended_in_panic = false;
    }

    /// Takes over the fibers of new threads.
    fn adopt(&self, fibers: &mut Vec<Option<Fiber>>) {
        let mut fresh = self.fresh.borrow_mut();
        if !fresh.is_empty() {
            fibers.extend(fresh.drain(..).map(Some));
        }
    }

    /// Draws the consequences of a fiber's pause.
    fn after(&self, thread: ThreadId, paused: Paused, slot: &mut Option<Fiber>) -> Option<Failure> {
        let mut state = self.state.borrow_mut();
        match paused {
            Paused::Parked => return None,
            Paused::Ended(Ended::Returned) => {
                *slot = None;
                state.end_thread(thread, End::Returned);
                state.current = None;
                return None;
            }
            Paused::Ended(Ended::Unwound) => {
                assert!(state.is_dying(thread), "nobody else is torn down before the run is over");
                *slot = None;
                state.end_thread(thread, End::Panicked);
                state.current = None;
                return None;
            }
            Paused::Ended(Ended::Panicked(payload)) => {
                *slot = None;
                state.end_thread(thread, End::Panicked);
                let words = panics::take(Some(payload.as_ref()));
                if state.is_dying(thread) {
                    state.current = None;
                    return None;
                }
                return Some(panic_failure(&state, thread, words, None));
            }
            Paused::Stranded => {}
        }
        *slot = None;
        self.leaked.set(self.leaked.get() + 1);
        let graph = state.wait_graph();
        let waits = graph.threads.iter().find(|waiting| waiting.thread == thread);
        let stranded = waits.and_then(|waiting| waiting.waits_for.clone());
        state.leave_behind(thread);
        Some(panic_failure(&state, thread, panics::take(None), stranded.or(Some(String::new()))))
    }

    /// Unwinds what is left of a failed simulation.
    fn tear_down(&self, fibers: &mut Vec<Option<Fiber>>) {
        self.state.borrow_mut().tearing_down = true;
        // Unwinding threads may still spawn; such a thread never starts and is unwound in a further round.
        loop {
            self.adopt(fibers);
            let Some(thread) = fibers.iter().rposition(Option::is_some) else { return };
            let fiber = fibers[thread].take().expect("rposition found it");
            let is_in_panic = {
                let mut state = self.state.borrow_mut();
                state.current = Some(thread as ThreadId);
                state.threads[thread].is_suspended_in_panic
            };
            // To unwind one that unwinds already would abort the process.
            if is_in_panic || !unwind_fiber(fiber) {
                self.leaked.set(self.leaked.get() + 1);
            }
            self.state.borrow_mut().end_thread_in_teardown(thread as ThreadId);
        }
    }

    /// Returns the running thread, if a thread may wait or give way here.
    ///
    /// `None` in the scheduler's own code, where values of threads may be dropped.
    pub(crate) fn running(&self) -> Option<ThreadId> {
        if coroutine::running() { self.state.borrow().current } else { None }
    }

    /// Waits until the state makes the running thread runnable again.
    fn wait(&self, on: BlockedOn, timeout_ns: Option<u64>, at: &'static Location<'static>) -> Wake {
        let thread = self.running().expect("the scheduler itself never waits");
        let is_over = self.is_tearing_down();
        if !is_over {
            self.state.borrow_mut().block(thread, on, timeout_ns, at);
        }
        match (self.panics(thread), is_over) {
            (true, _) => coroutine::strand(),
            (false, true) => coroutine::unwind(),
            (false, false) => self.suspend(thread),
        }
        self.state.borrow().threads[thread as usize].woken
    }

    /// Adds a user's event to the trace.
    pub(crate) fn event(&self, kind: u32, values: &[u64], text: impl FnOnce() -> String) {
        let mut state = self.state.borrow_mut();
        if state.tearing_down {
            return;
        }
        state.trace.event(EVENT_USER | u64::from(kind), values);
        if state.trace.keeps_told() {
            let (now_ns, thread) = (state.now_ns, state.current);
            state.trace.keep(now_ns, thread, text());
        }
    }

    /// Runs `look` in one step: what it does is no scheduling point, and it must not wait.
    pub(crate) fn look<T>(&self, look: impl FnOnce() -> T) -> T {
        struct Ended<'a>(&'a Cell<u32>);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.looks.set(self.looks.get() + 1);
        let _ended = Ended(&self.looks);
        look()
    }

    /// Keeps a remark beside the last event, if that is kept.
    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        let wanted = {
            let state = self.state.borrow();
            !state.tearing_down && state.trace.keeps_told()
        };
        if wanted {
            // Made before the state is borrowed: it may ask for the time.
            let text = self.look(text);
            let mut state = self.state.borrow_mut();
            let (now_ns, thread) = (state.now_ns, state.current);
            state.trace.keep(now_ns, thread, text);
        }
    }
}

/// Unwinds a fiber; `false` if it had to be leaked.
fn unwind_fiber(mut fiber: Fiber) -> bool {
    for _ in 0..TEARDOWN_RESUMES_MAX {
        match fiber.resume(Resume::Unwind) {
            Paused::Parked => {}
            Paused::Stranded => return false,
            // A destructor's panic is not news: the simulation has failed already.
            Paused::Ended(_) => return true,
        }
    }
    false
}

/// Returns the failure of a run that others have touched.
fn foreign_use(state: &State) -> Option<Failure> {
    state.live.complaints().first().map(|message| Failure::Foreign { message })
}

fn panic_failure(state: &State, thread: ThreadId, words: panics::Words, stranded: Option<String>) -> Failure {
    Failure::Panic {
        thread: state.threads[thread as usize].name.clone(),
        message: words.message,
        location: words.location,
        stranded,
    }
}

/// Virtual durations saturate: 584 years are forever.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Host for Scheduler {
    fn process_id(&self) -> u32 {
        let state = self.state.borrow();
        state.current.map_or(1, |thread| state.threads[thread as usize].process)
    }

    fn yield_point(&self, site: &'static str) {
        let Some(thread) = self.running() else { return };
        if self.panics(thread) || self.looks.get() > 0 {
            return;
        }
        if self.is_tearing_down() {
            coroutine::unwind();
        }
        let mut state = self.state.borrow_mut();
        state.threads[thread as usize].site = site;
        let next = state.decide();
        if next == Next::Run(thread) {
            return;
        }
        state.next = Some(next);
        drop(state);
        self.suspend(thread);
    }

    fn id(&self, slot: &AtomicU64) -> u64 {
        self.state.borrow_mut().id(slot)
    }

    fn block(&self, key: WaitKey, timeout: Option<Duration>, at: &'static Location<'static>) -> Wake {
        assert!(self.looks.get() == 0, "a look at {at} would have to wait");
        self.wait(BlockedOn::Key(key), timeout.map(nanoseconds), at)
    }

    fn wake(&self, key: WaitKey, waiters: Waiters) {
        let mut state = self.state.borrow_mut();
        if !state.tearing_down {
            state.wake(key, waiters);
        }
    }

    fn locked(&self, id: u64, at: &'static Location<'static>) {
        self.state.borrow_mut().locked(id, at);
    }

    fn unlocked(&self, id: u64) {
        let mut state = self.state.borrow_mut();
        if !state.tearing_down {
            state.unlocked(id);
        }
    }

    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<u64> {
        self.spawn_local(name, body).map(u64::from)
    }

    fn end_of(&self, thread: u64) -> Option<End> {
        self.state.borrow().end_of(thread)
    }

    fn sleep(&self, duration: Duration) {
        let at = Location::caller();
        let thread = self.running().expect("the scheduler itself never sleeps");
        if self.panics(thread) {
            // A sleep is never needed for what follows to be right, so a destructor's need not strand it.
            return;
        }
        let duration_ns = nanoseconds(duration);
        let mut state = self.state.borrow_mut();
        let until_ns = state.now_ns.saturating_add(duration_ns);
        let alone = !state.tearing_down && state.sleeps_alone(thread, until_ns);
        if alone {
            state.now_ns = until_ns;
        }
        drop(state);
        if alone {
            self.yield_point("sleep");
        } else {
            self.wait(BlockedOn::Sleep, Some(duration_ns), at);
        }
    }

    fn now(&self) -> u64 {
        self.state.borrow().now_ns
    }

    fn scope<'env>(
        &self,
        body: &mut dyn for<'scope> FnMut(HostScope<'scope, 'env>),
        at: &'static Location<'static>,
    ) {
        scoped::scope(self, body, at);
    }

    fn run(&self) -> u32 {
        self.state.borrow().live.number()
    }

    fn listens(&self) -> bool {
        let state = self.state.borrow();
        !state.tearing_down && state.trace.keeps_told()
    }

    fn tell(&self, line: &mut dyn FnMut() -> String) {
        self.note(line);
    }
}
