//! What of one file's bytes survives a power loss.
//!
//! The unsettled parts of a file, writes without a sync and ranges that a failed sync gave up, are cut at
//! sector borders into pieces. A sector keeps its pieces in the order they were written, so a kept piece keeps
//! those before it. Where the profile keeps appended bytes in order, one point divides the appended part into
//! bytes and zeros instead, and only what was written into space reserved earlier goes sector by sector.

use crate::disk::inode::{Inode, Write, WriteKind};
use crate::disk::losses::{Fill, Loss};
use crate::disk::profile::{Rules, SECTOR_LEN_BYTES};
use crate::disk::volume::Freed;
use crate::disk::wish::{FileWish, Wish};
use crate::tape::{Label, Tape};
use std::collections::VecDeque;
use std::sync::Arc;

/// Sectors of space that was only reserved which may show garbage. More would tell nothing new.
const RESERVED_GARBAGE_SECTORS_MAX: u64 = 8;

/// Everything that decides about one file.
#[derive(Clone, Copy)]
pub(in crate::disk) struct FileRules {
    pub(in crate::disk) rules: Rules,
    /// Changes from this one on are not in the journal.
    pub(in crate::disk) journal_end: u64,
    /// Writes up to this one are on the disk.
    pub(in crate::disk) flushed_upto: u64,
    pub(in crate::disk) wish: FileWish,
}

/// A part of one sector that is not settled.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u64,
    end: u64,
    /// The write it belongs to; `None` where a failed sync gave it up.
    seq: Option<u64>,
    /// Whether the disk had nothing of its own there.
    is_fresh: bool,
}

impl Piece {
    fn sector(&self) -> u64 {
        self.start / SECTOR_LEN_BYTES
    }
}

/// Bytes to be put over what readers saw.
struct Edit {
    start: u64,
    end: u64,
    fill: Fill,
    /// For [`Fill::Stale`]: which freed file, and where in it. For [`Fill::Random`]: the seed.
    source: (usize, u64),
}

/// Returns the file as the disk has it after power comes back. Losses are added without the file's name.
pub(in crate::disk) fn survive(
    inode: &Inode,
    file: FileRules,
    freed: &VecDeque<Freed>,
    tape: &Tape,
    losses: &mut Vec<Loss>,
) -> Inode {
    if inode.pending.is_empty() && inode.lost.is_empty() {
        return inode.settled(inode.bytes.clone(), inode.len);
    }
    let journaled_len = journaled_len(inode, file);
    let len = surviving_len(inode, file, journaled_len, tape);
    assert!(len >= inode.least_len(), "a synced length survives unless it was trimmed");
    if len != inode.len {
        losses.push(Loss::Length { file: Arc::from(""), from: inode.len, to: len });
    }
    let is_near = |&at: &usize| freed[at].home == inode.home;
    let near = (0..freed.len()).filter(is_near).collect();
    let mut filler = Filler { rules: file.rules, freed, near, tape, style: None, len, edits: Vec::new() };
    let pieces = pieces_of(inode, len);
    // Below this, sectors are kept one by one; from here on, one point divides bytes from zeros.
    let in_order_from = if file.rules.keeps_append_order {
        journaled_len / SECTOR_LEN_BYTES * SECTOR_LEN_BYTES
    } else {
        u64::MAX
    };
    let split = pieces.partition_point(|piece| piece.start < in_order_from);
    let (sectors, appended) = pieces.split_at(split);
    keep_sectors(sectors, file, &mut filler);
    keep_prefix(appended, file, len, &mut filler);
    if file.rules.shows_garbage {
        fill_reserved(inode, len, &mut filler);
    }
    for edit in &filler.edits {
        let loss = Loss::Bytes { file: Arc::from(""), start: edit.start, end: edit.end, fill: edit.fill };
        match (losses.last_mut(), &loss) {
            (
                Some(Loss::Bytes { end, fill, .. }),
                Loss::Bytes { start: next, end: next_end, fill: next_fill, .. },
            ) if end == next && fill == next_fill => {
                *end = *next_end;
            }
            _ => losses.push(loss),
        }
    }
    inode.settled(apply(&inode.bytes, len, &filler.edits, freed), len)
}

