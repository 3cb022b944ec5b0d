//! A world's story: lives of one database on one disk, each ending in an accident, each beginning with a check.
//!
//! A life is: open (perhaps cut short by another loss of power, more than once), judge what was recovered, let
//! clients and a photographer loose, end by loss of power, by walking away, or by closing. What ends a life by loss
//! of power is a change of the disk drawn beforehand, so it hits inside operations, jobs and recoveries alike. After
//! the last life all faults are healed and the database must work, be idle within bounds, and leave no file behind.

use crate::disk::{Aim, DiskOp, FaultPlan, LatencyPlan, Profile, READ_OF_REMOVED, SimDisk};
use crate::tape::{Label, Tape};
use crate::world::client::{Client, Judge, Violation, is_full_log};
use crate::world::model::{CommitId, Contents, Model, Pairs};
use crate::world::oracle;
use crate::world::scene::Album;
use crate::world::swarm::Swarm;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::{JoinHandle, spawn};
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, ErrorKind, Keyspace, KeyspaceOptions, Slice, Stats};

const DIRECTORY: &str = "/db";

/// What a failed operation of the disk may show as, at once or later.
const DISK_KINDS: [ErrorKind; 3] = [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::ReadOnly];

/// What a world did.
#[derive(Clone, Debug, Default)]
pub struct Tale {
    /// The first broken law.
    pub violation: Option<Violation>,
    /// Losses of power, those inside recoveries included.
    pub crashes_count: u64,
    /// Databases opened on what an accident left, images included.
    pub recoveries_count: u64,
    /// Operations of clients; each write of a batch and each key of a `multi_get` counts.
    pub operations_count: u64,
    /// How often each rare event happened.
    pub events: BTreeMap<&'static str, u64>,
    /// What was decided before it began.
    pub character: Option<Arc<Swarm>>,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The power goes, at a drawn change of the disk or when all clients are done.
    PowerLoss,
    /// The handles are dropped without a word.
    WalkAway,
    /// The database is closed.
    Close,
}

struct Story {
    tape: Tape,
    swarm: Arc<Swarm>,
    disk: SimDisk,
    /// Operations of the disk that had failed before this life.
    failures_before: u64,
    profile: Profile,
    judge: Arc<Mutex<Judge>>,
    tale: Tale,
    album: Album,
}

/// Tells the story of a tape; call inside a world of `schedule`.
pub fn tell(tape: &Tape, profile: Profile, album: Album, dress: impl Fn(&SimDisk)) -> Tale {
    let swarm = Arc::new(Swarm::draw(tape));
    let disk = SimDisk::new(profile, tape.clone());
    let judge = Judge {
        model: Model::default(),
        observations: Vec::new(),
        violation: None,
        writes_count: 0,
        operations_count: 0,
        resumed_count: 0,
    };
    let tale = Tale { character: Some(Arc::clone(&swarm)), ..Tale::default() };
    let judge = Arc::new(Mutex::new(judge));
    let mut story =
        Story { tape: tape.clone(), swarm, disk, failures_before: 0, profile, judge, tale, album };
    dress(&story.disk);
    if let Err(violation) = story.live_all(&dress) {
        story.tale.violation = Some(violation);
    }
    story.album.add(&story.disk, || "the end".to_owned());
    let (operations_count, resumed_count) = {
        let judge = story.judge.lock();
        (judge.operations_count, judge.resumed_count)
    };
    story.tale.operations_count = operations_count;
    if resumed_count > 0 {
        *story.tale.events.entry("writing resumed after a full disk").or_default() += resumed_count;
    }
    story.note_disk();
    if story.tale.violation.is_none() && story.tale.events.contains_key(READ_OF_REMOVED) {
        let message = "a file was read after its name was removed".to_owned();
        story.tale.violation = Some(Violation { oracle: "readers pin their files", message });
    }
    story.tale
}

