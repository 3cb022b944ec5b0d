//! `load`: from a file or standard input into a keyspace.
//!
//! Promises: every line before the one that is wrong is in the database when the message with its number appears,
//! and nothing behind it; when the command reports success, all of it is synced. Whatever else fails, the message says
//! how many rows are in the database and whether they are on disk.
//!
//! How: rows are gathered in batches, each one atomic, handed to the system without waiting for the disk; one sync at
//! the end covers them all.

use crate::escape::{from_hex, shown, unescaped};
use crate::failure::{Failure, Outcome};
use crate::modify::{CLOSING, is_in_doubt};
use crate::numbers;
use crate::output::Output;
use crate::place::KeyspacePlace;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, error::Category};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tinylsm::{Db, ErrorKind, Keyspace, WriteBatch, WriteOptions};

/// Rows of one atomic batch: enough to make a log record's overhead vanish.
const BATCH_ROWS_MAX: usize = 1_000;
/// Bytes of one batch, so that rows with large values do not pile up in memory.
const BATCH_LEN_BYTES_MAX: usize = 1 << 20;
/// Longest line: the largest key and value with every byte escaped, each of which takes six in JSON. Input may claim
/// anything; this bounds memory.
const LINE_LEN_BYTES_MAX: u64 = 6 * ((64 << 20) + (64 << 10)) + 64;

/// How many bytes of the input's beginning are looked at.
const HEAD_LEN_BYTES: u64 = 15;
/// The byte order mark, which means nothing in UTF-8.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
/// How packed files begin, what packed them, and what unpacks them to standard output. Each has a byte that no text of
/// `scan` has; for bzip2 see [`is_bzip2`].
const PACKED: [(&[u8], &str, &str); 4] = [
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
];

/// `load FILE`
#[derive(Args)]
pub(crate) struct LoadArguments {
    #[command(flatten)]
    place: KeyspacePlace,
    /// The file to load; `-` is standard input.
    file: PathBuf,
    /// What a line looks like; told from the file's name or its first line without this.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// What a line of input looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// `key<TAB>value`, with escapes; further tabs belong to the value.
    Tsv,
    /// {"key": …, "value": …}, each a string or {"hex": "…"}; nothing else in it.
    Json,
}

/// Loads the input and reports rows and rates.
pub(crate) fn run(arguments: &LoadArguments) -> Outcome {
    let (input, total_bytes) = open_input(&arguments.file)?;
    let input = past_mark(input, &arguments.file)?;
    let (db, keyspace) = arguments.place.open_or_create()?;
    let mut loading = Loading {
        sink: BatchSink {
            db: &db,
            keyspace: &keyspace,
            batch: WriteBatch::new(),
            committed_count: 0,
            failed: None,
        },
        format: arguments.format.or_else(|| format_of_name(&arguments.file)),
        bytes: 0,
        line_number: 0,
        progress: progress_bar(total_bytes),
        started: Instant::now(),
    };
    let stopped = loading.all_lines(input).err();
    loading.progress.finish_and_clear();
    let Loading { sink: BatchSink { batch, committed_count: rows, failed, .. }, bytes, started, .. } =
        loading;
    // Of the batch that failed all or nothing may be in the log, if the log is what failed.
    let is_in_doubt = failed.is_some_and(|kind| is_in_doubt(&db, kind));
    let doubtful_count = if is_in_doubt { batch.len() as u64 } else { 0 };
    let synced = db.sync();
    let taken = started.elapsed();
    let closed = db.close();
    if let Some(stopped) = stopped {
        return Err(told_after(stopped, rows, doubtful_count, synced));
    }
    let all = all_loaded(rows);
    synced.map_err(|error| {
        Failure::after(&format!("{all}, but a power cut may take the last of them"), "syncing", &error)
    })?;
    let mut out = Output::new();
    out.text(format_args!(
        "loaded {}, {} in {}: {} rows/s, {}",
        numbers::counted(rows, "row"),
        numbers::bytes(bytes),
        numbers::span(taken),
        numbers::rate(rows, taken),
        numbers::throughput(bytes, taken)
    ))?;
    out.flush()?;
    closed.map_err(|error| Failure::after(&format!("{all} and on disk"), CLOSING, &error))
}

/// Says that all rows are loaded.
fn all_loaded(rows: u64) -> String {
    match rows {
        0 => "there is no row to load".to_owned(),
        1 => "the only row is loaded".to_owned(),
        _ => format!("all {} rows are loaded", numbers::count(rows)),
    }
}

