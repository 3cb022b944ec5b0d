//! How a block is packed, summed and stored, and how it is got back.
//!
//! ```text
//! stored block := payload type(u8) checksum(u32 LE)
//! payload      := the block (type 0), or its length (u32 LE) and its LZ4 form (type 1)
//! ```
//!
//! The checksum covers payload, type, file number and offset ([`Place`]), and is checked before anything is
//! unpacked. LZ4 is kept only where it saves 12 % or more: below that, unpacking costs more than it brings.

use crate::base::ids::FileNumber;
use crate::base::limits::BLOCK_LEN_BYTES_MAX;
use crate::format::checksum::{Place, Region};
use crate::table::block::{Damaged, UNKNOWN_BLOCK_TYPE};
use crate::table::options::Compression;
use lz4_flex::block::CompressTable;
use std::cell::Cell;

/// Bytes behind every payload.
pub const TRAILER_LEN_BYTES: usize = 5;

const TYPE_PLAIN: u8 = 0;
const TYPE_LZ4: u8 = 1;
const LZ4_HEAD_LEN_BYTES: usize = 4;
/// LZ4 cannot do better than this, so a block that claims more is damaged; bounds what is allocated.
const LZ4_RATIO_MAX: usize = 256;
/// A reader keeps this much memory for the next read at most.
const SCRATCH_LEN_BYTES_MAX: usize = 1 << 20;

fn place(file: FileNumber, offset: u64) -> Place {
    Place { region: Region::TableBlock, file, offset }
}

/// Packs blocks, reusing its tables.
pub struct Packer {
    compression: Compression,
    table: CompressTable,
    packed: Vec<u8>,
}

impl Packer {
    /// Makes a packer for blocks of one table.
    pub fn new(compression: Compression) -> Packer {
        Packer { compression, table: CompressTable::small(), packed: Vec::new() }
    }

    /// Packs `block` if that pays, and hands payload and trailer to be stored at `offset` of `file`.
    pub fn pack<'a>(
        &'a mut self,
        block: &'a [u8],
        file: FileNumber,
        offset: u64,
    ) -> (&'a [u8], [u8; TRAILER_LEN_BYTES]) {
        let (payload, kind) = match self.compress(block) {
            Some(packed_len) => (&self.packed[..packed_len], TYPE_LZ4),
            None => (block, TYPE_PLAIN),
        };
        let sum = place(file, offset).checksum(&[payload, &[kind]]).to_le_bytes();
        (payload, [kind, sum[0], sum[1], sum[2], sum[3]])
    }

    /// Hands payload and trailer of a block that stays as it is.
    pub fn wrap(block: &[u8], file: FileNumber, offset: u64) -> [u8; TRAILER_LEN_BYTES] {
        let sum = place(file, offset).checksum(&[block, &[TYPE_PLAIN]]).to_le_bytes();
        [TYPE_PLAIN, sum[0], sum[1], sum[2], sum[3]]
    }

    /// Fills `packed` and returns how much of it counts, if it is small enough to be kept.
    fn compress(&mut self, block: &[u8]) -> Option<usize> {
        if self.compression == Compression::None || block.len() > BLOCK_LEN_BYTES_MAX {
            return None;
        }
        let space = LZ4_HEAD_LEN_BYTES + lz4_flex::block::get_maximum_output_size(block.len());
        if self.packed.len() < space {
            self.packed.resize(space, 0);
        }
        let block_len = u32::try_from(block.len()).expect("a block that is packed is below its bound");
        let (head, output) = self.packed.split_at_mut(LZ4_HEAD_LEN_BYTES);
        head.copy_from_slice(&block_len.to_le_bytes());
        let len = lz4_flex::block::compress_into_with_table(block, output, &mut self.table)
            .expect("the output has the space that the packer asks for");
        let packed_len = LZ4_HEAD_LEN_BYTES + len;
        (packed_len * 100 <= block.len() * 88).then_some(packed_len)
    }
}

/// Checks a stored block, trailer included, and returns what was packed, with space for `spare` more bytes.
pub fn unpack(stored: &[u8], file: FileNumber, offset: u64, spare: usize) -> Result<Vec<u8>, Damaged> {
    let (payload, trailer) =
        stored.split_last_chunk::<TRAILER_LEN_BYTES>().ok_or(Damaged("a block shorter than its trailer"))?;
    let [kind, sum @ ..] = trailer;
    if place(file, offset).checksum(&[payload, &[*kind]]) != u32::from_le_bytes(sum.to_owned()) {
        return Err(Damaged("checksum mismatch of a block"));
    }
    match *kind {
        TYPE_PLAIN => {
            let mut block = Vec::with_capacity(payload.len() + spare);
            block.extend_from_slice(payload);
            Ok(block)
        }
        TYPE_LZ4 => unpack_lz4(payload, spare),
        _ => Err(UNKNOWN_BLOCK_TYPE),
    }
}

