//! Bytes as text that a terminal, a tab-separated file and a person can take.
//!
//! Promises: [`escaped`] gives one line without tabs or control characters; [`unescaped`] gives back exactly the
//! bytes; text without backslashes and control characters stands for itself.
//!
//! How: `\t`, `\n`, `\r`, `\\`, and `\xNN` for every other byte that is not part of a printable UTF-8 character.
//! Characters that reorder or break lines (U+2028, bidirectional controls) count as not printable, and so does the byte
//! order mark, which a reader takes for no part of the text where it comes first.

use std::fmt::Write as _;

/// Returns `bytes` as one line of printable text.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push_str("\\\\"),
                _ if is_printable(character) => text.push(character),
                _ => push_hex(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

/// Returns the bytes that `text` stands for.
///
/// # Errors
/// A sentence that names the first bad escape and its place (counted in bytes from 1).
pub(crate) fn unescaped(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        bytes.extend_from_slice(&rest[..at]);
        let column = text.len() - rest.len() + at + 1;
        let (byte, taken) = one_escape(&rest[at + 1..]).ok_or_else(|| {
            format!(
                "bad escape at byte {column}: write \\t, \\n, \\r, \\\\ or \\xNN with two hexadecimal digits"
            )
        })?;
        bytes.push(byte);
        rest = &rest[at + 1 + taken..];
    }
    bytes.extend_from_slice(rest);
    Ok(bytes)
}

/// Reads what follows a backslash: the byte it stands for, and how many bytes of text it took.
fn one_escape(text: &[u8]) -> Option<(u8, usize)> {
    match *text.first()? {
        b't' => Some((b'\t', 1)),
        b'n' => Some((b'\n', 1)),
        b'r' => Some((b'\r', 1)),
        b'\\' => Some((b'\\', 1)),
        b'x' => Some((hex_byte(text.get(1..3)?)?, 3)),
        _ => None,
    }
}

/// Reads two hexadecimal digits.
fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
    }
}

fn is_printable(character: char) -> bool {
    let reorders_or_breaks = matches!(character,
        '\u{FEFF}' | '\u{2028}' | '\u{2029}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !reorders_or_breaks
}

/// Returns `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// Reads what [`hex`] wrote; `None` if it is anything else.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| if pair.len() == 2 { hex_byte(pair) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use crate::escape::{escaped, from_hex, hex, unescaped};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_string_comes_back_and_is_one_printable_line(bytes: Vec<u8>) {
            let text = escaped(&bytes);
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
            prop_assert_eq!(unescaped(text.as_bytes()), Ok(bytes.clone()));
            prop_assert_eq!(from_hex(&hex(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(text: Vec<u8>) {
            let _ = unescaped(&text);
            let _ = from_hex(&String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn printable_text_stands_for_itself() {
        assert_eq!(escaped("grüße 🦀".as_bytes()), "grüße 🦀");
        assert_eq!(escaped(b"a\tb\\c\x00\xff\x1b"), "a\\tb\\\\c\\x00\\xff\\x1b");
        assert_eq!(escaped("\u{feff}".as_bytes()), "\\xef\\xbb\\xbf");
        assert_eq!(escaped("\u{2028}\u{202e}".as_bytes()), "\\xe2\\x80\\xa8\\xe2\\x80\\xae");
    }

    #[test]
    fn a_bad_escape_is_named_with_its_place() {
        for (text, column) in [("ab\\q", 3), ("\\", 1), ("\\x4", 1), ("\\n\\xg0", 3)] {
            let message = unescaped(text.as_bytes()).expect_err("the escape is bad");
            assert!(message.starts_with(&format!("bad escape at byte {column}:")), "{message}");
        }
    }
}