/// Says that rows from the beginning are loaded.
fn first_loaded(rows: u64) -> String {
    match rows {
        0 => "no row is loaded".to_owned(),
        1 => "the first row is loaded".to_owned(),
        _ => format!("the first {} rows are loaded", numbers::count(rows)),
    }
}

/// Adds to why a load stopped what is in the database: `rows` surely, and of `doubtful_count` more all or none.
fn told_after(stopped: Failure, rows: u64, doubtful_count: u64, synced: tinylsm::Result<()>) -> Failure {
    let told = match (&stopped, doubtful_count) {
        (Failure::Usage(_), _) => match rows {
            0 => "nothing is loaded".to_owned(),
            1 => "the row before it is loaded".to_owned(),
            _ => format!("the {} rows before it are loaded", numbers::count(rows)),
        },
        (_, 0) => first_loaded(rows),
        (_, 1) => format!("{}, and the next one may be", first_loaded(rows)),
        (_, count) => {
            format!("{}, and of the next {} either all or none", first_loaded(rows), numbers::count(count))
        }
    };
    match (&stopped, synced) {
        (_, Ok(())) => stopped.retold(|text| format!("{text} ({told})")),
        (Failure::Usage(text), Err(error)) => Failure::after(
            &format!("{text} ({told}, but a power cut may take the last of them)"),
            "syncing",
            &error,
        ),
        // Why it stopped is why it cannot be synced.
        (_, Err(_)) => {
            stopped.retold(|text| format!("{text} ({told}; a power cut may take the last of them)"))
        }
    }
}

fn open_input(path: &Path) -> Outcome<(Box<dyn BufRead>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::with_capacity(1 << 20, io::stdin())), None));
    }
    let cannot = |error: io::Error| Failure::Usage(format!("cannot read {}: {error}", shown(path)));
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_dir() {
        return Err(Failure::Usage(format!("cannot read {}: it is a directory", shown(path))));
    }
    Ok((Box::new(BufReader::with_capacity(1 << 20, file)), Some(metadata.len())))
}

/// Looks at how the input begins: steps over the mark that some editors put before UTF-8, which belongs to no key, and
/// refuses what is no text in lines.
fn past_mark(mut input: Box<dyn BufRead>, path: &Path) -> Outcome<Box<dyn BufRead>> {
    let mut head = Vec::new();
    let read = input.by_ref().take(HEAD_LEN_BYTES).read_to_end(&mut head);
    read.map_err(|error| Failure::system("cannot read the input", &error))?;
    let file = if path == Path::new("-") { "FILE".to_owned() } else { shown(path) };
    if let Some((packer, unpack)) = packed_with(&head) {
        return Err(Failure::Usage(format!(
            "the input is packed with {packer}; unpack it on the way:\n  {unpack} {file} | tinylsm load … -"
        )));
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err(Failure::Usage(format!(
            "the input is text in UTF-16; convert it on the way:\n  iconv -f UTF-16 -t UTF-8 {file} | tinylsm load … -"
        )));
    }
    let mark_len = if head.starts_with(UTF8_MARK) { UTF8_MARK.len() } else { 0 };
    Ok(Box::new(Cursor::new(head.split_off(mark_len)).chain(input)))
}

/// Tells by its beginning what packed a file, and what unpacks it to standard output.
fn packed_with(head: &[u8]) -> Option<(&'static str, &'static str)> {
    if is_bzip2(head) {
        return Some(("bzip2", "bzip2 -dc"));
    }
    let (_, packer, unpack) = PACKED.iter().find(|(magic, ..)| head.starts_with(magic))?;
    Some((packer, unpack))
}

/// Tells whether a file that begins so is of bzip2. All ten bytes of its magic are letters, digits and a sign, which may
/// be a key; four bytes behind them comes the highest of a number below 900,000 with 25 bits, a control that no text has.
/// Without any content, the magic has controls itself.
fn is_bzip2(head: &[u8]) -> bool {
    let Some(([b'B', b'Z', b'h', b'1'..=b'9'], rest)) = head.split_first_chunk() else { return false };
    let is_block = rest.starts_with(b"1AY&SY") && rest.get(10).is_some_and(|&byte| byte < 8);
    is_block || rest.starts_with(b"\x17\x72\x45\x38\x50\x90")
}

