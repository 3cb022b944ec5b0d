//! One incarnation: opened through accidents, used by clients, mended where the disk has failed.

use crate::disk::{Aim, DiskOp, Profile, SeenFile, SimDisk};
use crate::tape::Label;
use crate::workload::client::{Client, DIRECTORY, Handles, Opened, is_full_log};
use crate::workload::driver::{DISK_KINDS, Driver};
use crate::workload::endings::Ending;
use crate::workload::images;
use crate::workload::judge::{Violation, violation};
use crate::workload::neighbour::Neighbour;
use crate::workload::on_disk::OnDisk;
use crate::workload::recovery::Reading;
use std::path::Path;
use std::time::Duration;
use tinylsm::sync::{JoinHandle, spawn};
use tinylsm::vfs::Vfs;
use tinylsm::{Db, Error, ErrorKind};

/// How many openings in a row may be cut short.
const CUT_OPENINGS_COUNT_MAX: u64 = 150;
/// What these may leave: as much as an opening leaves alone, and what one makes, which is a table for every key where
/// these are small.
const LEFTOVERS_COUNT_MAX: usize = 16 + 80;

impl Driver {
    /// Leaves names in the directory before there is a database: they disturb nobody, and nobody touches them.
    pub(in crate::workload) fn leave_foreign_names(&mut self) -> Result<(), Violation> {
        let fault = |error: tinylsm::Error| violation("simulator", format!("no foreign names: {error:?}"));
        let directory = Path::new(DIRECTORY);
        self.disk.create_dir_all(&directory.join("lost+found")).map_err(fault)?;
        let mut file = self.disk.create_new(&directory.join("notes.txt")).map_err(fault)?;
        file.sync().map_err(fault)?;
        self.disk.sync_dir(directory).map_err(fault)?;
        self.reach("foreign names in the directory");
        Ok(())
    }

    /// Lets the database live once.
    pub(in crate::workload) fn live_once(&mut self) -> Result<(), Violation> {
        let ending = Ending::draw(&self.context);
        self.cut_openings_short()?;
        let Some(db) = self.open_through_accidents()? else { return Ok(()) };
        self.is_first = false;
        let Some(keyspaces) = self.keyspaces_of(&db)? else { return self.end(db, Ending::PowerLoss) };
        if ending == Ending::PowerLoss {
            self.aim_power_loss();
        }
        let opened = self.opened(&db)?;
        if self.context.swarm.has_panics && self.context.tape.chance(Label::Fault, 1, 2) {
            self.context.fuse.light(self.context.tape.magnitude(Label::Fault, 12));
        }
        self.let_clients_loose(&opened, &keyspaces)?;
        self.context.fuse.put_out();
        let has_panicked = self.has_panicked();
        drop(opened);
        if has_panicked {
            self.reach("a comparator panicked");
            self.mend_after_panic(&db)?;
        } else if !self.disk.is_off() && self.has_cause() {
            if self.context.tape.chance(Label::Check, 1, 2) {
                self.mend_and_resume(&db)?;
            }
        } else if !self.disk.is_off() {
            if self.context.tape.chance(Label::Check, 1, 4) {
                self.come_to_quiet(&db)?;
            }
            if !self.disk.is_off() && !self.meet_others(&db)? {
                return Ok(());
            }
        }
        drop(keyspaces);
        self.end(db, ending)
    }

    fn opened(&self, db: &Db) -> Result<Opened, Violation> {
        let has_neighbour = self.context.swarm.has_neighbour && !self.disk.is_off();
        let neighbour = match has_neighbour {
            true => Neighbour::open(&self.context, &self.disk, self.failures_before)?,
            false => None,
        };
        Ok(Opened {
            db: db.clone(),
            disk: self.disk.clone(),
            failures_before: self.failures_before,
            panics_before: self.panics_before,
            incarnation: self.context.judge.lock().incarnation,
            neighbour,
        })
    }