impl Story {
    fn live_all(&mut self, dress: &impl Fn(&SimDisk)) -> Result<(), Violation> {
        let mut is_first = true;
        for _ in 0..self.swarm.lives_count {
            let ending = *self.tape.pick(
                Label::Crash,
                &[Ending::PowerLoss, Ending::PowerLoss, Ending::PowerLoss, Ending::WalkAway, Ending::Close],
            );
            self.prepare_disk();
            let Some(db) = self.open_through_accidents(is_first, dress)? else { continue };
            is_first = false;
            let Some(keyspaces) = self.keyspaces_of(&db)? else {
                self.end(db, Ending::PowerLoss, dress)?;
                continue;
            };
            if ending == Ending::PowerLoss {
                self.aim_power_loss();
            }
            self.let_clients_loose(&db, &keyspaces)?;
            drop(keyspaces);
            if self.has_cause() && !self.disk.is_off() && self.tape.chance(Label::Check, 1, 2) {
                self.mend_and_resume(&db)?;
            }
            self.end(db, ending, dress)?;
        }
        self.come_to_rest(is_first, dress)
    }

    /// Decides when the power goes: after any number of changes, or at an operation between whose effect and whose
    /// durability engines go wrong. Those are rare among appends and syncs, so a plain count would seldom hit them.
    fn aim_power_loss(&self) {
        let below = |bound| self.tape.below(Label::Crash, bound);
        if below(2) == 0 {
            self.disk.power_off_after(1 + self.tape.magnitude(Label::Crash, 10));
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
        let op = *self.tape.pick(Label::Crash, &ops);
        self.disk.power_off_at(Aim { op, skipped: below(4), changes_behind: below(3) });
    }

    /// Decides when the power goes in a recovery.
    fn aim_into_recovery(&self) {
        let below = |bound| self.tape.below(Label::Crash, bound);
        if below(3) == 0 {
            self.disk.power_off_at(Aim { op: DiskOp::Rename, skipped: 0, changes_behind: below(2) });
        } else {
            self.disk.power_off_after(1 + below(30));
        }
    }

    /// Sets latencies and faults for a life.
    fn prepare_disk(&mut self) {
        let latency = *self.tape.pick(Label::Latency, &[0u8, 1, 1, 2]);
        self.disk.set_latency(match latency {
            0 => LatencyPlan::none(),
            1 => LatencyPlan::fast(),
            _ => LatencyPlan::slow(),
        });
        let mut faults = FaultPlan {
            stall: if self.tape.chance(Label::Options, 1, 4) { 5_000 } else { 0 },
            stall_ns_max: 3_000_000_000,
            short_read: if self.tape.chance(Label::Options, 1, 4) { 50_000 } else { 0 },
            refuses_allocation: self.tape.chance(Label::Options, 1, 8),
            wall_jump: if self.tape.chance(Label::Options, 1, 6) { 20_000 } else { 0 },
            wall_jump_ms_max: 100_000_000,
            ..FaultPlan::default()
        };
        let mut space = None;
        if self.swarm.has_faults {
            let rate = |high: u32| if self.tape.chance(Label::Options, 1, 3) { high } else { 0 };
            faults.sync = rate(15_000);
            faults.sync_dir = rate(40_000);
            faults.append = rate(3_000);
            faults.read = rate(3_000);
            faults.open = rate(3_000);
            faults.create = rate(8_000);
            faults.rename = rate(20_000);
            faults.remove = rate(30_000);
            if self.tape.chance(Label::Options, 1, 2) {
                space = Some(15_000 + self.tape.below(Label::Options, 120_000));
            }
        }
        self.disk.set_faults(faults);
        self.disk.set_space(space);
        self.failures_before = self.disk.failures_count();
    }

    /// Ends all faults and delays.
    fn heal_disk(&mut self) {
        self.disk.heal();
        self.disk.set_latency(LatencyPlan::none());
        self.failures_before = self.disk.failures_count();
    }

    /// Tells whether an error of this life may have come from the disk: an operation failed.
    fn has_cause(&self) -> bool {
        self.disk.failures_count() > self.failures_before
    }

    fn builder(&self, disk: &SimDisk, background: Background) -> tinylsm::DbBuilder {
        Db::builder(DIRECTORY)
            .vfs(Arc::new(disk.clone()))
            .options(self.swarm.options.clone())
            .background(background)
    }

    /// Opens the database; the power may go while it does, several times. `None` if faults keep it shut.
    fn open_through_accidents(
        &mut self,
        is_first: bool,
        dress: &impl Fn(&SimDisk),
    ) -> Result<Option<Db>, Violation> {
        for attempt in 0..5 {
            let has_accident = attempt < 3 && self.tape.chance(Label::Crash, 1, 4);
            if has_accident {
                self.aim_into_recovery();
            }
            self.failures_before = self.disk.failures_count();
            let opened = self.builder(&self.disk, self.swarm.background.clone()).open();
            match opened {
                Ok(db) => {
                    self.tale.recoveries_count += u64::from(!is_first);
                    self.disk.power_off_after(u64::MAX);
                    if self.disk.is_off() {
                        drop(db);
                        self.lose_power("power lost at the end of recovery", dress);
                        continue;
                    }
                    match self.judge_recovery(&db) {
                        Ok(()) => {
                            self.album.add(&self.disk, || format!("recovered to number {}", db.last_seq()));
                            return Ok(Some(db));
                        }
                        Err(_) if self.disk.is_off() => {
                            drop(db);
                            self.lose_power("power lost behind recovery", dress);
                        }
                        Err(violation) => return Err(violation),
                    }
                }
                Err(_) if self.disk.is_off() => self.lose_power("power lost in recovery", dress),
                Err(error) => {
                    let kinds = [ErrorKind::Io, ErrorKind::NoSpace];
                    if !self.has_cause() || !kinds.contains(&error.kind()) {
                        return Err(violation("recovery", format!("open failed: {error:?}")));
                    }
                    self.tale.count("open failed by a fault");
                    if attempt >= 2 {
                        self.disk.heal();
                    }
                }
            }
        }
        Ok(None)
    }

    fn lose_power(&mut self, event: &'static str, dress: &impl Fn(&SimDisk)) {
        self.tale.count(event);
        self.tale.crashes_count += 1;
        let is_owed = self.profile == Profile::Kill && self.disk.failures_count() == 0;
        self.next_disk(dress);
        self.album.add_crash(&self.disk, || event.to_owned());
        if !is_owed {
            let model = &mut self.judge.lock().model;
            model.process_floor = model.durable_floor;
        }
    }

    /// Goes on with what the crash left.
    fn next_disk(&mut self, dress: &impl Fn(&SimDisk)) {
        let next = self.disk.image();
        // After the image, which counts what it loses on the disk that it is made of.
        self.note_disk();
        self.disk = next;
        dress(&self.disk);
        self.prepare_disk();
    }

    fn note_disk(&mut self) {
        for (name, count) in self.disk.counters() {
            *self.tale.events.entry(name).or_default() += count;
        }
    }

    /// Compares what was recovered with the model and goes on with what it decided.
    fn judge_recovery(&self, db: &Db) -> Result<(), Violation> {
        let (seq, contents) = self.read_all(db)?;
        let mut judge = self.judge.lock();
        let model = &mut judge.model;
        // A failed sync may take back what the system had accepted, so only synced commits are owed then.
        let has_failed = self.disk.failures_count() > 0;
        let floor = if has_failed { model.durable_floor } else { model.process_floor };
        check_floor(seq, floor)?;
        model.settle(seq, &contents).map_err(|message| violation("exact prefix", message))?;
        // What was recovered is durable when the database is open.
        model.durable_floor = seq;
        model.process_floor = seq;
        Ok(())
    }

    /// Reads everything, both ways and key by key.
    fn read_all(&self, db: &Db) -> Result<(u64, Contents), Violation> {
        let seq = db.last_seq().get();
        let mut contents: Contents = (0..self.swarm.keyspaces.len())
            .map(|id| (u32::try_from(id).expect("a few"), Pairs::new()))
            .collect();
        for (id, name) in db.keyspaces().iter().enumerate() {
            let keyspace = db.keyspace(name).map_err(|error| self.unreadable(&error))?;
            let content = self.read_keyspace(&keyspace)?;
            contents.insert(u32::try_from(id).expect("a few"), content);
        }
        Ok((seq, contents))
    }

    fn read_keyspace(&self, keyspace: &Keyspace) -> Result<Pairs, Violation> {
        let faulty = |error: &tinylsm::Error| self.unreadable(error);
        // Injected read errors are retried: the disk says that they pass.
        for _ in 0..20 {
            let forwards: Result<Pairs, _> = keyspace.iter().map_err(|e| faulty(&e))?.collect();
            let backwards: Result<Pairs, _> = keyspace.iter().map_err(|e| faulty(&e))?.rev().collect();
            let (mut forwards, backwards) = match (forwards, backwards) {
                (Ok(forwards), Ok(backwards)) => (forwards, backwards),
                (Err(error), _) | (_, Err(error)) => {
                    if self.has_cause() && error.kind() == ErrorKind::Io && !self.disk.is_off() {
                        continue;
                    }
                    return Err(faulty(&error));
                }
            };
            if !forwards.iter().rev().eq(&backwards) {
                return Err(violation(
                    "both ways",
                    "a scan backwards is not the scan forwards reversed".into(),
                ));
            }
            for (key, value) in forwards.iter().step_by(3) {
                match keyspace.get(key) {
                    Ok(found) if found.as_ref() == Some(value) => {}
                    Ok(found) => {
                        let message = format!("get of {key:?} gives {found:?}, the scan gave {value:?}");
                        return Err(violation("get and scan", message));
                    }
                    Err(error) if self.has_cause() && error.kind() == ErrorKind::Io => {}
                    Err(error) => return Err(faulty(&error)),
                }
            }
            if keyspace.options().comparator != tinylsm::base::comparator::BYTEWISE_NAME {
                forwards.reverse();
            }
            return Ok(forwards);
        }
        Ok(Pairs::new())
    }

    fn unreadable(&self, error: &tinylsm::Error) -> Violation {
        violation("recovery", format!("a recovered database cannot be read: {error:?}"))
    }

    /// Finds or creates the world's keyspaces. `None` if the disk is in the way.
    fn keyspaces_of(&self, db: &Db) -> Result<Option<Vec<Keyspace>>, Violation> {
        let mut keyspaces = vec![db.default_keyspace().clone()];
        for (number, options) in self.swarm.keyspaces.iter().enumerate().skip(1) {
            let name = format!("keyspace{number}");
            let options: KeyspaceOptions = options.clone();
            let opened = match db.keyspace(&name) {
                Err(error) if error.kind() == ErrorKind::NotFound => db.create_keyspace(&name, options),
                other => other,
            };
            match opened {
                Ok(keyspace) => keyspaces.push(keyspace),
                Err(_) if self.disk.is_off() => return Ok(None),
                Err(error) if self.has_cause() && DISK_KINDS.contains(&error.kind()) => return Ok(None),
                Err(error) => return Err(violation("error honesty", format!("create_keyspace: {error:?}"))),
            }
        }
        Ok(Some(keyspaces))
    }

    fn let_clients_loose(&mut self, db: &Db, keyspaces: &[Keyspace]) -> Result<(), Violation> {
        let mut threads: Vec<JoinHandle> = Vec::new();
        for number in 0..self.swarm.clients_count {
            let client = Client::new(
                self.tape.clone(),
                Arc::clone(&self.swarm),
                Arc::clone(&self.judge),
                db.clone(),
                keyspaces.to_vec(),
                (self.disk.clone(), self.failures_before),
            );
            let thread = spawn(&format!("client-{number}"), move || client.run());
            threads.push(thread.map_err(|error| violation("world", format!("no thread: {error}")))?);
        }
        for _ in 0..self.swarm.images_count {
            self.disk.sleep(Duration::from_nanos(1 + self.tape.magnitude(Label::Crash, 24)));
            if self.disk.is_off() {
                break;
            }
            self.take_image()?;
        }
        let failed_count = threads.into_iter().map(JoinHandle::join).filter(|went_well| !went_well).count();
        if failed_count > 0 {
            return Err(violation("panic", "a client panicked".into()));
        }
        self.judge_observations(keyspaces)
    }

    /// Mends the disk under an open database: what `resume` takes up again must go on without an error.
    fn mend_and_resume(&mut self, db: &Db) -> Result<(), Violation> {
        self.disk.heal();
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
            self.tale.count("resume refused");
            return Ok(());
        }
        let id = self.judge.lock().model.begin(vec![((0, b"resumed".to_vec()), Some(b"yes".to_vec()))]);
        let seq = match db.put("resumed", "yes") {
            Ok(seq) => seq.get(),
            Err(_) if is_cut() => return Ok(()),
            Err(error) => return Err(broken(format!("a put after resume gives {error:?}"))),
        };
        self.note_durable_commit(id, seq)?;
        match db.flush().and_then(|()| db.wait_idle()) {
            Err(error) if !is_cut() => return Err(broken(format!("work after resume gives {error:?}"))),
            _ => {}
        }
        self.failures_before = self.disk.failures_count();
        self.tale.count("resumed on a mended disk");
        self.judge.lock().resumed_count += u64::from(was_full);
        Ok(())
    }

