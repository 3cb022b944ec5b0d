//! What calls promise, checked against the files as they are when the call has returned, with everything else running.

use crate::disk::SimDisk;
use crate::tape::Label;
use crate::workload::judge::{Context, Violation, violation};
use crate::workload::on_disk::{Entry, OnDisk};
use crate::workload::oracle::is_inside;
use crate::workload::orders::Order;
use crate::workload::sight::Bounds;
use std::collections::{BTreeMap, BTreeSet};

/// A flush is checked entry by entry in one of so many cases.
const FLUSH_ENTRIES_ONE_IN: u64 = 6;

/// What a `flush` that returned has promised to write out.
pub struct Flushed {
    /// Commits up to here had returned before.
    pub before: u64,
    /// They were made at or after this time, if one is known.
    pub committed_time: Option<i64>,
    /// Which incarnation did it.
    pub incarnation: u64,
}

impl Flushed {
    /// Checks that everything committed before is in tables, and stated so.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self, context: &Context, disk: &SimDisk) -> Result<(), Violation> {
        let Some(on_disk) = look(disk)? else { return Ok(()) };
        context.reach("judged: flush");
        let flushed = on_disk.catalog.flushed_seq.get();
        if flushed < self.before {
            let message = format!("it returned, but tables hold only up to {flushed} of {}", self.before);
            return Err(violation("flush", message));
        }
        let stated = on_disk.catalog.time_high_water.0;
        if let Some(committed) = self.committed_time.filter(|&committed| stated < committed) {
            let message = format!(
                "the manifest states time {stated}, but what was flushed was committed at {committed} or later"
            );
            return Err(violation("flush", message));
        }
        if context.tape.chance(Label::Check, 1, FLUSH_ENTRIES_ONE_IN) {
            self.check_entries(context, disk, &on_disk)?;
        }
        Ok(())
    }

    /// Checks that the tables alone, without memtables and log, have what there was.
    fn check_entries(&self, context: &Context, disk: &SimDisk, on_disk: &OnDisk) -> Result<(), Violation> {
        let keyspaces = context.judge.lock().keyspaces.clone();
        for (&id, keyspace) in keyspaces.iter().filter(|(_, keyspace)| keyspace.is_owed()) {
            let entries = match on_disk.entries(id, Order::of(&keyspace.options)) {
                Ok(entries) => entries,
                Err(_) if disk.is_off() => return Ok(()),
                Err(error) => return Err(violation("flush", format!("a table is unreadable: {error:?}"))),
            };
            let judge = context.judge.lock();
            if judge.incarnation != self.incarnation || judge.model.covered() < self.before {
                return Ok(());
            }
            let mut newest: BTreeMap<&[u8], &Entry> = BTreeMap::new();
            // Entries of a key come newest first, and later commits than those promised may have come along.
            for entry in &entries {
                newest.entry(&entry.key).or_insert(entry);
            }
            let differs = |key: &[u8]| {
                let expected = judge.model.get_at(id, key, self.before);
                match newest.get(key) {
                    // A delete that came along, and was merged already, leaves nothing.
                    None => expected.is_some() && !judge.model.may_be_deleted_above(id, key, self.before),
                    Some(entry) if entry.seq > self.before => false,
                    Some(entry) if entry.is_delete => expected.is_some(),
                    Some(entry) => expected != Some(&entry.value),
                }
            };
            let expected = judge.model.content_at(id, self.before).map(|(key, _)| key);
            if let Some(key) = expected.chain(newest.keys().copied()).find(|key| differs(key)) {
                let message = format!(
                    "as of {}, keyspace {id} key {}: the tables have {:?}",
                    self.before,
                    key.escape_ascii(),
                    newest.get(key)
                );
                return Err(violation("flush", message));
            }
        }
        context.reach("judged: flush, entry by entry");
        Ok(())
    }
}

/// What a `compact_range` that returned has promised to have removed.
pub struct Compacted {
    /// The keyspace.
    pub keyspace: u32,
    /// Its order.
    pub order: Order,
    /// The range.
    pub bounds: Bounds,
    /// Commits up to here had returned before.
    pub before: u64,
    /// Snapshots that lived at any time during the call.
    pub snapshots: BTreeSet<u64>,
}

impl Compacted {
    /// Checks that no delete and no old version is left that no snapshot needs.
    ///
    /// # Errors
    /// The first that is left.
    pub fn check(&self, context: &Context, disk: &SimDisk) -> Result<(), Violation> {
        let Some(on_disk) = look(disk)? else { return Ok(()) };
        let entries = match on_disk.entries(self.keyspace, self.order) {
            Ok(entries) => entries,
            Err(_) if disk.is_off() => return Ok(()),
            Err(error) => {
                return Err(violation("compact_range", format!("a table is unreadable: {error:?}")));
            }
        };
        context.reach("judged: compact_range");
        let mut newer: Option<&Entry> = None;
        for entry in &entries {
            let newer = newer.replace(entry).filter(|newer| newer.key == entry.key);
            if entry.seq > self.before || !is_inside(&entry.key, &self.bounds, self.order) {
                continue;
            }
            let newer_seq = newer.map(|newer| newer.seq).filter(|&seq| seq <= self.before);
            if !self.is_needed(entry, newer_seq) {
                let message = format!(
                    "up to {} with snapshots {:?} during the call, it left {:?} below {newer_seq:?} in keyspace {}",
                    self.before,
                    self.snapshots,
                    show(entry),
                    self.keyspace
                );
                return Err(violation("compact_range", message));
            }
        }
        Ok(())
    }

    /// Tells whether an entry may have been kept: for the newest state or for a snapshot. A delete hides what a snapshot
    /// below it sees.
    fn is_needed(&self, entry: &Entry, newer_seq: Option<u64>) -> bool {
        let is_seen = newer_seq.is_none_or(|newer| self.snapshots.range(entry.seq..newer).next().is_some());
        let hides = self.snapshots.range(..entry.seq).next().is_some();
        is_seen && (!entry.is_delete || hides)
    }
}

fn look(disk: &SimDisk) -> Result<Option<OnDisk>, Violation> {
    match OnDisk::look(disk) {
        Ok(on_disk) => Ok(on_disk),
        // An edit that met a fault lies there in part, or its file is gone by a failed sync.
        Err(_) if disk.is_off() || disk.failures_count() > 0 => Ok(None),
        Err(error) => Err(violation("manifest", format!("what is on the disk cannot be read: {error:?}"))),
    }
}

fn show(entry: &Entry) -> String {
    let kind = if entry.is_delete { "delete" } else { "put" };
    format!("{kind} {} at {}", entry.key.escape_ascii(), entry.seq)
}
