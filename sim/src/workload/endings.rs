//! How an incarnation ends: by loss of power, by walking away, by closing, or by several clients who close it at once
//! while others go on with their handles and one opens it again as soon as it can.

use crate::disk::FaultPlan;
use crate::schedule;
use crate::tape::Label;
use crate::workload::client::{Client, Handles, Opened};
use crate::workload::damage::{Source, judge_damaged};
use crate::workload::driver::{DISK_KINDS, Driver};
use crate::workload::incarnation::{join_all, start};
use crate::workload::judge::{Context, Violation, violation};
use crate::workload::swarm::Habit;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::JoinHandle;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, Error, ErrorKind};

/// Attempts of the client that opens a closing database again, before it gives up.
const REOPENINGS_MAX: u32 = 200;

/// How an incarnation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workload) enum Ending {
    /// The power goes, at a drawn change of the disk or when all clients are done.
    PowerLoss,
    /// The handles are dropped without a word.
    WalkAway,
    /// The database is closed.
    Close,
    /// Several clients close it at once.
    CloseTogether,
}

impl Ending {
    pub(in crate::workload) fn draw(context: &Context) -> Ending {
        let weights = match context.swarm.habit {
            Habit::Ordinary | Habit::SmallDisk | Habit::Apart => [6, 2, 2, 2],
            Habit::ShortIncarnations => [1, 3, 5, 1],
        };
        let endings = [Ending::PowerLoss, Ending::WalkAway, Ending::Close, Ending::CloseTogether];
        endings[context.tape.weighted(Label::Crash, &weights)]
    }
}

impl Driver {
    /// Ends an incarnation.
    pub(in crate::workload) fn end(&mut self, db: Db, ending: Ending) -> Result<(), Violation> {
        self.note_stats(&db.stats());
        if ending == Ending::PowerLoss || self.disk.is_off() {
            self.disk.power_off();
            drop(db);
            self.lose_power("power lost in an incarnation");
            return Ok(());
        }
        match ending {
            Ending::WalkAway => {
                drop(db);
                self.reach("handles dropped without a word");
                return self.damage_sometimes(Source::Unclosed);
            }
            Ending::CloseTogether => self.close_together(db)?,
            _ => self.close_alone(db)?,
        }
        if self.disk.is_off() {
            self.lose_power("power lost in closing");
        }
        Ok(())
    }

    fn close_alone(&mut self, db: Db) -> Result<(), Violation> {
        if self.context.swarm.has_faults && self.context.tape.chance(Label::Crash, 1, 3) {
            // What a close leaves when one of its few syncs fails would seldom be seen otherwise.
            self.disk.set_faults(FaultPlan { sync: 300_000, ..FaultPlan::default() });
        }
        let has_failed = self.has_cause();
        let is_writing_off = is_writing_off(&db);
        match db.close() {
            Ok(()) => {
                if !is_writing_off {
                    self.context.judge.lock().note_closed();
                }
                self.reach("closed");
                if !has_failed && !self.has_cause() {
                    self.check_closed_space()?;
                }
                self.damage_sometimes(Source::Closed)
            }
            Err(_) if self.disk.is_off() => Ok(()),
            Err(error) if self.may_fail(&error) => {
                self.reach("closing failed by a fault");
                Ok(())
            }
            Err(error) => Err(violation("error honesty", format!("close failed: {error:?}"))),
        }
    }

    /// Damages a copy of the disk now and then, where nothing else has failed.
    fn damage_sometimes(&mut self, source: Source) -> Result<(), Violation> {
        let is_healthy = !self.has_cause() && !self.has_panicked();
        if !is_healthy || !self.context.tape.chance(Label::Check, 1, 4) {
            return Ok(());
        }
        judge_damaged(&self.context, &self.disk, source)
    }

    pub(in crate::workload) fn may_fail(&self, error: &Error) -> bool {
        (self.has_cause() && DISK_KINDS.contains(&error.kind())) || self.has_panicked()
    }

    /// Tells whether a comparator has panicked in this incarnation.
    pub(in crate::workload) fn has_panicked(&self) -> bool {
        self.context.fuse.panics_count() > self.panics_before
    }

    /// Closes the database from several threads, while others use their handles, and opens it again at once.
    fn close_together(&mut self, db: Db) -> Result<(), Violation> {
        self.reach("closed by several at once");
        self.context.judge.lock().closing.has_begun = true;
        let below = |bound| self.context.tape.below(Label::Crash, bound);
        if below(6) == 0 {
            self.disk.power_off_after(1 + self.context.tape.magnitude(Label::Crash, 6));
        }
        let opened = Opened {
            db: db.clone(),
            disk: self.disk.clone(),
            failures_before: self.failures_before,
            panics_before: self.panics_before,
            incarnation: self.context.judge.lock().incarnation,
            neighbour: None,
        };
        let keyspaces = Handles::of_default(&db);
        let mut threads: Vec<JoinHandle> = Vec::new();
        for number in 0..below(3) {
            let client = Client::new(self.context.clone(), opened.clone(), keyspaces.clone());
            let operations_count = 1 + below(12);
            threads.push(start(&format!("user-{number}"), move || client.run(operations_count))?);
        }
        let returned = Arc::new(Mutex::new(Vec::new()));
        for number in 0..2 + below(2) {
            let closer = Closer { context: self.context.clone(), opened: opened.clone() };
            let returned = Arc::clone(&returned);
            let close = move || {
                // The lock is taken behind the call: it must not be held over one.
                let result = closer.run();
                returned.lock().push(result);
            };
            threads.push(start(&format!("closer-{number}"), close)?);
        }
        if below(4) > 0 {
            let reopener = Reopener { context: self.context.clone(), opened: opened.clone() };
            threads.push(start("reopener", move || reopener.run())?);
        }
        drop((db, keyspaces, opened));
        join_all(threads)?;
        if let Some(violation) = self.context.judge.lock().violation.clone() {
            return Err(violation);
        }
        self.check_closers(&returned.lock())?;
        self.context.judge_observations()
    }

