//! How clients use another database beside this one: it works, and its handles are refused here.

use crate::workload::client::{Client, Stop};
use crate::workload::held::HeldSnapshot;
use crate::workload::neighbour::Neighbour;
use tinylsm::{Error, WriteBatch, WriteOptions};

impl Client {
    /// Lets the other database flush and merge beside this one, on the same threads if they share them.
    fn stir(&self, neighbour: &Neighbour) -> Result<(), Stop> {
        let stirred = self.call("wait_idle of another database", || neighbour.stir());
        match stirred {
            Ok(()) => {
                self.context.reach("another database merged beside this one");
                Ok(())
            }
            Err(_) if self.opened.disk.is_off() => Err(Stop),
            Err(error) if self.is_excused(&error) => Ok(()),
            Err(error) => Err(self.violate("neighbour", format!("its work beside this one gives {error:?}"))),
        }
    }

    /// Uses a keyspace of the other database with this one, or the other way round: that is refused everywhere.
    pub(in crate::workload) fn use_foreign_handle(&mut self) -> Result<(), Stop> {
        let Some(neighbour) = self.opened.neighbour.clone() else { return Ok(()) };
        if self.below(2) == 0 && neighbour.is_whole() {
            return self.stir(&neighbour);
        }
        let foreign = neighbour.keyspace();
        let db = self.db();
        let key = self.next_key();
        let held = HeldSnapshot::take(&self.context, db);
        let refused = |what, result: Result<(), Error>| match result {
            Err(error) if self.is_excused(&error) => Ok(()),
            result => self.expect_refusal(what, result),
        };
        match self.below(5) {
            0 => {
                let mut batch = WriteBatch::new();
                batch.put(&self.keyspaces[0], &key, "never written");
                batch.put(foreign, &key, "never written");
                let written = self.call("write", || db.write(&batch, WriteOptions::default()));
                refused("a batch with a foreign keyspace", written.map(drop))
            }
            1 => {
                let compacted = self.call("compact_range", || db.compact_range(foreign, ..));
                refused("compact_range of a foreign keyspace", compacted)
            }
            2 => {
                let got = self.call("get", || held.snapshot().keyspace(foreign).get(&key));
                refused("a foreign snapshot's get", got.map(drop))
            }
            3 => {
                let got = self.call("multi_get", || held.snapshot().keyspace(foreign).multi_get(&[&key]));
                refused("a foreign snapshot's multi_get", got.map(drop))
            }
            _ => {
                let read = self.call("range", || held.snapshot().keyspace(foreign).iter());
                refused("a foreign snapshot's scan", read.map(drop))
            }
        }
    }
}
