//! The question each operation of `sync` asks first: does this OS thread host a simulation?
//!
//! Owns the trait a scheduler implements ([`Host`]) and the thread-local that holds the one in charge.
//! Promises that a thread without a host pays one thread-local read and otherwise behaves as in production.
//! Knows no coroutine and no `unsafe`: those are the host's business.
//!
//! One OS thread runs all simulated threads of a run, one at a time, so what a host keeps needs no lock.
//! A lock that simulated threads share must not be used by another run or a real thread at the same time:
//! whoever waits for it would never hear of its release.

#![allow(clippy::disallowed_types, reason = "beneath the scheduler")]

use std::cell::RefCell;
use std::io;
use std::panic::Location;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
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

    /// Starts a thread and returns its number. Never suspends.
    ///
    /// # Errors
    /// The host's, if it has no thread to give.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<u64>;

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
