//! Raft on TinyLSM: the log store and the state machine of [openraft](https://docs.rs/openraft) in one database.
//!
//! Shows what the order of commits is good for. After a crash the database holds an exact prefix of what was written, so only
//! what Raft promises to others is synced: votes, appended entries, installed snapshots. Whatever else is written, such as what
//! an entry does to the state machine or the deletion of old entries, costs no sync: it comes back together with everything
//! before it, or openraft does it again.
//!
//! `cargo test` in this directory runs openraft's own suite for storage, and a node that is stopped and started again.

use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, BasicNode, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Vote,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Cursor};
use std::ops::RangeBounds;
use tinylsm::{Db, Durability, KeyRange, Keyspace, KeyspaceSnapshot, Slice, WriteBatch};
use tokio::task::spawn_blocking;

openraft::declare_raft_types!(
    /// What a node of this example is made of.
    pub TypeConfig:
        D = Request,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        Entry = Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime
);

/// What an entry of the log asks the state machine to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    Put { key: String, value: String },
    Delete { key: String },
}

/// Names of what is kept once, in the keyspace `raft`.
mod name {
    pub(crate) const VOTE: &str = "vote";
    pub(crate) const COMMITTED: &str = "committed";
    pub(crate) const PURGED: &str = "purged";
    pub(crate) const APPLIED: &str = "applied";
    pub(crate) const MEMBERSHIP: &str = "membership";
    pub(crate) const SNAPSHOT_META: &str = "snapshot-meta";
    pub(crate) const SNAPSHOT_DATA: &str = "snapshot-data";
}

/// Opens log and state machine of a node in a database, or creates them.
///
/// # Errors
/// As [`Db::open_keyspace`].
pub fn open(db: &Db) -> tinylsm::Result<(LogStore, StateMachine)> {
    let store = Store {
        db: db.clone(),
        raft: db.open_keyspace("raft", Default::default())?,
        log: db.open_keyspace("raft-log", Default::default())?,
        state: db.open_keyspace("state", Default::default())?,
    };
    Ok((LogStore(store.clone()), StateMachine(store)))
}

/// Handles of the database; cheap to clone.
#[derive(Clone)]
struct Store {
    db: Db,
    /// What is kept once, by name, as JSON.
    raft: Keyspace,
    /// Entries as JSON, by index, big-endian.
    log: Keyspace,
    /// Keys and values of the state machine.
    state: Keyspace,
}

