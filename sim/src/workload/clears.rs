//! A keyspace that is emptied several times, with snapshots between: each sees what there was, and nothing is kept on the
//! disk that none of them sees.

use crate::tape::Label;
use crate::workload::apart::{Apart, Content};
use crate::workload::judge::{Context, Violation};
use crate::workload::quiet::names_of;
use std::time::Duration;
use tinylsm::{Background, Snapshot};

/// The keyspace that is emptied.
const EMPTIED: &str = "emptied";
const KEYS_COUNT: u64 = 10;
const VALUE_LEN_BYTES: usize = 150;

/// Longer than it takes until a table is removed that nobody reads any more.
const LONGER_THAN_REMOVAL: Duration = Duration::from_secs(5);

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
pub(in crate::workload) fn judge(context: &Context) -> Result<(), Violation> {
    let threads_count = 1 + usize::try_from(context.tape.below(Label::Check, 2)).expect("small");
    let apart = Apart::create(context, "emptied keyspaces", Background::Threads(threads_count))?;
    let keyspace = apart.keyspace(EMPTIED)?;
    let mut pasts: Vec<Past> = Vec::new();
    for _ in 0..2 + apart.below(3) {
        let mut content = Content::new();
        apart.fill(&keyspace, &mut content, (1 + apart.below(KEYS_COUNT), VALUE_LEN_BYTES))?;
        let count = if apart.below(2) == 0 { 0 } else { 1 + apart.below(2) };
        let snapshots = (0..count).map(|_| apart.db.snapshot()).collect();
        let name = |path: std::path::PathBuf| path.file_name().map(|it| it.to_string_lossy().into_owned());
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