    /// Decides when the power goes: after any number of changes, or at an operation between whose effect and whose
    /// durability engines go wrong. Those are rare among appends and syncs, so a plain count would seldom hit them.
    fn aim_power_loss(&self) {
        let below = |bound| self.context.tape.below(Label::Crash, bound);
        if below(2) == 0 {
            self.disk.power_off_after(1 + self.context.tape.magnitude(Label::Crash, 10));
            return;
        }
        let ops = [
            DiskOp::Rename,
            DiskOp::Create,
            DiskOp::Remove,
            DiskOp::SyncDirBegin,
            DiskOp::SyncDir,
            DiskOp::SyncBegin,
        ];
        let op = *self.context.tape.pick(Label::Crash, &ops);
        self.disk.power_off_at(Aim { op, skipped: below(4), changes_behind: below(3) });
    }

    /// Decides when the power goes in a recovery.
    fn aim_into_recovery(&self) {
        let below = |bound| self.context.tape.below(Label::Crash, bound);
        if below(3) == 0 {
            self.disk.power_off_at(Aim { op: DiskOp::Rename, skipped: 0, changes_behind: below(2) });
        } else {
            self.disk.power_off_after(1 + below(30));
        }
    }

    /// Cuts one opening after the other short, as whoever kills slow starters does, at about the same place each time: what
    /// they leave behind does not add up.
    fn cut_openings_short(&mut self) -> Result<(), Violation> {
        // In about as many runs whatever the habit: each opening has threads, of which a run has so many only.
        let one_in = 10 * self.context.swarm.incarnations_count.max(2);
        if self.is_first || self.disk.is_off() || !self.context.tape.chance(Label::Crash, 1, one_in) {
            return Ok(());
        }
        let tape = self.context.tape.clone();
        let below = |bound| tape.below(Label::Crash, bound);
        self.heal_disk();
        let before = self.leftovers_count()?;
        let changes_count = 1 + below(60);
        for _ in 0..below(CUT_OPENINGS_COUNT_MAX) {
            self.disk.power_off_after(changes_count + below(4));
            self.context.judge.lock().model.forget_writers();
            let opened = self.context.builder(&self.disk, self.context.background()).open();
            self.disk.power_off();
            drop(opened);
            self.lose_power("power lost in one of many openings");
            self.heal_disk();
        }
        let after = self.leftovers_count()?;
        if after > before + LEFTOVERS_COUNT_MAX {
            let message = format!("{before} files before, {after} behind openings that were cut short");
            return Err(violation("space of openings cut short", message));
        }
        Ok(())
    }

    /// Returns how many files there are besides tables that the manifest names; one opening may flush to many.
    fn leftovers_count(&self) -> Result<usize, Violation> {
        let on_disk = OnDisk::look(&self.disk)
            .map_err(|error| violation("recovery", format!("the manifest is unreadable: {error:?}")))?;
        let named_count = on_disk.map_or(0, |on_disk| on_disk.catalog.tables().count());
        Ok(files_of(&self.disk).len().saturating_sub(named_count))
    }

    fn take_away_foreign(&self, error: &Error) -> Result<(), Violation> {
        let has_failed = self.disk.counters().contains_key("sync_dir failed")
            || self.context.judge.lock().events.contains_key("sync_dir failed");
        match error.file() {
            Some(file) if has_failed && self.context.profile == Profile::Worst => {
                let taken = self.disk.take_away(file);
                taken.map_err(|error| violation("simulator", format!("taking away: {error:?}")))
            }
            _ => Err(violation("recovery", format!("open failed: {error:?}"))),
        }
    }