    fn note_durable_commit(&self, id: CommitId, seq: u64) -> Result<(), Violation> {
        let mut judge = self.judge.lock();
        let model = &mut judge.model;
        model.commit(id, seq).map_err(|message| violation("sequence numbers", message))?;
        model.durable_floor = model.durable_floor.max(seq);
        model.process_floor = model.process_floor.max(seq);
        Ok(())
    }

    /// Recovers a crash image on the side and judges it, while the original runs on.
    fn take_image(&mut self) -> Result<(), Violation> {
        let (image, floor) = {
            let judge = self.judge.lock();
            let floors = (judge.model.durable_floor, judge.model.process_floor);
            let owes_all = self.profile == Profile::Kill && self.disk.failures_count() == 0;
            (self.disk.image(), if owes_all { floors.1 } else { floors.0 })
        };
        self.tale.recoveries_count += 1;
        self.tale.count("crash image recovered on the side");
        self.album.add_crash(&image, || "a crash image, recovered on the side".to_owned());
        let read_only =
            if self.tape.chance(Label::Check, 1, 3) { Some(self.read_only(&image)?) } else { None };
        let db = self
            .builder(&image, Background::Manual)
            .open()
            .map_err(|error| violation("recovery", format!("a crash image does not open: {error:?}")))?;
        let (seq, contents) = self.read_all(&db)?;
        if read_only.is_some_and(|read_only| read_only != (seq, contents.clone())) {
            let message = format!("reading only shows another content than the one recovered to {seq}");
            return Err(violation("reading only", message));
        }
        check_floor(seq, floor)?;
        let judged = self.judge.lock().model.check(seq, &contents);
        judged.map_err(|message| violation("exact prefix", message))?;
        // The same image again: recovery must come to the same end.
        drop(db);
        let again = self.builder(&image, Background::Manual).open().map_err(|error| {
            violation("recovery", format!("a recovered image does not open again: {error:?}"))
        })?;
        let (again_seq, again_contents) = self.read_all(&again)?;
        if (again_seq, &again_contents) != (seq, &contents) {
            let message = format!("recovered to {seq} first and to {again_seq} again, or to other content");
            return Err(violation("recovery is idempotent", message));
        }
        Ok(())
    }

