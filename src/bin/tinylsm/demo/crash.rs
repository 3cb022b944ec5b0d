//! The crash and what must hold after it.
//!
//! The promise: let `a` be the last batch whose acknowledgement was reported. After recovery the database holds exactly
//! the batches 1 to `m`, each complete and in both keyspaces, with `a <= m <= a + 1`: the writer has one thread, so
//! at most one batch was under way when it was killed.

use crate::demo::writer::{ENTRIES_PER_BATCH, LAST_KEY, LEDGER, PROGRESS, entry_key, entry_value};
use crate::demo::{must, open};
use crate::escape::escaped;
use crate::failure::{Failure, Outcome};
use crate::numbers;
use crate::output::Output;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tinylsm::Db;

/// How long the writer may take until its first acknowledgement.
const FIRST_REPORT_WAIT_MAX: Duration = Duration::from_secs(30);

/// Lets a second process write, kills it, and returns the last acknowledged batch.
pub(crate) fn write_until_killed(dir: &Path, kill_after: Duration, out: &mut Output) -> Outcome<u64> {
    out.text("\n4. Crash")?;
    out.flush()?;
    let system = |error| Failure::system("cannot run the writing process", &error);
    let program = std::env::current_exe().map_err(system)?;
    let started = Instant::now();
    let mut child =
        Command::new(program).arg("demo-writer").arg(dir).stdout(Stdio::piped()).spawn().map_err(system)?;
    let reports = child.stdout.take().expect("the output was asked for as a pipe");
    let acknowledged = killed_in_mid_write(&mut child, reports, kill_after);
    // Whatever happened, no process is left behind.
    let _ = child.kill();
    let status = child.wait().map_err(system)?;
    let acknowledged = acknowledged?;
    must(was_killed(status), || format!("the writer ended by itself: {status}"))?;
    out.text(format_args!(
        "   process {} wrote batches of {} entries over two keyspaces, each synced and acknowledged,",
        child.id(),
        ENTRIES_PER_BATCH + 1
    ))?;
    out.text(format_args!(
        "   until SIGKILL struck it in mid-write after {}, with {} acknowledged",
        numbers::span(started.elapsed()),
        numbers::counted(acknowledged, "batch")
    ))?;
    out.flush()?;
    Ok(acknowledged)
}

/// Tells whether a process was ended by `Child::kill`, which is SIGKILL here.
#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

/// Tells whether a process was ended by `Child::kill`, as far as this system tells: it gives such a process the code 1.
#[cfg(not(unix))]
fn was_killed(status: ExitStatus) -> bool {
    status.code() == Some(1)
}

fn killed_in_mid_write(child: &mut Child, reports: ChildStdout, kill_after: Duration) -> Outcome<u64> {
    let (first_report, first_reported) = mpsc::channel();
    let reader = std::thread::spawn(move || last_report(reports, &first_report));
    let started = first_reported.recv_timeout(FIRST_REPORT_WAIT_MAX).is_ok();
    if started {
        std::thread::sleep(kill_after);
    }
    child.kill().map_err(|error| Failure::system("cannot kill the writing process", &error))?;
    // The pipe keeps what was reported before the kill: read it to its end.
    let last = reader.join().expect("the reading thread does not panic")?;
    must(started, || "the writer acknowledged nothing; its own message is above".to_owned())?;
    Ok(last)
}

/// Reads the reports to the end of the pipe; they must count up from 1. A last line cut by the kill does not count.
fn last_report(reports: ChildStdout, first_report: &mpsc::Sender<()>) -> Outcome<u64> {
    let mut last = 0;
    let mut reports = BufReader::new(reports);
    let mut line = String::new();
    loop {
        line.clear();
        reports.read_line(&mut line).map_err(|error| Failure::system("cannot read the reports", &error))?;
        let Some(number) = line.strip_suffix('\n') else {
            return Ok(last);
        };
        must(number.parse() == Ok(last + 1), || format!("after report {last} came {number}"))?;
        last += 1;
        if last == 1 {
            // The waiting side may have given up already; then nobody needs to know.
            let _ = first_report.send(());
        }
    }
}

/// Reopens the database and proves the promise; returns it open.
pub(crate) fn recover_and_prove(dir: &Path, acknowledged: u64, out: &mut Output) -> Outcome<Db> {
    let started = Instant::now();
    let db = open(dir)?;
    let recovery = started.elapsed();
    let recovered = proven_batches(&db)?;
    must(recovered >= acknowledged, || {
        format!("{acknowledged} batches were acknowledged, {recovered} are left")
    })?;
    must(recovered <= acknowledged + 1, || {
        format!("{recovered} batches are there, {acknowledged} were acknowledged")
    })?;
    out.text("\n5. Recover")?;
    out.text(format_args!("   reopened in {}", numbers::span(recovery)))?;
    let surplus = match recovered - acknowledged {
        0 => "and nothing else",
        _ => "and the one that was under way, complete",
    };
    out.text(format_args!(
        "   {} found: every acknowledged one {surplus}",
        numbers::counted(recovered, "batch")
    ))?;
    out.text(format_args!(
        "   {} compared: an exact prefix of what was written, no batch torn",
        numbers::counted(recovered * (ENTRIES_PER_BATCH + 1), "entry")
    ))?;
    out.flush()?;
    Ok(db)
}

/// Returns how many batches there are, having compared every entry.
fn proven_batches(db: &Db) -> Outcome<u64> {
    let ledger = db.keyspace(LEDGER)?;
    let progress = db.keyspace(PROGRESS)?;
    let last = progress.get(LAST_KEY)?;
    let last =
        last.as_deref().and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse().ok());
    let last: u64 =
        last.ok_or_else(|| Failure::engine("the counter is missing or is no number".to_owned()))?;
    let mut found = 0;
    for entry in ledger.iter()? {
        let (key, value) = entry?;
        let (number, index) = (found / ENTRIES_PER_BATCH + 1, found % ENTRIES_PER_BATCH);
        must(*key == *entry_key(number, index), || format!("entry {} is out of place", escaped(&key)))?;
        must(*value == *entry_value(number, index), || format!("entry {} has a wrong value", escaped(&key)))?;
        found += 1;
    }
    must(found == last * ENTRIES_PER_BATCH, || format!("{found} entries do not make {last} whole batches"))?;
    Ok(last)
}
