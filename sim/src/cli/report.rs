//! How a broken run is told: seed, profile and invariant, the two answers, the last events, the last crash and the tree.

use std::io::{Result, Write};
use tinylsm_sim::trace::Keep;
use tinylsm_sim::workload::driver::Settings;
use tinylsm_sim::workload::run::{Ended, run_with};

/// Events shown before the end: enough to see the operation that broke the invariant and who ran beside it.
const LAST_EVENTS: usize = 20;

/// Tells how a run broke, which is run once more for it with everything kept; nothing if every invariant held.
pub fn tell_broken(ended: &Ended, settings: &Settings, out: &mut dyn Write) -> Result<()> {
    let Some(violation) = &ended.violation else { return Ok(()) };
    let told = run_with(ended.seed, ended.profile, Keep::Everything, settings);
    writeln!(out, "BROKEN at seed {} on {}", ended.seed, ended.profile.name())?;
    writeln!(out, "oracle: {}", violation.oracle)?;
    writeln!(out, "{}", violation.message)?;
    writeln!(out, "the last events:")?;
    for entry in &told.entries[told.entries.len().saturating_sub(LAST_EVENTS)..] {
        writeln!(out, "{entry}")?;
    }
    if let Some(crash) = told.scenes.iter().rfind(|scene| scene.crash.is_some()) {
        writeln!(out, "the last crash, before event {}:\n{crash}", crash.event)?;
    }
    if let Some(last) = told.scenes.last().filter(|scene| scene.crash.is_none()) {
        write!(out, "{last}")?;
    }
    writeln!(out, "replay: cargo sim replay {} --profile {} --trace", ended.seed, ended.profile.name())
}