    /// Reads a crash image that nobody recovered yet, which changes nothing on the disk.
    fn read_only(&mut self, image: &SimDisk) -> Result<(u64, Contents), Violation> {
        self.tale.count("crash image opened read-only");
        let (before, changes_before) = (image.files(), image.changes_count());
        let db = self.builder(image, Background::Manual).open_read_only().map_err(|error| {
            violation("recovery", format!("a crash image does not open read-only: {error:?}"))
        })?;
        let read = self.read_all(&db)?;
        drop(db);
        if image.files() != before || image.changes_count() != changes_before {
            return Err(violation("reading only", "opening a crash image read-only changed it".to_owned()));
        }
        Ok(read)
    }

    fn judge_observations(&mut self, keyspaces: &[Keyspace]) -> Result<(), Violation> {
        let mut judge = self.judge.lock();
        if let Some(violation) = judge.violation.clone() {
            return Err(violation);
        }
        let observations = std::mem::take(&mut judge.observations);
        let covered = judge.model.covered();
        for observation in &observations {
            // A commit in doubt may have been seen, and which number it has nobody knows.
            if observation.high > covered {
                self.tale.count("read not judged");
                continue;
            }
            self.tale.count("read judged");
            let options = keyspaces[observation.keyspace as usize].options();
            let is_reverse = options.comparator != tinylsm::base::comparator::BYTEWISE_NAME;
            oracle::judge(&judge.model, observation, is_reverse)?;
        }
        Ok(())
    }

