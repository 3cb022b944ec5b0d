//! Short lives of a database on a disk that fails and fills, with several threads in each: what was acknowledged as durable is
//! there in every later life, what was refused never is, and nobody touches the directory of a life that is over.

use crate::disk::{FaultPlan, LatencyPlan, SimDisk};
use crate::schedule;
use crate::tape::Label;
use crate::workload::apart;
use crate::workload::client::is_final;
use crate::workload::driver::Watcher;
use crate::workload::incarnation::{join_all, start};
use crate::workload::judge::{Context, Violation, violation};
use crate::workload::quiet::{check_shape, names_of};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::{JoinHandle, Mutex};
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, Durability, Error, ErrorKind, SeqNum, WriteOptions};

/// Openings of a life on a disk that fails.
const ATTEMPTS_COUNT: u32 = 3;
/// Threads that only delete, at most, and how many keys each.
const DELETERS_MAX: u64 = 3;
const DELETES_COUNT: u64 = 3;
/// Flushes on a mended disk: more than level 0 may have.
const MENDED_ROUNDS_COUNT: u64 = 6;
/// Longer than any pause of a job that nothing hinders any more.
const A_WHILE: Duration = Duration::from_secs(60);

/// What may be true of a key: whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    There,
    Gone,
    InDoubt,
}

/// What the threads of all lives have written: each key is put once and deleted once at most.
type Book = Arc<Mutex<BTreeMap<String, Fate>>>;

/// What is wrong with the disk during a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Operations fail.
    Faults,
    /// There is no space, and others take what is given back.
    Full,
    FaultsAndFull,
    /// Only what closing does fails.
    AtTheEnd,
}

const TROUBLES: [Trouble; 5] =
    [Trouble::AtTheEnd, Trouble::None, Trouble::Faults, Trouble::Full, Trouble::FaultsAndFull];

/// Lets a database have a few lives.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let mut disk = SimDisk::new(context.profile, context.tape.clone());
    watcher(&disk);
    let below = |bound| context.tape.below(Label::Check, bound);
    let background = apart::threads(context, 2);
    let book = Book::default();
    for number in 0..2 + below(4) {
        let trouble = *context.tape.pick(Label::Check, &TROUBLES);
        let Some(db) = open(context, &disk, (&background, trouble))? else {
            disk = disk.image();
            watcher(&disk);
            continue;
        };
        check(&db, &book)?;
        let life = Life { context, disk: disk.clone(), db, book: &book, number, trouble };
        disk = life.live()?;
        watcher(&disk);
    }
    disk.heal();
    disk.set_latency(LatencyPlan::none());
    let last = open(context, &disk, (&background, Trouble::None))?;
    let db = last.ok_or_else(|| broken("a healthy disk is off".into()))?;
    check(&db, &book)?;
    come_to_rest(&disk, &db)?;
    check(&db, &book)?;
    context.reach("judged: lives on a failing disk");
    Ok(())
}

/// Opens it: where the disk is healthy that goes well. `None` if the power went.
fn open(
    context: &Context,
    disk: &SimDisk,
    (background, trouble): (&Background, Trouble),
) -> Result<Option<Db>, Violation> {
    disk.heal();
    disk.set_latency(if context.tape.below(Label::Check, 2) == 0 {
        LatencyPlan::none()
    } else {
        LatencyPlan::fast()
    });
    if trouble == Trouble::Faults {
        disk.set_faults(failing(20_000));
    }
    for attempt in 0..=ATTEMPTS_COUNT {
        if attempt == ATTEMPTS_COUNT {
            disk.heal();
        }
        let before = disk.failures_count();
        let options = context.swarm.options.clone().block_cache_bytes(0);
        match context.copy_builder(disk, background.clone()).options(options).open() {
            Ok(db) => return Ok(Some(db)),
            Err(_) if disk.is_off() => return Ok(None),
            Err(_) if disk.failures_count() > before => {}
            Err(error) => return Err(broken(format!("open gives {error:?}"))),
        }
    }
    Err(broken("a healthy disk fails".into()))
}

fn failing(rate: u32) -> FaultPlan {
    FaultPlan {
        sync: rate,
        sync_dir: rate,
        append: rate,
        create: rate,
        rename: rate,
        remove: rate,
        ..FaultPlan::default()
    }
}

