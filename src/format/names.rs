//! The name of every file of a database, both ways.
//!
//! ```text
//! LOCK                 held while the database is open
//! CURRENT              which manifest counts
//! MANIFEST-000005      version edits
//! 000006.wal           a WAL segment
//! 000007.sst           a table
//! 000008.tmp           becomes CURRENT by rename
//! RESERVE              space set aside for a full disk
//! ```
//!
//! A name that does not parse is not ours, and is never touched.

use crate::base::ids::FileNumber;
use std::path::{Path, PathBuf};

/// What a file of a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileName {
    /// The lock.
    Lock,
    /// The pointer to the manifest.
    Current,
    /// A manifest.
    Manifest(FileNumber),
    /// A WAL segment.
    Wal(FileNumber),
    /// A table.
    Table(FileNumber),
    /// A file on its way to become `CURRENT`.
    Temporary(FileNumber),
    /// Space set aside for a full disk; its bytes mean nothing.
    Reserve,
}

impl FileName {
    /// Reads a name; `None` if it is not one of ours.
    pub fn parse(name: &str) -> Option<FileName> {
        let parsed = match name {
            "LOCK" => FileName::Lock,
            "CURRENT" => FileName::Current,
            "RESERVE" => FileName::Reserve,
            _ => {
                if let Some(digits) = name.strip_prefix("MANIFEST-") {
                    FileName::Manifest(FileNumber(digits.parse().ok()?))
                } else {
                    let (digits, extension) = name.split_once('.')?;
                    let number = FileNumber(digits.parse().ok()?);
                    match extension {
                        "wal" => FileName::Wal(number),
                        "sst" => FileName::Table(number),
                        "tmp" => FileName::Temporary(number),
                        _ => return None,
                    }
                }
            }
        };
        // Only the canonical spelling counts: `+7.wal` parses as a number but was never written by us.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// Returns the number in the name, if it has one.
    pub fn number(&self) -> Option<FileNumber> {
        match *self {
            FileName::Lock | FileName::Current | FileName::Reserve => None,
            FileName::Manifest(number)
            | FileName::Wal(number)
            | FileName::Table(number)
            | FileName::Temporary(number) => Some(number),
        }
    }

    /// Returns the path of this file in `directory`.
    pub fn path(&self, directory: &Path) -> PathBuf {
        directory.join(self.to_string())
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileName::Lock => f.write_str("LOCK"),
            FileName::Current => f.write_str("CURRENT"),
            FileName::Reserve => f.write_str("RESERVE"),
            FileName::Manifest(number) => write!(f, "MANIFEST-{number}"),
            FileName::Wal(number) => write!(f, "{number}.wal"),
            FileName::Table(number) => write!(f, "{number}.sst"),
            FileName::Temporary(number) => write!(f, "{number}.tmp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_foreign_ones_do_not_parse() {
        for name in ["LOCK", "CURRENT", "RESERVE", "MANIFEST-000001", "000002.wal", "1234567.sst", "000008.tmp"] {
            assert_eq!(FileName::parse(name).expect(name).to_string(), name);
        }
        for name in ["", "lock", "MANIFEST-", "MANIFEST-1", "2.wal", "+00002.wal", "000002.wal.bak", "x.sst"]
        {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
