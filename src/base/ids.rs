//! Numbers that name things: files and keyspaces.

use crate::base::limits;
use std::fmt;

/// Names one file of a database forever. Tables, WAL segments and manifests share one sequence of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u64);

impl FileNumber {
    /// Makes a file number from bytes of a disk, which may be anything.
    pub const fn from_disk(raw: u64) -> Option<FileNumber> {
        if raw <= limits::FILE_NUMBER_MAX { Some(FileNumber(raw)) } else { None }
    }
}

impl fmt::Display for FileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// Names one keyspace of a database forever; 0 is the default keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

impl KeyspaceId {
    /// The keyspace that every database has.
    pub const DEFAULT: KeyspaceId = KeyspaceId(0);
    /// Its name.
    pub const DEFAULT_NAME: &str = "default";
}

impl fmt::Display for KeyspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
