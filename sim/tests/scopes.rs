//! Threads that borrow never outlive what they borrow, however the thread that lends ends.
//!
//! What is lent knows whether it is still there, and so do the threads that borrow it, by a flag that they own.

#![allow(
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "flags that are no part of what is scheduled"
)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tinylsm::sync::{Condvar, Mutex, thread, yield_point};
use tinylsm_sim::schedule::{self, Failure, Options, Outcome, Simulation, StrategyKind};
use tinylsm_sim::tape::Tape;
use tinylsm_sim::{Check, Run};

/// What the threads of one test saw.
#[derive(Clone, Default)]
struct Seen(Arc<Flags>);

#[derive(Default)]
struct Flags {
    steps_count: AtomicU64,
    refusals_count: AtomicU64,
    is_used_after: AtomicBool,
}

impl Seen {
    fn check(&self, what: &str) {
        assert!(!self.0.is_used_after.load(Ordering::SeqCst), "{what}: used after it was gone");
    }

    fn steps_count(&self) -> u64 {
        self.0.steps_count.load(Ordering::SeqCst)
    }
}

/// What is lent. It lies on the lender's stack.
struct Lent {
    is_gone: Arc<AtomicBool>,
}

impl Lent {
    fn new() -> Lent {
        Lent { is_gone: Arc::default() }
    }

    /// Borrows it for a thread.
    fn borrow(&self, seen: &Seen) -> Borrowed<'_> {
        Borrowed { lent: self, is_gone: Arc::clone(&self.is_gone), seen: seen.clone() }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.is_gone.store(true, Ordering::SeqCst);
    }
}

/// A borrow, which tells when it is used and what it is of is gone. Its own drop is such a use.
struct Borrowed<'a> {
    lent: &'a Lent,
    is_gone: Arc<AtomicBool>,
    seen: Seen,
}

impl Borrowed<'_> {
    fn touch(&self) {
        self.seen.0.steps_count.fetch_add(1, Ordering::SeqCst);
        if self.is_gone.load(Ordering::SeqCst) {
            self.seen.0.is_used_after.store(true, Ordering::SeqCst);
        } else {
            assert!(Arc::ptr_eq(&self.is_gone, &self.lent.is_gone), "it is the one that was borrowed");
        }
    }

    /// Uses it over some scheduling points.
    fn work(&self) {
        for _ in 0..5 {
            self.touch();
            yield_point("work");
        }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.touch();
    }
}

/// Runs `main` on many schedules; none may use what is gone, and on some it must have been used at all.
fn on_many(what: &str, main: impl Fn(&Seen) + Send + Sync + 'static) -> Vec<Outcome<()>> {
    let main = Arc::new(main);
    let mut outcomes = Vec::new();
    let mut steps_count = 0;
    for kind in StrategyKind::ALL {
        for seed in 0..40 {
            let (seen, main) = (Seen::default(), Arc::clone(&main));
            let options = Options { strategy: Some(kind), steps_max: 3_000, ..Options::default() };
            let given = seen.clone();
            outcomes.push(Simulation::run(Tape::from_seed(seed), options, move || main(&given)));
            seen.check(&format!("{what}, {kind:?}, seed {seed}"));
            steps_count += seen.steps_count();
        }
    }
    assert!(steps_count > 0, "{what}: nobody has used it");
    outcomes
}

fn linger() {
    for _ in 0..20 {
        yield_point("linger");
    }
}

#[test]
fn a_panic_in_the_body_waits_for_the_threads() {
    let outcomes = on_many("a panic in the body", |seen| {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let lent = Lent::new();
            thread::scope(|scope| {
                let (first, second) = (lent.borrow(seen), lent.borrow(seen));
                scope.spawn(move || {
                    first.work();
                    scope.spawn(move || second.work());
                });
                yield_point("before the panic");
                resume_unwind(Box::new("the body gives up"));
            });
        }));
        assert!(caught.is_err());
        linger();
    });
    assert!(outcomes.iter().all(|outcome| outcome.failure.is_none() && outcome.leaked == 0));
}

