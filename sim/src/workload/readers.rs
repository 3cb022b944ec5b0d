//! Readers beside a writer and its merges: each sees one moment, no older than what was acknowledged before it looked; and what
//! was kept for a snapshot alone goes with it.

use crate::tape::{Label, Tape};
use crate::workload::apart::{Apart, Content, threads};
use crate::workload::driver::Watcher;
use crate::workload::incarnation::{join_all, start};
use crate::workload::judge::{Context, Violation};
use crate::workload::quiet::jobs_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tinylsm::sync::Mutex;
use tinylsm::sync::atomic::AtomicU64;
use tinylsm::{Db, Keyspace, Slice, Snapshot, WriteBatch, WriteOptions};

const SHARED: &str = "shared";
/// Two keys that every commit writes together.
const KEYS: [&str; 2] = ["a", "b"];
const COMMITS_COUNT: u64 = 50;
const LOOKS_COUNT: u64 = 30;

/// How often a database is filled, asked to come to rest, and looked at.
const RESTS_COUNT: u64 = 12;

/// Longer than it takes until a quiet database has given back what nobody sees any more.
const LONGER_THAN_REMOVAL: Duration = Duration::from_secs(60);

/// Asks one of the questions.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    match context.tape.below(Label::Check, 4) {
        0 | 1 => read_beside_merges(context, watcher),
        2 => release_snapshots(context, watcher),
        _ => rest_again_and_again(context, watcher),
    }
}

/// What the writer has begun to write and what was acknowledged, both as numbers of commits.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

/// One of the threads that read.
struct Reader {
    db: Db,
    keyspace: Keyspace,
    progress: Arc<Progress>,
    tape: Tape,
    faults: Arc<Mutex<Vec<String>>>,
}

fn read_beside_merges(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "readers beside merges", threads(context, 3))?;
    let keyspace = apart.keyspace_with(SHARED, |options| options.level0_compaction_trigger(2))?;
    let (progress, faults) = (Arc::new(Progress::default()), Arc::new(Mutex::new(Vec::new())));
    commit(&apart, &keyspace, &progress)?;
    let mut readers = Vec::new();
    for number in 0..1 + apart.below(3) {
        let reader = Reader {
            db: apart.db.clone(),
            keyspace: keyspace.clone(),
            progress: Arc::clone(&progress),
            tape: context.tape.clone(),
            faults: Arc::clone(&faults),
        };
        readers.push(start(&format!("reader-{number}"), move || reader.run())?);
    }
    for _ in 0..COMMITS_COUNT {
        commit(&apart, &keyspace, &progress)?;
        match apart.below(12) {
            0 | 1 => apart.well("a flush", apart.db.flush())?,
            2 => apart.well("compact_range", apart.db.compact_range(&keyspace, ..))?,
            _ => {}
        }
    }
    join_all(readers)?;
    if let Some(fault) = faults.lock().first() {
        return Err(apart.broken(fault));
    }
    apart.sleep(LONGER_THAN_REMOVAL);
    apart.check_rest()?;
    context.reach("judged: readers beside merges");
    Ok(())
}

/// Writes the next number under both keys at once.
fn commit(apart: &Apart<'_>, keyspace: &Keyspace, progress: &Progress) -> Result<(), Violation> {
    let number = progress.begun.fetch_add(1, Ordering::SeqCst) + 1;
    let value = format!("{number} {}", "v".repeat(20 + usize::try_from(apart.below(200)).expect("small")));
    let mut batch = WriteBatch::new();
    for key in KEYS {
        batch.put(keyspace, key, &value);
    }
    apart.well("a batch", apart.db.write(batch, WriteOptions::default()))?;
    progress.acknowledged.store(number, Ordering::SeqCst);
    Ok(())
}

impl Reader {
    fn run(&self) {
        for _ in 0..LOOKS_COUNT {
            if let Err(fault) = self.look() {
                self.faults.lock().push(fault);
                return;
            }
        }
    }

    /// Looks once, in one of the ways there are.
    fn look(&self) -> Result<(), String> {
        let floor = self.progress.acknowledged.load(Ordering::SeqCst);
        match self.tape.below(Label::Workload, 5) {
            0 | 1 => {
                let key = KEYS[usize::from(self.tape.below(Label::Workload, 2) == 0)];
                let value = self.keyspace.get(key).map_err(|error| format!("get gives {error:?}"))?;
                self.check("get", floor, &[value]).map(drop)
            }
            2 => {
                let pairs: Result<Vec<_>, _> = self.keyspace.iter().and_then(Iterator::collect);
                let pairs = pairs.map_err(|error| format!("a scan gives {error:?}"))?;
                let values: Vec<_> = pairs.into_iter().map(|(_, value)| Some(value)).collect();
                self.check("a scan", floor, &values).map(drop)
            }
            3 => {
                let values = self.keyspace.multi_get(&KEYS);
                let values = values.map_err(|error| format!("multi_get gives {error:?}"))?;
                self.check("multi_get", floor, &values).map(drop)
            }
            _ => self.look_twice(floor),
        }
    }

