//! How the set of keyspaces changes: made, renamed, dropped, emptied.
//!
//! Each change is one edit of the manifest, durable when the call returns. The log is synced before a keyspace is dropped
//! or emptied, so that no crash leaves that without the commits before it. The published state changes under the
//! manifest's lock, as tables do everywhere: a flush or merge under way finds its keyspace gone or emptied when it installs
//! its result, and what it wrote is removed (`jobs.rs`). Commit leadership is held throughout, so no commit is under way; one
//! that was admitted before names a keyspace that is gone, and is refused by the leader.
//!
//! *Dropping* takes a keyspace out of the manifest. Its number stays taken forever, and so what the log still has for it is
//! passed over when it is replayed.
//!
//! *Emptying* is a commit with a number of its own, so that what a snapshot sees is decided by numbers, as always. It takes
//! no time that depends on what is in the keyspace:
//!
//! ```text
//! segment n              segment n + 1
//! … S-2 S-1 | synced     S: the commit that empties, synced | edit {segment n + 1, emptied at S} | S+1 …
//! ```
//!
//! Until the edit is there nobody knows segment n + 1, and nothing has happened; from then on all of it has. What the log
//! has for the keyspace up to S is passed over, and its tables are gone from the manifest. In memory they stay while a
//! snapshot from before S lives ([`crate::db::state::Past`]), which keeps their files as readers do.

use crate::base::comparator::KeyOrder;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::ids::KeyspaceId;
use crate::base::limits;
use crate::base::seq::SeqNum;
use crate::db::board::JobKind;
use crate::db::core::{Core, Leader};
use crate::db::ends::Phase;
use crate::db::options::KeyspaceOptions;
use crate::db::state::{KeyspaceInfo, KeyspaceTree};
use crate::format::batch::Batch;
use crate::format::names::FileName;
use crate::read::tree::Tree;
use crate::sync::yield_point;
use crate::version::edit::Change;
use std::sync::Arc;

