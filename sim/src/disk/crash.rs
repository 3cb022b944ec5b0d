//! What a crash leaves: a legal subset of the changes that no sync covered.
//!
//! Independent coins for every change would find the interesting subsets once in a lifetime: "the older file lost
//! its tail, the newer one is whole" has a chance of 2⁻ⁿ. So a crash first draws a *mode*, each of which makes one
//! family of states likely, and then closes the drawn subset under the profile's rules. In order of the modes:
//! nothing, everything, a prefix in time, sizes and names without data, data without names, whole files, newest
//! without oldest, deletions first, all but one or only one, single sectors.

use crate::disk::inode::{Inode, Write};
use crate::disk::profile::{Profile, Rules, SECTOR_LEN_BYTES};
use crate::disk::volume::{Dir, NameChange, NameChangeKind, Names, Node, Volume};
use crate::tape::{Label, Tape};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const MODE_WEIGHTS: [u32; 10] = [8, 4, 12, 12, 6, 14, 12, 12, 12, 8];

/// A drawn rule for what is kept.
enum Mode {
    Nothing,
    Everything,
    Prefix(u64),
    NamesAndSizes,
    DataOnly,
    /// Files whose data and name are kept.
    Files(BTreeSet<u64>),
    Newest(u64),
    DeletionsFirst,
    AllBut(u64),
    Only(u64),
    Sectors(u64),
}

/// How much of a write is kept.
#[derive(Clone, Copy)]
enum Keep {
    All,
    /// The length without the bytes.
    Size,
    /// Each sector with a chance of so many tenths.
    Sectors(u64),
    None,
}

/// Returns what a crash leaves of `volume`, and counts what happened in `seen`.
pub(in crate::disk) fn image(
    volume: &Volume,
    profile: Profile,
    tape: &Tape,
    seen: &mut BTreeMap<&'static str, u64>,
) -> Volume {
    if profile == Profile::Kill {
        return killed(volume);
    }
    let rules = profile.rules();
    let mode = draw_mode(volume, tape);
    let journal_upto = draw_journal(volume, &rules, &mode, tape);
    let mut dirs = BTreeMap::new();
    for (&id, dir) in &volume.dirs {
        let names = surviving_names(volume, dir, &rules, &mode, journal_upto, tape, seen);
        dirs.insert(id, Dir { live: names.clone(), disk: names, pending: Vec::new() });
    }
    let mut inodes = BTreeMap::new();
    for (&id, inode) in &volume.inodes {
        let survivor = surviving_inode(volume, (id, inode), &rules, &mode, journal_upto, tape, seen);
        inodes.insert(id, survivor);
    }
    assemble(volume, dirs, inodes)
}

/// The process is gone: what was visible stays, what was not synced stays so.
fn killed(volume: &Volume) -> Volume {
    let mut image = volume.clone();
    for inode in image.inodes.values_mut() {
        inode.opens = 0;
        inode.holders = Default::default();
    }
    let unreachable: Vec<u64> =
        image.inodes.iter().filter(|(_, inode)| !inode.is_reachable()).map(|(&id, _)| id).collect();
    for id in unreachable {
        if let Some(inode) = image.inodes.remove(&id) {
            image.remember_freed(inode.bytes);
        }
    }
    recharge(&mut image);
    image
}

/// Returns a volume whose visible content is all durable.
pub(in crate::disk) fn settled(volume: &Volume) -> Volume {
    let dirs = volume
        .dirs
        .iter()
        .map(|(&id, dir)| (id, Dir { live: dir.live.clone(), disk: dir.live.clone(), pending: Vec::new() }));
    let inodes =
        volume.inodes.iter().map(|(&id, inode)| (id, Inode::durable(Arc::clone(&inode.bytes), inode.len)));
    assemble(volume, dirs.collect(), inodes.collect())
}

/// A journal that commits settles every change of names and reservation before it.
pub(in crate::disk) fn settle_journal(volume: &mut Volume, upto: u64) {
    let dirs: Vec<u64> = volume.dirs.keys().copied().collect();
    for dir in dirs {
        volume.settle_names(dir, upto);
    }
    for inode in volume.inodes.values_mut() {
        inode.settle_reservations(upto);
    }
}

