//! What a crash should keep before the profile's rules make it legal: a mode for the whole disk, and wishes for each change.

use crate::tape::{Label, Tape};

/// A biased way to choose what survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashMode {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// What came before one moment.
    Prefix,
    /// Names and lengths without bytes.
    Lengths,
    /// Bytes and lengths without names.
    Bytes,
    /// Each file whole or not at all.
    Files,
    /// The newest files whole, the older ones not.
    Inversion,
    /// Only removals, and renames over something.
    Removals,
    /// All changes but one, or one change only.
    One,
    /// Each sector and name by its own coin.
    Sectors,
}

impl CrashMode {
    /// Every mode with its weight; the simplest comes first.
    const WEIGHTS: [(CrashMode, u32); 10] = [
        (CrashMode::Everything, 4),
        (CrashMode::Nothing, 8),
        (CrashMode::Prefix, 12),
        (CrashMode::Lengths, 12),
        (CrashMode::Bytes, 6),
        (CrashMode::Files, 14),
        (CrashMode::Inversion, 12),
        (CrashMode::Removals, 12),
        (CrashMode::One, 12),
        (CrashMode::Sectors, 8),
    ];

    pub(in crate::disk) fn draw(tape: &Tape) -> CrashMode {
        CrashMode::WEIGHTS[tape.weighted(Label::Crash, &CrashMode::WEIGHTS.map(|(_, weight)| weight))].0
    }

    /// Returns the name under which [`crate::disk::SimDisk::counters`] counts it.
    pub const fn name(self) -> &'static str {
        match self {
            CrashMode::Nothing => "crash: nothing kept",
            CrashMode::Everything => "crash: everything kept",
            CrashMode::Prefix => "crash: prefix kept",
            CrashMode::Lengths => "crash: names and lengths kept",
            CrashMode::Bytes => "crash: bytes kept",
            CrashMode::Files => "crash: some files kept",
            CrashMode::Inversion => "crash: newest files kept",
            CrashMode::Removals => "crash: removals kept",
            CrashMode::One => "crash: one change apart",
            CrashMode::Sectors => "crash: some sectors kept",
        }
    }
}

/// A wish about changes, told apart by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::disk) enum Wish {
    All,
    None,
    Before(u64),
    Only(u64),
    Except(u64),
    /// By a coin that keeps so many times out of ten.
    Coin(u64),
}

impl Wish {
    pub(in crate::disk) fn keeps(self, seq: u64, tape: &Tape) -> bool {
        match self {
            Wish::All => true,
            Wish::None => false,
            Wish::Before(end) => seq < end,
            Wish::Only(one) => seq == one,
            Wish::Except(one) => seq != one,
            Wish::Coin(tenths) => tape.below(Label::Crash, 10) < tenths,
        }
    }
}

/// What a mode wishes for one file.
#[derive(Clone, Copy, Debug)]
pub(in crate::disk) struct FileWish {
    pub(in crate::disk) lengths: Wish,
    pub(in crate::disk) bytes: Wish,
}

impl FileWish {
    pub(in crate::disk) const fn both(wish: Wish) -> FileWish {
        FileWish { lengths: wish, bytes: wish }
    }
}
