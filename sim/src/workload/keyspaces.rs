//! How clients change which keyspaces there are, and what each such call promises.
//!
//! A name is given once in a run, so that nobody takes one keyspace for another. What became of a call that failed shows at the
//! next recovery ([`crate::workload::judge::Fate`]).

use crate::workload::client::{Client, Stop, is_of_drop};
use crate::workload::judge::{Fate, KnownKeyspace};
use crate::workload::model::EVERY_KEY;
use crate::workload::recovery::numbered;
use crate::workload::swarm::draw_keyspace;
use tinylsm::{Durability, Error, ErrorKind, Keyspace, WriteBatch};

impl Client {
    fn next_name(&self) -> String {
        let mut judge = self.judge();
        judge.keyspaces_asked_count += 1;
        format!("made-{}", judge.keyspaces_asked_count)
    }

    fn is_current(&self) -> bool {
        self.judge().incarnation == self.opened.incarnation
    }

    /// Creates a keyspace, or opens one that is not there yet, which is the same.
    pub(in crate::workload) fn create_keyspace(&mut self) -> Result<(), Stop> {
        if self.judge().possible().count() >= self.context.swarm.keyspaces_max {
            return Ok(());
        }
        let name = self.next_name();
        let mut options = draw_keyspace(&self.context.tape);
        let is_odd = self.below(6) == 0;
        if is_odd {
            // More than there may ever be: if this is taken, it has to work.
            options.level0_compaction_trigger = self.context.swarm.options.level0_stop + 1;
        }
        let asked = options.clone();
        let result = match self.below(2) {
            0 => self.call("create_keyspace", || self.db().create_keyspace(&name, options)),
            _ => self.call("open_keyspace", || self.db().open_keyspace(&name, options)),
        };
        match &result {
            Err(error) if is_odd && error.kind() == ErrorKind::InvalidArgument => return Ok(()),
            Ok(created) if *created.options() != asked => {
                return Err(self.violate("options", format!("asked for {asked:?}, got {created:?}")));
            }
            _ => {}
        }
        if self.allow(result)?.is_none() {
            return Ok(());
        }
        if self.below(2) == 0 {
            let again = self.call("open_keyspace", || self.db().open_keyspace(&name, asked.clone()));
            self.allow(again)?;
        }
        // Nobody else knows it yet, so it is there under its name.
        let Some((id, _)) = numbered(self.db()).into_iter().find(|(_, found)| *found == name) else {
            return if self.is_current() {
                Err(self.violate("keyspaces", format!("{name:?} was created and is not there")))
            } else {
                Ok(())
            };
        };
        let mut judge = self.judge();
        if judge.incarnation != self.opened.incarnation {
            return Ok(());
        }
        let before = judge.keyspaces.insert(id, KnownKeyspace::new(name, asked, true));
        drop(judge);
        match before {
            Some(before) => {
                Err(self.violate("keyspaces", format!("number {id} was given out again, after {before:?}")))
            }
            None => Ok(()),
        }
    }

    /// Takes a keyspace to be changed by this client alone; none if there is no other than the default one.
    fn take_keyspace(&self, fate: Fate) -> Option<(u32, String)> {
        let mut judge = self.judge();
        if judge.incarnation != self.opened.incarnation {
            return None;
        }
        let free: Vec<u32> = judge
            .possible()
            .filter(|(id, known)| *id > 0 && known.fate == Fate::There)
            .map(|(id, _)| id)
            .collect();
        drop(judge);
        if free.is_empty() {
            return None;
        }
        let id = free[usize::try_from(self.below(free.len() as u64)).expect("a few")];
        judge = self.judge();
        let known = judge.keyspaces.get_mut(&id)?;
        known.fate = fate;
        Some((id, known.name.clone()))
    }

    /// Notes what became of a keyspace, unless a recovery has shown it already.
    fn note_fate(&self, id: u32, note: impl FnOnce(&mut KnownKeyspace)) {
        let mut judge = self.judge();
        if judge.incarnation == self.opened.incarnation
            && let Some(known) = judge.keyspaces.get_mut(&id)
        {
            note(known);
        }
    }

