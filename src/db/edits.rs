//! Edits of the manifest: how one is installed, when the manifest is begun anew, and which file numbers are given out.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::FileNumber;
use crate::base::limits;
use crate::db::core::Core;
use crate::db::ends::is_mendable;
use crate::format::names::FileName;
use crate::version::edit::{self, Change};
use crate::version::manifest::{Failure, ManifestWriter};
use crate::vfs::Vfs;
use std::io::IoSlice;
use std::sync::atomic::Ordering;

impl Core {
    /// Gives out a file number that was never used.
    pub(crate) fn take_file_number(&self) -> FileNumber {
        FileNumber(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes that numbers below `next_file` are stated as taken by a synced edit.
    pub(crate) fn note_stated(&self, next_file: FileNumber) {
        self.stated_next_file.fetch_max(next_file.0, Ordering::Relaxed);
    }

    /// Makes sure that the number of a file that is going to be removed is never given out again: an edit states it as
    /// taken. Without that only the file's name would tell.
    ///
    /// # Errors
    /// As [`Core::install`].
    pub(crate) fn state_number(&self, number: FileNumber) -> Result<()> {
        if self.is_stated(number) {
            return Ok(());
        }
        let mut manifest = self.manifest.lock();
        if manifest.is_none() {
            return self.ends.check_writable();
        }
        // Some ahead: jobs that fail on a full disk again and again leave files, and must not fill it with such edits.
        let ahead = FileNumber(self.next_file_number().0 + limits::NUMBERS_STATED_AHEAD_COUNT);
        self.install_in_any_phase(&mut manifest, vec![Change::NextFile(ahead)])?;
        self.note_stated(ahead);
        Ok(())
    }

    /// Tells whether a synced edit states that a number is taken.
    pub(crate) fn is_stated(&self, number: FileNumber) -> bool {
        number.0 < self.stated_next_file.load(Ordering::Relaxed)
    }

    /// Returns the number that the next file will get, or a higher one.
    pub(crate) fn next_file_number(&self) -> FileNumber {
        FileNumber(self.next_file.load(Ordering::Relaxed))
    }

    /// Installs an edit durably, rolling the manifest when it has grown.
    ///
    /// # Errors
    /// As [`Ends::check_writable`]; what the manifest meets. Either the edit was refused, and nothing has changed,
    /// or it is in doubt, and writing is off.
    pub(crate) fn install(&self, manifest: &mut Option<ManifestWriter>, changes: Vec<Change>) -> Result<()> {
        self.ends.check_writable()?;
        self.install_in_any_phase(manifest, changes)
    }

    /// Installs an edit as [`Core::install`] does, for whoever closes the database or resumes writing.
    ///
    /// # Errors
    /// What the manifest meets.
    pub(crate) fn install_in_any_phase(
        &self,
        manifest: &mut Option<ManifestWriter>,
        mut changes: Vec<Change>,
    ) -> Result<()> {
        let manifest = manifest.as_mut().expect("only a writable database installs edits");
        let next_file = self.next_file_number();
        changes.push(Change::NextFile(next_file));
        self.install_edit(manifest, &changes)?;
        self.note_stated(next_file);
        Ok(())
    }

    fn install_edit(&self, manifest: &mut ManifestWriter, changes: &[Change]) -> Result<()> {
        let refused = |failure| match failure {
            // The manifest is as good as before, and so is the database.
            Failure::NotInstalled(error) => error,
            Failure::InDoubt(error) => self.fail(&in_doubt(error)),
        };
        if manifest.is_oversized(changes) {
            return self.roll(manifest, changes).map_err(refused);
        }
        let mut installed = manifest.install(changes);
        if matches!(installed, Err(Failure::NotInstalled(_))) && self.has_space_for_edit(changes) {
            manifest.go_unallocated();
            installed = manifest.install(changes);
        }
        installed.map_err(refused)?;
        if manifest.is_grown(self.options.manifest_roll_bytes) {
            match self.roll(manifest, &[]) {
                Ok(()) => {}
                // The old manifest is as good as before.
                Err(Failure::NotInstalled(_)) => {
                    manifest.postpone_roll(self.options.manifest_roll_bytes);
                    self.check_directory();
                }
                // The edit itself is installed; only the next one will be refused.
                Err(Failure::InDoubt(error)) => drop(self.fail(&in_doubt(error))),
            }
        }
        Ok(())
    }

    /// Tells whether there is so much space that an edit was refused only because the disk cannot allocate. What the disk
    /// says of its space is not enough, since it may not know of a quota: as much is written to a file that goes again.
    fn has_space_for_edit(&self, changes: &[Change]) -> bool {
        let len = changes.iter().map(edit::len_bytes_max).sum::<usize>() as u64;
        let available = self.directory.available_space(self.directory.path());
        if !available.is_ok_and(|bytes| bytes >= len + limits::UNALLOCATED_SPACE_LEN_BYTES) {
            return false;
        }
        let path = FileName::Temporary(self.take_file_number()).path(self.directory.path());
        let zeros = vec![0; usize::try_from(len).unwrap_or(usize::MAX) + limits::SMALL_EDIT_LEN_BYTES_MAX];
        let created = self.directory.create_new(&path);
        let written = created.and_then(|mut file| file.append(&[IoSlice::new(&zeros)]));
        // What cannot be removed now is an orphan for the next opening.
        drop(self.directory.remove_file(&path));
        written.is_ok()
    }

    /// Begins a new manifest with `changes` in it.
    fn roll(&self, manifest: &mut ManifestWriter, changes: &[Change]) -> Result<(), Failure> {
        let (number, temporary) = (self.take_file_number(), self.take_file_number());
        let old_len = manifest.disk_len();
        let rolled = manifest.roll_with(self.directory.as_ref(), changes, number, temporary);
        let mut book = self.book.lock();
        match &rolled {
            Ok(old) => {
                self.counters.manifests_rolled.add(1);
                book.files.discard(FileName::Manifest(*old), old_len);
            }
            Err(Failure::NotInstalled(_)) => {
                book.files.discard(FileName::Manifest(number), 0);
                book.files.discard(FileName::Temporary(temporary), 0);
            }
            Err(Failure::InDoubt(_)) => {}
        }
        drop(book);
        self.wake_background();
        rolled.map(drop)
    }

    /// Lets go of files that an edit was to name, if it was refused.
    pub(crate) fn discard_if_refused(
        &self,
        manifest: &Option<ManifestWriter>,
        names: impl IntoIterator<Item = FileName>,
    ) {
        if manifest.as_ref().is_some_and(|manifest| manifest.failure().is_some()) {
            // Nobody knows whether the manifest names them, so they stay.
            return;
        }
        let mut book = self.book.lock();
        for name in names {
            book.files.discard(name, 0);
        }
        drop(book);
        self.wake_background();
    }
}

/// Makes a failure that leaves the manifest in doubt one that no space on the disk mends.
fn in_doubt(error: Error) -> Error {
    if !is_mendable(&error) {
        return error;
    }
    error.within(ErrorKind::Io, "what the manifest says is in doubt")
}
