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
//! numbers. Files of an attempt whose manifest may count stay until one has succeeded. Others are dead, and so is what
//! earlier openings left and no manifest ever named that may count: on a full disk they go at once, or each attempt would
//! take more of it, and so they do where there are many, or openings that are cut short again and again would leave more
//! each time.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::base::limits;
use crate::base::time::UnixMillis;
use crate::db::core::{Core, Leader};
use crate::format::names::FileName;
use crate::version::catalog::Catalog;
use crate::version::edit::Change;
use crate::version::manifest::{Failure, ManifestWriter};
use crate::version::pointer::{self, Pointer};
use crate::vfs::Vfs;
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
    /// Where the manifest is that recovery read; none for a new database.
    pub pointer: Option<Pointer>,
    /// Those of them, and of failed attempts, that no manifest names which may ever count.
    pub dead: BTreeSet<FileName>,
    /// Those that only an older manifest names, which may count for as long as it is not sure that `CURRENT` names the
    /// younger one durably.
    pub superseded: BTreeSet<FileName>,
    /// The latest time that expiry may have been decided by.
    pub time_high_water: UnixMillis,
}

/// What the manifest in force names or has named: all its edits since the last sync may be lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    /// Every table.
    pub tables: BTreeSet<FileNumber>,
    /// The oldest segment that was needed when it was begun, and the last one.
    pub wal_first: Option<FileNumber>,
    pub wal_last: Option<FileNumber>,
}

impl Named {
    /// Takes note of a change, in their order.
    pub(crate) fn see(&mut self, change: &Change) {
        match change {
            Change::AddTable { meta, .. } => drop(self.tables.insert(meta.number)),
            Change::Flushed { wal_first, .. } => drop(self.wal_first.get_or_insert(*wal_first)),
            Change::WalOpened(number) => drop(self.wal_last.get_or_insert(*number)),
            _ => {}
        }
    }

    /// Returns, of the files of a directory, those that no manifest names which may ever count, and those that only an
    /// older manifest may name, which counts again if what made `CURRENT` name the younger one was not durable. `needed` are
    /// the files that recovery has read.
    pub(crate) fn leftovers(
        &self,
        (names, needed): (&BTreeSet<FileName>, &[FileName]),
        pointer: Pointer,
        catalog: &Catalog,
    ) -> (BTreeSet<FileName>, BTreeSet<FileName>) {
        let in_force = pointer.manifest;
        // Segments that nothing leads to. After a flush, recovery has not looked at those that were needed before.
        let is_unlinked = |number: FileNumber| {
            let was_needed = self.wal_first.is_some_and(|first| number >= first);
            let is_seen = self.wal_last.is_some_and(|last| number <= last)
                && self.wal_first == Some(catalog.wal_first)
                && !needed.contains(&FileName::Wal(number));
            !was_needed || is_seen
        };
        let is_left = |name: &FileName| match name {
            FileName::Table(number) => !self.tables.contains(number),
            FileName::Wal(number) => *number > catalog.wal_last || is_unlinked(*number),
            FileName::Manifest(number) => *number != in_force,
            FileName::Temporary(_) => true,
            FileName::Current | FileName::Lock | FileName::Reserve => false,
        };
        let is_older = |name: &FileName| matches!(name, FileName::Manifest(number) if *number < in_force);
        let has_older = names.iter().any(is_older);
        // An older manifest named nothing that was begun behind the younger one, which nothing pointed to before.
        let is_superseded = |name: &FileName| match name {
            FileName::Table(number) => *number < in_force,
            FileName::Wal(number) => *number <= catalog.wal_last,
            name => is_older(name),
        };
        let left = names.iter().copied().filter(is_left);
        let (superseded, dead) = left.partition(|name| has_older && is_superseded(name));
        (dead, superseded)
    }
}

impl Core {
    /// Does what is left to do before the first write; nothing if that was done.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing that counts is changed, and it can be tried again.
    pub(crate) fn establish(&self, leader: &mut Leader) -> Result<()> {
        let Some(mut plan) = leader.unestablished.take() else { return Ok(()) };
        let leftovers_count = plan.dead.len() + plan.superseded.len();
        if leftovers_count > limits::leftovers_count_max(self.options.memtable_bytes) {
            self.remove_leftovers(&mut plan);
        }
        let has_leftovers = !(plan.dead.is_empty() && plan.superseded.is_empty());
        let mut done = self.try_establish(leader, &mut plan);
        if is_full(&done) && self.remove_leftovers(&mut plan) && has_leftovers {
            done = self.try_establish(leader, &mut plan);
            if is_full(&done) {
                self.remove_leftovers(&mut plan);
            }
        }
        if done.is_err() {
            leader.unestablished = Some(plan);
        }
        done
    }