    /// Drops a keyspace: what came before is durable, and whoever uses it from now on gets `Closed`.
    pub(in crate::workload) fn drop_keyspace(&mut self) -> Result<(), Stop> {
        // So that this client has a handle of it.
        self.pick_keyspace();
        let Some((id, name)) = self.take_keyspace(Fate::Dropping) else { return Ok(()) };
        let before = self.db().last_seq().get();
        let result = self.call("drop_keyspace", || self.db().drop_keyspace(&name));
        if !self.note_durable(result, before)? {
            return Ok(());
        }
        self.note_fate(id, |known| known.fate = Fate::Dropped);
        self.context.reach("keyspace dropped");
        let iterators = std::mem::take(&mut self.iterators);
        for mut held in iterators {
            if held.is_of(id) {
                let sought = held.rewind();
                self.expect_dropped("a seek of an iterator", sought)?;
            } else {
                self.iterators.push(held);
            }
        }
        let Some(keyspace) = self.keyspaces.remove(id) else { return Ok(()) };
        self.use_dropped(&keyspace)
    }

    fn use_dropped(&self, keyspace: &Keyspace) -> Result<(), Stop> {
        let key = self.next_key();
        match self.below(6) {
            0 => self.expect_dropped("get", self.call("get", || keyspace.get(&key))),
            1 => self.expect_dropped("put", self.call("put", || keyspace.put(&key, "never written"))),
            2 => self.expect_dropped("iter", self.call("range", || keyspace.iter())),
            3 => self.expect_dropped("clear", self.call("clear", || keyspace.clear())),
            4 => {
                let compacted = self.call("compact_range", || self.db().compact_range(keyspace, ..));
                self.expect_dropped("compact_range", compacted)
            }
            _ => {
                let mut batch = WriteBatch::new();
                batch.put(&self.keyspaces[0], &key, "never written").put(keyspace, &key, "never written");
                let written = self.call("write", || self.db().write(batch, Durability::Disk));
                self.expect_dropped("a batch", written)
            }
        }
    }

    fn expect_dropped<T>(&self, what: &str, result: Result<T, Error>) -> Result<(), Stop> {
        match result {
            Err(_) if self.opened.disk.is_off() => Err(Stop),
            Err(error) if is_of_drop(&error) || self.is_excused(&error) => Ok(()),
            Err(error) => {
                Err(self.violate("dropped is gone", format!("{what} of a dropped keyspace gives {error:?}")))
            }
            Ok(_) => Err(self.violate("dropped is gone", format!("{what} of a dropped keyspace goes well"))),
        }
    }

    /// Gives a keyspace another name.
    pub(in crate::workload) fn rename_keyspace(&mut self) -> Result<(), Stop> {
        let new_name = self.next_name();
        let Some((id, name)) = self.take_keyspace(Fate::Renaming(new_name.clone())) else { return Ok(()) };
        let result = self.call("rename_keyspace", || self.db().rename_keyspace(&name, &new_name));
        if self.allow(result)?.is_some() {
            self.note_fate(id, |known| (known.name, known.fate) = (new_name, Fate::There));
            self.context.reach("keyspace renamed");
        }
        Ok(())
    }

    /// Empties a keyspace, which is a commit like any other, and a durable one.
    pub(in crate::workload) fn clear_keyspace(&mut self) -> Result<(), Stop> {
        let at = self.pick_keyspace();
        let id = u32::try_from(at).expect("a few");
        let keyspace = &self.keyspaces[at];
        let commit = self.judge().model.begin(vec![((id, EVERY_KEY.to_vec()), None)]);
        let result = self.call("clear", || keyspace.clear());
        self.note_write(commit, &result, Durability::Disk)?;
        if self.allow(result)?.is_some() {
            self.context.reach("keyspace cleared");
        }
        Ok(())
    }
}
