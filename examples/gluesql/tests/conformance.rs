//! GlueSQL's conformance suite on a storage of TinyLSM, a directory for each test.

use gluesql_core::prelude::Glue;
use tempfile::TempDir;
use test_suite::*;
use tinylsm::{Db, Durability, Options};
use tinylsm_gluesql::TinyLsmStorage;

struct TinyLsmTester {
    glue: Glue<TinyLsmStorage>,
    _directory: TempDir,
}

impl Tester<TinyLsmStorage> for TinyLsmTester {
    fn new(_: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        // No test takes the power away, so that none needs syncs.
        let options = Options::small().durability(Durability::Os);
        let db = Db::builder(directory.path()).options(options).open().expect("a new database opens");
        TinyLsmTester { glue: Glue::new(TinyLsmStorage::new(db)), _directory: directory }
    }

    fn get_glue(&mut self) -> &mut Glue<TinyLsmStorage> {
        &mut self.glue
    }
}

generate_store_tests!(test, TinyLsmTester);
generate_alter_table_tests!(test, TinyLsmTester);
generate_transaction_tests!(test, TinyLsmTester);
generate_transaction_alter_table_tests!(test, TinyLsmTester);
generate_metadata_table_tests!(test, TinyLsmTester);
