//! Tables of a live database that cannot be read, or hold wrong bytes, until the disk is mended or they are gone.
//!
//! Merges go around them, so writes go on; they are tried again, ever more seldom, while they cannot be read, and soon
//! enough once they can; and what was met in a table is over when the table is.

use crate::disk::{Damage, Latency, LatencyPlan};
use crate::tape::Label;
use crate::workload::apart::{Apart, Content, threads};
use crate::workload::driver::Watcher;
use crate::workload::incarnation::files_of;
use crate::workload::judge::{Context, Violation};
use crate::workload::orders::Order;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::{Keyspace, KeyspaceOptions};

/// The keyspace whose tables are struck.
const STRUCK: &str = "struck";
/// One beside it, with which nothing is wrong.
const SOUND: &str = "sound";
const KEYS_COUNT: u64 = 24;
const VALUE_LEN_BYTES: usize = 200;

/// No put or flush beside bad sectors takes longer: longer than any pause of a failing job would make it.
const CALL_NS_MAX: u64 = 60_000_000_000;

/// A table that cannot be read is tried so often at most in any time of a run, if each pause is longer than the one before.
const TRIES_MAX: u64 = 24;

/// Longer than it takes to do what is due, where nothing pauses.
const A_WHILE: Duration = Duration::from_secs(30);

/// Longer than the longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(660);

/// What is wrong with the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Their reads fail.
    Unreadable,
    /// One bit of each.
    Bit { at_part: u64 },
}

/// Strikes tables of a database that is in use.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    match context.tape.below(Label::Check, 4) {
        0 => merge_beside_panics(context, watcher),
        _ => strike_tables(context, watcher),
    }
}

/// Lets every merge of a keyspace panic: those of another go on, and its own once nothing panics any more.
fn merge_beside_panics(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "merges that panic", threads(context, 2))?;
    let change = |options: KeyspaceOptions| options.comparator(Order::LengthFirst.name());
    let keyspace = apart.keyspace_with(STRUCK, change)?;
    let sound = apart.keyspace_with(SOUND, |options| {
        options.level0_compaction_trigger(2).comparator(Order::Bytewise.name())
    })?;
    let mut content = Content::new();
    let mut snapshots = Vec::new();
    for _ in 0..2 + apart.below(2) {
        apart.fill(&keyspace, &mut content, (KEYS_COUNT, VALUE_LEN_BYTES))?;
        snapshots.push(apart.db.snapshot());
    }
    apart.fill(&keyspace, &mut content, (KEYS_COUNT, VALUE_LEN_BYTES))?;
    apart.well("compact_range", apart.db.compact_range(&keyspace, ..))?;
    apart.fuse.keep_burning();
    // What was kept for these makes a merge due.
    drop(snapshots);
    apart.sleep(Duration::from_secs(*context.tape.pick(Label::Check, &[700, 0, 10, 100])));
    merge_beside(&apart, &sound)?;
    if apart.fuse.panics_count() > 0 {
        context.reach("merges panicked");
    }
    apart.fuse.put_out();
    apart.sleep(LONGEST_PAUSE);
    apart.check_rest()?;
    let pairs = keyspace.iter().and_then(Iterator::collect);
    apart.check_content("a scan at the end", pairs, &content)?;
    context.reach("judged: merges that panic");
    Ok(())
}