    /// Ends a life.
    fn end(&mut self, db: Db, ending: Ending, dress: &impl Fn(&SimDisk)) -> Result<(), Violation> {
        self.note_stats(&db.stats());
        if ending == Ending::PowerLoss || self.disk.is_off() {
            self.disk.power_off();
            drop(db);
            self.lose_power("power lost in a life", dress);
            return Ok(());
        }
        if ending == Ending::WalkAway {
            drop(db);
            self.tale.count("handles dropped without a word");
            return Ok(());
        }
        let last_seq = db.last_seq().get();
        if self.swarm.has_faults && self.tape.chance(Label::Crash, 1, 3) {
            // What a close leaves when one of its few syncs fails would seldom be seen otherwise.
            self.disk.set_faults(FaultPlan { sync: 300_000, ..FaultPlan::default() });
        }
        match db.close() {
            Ok(()) => {
                let mut judge = self.judge.lock();
                judge.model.durable_floor = last_seq;
                judge.model.process_floor = last_seq;
                drop(judge);
                self.tale.count("closed");
                if self.tape.chance(Label::Check, 1, 4) {
                    self.damage_a_copy()?;
                }
                Ok(())
            }
            Err(_) if self.disk.is_off() => {
                self.lose_power("power lost in closing", dress);
                Ok(())
            }
            Err(error) if self.has_cause() && DISK_KINDS.contains(&error.kind()) => {
                self.tale.count("closing failed by a fault");
                Ok(())
            }
            Err(error) => Err(violation("error honesty", format!("close failed: {error:?}"))),
        }
    }

