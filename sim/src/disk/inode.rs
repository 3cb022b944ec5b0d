//! A file's bytes: what readers see, and how much of it the disk has.
//!
//! Files grow at their end, give back only what lies behind it, and are never overwritten, so the history of a file is a list of ranges rather than
//! of sectors: the writes that no sync covered yet, in order, and the ranges that a failed sync gave up.
//! Everything else below [`Inode::durable_len`] is on the disk as readers see it. A sync that works drops the
//! ranges it covers. Bytes are shared between a disk and its crash images until one of them writes.

use crate::disk::profile::{FailedSync, PAGE_LEN_BYTES, SECTOR_LEN_BYTES};
use crate::tape::{Label, Tape};
use std::io::IoSlice;
use std::sync::Arc;
use tinylsm::vfs::LockMode;

/// A change of a file's bytes or length that no sync covered yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::disk) struct Write {
    /// When, in the order of all changes of the disk.
    pub(in crate::disk) seq: u64,
    pub(in crate::disk) kind: WriteKind,
    /// The bytes it wrote; the same place twice where it wrote none.
    pub(in crate::disk) start: u64,
    pub(in crate::disk) end: u64,
}

/// What a [`Write`] does to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::disk) enum WriteKind {
    /// Puts bytes into it.
    Append,
    /// Makes it at least this long.
    Reserve(u64),
    /// Makes it at most this long.
    Trim(u64),
}

impl Write {
    /// Tells whether it changes only the length, which a journal keeps in order.
    pub(in crate::disk) fn is_of_length(&self) -> bool {
        self.kind != WriteKind::Append
    }

    /// Returns how long a file of `len` bytes is once this is in it.
    pub(in crate::disk) fn len_after(&self, len: u64) -> u64 {
        match self.kind {
            WriteKind::Append => len.max(self.end),
            WriteKind::Reserve(to) => len.max(to),
            WriteKind::Trim(to) => len.min(to),
        }
    }
}

/// Bytes that readers see and that no later sync will ever write.
#[derive(Clone, Copy, Debug)]
pub(in crate::disk) struct Lost {
    pub(in crate::disk) start: u64,
    pub(in crate::disk) end: u64,
    /// Whether the disk had nothing of its own there, so that a freed file's bytes may show.
    pub(in crate::disk) is_fresh: bool,
}

/// Ends of a file's last appends, by which a sector is known as it was before them.
const OLDER_ENDS_MAX: usize = 8;

/// Who holds a file's lock.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::disk) struct Holders {
    pub(in crate::disk) is_exclusive: bool,
    pub(in crate::disk) shared_count: u32,
}

impl Holders {
    pub(in crate::disk) fn admits(self, mode: LockMode) -> bool {
        match mode {
            LockMode::Exclusive => !self.is_exclusive && self.shared_count == 0,
            LockMode::Shared => !self.is_exclusive,
        }
    }

    pub(in crate::disk) fn take(&mut self, mode: LockMode) {
        assert!(self.admits(mode), "a lock is taken only when it is free");
        match mode {
            LockMode::Exclusive => self.is_exclusive = true,
            LockMode::Shared => self.shared_count += 1,
        }
    }

    pub(in crate::disk) fn give_back(&mut self, mode: LockMode) {
        match mode {
            LockMode::Exclusive => self.is_exclusive = false,
            LockMode::Shared => self.shared_count -= 1,
        }
    }
}

/// A file, whatever its names.
#[derive(Clone, Debug, Default)]
pub(in crate::disk) struct Inode {
    /// The directory of its first name.
    pub(in crate::disk) home: Option<u64>,
    /// What readers see, up to the last byte ever written; behind it lie zeros up to `len`. Bytes behind `len` were
    /// trimmed, and only a crash can bring them back.
    pub(in crate::disk) bytes: Arc<Vec<u8>>,
    pub(in crate::disk) len: u64,
    /// The length as of the last sync. A crash keeps it, unless a trim is pending.
    pub(in crate::disk) durable_len: u64,
    /// Ordered by `seq`, and so by `start` too: one owner appends.
    pub(in crate::disk) pending: Vec<Write>,
    pub(in crate::disk) lost: Vec<Lost>,
    /// Names in live directories.
    pub(in crate::disk) live_names: u32,
    /// Names in directories as the disk has them, and in changes of names that are not synced.
    pub(in crate::disk) disk_names: u32,
    /// Open handles.
    pub(in crate::disk) opens: u32,
    pub(in crate::disk) holders: Holders,
    /// Where the last appends began, oldest first from `older_ends_next` on.
    older_ends: [u64; OLDER_ENDS_MAX],
    older_ends_next: usize,
}

impl Inode {
    /// Makes a file whose bytes are all on the disk.
    pub(in crate::disk) fn durable(bytes: Arc<Vec<u8>>, len: u64) -> Inode {
        Inode { bytes, len, durable_len: len, ..Inode::default() }
    }

