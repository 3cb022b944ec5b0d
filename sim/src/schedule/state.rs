//! What a world knows: its threads, what they wait for, its timers and its time.
//!
//! Owns the bookkeeping behind the scheduler, as plain data: nothing here suspends or calls out, except for
//! the tape. Its laws: `runnable` holds exactly the threads whose state says so, by ascending number; a
//! blocked thread stands in at most one queue; a timer whose `wait` is not its thread's current one is dead.
//!
//! Ids of locks and conditions are `nonce << 32 | index + 1`. The nonce tells worlds apart when an object
//! outlives one; it differs from run to run and therefore goes into no hash and no text.

#![allow(clippy::disallowed_types, reason = "beneath the scheduler, whose own threads do not interleave")]

use crate::schedule::failure::{WaitGraph, WaitingThread};
use crate::schedule::strategy::{Decision, Strategy, ThreadId, View};
use crate::tape::{Label, Tape};
use crate::trace::Trace;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use tinylsm::sync::host::{End, WaitKey, Waiters, Wake};

/// Kinds of the scheduler's own events; those of users lie above.
const EVENT_RUN: u64 = 1;
const EVENT_IDLE: u64 = 2;
const EVENT_WAKE: u64 = 3;
const EVENT_END: u64 = 4;

/// One waiting in this many is also woken without cause, in worlds that have spurious wake-ups at all.
const SPURIOUS_ONE_IN: u64 = 32;

/// A spurious wake-up comes up to 2^20 ns, about two milliseconds with the spread, after the wait began.
const SPURIOUS_NS_EXPONENT_MAX: u32 = 20;

/// Names worlds apart within the process.
static NONCE: AtomicU64 = AtomicU64::new(1);

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This thread runs.
    Run(ThreadId),
    /// Every thread has ended.
    Quiet,
    /// Nobody can run, and nothing will change that.
    Deadlock,
    /// Too many steps were made.
    StepBound,
}

/// A world's state.
pub(crate) struct State {
    pub(crate) tape: Tape,
    pub(crate) trace: Trace,
    pub(crate) now_ns: u64,
    pub(crate) steps: u64,
    pub(crate) threads: Vec<Thread>,
    /// Who runs; `None` while the scheduler itself does.
    pub(crate) current: Option<ThreadId>,
    /// A decision made by the thread that then suspended.
    pub(crate) next: Option<Next>,
    /// The run is over: what is left of it only unwinds.
    pub(crate) tearing_down: bool,
    strategy: Strategy,
    runnable: Vec<ThreadId>,
    waitables: Vec<Waitable>,
    timers: BinaryHeap<Reverse<Timer>>,
    timers_made: u64,
    waits: u64,
    nonce: u64,
    steps_max: u64,
    step_ns: u64,
    spurious: bool,
}

/// One simulated thread.
pub(crate) struct Thread {
    pub(crate) name: String,
    /// The process it belongs to; a new thread belongs to that of the thread which started it.
    pub(crate) process: u32,
    /// Where it was seen last.
    pub(crate) site: &'static str,
    pub(crate) woken: Wake,
    status: Status,
    /// Counts this world's waits; tells a live timer from a dead one.
    wait: u64,
    /// Who waits for its end.
    joiners: Vec<ThreadId>,
}

#[derive(Clone, Copy)]
enum Status {
    Runnable,
    Blocked { on: BlockedOn, at: &'static Location<'static> },
    Ended(End),
}

/// What a blocked thread waits for.
#[derive(Clone, Copy)]
pub(crate) enum BlockedOn {
    Key(WaitKey),
    /// Only for time to pass.
    Sleep,
}

/// A lock or a condition.
#[derive(Default)]
struct Waitable {
    /// Who holds the lock, and which line took it.
    holder: Option<(ThreadId, &'static Location<'static>)>,
    /// Who waits, the longest first.
    waiters: Vec<ThreadId>,
}

/// Ordered by time, then by the order in which timers were set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at_ns: u64,
    number: u64,
    thread: ThreadId,
    wait: u64,
    spurious: bool,
}

