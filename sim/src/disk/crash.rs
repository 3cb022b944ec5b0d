//! Power loss: which of the unsynced changes a disk keeps.
//!
//! A crash has two steps. First a *mode* wishes: it says of every unsynced change whether it should survive, in
//! one of ten biased ways, because single coins per change would almost never produce the states that break
//! engines (an older file lost whole with a newer one kept whole; every name and no byte; only the
//! deletions). Then the profile's rules make the wish legal: names survive as a prefix or with what they
//! depend on, a sector with all that was written to it before, appended bytes in order where the profile
//! keeps order. What was lost inside a surviving length is filled with zeros or, where the rules allow it,
//! with bytes of freed files or random ones.
//!
//! The result is a new volume on which everything is durable. The old one is only read, so that a running
//! disk can be asked for many images. Files that lost nothing share their bytes with the old volume.

use crate::disk::contents::{FileRules, survive};
use crate::disk::inode::Inode;
use crate::disk::losses::{CrashReport, Loss};
use crate::disk::profile::Rules;
use crate::disk::volume::{Dir, NameChangeKind, Names, Node, ROOT, Volume};
use crate::disk::wish::{CrashMode, FileWish, Wish};
use crate::tape::{Label, Tape};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a crash left, and how it came about.
pub(in crate::disk) struct Wreck {
    pub(in crate::disk) volume: Volume,
    pub(in crate::disk) report: CrashReport,
}

/// One unsynced change of names.
struct Change<'v> {
    seq: u64,
    dir: u64,
    kind: &'v NameChangeKind,
    is_kept: bool,
}

/// Cuts the power of `volume`.
pub(in crate::disk) fn cut_power(volume: &Volume, rules: Rules, tape: &Tape) -> Wreck {
    let mode = CrashMode::draw(tape);
    let mut changes = changes_of(volume);
    let wishes = wish(mode, volume, &mut changes, tape);
    let journal_end = if rules.has_journal {
        keep_journal_prefix(volume, &mut changes, &wishes, tape)
    } else {
        keep_dependencies(&mut changes, tape);
        u64::MAX
    };
    let report = CrashReport { mode: Some(mode), losses: Vec::new() };
    let mut wreck = Wreck { volume: Volume::new(), report };
    wreck.volume.seq = volume.seq;
    wreck.volume.next_id = volume.next_id;
    wreck.volume.freed.clone_from(&volume.freed);
    wreck.volume.former.clone_from(&volume.former);
    let links = keep_names(volume, &changes, &mut wreck);
    let flushed = flushed_by_replacing(volume, changes.iter().filter(|change| change.is_kept), rules);
    let names = names_of_files(volume);
    for (id, inode) in &volume.inodes {
        if !links.contains_key(id) {
            wreck.volume.remember_freed(inode);
        }
    }
    for (id, links) in links {
        let file_rules = FileRules {
            rules,
            journal_end,
            flushed_upto: flushed.get(&id).copied().unwrap_or(0),
            wish: wishes.get(&id).copied().unwrap_or(FileWish::both(Wish::All)),
        };
        let name = names.get(&id).expect("a file that survived has a name");
        let before = wreck.report.losses.len();
        let mut kept =
            survive(volume.inode(id), file_rules, &wreck.volume.freed, tape, &mut wreck.report.losses);
        for loss in &mut wreck.report.losses[before..] {
            loss.set_file(name);
        }
        kept.live_names = links;
        kept.disk_names = links;
        wreck.volume.charged_bytes += kept.len;
        wreck.volume.inodes.insert(id, kept);
    }
    wreck
}

/// Kills the process that uses `volume`: only its handles and locks are gone.
pub(in crate::disk) fn kill(volume: &Volume) -> Wreck {
    let mut volume = volume.clone();
    let ids: Vec<u64> = volume.inodes.keys().copied().collect();
    for id in ids {
        let inode = volume.inode_mut(id);
        inode.holders = crate::disk::inode::Holders::default();
        let opens = inode.opens;
        for _ in 0..opens {
            volume.release_open(id);
        }
    }
    Wreck { volume, report: CrashReport::default() }
}

