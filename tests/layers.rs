//! The layering rules that a compiler does not know: who may import whom, and who may touch the disk, the clock and the
//! threads.
//!
//! Reads the layer table of `docs/architecture.md` and every file under `src/` but the binary, and fails on
//!
//! - an arrow `crate::MODULE::…` that goes up, or sideways between two modules of one layer, or closes a circle;
//! - a path through `super` or through the crate root (a test module's `use super::*` apart);
//! - `std::fs`, `std::thread`, `std::time::{Instant, SystemTime}` and the blocking locks of `std::sync` outside the
//!   modules `vfs` and `sync`, tests included;
//! - an `impl Drop` that calls a method of the `Vfs` or of its files.
//!
//! How: comments and literals are blanked out, then `a::{b, c::d}` is unfolded into plain paths. It is a reader of this
//! project's own formatted code and not a Rust parser; a rule that it cannot see through a macro stays a matter of review.
#![allow(clippy::disallowed_methods, reason = "the test reads the sources from the disk")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules that own the disk, the clock and the threads.
const SYSTEM_MODULES: [&str; 2] = ["vfs", "sync"];
/// Paths that belong to them.
const SYSTEM_PATHS: [&str; 7] = [
    "std::fs",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
];
/// Method calls of `Vfs`, `WriteFile` and `ReadFile` that no `Drop` may make.
const VFS_CALLS: [&str; 21] = [
    ".hold_dir(",
    ".create_new(",
    ".open(",
    ".sync_file(",
    ".sync_files(",
    ".rename(",
    ".remove_file(",
    ".link_or_copy(",
    ".create_dir_all(",
    ".read_dir(",
    ".sync_dir(",
    ".metadata(",
    ".available_space(",
    ".wall(",
    ".sleep(",
    ".append(",
    ".sync(",
    ".allocate(",
    ".trim(",
    ".read_at(",
    ".advise(",
];

#[test]
fn imports_go_down_and_the_system_is_reached_through_its_modules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let architecture =
        fs::read_to_string(root.join("docs/architecture.md")).expect("the layer table is a file");
    let layers = layers(&architecture);
    let sources = sources(&root.join("src"));
    assert!(layers.len() >= 15, "the layer table was not understood: {layers:?}");
    assert!(sources.len() >= 15, "the sources were not found: {:?}", sources.keys());
    let violations = violations(&layers, &sources);
    assert!(
        violations.is_empty(),
        "{} layering rules are broken:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

/// Reads the rows `| layer | module | owns |`: each name in backquotes in the second column is a module.
fn layers(architecture: &str) -> BTreeMap<String, u32> {
    let mut layers = BTreeMap::new();
    for line in architecture.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let (Some(Ok(layer)), Some(names)) = (cells.first().map(|cell| cell.parse()), cells.get(1)) else {
            continue;
        };
        for name in names.split('`').skip(1).step_by(2) {
            assert!(layers.insert(name.to_owned(), layer).is_none(), "{name} is in the layer table twice");
        }
    }
    layers
}

/// Reads every Rust file under `src`, by its path from there, without the binary.
fn sources(src: &Path) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    let mut waiting = vec![src.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of sources can be listed") {
            let path = entry.expect("a directory of sources can be listed").path();
            let name = path.strip_prefix(src).expect("listed under src").display().to_string();
            if path.is_dir() {
                if name != "bin" {
                    waiting.push(path);
                }
            } else if name.ends_with(".rs") {
                sources.insert(name, fs::read_to_string(&path).expect("a source file is readable text"));
            }
        }
    }
    sources
}

/// Returns a sentence for every broken rule.
fn violations(layers: &BTreeMap<String, u32>, sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in sources {
        let module = module_of(file);
        if module == "lib.rs" {
            continue;
        }
        if !layers.contains_key(module) {
            found.push(format!("{file}: the module `{module}` is not in the layer table"));
            continue;
        }
        let code = code_only(text);
        for target in check_file(layers, file, module, &code, &mut found) {
            arrows.entry(module.to_owned()).or_default().insert(target);
        }
    }
    found.extend(circle(&arrows).map(|circle| format!("a circle: {}", circle.join(" -> "))));
    found
}

