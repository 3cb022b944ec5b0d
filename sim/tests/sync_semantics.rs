//! What `tinylsm::sync` gives applications behaves in a simulated run as the standard library does in production.
#![allow(clippy::disallowed_methods, reason = "one test runs on real threads")]

use std::sync::Arc;
use std::time::Duration;
use tinylsm::sync::{Mutex, RwLock, mpsc, thread, time};
use tinylsm_sim::{Check, check};

/// Two senders of a rendezvous channel: each message is taken once.
#[test]
fn each_message_of_two_senders_goes_from_hand_to_hand_once() {
    check(0..200, |_run| {
        let (sender, receiver) = mpsc::sync_channel::<u64>(0);
        let other = sender.clone();
        let one = thread::spawn(move || (0..5).for_each(|n| sender.send(n).expect("goes well")));
        let two = thread::spawn(move || (5..10).for_each(|n| other.send(n).expect("goes well")));
        let mut got: Vec<u64> = receiver.iter().collect();
        one.join().expect("goes well");
        two.join().expect("goes well");
        got.sort_unstable();
        assert_eq!(got, (0..10).collect::<Vec<u64>>());
    });
}

/// The same with threads of the system (a build with the feature `sim`, no host).
#[test]
fn so_it_does_between_real_threads() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (sender, receiver) = mpsc::sync_channel::<u64>(0);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || (0..10_000).for_each(|n| sender.send(n).expect("goes well")))
            })
            .collect();
        drop(sender);
        let count = receiver.iter().count();
        threads.into_iter().for_each(|thread| thread.join().expect("goes well"));
        done.send(count).expect("goes well");
    });
    assert_eq!(finished.recv_timeout(Duration::from_secs(20)), Ok(40_000));
}

/// A receiver that goes drops what is in the channel, so that who waits for an answer hears of it.
#[test]
fn a_receiver_that_goes_lets_go_of_what_was_sent() {
    check(0..50, |_run| {
        let (sender, receiver) = mpsc::channel::<mpsc::Sender<u64>>();
        let server = thread::spawn(move || drop(receiver)); // stops without looking
        let (reply, answer) = mpsc::channel();
        if sender.send(reply).is_ok() {
            assert_eq!(answer.recv(), Err(mpsc::RecvError));
        }
        server.join().expect("goes well");
    });
}

/// A thread that reads already waits forever behind a writer that waits; production hangs, some seed must show it.
#[test]
fn a_second_read_behind_a_waiting_writer_is_a_deadlock() {
    let report = Check::new(0..300).run(|_run| {
        let lock = Arc::new(RwLock::new(0));
        let other = Arc::clone(&lock);
        let writer = thread::spawn(move || *other.write() += 1);
        for _ in 0..10 {
            let one = lock.read();
            thread::sleep(Duration::from_millis(1));
            let two = lock.read();
            assert_eq!(*one, *two);
        }
        writer.join().expect("goes well");
    });
    assert!(!report.is_clean(), "no seed shows the deadlock");
}

/// A reader that nobody stops does not keep a writer out forever, nor does a run of short readers.
#[test]
fn a_writer_gets_its_turn_among_readers() {
    check(0..100, |_run| {
        let lock = Arc::new(RwLock::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let lock = Arc::clone(&lock);
                thread::spawn(move || {
                    loop {
                        let seen = lock.read();
                        thread::yield_now();
                        if *seen {
                            return;
                        }
                    }
                })
            })
            .collect();
        *lock.write() = true;
        readers.into_iter().for_each(|reader| reader.join().expect("goes well"));
    });
}

