//! Operations against a sorted map, reopening now and then.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::{collections::BTreeMap, sync::Arc};
use tinylsm::{Background, Db, Options, vfs::mem::MemVfs};

#[derive(arbitrary::Arbitrary, Debug)]
enum Op { Put(u8, Vec<u8>), Delete(u8), Flush, Compact, Reopen }

fuzz_target!(|ops: Vec<Op>| {
    let disk = Arc::new(MemVfs::new());
    let options = Options { memtable_bytes: 2048, wal_preallocate_bytes: 0, ..Options::default() };
    let open = || Db::builder("/db").vfs(disk.clone()).options(options.clone()).background(Background::Manual).open().expect("opens");
    let (mut db, mut model) = (open(), BTreeMap::new());
    for op in ops {
        match op {
            Op::Put(key, value) => { db.put([key], &value).expect("puts"); model.insert(vec![key], value); }
            Op::Delete(key) => { db.delete([key]).expect("deletes"); model.remove(&vec![key]); }
            Op::Flush => db.flush().expect("flushes"),
            Op::Compact => db.compact_range(db.default_keyspace(), ..).expect("compacts"),
            Op::Reopen => { db.close().expect("closes"); db = open(); }
        }
    }
    let found: BTreeMap<_, _> = db.iter().expect("open").map(|item| item.expect("reads")).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    assert_eq!(found, model);
});
