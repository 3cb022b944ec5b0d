//! Syncs of one file or directory through several handles, where a failure is final for all of them.
//!
//! When one of several syncs of the same thing fails, the system may have dropped what *all* of them were to make
//! durable, and tell only the one that asked: the next sync returns `Ok` and means nothing (`vfs`, "a failed sync").
//! So they go one at a time, and after one has failed every later one fails with the same error, until the database
//! is opened again. The simulator found this (`sim/seeds/0005-…`); docs/decisions/0006-directory-sync.md tells more.

use crate::base::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

/// Lets one sync through at a time, and none after one that failed.
#[derive(Debug, Default)]
pub struct FinalSync {
    /// Held over the sync, so that no other can return `Ok` between a failure and its being known.
    failure: Mutex<Option<Error>>,
}

impl FinalSync {
    /// Runs `sync`, unless an earlier one failed. Waits for one that is under way.
    ///
    /// A sync that could not begin ([`ErrorKind::Exhausted`]) has lost nothing, so it is no failure for the others.
    ///
    /// # Errors
    /// What this sync, or the first one that failed, met.
    pub fn run(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut failure = self.failure.lock();
        if let Some(error) = failure.as_ref() {
            return Err(error.clone());
        }
        sync().inspect_err(|error| {
            if error.kind() != ErrorKind::Exhausted {
                *failure = Some(error.clone());
            }
        })
    }

    /// Returns the failure that no later sync can mend.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_did_not_begin_is_not_final_and_one_that_failed_is() {
        let syncs = FinalSync::default();
        let fail = |kind| syncs.run(|| Err(Error::new(kind, "no"))).map_err(|error| error.kind());
        assert_eq!(fail(ErrorKind::Exhausted), Err(ErrorKind::Exhausted));
        assert!(syncs.failure().is_none());
        assert!(syncs.run(|| Ok(())).is_ok());
        assert_eq!(fail(ErrorKind::NoSpace), Err(ErrorKind::NoSpace));
        assert_eq!(syncs.run(|| Ok(())).map_err(|error| error.kind()), Err(ErrorKind::NoSpace));
    }
}
