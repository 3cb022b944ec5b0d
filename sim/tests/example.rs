//! The example finds its planted bug, and the pages show what it prints.

#![allow(clippy::disallowed_methods, reason = "the pages lie on the real disk")]

use secondary_index::{Writes, look_for_a_seed};
use std::path::Path;

#[path = "../examples/secondary_index.rs"]
#[allow(dead_code, reason = "its main function is for the command line")]
mod secondary_index;

const MARK: &str = "<!-- output of sim/examples/secondary_index.rs -->\n```text\n";

#[test]
fn the_pages_show_what_the_example_prints() {
    let report = look_for_a_seed(Writes::Apart);
    let finding = report.finding.as_ref().expect("the planted bug is found");
    assert!(finding.seed < 20, "seed {}", finding.seed);
    // Here the file is reached from the tests.
    let printed = report.to_string().replace("tests/../", "");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Its times move with each step that the engine takes: as with the snapshots, one variable writes the pages anew.
    let is_renewing = std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always");
    for page in ["README.md", "docs/simulation.md"] {
        let text = std::fs::read_to_string(root.join(page)).expect("the page is there");
        let (before, behind) = text.split_once(MARK).expect("the page shows the output");
        let (shown, rest) = behind.split_once("\n```").expect("the block ends");
        if is_renewing {
            let renewed = format!("{before}{MARK}{}\n```{rest}", printed.trim_end());
            std::fs::write(root.join(page), renewed).expect("the page can be written");
            continue;
        }
        assert_eq!(shown, printed.trim_end(), "{page} shows something else than this:\n{printed}");
    }
}

#[test]
fn the_first_page_shows_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../README.md")).expect("the page is there");
    let (_, behind) = page.split_once("```rs\n").expect("the page shows the test");
    let (shown, _) = behind.split_once("\n\ntinylsm_sim::check").expect("the call follows");
    assert!(include_str!("../examples/secondary_index.rs").contains(shown), "README.md shows another test");
}

#[test]
fn the_mended_example_passes() {
    let report = look_for_a_seed(Writes::Together);
    report.expect_clean();
    assert_eq!(report.runs_count, 500);
    assert!(report.power_cuts_count > 500, "{report}");
}
