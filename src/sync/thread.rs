//! Threads for applications: the standard library's in production, scheduled inside a simulated run.
//!
//! A thread gives a value when it is joined; threads of a [`scope`] may borrow what outlives the scope.
//!
//! ```
//! use tinylsm::sync::thread;
//! let numbers = vec![1, 2, 3];
//! let (sum, count) = thread::scope(|scope| {
//!     let sum = scope.spawn(|| numbers.iter().sum::<i32>());
//!     (sum.join().expect("it does not panic"), numbers.len())
//! });
//! assert_eq!((sum, count), (6, 3));
//! assert_eq!(thread::spawn(move || numbers.len()).join().expect("it does not panic"), 3);
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here is where applications get threads from"
)]

#[cfg(feature = "sim")]
use crate::sync::host::{self, End, HostScope, WaitKey};
use crate::sync::yield_point;
#[cfg(feature = "sim")]
use std::fmt;
use std::io;
#[cfg(feature = "sim")]
use std::panic::Location;
#[cfg(feature = "sim")]
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What a joined thread gives: its value, or what it panicked with.
pub use std::thread::Result;
#[cfg(not(feature = "sim"))]
pub use std::thread::Thread;

/// Starts a thread without a name.
///
/// # Panics
/// If the system has no thread to give; [`Builder::spawn`] returns that as an error.
pub fn spawn<T, F>(body: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    Builder::new().spawn(body).expect("the system has a thread to give")
}

/// How to start a thread.
#[derive(Debug, Default)]
#[must_use = "a builder starts nothing until it is told"]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// Makes a thread without a name.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Names it, for reports.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// The system's, if it has no thread to give.
    pub fn spawn<T, F>(self, body: F) -> io::Result<JoinHandle<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        #[cfg(feature = "sim")]
        if let Some(host) = host::current() {
            let (slot, body) = slotted(body);
            let thread = host.spawn(self.name.as_deref().unwrap_or(NAMELESS), body)?;
            host.yield_point("spawn");
            let hosted = Hosted { run: host.run(), thread, slot };
            return Ok(JoinHandle { joinable: Joinable::Hosted(hosted), handle: Thread { name: self.name } });
        }
        Ok(handle(self.plain().spawn(body)?))
    }

    /// Starts it as a thread of a [`scope`].
    ///
    /// ```
    /// use tinylsm::sync::thread;
    /// let number = 6;
    /// thread::scope(|scope| {
    ///     let named = thread::Builder::new().name("doubler").spawn_scoped(&scope, || 2 * number)?;
    ///     assert_eq!(named.thread().name(), Some("doubler"));
    ///     assert_eq!(named.join().expect("it does not panic"), 12);
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's, if it has no thread to give.
    pub fn spawn_scoped<'scope, T, F>(
        self,
        scope: &Scope<'scope, '_>,
        body: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        T: Send + 'scope,
        F: FnOnce() -> T + Send + 'scope,
    {
        match scope.0 {
            Scoped::Plain(plain) => Ok(scoped_handle(self.plain().spawn_scoped(plain, body)?)),
            #[cfg(feature = "sim")]
            Scoped::Hosted(hosted) => {
                let (slot, body) = slotted(body);
                let thread = hosted.spawn(self.name.as_deref().unwrap_or(NAMELESS), body)?;
                let host = host::current().expect("a host has just started a thread");
                host.yield_point("spawn");
                let hosted = Hosted { run: host.run(), thread, slot };
                Ok(ScopedJoinHandle {
                    joinable: Joinable::Hosted(hosted),
                    handle: Thread { name: self.name },
                })
            }
        }
    }

    fn plain(self) -> thread::Builder {
        match self.name {
            Some(name) => thread::Builder::new().name(name),
            None => thread::Builder::new(),
        }
    }
}

/// A host calls such a thread by its number.
#[cfg(feature = "sim")]
const NAMELESS: &str = "";

/// Waits at least `duration`: of virtual time inside a simulated run.
pub fn sleep(duration: Duration) {
    #[cfg(feature = "sim")]
    if let Some(host) = host::current() {
        return host.sleep(duration);
    }
    thread::sleep(duration);
}

/// Lets another thread go first, if one wants to.
pub fn yield_now() {
    yield_point("yield_now");
    #[cfg(feature = "sim")]
    if host::simulated() {
        return;
    }
    thread::yield_now();
}

#[cfg(not(feature = "sim"))]
pub use std::thread::{JoinHandle, ScopedJoinHandle};

#[cfg(not(feature = "sim"))]
fn handle<T>(plain: thread::JoinHandle<T>) -> JoinHandle<T> {
    plain
}

