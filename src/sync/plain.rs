//! Threads and locks as production has them: the standard library's, and nothing in between.
//!
//! Owns the thin wrappers whose shape `simulated` repeats. Everything is inlined away. Decision 0017 says why these locks:
//! their waiters wait in the kernel, in no table of the process, so a forked child finds none that is not its own.

#![allow(clippy::disallowed_types, reason = "here is where the engine's locks come from")]

use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

/// Mutual exclusion without poisoning.
#[derive(Default, Debug)]
pub struct Mutex<T> {
    inner: std::sync::Mutex<T>,
}

/// Access to what a [`Mutex`] guards.
pub struct MutexGuard<'a, T> {
    /// `None` only within a wait, which has it in its hands.
    inner: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { inner: std::sync::Mutex::new(value) }
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { inner: Some(self.inner.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.inner.try_lock() {
            Ok(guard) => Some(MutexGuard { inner: Some(guard) }),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard { inner: Some(poisoned.into_inner()) }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(HELD)
    }
}

const HELD: &str = "a guard in its user's hands holds the lock";

/// Many readers or one writer, without poisoning.
#[derive(Default, Debug)]
pub struct RwLock<T> {
    inner: std::sync::RwLock<T>,
}

/// Reading what a [`RwLock`] guards.
pub struct RwLockReadGuard<'a, T> {
    inner: std::sync::RwLockReadGuard<'a, T>,
}

/// Changing what a [`RwLock`] guards.
pub struct RwLockWriteGuard<'a, T> {
    inner: std::sync::RwLockWriteGuard<'a, T>,
}

impl<T> RwLock<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> RwLock<T> {
        RwLock { inner: std::sync::RwLock::new(value) }
    }

    /// Waits until nobody writes, and reads. A thread that reads already may wait forever behind a writer that waits.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard { inner: self.inner.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Waits until nobody reads or writes, and writes.
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard { inner: self.inner.write().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Reads if nobody writes.
    #[inline]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        match self.inner.try_read() {
            Ok(inner) => Some(RwLockReadGuard { inner }),
            Err(TryLockError::Poisoned(poisoned)) => Some(RwLockReadGuard { inner: poisoned.into_inner() }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Writes if nobody reads or writes.
    #[inline]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        match self.inner.try_write() {
            Ok(inner) => Some(RwLockWriteGuard { inner }),
            Err(TryLockError::Poisoned(poisoned)) => Some(RwLockWriteGuard { inner: poisoned.into_inner() }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Waiting for a condition on what a [`Mutex`] guards.
#[derive(Default, Debug)]
pub struct Condvar {
    inner: std::sync::Condvar,
}

impl Condvar {
    /// Makes a condition variable that nobody waits on.
    pub const fn new() -> Condvar {
        Condvar { inner: std::sync::Condvar::new() }
    }

    /// Gives the lock back, waits for a notification, takes the lock again. May wake without one.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.inner.take().expect(HELD);
        guard.inner = Some(self.inner.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits like [`Condvar::wait`], at most `timeout`; tells whether that ran out.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        let held = guard.inner.take().expect(HELD);
        let (held, end) = self.inner.wait_timeout(held, timeout).unwrap_or_else(PoisonError::into_inner);
        guard.inner = Some(held);
        end.timed_out()
    }

    /// Wakes one waiter.
    #[inline]
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes every waiter.
    #[inline]
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
#[cfg_attr(feature = "sim", allow(dead_code, reason = "simulated has its own, this one does nothing"))]
pub fn yield_point(site: &'static str) {
    let _ = site;
}
