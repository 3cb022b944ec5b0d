//! The same tape gives the same run: the promise that everything else in the simulator rests on.

use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::{Condvar, Mutex, spawn, yield_point};
use tinylsm_sim::schedule::{self, Options, Outcome, Simulation, StrategyKind};
use tinylsm_sim::tape::{Label, Tape};
use tinylsm_sim::trace::{Keep, first_difference};

/// Group commit by a leader, in small: locks, waits with and without timeout, sleeps, choices and events.
#[derive(Default)]
struct Log {
    queue: Mutex<Queue>,
    changed: Condvar,
    disk: Mutex<Vec<u64>>,
}

#[derive(Default)]
struct Queue {
    pending: Vec<u64>,
    led: bool,
    durable: std::collections::BTreeSet<u64>,
}

impl Log {
    fn commit(&self, tape: &Tape, value: u64) {
        let mut queue = self.queue.lock();
        queue.pending.push(value);
        loop {
            if queue.durable.remove(&value) {
                return;
            }
            if queue.led {
                self.changed.wait_for(&mut queue, Duration::from_micros(300));
                continue;
            }
            queue.led = true;
            let group = std::mem::take(&mut queue.pending);
            drop(queue);
            self.disk.lock().extend(&group);
            schedule::event(1, &group);
            schedule::sleep(Duration::from_nanos(tape.range(Label::Latency, 20_000, 100_000)));
            queue = self.queue.lock();
            queue.durable.extend(group);
            queue.led = false;
            self.changed.notify_all();
        }
    }
}

fn run(tape: Tape, options: Options, writers: u64, each: u64) -> Outcome<usize> {
    Simulation::run(tape.clone(), options, move || {
        let log = Arc::new(Log::default());
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let (log, tape) = (Arc::clone(&log), tape.clone());
                let body = move || {
                    for number in 0..each {
                        log.commit(&tape, writer << 32 | number);
                        yield_point("between commits");
                    }
                };
                spawn("writer", body).expect("a simulation has threads to give")
            })
            .collect();
        for thread in threads {
            assert!(thread.join());
        }
        log.disk.lock().len()
    })
}

#[test]
fn one_seed_gives_one_run() {
    for seed in 0..100 {
        let (one, other) = (
            run(Tape::from_seed(seed), Options::default(), 4, 10),
            run(Tape::from_seed(seed), Options::default(), 4, 10),
        );
        assert_eq!(one.failure, None, "seed {seed}");
        assert_eq!(one.value, Some(40), "seed {seed}");
        assert_eq!(one.trace.hash(), other.trace.hash(), "seed {seed}");
        assert_eq!((one.steps, one.now_ns), (other.steps, other.now_ns), "seed {seed}");
    }
}

#[test]
fn different_seeds_give_different_runs() {
    let hashes: std::collections::BTreeSet<u64> =
        (0..200).map(|seed| run(Tape::from_seed(seed), Options::default(), 3, 5).trace.hash()).collect();
    assert_eq!(hashes.len(), 200);
}

#[test]
fn every_strategy_repeats_itself() {
    for kind in StrategyKind::ALL {
        let options = Options { strategy: Some(kind), ..Options::default() };
        let hashes: Vec<u64> = (0..2)
            .map(|_| {
                let outcome = run(Tape::from_seed(11), options.clone(), 4, 20);
                assert_eq!(outcome.failure, None, "{kind:?}");
                assert_eq!(outcome.value, Some(80), "{kind:?}");
                outcome.trace.hash()
            })
            .collect();
        assert_eq!(hashes[0], hashes[1], "{kind:?}");
    }
}

#[test]
fn a_recorded_run_replays() {
    for seed in 0..20 {
        let tape = Tape::from_seed(seed);
        tape.record();
        let recorded = run(tape.clone(), Options::default(), 4, 10);
        let replayed = run(Tape::from_choices(tape.take_record()), Options::default(), 4, 10);
        assert_eq!(recorded.trace.hash(), replayed.trace.hash(), "seed {seed}");
    }
}

