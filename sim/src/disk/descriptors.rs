//! Open handles: how many each process has, and how many it may have.
//!
//! Files, locks and held directories count while they are open; listing a directory, and syncing a file or a directory
//! by its path, count while they last.

use crate::disk::SimDisk;
use crate::disk::event::DiskOp;
use crate::disk::shared::Shared;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tinylsm::base::error::{Error, ErrorKind, Result};

/// The descriptors of every process that uses the disk, by its number.
pub(in crate::disk) type DescriptorTable = BTreeMap<u32, Descriptors>;

/// The descriptors of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::disk) struct Descriptors {
    open: u64,
    limit: Option<u64>,
}

/// One descriptor, given back when it drops.
pub(in crate::disk) struct Descriptor {
    pub(in crate::disk) shared: Arc<Shared>,
    process: u32,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let mut table = self.shared.descriptors.lock();
        table.get_mut(&self.process).expect("a process with an open descriptor is in the table").open -= 1;
    }
}

impl SimDisk {
    /// Sets how many descriptors this process may have open on the disk; `None` is without end. What is open stays open.
    pub fn set_descriptors(&self, limit: Option<u64>) {
        self.shared.descriptors.lock().entry(self.process).or_default().limit = limit;
    }

    /// Returns how many descriptors this process has open on the disk.
    pub fn descriptors_open(&self) -> u64 {
        self.shared.descriptors.lock().get(&self.process).map_or(0, |descriptors| descriptors.open)
    }

    /// Opens a descriptor, if the process may have one more.
    pub(in crate::disk) fn take_descriptor(&self, op: DiskOp, path: &Path) -> Result<Descriptor> {
        let is_failing = self.shared.fails(|plan| plan.exhausted, "descriptor refused");
        let mut table = self.shared.descriptors.lock();
        let descriptors = table.entry(self.process).or_default();
        let is_over = descriptors.limit.is_some_and(|limit| descriptors.open >= limit);
        if is_over || is_failing {
            drop(table);
            if is_over {
                self.shared.count_failure("descriptors exhausted");
            }
            let error = Error::new(ErrorKind::Exhausted, "too many open files on the simulated disk");
            return Err(error.with_file(path).with_operation(op.name()));
        }
        descriptors.open += 1;
        Ok(Descriptor { shared: Arc::clone(&self.shared), process: self.process })
    }
}
