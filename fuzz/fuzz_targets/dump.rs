//! Any bytes as any file of a database: text or an error, never a panic.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::{io::IoSlice, path::PathBuf};
use tinylsm::{
    inspect::dump_file,
    vfs::{Vfs, mem::MemVfs},
};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let name = ["CURRENT", "MANIFEST-000005", "000006.wal", "000007.sst"][usize::from(kind % 4)];
    let (disk, path) = (MemVfs::new(), PathBuf::from("/db").join(name));
    disk.create_dir_all("/db".as_ref()).expect("memory");
    disk.create_new(&path).and_then(|mut file| file.append(&[IoSlice::new(rest)])).expect("memory");
    drop(dump_file(&disk, &path, &mut String::new()));
});
