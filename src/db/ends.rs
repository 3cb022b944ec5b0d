//! The ends of a database: how it comes to be open, stops writing, takes it up again, and closes.
//!
//! One small state machine says in which phase a database is; everything that asks "may I?" asks here.
//!
//! ```text
//!            Open             Fail              BeginClose           Close
//! Opening ─────────▶ Open ◀────────────▶ Failed ───────────▶ Closing ───────▶ Closed
//!    │                 └────── Resume ──────┘ ▲  BeginClose ▲    ▲
//!    │ OpenReadOnly                           └── Fail      │    │
//!    └────────▶ ReadOnly ───────────────────────────────────┘────┘
//! ```
//!
//! Promises: a database is closed once, by one caller; whoever else closes it waits for that and gets `Closed`. The
//! first failure of the log or the manifest is kept, unless [`crate::db::Db::resume`] could mend it and cannot mend a
//! later one. A process that was forked off is refused before it takes any lock that a thread it does not have may hold.

use crate::base::error::{Error, ErrorKind, Result};
use crate::format::names::FileName;
use crate::sync::atomic::{AtomicBool, AtomicU8};
use crate::sync::{Condvar, Home, Mutex, yield_point};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Where a database stands between opening and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Being recovered; nobody has a handle yet.
    Opening,
    /// Takes reads and writes.
    Open,
    /// Was opened for reading only.
    ReadOnly,
    /// Takes reads; a failure of the log or the manifest turned writing off.
    Failed,
    /// One caller is closing it; nobody else may begin anything.
    Closing,
    /// Nothing touches its directory any more.
    Closed,
}

/// What moves a database from one phase to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Recovery is done, for reading and writing.
    Open,
    /// Recovery is done, for reading only.
    OpenReadOnly,
    /// The log or the manifest failed.
    Fail,
    /// The cause is mended.
    Resume,
    /// A caller closes it.
    BeginClose,
    /// Closing is done.
    Close,
}

impl Phase {
    const ALL: [Phase; 6] =
        [Phase::Opening, Phase::Open, Phase::ReadOnly, Phase::Failed, Phase::Closing, Phase::Closed];

    fn from_code(code: u8) -> Phase {
        *Phase::ALL.get(usize::from(code)).expect("only phases are stored")
    }

    /// Returns the phase behind a step; none if the step cannot be made from here.
    pub(crate) const fn after(self, step: Step) -> Option<Phase> {
        match (self, step) {
            (Phase::Opening, Step::Open) | (Phase::Failed, Step::Resume) => Some(Phase::Open),
            (Phase::Opening, Step::OpenReadOnly) => Some(Phase::ReadOnly),
            (Phase::Opening | Phase::Open | Phase::Failed, Step::Fail) => Some(Phase::Failed),
            // What fails while it is being closed is told by the close.
            (Phase::Open | Phase::ReadOnly | Phase::Failed, Step::BeginClose)
            | (Phase::Closing, Step::Fail) => Some(Phase::Closing),
            (Phase::Closing, Step::Close) => Some(Phase::Closed),
            _ => None,
        }
    }
}

/// The phase of one database, and why it takes no writes.
pub(crate) struct Ends {
    phase: AtomicU8,
    /// Set with the first step of closing: running jobs stop at their next look.
    cancelled: AtomicBool,
    home: Home,
    failure: Mutex<Option<Error>>,
    /// The phase changed.
    changed: Condvar,
}

impl Ends {
    /// Begins what is known of a database in this process.
    pub(crate) fn new() -> Ends {
        Ends {
            phase: AtomicU8::new(Phase::Opening as u8),
            cancelled: AtomicBool::new(false),
            home: Home::here(),
            failure: Mutex::new(None),
            changed: Condvar::new(),
        }
    }

    /// Returns the phase.
    pub(crate) fn phase(&self) -> Phase {
        Phase::from_code(self.phase.load(Ordering::Acquire))
    }

    /// Makes a step with the failure locked, so that phase and failure change together.
    fn step_locked(&self, step: Step) -> bool {
        let Some(next) = self.phase().after(step) else { return false };
        yield_point("phase: before the step");
        self.phase.store(next as u8, Ordering::Release);
        yield_point("phase: stepped");
        true
    }

    /// Ends the opening.
    ///
    /// # Panics
    /// If it has ended before.
    pub(crate) fn open(&self, step: Step) {
        assert!(matches!(step, Step::Open | Step::OpenReadOnly), "an opening ends open");
        let failure = self.failure.lock();
        let is_failed = failure.is_some() && self.phase() == Phase::Failed;
        assert!(is_failed || self.step_locked(step), "a database is opened once");
    }

