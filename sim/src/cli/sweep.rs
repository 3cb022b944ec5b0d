//! `cargo sim sweep --seeds A..B`: many runs, until an invariant is broken.

use crate::cli::report::tell_broken;
use crate::cli::{RunSettings, profile};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tinylsm_sim::disk::Profile;
use tinylsm_sim::trace::Keep;
use tinylsm_sim::workload::driver::Settings;
use tinylsm_sim::workload::goals::{Events, missed, tally};
use tinylsm_sim::workload::run::{Ended, run_with};

/// Sweeps seeds.
#[derive(Args)]
pub struct Sweep {
    /// The seeds, as FIRST..END.
    #[arg(long, value_parser = seeds)]
    seeds: Range<u64>,
    /// The kind of disk: kill, ext4, worst, or all of them.
    #[arg(long, default_value = "worst", value_parser = profiles)]
    profile: Profiles,
    /// Runs side by side; one for each core without this.
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on behind a broken invariant, and tell at the end which were broken, how often, and by which seed first.
    #[arg(long)]
    keep_going: bool,
    /// Tell the longest virtual time that each kind of call has taken.
    #[arg(long)]
    slowest: bool,
    /// Write the table of goals, from what these runs have reached, in place of judging by it.
    #[arg(long)]
    goals: bool,
    #[command(flatten)]
    settings: RunSettings,
}

/// The profiles to sweep.
#[derive(Clone)]
struct Profiles(Vec<Profile>);

fn profiles(name: &str) -> Result<Profiles, String> {
    if name == "all" { Ok(Profiles(Profile::ALL.to_vec())) } else { Ok(Profiles(vec![profile(name)?])) }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("seeds are given as FIRST..END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err("there is no seed in this range".into()) } else { Ok(range) }
}

/// What a sweep adds up.
#[derive(Default)]
struct Sum {
    runs: u64,
    crashes: u64,
    recoveries: u64,
    operations: u64,
    steps: u64,
    hashes: BTreeSet<u64>,
    events: Events,
    slowest: BTreeMap<&'static str, (u64, u64)>,
    /// Broken invariants: how often, and the first seed with its message.
    violations: BTreeMap<&'static str, (u64, u64, String)>,
    /// The broken run with the lowest seed.
    broken: Option<Ended>,
}

impl Sum {
    fn add(&mut self, ended: Ended) {
        self.runs += 1;
        self.crashes += ended.summary.crashes_count;
        self.recoveries += ended.summary.recoveries_count;
        self.operations += ended.summary.operations_count;
        self.steps += ended.steps;
        self.hashes.insert(ended.hash);
        tally(&mut self.events, &ended.summary.events);
        for (call, &took_ns) in &ended.summary.slowest {
            let slowest = self.slowest.entry(call).or_default();
            *slowest = (*slowest).max((took_ns, ended.seed));
        }
        if let Some(violation) = &ended.violation {
            let told = violation.message.lines().next().unwrap_or_default().to_owned();
            let (count, seed, message) =
                self.violations.entry(violation.oracle).or_insert((0, ended.seed, String::new()));
            *count += 1;
            if ended.seed <= *seed {
                (*seed, *message) = (ended.seed, told);
            }
        }
        let is_first = self.broken.as_ref().is_none_or(|broken| ended.seed < broken.seed);
        if ended.violation.is_some() && is_first {
            self.broken = Some(ended);
        }
    }
}

impl Sweep {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.unwrap_or(cores).max(1);
        let mut reached = Vec::new();
        let mut are_right = true;
        for profile in &self.profile.0 {
            let (is_right, sum) = self.sweep(*profile, jobs);
            are_right &= is_right;
            if !is_right && !self.keep_going {
                break;
            }
            reached.push((*profile, sum.runs, sum.events));
        }
        if self.goals
            && let Err(error) = write_goals(&reached)
        {
            eprintln!("the goals could not be written: {error}");
            are_right = false;
        }
        if are_right { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }

    /// Sweeps one profile; `false` if an invariant was broken or a goal was missed.
    fn sweep(&self, profile: Profile, jobs: usize) -> (bool, Sum) {
        let (seeds, settings) = (self.seeds.clone(), self.settings.get());
        let bar = ProgressBar::new(seeds.end - seeds.start);
        let style = ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} {per_sec} {eta}");
        bar.set_style(style.expect("the template is right"));
        bar.set_prefix(profile.name());
        let next = AtomicU64::new(seeds.start);
        let is_over = AtomicBool::new(false);
        let sum = Mutex::new(Sum::default());
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            break;
                        }
                        let ended = run_with(seed, profile, Keep::Nothing, &settings);
                        if ended.violation.is_some() && !self.keep_going {
                            is_over.store(true, Ordering::Relaxed);
                        }
                        sum.lock().expect("no thread panics with it").add(ended);
                        bar.inc(1);
                    }
                });
            }
        });
        bar.finish_and_clear();
        let elapsed = began.elapsed().as_secs_f64();
        let sum = sum.into_inner().expect("no thread panics with it");
        let mut out = std::io::stdout().lock();
        let missed = self.missed(profile, &sum);
        let told = report(profile, &seeds, &sum, (elapsed, jobs), &mut out)
            .and_then(|()| missed.iter().try_for_each(|goal| writeln!(out, "  MISSED {goal}")))
            .and_then(|()| self.report_more(&sum, &settings, &mut out));
        let is_right = match told {
            // Whoever reads only the first lines, and closes the pipe, still gets the verdict.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                eprintln!("the report could not be written: {error}");
                false
            }
            _ => sum.broken.is_none() && missed.is_empty(),
        };
        (is_right, sum)
    }

    /// Says which goals a sweep has missed; one that was cut short says nothing.
    fn missed(&self, profile: Profile, sum: &Sum) -> Vec<String> {
        let is_cut = sum.broken.is_some() && !self.keep_going;
        if self.goals || is_cut { Vec::new() } else { missed(profile, sum.runs, &sum.events) }
    }

    fn report_more(&self, sum: &Sum, settings: &Settings, out: &mut dyn Write) -> std::io::Result<()> {
        if self.slowest {
            for (call, (took_ns, seed)) in &sum.slowest {
                writeln!(out, "  slowest {call}: {:.3} s at seed {seed}", *took_ns as f64 / 1e9)?;
            }
        }
        if self.keep_going {
            for (oracle, (count, seed, message)) in &sum.violations {
                writeln!(out, "  BROKEN {count} times: {oracle}, first at seed {seed}: {message:.300}")?;
            }
        }
        sum.broken.as_ref().map_or(Ok(()), |broken| tell_broken(broken, settings, out))
    }
}

