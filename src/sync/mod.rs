//! Threads and locks, behind one door.
//!
//! In production these are parking_lot's locks and the system's threads, with nothing in between. Under the
//! cargo feature `sim` each operation first asks whether this thread hosts a simulation (`host`), and if so
//! lets the simulator's scheduler decide who runs next.
//!
//! Rules for users: a guard's drop never yields; no lock but commit leadership and manifest install is held
//! over a Vfs call; atomics that publish something get a [`yield_point`] before and after.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Mutual exclusion without poisoning.
#[derive(Default, Debug)]
pub struct Mutex<T> {
    inner: parking_lot::Mutex<T>,
}

/// Access to what a [`Mutex`] guards.
pub struct MutexGuard<'a, T> {
    inner: parking_lot::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { inner: parking_lot::Mutex::new(value) }
    }

    /// Waits for the lock and takes it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { inner: self.inner.lock() }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        Some(MutexGuard { inner: self.inner.try_lock()? })
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Waiting for a condition on what a [`Mutex`] guards.
#[derive(Default, Debug)]
pub struct Condvar {
    inner: parking_lot::Condvar,
}

impl Condvar {
    /// Makes a condition variable that nobody waits on.
    pub const fn new() -> Condvar {
        Condvar { inner: parking_lot::Condvar::new() }
    }

    /// Gives the lock back, waits for a notification, takes the lock again. May wake without one.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.inner.wait(&mut guard.inner);
    }

    /// Waits like [`Condvar::wait`], at most `timeout`; tells whether that ran out.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        self.inner.wait_for(&mut guard.inner, timeout).timed_out()
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes every waiter.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}

/// A thread that can be waited for.
pub struct JoinHandle {
    inner: std::thread::JoinHandle<()>,
}

impl JoinHandle {
    /// Waits for the thread's end; `false` if it panicked.
    pub fn join(self) -> bool {
        self.inner.join().is_ok()
    }
}

/// Starts a thread.
///
/// # Errors
/// The system's, if it has no thread to give.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle> {
    let inner = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(JoinHandle { inner })
}

/// Lets a simulated scheduler run another thread here; nothing in production.
#[inline]
pub fn yield_point(site: &'static str) {
    let _ = site;
}