#[cfg(not(feature = "sim"))]
fn scoped_handle<T>(plain: thread::ScopedJoinHandle<'_, T>) -> ScopedJoinHandle<'_, T> {
    plain
}

/// A thread that can be waited for. Dropping it lets the thread go on.
#[cfg(feature = "sim")]
pub struct JoinHandle<T> {
    joinable: Joinable<thread::JoinHandle<T>, T>,
    handle: Thread,
}

/// A thread of a [`scope`] that can be waited for. Dropping it leaves that to the scope.
#[cfg(feature = "sim")]
pub struct ScopedJoinHandle<'scope, T> {
    joinable: Joinable<thread::ScopedJoinHandle<'scope, T>, T>,
    handle: Thread,
}

/// What is known of a thread.
#[cfg(feature = "sim")]
#[derive(Clone, Debug)]
pub struct Thread {
    name: Option<String>,
}

#[cfg(feature = "sim")]
impl Thread {
    /// Returns its name, if it was given one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

#[cfg(feature = "sim")]
fn handle<T>(plain: thread::JoinHandle<T>) -> JoinHandle<T> {
    let handle = Thread { name: plain.thread().name().map(str::to_owned) };
    JoinHandle { joinable: Joinable::Plain(plain), handle }
}

#[cfg(feature = "sim")]
fn scoped_handle<T>(plain: thread::ScopedJoinHandle<'_, T>) -> ScopedJoinHandle<'_, T> {
    let handle = Thread { name: plain.thread().name().map(str::to_owned) };
    ScopedJoinHandle { joinable: Joinable::Plain(plain), handle }
}

#[cfg(feature = "sim")]
enum Joinable<P, T> {
    Plain(P),
    Hosted(Hosted<T>),
}

#[cfg(feature = "sim")]
impl<P, T> Joinable<P, T> {
    #[track_caller]
    fn join(self, join: impl FnOnce(P) -> Result<T>) -> Result<T> {
        match self {
            Joinable::Plain(plain) => join(plain),
            Joinable::Hosted(hosted) => hosted.join(),
        }
    }

    #[track_caller]
    fn is_finished(&self, ask: impl FnOnce(&P) -> bool) -> bool {
        match self {
            Joinable::Plain(plain) => ask(plain),
            Joinable::Hosted(hosted) => hosted.is_finished(),
        }
    }
}

/// A simulated thread's run and its number there, and where its value will be.
#[cfg(feature = "sim")]
struct Hosted<T> {
    run: u32,
    thread: u64,
    slot: Arc<Mutex<Option<T>>>,
}

#[cfg(feature = "sim")]
impl<T> Hosted<T> {
    /// Tells whether the thread has ended; a thread of a run that is over has.
    #[track_caller]
    fn is_finished(&self) -> bool {
        yield_point("is_finished");
        host::of_run(self.run, A_THREAD).is_none_or(|host| host.end_of(self.thread).is_some())
    }

    #[track_caller]
    fn join(self) -> Result<T> {
        let Some(host) = host::of_run(self.run, A_THREAD) else {
            return Err(Box::new("the simulated run of this thread is over"));
        };
        host.yield_point("join");
        let end = loop {
            match host.end_of(self.thread) {
                Some(end) => break end,
                None => host.block(WaitKey::Thread(self.thread), None, Location::caller()),
            };
        };
        let value = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (end, value) {
            (End::Returned, Some(value)) => Ok(value),
            _ => Err(Box::new("the simulated thread panicked")),
        }
    }
}

/// What a handle is called that is used by others than its run.
#[cfg(feature = "sim")]
const A_THREAD: &str = "the handle of a thread";

/// A thread's value, which its body leaves where the other end finds it.
#[cfg(feature = "sim")]
type Slotted<'a, T> = (Arc<Mutex<Option<T>>>, Box<dyn FnOnce() + Send + 'a>);

#[cfg(feature = "sim")]
fn slotted<'a, T: Send + 'a>(body: impl FnOnce() -> T + Send + 'a) -> Slotted<'a, T> {
    let slot = Arc::new(Mutex::new(None));
    let other = Arc::clone(&slot);
    let body = move || {
        let value = body();
        *other.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    };
    (slot, Box::new(body))
}

#[cfg(feature = "sim")]
impl<T> JoinHandle<T> {
    /// Waits for the thread's end and returns its value.
    ///
    /// # Errors
    /// What it panicked with. Inside a simulated run, where a panic ends the run, a text in its place; and a text if the
    /// thread is one of a simulated run that is over.
    #[track_caller]
    pub fn join(self) -> Result<T> {
        self.joinable.join(thread::JoinHandle::join)
    }

    /// Tells whether the thread's body has ended; does not wait.
    #[track_caller]
    pub fn is_finished(&self) -> bool {
        self.joinable.is_finished(thread::JoinHandle::is_finished)
    }

    /// Returns what is known of the thread.
    pub fn thread(&self) -> &Thread {
        &self.handle
    }
}

#[cfg(feature = "sim")]
impl<T> ScopedJoinHandle<'_, T> {
    /// Waits for the thread's end and returns its value.
    ///
    /// # Errors
    /// As [`JoinHandle::join`].
    #[track_caller]
    pub fn join(self) -> Result<T> {
        self.joinable.join(thread::ScopedJoinHandle::join)
    }

    /// Tells whether the thread's body has ended; does not wait.
    #[track_caller]
    pub fn is_finished(&self) -> bool {
        self.joinable.is_finished(thread::ScopedJoinHandle::is_finished)
    }

    /// Returns what is known of the thread.
    pub fn thread(&self) -> &Thread {
        &self.handle
    }
}

/// Runs `body`, which may start threads that borrow what outlives the scope, and waits for the end of all of them.
///
/// `body` gets the scope itself, where that of the standard library gets a reference: a reference that lives long enough
/// takes `unsafe`, which this crate does without. So a closure that starts further threads from one says `move`:
///
/// ```
/// use tinylsm::sync::thread;
/// let numbers = vec![1, 2, 3];
/// let numbers = &numbers;
/// thread::scope(|scope| {
///     scope.spawn(move || {
///         scope.spawn(move || assert_eq!(numbers.len(), 3));
///     });
/// });
/// ```
///
/// # Panics
/// With what `body` panics with; and, in production, if a thread panicked that nobody joined.
#[track_caller]
pub fn scope<'env, T, F>(body: F) -> T
where
    F: for<'scope> FnOnce(Scope<'scope, 'env>) -> T,
{
    #[cfg(feature = "sim")]
    if let Some(host) = host::current() {
        let (mut body, mut value) = (Some(body), None);
        let mut run = |scope: HostScope<'_, 'env>| {
            let body = body.take().expect("a host runs the body of a scope once");
            value = Some(body(Scope(Scoped::Hosted(scope))));
        };
        host.scope(&mut run, Location::caller());
        return value.expect("a host runs the body of a scope");
    }
    thread::scope(|scope| body(Scope(Scoped::Plain(scope))))
}

/// Starts threads that end before the scope does; see [`scope`]. A thread that starts others takes a copy of it along.
#[derive(Clone, Copy)]
pub struct Scope<'scope, 'env: 'scope>(Scoped<'scope, 'env>);

#[derive(Clone, Copy)]
enum Scoped<'scope, 'env: 'scope> {
    Plain(&'scope thread::Scope<'scope, 'env>),
    #[cfg(feature = "sim")]
    Hosted(HostScope<'scope, 'env>),
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a thread without a name; [`Builder::spawn_scoped`] gives it one.
    ///
    /// # Panics
    /// If the system has no thread to give.
    #[track_caller]
    pub fn spawn<T, F>(&self, body: F) -> ScopedJoinHandle<'scope, T>
    where
        T: Send + 'scope,
        F: FnOnce() -> T + Send + 'scope,
    {
        Builder::new().spawn_scoped(self, body).expect("the system has a thread to give")
    }
}

#[cfg(feature = "sim")]
impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").finish_non_exhaustive()
    }
}

#[cfg(feature = "sim")]
impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_give_values_and_tell_of_panics() {
        assert_eq!(spawn(|| 7).join().expect("it does not panic"), 7);
        let named = Builder::new().name("a name").spawn(|| thread::current().name().map(str::to_owned));
        assert_eq!(named.expect("a thread").join().expect("it does not panic").as_deref(), Some("a name"));
        let panics = spawn(|| std::panic::resume_unwind(Box::new("on purpose")));
        let payload: Result<()> = panics.join();
        assert_eq!(payload.expect_err("it panicked").downcast_ref(), Some(&"on purpose"));
    }

    #[test]
    fn threads_of_a_scope_borrow() {
        let mut numbers = vec![1, 2, 3];
        let sum = scope(|scope| {
            let nested = scope.spawn(move || scope.spawn(|| 1).join().expect("it does not panic"));
            numbers.iter().sum::<i32>() + nested.join().expect("it does not panic")
        });
        numbers.push(4);
        assert_eq!(sum, 7);
        yield_now();
    }
}
