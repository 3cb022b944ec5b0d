//! The commands.

pub mod mutants;
pub mod replay;
pub mod report;
pub mod sweep;

use clap::Args;
use tinylsm_sim::disk::Profile;
use tinylsm_sim::workload::driver::Settings;
use tinylsm_sim::workload::operations::Operation;

/// What a run is told beside its seed.
#[derive(Args, Clone)]
pub struct RunSettings {
    /// Leave one operation out, by its name in `operations.rs`, to see which goals notice.
    #[arg(long, value_name = "OPERATION", value_parser = operation)]
    without: Option<Operation>,
}

impl RunSettings {
    /// Returns them as the library takes them.
    pub fn get(&self) -> Settings {
        Settings { without: self.without }
    }
}

fn operation(name: &str) -> Result<Operation, String> {
    Operation::from_name(name).ok_or_else(|| format!("there is no operation {name:?}"))
}

/// Reads a profile's name.
pub fn profile(name: &str) -> Result<Profile, String> {
    Profile::from_name(name).ok_or_else(|| format!("there is no profile {name:?}: kill, ext4 or worst"))
}
