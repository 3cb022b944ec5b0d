//! The envelope: inside madsim, nothing of the real machine reaches a simulation unnoticed.
//!
//! Every alarm has a positive control here, so that the silence of later sweeps means something.

#[cfg(not(madsim))]
compile_error!(
    "these tests need the flag `--cfg madsim`, which .cargo/config.toml sets. Cargo ignores that file's \
     `rustflags` when the environment sets RUSTFLAGS: add `--cfg madsim` there, or unset it."
);

#[cfg(madsim)]
#[allow(clippy::disallowed_methods, reason = "these tests make the stray calls that the envelope must catch")]
#[allow(clippy::disallowed_types, reason = "these tests make the stray calls that the envelope must catch")]
mod enveloped {
    use std::collections::HashMap;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};
    use tinylsm::sync::{Condvar, Mutex, spawn};
    use tinylsm_sim::envelope::{Leak, check, enclose};
    use tinylsm_sim::schedule::{self, Failure, Options, Simulation};
    use tinylsm_sim::tape::{Label, Tape};

    /// Runs a simulation with locks, waits, sleeps and choices; returns its trace's hash.
    fn simulation(seed: u64) -> u64 {
        let tape = Tape::from_seed(seed);
        let outcome = Simulation::run(tape.clone(), Options::default(), move || {
            let shared = Arc::new((Mutex::new(0_u64), Condvar::new()));
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let (shared, tape) = (Arc::clone(&shared), tape.clone());
                    let body = move || {
                        for _ in 0..10 {
                            schedule::sleep(Duration::from_nanos(tape.below(Label::Latency, 100_000)));
                            *shared.0.lock() += 1;
                            shared.1.notify_all();
                        }
                    };
                    spawn("adder", body).expect("a simulation has threads to give")
                })
                .collect();
            let mut sum = shared.0.lock();
            while *sum < 30 {
                shared.1.wait_for(&mut sum, Duration::from_micros(70));
            }
            drop(sum);
            threads.into_iter().all(tinylsm::sync::JoinHandle::join)
        });
        assert_eq!((outcome.failure, outcome.value), (None, Some(true)));
        outcome.trace.hash()
    }

    /// Runs a simulation whose only event is what `number` gives.
    fn simulation_of(number: fn() -> u64) -> u64 {
        Simulation::run(Tape::zeros(), Options::default(), move || schedule::event(1, &[number()]))
            .trace
            .hash()
    }

    #[test]
    fn a_simulation_goes_the_same_way_inside_and_outside() {
        for seed in 0..50 {
            let inside = check(|| move || simulation(seed)).expect("a simulation touches nothing real");
            assert_eq!(inside, simulation(seed), "seed {seed}");
        }
    }

    #[test]
    fn the_real_clock_is_out_of_reach() {
        let dates = [1, 2].map(|seed| enclose(seed, SystemTime::now).value);
        let year_2022 = Duration::from_secs(1_640_995_200)..Duration::from_secs(1_672_531_200);
        for date in dates {
            let since = date.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            assert!(year_2022.contains(&since), "{since:?} is no date of madsim's");
        }
        assert_ne!(dates[0], dates[1]);
        let passed = enclose(1, || {
            let began = Instant::now();
            (0..1_000_000_u64).for_each(|number| drop(std::hint::black_box(Box::new(number))));
            began.elapsed()
        });
        assert_eq!(passed.value, Duration::ZERO, "madsim's clock stands still while a simulation runs");
    }

    #[test]
    fn a_simulation_that_looks_at_the_clock_is_found() {
        let look = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.expect("after 1970").as_nanos() as u64
        };
        assert!(matches!(check(|| move || simulation_of(look)), Err(Leak::Differs { .. })));
    }

    #[test]
    fn a_simulation_that_asks_for_entropy_is_found() {
        fn ask() -> u64 {
            let mut bytes = [0_u8; 8];
            getrandom::fill(&mut bytes).expect("the system has entropy");
            u64::from_le_bytes(bytes)
        }
        fn ask_and_forget() -> u64 {
            ask();
            0
        }
        assert_eq!(check(|| || simulation_of(ask)), Err(Leak::Entropy));
        assert_eq!(check(|| || simulation_of(ask_and_forget)), Err(Leak::Entropy));
        assert!(!enclose(9, || simulation_of(|| 7)).drew_entropy);
    }

    #[test]
    fn a_simulation_that_depends_on_the_order_of_a_hash_map_is_found() {
        let order = || {
            let map: HashMap<u64, ()> = (0..100).map(|key| (key, ())).collect();
            map.keys().fold(0, |order: u64, &key| order.wrapping_mul(31).wrapping_add(key))
        };
        assert!(matches!(check(|| move || simulation_of(order)), Err(Leak::Differs { .. })));
    }

    #[test]
    fn an_operating_system_thread_is_refused() {
        let failure = enclose(1, || {
            Simulation::run(Tape::zeros(), Options::default(), || drop(std::thread::spawn(|| ()))).failure
        });
        assert!(matches!(failure.value, Some(Failure::Panic { .. })), "{failure:?}");
        let alone = catch_unwind(AssertUnwindSafe(|| enclose(1, || drop(std::thread::spawn(|| ())))));
        assert!(alone.is_err(), "also outside of a simulation");
        std::thread::spawn(|| ()).join().expect("and outside the envelope threads are to be had");
    }
}
