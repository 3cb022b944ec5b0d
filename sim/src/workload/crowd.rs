//! Several who put and delete at once on a full disk: deletes have the space that was set aside for them, puts do not take it,
//! and with space all is well again without anybody asking for it.

use crate::tape::Label;
use crate::workload::apart::{Apart, Content, threads};
use crate::workload::driver::Watcher;
use crate::workload::incarnation::{join_all, start};
use crate::workload::judge::{Context, Violation};
use std::sync::Arc;
use tinylsm::sync::Mutex;
use tinylsm::{Background, Db, Error, ErrorKind, Keyspace};

const QUESTION: &str = "a crowd on a full disk";
const VALUE_LEN_BYTES: usize = 300;
const PUTS_COUNT: u64 = 12;
const DELETES_COUNT: u64 = 3;

/// What went wrong on other threads.
type Faults = Arc<Mutex<Vec<String>>>;

/// Has several threads put and delete while the disk is full, and gives space back.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge(context: &Context, watcher: Watcher) -> Result<(), Violation> {
    let below = |bound| context.tape.below(Label::Check, bound);
    let background = threads(context, 2);
    let mut apart = Apart::create((context, watcher), QUESTION, background.clone())?;
    let keyspace = apart.keyspace("crowded")?;
    let mut content = Content::new();
    apart.fill(&keyspace, &mut content, (20 + below(30), VALUE_LEN_BYTES))?;
    // Others take what is left, when nothing, something or a memtable waits in memory.
    for number in 0..below(20) {
        apart.put(&keyspace, &mut content, (number, VALUE_LEN_BYTES))?;
    }
    apart.disk.set_space(Some(apart.disk.space_used() + below(2_000)));
    // Of large values, those that waited for space together would take all that deletes have.
    let put_len = *context.tape.pick(Label::Check, &[VALUE_LEN_BYTES, context.swarm.options.memtable_bytes]);
    let faults = Faults::default();
    let mut threads = Vec::new();
    for number in 0..1 + below(3) {
        let keyspace = keyspace.clone();
        let put = move || {
            for at in 0..PUTS_COUNT {
                drop(keyspace.put(format!("put{number}-{at}"), vec![b'p'; put_len]));
            }
        };
        threads.push(start(&format!("putter-{number}"), put)?);
    }
    for number in 0..1 + below(3) {
        let (keyspace, faults) = (keyspace.clone(), Arc::clone(&faults));
        let delete = move || {
            for at in 0..DELETES_COUNT {
                if let Err(error) = keyspace.delete(format!("{:04}", number * DELETES_COUNT + at)) {
                    faults.lock().push(format!("a delete gives {error:?}"));
                }
            }
        };
        threads.push(start(&format!("deleter-{number}"), delete)?);
    }
    join_all(threads)?;
    if let Some(fault) = faults.lock().first() {
        return Err(apart.broken(fault));
    }
    context.reach("judged: a crowd on a full disk");
    give_space(&mut apart, keyspace, background)
}

/// Gives all the space there is, and puts, in each of the ways that make that right.
fn give_space(apart: &mut Apart<'_>, keyspace: Keyspace, background: Background) -> Result<(), Violation> {
    let put = |apart: &Apart<'_>, db: &Db, what: &str| {
        let put = db.keyspace("crowded").and_then(|keyspace| keyspace.put("again", "yes"));
        apart.well(what, put).map(drop)
    };
    let is_off = |error: &Error| error.kind() == ErrorKind::ReadOnly;
    match apart.below(3) {
        0 => {
            apart.disk.set_space(None);
            apart.well("resume", apart.db.resume())?;
            put(apart, &apart.db, "a put behind resume")?;
        }
        1 => {
            apart.disk.set_space(None);
            match apart.db.wait_idle() {
                // Nobody has resumed writing.
                Err(error) if is_off(&error) => {}
                idle => {
                    apart.well("wait_idle", idle)?;
                    put(apart, &apart.db, "a put behind wait_idle")?;
                }
            }
        }
        _ => {
            drop(apart.db.clone().close());
            drop(keyspace);
            apart.disk.set_space(None);
            apart.reopen(background)?;
            put(apart, &apart.db, "the first put of an opening")?;
        }
    }
    apart.well("resume", apart.db.resume())?;
    apart.sleep(std::time::Duration::from_secs(60));
    apart.check_rest()
}
