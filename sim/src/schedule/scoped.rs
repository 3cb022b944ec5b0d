//! Threads that borrow from the one that started them.
//!
//! Owns the other use of `unsafe` in the simulator: a thread's body is kept as `'static`, and here bodies that borrow are
//! started all the same. Sound because each of them is noted in a [`Loan`], which what they borrow outlives, and which does
//! not go before they have ended:
//!
//! - whoever made the loan waits for them, whether its own body returns or panics, and starts none where it could not wait;
//! - where the scheduler unwinds the lender itself, after a failure or in a dying process, it has ended them before: it
//!   unwinds youngest first, what a loan has started is younger than the lender, and neither leaves its process;
//! - a thread that cannot be unwound is left behind: it never runs again, and what lies on its stack stays there forever;
//! - if all that is wrong some day, the loan ends the process, as nothing else would be sound.

#![allow(unsafe_code, reason = "the lifetime of a borrowing body is erased; see `Loan`")]

use crate::schedule::current;
use crate::schedule::panics;
use crate::schedule::scheduler::Scheduler;
use crate::schedule::strategy::ThreadId;
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::process::abort;
use tinylsm::sync::host::{Host, HostScope, WaitKey};

/// Threads that borrow from the running one.
struct Loan<'a> {
    scheduler: &'a Scheduler,
    lender: Option<ThreadId>,
    threads: &'a Mutex<Vec<ThreadId>>,
}

impl<'a> Loan<'a> {
    fn new(scheduler: &'a Scheduler, threads: &'a Mutex<Vec<ThreadId>>) -> Loan<'a> {
        let lender = scheduler.running();
        if let Some(lender) = lender {
            scheduler.with_state(|state| state.threads[lender as usize].loans_count += 1);
        }
        Loan { scheduler, lender, threads }
    }

    /// Waits for the end of all threads. They may start further ones until the last has ended.
    fn wait(&self, at: &'static Location<'static>) {
        let mut waited = 0;
        while let Some(thread) = { self.threads.lock().get(waited).copied() } {
            while self.scheduler.end_of(u64::from(thread)).is_none() {
                self.scheduler.block(WaitKey::Thread(u64::from(thread)), None, at);
            }
            waited += 1;
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        for thread in self.threads.lock().iter() {
            if self.scheduler.end_of(u64::from(*thread)).is_none() {
                eprintln!(
                    "the lender of thread {thread} ends before it, which the scheduler must not let happen"
                );
                abort();
            }
        }
        if let Some(lender) = self.lender {
            self.scheduler.with_state(|state| state.threads[lender as usize].loans_count -= 1);
        }
    }
}

/// Starts a thread whose body may borrow, and notes it among those of a loan.
///
/// # Safety
/// What the body borrows outlives the [`Loan`] that `threads` are those of, and that is dropped whenever its owner's frame
/// is left.
unsafe fn start_borrowing<'a>(
    scheduler: &Scheduler,
    threads: &Mutex<Vec<ThreadId>>,
    name: &str,
    body: Box<dyn FnOnce() + 'a>,
) -> io::Result<ThreadId> {
    scheduler.check_can_lend()?;
    // SAFETY: only the lifetime differs. No other thread runs before this one is noted below, and from then on the loan
    // does not go before the thread has ended: it has returned, or was unwound to its root, or is never resumed again.
    // Whichever it was, nothing uses the body any more.
    let body: Box<dyn FnOnce() + 'static> = unsafe { std::mem::transmute(body) };
    let thread = scheduler.spawn_local(name, body)?;
    scheduler.with_state(|state| state.threads[thread as usize].loans_count += 1);
    threads.lock().push(thread);
    Ok(thread)
}

/// Runs `body`, which may start threads that borrow, and waits for all of them, whether it returns or panics. `at` is the
/// line that waits.
pub(crate) fn scope<'env>(
    scheduler: &Scheduler,
    body: &mut dyn for<'scope> FnMut(HostScope<'scope, 'env>),
    at: &'static Location<'static>,
) {
    let run = Host::run(scheduler);
    let threads = Mutex::new(Vec::new());
    let loan = Loan::new(scheduler, &threads);
    let start = |name: &str, body: Box<dyn FnOnce() + Send + '_>| {
        // Whoever has the scope may be anywhere; only threads of this run are waited for below.
        let here = current().filter(|here| Host::run(here.as_ref()) == run);
        let scheduler =
            here.ok_or_else(|| io::Error::other("a scope of a run starts threads of that run"))?;
        // SAFETY: a body of a scope borrows what outlives the call of the scope's body for whatever time that takes, so
        // it outlives this function's frame, of which the loan is part.
        unsafe { start_borrowing(&scheduler, &threads, name, body) }.map(u64::from)
    };
    let result = catch_unwind(AssertUnwindSafe(|| body(HostScope::new(&start))));
    if let Err(payload) = &result {
        scheduler.hold_panic(panics::take(Some(payload.as_ref())));
    }
    loan.wait(at);
    if let Err(payload) = result {
        scheduler.release_panic();
        resume_unwind(payload);
    }
}

/// Runs `body` as the first thread of a process, and waits for its end.
#[track_caller]
pub(crate) fn run_process<T>(
    scheduler: &Scheduler,
    process: u32,
    name: &str,
    body: impl FnOnce() -> T,
) -> Option<T> {
    let mut value = None;
    let slot = &mut value;
    let body = Box::new(move || *slot = Some(body()));
    let threads = Mutex::new(Vec::new());
    let loan = Loan::new(scheduler, &threads);
    // SAFETY: what `body` borrows outlives this call, and `value` was declared before the loan.
    let thread = unsafe { start_borrowing(scheduler, &threads, name, body) };
    let thread = thread.expect("a run has a thread for a process");
    scheduler.with_state(|state| state.threads[thread as usize].process = process);
    loan.wait(Location::caller());
    drop(loan);
    value
}
