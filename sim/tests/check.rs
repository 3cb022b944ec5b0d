//! `check` as a stranger uses it: what it finds, what it says, and what it says to mistakes.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "the code under test makes every mistake that there is"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tinylsm::sync::{Mutex, RwLock, mpsc, thread, time};
use tinylsm::{Db, Durability, Options, Result, WriteOptions};
use tinylsm_sim::check::Report;
use tinylsm_sim::disk::{FaultPlan, Profile};
use tinylsm_sim::schedule::{self, Simulation};
use tinylsm_sim::tape::Tape;
use tinylsm_sim::{Check, Run, check};

/// Counts up on a disk over several incarnations; `durability` decides whether a count that was acknowledged stays.
fn count_up(run: &Run, durability: Durability) -> Result<()> {
    let mut acknowledged = 0;
    for _ in 0..4 {
        let options = WriteOptions::default().durability(durability);
        run.incarnation(|| -> Result<()> {
            let db = run.db("/counter").open()?;
            for count in acknowledged + 1..acknowledged + 30 {
                db.default_keyspace().put_with("count", format!("{count}"), options)?;
                acknowledged = count;
            }
            Ok(())
        });
        let db = run.db("/counter").open()?;
        let stored = db.get("count")?.map_or(0, |value| String::from_utf8_lossy(&value).parse().unwrap());
        run.note(format!("stored {stored}, acknowledged {acknowledged}"));
        run.always("no acknowledged count is lost", stored >= acknowledged);
        acknowledged = stored;
    }
    Ok(())
}

/// However busy the machine is, no run that goes on counts as stuck.
const NEVER_STUCK: Duration = Duration::from_secs(600);

fn failing<O: tinylsm_sim::Outcome>(body: impl Fn(&Run) -> O + Send + Sync + 'static) -> Report {
    Check::new(0..50).stuck_after(NEVER_STUCK).run(body)
}

/// Returns what a check finds, which must be something.
fn cause<O: tinylsm_sim::Outcome>(body: impl Fn(&Run) -> O + Send + Sync + 'static) -> String {
    let report = failing(body);
    let finding = report.finding.as_ref().unwrap_or_else(|| panic!("nothing was found: {report}"));
    finding.cause.clone()
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "it does not say {word:?}:\n{text}");
    }
}

#[test]
fn what_keeps_its_promises_passes() {
    let report = Check::new(0..60).run(|run| count_up(run, Durability::Disk));
    report.expect_clean();
    assert_eq!((report.runs_count, report.incarnations_count), (60, 240));
    assert!(report.power_cuts_count > 60 && report.kills_count > 20, "{report:?}");
    Check::new(0..30).profile(Profile::Kill).run(|run| count_up(run, Durability::Os)).expect_clean();
}

#[test]
fn a_count_that_was_never_synced_is_found_and_told() {
    let report = Check::new(0..60).run(|run| count_up(run, Durability::Os));
    let finding = report.finding.as_ref().unwrap();
    assert!(finding.seed < 10, "{report}");
    let text = report.to_string();
    let words = [
        "invariant broken: no acknowledged count is lost",
        "sim/tests/check.rs:",
        "put default \"count\" = ",
        "get default \"count\": ",
        "disk: ",
        "THE POWER GOES",
        "note: stored ",
        "the last loss of power took",
        &format!("TINYLSM_SEED={}", finding.seed),
    ];
    assert_says(&text, &words);
    let again = Check::new([finding.seed]).run(|run| count_up(run, Durability::Os));
    assert_eq!(again.to_string(), text, "the same seed, the same words");
}

/// The test that the next one runs in a process of its own. Passes when nobody asks for a seed.
#[test]
fn replayed_by_another_test() {
    if std::env::var_os("TINYLSM_SEED").is_some() {
        check(0..1, |run| {
            run.note(format!("a number of mine: {}", run.below(1_000_000)));
            run.incarnation(|| run.db("/db").open()?.put("apple", "red"));
            run.always("the seed is another one", run.seed() != 41);
        });
    }
}

