//! Threads that run the background jobs of one or of many databases.
//!
//! A database that has something to do is put into a queue; each thread takes one from it, runs one job, and puts the
//! database back if there may be more. What has to happen later (a pause that ends, a reader that may be gone) waits in
//! a list with its time. A database of its own threads has a runtime of its own; one runtime can serve thousands of
//! databases that are mostly idle ([`crate::db::options::Background::Shared`]).

use crate::base::contain::contain;
use crate::base::error::{Error, ErrorKind, Result};
use crate::db::core::Core;
use crate::db::jobs::Look;
use crate::sync::{Condvar, JoinHandle, Mutex, process_id, spawn};
use crate::vfs::Vfs;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Threads for the background jobs of databases; clones share them. They end with the last clone, and with the last
/// database that was given one.
///
/// A child process that was forked off has no such threads: opening a database with its copy of a runtime gives
/// `Closed`, and dropping the copy does nothing.
///
/// ```
/// # fn main() -> tinylsm::Result<()> {
/// use tinylsm::{Background, Db, Runtime, vfs::mem::MemVfs};
/// let runtime = Runtime::new(2)?;
/// let open = || {
///     let builder = Db::builder("/memory").vfs(std::sync::Arc::new(MemVfs::new()));
///     builder.background(Background::Shared(runtime.clone())).open()
/// };
/// let (one, other) = (open()?, open()?);
/// one.put("k", "v")?;
/// other.put("k", "w")?;
/// one.close()?;
/// other.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Runtime {
    threads: Arc<Threads>,
}

struct Threads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle>>,
    process: u32,
}

/// What threads and databases share.
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    threads_count: usize,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Weak<Core>>,
    later: Vec<Later>,
    /// Merges that run now, of all databases: one thread is left for flushes.
    merges_count: usize,
    /// Databases that wanted to merge meanwhile, the first one first. While one could, one of them is being looked at.
    refused: VecDeque<Weak<Core>>,
    is_stopping: bool,
}

/// A database to look at when its clock says so.
struct Later {
    core: Weak<Core>,
    at: u64,
}

impl Runtime {
    /// Starts so many threads, 1 to 64. With two or more, one is always left for flushes.
    ///
    /// # Errors
    /// `InvalidArgument`; `Exhausted` or `Io` if the system has no thread to give.
    pub fn new(threads_count: usize) -> Result<Runtime> {
        if !(1..=64).contains(&threads_count) {
            return Err(Error::invalid("a runtime, as Background::Threads, takes 1 to 64 threads"));
        }
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), threads_count });
        let threads = Threads { shared, handles: Mutex::new(Vec::new()), process: process_id() };
        let runtime = Runtime { threads: Arc::new(threads) };
        for number in 0..threads_count {
            let shared = Arc::clone(&runtime.threads.shared);
            let handle = spawn(&format!("tinylsm-{number}"), move || shared.work())
                .map_err(|error| Error::from_io("spawn", Path::new("a background thread"), error))?;
            runtime.threads.handles.lock().push(handle);
        }
        Ok(runtime)
    }

    /// Returns how many threads there are.
    pub fn threads_count(&self) -> usize {
        self.threads.shared.threads_count
    }

    /// Fails in a process that was forked off the one that started the threads.
    ///
    /// # Errors
    /// `Closed`.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.threads.process == process_id() {
            return Ok(());
        }
        let message =
            "the threads of this runtime are in the process that this one was forked from; make a new one";
        Err(Error::new(ErrorKind::Closed, message))
    }

    /// Returns what a database calls the threads with. It does not keep them running, so that the last one to drop a
    /// runtime is never one of its threads.
    pub(crate) fn waker(&self) -> Waker {
        Waker { shared: Arc::clone(&self.threads.shared) }
    }
}

/// Calls the threads of a runtime.
pub(crate) struct Waker {
    shared: Arc<Shared>,
}

impl Waker {
    /// Lets a thread look at a database, unless one is going to anyway.
    pub(crate) fn wake(&self, core: &Core) {
        self.shared.make_ready(core);
    }

    /// Gives a database the right to run a merge, if enough threads are left for other work. If it is refused, it is
    /// looked at again once one could be run.
    pub(crate) fn begin_merge(&self, core: &Core) -> Option<MergePermit> {
        let mut queue = self.shared.queue.lock();
        if queue.merges_count < self.shared.merges_count_max() {
            queue.merges_count += 1;
            let is_one_left = queue.merges_count < self.shared.threads_count;
            assert!(is_one_left || self.shared.threads_count == 1, "one thread is left for flushes");
            return Some(MergePermit { shared: Arc::clone(&self.shared) });
        }
        if core.begin_refusal() {
            queue.refused.push_back(core.weak());
        }
        None
    }
}