#[test]
fn a_panic_in_a_thread_ends_the_run_youngest_first() {
    let outcomes = on_many("a panic in a thread", |seen| {
        let lent = Lent::new();
        thread::scope(|scope| {
            for number in 0..3 {
                let borrowed = lent.borrow(seen);
                scope.spawn(move || {
                    borrowed.work();
                    assert!(number != 1, "thread 1 gives up");
                    borrowed.work();
                });
            }
        });
    });
    assert!(outcomes.iter().all(|outcome| matches!(outcome.failure, Some(Failure::Panic { .. }))));
}

#[test]
fn a_deadlock_and_an_endless_run_are_torn_down_youngest_first() {
    let outcomes = on_many("threads that nobody wakes", |seen| {
        let lent = Lent::new();
        let never = (Mutex::new(()), Condvar::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                let (borrowed, never) = (lent.borrow(seen), &never);
                scope.spawn(move || {
                    borrowed.work();
                    let mut guard = never.0.lock();
                    loop {
                        never.1.wait(&mut guard);
                        borrowed.touch();
                    }
                });
            }
        });
    });
    assert!(outcomes.iter().all(|outcome| matches!(outcome.failure, Some(Failure::Deadlock { .. }))));
    let outcomes = on_many("an endless thread that catches what ends it", |seen| {
        const CATCHES_COUNT: u64 = 30;
        let lent = Lent::new();
        thread::scope(|scope| {
            let borrowed = lent.borrow(seen);
            scope.spawn(move || {
                let mut caught_count = 0;
                while caught_count < CATCHES_COUNT {
                    let caught = catch_unwind(AssertUnwindSafe(|| borrowed.work()));
                    caught_count += u64::from(caught.is_err());
                }
            });
        });
    });
    assert!(outcomes.iter().all(|outcome| matches!(outcome.failure, Some(Failure::StepBound { .. }))));
}

/// Waits when it goes.
struct WaitsInDrop<'a>(&'a Mutex<()>, Borrowed<'a>);

impl Drop for WaitsInDrop<'_> {
    fn drop(&mut self) {
        drop(self.0.lock());
        self.1.touch();
    }
}

#[test]
fn a_thread_that_is_left_behind_never_runs_again() {
    let outcomes = on_many("a thread that waits while it unwinds", |seen| {
        let (lent, lock) = (Lent::new(), Mutex::new(()));
        thread::scope(|scope| {
            let (first, second, lock) = (lent.borrow(seen), lent.borrow(seen), &lock);
            scope.spawn(move || {
                let _guard = lock.lock();
                first.work();
            });
            scope.spawn(move || {
                let _waits = WaitsInDrop(lock, second);
                yield_point("before the panic");
                resume_unwind(Box::new("it gives up"));
            });
        });
    });
    assert!(outcomes.iter().any(|outcome| outcome.leaked > 0), "on some schedule the lock is held");
}

/// Starts a thread that borrows, and waits for it, when it goes.
struct ScopesInDrop(Seen);

impl Drop for ScopesInDrop {
    fn drop(&mut self) {
        let lent = Lent::new();
        drop(catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|scope| {
                let borrowed = lent.borrow(&self.0);
                scope.spawn(move || borrowed.work());
            });
        })));
    }
}

#[test]
fn a_scope_of_a_destructor_keeps_the_promise_too() {
    on_many("a scope while its thread unwinds", |seen| {
        let _scopes = ScopesInDrop(seen.clone());
        let other = seen.clone();
        let thread = thread::spawn(move || {
            let _scopes = ScopesInDrop(other);
            yield_point("before the panic");
        });
        yield_point("before the panic");
        drop(thread);
        resume_unwind(Box::new("main gives up"));
    });
}

/// Where nothing may wait, nothing that has to be waited for is started.
#[test]
fn a_look_starts_no_thread_that_borrows() {
    let in_scope = |seen: &Seen| {
        let lent = Lent::new();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|scope| {
                let borrowed = lent.borrow(seen);
                scope.spawn(move || borrowed.work());
            });
        }));
        assert!(caught.is_err(), "it cannot wait");
    };
    on_many("a scope in a look", move |seen| {
        schedule::look(|| in_scope(seen));
        linger();
    });
    let outcomes = on_many("a scope in a remark", move |seen| {
        // Told to nobody, and therefore not made; made in a look where it is.
        schedule::note(|| {
            in_scope(seen);
            String::new()
        });
        schedule::look(|| in_scope(seen));
        linger();
    });
    assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
}