fn unpack_lz4(payload: &[u8], spare: usize) -> Result<Vec<u8>, Damaged> {
    let (head, packed) = payload
        .split_first_chunk::<LZ4_HEAD_LEN_BYTES>()
        .ok_or(Damaged("a packed block without its length"))?;
    let len = u32::from_le_bytes(*head) as usize;
    if len > BLOCK_LEN_BYTES_MAX || len > packed.len().saturating_mul(LZ4_RATIO_MAX) {
        return Err(Damaged("a packed block claims an impossible length"));
    }
    // Given a size it allocates that much, and unlike a buffer of ours it is not filled with zeros first.
    match lz4_flex::block::decompress(packed, len + spare) {
        Ok(block) if block.len() == len => Ok(block),
        _ => Err(Damaged("a packed block does not unpack")),
    }
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends a buffer of `len` bytes with arbitrary contents. It is taken out of its cell meanwhile, so that
/// another simulated thread on the same system thread, or a nested call, gets a buffer of its own.
pub fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    let result = body(&mut scratch[..len]);
    if scratch.len() <= SCRATCH_LEN_BYTES_MAX {
        SCRATCH.set(scratch);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;
    use proptest::prelude::*;
    use std::path::Path;

    const FILE: FileNumber = FileNumber(3);

    fn pack(compression: Compression, block: &[u8]) -> Vec<u8> {
        let mut packer = Packer::new(compression);
        let (payload, trailer) = packer.pack(block, FILE, 100);
        [payload, &trailer].concat()
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(block in prop::collection::vec(0u8..4, 0..3000), lz4: bool) {
            let stored = pack(if lz4 { Compression::Lz4 } else { Compression::None }, &block);
            let unpacked = unpack(&stored, FILE, 100, 16).expect("intact");
            prop_assert_eq!(&unpacked, &block);
            prop_assert!(unpacked.capacity() >= block.len() + 16);
            prop_assert!(unpack(&stored, FILE, 101, 0).is_err());
            prop_assert!(unpack(&stored, FileNumber(4), 100, 0).is_err());
        }

        #[test]
        fn damaged_payloads_do_not_unpack_out_of_bounds(payload: Vec<u8>) {
            // The checksum is right, so the unpacker itself is what holds.
            let mut stored = payload.clone();
            stored.push(TYPE_LZ4);
            let sum = place(FILE, 0).checksum(&[&payload, &[TYPE_LZ4]]);
            stored.extend_from_slice(&sum.to_le_bytes());
            let _ = unpack(&stored, FILE, 0, 16);
        }
    }

    #[test]
    fn a_type_of_a_newer_version_is_told_from_damage() {
        let mut stored = b"anything".to_vec();
        stored.push(2);
        let sum = place(FILE, 100).checksum(&[b"anything", &[2]]);
        stored.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(unpack(&stored, FILE, 100, 0), Err(UNKNOWN_BLOCK_TYPE));
        let (file, kind) =
            (Path::new("db/000003.sst"), |fault: Damaged| fault.into_error(Path::new("t"), 1).kind());
        let error = UNKNOWN_BLOCK_TYPE.into_error(file, 100);
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Incompatible, Some(100)));
        stored[0] ^= 1;
        assert_eq!(kind(unpack(&stored, FILE, 100, 0).expect_err("damaged")), ErrorKind::Corruption);
    }

    #[test]
    fn a_packed_block_takes_no_more_memory_than_its_bytes_can_hold() {
        for len in [u32::MAX, 1 << 30, 257] {
            let payload = [&len.to_le_bytes()[..], &[0x10]].concat();
            let sum = place(FILE, 0).checksum(&[&payload, &[TYPE_LZ4]]);
            let stored = [&payload[..], &[TYPE_LZ4], &sum.to_le_bytes()].concat();
            let refused = Err(Damaged("a packed block claims an impossible length"));
            assert_eq!(unpack(&stored, FILE, 0, 0), refused, "{len} bytes");
        }
    }

    #[test]
    fn blocks_that_do_not_shrink_stay_plain() {
        let noise: Vec<u8> = (0..1000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        assert_eq!(pack(Compression::Lz4, &noise)[1000], TYPE_PLAIN);
        let zeros = pack(Compression::Lz4, &[0; 1000]);
        assert_eq!(zeros[zeros.len() - TRAILER_LEN_BYTES], TYPE_LZ4);
    }
}
