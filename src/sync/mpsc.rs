//! Channels from many senders to one receiver: the standard library's in production, scheduled inside a simulated run.
//!
//! [`channel`] has no bound; a sender of a [`sync_channel`] waits while so many messages are on their way, and with a bound
//! of 0 until its message was taken. The errors are those of `std::sync::mpsc`.
//!
//! ```
//! use tinylsm::sync::{mpsc, thread};
//! let (sender, receiver) = mpsc::sync_channel(1);
//! let producer = thread::spawn(move || (0..3).try_for_each(|number| sender.send(number)));
//! assert_eq!(receiver.iter().sum::<i32>(), 3);
//! assert_eq!(producer.join().expect("it does not panic"), Ok(()));
//! ```

#![allow(clippy::disallowed_types, reason = "here is where applications get channels from")]

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

#[cfg(feature = "sim")]
pub use crate::sync::mpsc::queue::{
    IntoIter, Iter, Receiver, Sender, SyncSender, TryIter, channel, sync_channel,
};
#[cfg(not(feature = "sim"))]
pub use std::sync::mpsc::{IntoIter, Iter, Receiver, Sender, SyncSender, TryIter, channel, sync_channel};

/// Channels over the locks of [`crate::sync`], so that a host schedules their waits.
///
/// No lock is held at a scheduling point, so that what drops here while its thread panics never has to wait.
#[cfg(feature = "sim")]
mod queue {
    use crate::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
    use crate::sync::time::Instant;
    use crate::sync::{Condvar, Mutex, MutexGuard};
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::fmt;
    use std::marker::PhantomData;
    use std::sync::Arc;
    use std::time::Duration;

    struct Channel<T> {
        state: Mutex<State<T>>,
        /// Without space for any message: each goes from hand to hand.
        is_rendezvous: bool,
        /// A message came, or the last sender went.
        filled: Condvar,
        /// A message was taken, or the receiver went.
        taken: Condvar,
    }

    struct State<T> {
        messages: VecDeque<T>,
        senders_count: usize,
        has_receiver: bool,
        /// The receiver waits for a message.
        is_receiving: bool,
        sent_count: u64,
        taken_count: u64,
    }

    fn new<T>(is_rendezvous: bool) -> Arc<Channel<T>> {
        let state = State {
            messages: VecDeque::new(),
            senders_count: 1,
            has_receiver: true,
            is_receiving: false,
            sent_count: 0,
            taken_count: 0,
        };
        let (filled, taken) = (Condvar::new(), Condvar::new());
        Arc::new(Channel { state: Mutex::new(state), is_rendezvous, filled, taken })
    }

