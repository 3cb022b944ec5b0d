//! Opening a database: making a new one, or recovering what a stop left behind, however it came about.
//!
//! Recovery in order; it modifies no file that it reads, so a crash anywhere inside it recovers again:
//!
//! 1. lock the directory; read `CURRENT` and the manifest it names; open every table;
//! 2. follow the chain of WAL segments back from the last one the manifest names, and replay them oldest first,
//!    each up to the length its successor states, the last one up to its torn tail;
//! 3. start a fresh segment. Records that were readable but not provably durable are written again into it, and
//!    it is synced: what readers will see is durable before they can see it, even if an earlier sync failed and
//!    the system only pretends to still have the bytes;
//! 4. write a fresh manifest and switch `CURRENT` to it; only now may anything be removed.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::{FileNumber, KeyspaceId};
use crate::base::seq::SeqNum;
use crate::base::time::UnixMillis;
use crate::compaction::output::open_table;
use crate::db::directory::FinalDirSync;
use crate::db::options::{Background, Comparators, KeyspaceOptions, Options};
use crate::db::state::{
    Book, Core, Counters, Generation, KeyspaceInfo, KeyspaceTree, Leader, LiveTable, State,
};
use crate::format::names::FileName;
use crate::memtable::Memtable;
use crate::memtable::arena::Arena;
use crate::read::tree::Tree;
use crate::sync::Mutex;
use crate::table::shared::Cache;
use crate::version::catalog::Catalog;
use crate::version::edit::Change;
use crate::version::levels::{Live, Version};
use crate::version::manifest::{self, ManifestWriter};
use crate::version::pointer;
use crate::vfs::{LockMode, Vfs};
use crate::wal::Predecessor;
use crate::wal::reader::{Record, has_records, read_predecessor, replay};
use crate::wal::writer::WalWriter;
use crate::write::commit::{apply, check_record};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// Everything a builder gathered.
pub(crate) struct OpenRequest {
    pub directory: PathBuf,
    pub vfs: Arc<FinalDirSync>,
    pub options: Options,
    pub comparators: Comparators,
    pub background: Background,
    pub create_if_missing: bool,
    pub is_read_only: bool,
}

/// What a stop left behind, read back.
struct Recovered {
    catalog: Catalog,
    state: State,
    /// Replayed segments, oldest first, with what was in them.
    generations: VecDeque<(FileNumber, Arc<Generation>)>,
    /// The end of the last segment; none in a new database.
    last_segment: Option<Predecessor>,
    unproven: Vec<Record>,
    last_seq: SeqNum,
    time_high_water: UnixMillis,
    torn_tails_count: u64,
}

