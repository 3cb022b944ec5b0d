//! How a command ends when it does not end well: the message and the exit code.
//!
//! Owns the four exit codes that `--help` promises. A failure is made where it is understood; `main` prints it, and on a
//! line of its own what can be done about it. The engine's texts are for whoever programs with it as well, and say what is
//! wrong; what somebody at a terminal can do is said here.

use crate::escape::{on_one_line, printable, shown};
use std::io;
use std::path::Path;
use tinylsm::format::names::FileName;
use tinylsm::vfs::os::OsVfs;
use tinylsm::{Error, ErrorKind};

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The engine or the system failed, or a check did not hold: exit code 1. Behind it what can be done.
    Engine(String, Option<String>),
    /// The arguments or the input are wrong: exit code 2.
    Usage(String),
    /// The key is not there: exit code 3.
    KeyNotFound(String),
    /// Whoever read our output has gone, as `head` does: a quiet end, exit code 0.
    ReaderGone,
}

impl Failure {
    /// Makes a failure of which nothing is known but what `text` says.
    pub(crate) fn engine(text: impl Into<String>) -> Failure {
        Failure::Engine(text.into(), None)
    }

    /// Says what failed in other words; what can be done about it stays.
    pub(crate) fn retold(self, retell: impl FnOnce(String) -> String) -> Failure {
        match self {
            Failure::Engine(text, hint) => Failure::Engine(retell(text), hint),
            Failure::Usage(text) => Failure::Usage(retell(text)),
            Failure::KeyNotFound(text) => Failure::KeyNotFound(retell(text)),
            Failure::ReaderGone => Failure::ReaderGone,
        }
    }

    /// Returns what the user can do about it, if that is known.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Failure::Engine(_, hint) => hint.as_deref(),
            _ => None,
        }
    }

    /// Returns the exit code that `--help` documents.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::ReaderGone => 0,
            Failure::Engine(..) => 1,
            Failure::Usage(_) => 2,
            Failure::KeyNotFound(_) => 3,
        }
    }

    /// Returns what to tell the user, if anything.
    pub(crate) fn message(&self) -> Option<&str> {
        match self {
            Failure::ReaderGone => None,
            Failure::Engine(text, _) | Failure::Usage(text) | Failure::KeyNotFound(text) => Some(text),
        }
    }

    /// Makes the failure that `later` is once something is done: `done` says what, and that stands.
    pub(crate) fn after(done: &str, doing: &str, later: &Error) -> Failure {
        Failure::Engine(format!("{done}; {doing} met: {}", text_of(later)), hint_of(later))
    }

    /// Makes the failure of a system call while doing `what`.
    pub(crate) fn system(what: &str, error: &io::Error) -> Failure {
        Failure::engine(format!("{what}: {error}"))
    }

    /// Makes the failure of writing to standard output.
    pub(crate) fn output(error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::ReaderGone;
        }
        Failure::system("cannot write the output", error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let text = text_of(&error);
        match error.kind() {
            ErrorKind::InvalidArgument => Failure::Usage(text),
            _ => Failure::Engine(text, hint_of(&error)),
        }
    }
}

/// Returns what an error of the engine says, with its causes, each of them once, on one line.
pub(crate) fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    on_one_line(&text).into_owned()
}

/// Returns what a user can do about an error of the engine, or about what caused it.
pub(crate) fn hint_of(error: &Error) -> Option<String> {
    own_hint_of(error).or_else(|| {
        let cause = std::error::Error::source(error)?;
        hint_of(cause.downcast_ref::<Error>()?)
    })
}

fn own_hint_of(error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::Corruption => damage_hint_of(error),
        ErrorKind::NoSpace => Some(
            "Free some space on this disk, or in the quota, and give the command again; `df` tells of bytes, `df -i` of \
             how many files there may be. `tinylsm delete` works for as long as the space lasts that the file RESERVE has \
             set aside."
                .to_owned(),
        ),
        ErrorKind::Locked => Some(
            "A program that writes keeps out all others, and programs that only read keep out those that write: end it, or \
             wait until it has closed the database."
                .to_owned(),
        ),
        _ if is_unwritable(error) => Some(
            "`get`, `scan`, `keyspaces`, `stats`, `verify` and `dump` read a database that cannot be written, if its \
             files may be read, LOCK among them."
                .to_owned(),
        ),
        ErrorKind::Unsupported => {
            Some("The command line cannot go without it: put the database on another file system.".to_owned())
        }
        _ => None,
    }
}