fn progress_bar(total_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match total_bytes {
        Some(total) => (ProgressBar::new(total), "{bar:40} {percent:>3}%  {msg}"),
        None => (ProgressBar::no_length(), "{spinner} {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is a constant that parses"))
}

fn format_of_name(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "json" | "jsonl" | "ndjson" => Some(Format::Json),
        "tsv" | "txt" => Some(Format::Tsv),
        _ => None,
    }
}

/// One load under way.
struct Loading<'a> {
    sink: BatchSink<'a>,
    format: Option<Format>,
    bytes: u64,
    line_number: u64,
    progress: ProgressBar,
    started: Instant,
}

impl Loading<'_> {
    fn all_lines(&mut self, mut input: Box<dyn BufRead>) -> Outcome {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = input.by_ref().take(LINE_LEN_BYTES_MAX + 1).read_until(b'\n', &mut line);
            let length = read.map_err(|error| Failure::system("cannot read the input", &error))? as u64;
            if length == 0 {
                return self.sink.commit();
            }
            self.line_number += 1;
            self.bytes += length;
            if let Err(problem) = self.one_line(&line) {
                // What the engine refused is not tried again.
                if matches!(problem, Failure::Usage(_)) {
                    self.sink.commit()?;
                }
                return Err(self.placed(problem));
            }
            if self.line_number.is_multiple_of(1 << 12) {
                self.show_progress();
            }
        }
    }

    fn one_line(&mut self, line: &[u8]) -> Outcome {
        if line.len() as u64 > LINE_LEN_BYTES_MAX {
            return Err(Failure::Usage("the line is longer than any key and value may be".to_owned()));
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(());
        }
        let format = *self.format.get_or_insert_with(|| format_of_line(line));
        let (key, value) = parsed(format, line).map_err(Failure::Usage)?;
        self.sink.row(&key, &value)
    }

    /// Adds the line's number.
    fn placed(&self, problem: Failure) -> Failure {
        problem.retold(|text| format!("line {}: {text}", self.line_number))
    }

    fn show_progress(&self) {
        let taken = self.started.elapsed();
        self.progress.set_position(self.bytes);
        self.progress.set_message(format!(
            "{}, {} rows/s, {}",
            numbers::counted(self.sink.committed_count, "row"),
            numbers::rate(self.sink.committed_count, taken.max(Duration::from_millis(1))),
            numbers::throughput(self.bytes, taken.max(Duration::from_millis(1)))
        ));
    }
}

/// Gathers rows and commits them batch by batch.
struct BatchSink<'a> {
    db: &'a Db,
    keyspace: &'a Keyspace,
    /// What is not committed yet, or could not be.
    batch: WriteBatch,
    /// Rows in the database.
    committed_count: u64,
    /// How a commit failed.
    failed: Option<ErrorKind>,
}

impl BatchSink<'_> {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        if key.len() > tinylsm::base::limits::KEY_LEN_BYTES_MAX {
            return Err(Failure::Usage(format!(
                "the key is {} bytes long, and 65,535 is the most",
                key.len()
            )));
        }
        if value.len() > tinylsm::base::limits::VALUE_LEN_BYTES_MAX {
            return Err(Failure::Usage(format!(
                "the value is {} bytes long, and 64 MiB is the most",
                value.len()
            )));
        }
        self.batch.put(self.keyspace, key, value);
        if self.batch.len() >= BATCH_ROWS_MAX || self.batch.byte_len() >= BATCH_LEN_BYTES_MAX {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Outcome {
        if !self.batch.is_empty() {
            let written = self.db.write(&self.batch, WriteOptions::os());
            written.inspect_err(|error| self.failed = Some(error.kind()))?;
            self.committed_count += self.batch.len() as u64;
            self.batch.clear();
        }
        Ok(())
    }
}

/// Guesses from the first line: a JSON object with a key, or else tab-separated. What has a tab is tab-separated, though
/// it may be JSON as well: `scan` prints no other tab than that behind the key, and keys may be JSON.
fn format_of_line(line: &[u8]) -> Format {
    if line.contains(&b'\t') {
        return Format::Tsv;
    }
    let is_object = serde_json::from_slice::<Value>(line).is_ok_and(|value| value.get("key").is_some());
    if is_object { Format::Json } else { Format::Tsv }
}

