//! The command line as a user meets it: the real program, its output, its messages and its exit codes.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the test drives another process and looks at the files it leaves"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tinylsm::{Background, Db, Durability, KeyspaceOptions, Options};

/// How one run of the program ended.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

/// Runs the program with nothing on its standard input.
fn tinylsm(arguments: &[&str]) -> Run {
    tinylsm_reading(arguments, b"")
}

/// Runs the program with `input` on its standard input.
fn tinylsm_reading(arguments: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tinylsm"))
        .args(arguments)
        .env_remove("COLUMNS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("asked for as a pipe");
    let input = input.to_vec();
    // The program may end without reading everything; that is its right.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the program ends");
    feeder.join().expect("feeding does not panic");
    Run {
        code: output.status.code().expect("the program was not killed"),
        out: String::from_utf8(output.stdout).expect("output is text"),
        err: String::from_utf8(output.stderr).expect("messages are text"),
    }
}

/// A directory for one test's databases.
struct Ground {
    dir: TempDir,
}

impl Ground {
    fn new() -> Ground {
        Ground { dir: tempfile::tempdir().expect("a temporary directory can be made") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes a database of `rows` rows with tables, a log and a manifest; returns its directory.
    fn database(&self, rows: usize) -> String {
        let db = self.text("db");
        let lines: String = (0..rows).map(|row| format!("key{row:06}\tvalue of row {row}\n")).collect();
        all_right(&tinylsm_reading(&["load", "--db", &db, "-"], lines.as_bytes()));
        all_right(&tinylsm(&["compact", "--db", &db]));
        all_right(&tinylsm(&["put", "--db", &db, "zebra", "in the log"]));
        db
    }
}

#[track_caller]
fn all_right(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

#[track_caller]
fn fails(run: &Run, code: i32, parts_of_message: &[&str]) {
    assert_eq!(run.code, code, "{run:?}");
    assert!(!run.err.contains("::"), "this is for programmers: {run:?}");
    for part in parts_of_message {
        assert!(run.err.contains(part), "no {part:?} in {run:?}");
    }
}

/// Reads every file of a directory.
fn bytes_of(dir: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("the directory is there");
    entries
        .map(|entry| {
            let path = entry.expect("the directory can be listed").path();
            let name = path.file_name().expect("listed by name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("the file can be read"))
        })
        .collect()
}

/// Returns the newest file of a directory whose name ends so. What a command makes obsolete is gone when it has ended.
fn file_ending(dir: &str, end: &str) -> PathBuf {
    let name = bytes_of(dir).into_keys().rfind(|name| name.ends_with(end));
    Path::new(dir).join(name.unwrap_or_else(|| panic!("there is a file *{end} in {dir}")))
}

const AWKWARD: &str = "\
back\\\\slash\tone\\\\\n\
empty\t\n\
grüße\t🦀\n\
nul\\x00byte\tesc\\x1b[0m\n\
tab\\tbed\ta\\tb\\nc\\rd\n\
\\xff\\xfe\t\\x80\n";

#[test]
fn what_was_loaded_is_scanned_escape_for_escape() {
    let ground = Ground::new();
    let (first, second, third) = (ground.text("first"), ground.text("second"), ground.text("third"));
    let run = tinylsm_reading(&["load", "--db", &first, "-"], AWKWARD.as_bytes());
    all_right(&run);
    assert!(run.out.starts_with("loaded 6 rows"), "{run:?}");
    let scanned = tinylsm(&["scan", "--db", &first]);
    assert_eq!(scanned.out, AWKWARD);

    all_right(&tinylsm_reading(&["load", "--db", &second, "-"], scanned.out.as_bytes()));
    assert_eq!(tinylsm(&["scan", "--db", &second]).out, AWKWARD);
    let json = tinylsm(&["scan", "--db", &second, "--json"]).out;
    all_right(&tinylsm_reading(&["load", "--db", &third, "-"], json.as_bytes()));
    assert_eq!(tinylsm(&["scan", "--db", &third]).out, AWKWARD);
}

#[test]
fn a_file_is_loaded_by_what_its_name_or_the_option_says() {
    let ground = Ground::new();
    let db = ground.text("db");
    fs::write(
        ground.path("rows.jsonl"),
        "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"b\",\"value\":\"2\"}\n",
    )
    .expect("the file can be written");
    fs::write(ground.path("rows.dat"), "{\"key\":\"c\"}\t3\r\n").expect("the file can be written");
    all_right(&tinylsm(&["load", "--db", &db, &ground.text("rows.jsonl")]));
    all_right(&tinylsm(&["load", "--db", &db, "--format", "tsv", &ground.text("rows.dat")]));
    assert_eq!(tinylsm(&["scan", "--db", &db]).out, "a\t1\nb\t2\n{\"key\":\"c\"}\t3\n");
}

#[test]
fn get_put_and_delete_understand_escapes() {
    let ground = Ground::new();
    let db = ground.text("db");
    all_right(&tinylsm(&["put", "--db", &db, "a\\x00b", "line\\nline"]));
    assert_eq!(tinylsm(&["get", "--db", &db, "a\\x00b"]).out, "line\\nline\n");
    assert_eq!(tinylsm(&["get", "--db", &db, "--raw", "a\\x00b"]).out, "line\nline");
    all_right(&tinylsm(&["delete", "--db", &db, "a\\x00b"]));
    fails(&tinylsm(&["get", "--db", &db, "a\\x00b"]), 3, &["key not found: a\\x00b"]);
    all_right(&tinylsm(&["delete", "--db", &db, "never was there"]));
}

#[test]
fn arguments_are_any_bytes_and_numbers_are_no_options() {
    let ground = Ground::new();
    let db = ground.text("db");
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let run = |arguments: &[OsString]| {
        let status = Command::new(env!("CARGO_BIN_EXE_tinylsm")).args(arguments).status();
        assert!(status.expect("the program runs").success(), "{arguments:?}");
    };
    let db_bytes = OsString::from(&db);
    run(&["put".into(), "--db".into(), db_bytes.clone(), bytes(b"\xff\xfe"), bytes(b"\x80")]);
    run(&["get".into(), "--db".into(), db_bytes.clone(), bytes(b"\xff\xfe")]);
    run(&["scan".into(), "--db".into(), db_bytes, "--from".into(), bytes(b"\xff")]);
    all_right(&tinylsm(&["put", "--db", &db, "-1", "-2.5"]));
    assert_eq!(tinylsm(&["scan", "--db", &db, "--to", "a"]).out, "-1\t-2.5\n");
    assert_eq!(tinylsm(&["scan", "--db", &db, "--from", "\\xff"]).out, "\\xff\\xfe\t\\x80\n");
    all_right(&tinylsm(&["delete", "--db", &db, "-1"]));
}

#[test]
fn a_byte_order_mark_belongs_to_no_key() {
    let ground = Ground::new();
    let db = ground.text("db");
    all_right(&tinylsm_reading(&["load", "--db", &db, "-"], "\u{feff}a\t1\n".as_bytes()));
    all_right(&tinylsm_reading(
        &["load", "--db", &db, "-"],
        "\u{feff}{\"key\":\"b\",\"value\":\"2\"}\n".as_bytes(),
    ));
    // A key may begin with one all the same, and what is scanned can be loaded.
    let marked = "\u{feff}k\\xef\\xbb\\xbf\t3\n";
    all_right(&tinylsm_reading(&["load", "--db", &db, "-"], format!("\n{marked}").as_bytes()));
    let scanned = tinylsm(&["scan", "--db", &db]).out;
    assert_eq!(scanned, "a\t1\nb\t2\n\\xef\\xbb\\xbfk\\xef\\xbb\\xbf\t3\n");
    let again = ground.text("again");
    let last = scanned.lines().last().expect("three lines");
    all_right(&tinylsm_reading(&["load", "--db", &again, "-"], last.as_bytes()));
    assert_eq!(tinylsm(&["scan", "--db", &again]).out, format!("{last}\n"));
}

#[test]
fn scan_takes_bounds_prefix_direction_and_limit() {
    let ground = Ground::new();
    let db = ground.text("db");
    all_right(&tinylsm_reading(&["load", "--db", &db, "-"], b"a\t1\nab\t2\nb\t3\nba\t4\nc\t5\n"));
    let keys = |options: &[&str]| -> String {
        let run = tinylsm(&[&["scan", "--db", &db], options].concat());
        all_right(&run);
        run.out.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys(&[]), "a ab b ba c");
    assert_eq!(keys(&["--reverse"]), "c ba b ab a");
    assert_eq!(keys(&["--from", "ab", "--to", "c"]), "ab b ba");
    assert_eq!(keys(&["--from", "ab", "--to", "c", "--reverse", "--limit", "2"]), "ba b");
    assert_eq!(keys(&["--prefix", "b"]), "b ba");
    assert_eq!(keys(&["--prefix", "b", "--reverse"]), "ba b");
    assert_eq!(keys(&["--limit", "0"]), "");
    assert_eq!(keys(&["--prefix", "x"]), "");
}

#[test]
fn keyspaces_are_apart() {
    let ground = Ground::new();
    let db = ground.text("db");
    all_right(&tinylsm(&["put", "--db", &db, "k", "here"]));
    all_right(&tinylsm(&["put", "--db", &db, "--keyspace", "other", "k", "there"]));
    assert_eq!(tinylsm(&["get", "--db", &db, "k"]).out, "here\n");
    assert_eq!(tinylsm(&["get", "--db", &db, "--keyspace", "other", "k"]).out, "there\n");
    fails(&tinylsm(&["get", "--db", &db, "--keyspace", "third", "k"]), 1, &["\"third\"", "default, other"]);
    let stats = tinylsm(&["stats", "--db", &db]).out;
    assert!(stats.contains("keyspace \"other\"") && stats.contains("no tables"), "{stats}");
}

#[test]
fn wrong_usage_ends_with_2() {
    let ground = Ground::new();
    let db = ground.text("db");
    fails(&tinylsm(&["frobnicate"]), 2, &["frobnicate"]);
    fails(&tinylsm(&["get", "key"]), 2, &["--db"]);
    fails(&tinylsm(&["put", "--db", &db, "k\\q", "v"]), 2, &["KEY: bad escape at byte 2"]);
    fails(&tinylsm(&["scan", "--db", &db, "--prefix", "a", "--from", "b"]), 2, &["--prefix"]);
    fails(&tinylsm(&["load", "--db", &db, &ground.text("no such file")]), 2, &["no such file"]);
    let help = tinylsm(&["--help"]);
    all_right(&help);
    for code in 0..4 {
        assert!(help.out.contains(&format!("\n  {code}  ")), "exit code {code} is documented: {}", help.out);
    }
}

#[test]
fn bad_input_is_named_by_its_line_and_what_stood_before_it_is_loaded() {
    let ground = Ground::new();
    let db = ground.text("db");
    let run = tinylsm_reading(&["load", "--db", &db, "-"], b"a\t1\nb\t2\nno tab\nc\t3\n");
    fails(&run, 2, &["line 3: there is no tab", "the 2 rows before it are loaded"]);
    assert_eq!(tinylsm(&["scan", "--db", &db]).out, "a\t1\nb\t2\n");
    fails(
        &tinylsm_reading(&["load", "--db", &db, "-"], b"d\t\\x4\n"),
        2,
        &["line 1: value: bad escape at byte 1"],
    );
    let json = b"{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"a\"\n";
    fails(&tinylsm_reading(&["load", "--db", &db, "-"], json), 2, &["line 2: not JSON"]);
}

#[test]
fn commands_that_only_look_change_no_byte() {
    let ground = Ground::new();
    let db = ground.database(3_000);
    let before = bytes_of(&db);
    all_right(&tinylsm(&["get", "--db", &db, "zebra"]));
    all_right(&tinylsm(&["scan", "--db", &db]));
    all_right(&tinylsm(&["stats", "--db", &db]));
    all_right(&tinylsm(&["stats", "--db", &db, "--json"]));
    all_right(&tinylsm(&["verify", "--db", &db]));
    for name in before.keys() {
        all_right(&tinylsm(&["dump", &format!("{db}/{name}")]));
    }
    let after = bytes_of(&db);
    assert!(before.keys().eq(after.keys()), "{:?} became {:?}", before.keys(), after.keys());
    assert!(before == after, "a file's bytes have changed");
}

#[test]
fn looking_creates_nothing() {
    let ground = Ground::new();
    let missing = ground.text("missing");
    for command in ["scan", "stats", "verify", "compact"] {
        fails(&tinylsm(&[command, "--db", &missing]), 1, &[&missing, "no such directory"]);
    }
    fails(&tinylsm(&["get", "--db", &missing, "k"]), 1, &["no such directory"]);
    fails(&tinylsm(&["delete", "--db", &missing, "k"]), 1, &["no such directory"]);
    assert!(!Path::new(&missing).exists());
}

#[test]
fn every_kind_of_file_is_dumped_as_text() {
    let ground = Ground::new();
    let db = ground.database(100);
    let dump = |end: &str| {
        let run = tinylsm(&["dump", &file_ending(&db, end).display().to_string()]);
        all_right(&run);
        run.out
    };
    assert!(dump(".sst").contains("key000042"), "a table shows its keys");
    assert!(dump(".wal").contains("zebra"), "a log shows its records");
    assert!(dump("CURRENT").contains("MANIFEST-"), "the pointer shows where it points");
    let manifest = fs::read_dir(&db)
        .expect("the directory is there")
        .map(|entry| entry.expect("the directory can be listed").path())
        .find(|path| path.display().to_string().contains("MANIFEST-"))
        .expect("a database has a manifest");
    let run = tinylsm(&["dump", &manifest.display().to_string()]);
    all_right(&run);
    assert!(run.out.contains("tinylsm.bytewise"), "a manifest shows its keyspaces: {}", run.out);
    fails(&tinylsm(&["dump", &ground.text("000099.sst")]), 1, &["000099.sst"]);
    fails(&tinylsm(&["dump", &ground.text("letter.txt")]), 1, &["letter.txt", "no such file"]);
    fs::write(ground.path("letter.txt"), "dear").expect("a file can be written");
    fails(
        &tinylsm(&["dump", &ground.text("letter.txt")]),
        2,
        &["letter.txt", "neither its name nor its bytes"],
    );
    // What a file is, it says itself, under whatever name.
    for end in [".sst", ".wal", "MANIFEST-"] {
        let file = bytes_of(&db).into_keys().rfind(|name| name.contains(end)).expect("there is one");
        let copy = ground.path("copy");
        fs::copy(Path::new(&db).join(&file), &copy).expect("it can be copied");
        let renamed = tinylsm(&["dump", &copy.display().to_string()]);
        all_right(&renamed);
        assert_eq!(renamed.out, tinylsm(&["dump", "--db", &db, &file]).out);
    }
}

#[test]
fn a_directory_that_is_no_database_is_called_that_and_left_alone() {
    let ground = Ground::new();
    let dir = ground.text("letters");
    fs::create_dir(&dir).expect("a directory can be made");
    fs::write(Path::new(&dir).join("letter.txt"), "dear").expect("a file can be written");
    for command in ["scan", "stats", "verify", "compact"] {
        fails(&tinylsm(&[command, "--db", &dir]), 1, &[&dir]);
    }
    assert_eq!(bytes_of(&dir).len(), 1, "nothing was added: {:?}", bytes_of(&dir).keys());
    let file = ground.text("letters/letter.txt");
    fails(&tinylsm(&["scan", "--db", &file]), 1, &["not a directory"]);
}

#[test]
fn a_locked_database_says_so() {
    let ground = Ground::new();
    let db = ground.database(10);
    let held = Db::open(&db).expect("the database is free");
    let process = format!("process {} was the last to open it for writing", std::process::id());
    for command in [&["put", "--db", &db, "k", "v"][..], &["get", "--db", &db, "k"]] {
        fails(
            &tinylsm(command),
            1,
            &["another process or handle has the database open", &process, "end it, or wait"],
        );
    }
    held.close().expect("nothing is wrong with it");
    all_right(&tinylsm(&["put", "--db", &db, "k", "v"]));
}

#[test]
fn a_lock_file_that_somebody_else_wrote_keeps_its_bytes() {
    let ground = Ground::new();
    let db = ground.database(10);
    let lock = Path::new(&db).join("LOCK");
    for words in ["", "mine", "mine, and long enough", "         7\n"] {
        fs::write(&lock, words).expect("it can be written");
        all_right(&tinylsm(&["put", "--db", &db, "k", "v"]));
        let is_ours = words.trim().parse::<u32>().is_ok() || words.is_empty();
        let found = fs::read_to_string(&lock).expect("it is text");
        assert_eq!(found != words, is_ours, "{words:?}, then {found:?}");
        assert!(!is_ours || found.len() == 11, "{found:?}");
        // Readers write nothing.
        all_right(&tinylsm(&["get", "--db", &db, "k"]));
        assert_eq!(fs::read_to_string(&lock).expect("it is text"), found);
    }
}

#[test]
fn a_lost_pointer_is_put_back_by_the_command_that_the_message_names() {
    let ground = Ground::new();
    let plain = ground.database(10);
    let db = ground.text("it's a b");
    fs::rename(plain, &db).expect("it can be renamed");
    let current = Path::new(&db).join("CURRENT");
    let scanned = tinylsm(&["scan", "--db", &db]).out;
    for words in [Some("MANIFEST"), Some(""), None] {
        match words {
            Some(words) => fs::write(&current, words).expect("it can be written"),
            None => fs::remove_file(&current).expect("it is there"),
        }
        let said = tinylsm(&["scan", "--db", &db]);
        fails(&said, 1, &["Copy the directory", "echo 'MANIFEST-"]);
        let command = said.err.lines().find(|line| line.starts_with("  echo ")).expect("it names a command");
        assert!(Command::new("sh").args(["-c", command]).status().expect("there is a shell").success());
        let again = tinylsm(&["scan", "--db", &db]);
        assert_eq!((again.code, &again.out), (0, &scanned), "{again:?}");
        all_right(&tinylsm(&["verify", "--db", &db]));
    }
    // Nothing is promised where it cannot be known.
    fs::write(&current, "MANIFEST").expect("it can be written");
    let manifest =
        bytes_of(&db).into_keys().rfind(|name| name.starts_with("MANIFEST-")).expect("there is one");
    let manifest = Path::new(&db).join(manifest);
    let whole = fs::read(&manifest).expect("it can be read");
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    fs::write(&manifest, damaged).expect("it can be written");
    assert!(!tinylsm(&["scan", "--db", &db]).err.contains("echo"));
    fs::write(&manifest, whole).expect("it can be written");
    fs::write(Path::new(&db).join("MANIFEST-000001"), "").expect("it can be written");
    assert!(!tinylsm(&["scan", "--db", &db]).err.contains("echo"));
}

#[test]
fn a_dump_goes_on_behind_what_cannot_be_read() {
    let ground = Ground::new();
    let db = ground.text("db");
    let rows: String = (0..2_000).map(|row| format!("key{row:06}\tvalue of row {row}\n")).collect();
    all_right(&tinylsm_reading(&["load", "--db", &db, "-"], rows.as_bytes()));
    all_right(&tinylsm(&["compact", "--db", &db]));
    for key in ["one", "two", "three"] {
        all_right(&tinylsm(&["put", "--db", &db, key, "in the log"]));
    }
    let flip = |file: &Path, at: usize| {
        let mut bytes = fs::read(file).expect("it can be read");
        bytes[at] ^= 1;
        fs::write(file, bytes).expect("it can be written");
    };
    let dump = |file: &Path| tinylsm(&["dump", &file.display().to_string()]);
    let place_of = |text: &str, of: usize| -> usize {
        let line = text.lines().filter(|line| line.starts_with('@')).nth(of).expect("there are frames");
        line[1..].split(' ').next().and_then(|place| place.parse().ok()).expect("a frame has its place")
    };

    let log = file_ending(&db, ".wal");
    let whole = dump(&log).out;
    let (first, second, third) = (place_of(&whole, 1), place_of(&whole, 2), place_of(&whole, 3));
    flip(&log, first + 30);
    let damaged = dump(&log);
    fails(&damaged, 1, &[&format!("at byte {first}: unreadable here, but byte")]);
    let gap = format!(
        "@{first} {} bytes cannot be read; the next frame that can begins at {second}\n",
        second - first
    );
    assert!(damaged.out.contains(&gap), "{}", damaged.out);
    assert!(
        damaged.out.contains(&format!("@{third} ")) && damaged.out.contains("\"three\""),
        "{}",
        damaged.out
    );
    flip(&log, 3);
    assert!(dump(&log).out.starts_with("@0 "), "{}", dump(&log).out);
    assert!(dump(&log).out.contains("\"three\""), "{}", dump(&log).out);

    let table = file_ending(&db, ".sst");
    let entries_count = dump(&table).out.matches("value of row").count();
    flip(&table, 10);
    let damaged = dump(&table);
    fails(&damaged, 1, &["at byte 0: ", "; 1 of ", " blocks cannot be read, which are "]);
    let shown_count = damaged.out.matches("value of row").count();
    assert!(shown_count > 0 && shown_count < entries_count, "{shown_count} of {entries_count}");
    assert!(
        damaged.out.contains("block @0\n    ")
            && damaged.out.contains(" bytes cannot be read: damaged\nblock @")
    );
    let len = fs::metadata(&table).expect("it is there").len();
    flip(&table, usize::try_from(len).expect("a short file") - 3);
    fails(&dump(&table), 1, &[&format!("none of its {len} bytes is shown")]);
}

#[test]
fn a_truncated_table_is_named() {
    let ground = Ground::new();
    let db = ground.database(3_000);
    let table = file_ending(&db, ".sst");
    let bytes = fs::read(&table).expect("the table can be read");
    fs::write(&table, &bytes[..bytes.len() / 2]).expect("the table can be written");
    let name = table.file_name().expect("it has a name").to_string_lossy().into_owned();
    fails(&tinylsm(&["verify", "--db", &db]), 1, &[&name]);
    fails(&tinylsm(&["dump", &table.display().to_string()]), 1, &[&name]);
}

#[test]
fn a_flipped_bit_in_a_table_is_found() {
    let ground = Ground::new();
    let db = ground.database(3_000);
    let table = file_ending(&db, ".sst");
    let mut bytes = fs::read(&table).expect("the table can be read");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x10;
    fs::write(&table, &bytes).expect("the table can be written");
    let name = table.file_name().expect("it has a name").to_string_lossy().into_owned();
    fails(&tinylsm(&["verify", "--db", &db]), 1, &[&name, "at byte"]);
}

#[test]
fn a_reader_that_goes_away_ends_a_scan_quietly() {
    let ground = Ground::new();
    let db = ground.database(20_000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_tinylsm"))
        .args(["scan", "--db", &db])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut reader = BufReader::new(child.stdout.take().expect("asked for as a pipe"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("there is a first line");
    assert_eq!(line, "key000000\tvalue of row 0\n");
    drop(reader);
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn stats_tell_levels_and_every_file() {
    let ground = Ground::new();
    let db = ground.database(3_000);
    let text = tinylsm(&["stats", "--db", &db]);
    all_right(&text);
    for part in ["keyspace \"default\"", "last sequence    3,001", "1 segment"] {
        assert!(text.out.contains(part), "no {part:?} in {}", text.out);
    }
    let json: serde_json::Value =
        serde_json::from_str(&tinylsm(&["stats", "--db", &db, "--json"]).out).expect("it is JSON");
    assert_eq!(json["last_seq"], 3_001);
    let levels = json["keyspaces"][0]["levels"].as_array().expect("a keyspace has levels");
    let entries: u64 = levels.iter().filter_map(|level| level["entries"].as_u64()).sum();
    assert_eq!(entries, 3_000);
    let listed = json["files"].as_array().expect("files are listed");
    assert_eq!(listed.len(), bytes_of(&db).len());
    for (name, bytes) in bytes_of(&db) {
        assert!(text.out.contains(&name), "no {name} in {}", text.out);
        let file = listed.iter().find(|file| file["name"] == name.as_str()).expect("every file is listed");
        assert_eq!(file["bytes"], bytes.len());
    }
}

#[test]
fn a_dump_says_what_a_table_holds_and_where_a_log_ends() {
    let ground = Ground::new();
    let db = ground.database(10);
    let table = tinylsm(&["dump", &file_ending(&db, ".sst").display().to_string()]);
    all_right(&table);
    for part in [
        "comparator        tinylsm.bytewise\n",
        "entries           10\n",
        "smallest          \"key000000\"\n",
    ] {
        assert!(table.out.contains(part), "no {part:?} in {}", table.out);
    }
    let log = file_ending(&db, ".wal");
    let dump = || tinylsm(&["dump", &log.display().to_string()]);
    let whole = dump();
    all_right(&whole);
    // The database was closed, so nothing is allocated ahead any more.
    assert!(whole.out.ends_with("nothing behind this\n"), "{}", whole.out);
    let end =
        whole.out.lines().last().and_then(|line| line.strip_prefix('@')?.split(' ').next()?.parse().ok());
    let end: usize = end.expect("the last line begins with a place");
    let mut bytes = fs::read(&log).expect("the log can be read");
    bytes.resize(end + 100, 0);
    fs::write(&log, &bytes).expect("the log can be written");
    assert!(dump().out.ends_with("zeros from here on, allocated ahead\n"), "{}", dump().out);
    bytes[end] = 1;
    fs::write(&log, &bytes).expect("the log can be written");
    assert!(dump().out.contains("a torn tail, or damage"), "{}", dump().out);
}

#[test]
fn a_damaged_log_and_a_damaged_pointer_are_named_with_the_place() {
    let ground = Ground::new();
    let db = ground.database(10);
    let damage = |file: &Path, at: usize| {
        let whole = fs::read(file).expect("the file can be read");
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(file, &bytes).expect("the file can be written");
        let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
        for command in [&["verify", "--db", &db][..], &["scan", "--db", &db], &["get", "--db", &db, "zebra"]]
        {
            fails(
                &tinylsm(command),
                1,
                &[&name, "at byte", "not even with --degraded", "its last copy", "dump"],
            );
        }
        // No way out is kept back: a degraded opening is none, and the other files can be looked at.
        assert_eq!(tinylsm(&["verify", "--db", &db, "--degraded"]).code, 1);
        for other in bytes_of(&db).into_keys().filter(|other| *other != name) {
            all_right(&tinylsm(&["dump", "--db", &db, &other]));
        }
        let dumped = tinylsm(&["dump", "--db", &db, &name]);
        assert!(!dumped.err.contains("copy"), "{dumped:?}");
        fs::write(file, &whole).expect("the file can be written");
    };
    damage(&file_ending(&db, ".wal"), 70);
    damage(&file_ending(&db, "CURRENT"), 3);
    let manifest = bytes_of(&db).into_keys().rfind(|name| name.starts_with("MANIFEST-"));
    damage(&Path::new(&db).join(manifest.expect("a database has one")), 100);
    all_right(&tinylsm(&["verify", "--db", &db]));
}

#[test]
fn a_database_that_is_not_there_is_named_and_not_made() {
    let ground = Ground::new();
    let db = ground.text("nowhere");
    for command in ["scan", "stats", "verify", "compact"] {
        fails(&tinylsm(&[command, "--db", &db]), 1, &[&db, "no such directory"]);
    }
    fails(&tinylsm(&["get", "--db", &db, "k"]), 1, &[&db]);
    fails(&tinylsm(&["delete", "--db", &db, "k"]), 1, &[&db]);
    assert!(!Path::new(&db).exists());
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let ground = Ground::new();
    let db = ground.database(10);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has one");
    let run = Command::new(env!("CARGO_BIN_EXE_tinylsm"))
        .args(["scan", "--db", &db])
        .stdout(full)
        .output()
        .expect("the program ends");
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("cannot write the output"), "{run:?}");
}

#[test]
fn compact_merges_a_range_or_everything_and_verify_counts() {
    let ground = Ground::new();
    let db = ground.database(100);
    all_right(&tinylsm(&["compact", "--db", &db, "--from", "key000010", "--to", "key000020"]));
    let run = tinylsm(&["compact", "--db", &db]);
    all_right(&run);
    // Two that do not overlap need not become one.
    assert!(run.out.starts_with("nothing to merge: 2 tables of "), "{}", run.out);
    let run = tinylsm(&["verify", "--db", &db]);
    all_right(&run);
    assert!(run.out.starts_with("all right: 2 tables, 2 blocks, 101 entries, "), "{}", run.out);
}

#[test]
fn compact_says_what_it_did() {
    let ground = Ground::new();
    let db = ground.database(3_000);
    all_right(&tinylsm(&["put", "--db", &db, "key000007", "again"]));
    let run = tinylsm(&["compact", "--db", &db]);
    all_right(&run);
    assert!(run.out.starts_with("compacted ") && run.out.contains(" merge"), "{}", run.out);
    let table = file_ending(&db, ".sst");
    let mut bytes = fs::read(&table).expect("the table can be read");
    bytes[100] ^= 0x10;
    fs::write(&table, &bytes).expect("the table can be written");
    let run = tinylsm(&["compact", "--db", &db]);
    all_right(&run);
    assert!(run.out.starts_with("nothing to merge: ") && run.out.contains("unchanged"), "{}", run.out);
}

/// Copies a database of this test and returns where it is.
fn copied(ground: &Ground, from: &str, name: &str) -> String {
    let to = ground.path(name);
    fs::create_dir(&to).expect("a directory can be made");
    for (file, bytes) in bytes_of(from) {
        fs::write(to.join(file), bytes).expect("a file can be written");
    }
    ground.text(name)
}

/// Takes the names away that closing needs and opening does not: they are directories' now. What closing meets then
/// stands for all that it can meet; on a disk as full as can be it is the same file that fails.
fn block_closing(ground: &Ground, db: &str) {
    let probe = copied(ground, db, "probe");
    all_right(&tinylsm(&["put", "--db", &probe, "k", "v"]));
    let manifests =
        bytes_of(&probe).into_keys().filter_map(|name| name.strip_prefix("MANIFEST-")?.parse::<u64>().ok());
    let manifest = manifests.max().expect("a database has a manifest");
    fs::remove_dir_all(&probe).expect("it can be removed");
    // The number behind the manifest's is that of the file that becomes CURRENT when it is opened.
    for number in manifest + 2..manifest + 20 {
        fs::create_dir(Path::new(db).join(format!("{number:06}.tmp"))).expect("a directory can be made");
    }
}

#[test]
fn what_was_done_is_said_although_closing_fails() {
    let ground = Ground::new();
    let db = ground.database(10);
    let blocked = |name: &str| {
        let copy = copied(&ground, &db, name);
        block_closing(&ground, &copy);
        copy
    };
    let put = blocked("put");
    let closing = "nothing of it is lost, but closing met: create ";
    fails(
        &tinylsm(&["put", "--db", &put, "k", "v"]),
        1,
        &["the value is in the database and on disk; ", closing],
    );
    assert_eq!(tinylsm(&["get", "--db", &put, "k"]).out, "v\n");
    let deleted = blocked("delete");
    fails(&tinylsm(&["delete", "--db", &deleted, "zebra"]), 1, &["deleted, and that is on disk; ", closing]);
    fails(&tinylsm(&["get", "--db", &deleted, "zebra"]), 3, &["not found"]);
    let loaded = blocked("load");
    let run = tinylsm_reading(&["load", "--db", &loaded, "-"], b"x\t1\ny\t2\n");
    fails(&run, 1, &["all 2 rows are loaded and on disk; ", closing]);
    assert_eq!(tinylsm(&["scan", "--db", &loaded, "--from", "x", "--to", "z"]).out, "x\t1\ny\t2\n");
}

#[test]
fn a_load_that_the_disk_stops_says_how_many_rows_are_in() {
    let ground = Ground::new();
    let db = ground.text("db");
    let lines: String = (0..30_000).map(|row| format!("key{row:06}\tvalue of row {row}\n")).collect();
    fs::write(ground.path("rows.tsv"), lines).expect("the file can be written");
    // No file may become longer than this: the log meets it in the middle, as it would a full disk.
    let script = "ulimit -f 600; trap '' XFSZ; exec \"$0\" load --db \"$1\" \"$2\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_tinylsm"), &db, &ground.text("rows.tsv")])
        .output()
        .expect("there is a shell");
    let said = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    let rows = said.split("the first ").nth(1).and_then(|rest| rest.split(' ').next());
    let rows: usize = rows.expect("it says how many").replace(',', "").parse().expect("a number");
    let scanned = tinylsm(&["scan", "--db", &db]).out.lines().count();
    assert!(rows > 0 && [rows, rows + 1_000].contains(&scanned), "{scanned} rows are there: {said}");
    assert!(
        said.contains("of the next 1,000 either all or none; a power cut may take the last of them"),
        "{said}"
    );
}

#[test]
fn a_missing_table_leaves_a_way_to_the_rest() {
    let ground = Ground::new();
    let db = ground.database(3_000);
    let table = file_ending(&db, ".sst");
    let name = table.file_name().expect("it has a name").to_string_lossy().into_owned();
    all_right(&tinylsm(&["put", "--db", &db, "--keyspace", "other", "k", "v"]));
    fs::remove_file(&table).expect("it is there");
    for arguments in [&["verify"][..], &["stats"], &["scan"], &["get", "k"], &["put", "k", "v"], &["compact"]]
    {
        let run = tinylsm(&[&[arguments[0], "--db", &db], &arguments[1..]].concat());
        fails(&run, 1, &[&name, "keyspace \"default\"", "missing", "--degraded", "verify --db"]);
    }
    let degraded = |arguments: &[&str]| {
        tinylsm(&[&arguments[..1], &["--db", &db, "--degraded"], &arguments[1..]].concat())
    };
    assert_eq!(degraded(&["get", "--keyspace", "other", "k"]).out, "v\n");
    all_right(&degraded(&["put", "--keyspace", "other", "k", "w"]));
    all_right(&degraded(&["compact", "--keyspace", "other"]));
    assert_eq!(degraded(&["scan", "--keyspace", "other"]).out, "k\tw\n");
    assert_eq!(degraded(&["get", "zebra"]).out, "in the log\n");
    fails(&degraded(&["get", "key000001"]), 1, &[&name]);
    fails(&degraded(&["scan"]), 1, &[&name]);
    let verified = degraded(&["verify"]);
    fails(&verified, 1, &["1 table is damaged", &name]);
    assert!(verified.out.contains("the rest is all right: "), "{}", verified.out);
    let stats = degraded(&["stats"]);
    all_right(&stats);
    for part in ["keyspace \"other\"", "damaged: ", "3,000", &*name] {
        assert!(stats.out.contains(part), "no {part:?} in {}", stats.out);
    }
}

#[test]
fn a_directory_in_the_place_of_a_table_is_called_that() {
    let ground = Ground::new();
    let db = ground.database(10);
    let table = file_ending(&db, ".sst");
    fs::remove_file(&table).expect("it is there");
    fs::create_dir(&table).expect("a directory can be made");
    fails(&tinylsm(&["verify", "--db", &db]), 1, &["a directory is in the place of a table", "--degraded"]);
    assert_eq!(tinylsm(&["get", "--db", &db, "--degraded", "zebra"]).out, "in the log\n");
}

#[test]
fn a_lost_pointer_is_called_damage_by_every_command() {
    let ground = Ground::new();
    let db = ground.database(10);
    fs::remove_file(Path::new(&db).join("CURRENT")).expect("it is there");
    for arguments in [
        &["verify"][..],
        &["stats"],
        &["scan"],
        &["get", "k"],
        &["put", "k", "v"],
        &["delete", "k"],
        &["compact"],
    ] {
        let run = tinylsm(&[&[arguments[0], "--db", &db], &arguments[1..]].concat());
        fails(&run, 1, &["CURRENT is missing, but ", "the database is damaged", "its last copy"]);
    }
}

#[test]
fn a_directory_in_the_place_of_any_file_is_called_that() {
    let ground = Ground::new();
    let db = ground.database(10);
    let manifest = bytes_of(&db).into_keys().rfind(|name| name.starts_with("MANIFEST-"));
    let log = file_ending(&db, ".wal").file_name().expect("a name").to_string_lossy().into_owned();
    for name in ["CURRENT".to_owned(), manifest.expect("a database has one"), log] {
        let path = Path::new(&db).join(&name);
        let whole = fs::read(&path).expect("it can be read");
        fs::remove_file(&path).expect("it is there");
        fs::create_dir(&path).expect("a directory can be made");
        for command in [&["verify"][..], &["get", "k"], &["put", "k", "v"], &["stats", "--degraded"]] {
            let run = tinylsm(&[&[command[0], "--db", &db], &command[1..]].concat());
            fails(&run, 1, &[&name, "a directory is in the place of ", "its last copy"]);
        }
        fs::remove_dir(&path).expect("it is empty");
        fs::write(&path, whole).expect("it can be written");
    }
    all_right(&tinylsm(&["verify", "--db", &db]));
}

#[test]
fn what_cannot_be_dumped_leads_to_what_can() {
    let ground = Ground::new();
    let db = ground.database(10);
    let table = file_ending(&db, ".sst").file_name().expect("a name").to_string_lossy().into_owned();
    fails(
        &tinylsm(&["dump", &db]),
        2,
        &[&db, "this is a directory; name one of its files: ", &table, "CURRENT"],
    );
    fails(
        &tinylsm(&["dump", "--db", &db, "000077.sst"]),
        1,
        &["000077.sst: there is no such file; the directory has ", &table, "MANIFEST-"],
    );
    let (empty, nowhere) = (ground.text("empty"), ground.text("nowhere"));
    fs::create_dir(&empty).expect("a directory can be made");
    fails(&tinylsm(&["dump", &empty]), 2, &["this is a directory, and no file in it is a database's"]);
    let run = tinylsm(&["dump", &format!("{empty}/CURRENT")]);
    fails(&run, 1, &["CURRENT: there is no such file\n"]);
    let run = tinylsm(&["dump", "--db", &nowhere, "CURRENT"]);
    fails(&run, 1, &["nowhere: there is no such directory"]);
    for number in 1..20 {
        fs::write(Path::new(&empty).join(format!("{number:06}.sst")), "").expect("a file can be written");
    }
    fails(&tinylsm(&["dump", &empty]), 2, &["000001.sst, ", "000008.sst and 11 others\n"]);
}

#[test]
fn too_few_descriptors_are_told_with_what_helps() {
    let ground = Ground::new();
    let db = ground.database(10);
    let script = "ulimit -n 5; exec \"$0\" scan --db \"$1\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_tinylsm"), &db])
        .output()
        .expect("there is a shell");
    let said = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["os error 24", "ulimit -n", "open_files_max"] {
        assert_eq!(said.matches(part).count(), 1, "{part:?} in {said}");
    }
}

#[test]
fn stats_mark_what_is_left_over_and_what_is_foreign() {
    let ground = Ground::new();
    let db = ground.database(10);
    let plain = tinylsm(&["stats", "--db", &db]).out;
    for mark in ["left over", "not the database's", "missing"] {
        assert!(!plain.contains(mark), "{mark:?} in {plain}");
    }
    for name in ["000099.sst", "000098.wal", "MANIFEST-000097", "notes.txt"] {
        fs::write(Path::new(&db).join(name), "").expect("a file can be written");
    }
    let text = tinylsm(&["stats", "--db", &db]).out;
    let marked = |mark: &str| text.lines().filter(|line| line.contains(mark)).count();
    assert_eq!((marked("left over"), marked("not the database's"), marked("missing")), (3, 1, 0), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&tinylsm(&["stats", "--db", &db, "--json"]).out).expect("it is JSON");
    let files = json["files"].as_array().expect("files are listed");
    let role = |name: &str| files.iter().find(|file| file["name"] == name).map(|file| file["role"].clone());
    assert_eq!(role("000099.sst"), Some("leftover".into()));
    assert_eq!(role("notes.txt"), Some("foreign".into()));
    assert_eq!(role("CURRENT"), Some("live".into()));
}

/// Makes a database with one entry; bytes need no text form here.
fn database_with(dir: &str, key: &[u8], value: &[u8]) {
    let db = Db::open(dir).expect("the disk is healthy");
    db.put(key, value).and_then(|_| db.close()).expect("the disk is healthy");
}

fn entries_of(dir: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let db = Db::builder(dir).open_read_only().expect("it is a database");
    let entries = db.iter().expect("it can be read");
    entries
        .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).expect("it can be read"))
        .collect()
}

