//! What others do to the disk while an engine uses it: a second process, an operator who moves and removes things.
//!
//! Nothing here is drawn, takes time, fails by a fault or is told to the observer.

use crate::disk::SimDisk;
use crate::disk::event::DiskOp;
use crate::disk::inode::Inode;
use crate::disk::volume::{Node, failed};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tinylsm::base::error::{Error, ErrorKind, Result};

impl SimDisk {
    /// Returns the disk as another process has it: with descriptors and a number of its own, and nothing held. Locks
    /// exclude the two, as they exclude two handles of one process.
    #[must_use]
    pub fn foreign(&self) -> SimDisk {
        let process = self.shared.last_process.fetch_add(1, Ordering::Relaxed) + 1;
        SimDisk { shared: Arc::clone(&self.shared), process, held: None }
    }

    /// Returns the number of the process that this view of the disk belongs to.
    pub fn process_id(&self) -> u32 {
        self.process
    }

    /// Moves a directory with all that is in it to a name that is free. Who holds it goes on with it under its new
    /// name. Within one directory a crash may undo the move; a move to another directory is durable at once.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists`; `Io` if `from` is a file; `InvalidArgument` if `to` lies within `from`.
    pub fn move_dir(&self, from: &Path, to: &Path) -> Result<()> {
        let (old, new) = (self.route(from)?, self.route(to)?);
        if new.start == old.start && new.names.starts_with(&old.names) {
            return Err(Error::invalid("a directory is not moved into itself").with_file(from));
        }
        let mut volume = self.shared.volume.lock();
        let dir = volume.find_dir("move_dir", &old)?;
        let (source, target) = (volume.place("move_dir", &old)?, volume.place("move_dir", &new)?);
        if volume.node(target).is_some() {
            let error = Error::new(ErrorKind::AlreadyExists, "the name is taken");
            return Err(error.with_file(to).with_operation("move_dir"));
        }
        if source.dir == target.dir {
            volume.rename(source, target);
            return Ok(());
        }
        volume.remove_name(source);
        volume.add_name(target, Node::Dir(dir));
        let upto = volume.seq;
        volume.settle_names(source.dir, upto);
        volume.settle_names(target.dir, upto);
        Ok(())
    }

    /// Removes a file's name, as another process would; open handles keep the file. Not yet durable.
    ///
    /// # Errors
    /// `NotFound`; `Io` for a directory.
    pub fn take_away(&self, path: &Path) -> Result<()> {
        let route = self.route(path)?;
        let mut volume = self.shared.volume.lock();
        volume.find_file(DiskOp::Remove.name(), &route)?;
        let place = volume.place(DiskOp::Remove.name(), &route)?;
        volume.remove_name(place);
        Ok(())
    }

    /// Puts another file with these bytes under a name, in place of the file that has it, if any; open handles keep the
    /// old one. The bytes are durable, the name is not yet.
    ///
    /// # Errors
    /// `NotFound` if the directory is missing; `Io` if the name is a directory's.
    pub fn put_in_place(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let route = self.route(path)?;
        let mut volume = self.shared.volume.lock();
        let place = volume.place("put_in_place", &route)?;
        match volume.node(place) {
            Some(Node::Dir(_)) => return Err(failed("put_in_place", path, "is a directory")),
            Some(Node::File(_)) => volume.remove_name(place),
            None => {}
        }
        let id = volume.add_inode(Inode::default());
        volume.add_name(place, Node::File(id));
        volume.charge(id, |inode| inode.replace_durably(Arc::new(bytes.to_vec())));
        Ok(())
    }
}
