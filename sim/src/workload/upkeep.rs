//! What clients ask of a database besides writing and reading, and what each such call promises.

use crate::tape::Label;
use crate::workload::client::{Client, Stop, is_full_log};
use crate::workload::held::HeldSnapshot;
use crate::workload::images;
use crate::workload::judge::Violation;
use crate::workload::orders::Order;
use crate::workload::promises::{Compacted, Flushed};
use crate::workload::rest::counted_len;
use crate::workload::sight::Bounds;
use std::ops::Bound;
use tinylsm::{Background, ErrorKind, KeyspaceOptions, Stats};

/// A crash image is recovered behind one in so many syncs.
const IMAGE_BEHIND_SYNC_ONE_IN: u64 = 30;

impl Client {
    /// Goes home with a violation that somebody else's check found; a check that the power cut short found nothing.
    pub(in crate::workload) fn pass(&self, checked: Result<(), Violation>) -> Result<(), Stop> {
        match checked {
            Ok(()) => Ok(()),
            Err(_) if self.opened.disk.is_off() => Err(Stop),
            Err(violation) => Err(self.violate(violation.oracle, violation.message)),
        }
    }

    pub(in crate::workload) fn sync(&mut self) -> Result<(), Stop> {
        let before = self.db().last_seq().get();
        let result = self.call("sync", || self.db().sync());
        if self.note_durable(result, before)?
            && self.context.tape.chance(Label::Check, 1, IMAGE_BEHIND_SYNC_ONE_IN)
        {
            self.context.reach("judged: sync");
            self.pass(images::recover_on_the_side(&self.context, &self.opened.disk))?;
        }
        Ok(())
    }

    pub(in crate::workload) fn flush(&mut self) -> Result<(), Stop> {
        let before = self.db().last_seq().get();
        let committed_time = self.judge().committed_time;
        let result = self.call("flush", || self.db().flush());
        if self.note_durable(result, before)? {
            let flushed = Flushed { before, committed_time, incarnation: self.opened.incarnation };
            self.pass(flushed.check(&self.context, &self.opened.disk))?;
        }
        Ok(())
    }

    pub(in crate::workload) fn compact(&mut self) -> Result<(), Stop> {
        let at = self.pick_keyspace();
        let keyspace = &self.keyspaces[at];
        let bounds: Bounds = if self.below(2) == 0 {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            (Bound::Included(self.next_key()), Bound::Excluded(self.next_key()))
        };
        let before = self.db().last_seq().get();
        let watch = self.judge().snapshots.watch();
        let result = self.call("compact_range", || self.db().compact_range(keyspace, bounds.clone()));
        let snapshots = self.judge().snapshots.end_watch(watch);
        if self.allow(result)?.is_none() {
            return Ok(());
        }
        // A snapshot that is just being taken may stand anywhere.
        let Some(snapshots) = snapshots else { return Ok(()) };
        let (id, order) = (u32::try_from(at).expect("a few"), Order::of(keyspace.options()));
        let compacted = Compacted { keyspace: id, order, bounds, before, snapshots };
        self.pass(compacted.check(&self.context, &self.opened.disk))
    }

    /// Deletes and overwrites under a snapshot, lets that go while merges may still respect it, and merges.
    pub(in crate::workload) fn shrink(&mut self) -> Result<(), Stop> {
        let held = HeldSnapshot::take(&self.context, self.db());
        for _ in 0..1 + self.below(12) {
            let deletes = self.below(3) > 0;
            self.write(1, deletes)?;
        }
        if self.below(2) == 0 {
            self.flush()?;
        }
        drop(held);
        self.compact()
    }

    /// Checks every table: nothing is damaged where runs have their database.
    pub(in crate::workload) fn verify(&mut self) -> Result<(), Stop> {
        let result = self.call("verify", || self.db().verify());
        self.allow(result).map(drop)
    }

    pub(in crate::workload) fn wait_idle(&mut self) -> Result<(), Stop> {
        let result = self.call("wait_idle", || self.db().wait_idle());
        let is_idle = self.allow(result)?.is_some();
        let is_alone = self.context.swarm.clients_count == 1 && !self.judge().closing.has_begun;
        if !is_idle || !is_alone || self.context.swarm.background != Background::Manual {
            return Ok(());
        }
        self.context.reach("judged: wait_idle");
        match self.allow(self.db().background_step())? {
            Some(true) => Err(self.violate("wait_idle", "a job was due right behind it".to_owned())),
            _ => Ok(()),
        }
    }