/// Reads one line's key and value, or says what is wrong with it.
fn parsed(format: Format, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    match format {
        Format::Tsv => {
            let tab = line.iter().position(|&byte| byte == b'\t');
            let tab = tab.ok_or_else(|| without_tab(line))?;
            let key = unescaped(&line[..tab]).map_err(|problem| format!("key: {problem}"))?;
            let value = unescaped(&line[tab + 1..]).map_err(|problem| format!("value: {problem}"))?;
            Ok((key, value))
        }
        Format::Json => {
            // A list would do for the fields in order, and is not meant.
            if line.trim_ascii_start().first() != Some(&b'{') {
                return Err("each line must be a JSON object, {\"key\": …, \"value\": …}".to_owned());
            }
            let row: JsonRow = serde_json::from_slice(line).map_err(|error| json_problem(&error))?;
            Ok((row.key.0, row.value.0))
        }
    }
}

/// Says that a line has no tab, and what it may be instead.
fn without_tab(line: &[u8]) -> String {
    let hint = match line.first() {
        Some(b'{' | b'[') => "; if the input is JSON, say --format json",
        _ => "",
    };
    format!("there is no tab between key and value{hint}")
}

/// One line of JSON. Another field, or one that comes twice, is an error: what it means, nobody knows.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRow {
    key: JsonBytes,
    value: JsonBytes,
}

/// A string, or {"hex": "…"}.
struct JsonBytes(Vec<u8>);

impl<'de> Deserialize<'de> for JsonBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonBytes, D::Error> {
        deserializer.deserialize_any(JsonBytesVisitor)
    }
}

struct JsonBytesVisitor;

