//! Threads, locks, channels and a clock that a simulator can own; for the engine and for applications.
//!
//! An application that uses these instead of the standard library's runs unchanged in production, where they are the
//! standard library's, and inside a simulated run (`tinylsm_sim::check`), where a seed decides who goes first:
//!
//! | instead of | use |
//! |---|---|
//! | `std::sync::{Mutex, RwLock, Condvar}` | [`Mutex`], [`RwLock`], [`Condvar`]; they do not poison |
//! | `std::sync::atomic` | [`atomic`] |
//! | `std::sync::mpsc` | [`mpsc`] |
//! | `std::thread::{spawn, scope, sleep, yield_now, Builder}` | [`thread`] |
//! | `std::time::{Instant, SystemTime}` | [`time`] |
//!
//! ```
//! use std::sync::Arc;
//! use tinylsm::sync::{Mutex, mpsc, thread};
//!
//! let total = Arc::new(Mutex::new(0));
//! let (sender, receiver) = mpsc::channel();
//! let adder = thread::spawn({
//!     let total = Arc::clone(&total);
//!     move || receiver.iter().for_each(|number: u64| *total.lock() += number)
//! });
//! (1..=4).for_each(|number| sender.send(number).expect("somebody listens"));
//! drop(sender);
//! adder.join().expect("it does not panic");
//! assert_eq!(*total.lock(), 10);
//! ```
//!
//! Owns every lock, wait and thread of the engine, and the question which process it runs in. In production (`plain`) these
//! are the locks and threads of the standard library, with nothing in between. Under the cargo feature `sim` (`simulated`)
//! each operation first asks whether this OS thread hosts a simulation (`host`): if so the simulator's scheduler decides who
//! runs next, and if not it behaves as in production, so that one build serves both kinds of test.
//!
//! Promises, the same in both: mutual exclusion without poisoning; a wait gives its lock back and starts to
//! listen in one step, so no notification is lost between; wake-ups may be spurious and come in any order.
//!
//! Rules for users: a guard's drop never yields; no lock but commit leadership and manifest install is held
//! over a Vfs call; atomics that a thread decides by are those of [`atomic`], whose every access is a scheduling point.
//!
//! What is not here: the engine's own sleeping and clock, which belong to [`crate::vfs::Vfs`], and the scheduler itself,
//! which lives in the crate `tinylsm-sim` because switching stacks takes `unsafe`.

pub mod atomic;
#[cfg(feature = "sim")]
pub mod host;
pub mod mpsc;
pub(crate) mod plain;
mod process;
#[cfg(feature = "sim")]
mod simulated;
pub mod thread;
pub mod time;

pub(crate) use crate::sync::process::Home;
pub use crate::sync::process::process_id;

#[cfg(not(feature = "sim"))]
pub use crate::sync::plain::{
    Condvar, JoinHandle, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, spawn, yield_point,
};
#[cfg(feature = "sim")]
pub use crate::sync::simulated::{
    Condvar, JoinHandle, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, spawn, yield_point,
};

/// Adds a line to the readable trace of a simulated run; nothing in production, where `line` is not made. While it is made,
/// nobody else runs, so it must not wait.
#[inline]
pub fn tell(line: impl FnOnce() -> String) {
    #[cfg(feature = "sim")]
    if let Some(host) = host::current()
        && host.listens()
    {
        let mut line = Some(line);
        host.tell(&mut || line.take().map(|line| line()).unwrap_or_default());
    }
    #[cfg(not(feature = "sim"))]
    drop(line);
}

#[cfg(test)]
mod tests {
    use crate::sync::{Condvar, Mutex, RwLock, spawn, thread, yield_point};
    use std::sync::Arc;
    use std::time::Duration;

    /// A number that threads raise under a lock, and a condition on it.
    #[derive(Default)]
    struct Counter {
        value: Mutex<u64>,
        raised: Condvar,
    }

    #[test]
    fn threads_outside_a_simulation_exclude_each_other() {
        let counter = Arc::new(Counter::default());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let counter = Arc::clone(&counter);
                spawn("adder", move || {
                    for _ in 0..1_000 {
                        let mut value = counter.value.lock();
                        let before = *value;
                        yield_point("between read and write");
                        *value = before + 1;
                    }
                })
                .expect("a test machine has threads to give")
            })
            .collect();
        for thread in threads {
            assert!(thread.join());
        }
        assert_eq!(*counter.value.lock(), 4_000);
    }

    #[test]
    fn a_notified_waiter_wakes() {
        let counter = Arc::new(Counter::default());
        let other = Arc::clone(&counter);
        let thread = spawn("notifier", move || {
            *other.value.lock() = 7;
            other.raised.notify_all();
        })
        .expect("a test machine has threads to give");
        let mut value = counter.value.lock();
        while *value != 7 {
            counter.raised.wait(&mut value);
        }
        drop(value);
        assert!(thread.join());
    }

    #[test]
    fn a_wait_that_nobody_ends_times_out_with_the_lock_held() {
        let counter = Counter::default();
        let mut value = counter.value.lock();
        // It may wake without a cause before.
        while !counter.raised.wait_for(&mut value, Duration::from_millis(1)) {}
        assert!(counter.value.try_lock().is_none(), "the waiter holds its lock again");
        *value = 1;
        drop(value);
        assert_eq!(counter.value.into_inner(), 1);
    }

    #[test]
    fn many_read_or_one_writes() {
        let lock = RwLock::new(1);
        let (one, two) = (lock.read(), lock.try_read());
        assert!(two.is_some_and(|two| *two == *one));
        assert!(lock.try_write().is_none());
        drop(one);
        let mut writer = lock.write();
        *writer += 1;
        assert!(lock.try_read().is_none());
        drop(writer);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| *lock.write() += 1));
            }
        });
        assert_eq!(lock.try_write().map(|value| *value), Some(402));
        assert_eq!(lock.into_inner(), 402);
    }

    #[test]
    fn join_tells_of_a_panic_and_the_lock_is_free_after_it() {
        let counter = Arc::new(Counter::default());
        let other = Arc::clone(&counter);
        let thread = spawn("panics", move || {
            let _value = other.value.lock();
            std::panic::resume_unwind(Box::new("on purpose"));
        })
        .expect("a test machine has threads to give");
        assert!(!thread.join());
        assert!(counter.value.try_lock().is_some());
    }
}
