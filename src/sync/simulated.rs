//! Threads and locks that a simulation on this OS thread may own, and plain ones everywhere else.
//!
//! Owns the variant of `plain` that asks for a [`Host`] first. Promises:
//!
//! - Without a host it is `plain`.
//! - With one, the real lock stays inside and is taken with `try_lock` only: a mistake of the scheduler can
//!   make threads wait forever, but never lets two of them into one critical section.
//! - Taking a lock is a scheduling point *before* it; releasing one never is, so a guard may drop anywhere,
//!   even while its thread unwinds. A condition's wait joins the waiters before another thread can run.
//!
//! Ids of locks and conditions are given at their first use inside a run, in an order that the schedule
//! decides, so that they are the same in every run of one seed. Such an id names its run: a real thread that uses an object of
//! a run which still goes on panics, and so does the run ([`check_foreign`]).

#![allow(clippy::disallowed_types, reason = "below the scheduler")]

use crate::sync::host::{End, Host, WaitKey, Waiters, Wake, check_foreign, current, of_run};
use crate::sync::plain;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Mutual exclusion without poisoning.
#[derive(Default, Debug)]
pub struct Mutex<T> {
    id: AtomicU64,
    inner: plain::Mutex<T>,
}

/// Access to what a [`Mutex`] guards.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only inside [`Condvar::wait`] under a host, and for good if the thread unwinds out of it.
    inner: Option<plain::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { id: AtomicU64::new(0), inner: plain::Mutex::new(value) }
    }

    /// Waits for the lock and takes it.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let Some(host) = current() else {
            check_own(&self.id, "a mutex");
            return MutexGuard { mutex: self, inner: Some(self.inner.lock()) };
        };
        host.yield_point("lock");
        let inner = self.acquire(host.as_ref(), Location::caller());
        MutexGuard { mutex: self, inner: Some(inner) }
    }

    /// Takes the lock if it is free.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let Some(host) = current() else {
            check_own(&self.id, "a mutex");
            return Some(MutexGuard { mutex: self, inner: Some(self.inner.try_lock()?) });
        };
        host.yield_point("try_lock");
        let inner = self.inner.try_lock()?;
        host.locked(host.id(&self.id), Location::caller());
        Some(MutexGuard { mutex: self, inner: Some(inner) })
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }

    /// Waits under `host` for the lock and takes it. A thread that came later may get it first.
    fn acquire(&self, host: &dyn Host, at: &'static Location<'static>) -> plain::MutexGuard<'_, T> {
        let id = host.id(&self.id);
        loop {
            if let Some(guard) = self.inner.try_lock() {
                host.locked(id, at);
                return guard;
            }
            host.block(WaitKey::Lock(id), None, at);
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("a guard in its user's hands holds the lock")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("a guard in its user's hands holds the lock")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        drop(inner);
        if let Some(host) = current() {
            host.unlocked(host.id(&self.mutex.id));
        }
    }
}

/// Checks that an object is of no run that goes on; the calling thread is of none.
#[track_caller]
fn check_own(id: &AtomicU64, what: &str) {
    // An id is the run's number above the object's.
    check_foreign((id.load(Ordering::Relaxed) >> 32) as u32, what);
}

/// Many readers or one writer, without poisoning.
#[derive(Default, Debug)]
pub struct RwLock<T> {
    id: AtomicU64,
    /// The run above how many of its threads wait to write: readers go behind these, as in production.
    waiting_writers: AtomicU64,
    inner: plain::RwLock<T>,
}

/// A thread that waits to write.
struct WaitingWriter<'a> {
    host: &'a dyn Host,
    id: u64,
    waiting_writers: &'a AtomicU64,
}

impl<'a> WaitingWriter<'a> {
    fn new(host: &'a dyn Host, id: u64, waiting_writers: &'a AtomicU64) -> WaitingWriter<'a> {
        // What a run has left behind that is over counts no more.
        let before = match waiting_writers.load(Ordering::Relaxed) {
            count if count >> 32 == id >> 32 => count,
            _ => id >> 32 << 32,
        };
        waiting_writers.store(before + 1, Ordering::Relaxed);
        WaitingWriter { host, id, waiting_writers }
    }
}

