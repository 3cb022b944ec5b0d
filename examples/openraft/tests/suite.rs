//! openraft's suite for storage, on a directory for each of its tests.

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tinylsm::{Db, Options};
use tinylsm_openraft::{LogStore, StateMachine, TypeConfig};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<u64>> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let db =
            Db::builder(directory.path()).options(Options::small()).open().expect("a new database opens");
        let (log, state) = tinylsm_openraft::open(&db).expect("keyspaces are created");
        Ok((directory, log, state))
    }
}

#[test]
fn openrafts_suite_passes() {
    Suite::test_all(Builder).expect("nothing fails on the disk");
}