    /// Looks at a snapshot, and again when the writer has gone on.
    fn look_twice(&self, floor: u64) -> Result<(), String> {
        let snapshot = self.db.snapshot();
        let first = self.check("a snapshot", floor, &self.values_at(&snapshot)?)?;
        if self.tape.below(Label::Workload, 2) == 0 {
            // So that the writer, its flushes and merges go by.
            let acknowledged = self.progress.acknowledged.load(Ordering::SeqCst);
            for _ in 0..self.tape.below(Label::Workload, 60) {
                tinylsm::sync::thread::yield_now();
            }
            if self.progress.acknowledged.load(Ordering::SeqCst) > acknowledged {
                let again = self.check("a snapshot, later", floor, &self.values_at(&snapshot)?)?;
                if first != again {
                    return Err(format!("a snapshot showed {first}, and later {again}"));
                }
            }
        }
        Ok(())
    }

    fn values_at(&self, snapshot: &Snapshot) -> Result<Vec<Option<Slice>>, String> {
        let view = snapshot.keyspace(&self.keyspace);
        let get = |key| view.get(key).map_err(|error| format!("get of a snapshot gives {error:?}"));
        KEYS.into_iter().map(get).collect()
    }

    /// Checks that all values are of one commit, neither older than `floor` nor newer than any that was begun.
    fn check(&self, what: &str, floor: u64, values: &[Option<Slice>]) -> Result<u64, String> {
        let ceiling = self.progress.begun.load(Ordering::SeqCst);
        let number_of = |value: &Option<Slice>| {
            let text = String::from_utf8_lossy(value.as_ref()?).into_owned();
            text.split(' ').next()?.parse::<u64>().ok()
        };
        let numbers: Vec<Option<u64>> = values.iter().map(number_of).collect();
        let expected = if what == "get" { 1 } else { KEYS.len() };
        match numbers.first() {
            Some(Some(number))
                if numbers.len() == expected
                    && numbers.iter().all(|other| *other == Some(*number))
                    && (floor..=ceiling).contains(number) =>
            {
                Ok(*number)
            }
            _ => Err(format!("{what} shows {numbers:?}, between {floor} and {ceiling}")),
        }
    }
}

/// Lets go of snapshots that merges have kept something for: a quiet database gives back that space by itself.
fn release_snapshots(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "released snapshots", threads(context, 3))?;
    let keyspace = apart.keyspace(SHARED)?;
    let mut content = Content::new();
    let (count, value_len) = (20 + apart.below(30), 300);
    let mut snapshots = Vec::new();
    for _ in 0..1 + apart.below(3) {
        apart.fill(&keyspace, &mut content, (count, value_len))?;
        snapshots.push(apart.db.snapshot());
    }
    for number in 0..count {
        if apart.below(2) == 0 {
            apart.well("a delete", keyspace.delete(format!("{number:04}")))?;
            content.remove(format!("{number:04}").as_bytes());
        } else {
            apart.put(&keyspace, &mut content, (number, value_len))?;
        }
    }
    // Beside the merge, or behind it: what it kept was kept for nobody.
    let db = apart.db.clone();
    let compacted = keyspace.clone();
    let merge = move || {
        db.flush().expect("the disk is healthy");
        db.compact_range(&compacted, ..).expect("the disk is healthy");
    };
    let merger = start("merger", merge)?;
    let is_beside = apart.below(2) == 0;
    if !is_beside {
        join_all(vec![merger])?;
        apart.sleep(Duration::from_secs(apart.below(3) * 20));
        drop(snapshots);
    } else {
        let mut releasers = vec![merger];
        for (number, snapshot) in snapshots.into_iter().enumerate() {
            releasers.push(start(&format!("releaser-{number}"), move || drop(snapshot))?);
        }
        join_all(releasers)?;
    }
    apart.sleep(LONGER_THAN_REMOVAL);
    let left = apart.bytes_of(SHARED);
    apart.check_rest()?;
    let pairs = keyspace.iter().and_then(Iterator::collect);
    apart.check_content("a scan behind the snapshots", pairs, &content)?;
    apart.well("compact_range", apart.db.compact_range(&keyspace, ..))?;
    let merged = apart.bytes_of(SHARED);
    if left > merged + merged / 4 + apart.context.swarm.options.memtable_bytes as u64 {
        let message = format!("{left} bytes were left when no snapshot was, {merged} when merged");
        return Err(apart.broken(&message));
    }
    context.reach("judged: released snapshots");
    Ok(())
}

/// Writes and waits until nothing is to be done, again and again: each time everything is done then.
fn rest_again_and_again(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "rest again and again", threads(context, 3))?;
    let keyspace = apart.keyspace_with(SHARED, |options| options.level0_compaction_trigger(2))?;
    let mut content = Content::new();
    for _ in 0..RESTS_COUNT {
        for _ in 0..1 + apart.below(6) {
            apart.put(&keyspace, &mut content, (apart.below(20), 200))?;
        }
        match apart.below(3) {
            0 => {}
            1 => apart.well("compact_range", apart.db.compact_range(&keyspace, ..))?,
            _ => apart.well("a flush", apart.db.flush())?,
        }
        apart.well("wait_idle", apart.db.wait_idle())?;
        apart.check_files()?;
        let before = apart.db.stats();
        apart.sleep(Duration::from_micros(apart.below(2_000)));
        let after = apart.db.stats();
        if jobs_of(&before) != jobs_of(&after) || !apart.db.background_errors().is_empty() {
            let message = format!("idle, it had done {:?}, and then {:?}", jobs_of(&before), jobs_of(&after));
            return Err(apart.broken(&message));
        }
    }
    let pairs = keyspace.iter().and_then(Iterator::collect);
    apart.check_content("a scan at the end", pairs, &content)?;
    context.reach("judged: rest again and again");
    Ok(())
}
