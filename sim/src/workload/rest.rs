//! The end of a run: all faults are over, and the database opens, writes, comes to rest and leaves no file behind.

use crate::disk::SimDisk;
use crate::tape::Label;
use crate::workload::apart;
use crate::workload::driver::Driver;
use crate::workload::incarnation::files_of;
use crate::workload::judge::{Violation, violation};
use crate::workload::neighbour::Neighbour;
use std::time::Duration;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, Error, Stats};

/// Descriptors that an idle database has open beside its tables: the directory, the lock, log, manifest and reserve.
const DESCRIPTORS_BESIDE_TABLES: u64 = 5;

impl Driver {
    pub(in crate::workload) fn come_to_rest(&mut self) -> Result<(), Violation> {
        self.heal_disk();
        self.disk.power_off_after(u64::MAX);
        if self.disk.is_off() {
            self.lose_power("power lost before rest");
            self.heal_disk();
        }
        self.meet_full_disk()?;
        self.heal_disk();
        if self.context.tape.chance(Label::Check, 1, 12) {
            self.reopen_with_other_options()?;
        }
        let sound = |what: &'static str, error: Error| violation("liveness", format!("{what}: {error:?}"));
        self.context.judge.lock().model.forget_writers();
        self.check_descriptors("before the last opening", 0)?;
        let opened = self.context.builder(&self.disk, self.context.background()).open();
        let db = opened.map_err(|e| sound("open", e))?;
        if !self.is_first {
            self.reach("recovery");
        }
        if self.context.swarm.background == Background::Manual {
            // Nothing has run since it was opened, and its figures hold all the same.
            self.compare_disk_bytes(&db.stats())?;
        }
        self.context.judge_recovery(&db, self.reading())?;
        self.context.put(&db, "rest", "at last")?.map_err(|e| sound("put", e))?;
        db.flush().map_err(|e| sound("flush", e))?;
        db.wait_idle().map_err(|e| sound("wait_idle", e))?;
        self.wear_level0(&db)?;
        self.come_to_quiet(&db)?;
        self.check_descriptors(
            "at rest",
            self.context.swarm.options.open_files_max as u64 + DESCRIPTORS_BESIDE_TABLES,
        )?;
        let is_merged = self.context.tape.chance(Label::Check, 1, 2);
        if is_merged {
            self.compact_everything(&db)?;
        } else {
            db.compact_range(db.default_keyspace(), ..).map_err(|e| sound("compact_range", e))?;
            db.wait_idle().map_err(|e| sound("wait_idle", e))?;
        }
        self.context.judge_recovery(&db, self.reading())?;
        db.verify().map_err(|e| sound("verify", e))?;
        // Reading may have made a merge due.
        db.wait_idle().map_err(|e| sound("wait_idle", e))?;
        let stats = db.stats();
        self.note_stats(&stats);
        self.check_files(&stats)?;
        self.check_disk_bytes(&db, &stats)?;
        if is_merged {
            self.check_merged_space()?;
        }
        db.close().map_err(|e| sound("close", e))?;
        let reader = self.context.builder(&self.disk, self.context.background()).open_read_only();
        let reader = reader.map_err(|e| sound("reopen", e))?;
        let stats = reader.stats();
        self.check_files(&stats)?;
        self.compare_disk_bytes(&stats)?;
        self.context.judge_recovery(&reader, self.reading())?;
        if self.context.swarm.has_neighbour {
            // On a healthy disk it opens, or that is a violation.
            Neighbour::open(&self.context, &self.disk, self.failures_before)?;
            self.reach("judged: neighbour");
        }
        drop(reader);
        self.check_descriptors("at the end", 0)?;
        apart::judge(&self.context, self.watcher)
    }