    /// Makes a file that has these bytes on the disk and remembers what this one does of earlier appends.
    pub(in crate::disk) fn settled(&self, bytes: Arc<Vec<u8>>, len: u64) -> Inode {
        let (older_ends, older_ends_next) = (self.older_ends, self.older_ends_next);
        Inode { home: self.home, older_ends, older_ends_next, ..Inode::durable(bytes, len) }
    }

    /// Tells whether anything can still reach the file, a crash included.
    pub(in crate::disk) fn is_reachable(&self) -> bool {
        self.live_names + self.disk_names + self.opens > 0
    }

    /// Tells whether the file takes space as far as the running system can see.
    pub(in crate::disk) fn is_charged(&self) -> bool {
        self.live_names + self.opens > 0
    }

    /// Returns the length that every crash keeps.
    pub(in crate::disk) fn least_len(&self) -> u64 {
        let trims = self.pending.iter().map(|write| match write.kind {
            WriteKind::Trim(to) => to,
            WriteKind::Append | WriteKind::Reserve(_) => u64::MAX,
        });
        trims.fold(self.durable_len, u64::min)
    }

    /// Returns what readers see, without the zeros behind the last byte written.
    pub(in crate::disk) fn seen_bytes(&self) -> Arc<Vec<u8>> {
        match usize::try_from(self.len) {
            Ok(len) if len < self.bytes.len() => Arc::new(self.bytes[..len].to_vec()),
            _ => self.bytes.clone(),
        }
    }

    /// Returns how many bytes wait for a sync.
    pub(in crate::disk) fn pending_len(&self) -> u64 {
        self.pending.iter().map(|write| write.end - write.start).sum()
    }

    /// Writes the first `count` bytes of `parts` at `offset`.
    pub(in crate::disk) fn write(&mut self, seq: u64, offset: u64, parts: &[IoSlice<'_>], count: u64) {
        let bytes = Arc::make_mut(&mut self.bytes);
        let mut at = usize::try_from(offset).expect("a simulated file fits memory");
        let mut left = usize::try_from(count).expect("a simulated file fits memory");
        // A file that a failed sync set back has a hole up to where its writer goes on.
        if at > bytes.len() {
            bytes.resize(at, 0);
        }
        for part in parts {
            let part = &part[..left.min(part.len())];
            let over = part.len().min(bytes.len() - at);
            bytes[at..at + over].copy_from_slice(&part[..over]);
            bytes.extend_from_slice(&part[over..]);
            at += part.len();
            left -= part.len();
        }
        assert_eq!(left, 0, "no more is written than was given");
        self.len = self.len.max(offset + count);
        if count > 0 {
            self.older_ends[self.older_ends_next] = offset;
            self.older_ends_next = (self.older_ends_next + 1) % OLDER_ENDS_MAX;
            self.pending.push(Write { seq, kind: WriteKind::Append, start: offset, end: offset + count });
        }
    }

    /// Lengthens the file with zeros to `len` at least.
    pub(in crate::disk) fn reserve(&mut self, seq: u64, len: u64) {
        if len > self.len {
            let at = self.bytes.len() as u64;
            self.len = len;
            self.pending.push(Write { seq, kind: WriteKind::Reserve(len), start: at, end: at });
        }
    }

    /// Shortens the file to `len` at most.
    pub(in crate::disk) fn trim(&mut self, seq: u64, len: u64) {
        if len < self.len {
            self.len = len;
            self.pending.push(Write { seq, kind: WriteKind::Trim(len), start: len, end: len });
        }
    }

    /// Reads what readers see.
    pub(in crate::disk) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let stored = count.min(self.bytes.len() - start);
        buffer[..stored].copy_from_slice(&self.bytes[start..start + stored]);
        buffer[stored..count].fill(0);
        count
    }

    fn take_pending(&mut self, upto: u64) -> Vec<Write> {
        let covered = self.pending.partition_point(|write| write.seq <= upto);
        self.pending.drain(..covered).collect()
    }

    /// Makes every write up to `upto` durable.
    pub(in crate::disk) fn settle(&mut self, upto: u64) {
        for write in self.take_pending(upto) {
            self.durable_len = write.len_after(self.durable_len);
        }
        self.durable_len = self.durable_len.min(self.len);
        self.forget_trimmed();
    }

    /// Makes every change of length up to `upto` durable: the journal has it. Bytes still wait.
    pub(in crate::disk) fn settle_lengths(&mut self, upto: u64) {
        let is_settled = |write: &Write| write.is_of_length() && write.seq <= upto;
        for write in self.pending.iter().filter(|write| is_settled(write)) {
            self.durable_len = write.len_after(self.durable_len);
        }
        self.pending.retain(|write| !is_settled(write));
        self.forget_trimmed();
    }

