//! What the scheduler promises to code written against `tinylsm::sync`, and what it finds.

#![allow(clippy::disallowed_types, reason = "the test counts what other threads do")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tinylsm::sync::{Condvar, JoinHandle, Mutex, spawn, yield_point};
use tinylsm_sim::schedule::{self, Failure, Options, Outcome, Simulation, StrategyKind};
use tinylsm_sim::tape::Tape;

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle {
    spawn(name, body).expect("threads are to be had")
}

fn run<R: Send + 'static>(seed: u64, main: impl FnOnce() -> R + Send + 'static) -> Outcome<R> {
    Simulation::run(Tape::from_seed(seed), Options::default(), main)
}

/// Raises a number `count` times by reading and writing apart, under a lock or without.
fn add(value: &AtomicU64, lock: Option<&Mutex<()>>, count: u64) {
    for _ in 0..count {
        let _guard = lock.map(Mutex::lock);
        let before = value.load(Ordering::Relaxed);
        yield_point("between read and write");
        value.store(before + 1, Ordering::Relaxed);
    }
}

/// Lets three threads add; returns the sum, 30 if none was lost.
fn sum(locked: bool) -> u64 {
    let value = Arc::new(AtomicU64::new(0));
    let lock = Arc::new(Mutex::new(()));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (value, lock) = (Arc::clone(&value), Arc::clone(&lock));
            start("adder", move || add(&value, locked.then_some(&*lock), 10))
        })
        .collect();
    for thread in threads {
        assert!(thread.join());
    }
    value.load(Ordering::Relaxed)
}

#[test]
fn locks_exclude_under_every_strategy() {
    for kind in StrategyKind::ALL {
        for seed in 0..50 {
            let options = Options { strategy: Some(kind), ..Options::default() };
            let outcome = Simulation::run(Tape::from_seed(seed), options, || sum(true));
            assert_eq!(outcome.failure, None, "{kind:?} seed {seed}");
            assert_eq!(outcome.value, Some(30), "{kind:?} seed {seed}");
        }
    }
}

#[test]
fn a_planted_race_is_found_within_a_few_seeds() {
    for kind in StrategyKind::ALL {
        let caught = (0..100).find(|&seed| {
            let options = Options { strategy: Some(kind), ..Options::default() };
            Simulation::run(Tape::from_seed(seed), options, || sum(false)).value != Some(30)
        });
        let seeds_max = if kind == StrategyKind::RandomWalk { 5 } else { 50 };
        assert!(caught.is_some_and(|seed| seed < seeds_max), "{kind:?}: {caught:?}");
    }
}

#[test]
fn the_simplest_tape_does_not_race() {
    let outcome = Simulation::run(Tape::zeros(), Options::default(), || sum(false));
    assert_eq!(outcome.value, Some(30));
}

#[test]
fn the_same_routine_runs_on_real_threads() {
    assert_eq!(sum(true), 30);
    handoff(200);
}

/// Passes numbers through a slot, with a wait on both sides.
fn handoff(count: u64) {
    #[derive(Default)]
    struct Slot {
        value: Mutex<Option<u64>>,
        changed: Condvar,
    }
    let slot = Arc::new(Slot::default());
    let other = Arc::clone(&slot);
    let producer = start("producer", move || {
        for number in 0..count {
            let mut value = other.value.lock();
            while value.is_some() {
                other.changed.wait(&mut value);
            }
            *value = Some(number);
            drop(value);
            other.changed.notify_one();
        }
    });
    for number in 0..count {
        let mut value = slot.value.lock();
        while value.is_none() {
            slot.changed.wait(&mut value);
        }
        assert_eq!(value.take(), Some(number));
        drop(value);
        slot.changed.notify_one();
    }
    assert!(producer.join());
}

