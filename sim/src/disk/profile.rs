//! What kinds of disk there are: which of the changes that nobody synced a crash may keep.
//!
//! A [`Profile`] is a row of rules. All of them agree on what the engine may rely on (a sync that returned `Ok`,
//! renames that replace at once, sectors of 512 bytes that are old or new); they differ in what happens
//! to everything else. Whatever `Ext4` can leave behind, `Worst` can too.

/// Bytes that a disk writes all or nothing.
pub const SECTOR_LEN_BYTES: u64 = 512;

/// Bytes that the page cache forgets or keeps together when a sync fails.
pub(in crate::disk) const PAGE_LEN_BYTES: u64 = 4096;

/// A kind of disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Profile {
    /// Only the process dies: everything visible stays visible, and what was not synced stays not synced.
    Kill,
    /// Linux's ext4 with `data=ordered`: names change in order, a sync of anything settles all names before it,
    /// appended bytes survive as a prefix with zeros behind, a small file that replaces another is flushed.
    Ext4,
    /// All that the contract of `tinylsm::vfs` allows: names in any order, a file's name only by a sync of its
    /// directory, any sectors of unsynced bytes, and zeros or stale or random bytes in place of the others.
    #[default]
    Worst,
}

/// What becomes of bytes whose sync failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedSync {
    /// Readers go on seeing them, the system thinks they are written, and some pages never were.
    KeepNew,
    /// The file goes back to what it was at the last good sync.
    Revert,
}

/// A profile's row of rules.
#[derive(Clone, Copy, Debug)]
pub(in crate::disk) struct Rules {
    /// Unsynced changes of names and reservations survive as a prefix, and any sync settles all before it.
    pub(in crate::disk) has_journal: bool,
    /// Unsynced appended bytes survive as a prefix, with zeros up to the surviving length.
    pub(in crate::disk) keeps_append_order: bool,
    /// Bytes of freed files and random ones may show where unsynced bytes were lost.
    pub(in crate::disk) shows_garbage: bool,
    /// A rename over an existing name, of a file up to this long, does not survive without the file's bytes.
    pub(in crate::disk) replace_flushes_len_max: u64,
    /// What a failed sync may do.
    pub(in crate::disk) failed_sync: &'static [FailedSync],
}

impl Profile {
    /// Every profile, mildest first.
    pub const ALL: [Profile; 3] = [Profile::Kill, Profile::Ext4, Profile::Worst];

    /// Returns the name it has on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Kill => "kill",
            Profile::Ext4 => "ext4",
            Profile::Worst => "worst",
        }
    }

    /// Finds a profile by its name.
    pub fn from_name(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }

    pub(in crate::disk) const fn rules(self) -> Rules {
        match self {
            // The rules for syncs that fail and directories that are synced hold while the process lives.
            Profile::Kill | Profile::Ext4 => Rules {
                has_journal: true,
                keeps_append_order: true,
                shows_garbage: false,
                replace_flushes_len_max: 64 << 10,
                failed_sync: &[FailedSync::KeepNew],
            },
            Profile::Worst => Rules {
                has_journal: false,
                keeps_append_order: false,
                shows_garbage: true,
                replace_flushes_len_max: 0,
                failed_sync: &[FailedSync::KeepNew, FailedSync::Revert],
            },
        }
    }
}
