//! The catalog: what all version edits add up to.
//!
//! Recovery and every install apply edits here first, so an edit that makes no sense is refused before it
//! changes anything else. The manifest is rolled by writing the catalog as its first edits.

use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::version::edit::{Change, TableMeta};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One keyspace in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogKeyspace {
    /// Its name.
    pub name: String,
    /// Its comparator's name.
    pub comparator: String,
    /// Its options as `name=value` lines.
    pub options: String,
    /// Its tables, by level and number.
    pub levels: [BTreeMap<FileNumber, Arc<TableMeta>>; limits::LEVELS_COUNT],
}

/// Everything the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Keyspaces by number; numbers are dense from 0.
    pub keyspaces: BTreeMap<KeyspaceId, CatalogKeyspace>,
    /// File numbers below this one are taken.
    pub next_file: FileNumber,
    /// The oldest WAL segment still needed; 0 before the first.
    pub wal_first: FileNumber,
    /// The newest WAL segment that commits may be in; 0 before the first.
    pub wal_last: FileNumber,
    /// Everything up to this number is in tables.
    pub flushed_seq: SeqNum,
    /// The last segment's whole length, if the database was closed in good order.
    pub closed_len: Option<u64>,
    /// The latest wall-clock time that expiry was decided by.
    pub time_high_water: UnixMillis,
}

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog {
            keyspaces: BTreeMap::new(),
            next_file: FileNumber(1),
            wal_first: FileNumber(0),
            wal_last: FileNumber(0),
            flushed_seq: SeqNum::ZERO,
            closed_len: None,
            time_high_water: UnixMillis::MIN,
        }
    }
}

