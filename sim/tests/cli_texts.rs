//! What the simulator's command line says of itself, in terminals of several widths.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the test drives another process")]

use std::process::Command;

/// Returns what the program says in a terminal of so many columns.
fn said(arguments: &[&str], columns: usize) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tinylsm-sim"))
        .args(arguments)
        .env("COLUMNS", columns.to_string())
        .output()
        .expect("the program runs");
    String::from_utf8([output.stdout, output.stderr].concat()).expect("it says text")
}

#[test]
fn help_fits_the_terminal_and_breaks_between_words() {
    let helps: [&[&str]; 6] = [
        &[],
        &["--help"],
        &["help", "sweep"],
        &["sweep", "--help"],
        &["replay", "--help"],
        &["mutants", "--help"],
    ];
    for arguments in helps {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let wide = said(arguments, 120);
        assert!(wide.contains("Usage: cargo sim"), "{wide}");
        for columns in [60, 80, 120, 200] {
            let text = said(arguments, columns);
            let longest = text.lines().max_by_key(|line| line.chars().count()).expect("it says something");
            assert!(longest.chars().count() <= columns.min(120), "too long for {columns}: {longest}");
            assert_eq!(words(&text), words(&wide), "{arguments:?} at {columns}");
        }
    }
}

#[test]
fn wrong_usage_says_what_is_right() {
    for (arguments, part) in [
        (&["sweep", "--seeds", "5"][..], "FIRST..END"),
        (&["sweep", "--seeds", "0..1", "--profile", "worse"], "kill, ext4 or worst"),
        (&["replay", "1", "--without", "nothing"], "there is no operation"),
    ] {
        let text = said(arguments, 80);
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}