impl Drop for WaitingWriter<'_> {
    fn drop(&mut self) {
        self.waiting_writers.fetch_sub(1, Ordering::Relaxed);
        // Also where it is unwound without having written: readers may be waiting behind it.
        self.host.wake(WaitKey::Lock(self.id), Waiters::All);
    }
}

/// Reading what a [`RwLock`] guards.
pub struct RwLockReadGuard<'a, T> {
    id: &'a AtomicU64,
    /// `None` only while it drops.
    inner: Option<plain::RwLockReadGuard<'a, T>>,
}

/// Changing what a [`RwLock`] guards.
pub struct RwLockWriteGuard<'a, T> {
    id: &'a AtomicU64,
    /// `None` only while it drops.
    inner: Option<plain::RwLockWriteGuard<'a, T>>,
}

impl<T> RwLock<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> RwLock<T> {
        RwLock { id: AtomicU64::new(0), waiting_writers: AtomicU64::new(0), inner: plain::RwLock::new(value) }
    }

    /// Waits until nobody writes or waits to write, and reads. So a thread that reads already may wait forever behind a
    /// writer that waits for it.
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let Some(host) = current() else {
            check_own(&self.id, "a read-write lock");
            return RwLockReadGuard { id: &self.id, inner: Some(self.inner.read()) };
        };
        host.yield_point("read lock");
        let (id, at) = (host.id(&self.id), Location::caller());
        loop {
            if let Some(inner) = self.read_if_free(id) {
                host.locked(id, at);
                return RwLockReadGuard { id: &self.id, inner: Some(inner) };
            }
            host.block(WaitKey::Lock(id), None, at);
        }
    }

    /// Waits until nobody reads or writes, and writes.
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let Some(host) = current() else {
            check_own(&self.id, "a read-write lock");
            return RwLockWriteGuard { id: &self.id, inner: Some(self.inner.write()) };
        };
        host.yield_point("write lock");
        let (id, at) = (host.id(&self.id), Location::caller());
        let mut waiting = None;
        loop {
            if let Some(inner) = self.inner.try_write() {
                host.locked(id, at);
                return RwLockWriteGuard { id: &self.id, inner: Some(inner) };
            }
            waiting.get_or_insert_with(|| WaitingWriter::new(host.as_ref(), id, &self.waiting_writers));
            host.block(WaitKey::Lock(id), None, at);
        }
    }

    /// Reads if nobody writes or waits to write.
    #[track_caller]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        let Some(host) = current() else {
            check_own(&self.id, "a read-write lock");
            return Some(RwLockReadGuard { id: &self.id, inner: Some(self.inner.try_read()?) });
        };
        host.yield_point("try_read");
        let id = host.id(&self.id);
        let inner = self.read_if_free(id)?;
        host.locked(id, Location::caller());
        Some(RwLockReadGuard { id: &self.id, inner: Some(inner) })
    }

    /// Writes if nobody reads or writes.
    #[track_caller]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let Some(host) = current() else {
            check_own(&self.id, "a read-write lock");
            return Some(RwLockWriteGuard { id: &self.id, inner: Some(self.inner.try_write()?) });
        };
        host.yield_point("try_write");
        let inner = self.inner.try_write()?;
        host.locked(host.id(&self.id), Location::caller());
        Some(RwLockWriteGuard { id: &self.id, inner: Some(inner) })
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }

    /// Reads if no thread of the lock's run writes or waits to.
    fn read_if_free(&self, id: u64) -> Option<plain::RwLockReadGuard<'_, T>> {
        let waiting = self.waiting_writers.load(Ordering::Relaxed);
        let has_writers = waiting >> 32 == id >> 32 && waiting & u64::from(u32::MAX) > 0;
        if has_writers { None } else { self.inner.try_read() }
    }
}

/// Tells the host that a read-write lock was given back.
fn given_back(id: &AtomicU64) {
    if let Some(host) = current() {
        let id = host.id(id);
        host.unlocked(id);
        // Several readers may go on together.
        host.wake(WaitKey::Lock(id), Waiters::All);
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("a guard in its user's hands holds the lock")
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.inner.take());
        given_back(self.id);
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("a guard in its user's hands holds the lock")
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("a guard in its user's hands holds the lock")
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.inner.take());
        given_back(self.id);
    }
}

/// Waiting for a condition on what a [`Mutex`] guards.
#[derive(Default, Debug)]
pub struct Condvar {
    id: AtomicU64,
    inner: plain::Condvar,
}

