//! The real data of the demonstration: `UnicodeData.txt`, one record for each character or range of characters.
//!
//! A record's key is its code point as six hexadecimal digits, so that byte order is code-point order; its value is
//! the rest of the line. `data/README.md` tells where the file comes from and under which licence.

/// The version of the Unicode Character Database that is shipped.
pub(crate) const VERSION: &str = "15.0.0";

const FILE: &str = include_str!("../data/UnicodeData.txt");

/// One line of the file.
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    pub(crate) value: &'static [u8],
}

/// Returns all records in key order.
///
/// # Panics
/// If the shipped file is not what it was; a test reads it.
pub(crate) fn records() -> Vec<Record> {
    let record = |line: &'static str| {
        let (code, rest) = line.split_once(';').expect("every line of the file has fields");
        let code = u32::from_str_radix(code, 16).expect("the first field is a code point");
        Record { key: key(code), value: rest.as_bytes() }
    };
    FILE.lines().map(record).collect()
}

/// Returns the key of a code point.
pub(crate) fn key(code: u32) -> Vec<u8> {
    format!("{code:06X}").into_bytes()
}

/// Returns the character's name: the first field of a record's value.
pub(crate) fn name_of(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b';').next().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use crate::demo::unicode::{name_of, records};

    #[test]
    fn the_shipped_file_is_whole_and_in_order() {
        let records = records();
        assert_eq!(records.len(), 34_924);
        assert!(records.is_sorted_by(|a, b| a.key < b.key));
        assert_eq!(name_of(records[0x41].value), b"LATIN CAPITAL LETTER A");
    }
}
