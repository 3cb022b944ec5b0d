//! Syncs of one file or directory through several handles, where a failure is final for all of them.
//!
//! When one of several syncs of the same thing fails, the system may have dropped what *all* of them were to make
//! durable, and tell only the one that asked: the next sync returns `Ok` and means nothing (`vfs`, "a failed sync").
//! So they go one at a time, and after one has failed every later one fails with the same error, until the database
//! is opened again. The simulator found this (`sim/seeds/0005-…`); docs/decisions/0006-directory-sync.md tells more.

use crate::base::error::{Error, Result};
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
    /// # Errors
    /// What this sync, or the first one that failed, met.
    pub fn run(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut failure = self.failure.lock();
        if let Some(error) = failure.as_ref() {
            return Err(error.clone());
        }
        sync().inspect_err(|error| *failure = Some(error.clone()))
    }

    /// Returns the failure that no later sync can mend.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }
}
