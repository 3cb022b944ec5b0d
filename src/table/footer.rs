//! The end of a table, from which everything else in it is found.
//!
//! ```text
//!  0  index offset        u64      36  index kind        u8   1 = one flat block
//!  8  filter offset       u64      37  filter kind       u8   0 = none, 1 = bloom in lines of 512 bits
//! 16  properties offset   u64      38  zero              u16
//! 24  index length        u32      40  file number       u64
//! 28  filter length       u32      48  file checksum     u32  of all bytes before the footer
//! 32  properties length   u32      52  footer length     u32  72
//!                                  56  format version    u32
//!                                  60  footer checksum   u32  bytes 0..60, magic; region TableFooter
//!                                  64  magic             8 bytes
//! ```
//!
//! All numbers are little-endian; lengths leave a block's trailer out. The last twenty bytes keep their place
//! in every future version, and the checksum covers `footer length` bytes whatever the version: so a newer
//! file is told from a damaged one.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::format::checksum::{Place, Region};
use crate::table::stored::TRAILER_LEN_BYTES;
use crate::vfs::{ReadFile, read_full};
use std::path::Path;

/// Bytes of a footer of this version.
pub const FOOTER_LEN_BYTES: usize = 72;
/// The last bytes of every table.
pub const MAGIC: [u8; 8] = *b"TinyTbl\xFE";
/// The version this code writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

const TAIL_LEN_BYTES: usize = 20;
/// A footer of any version is at most so long, and so much is read in search of one.
pub const FOOTER_LEN_BYTES_MAX: usize = 4096;
const INDEX_KIND_FLAT: u8 = 1;
const FILTER_KIND_NONE: u8 = 0;
const FILTER_KIND_BLOOM: u8 = 1;

/// Where a block lies in its file, its trailer left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handle {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes of its payload.
    pub len: u32,
}

impl Handle {
    /// Returns where the block's trailer ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.len)).saturating_add(TRAILER_LEN_BYTES as u64)
    }
}

/// What the footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The index block.
    pub index: Handle,
    /// The filter block, if the table has one.
    pub filter: Option<Handle>,
    /// The properties block.
    pub properties: Handle,
    /// The sum of all bytes before the footer.
    pub file_checksum: u32,
}

