//! Every call in a state in which it has little to do: it ends, and says what it must.

use crate::workload::judge::{Violation, violation};
use tinylsm::{Db, Error, ErrorKind, KeyspaceOptions};

/// Makes every call of a database that was opened read-only.
///
/// # Errors
/// A call that gives something else than it must.
pub(in crate::workload) fn call_all_read_only(db: &Db) -> Result<(), Violation> {
    let keyspace = db.default_keyspace();
    let refused = [
        ("put", keyspace.put("k", "v").map(drop)),
        ("delete", keyspace.delete("k").map(drop)),
        ("compact_range", db.compact_range(keyspace, ..)),
        ("clear", keyspace.clear().map(drop)),
        ("drop_keyspace", db.drop_keyspace("default")),
        ("rename_keyspace", db.rename_keyspace("default", "other")),
        ("open_keyspace", db.open_keyspace("more", KeyspaceOptions::default()).map(drop)),
        ("create_keyspace", db.create_keyspace("more", KeyspaceOptions::default()).map(drop)),
    ];
    for (call, result) in refused {
        expect(call, result, |kind| kind == Some(ErrorKind::ReadOnly))?;
    }
    let idle = [
        ("wait_idle", db.wait_idle()),
        ("flush", db.flush()),
        ("sync", db.sync()),
        ("resume", db.resume()),
        ("background_step", db.background_step().map(drop)),
    ];
    for (call, result) in idle {
        expect(call, result, |kind| matches!(kind, None | Some(ErrorKind::ReadOnly)))?;
    }
    expect("verify", db.verify().map(drop), |kind| kind.is_none())?;
    expect("keyspace", db.keyspace("nobody's").map(drop), |kind| kind == Some(ErrorKind::NotFound))?;
    if let Some(error) = db.background_error() {
        return Err(violation("read-only calls", format!("background_error tells {error:?}")));
    }
    if db.stats().last_seq != db.last_seq() {
        return Err(violation("read-only calls", "stats tell another number than last_seq".to_owned()));
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "each call is made in place")]
fn expect(
    call: &str,
    result: Result<(), Error>,
    is_right: impl Fn(Option<ErrorKind>) -> bool,
) -> Result<(), Violation> {
    let kind = result.as_ref().err().map(Error::kind);
    if is_right(kind) {
        Ok(())
    } else {
        Err(violation("read-only calls", format!("{call} gives {result:?}")))
    }
}
