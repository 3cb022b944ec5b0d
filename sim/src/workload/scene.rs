//! Pictures of the disk for whoever replays a run: what a crash kept and lost, what the next start finds, and the
//! tree that the manifest describes.
//!
//! They are taken only where the trace keeps every event, from outside the simulated disk: nothing is drawn, no time
//! passes, and the trace does not change. The manifest is read when a picture is printed, after the run has ended.

use crate::disk::{SeenFile, SimDisk};
use crate::schedule;
use crate::workload::incarnation::files_of;
use parking_lot::Mutex;
use std::fmt::{self, Write};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use tinylsm::Result;
use tinylsm::version::{catalog::Catalog, edit::TableMeta, manifest, pointer};
use tinylsm::vfs::{Vfs, mem::MemVfs};

/// Where the manifest and the file that names it are put to be read.
const DIRECTORY: &str = "/picture";

/// The pictures of a run, in order. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pictures(Arc<Mutex<Vec<Scene>>>);

/// One picture.
#[derive(Clone, Debug)]
pub struct Scene {
    /// How many events came before it.
    pub event: u64,
    /// What has just happened.
    pub title: String,
    /// What the crash before it kept and lost; `None` if there was none.
    pub crash: Option<String>,
    files: Vec<SeenFile>,
}

impl Pictures {
    /// Takes a picture of a disk; nothing where the trace is not kept.
    pub fn add(&self, disk: &SimDisk, title: impl FnOnce() -> String) {
        self.take(disk, title, false);
    }

    /// Takes a picture of a disk that came out of a crash, with what the crash lost.
    pub fn add_crash(&self, disk: &SimDisk, title: impl FnOnce() -> String) {
        self.take(disk, title, true);
    }

    fn take(&self, disk: &SimDisk, title: impl FnOnce() -> String, tells_crash: bool) {
        let Some(event) = schedule::events_kept() else { return };
        let crash = disk.crash_report().filter(|_| tells_crash).map(ToString::to_string);
        self.0.lock().push(Scene { event, title: schedule::look(title), crash, files: files_of(disk) });
    }

    /// Returns the pictures taken so far.
    pub fn scenes(&self) -> Vec<Scene> {
        self.0.lock().clone()
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "──── {}", self.title)?;
        if let Some(crash) = &self.crash {
            writeln!(f, "{crash}")?;
        }
        let mut row = String::from("files:");
        for file in &self.files {
            write!(row, " {} {},", file.name, file.len)?;
        }
        writeln!(f, "{}", row.trim_end_matches(','))?;
        match self.catalog() {
            Ok(Some(catalog)) => write_tree(f, &catalog),
            Ok(None) => writeln!(f, "no database yet"),
            Err(error) => writeln!(f, "the tree cannot be read: {error}"),
        }
    }
}

impl Scene {
    fn catalog(&self) -> Result<Option<Catalog>> {
        let (disk, directory) = (MemVfs::new(), Path::new(DIRECTORY));
        disk.create_dir_all(directory)?;
        let is_wanted = |file: &&SeenFile| file.name == "CURRENT" || file.name.starts_with("MANIFEST");
        for seen in self.files.iter().filter(is_wanted) {
            let mut file = disk.create_new(&directory.join(&seen.name))?;
            file.append(&[IoSlice::new(&seen.bytes)])?;
            file.allocate(seen.len)?;
        }
        let pointer = pointer::read(&disk, directory)?;
        pointer.map(|pointer| manifest::read(&disk, directory, pointer)).transpose()
    }
}

fn write_tree(f: &mut fmt::Formatter<'_>, catalog: &Catalog) -> fmt::Result {
    writeln!(
        f,
        "tree: in tables up to number {}, log segments {} to {}",
        catalog.flushed_seq, catalog.wal_first, catalog.wal_last
    )?;
    for keyspace in catalog.keyspaces.values() {
        writeln!(f, "  keyspace {} ({})", keyspace.name, keyspace.comparator)?;
        for (level, tables) in keyspace.levels.iter().enumerate().filter(|(_, tables)| !tables.is_empty()) {
            writeln!(f, "    level {level}")?;
            tables.values().try_for_each(|table| write_table(f, table))?;
        }
    }
    Ok(())
}

fn write_table(f: &mut fmt::Formatter<'_>, table: &TableMeta) -> fmt::Result {
    writeln!(
        f,
        "      {}  {:.60} … {:.60}  {} entries, {} of them deletes, numbers {} to {}, {} bytes",
        table.number,
        table.smallest.escape_ascii().to_string(),
        table.largest.escape_ascii().to_string(),
        table.entries,
        table.deletes,
        table.smallest_seq,
        table.largest_seq,
        table.len_bytes
    )
}
