//! What the code of one run is given: disks, processes, choices, time, notes.

use crate::check::Settings;
use crate::disk::{DiskEvent, LatencyPlan, Profile, SimDisk};
use crate::schedule;
use crate::tape::{Label, Tape};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::{process_id, thread};
use tinylsm::{Db, DbBuilder, Options};

/// The kinds of this module's events in a run's trace.
const EVENT_DISK: u32 = 0xD15C;
const EVENT_NOTE: u32 = 0x107E;
const EVENT_CONTENT: u32 = 0xF11E;

/// How the lines begin that stand for what is on a disk, which only the comparison of two runs needs.
pub(crate) const CONTENT: &str = "the bytes of ";

/// How the lines of notes and of operations of disks begin.
pub(crate) const NOTE: &str = "note: ";
pub(crate) const DISK: &str = "disk: ";

/// The process that `check`'s closure itself runs in.
const OBSERVER: u32 = 1;

/// An incarnation loses power after up to twice two to the power of this many changes of the disk.
const CUT_EXPONENT_MAX: u32 = 8;

/// What the code of a run may return: nothing, or a result whose error can be shown.
pub trait Outcome {
    /// What is left of it if it is no error.
    type Value;

    /// Returns the value, or the error in words.
    ///
    /// # Errors
    /// The error in words.
    fn into_result(self) -> Result<Self::Value, String>;
}

