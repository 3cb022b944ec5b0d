//! Moments of quiet: nothing has failed, no client does anything, nothing is due. Then figures, files and tree agree,
//! and stay as they are.

use crate::disk::SimDisk;
use crate::tape::Label;
use crate::workload::driver::Driver;
use crate::workload::incarnation::directory_len;
use crate::workload::incarnation::files_of;
use crate::workload::judge::{Violation, violation};
use crate::workload::keys::KeyStyle;
use crate::workload::on_disk::OnDisk;
use crate::workload::swarm::Habit;
use std::time::Duration;
use tinylsm::base::ids::KeyspaceId;
use tinylsm::base::limits::{
    KEY_LEN_BYTES_MAX, RESERVE_PART, TABLE_OVERHEAD_LEN_BYTES, manifest_ahead_len, reserve_len_min,
};
use tinylsm::compaction::picker::{LevelLimits, target_bytes};
use tinylsm::version::edit::TableMeta;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, Db, KeyspaceOptions, Stats};

/// How long a database is left alone, to see whether it stays as it is: longer than any pause of its jobs.
const QUIET: Duration = Duration::from_secs(45);

/// Bytes that a database may have beside its tables, log and manifest when it is at rest: names, locks, small change.
const SMALL_CHANGE_BYTES: u64 = 8 << 10;

impl Driver {
    /// Lets an open database come to quiet, and checks what holds then. A loss of power ends the check.
    pub(in crate::workload) fn come_to_quiet(&mut self, db: &Db) -> Result<(), Violation> {
        match self.check_quiet(db) {
            Err(_) if self.disk.is_off() => Ok(()),
            checked => checked,
        }
    }

    fn check_quiet(&mut self, db: &Db) -> Result<(), Violation> {
        self.mend_disk();
        let stats = self.settle(db)?;
        self.check_figures(db, &stats)?;
        // What is due only after a while comes now, and then nothing more.
        let later = self.leave_alone(db)?;
        let latest = self.leave_alone(db)?;
        let work = |stats: &Stats| (jobs_of(stats), stats.manifests_rolled, stats.live_files.clone());
        if work(&latest) != work(&later) {
            let message = format!("it was idle with {:?}, and then {:?}", work(&later), work(&latest));
            return Err(violation("wait_idle", message));
        }
        self.check_files(&latest)?;
        self.check_disk_bytes(db, &latest)?;
        self.check_space_by_itself(db)?;
        self.reach("judged: quiet");
        Ok(())
    }

    /// Lets everything that is due be done, and checks that it is: nothing was left for somebody to ask for it, no level is
    /// over its target, no file lies about, and no error is told of.
    pub(in crate::workload) fn settle(&self, db: &Db) -> Result<Stats, Violation> {
        let left_alone = self.come_to_rest_unasked(db);
        db.wait_idle().map_err(|error| violation("wait_idle", format!("{error:?}")))?;
        let stats = db.stats();
        if let Some(before) = left_alone
            && jobs_of(&before) != jobs_of(&stats)
        {
            let message = format!("left alone it did {:?}, asked {:?}", jobs_of(&before), jobs_of(&stats));
            return Err(violation("rest without being asked", message));
        }
        self.check_files(&stats)?;
        check_shape(db, &stats, self.context.swarm.longest_value_len())?;
        if let Some(error) = db.background_error() {
            return Err(violation("background_error", format!("nothing has failed, but it says {error:?}")));
        }
        Ok(stats)
    }

    /// Leaves a database with threads of its own alone in half the cases, so that everything due is done before anybody asks:
    /// whoever asks makes up for a call that was forgotten. `None` where nothing follows from that.
    fn come_to_rest_unasked(&self, db: &Db) -> Option<Stats> {
        let has_threads = !matches!(self.context.background(), Background::Manual);
        if !has_threads || !self.context.tape.chance(Label::Check, 1, 2) {
            return None;
        }
        self.disk.sleep(QUIET);
        self.reach("judged: rest without being asked");
        db.background_errors().is_empty().then(|| db.stats())
    }

    fn leave_alone(&self, db: &Db) -> Result<Stats, Violation> {
        self.disk.sleep(QUIET);
        db.wait_idle().map_err(|error| violation("wait_idle", format!("{error:?}")))?;
        Ok(db.stats())
    }