impl Condvar {
    /// Makes a condition variable that nobody waits on.
    pub const fn new() -> Condvar {
        Condvar { id: AtomicU64::new(0), inner: plain::Condvar::new() }
    }

    /// Gives the lock back, waits for a notification, takes the lock again. May wake without one.
    #[track_caller]
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        match current() {
            Some(host) => {
                self.wait_hosted(host.as_ref(), guard, None, Location::caller());
            }
            None => {
                check_own(&self.id, "a condition");
                self.inner.wait(plain_guard(guard));
            }
        }
    }

    /// Waits like [`Condvar::wait`], at most `timeout`; tells whether that ran out.
    #[track_caller]
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        match current() {
            Some(host) => {
                let wake = self.wait_hosted(host.as_ref(), guard, Some(timeout), Location::caller());
                wake == Wake::TimedOut
            }
            None => {
                check_own(&self.id, "a condition");
                self.inner.wait_for(plain_guard(guard), timeout)
            }
        }
    }

    /// Wakes one waiter.
    #[track_caller]
    pub fn notify_one(&self) {
        match current() {
            Some(host) => {
                host.yield_point("notify_one");
                host.wake(WaitKey::Condvar(host.id(&self.id)), Waiters::One);
            }
            None => {
                check_own(&self.id, "a condition");
                self.inner.notify_one();
            }
        }
    }

    /// Wakes every waiter.
    #[track_caller]
    pub fn notify_all(&self) {
        match current() {
            Some(host) => {
                host.yield_point("notify_all");
                host.wake(WaitKey::Condvar(host.id(&self.id)), Waiters::All);
            }
            None => {
                check_own(&self.id, "a condition");
                self.inner.notify_all();
            }
        }
    }

    fn wait_hosted<T>(
        &self,
        host: &dyn Host,
        guard: &mut MutexGuard<'_, T>,
        timeout: Option<Duration>,
        at: &'static Location<'static>,
    ) -> Wake {
        // Whoever notifies without the lock may do so between the caller's last look and this wait.
        host.yield_point("before waiting");
        let mutex = guard.mutex;
        let id = host.id(&self.id);
        drop(guard.inner.take());
        host.unlocked(host.id(&mutex.id));
        // Nothing between release and this line suspends, so a notification cannot slip in unheard.
        let wake = host.block(WaitKey::Condvar(id), timeout, at);
        guard.inner = Some(mutex.acquire(host, at));
        wake
    }
}

/// Returns the production guard inside.
fn plain_guard<'guard, 'mutex, T>(
    guard: &'guard mut MutexGuard<'mutex, T>,
) -> &'guard mut plain::MutexGuard<'mutex, T> {
    guard.inner.as_mut().expect("a guard in its user's hands holds the lock")
}

/// A thread that can be waited for.
pub struct JoinHandle {
    inner: Joinable,
}

enum Joinable {
    Plain(plain::JoinHandle),
    Hosted {
        /// The simulated run.
        run: u32,
        /// The thread's number there.
        thread: u64,
    },
}

impl JoinHandle {
    /// Waits for the thread's end; `false` if it panicked.
    ///
    /// A simulated thread whose run is over counts as panicked.
    #[track_caller]
    pub fn join(self) -> bool {
        let (run, thread) = match self.inner {
            Joinable::Plain(handle) => return handle.join(),
            Joinable::Hosted { run, thread } => (run, thread),
        };
        let Some(host) = of_run(run, "the handle of a thread") else { return false };
        host.yield_point("join");
        loop {
            match host.end_of(thread) {
                Some(end) => return end == End::Returned,
                None => host.block(WaitKey::Thread(thread), None, Location::caller()),
            };
        }
    }
}

/// Starts a thread.
///
/// # Errors
/// The system's, if it has no thread to give.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle> {
    let Some(host) = current() else {
        return Ok(JoinHandle { inner: Joinable::Plain(plain::spawn(name, body)?) });
    };
    let thread = host.spawn(name, Box::new(body))?;
    host.yield_point("spawn");
    Ok(JoinHandle { inner: Joinable::Hosted { run: host.run(), thread } })
}

/// Lets a simulated scheduler run another thread here; nothing in production.
pub fn yield_point(site: &'static str) {
    if let Some(host) = current() {
        host.yield_point(site);
    }
}