impl Outcome for () {
    type Value = ();
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<T, E: Display> Outcome for Result<T, E> {
    type Value = T;
    fn into_result(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// One run, in the hands of the code that it runs. Cheap to clone; threads of the run may have clones.
#[derive(Clone)]
pub struct Run {
    inner: Arc<Inner>,
}

struct Inner {
    seed: u64,
    settings: Settings,
    tape: Tape,
    state: Mutex<State>,
}

/// What a run knows and counts.
#[derive(Default)]
pub(crate) struct State {
    disks: BTreeMap<String, SimDisk>,
    /// The process of the incarnation under way.
    process: Option<u32>,
    /// How long its disks take.
    latency: LatencyPlan,
    /// Whether that has met its end.
    is_cut: bool,
    pub(crate) is_unjudged: bool,
    pub(crate) incarnations_count: u64,
    pub(crate) power_cuts_count: u64,
    pub(crate) kills_count: u64,
    pub(crate) changes_count: u64,
    pub(crate) sometimes: BTreeMap<String, bool>,
    /// The first invariant that was broken, or error that was returned.
    pub(crate) broken: Option<String>,
    /// What the last loss of power took.
    pub(crate) last_loss: Option<String>,
}

/// How an incarnation is going to end.
#[derive(Clone, Copy)]
struct Ending {
    /// After so many changes of the disk, if not before by itself.
    after_changes: Option<u64>,
    kind: EndingKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndingKind {
    /// Its process ends by itself.
    Exit,
    PowerCut,
    Kill,
}

impl Run {
    pub(crate) fn new(seed: u64, tape: Tape, settings: Settings) -> Run {
        Run { inner: Arc::new(Inner { seed, settings, tape, state: Mutex::default() }) }
    }

    pub(crate) fn take_state(&self) -> State {
        std::mem::take(&mut self.inner.state.lock())
    }

    fn tape(&self) -> &Tape {
        &self.inner.tape
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// Returns the disk of the run, as it is now. After each incarnation it is another one, with what the last one left.
    pub fn disk(&self) -> SimDisk {
        self.disk_named("disk")
    }

    /// Returns another disk of the run by its name, empty at first. A loss of power is one of all disks.
    pub fn disk_named(&self, name: &str) -> SimDisk {
        let mut state = self.inner.state.lock();
        let found = state.disks.get(name).cloned();
        found.unwrap_or_else(|| {
            let disk = SimDisk::new(self.inner.settings.profile, self.inner.tape.clone());
            disk.observe(Arc::new(tell_event));
            if let Some(process) = state.process {
                self.set_conditions(&disk, process, &state.latency);
            }
            state.disks.insert(name.to_owned(), disk.clone());
            disk
        })
    }

    /// Prepares to open a database on [`Run::disk`], with [`Options::small`].
    pub fn db(&self, path: impl AsRef<Path>) -> DbBuilder {
        Db::builder(path).vfs(Arc::new(self.disk())).options(Options::small())
    }

    /// Runs `body` as a process, which ends at some moment that the seed decides: the power goes, or it is killed, in the
    /// midst of an operation or once `body` has returned; or it just ends. Returns what `body` returned, or `None` if it did
    /// not get that far.
    ///
    /// From that moment on every call that reaches a disk fails. `body` and the threads that it has started run into
    /// these errors and end, by returning them or by a panic; what waits or goes on forever is ended. The disk is
    /// then what the next incarnation finds. An error or panic before that moment is a failure of the run.
    ///
    /// Nothing of a process survives it but its disks and what it wrote into variables of the closure around it, into statics
    /// and into thread-locals, which all threads of a run share: handles and threads are gone.
    ///
    /// # Panics
    /// If it is called while another incarnation goes on, or while something that was opened outside one is still open.
    #[track_caller]
    pub fn incarnation<O: Outcome>(&self, body: impl FnOnce() -> O) -> Option<O::Value> {
        assert_eq!(process_id(), OBSERVER, "an incarnation does not begin within another one");
        // It may lose power at its first change already.
        drop(self.disk());
        let (process, number) = self.begin_incarnation();
        let ending = self.draw_ending();
        self.arm(process, ending);
        self.event(&format!("incarnation {number} begins"));
        let run = self.clone();
        let result = schedule::run_process(process, &format!("incarnation {number}"), move || {
            let result = catch_unwind(AssertUnwindSafe(|| body().into_result()));
            let result = result.unwrap_or_else(|payload| {
                if !run.is_cut() {
                    resume_unwind(payload);
                }
                Err("it panicked".to_owned())
            });
            if let Err(error) = &result
                && !run.is_cut()
            {
                run.fail(format!("incarnation {number} returned an error: {error}"));
            }
            // Whatever it has left behind ends with its process, and nothing of it reaches a disk any more.
            run.cut(process);
            result
        });
        self.end_incarnation(number, ending);
        result.and_then(Result::ok)
    }

    fn begin_incarnation(&self) -> (u32, u64) {
        let mut state = self.inner.state.lock();
        assert!(state.process.is_none(), "one incarnation at a time: two processes would share the disk");
        for (name, disk) in &state.disks {
            let open_count = disk.descriptors_open();
            assert_eq!(
                open_count, 0,
                "{open_count} files of {name} are still open, of a database that was opened outside an incarnation: \
                 drop or close it before the next incarnation begins, since another process cannot use it"
            );
        }
        state.incarnations_count += 1;
        let number = state.incarnations_count;
        let process = OBSERVER + u32::try_from(number).expect("fewer incarnations than steps");
        state.process = Some(process);
        state.is_cut = false;
        (process, number)
    }

    fn draw_ending(&self) -> Ending {
        let tape = self.tape();
        let when = tape.below(Label::Crash, 8);
        if when == 0 {
            return Ending { after_changes: None, kind: EndingKind::Exit };
        }
        let is_kill = self.inner.settings.profile == Profile::Kill || tape.chance(Label::Crash, 1, 4);
        let kind = if is_kill { EndingKind::Kill } else { EndingKind::PowerCut };
        let after_changes = (when < 7).then(|| tape.magnitude(Label::Crash, CUT_EXPONENT_MAX));
        Ending { after_changes, kind }
    }

    /// Sets latencies and faults for an incarnation, and when it ends.
    fn arm(&self, process: u32, ending: Ending) {
        let mut state = self.inner.state.lock();
        state.latency = match self.tape().below(Label::Latency, 4) {
            0 => LatencyPlan::none(),
            3 => LatencyPlan::slow(),
            _ => LatencyPlan::fast(),
        };
        for disk in state.disks.values() {
            self.set_conditions(disk, process, &state.latency);
            if let Some(changes_count) = ending.after_changes {
                disk.power_off_after(changes_count);
            }
        }
    }

    /// Makes a disk slow and faulty as it is in an incarnation, and its loss of power the end of that.
    fn set_conditions(&self, disk: &SimDisk, process: u32, latency: &LatencyPlan) {
        disk.set_latency(latency.clone());
        disk.set_faults(self.inner.settings.faults.clone());
        let run = Arc::downgrade(&self.inner);
        disk.when_off(Arc::new(move || {
            if let Some(inner) = run.upgrade() {
                Run { inner }.cut(process);
            }
        }));
    }

    /// Makes everything that the process does from now on fail.
    fn cut(&self, process: u32) {
        let mut state = self.inner.state.lock();
        if std::mem::replace(&mut state.is_cut, true) {
            return;
        }
        for disk in state.disks.values() {
            disk.power_off();
        }
        drop(state);
        schedule::begin_dying(process);
    }

    fn is_cut(&self) -> bool {
        self.inner.state.lock().is_cut
    }

    /// Puts in place what the next process finds.
    fn end_incarnation(&self, number: u64, ending: Ending) {
        let mut state = self.inner.state.lock();
        state.process = None;
        let how = match ending.kind {
            EndingKind::Exit => "ends by itself",
            EndingKind::PowerCut => {
                state.power_cuts_count += 1;
                "ends: THE POWER GOES"
            }
            EndingKind::Kill => {
                state.kills_count += 1;
                "ends: IT IS KILLED"
            }
        };
        let mut losses = String::new();
        let old = std::mem::take(&mut state.disks);
        for (name, disk) in old {
            state.changes_count += disk.changes_count();
            let next = if ending.kind == EndingKind::PowerCut { disk.image() } else { disk.killed() };
            if let Some(report) = next.crash_report().filter(|report| !report.losses().is_empty()) {
                losses +=
                    &report.losses().iter().fold(String::new(), |text, loss| text + &format!("\n  {loss}"));
            }
            next.observe(Arc::new(tell_event));
            hash_content(&next);
            state.disks.insert(name, next);
        }
        if ending.kind == EndingKind::PowerCut {
            state.last_loss = Some(losses.clone());
        }
        drop(state);
        let text = match (ending.kind, losses.is_empty()) {
            (EndingKind::PowerCut, true) => format!("incarnation {number} {how}; nothing is lost"),
            _ => format!("incarnation {number} {how}{losses}"),
        };
        self.event(&text);
    }

    /// Puts a line into the readable trace. What it says must be the same in every run of the seed.
    pub fn note(&self, text: impl Display) {
        self.event(&format!("{NOTE}{text}"));
    }

    fn event(&self, text: &str) {
        schedule::event_in_words(EVENT_NOTE, &[hash_of(text.as_bytes())], || text.to_owned());
    }

    /// States an invariant. If it does not hold, the run fails here.
    ///
    /// # Panics
    /// If `holds` is false.
    #[track_caller]
    pub fn always(&self, invariant: &str, holds: bool) {
        assert!(holds, "invariant broken: {invariant}");
    }

    /// States what should be the case in some run, so that a test that does not get there is noticed: [`check`](crate::check())
    /// fails if `happens` was false in all runs that asked.
    pub fn sometimes(&self, what: &str, happens: bool) {
        *self.inner.state.lock().sometimes.entry(what.to_owned()).or_default() |= happens;
    }

    /// Makes the run fail at its end, unless something else makes it fail before.
    pub(crate) fn fail(&self, why: String) {
        self.inner.state.lock().broken.get_or_insert(why);
    }

    /// Chooses a number below `bound`; it is 0 in the simplest run.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.tape().below(Label::Workload, bound)
    }

    /// Chooses a number of a range.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn range(&self, range: Range<u64>) -> u64 {
        assert!(!range.is_empty(), "there is no number in {range:?}");
        range.start + self.below(range.end - range.start)
    }

    /// Chooses `true` in `numerator` out of `denominator` cases.
    ///
    /// # Panics
    /// If the fraction exceeds one, or its denominator is 0.
    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.tape().chance(Label::Workload, numerator, denominator)
    }

    /// Chooses an item.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        self.tape().pick(Label::Workload, items)
    }

    /// Chooses so many bytes.
    pub fn bytes(&self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    /// Lets at least `duration` of virtual time pass, as [`tinylsm::sync::thread::sleep`] does.
    pub fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }

    /// Returns the virtual time since the run began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(schedule::now())
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run of seed {}", self.inner.seed)
    }
}

