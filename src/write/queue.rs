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
    waiting: Vec<Member<R, A>>,
    answers: BTreeMap<Ticket, (R, A)>,
    is_led: bool,
    next_ticket: u64,
    /// The memory of the last group, for the next: a lone writer allocates nothing here.
    spare: Vec<Member<R, A>>,
}

/// One writer of a group.
pub struct Member<R, A> {
    ticket: Ticket,
    /// What it asks for.
    pub request: R,
    /// What it is told when the group is done; the leader fills it in.
    pub answer: Option<A>,
}

/// What a writer has to do next.
pub enum Turn<R, A> {
    /// Lead this group, its own request included: answer every member, and then call [`Queue::finish`].
    Lead(Vec<Member<R, A>>, Ticket),
    /// Nothing: here is the answer, and the request back.
    Answered(R, A),
}

impl<R, A> Default for Queue<R, A> {
    fn default() -> Queue<R, A> {
        let state = State {
            waiting: Vec::new(),
            answers: BTreeMap::new(),
            is_led: false,
            next_ticket: 0,
            spare: Vec::new(),
        };
        Queue { state: Mutex::new(state), answered: Condvar::new() }
    }
}

impl<R, A> Queue<R, A> {
    /// Queues a request and waits until it is answered or its writer is to lead.
    pub fn enter(&self, request: R) -> Turn<R, A> {
        let mut state = self.state.lock();
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        state.waiting.push(Member { ticket, request, answer: None });
        loop {
            if let Some((request, answer)) = state.answers.remove(&ticket) {
                return Turn::Answered(request, answer);
            }
            if !state.is_led {
                state.is_led = true;
                let spare = std::mem::take(&mut state.spare);
                let group = std::mem::replace(&mut state.waiting, spare);
                assert!(
                    group.iter().any(|member| member.ticket == ticket),
                    "a leader's own request is unanswered"
                );
                return Turn::Lead(group, ticket);
            }
            self.answered.wait(&mut state);
        }
    }

    /// Hands out the group's answers, ends the leadership, and returns the leader's own request and answer.
    ///
    /// # Panics
    /// If nobody leads, a member has no answer, or the leader is not among them.
    pub fn finish(&self, mut group: Vec<Member<R, A>>, leader: Ticket) -> (R, A) {
        let mut state = self.state.lock();
        assert!(state.is_led, "only a leader finishes a group");
        state.is_led = false;
        let mut own = None;
        for member in group.drain(..) {
            let answer = member.answer.expect("a leader answers every member");
            if member.ticket == leader {
                own = Some((member.request, answer));
            } else {
                state.answers.insert(member.ticket, (member.request, answer));
            }
        }
        state.spare = group;
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
                            Turn::Answered(_, answer) => answer,
                            Turn::Lead(mut group, own) => {
                                for member in &mut group {
                                    member.answer = Some(member.request * 2);
                                }
                                queue.finish(group, own).1
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
