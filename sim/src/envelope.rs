//! A madsim runtime around a run, so that nothing of the real machine seeps in unnoticed.
//!
//! Owns the hosting of simulations, or of any code, inside madsim. There the calls of the C library for clock,
//! entropy and threads are intercepted, also those that a dependency makes behind our back:
//!
//! | stray call | what it meets | how it shows |
//! |---|---|---|
//! | `SystemTime::now`, `Instant::now` | a date of 2022 that the envelope's seed decides, standing still | [`check`] compares two envelopes |
//! | `getrandom`, from the C library | the envelope's generator | [`Enclosed::drew_entropy`] |
//! | keys of `HashMap` | keys that the envelope's seed decides | [`check`] compares two envelopes |
//! | `std::thread::spawn` | a refusal, which panics | the run fails |
//!
//! What escapes: raw system calls, the processor's time stamp counter, addresses. madsim's own disk, network
//! and scheduler are not used. It exists only under `--cfg madsim`.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::panic::resume_unwind;

/// What ran in an envelope.
#[derive(Debug)]
pub struct Enclosed<R> {
    /// What it returned.
    pub value: R,
    /// Whether it asked the C library for entropy.
    pub drew_entropy: bool,
}

/// How a run touched the real machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leak<R> {
    /// It asked for entropy.
    Entropy,
    /// It went differently under another date, other entropy and other hash keys.
    Differs {
        /// What the run returned in one envelope.
        one: R,
        /// What it returned in another.
        other: R,
    },
}

/// The envelopes that [`check`] compares; any two seeds give other dates, entropy and hash keys.
const SEEDS: (u64, u64) = (0x5eed, 0xcafe);

/// What the generator of an untouched envelope gives next, by the envelope's seed.
static UNTOUCHED: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

/// Runs `body` inside a madsim runtime on an OS thread of its own. Simulations run by `body` stay on that thread.
///
/// # Panics
/// With what `body` panics with.
pub fn enclose<R: Send + 'static>(seed: u64, body: impl FnOnce() -> R + Send + 'static) -> Enclosed<R> {
    let (value, next) = enclose_and_draw(seed, body);
    let known = UNTOUCHED.lock().get(&seed).copied();
    let untouched = known.unwrap_or_else(|| {
        let ((), untouched) = enclose_and_draw(seed, || ());
        UNTOUCHED.lock().insert(seed, untouched);
        untouched
    });
    Enclosed { value, drew_entropy: next != untouched }
}

/// Runs what `make` makes in two different envelopes; returns its result if they did not matter.
///
/// # Errors
/// The [`Leak`] through which they did.
///
/// # Panics
/// With what the body panics with, above all when it starts an OS thread.
pub fn check<R, B>(make: impl Fn() -> B) -> Result<R, Leak<R>>
where
    R: PartialEq + Send + 'static,
    B: FnOnce() -> R + Send + 'static,
{
    let (one, other) = (enclose(SEEDS.0, make()), enclose(SEEDS.1, make()));
    if one.drew_entropy || other.drew_entropy {
        return Err(Leak::Entropy);
    }
    if one.value != other.value {
        return Err(Leak::Differs { one: one.value, other: other.value });
    }
    Ok(one.value)
}

/// Runs `body`, and draws one number from the envelope's generator behind it.
fn enclose_and_draw<R: Send + 'static>(seed: u64, body: impl FnOnce() -> R + Send + 'static) -> (R, u64) {
    let thread = std::thread::Builder::new().name("envelope".to_owned());
    let thread = thread.spawn(move || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async move {
            let value = body();
            (value, madsim::rand::random::<u64>())
        })
    });
    match thread.expect("the system has a thread for an envelope").join() {
        Ok(result) => result,
        Err(payload) => resume_unwind(payload),
    }
}