impl Store {
    fn named<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        decode(self.raft.get(name)?)
    }

    fn put_named(&self, batch: &mut WriteBatch, name: &str, value: &impl Serialize) -> io::Result<()> {
        batch.put(&self.raft, name, serde_json::to_vec(value)?);
        Ok(())
    }

    fn save_named(&self, name: &str, value: &impl Serialize, durability: Durability) -> io::Result<()> {
        self.raft.put_with(name, serde_json::to_vec(value)?, durability)?;
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(json: Option<Slice>) -> io::Result<Option<T>> {
    json.map(|json| Ok(serde_json::from_slice(&json)?)).transpose()
}

fn delete_all(batch: &mut WriteBatch, keyspace: &Keyspace, range: impl KeyRange) -> io::Result<()> {
    for entry in keyspace.range(range)? {
        batch.delete(keyspace, entry?.0);
    }
    Ok(())
}

/// Does what may wait for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(
    subject: ErrorSubject<u64>,
    verb: ErrorVerb,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StorageError<u64>> {
    let done = spawn_blocking(work).await.expect("the engine does not panic");
    done.map_err(|error| StorageIOError::new(subject, verb, AnyError::new(&error)).into())
}

/// The log of a node, and its vote.
#[derive(Clone)]
pub struct LogStore(Store);

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        let bound = |index: &u64| index.to_be_bytes();
        let keys = (range.start_bound().map(bound), range.end_bound().map(bound));
        let Store { log, .. } = self.0.clone();
        blocking(ErrorSubject::Logs, ErrorVerb::Read, move || {
            log.range(keys)?.map(|entry| Ok(serde_json::from_slice(&entry?.1)?)).collect()
        })
        .await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let store = self.0.clone();
        blocking(ErrorSubject::Logs, ErrorVerb::Read, move || {
            let last_purged_log_id = store.named(name::PURGED)?;
            let last: Option<Entry<TypeConfig>> =
                decode(store.log.last_key_value()?.map(|(_, entry)| entry))?;
            let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let (store, vote) = (self.0.clone(), *vote);
        blocking(ErrorSubject::Vote, ErrorVerb::Write, move || {
            store.save_named(name::VOTE, &vote, Durability::Disk)
        })
        .await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        let store = self.0.clone();
        blocking(ErrorSubject::Vote, ErrorVerb::Read, move || store.named(name::VOTE)).await
    }

    /// Costs no sync: an older one is right as well, and openraft hears of newer ones.
    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError<u64>> {
        let store = self.0.clone();
        blocking(ErrorSubject::Store, ErrorVerb::Write, move || {
            store.save_named(name::COMMITTED, &committed, Durability::None)
        })
        .await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        let store = self.0.clone();
        let committed = blocking(ErrorSubject::Store, ErrorVerb::Read, move || store.named(name::COMMITTED));
        Ok(committed.await?.flatten())
    }

    /// Returns once the entries can be read, and calls back when they are on disk.
    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let store = self.0.clone();
        let entries: Vec<_> = entries.into_iter().collect();
        blocking(ErrorSubject::Logs, ErrorVerb::Write, move || {
            let mut batch = WriteBatch::new();
            for entry in entries {
                batch.put(&store.log, entry.log_id.index.to_be_bytes(), serde_json::to_vec(&entry)?);
            }
            store.db.write(batch, Durability::None)?;
            Ok(())
        })
        .await?;
        let Store { db, .. } = self.0.clone();
        spawn_blocking(move || callback.log_io_completed(db.sync().map_err(io::Error::from)));
        Ok(())
    }

    /// Costs no sync: the entries that take the places are on disk only together with this.
    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        let store = self.0.clone();
        blocking(ErrorSubject::Logs, ErrorVerb::Delete, move || {
            let mut batch = WriteBatch::new();
            delete_all(&mut batch, &store.log, log_id.index.to_be_bytes()..)?;
            store.db.write(batch, Durability::None)?;
            Ok(())
        })
        .await
    }

    /// Costs no sync: it is on disk only together with what the entries did to the state machine.
    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        let store = self.0.clone();
        blocking(ErrorSubject::Logs, ErrorVerb::Delete, move || {
            let mut batch = WriteBatch::new();
            delete_all(&mut batch, &store.log, ..=log_id.index.to_be_bytes())?;
            store.put_named(&mut batch, name::PURGED, &log_id)?;
            store.db.write(batch, Durability::None)?;
            Ok(())
        })
        .await
    }
}

/// The state machine of a node: keys and values. Clone it to read while Raft has it.
#[derive(Clone)]
pub struct StateMachine(Store);

impl StateMachine {
    /// Returns the value of a key, as of the last entry that this node has applied.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get(&self, key: &str) -> tinylsm::Result<Option<Slice>> {
        self.0.state.get(key)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<Applied, StorageError<u64>> {
        let Store { db, raft, .. } = self.0.clone();
        blocking(ErrorSubject::StateMachine, ErrorVerb::Read, move || applied(&db.snapshot().keyspace(&raft)))
            .await
    }