/// Writes an operation of a disk into the trace.
fn tell_event(event: &DiskEvent<'_>) {
    let name = hash_of(event.path.as_os_str().as_encoded_bytes());
    let values = [event.op as u64, name, event.offset, event.len, u64::from(event.error.is_some())];
    schedule::event_in_words(EVENT_DISK, &values, || {
        let mut text = format!("{DISK}{} {}", event.op.name(), event.path.display());
        if let Some(to) = event.to {
            text += &format!(" to {}", to.display());
        }
        if event.len > 0 {
            text += &format!(", {} bytes at {}", event.len, event.offset);
        }
        if let Some(error) = event.error {
            text += &format!(" FAILED: {error:?}");
        }
        text
    });
}

/// Puts what is on a disk into the trace, so that two runs which differ only in the bytes they write are told apart.
fn hash_content(disk: &SimDisk) {
    for file in disk.files() {
        let values = [hash_of(file.name.as_bytes()), file.len, hash_of(&file.bytes)];
        let text = || format!("{CONTENT}{} ({} of them)", file.name, file.len);
        schedule::event_in_words(EVENT_CONTENT, &values, text);
    }
}

impl Run {
    /// Puts what is on every disk into the trace.
    pub(crate) fn hash_disks(&self) {
        let disks: Vec<SimDisk> = self.inner.state.lock().disks.values().cloned().collect();
        disks.iter().for_each(hash_content);
    }
}

/// FNV-1a over words of eight bytes: the trace needs equal numbers for equal bytes, nothing more.
fn hash_of(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01B3).rotate_left(29);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(0xCBF2_9CE4_8422_2325, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(mix(hash, bytes.len() as u64), |hash, byte| mix(hash, u64::from(*byte)))
}
