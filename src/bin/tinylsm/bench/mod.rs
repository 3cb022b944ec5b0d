//! `bench`: the ladder of workloads by which embedded key-value engines are compared.
//!
//! Setting, unless arguments say otherwise: a million keys of 16 bytes, values of 100 bytes that compress to about
//! half, 32 MiB of block cache, 64 MiB of memtables, LZ4, 10 filter bits a key, everything written to the log and
//! handed to the system without waiting for the disk (`Durability::Os`) except in the `fillsync` rungs
//! (`Durability::Disk`). Rungs that write are reported twice: by their own time, and with the time until no flush or
//! compaction is due any more.

mod measure;
mod stage;
mod steps;
mod workload;

use crate::bench::measure::{disk_bytes, reset_peak_memory, written_bytes};
use crate::bench::stage::Stage;
use crate::bench::steps::{Row, Step};
use crate::bench::workload::KEY_LEN_BYTES;
use crate::failure::{Failure, Outcome};
use crate::numbers::{self, as_f64, per_second};
use crate::output::Output;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// A million MiB are more than any machine has.
const CACHE_MIB_MAX: u64 = 1 << 20;

/// Reads the length of a value, which the engine must take.
fn value_bytes(text: &str) -> Result<usize, String> {
    let number = numbers::parsed(text)?;
    match number <= tinylsm::base::limits::VALUE_LEN_BYTES_MAX {
        true => Ok(number),
        false => Err("a value has at most 64 MiB".to_owned()),
    }
}

/// `bench`
#[derive(Args)]
pub(crate) struct BenchArguments {
    /// How many keys the database has.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    pub(crate) keys: u64,
    /// The rungs to run, in this order; all of them without this. What a rung needs is loaded before it.
    #[arg(long, value_enum, ignore_case = true, value_delimiter = ',', value_name = "NAMES")]
    steps: Vec<Step>,
    /// Bytes of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = value_bytes)]
    pub(crate) value_bytes: usize,
    /// Size of the block cache.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(0..=CACHE_MIB_MAX))]
    pub(crate) cache_mib: u64,
    /// A directory to work in; a temporary one without this. The loaded database stays in it.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What a filled and overwritten database costs.
struct Costs {
    /// Bytes handed to write calls over bytes put; `None` if other things wrote in between or the system does not tell.
    write_amplification: Option<f64>,
    disk_bytes: u64,
    live_bytes: u64,
}

/// Runs the rungs and prints each as soon as it is measured.
pub(crate) fn run(arguments: &BenchArguments) -> Outcome {
    let temporary;
    let root = match &arguments.dir {
        Some(dir) => dir.as_path(),
        None => {
            temporary = tempfile::tempdir()
                .map_err(|error| Failure::system("cannot make a temporary directory", &error))?;
            temporary.path()
        }
    };
    let steps =
        if arguments.steps.is_empty() { Step::value_variants().to_vec() } else { arguments.steps.clone() };
    let mut stage = Stage::new(root, arguments);
    let mut out = Output::new();
    if !arguments.json {
        print_head(&mut out, arguments)?;
    }
    let mut rows = Vec::new();
    let mut costs = None;
    for step in steps {
        for row in one_step(step, &mut stage)? {
            if !arguments.json {
                print_row(&mut out, &row)?;
            }
            rows.push(row);
        }
        if step == Step::Overwrite {
            costs = Some(costs_of(&stage, arguments)?);
        }
        if step != Step::FillRandom {
            stage.forget_written();
        }
    }
    stage.close()?;
    if arguments.json {
        out.line(report_json(arguments, &rows, costs.as_ref()))?;
    } else if let Some(costs) = costs {
        print_costs(&mut out, &costs)?;
    }
    out.flush()
}

/// Runs one rung, loading the database first if it needs one and nothing has made it.
fn one_step(step: Step, stage: &mut Stage) -> Outcome<Vec<Row>> {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(200));
    if step.needs_loaded() && !stage.is_loaded() {
        spinner.set_message("loading the database");
        Step::FillRandom.run(stage)?;
    }
    spinner.set_message(step.to_possible_value().expect("no rung is skipped").get_name().to_owned());
    reset_peak_memory();
    let rows = step.run(stage);
    spinner.finish_and_clear();
    rows
}