#[test]
fn no_notification_is_lost() {
    for kind in StrategyKind::ALL {
        for seed in 0..100 {
            let options = Options { strategy: Some(kind), ..Options::default() };
            let outcome = Simulation::run(Tape::from_seed(seed), options, || handoff(20));
            assert_eq!(outcome.failure, None, "{kind:?} seed {seed}");
        }
    }
}

#[test]
fn a_wait_times_out_in_virtual_time() {
    for seed in 0..20 {
        let outcome = run(seed, || {
            let (lock, condition) = (Mutex::new(()), Condvar::new());
            let mut guard = lock.lock();
            let began = schedule::now();
            let deadline = began + 3_600_000_000_000;
            while schedule::now() < deadline {
                // A spurious wake-up ends a wait early, so the rest is waited for.
                let rest = Duration::from_nanos(deadline - schedule::now());
                let timed_out = condition.wait_for(&mut guard, rest);
                assert_eq!(timed_out, schedule::now() >= deadline);
            }
            schedule::now() - began
        });
        assert_eq!(outcome.failure, None, "seed {seed}");
        let waited_ns = outcome.value.expect("main returned");
        assert!((3_600_000_000_000..3_600_001_000_000).contains(&waited_ns), "{waited_ns}");
        assert!(outcome.steps < 200);
    }
}

#[test]
fn a_notification_beats_a_later_timeout() {
    for seed in 0..50 {
        let outcome = run(seed, || {
            let shared = Arc::new((Mutex::new(false), Condvar::new()));
            let other = Arc::clone(&shared);
            let thread = start("notifier", move || {
                schedule::sleep(Duration::from_millis(1));
                *other.0.lock() = true;
                other.1.notify_all();
            });
            let mut done = shared.0.lock();
            while !*done {
                assert!(!shared.1.wait_for(&mut done, Duration::from_secs(3_600)));
            }
            drop(done);
            assert!(thread.join());
        });
        assert_eq!(outcome.failure, None, "seed {seed}");
        assert!(outcome.now_ns < 10_000_000_000, "nobody waited for the timeout");
    }
}