    /// Checks that no more descriptors are open than there may be: none is leaked, and tables take no more than allowed.
    fn check_descriptors(&self, when: &str, allowed: u64) -> Result<(), Violation> {
        let mut open = self.disk.descriptors_open();
        // A shared thread lets go of a database that is gone when it comes to it, and it may be starved for a while.
        for _ in 0..if self.context.runtime.is_some() { 10 } else { 0 } {
            if open <= allowed {
                break;
            }
            self.disk.sleep(Duration::from_secs(60));
            open = self.disk.descriptors_open();
        }
        if open > allowed {
            let message = format!("{open} are open {when}, {allowed} allowed");
            return Err(violation("descriptors are given back", message));
        }
        self.reach("judged: descriptors");
        Ok(())
    }

    /// Compares what an idle database says it has on the disk with what lies there.
    pub(in crate::workload) fn check_disk_bytes(&self, db: &Db, stats: &Stats) -> Result<(), Violation> {
        if self.compare_disk_bytes(stats).is_ok() {
            return Ok(());
        }
        // A merge that became due with time may run between the two looks: they must agree once it is over.
        db.wait_idle().map_err(|error| violation("wait_idle", format!("{error:?}")))?;
        self.compare_disk_bytes(&db.stats())
    }

    fn compare_disk_bytes(&self, stats: &Stats) -> Result<(), Violation> {
        let found = counted_len(&self.disk);
        if stats.disk_bytes != found {
            let message = format!("{found} bytes lie on the disk, {stats:?}");
            return Err(violation("stats: disk_bytes", message));
        }
        self.reach("judged: disk_bytes");
        Ok(())
    }

    /// Reads the first level 0 that has tables until that has cost what its merge would, and expects the merge without
    /// asking for it.
    fn wear_level0(&mut self, db: &Db) -> Result<(), Violation> {
        let fault = |error: Error| violation("level 0 worn by reading", format!("{error:?}"));
        let worn = db.stats().keyspaces.into_iter().find(|figures| figures.levels[0].files > 0);
        let Some(figures) = worn else { return Ok(()) };
        self.reach("level 0 worn by reading");
        let keyspace = db.keyspace(&figures.name).map_err(fault)?;
        // Each iterator wastes a block at least, and a merge rewrites no more than all of the first two levels.
        let price = figures.levels[0].bytes + figures.levels[1].bytes;
        for _ in 0..=price / keyspace.options().block_bytes as u64 {
            drop(keyspace.iter().map_err(fault)?);
        }
        if self.context.swarm.background == Background::Manual {
            db.wait_idle().map_err(fault)?;
        } else {
            self.disk.sleep(Duration::from_secs(60));
        }
        let worn = db.stats().keyspaces.into_iter().find(|keyspace| keyspace.id == figures.id);
        if worn.as_ref().is_none_or(|worn| worn.levels[0].files > 0) {
            return Err(violation("level 0 worn by reading", format!("not merged: {worn:?}")));
        }
        Ok(())
    }

    pub(in crate::workload) fn note_stats(&self, stats: &Stats) {
        let levels = stats.keyspaces.iter().flat_map(|keyspace| keyspace.levels.iter().enumerate());
        let deepest = levels.filter(|(_, level)| level.files > 0).map(|(depth, _)| depth).max().unwrap_or(0);
        let noted = [
            ("flushed", stats.flushes),
            ("compacted", stats.compactions),
            ("moved a table down", stats.trivial_moves),
            ("rolled the manifest", stats.manifests_rolled),
            ("cut a torn tail", stats.torn_tails_cut),
            ("writers stalled", stats.stalls),
            ("reader held an obsolete table", stats.obsolete_tables as u64),
            ("tables on level 2 or deeper", u64::from(deepest >= 2)),
        ];
        let mut judge = self.context.judge.lock();
        for (name, count) in noted {
            judge.reach_often(name, count);
        }
    }
}

/// Tells how many bytes lie on the disk of what `Stats::disk_bytes` counts.
pub(in crate::workload) fn counted_len(disk: &SimDisk) -> u64 {
    let counted = files_of(disk).into_iter().filter(|file| file.name != "CURRENT");
    counted.map(|file| file.len).sum()
}
