//! What the command line says, word for word: transcripts at two widths, compared with `tests/golden/cli/`.
//!
//! A change of a text shows as a change of a file there. Read it as the user would, then renew it:
//! `INSTA_UPDATE=always cargo test --test cli_texts`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the test drives another process and looks at the files it leaves"
)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tinylsm::{Background, Db, Options};

/// The widths of terminal that texts are looked at in.
const COLUMNS: [usize; 2] = [80, 120];

const COMMANDS: [&str; 17] = [
    "load",
    "get",
    "put",
    "delete",
    "scan",
    "keyspaces",
    "create-keyspace",
    "rename-keyspace",
    "clear-keyspace",
    "drop-keyspace",
    "stats",
    "verify",
    "dump",
    "compact",
    "demo",
    "bench",
    "help",
];

/// Commands and what the program said to them, as in a terminal of so many columns.
struct Transcript {
    dir: TempDir,
    columns: usize,
    text: String,
}

impl Transcript {
    fn new(columns: usize) -> Transcript {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Transcript { dir, columns, text: String::new() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file can be written");
    }

    /// Runs a command whose arguments are the words of `line`, and notes what it said and how it ended.
    fn run(&mut self, line: &str) {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        self.run_with(&arguments);
    }

    fn run_with(&mut self, arguments: &[OsString]) {
        let output = Command::new(env!("CARGO_BIN_EXE_tinylsm"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env("COLUMNS", self.columns.to_string())
            .env_remove("CLICOLOR_FORCE")
            .output()
            .expect("the program runs");
        let shown: Vec<String> =
            arguments.iter().map(|it| it.as_bytes().escape_ascii().to_string()).collect();
        self.text.push_str(format!("$ tinylsm {}", shown.join(" ")).trim_end());
        self.text.push('\n');
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).expect("what it says is text");
            assert!(!text.contains("::"), "this is for programmers: {text}");
            text.lines().for_each(|line| self.text.push_str(&format!("{}\n", without_times(line))));
        }
        match output.status.code().expect("the program was not killed") {
            0 => self.text.push('\n'),
            code => self.text.push_str(&format!("[exit code {code}]\n\n")),
        }
    }

    /// Notes that something happened to the files.
    fn note(&mut self, what: &str) {
        self.text.push_str(&format!("# {what}\n"));
    }

    /// Compares with the golden file; before, checks that every line fits.
    fn compare(self, name: &str) {
        for line in self.text.lines().filter(|line| !line.starts_with("$ ") && !line.starts_with("# ")) {
            // A word that is longer than a line stays whole, on a line of its own.
            let is_word = line.trim_start().split(' ').count() == 1;
            assert!(line.chars().count() <= self.columns || is_word, "too long for {}: {line}", self.columns);
        }
        let name = format!("{name}_{}", self.columns);
        insta::with_settings!(
            { snapshot_path => "golden/cli", prepend_module_to_snapshot => false, omit_expression => true },
            { insta::assert_snapshot!(name, self.text) }
        );
    }
}

/// Replaces what differs from one run to the next: how long things took.
fn without_times(line: &str) -> String {
    let cut = |mark: &str, rest: &str| line.split_once(mark).map(|(head, _)| format!("{head}{mark}{rest}"));
    let loaded = line.starts_with("loaded ").then(|| cut(" in ", "TIME: RATES")).flatten();
    let verified = cut("manifest and log read; ", "TIME");
    let created = cut("created_at        ", "TIME");
    let compacted = line.contains("merge").then(|| cut(", in ", "TIME")).flatten();
    let taken = line.starts_with("lock file: ").then(|| cut("by process ", "NUMBER")).flatten();
    loaded.or(taken).or(verified).or(created).or(compacted).unwrap_or_else(|| line.to_owned())
}

#[test]
fn help_of_every_command() {
    for columns in COLUMNS {
        let mut it = Transcript::new(columns);
        it.run("");
        it.run("--help");
        for command in COMMANDS {
            it.run(&format!("help {command}"));
        }
        it.run("help help --help");
        it.compare("help");
    }
}

#[test]
fn wrong_usage() {
    for columns in COLUMNS {
        let mut it = Transcript::new(columns);
        for line in [
            "statz",
            "help statz",
            "get key",
            "put --db db key",
            "put --db db key value more",
            "get --db db --rwa key",
            "put --db db key -x",
            "put --db db k\\q v",
            "scan --db db --prefix a --from b",
            "scan --db db --limit many",
            "scan --db db --limit -1",
            "bench --steps flysky",
            "bench --keys 5",
            "bench --value-bytes 99999999999",
            "scan --db",
            "load --db db missing.tsv",
            "load --db db --format csv missing.csv",
            "demo --kill-after-ms soon",
        ] {
            it.run(line);
        }
        let keyspace = OsStr::from_bytes(b"\xff").to_owned();
        it.run_with(&["scan".into(), "--db".into(), "db".into(), "--keyspace".into(), keyspace]);
        it.compare("wrong_usage");
    }
}

#[test]
fn input_that_cannot_be_loaded() {
    for columns in COLUMNS {
        let mut it = Transcript::new(columns);
        fs::create_dir(it.path("directory")).expect("a directory can be made");
        for (name, bytes) in [
            ("packed.tsv.gz", &b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"[..]),
            ("packed.zip", b"PK\x03\x04\x14\x00\x00\x00"),
            ("utf16.txt", b"\xff\xfea\x00\t\x001\x00\n\x00"),
            ("no-tab.tsv", b"a\t1\nb\t2\nno tab\nc\t3\n"),
            ("json.tsv", b"{\"value\":\"1\"}\n"),
            ("escape.tsv", b"a\t\\x4\n"),
            (
                "twice.jsonl",
                b"{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"a\",\"key\":\"b\",\"value\":\"2\"}\n",
            ),
            ("unknown.jsonl", b"{\"key\":\"a\",\"value\":\"1\",\"ttl\":5}\n"),
            ("lacking.jsonl", b"{\"key\":\"a\"}\n"),
            ("number.jsonl", b"{\"key\":\"a\",\"value\":1}\n"),
            ("hex.jsonl", b"{\"key\":\"a\",\"value\":{\"hex\":\"0g\"}}\n"),
            ("cut.jsonl", b"{\"key\":\"a\",\n\"value\":\"b\"}\n"),
            ("list.json", b"[{\"key\":\"a\",\"value\":\"b\"}]\n"),
        ] {
            it.file(name, bytes);
            it.run(&format!("load --db db {name}"));
        }
        it.run("load --db db directory");
        it.run("scan --db db");
        it.file("one.tsv", b"a\t1\n");
        it.run("load --db one one.tsv");
        it.file("one-good.tsv", b"a\t1\nno tab\n");
        it.run("load --db one one-good.tsv");
        it.compare("bad_input");
    }
}

#[test]
fn an_ordinary_session() {
    for columns in COLUMNS {
        let mut it = Transcript::new(columns);
        let rows: String = (0..100).map(|row| format!("key{row:03}\tvalue of row {row}\n")).collect();
        it.file("rows.tsv", format!("\u{feff}{rows}").as_bytes());
        for line in [
            "load --db db rows.tsv",
            "put --db db -5 -6.5",
            "get --db db -5",
            "put --db db -- --key --value",
            "get --db db -- --key",
            "put --db db --keyspace other tab\\tbed nul\\x00",
            "scan --db db --keyspace other",
            "scan --db db --keyspace other --json",
            "scan --db db --from key098",
            "delete --db db key098",
            "get --db db key098",
            "compact --db db",
            "compact --db db",
            "verify --db db",
        ] {
            it.run(line);
        }
        let bytes = OsStr::from_bytes(b"\xff\xfe").to_owned();
        let put = ["put", "--db", "db"].map(OsString::from);
        it.run_with(&[&put[..], &[bytes.clone(), bytes]].concat());
        it.run("scan --db db --prefix \\xff");
        it.compare("session");
    }
}

#[test]
fn keyspaces_made_and_removed() {
    for columns in COLUMNS {
        let mut it = Transcript::new(columns);
        for line in [
            "keyspaces --db db",
            "create-keyspace --db db users",
            "create-keyspace --db db users",
            "create-keyspace --db db tab\\tbed\\x1b\\\\",
            "create-keyspace --db db \\xff",
            "create-keyspace --db db \\q",
            "keyspaces --db db",
            "put --db db --keyspace tab\\tbed\\x1b\\\\ k v",
            "scan --db db --keyspace tab\\tbed\\x1b\\\\",
            "scan --db db --keyspace tab",
            "rename-keyspace --db db tab\\tbed\\x1b\\\\ plain",
            "rename-keyspace --db db plain users",
            "rename-keyspace --db db nobody somebody",
            "clear-keyspace --db db plain",
            "scan --db db --keyspace plain",
            "clear-keyspace --db db plain --yes",
            "scan --db db --keyspace plain",
            "drop-keyspace --db db plain",
            "drop-keyspace --db db plain --yes",
            "drop-keyspace --db db plain --yes",
            "drop-keyspace --db db default --yes",
            "keyspaces --db db",
        ] {
            it.run(line);
        }
        it.compare("keyspaces");
    }
}

/// Opens the database without threads, which might do their work now or later, and without a reserve.
fn open(it: &Transcript) -> Db {
    let options = Options::default().reserve_bytes_max(0);
    let builder = Db::builder(it.path("db")).options(options).background(Background::Manual);
    builder.open().expect("the disk is healthy")
}

/// Makes a closed database with one table and one segment.
fn database(it: &Transcript) {
    let db = open(it);
    for row in 0..3 {
        db.put(format!("key{row}"), "value").expect("the disk is healthy");
    }
    db.flush().and_then(|()| db.wait_idle()).expect("the disk is healthy");
    db.close().expect("the disk is healthy");
}

fn only_table(it: &Transcript) -> String {
    only_file(it, "sst")
}

fn only_file(it: &Transcript, extension: &str) -> String {
    let entries = fs::read_dir(it.path("db")).expect("the directory is there");
    let names =
        entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned());
    let found: Vec<String> =
        names.filter(|name| Path::new(name).extension() == Some(extension.as_ref())).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn looking_at_a_database() {
    for columns in COLUMNS {
        let mut it = Transcript::new(columns);
        database(&it);
        let table = only_table(&it);
        it.run("stats --db db");
        it.run("verify --db db");
        it.run(&format!("dump --db db {table}"));
        it.note("the table, copied under another name");
        fs::copy(it.path("db").join(&table), it.path("table.copy")).expect("it can be copied");
        it.run("dump table.copy");
        it.run("dump --db db LOCK");
        it.note("files that do not belong there");
        it.file("db/notes.txt", b"notes");
        it.file("db/000099.sst", b"");
        it.run("stats --db db");
        it.compare("look");
    }
}

#[test]
fn databases_that_are_not_as_they_should_be() {
    for columns in COLUMNS {
        let mut it = Transcript::new(columns);
        it.run("get --db db key0");
        database(&it);
        let table = only_table(&it);
        it.file("notes.txt", b"notes");
        fs::create_dir(it.path("letters")).expect("a directory can be made");
        it.file("letters/letter.txt", b"dear");
        for line in [
            "get --db db nothing",
            "get --db db --keyspace nothing key0",
            "scan --db notes.txt",
            "scan --db letters",
            "dump notes.txt",
            "dump letters",
            "dump db",
            "dump nowhere/CURRENT",
            "dump db/000077.sst",
        ] {
            it.run(line);
        }
        it.note("while another program has it open");
        let held = open(&it);
        // The number of this process is now that, now another.
        it.file("db/LOCK", b"     12345\n");
        it.run("put --db db k v");
        it.run("get --db db key0");
        held.close().expect("nothing is wrong with it");

        it.note("a bit of its table is flipped");
        let path = it.path("db").join(&table);
        let whole = fs::read(&path).expect("it can be read");
        let mut damaged = whole.clone();
        damaged[10] ^= 0x10;
        fs::write(&path, &damaged).expect("it can be written");
        it.run("verify --db db");
        it.run("get --db db key0");
        it.run(&format!("dump db/{table}"));

        it.note("its table is missing");
        fs::remove_file(&path).expect("it is there");
        it.run("get --db db key0");
        it.run("get --db db --degraded key0");
        it.run("stats --db db --degraded");

        it.note("its log is damaged");
        fs::write(&path, &whole).expect("it can be written");
        let log = it.path("db").join(only_file(&it, "wal"));
        let sound = fs::read(&log).expect("it can be read");
        let mut damaged = sound.clone();
        damaged[20] ^= 0x10;
        fs::write(&log, &damaged).expect("it can be written");
        it.run("scan --db db");
        it.run("verify --db db --degraded");
        it.run(&format!("dump --db db {}", only_file(&it, "wal")));
        fs::write(&log, &sound).expect("it can be written");

        it.note("CURRENT is damaged");
        fs::write(it.path("db/CURRENT"), "MANIFEST").expect("it can be written");
        it.run("scan --db db");
        it.note("CURRENT is missing");
        fs::remove_file(it.path("db/CURRENT")).expect("it is there");
        it.run("scan --db db");
        it.note("and a second manifest is there");
        it.file("db/MANIFEST-000001", b"");
        it.run("scan --db db");
        it.note("a directory is in the place of CURRENT");
        fs::create_dir(it.path("db/CURRENT")).expect("a directory can be made");
        it.run("put --db db k v");
        it.compare("trouble");
    }
}