fn strike_tables(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "bad sectors", threads(context, 2))?;
    let keyspace = apart.keyspace_with(STRUCK, |options| options.level0_compaction_trigger(2))?;
    let mut content = Content::new();
    for _ in 0..1 + apart.below(3) {
        apart.fill(&keyspace, &mut content, (KEYS_COUNT, VALUE_LEN_BYTES))?;
    }
    let began = apart.disk.now();
    let struck = Struck::strike(&apart)?;
    // So that merges take a while and other calls do not.
    apart.disk.set_latency(LatencyPlan {
        read: Latency { base_ns: 500_000, spread_ns: 4_000_000, tail: &[] },
        ..LatencyPlan::none()
    });
    write_on(&apart, &keyspace, &mut content)?;
    let sound = apart.keyspace_with(SOUND, |options| options.level0_compaction_trigger(2))?;
    merge_beside(&apart, &sound)?;
    let left_alone = *context.tape.pick(Label::Check, &[5, 0, 60, 700, 2_000]);
    struck.leave_alone(Duration::from_secs(left_alone))?;
    // Its pauses are long by now.
    merge_beside(&apart, &sound)?;
    match apart.below(4) {
        0 => {
            context.reach("bad sectors mended");
            struck.mend()?;
            let took = Duration::from_nanos(apart.disk.now() - began);
            apart.sleep(LONGEST_PAUSE.min(took * 2 + A_WHILE));
            if let Wrong::Bit { .. } = struck.wrong {
                // What was found to be wrong is told until it is read again, which nothing may make due.
                apart.sleep(LONGEST_PAUSE);
                apart.well("compact_range", apart.db.compact_range(&keyspace, ..))?;
                apart.sleep(A_WHILE);
            }
            apart.check_rest()?;
        }
        others => {
            for _ in 0..1 + apart.below(5) {
                clear_under_merge(&apart, &keyspace, &mut content)?;
            }
            if others == 1 {
                apart.fill(&keyspace, &mut content, (KEYS_COUNT, VALUE_LEN_BYTES))?;
                strike_under_merge(&apart, &keyspace, &mut content)?;
                apart.well("drop_keyspace", apart.db.drop_keyspace(STRUCK))?;
                context.reach("bad sectors dropped");
                apart.sleep(A_WHILE);
                apart.check_rest()?;
                context.reach("judged: bad sectors");
                return Ok(());
            }
        }
    }
    let pairs = keyspace.iter().and_then(Iterator::collect);
    apart.check_content("a scan at the end", pairs, &content)?;
    context.reach("judged: bad sectors");
    Ok(())
}

/// Clears the keyspace while a merge may just be meeting what is wrong: that is over then, and writes go on.
fn clear_under_merge(apart: &Apart<'_>, keyspace: &Keyspace, content: &mut Content) -> Result<(), Violation> {
    strike_under_merge(apart, keyspace, content)?;
    apart.well("clear", keyspace.clear())?;
    content.clear();
    apart.context.reach("bad sectors cleared");
    apart.sleep(A_WHILE);
    apart.check_rest()?;
    apart.fill(keyspace, content, (KEYS_COUNT, VALUE_LEN_BYTES))
}

/// Writes and flushes as often as it takes to make writers wait where nothing is merged.
fn write_on(apart: &Apart<'_>, keyspace: &Keyspace, content: &mut Content) -> Result<(), Violation> {
    let rounds_count = 2 + apart.below(apart.context.swarm.options.level0_stop as u64 + 3);
    for _ in 0..rounds_count {
        let began_ns = apart.disk.now();
        for _ in 0..1 + apart.below(3) {
            apart.put(keyspace, content, (apart.below(KEYS_COUNT), VALUE_LEN_BYTES))?;
        }
        apart.well("a flush", apart.db.flush())?;
        let took_ns = apart.disk.now() - began_ns;
        if took_ns > CALL_NS_MAX {
            let message = format!("some puts and a flush took {} virtual seconds", took_ns / 1_000_000_000);
            return Err(apart.broken(&message));
        }
        if apart.below(4) == 0 {
            apart.sleep(Duration::from_millis(apart.below(2_000)));
        }
    }
    Ok(())
}

