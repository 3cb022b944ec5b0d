//! The question each operation of `sync` asks first: does this OS thread host a simulation?
//!
//! Owns the trait a scheduler implements ([`Host`]) and the thread-local that holds the one in charge.
//! Promises that a thread without a host pays one thread-local read and otherwise behaves as in production.
//! Knows no coroutine and no `unsafe`: those are the host's business.
//!
//! One OS thread runs all simulated threads of a run, one at a time, so what a host keeps needs no lock.
//! A lock that simulated threads share must not be used by another run or a real thread at the same time:
//! whoever waits for it would never hear of its release.

#![allow(clippy::disallowed_types, reason = "below the scheduler")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a simulated thread waits for. Ids come from [`Host::id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKey {
    /// The release of a lock.
    Lock(u64),
    /// A notification.
    Condvar(u64),
    /// The end of a thread, by the number [`Host::spawn`] gave it.
    Thread(u64),
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody woke the waiter, or nobody did and it woke all the same.
    Notified,
    /// The timeout ran out first.
    TimedOut,
}

/// How many waiters a notification is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiters {
    /// Any one of them; the host chooses.
    One,
    /// All of them.
    All,
}

/// How a thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its body returned.
    Returned,
    /// It panicked.
    Panicked,
}

/// A scheduler that runs simulated threads on this OS thread.
///
/// A method either may run other simulated threads before it returns ("suspends") or never does; each says
/// which. No method may suspend a thread that is panicking: whether a thread panics is known per OS thread,
/// so the next one would believe that it unwinds. A panicking thread that must wait never continues.
pub trait Host {
    /// Lets another thread run here. Suspends.
    fn yield_point(&self, site: &'static str);

    /// Returns the id that `slot` holds, giving it one at its first use in this run. Never suspends.
    fn id(&self, slot: &AtomicU64) -> u64;

    /// Waits until `key` is woken or `timeout` of virtual time has passed. Suspends. The caller is among the
    /// waiters before any other thread runs. `at` is the line that waits, for reports.
    fn block(&self, key: WaitKey, timeout: Option<Duration>, at: &'static Location<'static>) -> Wake;

    /// Makes waiters of `key` runnable. Never suspends.
    fn wake(&self, key: WaitKey, waiters: Waiters);

    /// Hears that the running thread took the lock `id`. Never suspends.
    fn locked(&self, id: u64, at: &'static Location<'static>);

    /// Hears that the lock `id` is free again, and makes a waiter runnable. Never suspends.
    fn unlocked(&self, id: u64);

    /// Starts a thread and returns its number, which it is called by if `name` is empty. Never suspends.
    ///
    /// # Errors
    /// The host's, if it has no thread to give.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<u64>;

    /// Runs `body`, which may start threads that borrow what outlives this call, and waits for the end of all of them,
    /// also if it panics. Suspends. `at` is the line that waits, for reports.
    fn scope<'env>(
        &self,
        body: &mut dyn for<'scope> FnMut(HostScope<'scope, 'env>),
        at: &'static Location<'static>,
    );

    /// Tells how a thread ended; `None` while it has not. Never suspends.
    fn end_of(&self, thread: u64) -> Option<End>;

    /// Lets at least `duration` of virtual time pass. Suspends.
    fn sleep(&self, duration: Duration);

    /// Returns the virtual time in nanoseconds since the run began. Never suspends.
    fn now(&self) -> u64;

    /// Returns the number of the process that the running thread belongs to. Never suspends.
    fn process_id(&self) -> u32 {
        1
    }

    /// Returns the wall clock in unix milliseconds; it begins on some day in 2026 and goes with [`Host::now`]. Never
    /// suspends.
    fn wall_ms(&self) -> i64 {
        WALL_ORIGIN_MS + i64::try_from(self.now() / 1_000_000).unwrap_or(i64::MAX / 4)
    }

    /// Returns the number of the run. Never suspends.
    fn run(&self) -> u32;

    /// Tells whether anybody reads what [`Host::tell`] is given. Never suspends.
    fn listens(&self) -> bool {
        false
    }

    /// Takes a line for the readable trace, which it asks for once; nothing else changes. Never suspends.
    fn tell(&self, line: &mut dyn FnMut() -> String) {
        let _ = line;
    }
}

/// Where the wall clock of a simulated run begins: some day in 2026.
pub const WALL_ORIGIN_MS: i64 = 1_780_000_000_000;

/// Starts one thread of a scope: its name, and what it does.
pub type ScopedStart<'scope> =
    dyn Fn(&str, Box<dyn FnOnce() + Send + 'scope>) -> io::Result<u64> + Send + Sync + 'scope;

/// Starts threads that end before the scope does.
#[derive(Clone, Copy)]
pub struct HostScope<'scope, 'env: 'scope> {
    start: &'scope ScopedStart<'scope>,
    /// Neither lifetime may be stretched or shrunk: what the threads borrow depends on both.
    exact: PhantomData<(&'scope mut &'scope (), &'env mut &'env ())>,
}

