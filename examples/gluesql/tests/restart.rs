//! What the suite does not ask: what is left after a restart, and of a statement that fails in the middle.

use gluesql_core::prelude::{Glue, Payload, Value};
use std::path::Path;
use tinylsm::Db;
use tinylsm_gluesql::TinyLsmStorage;

fn open(directory: &Path) -> Glue<TinyLsmStorage> {
    Glue::new(TinyLsmStorage::new(Db::open(directory).expect("it opens")))
}

fn numbers(glue: &mut Glue<TinyLsmStorage>) -> Vec<i64> {
    let payloads = glue.execute("SELECT n FROM numbers").expect("it is read");
    let [Payload::Select { rows, .. }] = payloads.as_slice() else { panic!("{payloads:?}") };
    let number = |row: &Vec<Value>| match row.as_slice() {
        [Value::I64(number)] => *number,
        other => panic!("{other:?}"),
    };
    rows.iter().map(number).collect()
}

#[test]
fn what_was_committed_is_there_after_a_restart_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut glue = open(directory.path());
    glue.execute("CREATE TABLE numbers (n INTEGER)").expect("it is created");
    glue.execute("INSERT INTO numbers VALUES (1), (2)").expect("they are put");
    glue.execute("BEGIN; INSERT INTO numbers VALUES (3)").expect("it is put");
    assert_eq!(numbers(&mut glue), [1, 2, 3]);
    glue.storage.close().expect("it closes");

    let mut glue = open(directory.path());
    assert_eq!(numbers(&mut glue), [1, 2]);
    glue.execute("INSERT INTO numbers VALUES (4)").expect("it is put");
    assert_eq!(numbers(&mut glue), [1, 2, 4]);
    glue.storage.close().expect("it closes");
}

#[test]
fn a_statement_that_fails_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut glue = open(directory.path());
    glue.execute("CREATE TABLE numbers (n INTEGER)").expect("it is created");
    glue.execute("INSERT INTO numbers VALUES (1), ('two')").expect_err("two is no number");
    assert!(numbers(&mut glue).is_empty());
    glue.execute("BEGIN").expect("it begins");
    glue.execute("BEGIN").expect_err("one is under way");
    glue.storage.close().expect("it closes");
}