    /// Compares the directory with what the database says of it.
    pub(in crate::workload) fn check_files(&self, stats: &Stats) -> Result<(), Violation> {
        let files = self.our_names()?;
        if files != stats.live_files {
            let message =
                format!("at rest the directory has {files:?}, the database says {:?}", stats.live_files);
            return Err(violation("directory is the live set", message));
        }
        Ok(())
    }

    /// Returns the names in the directory without the foreign one, which must be there if there was one.
    fn our_names(&self) -> Result<Vec<String>, Violation> {
        let mut files: Vec<String> = names_of(&self.disk);
        if self.context.swarm.has_foreign_names {
            let before = files.len();
            files.retain(|name| name != "notes.txt");
            if files.len() == before {
                return Err(violation("hands off what is not ours", "a foreign file is gone".to_owned()));
            }
        }
        Ok(files)
    }

    /// Compares the figures with the manifest.
    fn check_figures(&self, db: &Db, stats: &Stats) -> Result<(), Violation> {
        let on_disk = OnDisk::look(&self.disk)
            .map_err(|error| violation("stats", format!("the manifest is unreadable: {error:?}")))?;
        let Some(on_disk) = on_disk else {
            return Err(violation("stats", "an open database has no manifest".to_owned()));
        };
        for figures in &stats.keyspaces {
            for (level, told) in figures.levels.iter().enumerate() {
                let tables = on_disk.tables(figures.id).filter(|(at, _)| *at == level);
                let found = tables.fold((0, 0, 0), |(files, bytes, entries), (_, meta)| {
                    (files + 1, bytes + meta.len_bytes, entries + meta.entries)
                });
                if found != (told.files, told.bytes, told.entries) {
                    let message =
                        format!("level {level} of {:?}: told {told:?}, found {found:?}", figures.name);
                    return Err(violation("stats", message));
                }
            }
        }
        if stats.sealed_memtables > 0 || stats.last_seq != db.last_seq() {
            return Err(violation("stats", format!("idle, and still {stats:?}")));
        }
        Ok(())
    }

    /// Compares what lies on the disk after a time of quiet with what a merge of everything leaves: a database gives
    /// back by itself what deletes and newer versions have hidden.
    fn check_space_by_itself(&mut self, db: &Db) -> Result<(), Violation> {
        // Where keys are of the longest, tables take several times their bounds, and how many there are decides.
        if self.context.swarm.key_style == KeyStyle::Long {
            return Ok(());
        }
        // The manifest has a size of its own, which follows the keys and not what is hidden. So has a table beside its
        // entries, which counts where tables are as small as here.
        let counted_len = |disk: &SimDisk, is_counted: &dyn Fn(&str) -> bool| {
            let files = files_of(disk).into_iter().filter(|file| is_counted(&file.name));
            let lens = files.map(|file| {
                let is_table = file.name.ends_with(".sst");
                file.len.saturating_sub(if is_table { TABLE_OVERHEAD_LEN_BYTES } else { 0 })
            });
            lens.sum::<u64>()
        };
        let is_no_manifest = |name: &str| !name.starts_with("MANIFEST");
        let before = counted_len(&self.disk, &is_no_manifest);
        let is_otherwise = |name: &str| self.packed_otherwise.iter().any(|other| other == name);
        let otherwise_before = counted_len(&self.disk, &is_otherwise);
        self.compact_everything(db)?;
        let after = counted_len(&self.disk, &is_no_manifest);
        // A table stays packed as the options said when it was written, and nothing in it is hidden for that: what an incarnation
        // with other options has left may shrink where it was written again just now, and the reserve follows it. That is
        // so for live entries only, which take no more than this even where nothing is compressed.
        let rewritten = otherwise_before.saturating_sub(counted_len(&self.disk, &is_otherwise));
        let repacked = rewritten.min(self.live_bytes_of(KeyspaceId::DEFAULT.0));
        let repacked = repacked + repacked / RESERVE_PART;
        let options = &self.context.swarm.options;
        let fixed = options.memtable_bytes as u64
            + 2 * options.manifest_roll_bytes
            + options.wal_preallocate_bytes
            + SMALL_CHANGE_BYTES
            // What a delete hides is known on the average only: one big value among small ones may stay; and in memory it
            // takes a log, and a reserve that could hold it in a table, and a quarter more.
            + 4 * self.context.swarm.longest_value_len();
        if before > (after + repacked) * 115 / 100 + fixed {
            let message = format!(
                "{before} bytes beside the tables' own lay on the quiet disk, a merge of everything left {after}"
            );
            return Err(violation("space comes back by itself", message));
        }
        self.reach("judged: space by itself");
        Ok(())
    }

