//! Damage to a copy of a database: what is read is right, or an error that names the damaged file, and what is not
//! damaged goes on.
//!
//! A copy is taken where a database was closed and where it was not. One file of it is damaged, anywhere or where its
//! kind is most sensitive. What an undamaged copy shows is what is right. The damaged one is read, verified, opened to
//! be written, in parts where a table is lost, written beyond every threshold in the keyspaces that are not damaged,
//! closed and opened once more.

use crate::disk::{Damage, SeenFile, SimDisk};
use crate::tape::Label;
use crate::workload::client::DIRECTORY;
use crate::workload::isolation::Isolation;
use crate::workload::judge::{Context, Violation, violation};
use crate::workload::model::Contents;
use crate::workload::on_disk::{self, OnDisk};
use crate::workload::orders::Order;
use crate::workload::recovery::Reading;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tinylsm::format::names::FileName;
use tinylsm::{Background, Db, Error, ErrorKind, Slice};

/// Copies that are damaged and read, each in another way.
const DAMAGES_COUNT: usize = 3;

/// How the copy came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workload) enum Source {
    /// The database was closed in good order.
    Closed,
    /// Nobody closed it.
    Unclosed,
}

/// A damaged copy and what it must show.
pub(in crate::workload) struct Damaged<'a> {
    pub(in crate::workload) context: &'a Context,
    pub(in crate::workload) copy: SimDisk,
    source: Source,
    /// The damaged file.
    pub(in crate::workload) path: PathBuf,
    name: FileName,
    /// The keyspace whose table it is, and whether bytes of that were changed rather than added.
    pub(in crate::workload) keyspace: Option<u32>,
    what: String,
    is_addition: bool,
    is_flip: bool,
    /// Whether a frame behind what was damaged proves that it was durable.
    is_proven: bool,
    /// What an undamaged copy shows.
    pub(in crate::workload) right: Contents,
}

/// Damages a copy of a disk that nobody uses, and judges what becomes of it.
///
/// # Errors
/// The broken invariant.
pub(in crate::workload) fn judge_damaged(
    context: &Context,
    disk: &SimDisk,
    source: Source,
) -> Result<(), Violation> {
    let mut last = None;
    for _ in 0..DAMAGES_COUNT {
        let Some(damaged) = Damaged::make(context, disk, source)? else { continue };
        context.reach(match source {
            Source::Closed => "damaged a closed copy",
            Source::Unclosed => "damaged a copy that nobody had closed",
        });
        damaged.read_only()?;
        last = Some(damaged);
    }
    match last {
        Some(damaged) if context.tape.chance(Label::Check, 1, 3) && damaged.leaves_others_whole() => {
            Isolation::new(&damaged).judge()
        }
        _ => Ok(()),
    }
}

