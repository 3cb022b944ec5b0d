//! The one error type of the engine.
//!
//! [`ErrorKind`] says what a caller can do about it; the text says which file, where, doing what. An error is
//! cheap to clone, because one background failure is returned to every later writer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What every fallible call of the crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The call itself is wrong: a value over the limit, an option out of range. Fix the call.
    InvalidArgument,
    /// What was asked for by name does not exist.
    NotFound,
    /// What was to be created exists already.
    AlreadyExists,
    /// Another process (or another handle in this one) has the database open.
    Locked,
    /// The database was made by a newer format or another comparator, or what lies in the directory is no database's.
    Incompatible,
    /// Bytes on disk are not what was written. The text names file and offset. Restore from a backup.
    Corruption,
    /// The disk or a quota is full. Make space and retry.
    NoSpace,
    /// The process or the system has no descriptor, memory or thread to give. Nothing was lost and nothing is
    /// missing: free some, or raise the limit, and retry.
    Exhausted,
    /// The file system lacks an ability that the call needs. The text names it, and the option that goes without it
    /// where that can be right.
    Unsupported,
    /// The disk failed in another way. The text names the operation and the system's code.
    Io,
    /// The write would have had to wait longer than allowed for flush or compaction. Retry later.
    Busy,
    /// No call gives this: it is set aside for transactions, which this version does not have, where one loses against
    /// another and is to be tried again.
    Conflict,
    /// Writing is off: opened read-only, or an earlier failure of the WAL or manifest. Reopen.
    ReadOnly,
    /// The database was closed, or the keyspace dropped.
    Closed,
    /// A panic in the engine's or the caller's code was contained. The text says what panicked. Reopen, and report it.
    Internal,
}

/// An error of the engine: cheap to clone, with file, offset, operation and source inside.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    file: Option<PathBuf>,
    offset: Option<u64>,
    operation: Option<&'static str>,
    os_code: Option<i32>,
    source: Option<Cause>,
    /// The message ends with the whole text of the source, which says where and doing what.
    is_telling_source: bool,
}

#[derive(Debug, Clone)]
enum Cause {
    Io(Arc<io::Error>),
    Engine(Error),
}

