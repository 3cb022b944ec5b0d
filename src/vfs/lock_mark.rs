//! What a lock file says: the number of the process that opened the database for writing last, as a line of ten columns. Nothing
//! depends on it.

/// Bytes of the line: as many as the largest number makes it, so that each overwrites the one before.
pub const LEN_BYTES: usize = 11;

/// Encodes the line.
pub fn encode(process: u32) -> String {
    format!("{process:>10}\n")
}

/// Decodes a file's bytes; `None` if they say something else.
pub fn decode(bytes: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(bytes).ok().filter(|line| line.len() == LEN_BYTES)?;
    line.strip_suffix('\n')?.trim_start_matches(' ').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_of_ours_names_a_process() {
        for process in [1, 25_629, u32::MAX] {
            let line = encode(process);
            assert_eq!((line.len(), decode(line.as_bytes())), (LEN_BYTES, Some(process)));
        }
        for other in ["7\n", "", "         7 ", "0000000007", "       -7 \n", "         7\n\n"] {
            assert_eq!(decode(other.as_bytes()), None, "{other:?}");
        }
    }
}