/// Returns the length that the journal or an earlier sync has.
fn journaled_len(inode: &Inode, file: FileRules) -> u64 {
    if !file.rules.has_journal {
        return inode.durable_len;
    }
    let is_in = |write: &&Write| {
        (write.is_of_length() && write.seq < file.journal_end) || write.seq <= file.flushed_upto
    };
    inode.pending.iter().filter(is_in).fold(inode.durable_len, |len, write| write.len_after(len))
}

/// Returns the surviving length, where `journaled` survives without a wish.
fn surviving_len(inode: &Inode, file: FileRules, journaled: u64, tape: &Tape) -> u64 {
    let eligible = inode.pending.partition_point(|write| write.seq < file.journal_end);
    let writes = &inode.pending[..eligible];
    // With a journal, the changes of length are in `journaled` already, in their order.
    let counts = |write: &&Write| !(file.rules.has_journal && write.is_of_length());
    let with = |keeps: &dyn Fn(&Write) -> bool| {
        let kept = writes.iter().filter(counts).filter(|write| keeps(write));
        kept.fold(journaled, |len, write| write.len_after(len))
    };
    let last = writes.last().map(|write| write.seq);
    match file.wish.lengths {
        Wish::All => with(&|_| true),
        Wish::None => journaled,
        Wish::Before(seq) => with(&|write| write.seq < seq),
        Wish::Only(seq) => {
            // A length stands on what was there before it.
            let is_of_length = writes.iter().any(|write| write.seq == seq && write.is_of_length());
            with(&|write| write.seq == seq || (is_of_length && write.seq < seq))
        }
        // What follows a lost write shows its length all the same, unless it is a trim.
        Wish::Except(seq) => with(&|write| {
            write.seq != seq || (Some(seq) != last && !matches!(write.kind, WriteKind::Trim(_)))
        }),
        Wish::Coin(_) => {
            let lens = || writes.iter().filter(counts).map(|write| write.len_after(journaled));
            let least = lens().fold(journaled, u64::min);
            let most = lens().fold(journaled, u64::max);
            draw_border(writes, least, most, tape)
        }
    }
}

/// Draws a place between `least` and `most` where a write or a sector ends.
fn draw_border(writes: &[Write], least: u64, most: u64, tape: &Tape) -> u64 {
    if least == most {
        return least;
    }
    match tape.below(Label::Crash, 4) {
        0 => most,
        1 => least,
        2 if !writes.is_empty() => {
            let index = tape.below(Label::Crash, writes.len() as u64);
            let write = writes[usize::try_from(index).expect("below a usize")];
            let border = if tape.below(Label::Crash, 2) == 0 { write.len_after(least) } else { write.end };
            border.clamp(least, most)
        }
        _ => {
            let (first, last) = (least / SECTOR_LEN_BYTES, most / SECTOR_LEN_BYTES);
            let sector = first + tape.below(Label::Crash, last - first + 1);
            (sector * SECTOR_LEN_BYTES).clamp(least, most)
        }
    }
}

/// Cuts everything unsettled below `len` into parts of sectors, in order.
fn pieces_of(inode: &Inode, len: u64) -> Vec<Piece> {
    let writes = inode.pending.iter().map(|write| Piece {
        start: write.start,
        end: write.end,
        seq: Some(write.seq),
        is_fresh: write.start >= inode.least_len(),
    });
    let lost = inode.lost.iter().map(|lost| Piece {
        start: lost.start,
        end: lost.end,
        seq: None,
        is_fresh: lost.is_fresh,
    });
    let mut ranges: Vec<Piece> = writes.chain(lost).collect();
    ranges.sort_unstable_by_key(|piece| (piece.start, piece.end));
    let mut pieces = Vec::new();
    for range in ranges {
        let mut start = range.start;
        let end = range.end.min(len);
        while start < end {
            let border = (start / SECTOR_LEN_BYTES + 1) * SECTOR_LEN_BYTES;
            let is_fresh = range.is_fresh || (range.seq.is_some() && start >= inode.least_len());
            pieces.push(Piece { start, end: end.min(border), seq: range.seq, is_fresh });
            start = border;
        }
    }
    pieces
}