/// Returns the module a file belongs to: `cache` for `cache.rs` and for `cache/mod.rs`.
fn module_of(file: &str) -> &str {
    if file == "lib.rs" {
        return file;
    }
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Checks one file's code; returns the other modules it imports from.
fn check_file(
    layers: &BTreeMap<String, u32>,
    file: &str,
    module: &str,
    code: &str,
    found: &mut Vec<String>,
) -> BTreeSet<String> {
    let mut targets = BTreeSet::new();
    for path in paths_from(code, "crate") {
        let target = path.split("::").nth(1).unwrap_or_default();
        let Some(layer) = layers.get(target) else {
            found.push(format!("{file}: `{path}` goes through the crate root; name the module"));
            continue;
        };
        if target == module {
            continue;
        }
        targets.insert(target.to_owned());
        match layer.cmp(&layers[module]) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                found.push(format!("{file}: `{path}` goes sideways from `{module}`"));
            }
            std::cmp::Ordering::Greater => found.push(format!("{file}: `{path}` goes up from `{module}`")),
        }
    }
    if !SYSTEM_MODULES.contains(&module) {
        for path in paths_from(code, "std") {
            let is_of_system = |system: &&&str| path == **system || path.starts_with(&format!("{system}::"));
            if let Some(system) = SYSTEM_PATHS.iter().find(is_of_system) {
                found.push(format!("{file}: `{path}`: `{system}` belongs to `vfs` and `sync`"));
            }
        }
    }
    found.extend(super_paths(file, code));
    found.extend(drops_that_call_a_vfs(file, code));
    targets
}

/// Finds paths through `super`, but for `use super::*` in a test module.
fn super_paths(file: &str, code: &str) -> Vec<String> {
    let is_test_file = file.ends_with("tests.rs") || file.contains("/tests/");
    let tests_begin = if is_test_file { Some(0) } else { code.find("#[cfg(test)]") };
    let is_test_glob = |at: usize| {
        tests_begin.is_some_and(|begin| at > begin)
            && code[..at].ends_with("use ")
            && code[at..].starts_with("super::*")
    };
    let places = places_of_path(code, "super").into_iter().filter(|&at| !is_test_glob(at));
    places.map(|at| format!("{file}:{}: a path through `super`", line_number(code, at))).collect()
}

/// Finds `impl Drop` blocks that call a method of the disk.
fn drops_that_call_a_vfs(file: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(" Drop for ") {
        let body = block_behind(&code[at..]);
        for call in VFS_CALLS.iter().filter(|call| body.contains(**call)) {
            found.push(format!("{file}:{}: a `Drop` calls `{call}…)`", line_number(code, at)));
        }
    }
    found
}

/// Returns the text between the first brace and its partner.
fn block_behind(code: &str) -> &str {
    let Some(begin) = code.find('{') else {
        return "";
    };
    let mut depth = 0;
    for (at, character) in code[begin..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[begin..begin + at];
        }
    }
    &code[begin..]
}