impl Catalog {
    /// Applies one edit. On an error nothing is promised about the catalog.
    ///
    /// # Errors
    /// A sentence that says which change makes no sense.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        changes.iter().try_for_each(|change| self.apply_change(change))
    }

    /// Applies one change.
    ///
    /// # Errors
    /// A sentence that says why it makes no sense.
    pub fn apply_change(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::CreateKeyspace { id, name, comparator, options } => {
                if self.keyspaces.len() >= limits::KEYSPACES_COUNT_MAX {
                    return Err(format!("there are more than {} keyspaces", limits::KEYSPACES_COUNT_MAX));
                }
                if id.0 as usize != self.keyspaces.len() {
                    return Err(format!("keyspace {id} is created out of order"));
                }
                let keyspace = CatalogKeyspace {
                    name: name.clone(),
                    comparator: comparator.clone(),
                    options: options.clone(),
                    levels: Default::default(),
                };
                self.keyspaces.insert(*id, keyspace);
            }
            Change::AddTable { keyspace, level, meta } => {
                let tables = self.level(*keyspace, *level)?;
                if tables.insert(meta.number, Arc::new(meta.clone())).is_some() {
                    return Err(format!("table {} is added twice", meta.number));
                }
            }
            Change::RemoveTable { keyspace, level, number } => {
                let tables = self.level(*keyspace, *level)?;
                if tables.remove(number).is_none() {
                    return Err(format!("table {number} is removed from level {level} but is not there"));
                }
            }
            Change::NextFile(number) => self.next_file = self.next_file.max(*number),
            Change::Flushed { wal_first, seq } => {
                if *seq < self.flushed_seq || *wal_first < self.wal_first {
                    return Err(format!("a flush goes back to number {seq} in WAL segment {wal_first}"));
                }
                self.wal_first = *wal_first;
                self.flushed_seq = *seq;
            }
            Change::WalOpened(number) => {
                if *number <= self.wal_last {
                    return Err(format!("WAL segment {number} is opened after {}", self.wal_last));
                }
                self.wal_last = *number;
                self.closed_len = None;
                if self.wal_first.0 == 0 {
                    self.wal_first = *number;
                }
            }
            Change::Closed { wal, good_len } => {
                if *wal != self.wal_last {
                    return Err(format!("WAL segment {wal} is closed but {} is the last", self.wal_last));
                }
                self.closed_len = Some(*good_len);
            }
            Change::TimeHighWater(time) => self.time_high_water = self.time_high_water.max(*time),
        }
        Ok(())
    }

    fn level(
        &mut self,
        keyspace: KeyspaceId,
        level: usize,
    ) -> Result<&mut BTreeMap<FileNumber, Arc<TableMeta>>, String> {
        let keyspace = self.keyspaces.get_mut(&keyspace).ok_or(format!("there is no keyspace {keyspace}"))?;
        keyspace.levels.get_mut(level).ok_or(format!("there is no level {level}"))
    }

    /// Checks what must hold between changes of different edits, once a disk's are all applied.
    ///
    /// # Errors
    /// A sentence that says what makes no sense.
    pub fn check(&self) -> Result<(), String> {
        if self.wal_first > self.wal_last {
            return Err(format!(
                "WAL segment {} is needed but {} is the last",
                self.wal_first, self.wal_last
            ));
        }
        let mut numbers = BTreeSet::new();
        for (_, _, meta) in self.tables() {
            let number = meta.number;
            if !numbers.insert(number) {
                return Err(format!("table {number} is in two places"));
            }
            if number >= self.next_file {
                return Err(format!("table {number} has a number that was not given out yet"));
            }
            if meta.smallest_seq > meta.largest_seq || meta.largest_seq > self.flushed_seq {
                let (first, last, flushed) = (meta.smallest_seq, meta.largest_seq, self.flushed_seq);
                return Err(format!(
                    "table {number} holds numbers {first} to {last}, and {flushed} is the last in tables"
                ));
            }
            if meta.deletes > meta.entries {
                return Err(format!("table {number} has more deletes than entries"));
            }
        }
        Ok(())
    }

    /// Returns the changes that make the whole catalog out of an empty one, in the order that they have to come.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let first = [Change::NextFile(self.next_file), Change::TimeHighWater(self.time_high_water)];
        let keyspaces = self.keyspaces.iter().flat_map(|(&id, keyspace)| {
            let create = Change::CreateKeyspace {
                id,
                name: keyspace.name.clone(),
                comparator: keyspace.comparator.clone(),
                options: keyspace.options.clone(),
            };
            let levels = keyspace.levels.iter().enumerate();
            let tables = levels.flat_map(move |(level, tables)| {
                let add = move |meta: &Arc<TableMeta>| Change::AddTable {
                    keyspace: id,
                    level,
                    meta: (**meta).clone(),
                };
                tables.values().map(add)
            });
            std::iter::once(create).chain(tables)
        });
        // In this order, or opening would take the last segment for the first.
        let flushed = Change::Flushed { wal_first: self.wal_first, seq: self.flushed_seq };
        let wal = (self.wal_last.0 != 0).then_some([flushed, Change::WalOpened(self.wal_last)]);
        let closed = self.closed_len.map(|good_len| Change::Closed { wal: self.wal_last, good_len });
        first.into_iter().chain(keyspaces).chain(wal.into_iter().flatten()).chain(closed)
    }

    /// Returns every table with its keyspace and level, in a fixed order.
    pub fn tables(&self) -> impl Iterator<Item = (KeyspaceId, usize, &Arc<TableMeta>)> {
        self.keyspaces.iter().flat_map(|(&id, keyspace)| {
            let levels = keyspace.levels.iter().enumerate();
            levels.flat_map(move |(level, tables)| tables.values().map(move |meta| (id, level, meta)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_written_as_changes_reads_back_equal() {
        let mut catalog = Catalog::default();
        let edit = [
            Change::CreateKeyspace {
                id: KeyspaceId(0),
                name: "default".into(),
                comparator: "c".into(),
                options: String::new(),
            },
            Change::NextFile(FileNumber(5)),
            Change::WalOpened(FileNumber(3)),
            Change::WalOpened(FileNumber(4)),
            Change::Closed { wal: FileNumber(4), good_len: 60 },
            Change::TimeHighWater(UnixMillis(7)),
        ];
        catalog.apply(&edit).expect("makes sense");
        let mut again = Catalog::default();
        again.apply(&catalog.changes().collect::<Vec<_>>()).expect("makes sense");
        again.check().expect("makes sense");
        assert_eq!(again.wal_first, FileNumber(3));
        assert_eq!(catalog, again);
    }

    #[test]
    fn edits_that_make_no_sense_are_refused() {
        let remove = Change::RemoveTable { keyspace: KeyspaceId(0), level: 0, number: FileNumber(1) };
        assert!(Catalog::default().apply(&[remove]).is_err());
        let closed = Change::Closed { wal: FileNumber(7), good_len: 1 };
        assert!(Catalog::default().apply(&[closed]).is_err());
        let twice = [Change::WalOpened(FileNumber(3)), Change::WalOpened(FileNumber(3))];
        assert!(Catalog::default().apply(&twice).is_err());
    }
}
