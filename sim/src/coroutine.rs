//! Stacks for simulated threads, and the switch between them.
//!
//! Owns the one use of `unsafe` in the simulator: suspending the running coroutine from deep inside code that
//! was never handed its yielder (a lock in the engine, say), through a pointer in a thread-local. Why
//! coroutines, why this pointer, and what stands in for Miri, is docs/decisions/0002-stackful-coroutines.md.
//!
//! Promises: a [`Fiber`] runs only inside [`Fiber::resume`], on the OS thread that created it; a panic in its
//! body ends at its root and becomes an [`Ended`]; a fiber dropped before its end is leaked with its stack and
//! everything on it, never unwound behind its owner's back.
//!
//! ```text
//! scheduler  ── resume(Go) ──▶ body runs ── suspend() ──▶ scheduler ── resume(Go) ──▶ suspend returns
//!            ── resume(Unwind) ──▶ suspend throws `Teardown`, destructors run, the root catches it
//!                                  body waits while it unwinds ── strand() ──▶ never resumed, leaked
//! ```
//!
//! Does not know threads, time or locks.

#![allow(
    unsafe_code,
    reason = "the suspend pointer is the mechanism of simulated threads; docs/decisions/0002-stackful-coroutines.md"
)]

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use parking_lot::Mutex;
use std::any::Any;
use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

/// Bytes of a simulated thread's stack. Debug builds keep many more temporaries on it.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 1 << 20 } else { 256 << 10 };

/// Stacks kept for later simulations: more than the threads of a few simulations at once, less than 1 GiB mapped.
const POOLED_STACKS_MAX: usize = 512;

/// Stacks whose fibers ended. Mapping one costs as much as hundreds of switches.
static POOL: Mutex<Vec<DefaultStack>> = Mutex::new(Vec::new());

/// How a fiber is told to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// To run.
    Go,
    /// To unwind from where it is suspended, running destructors.
    Unwind,
}

/// Why [`Fiber::resume`] returned.
pub(crate) enum Paused {
    /// The body suspended and may be resumed.
    Parked,
    /// The body must wait while it unwinds, and must not be resumed.
    Stranded,
    /// The body is over, and so is the fiber.
    Ended(Ended),
}

/// How a body ended.
pub(crate) enum Ended {
    /// It returned.
    Returned,
    /// It panicked, with this payload.
    Panicked(Box<dyn Any + Send>),
    /// It was unwound by [`Resume::Unwind`].
    Unwound,
}

/// What a suspended body tells its resumer.
enum Pause {
    Parked,
    Stranded,
}

/// The payload that unwinds a fiber; not a panic, so no hook hears of it.
struct Teardown;

type Suspender = Yielder<Resume, Pause>;

thread_local! {
    /// The suspender of the fiber that runs on this OS thread; null while none does.
    static RUNNING: Cell<*const Suspender> = const { Cell::new(ptr::null()) };
}

/// A body with a stack of its own.
pub(crate) struct Fiber {
    coroutine: ManuallyDrop<Coroutine<Resume, Pause, Ended, DefaultStack>>,
    over: bool,
}

impl Fiber {
    /// Makes a fiber that will run `body` when first resumed.
    ///
    /// # Errors
    /// The system's, if it has no memory for a stack.
    pub(crate) fn new(body: Box<dyn FnOnce()>) -> io::Result<Fiber> {
        let pooled = POOL.lock().pop();
        let stack = match pooled {
            Some(stack) => stack,
            None => DefaultStack::new(STACK_BYTES)?,
        };
        let coroutine = Coroutine::with_stack(stack, move |suspender: &Suspender, first| match first {
            Resume::Go => run_body(suspender, body),
            // Never started: what the body owns is dropped here, as a body of its own.
            Resume::Unwind => match run_body(suspender, Box::new(move || drop(body))) {
                Ended::Returned => Ended::Unwound,
                ended => ended,
            },
        });
        Ok(Fiber { coroutine: ManuallyDrop::new(coroutine), over: false })
    }

    /// Runs the body until it suspends, ends, or is stranded.
    ///
    /// # Panics
    /// If it is called from inside a fiber, or the fiber is over.
    pub(crate) fn resume(&mut self, how: Resume) -> Paused {
        assert!(!running(), "fibers are resumed by the scheduler, not by each other");
        assert!(!self.over, "what is over cannot go on");
        match self.coroutine.resume(how) {
            CoroutineResult::Yield(Pause::Parked) => Paused::Parked,
            CoroutineResult::Yield(Pause::Stranded) => {
                self.over = true;
                Paused::Stranded
            }
            CoroutineResult::Return(ended) => {
                self.over = true;
                self.recycle();
                Paused::Ended(ended)
            }
        }
    }

    /// Gives the stack of an ended fiber back to the pool.
    fn recycle(&mut self) {
        assert!(self.coroutine.done(), "a stack in use is not given away");
        // SAFETY: `coroutine` is taken once: `resume` calls this when the body returned, sets `over` before,
        // and refuses to run when `over` is set; nothing else touches `coroutine` afterwards, and a
        // `ManuallyDrop` is not dropped on its own.
        let coroutine = unsafe { ManuallyDrop::take(&mut self.coroutine) };
        let stack = coroutine.into_stack();
        let mut pool = POOL.lock();
        if pool.len() < POOLED_STACKS_MAX {
            pool.push(stack);
        }
    }
}