fn line_number(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Returns the places where a path begins with `root::`.
fn places_of_path(code: &str, root: &str) -> Vec<usize> {
    let begins_a_path =
        |at: usize| !code[..at].ends_with(|it: char| it.is_alphanumeric() || it == '_' || it == ':');
    code.match_indices(&format!("{root}::")).map(|(at, _)| at).filter(|&at| begins_a_path(at)).collect()
}

/// Returns every path that begins with `root`, with groups in braces unfolded.
fn paths_from(code: &str, root: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for at in places_of_path(code, root) {
        unfold(&mut code[at..].chars().peekable(), String::new(), &mut paths);
    }
    paths
}

/// Reads one path, or a group of paths, that continues `prefix`.
fn unfold(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, mut prefix: String, paths: &mut Vec<String>) {
    let skip_space = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        while rest.next_if(|it| it.is_whitespace()).is_some() {}
    };
    skip_space(rest);
    if rest.next_if_eq(&'{').is_some() {
        loop {
            skip_space(rest);
            match rest.peek() {
                None => return,
                Some('}') => {
                    rest.next();
                    return;
                }
                Some(',') => {
                    rest.next();
                }
                Some(_) => {
                    let before = rest.clone().count();
                    unfold(rest, prefix.clone(), paths);
                    // `as name` and anything else that is no path: step over it, and never stand still.
                    if rest.clone().count() == before || !matches!(rest.peek(), Some(',' | '}')) {
                        rest.next();
                    }
                }
            }
        }
    }
    while let Some(character) = rest.next_if(|it| it.is_alphanumeric() || *it == '_' || *it == '*') {
        prefix.push(character);
    }
    let mut ahead = rest.clone();
    if ahead.next() == Some(':') && ahead.next() == Some(':') {
        prefix.push_str("::");
        *rest = ahead;
        unfold(rest, prefix, paths);
    } else {
        paths.push(prefix.trim_end_matches("::").to_owned());
    }
}

/// Returns modules that import each other in a circle, if there are any.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        module: &str,
        arrows: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(at) = way.iter().position(|it| it == module) {
            way.drain(..at);
            way.push(module.to_owned());
            return true;
        }
        if done.contains(module) {
            return false;
        }
        way.push(module.to_owned());
        for next in arrows.get(module).into_iter().flatten() {
            if walk(next, arrows, way, done) {
                return true;
            }
        }
        way.pop();
        done.insert(module.to_owned());
        false
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|module| {
        let mut way = Vec::new();
        walk(module, arrows, &mut way, &mut done).then_some(way)
    })
}

/// Returns the code with comments, strings and character literals blanked out, line for line.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let skipped = comment_len(rest).or_else(|| literal_len(rest, &code));
        let len = skipped.unwrap_or(character.len_utf8());
        if skipped.is_some() {
            code.extend(rest[..len].chars().map(|it| if it == '\n' { '\n' } else { ' ' }));
        } else {
            code.push(character);
        }
        rest = &rest[len..];
    }
    code
}

/// Returns the length of the comment that `text` begins with.
fn comment_len(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// Returns the length of the string or character literal that `text` begins with.
fn literal_len(text: &str, before: &str) -> Option<usize> {
    let is_inside_a_word = before.ends_with(|it: char| it.is_alphanumeric() || it == '_');
    if !is_inside_a_word {
        let body = text.strip_prefix('b').unwrap_or(text);
        if let Some(raw) = body.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                let close = format!("\"{}", "#".repeat(hashes));
                let inside = &raw[hashes + 1..];
                let end = inside.find(&close).map_or(inside.len(), |at| at + close.len());
                return Some(text.len() - inside.len() + end);
            }
        }
    }
    if text.starts_with('"') {
        return Some(quoted_len(text, '"'));
    }
    // A lifetime has no closing quote right behind its first character.
    let mut characters = text.chars();
    let is_character = characters.next() == Some('\'')
        && match characters.next() {
            Some('\\') => true,
            Some(_) => characters.next() == Some('\''),
            None => false,
        };
    is_character.then(|| quoted_len(text, '\''))
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if character == quote && !is_escaped {
            return at + 1;
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    text.len()
}

/// A small set of sources for the tests of the tests.
const TABLE: &str = "\
| layer | module | owns |
|---|---|---|
| 0 | `base` | words |
| 1 | `vfs`, `cache` | things |
| 2 | `db` | all |
| 3 | `lib.rs` | the face |";

/// Returns what is wrong with a tree of one file.
fn wrongs_of(file: &str, text: &str) -> Vec<String> {
    violations(&layers(TABLE), &BTreeMap::from([(file.to_owned(), text.to_owned())]))
}

#[track_caller]
fn assert_caught(file: &str, text: &str, expected: &str) {
    let wrongs = wrongs_of(file, text);
    assert!(wrongs.iter().any(|wrong| wrong.contains(expected)), "{text:?} gave {wrongs:?}");
}

