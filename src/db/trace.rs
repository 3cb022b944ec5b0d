//! What callers do, in words, for the readable trace of a simulated run. In production nothing of this is done.

use crate::base::error::Result;
use crate::base::key::Kind;
use crate::base::slice::Slice;
use crate::db::core::Core;
use crate::format::batch::{Batch, Operation};
use crate::sync::tell;
use crate::write::commit::Durability;
use std::ops::Bound;

/// Bytes of a key or value that are shown.
const SHOWN_BYTES_MAX: usize = 40;

/// Operations of a batch that are shown.
const SHOWN_OPERATIONS_MAX: usize = 16;

/// Shows bytes as text where they are some.
fn shown(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let more = if head.len() < bytes.len() { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{more}", head.escape_ascii())
}

impl Core {
    /// Tells of a batch before it is committed.
    pub(in crate::db) fn tell_batch(&self, batch: &Batch, durability: Durability) {
        tell(|| {
            let mut operations = batch.operations();
            let mut lines = Vec::new();
            while let Ok(Some(operation)) = operations.next_operation() {
                lines.push(self.in_words(batch, &operation));
                if lines.len() == SHOWN_OPERATIONS_MAX {
                    lines.push(format!("{} operations in all", batch.count()));
                    break;
                }
            }
            match lines.len() {
                0 => format!("sync ({durability:?})"),
                1 => format!("{} ({durability:?})", lines[0]),
                _ => format!("batch ({durability:?}): {}", lines.join("; ")),
            }
        });
    }

    fn in_words(&self, batch: &Batch, operation: &Operation) -> String {
        let state = self.view.state();
        // It may have been dropped since it was named.
        let keyspace = state.find(operation.keyspace).map_or("?", |found| &found.info.name);
        let key = shown(&batch.frame()[operation.key.clone()]);
        match operation.kind {
            Kind::Delete => format!("delete {keyspace} {key}"),
            _ => format!("put {keyspace} {key} = {}", shown(&batch.frame()[operation.value.clone()])),
        }
    }
}

/// Tells what a get gave.
pub(in crate::db) fn tell_get(keyspace: &str, key: &[u8], answer: &Result<Option<Slice>>) {
    tell(|| {
        let key = shown(key);
        match answer {
            Ok(Some(value)) => format!("get {keyspace} {key}: {}", shown(value)),
            Ok(None) => format!("get {keyspace} {key}: nothing"),
            Err(error) => format!("get {keyspace} {key}: FAILED {error}"),
        }
    });
}

/// Tells of a range that somebody begins to read.
pub(in crate::db) fn tell_range(keyspace: &str, lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) {
    tell(|| {
        let from = match lower {
            Bound::Included(key) => format!("from {}", shown(key)),
            Bound::Excluded(key) => format!("behind {}", shown(key)),
            Bound::Unbounded => "from the first key".to_owned(),
        };
        let to = match upper {
            Bound::Included(key) => format!("up to and with {}", shown(key)),
            Bound::Excluded(key) => format!("up to {}", shown(key)),
            Bound::Unbounded => "to the last".to_owned(),
        };
        format!("range {keyspace} {from} {to}")
    });
}