/// Opens or creates a database.
///
/// # Errors
/// `NotFound`, `Locked`, `Incompatible`, `Corruption`, `NoSpace`, `Io`; what was in the directory is as it was.
pub(crate) fn open(request: OpenRequest) -> Result<Core> {
    request.options.validate()?;
    if let Background::Threads(count) = request.background
        && !(1..=64).contains(&count)
    {
        return Err(Error::invalid("Background::Threads takes 1 to 64 threads"));
    }
    let vfs = request.vfs.as_ref();
    let names = look_at_directory(&request)?;
    let is_database = names.contains(&FileName::Current);
    if !is_database && (request.is_read_only || !request.create_if_missing) {
        let message = format!("there is no database in {}", request.directory.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let mode = if request.is_read_only { LockMode::Shared } else { LockMode::Exclusive };
    let lock_path = FileName::Lock.path(&request.directory);
    let lock = match vfs.lock(&lock_path, mode) {
        // A copy of a database may lack its lock file, and a reader changes no byte, so it makes none.
        Err(error) if request.is_read_only && error.kind() == ErrorKind::NotFound => None,
        other => Some(other?),
    };
    // Somebody may have created the database between the first look and the lock.
    let names = if is_database { names } else { list(vfs, &request.directory)?.0 };
    let cache = Arc::new(Cache::new(request.options.block_cache_bytes, request.options.open_files_max));
    let recovered = match pointer::read(vfs, &request.directory)? {
        Some(pointer) => recover(&request, pointer, &cache)?,
        None => create(&request, &names)?,
    };
    let core = start(request, recovered, &names, cache)?;
    *core.directory_lock.lock() = lock;
    Ok(core)
}

/// Lists our files; refuses a directory that holds something else and no database.
fn look_at_directory(request: &OpenRequest) -> Result<BTreeSet<FileName>> {
    let vfs = request.vfs.as_ref();
    if request.create_if_missing && !request.is_read_only {
        vfs.create_dir_all(&request.directory)?;
    }
    let (names, foreign) = list(vfs, &request.directory)?;
    if !names.contains(&FileName::Current)
        && let Some(foreign) = foreign
    {
        let message = format!("the directory holds {foreign:?} and no CURRENT: it is not a TinyLSM database");
        return Err(Error::new(ErrorKind::Incompatible, message).with_file(&request.directory));
    }
    Ok(names)
}

/// Returns our files, and one that is not ours, if any.
fn list(vfs: &dyn Vfs, directory: &Path) -> Result<(BTreeSet<FileName>, Option<String>)> {
    let mut names = BTreeSet::new();
    let mut foreign = None;
    for entry in vfs.read_dir(directory)? {
        match FileName::parse(&entry.name).filter(|_| !entry.is_dir) {
            Some(name) => {
                names.insert(name);
            }
            None => foreign = foreign.or(Some(entry.name)),
        }
    }
    Ok((names, foreign))
}

/// Prepares a new database. What a crash in an earlier attempt can have left behind is no obstacle.
fn create(request: &OpenRequest, names: &BTreeSet<FileName>) -> Result<Recovered> {
    // `CURRENT` is durable before any table has a name or any segment a record, so these prove that it was lost.
    for evidence in names {
        let path = evidence.path(&request.directory);
        let is_proof = match evidence {
            FileName::Table(_) => true,
            FileName::Wal(number) => has_records(request.vfs.as_ref(), &path, *number)?,
            _ => false,
        };
        if !is_proof {
            continue;
        }
        let message = format!("CURRENT is missing, but {evidence} is there: the database is damaged");
        return Err(Error::corruption(&FileName::Current.path(&request.directory), 0, message));
    }
    let mut catalog = Catalog::default();
    let options = &request.options.default_keyspace;
    let order = request.comparators.find(&options.comparator, "default")?;
    let change = Change::CreateKeyspace {
        id: KeyspaceId::DEFAULT,
        name: "default".to_owned(),
        comparator: options.comparator.clone(),
        options: options.to_text(),
    };
    catalog.apply(&[change]).expect("a new catalog takes its first keyspace");
    let info = KeyspaceInfo { id: KeyspaceId::DEFAULT, name: "default".to_owned(), options: options.clone() };
    let state = State {
        keyspaces: vec![KeyspaceTree {
            info: Arc::new(info),
            waste: Arc::default(),
            tree: Tree::new(order, request.options.memtable_bytes),
        }],
    };
    Ok(Recovered {
        catalog,
        state,
        generations: VecDeque::new(),
        last_segment: None,
        unproven: Vec::new(),
        last_seq: SeqNum::ZERO,
        time_high_water: UnixMillis::MIN,
        torn_tails_count: 0,
    })
}

/// Reads back what is there, modifying nothing.
fn recover(request: &OpenRequest, pointer: pointer::Pointer, cache: &Arc<Cache>) -> Result<Recovered> {
    let catalog = manifest::read(request.vfs.as_ref(), &request.directory, pointer)?;
    let manifest_path = FileName::Manifest(pointer.manifest).path(&request.directory);
    let vfs: Arc<dyn Vfs> = request.vfs.clone();
    let mut state = State::default();
    for (&id, keyspace) in &catalog.keyspaces {
        let order = request.comparators.find(&keyspace.comparator, &keyspace.name)?;
        let options =
            KeyspaceOptions::from_text(&keyspace.comparator, &keyspace.options).map_err(|reason| {
                let message = format!("keyspace {:?}: {reason}", keyspace.name);
                Error::new(ErrorKind::Incompatible, message).with_file(&manifest_path)
            })?;
        let mut tables: Vec<(usize, LiveTable)> = Vec::new();
        for (level, metas) in keyspace.levels.iter().enumerate() {
            for meta in metas.values() {
                let table = open_table(&vfs, &request.directory, meta, &order, cache)?;
                tables.push((level, Arc::new(Live { meta: Arc::clone(meta), table })));
            }
        }
        let version = Version::from_tables(tables, &order);
        version.check(&order).map_err(|reason| Error::corruption(&manifest_path, 0, reason))?;
        let info = KeyspaceInfo { id, name: keyspace.name.clone(), options };
        let tree = Tree {
            tables: Arc::new(version),
            ..Tree::new(order, request.options.memtable_bytes / catalog.keyspaces.len())
        };
        state.keyspaces.push(KeyspaceTree { info: Arc::new(info), waste: Arc::default(), tree });
    }
    if state.keyspaces.is_empty() {
        return Err(Error::corruption(&manifest_path, 0, "the manifest names no keyspace"));
    }
    let mut recovered = Recovered {
        last_seq: catalog.flushed_seq,
        time_high_water: catalog.time_high_water,
        catalog,
        state,
        generations: VecDeque::new(),
        last_segment: None,
        unproven: Vec::new(),
        torn_tails_count: 0,
    };
    replay_segments(request, &mut recovered)?;
    Ok(recovered)
}

/// Replays every segment that may hold commits not in tables.
fn replay_segments(request: &OpenRequest, recovered: &mut Recovered) -> Result<()> {
    let (wal_first, wal_last) = (recovered.catalog.wal_first, recovered.catalog.wal_last);
    if wal_last.0 == 0 {
        return Ok(());
    }
    let vfs = request.vfs.as_ref();
    let path_of = |number| FileName::Wal(number).path(&request.directory);
    // From the last segment back to the first one needed: only headers know who came before.
    let mut chain = vec![(wal_last, recovered.catalog.closed_len)];
    loop {
        let &(number, _) = chain.last().expect("begins with one");
        let path = path_of(number);
        let predecessor = read_predecessor(vfs, &path, number).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                error.wrap(ErrorKind::Corruption, "a WAL segment that is needed is missing")
            }
            _ => error,
        })?;
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
    for (number, declared_len) in chain.into_iter().rev() {
        replay_segment(request, recovered, number, declared_len)?;
    }
    Ok(())
}