/// Puts a volume together and forgets files that no name reaches.
fn assemble(old: &Volume, dirs: BTreeMap<u64, Dir>, inodes: BTreeMap<u64, Inode>) -> Volume {
    let mut image = Volume {
        seq: old.seq,
        inodes,
        dirs,
        next_id: old.next_id,
        freed: old.freed.clone(),
        charged_bytes: 0,
    };
    for inode in image.inodes.values_mut() {
        (inode.live_names, inode.disk_names, inode.opens) = (0, 0, 0);
    }
    // A directory that lost its own name takes all below it along.
    let mut reached = BTreeSet::new();
    let mut ahead = VecDeque::from([crate::disk::volume::ROOT]);
    while let Some(id) = ahead.pop_front() {
        if !reached.insert(id) {
            continue;
        }
        let nodes: Vec<Node> = image.dirs[&id].live.values().copied().collect();
        for node in nodes {
            match node {
                Node::Dir(below) => ahead.push_back(below),
                Node::File(file) => {
                    let inode = image.inode_mut(file);
                    inode.live_names += 1;
                    inode.disk_names += 1;
                }
            }
        }
    }
    image.dirs.retain(|id, _| reached.contains(id));
    let gone: Vec<u64> =
        image.inodes.iter().filter(|(_, inode)| !inode.is_reachable()).map(|(&id, _)| id).collect();
    for id in gone {
        if let Some(inode) = image.inodes.remove(&id) {
            image.remember_freed(inode.bytes);
        }
    }
    recharge(&mut image);
    image
}

fn recharge(volume: &mut Volume) {
    volume.charged_bytes =
        volume.inodes.values().filter(|inode| inode.is_charged()).map(|inode| inode.len).sum();
}

/// Every change that is not durable, by its number.
fn pending_seqs(volume: &Volume) -> Vec<u64> {
    let names = volume.dirs.values().flat_map(|dir| dir.pending.iter().map(|change| change.seq));
    let writes = volume.inodes.values().flat_map(|inode| inode.pending.iter().map(|write| write.seq));
    let mut seqs: Vec<u64> = names.chain(writes).collect();
    seqs.sort_unstable();
    seqs
}

fn draw_mode(volume: &Volume, tape: &Tape) -> Mode {
    let seqs = pending_seqs(volume);
    if seqs.is_empty() {
        return Mode::Everything;
    }
    let any = || *tape.pick(Label::Crash, &seqs);
    match tape.weighted(Label::Crash, &MODE_WEIGHTS) {
        0 => Mode::Nothing,
        1 => Mode::Everything,
        2 => Mode::Prefix(any()),
        3 => Mode::NamesAndSizes,
        4 => Mode::DataOnly,
        5 => {
            let kept = volume.inodes.keys().copied().filter(|_| tape.below(Label::Crash, 2) == 1);
            Mode::Files(kept.collect())
        }
        6 => Mode::Newest(any()),
        7 => Mode::DeletionsFirst,
        8 if tape.below(Label::Crash, 2) == 0 => Mode::AllBut(any()),
        8 => Mode::Only(any()),
        _ => Mode::Sectors(*tape.pick(Label::Crash, &[9, 5, 1])),
    }
}

/// Returns up to which change the journal was committed; everything without one.
fn draw_journal(volume: &Volume, rules: &Rules, mode: &Mode, tape: &Tape) -> u64 {
    if !rules.has_journal {
        return u64::MAX;
    }
    let seqs = pending_seqs(volume);
    match mode {
        Mode::Nothing | Mode::DataOnly => 0,
        Mode::Everything | Mode::NamesAndSizes | Mode::DeletionsFirst => u64::MAX,
        Mode::Prefix(upto) => *upto,
        _ if seqs.is_empty() => u64::MAX,
        _ => match tape.below(Label::Crash, 3) {
            0 => u64::MAX,
            1 => 0,
            _ => *tape.pick(Label::Crash, &seqs),
        },
    }
}