fn report(
    profile: Profile,
    seeds: &Range<u64>,
    sum: &Sum,
    (elapsed, jobs): (f64, usize),
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let per_second = sum.runs as f64 / elapsed.max(1e-9);
    writeln!(
        out,
        "{} seeds {}..{}: {} runs in {elapsed:.1} s, {per_second:.0} a second ({:.0} a second and core), {} operations, {} steps, \
         {} crashes, {} recoveries, {} distinct traces",
        profile.name(),
        seeds.start,
        seeds.end,
        sum.runs,
        per_second / jobs as f64,
        sum.operations,
        sum.steps,
        sum.crashes,
        sum.recoveries,
        sum.hashes.len()
    )?;
    for (event, reached) in &sum.events {
        let share = 100.0 * reached.runs as f64 / sum.runs as f64;
        writeln!(out, "  {:>9}  in {share:>6.2} % of runs  {event}", reached.times)?;
    }
    Ok(())
}

/// Events that one profile's runs have reached, with the number of those runs.
type ReachedIn = (Profile, u64, Events);

/// Writes the table of goals anew; a profile that was not swept gets none.
fn write_goals(reached: &[ReachedIn]) -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/workload/goals_table.rs");
    let events: BTreeSet<&str> = reached.iter().flat_map(|(_, _, events)| events.keys().copied()).collect();
    let rate = |profile: Profile, event: &str| {
        let (_, runs, events) = reached.iter().find(|(each, ..)| *each == profile)?;
        events.get(event).map(|reached| reached.runs * 1_000_000 / runs)
    };
    let before = std::fs::read_to_string(&path)?;
    let head = before.split("const GOALS").next().unwrap_or_default();
    let mut text = format!("{head}const GOALS: [Goal; {}] = [\n", events.len());
    for event in events {
        let rates = Profile::ALL.map(|profile| rate(profile, event).unwrap_or(0));
        text += &format!("    Goal {{ event: {event:?}, per_million: {rates:?} }},\n");
    }
    std::fs::write(path, text + "];\n")
}
