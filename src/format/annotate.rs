//! Prints the bytes of a file with what they are, for the golden snapshots beside each format.
//!
//! Knows the formats from `docs/format/` alone and uses nothing of the readers and writers, so that a snapshot shows
//! what the document means, and fails when document and writer part.

use std::fmt::Write as _;

/// Prints bytes front to back.
pub(crate) struct Annotator<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub text: String,
}

impl<'a> Annotator<'a> {
    pub fn new(bytes: &'a [u8]) -> Annotator<'a> {
        Annotator { bytes, at: 0, text: String::new() }
    }

    pub fn title(&mut self, title: &str) {
        writeln!(self.text, "\n{title}").expect("strings grow");
    }

    /// Prints the next `len` bytes, sixteen a row, and returns them.
    pub fn take(&mut self, len: usize, label: &str) -> &'a [u8] {
        let bytes = &self.bytes[self.at..self.at + len];
        for (row, chunk) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let label = if row == 0 { label } else { "" };
            let line = format!("{:06x}  {:47}  {label}", self.at + 16 * row, hex.join(" "));
            writeln!(self.text, "{}", line.trim_end()).expect("strings grow");
        }
        self.at += len;
        bytes
    }

    /// Prints a little-endian number of `len` bytes, at most eight, behind its label.
    pub fn number(&mut self, len: usize, label: &str) -> u64 {
        let value = little_endian(&self.bytes[self.at..self.at + len]);
        self.take(len, &format!("{label} {value}"));
        value
    }

    /// Prints a time: eight bytes, signed.
    pub fn time(&mut self, label: &str) {
        let value = little_endian(&self.bytes[self.at..self.at + 8]).cast_signed();
        self.take(8, &format!("{label} {value} ms"));
    }

    pub fn varint(&mut self, label: &str) -> usize {
        let len = 1 + self.bytes[self.at..].iter().take_while(|&&byte| byte >= 0x80).count();
        let value = varints(&self.bytes[self.at..self.at + len])[0];
        self.take(len, &format!("{label} {value}"));
        value
    }

    /// Prints the length of some bytes and then the bytes.
    pub fn prefixed(&mut self, label: &str) {
        let len = self.varint(&format!("{label}: length"));
        let text = self.bytes[self.at..self.at + len].escape_ascii().to_string();
        if len > 0 {
            self.take(len, &format!("{label} {text}"));
        }
    }

    /// Prints the frame of `docs/format/log.md` that begins here, up to its payload; returns its kind and its end.
    pub fn frame_header(&mut self) -> (u8, usize) {
        let start = self.at;
        let payload_len = usize::try_from(little_endian(&self.bytes[start + 4..start + 8])).expect("small");
        let end = start + 24 + payload_len;
        let kind = self.bytes[start + 15];
        let name = match kind {
            1 => "header",
            2 => "record",
            3 => "end",
            _ => panic!("kind {kind} is in no document"),
        };
        self.title(&format!("frame: {name}"));
        let crc = crc32fast::hash(&[&(start as u64).to_le_bytes(), &self.bytes[start + 4..end]].concat());
        assert_eq!(self.bytes[start..start + 4], crc.to_le_bytes(), "the checksum is as documented");
        self.take(4, "crc32");
        self.number(4, "payload length");
        self.number(7, "log number");
        self.take(1, &format!("kind: {name}"));
        self.number(8, "watermark");
        (kind, end)
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Reads numbers of seven bits a byte.
pub(crate) fn varints(bytes: &[u8]) -> Vec<usize> {
    let number =
        |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7F));
    bytes.split_inclusive(|&byte| byte < 0x80).map(number).collect()
}
