//! Bytes as text that a terminal, a tab-separated file and a person can take.
//!
//! Promises: [`escaped`] gives one line without tabs or control characters; [`unescaped`] gives back exactly the
//! bytes; text without backslashes and characters that are not printable stands for itself.
//!
//! How: `\t`, `\n`, `\r`, `\\`, and `\xNN` for every other byte that is not part of a printable UTF-8 character. Not
//! printable are the characters that a reader of the line cannot see, or that change how others are seen:
//! - controls (Unicode's category Cc), and the separators of lines and paragraphs (Zl, Zp: U+2028, U+2029);
//! - what may be ignored in display (the property Default_Ignorable_Code_Point). The bidirectional controls are among
//!   it (U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069), characters without width (U+200B to U+200D,
//!   U+2060 to U+2064), the soft hyphen, U+180E, fillers (U+3164), tags (U+E0000 to U+E007F), and the byte order mark
//!   (U+FEFF), which a reader takes for no part of the text where it comes first. Variation selectors are not escaped:
//!   they choose how the character before them looks;
//! - the marks of an annotation between lines (U+FFF9 to U+FFFB).
//!
//! Texts that are made elsewhere (messages of the engine and of the argument parser, JSON) pass [`printable`],
//! [`on_one_line`] or [`printable_json`] on their way out, which escape the same characters.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{MAIN_SEPARATOR, Path};

/// Returns `bytes` as one line of printable text.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ if is_printable(character) => text.push(character),
                _ => push_escape(&mut text, character),
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

/// Returns a path as messages show it.
pub(crate) fn shown(path: &Path) -> String {
    let text = escaped(path.as_os_str().as_encoded_bytes());
    // Where a backslash stands between directories, nobody wants to see two.
    if MAIN_SEPARATOR == '\\' { text.replace("\\\\", "\\") } else { text }
}

/// Returns a text of several lines with the escapes of [`escaped`] for what is not printable; backslashes stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    with_escapes(text, |character| is_printable(character) || character == '\n', push_escape)
}

/// Returns a text as [`printable`] does, and on one line whatever is in it.
pub(crate) fn on_one_line(text: &str) -> Cow<'_, str> {
    with_escapes(text, is_printable, push_escape)
}

/// Returns a JSON text that means the same, with JSON's own escapes for what is not printable.
pub(crate) fn printable_json(text: &str) -> Cow<'_, str> {
    let push_units = |text: &mut String, character: char| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(text, "\\u{unit:04x}").expect("writing to a string cannot fail");
        }
    };
    with_escapes(text, |character| is_printable(character) || character == '\n', push_units)
}

/// Returns `text` with what `push` makes of every character that is not to stay.
fn with_escapes(text: &str, stays: fn(char) -> bool, push: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() * 2);
    for character in text.chars() {
        if stays(character) { escaped.push(character) } else { push(&mut escaped, character) }
    }
    Cow::Owned(escaped)
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

fn push_escape(text: &mut String, character: char) {
    match character {
        '\t' => text.push_str("\\t"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        _ => push_hex(text, character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
    }
}

/// Tells whether a character stands for itself; the head of this file says which do not.
fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\u{2028}' | '\u{2029}' | '\u{FFF9}'..='\u{FFFB}' => false,
        _ => !character.is_control() && !is_ignorable(character),
    }
}