#[test]
fn what_scan_prints_load_reads_whatever_it_looks_like() {
    let ground = Ground::new();
    let json = b"{\"key\":\"a\",\"value\":\"b\"}";
    let nasty: [&[u8]; 12] = [
        b"",
        json,
        b"[\"",
        b"BZhang",
        b"BZh91AY&SY",
        b"BZh91AY&SY\x0a\xff\x00\x80\x06",
        b"\x1f\x8b\x08\0",
        b"PK\x03\x04",
        b"\xfd7zXZ\0",
        b"\xef\xbb\xbf\t\r\n\\",
        b"\xff\xfe\0",
        "\u{61c}\u{202e}\u{9b}".as_bytes(),
    ];
    // Each is a key once, and a value once, the empty one that of the JSON.
    let values = std::iter::once(&nasty[11]).chain(&nasty);
    for (number, (key, value)) in nasty.iter().zip(values).enumerate() {
        let from = ground.text(&format!("from {number}"));
        database_with(&from, key, value);
        for (form, options) in [("tsv", &[][..]), ("json", &["--json"])] {
            let printed = tinylsm(&[&["scan", "--db", &from], options].concat()).out;
            assert!(!printed.trim_end().chars().any(|it| it.is_control() && it != '\t'), "{printed:?}");
            let to = ground.text(&format!("to {number} {form}"));
            all_right(&tinylsm_reading(&["load", "--db", &to, "-"], printed.as_bytes()));
            assert_eq!(entries_of(&to), [(key.to_vec(), value.to_vec())], "{printed:?}");
        }
    }
}

