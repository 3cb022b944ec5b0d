//! The commands about keyspaces as a whole: `keyspaces`, `create-keyspace`, `rename-keyspace`, `clear-keyspace`,
//! `drop-keyspace`.
//!
//! A name is printed with escapes and taken with the same ones, here and behind `--keyspace`. What takes data away asks
//! for `--yes`, and every change is durable when the command reports success.

use crate::escape::escaped;
use crate::failure::{Failure, Outcome};
use crate::modify::{close, given_up, not_written};
use crate::output::Output;
use crate::place::{Place, name_parser};
use clap::Args;
use tinylsm::{Db, KeyspaceOptions};

/// `keyspaces`
#[derive(Args)]
pub(crate) struct KeyspacesArguments {
    #[command(flatten)]
    place: Place,
}

/// `create-keyspace NAME`
#[derive(Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    place: Place,
    /// The name of the new keyspace, with escapes.
    #[arg(value_parser = name_parser(), allow_negative_numbers = true)]
    name: String,
}

/// `rename-keyspace NAME NEW_NAME`
#[derive(Args)]
pub(crate) struct RenameArguments {
    #[command(flatten)]
    place: Place,
    /// The name that it has, with escapes.
    #[arg(value_parser = name_parser(), allow_negative_numbers = true)]
    name: String,
    /// The name that it gets, with escapes.
    #[arg(value_parser = name_parser(), allow_negative_numbers = true)]
    new_name: String,
}

/// `clear-keyspace NAME` and `drop-keyspace NAME`
#[derive(Args)]
pub(crate) struct RemoveArguments {
    #[command(flatten)]
    place: Place,
    /// The name of the keyspace, with escapes.
    #[arg(value_parser = name_parser(), allow_negative_numbers = true)]
    name: String,
    /// Really remove every key in it, for good.
    #[arg(long)]
    yes: bool,
}

/// Prints the names of all keyspaces, a line each, in the order they were created.
pub(crate) fn list(arguments: &KeyspacesArguments) -> Outcome {
    let db = arguments.place.open_to_look()?;
    let mut out = Output::new();
    for name in db.keyspaces() {
        out.line(escaped(name.as_bytes()))?;
    }
    out.flush()
}

/// Creates a keyspace, and the database if it is missing.
pub(crate) fn create(arguments: &CreateArguments) -> Outcome {
    let db = arguments.place.open_or_create()?;
    let made = db.create_keyspace(&arguments.name, KeyspaceOptions::default());
    ended(db, made.map(drop), "the keyspace is made, and that is on disk")
}

/// Gives a keyspace another name.
pub(crate) fn rename(arguments: &RenameArguments) -> Outcome {
    let db = arguments.place.open_to_change()?;
    arguments.place.keyspace(&db, &arguments.name)?;
    let renamed = db.rename_keyspace(&arguments.name, &arguments.new_name);
    ended(db, renamed, "renamed, and that is on disk")
}

/// Removes every key of a keyspace, which stays.
pub(crate) fn clear(arguments: &RemoveArguments) -> Outcome {
    arguments.check_is_meant("clearing")?;
    let db = arguments.place.open_to_change()?;
    let keyspace = arguments.place.keyspace(&db, &arguments.name)?;
    let cleared = keyspace.clear();
    drop(keyspace);
    ended(db, cleared.map(drop), "cleared, and that is on disk")
}

/// Removes a keyspace with every key in it.
pub(crate) fn drop_one(arguments: &RemoveArguments) -> Outcome {
    arguments.check_is_meant("dropping")?;
    let db = arguments.place.open_to_change()?;
    arguments.place.keyspace(&db, &arguments.name)?;
    let dropped = db.drop_keyspace(&arguments.name);
    ended(db, dropped, "dropped, and that is on disk")
}

impl RemoveArguments {
    /// Fails, before anything is opened, unless somebody said that it is meant.
    fn check_is_meant(&self, what: &str) -> Outcome {
        if self.yes {
            return Ok(());
        }
        let name = escaped(self.name.as_bytes());
        Err(Failure::Usage(format!(
            "{what} removes every key of keyspace \"{name}\" for good: give --yes as well if that is meant"
        )))
    }
}

/// Closes the database behind what was done, or was not.
fn ended(db: Db, outcome: tinylsm::Result<()>, done: &str) -> Outcome {
    match outcome {
        Ok(()) => close(db, done),
        Err(error) => Err(given_up(db, |db| not_written(db, error))),
    }
}