impl<'a> Damaged<'a> {
    fn make(context: &'a Context, disk: &SimDisk, source: Source) -> Result<Option<Damaged<'a>>, Violation> {
        let tape = &context.tape;
        let files = disk.files_in(Path::new(DIRECTORY));
        let ours: Vec<(FileName, u64, u64)> = files
            .iter()
            .filter_map(|file| Some((FileName::parse(&file.name)?, file.len, file.bytes.len() as u64)))
            .filter(|(name, len, _)| *len > 0 && *name != FileName::Lock)
            .collect();
        let is_kind = |name: &FileName, kind: usize| match name {
            FileName::Table(_) => kind == 0,
            FileName::Wal(_) => kind == 1,
            FileName::Manifest(_) => kind == 2,
            _ => kind == 3,
        };
        // What nobody closed has its end in log and manifest, where damage may pass for a write that was not finished.
        let kind =
            tape.weighted(Label::Check, if source == Source::Closed { &[6, 4, 3, 1] } else { &[3, 4, 6, 1] });
        let candidates: Vec<_> = ours.iter().filter(|(name, _, _)| is_kind(name, kind)).collect();
        if candidates.is_empty() {
            return Ok(None);
        }
        let &&(name, len, written_len) = tape.pick(Label::Check, &candidates);
        let begin = if matches!(name, FileName::Manifest(_)) { stated_len(&files) } else { 0 };
        let damage = draw_damage(context, &ours, (name, len, written_len), begin);
        let undamaged = context.copy_builder(&disk.copy(), Background::Manual).open_read_only();
        let undamaged = undamaged.map_err(|error| {
            violation("recovery", format!("an undamaged copy does not open read-only: {error:?}"))
        })?;
        let owed = context.judge.lock().owed();
        let copy = disk.copy();
        let (_, right) = Reading { disk: &copy, failures_before: 0 }.read_all(&undamaged, &owed)?;
        drop(undamaged);
        let path = name.path(Path::new(DIRECTORY));
        let is_changed = copy.damage(&path, &damage).map_err(|error| {
            violation("simulator", format!("{damage} of {name} cannot be done: {error:?}"))
        })?;
        if !is_changed {
            return Ok(None);
        }
        let is_proven = is_proven(&files, &copy.files_in(Path::new(DIRECTORY)), name);
        let keyspace = OnDisk::read(files).ok().flatten().and_then(|on_disk| {
            let holds = |id: &u32| on_disk.tables(*id).any(|(_, meta)| FileName::Table(meta.number) == name);
            on_disk.catalog.keyspaces.keys().map(|id| id.0).find(holds)
        });
        context.reach(damage.name());
        Ok(Some(Damaged {
            context,
            copy,
            source,
            path,
            name,
            keyspace,
            what: format!("{damage} of {name}"),
            is_addition: matches!(damage, Damage::Lengthened { .. }),
            is_flip: matches!(damage, Damage::Flip { .. }),
            is_proven,
            right,
        }))
    }

    pub(in crate::workload) fn broken(&self, oracle: &'static str, what: &str) -> Violation {
        violation(oracle, format!("{} ({:?}): {what}", self.what, self.source))
    }

    /// Tells whether an error says what is damaged.
    pub(in crate::workload) fn is_named(&self, error: &Error) -> bool {
        let kinds = [ErrorKind::Corruption, ErrorKind::Incompatible];
        kinds.contains(&error.kind()) && error.file() == Some(self.path.as_path())
    }

    /// Tells whether an error about another file may come of the damage: what should lead there is gone.
    fn leads_nowhere(&self, error: &Error) -> bool {
        let names_ours = error.file().is_some_and(|file| file.parent() == Some(Path::new(DIRECTORY)));
        let is_lead = matches!(self.name, FileName::Current | FileName::Manifest(_) | FileName::Wal(_));
        error.kind() == ErrorKind::Corruption && is_lead && names_ours
    }

    pub(in crate::workload) fn may_refuse(&self, error: &Error) -> bool {
        self.is_named(error) || self.leads_nowhere(error)
    }

    /// Tells whether less than what was right may be recovered: nothing proves the end of a log that nobody closed, and
    /// a former `CURRENT` names a manifest that was in force and may still be there.
    pub(in crate::workload) fn may_be_cut(&self) -> bool {
        let is_lead = matches!(self.name, FileName::Wal(_) | FileName::Manifest(_) | FileName::Current);
        // What a manifest said last is stated by an edit of nothing behind it, which alone a changed bit may take away.
        let is_stated = self.is_flip && matches!(self.name, FileName::Manifest(_));
        self.source == Source::Unclosed && is_lead && !self.is_proven && !is_stated
    }

    /// Tells whether keyspaces that are not damaged must be whole: a manifest cut short may name tables of before.
    fn leaves_others_whole(&self) -> bool {
        self.source == Source::Closed || !matches!(self.name, FileName::Manifest(_) | FileName::Current)
    }

    fn read_only(&self) -> Result<(), Violation> {
        let opened = self.context.copy_builder(&self.copy.copy(), Background::Manual).open_read_only();
        let db = match opened {
            Ok(db) => db,
            Err(error) if self.may_refuse(&error) => return Ok(()),
            Err(error) => return Err(self.broken("no silent damage", &format!("open gives {error:?}"))),
        };
        self.judge_content(&db)?;
        self.judge_verify(&db)
    }

    /// Judges everything that can be read: it is right, or an error that names the file.
    pub(in crate::workload) fn judge_content(&self, db: &Db) -> Result<(), Violation> {
        if self.may_be_cut() {
            return self.judge_prefix(db);
        }
        for (id, pairs) in &self.right {
            let Some(name) = self.context.judge.lock().keyspaces.get(id).map(|known| known.name.clone())
            else {
                continue;
            };
            let keyspace = db.keyspace(&name).map_err(|error| {
                self.broken("no silent damage", &format!("keyspace {name:?} gives {error:?}"))
            })?;
            let scanned: Result<BTreeMap<Slice, Slice>, _> = keyspace.iter().and_then(Iterator::collect);
            let right: BTreeMap<&[u8], &[u8]> = pairs.iter().map(|(key, value)| (&**key, &**value)).collect();
            match scanned {
                Ok(content) if content.iter().map(|(k, v)| (&**k, &**v)).eq(right) => {}
                Ok(_) => {
                    return Err(self.broken("no silent damage", "a scan gives something else and no error"));
                }
                Err(error) if self.is_named(&error) => {}
                Err(error) => {
                    return Err(self.broken("no silent damage", &format!("a scan gives {error:?}")));
                }
            }
            for (key, value) in pairs {
                match keyspace.get(key) {
                    Ok(Some(found)) if *found == **value => {}
                    Err(error) if self.is_named(&error) => {}
                    other => {
                        let what = format!("get of {} gives {other:?}", key.escape_ascii());
                        return Err(self.broken("no silent damage", &what));
                    }
                }
            }
        }
        Ok(())
    }

    /// Judges a database that may have been recovered to less: it is what it was at some commit.
    fn judge_prefix(&self, db: &Db) -> Result<(), Violation> {
        for name in db.keyspaces() {
            let scanned =
                db.keyspace(&name).and_then(|keyspace| keyspace.iter()?.try_for_each(|pair| pair.map(drop)));
            // What is named may be gone since: that is no content, but an error.
            if scanned.is_err_and(|error| self.may_refuse(&error)) {
                return Ok(());
            }
        }
        let reading = Reading { disk: &self.copy, failures_before: 0 };
        let (seq, contents) = reading.read_all(db, &BTreeSet::new())?;
        let judge = self.context.judge.lock();
        if seq < judge.model.base() {
            return Ok(());
        }
        let checked = judge.model.check(seq, &contents);
        checked.map_err(|message| self.broken("exact prefix", &message))
    }

    /// Expects `verify` to find what is wrong with a table.
    fn judge_verify(&self, db: &Db) -> Result<(), Violation> {
        match (db.verify(), self.keyspace) {
            (Ok(_), Some(_)) if !self.is_addition => {
                Err(self.broken("verify", "it opens, and verify finds nothing"))
            }
            (Ok(_), _) => Ok(()),
            (Err(error), Some(_)) if self.is_named(&error) => {
                self.context.reach("judged: verify finds damage");
                Ok(())
            }
            (Err(error), _) => Err(self.broken("verify", &format!("it gives {error:?}"))),
        }
    }

    /// Returns the keyspaces with their orders.
    pub(in crate::workload) fn keyspaces(&self) -> Vec<(u32, String, Order)> {
        let judge = self.context.judge.lock();
        judge
            .possible()
            .map(|(id, keyspace)| (id, keyspace.name.clone(), Order::of(&keyspace.options)))
            .collect()
    }
}

/// Tells whether frames of a log behind everything that damage changed prove that it was durable.
fn is_proven(before: &[SeenFile], after: &[SeenFile], name: FileName) -> bool {
    let (FileName::Wal(number) | FileName::Manifest(number)) = name else { return false };
    let find =
        |files: &[SeenFile]| files.iter().find(|file| FileName::parse(&file.name) == Some(name)).cloned();
    let (Some(before), Some(after)) = (find(before), find(after)) else { return false };
    if before.len != after.len || before.bytes.len() != after.bytes.len() {
        return false;
    }
    let is_changed = |at: &usize| before.bytes[*at] != after.bytes[*at];
    let first = (0..before.bytes.len()).find(is_changed);
    let last = (0..before.bytes.len()).rfind(is_changed);
    first.zip(last).is_some_and(|(first, last)| {
        let proven_len = on_disk::proven_len(&before, number, last as u64 + 1);
        proven_len.is_ok_and(|proven_len| (first as u64) < proven_len)
    })
}

/// Returns how much of the manifest `CURRENT` says was durable; 0 if it says nothing.
fn stated_len(files: &[SeenFile]) -> u64 {
    let current = files.iter().find(|file| FileName::parse(&file.name) == Some(FileName::Current));
    let line = current.map(|file| String::from_utf8_lossy(&file.bytes).into_owned());
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

/// Draws what happens to a file, and where: anywhere, at its beginning, at its end, at the end of what was written, or among what
/// was written behind `begin`.
fn draw_damage(
    context: &Context,
    files: &[(FileName, u64, u64)],
    (name, len, written_len): (FileName, u64, u64),
    begin: u64,
) -> Damage {
    let tape = &context.tape;
    let below = |bound: u64| tape.below(Label::Check, bound.max(1));
    let at = match below(8) {
        5..=7 if begin < written_len => begin + below(written_len - begin),
        0 => below(len.min(64)),
        1 => len - 1 - below(len.min(80)),
        2 | 3 => written_len.max(1) - 1 - below(written_len.min(80)),
        _ => below(len),
    };
    let extent = || tape.magnitude(Label::Check, 12).min(len - at);
    match below(10) {
        0..=2 => Damage::Flip { at, bit: u8::try_from(below(8)).expect("below 8") },
        3 => Damage::Zero { start: at, len: extent() },
        4 => Damage::Stale { start: at, len: extent() },
        5 | 6 => {
            let same_kind = |other: &&(FileName, u64, u64)| {
                std::mem::discriminant(&other.0) == std::mem::discriminant(&name)
            };
            let others: Vec<_> = files.iter().filter(same_kind).collect();
            let (from, from_len, _) = **tape.pick(Label::Check, &others);
            let from_at = if below(2) == 0 { at.min(from_len - 1) } else { below(from_len) };
            Damage::Copied { start: at, len: extent(), from: from.path(Path::new(DIRECTORY)), at: from_at }
        }
        7 => Damage::Former,
        8 => Damage::Cut { len: at },
        _ => Damage::Lengthened { len: 1 + below(600), seed: below(1 << 32) },
    }
}