    /// Turns writing off because of `error`, and returns it. The first error is kept, unless it could be mended by
    /// resuming and `error` cannot.
    pub(crate) fn fail(&self, error: &Error) -> Error {
        let mut failure = self.failure.lock();
        // A closed database has nothing left to fail.
        if self.step_locked(Step::Fail)
            && failure.as_ref().is_none_or(|first| is_mendable(first) && !is_mendable(error))
        {
            *failure = Some(error.clone());
        }
        drop(failure);
        self.changed.notify_all();
        error.clone()
    }

    /// Returns why writing is off, if a failure turned it off.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }

    /// Takes up writing again, unless something else than `mended` failed meanwhile; tells whether it did.
    pub(crate) fn resume(&self, mended: &Error) -> bool {
        let mut failure = self.failure.lock();
        let is_same = failure.as_ref().is_some_and(|now| now.is_same(mended));
        let is_resumed = is_same && self.step_locked(Step::Resume);
        if is_resumed {
            *failure = None;
        }
        is_resumed
    }

    /// Begins closing; the caller has to end it with [`Ends::close`]. Waits if somebody else is closing.
    ///
    /// # Errors
    /// `Closed` once somebody else has closed it; the same in a forked process, at once.
    pub(crate) fn begin_close(&self) -> Result<()> {
        self.check_process()?;
        let mut failure = self.failure.lock();
        if self.step_locked(Step::BeginClose) {
            self.cancelled.store(true, Ordering::Release);
            return Ok(());
        }
        while self.phase() != Phase::Closed {
            self.changed.wait(&mut failure);
        }
        Err(closed())
    }

    /// Ends closing.
    pub(crate) fn close(&self) {
        let failure = self.failure.lock();
        assert!(self.step_locked(Step::Close), "only who began to close ends it");
        drop(failure);
        self.changed.notify_all();
    }

    /// Stops running jobs without closing: the last handle is gone.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Set when jobs have to stop.
    pub(crate) fn cancelled(&self) -> &AtomicBool {
        &self.cancelled
    }

    /// Tells whether jobs have to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Fails in a process that was forked off the one that opened the database.
    ///
    /// # Errors
    /// `Closed`.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.is_forked() {
            return Err(forked());
        }
        Ok(())
    }

    /// Tells whether this process was forked off the one that opened the database.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.home.is_elsewhere()
    }

    /// Fails if the database was closed, or is being closed, and in a forked process. Cheap: for reads, and for each step
    /// of an iterator.
    ///
    /// # Errors
    /// `Closed`.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_process()?;
        match self.phase() {
            Phase::Closing | Phase::Closed => Err(closed()),
            _ => Ok(()),
        }
    }

    /// Fails if the database takes no writes.
    ///
    /// # Errors
    /// `Closed`, `ReadOnly`.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_process()?;
        match self.phase() {
            Phase::Open => Ok(()),
            Phase::Opening | Phase::ReadOnly => {
                Err(Error::new(ErrorKind::ReadOnly, "the database was opened read-only"))
            }
            // None, if writing was resumed since.
            Phase::Failed => self.failure().map_or(Ok(()), |cause| Err(writing_is_off(&cause))),
            Phase::Closing | Phase::Closed => Err(closed()),
        }
    }
}

/// Makes of the failure that turned writing off what a later write gets.
pub(crate) fn writing_is_off(cause: &Error) -> Error {
    if is_mendable(cause) {
        let lacking =
            if cause.kind() == ErrorKind::Exhausted { "there are descriptors" } else { "there is space" };
        let context = format!("no write is taken until {lacking} and writing is resumed");
        return cause.clone().within(ErrorKind::ReadOnly, &context);
    }
    let context = "the database is read-only until it is reopened, since a write failed";
    cause.clone().within(ErrorKind::ReadOnly, context)
}

/// Tells whether a failure of log or manifest leaves all that counts as it was: it met a full disk, which a new file
/// behind the old one mends once there is space. Not so a sync, or an edit that is half in a manifest.
pub(crate) fn is_mendable(error: &Error) -> bool {
    let name = error.file().and_then(Path::file_name).and_then(OsStr::to_str).and_then(FileName::parse);
    let is_edit = matches!(name, Some(FileName::Manifest(_))) && error.operation() == Some("append");
    let is_sync = matches!(error.operation(), Some("sync" | "sync_dir"));
    matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Exhausted) && !is_edit && !is_sync
}

