//! Checksums that are bound to where the bytes belong.
//!
//! A plain checksum says that bytes are unbroken; it does not say that they are the bytes that were asked
//! for. A disk can serve an old version of a block, or the right block of the wrong file. So the place goes
//! into the sum: file number, offset and what the bytes are.
//!
//! ```text
//! sum = mask(crc32(bytes ++ file number u64 LE ++ offset u64 LE ++ region u8))
//! mask(c) = rotate_right(c, 15) + 0x9E37_79B9   (wrapping)
//! ```
//!
//! The mask keeps sums that lie inside summed bytes (a whole-file checksum runs over every block's own sum)
//! from cancelling out, and turns a run of zeros with a zero sum into a mismatch.
//!
//! It does not defend against an adversary: 32 bits of CRC find accidents, not forgeries.

use crate::base::ids::FileNumber;

/// What the summed bytes are. The codes are part of every file and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Region {
    /// A block of a table: data, index, filter or properties.
    TableBlock = 1,
    /// The footer of a table.
    TableFooter = 2,
    /// The header of a framed log.
    LogHeader = 3,
    /// A frame of a write-ahead log.
    WalFrame = 4,
    /// A frame of a manifest.
    ManifestFrame = 5,
    /// The file that names the current manifest.
    Pointer = 6,
    /// A record of a backup's catalog.
    Catalog = 7,
}

/// Where bytes belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What they are.
    pub region: Region,
    /// The file they lie in.
    pub file: FileNumber,
    /// Where in the file they begin, in bytes.
    pub offset: u64,
}

impl Place {
    /// Sums `parts`, one after another, as bytes of this place.
    #[inline]
    pub fn checksum(&self, parts: &[&[u8]]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        let mut salt = [0u8; 17];
        salt[..8].copy_from_slice(&self.file.0.to_le_bytes());
        salt[8..16].copy_from_slice(&self.offset.to_le_bytes());
        salt[16] = self.region as u8;
        hasher.update(&salt);
        mask(hasher.finalize())
    }
}

/// Sums the bytes of a whole file, in the order they are appended, wherever the file lies.
#[derive(Clone, Debug, Default)]
pub struct FileChecksum {
    hasher: crc32fast::Hasher,
}

impl FileChecksum {
    /// Starts with no byte.
    pub fn new() -> FileChecksum {
        FileChecksum::default()
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Returns the sum of all bytes so far.
    pub fn value(&self) -> u32 {
        mask(self.hasher.clone().finalize())
    }
}

const fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0x9E37_79B9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { region: Region::TableBlock, file: FileNumber(7), offset: 4096 };

    #[test]
    fn the_same_bytes_elsewhere_have_another_sum() {
        let sum = HERE.checksum(&[b"bytes"]);
        let elsewhere = [
            Place { region: Region::WalFrame, ..HERE },
            Place { file: FileNumber(8), ..HERE },
            Place { offset: 8192, ..HERE },
        ];
        for place in elsewhere {
            assert_ne!(place.checksum(&[b"bytes"]), sum);
        }
    }

    #[test]
    fn parts_sum_like_the_whole() {
        assert_eq!(HERE.checksum(&[b"by", b"", b"tes"]), HERE.checksum(&[b"bytes"]));
        let mut file = FileChecksum::new();
        file.update(b"by");
        file.update(b"tes");
        let mut whole = FileChecksum::new();
        whole.update(b"bytes");
        assert_eq!(file.value(), whole.value());
    }

    #[test]
    fn sums_never_change_meaning() {
        assert_eq!(HERE.checksum(&[b"bytes"]), 4_078_735_106);
        assert_eq!(FileChecksum::new().value(), 0x9E37_79B9);
    }
}
