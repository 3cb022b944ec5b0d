//! Threads that borrow from the one that started them.
//!
//! Owns the other use of `unsafe` in the simulator: a thread's body is kept as `'static`, and here bodies that borrow are
//! started all the same. Sound because the starter does not leave before they have ended, see [`start_borrowing`].

#![allow(unsafe_code, reason = "the lifetime of a borrowing body is erased; see `start_borrowing`")]

use crate::schedule::current;
use crate::schedule::scheduler::Scheduler;
use crate::schedule::strategy::ThreadId;
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use tinylsm::sync::host::{End, Host, HostScope, WaitKey};

/// Starts a thread whose body may borrow.
///
/// # Safety
/// The caller lets nothing end that the body borrows before [`Scheduler::end_of`] says that the thread has ended, but by
/// being unwound itself by the scheduler. That is allowed since the scheduler unwinds youngest first, after a failure as
/// in a dying process, and what it starts is younger than the caller: by then the thread has ended, or was left behind,
/// never to run again.
unsafe fn start_borrowing<'a>(
    scheduler: &Scheduler,
    name: &str,
    body: Box<dyn FnOnce() + 'a>,
) -> io::Result<ThreadId> {
    if scheduler.is_tearing_down() {
        return Err(io::Error::other("the run is over"));
    }
    // SAFETY: only the lifetime differs, and the caller keeps what it stands for.
    let body: Box<dyn FnOnce() + 'static> = unsafe { std::mem::transmute(body) };
    scheduler.spawn_local(name, body)
}

/// Waits for the end of a thread.
fn wait_for(scheduler: &Scheduler, thread: ThreadId, at: &'static Location<'static>) -> End {
    loop {
        match scheduler.end_of(u64::from(thread)) {
            Some(end) => return end,
            None => scheduler.block(WaitKey::Thread(u64::from(thread)), None, at),
        };
    }
}

/// Runs `body`, which may start threads that borrow, and waits for all of them, whether it returns or panics.
pub(crate) fn scope<'env>(scheduler: &Scheduler, body: &mut dyn for<'scope> FnMut(HostScope<'scope, 'env>)) {
    let (at, run) = (Location::caller(), Host::run(scheduler));
    let threads = Mutex::new(Vec::new());
    let start = |name: &str, body: Box<dyn FnOnce() + Send + '_>| {
        // Whoever has the scope may be anywhere; only threads of this run are waited for below.
        let here = current().filter(|here| Host::run(here.as_ref()) == run);
        let scheduler =
            here.ok_or_else(|| io::Error::other("a scope of a run starts threads of that run"))?;
        // SAFETY: what the body borrows outlives this function's call of the scope's body, and the function ends only
        // behind the loop below, which waits for every thread that was started.
        let thread = unsafe { start_borrowing(&scheduler, name, body) }?;
        threads.lock().push(thread);
        Ok(u64::from(thread))
    };
    let result = catch_unwind(AssertUnwindSafe(|| body(HostScope::new(&start))));
    // Threads of the scope may start further ones until the last has ended.
    let mut waited = 0;
    while let Some(thread) = { threads.lock().get(waited).copied() } {
        wait_for(scheduler, thread, at);
        waited += 1;
    }
    if let Err(payload) = result {
        resume_unwind(payload);
    }
}

/// Runs `body` as the first thread of a process, and waits for its end.
pub(crate) fn run_process<T>(
    scheduler: &Scheduler,
    process: u32,
    name: &str,
    body: impl FnOnce() -> T,
) -> Option<T> {
    let mut value = None;
    let slot = &mut value;
    let body = Box::new(move || *slot = Some(body()));
    // SAFETY: what `body` borrows outlives this call, and so does `value`; the call ends behind the wait.
    let thread = unsafe { start_borrowing(scheduler, name, body) }.expect("a run has a thread for a process");
    scheduler.with_state(|state| state.threads[thread as usize].process = process);
    wait_for(scheduler, thread, Location::caller());
    value
}