impl Footer {
    /// Encodes the footer of file `number`, to be stored at `offset`.
    pub fn encode(&self, number: FileNumber, offset: u64) -> [u8; FOOTER_LEN_BYTES] {
        let filter = self.filter.unwrap_or_default();
        let filter_kind = if self.filter.is_some() { FILTER_KIND_BLOOM } else { FILTER_KIND_NONE };
        let mut bytes = [0; FOOTER_LEN_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.index.offset.to_le_bytes());
        put(8, &filter.offset.to_le_bytes());
        put(16, &self.properties.offset.to_le_bytes());
        put(24, &self.index.len.to_le_bytes());
        put(28, &filter.len.to_le_bytes());
        put(32, &self.properties.len.to_le_bytes());
        put(36, &[INDEX_KIND_FLAT, filter_kind, 0, 0]);
        put(40, &number.0.to_le_bytes());
        put(48, &self.file_checksum.to_le_bytes());
        put(52, &72u32.to_le_bytes());
        put(56, &FORMAT_VERSION.to_le_bytes());
        put(64, &MAGIC);
        let sum = footer_checksum(&bytes, number, offset).expect("a footer is longer than its tail");
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Decodes the footer of file `number` from `tail`, the last bytes of a file of `file_len` bytes:
    /// [`FOOTER_LEN_BYTES_MAX`], or all of them. Fewer, though at least [`FOOTER_LEN_BYTES`], are enough for this
    /// version's; a newer one that is longer is then taken for a damaged one.
    ///
    /// # Errors
    /// `Incompatible` for a newer format; `Corruption`.
    pub fn decode(tail: &[u8], file_len: u64, number: FileNumber, path: &Path) -> Result<Footer> {
        let at = file_len.saturating_sub(FOOTER_LEN_BYTES as u64);
        let corrupt = |message: String| Error::corruption(path, at, message);
        let Some((_, end)) = tail.split_last_chunk::<TAIL_LEN_BYTES>() else {
            return Err(corrupt(format!("{file_len} bytes are too few for a table")));
        };
        if end[12..] != MAGIC {
            return Err(corrupt("not a table, or one whose end is missing: no magic number".to_owned()));
        }
        let word = |at: usize| u32::from_le_bytes([end[at], end[at + 1], end[at + 2], end[at + 3]]);
        let (footer_len, version, stored_sum) = (word(0) as usize, word(4), word(8));
        let bytes = (TAIL_LEN_BYTES..=FOOTER_LEN_BYTES_MAX)
            .contains(&footer_len)
            .then(|| tail.len().checked_sub(footer_len))
            .flatten()
            .map(|start| &tail[start..]);
        let Some(bytes) = bytes else {
            return Err(corrupt(format!("the footer claims an impossible length of {footer_len} bytes")));
        };
        let offset = file_len - footer_len as u64;
        let own_number = bytes.get(40..48).and_then(|bytes| bytes.first_chunk::<8>());
        let own_number = own_number.map_or(number, |bytes| FileNumber(u64::from_le_bytes(*bytes)));
        if footer_checksum(bytes, number, offset) != Some(stored_sum) {
            if own_number != number && footer_checksum(bytes, own_number, offset) == Some(stored_sum) {
                return Err(corrupt(format!("this is table {own_number}, not table {number}")));
            }
            return Err(corrupt("checksum mismatch of the footer".to_owned()));
        }
        if version != FORMAT_VERSION {
            let message = format!("table format version {version}; this build reads {FORMAT_VERSION}");
            return Err(Error::new(ErrorKind::Incompatible, message).with_file(path).with_offset(offset));
        }
        let Ok(bytes) = <&[u8; FOOTER_LEN_BYTES]>::try_from(bytes) else {
            return Err(corrupt("the footer has not the length of its version".to_owned()));
        };
        Footer::decode_fields(bytes, offset, path)
    }

    fn decode_fields(bytes: &[u8; FOOTER_LEN_BYTES], offset: u64, path: &Path) -> Result<Footer> {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let handle = |at: usize, len_at: usize| Handle { offset: u64_at(at), len: u32_at(len_at) };
        let unknown = |what: &str, kind: u8| {
            let message = format!("unknown kind of {what}: {kind}");
            Error::new(ErrorKind::Incompatible, message).with_file(path).with_offset(offset)
        };
        if bytes[36] != INDEX_KIND_FLAT {
            return Err(unknown("index", bytes[36]));
        }
        let filter = match bytes[37] {
            FILTER_KIND_NONE => None,
            FILTER_KIND_BLOOM => Some(handle(8, 28)),
            kind => return Err(unknown("filter", kind)),
        };
        let footer =
            Footer { index: handle(0, 24), filter, properties: handle(16, 32), file_checksum: u32_at(48) };
        // Blocks lie side by side in this order, which also keeps every length below the file's.
        let index_start = footer.filter.map_or(footer.index.offset, |filter| filter.end());
        let in_place = footer.index.offset == index_start
            && footer.index.end() == footer.properties.offset
            && footer.properties.end() == offset;
        if !in_place {
            return Err(Error::corruption(path, offset, "the footer's blocks do not lie side by side"));
        }
        Ok(footer)
    }

    /// Returns where the data blocks end.
    pub fn data_end(&self) -> u64 {
        self.filter.map_or(self.index.offset, |filter| filter.offset)
    }
}

/// Returns which table a file says it is, by what it ends with, whether or not that is true; `None` if it ends like no table:
/// it is none, or one that lost its end.
///
/// # Errors
/// `Io`.
pub fn number_claimed(file: &dyn ReadFile) -> Result<Option<FileNumber>> {
    let Some(start) = file.len()?.checked_sub(FOOTER_LEN_BYTES as u64) else { return Ok(None) };
    let mut footer = [0; FOOTER_LEN_BYTES];
    let is_whole = read_full(file, &mut footer, start)? == FOOTER_LEN_BYTES;
    let number = footer[40..].first_chunk().copied().map(u64::from_le_bytes);
    let is_claimed = is_whole && footer.ends_with(&MAGIC);
    Ok(number.filter(|_| is_claimed).and_then(FileNumber::from_disk))
}

/// Sums a footer without the sum itself.
fn footer_checksum(bytes: &[u8], number: FileNumber, offset: u64) -> Option<u32> {
    let (head, magic) = bytes.split_last_chunk::<8>()?;
    let (head, _) = head.split_last_chunk::<4>()?;
    Some(Place { region: Region::TableFooter, file: number, offset }.checksum(&[head, magic]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: FileNumber = FileNumber(5);
    const OFFSET: u64 = 1000;

    fn sample() -> Footer {
        Footer {
            filter: Some(Handle { offset: 700, len: 95 }),
            index: Handle { offset: 800, len: 95 },
            properties: Handle { offset: 900, len: 95 },
            file_checksum: 77,
        }
    }

    fn decode(bytes: &[u8]) -> Result<Footer> {
        Footer::decode(bytes, OFFSET + bytes.len() as u64, NUMBER, Path::new("t"))
    }

    fn seal(bytes: &mut [u8; FOOTER_LEN_BYTES]) {
        let sum = footer_checksum(bytes, NUMBER, OFFSET).expect("long enough");
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = sample().encode(NUMBER, OFFSET);
        assert_eq!(decode(&bytes).expect("intact"), sample());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_corruption() {
        let bytes = sample().encode(NUMBER, OFFSET);
        for bit in 0..8 * FOOTER_LEN_BYTES {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged).expect_err("flipped").kind(), ErrorKind::Corruption);
        }
        for len in 0..FOOTER_LEN_BYTES {
            assert_eq!(decode(&bytes[..len]).expect_err("cut").kind(), ErrorKind::Corruption);
            let tail = &bytes[FOOTER_LEN_BYTES - len..];
            assert_eq!(decode(tail).expect_err("cut").kind(), ErrorKind::Corruption);
        }
    }

    #[test]
    fn a_newer_format_is_named_and_not_taken_for_damage() {
        let mut bytes = sample().encode(NUMBER, OFFSET);
        bytes[56] = 2;
        seal(&mut bytes);
        let error = decode(&bytes).expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.to_string().contains("version 2; this build reads 1"), "{error}");
    }

    #[test]
    fn a_longer_footer_of_a_newer_format_is_named_and_not_taken_for_damage() {
        for len in [FOOTER_LEN_BYTES + 1, 200, FOOTER_LEN_BYTES_MAX] {
            let mut bytes = vec![7; len - TAIL_LEN_BYTES];
            bytes[40..48].copy_from_slice(&NUMBER.0.to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(len).expect("short").to_le_bytes());
            bytes.extend_from_slice(&2u32.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&MAGIC);
            let sum = footer_checksum(&bytes, NUMBER, OFFSET).expect("long enough");
            bytes[len - 12..len - 8].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(decode(&bytes).expect_err("newer").kind(), ErrorKind::Incompatible, "{len} bytes");
            bytes[60] ^= 1;
            assert_eq!(decode(&bytes).expect_err("damaged").kind(), ErrorKind::Corruption);
        }
    }

    #[test]
    fn a_table_under_another_name_says_who_it_is() {
        let bytes = sample().encode(FileNumber(6), OFFSET);
        let error = decode(&bytes).expect_err("misnamed");
        assert!(error.to_string().contains("this is table 000006, not table 000005"), "{error}");
    }

    #[test]
    fn blocks_outside_the_file_are_refused() {
        let mut footer = sample();
        footer.properties.len = u32::MAX;
        assert!(decode(&footer.encode(NUMBER, OFFSET)).is_err());
        footer.properties = Handle { offset: u64::MAX, len: 3 };
        assert!(decode(&footer.encode(NUMBER, OFFSET)).is_err());
    }
}
