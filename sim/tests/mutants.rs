//! The planted bugs fit the engine as it is: a patch that no longer applies guards nothing.

#![allow(clippy::disallowed_methods, reason = "the patches lie on the real disk")]

use std::path::Path;
use std::process::Command;

#[test]
fn every_planted_bug_still_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    for entry in std::fs::read_dir(root.join("sim/mutants")).expect("the folder is part of the project") {
        let patch = entry.expect("readable").path();
        let arguments = ["apply", "--check", "--recount", "--whitespace=nowarn"];
        let output =
            Command::new("git").args(arguments).arg(&patch).current_dir(&root).output().expect("git runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {complaint}", patch.display());
        count += 1;
    }
    assert!(count >= 15, "the planted bugs are there");
}