/// The right to run a merge, given back when it drops.
pub(crate) struct MergePermit {
    shared: Arc<Shared>,
}

impl Drop for MergePermit {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        assert!(queue.merges_count > 0, "a merge that ends has begun");
        queue.merges_count -= 1;
        drop(queue);
        self.shared.pass_on();
    }
}

/// Clones are equal, and nothing else is.
impl PartialEq for Runtime {
    fn eq(&self, other: &Runtime) -> bool {
        Arc::ptr_eq(&self.threads, &other.threads)
    }
}

impl Eq for Runtime {}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runtime({} threads)", self.threads_count())
    }
}

impl Drop for Threads {
    /// Waits for the threads, which do nothing once all databases have left. In a forked process there are none.
    fn drop(&mut self) {
        let process = self.process;
        if process != process_id() {
            std::mem::forget(std::mem::take(&mut self.handles));
            return;
        }
        self.shared.queue.lock().is_stopping = true;
        self.shared.changed.notify_all();
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            handle.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        while let Some(core) = self.next() {
            let Some(core) = core.upgrade() else { continue };
            let look = contain("background work", || Ok(core.work_once())).unwrap_or_else(|error| {
                // Nobody knows what it left half done, so nothing may build on it.
                drop(core.fail(&error));
                Look::WhenCalled
            });
            self.look_again(&core, look);
            drop(core);
            self.pass_on();
        }
    }

    fn merges_count_max(&self) -> usize {
        self.threads_count.saturating_sub(1).max(1)
    }

    /// Lets the next database be looked at that was refused a merge, if one could be run. A database that has nothing to
    /// merge any more passes the turn on after the look at it.
    fn pass_on(&self) {
        loop {
            let mut queue = self.queue.lock();
            if queue.merges_count >= self.merges_count_max() {
                return;
            }
            let Some(core) = queue.refused.pop_front() else { return };
            drop(queue);
            if let Some(core) = core.upgrade() {
                core.end_refusal();
                self.make_ready(&core);
                return;
            }
        }
    }

    /// Lets a thread look at a database, unless one is going to anyway.
    fn make_ready(&self, core: &Core) {
        if core.begin_wake() {
            self.queue.lock().ready.push_back(core.weak());
            self.changed.notify_one();
        }
    }

    /// Waits for a database to look at; `None` once the threads are to end.
    fn next(&self) -> Option<Weak<Core>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.is_stopping {
                return None;
            }
            let wait = queue.ripen();
            if let Some(core) = queue.ready.pop_front() {
                return Some(core);
            }
            match wait {
                Some(wait) => drop(self.changed.wait_for(&mut queue, wait)),
                None => self.changed.wait(&mut queue),
            }
        }
    }

    /// Puts a database back where it belongs after a look at it.
    fn look_again(&self, core: &Arc<Core>, look: Look) {
        let at = match look {
            Look::WhenCalled => return,
            Look::At(at) => at,
            Look::Now => return self.make_ready(core),
        };
        let mut queue = self.queue.lock();
        let same = queue.later.iter().position(|later| Weak::as_ptr(&later.core) == Arc::as_ptr(core));
        match same {
            Some(index) => queue.later[index].at = queue.later[index].at.min(at),
            None => queue.later.push(Later { core: Arc::downgrade(core), at }),
        }
        drop(queue);
        // Whoever waits without an end, or for longer, has to hear of the new time.
        self.changed.notify_one();
    }
}

impl Queue {
    /// Moves databases whose time has come to the ready ones; returns how long to wait for the next.
    fn ripen(&mut self) -> Option<Duration> {
        let mut soonest: Option<u64> = None;
        let mut index = 0;
        while index < self.later.len() {
            let left = self.later[index].core.upgrade().map(|core| {
                let left = self.later[index].at.saturating_sub(core.directory.now());
                (left, left == 0 && core.begin_wake())
            });
            match left {
                Some((left, _)) if left > 0 => {
                    soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
                    index += 1;
                }
                Some((_, true)) => {
                    let ripe = self.later.swap_remove(index);
                    self.ready.push_back(ripe.core);
                }
                Some((_, false)) | None => drop(self.later.swap_remove(index)),
            }
        }
        soonest.map(Duration::from_nanos)
    }
}
