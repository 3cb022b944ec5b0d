//! `cargo sim replay SEED`: one run, told.

use crate::cli::report::tell_broken;
use crate::cli::{RunSettings, profile};
use clap::Args;
use std::io::Write;
use std::process::ExitCode;
use tinylsm_sim::disk::Profile;
use tinylsm_sim::trace::Keep;
use tinylsm_sim::workload::driver::Settings;
use tinylsm_sim::workload::run::{Ended, run_with};

/// Replays a seed.
#[derive(Args)]
pub struct Replay {
    /// The seed.
    seed: u64,
    /// The kind of disk: kill, ext4 or worst.
    #[arg(long, default_value = "worst", value_parser = profile)]
    profile: Profile,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Run it inside a madsim runtime, where stray clock, entropy and thread calls are intercepted.
    #[arg(long)]
    madsim: bool,
    #[command(flatten)]
    settings: RunSettings,
}

impl Replay {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let keep = if self.trace { Keep::Everything } else { Keep::Nothing };
        let (seed, profile, settings) = (self.seed, self.profile, self.settings.get());
        let ended = if self.madsim {
            #[cfg(madsim)]
            {
                let settings = settings.clone();
                tinylsm_sim::envelope::enclose(seed, move || run_with(seed, profile, keep, &settings)).value
            }
            #[cfg(not(madsim))]
            {
                eprintln!(
                    "built without --cfg madsim (does RUSTFLAGS in the environment override .cargo/config.toml?)"
                );
                return ExitCode::from(2);
            }
        } else {
            run_with(seed, profile, keep, &settings)
        };
        match tell(&ended, &settings, &mut std::io::stdout().lock()) {
            Ok(()) if ended.violation.is_none() => ExitCode::SUCCESS,
            _ => ExitCode::from(1),
        }
    }
}

fn tell(ended: &Ended, settings: &Settings, out: &mut dyn Write) -> std::io::Result<()> {
    let mut scenes = ended.scenes.iter().peekable();
    for entry in &ended.entries {
        while let Some(scene) = scenes.next_if(|scene| scene.event <= entry.number) {
            write!(out, "{scene}")?;
        }
        writeln!(out, "{entry}")?;
    }
    for scene in scenes {
        write!(out, "{scene}")?;
    }
    let summary = &ended.summary;
    if let Some(character) = &summary.character {
        writeln!(out, "{character:#?}")?;
    }
    writeln!(out, "seed {} on {}", ended.seed, ended.profile.name())?;
    writeln!(
        out,
        "{} operations, {} crashes, {} recoveries, {} steps, {} virtual ms",
        summary.operations_count,
        summary.crashes_count,
        summary.recoveries_count,
        ended.steps,
        ended.now_ns / 1_000_000
    )?;
    for (event, count) in &summary.events {
        writeln!(out, "  {count:>6}  {event}")?;
    }
    match &ended.violation {
        Some(_) => tell_broken(ended, settings, out)?,
        None => writeln!(out, "every invariant held")?,
    }
    writeln!(out, "trace hash: {:016x}", ended.hash)
}
