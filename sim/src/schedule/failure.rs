//! What can go wrong with a simulation, and the picture of who waits for whom.
//!
//! Owns the failure that a run reports. Texts are for people; what a program compares is the variant.

use crate::schedule::strategy::ThreadId;
use std::fmt;

/// Why a simulation did not run to its quiet end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A simulated thread panicked.
    Panic {
        /// The thread's name.
        thread: String,
        /// The panic's message.
        message: String,
        /// File, line and column of the panic, where known.
        location: Option<String>,
        /// What the thread had to wait for while it unwound, which no destructor may do; usually `None`.
        stranded: Option<String>,
    },
    /// A thread that is not of the run used what is the run's own.
    Foreign {
        /// Who used what, and where.
        message: String,
    },
    /// Nobody can run and no timer is set.
    Deadlock {
        /// Who waits for whom.
        graph: WaitGraph,
    },
    /// The simulation made more steps than allowed: threads run or wait in circles.
    StepBound {
        /// How many steps were allowed.
        steps_max: u64,
        /// Who waits for whom.
        graph: WaitGraph,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Panic { thread, message, location, stranded } => {
                write!(f, "thread '{thread}' panicked")?;
                if let Some(location) = location {
                    write!(f, " at {location}")?;
                }
                write!(f, ": {message}")?;
                match stranded {
                    Some(wait) => write!(f, "\nand had to wait while it unwound: {wait}"),
                    None => Ok(()),
                }
            }
            Failure::Foreign { message } => f.write_str(message),
            Failure::Deadlock { graph } => write!(f, "deadlock: nobody can run\n{graph}"),
            Failure::StepBound { steps_max, graph } => {
                write!(f, "no end after {steps_max} steps\n{graph}")
            }
        }
    }
}

/// Who waits for whom, when a simulation stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitGraph {
    /// Every thread that had not ended, by number.
    pub threads: Vec<WaitingThread>,
}

/// One thread of a [`WaitGraph`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingThread {
    /// Its number.
    pub thread: ThreadId,
    /// Its name.
    pub name: String,
    /// What it waits for, in words; `None` if it can run.
    pub waits_for: Option<String>,
    /// The thread whose act would end the wait, where one is known: a lock's holder, a thread to join.
    pub blocked_by: Option<ThreadId>,
    /// The scheduling point at which it was seen last.
    pub last_site: &'static str,
}

impl WaitGraph {
    /// Returns threads that wait for each other in a circle, if there are any.
    pub fn cycle(&self) -> Option<Vec<ThreadId>> {
        self.threads.iter().find_map(|start| {
            let mut path = vec![start.thread];
            loop {
                let last = path[path.len() - 1];
                let next = self.threads.iter().find(|thread| thread.thread == last)?.blocked_by?;
                if next == start.thread {
                    return Some(path);
                }
                if path.contains(&next) {
                    return None;
                }
                path.push(next);
            }
        })
    }
}

impl fmt::Display for WaitGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for thread in &self.threads {
            write!(f, "  thread {} '{}' ", thread.thread, thread.name)?;
            match &thread.waits_for {
                Some(wait) => writeln!(f, "waits for {wait}")?,
                None => writeln!(f, "can run; its last scheduling point was '{}'", thread.last_site)?,
            }
        }
        if let Some(cycle) = self.cycle() {
            let path: Vec<String> = cycle.iter().chain(cycle.first()).map(ToString::to_string).collect();
            writeln!(f, "  in a circle: {}", path.join(" -> "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::failure::{WaitGraph, WaitingThread};

    fn graph(edges: &[(u32, Option<u32>)]) -> WaitGraph {
        let threads = edges
            .iter()
            .map(|&(thread, blocked_by)| WaitingThread {
                thread,
                name: format!("t{thread}"),
                waits_for: Some("a lock".to_owned()),
                blocked_by,
                last_site: "lock",
            })
            .collect();
        WaitGraph { threads }
    }

    #[test]
    fn a_circle_is_found_behind_a_tail() {
        assert_eq!(graph(&[(0, Some(1)), (1, Some(2)), (2, Some(1))]).cycle(), Some(vec![1, 2]));
        assert_eq!(graph(&[(4, Some(4))]).cycle(), Some(vec![4]));
        assert_eq!(graph(&[(0, Some(1)), (1, None)]).cycle(), None);
        assert_eq!(graph(&[(0, Some(9))]).cycle(), None);
    }
}