impl Core {
    /// Finds a keyspace by name.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn find_named(&self, name: &str) -> Result<Arc<KeyspaceInfo>> {
        let state = self.view.state();
        let found = state.keyspaces().find(|keyspace| keyspace.info.name == name);
        let found = found.map(|keyspace| Arc::clone(&keyspace.info));
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no keyspace {name:?}")))
    }

    fn check_unnamed(&self, name: &str) -> Result<()> {
        match self.find_named(name) {
            Err(_) => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::AlreadyExists, format!("keyspace {name:?} exists already"))),
        }
    }

    /// Creates a keyspace, durably.
    pub(crate) fn create_keyspace(
        &self,
        name: &str,
        options: KeyspaceOptions,
        order: KeyOrder,
    ) -> Result<Arc<KeyspaceInfo>> {
        // Leadership keeps the set of active memtables as it is while a group is committed.
        let _leader = self.writing.leader.lock();
        let mut manifest = self.manifest.lock();
        self.check_unnamed(name)?;
        let count = self.view.state().keyspaces_count();
        if count >= limits::KEYSPACES_COUNT_MAX {
            let message = format!("a database has at most {} keyspaces", limits::KEYSPACES_COUNT_MAX);
            return Err(Error::invalid(message));
        }
        self.ends.check_writable()?;
        let id = manifest.as_ref().expect("a writable database has a manifest").catalog().next_keyspace;
        if id.0 == u32::MAX {
            return Err(Error::new(ErrorKind::ReadOnly, "the database has used up its numbers of keyspaces"));
        }
        let change = Change::CreateKeyspace {
            id,
            name: name.to_owned(),
            comparator: options.comparator.clone(),
            options: options.to_text(),
        };
        self.install(&mut manifest, vec![change])?;
        let info = Arc::new(KeyspaceInfo { id, name: name.to_owned(), options, fate: Arc::default() });
        let tree = Tree::new(order, self.options.memtable_bytes / (count + 1));
        let keyspace = KeyspaceTree::new(Arc::clone(&info), self.new_waste(id), tree);
        let mut book = self.book.lock();
        self.change_state(&mut book, |state| state.add_keyspace(keyspace));
        Ok(info)
    }

    /// Gives a keyspace another name, durably.
    pub(crate) fn rename_keyspace(&self, name: &str, new_name: &str) -> Result<()> {
        self.ends.check_writable()?;
        let _leader = self.writing.leader.lock();
        let mut manifest = self.manifest.lock();
        let before = self.find_named(name)?;
        check_not_default(before.id, "renamed")?;
        self.check_unnamed(new_name)?;
        let change = Change::RenameKeyspace { id: before.id, name: new_name.to_owned() };
        self.install(&mut manifest, vec![change])?;
        let (options, fate) = (before.options.clone(), Arc::clone(&before.fate));
        let info = Arc::new(KeyspaceInfo { id: before.id, name: new_name.to_owned(), options, fate });
        self.view.state().keyspace(before.id).tree.order.note_keyspace(new_name);
        let mut book = self.book.lock();
        self.change_state(&mut book, |state| state.set_info(info));
        Ok(())
    }

    /// Drops a keyspace, durably, on a full disk too.
    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.prepare_to_free(|| self.find_named(name).map(drop))?;
        self.with_reserve(|| self.try_drop_keyspace(name))?;
        self.wake_background();
        self.changed.notify_all();
        Ok(())
    }

    fn try_drop_keyspace(&self, name: &str) -> Result<()> {
        let mut leader = self.writing.leader.lock();
        self.ends.check_writable()?;
        self.find_named(name)?;
        self.sync_log(&mut leader)?;
        let mut manifest = self.manifest.lock();
        let info = self.find_named(name)?;
        check_not_default(info.id, "dropped")?;
        self.install(&mut manifest, vec![Change::DropKeyspace(info.id)])?;
        let mut book = self.book.lock();
        let mut dropped = None;
        self.change_state(&mut book, |state| dropped = state.remove_keyspace(info.id));
        info.note_dropped();
        let dropped = dropped.expect("found above, and keyspaces change under the manifest's lock only");
        book.files.retire_tables(dropped.tree.tables.levels().iter().flatten().cloned());
        self.forget_if_dropped(&mut book, info.id);
        // It may have been what a flush failed at.
        book.board.retry_now(|kind| kind == JobKind::Flush);
        Ok(())
    }

    /// Empties a keyspace, durably, on a full disk too; returns the number of that commit.
    pub(crate) fn clear_keyspace(&self, info: &KeyspaceInfo) -> Result<SeqNum> {
        self.prepare_to_free(|| self.view.state().find(info.id).map(drop).ok_or_else(|| info.dropped()))?;
        let limit = self.options.sealed_memtables_max;
        // As for other writes, so much waits to be flushed and no more.
        self.with_reserve(|| {
            self.await_jobs(|kind| kind == JobKind::Flush, |book| book.sealed.len() < limit)?;
            self.try_clear_keyspace(info)
        })
    }

    fn try_clear_keyspace(&self, info: &KeyspaceInfo) -> Result<SeqNum> {
        let mut leader = self.writing.leader.lock();
        self.ends.check_writable()?;
        self.view.state().find(info.id).ok_or_else(|| info.dropped())?;
        if leader.last_seq >= SeqNum::LAST {
            return Err(Error::new(ErrorKind::ReadOnly, "the database has used up its sequence numbers"));
        }
        self.sync_log(&mut leader)?;
        let seq = leader.last_seq.plus(1);
        let mut batch = Batch::new();
        // Passed over like everything of the keyspace up to this number: it only has to be there.
        batch.delete(info.id, b"");
        let frame = batch.stamp(self.expiry_time(), seq);
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        let mut next = self.create_segment(wal.as_predecessor())?;
        let name = FileName::Wal(next.number());
        next.add(frame, seq, seq).and_then(|()| next.sync()).inspect_err(|_| {
            // Nobody knows it yet.
            self.book.lock().files.discard(name, 0);
            self.wake_background();
        })?;
        let mut manifest = self.manifest.lock();
        let changes = vec![Change::WalOpened(next.number()), Change::ClearKeyspace { id: info.id, seq }];
        self.install(&mut manifest, changes).inspect_err(|_| self.discard_if_refused(&manifest, [name]))?;
        // Readers go over to the empty keyspace before anybody can stand at the number: a snapshot at it sees it empty, and
        // one from before sees what was there.
        self.seal(&mut leader, next, Some((info.id, seq)));
        drop(manifest);
        leader.last_seq = seq;
        self.view.publish(seq);
        drop(leader);
        self.forget_past();
        Ok(seq)
    }

    /// Takes the way that frees space: on a full disk, in the space of the reserve, if what is to go is there.
    fn prepare_to_free(&self, find: impl FnOnce() -> Result<()>) -> Result<()> {
        self.ends.check_process()?;
        if self.ends.phase() == Phase::Failed && self.reserve.held_bytes() > 0 {
            find()?;
            self.use_reserve()?;
        }
        self.ends.check_writable()
    }

    /// Makes everything durable that the log holds or holds back.
    fn sync_log(&self, leader: &mut Leader) -> Result<()> {
        let wal = leader.wal.as_mut().expect("a writable database has an open segment");
        wal.sync().map_err(|error| self.fail(&error))?;
        self.note_wal_len(wal);
        Ok(())
    }

    /// Lets go of what emptied keyspaces were before, as far as no snapshot may see it any more.
    pub(crate) fn forget_past(&self) {
        if !self.view.state().has_past() {
            return;
        }
        // New ones stand at the visible number or later. That is taken first, so that none begins unseen between the two, and
        // it may still be before a commit that empties: its keyspace has changed by then, and readers see what it was.
        let readers = || {
            let visible = self.view.visible_seq();
            yield_point("forgetting the past: number loaded");
            (self.view.snapshots.live(), visible)
        };
        let (snapshots, visible) = readers();
        if !self.view.state().has_unseen_past(&snapshots, visible) {
            return;
        }
        let mut book = self.book.lock();
        let (snapshots, visible) = readers();
        self.change_state(&mut book, |state| state.forget_past(&snapshots, visible));
        drop(book);
        if !self.ends.is_cancelled() {
            // Files may be removable now.
            self.wake_background();
            self.changed.notify_all();
        }
    }
}

fn check_not_default(id: KeyspaceId, what: &str) -> Result<()> {
    if id != KeyspaceId::DEFAULT {
        return Ok(());
    }
    Err(Error::invalid(format!("the default keyspace cannot be {what}: every database has it")))
}