    /// Costs no sync: what is lost with the power is applied again from the log, which is on disk.
    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let store = self.0.clone();
        let entries: Vec<_> = entries.into_iter().collect();
        blocking(ErrorSubject::StateMachine, ErrorVerb::Write, move || {
            let answers = vec![(); entries.len()];
            let mut batch = WriteBatch::new();
            for Entry { log_id, payload } in entries {
                match payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(Request::Put { key, value }) => {
                        batch.put(&store.state, key, value);
                    }
                    EntryPayload::Normal(Request::Delete { key }) => {
                        batch.delete(&store.state, key);
                    }
                    EntryPayload::Membership(membership) => {
                        let membership = StoredMembership::new(Some(log_id), membership);
                        store.put_named(&mut batch, name::MEMBERSHIP, &membership)?;
                    }
                }
                store.put_named(&mut batch, name::APPLIED, &log_id)?;
            }
            store.db.write(batch, Durability::None)?;
            Ok(answers)
        })
        .await
    }

    /// Takes a snapshot of the database, which the builder reads while entries are applied.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { store: self.0.clone(), snapshot: self.0.db.snapshot() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    /// Replaces the state machine in one batch, which takes 128 MiB.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let (store, meta, data) = (self.0.clone(), meta.clone(), snapshot.into_inner());
        blocking(ErrorSubject::Snapshot(None), ErrorVerb::Write, move || {
            let state: BTreeMap<String, String> = serde_json::from_slice(&data)?;
            let mut batch = WriteBatch::new();
            delete_all(&mut batch, &store.state, ..)?;
            for (key, value) in state {
                batch.put(&store.state, key, value);
            }
            store.put_named(&mut batch, name::APPLIED, &meta.last_log_id)?;
            store.put_named(&mut batch, name::MEMBERSHIP, &meta.last_membership)?;
            store.put_named(&mut batch, name::SNAPSHOT_META, &meta)?;
            batch.put(&store.raft, name::SNAPSHOT_DATA, data);
            // The leader counts on what this node says that it has.
            store.db.write(batch, Durability::Disk)?;
            Ok(())
        })
        .await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let Store { db, raft, .. } = self.0.clone();
        blocking(ErrorSubject::Snapshot(None), ErrorVerb::Read, move || {
            let raft = db.snapshot().keyspace(&raft);
            let meta = decode(raft.get(name::SNAPSHOT_META)?)?;
            let data = raft.get(name::SNAPSHOT_DATA)?;
            Ok(meta
                .zip(data)
                .map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data.into())) }))
        })
        .await
    }
}

/// The last entry applied, and the last membership.
type Applied = (Option<LogId<u64>>, StoredMembership<u64, BasicNode>);

/// Returns what was applied as of a snapshot.
fn applied(raft: &KeyspaceSnapshot) -> io::Result<Applied> {
    let last: Option<Option<LogId<u64>>> = decode(raft.get(name::APPLIED)?)?;
    Ok((last.flatten(), decode(raft.get(name::MEMBERSHIP)?)?.unwrap_or_default()))
}

/// Writes a snapshot of the state machine as it was when the builder was made.
pub struct SnapshotBuilder {
    store: Store,
    snapshot: tinylsm::Snapshot,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    /// Costs no sync: entries are purged after this, so that either is on disk only together with it.
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let (store, snapshot) = (self.store.clone(), self.snapshot.clone());
        blocking(ErrorSubject::Snapshot(None), ErrorVerb::Write, move || {
            let (last_log_id, last_membership) = applied(&snapshot.keyspace(&store.raft))?;
            let mut state = BTreeMap::new();
            for entry in snapshot.keyspace(&store.state).iter()? {
                let (key, value) = entry?;
                state.insert(text(key)?, text(value)?);
            }
            let data = serde_json::to_vec(&state)?;
            let snapshot_id = snapshot.seq().to_string();
            let meta = SnapshotMeta { last_log_id, last_membership, snapshot_id };
            let mut batch = WriteBatch::new();
            store.put_named(&mut batch, name::SNAPSHOT_META, &meta)?;
            batch.put(&store.raft, name::SNAPSHOT_DATA, &data);
            store.db.write(batch, Durability::None)?;
            Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
        })
        .await
    }
}

fn text(bytes: Slice) -> io::Result<String> {
    String::from_utf8(bytes.into()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
