//! A disk that is short of space for merges: none is begun that would fill it, and those that had no space are done when
//! there is some, whoever made it.

use crate::tape::Label;
use crate::workload::apart::{Apart, Content, threads};
use crate::workload::driver::Watcher;
use crate::workload::judge::{Context, Violation};
use crate::workload::quiet::{check_shape, jobs_of};
use std::time::Duration;
use tinylsm::{Background, ErrorKind, Keyspace};

/// The keyspace whose merges have no space.
const SHORT: &str = "short";
/// The one that makes space when it is dropped.
const LARGE: &str = "large";
const VALUE_LEN_BYTES: usize = 1_200;

/// Times of deleting and flushing on a full disk.
const ROUNDS_COUNT: u64 = 6;
/// Steps that a caller takes at most until nothing is due.
const STEPS_MAX: u64 = 100;

/// Uses a database on a disk without space for its merges.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    match context.tape.below(Label::Check, 3) {
        0 => pile_up(context, watcher),
        _ => make_space(context, watcher),
    }
}

/// Piles tables up where hardly any merge has space, and runs what is due step by step.
fn pile_up(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "tight disk", Background::Manual)?;
    // In large tables, since what merges need is reckoned without what small ones take beside their entries.
    let keyspace = apart.keyspace_with(SHORT, |options| options.table_bytes(64 << 10))?;
    let mut content = Content::new();
    apart.fill(&keyspace, &mut content, (30, 300))?;
    for _ in 0..2 + apart.below(4) {
        apart.disk.set_space(Some(apart.disk.space_used() + apart.below(14 << 10)));
        for _ in 0..2 + apart.below(12) {
            let put = |_| {
                let value = vec![b'v'; 50 + usize::try_from(apart.below(900)).expect("small")];
                keyspace.put(format!("{:04}", apart.below(30)), value).map(drop)
            };
            if (0..1 + apart.below(6)).try_for_each(put).and_then(|()| apart.db.flush()).is_err() {
                break;
            }
            step(&apart)?;
        }
    }
    context.reach("judged: tight disk");
    Ok(())
}

/// Runs what is due, of which no merge may meet the full disk: nobody else takes space meanwhile.
fn step(apart: &Apart<'_>) -> Result<(), Violation> {
    for _ in 0..STEPS_MAX {
        let is_flushed = apart.db.stats().sealed_memtables == 0;
        match apart.db.background_step() {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let is_table =
                    error.file().is_some_and(|file| file.extension().is_some_and(|it| it == "sst"));
                let is_full = error.kind() == ErrorKind::NoSpace && error.operation() == Some("append");
                if is_flushed && is_table && is_full {
                    return Err(apart.broken(&format!("a merge was begun that fills the disk: {error:?}")));
                }
            }
        }
    }
    Ok(())
}

/// Fills the disk, deletes there until merges have no space, and makes space by dropping another keyspace.
fn make_space(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "space for merges", threads(context, 2))?;
    // All of it on one level, so that a merge takes all of it.
    let short = apart.keyspace_with(SHORT, |options| options.level_base_bytes(1 << 20))?;
    let large = apart.keyspace(LARGE)?;
    let (mut content, mut other) = (Content::new(), Content::new());
    let count = 40 + apart.below(30);
    apart.fill(&short, &mut content, (count, VALUE_LEN_BYTES))?;
    apart.fill(&large, &mut other, (count + 20, VALUE_LEN_BYTES))?;
    apart.disk.set_space(Some(apart.disk.space_used() + apart.below(2_000)));
    for round in 0..ROUNDS_COUNT {
        delete_some(&apart, &short, &mut content, (round, count))?;
        // It may find no space, and says so.
        drop(apart.db.flush());
    }
    if apart.below(2) == 0 {
        apart.sleep(Duration::from_secs(20));
    }
    let (before, merges_before) = (apart.bytes_of(SHORT), apart.db.stats().compactions);
    apart.well("drop_keyspace", apart.db.drop_keyspace(LARGE))?;
    let is_awaited = apart.below(2) == 1;
    // A merge that was picked before the files were gone may find that it does not fit after all.
    let idle = if is_awaited { apart.db.wait_idle() } else { Ok(()) };
    let is_early = idle.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace);
    if !is_awaited || is_early {
        apart.sleep(Duration::from_secs(60));
        apart.check_rest()?;
    } else {
        apart.well("wait_idle", idle)?;
        let at_once = apart.db.stats();
        check_shape(&apart.db, &at_once, context.swarm.longest_value_len())?;
        apart.sleep(Duration::from_secs(60));
        let later = apart.db.stats();
        if jobs_of(&at_once) != jobs_of(&later) {
            let message =
                format!("idle, it had done {:?}, and then {:?}", jobs_of(&at_once), jobs_of(&later));
            return Err(apart.broken(&message));
        }
    }
    if apart.db.stats().compactions > merges_before {
        context.reach("merges waited for space");
    }
    let left = apart.bytes_of(SHORT);
    apart.well("compact_range", apart.db.compact_range(&short, ..))?;
    let merged = apart.bytes_of(SHORT);
    if left > merged + merged / 4 + context.swarm.options.memtable_bytes as u64 {
        let message =
            format!("{before} bytes before there was space, {left} left alone with it, {merged} merged");
        return Err(apart.broken(&message));
    }
    let pairs = short.iter().and_then(Iterator::collect);
    apart.check_content("a scan at the end", pairs, &content)?;
    context.reach("judged: space for merges");
    Ok(())
}

fn delete_some(
    apart: &Apart<'_>,
    keyspace: &Keyspace,
    content: &mut Content,
    (round, count): (u64, u64),
) -> Result<(), Violation> {
    // The ends too, so that a merge takes all that lies below.
    for number in [round, round + ROUNDS_COUNT, apart.below(count), apart.below(count), count - 1 - round] {
        let key = format!("{number:04}").into_bytes();
        apart.well("a delete", keyspace.delete(&key))?;
        content.remove(&key);
    }
    Ok(())
}