    /// Makes a channel without a bound.
    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let channel = new(false);
        (Sender { end: End(Arc::clone(&channel)) }, Receiver { channel, one_thread: PhantomData })
    }

    /// Makes a channel that holds at most `bound` messages.
    pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
        let channel = new(bound == 0);
        (SyncSender { end: End(Arc::clone(&channel)), bound }, Receiver { channel, one_thread: PhantomData })
    }

    /// One sender of a channel.
    struct End<T>(Arc<Channel<T>>);

    impl<T> Clone for End<T> {
        fn clone(&self) -> End<T> {
            self.0.state.lock().senders_count += 1;
            End(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for End<T> {
        fn drop(&mut self) {
            let mut state = self.0.state.lock();
            state.senders_count -= 1;
            let is_last = state.senders_count == 0;
            drop(state);
            if is_last {
                self.0.filled.notify_all();
            }
        }
    }

    impl<T> Channel<T> {
        /// Puts a message in; returns how many were sent with it.
        fn push(&self, mut state: MutexGuard<'_, State<T>>, message: T) -> u64 {
            state.messages.push_back(message);
            state.sent_count += 1;
            let sent_count = state.sent_count;
            drop(state);
            self.filled.notify_one();
            sent_count
        }

        fn pop(&self, state: &mut MutexGuard<'_, State<T>>) -> Option<T> {
            let message = state.messages.pop_front()?;
            state.taken_count += 1;
            Some(message)
        }
    }

    /// Sends without ever waiting.
    pub struct Sender<T> {
        end: End<T>,
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Sender<T> {
            Sender { end: self.end.clone() }
        }
    }

    impl<T> Sender<T> {
        /// Sends a message.
        ///
        /// # Errors
        /// The message, if the receiver is gone.
        #[track_caller]
        pub fn send(&self, message: T) -> Result<(), SendError<T>> {
            let channel = &self.end.0;
            let state = channel.state.lock();
            if !state.has_receiver {
                return Err(SendError(message));
            }
            channel.push(state, message);
            Ok(())
        }
    }

    /// Sends, and waits while there is no space.
    pub struct SyncSender<T> {
        end: End<T>,
        bound: usize,
    }

    impl<T> Clone for SyncSender<T> {
        fn clone(&self) -> SyncSender<T> {
            SyncSender { end: self.end.clone(), bound: self.bound }
        }
    }

    impl<T> SyncSender<T> {
        /// Sends a message once there is space for it; without a bound, returns once it was taken.
        ///
        /// # Errors
        /// The message, if the receiver is gone.
        #[track_caller]
        pub fn send(&self, message: T) -> Result<(), SendError<T>> {
            let channel = &self.end.0;
            let mut state = channel.state.lock();
            while state.has_receiver && state.messages.len() >= self.bound.max(1) {
                channel.taken.wait(&mut state);
            }
            if !state.has_receiver {
                return Err(SendError(message));
            }
            let number = channel.push(state, message);
            if self.bound > 0 {
                return Ok(());
            }
            let mut state = channel.state.lock();
            while state.has_receiver && state.taken_count < number {
                channel.taken.wait(&mut state);
            }
            if state.taken_count >= number {
                return Ok(());
            }
            // At most one message waits where there is space for none, and that is this one.
            let message = state.messages.pop_back().expect("a message that nobody took is there");
            Err(SendError(message))
        }

        /// Sends a message if there is space for it now.
        ///
        /// # Errors
        /// The message, if there is none or the receiver is gone. With a bound of 0 there is some while the receiver waits.
        #[track_caller]
        pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
            let channel = &self.end.0;
            let state = channel.state.lock();
            if !state.has_receiver {
                return Err(TrySendError::Disconnected(message));
            }
            let bound = if state.is_receiving { self.bound.max(1) } else { self.bound };
            if state.messages.len() >= bound {
                return Err(TrySendError::Full(message));
            }
            channel.push(state, message);
            Ok(())
        }
    }

    /// Takes messages in the order they were sent.
    pub struct Receiver<T> {
        channel: Arc<Channel<T>>,
        /// One thread at a time receives.
        one_thread: PhantomData<Cell<()>>,
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let mut state = self.channel.state.lock();
            state.has_receiver = false;
            // A sender that waits for its message to be taken gets it back. Others' go now: whoever waits for an answer that
            // one of them carries the sender of has to hear that there will be none. No lock is held while they do.
            let left = match self.channel.is_rendezvous {
                true => VecDeque::new(),
                false => std::mem::take(&mut state.messages),
            };
            drop(state);
            drop(left);
            self.channel.taken.notify_all();
        }
    }

    impl<T> Receiver<T> {
        /// Waits for a message.
        ///
        /// # Errors
        /// If there is none and the last sender is gone.
        #[track_caller]
        pub fn recv(&self) -> Result<T, RecvError> {
            let mut state = self.channel.state.lock();
            loop {
                if let Some(message) = self.channel.pop(&mut state) {
                    return Ok(self.hand_out(state, message));
                }
                if state.senders_count == 0 {
                    return Err(RecvError);
                }
                state.is_receiving = true;
                self.channel.filled.wait(&mut state);
                state.is_receiving = false;
            }
        }

        /// Takes a message if there is one.
        ///
        /// # Errors
        /// If there is none; whether one may still come.
        #[track_caller]
        pub fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = self.channel.state.lock();
            match self.channel.pop(&mut state) {
                Some(message) => Ok(self.hand_out(state, message)),
                None if state.senders_count == 0 => Err(TryRecvError::Disconnected),
                None => Err(TryRecvError::Empty),
            }
        }

        /// Waits for a message, at most `timeout`.
        ///
        /// # Errors
        /// If none came in time, or there is none and the last sender is gone.
        #[track_caller]
        pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
            let until = Instant::now() + timeout;
            let mut state = self.channel.state.lock();
            loop {
                if let Some(message) = self.channel.pop(&mut state) {
                    return Ok(self.hand_out(state, message));
                }
                if state.senders_count == 0 {
                    return Err(RecvTimeoutError::Disconnected);
                }
                let left = until - Instant::now();
                if left.is_zero() {
                    return Err(RecvTimeoutError::Timeout);
                }
                state.is_receiving = true;
                self.channel.filled.wait_for(&mut state, left);
                state.is_receiving = false;
            }
        }

        /// Hands out a message that was taken: senders that wait for space are told.
        fn hand_out(&self, state: MutexGuard<'_, State<T>>, message: T) -> T {
            drop(state);
            self.channel.taken.notify_all();
            message
        }

        /// Waits for messages one by one, until the last sender is gone.
        pub fn iter(&self) -> Iter<'_, T> {
            Iter { receiver: self }
        }

        /// Takes the messages that are there.
        pub fn try_iter(&self) -> TryIter<'_, T> {
            TryIter { receiver: self }
        }
    }

    /// Waits for messages one by one, until the last sender is gone.
    #[derive(Debug)]
    pub struct Iter<'a, T> {
        receiver: &'a Receiver<T>,
    }

    impl<T> Iterator for Iter<'_, T> {
        type Item = T;
        fn next(&mut self) -> Option<T> {
            self.receiver.recv().ok()
        }
    }

    /// Takes the messages that are there.
    #[derive(Debug)]
    pub struct TryIter<'a, T> {
        receiver: &'a Receiver<T>,
    }

    impl<T> Iterator for TryIter<'_, T> {
        type Item = T;
        fn next(&mut self) -> Option<T> {
            self.receiver.try_recv().ok()
        }
    }

    impl<'a, T> IntoIterator for &'a Receiver<T> {
        type Item = T;
        type IntoIter = Iter<'a, T>;
        fn into_iter(self) -> Iter<'a, T> {
            self.iter()
        }
    }

    impl<T> IntoIterator for Receiver<T> {
        type Item = T;
        type IntoIter = IntoIter<T>;
        fn into_iter(self) -> IntoIter<T> {
            IntoIter { receiver: self }
        }
    }

    /// Waits for messages one by one, until the last sender is gone.
    #[derive(Debug)]
    pub struct IntoIter<T> {
        receiver: Receiver<T>,
    }

    impl<T> Iterator for IntoIter<T> {
        type Item = T;
        fn next(&mut self) -> Option<T> {
            self.receiver.recv().ok()
        }
    }

    impl<T> fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Sender").finish_non_exhaustive()
        }
    }

    impl<T> fmt::Debug for SyncSender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("SyncSender").finish_non_exhaustive()
        }
    }

    impl<T> fmt::Debug for Receiver<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Receiver").finish_non_exhaustive()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::thread;
    use std::time::Duration;

    #[test]
    fn messages_come_in_order_and_the_last_sender_ends_them() {
        let (sender, receiver) = channel();
        let other = sender.clone();
        let thread =
            thread::spawn(move || (0..100).for_each(|number| other.send(number).expect("listened to")));
        thread.join().expect("it does not panic");
        drop(sender);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(9)), Ok(0));
        assert_eq!(receiver.iter().collect::<Vec<i32>>(), (1..100).collect::<Vec<i32>>());
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_bound_is_kept_and_a_message_that_nobody_takes_comes_back() {
        let (sender, receiver) = sync_channel(2);
        assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(receiver.try_iter().collect::<Vec<i32>>(), [2]);
        assert_eq!(receiver.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
        drop(receiver);
        assert_eq!(sender.send(4), Err(SendError(4)));
        assert_eq!(sender.try_send(5), Err(TrySendError::Disconnected(5)));
    }

    #[test]
    fn without_a_bound_to_fill_a_sender_waits_for_the_receiver() {
        let (sender, receiver) = sync_channel(0);
        assert_eq!(sender.try_send(0), Err(TrySendError::Full(0)));
        let thread = thread::spawn(move || (sender.send(1), sender.send(2)));
        assert_eq!(receiver.recv(), Ok(1));
        drop(receiver);
        let (first, second) = thread.join().expect("it does not panic");
        assert_eq!((first, second), (Ok(()), Err(SendError(2))));
    }
}