impl<'scope, 'env: 'scope> HostScope<'scope, 'env> {
    /// Wraps what starts a thread. Whoever calls this waits for all that it has started before `'scope` ends.
    pub fn new(start: &'scope ScopedStart<'scope>) -> HostScope<'scope, 'env> {
        HostScope { start, exact: PhantomData }
    }

    /// Starts a thread and returns its number, as [`Host::spawn`] does. Never suspends.
    ///
    /// # Errors
    /// The host's, if it has no thread to give.
    pub fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send + 'scope>) -> io::Result<u64> {
        (self.start)(name, body)
    }
}

/// What the process knows of the runs that go on now, by number.
static LIVE_RUNS: Mutex<BTreeMap<u32, Arc<Complaints>>> = Mutex::new(BTreeMap::new());

/// What others have done to a run that is not theirs.
#[derive(Debug, Default)]
pub struct Complaints {
    is_there: AtomicBool,
    first: Mutex<Option<String>>,
}

impl Complaints {
    /// Returns the first complaint, if there is one.
    #[inline]
    pub fn first(&self) -> Option<String> {
        if !self.is_there.load(Ordering::Acquire) {
            return None;
        }
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, text: &str) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| text.to_owned());
        self.is_there.store(true, Ordering::Release);
    }
}

/// A run that goes on while this lives. Objects that were used in it are its own until then.
#[derive(Debug)]
pub struct LiveRun {
    number: u32,
    complaints: Arc<Complaints>,
}

impl LiveRun {
    /// Begins a run, whose number no other one of this process has.
    pub fn begin() -> LiveRun {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let complaints = Arc::new(Complaints::default());
        let mut live = LIVE_RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(number, Arc::clone(&complaints));
        LiveRun { number, complaints }
    }

    /// Returns its number; never 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns what others have done to it.
    pub fn complaints(&self) -> &Arc<Complaints> {
        &self.complaints
    }
}

impl LiveRun {
    /// Ends it: what was used in it may be used by others from now on.
    pub fn end(&self) {
        LIVE_RUNS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Drop for LiveRun {
    fn drop(&mut self) {
        self.end();
    }
}

/// Checks that `run`, to which the object that a thread is about to use belongs, is over; 0 is no run. The calling
/// thread is of no run, or of another one.
///
/// # Panics
/// If the run goes on: it is told, and fails as well. A thread that panics already is left alone.
#[track_caller]
pub fn check_foreign(run: u32, what: &str) {
    if run == 0 {
        return;
    }
    let live = LIVE_RUNS.lock().unwrap_or_else(PoisonError::into_inner).get(&run).cloned();
    let Some(complaints) = live else { return };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name").to_owned();
    let (who, advice) = match simulated() {
        true => (
            "another simulated run".to_owned(),
            "two runs at once share it, perhaps through a static; make one for each run",
        ),
        false => (
            format!("the thread {name:?} of the operating system"),
            "start threads with tinylsm::sync::thread::spawn, which a run can schedule, instead of std::thread",
        ),
    };
    let text = format!("{who} used {what} of a simulated run at {}: {advice}", Location::caller());
    complaints.add(&text);
    if !std::thread::panicking() {
        std::panic::panic_any(text);
    }
}

thread_local! {
    static HOST: RefCell<Option<Rc<dyn Host>>> = const { RefCell::new(None) };
}

/// Keeps a host in charge of this OS thread while it lives.
#[must_use = "the host is in charge only while this lives"]
pub struct Installed {
    /// Ties the value to its OS thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

/// Puts `host` in charge of this OS thread until the returned guard drops.
///
/// # Panics
/// If another host is in charge already.
pub fn install(host: Rc<dyn Host>) -> Installed {
    HOST.with_borrow_mut(|slot| {
        assert!(slot.is_none(), "this OS thread hosts a simulation already");
        *slot = Some(host);
    });
    Installed { _not_send: std::marker::PhantomData }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // The host is dropped after the borrow ends: what it owns may ask for the host while it goes.
        let host = HOST.with_borrow_mut(Option::take);
        drop(host);
    }
}

/// Returns the host in charge of this OS thread.
///
/// `None` also while the OS thread itself ends, when its thread-locals are gone.
#[inline]
pub fn current() -> Option<Rc<dyn Host>> {
    HOST.try_with(|slot| slot.borrow().clone()).ok().flatten()
}

/// Returns the host in charge of this OS thread if its run is the one that an object, called `what`, belongs to; `None`
/// if that run is over.
///
/// # Panics
/// As [`check_foreign`], if that run goes on and is not this thread's.
#[track_caller]
pub fn of_run(run: u32, what: &str) -> Option<Rc<dyn Host>> {
    let host = current().filter(|host| host.run() == run);
    if host.is_none() {
        check_foreign(run, what);
    }
    host
}

/// Tells whether this OS thread hosts a simulation.
#[inline]
pub fn simulated() -> bool {
    HOST.try_with(|slot| slot.borrow().is_some()).unwrap_or(false)
}

/// Lets at least `duration` of virtual time pass for the calling simulated thread.
///
/// # Panics
/// Outside a simulation; ask [`simulated`] first.
pub fn sleep(duration: Duration) {
    current().expect("only a simulated thread sleeps in virtual time").sleep(duration);
}

/// Returns the virtual time in nanoseconds since the run began.
///
/// # Panics
/// Outside a simulation; ask [`simulated`] first.
pub fn now() -> u64 {
    current().expect("only a simulation has virtual time").now()
}
