//! Any bytes as any file of a database: text or an error, never a panic.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use tinylsm::inspect::dump_file;
use tinylsm::vfs::{Vfs, mem::MemVfs};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let names = ["CURRENT", "MANIFEST-000040", "000042.wal", "000044.sst", "LOCK", "000045.tmp"];
    let (disk, path) = (MemVfs::new(), Path::new("/db").join(names[usize::from(*kind) % names.len()]));
    disk.create_dir_all("/db".as_ref()).and_then(|()| disk.write(&path, rest)).expect("memory");
    drop(dump_file(&disk, &path, &mut String::new()));
});