#[test]
fn packed_input_is_refused_before_anything_is_created() {
    let ground = Ground::new();
    let db = ground.text("db");
    // The beginning of what bzip2 makes of "a\n".
    let packed = b"BZh91AY&SY\x63\x3e\xd6\xe2\x00\x00\x00\xc1";
    fails(&tinylsm_reading(&["load", "--db", &db, "-"], packed), 2, &["packed with bzip2", "bzip2 -dc FILE"]);
    assert!(!Path::new(&db).exists());
}

/// Fails if a text could do something to a terminal, or has a line that was made by a name in it.
#[track_caller]
fn is_harmless(run: &Run) {
    for text in [&run.out, &run.err] {
        assert!(!text.chars().any(|it| it.is_control() && it != '\n' || it == '\u{202e}'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{text:?}");
    }
}

#[test]
fn names_from_outside_do_nothing_to_a_terminal() {
    let ground = Ground::new();
    let evil = "x\u{1b}]0;owned\u{7}\nforged \u{202e}\u{9b}31m";
    let db = ground.text(evil);
    let keyspace = &evil[..evil.len() - 1];
    for command in
        [&["put", "--db", &db, "k", "v"][..], &["put", "--db", &db, "--keyspace", keyspace, "k", "v"]]
    {
        all_right(&tinylsm(command));
    }
    all_right(&tinylsm(&["compact", "--db", &db, "--keyspace", keyspace]));
    fs::write(Path::new(&db).join(evil), "").expect("a file can be written");
    let manifest =
        bytes_of(&db).into_keys().find(|name| name.starts_with("MANIFEST-")).expect("there is one");
    let stats = tinylsm(&["stats", "--db", &db]);
    for part in ["keyspace \"x\\x1b]0;owned\\x07\\nforged ", "  x\\x1b]0;owned", "database         /"] {
        assert!(stats.out.contains(part), "no {part:?} in {stats:?}");
    }
    let json = tinylsm(&["stats", "--db", &db, "--json"]);
    let told: serde_json::Value = serde_json::from_str(&json.out).expect("it is JSON");
    assert!(
        told["keyspaces"].as_array().expect("a list").iter().any(|it| it["name"] == keyspace),
        "{json:?}"
    );
    let dump = tinylsm(&["dump", "--db", &db, &manifest]);
    for run in [&stats, &json, &tinylsm(&["verify", "--db", &db]), &dump] {
        all_right(run);
        is_harmless(run);
    }

    let table = file_ending(&db, ".sst");
    fs::remove_file(&table).expect("it is there");
    let nowhere = ground.text(&format!("{evil} nowhere"));
    let (file, inside) = (table.display().to_string(), format!("{evil}.sst"));
    let failing: [&[&str]; 18] = [
        &[evil],
        &["help", evil],
        &["stats", "--db", &nowhere],
        &["stats", "--db", &file],
        &["scan", "--db", &db, "--keyspace", &nowhere],
        &["scan", "--db", &db, "--limit", evil],
        &["scan", "--db", &db, "--degraded", "--keyspace", keyspace],
        &["scan", "--db", &db, "--degraded", "--keyspace", "other"],
        &["stats", "--db", &db],
        &["verify", "--db", &db, "--degraded"],
        &["get", "--db", &db, "--degraded", evil],
        &["put", "--db", &db, "k", "v"],
        &["load", "--db", &db, &nowhere],
        &["load", "--db", &db, &db],
        &["dump", &db],
        &["dump", "--db", &db, &inside],
        &["dump", "--db", &nowhere, "CURRENT"],
        &["demo", "--dir", &db],
    ];
    for command in failing {
        let run = tinylsm(command);
        assert!(run.code != 0 && !run.err.is_empty(), "{command:?}: {run:?}");
        is_harmless(&run);
    }
    is_harmless(&tinylsm(&["stats", "--db", &db, "--degraded"]));
    is_harmless(&tinylsm(&["stats", "--db", &db, "--degraded", "--json"]));
}

#[test]
fn characters_that_reorder_a_line_are_escaped() {
    let ground = Ground::new();
    let db = ground.text("db");
    all_right(&tinylsm(&["put", "--db", &db, "a\u{61c}b", "\u{200b}"]));
    assert_eq!(tinylsm(&["scan", "--db", &db]).out, "a\\xd8\\x9cb\t\\xe2\\x80\\x8b\n");
    let json = tinylsm(&["scan", "--db", &db, "--json"]).out;
    assert_eq!(json, "{\"key\":\"a\\u061cb\",\"value\":\"\\u200b\"}\n");
}

#[test]
fn foreign_files_that_cannot_be_measured_stop_no_command() {
    let ground = Ground::new();
    let db = ground.database(10);
    let place = |name: &str| Path::new(&db).join(name);
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, place(name)).expect("links can be made");
    };
    // An editor's lock on a file, a link to itself, a name that is no text, and what a command that writes removes.
    link("me@host.123:456", ".#notes");
    link("loop", "loop");
    link("nowhere", "000099.sst");
    fs::write(place("").join(OsString::from_vec(b"no\xfftext".to_vec())), "").expect("a file can be written");
    let text = tinylsm(&["stats", "--db", &db]).out;
    let without_size = |remark: &str| {
        text.lines().filter(|line| line.contains(" no size ") && line.contains(remark)).count()
    };
    assert_eq!((without_size("not the database's"), without_size("left over")), (3, 1), "{text}");
    let json = tinylsm(&["stats", "--db", &db, "--json"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    let notes = json["files"].as_array().expect("a list").iter().find(|file| file["name"] == ".#notes");
    assert_eq!(
        notes.map(|file| (&file["bytes"], &file["role"])),
        Some((&serde_json::Value::Null, &"foreign".into()))
    );
    for command in ["verify", "scan", "compact", "stats"] {
        all_right(&tinylsm(&[command, "--db", &db]));
    }
    all_right(&tinylsm(&["put", "--db", &db, "k", "v"]));
    fails(&tinylsm(&["dump", &db]), 2, &["this is a directory; name one of its files"]);
    assert!(place(".#notes").is_symlink() && place("loop").is_symlink());
}

#[test]
fn a_database_of_any_options_opens() {
    let ground = Ground::new();
    let db = ground.text("db");
    let keyspace = KeyspaceOptions::small().level0_compaction_trigger(usize::MAX).level_base_bytes(u64::MAX);
    let keyspace = keyspace.level_multiplier(u64::MAX).table_bytes(u64::MAX).block_bytes(1 << 20);
    let options = Options::small().level0_slowdown(usize::MAX).level0_stop(usize::MAX);
    let made =
        Db::builder(&db).options(options.default_keyspace(keyspace.clone())).background(Background::Manual);
    let made = made.open().expect("the disk is healthy");
    let other = made.create_keyspace("other", keyspace.comparator("tinylsm.reverse-bytewise"));
    let other = other.expect("the disk is healthy");
    // More tables on level 0 than the default from which on writes wait.
    for row in 0..40 {
        other.put(format!("key{row:02}"), "value").and_then(|_| made.flush()).expect("the disk is healthy");
    }
    made.close().expect("the disk is healthy");
    let other = ["--keyspace", "other"];
    for command in [
        &["stats", "--db", &db][..],
        &["verify", "--db", &db],
        &["scan", "--db", &db],
        &["put", "--db", &db, "k", "v"],
        &[&["put", "--db", &db, "k", "v"][..], &other].concat(),
        &[&["delete", "--db", &db, "key00"][..], &other].concat(),
        &[&["get", "--db", &db, "key39"][..], &other].concat(),
        &[&["compact", "--db", &db][..], &other].concat(),
        &["put", "--db", &db, "--keyspace", "third", "k", "v"],
    ] {
        all_right(&tinylsm(command));
    }
    let scanned = tinylsm(&[&["scan", "--db", &db][..], &other].concat()).out;
    assert_eq!((scanned.lines().count(), scanned.lines().next()), (40, Some("key39\tvalue")));
}

#[test]
fn a_log_longer_than_memory_opens() {
    let ground = Ground::new();
    let db = ground.text("db");
    // The command line's memtables take 64 MiB; this one's took more.
    let options = Options::default().memtable_bytes(1 << 30).reserve_bytes_max(0).durability(Durability::Os);
    let builder = Db::builder(&db).options(options).background(Background::Manual);
    let made = builder.open().expect("the disk is healthy");
    for row in 0..3 {
        made.put(format!("key{row}"), vec![b'x'; 40 << 20]).expect("the disk is healthy");
    }
    drop(made);
    let listed = tinylsm(&["stats", "--db", &db]);
    all_right(&listed);
    assert!(listed.out.contains("no tables"), "the rows are in the log: {listed:?}");
    all_right(&tinylsm(&["verify", "--db", &db]));
    all_right(&tinylsm(&["put", "--db", &db, "last", "v"]));
    let rows = entries_of(&db);
    assert_eq!(
        rows.iter().map(|(key, value)| (key.len(), value.len())).collect::<Vec<_>>()[..3],
        [(4, 40 << 20); 3]
    );
    assert_eq!(rows.len(), 4);
}

#[test]
fn the_demonstration_holds_and_refuses_a_used_directory() {
    let ground = Ground::new();
    let dir = ground.text("demo");
    let run = tinylsm(&["demo", "--dir", &dir, "--kill-after-ms", "200"]);
    all_right(&run);
    for part in ["34,924 records", "SIGKILL", "an exact prefix", "All as it must be"] {
        assert!(run.out.contains(part), "no {part:?} in {}", run.out);
    }
    fails(&tinylsm(&["demo", "--dir", &dir]), 2, &["not empty"]);
}

#[test]
fn the_ladder_runs_on_a_small_database() {
    let run = tinylsm(&["bench", "--keys", "2000", "--json"]);
    all_right(&run);
    let report: serde_json::Value = serde_json::from_str(&run.out).expect("it is JSON");
    let names: Vec<&str> = report["steps"]
        .as_array()
        .expect("there are steps")
        .iter()
        .filter_map(|it| it["step"].as_str())
        .collect();
    assert_eq!(names.len(), 19, "{names:?}");
    fails(&tinylsm(&["bench", "--steps", "flysky"]), 2, &["flysky"]);
}