/// Tells whether a database could not be locked for writing because its directory or disk is read-only.
fn is_unwritable(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    let is_denied = cause.is_some_and(|cause| {
        matches!(cause.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    });
    is_denied && error.operation() == Some("lock")
}

/// Says what is left where a file is damaged.
fn damage_hint_of(error: &Error) -> Option<String> {
    let path = error.file()?;
    let dir = word(path.parent()?);
    match FileName::parse(path.file_name()?.to_str()?)? {
        FileName::Table(_) => Some(format!(
            "Everything else can be read and written, with --degraded where the database does not open. `tinylsm verify \
             --db {dir} --degraded` lists what is damaged. Only a copy of the directory brings it back."
        )),
        FileName::Current => Some(match lost_line(path) {
            Some(line) => format!(
                "No command but `dump` gets past this, not even with --degraded. There is one manifest, and it can be read to \
                 its end. Copy the directory, then give it back its file CURRENT with\n  echo '{line}' > {}\nand see what \
                 `tinylsm verify --db {dir}` says. If it finds damage, restore the directory from its last copy.",
                word(path)
            ),
            None => without_a_way_out(&dir),
        }),
        FileName::Wal(_) | FileName::Manifest(_) => Some(without_a_way_out(&dir)),
        _ => None,
    }
}

/// Returns a path as a shell takes it for one word, if it can be printed at all.
fn word(path: &Path) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:".contains(character);
    match path.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Some(text) if printable(text) == text && !text.contains('\n') => {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
        _ => shown(path),
    }
}

fn without_a_way_out(dir: &str) -> String {
    format!(
        "No command but `dump` gets past this, not even with --degraded: restore the directory from its last copy. `tinylsm \
         dump --db {dir} NAME` shows what each of its files still holds."
    )
}

/// Returns what the damaged or missing file `CURRENT` has to say, if that can be told and it can be put there.
fn lost_line(current: &Path) -> Option<String> {
    if current.is_dir() {
        return None;
    }
    tinylsm::inspect::pointer_line(&OsVfs::new(), current.parent()?).ok()?
}

#[cfg(test)]
mod tests {
    use crate::failure::Failure;
    use std::io;
    use std::path::Path;
    use tinylsm::{Error, ErrorKind};

    #[test]
    fn engine_errors_keep_their_cause_and_say_it_once() {
        let inner = Error::from_io("sync", Path::new("x.wal"), io::Error::from_raw_os_error(5));
        let failure = Failure::from(inner.wrap(tinylsm::ErrorKind::ReadOnly, "the log failed"));
        assert_eq!(failure.exit_code(), 1);
        let message = failure.message().expect("an engine failure has a message");
        assert!(message.contains("the log failed"), "{message}");
        assert_eq!(message.matches("os error 5").count(), 1, "{message}");
    }

    #[test]
    fn what_can_be_done_is_told_by_what_caused_it() {
        let full = Error::from_io("append", Path::new("db/7.wal"), io::Error::from_raw_os_error(28));
        let refused = full.within(ErrorKind::ReadOnly, "no write is taken until there is space");
        let failure = Failure::from(refused).retold(|text| format!("nothing was changed: {text}"));
        assert!(failure.message().is_some_and(|said| said.starts_with("nothing was changed: no write")));
        assert!(failure.hint().is_some_and(|hint| hint.contains("Free some space")), "{failure:?}");
        let hint_at = |file: &str| {
            let failure = Failure::from(Error::corruption(&Path::new("db").join(file), 0, "damaged"));
            failure.hint().map(str::to_owned)
        };
        for (file, way_out) in [
            ("000007.sst", "`tinylsm verify --db db --degraded`"),
            ("000007.wal", "`tinylsm dump --db db NAME`"),
            ("MANIFEST-000007", "restore the directory from its last copy"),
            ("CURRENT", "not even with --degraded"),
        ] {
            assert!(hint_at(file).is_some_and(|hint| hint.contains(way_out)), "{file}: {:?}", hint_at(file));
        }
        assert_eq!(hint_at("letter.txt"), None);
        for code in [13, 30] {
            let denied = Error::from_io("lock", Path::new("db/LOCK"), io::Error::from_raw_os_error(code));
            assert!(
                Failure::from(denied).hint().is_some_and(|hint| hint.contains("`verify` and `dump` read"))
            );
        }
        let denied = Error::from_io("open", Path::new("db/7.wal"), io::Error::from_raw_os_error(13));
        assert_eq!(Failure::from(denied).hint(), None);
        assert_eq!(Failure::from(Error::invalid("wrong")).hint(), None);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((gone.exit_code(), gone.message()), (0, None));
    }
}
