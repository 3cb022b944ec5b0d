//! Which process this is, cheaply enough to ask at every write.
//!
//! A child that a process forks has copies of all its handles, memory and locks, but none of its threads. Whoever
//! owns something that only one process may use remembers [`process_id`] and compares.
//!
//! How: asking the system takes a call of about 180 ns. Here the C library counts forks in the child instead
//! (`pthread_atfork`), and the id is asked for again only where one was counted, which takes about one nanosecond. A
//! process made by a bare `clone` system call, past the C library, is not noticed.

#[cfg(feature = "sim")]
use crate::sync::host;

/// The process that asked first, and its count of forks.
#[cfg(unix)]
mod first {
    use forkguard::atfork::Guard;
    use std::sync::LazyLock;

    struct First {
        id: u32,
        /// `None` where the C library refused to count.
        guard: Option<Guard>,
    }

    static FIRST: LazyLock<First> =
        LazyLock::new(|| First { id: std::process::id(), guard: Guard::try_new().ok() });

    #[inline]
    pub(super) fn process_id() -> u32 {
        match &FIRST.guard {
            // A copy answers whether there was a fork since the original was made.
            Some(guard) if !guard.clone().detected_fork() => FIRST.id,
            _ => std::process::id(),
        }
    }
}

/// Nothing forks on other systems, and asking Windows is no system call.
#[cfg(not(unix))]
mod first {
    pub(super) use std::process::id as process_id;
}

/// Returns the number of this process; another one in a forked child. In a simulation, what its host says.
#[inline]
pub fn process_id() -> u32 {
    #[cfg(feature = "sim")]
    if let Some(host) = host::current() {
        return host.process_id();
    }
    first::process_id()
}

/// Where something was made that only one process may use; in a simulation, only one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    process: u32,
    /// 0 for none.
    #[cfg(feature = "sim")]
    run: u32,
}

impl Home {
    /// Returns where the caller is.
    pub(crate) fn here() -> Home {
        Home {
            process: process_id(),
            #[cfg(feature = "sim")]
            run: host::current().map_or(0, |host| host.run()),
        }
    }

    /// Tells whether the caller is in another process than this.
    ///
    /// # Panics
    /// On a thread that is not of the simulated run which this is in; see `host::check_foreign`.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> bool {
        #[cfg(feature = "sim")]
        if self.run != 0 && !host::simulated() {
            host::check_foreign(self.run, "a database");
        }
        process_id() != self.process
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_systems() {
        assert_eq!(process_id(), std::process::id());
        assert_eq!(process_id(), std::process::id());
    }
}
