//! Opening a database: making a new one, or reading back what a stop left behind, however it came about.
//!
//! First the plan: everything is read and nothing is changed.
//!
//! 1. hold and lock the directory; read `CURRENT` and the manifest it names; open every table;
//! 2. follow the chain of WAL segments back from the last one the manifest names, and replay them oldest first,
//!    each up to the length its successor states, the last one up to its torn tail.
//!
//! Then the effects, in [`crate::db::establish`]: a fresh segment and a fresh manifest. No file that was read is modified,
//! so a crash anywhere inside recovers again, and a disk too full for the effects leaves a database that can be read.
//!
//! What the old segments hold is written again into the fresh one if it is little, so that a hundred short incarnations leave
//! one segment and not a hundred. If it is more, it becomes sealed memtables, which are flushed like any others.

use crate::base::comparator::KeyOrder;
use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::compaction::output::open_table;
use crate::db::book::{Book, Generation};
use crate::db::core::{Core, Host, Leader, Link, Parts};
use crate::db::directory::Directory;
use crate::db::ends::{Step, is_mendable};
use crate::db::establish::{Establishment, Named};
use crate::db::options::{Comparators, KeyspaceOptions, Options};
use crate::db::state::{KeyspaceInfo, KeyspaceTree, LiveTable, State, View};
use crate::format::frame::{FrameKind, FrameReader};
use crate::format::names::{FileName, first_free_number};
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::read::tree::Tree;
use crate::table::footer;
use crate::table::reader::Table;
use crate::table::shared::Cache;
use crate::version::catalog::Catalog;
use crate::version::edit::{Change, TableMeta};
use crate::version::levels::{Live, Version};
use crate::version::manifest;
use crate::version::pointer::{self, Pointer};
use crate::vfs::{LockMode, Vfs};
use crate::wal::Predecessor;
use crate::wal::reader::{Record, has_records, read_predecessor, replay};
use crate::write::commit::{apply, check_record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything a builder gathered.
pub(crate) struct OpenRequest {
    pub directory: PathBuf,
    pub vfs: Arc<dyn Vfs>,
    pub options: Options,
    pub comparators: Comparators,
    pub cache: Option<Arc<Cache>>,
    pub host: Host,
    pub create_if_missing: bool,
    pub is_read_only: bool,
    pub is_degraded: bool,
}

/// What a stop left behind, read back.
struct Recovered {
    catalog: Catalog,
    state: State,
    /// What is needed of the directory beside the tables: the manifest that counts and the segments that were replayed.
    needed: Vec<FileName>,
    /// Every table that an edit of the manifest added, whatever became of it.
    named: Named,
    pointer: Option<Pointer>,
    /// Replayed segments, oldest first, with what was in them.
    generations: VecDeque<(FileNumber, Arc<Generation>)>,
    /// The end of the last segment; none in a new database.
    last_segment: Option<Predecessor>,
    /// Proven records, as long as they are few enough to be written again.
    carried: Carried,
    /// Records that were readable but are not provably durable.
    unproven: Vec<Record>,
    last_seq: SeqNum,
    time_high_water: UnixMillis,
    torn_tails_count: u64,
}

/// Proven records that are kept to be written again, until they are too many.
struct Carried {
    records: Vec<Record>,
    len_bytes: u64,
    len_bytes_max: u64,
}

impl Carried {
    fn add(&mut self, record: Record) {
        self.len_bytes += record.frame.len() as u64;
        if self.is_small() {
            self.records.push(record);
        } else {
            self.records = Vec::new();
        }
    }

    fn is_small(&self) -> bool {
        self.len_bytes <= self.len_bytes_max
    }
}

/// What opening works with.
struct Opening {
    directory: Arc<Directory>,
    options: Options,
    comparators: Comparators,
    cache: Arc<Cache>,
    is_degraded: bool,
    link: Link,
}

/// Opens or creates a database.
///
/// # Errors
/// `NotFound`, `Locked`, `Incompatible`, `Corruption`, `NoSpace`, `Io`, `Exhausted`, `Internal`; what was in the directory
/// and counts is as it was.
pub(crate) fn open(request: OpenRequest) -> Result<Arc<Core>> {
    request.options.validate()?;
    if request.create_if_missing && !request.is_read_only {
        request.vfs.create_dir_all(&request.directory)?;
    }
    let directory = Arc::new(Directory::hold(Arc::clone(&request.vfs), request.directory.clone())?);
    let opened = contain("opening", || open_in(&directory, request));
    if opened.is_err() {
        // The first error is the one that matters; the lock ends with its guard in any case.
        drop(directory.let_go());
    }
    opened
}

fn open_in(directory: &Arc<Directory>, request: OpenRequest) -> Result<Arc<Core>> {
    let OpenRequest { options, comparators, cache, host, is_read_only, is_degraded, .. } = request;
    if is_read_only || !request.create_if_missing {
        check_is_database(directory)?;
    }
    let mode = if is_read_only { LockMode::Shared } else { LockMode::Exclusive };
    let was_locked_before = match directory.metadata(&FileName::Lock.path(directory.path())) {
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        found => found.map(|_| true)?,
    };
    match directory.lock_with(&FileName::Lock.path(directory.path()), mode) {
        // A copy of a database may lack its lock file, and a reader changes no byte, so it makes none. Without one nothing
        // keeps a writer away, and `Directory::check_alone` tells whether one has come.
        Err(error) if is_read_only && error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    // Somebody may have changed everything between the first look and the lock.
    let names = list(directory)?;
    let cache =
        cache.unwrap_or_else(|| Arc::new(Cache::new(options.block_cache_bytes, options.open_files_max)));
    let opening = Opening {
        directory: Arc::clone(directory),
        options,
        comparators,
        cache,
        is_degraded,
        link: Link::default(),
    };
    let recovered = match pointer::read(directory.as_ref(), directory.path())? {
        Some(pointer) => opening.recover(pointer)?,
        None => opening.create(&names, was_locked_before)?,
    };
    let core = opening.start(recovered, names, host, is_read_only)?;
    directory.check_alone()?;
    Ok(core)
}

/// Fails if there is no database, before anything is created for its lock.
///
/// # Errors
/// `NotFound`; `Corruption` if there was one.
fn check_is_database(directory: &Directory) -> Result<()> {
    let names = list(directory)?;
    if names.contains(&FileName::Current) {
        return Ok(());
    }
    let checked = check_nothing_was_lost(directory, &names);
    // Nothing is locked yet: somebody may have made one since it was listed, and that is no damage.
    if list(directory)?.contains(&FileName::Current) {
        return Ok(());
    }
    checked?;
    let message = format!("there is no database in {}", directory.path().display());
    Err(Error::new(ErrorKind::NotFound, message))
}

/// Fails where files prove that there was a database: `CURRENT` is durable before any table has a name, any segment
/// a record, or a manifest more than a new database's catalog.
fn check_nothing_was_lost(directory: &Directory, names: &BTreeSet<FileName>) -> Result<()> {
    for evidence in names {
        let path = evidence.path(directory.path());
        let is_proof = match evidence {
            // One that lost its end proves nothing, and is left alone all the same: it is refused as foreign.
            FileName::Table(_) => footer::number_claimed(directory.open(&path)?.as_ref())?.is_some(),
            FileName::Wal(number) => has_records(directory, &path, *number)?,
            FileName::Manifest(number) => manifest::was_in_force(directory, &path, *number)?,
            _ => false,
        };
        if is_proof {
            let message = format!("CURRENT is missing, but {evidence} is there: the database is damaged");
            return Err(Error::corruption(&FileName::Current.path(directory.path()), 0, message));
        }
    }
    Ok(())
}

/// Fails where a file has a name that we would remove or use up, and is none that a crash while a database was being made
/// can have left: the name of the manifest is durable before its temporary file is created, and `CURRENT` before the
/// reserve is. The lock file's name is durable before all, unless the sync of that failed: where there was none, a log is only
/// ours if it begins as one.
fn check_nothing_is_foreign(
    directory: &Directory,
    names: &BTreeSet<FileName>,
    was_locked_before: bool,
) -> Result<()> {
    let is_foreign = |name: &&FileName| match **name {
        FileName::Temporary(number) => {
            !names.iter().any(|other| matches!(other, FileName::Manifest(manifest) if *manifest < number))
        }
        FileName::Wal(number) | FileName::Manifest(number) => {
            !was_locked_before && !may_be_ours(directory, **name, number)
        }
        FileName::Table(_) | FileName::Reserve => true,
        FileName::Lock | FileName::Current => false,
    };
    let Some(foreign) = names.iter().find(is_foreign) else { return Ok(()) };
    let message = "a database would take this file for its own, and there is no database here: move it away, or choose \
                   another directory";
    Err(Error::new(ErrorKind::Incompatible, message).with_file(&foreign.path(directory.path())))
}

/// Tells whether a log may be what a crash left of one of ours: it begins as one, or nothing was written to it.
fn may_be_ours(directory: &Directory, name: FileName, number: FileNumber) -> bool {
    let path = name.path(directory.path());
    let looked = || -> Result<bool> {
        let file = directory.open(&path)?;
        let mut frames = FrameReader::new(file.as_ref(), &path, number)?;
        let is_begun = frames.next_frame()?.is_some_and(|frame| frame.kind == FrameKind::Header);
        Ok(is_begun || frames.is_zero_behind(0)?)
    };
    looked().unwrap_or(false)
}

/// Returns the files of ours. What is not ours is left alone.
///
/// # Errors
/// `Io`; `Corruption` if a directory has the place of `CURRENT`, which is not the same as its absence.
fn list(directory: &Directory) -> Result<BTreeSet<FileName>> {
    let listed = directory.read_dir(directory.path())?;
    let is_pointer = |name: &str| FileName::parse(name) == Some(FileName::Current);
    if listed.iter().any(|entry| entry.is_dir && is_pointer(&entry.name)) {
        let path = FileName::Current.path(directory.path());
        return Err(Error::corruption(&path, 0, "a directory is in the place of CURRENT"));
    }
    let files = listed.iter().filter(|entry| !entry.is_dir);
    Ok(files.filter_map(|entry| FileName::parse(&entry.name)).collect())
}

impl Opening {
    /// Prepares a new database. What a crash in an earlier attempt can have left behind is no obstacle.
    fn create(&self, names: &BTreeSet<FileName>, was_locked_before: bool) -> Result<Recovered> {
        check_nothing_was_lost(&self.directory, names)?;
        check_nothing_is_foreign(&self.directory, names, was_locked_before)?;
        // What a crash leaves of a database being made can be told from what others have put there: an earlier attempt
        // may have failed here.
        self.directory.sync_dir(self.directory.path())?;
        let mut catalog = Catalog::default();
        let options = self.options.default_keyspace.clone().unwrap_or_default();
        self.options.check_keyspace(KeyspaceId::DEFAULT_NAME, &options)?;
        let order = self.comparators.find(&options.comparator, KeyspaceId::DEFAULT_NAME)?;
        let change = Change::CreateKeyspace {
            id: KeyspaceId::DEFAULT,
            name: KeyspaceId::DEFAULT_NAME.to_owned(),
            comparator: options.comparator.clone(),
            options: options.to_text(),
        };
        catalog.apply(&[change]).expect("a new catalog takes its first keyspace");
        let (id, name) = (KeyspaceId::DEFAULT, KeyspaceId::DEFAULT_NAME.to_owned());
        let info = KeyspaceInfo { id, name, options, fate: Arc::default() };
        let tree = Tree::new(order, self.options.memtable_bytes);
        let waste = self.link.new_waste(KeyspaceId::DEFAULT, self.options.memtable_bytes);
        let mut state = State::default();
        state.add_keyspace(KeyspaceTree::new(Arc::new(info), waste, tree));
        Ok(self.recovered(catalog, state))
    }

    fn recovered(&self, catalog: Catalog, state: State) -> Recovered {
        let len_bytes_max = limits::carried_log_len_max(self.options.memtable_bytes);
        Recovered {
            last_seq: catalog.flushed_seq,
            time_high_water: catalog.time_high_water,
            catalog,
            state,
            needed: vec![FileName::Lock, FileName::Current],
            named: Named::default(),
            pointer: None,
            generations: VecDeque::new(),
            last_segment: None,
            carried: Carried { records: Vec::new(), len_bytes: 0, len_bytes_max },
            unproven: Vec::new(),
            torn_tails_count: 0,
        }
    }

    /// Reads back what is there, modifying nothing.
    fn recover(&self, pointer: Pointer) -> Result<Recovered> {
        let directory = self.directory.as_ref();
        let mut named = Named::default();
        let mut see = |change: &Change| named.see(change);
        let mut catalog = manifest::read_each(directory, directory.path(), pointer, &mut see)?;
        let manifest_path = FileName::Manifest(pointer.manifest).path(directory.path());
        if !catalog.keyspaces.contains_key(&KeyspaceId::DEFAULT) {
            return Err(Error::corruption(&manifest_path, 0, "the manifest names no default keyspace"));
        }
        self.apply_options(&mut catalog)?;
        let mut state = State::default();
        let share = self.options.memtable_bytes / catalog.keyspaces.len();
        for (&id, keyspace) in &catalog.keyspaces {
            let order = self.comparators.find(&keyspace.comparator, &keyspace.name)?;
            let options =
                KeyspaceOptions::from_text(&keyspace.comparator, &keyspace.options).map_err(|reason| {
                    let message = format!("keyspace {:?}: {reason}", keyspace.name);
                    Error::new(ErrorKind::Incompatible, message).with_file(&manifest_path)
                })?;
            self.options.check_keyspace(&keyspace.name, &options)?;
            let mut tables: Vec<(usize, LiveTable)> = Vec::new();
            for (level, metas) in keyspace.levels.iter().enumerate() {
                for meta in metas.values() {
                    let table = self.open_table((id, &keyspace.name), meta, &order)?;
                    tables.push((level, Arc::new(Live::new(Arc::clone(meta), table, None))));
                }
            }
            let version = Version::from_tables(tables, &order);
            version.check(&order).map_err(|reason| Error::corruption(&manifest_path, 0, reason))?;
            let info = KeyspaceInfo { id, name: keyspace.name.clone(), options, fate: Arc::default() };
            let tree = Tree { tables: Arc::new(version), ..Tree::new(order, share) };
            let waste = self.link.new_waste(id, self.options.memtable_bytes);
            state.add_keyspace(KeyspaceTree::new(Arc::new(info), waste, tree));
        }
        let (in_force, pointer) = (pointer.manifest, Some(pointer));
        let mut recovered = Recovered { named, pointer, ..self.recovered(catalog, state) };
        recovered.needed.push(FileName::Manifest(in_force));
        self.replay_segments(&mut recovered)?;
        Ok(recovered)
    }

    /// Opens a table; one that is damaged or missing gets a stand-in in a degraded opening, which fails where it is asked.
    fn open_table(
        &self,
        (keyspace, name): (KeyspaceId, &str),
        meta: &Arc<TableMeta>,
        order: &KeyOrder,
    ) -> Result<Arc<Table>> {
        let disk = Arc::clone(&self.directory) as Arc<dyn Vfs>;
        let error = match open_table(&disk, self.directory.path(), (keyspace, meta), order, &self.cache) {
            Err(error) if error.kind() == ErrorKind::Corruption || is_denied(&error) => error,
            opened => return opened,
        };
        if !self.is_degraded {
            let remark = format!("keyspace {name:?} needs it, and a degraded opening goes without");
            return Err(error.with_remark(&remark));
        }
        let path = FileName::Table(meta.number).path(self.directory.path());
        Ok(Arc::new(Table::unavailable(path, meta.number, meta.len_bytes, order.clone(), error)))
    }

    /// Applies the options given for the default keyspace to the stored ones, or refuses them.
    fn apply_options(&self, catalog: &mut Catalog) -> Result<()> {
        let Some(given) = &self.options.default_keyspace else { return Ok(()) };
        let Some(stored) = catalog.keyspaces.get_mut(&KeyspaceId::DEFAULT) else { return Ok(()) };
        if stored.comparator != given.comparator {
            let message = format!(
                "the default keyspace is ordered by comparator {:?}, and Options::default_keyspace asks for {:?}",
                stored.comparator, given.comparator
            );
            return Err(Error::new(ErrorKind::Incompatible, message));
        }
        // An unknown option stays a reason to refuse, so the stored text is read before it is replaced.
        KeyspaceOptions::from_text(&stored.comparator, &stored.options).map_err(|reason| {
            Error::new(ErrorKind::Incompatible, format!("the default keyspace: {reason}"))
        })?;
        stored.options = given.to_text();
        Ok(())
    }

    /// Replays every segment that may hold commits not in tables.
    fn replay_segments(&self, recovered: &mut Recovered) -> Result<()> {
        let (wal_first, wal_last) = (recovered.catalog.wal_first, recovered.catalog.wal_last);
        if wal_last.0 == 0 {
            return Ok(());
        }
        let path_of = |number| FileName::Wal(number).path(self.directory.path());
        // From the last segment back to the first one needed: only headers know who came before.
        let mut chain = vec![(wal_last, recovered.catalog.closed_len)];
        loop {
            let &(number, _) = chain.last().expect("begins with one");
            let path = path_of(number);
            let found = read_predecessor(self.directory.as_ref(), &path, number);
            let predecessor = found.map_err(|error| error.if_missing("a WAL segment that is needed"))?;
            if number == wal_first {
                break;
            }
            match predecessor {
                Some(before) if before.number >= wal_first && before.number < number => {
                    chain.push((before.number, Some(before.good_len)));
                }
                _ => {
                    let message =
                        format!("the WAL segment does not lead back to segment {wal_first}, which is needed");
                    return Err(Error::corruption(&path, 0, message));
                }
            }
        }
        recovered.needed.extend(chain.iter().map(|(number, _)| FileName::Wal(*number)));
        for (number, declared_len) in chain.into_iter().rev() {
            self.replay_segment(recovered, number, declared_len)?;
        }
        let unproven_last = recovered.unproven.last().map(|record| record.header.last_seq());
        let last_seq = unproven_last.unwrap_or(recovered.last_seq);
        if recovered.carried.is_small() {
            // They are committed again; the sealed memtables made of them would be flushed for nothing.
            recovered.generations.clear();
            recovered.last_seq = recovered.catalog.flushed_seq;
            for id in recovered.catalog.keyspaces.keys() {
                recovered.state.tree_mut(*id).sealed.clear();
            }
        }
        let cleared_seq = recovered.catalog.last_cleared_seq();
        if last_seq < cleared_seq {
            // Its number would be given out again, and what got it be passed over.
            let message = format!(
                "the log ends with number {last_seq}, but a keyspace was emptied at {cleared_seq}: records are missing"
            );
            return Err(Error::corruption(&path_of(wal_last), 0, message));
        }
        Ok(())
    }

    fn replay_segment(
        &self,
        recovered: &mut Recovered,
        number: FileNumber,
        declared_len: Option<u64>,
    ) -> Result<()> {
        let path = FileName::Wal(number).path(self.directory.path());
        let Recovered { catalog, state, last_seq, time_high_water, carried, .. } = recovered;
        let share = self.options.memtable_bytes / state.keyspaces_count().max(1);
        let memtables: BTreeMap<KeyspaceId, Arc<Memtable>> = state
            .keyspaces()
            .map(|keyspace| (keyspace.info.id, Arc::new(Memtable::new(&keyspace.tree.order, share))))
            .collect();
        let mut arena = Arena::new(self.options.memtable_bytes);
        let is_known = |id: KeyspaceId| id < catalog.next_keyspace;
        let memtable_of = |id, seq| -> Option<&Memtable> {
            memtables.get(&id).map(|memtable| &**memtable).filter(|_| catalog.is_wanted(id, seq))
        };
        let seq_before = *last_seq;
        let mut admit = |record: &Record| -> Result<()> {
            check_record(record, &path, is_known)?;
            check_follows(record, &path, *last_seq)?;
            *last_seq = record.header.last_seq();
            *time_high_water = (*time_high_water).max(record.header.committed_at);
            Ok(())
        };
        let replayed = replay(self.directory.as_ref(), &path, number, declared_len, &mut |record| {
            admit(&record)?;
            apply(&record.frame, &mut arena, &memtable_of);
            carried.add(record);
            Ok(())
        })?;
        let durable_seq = *last_seq;
        let mut last_seq = durable_seq;
        for record in &replayed.unproven {
            // Numbers behind the durable end are checked here and committed again in the fresh segment.
            check_follows(record, &path, last_seq)?;
            check_record(record, &path, is_known)?;
            last_seq = record.header.last_seq();
        }
        recovered.torn_tails_count += u64::from(replayed.is_torn);
        let durable_len = replayed.durable_len;
        // What adds nothing need not stay: each of many openings that are cut short begins a segment.
        if durable_seq > seq_before {
            recovered.last_segment =
                Some(Predecessor { number, good_len: durable_len, last_seq: durable_seq });
        }
        recovered.unproven = replayed.unproven;
        let mut filled = Vec::new();
        for (id, memtable) in memtables {
            if !memtable.is_empty() {
                recovered.state.tree_mut(id).sealed.insert(0, Arc::clone(&memtable));
                filled.push((id, memtable));
            }
        }
        // One whose records were all passed over has numbers too: a flush says that they are done with.
        if durable_seq > seq_before {
            let generation = Generation { last_seq: durable_seq, memtables: filled };
            recovered.generations.push_back((number, Arc::new(generation)));
        }
        Ok(())
    }

    /// Makes a running database of what was recovered.
    fn start(
        self,
        recovered: Recovered,
        names: BTreeSet<FileName>,
        host: Host,
        is_read_only: bool,
    ) -> Result<Arc<Core>> {
        let Recovered { catalog, state, needed, generations, last_segment, carried, unproven, .. } =
            recovered;
        let (named, pointer) = (recovered.named, recovered.pointer);
        let lock_len = self.directory.len_of(FileName::Lock);
        let is_carried = carried.is_small();
        // What is carried stands in the fresh segment as if it were its first content: nothing before it is needed.
        let predecessor = last_segment.filter(|_| !is_carried);
        let records: Vec<Record> = carried.records.into_iter().chain(unproven).collect();
        let mut leader = Leader {
            wal: None,
            arena: Arena::new(self.options.memtable_bytes),
            last_seq: recovered.last_seq,
            sealed_seq: recovered.last_seq,
            unestablished: None,
        };
        let mut time_high_water = recovered.time_high_water;
        for record in &records {
            assert!(record.header.first_seq == leader.last_seq.plus(1), "checked when it was read");
            let active = |id, seq| -> Option<&Memtable> {
                state.find(id).map(|keyspace| &*keyspace.tree.active).filter(|_| catalog.is_wanted(id, seq))
            };
            apply(&record.frame, &mut leader.arena, &active);
            leader.last_seq = record.header.last_seq();
            time_high_water = time_high_water.max(record.header.committed_at);
        }
        let next_file = first_free_number(&names, catalog.next_file)?;
        let has_reserve = names.contains(&FileName::Reserve);
        let is_new = !names.contains(&FileName::Current);
        let mut book = Book { sealed: generations, ..Book::default() };
        for keyspace in state.keyspaces() {
            book.board.nominate(keyspace.info.id);
        }
        for (keyspace, live) in state.tables() {
            if let Some(error) = live.table.failure() {
                let place = (keyspace.info.id, live.meta.number);
                book.note_damage(place, error, self.directory.now());
            }
        }
        for name in needed.iter().copied().filter(|name| names.contains(name)) {
            book.files.add_found(name, self.directory.len_of(name));
        }
        if is_read_only {
            self.note_rest(&mut book, &names, &catalog);
        } else {
            let wal_first = book.sealed.front().map(|(number, _)| *number);
            let (dead, superseded) = pointer.map_or_else(Default::default, |pointer| {
                named.leftovers((&names, &needed), pointer, &catalog)
            });
            let establishment = Establishment {
                catalog,
                predecessor,
                wal_first,
                records,
                names,
                pointer,
                dead,
                superseded,
                time_high_water,
            };
            leader.unestablished = Some(Box::new(establishment));
        }
        let view = View::new(state, leader.last_seq, time_high_water);
        let Opening { directory, options, comparators, cache, link, .. } = self;
        let core = Core::new(Parts {
            directory,
            options,
            comparators,
            cache,
            host,
            view,
            leader,
            book,
            next_file,
            lock_len,
            link,
        });
        core.counters.torn_tails_cut.add(recovered.torn_tails_count);
        if is_read_only {
            core.ends.open(Step::OpenReadOnly);
            return Ok(core);
        }
        core.adopt_reserve(has_reserve)?;
        let established = core.establish(&mut core.writing.leader.lock());
        match &established {
            Ok(()) => {}
            // All that is there can be read, and writing is taken up by resuming once there is space.
            Err(error) if is_mendable(error) && !is_new => drop(core.fail(error)),
            Err(error) => return Err(error.clone()),
        }
        core.ends.open(Step::Open);
        if established.is_ok() {
            core.tidy_up();
            core.make_used_reserve();
        }
        Ok(core)
    }
}

impl Opening {
    /// Notes what a database that is only read has beside what it needs: its reserve, and what the next writer removes.
    fn note_rest(&self, book: &mut Book, names: &BTreeSet<FileName>, catalog: &Catalog) {
        let tables: BTreeSet<FileName> =
            catalog.tables().map(|(_, _, meta)| FileName::Table(meta.number)).collect();
        let known: BTreeSet<FileName> = book.files.found().map(|(name, _)| name).chain(tables).collect();
        for name in names.difference(&known) {
            let len = self.directory.len_of(*name);
            match name {
                FileName::Reserve => book.files.add_found(*name, len),
                _ => book.files.discard(*name, len),
            }
        }
    }
}

/// Tells whether the system refuses a file for good: opening the database again would meet the same.
fn is_denied(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::PermissionDenied)
}

fn check_follows(record: &Record, path: &Path, last_seq: SeqNum) -> Result<()> {
    if record.header.first_seq == last_seq.plus(1) {
        return Ok(());
    }
    let message = format!("number {} follows {last_seq}: records are missing", record.header.first_seq);
    Err(Error::corruption(path, record.offset, message))
}
