//! Faults of the engine that are known and not mended yet: the one place where an oracle or an operation is held back.
//!
//! Each name holds back what would meet its fault in nearly every run, and nothing else, so that the rest can be swept
//! meanwhile. Whoever mends a fault takes its name out of [`KNOWN`], and the runs meet it from then on. `--show NAME`
//! of `cargo sim sweep` and `cargo sim replay` takes it out for one command, which is how a fault is shown by seed.

use std::collections::BTreeSet;

/// A fault of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Two handles that close at once both do, and one of them writes into a directory that is unlocked.
    ClosesTwice,
    /// The latest time that expiry was decided by is stated at open only.
    TimeStatedAtOpenOnly,
    /// A snapshot reads a keyspace of another database.
    ForeignKeyspaceRead,
    /// `compact_range` leaves deletes or old versions behind that no snapshot needs.
    RangeNotCompacted,
    /// `Options::default_keyspace` is ignored when the database is there already.
    DefaultKeyspaceIgnored,
    /// A group that was logged in part meets a full disk, and `resume` goes on in a log with a hole.
    PartOfGroupLogged,
    /// A comparator that panics takes all writers with it.
    ComparatorPanics,
    /// A damaged keyspace stops the writes to all of them.
    DamageStopsAll,
    /// `wait_idle` of a database opened read-only never returns.
    ReadOnlyNeverIdle,
    /// Options that are legal one by one stop all writes for good.
    LimitsDoNotCompose,
    /// Log segments pile up over short lives, and a closed database keeps what it allocated.
    SpaceOfShortLives,
    /// A database on a full disk cannot be opened, or takes no delete.
    FullDiskIsShut,
    /// Deleted and overwritten entries stay on the disk while the database is quiet.
    DeletedSpaceStays,
    /// Foreign names in a fresh directory keep it from becoming a database.
    ForeignNamesDisturb,
    /// A number whose file was removed before any edit stated it is given out again after a reopen.
    FileNumbersReused,
    /// A file becomes removable and no thread is woken for it: `wait_idle` sleeps on.
    RemovalWakesNobody,
    /// `background_error` forgets a failure that still lasts.
    FailureForgotten,
    /// `background_error` remembers a failure whose cause is gone, when nothing is due any more.
    FailureOutlivesCause,
}

impl Fault {
    /// Every name.
    pub const ALL: [Fault; 18] = [
        Fault::ClosesTwice,
        Fault::TimeStatedAtOpenOnly,
        Fault::ForeignKeyspaceRead,
        Fault::RangeNotCompacted,
        Fault::DefaultKeyspaceIgnored,
        Fault::PartOfGroupLogged,
        Fault::ComparatorPanics,
        Fault::DamageStopsAll,
        Fault::ReadOnlyNeverIdle,
        Fault::LimitsDoNotCompose,
        Fault::SpaceOfShortLives,
        Fault::FullDiskIsShut,
        Fault::DeletedSpaceStays,
        Fault::ForeignNamesDisturb,
        Fault::FileNumbersReused,
        Fault::RemovalWakesNobody,
        Fault::FailureForgotten,
        Fault::FailureOutlivesCause,
    ];

    /// Finds a fault by its name, in the spelling of this file.
    pub fn from_name(name: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == name)
    }
}

/// The faults that the engine has today.
pub const KNOWN: &[Fault] = &[];

/// The faults that a run steers clear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFaults(BTreeSet<Fault>);

impl Default for KnownFaults {
    fn default() -> KnownFaults {
        KnownFaults(KNOWN.iter().copied().collect())
    }
}

impl KnownFaults {
    /// No fault is steered clear of.
    pub fn none() -> KnownFaults {
        KnownFaults(BTreeSet::new())
    }

    /// Lets runs meet a fault.
    pub fn show(&mut self, fault: Fault) {
        self.0.remove(&fault);
    }

    /// Tells whether a fault is steered clear of.
    pub fn holds(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }
}