#[test]
fn good_sources_have_no_violation() {
    let good = "//! Knows crate::db::Db by name only.\nuse crate::base::error::Error;\nuse std::sync::Arc;\n\
                fn f() { let text = \"crate::db::Db\"; let quote = '\"'; let raw = r#\"std::fs \" \"#; }\n\
                #[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
    assert_eq!(wrongs_of("cache.rs", good), Vec::<String>::new());
    assert_eq!(wrongs_of("cache/mod.rs", good), Vec::<String>::new());
    assert_eq!(wrongs_of("vfs/os.rs", "use std::fs::File;\nuse std::time::Instant;"), Vec::<String>::new());
}

#[test]
fn an_arrow_up_is_caught() {
    assert_caught("base/key.rs", "use crate::db::Db;", "goes up");
    assert_caught("vfs/mod.rs", "fn f(db: &crate::db::Db) {}", "goes up");
    assert_caught("cache.rs", "use crate::{base::ids, db::Db};", "`crate::db::Db` goes up");
}

#[test]
fn an_arrow_sideways_is_caught() {
    assert_caught("cache/mod.rs", "use crate::vfs::{self, mem::MemVfs};", "goes sideways");
}

#[test]
fn a_circle_is_caught_even_where_the_layers_would_allow_it() {
    let arrows = |list: &[(&str, &str)]| {
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in list {
            arrows.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        arrows
    };
    assert_eq!(circle(&arrows(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let found = circle(&arrows(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]));
    assert_eq!(found, Some(["b", "c", "d", "b"].map(str::to_owned).to_vec()));
    let both = BTreeMap::from([
        ("cache.rs".to_owned(), "use crate::vfs::Vfs;".to_owned()),
        ("vfs/mod.rs".to_owned(), "use crate::cache::Cache;".to_owned()),
    ]);
    let wrongs = violations(&layers(TABLE), &both);
    assert!(wrongs.iter().any(|wrong| wrong.contains("a circle: cache -> vfs -> cache")), "{wrongs:?}");
}

#[test]
fn paths_through_super_and_the_root_are_caught() {
    assert_caught("db/mod.rs", "use super::Thing;", "through `super`");
    assert_caught("db/mod.rs", "mod tests { use super::*; }", "through `super`");
    assert_caught("db/mod.rs", "#[cfg(test)]\nmod tests { use super::Thing; }", "through `super`");
    assert_caught("db/mod.rs", "use crate::Db;", "crate root");
    assert_caught("db/mod.rs", "use crate::{Db, base::ids};", "crate root");
    assert_caught("attic.rs", "", "not in the layer table");
}

#[test]
fn the_system_outside_its_modules_is_caught() {
    for code in [
        "use std::fs;",
        "use std::{io, fs::File};",
        "fn f() { std::thread::sleep(d) }",
        "use std::time::{Duration, Instant};",
        "let now = std::time::SystemTime::now();",
        "use std::sync::{Arc, Mutex};",
        "use std::sync::{atomic::{AtomicU64, Ordering}, RwLock};",
        "#[cfg(test)]\nmod tests { use std::sync::Condvar; }",
    ] {
        assert_caught("db/mod.rs", code, "belongs to `vfs` and `sync`");
    }
    assert_eq!(
        wrongs_of("db/mod.rs", "use std::{io::IoSlice, time::Duration, sync::Arc};"),
        Vec::<String>::new()
    );
}

#[test]
fn a_drop_that_touches_the_disk_is_caught() {
    let bad = "impl Drop for Log {\n    fn drop(&mut self) {\n        if true { let _ = self.file.sync(); }\n    }\n}";
    assert_caught("db/mod.rs", bad, "a `Drop` calls `.sync(…)`");
    let good = "impl Drop for Log {\n    fn drop(&mut self) { self.pins.release() }\n}\nfn f(file: F) { file.sync() }";
    assert_eq!(wrongs_of("db/mod.rs", good), Vec::<String>::new());
    assert_caught(
        "db/mod.rs",
        "impl<T> Drop for Log<T> { fn drop(&mut self) { self.vfs.remove_file(p); } }",
        "a `Drop`",
    );
}