    /// Flips one bit of a closed database: what is read is right, or an error that names the damaged file.
    fn damage_a_copy(&mut self) -> Result<(), Violation> {
        let copy = self.disk.copy();
        let names = copy.read_dir(Path::new(DIRECTORY)).map_err(|error| self.unreadable(&error))?;
        let name = &self.tape.pick(Label::Check, &names).name;
        let path = Path::new(DIRECTORY).join(name);
        let len = copy.metadata(&path).map_err(|error| self.unreadable(&error))?.len;
        if len == 0 {
            return Ok(());
        }
        let (at, bit) = (self.tape.below(Label::Check, len), self.tape.below(Label::Check, 8));
        copy.flip_bit(&path, at, u8::try_from(bit).expect("below 8"))
            .map_err(|error| self.unreadable(&error))?;
        self.tale.count("read a damaged copy");
        let names_the_file = |error: &tinylsm::Error| {
            let kinds = [ErrorKind::Corruption, ErrorKind::Incompatible];
            kinds.contains(&error.kind()) && error.file() == Some(path.as_path())
        };
        let broken =
            |what: String| violation("no silent damage", format!("byte {at} bit {bit} of {name}: {what}"));
        let db = match self.builder(&copy, Background::Manual).open_read_only() {
            Ok(db) => db,
            Err(error) if names_the_file(&error) => return Ok(()),
            Err(error) => return Err(broken(format!("open gives {error:?}"))),
        };
        let model = self.judge.lock().model.clone();
        let last = model.last_known();
        for id in 0..self.swarm.keyspaces.len() {
            let name = if id == 0 { "default".to_owned() } else { format!("keyspace{id}") };
            let expected: BTreeMap<&[u8], &[u8]> =
                model.content_at(u32::try_from(id).expect("a few"), last).collect();
            let keyspace = match db.keyspace(&name) {
                Ok(keyspace) => keyspace,
                Err(_) if expected.is_empty() => continue,
                Err(error) => return Err(broken(format!("{error:?}"))),
            };
            let scanned: Result<BTreeMap<Slice, Slice>, _> = keyspace.iter().and_then(Iterator::collect);
            match scanned {
                Ok(content) if content.iter().map(|(k, v)| (&**k, &**v)).eq(expected.clone()) => {}
                Ok(_) => return Err(broken("a scan gives something else and no error".into())),
                Err(error) if names_the_file(&error) => {}
                Err(error) => return Err(broken(format!("a scan gives {error:?}"))),
            }
            for (key, value) in &expected {
                match keyspace.get(key) {
                    Ok(Some(found)) if *found == **value => {}
                    Err(error) if names_the_file(&error) => {}
                    other => return Err(broken(format!("get of {} gives {other:?}", key.escape_ascii()))),
                }
            }
        }
        Ok(())
    }

    fn note_stats(&mut self, stats: &Stats) {
        let levels = stats.keyspaces.iter().flat_map(|keyspace| keyspace.levels.iter().enumerate());
        let deepest = levels.filter(|(_, level)| level.files > 0).map(|(depth, _)| depth).max().unwrap_or(0);
        let noted = [
            ("flushed", stats.flushes),
            ("compacted", stats.compactions),
            ("moved a table down", stats.trivial_moves),
            ("rolled the manifest", stats.manifests_rolled),
            ("cut a torn tail", stats.torn_tails_cut),
            ("writers stalled", stats.stalls),
            ("reader held an obsolete table", stats.obsolete_tables as u64),
            ("tables on level 2 or deeper", u64::from(deepest >= 2)),
        ];
        for (name, count) in noted {
            if count > 0 {
                *self.tale.events.entry(name).or_default() += count;
            }
        }
    }

