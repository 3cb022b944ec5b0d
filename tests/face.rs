//! What a stranger sees first: every public name has a line on the crate's first page, and README and manifest agree.
#![allow(clippy::disallowed_methods, reason = "the test reads the project's own files")]

use std::fs;

fn file(name: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the names that `lib.rs` gives out: re-exports, and modules that are not hidden.
fn names_of(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_hidden = false;
    for statement in
        source.lines().filter(|line| !line.starts_with("//!")).collect::<Vec<_>>().join(" ").split(';')
    {
        let statement = statement.trim();
        is_hidden |= statement.contains("#[doc(hidden)]");
        if let Some((_, module)) = statement.split_once("pub mod ") {
            if !is_hidden {
                names.push(module.to_owned());
            }
        } else if let Some((_, path)) = statement.split_once("pub use ") {
            let last = path.rsplit("::").next().unwrap_or(path);
            let list = last.trim_matches(['{', '}']).split(',');
            names.extend(list.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
        }
        is_hidden = false;
    }
    names
}

fn page_of(source: &str) -> String {
    source.lines().filter_map(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_public_name_has_a_line_on_the_first_page() {
    let source = file("src/lib.rs");
    let (names, page) = (names_of(&source), page_of(&source));
    assert!(names.len() > 20, "{names:?}");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with(" | [`")).collect();
    for name in names {
        let has_line = rows.iter().any(|row| row.contains(&format!("[`{name}`]")));
        assert!(has_line, "`{name}` is public and has no line in the tables of src/lib.rs");
    }
}

#[test]
fn a_name_without_a_line_is_found() {
    let source = "//! | [`Db`] | a database |\n#[doc(hidden)]\npub mod db;\npub mod vfs;\npub use db::Db;\npub use db::options::{\n    Options, WriteOptions,\n};";
    assert_eq!(names_of(source), ["vfs", "Db", "Options", "WriteOptions"]);
    assert!(page_of(source).contains("| [`Db`]"));
}

#[test]
fn readme_and_systems_name_the_oldest_compiler_of_the_manifest() {
    let manifest = file("Cargo.toml");
    let oldest =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("it is stated");
    let said = format!("Rust {} or newer", oldest.trim_matches('"'));
    for name in ["README.md", "docs/platforms.md"] {
        assert!(file(name).contains(&said), "{name} does not say \"{said}\"");
    }
}