    pub(in crate::workload) fn compact_everything(&self, db: &Db) -> Result<(), Violation> {
        let failed = |error: tinylsm::Error| violation("compact_range", format!("{error:?}"));
        for name in db.keyspaces() {
            let keyspace = db.keyspace(&name).map_err(failed)?;
            db.compact_range(&keyspace, ..).map_err(failed)?;
        }
        db.wait_idle().map_err(|error| violation("wait_idle", format!("{error:?}")))
    }

    /// Checks what a database that was merged in full has on the disk.
    pub(in crate::workload) fn check_merged_space(&self) -> Result<(), Violation> {
        let bytes = directory_len(&self.disk);
        let (live, overhead) = self.live_bytes()?;
        let options = &self.context.swarm.options;
        // It has space for two of the smallest tables in each keyspace, for the three files that an opening begins, and for
        // a manifest, which names each table's keys once; an eighth too much may stay in it.
        let files_count = 2 * self.context.judge.lock().possible().count() as u64 + 3;
        let tables = files_count * TABLE_OVERHEAD_LEN_BYTES;
        let manifest = overhead / 5 + options.manifest_roll_bytes;
        let part = reserve_len_min(options.memtable_bytes) + live / RESERVE_PART;
        let reserve = (part + tables + manifest) * 9 / 8;
        let fixed = 2 * options.manifest_roll_bytes + options.wal_preallocate_bytes + SMALL_CHANGE_BYTES;
        // What named the longest keys stays in the manifest until that has grown.
        let manifests = files_of(&self.disk).into_iter().filter(|file| file.name.starts_with("MANIFEST"));
        let manifest_len: u64 = manifests.map(|file| file.len).sum();
        let long_bounds = manifest_len.saturating_sub(manifest).min(8 * KEY_LEN_BYTES_MAX as u64);
        let allowed = live * 12 / 10 + overhead + reserve + fixed + long_bounds;
        if bytes > allowed {
            let message = format!(
                "{bytes} bytes for {live} of live data, {overhead} beside it in tables and {reserve} in reserve; \
                 {allowed} allowed: {:?}",
                names_of(&self.disk)
            );
            return Err(violation("space at rest", message));
        }
        self.check_reserve()?;
        self.reach("judged: space at rest");
        Ok(())
    }

    /// Checks that a reserve has space for what a full disk needs first: a manifest, and two of the smallest tables in each
    /// keyspace, beside the least that deletes get.
    fn check_reserve(&self) -> Result<(), Violation> {
        let Some(on_disk) = OnDisk::look(&self.disk).ok().flatten() else { return Ok(()) };
        // One that was used is empty until there is space for another.
        let reserve = files_of(&self.disk).into_iter().find(|file| file.name == "RESERVE" && file.len > 0);
        let Some(reserve) = reserve else { return Ok(()) };
        let ids: Vec<u32> = self.context.judge.lock().possible().map(|(id, _)| id).collect();
        let filled = ids.into_iter().filter(|&id| on_disk.tables(id).next().is_some()).count() as u64;
        let options = &self.context.swarm.options;
        let for_deletes = reserve_len_min(options.memtable_bytes);
        let manifest = 2 * manifest_ahead_len(options.manifest_roll_bytes);
        let least = for_deletes - for_deletes / 4 + 2 * TABLE_OVERHEAD_LEN_BYTES * filled + manifest;
        if reserve.len < least {
            let message = format!("{} bytes for {filled} keyspaces, {least} are the least", reserve.len);
            return Err(violation("reserve", message));
        }
        self.reach("judged: reserve");
        Ok(())
    }

