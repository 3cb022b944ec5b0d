//! The commands.

pub mod mutants;
pub mod replay;
pub mod report;
pub mod sweep;

use clap::Args;
use tinylsm_sim::disk::Profile;
use tinylsm_sim::world::known_faults::{Fault, KnownFaults};
use tinylsm_sim::world::operations::Operation;
use tinylsm_sim::world::story::Settings;

/// What a run is told beside its seed.
#[derive(Args, Clone)]
pub struct RunSettings {
    /// Let runs meet a known fault of the engine, by its name in `known_faults.rs`, or all of them; repeatable
    #[arg(long, value_name = "FAULT|all", value_parser = shown)]
    show: Vec<Shown>,
    /// Leave one operation out, by its name in `operations.rs`, to see which goals notice
    #[arg(long, value_name = "OPERATION", value_parser = operation)]
    without: Option<Operation>,
}

impl RunSettings {
    /// Returns them as the library takes them.
    pub fn get(&self) -> Settings {
        let mut known = KnownFaults::default();
        for Shown(faults) in &self.show {
            faults.iter().for_each(|&fault| known.show(fault));
        }
        Settings { known, without: self.without }
    }
}

#[derive(Clone)]
struct Shown(Vec<Fault>);

fn shown(name: &str) -> Result<Shown, String> {
    if name == "all" {
        return Ok(Shown(Fault::ALL.to_vec()));
    }
    Fault::from_name(name)
        .map(|fault| Shown(vec![fault]))
        .ok_or_else(|| format!("no fault {name:?} is known"))
}

fn operation(name: &str) -> Result<Operation, String> {
    Operation::from_name(name).ok_or_else(|| format!("there is no operation {name:?}"))
}

/// Reads a profile's name.
pub fn profile(name: &str) -> Result<Profile, String> {
    Profile::from_name(name).ok_or_else(|| format!("there is no profile {name:?}: kill, ext4 or worst"))
}
