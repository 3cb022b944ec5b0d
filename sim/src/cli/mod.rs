//! The commands.

pub mod mutants;
pub mod replay;
pub mod report;
pub mod sweep;

use tinylsm_sim::disk::Profile;

/// Reads a profile's name.
pub fn profile(name: &str) -> Result<Profile, String> {
    Profile::from_name(name).ok_or_else(|| format!("there is no profile {name:?}: kill, ext4 or worst"))
}
