//! A keyspace that is emptied several times, with snapshots between: each sees what there was, and nothing is kept on the
//! disk that none of them sees.

use crate::tape::Label;
use crate::workload::apart::{Apart, Content, threads};
use crate::workload::driver::Watcher;
use crate::workload::incarnation::{join_all, start};
use crate::workload::judge::{Context, Violation};
use crate::workload::quiet::names_of;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::{Background, Snapshot};

/// The keyspace that is emptied.
const EMPTIED: &str = "emptied";
const KEYS_COUNT: u64 = 10;
const VALUE_LEN_BYTES: usize = 150;

/// Longer than it takes until a table is removed that nobody reads any more.
const LONGER_THAN_REMOVAL: Duration = Duration::from_secs(5);

/// The key whose value tells when a reader stands.
const KEY: &str = "round";
/// How often a keyspace is emptied beside readers, and how often each of them looks.
const CLEARS_COUNT: u64 = 12;
const READS_COUNT: u64 = 40;

/// What was there between two times of emptying.
struct Past {
    tables: Vec<String>,
    content: Content,
    snapshots: Vec<Snapshot>,
}

/// Empties a keyspace again and again.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    match context.tape.below(Label::Check, 2) {
        0 => empty_under_snapshots(context, watcher),
        _ => empty_beside_readers(context, watcher),
    }
}

fn empty_under_snapshots(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "emptied keyspaces", threads(context, 2))?;
    let keyspace = apart.keyspace(EMPTIED)?;
    let mut pasts: Vec<Past> = Vec::new();
    for _ in 0..2 + apart.below(3) {
        let mut content = Content::new();
        // Nothing now and then, so that a snapshot stands exactly where it was emptied.
        apart.fill(&keyspace, &mut content, (apart.below(4) * apart.below(KEYS_COUNT), VALUE_LEN_BYTES))?;
        let count = if apart.below(2) == 0 { 0 } else { 1 + apart.below(2) };
        let snapshots = (0..count).map(|_| apart.db.snapshot()).collect();
        let name = |path: PathBuf| path.file_name().map(|it| it.to_string_lossy().into_owned());
        let tables = apart.tables_of(EMPTIED)?.into_iter().filter_map(name).collect();
        apart.well("clear", keyspace.clear())?;
        pasts.push(Past { tables, content, snapshots });
    }
    loop {
        apart.sleep(LONGER_THAN_REMOVAL);
        let names = names_of(&apart.disk);
        for past in &pasts {
            for snapshot in &past.snapshots {
                let pairs = snapshot.keyspace(&keyspace).iter().and_then(Iterator::collect);
                apart.check_content("a scan of a snapshot", pairs, &past.content)?;
            }
            let left = past.tables.iter().find(|table| names.contains(table));
            if let Some(table) = left.filter(|_| past.snapshots.is_empty()) {
                return Err(apart.broken(&format!("{table} is kept, which nobody sees: {names:?}")));
            }
        }
        let mut held: Vec<&mut Past> = pasts.iter_mut().filter(|past| !past.snapshots.is_empty()).collect();
        if held.is_empty() {
            break;
        }
        let at = usize::try_from(apart.below(held.len() as u64)).expect("a few");
        held[at].snapshots.pop();
    }
    apart.check_rest()?;
    context.reach("judged: emptied keyspaces");
    Ok(())
}

/// What a reader has seen at a number.
type Sights = Arc<Mutex<Vec<(u64, Option<Vec<u8>>)>>>;

/// Fills and empties keyspaces while others take snapshots, read and let them go: whoever stands at a number sees what it
/// leaves, and no later clear.
fn empty_beside_readers(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let apart = Apart::create((context, watcher), "emptied beside readers", Background::Threads(1))?;
    let emptied = [apart.keyspace(EMPTIED)?, apart.keyspace("emptied too")?];
    let sights: [Sights; 2] = [Sights::default(), Sights::default()];
    let mut readers = Vec::new();
    for number in 0..2 + apart.below(2) {
        let (db, tape) = (apart.db.clone(), context.tape.clone());
        let (emptied, sights) = (emptied.clone(), sights.clone());
        let read = move || {
            for _ in 0..READS_COUNT {
                let snapshot = db.snapshot();
                if tape.below(Label::Workload, 2) == 0 {
                    let at = usize::from(tape.below(Label::Workload, 2) == 0);
                    let value = snapshot.keyspace(&emptied[at]).get(KEY);
                    let value = value.expect("nothing hinders a read").map(|value| value.to_vec());
                    sights[at].lock().push((snapshot.seq().get(), value));
                }
            }
        };
        readers.push(start(&format!("reader-{number}"), read)?);
    }
    // What each keyspace holds from a number on.
    let mut held: [BTreeMap<u64, Option<Vec<u8>>>; 2] = std::array::from_fn(|_| BTreeMap::from([(0, None)]));
    for round in 0..CLEARS_COUNT {
        let at = usize::from(apart.below(2) == 0);
        let value = format!("{round}").into_bytes();
        let put = apart.well("a put", emptied[at].put(KEY, &value))?;
        held[at].insert(put.get(), Some(value));
        let cleared = apart.well("clear", emptied[at].clear())?;
        held[at].insert(cleared.get(), None);
    }
    join_all(readers)?;
    for (held, sights) in held.iter().zip(&sights) {
        for (seq, seen) in sights.lock().iter() {
            let (_, expected) = held.range(..=seq).next_back().expect("it holds something at 0");
            if seen != expected {
                return Err(
                    apart.broken(&format!("at {seq} it shows {seen:?}, not {expected:?} of {held:?}"))
                );
            }
        }
    }
    apart.sleep(LONGER_THAN_REMOVAL);
    apart.check_rest()?;
    context.reach("judged: emptied beside readers");
    Ok(())
}
