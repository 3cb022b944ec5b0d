//! A sweep notices what falls silent.

use tinylsm_sim::disk::Profile;
use tinylsm_sim::trace::Keep;
use tinylsm_sim::workload::driver::Settings;
use tinylsm_sim::workload::goals::{Events, missed, tally};
use tinylsm_sim::workload::operations::Operation;
use tinylsm_sim::workload::run::run_with;

const FIRST_SEED: u64 = 3_000_000;
/// Enough for whatever comes up in every third run.
const RUNS: u64 = 100;

/// Returns the goals that a sweep misses.
fn missed_without(without: Option<Operation>) -> Vec<String> {
    let settings = Settings { without };
    let mut events = Events::new();
    for seed in FIRST_SEED..FIRST_SEED + RUNS {
        let ended = run_with(seed, Profile::Kill, Keep::Nothing, &settings);
        assert!(ended.violation.is_none(), "seed {seed}: {:?}", ended.violation);
        tally(&mut events, &ended.summary.events);
    }
    missed(Profile::Kill, RUNS, &events)
}

#[test]
fn a_sweep_with_everything_misses_no_goal() {
    assert_eq!(missed_without(None), Vec::<String>::new());
}

#[test]
fn a_sweep_notices_that_an_operation_is_gone() {
    for operation in [Operation::Flush, Operation::HoldIterator] {
        let missed = missed_without(Some(operation));
        assert!(missed.iter().any(|goal| goal.starts_with(operation.event())), "{operation:?}: {missed:?}");
    }
}