/// Returns a volume on which all that is visible is durable.
pub(in crate::disk) fn settle_everything(volume: &Volume) -> Volume {
    let mut settled = kill(volume).volume;
    for dir in settled.dirs.values_mut() {
        dir.disk = dir.live.clone();
        dir.pending.clear();
    }
    settled.inodes.retain(|_, inode| inode.live_names > 0);
    for inode in settled.inodes.values_mut() {
        let names = inode.live_names;
        *inode = inode.settled(inode.seen_bytes(), inode.len);
        (inode.live_names, inode.disk_names) = (names, names);
    }
    settled
}

/// Commits the journal: every change of names and every change of length alone up to `upto` is on the disk, and so are
/// the bytes of small files that replaced others.
pub(in crate::disk) fn settle_journal(volume: &mut Volume, rules: Rules, upto: u64) {
    let changes = changes_of(volume);
    let settled = changes.iter().filter(|change| change.seq <= upto);
    let flushed = flushed_by_replacing(volume, settled, rules);
    drop(changes);
    for (id, upto) in flushed {
        volume.inode_mut(id).settle(upto);
    }
    let dirs: Vec<u64> =
        volume.dirs.iter().filter(|(_, dir)| !dir.pending.is_empty()).map(|(id, _)| *id).collect();
    for dir in dirs {
        volume.settle_names(dir, upto);
    }
    for inode in volume.inodes.values_mut().filter(|inode| !inode.pending.is_empty()) {
        inode.settle_lengths(upto);
    }
}

fn changes_of(volume: &Volume) -> Vec<Change<'_>> {
    let mut changes = Vec::new();
    for (dir, names) in &volume.dirs {
        changes.extend(names.pending.iter().map(|change| Change {
            seq: change.seq,
            dir: *dir,
            kind: &change.kind,
            is_kept: false,
        }));
    }
    changes.sort_unstable_by_key(|change| change.seq);
    changes
}

