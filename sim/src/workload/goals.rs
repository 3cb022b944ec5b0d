//! What a sweep has to reach: an operation, a fault, an oracle or a rare state that no longer happens would otherwise
//! fall silent without a word.
//!
//! Every event that runs count has a goal here, with the share of runs that it was seen in. A sweep fails if one came
//! up far too seldom, and if an event comes up that has no goal. Few runs say nothing of rare events, so those are
//! judged by long sweeps only. (After the `sometimes` assertions of Antithesis, with a rate beside each.)

use crate::disk::Profile;
use crate::workload::goals_table::GOALS;
use std::collections::BTreeMap;

/// How often an event has come up in a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Times, in all.
    pub times: u64,
    /// Runs in which it came up at least once.
    pub runs: u64,
}

/// What the runs of a sweep have reached.
pub type Events = BTreeMap<&'static str, Reached>;

/// Adds what one run has reached.
pub fn tally(events: &mut Events, of_run: &BTreeMap<&'static str, u64>) {
    for (event, times) in of_run {
        let reached = events.entry(event).or_default();
        reached.times += times;
        reached.runs += 1;
    }
}

/// An event, with the share of runs that it comes up in, in millionths, by profile: kill, ext4, worst.
pub struct Goal {
    /// The event, as runs count it.
    pub event: &'static str,
    /// Runs of a million.
    pub per_million: [u64; 3],
}

/// A goal is judged by sweeps in which so many runs should reach it: with fewer, luck could fail it.
const EXPECTED_RUNS_MIN: u64 = 30;

/// It is missed if fewer than one in so many of those have.
const SHORTFALL: u64 = 4;

const MILLION: u64 = 1_000_000;

impl Goal {
    /// Returns in how many of `runs` it should come up.
    pub fn expected(&self, profile: Profile, runs: u64) -> u64 {
        let at = Profile::ALL.iter().position(|each| *each == profile).expect("every profile is in the list");
        runs * self.per_million[at] / MILLION
    }
}

/// Says what a sweep of `runs` on `profile` should have reached, and has not, or has reached without a goal.
pub fn missed(profile: Profile, runs: u64, events: &Events) -> Vec<String> {
    let mut missed = Vec::new();
    for goal in &GOALS {
        let expected = goal.expected(profile, runs);
        let reached = events.get(goal.event).copied().unwrap_or_default().runs;
        if expected >= EXPECTED_RUNS_MIN && reached * SHORTFALL < expected {
            missed.push(format!("{}: in {reached} runs, about {expected} were expected", goal.event));
        }
    }
    let has_goal = |event: &str| GOALS.iter().any(|goal| goal.event == event);
    let strangers = events.keys().filter(|event| !has_goal(event));
    missed.extend(strangers.map(|event| format!("{event}: it has no goal in goals_table.rs")));
    missed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::operations::OPERATIONS;

    fn reached_by(profile: Profile, runs: u64) -> Events {
        let reached = |goal: &Goal| Reached { times: 1, runs: goal.expected(profile, runs) };
        GOALS.iter().map(|goal| (goal.event, reached(goal))).collect()
    }

    #[test]
    fn every_operation_has_a_goal_on_every_profile() {
        for (operation, _) in OPERATIONS {
            let goal = GOALS.iter().find(|goal| goal.event == operation.event());
            let goal = goal.unwrap_or_else(|| panic!("{operation:?} has no goal"));
            assert!(goal.per_million.iter().all(|&rate| rate > 0), "{operation:?}");
        }
    }

    #[test]
    fn goals_are_named_once_and_in_order() {
        assert!(GOALS.windows(2).all(|pair| pair[0].event < pair[1].event));
    }

    #[test]
    fn what_is_usual_misses_nothing() {
        for profile in Profile::ALL {
            assert_eq!(missed(profile, 20_000, &reached_by(profile, 20_000)), Vec::<String>::new());
        }
    }

    #[test]
    fn an_event_that_falls_silent_is_missed_and_a_stranger_is_told() {
        let mut events = reached_by(Profile::Worst, 1000);
        assert!(events.remove("operation: flush").is_some());
        events.insert("something new", Reached { times: 1, runs: 1 });
        let missed = missed(Profile::Worst, 1000, &events);
        assert_eq!(missed.len(), 2, "{missed:?}");
        assert!(missed[0].starts_with("operation: flush: in 0 runs"), "{missed:?}");
        assert!(missed[1].starts_with("something new"), "{missed:?}");
    }

    #[test]
    fn few_runs_say_nothing() {
        assert_eq!(missed(Profile::Worst, 20, &BTreeMap::new()), Vec::<String>::new());
    }
}
