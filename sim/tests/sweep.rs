//! A bounded sweep in the ordinary test run: every invariant holds in every run, with and without the envelope.

use tinylsm_sim::disk::Profile;
use tinylsm_sim::trace::Keep;
use tinylsm_sim::workload::run::run;

/// Far from the seeds that people try by hand.
const FIRST_SEED: u64 = 1_000_000;

fn sweep(profile: Profile, count: u64) {
    for seed in FIRST_SEED..FIRST_SEED + count {
        let ended = run(seed, profile, Keep::Nothing);
        if let Some(violation) = ended.violation {
            panic!(
                "seed {seed} on {}: {}: {}\nreplay: cargo sim replay {seed} --profile {}",
                profile.name(),
                violation.oracle,
                violation.message,
                profile.name()
            );
        }
    }
}

#[test]
fn every_invariant_holds_when_processes_are_killed() {
    sweep(Profile::Kill, 150);
}

#[test]
fn every_invariant_holds_on_a_journaling_disk() {
    sweep(Profile::Ext4, 150);
}

#[test]
fn every_invariant_holds_on_the_worst_disk() {
    sweep(Profile::Worst, 150);
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in 0..20 {
        let (one, other) =
            (run(seed, Profile::Worst, Keep::Nothing), run(seed, Profile::Worst, Keep::Nothing));
        assert_eq!((one.hash, one.steps, one.now_ns), (other.hash, other.steps, other.now_ns), "seed {seed}");
    }
}

/// Whole runs of the engine in two envelopes of other dates, entropy and hash keys: a stray look at any of them
/// would show in the trace, and a stray thread would panic.
#[cfg(madsim)]
#[test]
fn no_clock_entropy_or_thread_call_escapes() {
    use tinylsm_sim::envelope::check;
    for seed in 0..12 {
        let run = move || {
            let ended = run(seed, Profile::Worst, Keep::Nothing);
            (ended.hash, ended.steps, ended.violation.map(|violation| violation.message))
        };
        let inside = check(|| run).unwrap_or_else(|leak| panic!("seed {seed} leaks: {leak:?}"));
        assert_eq!(inside, run(), "seed {seed} goes differently inside a madsim runtime");
        assert_eq!(inside.2, None, "seed {seed}");
    }
}

/// Whether a run's trace is kept changes nothing about the run.
#[test]
fn a_run_is_the_same_with_its_trace_kept() {
    for seed in 0..12 {
        let profile = Profile::ALL[usize::try_from(seed % 3).expect("below 3")];
        let hash = |keep| run(seed, profile, keep).hash;
        assert_eq!(hash(Keep::Nothing), hash(Keep::Everything), "seed {seed} of {profile:?}");
    }
}
