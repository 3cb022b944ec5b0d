//! `cargo sim mutants`: does the sweep catch what it should?
//!
//! Each patch of `sim/mutants/` plants one known bug. It is applied to a scratch copy of the tree, the simulator is
//! built there, and seeds are swept until an oracle cries. What fails without the patch too shows nothing of it. The
//! engine's source carries no switch for any of this.
//!
//! A patch with a line `# Test: NAME`, of the library, or `# Test: FILE NAME`, of a file in `tests/`, breaks what something else
//! makes up for, so that no run can show it from outside, or what shows only in a moment that seeds hardly ever come upon. That
//! test has to fail with it, and to pass without it.
//!
//! A file of `sim/seeds/` names the patch that plants its bug again. Its seed must fail there, or the file has come to
//! guard nothing: a change of the draws gives a seed another run.

use clap::Args;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use tinylsm_sim::workload::seed_file::SeedFile;

/// Hunts planted bugs.
#[derive(Args)]
pub struct Mutants {
    /// Only patches whose name contains one of these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seeds after which a bug counts as missed, on each profile.
    #[arg(long, default_value_t = 10_000)]
    max_seeds: u64,
    /// Write the seed that was found into the files of `sim/seeds/` whose own no longer shows their bug.
    #[arg(long)]
    refresh: bool,
}

/// How a hunt ended.
enum Hunt {
    /// `stale` are the seed files of this bug whose seed does not show it.
    Caught {
        profile: &'static str,
        seed: u64,
        oracle: String,
        stale: Vec<PathBuf>,
    },
    CaughtByTest(String),
    Missed,
}

impl Mutants {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        match self.hunt_all() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => {
                eprintln!("the hunt could not go on: {error}");
                ExitCode::from(1)
            }
        }
    }

    fn hunt_all(&self) -> io::Result<bool> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let mut patches: Vec<PathBuf> = fs::read_dir(root.join("sim/mutants"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
            .collect();
        patches.sort();
        let is_wanted = |path: &&PathBuf| {
            self.only.is_empty() || self.only.iter().any(|part| name_of(path).contains(part.as_str()))
        };
        let patches: Vec<&PathBuf> = patches.iter().filter(is_wanted).collect();
        if patches.is_empty() {
            return Err(io::Error::other("there is no such patch"));
        }
        let scratch = tempfile::Builder::new().prefix("tinylsm-mutants").tempdir()?;
        let (mut caught, mut missed) = (0, 0);
        for patch in patches {
            let name = name_of(patch);
            match hunt(&root, scratch.path(), patch, self.max_seeds) {
                Ok(Hunt::Caught { profile, seed, oracle, stale }) => {
                    println!("{name:<44} caught after {:>5} seeds on {profile:<5} by {oracle}", seed + 1);
                    for file in &stale {
                        println!("  {} does not show it; seed {seed} on {profile} does", file.display());
                        if self.refresh {
                            refresh(file, seed, profile)?;
                        }
                    }
                    if stale.is_empty() || self.refresh { caught += 1 } else { missed += 1 }
                }
                Ok(Hunt::CaughtByTest(test)) => {
                    println!("{name:<44} caught by the test {test}");
                    caught += 1;
                }
                Err(error) => {
                    missed += 1;
                    println!("{name:<44} NOT HUNTED: {error}");
                }
                Ok(Hunt::Missed) => {
                    missed += 1;
                    println!("{name:<44} MISSED after {} seeds on each profile", self.max_seeds);
                }
            }
        }
        println!("{caught} caught, {missed} missed");
        Ok(missed == 0)
    }
}

