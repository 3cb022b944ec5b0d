//! A test's own process: the test binary starts itself again for one test.
//!
//! The current directory, the limit on descriptors and forked children belong to a whole process, and the tests of one
//! binary share one.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the test drives another process and looks at what it leaves"
)]

use crate::watchdog::CALL_MAX;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tinylsm::sync::{Condvar, Mutex};

const NAME: &str = "TINYLSM_TEST_CHILD";
const PLACE: &str = "TINYLSM_TEST_PLACE";

/// Returns the place that the parent gave, if this is the child that runs the test `name`.
pub fn place_in_child(name: &str) -> Option<PathBuf> {
    let is_child = std::env::var_os(NAME).is_some_and(|child| child == name);
    is_child.then(|| PathBuf::from(std::env::var_os(PLACE).expect("the parent gives a place")))
}

/// Runs the test `name` in a child whose current directory and place is `place`; it must end well.
#[track_caller]
pub fn run(name: &str, place: &Path) {
    let exe = std::env::current_exe().expect("a test knows its program");
    finish(name, place, Command::new(exe));
}

/// As [`run`], with at most `descriptors_count` open descriptors.
#[track_caller]
pub fn run_with_few_descriptors(name: &str, place: &Path, descriptors_count: u32) {
    finish(name, place, limited(&format!("-n {descriptors_count}")));
}

/// As [`run`], with at most so much memory.
#[track_caller]
pub fn run_with_little_memory(name: &str, place: &Path, memory_mib: u32) {
    finish(name, place, limited(&format!("-v {}", memory_mib << 10)));
}

fn limited(limit: &str) -> Command {
    let exe = std::env::current_exe().expect("a test knows its program");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\"")).arg(exe);
    command
}

#[track_caller]
fn finish(name: &str, place: &Path, mut command: Command) {
    let mut output = tempfile::tempfile().expect("a temporary file can be made");
    let stream = |file: &File| Stdio::from(file.try_clone().expect("a descriptor is left"));
    let child = command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(NAME, name)
        .env(PLACE, place)
        .current_dir(place)
        .stdin(Stdio::null())
        .stdout(stream(&output))
        .stderr(stream(&output))
        .spawn()
        .expect("the program starts");
    let status = await_end(child);
    let mut text = String::new();
    output.seek(SeekFrom::Start(0)).expect("the file is ours");
    output.read_to_string(&mut text).expect("output is text");
    let status = status.unwrap_or_else(|| panic!("the child does not end:\n{text}"));
    assert!(status.success() && text.contains("1 passed"), "the child failed ({status}):\n{text}");
}

/// Waits for a child's end; kills it and returns `None` if that takes too long.
fn await_end(mut child: Child) -> Option<ExitStatus> {
    let (mutex, nobody) = (Mutex::new(()), Condvar::new());
    let slice = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while waited < 2 * CALL_MAX {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return Some(status);
        }
        nobody.wait_for(&mut mutex.lock(), slice);
        waited += slice;
    }
    drop(child.kill());
    drop(child.wait());
    None
}
