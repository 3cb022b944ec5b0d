//! A clock for applications: the machine's in production, virtual time inside a simulated run.

#![allow(clippy::disallowed_methods, reason = "here is where applications get the machine's clocks from")]

use crate::base::time::UnixMillis;
#[cfg(feature = "sim")]
use crate::sync::host;
use std::ops::{Add, Sub};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first moment that this process asked for; others are told by what passed since.
static ORIGIN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// A moment of a clock that never goes back.
///
/// Moments of a simulated run and of the machine have nothing to do with each other.
///
/// ```
/// use std::time::Duration;
/// use tinylsm::sync::{thread, time::Instant};
/// let began = Instant::now();
/// thread::sleep(Duration::from_millis(1));
/// assert!(began.elapsed() >= Duration::from_millis(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// Returns the present moment.
    pub fn now() -> Instant {
        #[cfg(feature = "sim")]
        if let Some(host) = host::current() {
            return Instant(Duration::from_nanos(host.now()));
        }
        Instant(ORIGIN.elapsed())
    }

    /// Returns nanoseconds since a moment that means nothing, which is the same for all of a process or run.
    pub fn as_nanos(&self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns how long ago it was.
    pub fn elapsed(&self) -> Duration {
        Instant::now().duration_since(*self)
    }

    /// Returns how long it was after `earlier`; zero if it was before.
    pub fn duration_since(&self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(duration))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.duration_since(earlier)
    }
}

/// Returns the wall clock, which may jump either way in production. Inside a simulated run it begins on some day in 2026
/// and goes on with virtual time.
pub fn wall() -> UnixMillis {
    #[cfg(feature = "sim")]
    if let Some(host) = host::current() {
        return UnixMillis(host.wall_ms());
    }
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    UnixMillis(match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let began = Instant::now();
        assert!(Instant::now() >= began);
        assert_eq!(began - (began + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((began + Duration::from_secs(1)) - began, Duration::from_secs(1));
        assert!(wall().0 > 1_700_000_000_000);
    }
}
