//! Work that must end: a thread of its own for it, and a bound on how long a test waits.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::{Condvar, Mutex, spawn};

/// How long a call that ends at all may take, also on a busy machine that is fifty times slower than an idle one.
pub const CALL_MAX: Duration = Duration::from_secs(300);
/// How long a whole test may take; longer than a call, so that the call is named first.
const TEST_MAX: Duration = Duration::from_secs(900);
/// How long a write may wait for flush and merge in a test in which it must not be told that they take too long. Shorter
/// than a call, so that the write is named.
pub const STALL_MAX: Duration = Duration::from_secs(100);
/// How long a test watches for something that must not happen. A fault shows within a small part of it; waiting too
/// short only makes a test miss a fault, never fail without one.
pub const CHANCE: Duration = Duration::from_millis(150);

/// What a piece of work came to: its value, or the text of its panic.
pub type Outcome<T> = Result<T, String>;

/// Work that runs on a thread of its own.
pub struct Task<T> {
    what: String,
    place: Arc<Place<T>>,
}

struct Place<T> {
    outcome: Mutex<Option<Outcome<T>>>,
    has_ended: Condvar,
}

/// Starts work on a thread of its own.
pub fn start<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let place = Arc::new(Place { outcome: Mutex::new(None), has_ended: Condvar::new() });
    let result = Arc::clone(&place);
    let work = move || {
        let outcome = catch_unwind(AssertUnwindSafe(body)).map_err(|panic| text_of(panic.as_ref()));
        *result.outcome.lock() = Some(outcome);
        result.has_ended.notify_all();
    };
    spawn(what, work).expect("a test machine has threads to give");
    Task { what: what.to_owned(), place }
}

impl<T> Task<T> {
    /// Waits for the end, at most so long; tells whether it came.
    pub fn ends_within(&self, bound: Duration) -> bool {
        let mut outcome = self.place.outcome.lock();
        // Wake-ups without a cause shorten the wait, so it is taken in slices that add up.
        let slice = Duration::from_millis(5);
        let mut left = bound;
        while outcome.is_none() && left > Duration::ZERO {
            if self.place.has_ended.wait_for(&mut outcome, slice.min(left)) {
                left = left.saturating_sub(slice);
            }
        }
        outcome.is_some()
    }

    /// Waits for the end, which must come, and returns the value or the panic's text.
    #[track_caller]
    pub fn outcome(self) -> Outcome<T> {
        assert!(self.ends_within(CALL_MAX), "{} does not end", self.what);
        self.place.outcome.lock().take().expect("it has ended")
    }

    /// Waits for the end, which must come and be no panic.
    #[track_caller]
    pub fn join(self) -> T {
        let what = self.what.clone();
        self.outcome().unwrap_or_else(|text| panic!("{what} panicked: {text}"))
    }
}

/// Runs a whole test, which must end. It runs on a thread of its own, so that one that hangs, even in a destructor,
/// fails and lets the others go on.
#[track_caller]
pub fn within<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let task = start("the test", body);
    assert!(task.ends_within(TEST_MAX), "the test does not end");
    task.join()
}

/// Runs one call, which must end, and returns its value.
#[track_caller]
pub fn ends<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    start(what, body).join()
}

/// Runs one call, which must end and may panic.
#[track_caller]
pub fn ends_somehow<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
    start(what, body).outcome()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

/// A door that a test closes in front of other threads.
#[derive(Clone, Default)]
pub struct Gate {
    inner: Arc<GateInner>,
}

#[derive(Default)]
struct GateInner {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_closed: bool,
    parked_count: usize,
}

impl Gate {
    /// Parks whoever passes from now on.
    pub fn close(&self) {
        self.inner.state.lock().is_closed = true;
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.inner.state.lock().is_closed = false;
        self.inner.changed.notify_all();
    }

    /// Goes through, waiting while the gate is closed.
    pub fn pass(&self) {
        let mut state = self.inner.state.lock();
        if !state.is_closed {
            return;
        }
        state.parked_count += 1;
        self.inner.changed.notify_all();
        while state.is_closed {
            self.inner.changed.wait(&mut state);
        }
        state.parked_count -= 1;
    }

    /// Waits until somebody is parked.
    #[track_caller]
    pub fn await_parked(&self) {
        assert!(self.is_parked_within(CALL_MAX), "nobody comes to the gate");
    }

    /// Waits, at most so long, until somebody is parked; tells whether it came to that.
    pub fn is_parked_within(&self, bound: Duration) -> bool {
        let mut state = self.inner.state.lock();
        let slice = Duration::from_millis(5);
        let mut left = bound;
        while state.parked_count == 0 && left > Duration::ZERO {
            if self.inner.changed.wait_for(&mut state, slice.min(left)) {
                left = left.saturating_sub(slice);
            }
        }
        state.parked_count > 0
    }

    /// Opens the gate when the returned guard goes, so that a test that fails leaves nobody parked. Declare it behind
    /// the database, whose end waits for its threads.
    pub fn opens_at_the_end(&self) -> OpensAtTheEnd {
        OpensAtTheEnd(self.clone())
    }
}

/// Opens a gate when it goes.
pub struct OpensAtTheEnd(Gate);

impl Drop for OpensAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}
