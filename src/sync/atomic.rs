//! Atomics that tell other threads something, each access of which a simulation may interleave.
//!
//! In production they are the standard library's. Under a host every access is a scheduling point: another thread may
//! run just before it, and behind one that writes. So whatever lies between two accesses of a protocol, a simulation
//! can put another thread there, and nobody has to remember a yield point. Orderings are passed through; a simulation
//! runs one thread at a time and sees no reordering.
//!
//! [`Counter`] is for figures of which any recent value serves: its accesses are no scheduling points. Everything else that
//! the engine's threads share is here or behind a lock (clippy bans the standard library's), but for two: the block
//! cache, which may miss at any moment, and the memtable's filter, whose bits are set before what they stand for can be seen.
//!
//! An access may suspend. It must not happen while a lock that is not of this module's crate is held.

#![allow(clippy::disallowed_types, reason = "here is where the engine's atomics come from")]

use crate::sync::yield_point;
use std::sync::atomic::{self, Ordering};

/// A flag that threads decide by.
#[derive(Debug, Default)]
pub struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    /// Makes a flag.
    pub const fn new(value: bool) -> AtomicBool {
        AtomicBool(atomic::AtomicBool::new(value))
    }

    /// Returns the value.
    #[inline]
    #[must_use]
    pub fn load(&self, order: Ordering) -> bool {
        yield_point("atomic load");
        self.0.load(order)
    }

    /// Sets the value.
    #[inline]
    pub fn store(&self, value: bool, order: Ordering) {
        written(|| self.0.store(value, order));
    }

    /// Sets the value and returns the one before.
    #[inline]
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        written(|| self.0.swap(value, order))
    }

    /// Sets the value if it is `current`; the result holds the one before either way.
    ///
    /// # Errors
    /// The value, if it is another one.
    #[inline]
    pub fn compare_exchange(
        &self,
        current: bool,
        new: bool,
        (success, failure): (Ordering, Ordering),
    ) -> Result<bool, bool> {
        written(|| self.0.compare_exchange(current, new, success, failure))
    }
}

/// Makes the wrapper of one of the standard library's integers.
macro_rules! integer {
    ($name:ident, $int:ty, $what:literal) => {
        #[doc = $what]
        #[derive(Debug, Default)]
        pub struct $name(atomic::$name);

        impl $name {
            /// Makes a number.
            pub const fn new(value: $int) -> $name {
                $name(atomic::$name::new(value))
            }

            /// Returns the value.
            #[inline]
            #[must_use]
            pub fn load(&self, order: Ordering) -> $int {
                yield_point("atomic load");
                self.0.load(order)
            }

            /// Sets the value.
            #[inline]
            pub fn store(&self, value: $int, order: Ordering) {
                written(|| self.0.store(value, order));
            }

            /// Sets the value and returns the one before.
            #[inline]
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                written(|| self.0.swap(value, order))
            }

            /// Adds and returns the value before; wraps around.
            #[inline]
            pub fn fetch_add(&self, more: $int, order: Ordering) -> $int {
                written(|| self.0.fetch_add(more, order))
            }

            /// Subtracts and returns the value before; wraps around.
            #[inline]
            pub fn fetch_sub(&self, less: $int, order: Ordering) -> $int {
                written(|| self.0.fetch_sub(less, order))
            }

            /// Raises the value to `least` and returns the one before.
            #[inline]
            pub fn fetch_max(&self, least: $int, order: Ordering) -> $int {
                written(|| self.0.fetch_max(least, order))
            }

            /// Sets the value if it is `current`; the result holds the one before either way.
            ///
            /// # Errors
            /// The value, if it is another one.
            #[inline]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                (success, failure): (Ordering, Ordering),
            ) -> Result<$int, $int> {
                written(|| self.0.compare_exchange(current, new, success, failure))
            }
        }
    };
}

integer!(AtomicU8, u8, "A code that threads decide by.");
integer!(AtomicU64, u64, "A number that threads decide by.");
integer!(AtomicI64, i64, "A signed number that threads decide by.");
integer!(AtomicUsize, usize, "A count in memory that threads decide by.");

/// Makes a write between two scheduling points.
#[inline]
fn written<T>(write: impl FnOnce() -> T) -> T {
    yield_point("atomic write");
    let result = write();
    yield_point("atomic written");
    result
}

/// A figure of which any recent value serves. Its accesses are no scheduling points.
#[derive(Debug, Default)]
pub struct Counter(atomic::AtomicU64);

impl Counter {
    /// Makes a counter at a number.
    pub const fn new(count: u64) -> Counter {
        Counter(atomic::AtomicU64::new(count))
    }

    /// Counts so many more; returns how many there were.
    #[inline]
    pub fn add(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed)
    }

    /// Sets the count.
    #[inline]
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// Returns the count.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_do_what_their_names_say() {
        let order = Ordering::SeqCst;
        let number = AtomicU64::new(5);
        assert_eq!(
            (number.fetch_add(2, order), number.fetch_sub(1, order), number.fetch_max(9, order)),
            (5, 7, 6)
        );
        assert_eq!((number.swap(3, order), number.load(order)), (9, 3));
        assert_eq!(number.compare_exchange(3, 4, (order, order)), Ok(3));
        assert_eq!(number.compare_exchange(3, 5, (order, order)), Err(4));
        let flag = AtomicBool::new(false);
        assert!(!flag.swap(true, order) && flag.load(order));
        assert_eq!(flag.compare_exchange(false, true, (order, order)), Err(true));
        assert_eq!(AtomicI64::new(-1).fetch_max(3, order), -1);
        assert_eq!(AtomicUsize::new(7).swap(8, order), 7);
        let counter = Counter::new(1);
        counter.add(2);
        assert_eq!(counter.get(), 3);
    }
}