impl Error {
    /// Creates an error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            file: None,
            offset: None,
            operation: None,
            os_code: None,
            source: None,
            is_telling_source: false,
        }))
    }

    /// Creates an [`ErrorKind::InvalidArgument`] error.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// Creates an [`ErrorKind::Corruption`] error at `offset` of `file`.
    pub fn corruption(file: &Path, offset: u64, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corruption, message).with_file(file).with_offset(offset)
    }

    /// Wraps a system error met during `operation` on `file`, choosing the kind from its code.
    pub fn from_io(operation: &'static str, file: &Path, source: io::Error) -> Error {
        let way_out = lacking_descriptors(&source);
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            // ENOMEM and EAGAIN.
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => ErrorKind::Exhausted,
            _ if way_out.is_some() => ErrorKind::Exhausted,
            _ => ErrorKind::Io,
        };
        let error = Error::caused(kind, operation, file, source);
        match way_out {
            Some(way_out) => error.with_remark(way_out),
            None => error,
        }
    }

    /// Wraps what a sync of `file` reported after it began. Its kind is [`ErrorKind::NoSpace`] or [`ErrorKind::Io`]
    /// whatever the code: an error of writing back may carry any, and none of them means that nothing was lost.
    pub fn from_sync(operation: &'static str, file: &Path, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error::caused(kind, operation, file, source)
    }

    fn caused(kind: ErrorKind, operation: &'static str, file: &Path, source: io::Error) -> Error {
        Error(Arc::new(Inner {
            kind,
            message: source.to_string(),
            file: Some(file.to_owned()),
            offset: None,
            operation: Some(operation),
            os_code: source.raw_os_error(),
            source: Some(Cause::Io(Arc::new(source))),
            is_telling_source: false,
        }))
    }

    fn edit(self, change: impl FnOnce(&mut Inner)) -> Error {
        let old = &self.0;
        let mut inner = Inner {
            kind: old.kind,
            message: old.message.clone(),
            file: old.file.clone(),
            offset: old.offset,
            operation: old.operation,
            os_code: old.os_code,
            source: old.source.clone(),
            is_telling_source: old.is_telling_source,
        };
        change(&mut inner);
        Error(Arc::new(inner))
    }

    /// Adds the file the error is about.
    #[must_use]
    pub fn with_file(self, file: &Path) -> Error {
        self.edit(|inner| inner.file = Some(file.to_owned()))
    }

    /// Adds the byte offset the error is about.
    #[must_use]
    pub fn with_offset(self, offset: u64) -> Error {
        self.edit(|inner| inner.offset = Some(offset))
    }

    /// Adds the operation that met the error.
    #[must_use]
    pub fn with_operation(self, operation: &'static str) -> Error {
        self.edit(|inner| inner.operation = Some(operation))
    }

    /// Wraps `self` as the source of a new error of `kind`, keeping file and offset in sight.
    #[must_use]
    pub fn wrap(self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            file: self.0.file.clone(),
            offset: self.0.offset,
            operation: self.0.operation,
            os_code: self.0.os_code,
            source: Some(Cause::Engine(self)),
            is_telling_source: false,
        }))
    }

    /// Wraps `self` as the source of a new error of `kind` whose text is `context`, a colon, and what `self` says: file,
    /// offset and operation are in sight as before, and told once.
    #[must_use]
    pub fn within(self, kind: ErrorKind, context: &str) -> Error {
        let message = format!("{context}: {self}");
        self.wrap(kind, message).edit(|inner| inner.is_telling_source = true)
    }

    /// Adds to what the error says, in the same sentence.
    #[must_use]
    pub fn with_remark(self, remark: &str) -> Error {
        self.edit(|inner| inner.message = format!("{}; {remark}", inner.message))
    }

    /// Says of a file that has to be there, in words, what it means that it is missing or a directory: damage.
    #[must_use]
    pub(crate) fn if_missing(self, what: &str) -> Error {
        let is_directory = self.io_source().is_some_and(|cause| cause.kind() == io::ErrorKind::IsADirectory);
        match self.kind() {
            ErrorKind::NotFound => self.wrap(ErrorKind::Corruption, format!("{what} is missing")),
            _ if is_directory => {
                self.wrap(ErrorKind::Corruption, format!("a directory is in the place of {what}"))
            }
            _ => self,
        }
    }

    /// Tells whether this is a clone of `other`.
    pub fn is_same(&self, other: &Error) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the system's error that caused it, if one did.
    fn io_source(&self) -> Option<&io::Error> {
        match self.0.source.as_ref()? {
            Cause::Io(source) => Some(source),
            Cause::Engine(source) => source.io_source(),
        }
    }

    /// Returns what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the file the error is about.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// Returns the byte offset in [`Error::file`] where it was met.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Returns the operation that met it, as `"append"` or `"sync_dir"`; the text says it in words.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// Returns the operating system's error code, if one caused it.
    pub fn os_code(&self) -> Option<i32> {
        self.0.os_code
    }

    /// Tells whether the same call may succeed later without any repair.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Busy | ErrorKind::Conflict | ErrorKind::NoSpace | ErrorKind::Exhausted
        )
    }
}

/// Returns an operation as a text says it.
fn in_words(operation: &'static str) -> &'static str {
    match operation {
        "hold_dir" => "open the directory",
        "create_dir" => "create the directory",
        "read_dir" => "list the directory",
        "sync_dir" => "sync the directory",
        "available_space" => "ask for the free space of",
        "metadata" | "len" => "look at",
        verb => verb,
    }
}

/// Returns what helps if the process or the whole system has no descriptor left: EMFILE and ENFILE, which are the same on
/// every Unix, and ERROR_TOO_MANY_OPEN_FILES. The standard library has no kind for them.
fn lacking_descriptors(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        24 if !cfg!(windows) => Some(
            "raise the limit of the process (ulimit -n); a program can also lower open_files_max in its options",
        ),
        23 if !cfg!(windows) => Some(
            "the limit is that of the whole system, above that of each process (ulimit -n): raise it, close files of \
             other programs; a program can also lower open_files_max in its options",
        ),
        4 if cfg!(windows) => Some("close some; a program can also lower open_files_max in its options"),
        _ => None,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if inner.is_telling_source {
            return f.write_str(&inner.message);
        }
        if let Some(operation) = inner.operation {
            write!(f, "{} ", in_words(operation))?;
        }
        if let Some(file) = &inner.file {
            write!(f, "{}", file.display())?;
            if let Some(offset) = inner.offset {
                write!(f, " at byte {offset}")?;
            }
        }
        if inner.operation.is_some() || inner.file.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "{:?}: {text}", self.0.kind)?;
        // Mostly the text has it already.
        let source = std::error::Error::source(self).map(ToString::to_string);
        match source.filter(|source| !text.contains(source.as_str())) {
            Some(source) => write!(f, " (because: {source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(Cause::Io(source)) => Some(source.as_ref()),
            Some(Cause::Engine(source)) => Some(source),
            None => None,
        }
    }
}

