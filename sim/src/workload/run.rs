//! One run from its seed.

use crate::disk::{DiskEvent, Profile, SimDisk};
use crate::schedule::{self, Options, Simulation};
use crate::tape::Tape;
use crate::trace::{Entry, Keep};
use crate::workload::driver::{self, Settings, Summary};
use crate::workload::judge::Violation;
use crate::workload::scene::{Pictures, Scene};
use std::sync::Arc;

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The seed it came from.
    pub seed: u64,
    /// Its kind of disk.
    pub profile: Profile,
    /// The broken invariant, if one was.
    pub violation: Option<Violation>,
    /// What happened.
    pub summary: Summary,
    /// The trace's hash.
    pub hash: u64,
    /// Scheduling decisions.
    pub steps: u64,
    /// Virtual time, in nanoseconds.
    pub now_ns: u64,
    /// The readable trace, if it was kept.
    pub entries: Vec<Entry>,
    /// Pictures of the disk, if the trace was kept.
    pub scenes: Vec<Scene>,
}

/// Runs the run of a seed.
pub fn run(seed: u64, profile: Profile, keep: Keep) -> Ended {
    run_with(seed, profile, keep, &Settings::default())
}

/// Runs the run of a seed as `settings` say.
pub fn run_with(seed: u64, profile: Profile, keep: Keep, settings: &Settings) -> Ended {
    run_tape_with(seed, Tape::from_seed(seed), (profile, keep), settings)
}

/// Runs the run of a tape; `seed` only names it.
pub fn run_tape(seed: u64, tape: Tape, profile: Profile, keep: Keep) -> Ended {
    run_tape_with(seed, tape, (profile, keep), &Settings::default())
}

fn run_tape_with(seed: u64, tape: Tape, (profile, keep): (Profile, Keep), settings: &Settings) -> Ended {
    let settings = settings.clone();
    let options = Options { keep, ..Options::default() };
    let (choices, pictures) = (tape.clone(), Pictures::default());
    let taken = pictures.clone();
    let outcome =
        Simulation::run(tape, options, move || driver::drive(&choices, profile, taken, (watch, &settings)));
    let summary = outcome.value.unwrap_or_default();
    let violation = match (&outcome.failure, &summary.violation) {
        (Some(failure), _) => Some(Violation { oracle: oracle_of(failure), message: failure.to_string() }),
        (None, violation) => violation.clone(),
    };
    Ended {
        seed,
        profile,
        violation,
        summary,
        hash: outcome.trace.hash(),
        steps: outcome.steps,
        now_ns: outcome.now_ns,
        entries: outcome.trace.entries().to_vec(),
        scenes: pictures.scenes(),
    }
}

fn oracle_of(failure: &schedule::Failure) -> &'static str {
    match failure {
        schedule::Failure::Panic { .. } => "no panic",
        schedule::Failure::Foreign { .. } => "no foreign thread",
        schedule::Failure::Deadlock { .. } | schedule::Failure::StepBound { .. } => "liveness",
    }
}

/// Writes what a disk does into the run's trace.
fn watch(disk: &SimDisk) {
    disk.observe(Arc::new(|event: &DiskEvent<'_>| {
        let name = event.path.file_name().map_or(0, |name| hash_of(name.as_encoded_bytes()));
        let failed = u64::from(event.error.is_some());
        let values = [event.op as u64, name, event.offset, event.len, failed];
        schedule::event_in_words(0xD15C, &values, || {
            let mut text = format!("{} {}", event.op.name(), event.path.display());
            if let Some(to) = event.to {
                text += &format!(" -> {}", to.display());
            }
            text += &format!(" @{} +{}", event.offset, event.len);
            if let Some(error) = event.error {
                text += &format!(" FAILED {error:?}");
            }
            text
        });
    }));
}

/// FNV-1a: the trace needs equal numbers for equal names, nothing more.
fn hash_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