impl State {
    /// Begins a world whose parameters come from the tape.
    pub(crate) fn new(tape: Tape, strategy: Strategy, trace: Trace, steps_max: u64) -> State {
        let step_ns = tape.range(Label::Schedule, 20, 500);
        let spurious = tape.chance(Label::Schedule, 1, 2);
        State {
            tape,
            trace,
            now_ns: 0,
            steps: 0,
            threads: Vec::new(),
            current: None,
            next: None,
            tearing_down: false,
            strategy,
            runnable: Vec::new(),
            waitables: Vec::new(),
            timers: BinaryHeap::new(),
            timers_made: 0,
            waits: 0,
            nonce: NONCE.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX),
            steps_max,
            step_ns,
            spurious,
        }
    }

    /// Adds a thread that can run.
    pub(crate) fn add_thread(&mut self, name: &str) -> ThreadId {
        let thread = self.threads.len() as ThreadId;
        let process = self.current.map_or(1, |thread| self.threads[thread as usize].process);
        self.threads.push(Thread {
            name: name.to_owned(),
            process,
            site: "start",
            woken: Wake::Notified,
            status: Status::Runnable,
            wait: 0,
            joiners: Vec::new(),
        });
        // The newest number is the highest, so the list stays sorted.
        self.runnable.push(thread);
        thread
    }

    /// Decides what comes next, and charges a step for it.
    pub(crate) fn decide(&mut self) -> Next {
        if self.steps >= self.steps_max {
            return Next::StepBound;
        }
        self.steps += 1;
        self.now_ns += self.step_ns;
        self.fire_due_timers();
        loop {
            if self.runnable.is_empty() {
                if !self.fire_next_timer() {
                    let all_ended =
                        self.threads.iter().all(|thread| matches!(thread.status, Status::Ended(_)));
                    return if all_ended { Next::Quiet } else { Next::Deadlock };
                }
                continue;
            }
            let current = self.current.filter(|current| self.runnable.binary_search(current).is_ok());
            let view = View {
                runnable: &self.runnable,
                current,
                threads: self.threads.len() as u32,
                step: self.steps,
                now_ns: self.now_ns,
            };
            match self.strategy.decide(&self.tape, &view) {
                Decision::Run(thread) => {
                    self.event_run(thread);
                    return Next::Run(thread);
                }
                Decision::IdleUntil(until_ns) => self.idle(until_ns),
            }
        }
    }

    fn event_run(&mut self, thread: ThreadId) {
        let count = self.runnable.len() as u64;
        self.trace.event(EVENT_RUN, &[u64::from(thread) << 32 | count, self.now_ns]);
        if self.trace.keeps() {
            let (name, site) = (&self.threads[thread as usize].name, self.threads[thread as usize].site);
            let text = format!("runs thread {thread} '{name}' from '{site}', one of {count}");
            self.trace.keep(self.now_ns, None, text);
        }
    }

    /// Lets time pass up to `until_ns`, or to the first timer if that comes earlier.
    fn idle(&mut self, until_ns: u64) {
        assert!(until_ns > self.now_ns, "idleness moves time");
        match self.timers.peek() {
            Some(Reverse(timer)) if timer.at_ns <= until_ns => {
                self.now_ns = self.now_ns.max(timer.at_ns);
                self.fire_due_timers();
            }
            _ => self.now_ns = until_ns,
        }
        self.trace.event(EVENT_IDLE, &[self.now_ns]);
        if self.trace.keeps() {
            self.trace.keep(self.now_ns, None, "idles while a starved thread could run".to_owned());
        }
    }

    /// Wakes whoever's time has come.
    fn fire_due_timers(&mut self) {
        while let Some(Reverse(timer)) = self.timers.peek()
            && timer.at_ns <= self.now_ns
        {
            let Reverse(timer) = self.timers.pop().expect("it was just seen");
            self.fire(timer);
        }
    }

    /// Moves time to the first timer that is alive and wakes its thread; `false` if that would not help.
    ///
    /// Spurious wake-ups alone do not count: they would hide a lost notification.
    fn fire_next_timer(&mut self) -> bool {
        let threads = &self.threads;
        let alive = |timer: &Timer| threads[timer.thread as usize].wait == timer.wait;
        if !self.timers.iter().any(|Reverse(timer)| !timer.spurious && alive(timer)) {
            return false;
        }
        let Some(Reverse(timer)) = self.timers.pop() else { return false };
        if self.threads[timer.thread as usize].wait == timer.wait {
            self.now_ns = self.now_ns.max(timer.at_ns);
            self.fire(timer);
        }
        true
    }

    fn fire(&mut self, timer: Timer) {
        let thread = &self.threads[timer.thread as usize];
        if thread.wait != timer.wait {
            return;
        }
        let Status::Blocked { on, .. } = thread.status else {
            unreachable!("a thread's wait number changes when it wakes");
        };
        match on {
            BlockedOn::Key(WaitKey::Lock(id) | WaitKey::Condvar(id)) => {
                let index = self.index(id);
                self.waitables[index].waiters.retain(|&waiter| waiter != timer.thread);
            }
            BlockedOn::Key(WaitKey::Thread(other)) => {
                self.threads[other as usize].joiners.retain(|&joiner| joiner != timer.thread);
            }
            BlockedOn::Sleep => {}
        }
        self.make_runnable(timer.thread, if timer.spurious { Wake::Notified } else { Wake::TimedOut });
    }

    fn make_runnable(&mut self, thread: ThreadId, wake: Wake) {
        let state = &mut self.threads[thread as usize];
        assert!(matches!(state.status, Status::Blocked { .. }), "only who waits is woken");
        state.status = Status::Runnable;
        state.woken = wake;
        state.wait = 0;
        let place = self.runnable.partition_point(|&other| other < thread);
        self.runnable.insert(place, thread);
        self.trace.event(EVENT_WAKE, &[u64::from(thread) << 1 | u64::from(wake == Wake::TimedOut)]);
        if self.trace.keeps() {
            let name = &self.threads[thread as usize].name;
            let text = format!("wakes thread {thread} '{name}': {wake:?}");
            self.trace.keep(self.now_ns, self.current, text);
        }
    }

    /// Makes `thread` wait for `on`, at most `timeout_ns`.
    pub(crate) fn block(
        &mut self,
        thread: ThreadId,
        on: BlockedOn,
        timeout_ns: Option<u64>,
        at: &'static Location<'static>,
    ) {
        self.waits += 1;
        let place = self.runnable.binary_search(&thread).expect("who runs can run");
        self.runnable.remove(place);
        let state = &mut self.threads[thread as usize];
        state.status = Status::Blocked { on, at };
        state.wait = self.waits;
        match on {
            BlockedOn::Key(WaitKey::Lock(id) | WaitKey::Condvar(id)) => {
                let index = self.index(id);
                self.waitables[index].waiters.push(thread);
            }
            BlockedOn::Key(WaitKey::Thread(other)) => self.threads[other as usize].joiners.push(thread),
            BlockedOn::Sleep => {}
        }
        if let Some(timeout_ns) = timeout_ns {
            self.set_timer(thread, timeout_ns, false);
        }
        let is_condition = matches!(on, BlockedOn::Key(WaitKey::Condvar(_)));
        if is_condition && self.spurious && self.tape.chance(Label::Schedule, 1, SPURIOUS_ONE_IN) {
            let delay_ns = self.tape.magnitude(Label::Schedule, SPURIOUS_NS_EXPONENT_MAX);
            self.set_timer(thread, delay_ns, true);
        }
    }

    fn set_timer(&mut self, thread: ThreadId, delay_ns: u64, spurious: bool) {
        self.timers_made += 1;
        self.timers.push(Reverse(Timer {
            at_ns: self.now_ns.saturating_add(delay_ns),
            number: self.timers_made,
            thread,
            wait: self.threads[thread as usize].wait,
            spurious,
        }));
    }

    /// Tells whether `thread` may sleep until `until_ns` without anybody else running before.
    pub(crate) fn sleeps_alone(&self, thread: ThreadId, until_ns: u64) -> bool {
        self.runnable == [thread] && self.timers.peek().is_none_or(|Reverse(timer)| timer.at_ns > until_ns)
    }

    /// Makes waiters of `key` runnable; which one, the tape says.
    pub(crate) fn wake(&mut self, key: WaitKey, which: Waiters) {
        let queue = match key {
            WaitKey::Lock(id) | WaitKey::Condvar(id) => {
                let index = self.index(id);
                &mut self.waitables[index].waiters
            }
            WaitKey::Thread(thread) => &mut self.threads[thread as usize].joiners,
        };
        match which {
            Waiters::All => {
                for thread in std::mem::take(queue) {
                    self.make_runnable(thread, Wake::Notified);
                }
            }
            Waiters::One if queue.is_empty() => {}
            Waiters::One => {
                let chosen = self.tape.below(Label::Schedule, queue.len() as u64) as usize;
                let thread = queue.remove(chosen);
                self.make_runnable(thread, Wake::Notified);
            }
        }
    }

    /// Notes that `thread` is over, and wakes who waited for that.
    pub(crate) fn end_thread(&mut self, thread: ThreadId, end: End) {
        let place = self.runnable.binary_search(&thread).expect("who ran to its end could run");
        self.runnable.remove(place);
        self.threads[thread as usize].status = Status::Ended(end);
        self.trace.event(EVENT_END, &[u64::from(thread)]);
        if self.trace.keeps() {
            let text = format!("thread {thread} '{}' ends", self.threads[thread as usize].name);
            self.trace.keep(self.now_ns, None, text);
        }
        self.wake(WaitKey::Thread(u64::from(thread)), Waiters::All);
    }

    /// Notes that `thread` was unwound, or left behind, after the run.
    pub(crate) fn end_thread_in_teardown(&mut self, thread: ThreadId) {
        assert!(self.tearing_down, "the run is over");
        self.threads[thread as usize].status = Status::Ended(End::Panicked);
    }

    /// Tells how `thread` ended, if it has.
    pub(crate) fn end_of(&self, thread: u64) -> Option<End> {
        match self.threads.get(thread as usize)?.status {
            Status::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Returns the id in `slot`, giving it one of this world if it has none.
    pub(crate) fn id(&mut self, slot: &AtomicU64) -> u64 {
        // One OS thread touches the slot, so no order between atomics is needed.
        let id = slot.load(Ordering::Relaxed);
        if id >> 32 == self.nonce && id != 0 {
            return id;
        }
        self.waitables.push(Waitable::default());
        let id = self.nonce << 32 | self.waitables.len() as u64;
        slot.store(id, Ordering::Relaxed);
        id
    }

    fn index(&self, id: u64) -> usize {
        assert_eq!(id >> 32, self.nonce, "an id belongs to its world");
        (id & u64::from(u32::MAX)) as usize - 1
    }

    /// Notes who holds a lock.
    pub(crate) fn locked(&mut self, id: u64, at: &'static Location<'static>) {
        let index = self.index(id);
        self.waitables[index].holder = self.current.map(|thread| (thread, at));
    }

    /// Notes that nobody holds a lock, and wakes one who waits for it.
    pub(crate) fn unlocked(&mut self, id: u64) {
        let index = self.index(id);
        self.waitables[index].holder = None;
        self.wake(WaitKey::Lock(id), Waiters::One);
    }

    /// Draws the picture of who waits for whom.
    pub(crate) fn wait_graph(&self) -> WaitGraph {
        let alive = |thread: &&(usize, &Thread)| !matches!(thread.1.status, Status::Ended(_));
        let threads = self.threads.iter().enumerate();
        let threads = threads.filter(|thread| alive(&thread)).map(|(number, thread)| {
            let (waits_for, blocked_by) = match thread.status {
                Status::Blocked { on, at } => self.describe(on, at),
                _ => (None, None),
            };
            WaitingThread {
                thread: number as ThreadId,
                name: thread.name.clone(),
                waits_for,
                blocked_by,
                last_site: thread.site,
            }
        });
        WaitGraph { threads: threads.collect() }
    }

    /// Says in words what a thread waits for, and who could end that.
    pub(crate) fn describe(
        &self,
        on: BlockedOn,
        at: &'static Location<'static>,
    ) -> (Option<String>, Option<ThreadId>) {
        let name = |thread: ThreadId| &self.threads[thread as usize].name;
        let (text, by) = match on {
            BlockedOn::Key(WaitKey::Lock(id)) => {
                let index = self.index(id);
                match self.waitables[index].holder {
                    Some((holder, taken_at)) => {
                        let name = name(holder);
                        (
                            format!("lock {index}, held by thread {holder} '{name}' since {taken_at},"),
                            Some(holder),
                        )
                    }
                    None => (format!("lock {index}, held by no simulated thread,"), None),
                }
            }
            BlockedOn::Key(WaitKey::Condvar(id)) => (format!("condition {}", self.index(id)), None),
            BlockedOn::Key(WaitKey::Thread(thread)) => {
                let thread = thread as ThreadId;
                (format!("the end of thread {thread} '{}'", name(thread)), Some(thread))
            }
            BlockedOn::Sleep => return (Some("its sleep to end".to_owned()), None),
        };
        (Some(format!("{text} at {at}")), by)
    }
}