impl From<Error> for io::Error {
    /// Keeps the error whole, as what [`io::Error::get_ref`] gives and `downcast` takes out; its kind is the one that
    /// comes closest.
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Locked => io::ErrorKind::ResourceBusy,
            ErrorKind::Incompatible | ErrorKind::Corruption => io::ErrorKind::InvalidData,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Exhausted => io::ErrorKind::OutOfMemory,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Busy => io::ErrorKind::TimedOut,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::Conflict | ErrorKind::Closed | ErrorKind::Internal => io::ErrorKind::Other,
            ErrorKind::Io => error.io_source().map_or(io::ErrorKind::Other, io::Error::kind),
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_error_goes_through_io_and_comes_back_whole() {
        let error = Error::from_io("open", Path::new("db/CURRENT"), io::Error::from_raw_os_error(13));
        let wrapped = io::Error::from(error.clone().wrap(ErrorKind::Io, "opening failed"));
        assert_eq!(wrapped.kind(), io::ErrorKind::PermissionDenied);
        let inside = wrapped.get_ref().and_then(|inside| inside.downcast_ref::<Error>()).expect("kept whole");
        let source = std::error::Error::source(inside).expect("kept").to_string();
        assert_eq!(source, error.to_string());
        let full = io::Error::from(Error::new(ErrorKind::NoSpace, "full"));
        assert_eq!((full.kind(), full.to_string().as_str()), (io::ErrorKind::StorageFull, "full"));
    }

    #[test]
    fn an_error_within_another_is_told_once() {
        let path = Path::new("db/000007.wal");
        let cause = Error::from_io("sync", path, io::Error::from_raw_os_error(5));
        let error = cause.clone().within(ErrorKind::ReadOnly, "no write is taken");
        assert_eq!(error.to_string(), format!("no write is taken: {cause}"));
        assert_eq!((error.file(), error.operation()), (Some(path), Some("sync")));
        for text in [error.to_string(), format!("{error:?}"), format!("{cause:?}")] {
            assert_eq!(text.matches("000007.wal").count(), 1, "{text}");
            assert_eq!(text.matches("os error 5").count(), 1, "{text}");
        }
        let other = cause.wrap(ErrorKind::Corruption, "the log is unreadable");
        assert!(format!("{other:?}").contains("os error 5"), "{other:?}");
    }

    #[test]
    fn text_names_operation_file_offset_and_cause() {
        let error = Error::corruption(Path::new("db/000007.sst"), 4096, "checksum mismatch");
        assert_eq!(error.to_string(), "db/000007.sst at byte 4096: checksum mismatch");
        let error = Error::from_io("sync", Path::new("x"), io::Error::from_raw_os_error(28));
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().starts_with("sync x: No space left"));
        assert!(error.is_retryable());
    }

    #[test]
    fn operations_are_said_in_words() {
        let denied = |operation| {
            Error::from_io(operation, Path::new("p"), io::Error::from(io::ErrorKind::PermissionDenied))
        };
        let error = denied("hold_dir");
        assert_eq!(error.operation(), Some("hold_dir"));
        assert!(error.to_string().starts_with("open the directory p: "), "{error}");
        assert!(denied("sync_dir").to_string().starts_with("sync the directory p: "));
        assert!(denied("len").with_remark("so it is").to_string().ends_with("; so it is"));
    }

    #[cfg(unix)]
    #[test]
    fn what_ran_out_is_neither_missing_nor_broken() {
        use rustix::io::Errno;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN] {
            let error = Error::from_io("open", Path::new("x"), io::Error::from(errno));
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
            assert!(error.is_retryable());
            let (text, is_of_descriptors) = (error.to_string(), matches!(errno, Errno::MFILE | Errno::NFILE));
            for way_out in ["ulimit -n", "open_files_max"] {
                assert_eq!(text.contains(way_out), is_of_descriptors, "{text}");
            }
            assert_eq!(format!("{error:?}").matches("os error").count(), 1, "{error:?}");
            // Once a sync has begun, the same codes tell of bytes that may be gone.
            let error = Error::from_sync("sync", Path::new("x"), io::Error::from(errno));
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        }
    }
}
