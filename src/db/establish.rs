//! Making a recovered database one that takes writes: a fresh log segment and a fresh manifest.
//!
//! In this order; a crash anywhere inside leaves what was recovered, to be recovered again:
//!
//! 1. start a fresh segment. Records that were readable but not provably durable are written again into it, and so are
//!    proven ones that are carried; it is synced: what readers will see is durable before they can see it, even if an
//!    earlier sync failed and the system only pretends to still have the bytes;
//! 2. write a fresh manifest and switch `CURRENT` to it. Only now may anything be removed.
//!
//! A disk that is too full for this leaves the database readable; [`crate::db::Db::resume`] tries again, under new file
//! numbers. Files of a failed attempt stay until one has succeeded, since a manifest that may count may name them.

use crate::base::error::{Error, Result};
use crate::base::ids::FileNumber;
use crate::base::time::UnixMillis;
use crate::db::state::{Core, Leader};
use crate::format::names::FileName;
use crate::version::catalog::Catalog;
use crate::version::edit::Change;
use crate::version::manifest::ManifestWriter;
use crate::wal::Predecessor;
use crate::wal::reader::Record;
use crate::wal::writer::WalWriter;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What recovery found, as far as it is still to be written.
pub(crate) struct Establishment {
    /// What the manifest says.
    pub catalog: Catalog,
    /// The end of the last segment that stays needed; none if none does.
    pub predecessor: Option<Predecessor>,
    /// The oldest segment that stays needed; the fresh one if none.
    pub wal_first: Option<FileNumber>,
    /// To be committed again under the numbers that they have; they are in the active memtables already.
    pub records: Vec<Record>,
    /// The directory as it was found.
    pub names: BTreeSet<FileName>,
    /// The latest time that expiry may have been decided by.
    pub time_high_water: UnixMillis,
}

impl Core {
    /// Does what is left to do before the first write; nothing if that was done.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing that was there is changed, and it can be tried again.
    pub(crate) fn establish(&self, leader: &mut Leader) -> Result<()> {
        let Some(mut plan) = leader.unestablished.take() else { return Ok(()) };
        let done = self.try_establish(leader, &mut plan);
        if done.is_err() {
            leader.unestablished = Some(plan);
        }
        done
    }

    fn try_establish(&self, leader: &mut Leader, plan: &mut Establishment) -> Result<()> {
        let number = self.take_file_number();
        // Removed once an edit states that the number is taken, if this fails.
        plan.names.insert(FileName::Wal(number));
        let wal = self.write_segment(number, plan)?;
        let (manifest_number, temporary) = (self.take_file_number(), self.take_file_number());
        plan.names.extend([FileName::Manifest(manifest_number), FileName::Temporary(temporary)]);
        let (wal_first, next_file) = (plan.wal_first.unwrap_or(number), self.next_file_number());
        let edit = [
            Change::Flushed { wal_first, seq: plan.catalog.flushed_seq },
            Change::WalOpened(number),
            Change::NextFile(next_file),
            Change::TimeHighWater(plan.time_high_water),
        ];
        let mut catalog = plan.catalog.clone();
        catalog
            .apply(&edit)
            .map_err(|reason| Error::corruption(&FileName::Current.path(self.directory.path()), 0, reason))?;
        let mut needed: BTreeSet<FileName> =
            catalog.tables().map(|(_, _, meta)| FileName::Table(meta.number)).collect();
        let (disk, path) = (self.directory.as_ref(), self.directory.path());
        let mut manifest = ManifestWriter::create(disk, path, manifest_number, temporary, catalog)?
            .with_edit_len_max(self.options.manifest_roll_bytes);
        manifest.allocate_ahead();
        needed.extend([FileName::Lock, FileName::Current, FileName::Manifest(manifest_number)]);
        if plan.names.contains(&FileName::Reserve) {
            needed.insert(FileName::Reserve);
        }
        let unnamed: BTreeMap<FileName, u64> =
            plan.names.difference(&needed).map(|name| (*name, self.directory.len_of(*name))).collect();
        let is_kept = |segment: FileNumber| {
            segment >= wal_first && plan.predecessor.is_some_and(|last| segment <= last.number)
        };
        let mut book = self.book.lock();
        book.files.forget_found();
        for (name, len) in &unnamed {
            if let FileName::Wal(segment) = *name
                && is_kept(segment)
            {
                book.files.add_segment(segment, *len);
            }
        }
        book.files.add_segment(number, 0);
        book.files.find_orphans(&unnamed);
        book.active_wal = Some(Arc::clone(wal.segment()));
        drop(book);
        *self.manifest.lock() = Some(manifest);
        self.note_stated(next_file);
        self.note_wal_len(&wal);
        leader.wal = Some(wal);
        Ok(())
    }

    /// Starts the segment that takes commits from now on, durable with everything that is committed again.
    fn write_segment(&self, number: FileNumber, plan: &mut Establishment) -> Result<WalWriter> {
        let (disk, path) = (self.directory.as_ref(), self.directory.path());
        let step = self.preallocate_bytes();
        let wal = WalWriter::create(disk, path, number, plan.predecessor, step)?;
        let mut wal = wal.with_held_len_max(self.options.wal_held_len_max());
        for record in &mut plan.records {
            let (first, last) = (record.header.first_seq, record.header.last_seq());
            wal.add(&mut record.frame, first, last)?;
        }
        wal.sync()?;
        Ok(wal)
    }
}