fn keeps_change(mode: &Mode, change: &NameChange, tape: &Tape) -> bool {
    match mode {
        Mode::Nothing | Mode::DataOnly => false,
        Mode::Everything | Mode::NamesAndSizes => true,
        Mode::Prefix(upto) => change.seq <= *upto,
        Mode::Files(kept) => match change.kind.node() {
            Some(Node::File(id)) => kept.contains(&id),
            _ => tape.below(Label::Crash, 2) == 1,
        },
        Mode::Newest(from) => change.seq >= *from,
        Mode::DeletionsFirst => !matches!(change.kind, NameChangeKind::Add { .. }),
        Mode::AllBut(seq) => change.seq != *seq,
        Mode::Only(seq) => change.seq == *seq,
        Mode::Sectors(tenths) => tape.below(Label::Crash, 10) < *tenths,
    }
}

fn surviving_names(
    volume: &Volume,
    dir: &Dir,
    rules: &Rules,
    mode: &Mode,
    journal_upto: u64,
    tape: &Tape,
    seen: &mut BTreeMap<&'static str, u64>,
) -> Names {
    let mut names = dir.disk.clone();
    let mut dropped: BTreeSet<Arc<str>> = BTreeSet::new();
    for change in &dir.pending {
        let mut is_kept = if rules.has_journal {
            change.seq <= journal_upto
        } else {
            // Changes of one name reach the disk in order.
            keeps_change(mode, change, tape) && !change.kind.names().any(|name| dropped.contains(name))
        };
        if let NameChangeKind::Rename { node: Node::File(id), replaces: true, .. } = &change.kind
            && rules.replace_flushes_len_max > 0
            && volume.inode(*id).len <= rules.replace_flushes_len_max
            && !volume.inode(*id).pending.is_empty()
            && rules.has_journal
        {
            // The file is flushed before the rename commits; without its bytes there is no rename.
            is_kept = false;
        }
        if is_kept {
            change.kind.apply(&mut names);
        } else {
            let word = match change.kind {
                NameChangeKind::Add { .. } => "crash lost a new name",
                NameChangeKind::Remove { .. } => "crash brought a removed name back",
                NameChangeKind::Rename { .. } => "crash undid a rename",
            };
            *seen.entry(word).or_default() += 1;
            dropped.extend(change.kind.names().cloned());
        }
        if rules.has_journal && !is_kept {
            break;
        }
    }
    names
}

fn keep_of(mode: &Mode, id: u64, write: &Write) -> Keep {
    let coin = |kept: bool| if kept { Keep::All } else { Keep::None };
    match mode {
        Mode::Nothing => Keep::None,
        Mode::Everything | Mode::DataOnly => Keep::All,
        Mode::Prefix(upto) => coin(write.seq <= *upto),
        Mode::NamesAndSizes => Keep::Size,
        Mode::Files(kept) => coin(kept.contains(&id)),
        Mode::Newest(from) => coin(write.seq >= *from),
        Mode::DeletionsFirst => Keep::None,
        Mode::AllBut(seq) => coin(write.seq != *seq),
        Mode::Only(seq) => coin(write.seq == *seq),
        Mode::Sectors(tenths) => Keep::Sectors(*tenths),
    }
}

fn surviving_inode(
    volume: &Volume,
    (id, inode): (u64, &Inode),
    rules: &Rules,
    mode: &Mode,
    journal_upto: u64,
    tape: &Tape,
    seen: &mut BTreeMap<&'static str, u64>,
) -> Inode {
    if inode.pending.is_empty() && inode.lost.is_empty() {
        return Inode::durable(Arc::clone(&inode.bytes), inode.durable_len.max(0).min(inode.len));
    }
    let mut len = inode.durable_len;
    let mut lost: Vec<(u64, u64)> = inode.lost.iter().map(|lost| (lost.start, lost.end)).collect();
    if rules.keeps_append_order {
        append_prefix(inode, mode, id, journal_upto, tape, &mut len, &mut lost);
    } else {
        any_sectors(inode, mode, id, tape, &mut len, &mut lost);
    }
    if !inode.pending.is_empty() {
        let word = if lost.is_empty() { "crash kept unsynced bytes" } else { "crash lost unsynced bytes" };
        *seen.entry(word).or_default() += 1;
    }
    let stored = usize::try_from(len).expect("a simulated file fits memory").min(inode.bytes.len());
    let mut bytes = inode.bytes[..stored].to_vec();
    for (start, end) in lost {
        let clip = |at: u64| usize::try_from(at).expect("a simulated file fits memory").min(bytes.len());
        let (start, end) = (clip(start), clip(end));
        if start < end {
            fill(volume, &mut bytes, start, end, rules, tape);
        }
    }
    Inode::durable(Arc::new(bytes), len)
}

