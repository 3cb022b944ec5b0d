//! Containing a panic where it happens.
//!
//! A comparator of the caller's may panic, and so may we. Wherever others wait for what is being done (a commit group, a
//! background job), the panic ends there and becomes an error that says what panicked, so that everybody is told.

use crate::base::error::{Error, ErrorKind, Result};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body`; a panic in it becomes an `Internal` error that names `what` was going on.
///
/// The caller must not trust what `body` was changing: it turns writing off, or throws it away.
///
/// # Errors
/// What `body` returns; `Internal`.
pub fn contain<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let words = words_of(payload.as_ref()).unwrap_or("it says nothing");
        Err(Error::new(ErrorKind::Internal, format!("a panic during {what}: {words}")))
    })
}

/// Returns what a panic says.
pub(crate) fn words_of(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_says_what_panicked() {
        let error = contain::<()>("a test", || std::panic::resume_unwind(Box::new("on purpose")));
        let error = error.expect_err("it panicked");
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(error.to_string(), "a panic during a test: on purpose");
        assert_eq!(contain("a test", || Ok(7)).expect("it did not"), 7);
    }
}
