//! Every seed that once found a bug, for ever.
//!
//! A file of `sim/seeds/` has a line `seed N`, a line `profile NAME`, and what it found. The world of a seed changes
//! when the workload does, so a seed guards its bug for sure only until then; a law with its own test guards it longer.

#![allow(clippy::disallowed_methods, reason = "the seed files lie on the real disk")]

use std::path::Path;
use tinylsm_sim::disk::Profile;
use tinylsm_sim::trace::Keep;
use tinylsm_sim::world::run::run;

#[test]
fn what_was_found_once_is_not_found_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the folder is part of the project") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let seed: u64 = word("seed ").and_then(|text| text.parse().ok()).expect("a line `seed N`");
        let profile = word("profile ").and_then(Profile::from_name).expect("a line `profile NAME`");
        let ended = run(seed, profile, Keep::Nothing);
        if let Some(violation) = ended.violation {
            panic!("{}: {}: {}", path.display(), violation.oracle, violation.message);
        }
        count += 1;
    }
    assert!(count > 0, "there are seeds to replay");
}
