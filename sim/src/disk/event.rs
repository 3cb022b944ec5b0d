//! What a disk tells whoever watches it.
//!
//! Every operation becomes one [`DiskEvent`] when its effect is there and before it returns; a sync is told
//! twice, when it begins and when it has ended, because the time between is where crashes are interesting.
//! The simulation hashes events into its trace, prints them, counts them to choose a crash point, and may cut the
//! power from inside the observer: then the operation has had its effect and never returns `Ok`.

use std::path::Path;
use std::sync::Arc;
use tinylsm::base::error::ErrorKind;

/// An operation of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DiskOp {
    /// A file was created for appending.
    Create,
    /// A file was opened for reading.
    Open,
    /// Bytes were appended: `offset` and `len` say which.
    Append,
    /// Space was reserved: `len` is the length asked for.
    Allocate,
    /// Space behind the logical end was given back: `len` is what is left.
    Trim,
    /// A file's sync began; `len` bytes were waiting for it.
    SyncBegin,
    /// A file's sync ended.
    Sync,
    /// Bytes were read: `len` is how many came.
    Read,
    /// A file was renamed to `to`.
    Rename,
    /// A name was removed.
    Remove,
    /// A file got a second name, `to`.
    Link,
    /// A directory and its parents were created.
    CreateDir,
    /// A directory was listed: `len` is how many names it has.
    ReadDir,
    /// A directory's sync began; `len` changes of names were waiting for it.
    SyncDirBegin,
    /// A directory's sync ended.
    SyncDir,
    /// A lock was asked for.
    Lock,
    /// Length and type were asked for.
    Metadata,
    /// The space left was asked for.
    Space,
}

impl DiskOp {
    /// Returns the word for it in errors and traces.
    pub const fn name(self) -> &'static str {
        match self {
            DiskOp::Create => "create",
            DiskOp::Open => "open",
            DiskOp::Append => "append",
            DiskOp::Allocate => "allocate",
            DiskOp::Trim => "trim",
            DiskOp::SyncBegin => "sync_begin",
            DiskOp::Sync => "sync",
            DiskOp::Read => "read",
            DiskOp::Rename => "rename",
            DiskOp::Remove => "remove",
            DiskOp::Link => "link",
            DiskOp::CreateDir => "create_dir",
            DiskOp::ReadDir => "read_dir",
            DiskOp::SyncDirBegin => "sync_dir_begin",
            DiskOp::SyncDir => "sync_dir",
            DiskOp::Lock => "lock",
            DiskOp::Metadata => "metadata",
            DiskOp::Space => "available_space",
        }
    }

    /// Tells whether the operation changes what a crash could keep; only these are worth a crash after them.
    pub const fn is_change(self) -> bool {
        matches!(
            self,
            DiskOp::Create
                | DiskOp::Append
                | DiskOp::Allocate
                | DiskOp::Trim
                | DiskOp::SyncBegin
                | DiskOp::Sync
                | DiskOp::Rename
                | DiskOp::Remove
                | DiskOp::Link
                | DiskOp::CreateDir
                | DiskOp::SyncDirBegin
                | DiskOp::SyncDir
        )
    }
}

/// One operation, as it happened.
#[derive(Clone, Copy, Debug)]
pub struct DiskEvent<'a> {
    /// What was done.
    pub op: DiskOp,
    /// What it was done to.
    pub path: &'a Path,
    /// The other name of a rename or a link.
    pub to: Option<&'a Path>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How much; the operation says of what.
    pub len: u64,
    /// Why it failed, if it did.
    pub error: Option<ErrorKind>,
}

/// Who is told. Called with no lock of the disk held, so it may call the disk.
pub type Observer = Arc<dyn Fn(&DiskEvent<'_>) + Send + Sync>;