    /// Opens the database; the power may go while it does, several times. `None` if faults keep it shut.
    fn open_through_accidents(&mut self) -> Result<Option<Db>, Violation> {
        for attempt in 0..5 {
            let has_accident = attempt < 3 && self.context.tape.chance(Label::Crash, 1, 4);
            if has_accident {
                self.aim_into_recovery();
            }
            self.panics_before = self.context.fuse.panics_count();
            self.failures_before = self.disk.failures_count();
            self.context.judge.lock().model.forget_writers();
            let before = Before::look(&self.disk);
            let opened = self.context.builder(&self.disk, self.context.background()).open();
            match opened {
                Ok(db) => {
                    if !self.is_first {
                        self.reach("recovery");
                    }
                    self.disk.power_off_after(u64::MAX);
                    if self.disk.is_off() {
                        drop(db);
                        self.lose_power("power lost at the end of recovery");
                        continue;
                    }
                    match self.context.judge_recovery(&db, self.reading()) {
                        Ok(()) => {
                            let title = || format!("recovered to number {}", db.last_seq());
                            self.context.pictures.add(&self.disk, title);
                            return Ok(Some(db));
                        }
                        Err(_) if self.disk.is_off() => {
                            drop(db);
                            self.lose_power("power lost behind recovery");
                        }
                        Err(violation) => return Err(violation),
                    }
                }
                Err(_) if self.disk.is_off() => self.lose_power("power lost in recovery"),
                Err(error) => {
                    if self.is_first && error.kind() == ErrorKind::Incompatible {
                        // Random bytes in a log of a database being made, whose lock file a failed sync of the directory has
                        // lost for good: nobody can tell them from somebody else's.
                        self.take_away_foreign(&error)?;
                        continue;
                    }
                    let kinds = [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::Exhausted];
                    if !self.has_cause() || !kinds.contains(&error.kind()) {
                        return Err(violation("recovery", format!("open failed: {error:?}")));
                    }
                    self.reach("open failed by a fault");
                    self.check_attempt(&before, &error)?;
                    if attempt >= 2 {
                        self.mend_disk();
                    }
                }
            }
        }
        Ok(None)
    }

    /// Checks that an opening in vain has kept no space that it had allocated and not written.
    fn check_attempt(&self, before: &Before, error: &Error) -> Result<(), Violation> {
        // Nothing is changed in a directory that may be another by now.
        if error.file().is_some_and(|file| file.ends_with("LOCK")) {
            return Ok(());
        }
        let now = Before::look(&self.disk);
        // Where the attempt may count, or what was allocated could not be given back, it stays.
        if now.in_doubt_count != before.in_doubt_count || now.pointer() != before.pointer() {
            return Ok(());
        }
        let is_new = |file: &&SeenFile| before.files.iter().all(|old| old.name != file.name);
        let is_kept = |file: &&SeenFile| file.len > file.bytes.len() as u64;
        if let Some(file) = now.files.iter().filter(is_new).find(is_kept) {
            let message = format!(
                "it left {} with {} bytes, {} of them written",
                file.name,
                file.len,
                file.bytes.len()
            );
            return Err(violation("an opening in vain", message));
        }
        self.reach("judged: an opening in vain");
        Ok(())
    }