fn replay_segment(
    request: &OpenRequest,
    recovered: &mut Recovered,
    number: FileNumber,
    declared_len: Option<u64>,
) -> Result<()> {
    let path = FileName::Wal(number).path(&request.directory);
    let Recovered { state, last_seq, time_high_water, .. } = recovered;
    let share = request.options.memtable_bytes / state.keyspaces.len().max(1);
    let memtables: Vec<Arc<Memtable>> =
        state.keyspaces.iter().map(|keyspace| Arc::new(Memtable::new(&keyspace.tree.order, share))).collect();
    let mut arena = Arena::new(request.options.memtable_bytes);
    let mut admit = |record: &Record| -> Result<()> {
        let is_known = |id: KeyspaceId| (id.0 as usize) < memtables.len();
        check_record(&record.frame, is_known)
            .map_err(|(at, message)| Error::corruption(&path, record.offset + at as u64, message))?;
        if record.header.first_seq != last_seq.plus(1) {
            let message =
                format!("number {} follows {last_seq}: records are missing", record.header.first_seq);
            return Err(Error::corruption(&path, record.offset, message));
        }
        *last_seq = record.header.last_seq();
        *time_high_water = (*time_high_water).max(record.header.committed_at);
        Ok(())
    };
    let replayed = replay(request.vfs.as_ref(), &path, number, declared_len, &mut |record| {
        admit(&record)?;
        apply(&record.frame, &mut arena, &|id: KeyspaceId| -> &Memtable { &memtables[id.0 as usize] });
        Ok(())
    })?;
    let durable_seq = *last_seq;
    let mut last_seq = durable_seq;
    for record in &replayed.unproven {
        // Numbers behind the durable end are checked here and committed again in the fresh segment.
        if record.header.first_seq != last_seq.plus(1) {
            let message =
                format!("number {} follows {last_seq}: records are missing", record.header.first_seq);
            return Err(Error::corruption(&path, record.offset, message));
        }
        check_record(&record.frame, |id| (id.0 as usize) < memtables.len())
            .map_err(|(at, message)| Error::corruption(&path, record.offset + at as u64, message))?;
        last_seq = record.header.last_seq();
    }
    recovered.torn_tails_count += u64::from(replayed.is_torn);
    let durable_len = replayed.durable_len;
    recovered.last_segment = Some(Predecessor { number, good_len: durable_len, last_seq: durable_seq });
    recovered.unproven = replayed.unproven;
    let mut filled = Vec::new();
    for (keyspace, memtable) in recovered.state.keyspaces.iter_mut().zip(memtables) {
        if !memtable.is_empty() {
            keyspace.tree.sealed.insert(0, Arc::clone(&memtable));
            filled.push((keyspace.info.id, memtable));
        }
    }
    if !filled.is_empty() {
        let generation = Generation { last_seq: durable_seq, memtables: filled };
        recovered.generations.push_back((number, Arc::new(generation)));
    }
    Ok(())
}