/// Compares what a database shows with what its lives have written. What it shows is durable from then on.
fn check(db: &Db, book: &Book) -> Result<(), Violation> {
    let pairs: Result<Vec<_>, Error> = db.iter().and_then(Iterator::collect);
    let pairs = pairs.map_err(|error| broken(format!("a scan gives {error:?}")))?;
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (key, value) in pairs {
        found.insert(String::from_utf8_lossy(&key).into_owned(), value.to_vec());
    }
    for (key, fate) in book.lock().iter_mut() {
        let value = found.remove(key);
        let is_right = match fate {
            Fate::There => value.is_some(),
            Fate::Gone => value.is_none(),
            Fate::InDoubt => true,
        };
        if !is_right || value.as_ref().is_some_and(|value| !value.starts_with(key.as_bytes())) {
            return Err(broken(format!("{key} is {fate:?}, but a scan finds {value:?}")));
        }
        *fate = if value.is_some() { Fate::There } else { Fate::Gone };
    }
    match found.first_key_value() {
        Some((key, _)) => Err(broken(format!("{key} is there, which nobody put"))),
        None => Ok(()),
    }
}

/// Checks that a database with nothing wrong any more has nothing to tell and leaves nothing lying about.
fn come_to_rest(disk: &SimDisk, db: &Db) -> Result<(), Violation> {
    let well = |what: &str, result: Result<(), Error>| {
        result.map_err(|error| broken(format!("{what} gives {error:?}")))
    };
    well("a put", db.put("rest", "rest").and_then(|_| db.delete("rest")).map(drop))?;
    well("a flush", db.flush())?;
    disk.sleep(A_WHILE);
    well("wait_idle", db.wait_idle())?;
    well("verify", db.verify().map(drop))?;
    let told = db.background_errors();
    if !told.is_empty() {
        return Err(broken(format!("nothing is wrong any more, but it tells {told:?}")));
    }
    let (names, live) = (names_of(disk), db.stats().live_files);
    if names != live {
        return Err(broken(format!("at rest the directory has {names:?}, it says {live:?}")));
    }
    Ok(())
}

/// One life.
struct Life<'a> {
    context: &'a Context,
    disk: SimDisk,
    db: Db,
    book: &'a Book,
    number: u64,
    trouble: Trouble,
}