    pub(in crate::workload) fn reading(&self) -> Reading<'_> {
        Reading { disk: &self.disk, failures_before: self.failures_before }
    }

    /// Finds or creates the run's keyspaces. `None` if the disk is in the way.
    fn keyspaces_of(&self, db: &Db) -> Result<Option<Handles>, Violation> {
        for (number, options) in self.context.swarm.keyspaces.iter().enumerate().skip(1) {
            let name = format!("keyspace{number}");
            let opened = db.open_keyspace(&name, options.clone());
            match opened {
                Ok(_) => {}
                Err(_) if self.disk.is_off() => return Ok(None),
                Err(error) if self.has_cause() && DISK_KINDS.contains(&error.kind()) => return Ok(None),
                Err(error) => return Err(violation("error honesty", format!("create_keyspace: {error:?}"))),
            }
        }
        self.context.check_keyspaces(db)?;
        Handles::of(db).map(Some).map_err(|error| violation("error honesty", format!("keyspace: {error:?}")))
    }

    fn let_clients_loose(&mut self, opened: &Opened, keyspaces: &Handles) -> Result<(), Violation> {
        let mut threads: Vec<JoinHandle> = Vec::new();
        let swarm = &self.context.swarm;
        for number in 0..swarm.clients_count {
            let client = Client::new(self.context.clone(), opened.clone(), keyspaces.clone());
            let operations_count = swarm.operations_count;
            threads.push(start(&format!("client-{number}"), move || client.run(operations_count))?);
        }
        for _ in 0..swarm.images_count {
            self.disk.sleep(Duration::from_nanos(1 + self.context.tape.magnitude(Label::Crash, 24)));
            if self.disk.is_off() {
                break;
            }
            images::recover_on_the_side(&self.context, &self.disk)?;
        }
        join_all(threads)?;
        self.context.judge_observations()
    }

    /// Mends the disk under an open database: what `resume` takes up again must go on without an error.
    fn mend_and_resume(&mut self, db: &Db) -> Result<(), Violation> {
        self.mend_disk();
        // Operations that a fault has struck end meanwhile, and what they lead to is known.
        self.disk.sleep(Duration::from_secs(60));
        let is_cut = || self.disk.is_off();
        let broken = |what: String| violation("resume", format!("on a mended disk {what}"));
        let was_full = db.background_error().is_some_and(|error| is_full_log(&error));
        if let Err(error) = db.resume() {
            let cause = db.background_error();
            if is_cut() {
                return Ok(());
            }
            // Only an append to the log that met a full disk leaves all that counts as it was.
            let is_curable = cause.as_ref().is_some_and(is_full_log);
            if error.kind() != ErrorKind::ReadOnly || cause.is_none() || is_curable {
                return Err(broken(format!("resume gives {error:?}, and the cause is {cause:?}")));
            }
            self.reach("resume refused");
            return Ok(());
        }
        match self.context.put(db, "resumed", "yes")? {
            Err(_) if is_cut() => return Ok(()),
            Err(error) => return Err(broken(format!("a put after resume gives {error:?}"))),
            Ok(()) => {}
        }
        match db.flush().and_then(|()| db.wait_idle()) {
            Err(_) if is_cut() => return Ok(()),
            Err(error) => return Err(broken(format!("work after resume gives {error:?}"))),
            Ok(()) => {}
        }
        self.failures_before = self.disk.failures_count();
        self.reach("resumed on a mended disk");
        if was_full {
            self.reach("writing resumed after a full disk");
        }
        match db.background_error() {
            Some(error) if !is_cut() => Err(broken(format!("all went well, but it still says {error:?}"))),
            _ => Ok(()),
        }
    }

    /// Goes on behind a comparator's panic: every call ends, what was there is there, and a reopen mends it all.
    fn mend_after_panic(&mut self, db: &Db) -> Result<(), Violation> {
        if self.disk.is_off() {
            return Ok(());
        }
        // Whether these succeed is the engine's affair; that they end is not.
        let put = self.context.put(db, "behind a panic", "yes")?;
        let ended = [db.resume().err(), db.flush().err(), db.wait_idle().err(), put.err()];
        crate::schedule::note(|| format!("after the panic: {ended:?}"));
        Ok(())
    }
}

/// The files before an opening.
struct Before {
    files: Vec<SeenFile>,
    /// Operations that had failed and may leave an opening in doubt, or its space taken.
    in_doubt_count: u64,
}

impl Before {
    fn look(disk: &SimDisk) -> Before {
        let counters = disk.counters();
        let failed = ["rename failed", "sync_dir failed", "trim failed"];
        let in_doubt_count = failed.iter().filter_map(|name| counters.get(name)).sum();
        Before { files: files_of(disk), in_doubt_count }
    }

    fn pointer(&self) -> Option<&SeenFile> {
        self.files.iter().find(|file| file.name == "CURRENT")
    }
}

pub(in crate::workload) fn start(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle, Violation> {
    spawn(name, body).map_err(|error| violation("simulator", format!("no thread: {error}")))
}

pub(in crate::workload) fn join_all(threads: Vec<JoinHandle>) -> Result<(), Violation> {
    let failed_count = threads.into_iter().map(JoinHandle::join).filter(|went_well| !went_well).count();
    if failed_count > 0 {
        return Err(violation("panic", "a client panicked".into()));
    }
    Ok(())
}

/// Returns the files of a run's database; none if there is no directory yet.
pub(in crate::workload) fn files_of(disk: &SimDisk) -> Vec<SeenFile> {
    disk.files_in(Path::new(DIRECTORY))
}

/// Tells how many bytes the files of a run's database have.
pub(in crate::workload) fn directory_len(disk: &SimDisk) -> u64 {
    files_of(disk).iter().map(|file| file.len).sum()
}