    /// Forgets bytes behind the end once no crash can bring them back.
    fn forget_trimmed(&mut self) {
        let is_trimmed = (self.bytes.len() as u64) > self.len;
        if is_trimmed && !self.pending.iter().any(|write| matches!(write.kind, WriteKind::Trim(_))) {
            self.bytes = self.seen_bytes();
            let len = self.len;
            self.pending.retain(|write| write.is_of_length() || write.start < len);
            for write in &mut self.pending {
                write.end = write.end.min(len.max(write.start));
            }
        }
    }

    /// Lets a sync of every write up to `upto` fail.
    pub(in crate::disk) fn fail_sync(&mut self, upto: u64, model: FailedSync, tape: &Tape) {
        match model {
            FailedSync::KeepNew => self.keep_unwritten(upto, tape),
            FailedSync::Revert => self.revert(upto),
        }
    }

    /// The system marks the pages clean, written or not, and its journal has the new length all the same.
    fn keep_unwritten(&mut self, upto: u64, tape: &Tape) {
        let old_durable_len = self.durable_len;
        for write in self.take_pending(upto) {
            self.durable_len = write.len_after(self.durable_len);
            let mut start = write.start;
            while start < write.end {
                let mut end = write.end.min((start / PAGE_LEN_BYTES + 1) * PAGE_LEN_BYTES);
                if start < old_durable_len {
                    end = end.min(old_durable_len);
                }
                if tape.below(Label::Fault, 2) == 0 {
                    self.lost.push(Lost { start, end, is_fresh: start >= old_durable_len });
                }
                start = end;
            }
        }
    }

    /// The file goes back to the disk's content. Its writer does not know, and leaves a hole when it goes on.
    fn revert(&mut self, upto: u64) {
        let taken = self.take_pending(upto);
        let bytes = Arc::make_mut(&mut self.bytes);
        for write in &taken {
            let range = |at: u64| usize::try_from(at).expect("a simulated file fits memory").min(bytes.len());
            let (start, end) = (range(write.start), range(write.end));
            bytes[start..end].fill(0);
        }
        self.len = self.pending.iter().fold(self.durable_len, |len, write| write.len_after(len));
        let kept = usize::try_from(self.len).expect("a simulated file fits memory").min(bytes.len());
        bytes.truncate(kept);
    }

    /// Returns up to where the sector at `start` was written before the last append to it that is remembered; its
    /// beginning if none is. What follows was zeros then.
    pub(in crate::disk) fn older_end(&self, start: u64) -> u64 {
        let written = (self.bytes.len() as u64).min(start + SECTOR_LEN_BYTES);
        let ends = self.older_ends.iter().copied();
        ends.filter(|end| (start..written).contains(end)).max().unwrap_or(start)
    }

    /// Puts other bytes into the file, durably; they lie within its length. Returns whether that changed anything.
    pub(in crate::disk) fn overwrite(&mut self, start: u64, new: &[u8]) -> bool {
        assert!(start + new.len() as u64 <= self.len, "damage stays within the file");
        let start = usize::try_from(start).expect("a simulated file fits memory");
        let end = start + new.len();
        let stored = self.bytes.len().clamp(start, end) - start;
        let (old, zeros) = new.split_at(stored);
        if (stored == 0 || self.bytes[start..start + stored] == *old) && zeros.iter().all(|byte| *byte == 0) {
            return false;
        }
        let bytes = Arc::make_mut(&mut self.bytes);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(new);
        true
    }

    /// Cuts the file, durably. Returns whether it was longer.
    pub(in crate::disk) fn cut(&mut self, len: u64) -> bool {
        if len >= self.len {
            return false;
        }
        self.len = len;
        self.bytes = self.seen_bytes();
        self.durable_len = self.durable_len.min(len);
        self.pending.retain(|write| !write.is_of_length() && write.start < len);
        for write in &mut self.pending {
            write.end = write.end.min(len);
        }
        self.lost.retain(|lost| lost.start < len);
        for lost in &mut self.lost {
            lost.end = lost.end.min(len);
        }
        true
    }

    /// Puts bytes behind the file's end, durably.
    pub(in crate::disk) fn lengthen(&mut self, more: &[u8]) {
        let start = self.len;
        self.len += more.len() as u64;
        self.durable_len = self.len;
        self.pending.retain(|write| !write.is_of_length());
        self.overwrite(start, more);
    }

    /// Makes the file hold these bytes and no others, durably.
    pub(in crate::disk) fn replace_durably(&mut self, bytes: Arc<Vec<u8>>) {
        self.len = bytes.len() as u64;
        self.durable_len = self.len;
        self.bytes = bytes;
        self.pending.clear();
        self.lost.clear();
    }

    /// Forgets the page cache: reads bring what the disk has where a failed sync had left a difference.
    pub(in crate::disk) fn evict(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        let bytes = Arc::make_mut(&mut self.bytes);
        for lost in self.lost.drain(..) {
            let range = |at: u64| usize::try_from(at).expect("a simulated file fits memory").min(bytes.len());
            let (start, end) = (range(lost.start), range(lost.end));
            bytes[start..end].fill(0);
        }
    }
}
