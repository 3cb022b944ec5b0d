//! Figures as people read them: 34,924 and 1.9 MB and 3.2 ms.

use std::time::Duration;

/// Reads a count from an argument.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let is_count = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_count);
    number.ok_or_else(|| match is_count {
        true => "the number is too large".to_owned(),
        false => "a whole number is wanted, 0 or more".to_owned(),
    })
}

/// Writes a count with thousands separators.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a count with the word for what is counted, in the plural if it is not one.
pub(crate) fn counted(number: u64, word: &str) -> String {
    let word = match word.strip_suffix('y') {
        _ if number == 1 => word.to_owned(),
        Some(stem) => format!("{stem}ies"),
        None if word.ends_with("ch") || word.ends_with("sh") => format!("{word}es"),
        None => format!("{word}s"),
    };
    format!("{} {word}", count(number))
}

/// Writes a number of bytes in decimal units.
pub(crate) fn bytes(number: u64) -> String {
    match number {
        0..1_000 => format!("{number} B"),
        1_000..1_000_000 => format!("{:.1} kB", as_f64(number) / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", as_f64(number) / 1e6),
        _ => format!("{:.2} GB", as_f64(number) / 1e9),
    }
}

/// Writes a span of time with three figures or so.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1e-3 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

/// Returns how many a second `number` in `time` are; a time too short to measure counts as a nanosecond.
pub(crate) fn per_second(number: u64, time: Duration) -> f64 {
    as_f64(number) / time.as_secs_f64().max(1e-9)
}

/// Writes a rate with thousands separators.
pub(crate) fn rate(number: u64, time: Duration) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^64"
    )]
    let whole = per_second(number, time).round() as u64;
    count(whole)
}

/// Writes `number` bytes in `time` as MB a second.
pub(crate) fn throughput(number: u64, time: Duration) -> String {
    format!("{:.1} MB/s", per_second(number, time) / 1e6)
}

/// Converts a count for arithmetic where the last digit does not matter.
pub(crate) fn as_f64(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "figures for people; 53 bits are plenty")]
    let float = number as f64;
    float
}

#[cfg(test)]
mod tests {
    use crate::numbers::{bytes, count, counted, parsed, rate, span};
    use std::time::Duration;

    #[test]
    fn a_count_is_digits() {
        assert_eq!(parsed::<u8>("255"), Ok(255));
        assert_eq!(parsed::<u8>("256"), Err("the number is too large".to_owned()));
        for text in ["", "-1", "+1", "1.5", "many"] {
            assert!(parsed::<u8>(text).is_err_and(|said| said.starts_with("a whole number")), "{text}");
        }
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(34_924), "34,924");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "table"), "1 table");
        assert_eq!(counted(1_000, "table"), "1,000 tables");
        assert_eq!(counted(0, "entry"), "0 entries");
        assert_eq!([counted(1, "batch"), counted(2, "batch")], ["1 batch", "2 batches"]);
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_913_704), "1.9 MB");
        assert_eq!(span(Duration::from_micros(3_210)), "3.2 ms");
        assert_eq!(rate(5_000, Duration::from_millis(500)), "10,000");
    }
}
