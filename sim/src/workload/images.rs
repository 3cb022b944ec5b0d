//! Crash images of a running disk, recovered on the side while the original goes on.

use crate::disk::{Profile, SimDisk};
use crate::tape::Label;
use crate::workload::calls;
use crate::workload::judge::{Context, Violation, violation};
use crate::workload::model::{Contents, Pairs};
use crate::workload::recovery::{Reading, check_floor};
use std::collections::BTreeSet;
use tinylsm::{Background, Db, ErrorKind};

/// Takes a crash image and judges what is recovered from it.
///
/// # Errors
/// The broken invariant.
pub fn recover_on_the_side(context: &Context, disk: &SimDisk) -> Result<(), Violation> {
    let (image, floor, (owed, gone), model) = {
        let mut judge = context.judge.lock();
        judge.reach("recovery");
        judge.reach("crash image recovered on the side");
        let floors = (judge.model.durable_floor, judge.model.process_floor);
        let owes_all = context.profile == Profile::Kill && disk.failures_count() == 0;
        let floor = if owes_all { floors.1 } else { floors.0 };
        // The original goes on meanwhile: what it loses, takes back and numbers anew is no part of the image.
        (disk.image(), floor, (judge.owed(), judge.gone()), judge.model.clone())
    };
    context.pictures.add_crash(&image, || "a crash image, recovered on the side".to_owned());
    let side = Side { context, image: &image, owed, gone, floor };
    let read_only = if context.tape.chance(Label::Check, 1, 3) { Some(side.read_only()?) } else { None };
    let db = side.open("a crash image does not open")?;
    let (seq, contents) = side.read_all(&db)?;
    if read_only.is_some_and(|read_only| read_only != (seq, contents.clone())) {
        let message = format!("reading only shows another content than the one recovered to {seq}");
        return Err(violation("reading only", message));
    }
    check_floor(seq, floor)?;
    model.check(seq, &contents).map_err(|message| violation("exact prefix", message))?;
    // The same image again: recovery must come to the same end.
    drop(db);
    let again = side.open("a recovered image does not open again")?;
    let (again_seq, again_contents) = side.read_all(&again)?;
    if (again_seq, &again_contents) != (seq, &contents) {
        let message = format!("recovered to {seq} first and to {again_seq} again, or to other content");
        return Err(violation("recovery is idempotent", message));
    }
    Ok(())
}

/// An image, which nobody else has.
struct Side<'a> {
    context: &'a Context,
    image: &'a SimDisk,
    owed: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    floor: u64,
}

impl Side<'_> {
    fn open(&self, failure: &'static str) -> Result<Db, Violation> {
        let opened = self.context.copy_builder(self.image, Background::Manual).open();
        opened.map_err(|error| violation("recovery", format!("{failure}: {error:?}")))
    }

    fn read_all(&self, db: &Db) -> Result<(u64, Contents), Violation> {
        let reading = Reading { disk: self.image, failures_before: self.image.failures_count() };
        let read = reading.read_all(db, &self.owed)?;
        match read.1.keys().find(|id| self.gone.contains(id)) {
            Some(id) => Err(violation("keyspaces", format!("keyspace {id} was dropped and is there again"))),
            None => Ok(read),
        }
    }

    /// Tells whether there must be a database. A process that dies while it makes one may leave a `CURRENT` that is visible
    /// and not durable; who opens that on a disk too full to write can read it, has nothing acknowledged, and loses it with
    /// the power. Any opening that could write has made it durable, and owes the default keyspace from then on.
    fn owes_a_database(&self) -> bool {
        !self.owed.is_empty() || self.floor > 0
    }

    /// Reads an image that nobody recovered yet, which changes nothing on the disk.
    fn read_only(&self) -> Result<(u64, Contents), Violation> {
        self.context.reach("crash image opened read-only");
        let (before, changes_before) = (self.image.files(), self.image.changes_count());
        let opened = self.context.copy_builder(self.image, Background::Manual).open_read_only();
        let read = match opened {
            Ok(db) => {
                let read = self.read_all(&db)?;
                if self.context.tape.chance(Label::Check, 1, 4) {
                    calls::call_all_read_only(&db)?;
                    self.context.reach("judged: read-only calls");
                }
                read
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !self.owes_a_database() => {
                // Whoever makes one there must find it empty.
                (0, Contents::from([(0, Pairs::new())]))
            }
            Err(error) => {
                let message = format!("a crash image does not open read-only: {error:?}");
                return Err(violation("recovery", message));
            }
        };
        if self.image.files() != before || self.image.changes_count() != changes_before {
            return Err(violation("reading only", "opening a crash image read-only changed it".to_owned()));
        }
        Ok(read)
    }
}