#[test]
fn sleepers_wake_in_the_order_of_their_times() {
    let options = Options { strategy: Some(StrategyKind::RandomWalk), ..Options::default() };
    let outcome = Simulation::run(Tape::from_seed(1), options, || {
        let order = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = [30, 10, 20]
            .into_iter()
            .map(|millis| {
                let order = Arc::clone(&order);
                start("sleeper", move || {
                    schedule::sleep(Duration::from_millis(millis));
                    order.lock().push(millis);
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join());
        }
        order.lock().clone()
    });
    assert_eq!(outcome.value, Some(vec![10, 20, 30]));
}

#[test]
fn spurious_wake_ups_happen_in_some_simulations() {
    let woken_early = |seed| {
        let outcome = run(seed, || {
            let (lock, condition) = (Mutex::new(()), Condvar::new());
            (0..50).any(|_| !condition.wait_for(&mut lock.lock(), Duration::from_secs(1)))
        });
        outcome.value == Some(true)
    };
    let count = (0..40).filter(|&seed| woken_early(seed)).count();
    assert!((5..35).contains(&count), "{count} of 40 simulations");
}

#[test]
fn a_deadlock_is_reported_with_its_circle() {
    let caught = (0..200).find_map(|seed| {
        let outcome = run(seed, || {
            let locks = Arc::new((Mutex::new(()), Mutex::new(())));
            let other = Arc::clone(&locks);
            let thread = start("backwards", move || {
                let _second = other.1.lock();
                let _first = other.0.lock();
            });
            let first = locks.0.lock();
            let second = locks.1.lock();
            drop((first, second));
            thread.join();
        });
        outcome.failure.map(|failure| (failure, outcome.leaked))
    });
    let (failure, leaked) = caught.expect("a lock order inversion is found");
    let Failure::Deadlock { graph } = &failure else { panic!("{failure}") };
    assert_eq!(graph.cycle(), Some(vec![0, 1]));
    let text = failure.to_string();
    assert!(text.contains("thread 0 'main' waits for lock"), "{text}");
    assert!(text.contains("held by thread 1 'backwards' since sim/tests/schedule.rs:"), "{text}");
    assert!(text.contains("in a circle: 0 -> 1 -> 0"), "{text}");
    assert_eq!(leaked, 0, "waiting threads unwind");
}

#[test]
fn a_thread_that_nobody_wakes_is_a_deadlock() {
    let outcome = run(3, || {
        let shared = Arc::new((Mutex::new(()), Condvar::new()));
        let _detached = start("forgotten", move || {
            let mut guard = shared.0.lock();
            loop {
                shared.1.wait(&mut guard);
            }
        });
    });
    assert_eq!(outcome.value, Some(()), "main returned all the same");
    let failure = outcome.failure.expect("the thread never ends").to_string();
    assert!(failure.starts_with("deadlock"), "{failure}");
    assert!(failure.contains("thread 1 'forgotten' waits for condition"), "{failure}");
}

#[test]
fn an_endless_simulation_is_stopped() {
    let strategy = Some(StrategyKind::RandomWalk);
    let options = Options { steps_max: 10_000, strategy, ..Options::default() };
    let outcome = Simulation::run(Tape::from_seed(1), options, || {
        start("spinner", || {
            loop {
                yield_point("spin");
            }
        })
        .join()
    });
    let Some(Failure::StepBound { steps_max, graph }) = outcome.failure else { panic!("{outcome:?}") };
    assert_eq!((steps_max, outcome.steps), (10_000, 10_000));
    assert_eq!(graph.threads[0].waits_for.as_deref().map(|wait| wait.contains("'spinner'")), Some(true));
    assert_eq!((graph.threads[1].waits_for.as_deref(), graph.threads[1].last_site), (None, "spin"));
}

#[test]
fn a_waiting_loop_ends_under_every_strategy() {
    for kind in StrategyKind::ALL {
        for tape in [Tape::zeros(), Tape::from_seed(8)] {
            let options = Options { strategy: Some(kind), ..Options::default() };
            let outcome = Simulation::run(tape, options, || {
                let flag = Arc::new(AtomicBool::new(false));
                let other = Arc::clone(&flag);
                let thread = start("setter", move || other.store(true, Ordering::Relaxed));
                while !flag.load(Ordering::Relaxed) {
                    yield_point("wait for the flag");
                }
                thread.join()
            });
            assert_eq!(outcome.failure, None, "{kind:?}");
        }
    }
}

#[test]
fn starvation_keeps_a_thread_from_running_for_long() {
    let gap_ns = |seed| {
        let options = Options { strategy: Some(StrategyKind::Starvation), ..Options::default() };
        let outcome = Simulation::run(Tape::from_seed(seed), options, || {
            let (mut last, mut longest) = (schedule::now(), 0);
            let busy = start("busy", || {
                for _ in 0..2_000 {
                    schedule::sleep(Duration::from_millis(1));
                }
            });
            for _ in 0..2_000 {
                yield_point("step");
                longest = longest.max(schedule::now() - last);
                last = schedule::now();
            }
            busy.join();
            longest
        });
        outcome.value.expect("main returned")
    };
    assert!((0..20).any(|seed| gap_ns(seed) > 10_000_000));
}

#[test]
fn a_panic_is_the_failure_of_its_simulation() {
    let outcome = run(2, || {
        let shared = Arc::new(Mutex::new(0));
        let other = Arc::clone(&shared);
        let thread = start("careless", move || {
            let mut value = other.lock();
            *value += 1;
            let wanted = 5;
            assert_eq!(*value, wanted, "the planted mistake");
        });
        thread.join();
        unreachable!("a panic ends the simulation at once");
    });
    let Some(Failure::Panic { thread, message, location, stranded }) = outcome.failure else {
        panic!("{outcome:?}");
    };
    assert_eq!(thread, "careless");
    assert!(message.contains("the planted mistake"), "{message}");
    assert!(location.expect("a hook heard it").starts_with("sim/tests/schedule.rs:"));
    assert_eq!((stranded, outcome.leaked), (None, 0));
    assert_eq!(outcome.value, None);
}

#[test]
fn a_caught_panic_is_no_failure() {
    let outcome = run(2, || {
        let lock = Mutex::new(1);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _guard = lock.lock();
            resume_unwind(Box::new("caught"));
        }));
        assert!(caught.is_err());
        yield_point("it goes on");
        *lock.lock()
    });
    assert_eq!((outcome.failure, outcome.value), (None, Some(1)));
}

