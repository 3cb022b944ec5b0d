//! A file of `sim/seeds/`: a seed that once found a bug.
//!
//! Lines `seed N` and `profile NAME`, perhaps `mutant NAME` for the patch that plants the bug again, and what it was.

use crate::disk::Profile;

/// What such a file says.
#[derive(Clone, Debug)]
pub struct SeedFile {
    /// The seed of the run.
    pub seed: u64,
    /// Its disk.
    pub profile: Profile,
    /// The patch of `sim/mutants/` that plants the bug again.
    pub mutant: Option<String>,
}

impl SeedFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The line that is missing, or cannot be read.
    pub fn parse(text: &str) -> Result<SeedFile, &'static str> {
        let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Ok(SeedFile {
            seed: word("seed ").and_then(|text| text.parse().ok()).ok_or("no line `seed N`")?,
            profile: word("profile ").and_then(Profile::from_name).ok_or("no line `profile NAME`")?,
            mutant: word("mutant ").map(str::to_owned),
        })
    }
}