/// Runs `body` as the running fiber of this OS thread, and tells how it ended.
fn run_body(suspender: &Suspender, body: Box<dyn FnOnce()>) -> Ended {
    RUNNING.set(ptr::from_ref(suspender));
    let result = catch_unwind(AssertUnwindSafe(body));
    RUNNING.set(ptr::null());
    match result {
        Ok(()) => Ended::Returned,
        Err(payload) if payload.is::<Teardown>() => Ended::Unwound,
        Err(payload) => Ended::Panicked(payload),
    }
}

/// Tells whether the caller runs inside a fiber.
#[inline]
pub(crate) fn running() -> bool {
    !RUNNING.get().is_null()
}

/// Suspends the running fiber until it is resumed.
///
/// Unwinds instead of returning if it is resumed with [`Resume::Unwind`].
///
/// # Panics
/// Outside a fiber.
#[inline]
pub(crate) fn suspend() {
    if switch(Pause::Parked) == Resume::Unwind {
        unwind();
    }
}

/// Suspends the running fiber for good.
///
/// # Panics
/// Outside a fiber.
pub(crate) fn strand() -> ! {
    switch(Pause::Stranded);
    unreachable!("Fiber::resume refuses to resume a stranded fiber");
}

/// Unwinds the running fiber to its root.
pub(crate) fn unwind() -> ! {
    resume_unwind(Box::new(Teardown))
}

fn switch(pause: Pause) -> Resume {
    let suspender = RUNNING.replace(ptr::null());
    assert!(!suspender.is_null(), "only a simulated thread can be suspended");
    // SAFETY: `RUNNING` is not null exactly while a body runs on this OS thread, and then points to that
    // body's own suspender: `run_body` stores it before the body starts and clears it after the body returned
    // or unwound; this function clears it before control leaves the body and stores it back when control is
    // here again. No other code writes it. The suspender is borrowed by `run_body` for its whole call, at a
    // fixed place at the base of the fiber's stack, which is not unmapped before the coroutine is done. A
    // coroutine is not `Send` and the pointer is thread-local, so the OS thread is the right one. Fibers do
    // not nest (`resume` asserts it), so the body whose suspender this is is the code that calls us.
    let resume = unsafe { (*suspender).suspend(pause) };
    RUNNING.set(suspender);
    resume
}

#[cfg(test)]
mod tests {
    use crate::coroutine::{Ended, Fiber, Paused, Resume, running, strand, suspend};
    use std::cell::Cell;
    use std::rc::Rc;

    /// Counts its own drop.
    struct Counted(Rc<Cell<u32>>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    fn fiber(body: impl FnOnce() + 'static) -> Fiber {
        Fiber::new(Box::new(body)).expect("a test machine has memory for a stack")
    }

    #[test]
    fn fibers_take_turns() {
        let seen = Rc::new(Cell::new(0_u64));
        let mut fibers: Vec<Fiber> = (1..=3)
            .map(|digit| {
                let seen = Rc::clone(&seen);
                fiber(move || {
                    for _ in 0..2 {
                        seen.set(seen.get() * 10 + digit);
                        suspend();
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            for fiber in &mut fibers {
                assert!(matches!(fiber.resume(Resume::Go), Paused::Parked));
                assert!(!running());
            }
        }
        for fiber in &mut fibers {
            assert!(matches!(fiber.resume(Resume::Go), Paused::Ended(Ended::Returned)));
        }
        assert_eq!(seen.get(), 123_123);
    }

    #[test]
    fn teardown_runs_destructors() {
        let drops = Rc::new(Cell::new(0));
        let counted = Counted(Rc::clone(&drops));
        let mut suspended = fiber(move || {
            let _counted = counted;
            suspend();
        });
        let counted = Counted(Rc::clone(&drops));
        let mut never_started = fiber(move || drop(counted));
        assert!(matches!(suspended.resume(Resume::Go), Paused::Parked));
        assert!(matches!(suspended.resume(Resume::Unwind), Paused::Ended(Ended::Unwound)));
        assert!(matches!(never_started.resume(Resume::Unwind), Paused::Ended(Ended::Unwound)));
        assert_eq!(drops.get(), 2);
        assert!(!std::thread::panicking());
    }

    #[test]
    fn a_dropped_fiber_is_leaked_not_unwound() {
        let drops = Rc::new(Cell::new(0));
        let counted = Counted(Rc::clone(&drops));
        {
            let mut stranded = fiber(move || {
                let _counted = counted;
                strand();
            });
            assert!(matches!(stranded.resume(Resume::Go), Paused::Stranded));
        }
        assert_eq!(drops.get(), 0);
    }

    #[test]
    fn a_panic_ends_at_the_root() {
        let mut panics = fiber(|| std::panic::resume_unwind(Box::new("on purpose")));
        let Paused::Ended(Ended::Panicked(payload)) = panics.resume(Resume::Go) else {
            panic!("the panic is handed over");
        };
        assert_eq!(payload.downcast_ref(), Some(&"on purpose"));
        assert!(!running());
    }
}