    /// Asks for figures and errors: nothing fails where nothing has failed.
    pub(in crate::workload) fn look(&mut self) -> Result<(), Stop> {
        let before = self.db().last_seq();
        let stats = self.db().stats();
        if stats.last_seq < before || stats.last_seq > self.db().last_seq() {
            let message = format!("between {before} and {}: {}", self.db().last_seq(), stats.last_seq);
            return Err(self.violate("stats", message));
        }
        self.compare_disk_bytes(&stats)?;
        let error = self.db().background_error();
        let may_fail = self.may_have_failed();
        match error {
            Some(error) if !may_fail && !self.is_excused(&error) && !self.opened.disk.is_off() => {
                Err(self.violate("background_error", format!("nothing has failed, but it says {error:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Tells whether the database of this handle may have failed, or is not this handle's any more: whoever has opened the directory
    /// since has changed it.
    fn may_have_failed(&self) -> bool {
        let is_over = {
            let judge = self.judge();
            judge.closing.has_begun || judge.incarnation != self.opened.incarnation
        };
        self.has_disk_failed() || self.has_panicked() || is_over
    }

    /// Compares `Stats::disk_bytes` with what lies on the disk, where no job and no other client can have changed either.
    fn compare_disk_bytes(&self, stats: &Stats) -> Result<(), Stop> {
        let swarm = &self.context.swarm;
        let is_alone = swarm.clients_count == 1 && swarm.background == Background::Manual;
        let may_fail = self.may_have_failed();
        let found = counted_len(&self.opened.disk);
        if is_alone && !may_fail && !self.opened.disk.is_off() && stats.disk_bytes != found {
            let message = format!("{found} bytes lie on the disk, {stats:?}");
            return Err(self.violate("stats: disk_bytes", message));
        }
        Ok(())
    }

    pub(in crate::workload) fn step(&mut self) -> Result<(), Stop> {
        let result = self.call("background_step", || self.db().background_step());
        self.allow(result).map(drop)
    }

    /// Makes some space on the disk, and takes up writing again.
    pub(in crate::workload) fn resume(&mut self) -> Result<(), Stop> {
        self.opened.disk.add_space(self.context.tape.magnitude(Label::Workload, 17));
        let was_full = self.db().background_error().is_some_and(|error| is_full_log(&error));
        let result = self.call("resume", || self.db().resume());
        if self.allow(result)?.is_some() && was_full {
            self.context.reach("writing resumed after a full disk");
        }
        Ok(())
    }

    /// Takes hundreds of snapshots, and keeps only a few of them for a while.
    pub(in crate::workload) fn take_many_snapshots(&mut self) -> Result<(), Stop> {
        let mut kept = Vec::new();
        // Often a few, now and then hundreds.
        for number in 0..self.context.tape.magnitude(Label::Workload, 8) {
            let held = HeldSnapshot::take(&self.context, self.db());
            if number % 50 == 0 {
                kept.push(held);
            }
        }
        Ok(())
    }

    /// Asks for keyspaces that cannot be: each has one right error, and leaves nothing.
    pub(in crate::workload) fn ask_for_refused_keyspace(&mut self) -> Result<(), Stop> {
        let fine = KeyspaceOptions::default;
        let (name, options, expected) = match self.below(8) {
            0 => ("x", fine().block_bytes(1), ErrorKind::InvalidArgument),
            1 => ("x", fine().filter_bits_per_key(25), ErrorKind::InvalidArgument),
            2 => ("x", fine().level0_compaction_trigger(0), ErrorKind::InvalidArgument),
            3 => ("x", fine().level_multiplier(1), ErrorKind::InvalidArgument),
            4 => ("", fine(), ErrorKind::InvalidArgument),
            5 => ("x", fine().comparator(String::new()), ErrorKind::InvalidArgument),
            6 => {
                let comparator = "nobody knows".to_owned();
                ("x", fine().comparator(comparator), ErrorKind::Incompatible)
            }
            _ => ("default", fine(), ErrorKind::AlreadyExists),
        };
        let result = self.call("create_keyspace", || self.db().create_keyspace(name, options));
        match result {
            Err(error) if error.kind() == expected => Ok(()),
            Err(error) if self.is_excused(&error) || self.opened.disk.is_off() => Ok(()),
            other => Err(self.violate("error honesty", format!("a keyspace to be refused gives {other:?}"))),
        }
    }

    /// Opens the database once more while it is open, to write or to read: it is locked, and nothing happens to it.
    pub(in crate::workload) fn open_again(&mut self) -> Result<(), Stop> {
        let is_open = {
            let judge = self.judge();
            !judge.closing.has_begun && judge.incarnation == self.opened.incarnation
        };
        if !is_open {
            return Ok(());
        }
        let builder = self.context.builder(&self.opened.disk, self.context.background());
        let is_reader = self.below(2) == 0;
        let opened = self.call("open", || if is_reader { builder.open_read_only() } else { builder.open() });
        match opened {
            Err(error) if error.kind() == ErrorKind::Locked => {
                self.context.reach(if is_reader { "second reader refused" } else { "second writer refused" });
                Ok(())
            }
            Err(error) => self.allow::<()>(Err(error)).map(drop),
            Ok(_) => Err(self.violate("one at a time", "an open database was opened once more".to_owned())),
        }
    }
}