    /// Checks what the closers were told: one at least did the closing, and the others were told that it is closed.
    fn check_closers(&self, returned: &[Result<(), Error>]) -> Result<(), Violation> {
        let is_closed = |result: &Result<(), Error>| {
            result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Closed)
        };
        if self.disk.is_off() {
            return Ok(());
        }
        if returned.iter().all(is_closed) {
            let message = "each of several closers was told that another one had closed".to_owned();
            return Err(violation("closed is closed", message));
        }
        let odd =
            returned.iter().filter(|result| !is_closed(result)).find_map(|result| result.as_ref().err());
        match odd {
            Some(error) if !self.may_fail(error) => {
                Err(violation("error honesty", format!("close failed: {error:?}")))
            }
            _ => Ok(()),
        }
    }
}

/// One of several clients that close.
struct Closer {
    context: Context,
    opened: Opened,
}

impl Closer {
    fn run(self) -> Result<(), Error> {
        let Closer { context, opened } = self;
        let disk = opened.disk.clone();
        disk.sleep(Duration::from_nanos(context.tape.magnitude(Label::Crash, 22)));
        let incarnation = opened.incarnation;
        let db = opened.db.clone();
        // Its other handles go before, so that nothing but the closing itself keeps the database open.
        drop(opened);
        let began_ns = disk.now();
        let is_writing_off = is_writing_off(&db);
        let result = db.close();
        schedule::note(|| format!("a close gives {result:?}"));
        let mut judge = context.judge.lock();
        let took_ns = disk.now() - began_ns;
        let slowest = judge.slowest.entry("close").or_default();
        *slowest = took_ns.max(*slowest);
        if result.is_ok() && judge.incarnation == incarnation && !disk.is_off() {
            if is_writing_off {
                judge.closing.has_succeeded = true;
            } else {
                judge.note_closed();
            }
        }
        result
    }
}

/// Tells whether writing is off: a database that was opened on a full disk closes well, and makes nothing durable.
pub(in crate::workload) fn is_writing_off(db: &Db) -> bool {
    db.background_errors().first().is_some_and(|error| error.job == "writing")
}

/// A client that opens the database again as soon as that goes.
struct Reopener {
    context: Context,
    opened: Opened,
}

impl Reopener {
    fn run(self) {
        if let Err(violation) = self.reopen()
            && !self.opened.disk.is_off()
        {
            self.context.judge.lock().violate(violation.oracle, violation.message);
        }
    }

    fn reopen(&self) -> Result<(), Violation> {
        let disk = &self.opened.disk;
        let mut failures_before = disk.failures_count();
        for _ in 0..REOPENINGS_MAX {
            let was_closed = self.context.judge.lock().closing.has_succeeded;
            match self.context.builder(disk, self.context.background()).open() {
                Ok(db) => return self.use_reopened(&db, failures_before),
                Err(_) if disk.is_off() => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Locked && !was_closed => {
                    self.context.reach("reopening waits for the end of closing");
                }
                Err(error) if error.kind() == ErrorKind::Locked => {
                    let message = format!("a close had returned, and the directory is locked: {error:?}");
                    return Err(violation("closed is closed", message));
                }
                Err(_) if disk.failures_count() > failures_before => {}
                Err(error) => return Err(violation("recovery", format!("reopening gives {error:?}"))),
            }
            failures_before = disk.failures_count();
            disk.sleep(Duration::from_nanos(self.context.tape.magnitude(Label::Crash, 22)));
        }
        Ok(())
    }

    /// Writes to the reopened database, and leaves it: whatever old handles do must not touch that.
    fn use_reopened(&self, db: &Db, failures_before: u64) -> Result<(), Violation> {
        self.context.reach("reopened while others close");
        let disk = &self.opened.disk;
        let reading = crate::workload::recovery::Reading { disk, failures_before };
        self.context.judge_recovery(db, reading)?;
        for number in 0..1 + self.context.tape.below(Label::Crash, 4) {
            let written = self.context.put(db, &format!("reopened-{number}"), "yes")?;
            // Nobody runs the jobs of this handle if they are left to the caller.
            let is_left_alone = matches!(self.context.swarm.background, Background::Manual);
            if let Err(error) = written
                && !(is_left_alone && error.kind() == ErrorKind::Busy)
                // That a disk is full is known from before.
                && !(disk.is_limited() && error.kind() == ErrorKind::NoSpace)
                && disk.failures_count() == failures_before
                && !disk.is_off()
            {
                return Err(violation("error honesty", format!("a put gives {error:?}")));
            }
        }
        if self.context.tape.below(Label::Crash, 2) == 0 {
            let flushed = db.flush();
            schedule::note(|| format!("the reopener's flush gives {flushed:?}"));
        }
        Ok(())
    }
}