/// Writes to another keyspace, whose merges nothing holds up.
fn merge_beside(apart: &Apart<'_>, sound: &Keyspace) -> Result<(), Violation> {
    let mut content = Content::new();
    for _ in 0..3 + apart.below(3) {
        for number in 0..1 + apart.below(4) {
            apart.put(sound, &mut content, (number, VALUE_LEN_BYTES))?;
        }
        apart.well("a flush", apart.db.flush())?;
    }
    apart.sleep(A_WHILE);
    let stats = apart.db.stats();
    let figures = stats.keyspaces.iter().find(|figures| figures.name == SOUND);
    if figures.is_none_or(|figures| figures.levels[0].files >= 2) {
        return Err(apart.broken(&format!("merges of another keyspace are held up: {figures:?}")));
    }
    Ok(())
}

/// Strikes what lies in the keyspace, and writes to all of it, so that a merge is likely to be under way that meets it.
fn strike_under_merge(
    apart: &Apart<'_>,
    keyspace: &Keyspace,
    content: &mut Content,
) -> Result<(), Violation> {
    Struck::strike(apart)?;
    for _ in 0..2 {
        for number in [0, apart.below(KEYS_COUNT), KEYS_COUNT - 1] {
            apart.put(keyspace, content, (number, VALUE_LEN_BYTES))?;
        }
        apart.well("a flush", apart.db.flush())?;
    }
    apart.sleep(Duration::from_micros(apart.below(12_000)));
    Ok(())
}

/// The tables that are struck.
struct Struck<'a> {
    apart: &'a Apart<'a>,
    wrong: Wrong,
    paths: Vec<PathBuf>,
}

impl<'a> Struck<'a> {
    /// Strikes some tables of the keyspace, or all.
    fn strike(apart: &'a Apart<'a>) -> Result<Struck<'a>, Violation> {
        let mut paths = apart.tables_of(STRUCK)?;
        let count = (paths.len() as u64).max(1);
        let kept = if apart.below(3) == 0 { count } else { 1 + apart.below(count) };
        let first = apart.below(count);
        let index = |number: u64| usize::try_from(number).expect("a few");
        let first = index(first).min(paths.len());
        paths.rotate_left(first);
        paths.truncate(index(kept));
        let wrong = match apart.below(2) {
            0 => Wrong::Unreadable,
            // Within the first half a table has blocks of entries.
            _ => Wrong::Bit { at_part: 2 + apart.below(6) },
        };
        let struck = Struck { apart, wrong, paths };
        match wrong {
            Wrong::Unreadable => struck.set_unreadable(&struck.paths)?,
            Wrong::Bit { at_part } => struck.flip(at_part)?,
        }
        Ok(struck)
    }

    fn set_unreadable(&self, paths: &[PathBuf]) -> Result<(), Violation> {
        self.apart.well("a bad sector", self.apart.disk.set_unreadable(paths))
    }

    /// Flips the bit of each table that is still there.
    fn flip(&self, at_part: u64) -> Result<(), Violation> {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        for file in files_of(&self.apart.disk) {
            let path = self.paths.iter().find(|path| name(path).as_ref() == Some(&file.name));
            if let Some(path) = path {
                let damage = Damage::Flip { at: file.len / at_part, bit: 3 };
                self.apart.well("a flip", self.apart.disk.damage(path, &damage))?;
            }
        }
        Ok(())
    }

    /// Leaves the database alone: what cannot be read is tried ever more seldom.
    fn leave_alone(&self, duration: Duration) -> Result<(), Violation> {
        let before = self.apart.disk.failures_count();
        self.apart.sleep(duration);
        let tries_count = self.apart.disk.failures_count() - before;
        if tries_count > TRIES_MAX * self.paths.len() as u64 {
            let message = format!(
                "{} tables that cannot be read were tried {tries_count} times in {duration:?}",
                self.paths.len()
            );
            return Err(self.apart.broken(&message));
        }
        Ok(())
    }

    fn mend(&self) -> Result<(), Violation> {
        match self.wrong {
            Wrong::Unreadable => self.set_unreadable(&[]),
            Wrong::Bit { at_part } => self.flip(at_part),
        }
    }
}