/// Tells whether a character is one that display may ignore, and no variation selector.
fn is_ignorable(character: char) -> bool {
    matches!(character,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180E}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FEFF}'
        | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
        | '\u{E0000}'..='\u{E00FF}' | '\u{E01F0}'..='\u{E0FFF}')
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
    use crate::demo::unicode;
    use crate::escape::{
        escaped, from_hex, hex, is_printable, on_one_line, printable, printable_json, shown, unescaped,
    };
    use proptest::prelude::*;
    use std::path::Path;

    proptest! {
        #[test]
        fn every_byte_string_comes_back_and_is_one_printable_line(bytes: Vec<u8>) {
            let text = escaped(&bytes);
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
            prop_assert_eq!(unescaped(text.as_bytes()), Ok(bytes.clone()));
            prop_assert_eq!(from_hex(&hex(&bytes)), Some(bytes));
        }

        #[test]
        fn json_means_the_same_with_every_character_printable(text: String) {
            let json = serde_json::to_string(&text).expect("a string has a JSON form");
            let shown = printable_json(&json);
            prop_assert!(shown.chars().all(is_printable), "{shown:?}");
            prop_assert_eq!(serde_json::from_str::<String>(&shown).expect("it is JSON still"), text);
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

    /// Format characters (Unicode's category Cf) that are seen: signs that enclose numbers or join hieroglyphs.
    fn is_seen(code: u32) -> bool {
        matches!(code, 0x600..=0x605 | 0x6DD | 0x70F | 0x890 | 0x891 | 0x8E2 | 0x110BD | 0x110CD | 0x13430..=0x1343F)
    }

    #[test]
    fn controls_separators_and_unseen_format_characters_are_escaped() {
        let mut escaped_count = 0;
        for record in unicode::records() {
            let field =
                |text: Option<&'static [u8]>| std::str::from_utf8(text.unwrap_or(b"")).expect("it is text");
            let mut fields = record.value.split(|&byte| byte == b';');
            let (name, category) = (field(fields.next()), field(fields.next()));
            let code = std::str::from_utf8(&record.key).expect("a key is digits");
            let code = u32::from_str_radix(code, 16).expect("a key is digits");
            let Some(character) = char::from_u32(code) else { continue };
            if matches!(category, "Cc" | "Zl" | "Zp") || category == "Cf" && !is_seen(code) {
                assert!(!is_printable(character), "U+{code:04X} {name}");
                escaped_count += 1;
            }
            if name.contains("VARIATION SELECTOR") {
                assert!(is_printable(character), "U+{code:04X} {name}");
            }
        }
        assert!(escaped_count > 200, "{escaped_count}");
        // Bidi_Control, and what is no format character by its category.
        for text in ["\u{61c}\u{200e}\u{200f}", "\u{2066}\u{2067}\u{2068}\u{2069}", "\u{34f}\u{115f}\u{3164}"]
        {
            assert!(!text.chars().any(is_printable), "{text:?}");
        }
        assert!(
            ('\u{202a}'..='\u{202e}')
                .chain('\u{e0000}'..='\u{e007f}')
                .all(|character| !is_printable(character))
        );
        assert!("a é € 🦀 ❤\u{fe0f} \u{301} \u{a0} \u{fffd}".chars().all(is_printable));
    }

    #[test]
    fn texts_of_others_are_printable() {
        let text = "one \"\\u{1b}\"\ntwo\u{1b}[31m\u{202e}\r\t";
        assert_eq!(printable(text), "one \"\\u{1b}\"\ntwo\\x1b[31m\\xe2\\x80\\xae\\r\\t");
        assert_eq!(on_one_line("a\nb"), "a\\nb");
        assert_eq!(printable_json("[\n  \"\u{9b}\u{e0041}\"]"), "[\n  \"\\u009b\\udb40\\udc41\"]");
    }

    #[cfg(unix)]
    #[test]
    fn a_path_is_one_printable_line() {
        let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/a b/\x1b]0;\n\xff\\");
        assert_eq!(shown(Path::new(path)), "/a b/\\x1b]0;\\n\\xff\\\\");
    }

    #[test]
    fn a_bad_escape_is_named_with_its_place() {
        for (text, column) in [("ab\\q", 3), ("\\", 1), ("\\x4", 1), ("\\n\\xg0", 3)] {
            let message = unescaped(text.as_bytes()).expect_err("the escape is bad");
            assert!(message.starts_with(&format!("bad escape at byte {column}:")), "{message}");
        }
    }
}