impl<'de> Visitor<'de> for JsonBytesVisitor {
    type Value = JsonBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"hex\": \"…\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<JsonBytes, E> {
        Ok(JsonBytes(text.as_bytes().to_vec()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<JsonBytes, A::Error> {
        match (fields.next_entry::<String, String>()?, fields.next_key::<String>()?) {
            (Some((name, digits)), None) if name == "hex" => match from_hex(&digits) {
                Some(bytes) => Ok(JsonBytes(bytes)),
                None => Err(de::Error::custom(format!("{digits:?} is not pairs of hexadecimal digits"))),
            },
            _ => Err(de::Error::custom("the object must have the one field \"hex\"")),
        }
    }
}

/// Says what is wrong with a line of JSON, and where in it.
fn json_problem(error: &serde_json::Error) -> String {
    // Its own text counts lines too, of which there is one.
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let place = format!("(column {})", error.column());
    match error.classify() {
        Category::Data => format!("{text} {place}"),
        Category::Eof => format!("not JSON: {text} {place}; each line must be a whole object"),
        Category::Syntax | Category::Io => format!("not JSON: {text} {place}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::escape::printable_json;
    use crate::failure::Failure;
    use crate::load::{Format, all_loaded, format_of_line, packed_with, parsed, past_mark, told_after};
    use crate::look::{json_row, tsv_row};
    use proptest::prelude::*;
    use std::io::{Cursor, Read as _};
    use std::path::Path;

    #[test]
    fn one_row_is_not_several() {
        let told = |rows, doubtful_count| {
            let failure = told_after(Failure::engine("full"), rows, doubtful_count, Ok(()));
            failure.message().expect("it says something").to_owned()
        };
        assert_eq!(told(0, 0), "full (no row is loaded)");
        assert_eq!(told(1, 1), "full (the first row is loaded, and the next one may be)");
        assert_eq!(told(2, 3), "full (the first 2 rows are loaded, and of the next 3 either all or none)");
        assert_eq!([all_loaded(1), all_loaded(2)], ["the only row is loaded", "all 2 rows are loaded"]);
    }

    #[test]
    fn tabs_split_once_and_escapes_are_understood() {
        let row = parsed(Format::Tsv, b"a\\tb\tc\td\\x00").expect("the line is good");
        assert_eq!(row, (b"a\tb".to_vec(), b"c\td\0".to_vec()));
        assert!(parsed(Format::Tsv, b"no tab here").is_err());
        assert!(parsed(Format::Tsv, b"bad\\q\tvalue").expect_err("bad escape").starts_with("key: "));
    }

    #[test]
    fn json_takes_text_and_hex_and_nothing_else() {
        let row =
            parsed(Format::Json, br#"{"key":"a\\b","value":{"hex":"00ff"}}"#).expect("the line is good");
        assert_eq!(row, (b"a\\b".to_vec(), vec![0, 255]));
        for line in [
            r#"{"key":"a","key":"b","value":"c"}"#,
            r#"{"key":"a","value":"b","value":"b"}"#,
            r#"{"key":"a","value":{"hex":"00","hex":"01"}}"#,
            r#"{"key":"a","value":"b","ttl":5}"#,
            r#"{"key":1,"value":""}"#,
            r#"{"key":"a"}"#,
            r#"{"key":"a","value":{"hex":"0"}}"#,
            r#"["a","b"]"#,
            r#"{"key":["00"],"value":"b"}"#,
            r#"{"key":{"hex":"00","raw":"1"},"value":"b"}"#,
            r#"{"key":{},"value":"b"}"#,
            "[]",
            "{",
        ] {
            assert!(parsed(Format::Json, line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn the_first_line_tells_the_format() {
        assert_eq!(format_of_line(br#"{"key":"a","value":"b"}"#), Format::Json);
        assert_eq!(format_of_line(b"{\tvalue"), Format::Tsv);
        assert_eq!(format_of_line(br#"{"key":"a"}"#), Format::Json);
        assert_eq!(format_of_line(b"{\"key\":\"a\",\"value\":\"b\"}\t"), Format::Tsv);
    }

    #[test]
    fn packed_input_is_told_from_text() {
        let packed: [(&[u8], &str); 6] = [
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\xfd7zXZ\0", "xz"),
            (b"PK\x03\x04", "zip"),
            (b"BZh91AY&SY\x0a\xff\x00\x80\x06", "bzip2"),
            (b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0", "bzip2"),
        ];
        for (head, packer) in packed {
            assert_eq!(packed_with(head).map(|(name, _)| name), Some(packer), "{head:?}");
        }
        for text in
            ["BZh", "BZh\t1", "BZhang\t1", "BZh91AY&SY\tvalue\n", "BZh91AY&SY", "PK\t1", "(\t/", "7zXZ\t", ""]
        {
            assert_eq!(packed_with(text.as_bytes()), None, "{text:?}");
        }
    }

    /// Strings that could be taken for something else where they stand first in the input.
    const NASTY: [&[u8]; 30] = [
        b"",
        b"a",
        b" ",
        b"{",
        b"[",
        b"{\"key\":\"a\",\"value\":\"b\"}",
        b"{\"key\":\"a\",\"value\":\"b\"",
        b"{\"key\":\"",
        b"\",\"value\":\"b\"}",
        b"\"",
        b"\\",
        b"\\x41\\",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xfe\xff",
        b"BZh",
        b"BZh91AY&SY",
        b"BZh91AY&SY\x0a\xff\x00\x80\x06",
        b"\x1f\x8b\x08",
        b"PK\x03\x04",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        "\u{202e}\u{61c}\u{2028}\u{85}".as_bytes(),
        "grüße 🦀\u{200d}\u{e0041}".as_bytes(),
        b"\x1b]0;owned\x07\x80\xc3",
    ];

    /// Reads the one row of an input, as `load -` does.
    fn the_row(input: &str) -> (Vec<u8>, Vec<u8>) {
        let input = Box::new(Cursor::new(input.as_bytes().to_vec()));
        let mut input = past_mark(input, Path::new("-")).expect("it is text");
        let mut line = Vec::new();
        input.read_to_end(&mut line).expect("it is in memory");
        let line = line.strip_suffix(b"\n").expect("there is a line");
        parsed(format_of_line(line), line).expect("the line is good")
    }

    #[test]
    fn every_row_that_scan_prints_comes_back() {
        for key in NASTY {
            for value in NASTY {
                let row = (key.to_vec(), value.to_vec());
                assert_eq!(the_row(&format!("{}\n", tsv_row(key, value))), row);
                assert_eq!(the_row(&format!("{}\n", printable_json(&json_row(key, value).to_string()))), row);
            }
        }
    }

    proptest! {
        #[test]
        fn any_row_that_scan_prints_comes_back(key: Vec<u8>, value: Vec<u8>) {
            prop_assert_eq!(the_row(&format!("{}\n", tsv_row(&key, &value))), (key.clone(), value.clone()));
            let json = json_row(&key, &value).to_string();
            prop_assert_eq!(the_row(&format!("{}\n", printable_json(&json))), (key, value));
        }
    }
}
