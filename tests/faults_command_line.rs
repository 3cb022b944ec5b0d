//! The command line over many short incarnations: each command opens and ends the database, and the directory stays small.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the test drives another process and looks at the files it leaves"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What a small database that was closed may take.
const SMALL_DATABASE_LEN_BYTES: u64 = 100_000;

/// Runs the program, which must end well; returns what it prints.
#[track_caller]
fn tinylsm(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tinylsm"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("output is text")
}

/// Returns how many files a directory has and what they take on the disk.
fn size_of(dir: &Path) -> (usize, u64) {
    let entries = fs::read_dir(dir).expect("the directory is there");
    let sizes = entries.map(|entry| entry.expect("listed").metadata().expect("there").blocks() * 512);
    sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size))
}

/// Forty puts by forty commands leave a few small files, and every one of the keys.
#[test]
fn puts_of_many_commands_leave_a_small_directory() {
    const COMMANDS_COUNT: usize = 40;
    let dir = TempDir::new().expect("a directory");
    let db = dir.path().join("db");
    let text = db.display().to_string();
    for i in 0..COMMANDS_COUNT {
        tinylsm(&["put", "--db", &text, &format!("key{i:03}"), "value"]);
    }
    let (files_count, len) = size_of(&db);
    assert_eq!(tinylsm(&["scan", "--db", &text]).lines().count(), COMMANDS_COUNT);
    assert!(len < SMALL_DATABASE_LEN_BYTES, "{len} bytes in {files_count} files");
    assert!(files_count <= 16, "{files_count} files");
}
