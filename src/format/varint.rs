//! Numbers in few bytes: seven bits a byte, lowest first, the top bit set on all but the last (LEB128).
//!
//! Reading is bounded and strict: it never looks past the slice, and takes neither more bits than the type
//! holds nor more bytes than it can need. What it does not take is `None`, which callers turn into
//! corruption with file and offset.

/// Most bytes a `u32` takes.
pub const U32_LEN_BYTES_MAX: usize = 5;
/// Most bytes a `u64` takes.
pub const U64_LEN_BYTES_MAX: usize = 10;

/// Appends `value` to `out`.
#[inline]
pub fn write_u32(out: &mut Vec<u8>, value: u32) {
    write_u64(out, u64::from(value));
}

/// Appends `value` to `out`.
#[inline]
pub fn write_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_seven(value) | 0x80);
        value >>= 7;
    }
    out.push(low_seven(value));
}

#[inline]
fn low_seven(value: u64) -> u8 {
    value.to_le_bytes()[0] & 0x7F
}

/// Reads a number from the front of `bytes`; returns it and how many bytes it took.
#[inline]
pub fn read_u32(bytes: &[u8]) -> Option<(u32, usize)> {
    if let Some(&first) = bytes.first()
        && first < 0x80
    {
        return Some((u32::from(first), 1));
    }
    let (value, len) = read_long(bytes, U32_LEN_BYTES_MAX)?;
    Some((u32::try_from(value).ok()?, len))
}

/// Reads a number from the front of `bytes`; returns it and how many bytes it took.
#[inline]
pub fn read_u64(bytes: &[u8]) -> Option<(u64, usize)> {
    if let Some(&first) = bytes.first()
        && first < 0x80
    {
        return Some((u64::from(first), 1));
    }
    read_long(bytes, U64_LEN_BYTES_MAX)
}

fn read_long(bytes: &[u8], len_max: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(len_max).enumerate() {
        let bits = u64::from(byte & 0x7F);
        let shift = 7 * index;
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Takes a number off the front of `bytes`.
#[inline]
pub fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (value, len) = read_u32(bytes)?;
    *bytes = &bytes[len..];
    Some(value)
}

/// Takes a number off the front of `bytes`.
#[inline]
pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (value, len) = read_u64(bytes)?;
    *bytes = &bytes[len..];
    Some(value)
}

/// Appends the length of `field` and then `field` itself.
///
/// # Panics
/// If the field is 4 GiB or longer; every field has a bound in limits.rs.
#[inline]
pub fn write_bytes(out: &mut Vec<u8>, field: &[u8]) {
    write_u32(out, u32::try_from(field.len()).expect("limits.rs keeps every field below 4 GiB"));
    out.extend_from_slice(field);
}

/// Takes a field written by [`write_bytes`] off the front of `bytes`, if it is there in full and no longer
/// than `len_max`.
#[inline]
pub fn take_bytes<'a>(bytes: &mut &'a [u8], len_max: usize) -> Option<&'a [u8]> {
    let mut rest = *bytes;
    let len = usize::try_from(take_u32(&mut rest)?).ok()?;
    if len > len_max {
        return None;
    }
    let (field, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(value: u64, small: u32, field: Vec<u8>) {
            let mut bytes = Vec::new();
            write_u64(&mut bytes, value);
            prop_assert_eq!(read_u64(&bytes), Some((value, bytes.len())));
            for cut in 0..bytes.len() {
                prop_assert_eq!(read_u64(&bytes[..cut]), None);
            }
            write_u32(&mut bytes, small);
            write_bytes(&mut bytes, &field);
            bytes.push(9);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_u64(&mut rest), Some(value));
            prop_assert_eq!(take_u32(&mut rest), Some(small));
            prop_assert_eq!(take_bytes(&mut rest, field.len()), Some(&field[..]));
            prop_assert_eq!(rest, &[9]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            for len in [read_u32(&bytes).map(|(_, len)| len), read_u64(&bytes).map(|(_, len)| len)] {
                prop_assert!(len.is_none_or(|len| len <= bytes.len()));
            }
        }
    }

    #[test]
    fn too_many_bits_are_refused() {
        assert_eq!(read_u32(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), Some((u32::MAX, 5)));
        assert_eq!(read_u32(&[0xFF, 0xFF, 0xFF, 0xFF, 0x1F]), None);
        assert_eq!(read_u32(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), None);
        assert_eq!(read_u64(&[0xFF; 10]), None);
        let mut bytes = vec![0xFF; 9];
        bytes.push(1);
        assert_eq!(read_u64(&bytes), Some((u64::MAX, 10)));
        bytes[9] = 2;
        assert_eq!(read_u64(&bytes), None);
    }

    #[test]
    fn a_field_longer_than_its_bound_is_refused() {
        let mut bytes = Vec::new();
        write_bytes(&mut bytes, b"field");
        assert_eq!(take_bytes(&mut &bytes[..], 4), None);
        assert_eq!(take_bytes(&mut &bytes[..5], 9), None);
    }
}
