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
//! A name that does not parse is not ours, and is never touched. Neither is one with a number that no database comes to
//! by counting: were it taken for ours, the numbers behind it would be used up.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::base::limits;
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
                let number_of = |digits: &str| FileNumber::from_disk(digits.parse().ok()?);
                if let Some(digits) = name.strip_prefix("MANIFEST-") {
                    FileName::Manifest(number_of(digits)?)
                } else {
                    let (digits, extension) = name.split_once('.')?;
                    let number = number_of(digits)?;
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

/// Returns the first number behind `floor` and those of all `names`, for files yet to come.
///
/// # Errors
/// `Incompatible` if that leaves too few numbers for a database to live on: the file it names has to go elsewhere.
pub fn first_free_number<'a>(
    names: impl IntoIterator<Item = &'a FileName>,
    floor: FileNumber,
) -> Result<FileNumber> {
    let highest = names.into_iter().filter_map(|name| Some((name.number()?, name.to_string()))).max();
    let (taken, source) = highest
        .map(|(number, name)| (FileNumber(number.0 + 1), name))
        .filter(|(taken, _)| *taken > floor)
        .unwrap_or_else(|| (floor, "the manifest".to_owned()));
    if taken.0 > limits::FILE_NUMBER_MAX / 2 {
        let message = format!("{source} leaves no numbers for further files");
        return Err(Error::new(ErrorKind::Incompatible, message));
    }
    Ok(taken)
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
        for name in
            ["LOCK", "CURRENT", "RESERVE", "MANIFEST-000001", "000002.wal", "1234567.sst", "000008.tmp"]
        {
            assert_eq!(FileName::parse(name).expect(name).to_string(), name);
        }
        for name in ["", "lock", "MANIFEST-", "MANIFEST-1", "2.wal", "+00002.wal", "000002.wal.bak", "x.sst"]
        {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn numbers_never_run_out_because_of_a_name() {
        let table = |number| FileName::Table(FileNumber(number));
        let highest = table(limits::FILE_NUMBER_MAX);
        assert_eq!(FileName::parse(&highest.to_string()), Some(highest));
        for beyond in [limits::FILE_NUMBER_MAX + 1, u64::MAX] {
            assert_eq!(FileName::parse(&table(beyond).to_string()), None);
        }
        let free = |names: &[FileName], floor| first_free_number(names, FileNumber(floor));
        assert_eq!(free(&[], 1).expect("numbers are left"), FileNumber(1));
        assert_eq!(free(&[FileName::Current, table(7), table(3)], 5).expect("left"), FileNumber(8));
        assert_eq!(free(&[table(7)], 9).expect("left"), FileNumber(9));
        let error = free(&[table(3), highest], 9).expect_err("nothing is left");
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.to_string().contains(&highest.to_string()), "{error}");
        let error = free(&[table(3)], limits::FILE_NUMBER_MAX).expect_err("nothing is left");
        assert!(error.to_string().contains("manifest"), "{error}");
    }
}