/// Decides sector by sector.
fn keep_sectors(pieces: &[Piece], file: FileRules, filler: &mut Filler<'_>) {
    for sector in pieces.chunk_by(|left, right| left.sector() == right.sector()) {
        let writes: Vec<u64> = sector.iter().filter_map(|piece| piece.seq).collect();
        let kept_upto = kept_in_sector(&writes, file, filler.tape);
        let is_lost = |piece: &Piece| piece.seq.is_none_or(|seq| Some(seq) > kept_upto);
        // Only a sector that was never written as a whole can show what was there before the file.
        let start = sector[0].sector() * SECTOR_LEN_BYTES;
        if sector.iter().all(|piece| is_lost(piece) && piece.is_fresh) && sector[0].start == start {
            filler.lose_sector(start);
            continue;
        }
        for piece in sector.iter().filter(|piece| is_lost(piece)) {
            filler.zero(piece.start, piece.end);
        }
    }
}

/// Returns the last of a sector's writes that is on the disk.
fn kept_in_sector(writes: &[u64], file: FileRules, tape: &Tape) -> Option<u64> {
    let flushed = writes.iter().copied().filter(|seq| *seq <= file.flushed_upto).max();
    let last = writes.last().copied();
    let wished = match file.wish.bytes {
        Wish::None => None,
        Wish::Before(end) => writes.iter().copied().filter(|seq| *seq < end).max(),
        Wish::Only(one) => writes.contains(&one).then_some(one),
        Wish::Except(one) if writes.contains(&one) => writes.iter().copied().filter(|seq| *seq < one).max(),
        Wish::All | Wish::Except(_) => last,
        Wish::Coin(tenths) => {
            if tape.below(Label::Crash, 10) < tenths {
                last
            } else if writes.len() > 1 {
                let index = tape.below(Label::Crash, writes.len() as u64);
                index.checked_sub(1).map(|index| writes[usize::try_from(index).expect("below a usize")])
            } else {
                None
            }
        }
    };
    wished.max(flushed)
}

/// Keeps the bytes up to one point and loses those behind it to zeros.
fn keep_prefix(pieces: &[Piece], file: FileRules, len: u64, filler: &mut Filler<'_>) {
    let Some(first) = pieces.iter().find(|piece| piece.seq.is_some()) else {
        return pieces.iter().for_each(|piece| filler.zero(piece.start, piece.end));
    };
    let end_of = |keeps: &dyn Fn(u64) -> bool| {
        let kept = pieces.iter().filter(|piece| piece.seq.is_some_and(keeps));
        kept.map(|piece| piece.end).max().unwrap_or(first.start)
    };
    let wished = match file.wish.bytes {
        Wish::None => first.start,
        Wish::Before(end) => end_of(&|seq| seq < end),
        Wish::Only(one) => end_of(&|seq| seq <= one && pieces.iter().any(|piece| piece.seq == Some(one))),
        Wish::Except(one) if pieces.iter().any(|piece| piece.seq == Some(one)) => end_of(&|seq| seq < one),
        Wish::All | Wish::Except(_) => len,
        Wish::Coin(_) => {
            let index = filler.tape.below(Label::Crash, pieces.len() as u64 + 1);
            let index = usize::try_from(index).expect("below a usize");
            pieces.get(index).map_or(len, |piece| piece.start.max(first.start))
        }
    };
    let point = wished.max(end_of(&|seq| seq <= file.flushed_upto));
    for piece in pieces {
        if piece.seq.is_none() || piece.start >= point {
            filler.zero(piece.start, piece.end);
        }
    }
}

/// Shows garbage in space that was reserved without a sync and never written.
fn fill_reserved(inode: &Inode, len: u64, filler: &mut Filler<'_>) {
    let written = (inode.bytes.len() as u64).max(inode.durable_len);
    let first = written.div_ceil(SECTOR_LEN_BYTES);
    let last = len.div_ceil(SECTOR_LEN_BYTES);
    for sector in first..last.min(first + RESERVED_GARBAGE_SECTORS_MAX) {
        filler.lose_sector(sector * SECTOR_LEN_BYTES);
    }
}

/// How a file's lost sectors are filled.
#[derive(Clone, Copy)]
enum Style {
    Zeros,
    /// All from one freed file, moved by so many bytes: whole records of it come through.
    Stale(usize, u64),
    Mixed,
}