#[test]
fn the_variable_replays_one_seed_with_everything_told() {
    let replay = |seed: &str| {
        let arguments = ["--exact", "replayed_by_another_test", "--nocapture"];
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(arguments).env("TINYLSM_SEED", seed).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (passes, text) = replay("41");
    assert!(!passes);
    let words = [
        "seed 41, everything that happened:",
        "a number of mine: ",
        "put default \"apple\" = \"red\"",
        "disk: create",
    ];
    assert_says(&text, &words);
    assert_says(&text, &["the seed is another one", "TINYLSM_SEED=41"]);
    let (passes, other) = replay("42");
    assert!(passes && other.contains("seed 42: nothing failed"), "{other}");
    let (passes, text) = replay("forty");
    assert!(!passes);
    assert_says(&text, &["forty", "no seed"]);
}

#[test]
fn code_that_unwraps_and_leaves_threads_behind_may_lose_power_too() {
    let report = Check::new(0..60).run(|run| {
        let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
        for round in 0..3 {
            let known = Arc::clone(&acknowledged);
            run.incarnation(move || {
                let db = Arc::new(run.db("/db").open().unwrap());
                let (sender, receiver) = mpsc::channel::<u64>();
                // Nobody ever ends this one, which keeps the database open.
                let kept = Arc::clone(&db);
                let endless = thread::spawn(move || (receiver.iter().count(), kept));
                let writers: Vec<_> = (0..2_u64)
                    .map(|writer| {
                        let (db, known) = (Arc::clone(&db), Arc::clone(&known));
                        thread::spawn(move || {
                            for number in 0..20_u64 {
                                let key = format!("{round} {writer} {number}");
                                db.put(&key, "v").unwrap();
                                known.lock().insert(key, number);
                            }
                            db
                        })
                    })
                    .collect();
                for writer in writers {
                    writer.join().unwrap().get("0 0 0").unwrap();
                }
                std::mem::forget((sender, endless));
            });
            let db = run.db("/db").open().unwrap();
            for key in acknowledged.lock().keys() {
                assert!(db.get(key).unwrap().is_some(), "{key} is lost");
            }
        }
    });
    report.expect_clean();
    assert!(report.power_cuts_count > 60, "{report}");
}

#[test]
fn panics_and_errors_are_told_with_their_place() {
    let text = cause(|_: &Run| assert_eq!(1 + 1, 3, "sums"));
    assert_says(&text, &["thread 'main' panicked", "check.rs:", "sums"]);
    let text = cause(|_: &Run| -> std::result::Result<(), String> { Err("no space left".to_owned()) });
    assert_says(&text, &["the run returned an error", "no space left"]);
    let text = cause(|run: &Run| {
        run.incarnation(|| -> Result<()> { run.db("/db").create_if_missing(false).open().map(drop) });
    });
    assert_says(&text, &["incarnation 1 returned an error", "no such file or directory"]);
    let text = cause(|run: &Run| {
        run.incarnation(|| {
            let db = run.db("/db").open().unwrap();
            thread::spawn(move || assert!(db.get("k").unwrap().is_some(), "k is there")).join().unwrap();
        });
    });
    assert_says(&text, &["thread 'thread ", "' panicked", "k is there"]);
}

#[test]
fn a_database_left_open_outside_an_incarnation_is_told() {
    let text = cause(|run: &Run| {
        let db = run.db("/db").open().unwrap();
        run.incarnation(|| db.put("k", "v"));
    });
    assert_says(&text, &["still open", "drop or close it before the next incarnation"]);
    let text = cause(|run: &Run| {
        run.incarnation(|| {
            run.incarnation(|| ());
        });
    });
    assert_says(&text, &["within another one"]);
}

#[test]
fn a_deadlock_of_the_users_threads_is_drawn() {
    let text = cause(|_: &Run| {
        let (one, other) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
        let (first, second) = (Arc::clone(&one), Arc::clone(&other));
        let thread = thread::Builder::new().name("backwards").spawn(move || {
            let _second = second.lock();
            let _first = first.lock();
        });
        {
            let _one = one.lock();
            let _other = other.lock();
        }
        thread.unwrap().join().unwrap();
    });
    assert_says(&text, &["deadlock", "'backwards'", "held by thread", "check.rs:"]);
}

#[test]
fn a_deadlock_of_threads_of_a_scope_is_drawn_with_names_and_the_users_lines() {
    let text = cause(|_: &Run| {
        let lock = Mutex::new(());
        thread::scope(|scope| {
            let lock = &lock;
            let never = move || {
                let first = lock.lock();
                drop(lock.lock());
                drop(first);
            };
            thread::Builder::new().name("waits for itself").spawn_scoped(&scope, never).unwrap();
            scope.spawn(never);
        });
    });
    // The main thread, which waits at the scope's line, the named one, and the one that has only a number.
    assert_says(&text, &["deadlock", "'waits for itself'", "'thread 2'", "the end of thread 1"]);
    assert!(text.matches("check.rs:").count() >= 4, "{text}");
    assert_eq!(
        text.matches(".rs:").count(),
        text.matches("check.rs:").count(),
        "a line that is not the user's:\n{text}"
    );
}

#[test]
fn the_words_of_the_user_are_told_whole() {
    const LEN: usize = 500;
    let report = failing(|run| {
        run.note(format!("{}, and that is all", "long ".repeat(LEN)));
        run.note("first line\nsecond line");
        for _ in 0..5 {
            run.note("disk: full");
        }
        run.always(&format!("{}holds", "what must hold ".repeat(LEN)), false);
    });
    let text = report.to_string();
    assert_says(&text, &["long , and that is all", &format!("{}holds", "what must hold ".repeat(LEN))]);
    assert_says(&text, &["note: first line\n                               second line\n"]);
    assert_eq!(text.matches("note: disk: full").count(), 5, "{text}");
}

#[test]
fn a_thread_of_another_run_is_not_waited_for() {
    let start = || thread::spawn(|| 7);
    let begun = |main: fn() -> thread::JoinHandle<i32>| {
        let outcome = Simulation::run(Tape::from_seed(1), schedule::Options::default(), main);
        outcome.value.expect("it starts a thread")
    };
    let is_over = |joined: thread::Result<i32>| {
        let words = joined.expect_err("its run is over");
        assert_eq!(words.downcast_ref(), Some(&"the simulated run of this thread is over"));
    };
    is_over(begun(start).join());
    let old = begun(start);
    let outcome = Simulation::run(Tape::from_seed(2), schedule::Options::default(), move || {
        assert!(old.is_finished());
        old.join().map_err(|words| words.downcast_ref::<&str>().copied())
    });
    assert_eq!(outcome.value, Some(Err(Some("the simulated run of this thread is over"))));
    // The engine's own threads are told of like that.
    let spawn = || tinylsm::sync::spawn("old", || ()).expect("a run has threads to give");
    let engine = Simulation::run(Tape::from_seed(1), schedule::Options::default(), spawn).value;
    let main = move || engine.map(tinylsm::sync::JoinHandle::join);
    let outcome = Simulation::run(Tape::from_seed(2), schedule::Options::default(), main);
    assert_eq!(outcome.value, Some(Some(false)));
    // And one whose run goes on.
    let text = cause(|_: &Run| {
        let theirs = thread::spawn(|| 7);
        drop(std::thread::spawn(move || theirs.join().map_err(drop)).join());
        thread::yield_now();
    });
    assert_says(&text, &["used the handle of a thread of a simulated run", "check.rs:"]);
}

#[test]
fn a_run_without_end_is_told() {
    let report = Check::new(0..3).steps_max(20_000).run(|run| {
        while run.now() < Duration::MAX {
            run.sleep(Duration::from_secs(1));
        }
    });
    assert_says(&report.to_string(), &["no end after 20000 steps", "'main'"]);
}

#[test]
fn a_thread_of_the_system_is_named() {
    let text = cause(|run: &Run| {
        let db = run.db("/db").open().unwrap();
        let thread = std::thread::Builder::new().name("foreign".to_owned());
        drop(thread.spawn(move || db.put("k", "v")).unwrap().join());
    });
    assert_says(&text, &["\"foreign\" of the operating system", "tinylsm::sync::thread::spawn"]);
    let text = cause(|run: &Run| {
        let total = Arc::new(Mutex::new(0));
        *total.lock() += 1;
        let other = Arc::clone(&total);
        drop(std::thread::spawn(move || *other.lock() += 1).join());
        run.sleep(Duration::from_millis(1));
    });
    assert_says(&text, &["of the operating system used a mutex", "check.rs:"]);
}

/// Sets a flag when it goes.
struct Sets(&'static AtomicBool);

impl Drop for Sets {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_static_that_two_runs_share_is_named() {
    static SHARED: Mutex<u64> = Mutex::new(0);
    static RUNS_COUNT: AtomicU64 = AtomicU64::new(0);
    static FIRST_HAS_USED_IT: AtomicBool = AtomicBool::new(false);
    static SECOND_HAS_TRIED: AtomicBool = AtomicBool::new(false);
    let wait_for = |flag: &AtomicBool| {
        while !flag.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    };
    // The second of two runs uses it while the first one goes on.
    let report = Check::new(0..2).threads_count(2).runs_compared(0).stuck_after(NEVER_STUCK).run(move |_| {
        match RUNS_COUNT.fetch_add(1, Ordering::SeqCst) {
            0 => {
                *SHARED.lock() += 1;
                FIRST_HAS_USED_IT.store(true, Ordering::SeqCst);
                wait_for(&SECOND_HAS_TRIED);
            }
            1 => {
                wait_for(&FIRST_HAS_USED_IT);
                let _sets = Sets(&SECOND_HAS_TRIED);
                *SHARED.lock() += 1;
            }
            _ => {}
        }
    });
    assert_says(&report.to_string(), &["another simulated run", "static"]);
}

#[test]
fn a_standard_lock_held_at_a_switch_is_named() {
    let body = |run: &Run| {
        let db = run.db("/db").open().unwrap();
        let lock = Arc::new(std::sync::Mutex::new(()));
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let (db, lock) = (db.clone(), Arc::clone(&lock));
                let thread = thread::Builder::new().name(format!("writer {number}"));
                thread.spawn(move || {
                    let _held = lock.lock().unwrap();
                    db.put("k", "v").unwrap();
                })
            })
            .collect();
        for thread in threads {
            thread.unwrap().join().unwrap();
        }
    };
    let report = Check::new(0..50).run(body);
    let words = ["the run is stuck", "RUNS NOW", "'writer ", "tinylsm::sync::Mutex"];
    assert_says(&report.finding.expect("somebody is stuck").cause, &words);
}

#[test]
fn real_sleep_is_named() {
    let text = cause(|run: &Run| {
        let thread =
            thread::Builder::new().name("sleeper").spawn(|| std::thread::sleep(Duration::from_millis(30)));
        run.sleep(Duration::from_millis(1));
        thread.unwrap().join().unwrap();
    });
    assert_says(&text, &["'sleeper' slept for about", "tinylsm::sync::thread::sleep"]);
}

#[test]
fn what_the_seed_does_not_decide_is_named() {
    // A real time that is written down.
    let text = cause(|run: &Run| {
        let db = run.db("/db").open().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        db.put("time", format!("{:020}", now.as_nanos())).unwrap();
    });
    assert_says(&text, &["two runs of the same seed differ", "the bytes of", "SystemTime::now"]);
    // A decision by real time.
    let text = cause(|run: &Run| {
        let rounds = Instant::now().elapsed().as_nanos() % 7 + u128::from(std::process::id()) % 2;
        (0..rounds).for_each(|round| run.note(round));
        let rounds =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() % 1000;
        run.note(rounds);
    });
    assert_says(&text, &["differ", "note: "]);
    // The order of a map.
    let text = cause(|run: &Run| {
        let map: HashMap<u64, ()> = (0..50).map(|number| (number, ())).collect();
        map.keys().for_each(|key| run.note(key));
    });
    assert_says(&text, &["left", "right", "note: ", "HashMap"]);
}

#[test]
fn what_never_happens_is_told() {
    let report = Check::new(0..20).run(|run| {
        run.sometimes("an even number is drawn", run.below(2) == 0);
        run.sometimes("a ten is drawn", run.below(10) == 10);
    });
    assert_says(&report.to_string(), &["in none of 20 runs", "a ten is drawn"]);
    assert!(!report.to_string().contains("even"));
}

#[test]
fn a_closure_that_is_not_shared_runs_in_turn() {
    let mut seeds = Vec::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    Check::new([3, 1, 2])
        .runs_compared(0)
        .run_in_turn(move |run| {
            seeds.push(run.seed());
            sender.send(seeds.clone()).unwrap();
        })
        .expect_clean();
    assert_eq!(receiver.iter().last().unwrap(), [3, 1, 2]);
}

#[test]
fn faults_that_were_asked_for_happen() {
    let faults = FaultPlan { sync: 200_000, ..FaultPlan::default() };
    let report = Check::new(0..20).faults(faults).run(|run| {
        run.incarnation(|| {
            let Ok(db) = run.db("/db").open() else { return };
            let result = (0..20_u32).try_for_each(|number| db.put(number.to_be_bytes(), "v").map(drop));
            run.sometimes("a write fails", result.is_err());
        });
    });
    report.expect_clean();
}

#[test]
fn a_second_disk_loses_power_with_the_first() {
    let report = Check::new(0..40).run(|run| {
        let mut acknowledged = 0;
        for _ in 0..3 {
            run.disk_named("copy");
            run.incarnation(|| -> Result<()> {
                let copies = Arc::new(run.disk_named("copy"));
                let (db, copy) =
                    (run.db("/db").open()?, Db::builder("/db").vfs(copies).options(Options::small()).open()?);
                let first = acknowledged;
                for number in first..first + 10 {
                    db.put("k", format!("{number}"))?;
                    copy.put("k", format!("{number}"))?;
                    acknowledged = number;
                }
                Ok(())
            });
            let copies = Arc::new(run.disk_named("copy"));
            let copy = Db::builder("/db").vfs(copies).options(Options::small()).open().unwrap();
            let number = |db: &Db| {
                db.get("k").unwrap().map_or(0, |value| String::from_utf8_lossy(&value).parse().unwrap())
            };
            let (one, other): (u64, u64) = (number(&run.db("/db").open().unwrap()), number(&copy));
            run.always("the copy is at most one behind", one.abs_diff(other) <= 1);
            acknowledged = one;
        }
    });
    report.expect_clean();
}

#[test]
fn threads_locks_channels_and_clocks_run_by_seed() {
    let report = Check::new(0..100).run(|run| {
        let began = time::Instant::now();
        let table = RwLock::new(BTreeMap::new());
        let (sender, receiver) = mpsc::sync_channel(1);
        let total = thread::scope(|scope| {
            for writer in 0..2_u64 {
                let (table, sender) = (&table, sender.clone());
                scope.spawn(move || {
                    for number in 0..5 {
                        table.write().insert((writer, number), number);
                        sender.send(number).unwrap();
                    }
                });
            }
            drop(sender);
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let table = &table;
                    scope.spawn(move || {
                        let (one, two) = (table.read(), table.try_read());
                        two.map_or(0, |two| two.len()).max(one.len())
                    })
                })
                .collect();
            let total = receiver.iter().sum::<u64>();
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() <= 10));
            total
        });
        assert_eq!((total, table.into_inner().len()), (20, 10));
        let handed = mpsc::sync_channel(0);
        let thread = thread::spawn(move || handed.0.send(7));
        assert_eq!(handed.1.recv_timeout(Duration::from_secs(3_600)), Ok(7));
        assert_eq!(thread.join().unwrap(), Ok(()));
        thread::sleep(Duration::from_secs(60));
        assert!(began.elapsed() >= Duration::from_secs(60));
        assert!(time::wall().0 >= 1_780_000_060_000);
        assert_eq!(run.now(), Duration::from_nanos(time::Instant::now().as_nanos()));
    });
    report.expect_clean();
}

#[test]
fn a_panic_beside_borrowing_threads_ends_the_run_only() {
    let text = cause(|run: &Run| {
        let numbers = run.bytes(10);
        thread::scope(|scope| {
            scope.spawn(|| {
                run.sleep(Duration::from_secs(1));
                numbers.len()
            });
            assert!(numbers.is_empty(), "there are none");
        });
    });
    assert_says(&text, &["there are none"]);
    assert!(Path::new("/").exists(), "the process goes on");
}