#[test]
fn a_simulation_on_the_calling_thread_goes_the_same_way() {
    let simulation = || {
        let lock = Arc::new(Mutex::new(0));
        let other = Arc::clone(&lock);
        let thread = spawn("adder", move || *other.lock() += 1).expect("a simulation has threads to give");
        *lock.lock() += 1;
        thread.join()
    };
    for seed in 0..20 {
        let apart = Simulation::run(Tape::from_seed(seed), Options::default(), simulation);
        let here = Simulation::run_here(Tape::from_seed(seed), Options::default(), simulation);
        assert_eq!(apart.trace.hash(), here.trace.hash(), "seed {seed}");
    }
}

#[test]
fn the_simplest_tape_runs_to_its_end() {
    let outcome = run(Tape::zeros(), Options::default(), 4, 10);
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.value, Some(40));
}

#[test]
fn simulations_in_parallel_do_not_touch_each_other() {
    let alone: Vec<u64> =
        (0..8).map(|seed| run(Tape::from_seed(seed), Options::default(), 3, 20).trace.hash()).collect();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let alone = alone.clone();
            let body = move || {
                for (seed, &hash) in alone.iter().enumerate().rev() {
                    let outcome = run(Tape::from_seed(seed as u64), Options::default(), 3, 20);
                    assert_eq!(outcome.trace.hash(), hash, "seed {seed}");
                }
            };
            spawn("sweep", body).expect("a test machine has threads to give")
        })
        .collect();
    for thread in threads {
        assert!(thread.join());
    }
}

#[test]
fn keeping_the_events_does_not_change_them() {
    let options = Options { keep: Keep::Everything, ..Options::default() };
    let kept = run(Tape::from_seed(5), options, 3, 5);
    let bare = run(Tape::from_seed(5), Options::default(), 3, 5);
    assert_eq!(kept.trace.hash(), bare.trace.hash());
    assert!(kept.trace.entries().len() as u64 >= kept.trace.events());
}

/// The hashes are part of the contract between builds: a debug and a release build both compare with these.
#[test]
fn hashes_never_change() {
    let hashes: Vec<String> = [1, 7, 4242]
        .iter()
        .map(|&seed| {
            let outcome = run(Tape::from_seed(seed), Options::default(), 4, 50);
            let (hash, steps, now_ns) = (outcome.trace.hash(), outcome.steps, outcome.now_ns);
            format!("seed {seed}: {hash:016x}, {steps} steps, {now_ns} ns")
        })
        .collect();
    insta::assert_snapshot!(hashes.join("\n"), @"
    seed 1: 0ee16a42bfeec7e5, 1341 steps, 66316809 ns
    seed 7: 2fb3e07864262207, 1226 steps, 5656839 ns
    seed 4242: a9ac542adf03ca2b, 1403 steps, 5494455 ns
    ");
}

#[test]
fn two_runs_are_bisected_to_the_first_event_that_differs() {
    let simulation = |odd: u64| {
        move |keep: Keep| {
            let options = Options { keep, ..Options::default() };
            let outcome = Simulation::run(Tape::from_seed(3), options, move || {
                for number in 0..5_000 {
                    schedule::event(9, &[number + u64::from(number == odd)]);
                    schedule::note(|| format!("number {number}"));
                    schedule::sleep(Duration::from_nanos(10));
                }
            });
            assert_eq!(outcome.failure, None);
            outcome.trace
        }
    };
    let difference = first_difference(simulation(u64::MAX), simulation(4_321)).expect("they differ");
    let (left, right) = (difference.left.expect("not ended"), difference.right.expect("not ended"));
    assert_eq!((left.text.as_str(), right.text.as_str()), ("event 9 [4321]", "event 9 [4322]"));
    assert!(first_difference(simulation(1), simulation(1)).is_none());
}