/// Takes a lock when it goes, as no engine type may.
struct LocksInDrop(Arc<Mutex<()>>);

impl Drop for LocksInDrop {
    fn drop(&mut self) {
        drop(self.0.lock());
    }
}

#[test]
fn a_destructor_that_waits_while_unwinding_is_reported_not_hung() {
    let stranded = (0..400).find_map(|seed| {
        let outcome = run(seed, || {
            let lock = Arc::new(Mutex::new(()));
            let other = Arc::clone(&lock);
            let holder = start("holder", move || {
                let _guard = other.lock();
                yield_point("while holding");
            });
            let _locks = LocksInDrop(lock);
            yield_point("before the panic");
            holder.join();
            resume_unwind(Box::new("main gives up"));
        });
        assert_eq!(outcome.leaked, 0, "the lock was free: the holder was joined");
        let outcome = run(seed, || {
            let lock = Arc::new(Mutex::new(()));
            let other = Arc::clone(&lock);
            let _detached = start("holder", move || {
                let _guard = other.lock();
                yield_point("while holding");
                yield_point("still holding");
            });
            let _locks = LocksInDrop(lock);
            assert!(schedule::steps() == 0, "main gives up at once");
        });
        let Some(Failure::Panic { stranded, .. }) = outcome.failure else { panic!("{outcome:?}") };
        stranded.map(|stranded| (stranded, outcome.leaked))
    });
    let (stranded, leaked) = stranded.expect("some schedule lets main unwind while the lock is held");
    assert!(stranded.contains("held by thread 1 'holder'"), "{stranded}");
    assert_eq!(leaked, 1);
}

#[test]
fn threads_that_are_torn_down_drop_what_they_own() {
    let owned = Arc::new(());
    let main_owns = Arc::clone(&owned);
    let outcome = run(4, move || {
        let thread_owns = Arc::clone(&main_owns);
        let never = Arc::new((Mutex::new(()), Condvar::new()));
        let thread = start("waiter", move || {
            let _owned = thread_owns;
            let mut guard = never.0.lock();
            loop {
                never.1.wait(&mut guard);
            }
        });
        thread.join()
    });
    assert!(matches!(outcome.failure, Some(Failure::Deadlock { .. })));
    assert_eq!(outcome.leaked, 0);
    assert_eq!(Arc::strong_count(&owned), 1);
}

#[test]
fn objects_may_outlive_a_simulation() {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    for seed in 0..4 {
        let shared = Arc::clone(&shared);
        let outcome = run(seed, move || {
            let other = Arc::clone(&shared);
            let thread = start("adder", move || {
                *other.0.lock() += 1;
                other.1.notify_one();
            });
            let mut value = shared.0.lock();
            while *value <= seed {
                shared.1.wait(&mut value);
            }
            drop(value);
            thread.join()
        });
        assert_eq!(outcome.failure, None);
    }
    assert_eq!(*shared.0.lock(), 4);
}

#[test]
fn local_threads_share_what_is_not_send() {
    let outcome = run(1, || {
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let count = std::rc::Rc::clone(&count);
                schedule::spawn("local", move || count.set(count.get() + 1)).expect("threads are to be had")
            })
            .collect();
        for thread in threads {
            schedule::join(thread);
        }
        count.get()
    });
    assert_eq!((outcome.value, outcome.threads), (Some(3), 4));
}