    /// Removes what nobody needs before anything new is written, as far as that goes; tells whether it went well.
    fn remove_leftovers(&self, plan: &mut Establishment) -> bool {
        let goes_well = self.remove_dead(plan);
        let Some(pointer) = plan.pointer.filter(|_| !plan.superseded.is_empty()) else { return goes_well };
        // Who knows whether the manifest in force was pointed to durably: an earlier process may have seen that fail.
        let temporary = self.take_file_number();
        if pointer::switch(self.directory.as_ref(), self.directory.path(), pointer, temporary).is_err() {
            plan.names.insert(FileName::Temporary(temporary));
            plan.dead.insert(FileName::Temporary(temporary));
            return false;
        }
        plan.dead.append(&mut plan.superseded);
        self.remove_dead(plan) && goes_well
    }

    /// Removes the dead files; tells whether that went well. No edit can state their numbers as taken, so
    /// the name of an empty file does, which is younger than all of them.
    fn remove_dead(&self, plan: &mut Establishment) -> bool {
        if !plan.names.contains(&FileName::Current) {
            // There is no database yet.
            return false;
        }
        // What an attempt could not even create witnesses nothing.
        let is_there = |name: &FileName| self.directory.metadata(&name.path(self.directory.path())).is_ok();
        let dead: BTreeSet<FileName> = std::mem::take(&mut plan.dead).into_iter().filter(is_there).collect();
        let removed = self.try_remove_dead(&dead, plan);
        plan.dead.extend(dead.into_iter().filter(|name| plan.names.contains(name)));
        removed.is_ok()
    }

    fn try_remove_dead(&self, dead: &BTreeSet<FileName>, plan: &mut Establishment) -> Result<()> {
        let Some(youngest) = dead.iter().copied().max_by_key(FileName::number) else { return Ok(()) };
        let (disk, path) = (self.directory.as_ref(), self.directory.path());
        let remove = |name: FileName, names: &mut BTreeSet<FileName>| -> Result<()> {
            match disk.remove_file(&name.path(path)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => names.remove(&name),
            };
            Ok(())
        };
        disk.sync_dir(path)?;
        for name in dead.iter().filter(|name| **name != youngest) {
            remove(*name, &mut plan.names)?;
        }
        let witness = FileName::Temporary(self.take_file_number());
        // Even a name may find no space before the others are gone.
        drop(disk.create_new(&witness.path(path))?);
        plan.names.insert(witness);
        plan.dead.insert(witness);
        disk.sync_dir(path)?;
        remove(youngest, &mut plan.names)
    }

    fn try_establish(&self, leader: &mut Leader, plan: &mut Establishment) -> Result<()> {
        let number = self.take_file_number();
        // Removed once an edit states that the number is taken, if this fails.
        plan.names.insert(FileName::Wal(number));
        let mut wal = self.write_segment(number, plan).inspect_err(|_| {
            plan.dead.insert(FileName::Wal(number));
        })?;
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
        let created = ManifestWriter::create(disk, path, manifest_number, temporary, catalog);
        let created = created.map_err(|failure| {
            if let Failure::NotInstalled(_) = &failure {
                let attempt = [
                    FileName::Wal(number),
                    FileName::Manifest(manifest_number),
                    FileName::Temporary(temporary),
                ];
                plan.dead.extend(attempt);
                // What it has ahead may be what the removal of the attempt needs.
                wal.trim();
            }
            failure.into_error()
        });
        let mut manifest = created?.with_edit_len_max(self.options.manifest_roll_bytes);
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
        let add = |record: &mut Record| {
            let (first, last) = (record.header.first_seq, record.header.last_seq());
            wal.add(&mut record.frame, first, last)
        };
        match plan.records.iter_mut().try_for_each(add).and_then(|()| wal.sync()) {
            Ok(()) => Ok(wal),
            Err(error) => {
                wal.trim();
                Err(error)
            }
        }
    }
}

fn is_full(done: &Result<()>) -> bool {
    done.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace)
}
