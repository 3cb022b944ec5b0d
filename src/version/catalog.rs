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
    /// The number of the commit that emptied it last; zero if none has. Nothing up to it counts.
    pub cleared_seq: SeqNum,
    /// Its tables, by level and number.
    pub levels: [BTreeMap<FileNumber, Arc<TableMeta>>; limits::LEVELS_COUNT],
}

/// Everything the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Keyspaces by number. Numbers between them are of those that were dropped.
    pub keyspaces: BTreeMap<KeyspaceId, CatalogKeyspace>,
    /// Their names.
    names: BTreeSet<String>,
    /// Numbers of keyspaces below this one are taken.
    pub next_keyspace: KeyspaceId,
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
            names: BTreeSet::new(),
            next_keyspace: KeyspaceId::DEFAULT,
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
                let next = id.0.checked_add(1).ok_or("a keyspace has the highest number")?;
                if *id < self.next_keyspace {
                    return Err(format!("keyspace {id} is created with a number that was given out before"));
                }
                self.take_name(name)?;
                self.next_keyspace = KeyspaceId(next);
                let keyspace = CatalogKeyspace {
                    name: name.clone(),
                    comparator: comparator.clone(),
                    options: options.clone(),
                    cleared_seq: SeqNum::ZERO,
                    levels: Default::default(),
                };
                self.keyspaces.insert(*id, keyspace);
            }
            Change::DropKeyspace(id) => {
                if *id == KeyspaceId::DEFAULT {
                    return Err("the default keyspace is dropped".to_owned());
                }
                let dropped = self.keyspaces.remove(id).ok_or(format!("there is no keyspace {id}"))?;
                self.names.remove(&dropped.name);
            }
            Change::RenameKeyspace { id, name } => {
                if *id == KeyspaceId::DEFAULT {
                    return Err("the default keyspace is renamed".to_owned());
                }
                self.keyspace(*id)?;
                self.take_name(name)?;
                let before = std::mem::replace(&mut self.keyspace(*id)?.name, name.clone());
                self.names.remove(&before);
            }
            Change::ClearKeyspace { id, seq } => {
                let keyspace = self.keyspace(*id)?;
                if *seq <= keyspace.cleared_seq {
                    let before = keyspace.cleared_seq;
                    return Err(format!("keyspace {id} is emptied at number {seq}, after {before}"));
                }
                keyspace.cleared_seq = *seq;
                keyspace.levels = Default::default();
            }
            Change::NextKeyspace(id) => {
                if *id < self.next_keyspace {
                    return Err(format!("numbers of keyspaces go back to {id}"));
                }
                self.next_keyspace = *id;
            }
            Change::AddTable { keyspace, level, meta } => {
                let cleared_seq = self.keyspace(*keyspace)?.cleared_seq;
                if meta.smallest_seq <= cleared_seq {
                    return Err(format!(
                        "table {} holds number {}, and keyspace {keyspace} was emptied at {cleared_seq}",
                        meta.number, meta.smallest_seq
                    ));
                }
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

    /// Takes a name for a keyspace.
    fn take_name(&mut self, name: &str) -> Result<(), String> {
        if self.names.insert(name.to_owned()) {
            Ok(())
        } else {
            Err(format!("two keyspaces are named {name:?}"))
        }
    }

    fn keyspace(&mut self, id: KeyspaceId) -> Result<&mut CatalogKeyspace, String> {
        self.keyspaces.get_mut(&id).ok_or_else(|| format!("there is no keyspace {id}"))
    }

    /// Tells whether what the log has for a keyspace at a number counts, or is passed over.
    pub fn is_wanted(&self, id: KeyspaceId, seq: SeqNum) -> bool {
        self.keyspaces.get(&id).is_some_and(|keyspace| seq > keyspace.cleared_seq)
    }

    /// Returns the highest number at which a keyspace was emptied.
    pub fn last_cleared_seq(&self) -> SeqNum {
        self.keyspaces.values().map(|keyspace| keyspace.cleared_seq).max().unwrap_or(SeqNum::ZERO)
    }

    fn level(
        &mut self,
        keyspace: KeyspaceId,
        level: usize,
    ) -> Result<&mut BTreeMap<FileNumber, Arc<TableMeta>>, String> {
        self.keyspace(keyspace)?.levels.get_mut(level).ok_or(format!("there is no level {level}"))
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
            let cleared = keyspace.cleared_seq;
            let clear = (cleared > SeqNum::ZERO).then_some(Change::ClearKeyspace { id, seq: cleared });
            let levels = keyspace.levels.iter().enumerate();
            let tables = levels.flat_map(move |(level, tables)| {
                let add = move |meta: &Arc<TableMeta>| Change::AddTable {
                    keyspace: id,
                    level,
                    meta: (**meta).clone(),
                };
                tables.values().map(add)
            });
            std::iter::once(create).chain(clear).chain(tables)
        });
        let last = self.keyspaces.last_key_value().map(|(id, _)| *id);
        let is_next_known = last.map_or(0, |id| id.0 + 1) == self.next_keyspace.0;
        let next = (!is_next_known).then_some(Change::NextKeyspace(self.next_keyspace));
        // In this order, or opening would take the last segment for the first.
        let flushed = Change::Flushed { wal_first: self.wal_first, seq: self.flushed_seq };
        let wal = (self.wal_last.0 != 0).then_some([flushed, Change::WalOpened(self.wal_last)]);
        let closed = self.closed_len.map(|good_len| Change::Closed { wal: self.wal_last, good_len });
        first.into_iter().chain(keyspaces).chain(next).chain(wal.into_iter().flatten()).chain(closed)
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

    fn create(id: u32, name: &str) -> Change {
        let (name, comparator, options) = (name.to_owned(), "c".to_owned(), String::new());
        Change::CreateKeyspace { id: KeyspaceId(id), name, comparator, options }
    }

    fn rename(id: u32, name: &str) -> Change {
        Change::RenameKeyspace { id: KeyspaceId(id), name: name.to_owned() }
    }

    fn clear(id: u32, seq: u64) -> Change {
        Change::ClearKeyspace { id: KeyspaceId(id), seq: SeqNum::new(seq) }
    }

    fn drop_of(id: u32) -> Change {
        Change::DropKeyspace(KeyspaceId(id))
    }

    fn table(id: u32, number: u64, smallest_seq: u64) -> Change {
        let meta = TableMeta {
            number: FileNumber(number),
            len_bytes: 1,
            smallest: Vec::new(),
            largest: Vec::new(),
            smallest_seq: SeqNum::new(smallest_seq),
            largest_seq: SeqNum::new(9),
            entries: 1,
            deletes: 0,
            earliest_expiry: UnixMillis::MAX,
            latest_expiry: UnixMillis::MIN,
        };
        Change::AddTable { keyspace: KeyspaceId(id), level: 0, meta }
    }

    #[test]
    fn numbers_of_dropped_keyspaces_stay_taken_when_the_manifest_is_written_anew() {
        let mut catalog = Catalog::default();
        let edit = [
            create(0, "default"),
            create(1, "a"),
            create(2, "b"),
            create(3, "c"),
            table(1, 7, 3),
            table(2, 8, 3),
            clear(2, 5),
            table(2, 9, 6),
            drop_of(1),
            drop_of(3),
            rename(2, "a"),
            Change::NextFile(FileNumber(20)),
        ];
        catalog.apply(&edit).expect("makes sense");
        assert_eq!(catalog.tables().map(|(_, _, meta)| meta.number).collect::<Vec<_>>(), [FileNumber(9)]);
        let mut again = Catalog::default();
        again.apply(&catalog.changes().collect::<Vec<_>>()).expect("makes sense");
        assert_eq!(catalog, again);
        assert_eq!(again.next_keyspace, KeyspaceId(4));
        for (id, seq, wanted) in [(0, 1, true), (1, 9, false), (2, 5, false), (2, 6, true), (4, 9, false)] {
            assert_eq!(again.is_wanted(KeyspaceId(id), SeqNum::new(seq)), wanted, "{id} {seq}");
        }
        for refused in [create(1, "x"), create(3, "x"), create(4, "a"), rename(2, "default"), drop_of(3)] {
            assert!(again.clone().apply(std::slice::from_ref(&refused)).is_err(), "{refused:?}");
        }
        again.apply(&[create(4, "b"), rename(4, "c")]).expect("free again");
    }

    #[test]
    fn changes_of_keyspaces_that_make_no_sense_are_refused() {
        let refused: [&[Change]; 11] = [
            &[drop_of(0)],
            &[drop_of(2)],
            &[drop_of(1), drop_of(1)],
            &[rename(0, "x")],
            &[rename(2, "x")],
            &[rename(1, "default")],
            &[clear(2, 5)],
            &[clear(1, 5), clear(1, 5)],
            &[clear(1, 5), table(1, 7, 5)],
            &[drop_of(1), table(1, 7, 5)],
            &[Change::NextKeyspace(KeyspaceId(1))],
        ];
        for edit in refused {
            let mut catalog = Catalog::default();
            catalog.apply(&[create(0, "default"), create(1, "a")]).expect("makes sense");
            assert!(catalog.apply(edit).is_err(), "{edit:?}");
        }
        assert!(Catalog::default().apply(&[create(u32::MAX, "x")]).is_err());
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