/// Lets `mode` wish: marks changes of names in place and returns the wishes for files that have unsynced bytes.
fn wish(
    mode: CrashMode,
    volume: &Volume,
    changes: &mut [Change<'_>],
    tape: &Tape,
) -> BTreeMap<u64, FileWish> {
    let dirty: Vec<(u64, &Inode)> = volume
        .inodes
        .iter()
        .filter(|(_, inode)| !inode.pending.is_empty())
        .map(|(id, inode)| (*id, inode))
        .collect();
    let same = |wish: FileWish| dirty.iter().map(|(id, _)| (*id, wish)).collect::<BTreeMap<_, _>>();
    let mark = |changes: &mut [Change<'_>], wish: Wish| {
        for change in changes {
            change.is_kept = wish.keeps(change.seq, tape);
        }
    };
    match mode {
        CrashMode::Nothing => same(FileWish::both(Wish::None)),
        CrashMode::Everything => {
            mark(changes, Wish::All);
            same(FileWish::both(Wish::All))
        }
        CrashMode::Prefix => {
            let wish = Wish::Before(draw_seq(&dirty, changes, tape).unwrap_or(u64::MAX));
            mark(changes, wish);
            same(FileWish::both(wish))
        }
        CrashMode::Lengths => {
            mark(changes, Wish::All);
            same(FileWish { lengths: Wish::All, bytes: Wish::None })
        }
        CrashMode::Bytes => same(FileWish::both(Wish::All)),
        CrashMode::Files => {
            let keeps = |_: &u64| tape.below(Label::Crash, 2) == 0;
            let kept: BTreeSet<u64> = volume.inodes.keys().copied().filter(keeps).collect();
            wish_for_files(&kept, &dirty, changes, tape)
        }
        CrashMode::Inversion => {
            let kept = newest_files(&dirty, tape);
            wish_for_files(&kept, &dirty, changes, tape)
        }
        CrashMode::Removals => {
            for change in changes {
                change.is_kept = match change.kind {
                    NameChangeKind::Remove { .. } => true,
                    NameChangeKind::Rename { replaces, .. } => *replaces,
                    NameChangeKind::Add { .. } => false,
                };
            }
            same(FileWish::both(Wish::None))
        }
        CrashMode::One => {
            let one = draw_seq(&dirty, changes, tape).unwrap_or(0);
            let wish = if tape.below(Label::Crash, 2) == 0 { Wish::Except(one) } else { Wish::Only(one) };
            // Bytes that nobody can find tell nothing, so the names often stay.
            let is_name = changes.iter().any(|change| change.seq == one);
            let names = if !is_name && tape.below(Label::Crash, 4) != 0 { Wish::All } else { wish };
            mark(changes, names);
            same(FileWish::both(wish))
        }
        CrashMode::Sectors => {
            let tenths = [5, 9, 1][usize::try_from(tape.below(Label::Crash, 3)).expect("one of three")];
            mark(changes, Wish::Coin(tenths));
            same(FileWish::both(Wish::Coin(tenths)))
        }
    }
}

/// Draws one of all unsynced changes, of names and of bytes.
fn draw_seq(dirty: &[(u64, &Inode)], changes: &[Change<'_>], tape: &Tape) -> Option<u64> {
    let writes: usize = dirty.iter().map(|(_, inode)| inode.pending.len()).sum();
    let count = changes.len() + writes;
    if count == 0 {
        return None;
    }
    let mut index = usize::try_from(tape.below(Label::Crash, count as u64)).expect("below a usize");
    if index < changes.len() {
        return Some(changes[index].seq);
    }
    index -= changes.len();
    for (_, inode) in dirty {
        if index < inode.pending.len() {
            return Some(inode.pending[index].seq);
        }
        index -= inode.pending.len();
    }
    unreachable!("the index lies below the sum of the lengths")
}

/// Picks some of the files written last, but not all where there are several.
fn newest_files(dirty: &[(u64, &Inode)], tape: &Tape) -> BTreeSet<u64> {
    let mut by_age: Vec<(u64, u64)> =
        dirty.iter().filter_map(|(id, inode)| Some((inode.pending.last()?.seq, *id))).collect();
    by_age.sort_unstable_by(|left, right| right.cmp(left));
    let others = by_age.len().saturating_sub(1).max(1) as u64;
    let count = 1 + usize::try_from(tape.below(Label::Crash, others)).expect("below a usize");
    by_age.into_iter().take(count).map(|(_, id)| id).collect()
}

/// Keeps some files whole, with all names or only with theirs.
fn wish_for_files(
    kept: &BTreeSet<u64>,
    dirty: &[(u64, &Inode)],
    changes: &mut [Change<'_>],
    tape: &Tape,
) -> BTreeMap<u64, FileWish> {
    let keeps_all_names = tape.below(Label::Crash, 2) == 0;
    for change in changes {
        change.is_kept = keeps_all_names
            || match change.kind.node() {
                Some(Node::File(id)) => kept.contains(&id),
                Some(Node::Dir(_)) => true,
                None => tape.below(Label::Crash, 2) == 0,
            };
    }
    let wish = |id| FileWish::both(if kept.contains(id) { Wish::All } else { Wish::None });
    dirty.iter().map(|(id, _)| (*id, wish(id))).collect()
}

/// Makes the wish legal where names and changes of length share one journal: a prefix of them survives. Returns
/// the number of the first change that did not.
fn keep_journal_prefix(
    volume: &Volume,
    changes: &mut [Change<'_>],
    wishes: &BTreeMap<u64, FileWish>,
    tape: &Tape,
) -> u64 {
    let mut entries: Vec<(u64, bool)> = changes.iter().map(|change| (change.seq, change.is_kept)).collect();
    for (id, wish) in wishes {
        let lengths = volume.inode(*id).pending.iter().filter(|write| write.is_of_length());
        entries.extend(lengths.map(|write| (write.seq, wish.lengths.keeps(write.seq, tape))));
    }
    entries.sort_unstable();
    let first_lost = entries.iter().position(|(_, is_kept)| !is_kept).unwrap_or(entries.len());
    let last_kept = entries.iter().rposition(|(_, is_kept)| *is_kept).map_or(0, |index| index + 1);
    // Where the wish is no prefix, it either gives up what follows a gap or fills the gaps.
    let count =
        if first_lost < last_kept && tape.below(Label::Crash, 2) == 0 { last_kept } else { first_lost };
    let end = entries.get(count).map_or(u64::MAX, |(seq, _)| *seq);
    for change in changes {
        change.is_kept = change.seq < end;
    }
    end
}

/// Makes the wish legal where only changes of one name keep their order: either what depends on a lost change
/// is lost too, or what a kept change depends on is kept.
fn keep_dependencies(changes: &mut [Change<'_>], tape: &Tape) {
    if changes.iter().all(|change| change.is_kept) || !changes.iter().any(|change| change.is_kept) {
        return;
    }
    let mut touched: BTreeSet<(u64, Arc<str>)> = BTreeSet::new();
    let mut spread = |change: &mut Change<'_>, spreads: bool| {
        let meets = change.kind.names().any(|name| touched.contains(&(change.dir, name.clone())));
        if change.is_kept == spreads || meets {
            change.is_kept = spreads;
            touched.extend(change.kind.names().map(|name| (change.dir, name.clone())));
        }
    };
    if tape.below(Label::Crash, 2) == 0 {
        changes.iter_mut().rev().for_each(|change| spread(change, true));
    } else {
        changes.iter_mut().for_each(|change| spread(change, false));
    }
}

/// Builds the surviving directories; returns how many names each surviving file has.
fn keep_names(volume: &Volume, changes: &[Change<'_>], wreck: &mut Wreck) -> BTreeMap<u64, u32> {
    let mut disks: BTreeMap<u64, Names> = BTreeMap::new();
    for change in changes {
        if change.is_kept {
            let disk = disks.entry(change.dir).or_insert_with(|| volume.dir(change.dir).disk.clone());
            change.kind.apply(disk);
        } else {
            wreck.report.losses.push(Loss::of_name(change.kind));
        }
    }
    let mut links = BTreeMap::new();
    let mut waiting = vec![ROOT];
    while let Some(id) = waiting.pop() {
        let names = disks.remove(&id).unwrap_or_else(|| volume.dir(id).disk.clone());
        for node in names.values() {
            match node {
                Node::Dir(below) => waiting.push(*below),
                Node::File(file) => *links.entry(*file).or_insert(0) += 1,
            }
        }
        wreck.volume.dirs.insert(id, Dir { live: names.clone(), disk: names, pending: Vec::new() });
    }
    links
}

/// Tells up to which change a small file's bytes are on the disk because it replaced another and that survived.
fn flushed_by_replacing<'v>(
    volume: &Volume,
    survivors: impl Iterator<Item = &'v Change<'v>>,
    rules: Rules,
) -> BTreeMap<u64, u64> {
    let mut flushed = BTreeMap::new();
    for change in survivors {
        if let NameChangeKind::Rename { node: Node::File(id), replaces: true, .. } = change.kind
            && volume.inodes.get(id).is_some_and(|inode| inode.len <= rules.replace_flushes_len_max)
        {
            flushed.insert(*id, change.seq);
        }
    }
    flushed
}

/// Finds a name for each file, for reports.
fn names_of_files(volume: &Volume) -> BTreeMap<u64, Arc<str>> {
    let mut names = BTreeMap::new();
    let mut learn = |name: &Arc<str>, node: Option<Node>| {
        if let Some(Node::File(id)) = node {
            names.insert(id, name.clone());
        }
    };
    for dir in volume.dirs.values() {
        for (name, node) in dir.disk.iter().chain(&dir.live) {
            learn(name, Some(*node));
        }
        for change in &dir.pending {
            learn(change.kind.names().last().expect("a change has a name"), change.kind.node());
        }
    }
    names
}
