//! Catches the words of a panic inside a simulation, so that they become its failure instead of noise.
//!
//! Owns one process-wide panic hook, installed at the first simulation and handing on every panic that happens
//! outside of one. Where a panic happened is told to hooks only, hence the hook.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::Once;

/// How the standard library's words begin when a panic meets code that must not panic; it aborts next.
const DEADLY: [&str; 2] = ["panic in a destructor", "panic in a function that cannot unwind"];

/// What a hook heard of a panic.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
}

thread_local! {
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<Words>> = const { RefCell::new(None) };
}

/// Keeps panics of this OS thread for [`take`] while it lives, instead of printing them.
pub(crate) struct Listener(());

impl Listener {
    pub(crate) fn new() -> Listener {
        install_hook();
        LISTENING.set(true);
        Listener(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENING.set(false);
    }
}

/// Returns what was heard of the last panic on this OS thread, or what its payload says.
pub(crate) fn take(payload: Option<&(dyn Any + Send)>) -> Words {
    let heard = LAST.take();
    heard.unwrap_or_else(|| Words {
        message: payload.and_then(text_of).unwrap_or("a panic without words").to_owned(),
        location: None,
    })
}

/// Puts back what [`take`] gave, for whoever asks next.
pub(crate) fn put_back(words: Words) {
    LAST.set(Some(words));
}

/// Returns what a panic's payload says.
pub(crate) fn text_of(payload: &(dyn Any + Send)) -> Option<&str> {
    match payload.downcast_ref::<&'static str>() {
        Some(text) => Some(text),
        None => payload.downcast_ref::<String>().map(String::as_str),
    }
}

fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !LISTENING.try_with(Cell::get).unwrap_or(false) {
                previous(info);
                return;
            }
            let message = text_of(info.payload()).unwrap_or("a panic without words").to_owned();
            let location = info.location().map(ToString::to_string);
            let words = Words { message, location };
            if DEADLY.iter().any(|deadly| words.message.starts_with(deadly)) {
                // The process ends here, and with it whoever would have reported the panics before.
                eprintln!("in a simulation: {:?}, then {words:?}", LAST.take());
                previous(info);
                return;
            }
            LAST.set(Some(words));
        }));
    });
}