/// Runs incarnations in which `body` is cut off by a loss of power or a kill.
fn in_incarnations(what: &'static str, body: impl Fn(&Run, &Seen) + Send + Sync + 'static) {
    let seen = Seen::default();
    let given = seen.clone();
    let report = Check::new(0..150).stuck_after(Duration::from_secs(60)).run(move |run| {
        for _ in 0..2 {
            run.incarnation(|| body(run, &given));
            linger();
        }
    });
    seen.check(what);
    report.expect_clean();
    assert!(seen.steps_count() > 0, "{what}: nobody has used it");
}

/// Puts until the disk fails, which it does after a while in any case.
fn write_on(run: &Run, name: &str, borrowed: &Borrowed<'_>) {
    let Ok(db) = run.db(format!("/{name}")).open() else { return };
    for count in 0.. {
        borrowed.touch();
        if count == 20 {
            run.disk().power_off_after(1);
        }
        if db.put("k", "v").is_err() {
            return;
        }
    }
}

#[test]
fn a_process_that_ends_takes_its_threads_before_what_they_borrow() {
    in_incarnations("threads that run into errors", |run, seen| {
        let lent = Lent::new();
        thread::scope(|scope| {
            for name in ["a", "b"] {
                let borrowed = lent.borrow(seen);
                scope.spawn(move || write_on(run, name, &borrowed));
            }
        });
    });
    in_incarnations("threads that have to be killed", |run, seen| {
        let lent = Lent::new();
        let never = (Mutex::new(()), Condvar::new());
        thread::scope(|scope| {
            let (first, second, third) = (lent.borrow(seen), lent.borrow(seen), lent.borrow(seen));
            let never = &never;
            scope.spawn(move || write_on(run, "a", &first));
            scope.spawn(move || {
                let _scopes = ScopesInDrop(second.seen.clone());
                let mut guard = never.0.lock();
                loop {
                    never.1.wait(&mut guard);
                    second.touch();
                }
            });
            scope.spawn(move || {
                drop(catch_unwind(AssertUnwindSafe(|| {
                    let mut guard = never.0.lock();
                    loop {
                        never.1.wait(&mut guard);
                    }
                })));
                third.work();
            });
        });
    });
}

/// Goes to another process, if that is allowed; tells which one it was in.
fn goes_elsewhere(seen: &Seen) -> Option<u32> {
    const ELSEWHERE: u32 = 1_000;
    let went = catch_unwind(|| schedule::enter_process(ELSEWHERE));
    seen.0.refusals_count.fetch_add(u64::from(went.is_err()), Ordering::SeqCst);
    went.ok().flatten()
}

#[test]
fn who_borrows_or_lends_stays_in_its_process() {
    let refused = |what, body: fn(&Run, &Seen)| {
        let seen = Seen::default();
        let given = seen.clone();
        let report = Check::new(0..50).stuck_after(Duration::from_secs(60)).run(move |run| {
            run.incarnation(|| body(run, &given));
            linger();
        });
        seen.check(what);
        report.expect_clean();
        assert!(seen.0.refusals_count.load(Ordering::SeqCst) > 0, "{what} went elsewhere");
    };
    refused("a lender", |run, seen| {
        let lent = Lent::new();
        thread::scope(|scope| {
            let (first, second) = (lent.borrow(seen), lent.borrow(seen));
            scope.spawn(move || write_on(run, "a", &first));
            let home = goes_elsewhere(seen);
            scope.spawn(move || (0..1_000).for_each(|_| second.work()));
            home.map(schedule::enter_process);
        });
    });
    refused("a borrower", |run, seen| {
        let lent = Lent::new();
        thread::scope(|scope| {
            let (first, second) = (lent.borrow(seen), lent.borrow(seen));
            scope.spawn(move || write_on(run, "a", &first));
            scope.spawn(move || {
                goes_elsewhere(seen);
                (0..1_000).for_each(|_| second.work());
            });
        });
    });
}