    /// Returns how many bytes the live entries would take as the blocks of a table, and how many there may be beside
    /// entries in the tables that there are: a table of a run is tiny, so these count.
    fn live_bytes(&self) -> Result<(u64, u64), Violation> {
        let ids: Vec<u32> = self.context.judge.lock().possible().map(|(id, _)| id).collect();
        let live = ids.into_iter().map(|id| self.live_bytes_of(id)).sum();
        let on_disk = OnDisk::look(&self.disk).ok().flatten();
        // Its bounds are in its properties and in its index, and in the manifest, perhaps twice.
        let overhead_of = |meta: &TableMeta| 1_500 + 5 * (meta.smallest.len() + meta.largest.len()) as u64;
        let overhead =
            on_disk.map_or(0, |on_disk| on_disk.catalog.tables().map(|(_, _, meta)| overhead_of(meta)).sum());
        Ok((live, overhead))
    }

    /// Returns how many bytes the live entries of a keyspace would take as the blocks of a table.
    fn live_bytes_of(&self, id: u32) -> u64 {
        let judge = self.context.judge.lock();
        let content = judge.model.content_at(id, judge.model.last_known());
        // At worst an entry has a block of its own, whose place in the index has a key as well.
        content.map(|(key, value)| (2 * key.len() + value.len()) as u64 + 72).sum()
    }

    /// Checks what a database leaves on the disk that was closed in good order.
    pub(in crate::workload) fn check_closed_space(&self) -> Result<(), Violation> {
        let options = &self.context.swarm.options;
        let names = names_of(&self.disk);
        let segments_count = names.iter().filter(|name| name.ends_with(".wal")).count();
        // One for each generation that may wait for its flush, the open one, and one that is about to go.
        let segments_max = options.sealed_memtables_max + 3;
        if segments_count > segments_max {
            let message =
                format!("closed with {segments_count} log segments, {segments_max} allowed: {names:?}");
            return Err(violation("space of a closed database", message));
        }
        if self.context.swarm.habit == Habit::ShortIncarnations && !self.context.swarm.has_big_values {
            let (bytes, (live, overhead)) = (directory_len(&self.disk), self.live_bytes()?);
            // A few of the longest values may wait for a merge that so short a time has no use for.
            let unmerged = 12 * options.memtable_bytes as u64 + 4 * self.context.swarm.longest_value_len();
            let allowed = 2 * live + overhead + unmerged + SMALL_CHANGE_BYTES;
            if bytes > allowed {
                let message = format!("closed with {bytes} bytes for {live} of live data, {allowed} allowed");
                return Err(violation("space of a closed database", message));
            }
        }
        self.reach("judged: space of a closed database");
        Ok(())
    }
}

/// Returns how many jobs of each kind were done.
pub(in crate::workload) fn jobs_of(stats: &Stats) -> (u64, u64, u64) {
    (stats.flushes, stats.compactions, stats.trivial_moves)
}

/// Checks that no level is over its target where nothing is due.
pub(in crate::workload) fn check_shape(
    db: &Db,
    stats: &Stats,
    longest_value_len: u64,
) -> Result<(), Violation> {
    for figures in &stats.keyspaces {
        let keyspace = db
            .keyspace(&figures.name)
            .map_err(|error| violation("stats", format!("{:?} is not there: {error:?}", figures.name)))?;
        let options = keyspace.options();
        let is_over = |level: usize| match level {
            0 => figures.levels[0].files >= options.level0_compaction_trigger,
            // By one table, which its last value may lengthen, and a hundredth: a level's score is a whole number,
            // and tables move as they are.
            _ => {
                let target = target_bytes(level, limits_of(options));
                figures.levels[level].bytes > target + target / 100 + options.table_bytes + longest_value_len
            }
        };
        if let Some(level) = (0..figures.levels.len() - 1).find(|&level| is_over(level)) {
            let message = format!("idle, and level {level} is over its target: {figures:?}, {options:?}");
            return Err(violation("shape of the tree", message));
        }
    }
    Ok(())
}

fn limits_of(options: &KeyspaceOptions) -> LevelLimits {
    LevelLimits {
        level0_trigger: options.level0_compaction_trigger,
        level_base_bytes: options.level_base_bytes,
        level_multiplier: options.level_multiplier,
    }
}

pub(in crate::workload) fn names_of(disk: &SimDisk) -> Vec<String> {
    files_of(disk).into_iter().map(|file| file.name).collect()
}
