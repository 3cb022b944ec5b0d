//! What a simulation knows: its threads, what they wait for, its timers and its time.
//!
//! Owns the bookkeeping behind the scheduler, as plain data: nothing here suspends or calls out, except for
//! the tape. Its invariants: `runnable` holds exactly the threads whose state says so, by ascending number; a
//! blocked thread stands in at most one queue; a timer whose `wait` is not its thread's current one is dead.
//!
//! Ids of locks and conditions are `run << 32 | index + 1`. The run's number tells runs apart when an object
//! outlives one; it differs from run to run and therefore goes into no hash and no text.
//!
//! A *dying* process has met its end: its disk fails from now on. Until its threads have run to their ends, no others run,
//! and those that do not get there are killed, youngest first.

#![allow(clippy::disallowed_types, reason = "below the scheduler, whose own threads do not interleave")]

use crate::schedule::failure::{WaitGraph, WaitingThread};
use crate::schedule::strategy::{Decision, Strategy, ThreadId, View};
use crate::schedule::watch::Watch;
use crate::tape::{Label, Tape};
use crate::trace::Trace;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tinylsm::sync::host::{End, LiveRun, WaitKey, Waiters, Wake, check_foreign};

/// Kinds of the scheduler's own events; those of users lie above.
const EVENT_RUN: u64 = 1;
const EVENT_IDLE: u64 = 2;
const EVENT_WAKE: u64 = 3;
const EVENT_END: u64 = 4;

/// One waiting in this many is also woken without cause, in simulations that have spurious wake-ups at all.
const SPURIOUS_ONE_IN: u64 = 32;

/// A spurious wake-up comes up to 2^20 ns, about two milliseconds with the spread, after the wait began.
const SPURIOUS_NS_EXPONENT_MAX: u32 = 20;

/// Steps after which a thread of a dying process is killed: far more than it takes to run into an error.
const DYING_STEPS_MAX: u64 = 200_000;

/// How often time is moved for the threads of a dying process before one of them is killed: enough for a loop that tries
/// again a while, too little for one that works once a day to use time up.
const DYING_WAITS_MAX: u64 = 1_000;

/// The moment that never comes: who waits until then waits forever.
const NEVER_NS: u64 = u64::MAX;

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
    /// This thread of a dying process would wait forever, or run forever.
    Kill(ThreadId),
    /// Somebody else has used what is this run's.
    Foreign,
}

/// A simulation's state.
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
    dying: Option<Dying>,
    pub(crate) live: LiveRun,
    pub(crate) watch: Option<Arc<Watch>>,
    steps_max: u64,
    step_ns: u64,
    spurious: bool,
}