fn costs_of(stage: &Stage, arguments: &BenchArguments) -> Outcome<Costs> {
    let loaded = stage.loaded();
    let live_bytes = arguments.keys * (KEY_LEN_BYTES + arguments.value_bytes) as u64;
    let write_amplification = match (loaded.written_before, written_bytes()) {
        (Some(before), Some(now)) => Some(as_f64(now - before) / as_f64(2 * live_bytes)),
        _ => None,
    };
    Ok(Costs { write_amplification, disk_bytes: disk_bytes(&loaded.dir)?, live_bytes })
}

fn print_head(out: &mut Output, arguments: &BenchArguments) -> Outcome {
    out.text(format_args!(
        "{} keys of {KEY_LEN_BYTES} bytes, values of {}, cache {} MiB, memtables 64 MiB, log without sync except fillsync",
        numbers::count(arguments.keys),
        numbers::counted(arguments.value_bytes as u64, "byte"),
        arguments.cache_mib
    ))?;
    out.line(format_args!(
        "{:<16} {:>9} {:>13} {:>8} {:>8} {:>8} {:>8}",
        "step", "k ops/s", "to quiescence", "p50 µs", "p99 µs", "p99.9 µs", "peak MB"
    ))?;
    out.flush()
}

fn print_row(out: &mut Output, row: &Row) -> Outcome {
    let measured = &row.measured;
    let thousands = |time| format!("{:.1}", per_second(measured.operations, time) / 1e3);
    out.line(format_args!(
        "{:<16} {:>9} {:>13} {:>8.1} {:>8.1} {:>8.1} {:>8}",
        row.name,
        thousands(measured.time),
        row.time_to_quiescence.map(thousands).unwrap_or_default(),
        measured.latency_micros(0.5),
        measured.latency_micros(0.99),
        measured.latency_micros(0.999),
        row.peak_memory_bytes.map(|bytes| (bytes / 1_000_000).to_string()).unwrap_or_default()
    ))?;
    out.flush()
}

fn print_costs(out: &mut Output, costs: &Costs) -> Outcome {
    if let Some(amplification) = costs.write_amplification {
        out.text(format_args!("write amplification after fillrandom and overwrite: {amplification:.2}"))?;
    }
    out.text(format_args!(
        "disk after fillrandom and overwrite: {} for {} live",
        numbers::bytes(costs.disk_bytes),
        numbers::bytes(costs.live_bytes)
    ))
}

fn report_json(arguments: &BenchArguments, rows: &[Row], costs: Option<&Costs>) -> Value {
    let steps: Vec<Value> = rows
        .iter()
        .map(|row| {
            let measured = &row.measured;
            json!({
                "step": row.name,
                "operations": measured.operations,
                "ops_per_second": per_second(measured.operations, measured.time),
                "ops_per_second_to_quiescence":
                    row.time_to_quiescence.map(|time| per_second(measured.operations, time)),
                "p50_micros": measured.latency_micros(0.5),
                "p99_micros": measured.latency_micros(0.99),
                "p999_micros": measured.latency_micros(0.999),
                "peak_memory_bytes": row.peak_memory_bytes,
            })
        })
        .collect();
    json!({
        "keys": arguments.keys,
        "value_bytes": arguments.value_bytes,
        "cache_mib": arguments.cache_mib,
        "steps": steps,
        "write_amplification": costs.and_then(|costs| costs.write_amplification),
        "disk_bytes": costs.map(|costs| costs.disk_bytes),
        "live_bytes": costs.map(|costs| costs.live_bytes),
    })
}