/// Chooses what stands where bytes were lost.
struct Filler<'a> {
    rules: Rules,
    freed: &'a VecDeque<Freed>,
    /// Which of them were made in the file's own directory. Those of another database may have the same number, and
    /// checksums do not tell databases apart.
    near: Vec<usize>,
    tape: &'a Tape,
    style: Option<Style>,
    /// The surviving length.
    len: u64,
    edits: Vec<Edit>,
}

impl Filler<'_> {
    fn zero(&mut self, start: u64, end: u64) {
        self.edits.push(Edit { start, end: end.min(self.len), fill: Fill::Zeros, source: (0, 0) });
    }

    fn lose_sector(&mut self, start: u64) {
        let end = (start + SECTOR_LEN_BYTES).min(self.len);
        let (fill, source) = if self.rules.shows_garbage { self.draw(start) } else { (Fill::Zeros, (0, 0)) };
        self.edits.push(Edit { start, end, fill, source });
    }

    fn below(&self, count: u64) -> u64 {
        self.tape.below(Label::Crash, count)
    }

    fn draw(&mut self, start: u64) -> (Fill, (usize, u64)) {
        let style = match self.style {
            Some(style) => style,
            None => self.draw_style(),
        };
        self.style = Some(style);
        match style {
            Style::Zeros => (Fill::Zeros, (0, 0)),
            Style::Stale(file, shift) => (Fill::Stale, (file, start + shift)),
            Style::Mixed => match self.below(20) {
                0..12 => (Fill::Zeros, (0, 0)),
                12..17 if !self.near.is_empty() => {
                    let (file, shift) = self.draw_stale();
                    (Fill::Stale, (file, start + shift))
                }
                _ => (Fill::Random, (0, self.below(u64::MAX))),
            },
        }
    }

    fn draw_style(&self) -> Style {
        match self.below(20) {
            0..10 => Style::Zeros,
            10..15 if !self.near.is_empty() => {
                let (file, shift) = self.draw_stale();
                Style::Stale(file, shift)
            }
            _ => Style::Mixed,
        }
    }

    /// Picks a freed file, and either the same place in it or one some sectors on.
    fn draw_stale(&self) -> (usize, u64) {
        let newest = self.below(self.near.len() as u64);
        let from_oldest = self.near.len() - 1 - usize::try_from(newest).expect("below a usize");
        let file = self.near[from_oldest];
        let sectors = (self.freed[file].bytes.len() as u64).div_ceil(SECTOR_LEN_BYTES);
        let shift = if self.below(3) == 2 { self.below(sectors) * SECTOR_LEN_BYTES } else { 0 };
        (file, shift)
    }
}

/// Builds the surviving bytes, shared with the old ones if nothing was lost.
fn apply(bytes: &Arc<Vec<u8>>, len: u64, edits: &[Edit], freed: &VecDeque<Freed>) -> Arc<Vec<u8>> {
    let index = |at: u64| usize::try_from(at).expect("a simulated file fits memory");
    let kept_len = bytes.len().min(index(len));
    if edits.is_empty() && kept_len == bytes.len() {
        return bytes.clone();
    }
    let mut kept = bytes[..kept_len].to_vec();
    for edit in edits {
        let (start, end) = (index(edit.start), index(edit.end));
        // Zeros behind the last byte are there without being stored.
        let is_stored = edit.fill != Fill::Zeros;
        if is_stored && end > kept.len() {
            kept.resize(end, 0);
        }
        let end = end.min(kept.len());
        if start >= end {
            continue;
        }
        let target = &mut kept[start..end];
        match edit.fill {
            Fill::Zeros => target.fill(0),
            Fill::Stale => {
                // Behind the freed file's last whole sector it begins again, so that records stay aligned.
                let source = freed[edit.source.0].bytes.as_slice();
                let at = index(edit.source.1) % source.len().next_multiple_of(index(SECTOR_LEN_BYTES));
                for (offset, byte) in target.iter_mut().enumerate() {
                    *byte = source.get(at + offset).copied().unwrap_or(0);
                }
            }
            Fill::Random => scramble(target, edit.source.1),
        }
    }
    Arc::new(kept)
}

/// Fills `target` with bytes that only `seed` decides.
pub(in crate::disk) fn scramble(target: &mut [u8], seed: u64) {
    let mut state = seed;
    for chunk in target.chunks_mut(8) {
        // A step of splitmix64: cheap, and every seed gives other bytes.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bytes = (word ^ (word >> 31)).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}