/// Makes a running database of what was recovered.
fn start(
    request: OpenRequest,
    mut recovered: Recovered,
    names: &BTreeSet<FileName>,
    cache: Arc<Cache>,
) -> Result<Core> {
    let taken = names.iter().filter_map(FileName::number).map(|number| number.0 + 1).max().unwrap_or(1);
    let next_file = AtomicU64::new(taken.max(recovered.catalog.next_file.0));
    let mut book = Book::default();
    let arena = Arena::new(request.options.memtable_bytes);
    let mut leader = Leader { wal: None, arena, last_seq: recovered.last_seq };
    let mut manifest = None;
    if request.is_read_only {
        recommit(&mut recovered, None, &mut leader)?;
    } else {
        let take = || FileNumber(next_file.fetch_add(1, Ordering::Relaxed));
        let wal = open_first_segment(&request, &mut recovered, take(), &mut leader)?;
        let mut catalog = std::mem::take(&mut recovered.catalog);
        let wal_first = recovered.generations.front().map_or(wal.number(), |(number, _)| *number);
        let flushed = Change::Flushed { wal_first, seq: catalog.flushed_seq };
        let (number, temporary) = (take(), take());
        let edit = [
            flushed,
            Change::WalOpened(wal.number()),
            Change::NextFile(FileNumber(next_file.load(Ordering::Relaxed))),
            Change::TimeHighWater(recovered.time_high_water),
        ];
        catalog
            .apply(&edit)
            .map_err(|reason| Error::corruption(&FileName::Current.path(&request.directory), 0, reason))?;
        let mut live: BTreeSet<FileName> =
            catalog.tables().map(|(_, _, meta)| FileName::Table(meta.number)).collect();
        manifest = Some(ManifestWriter::create(
            request.vfs.as_ref(),
            &request.directory,
            number,
            temporary,
            catalog,
        )?);
        book.active_wal = Some(Arc::clone(wal.segment()));
        book.wals = names
            .iter()
            .filter_map(|name| if let FileName::Wal(number) = name { Some(*number) } else { None })
            .filter(|number| {
                *number >= wal_first && recovered.last_segment.is_some_and(|last| *number <= last.number)
            })
            .chain([wal.number()])
            .collect();
        live.extend(book.wals.iter().map(|number| FileName::Wal(*number)));
        live.extend([FileName::Lock, FileName::Current, FileName::Manifest(number)]);
        book.removable = names.difference(&live).copied().collect();
        leader.wal = Some(wal);
    }
    book.sealed = recovered.generations;
    let sealed_count = AtomicUsize::new(book.sealed.len());
    let (is_manual, threads_count) = match request.background {
        Background::Threads(count) => (false, count),
        Background::Manual => (true, 1),
    };
    let counters = Counters::default();
    Counters::add(&counters.torn_tails_cut, recovered.torn_tails_count);
    Ok(Core {
        vfs: request.vfs,
        directory: request.directory,
        options: request.options,
        comparators: request.comparators,
        cache,
        is_read_only: request.is_read_only,
        is_manual,
        threads_count,
        state: ArcSwap::from_pointee(recovered.state),
        visible: AtomicU64::new(leader.last_seq.get()),
        time_high_water: AtomicI64::new(recovered.time_high_water.0),
        snapshots: crate::mvcc::snapshots::Snapshots::default(),
        next_file,
        queue: crate::write::queue::Queue::default(),
        leader: Mutex::new(leader),
        manifest: Mutex::new(manifest),
        book: Mutex::new(book),
        changed: crate::sync::Condvar::new(),
        sealed_count,
        is_write_back_due: std::sync::atomic::AtomicBool::new(false),
        is_poisoned: std::sync::atomic::AtomicBool::new(false),
        is_closing: std::sync::atomic::AtomicBool::new(false),
        directory_lock: Mutex::new(None),
        counters,
    })
}

/// Starts the segment that takes commits from now on, durable with everything not yet proven durable.
fn open_first_segment(
    request: &OpenRequest,
    recovered: &mut Recovered,
    number: FileNumber,
    leader: &mut Leader,
) -> Result<WalWriter> {
    let step = request.options.wal_preallocate_bytes;
    let predecessor = recovered.last_segment;
    let mut wal = WalWriter::create(request.vfs.as_ref(), &request.directory, number, predecessor, step)?;
    recommit(recovered, Some(&mut wal), leader)?;
    wal.sync()?;
    Ok(wal)
}

/// Commits the unproven records again, under the numbers they had, into the active memtables and, in a writable
/// database, the fresh segment those belong to.
fn recommit(recovered: &mut Recovered, mut wal: Option<&mut WalWriter>, leader: &mut Leader) -> Result<()> {
    let unproven = std::mem::take(&mut recovered.unproven);
    let actives: BTreeMap<KeyspaceId, Arc<Memtable>> = recovered
        .state
        .keyspaces
        .iter()
        .map(|keyspace| (keyspace.info.id, Arc::clone(&keyspace.tree.active)))
        .collect();
    for mut record in unproven {
        let (first, last) = (record.header.first_seq, record.header.last_seq());
        assert!(first == leader.last_seq.plus(1), "unproven records were checked when they were read");
        if let Some(wal) = &mut wal {
            wal.reserve(record.frame.len() as u64)?;
            wal.add(&mut record.frame, first, last)?;
        }
        apply(&record.frame, &mut leader.arena, &|id: KeyspaceId| -> &Memtable { &actives[&id] });
        leader.last_seq = last;
        recovered.time_high_water = recovered.time_high_water.max(record.header.committed_at);
    }
    Ok(())
}
