//! The real disk and clock.
//!
//! Owns every call to the operating system's files and clocks: nothing else in the engine names `std::fs`,
//! `std::time::Instant` or a system. Promises the contract of [`crate::vfs`] on a file system that keeps it;
//! `docs/platforms.md` says what that means on each system.
//!
//! How: one descriptor per handle and positioned reads and writes, so that no two calls share an offset (`file`); a
//! lock of the system's on a lock file (`lock`). What differs between systems, names and directories above all, is in
//! `unix` and `windows`; both have the same functions, and this module names neither. Interrupted calls and short
//! writes are continued; short reads are passed on, as the trait allows.
//!
//! It does not cache, retry errors, use memory maps or bypass the page cache.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this module is the one that calls the system's files and clocks"
)]

mod file;
mod lock;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use crate::vfs::os::unix as system;
#[cfg(windows)]
use crate::vfs::os::windows as system;

use crate::base::time::UnixMillis;
use crate::vfs::os::system::HeldDir;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The disk and clocks of this machine.
///
/// Cheap to clone; clones share the origin of [`Vfs::now`].
///
/// [`Vfs::now`]: crate::vfs::Vfs::now
#[derive(Clone, Debug)]
pub struct OsVfs {
    clock: OsClock,
    accepts: Accepts,
    held: Option<Arc<HeldDir>>,
}

/// Which abilities a file system may lack.
#[derive(Clone, Copy, Debug, Default)]
struct Accepts {
    missing_locks: bool,
    missing_dir_sync: bool,
}

impl OsVfs {
    /// Makes the real disk. Touches nothing.
    pub fn new() -> OsVfs {
        OsVfs { clock: OsClock::new(), accepts: Accepts::default(), held: None }
    }

    /// Goes on without a lock where the file system cannot lock files (some network and user-space file systems);
    /// without this, [`Vfs::lock`] fails there with [`ErrorKind::Unsupported`]. Where it can, it still locks.
    ///
    /// **What is no longer promised** on such a file system: that only one process, or one handle, has a database
    /// open. Two that write to one database destroy it, and nobody is told. The application has to exclude them.
    ///
    /// [`Vfs::lock`]: crate::vfs::Vfs::lock
    /// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
    #[must_use]
    pub fn accept_missing_locks(mut self) -> OsVfs {
        self.accepts.missing_locks = true;
        self
    }

    /// Goes on without syncing directories where the file system cannot do that; without this, [`Vfs::sync_dir`]
    /// fails there with [`ErrorKind::Unsupported`]. Where it can, it still syncs them, and an error is an error.
    ///
    /// **What is no longer promised** on such a file system: that a database survives a power cut. New files may be
    /// missing afterwards and removed ones be back, unless the file system keeps names in order by itself. What a
    /// killed process wrote is safe all the same.
    ///
    /// [`Vfs::sync_dir`]: crate::vfs::Vfs::sync_dir
    /// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
    #[must_use]
    pub fn accept_missing_dir_sync(mut self) -> OsVfs {
        self.accepts.missing_dir_sync = true;
        self
    }
}

impl Default for OsVfs {
    fn default() -> OsVfs {
        OsVfs::new()
    }
}

/// The clocks of this machine, for a disk of one's own to delegate to. Inside a simulated run too, they are the machine's:
/// [`crate::vfs::Vfs::now`] and its like go by [`crate::sync::time`] there unless they are overridden.
#[derive(Clone, Debug)]
pub struct OsClock {
    origin: Instant,
}

impl Default for OsClock {
    fn default() -> OsClock {
        OsClock::new()
    }
}

impl OsClock {
    /// Starts a monotonic clock at zero.
    pub fn new() -> OsClock {
        OsClock { origin: Instant::now() }
    }

    /// Returns nanoseconds since [`OsClock::new`].
    pub fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the wall clock, before 1970 as a negative number.
    pub fn wall(&self) -> UnixMillis {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        UnixMillis(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        })
    }

    /// Blocks this thread for at least `duration`.
    pub fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// Returns the directory that holds `path`'s name; a bare name lives in the current one.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Returns what follows one of a directory's paths in `path`; `None` if the path does not lead into it.
fn name_below<'a>(directory: &[&PathBuf], path: &'a Path) -> Option<&'a Path> {
    let rest = directory.iter().find_map(|directory| path.strip_prefix(directory).ok())?;
    rest.components().all(|part| matches!(part, Component::Normal(_))).then_some(rest)
}
