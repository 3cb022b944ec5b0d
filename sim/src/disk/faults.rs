//! What can go wrong, and how long things take.
//!
//! Both are plain data that a workload draws for a run. A rate is a chance per opportunity in parts per million; a
//! rate of zero takes no choice from the tape, so a run without faults has none to shrink. No fault here
//! damages bytes that a sync made durable: damage of that kind is done on purpose, by the methods of
//! [`crate::disk::SimDisk`] that say so.

use crate::tape::{Label, Tape};

/// A chance in parts per million.
pub type PerMillion = u32;

/// One in this many is certain.
pub(in crate::disk) const MILLION: u64 = 1_000_000;

/// How often what fails. The default is a disk without faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// A file's sync fails, and its bytes are in doubt forever.
    pub sync: PerMillion,
    /// A directory's sync fails: its changes then happened, or never will, or wait for another sync.
    pub sync_dir: PerMillion,
    /// An append fails after any part of its bytes.
    pub append: PerMillion,
    /// A read fails; the next one may work.
    pub read: PerMillion,
    /// A read brings fewer bytes than asked for.
    pub short_read: PerMillion,
    /// A read brings the bytes of another place of the file, or of another file; the next one is right.
    pub misdirected_read: PerMillion,
    /// A read brings one sector as it was before the last write to it; the next one is right.
    pub stale_read: PerMillion,
    /// How the names of the files end whose reads may be misdirected or stale. Empty means all of them, logs included,
    /// whose last bytes nothing can vouch for.
    pub wrong_reads_of: &'static str,
    /// Opening a file fails.
    pub open: PerMillion,
    /// Listing a directory fails.
    pub read_dir: PerMillion,
    /// Creating a file fails, with or without the file being there.
    pub create: PerMillion,
    /// A rename fails, having happened or not.
    pub rename: PerMillion,
    /// Removing a name fails, having happened or not.
    pub remove: PerMillion,
    /// Linking fails.
    pub link: PerMillion,
    /// Reserving space fails though there is some.
    pub allocate: PerMillion,
    /// Giving space back fails, having happened or not.
    pub trim: PerMillion,
    /// Asking for a length or a type fails, and so does looking whether a lock's file is still the same.
    pub metadata: PerMillion,
    /// There is no descriptor to give, whatever the limit.
    pub exhausted: PerMillion,
    /// How many of the next opportunities fail for certain once something has failed. An opportunity is an operation
    /// with a rate above zero; those that an engine must bear without an error are none.
    pub chain: u32,
    /// A sync of a file or directory takes up to [`FaultPlan::stall_ns_max`] longer.
    pub stall: PerMillion,
    /// The longest stall, in nanoseconds.
    pub stall_ns_max: u64,
    /// The wall clock jumps when it is read.
    pub wall_jump: PerMillion,
    /// The widest jump, in milliseconds, either way.
    pub wall_jump_ms_max: u64,
    /// The disk has no hard links: linking copies.
    pub refuses_links: bool,
    /// The disk cannot reserve space: allocating does nothing.
    pub refuses_allocation: bool,
    /// What the disk says of its free space knows nothing of its limit, as where a quota sets it.
    pub hides_limit: bool,
    /// The disk cannot lock files.
    pub refuses_locks: bool,
    /// The disk cannot sync directories, and so makes none either.
    pub refuses_dir_sync: bool,
}

/// How long one kind of operation takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// At least this, in nanoseconds.
    pub base_ns: u64,
    /// Evenly up to this much more.
    pub spread_ns: u64,
    /// Rare and slow: how often, and how much more. Rarest last, and together far below certain.
    pub tail: &'static [(PerMillion, u64)],
}

impl Latency {
    const NONE: Latency = Latency { base_ns: 0, spread_ns: 0, tail: &[] };

    /// Draws one duration in nanoseconds; nothing is drawn where nothing can vary.
    pub(in crate::disk) fn draw(&self, tape: &Tape) -> u64 {
        if self.spread_ns == 0 && self.tail.is_empty() {
            return self.base_ns;
        }
        let point = tape.below(Label::Latency, MILLION);
        let mut left = MILLION - 1 - point;
        let mut slow_ns = 0;
        for (chance, extra_ns) in self.tail {
            if left < u64::from(*chance) {
                slow_ns = *extra_ns;
                break;
            }
            left -= u64::from(*chance);
        }
        self.base_ns + self.spread_ns * point / MILLION + slow_ns
    }
}

/// How long everything takes, in virtual time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyPlan {
    /// An append, and a reservation.
    pub append: Latency,
    /// A read.
    pub read: Latency,
    /// A sync of a file or directory, without its bytes.
    pub sync: Latency,
    /// What each KiB that was not synced adds to a sync, in nanoseconds.
    pub sync_ns_per_kib: u64,
    /// Anything that creates, changes, lists or opens names.
    pub name: Latency,
}

impl LatencyPlan {
    /// A disk that takes no time.
    pub const fn none() -> LatencyPlan {
        LatencyPlan {
            append: Latency::NONE,
            read: Latency::NONE,
            sync: Latency::NONE,
            sync_ns_per_kib: 0,
            name: Latency::NONE,
        }
    }

    /// A good solid-state disk behind a page cache: mostly the syncs cost.
    pub const fn fast() -> LatencyPlan {
        LatencyPlan {
            append: Latency { base_ns: 0, spread_ns: 0, tail: &[(20_000, 20_000), (500, 2_000_000)] },
            read: Latency { base_ns: 0, spread_ns: 0, tail: &[(50_000, 80_000), (500, 4_000_000)] },
            sync: Latency {
                base_ns: 60_000,
                spread_ns: 60_000,
                tail: &[(1_000, 3_000_000), (20, 900_000_000)],
            },
            sync_ns_per_kib: 800,
            name: Latency { base_ns: 0, spread_ns: 4_000, tail: &[(2_000, 1_000_000)] },
        }
    }

    /// A disk with a head that moves.
    pub const fn slow() -> LatencyPlan {
        LatencyPlan {
            append: Latency { base_ns: 2_000, spread_ns: 8_000, tail: &[(5_000, 8_000_000)] },
            read: Latency {
                base_ns: 2_000,
                spread_ns: 10_000,
                tail: &[(300_000, 8_000_000), (1_000, 200_000_000)],
            },
            sync: Latency { base_ns: 8_000_000, spread_ns: 20_000_000, tail: &[(1_000, 2_000_000_000)] },
            sync_ns_per_kib: 8_000,
            name: Latency { base_ns: 5_000, spread_ns: 30_000, tail: &[(20_000, 10_000_000)] },
        }
    }
}