/// The picture of a deadlock names who holds a read-write lock.
#[test]
fn a_deadlock_names_who_reads() {
    let report = Check::new(0..1).run(|_run| {
        let lock = Arc::new(RwLock::new(0));
        let mutex = Arc::new(Mutex::new(0));
        let one = lock.read();
        let two = lock.read();
        drop(two);
        let _held = mutex.lock();
        let (l, m) = (Arc::clone(&lock), Arc::clone(&mutex));
        thread::spawn(move || {
            *l.write() += 1;
            *m.lock() += 1;
        })
        .join()
        .expect("goes well");
        drop(one);
    });
    let cause = report.finding.expect("goes well").cause;
    assert!(!cause.contains("held by no simulated thread"), "{cause}");
}

/// A thread that sleeps for good is no failure of arithmetic.
#[test]
fn a_thread_that_sleeps_forever_dies_with_its_process() {
    let report = Check::new(0..5).runs_compared(0).run(|run| {
        run.incarnation(|| {
            thread::spawn(|| thread::sleep(Duration::MAX));
            run.db("/db").open()?.put("k", "v")
        });
    });
    report.expect_clean();
}

/// A housekeeping thread that sleeps a day between rounds.
#[test]
fn a_thread_that_works_once_a_day_uses_no_time_up_when_it_dies() {
    let report = Check::new(0..2).runs_compared(0).run(|run| {
        let mut last = time::Instant::now();
        for _ in 0..4 {
            run.incarnation(|| {
                thread::spawn(|| {
                    loop {
                        thread::sleep(Duration::from_secs(86_400));
                    }
                });
                run.db("/db").open()?.put("k", "v")
            });
            let now = time::Instant::now();
            assert!(now >= last, "a clock that never goes back");
            last = now;
        }
    });
    report.expect_clean();
}

/// A notification that never comes is a deadlock, also for who would have waited 300 years and who sleeps in a loop.
#[test]
fn waiting_for_the_longest_time_is_waiting_forever() {
    let report = Check::new(0..3).run(|_run| {
        let (_sender, receiver) = mpsc::channel::<u64>();
        let _ = receiver.recv_timeout(Duration::MAX);
    });
    let cause = report.finding.expect("nobody sends").cause;
    assert!(cause.contains("deadlock"), "{cause}");
}

/// Whoever waits with a bound of nothing at all takes what a waiting sender offers.
#[test]
fn a_message_can_be_handed_to_a_receiver_that_waits() {
    let report = Check::new(0..20).steps_max(200_000).run(|_run| {
        let (sender, receiver) = mpsc::sync_channel::<u64>(0);
        let thread = thread::spawn(move || receiver.recv());
        while sender.try_send(7).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(thread.join().expect("goes well"), Ok(7));
    });
    report.expect_clean();
}

/// Sent with a bound, received at the deadline, disconnected in between: nothing is lost or seen twice.
#[test]
fn bounded_channels_lose_nothing() {
    for bound in 1..4 {
        check(0..100, move |run| {
            let (sender, receiver) = mpsc::sync_channel::<u64>(bound);
            let senders: Vec<_> = (0..3)
                .map(|n| {
                    let sender = sender.clone();
                    thread::spawn(move || (0..6).for_each(|m| sender.send(n * 6 + m).expect("goes well")))
                })
                .collect();
            drop(sender);
            let mut got = Vec::new();
            loop {
                match receiver.recv_timeout(Duration::from_nanos(run.below(3_000))) {
                    Ok(number) => got.push(number),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
            }
            senders.into_iter().for_each(|thread| thread.join().expect("goes well"));
            got.sort_unstable();
            assert_eq!(got, (0..18).collect::<Vec<u64>>());
        });
    }
}

/// "A panic in any thread ends the simulation and is its failure".
#[test]
fn a_panic_in_a_scope_is_told() {
    let report = Check::new(0..1).run(|run| {
        let (work, ready) = (Mutex::new(0), tinylsm::sync::Condvar::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut work = work.lock();
                while *work == 0 {
                    ready.wait(&mut work);
                }
            });
            run.always("two is one", run.below(1) == 1);
            *work.lock() = 1;
            ready.notify_all();
        });
    });
    let cause = report.finding.expect("goes well").cause;
    assert!(cause.contains("two is one"), "{cause}");
}