/// A process that is dying.
#[derive(Clone, Copy)]
struct Dying {
    process: u32,
    /// The step at which that began, or its last thread was killed.
    since: u64,
    /// How often time was moved for it since then.
    waits_count: u64,
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
    /// How often it was unwound because its process had met its end and it went on.
    kills_count: u32,
    /// In how many loans it takes part: it borrows from another thread, or lends to others (`schedule::scoped`).
    pub(crate) loans_count: u32,
    /// Some thread was panicking when this one was suspended, perhaps this one: it must not be unwound from there.
    pub(crate) is_suspended_in_panic: bool,
    /// Counts this simulation's waits; tells a live timer from a dead one.
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

type Holder = (ThreadId, &'static Location<'static>);

/// A lock or a condition.
#[derive(Default)]
struct Waitable {
    /// Who holds the lock, and which line took it.
    holder: Option<Holder>,
    /// Who else reads what it guards.
    others: Vec<Holder>,
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
    /// Begins a simulation whose parameters come from the tape.
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
            dying: None,
            live: LiveRun::begin(),
            watch: None,
            steps_max,
            step_ns,
            spurious,
        }
    }

    /// Adds a thread that can run.
    pub(crate) fn add_thread(&mut self, name: &str) -> ThreadId {
        let thread = self.threads.len() as ThreadId;
        let name = if name.is_empty() { format!("thread {thread}") } else { name.to_owned() };
        let process = self.current.map_or(1, |thread| self.threads[thread as usize].process);
        if let Some(watch) = &self.watch {
            watch.add_thread(&name);
        }
        self.threads.push(Thread {
            name,
            process,
            site: "start",
            woken: Wake::Notified,
            status: Status::Runnable,
            kills_count: 0,
            loans_count: 0,
            is_suspended_in_panic: false,
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
        if self.live.complaints().first().is_some() {
            return Next::Foreign;
        }
        self.steps += 1;
        self.now_ns = self.now_ns.saturating_add(self.step_ns);
        self.fire_due_timers();
        loop {
            self.end_dying_if_over();
            if let Some(Dying { process, since, waits_count }) = self.dying {
                let youngest =
                    self.youngest_of(process).expect("a process dies until its last thread has ended");
                let is_over = self.steps - since > DYING_STEPS_MAX || waits_count > DYING_WAITS_MAX;
                if is_over || (!self.can_go_on(process) && !self.fire_next_timer_of(process)) {
                    return Next::Kill(youngest);
                }
            }
            let of_dying = self.dying.map(|dying| self.runnable_of(dying.process));
            let runnable = of_dying.as_deref().unwrap_or(&self.runnable);
            if runnable.is_empty() {
                if !self.fire_next_timer() {
                    let all_ended =
                        self.threads.iter().all(|thread| matches!(thread.status, Status::Ended(_)));
                    return if all_ended { Next::Quiet } else { Next::Deadlock };
                }
                continue;
            }
            let current = self.current.filter(|current| runnable.binary_search(current).is_ok());
            let view = View {
                runnable,
                current,
                site: current.map_or("", |current| self.threads[current as usize].site),
                threads: self.threads.len() as u32,
                step: self.steps,
                now_ns: self.now_ns,
            };
            let (decision, count) = (self.strategy.decide(&self.tape, &view), runnable.len() as u64);
            match decision {
                Decision::Run(thread) => {
                    self.event_run(thread, count);
                    return Next::Run(thread);
                }
                Decision::IdleUntil(until_ns) => self.idle(until_ns),
            }
        }
    }

    fn runnable_of(&self, process: u32) -> Vec<ThreadId> {
        let is_of_it = |thread: &ThreadId| self.threads[*thread as usize].process == process;
        self.runnable.iter().copied().filter(is_of_it).collect()
    }

    /// Begins the end of a process, of which the running thread may be one.
    pub(crate) fn begin_dying(&mut self, process: u32) {
        if self.dying.is_none() {
            self.dying = Some(Dying { process, since: self.steps, waits_count: 0 });
        }
    }

    /// Tells whether a thread belongs to the process that is dying.
    pub(crate) fn is_dying(&self, thread: ThreadId) -> bool {
        self.dying.is_some_and(|dying| self.threads[thread as usize].process == dying.process)
    }

    fn end_dying_if_over(&mut self) {
        if self.dying.is_some_and(|dying| self.youngest_of(dying.process).is_none()) {
            self.dying = None;
        }
    }

    /// Returns the thread of a process that was started last among those that have not ended.
    fn youngest_of(&self, process: u32) -> Option<ThreadId> {
        let is_left =
            |thread: &Thread| thread.process == process && !matches!(thread.status, Status::Ended(_));
        self.threads.iter().rposition(is_left).map(|thread| thread as ThreadId)
    }

    fn can_go_on(&self, process: u32) -> bool {
        self.runnable.iter().any(|thread| self.threads[*thread as usize].process == process)
    }

    /// Moves time until a thread of `process` can run; `false` if no timer of its own will ever fire.
    fn fire_next_timer_of(&mut self, process: u32) -> bool {
        if let Some(dying) = &mut self.dying {
            dying.waits_count += 1;
        }
        while !self.can_go_on(process) {
            let threads = &self.threads;
            let is_its_own = |timer: &Timer| {
                let thread = &threads[timer.thread as usize];
                thread.process == process
                    && thread.wait == timer.wait
                    && !timer.spurious
                    && timer.at_ns < NEVER_NS
            };
            if !self.timers.iter().any(|Reverse(timer)| is_its_own(timer)) || !self.fire_next_timer() {
                return false;
            }
        }
        true
    }

    /// Makes a thread of a dying process runnable that is to be unwound; returns how often it has been.
    pub(crate) fn begin_kill(&mut self, thread: ThreadId) -> u32 {
        // Others get their time before the next one is unwound.
        self.dying = self.dying.map(|dying| Dying { since: self.steps, waits_count: 0, ..dying });
        let state = &mut self.threads[thread as usize];
        state.kills_count += 1;
        let kills_count = state.kills_count;
        if let Status::Blocked { on, .. } = state.status {
            self.leave_queue(thread, on);
            self.make_runnable(thread, Wake::Notified);
        }
        kills_count
    }

    fn event_run(&mut self, thread: ThreadId, count: u64) {
        if let Some(watch) = &self.watch {
            let state = &self.threads[thread as usize];
            watch.step(self.steps, thread, state.site);
        }
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
        let counts = |timer: &Timer| !timer.spurious && timer.at_ns < NEVER_NS && alive(timer);
        if !self.timers.iter().any(|Reverse(timer)| counts(timer)) {
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
        self.leave_queue(timer.thread, on);
        self.make_runnable(timer.thread, if timer.spurious { Wake::Notified } else { Wake::TimedOut });
    }

    /// Takes a thread out of the queue of those who wait for the same.
    fn leave_queue(&mut self, thread: ThreadId, on: BlockedOn) {
        match on {
            BlockedOn::Key(WaitKey::Lock(id) | WaitKey::Condvar(id)) => {
                let index = self.index(id);
                self.waitables[index].waiters.retain(|&waiter| waiter != thread);
            }
            BlockedOn::Key(WaitKey::Thread(other)) => {
                self.threads[other as usize].joiners.retain(|&joiner| joiner != thread);
            }
            BlockedOn::Sleep => {}
        }
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
        if let Some(watch) = &self.watch {
            watch.at(thread, at);
        }
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

    /// Notes that `thread` waits where it must not, and is never resumed. That is a failure: from now on the run only unwinds.
    pub(crate) fn leave_behind(&mut self, thread: ThreadId) {
        self.tearing_down = true;
        self.end_thread_in_teardown(thread);
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

    /// Returns the id in `slot`, giving it one of this simulation if it has none.
    pub(crate) fn id(&mut self, slot: &AtomicU64) -> u64 {
        // One OS thread touches the slot, so no order between atomics is needed.
        let id = slot.load(Ordering::Relaxed);
        let run = u64::from(self.live.number());
        if id >> 32 == run {
            return id;
        }
        check_foreign((id >> 32) as u32, "a lock or condition");
        self.waitables.push(Waitable::default());
        let id = run << 32 | self.waitables.len() as u64;
        slot.store(id, Ordering::Relaxed);
        id
    }

    fn index(&self, id: u64) -> usize {
        assert_eq!(id >> 32, u64::from(self.live.number()), "an id belongs to its simulation");
        (id & u64::from(u32::MAX)) as usize - 1
    }

    /// Notes who holds a lock, or reads what it guards.
    pub(crate) fn locked(&mut self, id: u64, at: &'static Location<'static>) {
        let index = self.index(id);
        if let (Some(watch), Some(thread)) = (&self.watch, self.current) {
            watch.at(thread, at);
        }
        let Some(thread) = self.current else { return };
        let waitable = &mut self.waitables[index];
        match waitable.holder {
            None => waitable.holder = Some((thread, at)),
            Some(_) => waitable.others.push((thread, at)),
        }
    }

    /// Notes that the running thread gave a lock back, and wakes one who waits for it.
    pub(crate) fn unlocked(&mut self, id: u64) {
        let index = self.index(id);
        let waitable = &mut self.waitables[index];
        let is_own = |holder: &Holder| Some(holder.0) == self.current;
        match waitable.others.iter().rposition(is_own) {
            Some(place) => drop(waitable.others.remove(place)),
            // A guard may have gone from one thread to another.
            None => waitable.holder = waitable.others.pop(),
        }
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