    /// All faults are over: the database opens, writes, comes to rest and leaves no file behind.
    fn come_to_rest(&mut self, is_first: bool, dress: &impl Fn(&SimDisk)) -> Result<(), Violation> {
        self.heal_disk();
        self.disk.power_off_after(u64::MAX);
        if self.disk.is_off() {
            self.lose_power("power lost before rest", dress);
            self.heal_disk();
        }
        let sound =
            |what: &'static str, error: tinylsm::Error| violation("liveness", format!("{what}: {error:?}"));
        let db = self.builder(&self.disk, self.swarm.background.clone()).open().map_err(|e| sound("open", e))?;
        self.tale.recoveries_count += u64::from(!is_first);
        self.judge_recovery(&db)?;
        let id = self.judge.lock().model.begin(vec![((0, b"rest".to_vec()), Some(b"at last".to_vec()))]);
        let seq = db.put("rest", "at last").map_err(|e| sound("put", e))?;
        self.note_durable_commit(id, seq.get())?;
        db.flush().map_err(|e| sound("flush", e))?;
        db.wait_idle().map_err(|e| sound("wait_idle", e))?;
        self.wear_level0(&db)?;
        db.compact_range(db.default_keyspace(), ..).map_err(|e| sound("compact_range", e))?;
        db.wait_idle().map_err(|e| sound("wait_idle", e))?;
        self.judge_recovery(&db)?;
        db.verify().map_err(|e| sound("verify", e))?;
        // Reading may have made a merge due.
        db.wait_idle().map_err(|e| sound("wait_idle", e))?;
        let stats = db.stats();
        self.note_stats(&stats);
        let listed = self.disk.read_dir(Path::new(DIRECTORY)).map_err(|e| sound("read_dir", e))?;
        let listed: Vec<String> = listed.into_iter().map(|entry| entry.name).collect();
        if listed != stats.live_files {
            let message =
                format!("at rest the directory has {listed:?}, the database says {:?}", stats.live_files);
            return Err(violation("directory is the live set", message));
        }
        db.close().map_err(|e| sound("close", e))?;
        let reader = self
            .builder(&self.disk, self.swarm.background.clone())
            .open_read_only()
            .map_err(|e| sound("reopen", e))?;
        self.judge_recovery(&reader)
    }

    /// Reads the first level 0 that has tables until that has cost what its merge would, and expects the merge without
    /// asking for it.
    fn wear_level0(&mut self, db: &Db) -> Result<(), Violation> {
        let fault = |error: tinylsm::Error| violation("level 0 worn by reading", format!("{error:?}"));
        let worn = db.stats().keyspaces.into_iter().find(|figures| figures.levels[0].files > 0);
        let Some(figures) = worn else { return Ok(()) };
        self.tale.count("level 0 worn by reading");
        let keyspace = db.keyspace(&figures.name).map_err(fault)?;
        // Each iterator wastes a block at least, and a merge rewrites no more than all of the first two levels.
        let price = figures.levels[0].bytes + figures.levels[1].bytes;
        for _ in 0..=price / keyspace.options().block_bytes as u64 {
            drop(keyspace.iter().map_err(fault)?);
        }
        if matches!(self.swarm.background, Background::Manual) {
            db.wait_idle().map_err(fault)?;
        } else {
            self.disk.sleep(Duration::from_secs(60));
        }
        let worn = &db.stats().keyspaces[figures.id as usize];
        if worn.levels[0].files > 0 {
            return Err(violation("level 0 worn by reading", format!("not merged: {worn:?}")));
        }
        Ok(())
    }
}

impl Tale {
    fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }
}

fn violation(oracle: &'static str, message: String) -> Violation {
    Violation { oracle, message }
}

/// Checks that everything owed is there.
fn check_floor(seq: u64, floor: u64) -> Result<(), Violation> {
    if seq >= floor {
        return Ok(());
    }
    let message = format!("recovered to number {seq}, but {floor} was acknowledged as durable");
    Err(violation("durability", message))
}
