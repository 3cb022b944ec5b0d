//! A node on its own that is stopped and started again: what was answered is there, and the log goes on.

use openraft::error::{InstallSnapshotError, RPCError, RaftError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Config, Raft, RaftMetrics, ServerState};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::Db;
use tinylsm_openraft::{Request, StateMachine, TypeConfig};

/// The network of a node that has no peers.
struct Alone;

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = Alone;

    async fn new_client(&mut self, _: u64, _: &BasicNode) -> Alone {
        Alone
    }
}

type Failed<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl RaftNetwork<TypeConfig> for Alone {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        unreachable!("there are no peers")
    }

    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        unreachable!("there are no peers")
    }

    async fn vote(&mut self, _: VoteRequest<u64>, _: RPCOption) -> Result<VoteResponse<u64>, Failed> {
        unreachable!("there are no peers")
    }
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

struct Node {
    db: Db,
    raft: Raft<TypeConfig>,
    state: StateMachine,
}

impl Node {
    async fn start(directory: &Path) -> Node {
        let db = Db::open(directory).expect("it opens");
        let (log, state) = tinylsm_openraft::open(&db).expect("it opens");
        let config = Config { max_in_snapshot_log_to_keep: 0, ..Config::default() };
        let config = Arc::new(config.validate().expect("it is valid"));
        let raft = Raft::new(1, config, Alone, log, state.clone()).await.expect("it starts");
        Node { db, raft, state }
    }

    async fn put(&self, key: &str, value: &str) -> u64 {
        let request = Request::Put { key: key.to_owned(), value: value.to_owned() };
        self.raft.client_write(request).await.expect("it is written").log_id.index
    }

    async fn becomes_leader(&self) {
        let wait = self.raft.wait(PATIENCE);
        wait.state(ServerState::Leader, "it is alone").await.expect("it is elected");
    }

    async fn stop(self) {
        self.raft.shutdown().await.expect("it stops");
        self.db.close().expect("it closes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let node = Node::start(directory.path()).await;
    node.raft.initialize(BTreeMap::from([(1, BasicNode::default())])).await.expect("it is new");
    node.becomes_leader().await;
    node.put("apple", "green").await;
    node.put("banana", "yellow").await;
    let snapshot_index = node.put("apple", "red").await;
    node.raft.trigger().snapshot().await.expect("it is told");
    let is_purged = |metrics: &RaftMetrics<_, _>| metrics.purged.is_some_and(|id| id.index == snapshot_index);
    let wait = node.raft.wait(PATIENCE);
    wait.metrics(is_purged, "the log is purged up to the snapshot").await.expect("it is purged");
    node.stop().await;

    let node = Node::start(directory.path()).await;
    node.becomes_leader().await;
    let read = |key| node.state.get(key).expect("it is read");
    assert_eq!(read("apple").as_deref(), Some(&b"red"[..]));
    let deleted = node.raft.client_write(Request::Delete { key: "banana".to_owned() }).await;
    assert!(deleted.expect("it is written").log_id.index > snapshot_index);
    assert_eq!(read("banana"), None);
    node.stop().await;
}
