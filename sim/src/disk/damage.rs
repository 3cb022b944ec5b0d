//! Damage that no crash explains: bytes that a disk lost, mixed up or brought back.
//!
//! Damage is done on purpose, to one file, and is durable: the next crash does not take it back. Open handles see it at
//! once, so it may be done to a database that is open as well as to one that is closed. Nothing is drawn, takes time or
//! is told to the observer; each kind is counted.

use crate::disk::SimDisk;
use crate::disk::inode::Inode;
use crate::disk::profile::SECTOR_LEN_BYTES;
use crate::disk::volume::missing;
use std::fmt;
use std::path::{Path, PathBuf};
use tinylsm::base::error::{Error, Result};

/// What happens to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit turns over.
    Flip {
        /// The byte.
        at: u64,
        /// The bit, counted from the lowest.
        bit: u8,
    },
    /// Bytes turn to zeros.
    Zero {
        /// The first byte.
        start: u64,
        /// How many.
        len: u64,
    },
    /// Sectors are as they were before the last write to each of them, as if the disk had lost it.
    Stale {
        /// A byte of the first sector.
        start: u64,
        /// How many bytes; every sector they touch is concerned.
        len: u64,
    },
    /// Bytes of another place, or of another file, stand in a place: a write that went astray hit it.
    Copied {
        /// The first byte that is overwritten.
        start: u64,
        /// How many.
        len: u64,
        /// Where they come from; zeros stand for what it does not have.
        from: PathBuf,
        /// Its first byte that is copied.
        at: u64,
    },
    /// The file is what the file was that had its name before: a name's change came back. Nothing if none is known.
    Former,
    /// The end is cut off.
    Cut {
        /// What is left.
        len: u64,
    },
    /// Bytes that nobody wrote follow the end.
    Lengthened {
        /// How many.
        len: u64,
        /// What decides them.
        seed: u64,
    },
}

impl Damage {
    /// Returns the name under which [`SimDisk::counters`] counts it.
    pub const fn name(&self) -> &'static str {
        match self {
            Damage::Flip { .. } => "damage: a bit flipped",
            Damage::Zero { .. } => "damage: bytes zeroed",
            Damage::Stale { .. } => "damage: sectors stale",
            Damage::Copied { .. } => "damage: bytes of another place",
            Damage::Former => "damage: an older file under its name",
            Damage::Cut { .. } => "damage: a file cut",
            Damage::Lengthened { .. } => "damage: a file lengthened",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Flip { at, bit } => write!(f, "bit {bit} of byte {at} flipped"),
            Damage::Zero { start, len } => write!(f, "{len} bytes zeroed from {start}"),
            Damage::Stale { start, len } => write!(f, "{len} bytes from {start} as before the last write"),
            Damage::Copied { start, len, from, at } => {
                write!(f, "{len} bytes from {start} are those of {} from {at}", from.display())
            }
            Damage::Former => f.write_str("the file that had the name before"),
            Damage::Cut { len } => write!(f, "cut to {len} bytes"),
            Damage::Lengthened { len, .. } => write!(f, "{len} more bytes at the end"),
        }
    }
}

impl SimDisk {
    /// Damages a file. Returns whether it differs from before; damage that hits zeros with zeros does nothing.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` if the place lies behind the file's end, where nothing is changed.
    pub fn damage(&self, path: &Path, damage: &Damage) -> Result<bool> {
        let route = self.route(path)?;
        let source = match damage {
            Damage::Copied { from, .. } => Some(self.route(from)?),
            _ => None,
        };
        let mut volume = self.shared.volume.lock();
        let id = volume.find_file("damage", &route)?;
        let is_changed = match damage {
            Damage::Former => {
                let place = volume.place("damage", &route)?;
                match volume.former(place).filter(|bytes| *bytes != volume.inode(id).seen_bytes()) {
                    Some(bytes) => {
                        volume.charge(id, |inode| inode.replace_durably(bytes));
                        true
                    }
                    None => false,
                }
            }
            Damage::Copied { start, len, at, .. } => {
                let source = source.ok_or_else(|| missing("damage", path))?;
                let source = volume.find_file("damage", &source)?;
                let mut bytes = vec![0; within(volume.inode(id), *start, *len, path)?];
                volume.inode(source).read(&mut bytes, *at);
                volume.inode_mut(id).overwrite(*start, &bytes)
            }
            _ => volume.charge(id, |inode| damage_inode(inode, damage, path))?,
        };
        drop(volume);
        if is_changed {
            self.shared.count(damage.name(), 1);
        }
        Ok(is_changed)
    }

    /// Lets a write that was durable go astray: its bytes stand in `onto` from `at` on, and their own place is as it
    /// was before the write. Returns whether anything differs from before.
    ///
    /// # Errors
    /// As [`SimDisk::damage`].
    pub fn misdirect_write(
        &self,
        path: &Path,
        (start, len): (u64, u64),
        onto: &Path,
        at: u64,
    ) -> Result<bool> {
        let copied = Damage::Copied { start: at, len, from: path.to_owned(), at: start };
        let is_hit = self.damage(onto, &copied)?;
        Ok(self.damage(path, &Damage::Stale { start, len })? || is_hit)
    }

    /// Flips one bit of a file: [`Damage::Flip`].
    ///
    /// # Errors
    /// As [`SimDisk::damage`].
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> Result<()> {
        self.damage(path, &Damage::Flip { at: offset, bit }).map(drop)
    }
}

/// Damages what concerns one file only.
fn damage_inode(inode: &mut Inode, damage: &Damage, path: &Path) -> Result<bool> {
    Ok(match *damage {
        Damage::Flip { at, bit } => {
            within(inode, at, 1, path)?;
            let mut byte = [0];
            inode.read(&mut byte, at);
            inode.overwrite(at, &[byte[0] ^ (1 << (bit % 8))])
        }
        Damage::Zero { start, len } => {
            let len = within(inode, start, len, path)?;
            inode.overwrite(start, &vec![0; len])
        }
        Damage::Stale { start, len } => {
            within(inode, start, len, path)?;
            let (first, end) = (start / SECTOR_LEN_BYTES, (start + len).div_ceil(SECTOR_LEN_BYTES));
            let mut is_changed = false;
            for sector in first..end {
                let end = ((sector + 1) * SECTOR_LEN_BYTES).min(inode.len);
                let old_end = inode.older_end(sector * SECTOR_LEN_BYTES).min(end);
                let zeros = usize::try_from(end - old_end).expect("within a sector");
                is_changed |= inode.overwrite(old_end, &vec![0; zeros]);
            }
            is_changed
        }
        Damage::Cut { len } => inode.cut(len),
        Damage::Lengthened { len, seed } => {
            let len = usize::try_from(len).map_err(|_| Error::invalid("too long").with_file(path))?;
            let mut more = vec![0; len];
            crate::disk::contents::scramble(&mut more, seed);
            inode.lengthen(&more);
            len > 0
        }
        Damage::Copied { .. } | Damage::Former => unreachable!("these concern more than one file"),
    })
}

/// Checks that a place lies within a file; returns its length.
fn within(inode: &Inode, start: u64, len: u64, path: &Path) -> Result<usize> {
    match start.checked_add(len).filter(|end| *end <= inode.len) {
        Some(_) => Ok(usize::try_from(len).expect("a simulated file fits memory")),
        None => Err(Error::invalid("there is no such place").with_file(path)),
    }
}