impl Life<'_> {
    fn below(&self, bound: u64) -> u64 {
        self.context.tape.below(Label::Check, bound)
    }

    /// Lets threads use the database and ends its life; returns the disk that the next one finds.
    fn live(self) -> Result<SimDisk, Violation> {
        let is_full = matches!(self.trouble, Trouble::Full | Trouble::FaultsAndFull);
        if is_full {
            self.put_what_deleters_delete()?;
        }
        match self.trouble {
            Trouble::Faults | Trouble::FaultsAndFull => self.disk.set_faults(failing(40_000)),
            _ => {}
        }
        if is_full {
            self.disk.set_space(Some(self.disk.space_used() + self.below(12_000)));
        }
        if self.below(4) == 0 {
            self.disk.power_off_after(1 + self.context.tape.magnitude(Label::Check, 8));
        }
        let mut threads = Vec::new();
        for number in 0..1 + self.below(3) {
            threads.push(self.writer(number)?);
        }
        if is_full {
            for number in 0..self.below(4) {
                threads.push(self.deleter(number)?);
            }
        }
        if self.below(2) == 0 {
            threads.push(self.worker()?);
        }
        if is_full && self.below(2) == 0 {
            threads.push(self.thief()?);
        }
        if self.below(3) == 0 {
            // Somebody closes it beside them, and it is opened again while they may still be at it.
            let closer = self.closer()?;
            join_all(vec![closer])?;
            return self.reopen_beside(threads);
        }
        join_all(threads)?;
        self.end()
    }

    /// Puts keys of its own, and deletes some of them again.
    fn writer(&self, number: u64) -> Result<JoinHandle, Violation> {
        let (db, book) = (self.db.clone(), Arc::clone(self.book));
        let (tape, life) = (self.context.tape.clone(), self.number);
        let ops_count = 3 + self.below(12);
        let deleted_one_in = 1 + self.below(3);
        let write = move || {
            let below = |bound| tape.below(Label::Workload, bound);
            for at in 0..ops_count {
                let key = format!("{life}-{number}-{at}");
                let durability =
                    *tape.pick(Label::Workload, &[Durability::Disk, Durability::Disk, Durability::None]);
                let options = WriteOptions::default().durability(durability);
                let value = key.repeat(1 + usize::try_from(below(60)).expect("small"));
                book.lock().insert(key.clone(), Fate::InDoubt);
                let put = db.put_with(&key, &value, options);
                note(&book, key, &put, (Fate::Gone, Fate::There), durability);
                let earlier = format!("{life}-{number}-{}", below(at + 1));
                if below(deleted_one_in) == 0 {
                    let before = book.lock().insert(earlier.clone(), Fate::InDoubt);
                    let deleted = db.delete_with(&earlier, options);
                    let before = before.unwrap_or(Fate::Gone);
                    note(&book, earlier, &deleted, (before, Fate::Gone), durability);
                }
            }
        };
        start(&format!("writer-{number}"), write)
    }

    /// Puts, on the healthy disk, what [`Life::deleter`] deletes.
    fn put_what_deleters_delete(&self) -> Result<(), Violation> {
        for number in 0..DELETERS_MAX * DELETES_COUNT {
            let key = self.deleted_key(number);
            let put = self.db.put_with(&key, &key, WriteOptions::disk());
            put.map_err(|error| broken(format!("a put on a healthy disk gives {error:?}")))?;
            self.book.lock().insert(key, Fate::There);
        }
        Ok(())
    }

    /// Returns one of the keys that deleters delete: of many lengths, so that a full disk ends the log in any of their records.
    fn deleted_key(&self, number: u64) -> String {
        format!(
            "{}-deleted-{number:0width$}",
            self.number,
            width = 1 + 40 * usize::try_from(number % 7).expect("small")
        )
    }

    /// Deletes some keys that nobody else deletes.
    fn deleter(&self, number: u64) -> Result<JoinHandle, Violation> {
        let (db, book) = (self.db.clone(), Arc::clone(self.book));
        let keys: Vec<String> =
            (0..DELETES_COUNT).map(|at| self.deleted_key(number * DELETES_COUNT + at)).collect();
        let delete = move || {
            for key in keys {
                book.lock().insert(key.clone(), Fate::InDoubt);
                let deleted = db.delete_with(&key, WriteOptions::disk());
                note(&book, key, &deleted, (Fate::There, Fate::Gone), Durability::Disk);
            }
        };
        start(&format!("deleter-{number}"), delete)
    }

    /// Flushes, merges, syncs, makes and drops keyspaces, and takes up writing again.
    fn worker(&self) -> Result<JoinHandle, Violation> {
        let (db, tape, disk) = (self.db.clone(), self.context.tape.clone(), self.disk.clone());
        let life = self.number;
        let work = move || {
            for at in 0..1 + tape.below(Label::Workload, 8) {
                let done = match tape.below(Label::Workload, 7) {
                    0 => db.flush(),
                    1 => db.compact_range(db.default_keyspace(), ..),
                    2 => db.sync(),
                    3 => db.resume(),
                    4 => db.create_keyspace(&format!("{life}-{at}"), Default::default()).map(drop),
                    5 => db.drop_keyspace(&format!("{life}-{}", tape.below(Label::Workload, at + 1))),
                    _ => {
                        disk.sleep(Duration::from_micros(tape.magnitude(Label::Workload, 14)));
                        Ok(())
                    }
                };
                schedule::note(|| format!("the worker is told {done:?}"));
            }
        };
        start("worker", work)
    }

    /// Takes what space there is, again and again, and now and then gives some.
    fn thief(&self) -> Result<JoinHandle, Violation> {
        let (tape, disk) = (self.context.tape.clone(), self.disk.clone());
        let take = move || {
            for _ in 0..2 + tape.magnitude(Label::Workload, 6) {
                disk.set_space(Some(disk.space_used() + tape.magnitude(Label::Workload, 12)));
                disk.sleep(Duration::from_micros(tape.magnitude(Label::Workload, 14)));
            }
        };
        start("thief", take)
    }

    fn closer(&self) -> Result<JoinHandle, Violation> {
        let (db, tape, disk) = (self.db.clone(), self.context.tape.clone(), self.disk.clone());
        let close = move || {
            disk.sleep(Duration::from_nanos(tape.magnitude(Label::Workload, 22)));
            let closed = db.close();
            schedule::note(|| format!("the close gives {closed:?}"));
        };
        start("closer", close)
    }

    /// Opens the database that was closed, while threads of this life still use their handles.
    fn reopen_beside(self, threads: Vec<JoinHandle>) -> Result<SimDisk, Violation> {
        let options = self.context.swarm.options.clone().block_cache_bytes(0);
        let builder = self.context.copy_builder(&self.disk, Background::Threads(1)).options(options);
        let before = self.disk.failures_count();
        let next = builder.open();
        match &next {
            Ok(db) => {
                let key = format!("{}-beside", self.number);
                self.book.lock().insert(key.clone(), Fate::InDoubt);
                let put = db.put(&key, &key);
                schedule::note(|| format!("beside an earlier life a put gives {put:?}"));
                self.context.reach("opened beside handles of an earlier life");
            }
            Err(error) if error.kind() == ErrorKind::Locked => {
                return Err(broken(format!("a close has returned, and then open gives {error:?}")));
            }
            Err(_) if self.disk.is_off() || self.disk.failures_count() > before || self.disk.is_limited() => {
            }
            Err(error) => return Err(broken(format!("open behind a close gives {error:?}"))),
        }
        join_all(threads)?;
        drop(next);
        Ok(self.next_disk())
    }

    /// Mends the disk under the open database: what stopped it for want of space is over once writing is resumed, and nothing of
    /// it is left behind.
    fn mend(&self) -> Result<(), Violation> {
        self.disk.power_off_after(u64::MAX);
        self.disk.heal();
        if self.disk.is_off() {
            return Ok(());
        }
        let told = self.db.background_errors().into_iter().find(|told| told.job == "writing");
        let is_mendable = told.is_none_or(|told| told.error.to_string().contains("until there is space"));
        if !is_mendable {
            return Ok(());
        }
        let well = |what: &str, result: Result<(), Error>| {
            let told = || self.db.background_errors();
            result.map_err(|error| {
                broken(format!("on a mended disk {what} gives {error:?}, told {:?}", told()))
            })
        };
        match self.db.resume() {
            // An edit or a sync that failed is for a reopening, and says so.
            Err(error) if error.kind() == ErrorKind::ReadOnly => return Ok(()),
            resumed => well("resume", resumed)?,
        }
        for round in 0..MENDED_ROUNDS_COUNT {
            let key = format!("{}-mended-{round}", self.number);
            self.book.lock().insert(key.clone(), Fate::InDoubt);
            well("a put", self.db.put_with(&key, &key, WriteOptions::disk()).map(drop))?;
            self.book.lock().insert(key, Fate::There);
            well("a flush", self.db.flush())?;
        }
        well("wait_idle", self.db.wait_idle())?;
        let stats = self.db.stats();
        check_shape(&self.db, &stats, self.context.swarm.longest_value_len())?;
        self.context.reach("mended under an open database");
        Ok(())
    }

    /// Ends it: by closing, by dropping the handles, or with them still open.
    fn end(self) -> Result<SimDisk, Violation> {
        if self.below(3) == 0 {
            self.mend()?;
        }
        match self.below(3) {
            0 => {
                if self.trouble == Trouble::AtTheEnd {
                    self.disk.set_faults(FaultPlan { sync: 300_000, ..FaultPlan::default() });
                }
                let closed = self.db.clone().close();
                schedule::note(|| format!("the close at the end gives {closed:?}"));
                Ok(self.next_disk())
            }
            1 => {
                // The last handle goes before anybody opens the directory again.
                let Life { context, disk, db, .. } = self;
                drop(db);
                Ok(next_disk(context, &disk))
            }
            _ => {
                self.disk.power_off();
                Ok(self.next_disk())
            }
        }
    }

    fn next_disk(&self) -> SimDisk {
        next_disk(self.context, &self.disk)
    }
}

/// Returns the disk that the next life finds: this one, or what a death of the process or of the system leaves.
fn next_disk(context: &Context, disk: &SimDisk) -> SimDisk {
    disk.power_off_after(u64::MAX);
    match context.tape.below(Label::Crash, 3) {
        0 if !disk.is_off() => disk.clone(),
        1 => disk.killed(),
        _ => disk.image(),
    }
}

/// Notes what became of a write.
fn note(
    book: &Book,
    key: String,
    result: &Result<SeqNum, Error>,
    (refused, done): (Fate, Fate),
    durability: Durability,
) {
    let fate = match result {
        Ok(_) if durability == Durability::Disk => done,
        Err(error) if is_final(error) => refused,
        _ => Fate::InDoubt,
    };
    schedule::note(|| format!("{key} is {fate:?}: {result:?}"));
    book.lock().insert(key, fate);
}

fn broken(message: String) -> Violation {
    violation("lives on a failing disk", message)
}
