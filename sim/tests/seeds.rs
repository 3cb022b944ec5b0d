//! Every seed that once found a bug, forever.
//!
//! The run of a seed changes when the workload does, so `cargo sim mutants` checks that each still fails where its
//! bug is planted again.

#![allow(clippy::disallowed_methods, reason = "the seed files lie on the real disk")]

use std::path::Path;
use tinylsm_sim::trace::Keep;
use tinylsm_sim::workload::run::run;
use tinylsm_sim::workload::seed_file::SeedFile;

#[test]
fn what_was_found_once_is_not_found_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("the folder is part of the project") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let SeedFile { seed, profile, mutant } =
            SeedFile::parse(&text).unwrap_or_else(|message| panic!("{}: {message}", path.display()));
        let patch = mutant.map(|name| directory.join(format!("../mutants/{name}.patch")));
        assert!(patch.is_none_or(|patch| patch.exists()), "{} names no patch", path.display());
        let ended = run(seed, profile, Keep::Nothing);
        if let Some(violation) = ended.violation {
            panic!("{}: {}: {}", path.display(), violation.oracle, violation.message);
        }
        count += 1;
    }
    assert!(count > 0, "there are seeds to replay");
}