/// Appended bytes survive as a prefix; the length may be ahead of them.
fn append_prefix(
    inode: &Inode,
    mode: &Mode,
    id: u64,
    journal_upto: u64,
    tape: &Tape,
    len: &mut u64,
    lost: &mut Vec<(u64, u64)>,
) {
    let mut is_whole = true;
    for write in &inode.pending {
        if write.is_reservation() {
            if write.seq <= journal_upto {
                *len = (*len).max(write.len_after);
            }
            continue;
        }
        let kept_end = match keep_of(mode, id, write) {
            _ if !is_whole => write.start,
            Keep::All => write.end,
            Keep::None | Keep::Size => write.start,
            Keep::Sectors(_) => {
                let kept = tape.below(Label::Crash, write.end - write.start + 1);
                let edge = (write.start + kept) / SECTOR_LEN_BYTES * SECTOR_LEN_BYTES;
                if kept == write.end - write.start { write.end } else { edge.max(write.start) }
            }
        };
        *len = (*len).max(kept_end);
        if kept_end < write.end {
            is_whole = false;
            lost.push((kept_end, write.end));
            // The journal may know the new length already: zeros show where the bytes are not.
            let shows_length =
                matches!(keep_of(mode, id, write), Keep::Size) || tape.below(Label::Crash, 4) == 3;
            if shows_length {
                *len = (*len).max(write.len_after);
            }
        }
    }
}

/// Any sectors survive, in any order; the length is at least where the last of them ends.
fn any_sectors(inode: &Inode, mode: &Mode, id: u64, tape: &Tape, len: &mut u64, lost: &mut Vec<(u64, u64)>) {
    for write in &inode.pending {
        let keep = keep_of(mode, id, write);
        if write.is_reservation() {
            let is_kept = match keep {
                Keep::All | Keep::Size => true,
                Keep::None => false,
                Keep::Sectors(tenths) => tape.below(Label::Crash, 10) < tenths,
            };
            if is_kept {
                *len = (*len).max(write.len_after);
            }
            continue;
        }
        match keep {
            Keep::All => *len = (*len).max(write.end),
            Keep::Size => {
                *len = (*len).max(write.len_after);
                lost.push((write.start, write.end));
            }
            Keep::None => lost.push((write.start, write.end)),
            Keep::Sectors(tenths) => {
                let mut start = write.start;
                while start < write.end {
                    let end = write.end.min((start / SECTOR_LEN_BYTES + 1) * SECTOR_LEN_BYTES);
                    if tape.below(Label::Crash, 10) < tenths {
                        *len = (*len).max(end);
                    } else {
                        lost.push((start, end));
                    }
                    start = end;
                }
            }
        }
    }
}

/// Puts into lost bytes what a disk might show there.
fn fill(volume: &Volume, bytes: &mut [u8], start: usize, end: usize, rules: &Rules, tape: &Tape) {
    let kind = if rules.shows_garbage { tape.below(Label::Crash, 20) } else { 0 };
    match kind {
        // Bytes of a file that is gone, at the same place in the file: old records with good checksums.
        10..=16 if !volume.freed.is_empty() => {
            let at = usize::try_from(tape.below(Label::Crash, volume.freed.len() as u64)).expect("a few");
            let old = &volume.freed[at];
            for (offset, byte) in bytes[start..end].iter_mut().enumerate() {
                *byte = old.get(start + offset).copied().unwrap_or(0);
            }
        }
        17..=19 => {
            let mut word = tape.below(Label::Crash, u64::MAX) | 1;
            for byte in &mut bytes[start..end] {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                *byte = word.to_le_bytes()[0];
            }
        }
        _ => bytes[start..end].fill(0),
    }
}