fn name_of(patch: &Path) -> String {
    patch.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn hunt(root: &Path, scratch: &Path, patch: &Path, max_seeds: u64) -> io::Result<Hunt> {
    let copy = scratch.join("tree");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    copy_tree(root, &copy)?;
    apply(&copy, patch, &[])?;
    let target = scratch.join("target");
    if let Some(test) = test_of(patch)? {
        return hunt_by_test(&copy, &target, patch, test);
    }
    let built = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--package", "tinylsm-sim"])
        .args(["--features", "cli", "--bin", "tinylsm-sim"])
        .env("CARGO_TARGET_DIR", &target)
        // A patch changes a line or two, and most hunts are shorter than a build.
        .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .current_dir(&copy)
        .status()?;
    if !built.success() {
        return Err(io::Error::other(format!("{} does not build", patch.display())));
    }
    let simulator = target.join("release/tinylsm-sim");
    let bounds = [0, 300, 3_000, u64::MAX].map(|bound| bound.min(max_seeds));
    let rounds = bounds.windows(2).map(|bounds| bounds[0]..bounds[1]).filter(|seeds| !seeds.is_empty());
    for (seeds, profile) in
        rounds.flat_map(|seeds| ["worst", "kill", "ext4"].map(|profile| (seeds.clone(), profile)))
    {
        let seeds = format!("{}..{}", seeds.start, seeds.end);
        let output = Command::new(&simulator)
            .args(["sweep", "--jobs", "2", "--profile", profile, "--seeds", &seeds])
            .output()?;
        if output.status.success() {
            continue;
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
        let seed = line("BROKEN at seed ").and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        if seed.is_none() && text.contains("  MISSED ") {
            // Something fell silent, which is no catch: no seed shows it.
            continue;
        }
        let Some(seed) = seed else {
            return Err(io::Error::other(format!(
                "the sweep of {} ended strangely: {text}",
                patch.display()
            )));
        };
        if !is_clean(&std::env::current_exe()?, seed, profile)? {
            return Err(io::Error::other(format!("seed {seed} on {profile} fails without the bug as well")));
        }
        let stale = stale_seed_files(root, &name_of(patch), &simulator)?;
        return Ok(Hunt::Caught { profile, seed, oracle: line("oracle: ").unwrap_or_default(), stale });
    }
    Ok(Hunt::Missed)
}

/// Returns the test that a patch names.
fn test_of(patch: &Path) -> io::Result<Option<String>> {
    let text = fs::read_to_string(patch)?;
    Ok(text.lines().find_map(|line| line.strip_prefix("# Test: ")).map(str::to_owned))
}

/// Runs a test in a tree with a planted bug, where it has to fail, and again without the bug.
fn hunt_by_test(copy: &Path, target: &Path, patch: &Path, test: String) -> io::Result<Hunt> {
    if passes(copy, target, &test)? {
        return Err(io::Error::other(format!("the test {test} passes with it")));
    }
    apply(copy, patch, &["--reverse"])?;
    if passes(copy, target, &test)? {
        return Ok(Hunt::CaughtByTest(test));
    }
    Err(io::Error::other(format!("the test {test} fails without the bug as well")))
}

/// Runs one test, `NAME` of the library or `FILE NAME` of a file in `tests/`; tells whether it passes.
fn passes(copy: &Path, target: &Path, test: &str) -> io::Result<bool> {
    let (place, name) = match test.split_once(' ') {
        Some((file, name)) => (vec!["--test", file], name),
        None => (vec!["--lib"], test),
    };
    let output = Command::new("cargo")
        .args(["test", "--quiet", "--package", "tinylsm"])
        .args(place)
        .args(["--", "--exact", name])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(copy)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match (text.contains("1 passed; 0 failed"), text.contains("0 passed; 1 failed")) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        _ => {
            let told = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("the test {test} was not run: {text}{told}")))
        }
    }
}

/// Applies a patch to a tree.
fn apply(copy: &Path, patch: &Path, how: &[&str]) -> io::Result<()> {
    let applied = Command::new("git")
        .args(["apply", "--whitespace=nowarn", "--recount"])
        .args(how)
        .arg(patch)
        .current_dir(copy)
        .status()?;
    if applied.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} does not apply", patch.display())))
    }
}

/// Returns the files of `sim/seeds/` that name a mutant and whose seed does not fail in its simulator.
fn stale_seed_files(root: &Path, mutant: &str, simulator: &Path) -> io::Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for entry in fs::read_dir(root.join("sim/seeds"))? {
        let path = entry?.path();
        let file = SeedFile::parse(&fs::read_to_string(&path)?)
            .map_err(|message| io::Error::other(format!("{}: {message}", path.display())))?;
        if file.mutant.as_deref() != Some(mutant) {
            continue;
        }
        if is_clean(simulator, file.seed, file.profile.name())? {
            stale.push(path);
        }
    }
    stale.sort();
    Ok(stale)
}

/// Tells whether a simulator finds nothing at a seed.
fn is_clean(simulator: &Path, seed: u64, profile: &str) -> io::Result<bool> {
    let replayed = Command::new(simulator)
        .args(["replay", &seed.to_string(), "--profile", profile])
        .stdout(Stdio::null())
        .status()?;
    Ok(replayed.success())
}

/// Gives a seed file another seed and profile; its other lines stay.
fn refresh(file: &Path, seed: u64, profile: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let rest = text.lines().filter(|line| !line.starts_with("seed ") && !line.starts_with("profile "));
    let lines =
        [format!("seed {seed}"), format!("profile {profile}")].into_iter().chain(rest.map(str::to_owned));
    fs::write(file, lines.map(|line| line + "\n").collect::<String>())
}

/// Copies what git knows of the tree, as it is now.
fn copy_tree(root: &Path, copy: &Path) -> io::Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()?;
    for name in listed.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = Path::new(std::str::from_utf8(name).map_err(io::Error::other)?);
        let (from, to) = (root.join(name), copy.join(name));
        if !from.exists() {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a file lies in a directory"))?;
        // With its time, so that cargo rebuilds only what the patch touched.
        fs::copy(&from, &to)?;
        let modified = fs::metadata(&from)?.modified()?;
        fs::File::options().write(true).open(&to)?.set_modified(modified)?;
    }
    Ok(())
}