#[cold]
pub(crate) fn forked() -> Error {
    let message = "this process was forked off the one that opened the database; open it anew here";
    Error::new(ErrorKind::Closed, message)
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the database was closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const STEPS: [Step; 6] =
        [Step::Open, Step::OpenReadOnly, Step::Fail, Step::Resume, Step::BeginClose, Step::Close];

    /// Every phase against every step: the whole table, so that a change of it is a change here.
    #[test]
    fn steps_lead_where_the_drawing_says() {
        let allowed = [
            (Phase::Opening, Step::Open, Phase::Open),
            (Phase::Opening, Step::OpenReadOnly, Phase::ReadOnly),
            (Phase::Opening, Step::Fail, Phase::Failed),
            (Phase::Open, Step::Fail, Phase::Failed),
            (Phase::Open, Step::BeginClose, Phase::Closing),
            (Phase::ReadOnly, Step::BeginClose, Phase::Closing),
            (Phase::Failed, Step::Fail, Phase::Failed),
            (Phase::Failed, Step::Resume, Phase::Open),
            (Phase::Failed, Step::BeginClose, Phase::Closing),
            (Phase::Closing, Step::Fail, Phase::Closing),
            (Phase::Closing, Step::Close, Phase::Closed),
        ];
        for phase in Phase::ALL {
            for step in STEPS {
                let expected = allowed.iter().find(|row| (row.0, row.1) == (phase, step)).map(|row| row.2);
                assert_eq!(phase.after(step), expected, "{phase:?} {step:?}");
            }
        }
    }

    #[test]
    fn every_phase_is_reached_and_every_one_but_closed_can_be_left() {
        let reached: BTreeSet<u8> = Phase::ALL
            .iter()
            .flat_map(|p| STEPS.iter().filter_map(|s| p.after(*s)))
            .map(|p| p as u8)
            .collect();
        for phase in Phase::ALL {
            assert!(
                phase == Phase::Opening || reached.contains(&(phase as u8)),
                "{phase:?} is never reached"
            );
            let is_left = STEPS.iter().any(|step| phase.after(*step).is_some_and(|next| next != phase));
            assert_eq!(is_left, phase != Phase::Closed, "{phase:?}");
            assert_eq!(Phase::from_code(phase as u8), phase);
        }
    }

    /// Drives the machine through every sequence of five steps and checks what each phase answers.
    #[test]
    fn answers_agree_with_the_phase_after_any_steps() {
        let error = Error::new(ErrorKind::NoSpace, "full").with_operation("append");
        for choice in 0..STEPS.len().pow(5) {
            let ends = Ends::new();
            let mut rest = choice;
            for _ in 0..5 {
                let step = STEPS[rest % STEPS.len()];
                rest /= STEPS.len();
                if ends.phase().after(step).is_none() {
                    continue;
                }
                match step {
                    Step::Open | Step::OpenReadOnly => ends.open(step),
                    Step::Fail => drop(ends.fail(&error)),
                    Step::Resume => assert!(ends.resume(&error)),
                    Step::BeginClose => ends.begin_close().expect("nobody else closes"),
                    Step::Close => ends.close(),
                }
                let phase = ends.phase();
                assert_eq!(ends.check_writable().is_ok(), phase == Phase::Open);
                assert_eq!(ends.check_open().is_err(), matches!(phase, Phase::Closing | Phase::Closed));
                assert_eq!(ends.is_cancelled(), matches!(phase, Phase::Closing | Phase::Closed));
                assert!(phase != Phase::Failed || ends.failure().is_some());
            }
        }
    }

    #[test]
    fn a_failure_that_cannot_be_mended_takes_the_place_of_one_that_can() {
        let ends = Ends::new();
        ends.open(Step::Open);
        let full = Error::new(ErrorKind::NoSpace, "full").with_operation("append");
        let broken = Error::new(ErrorKind::Io, "broken").with_operation("sync");
        ends.fail(&full);
        ends.fail(&broken);
        ends.fail(&full);
        assert_eq!(ends.failure().expect("failed").kind(), ErrorKind::Io);
        assert!(!ends.resume(&full), "what was mended is not what is wrong now");
    }

    #[test]
    fn the_second_to_close_waits_and_hears_that_it_is_closed() {
        let ends = std::sync::Arc::new(Ends::new());
        ends.open(Step::Open);
        ends.begin_close().expect("the first");
        let other = std::sync::Arc::clone(&ends);
        let second = crate::sync::spawn("second", move || {
            assert_eq!(other.begin_close().expect_err("too late").kind(), ErrorKind::Closed);
            assert_eq!(other.phase(), Phase::Closed);
        })
        .expect("a thread");
        ends.close();
        assert!(second.join());
    }
}
