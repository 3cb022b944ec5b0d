//! A small database that was closed in good order, and ways to damage it.
//!
//! Checksums stop most damage at the door. A log that is sealed anew after its payloads were overwritten gets past
//! them, to the code that must not trust what it decodes. No such bytes ever come from a disk that only fails, so
//! what they say is not checked: an answer and an error are both fine, a panic is not.

use crate::builder;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tinylsm::base::ids::FileNumber;
use tinylsm::format::frame::{FRAME_HEADER_LEN_BYTES, FrameKind, FramePlace, FrameReader, seal_frame};
use tinylsm::format::names::FileName;
use tinylsm::vfs::{Vfs, mem::MemVfs};

/// Tables on several levels, a manifest with edits, and commits that are only in the log.
pub static CLOSED: LazyLock<MemVfs> = LazyLock::new(|| {
    let disk = Arc::new(MemVfs::new());
    let db = builder(&disk).open().expect("a disk in memory does not fail");
    for round in 0..3u8 {
        for i in 0..24u8 {
            db.put([b'k', i], [round, i].repeat(usize::from(i % 5))).expect("memory");
        }
        db.delete([b'k', round]).expect("memory");
        if round < 2 {
            db.flush().expect("memory");
        }
    }
    // Files that are only waiting to be removed would draw most of the damage.
    db.wait_idle().expect("memory");
    db.put(b"last", b"only in the log").expect("memory");
    db.close().expect("memory");
    disk.fork()
});

/// Which bytes of which file are overwritten.
pub struct Damage<'a> {
    /// Counts the database's files, and begins anew behind the last.
    pub file: u8,
    /// Where in the file; too large a number begins anew at its start.
    pub offset: u16,
    /// The bytes that land there; a file may become longer.
    pub bytes: &'a [u8],
    /// Whether a log's payloads get checksums that fit, its frames keeping their places.
    pub is_sealed_anew: bool,
}

/// Returns a copy of [`CLOSED`] with `damage` done to it.
pub fn damaged(damage: &Damage<'_>) -> Arc<MemVfs> {
    let disk = CLOSED.fork();
    let paths = disk.files();
    let path = &paths[usize::from(damage.file) % paths.len()];
    let mut bytes = disk.read(path).expect("listed");
    let start = usize::from(damage.offset) % (bytes.len() + 1);
    bytes.resize(bytes.len().max(start + damage.bytes.len()), 0);
    bytes[start..start + damage.bytes.len()].copy_from_slice(damage.bytes);
    match path.file_name().and_then(|name| FileName::parse(name.to_str()?)) {
        Some(FileName::Wal(number) | FileName::Manifest(number)) if damage.is_sealed_anew => {
            seal_anew(path, number, &mut bytes);
        }
        _ => {}
    }
    disk.write(path, &bytes).expect("listed");
    Arc::new(disk)
}

/// Puts back the headers that the frames of an unharmed log had, with checksums over the payloads of now.
fn seal_anew(path: &Path, number: FileNumber, bytes: &mut [u8]) {
    for (kind, place, len) in frames(path, number) {
        let start = usize::try_from(place.offset).expect("the log is small");
        seal_frame(&mut bytes[start..start + len], kind, place);
    }
}

fn frames(path: &Path, number: FileNumber) -> Vec<(FrameKind, FramePlace, usize)> {
    let file = CLOSED.open(path).expect("listed");
    let mut reader = FrameReader::new(file.as_ref(), path, number).expect("unharmed");
    let mut found = Vec::new();
    while let Some(frame) = reader.next_frame().expect("unharmed") {
        assert!(frame.bytes.len() >= FRAME_HEADER_LEN_BYTES, "a frame has a header");
        let place = FramePlace { number, offset: frame.offset, synced_len: frame.synced_len };
        found.push((frame.kind, place, frame.bytes.len()));
    }
    found
}
