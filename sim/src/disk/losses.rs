//! The report of a crash: how its survivors were chosen, and what was lost.

use crate::disk::volume::NameChangeKind;
use crate::disk::wish::CrashMode;
use std::fmt;
use std::sync::Arc;

/// How a disk came out of a crash. Printing it gives one line for each change that was lost.
#[derive(Clone, Debug, Default)]
pub struct CrashReport {
    pub(in crate::disk) mode: Option<CrashMode>,
    pub(in crate::disk) losses: Vec<Loss>,
}

impl CrashReport {
    /// Tells how the survivors of a power loss were chosen; `None` if only the process was killed.
    pub fn mode(&self) -> Option<CrashMode> {
        self.mode
    }

    /// Tells what was lost.
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode.map_or("process killed", CrashMode::name))?;
        for loss in &self.losses {
            write!(f, "\n  {loss}")?;
        }
        Ok(())
    }
}

/// What stands where bytes were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// Zeros.
    Zeros,
    /// Bytes that a file had which is gone.
    Stale,
    /// Random bytes.
    Random,
}

impl Fill {
    /// Returns the name under which [`crate::disk::SimDisk::counters`] counts it.
    pub const fn name(self) -> &'static str {
        match self {
            Fill::Zeros => "crash: bytes lost to zeros",
            Fill::Stale => "crash: bytes lost to stale ones",
            Fill::Random => "crash: bytes lost to random ones",
        }
    }
}

/// One thing that a crash took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A name did not appear.
    Added(Arc<str>),
    /// A name came back.
    Removed(Arc<str>),
    /// A rename did not happen.
    Renamed(Arc<str>, Arc<str>),
    /// A file is shorter than it was; or longer, where space came back that had been given back.
    Length {
        /// The file.
        file: Arc<str>,
        /// Its length before.
        from: u64,
        /// Its length now.
        to: u64,
    },
    /// Bytes of a file are not what was written.
    Bytes {
        /// The file.
        file: Arc<str>,
        /// The first such byte.
        start: u64,
        /// The byte after the last.
        end: u64,
        /// What is there now.
        fill: Fill,
    },
}

impl Loss {
    pub(in crate::disk) fn of_name(kind: &NameChangeKind) -> Loss {
        match kind {
            NameChangeKind::Add { name, .. } => Loss::Added(name.clone()),
            NameChangeKind::Remove { name } => Loss::Removed(name.clone()),
            NameChangeKind::Rename { from, to, .. } => Loss::Renamed(from.clone(), to.clone()),
        }
    }

    pub(in crate::disk) fn set_file(&mut self, name: &Arc<str>) {
        if let Loss::Length { file, .. } | Loss::Bytes { file, .. } = self {
            *file = name.clone();
        }
    }

    /// Returns the name under which [`crate::disk::SimDisk::counters`] counts it.
    pub const fn name(&self) -> &'static str {
        match self {
            Loss::Added(_) => "crash: new name lost",
            Loss::Removed(_) => "crash: removed name came back",
            Loss::Renamed(..) => "crash: rename lost",
            Loss::Length { .. } => "crash: length lost",
            Loss::Bytes { fill, .. } => fill.name(),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Added(name) => write!(f, "{name} never appeared"),
            Loss::Removed(name) => write!(f, "{name} was not removed"),
            Loss::Renamed(from, to) => write!(f, "{from} was not renamed to {to}"),
            Loss::Length { file, from, to } => write!(f, "{file} has {to} bytes instead of {from}"),
            Loss::Bytes { file, start, end, fill } => {
                let what = match fill {
                    Fill::Zeros => "zeros",
                    Fill::Stale => "bytes of a file that is gone",
                    Fill::Random => "random bytes",
                };
                write!(f, "{file} has {what} in {start}..{end}")
            }
        }
    }
}
