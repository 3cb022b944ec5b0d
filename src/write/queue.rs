//! Group commit: writers queue up, one of them leads and works for all.
//!
//! The first writer that finds no leader takes everything that is queued as its group. While it works, others
//! queue up; when it is done it wakes all, those of its group go home with their answers, and one of the rest
//! leads next. A lone writer passes without waiting.

use crate::sync::{Condvar, Mutex};
use std::collections::BTreeMap;

/// Names one queued request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Requests `R` waiting for a leader, and answers `A` waiting for their writers.
pub struct Queue<R, A> {
    state: Mutex<State<R, A>>,
    answered: Condvar,
}

struct State<R, A> {
    waiting: Vec<(Ticket, R)>,
    answers: BTreeMap<Ticket, A>,
    is_led: bool,
    next_ticket: u64,
}

/// What a writer has to do next.
pub enum Turn<R, A> {
    /// Lead this group, its own request included, and then call [`Queue::finish`].
    Lead(Vec<(Ticket, R)>, Ticket),
    /// Nothing: here is the answer.
    Answered(A),
}

impl<R, A> Default for Queue<R, A> {
    fn default() -> Queue<R, A> {
        let state = State { waiting: Vec::new(), answers: BTreeMap::new(), is_led: false, next_ticket: 0 };
        Queue { state: Mutex::new(state), answered: Condvar::new() }
    }
}

impl<R, A> Queue<R, A> {
    /// Queues a request and waits until it is answered or its writer is to lead.
    pub fn enter(&self, request: R) -> Turn<R, A> {
        let mut state = self.state.lock();
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        state.waiting.push((ticket, request));
        loop {
            if let Some(answer) = state.answers.remove(&ticket) {
                return Turn::Answered(answer);
            }
            if !state.is_led {
                state.is_led = true;
                let group = std::mem::take(&mut state.waiting);
                assert!(
                    group.iter().any(|member| member.0 == ticket),
                    "a leader's own request is unanswered"
                );
                return Turn::Lead(group, ticket);
            }
            self.answered.wait(&mut state);
        }
    }

    /// Hands out the group's answers, ends the leadership, and returns the leader's own answer.
    ///
    /// # Panics
    /// If nobody leads, or the leader's answer is not among them.
    pub fn finish(&self, answers: Vec<(Ticket, A)>, leader: Ticket) -> A {
        let mut state = self.state.lock();
        assert!(state.is_led, "only a leader finishes a group");
        state.is_led = false;
        let mut own = None;
        for (ticket, answer) in answers {
            if ticket == leader {
                own = Some(answer);
            } else {
                state.answers.insert(ticket, answer);
            }
        }
        let is_awaited = !state.answers.is_empty() || !state.waiting.is_empty();
        drop(state);
        if is_awaited {
            self.answered.notify_all();
        }
        own.expect("a leader answers itself too")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn every_writer_gets_its_own_answer() {
        let queue: Arc<Queue<u64, u64>> = Arc::default();
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let queue = Arc::clone(&queue);
                let work = move || {
                    for round in 0..500 {
                        let request = writer * 1000 + round;
                        let answer = match queue.enter(request) {
                            Turn::Answered(answer) => answer,
                            Turn::Lead(group, own) => {
                                let answers = group.into_iter().map(|(ticket, number)| (ticket, number * 2));
                                queue.finish(answers.collect(), own)
                            }
                        };
                        assert_eq!(answer, request * 2);
                    }
                };
                crate::sync::spawn("writer", work).expect("a thread")
            })
            .collect();
        assert!(writers.into_iter().all(crate::sync::JoinHandle::join));
    }
}
