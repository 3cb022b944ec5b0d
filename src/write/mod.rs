//! The commit pipeline: group commit, back-pressure.
//!
//! Owns how writers queue up behind a leader, how a leader turns a group into log records and memtable entries,
//! and when writers have to wait. Opens no table and knows no version.

pub mod commit;
pub mod queue;
pub mod stall;
