//! The same random operations on the simulated disk, the disk in memory and the real one must agree in
//! results, kinds of errors, listings, bytes and lengths.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "one of the disks is the real one")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tinylsm::base::error::Result;
use tinylsm::vfs::mem::MemVfs;
use tinylsm::vfs::os::OsVfs;
use tinylsm::vfs::{DirLock, LockMode, ReadFile, Vfs, WriteFile, read_full};
use tinylsm_sim::disk::{Profile, SimDisk};
use tinylsm_sim::tape::{Label, Tape};

const SEEDS_COUNT: u64 = 60;
const STEPS_COUNT: usize = 250;
const SLOTS_COUNT: usize = 3;

/// A disk, and the handles that a run has open on it.
struct Player<'a> {
    disk: &'a dyn Vfs,
    root: &'a Path,
    writers: [Option<Box<dyn WriteFile>>; SLOTS_COUNT],
    readers: [Option<Arc<dyn ReadFile>>; SLOTS_COUNT],
    locks: [Option<Box<dyn DirLock>>; SLOTS_COUNT],
}

/// One drawn operation: what, on which names and handles, how much.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u64,
    name: u64,
    other: u64,
    slot: usize,
    size: u64,
}

impl Step {
    fn draw(tape: &Tape) -> Step {
        let below = |bound| tape.below(Label::Workload, bound);
        Step {
            kind: below(26),
            name: below(10),
            other: below(10),
            slot: usize::try_from(below(SLOTS_COUNT as u64)).unwrap(),
            size: below(3000),
        }
    }
}

impl<'a> Player<'a> {
    fn new(disk: &'a dyn Vfs, root: &'a Path) -> Player<'a> {
        disk.create_dir_all(root).unwrap();
        Player {
            disk,
            root,
            writers: [const { None }; SLOTS_COUNT],
            readers: [const { None }; SLOTS_COUNT],
            locks: [const { None }; SLOTS_COUNT],
        }
    }

    /// Eight files in two directories, of which the second may be missing, and the directories.
    fn path(&self, name: u64) -> PathBuf {
        match name {
            0..4 => self.root.join(format!("f{name}")),
            4..8 => self.root.join(format!("dir/f{name}")),
            8 => self.root.join("dir"),
            _ => self.root.to_owned(),
        }
    }

    /// Does one step and tells everything that can be seen of it.
    fn play(&mut self, step: Step) -> String {
        let answer = self.attempt(step);
        answer.unwrap_or_else(|error| format!("{:?}", error.kind()))
    }

    fn attempt(&mut self, step: Step) -> Result<String> {
        let (path, other) = (self.path(step.name), self.path(step.other));
        let disk = self.disk;
        Ok(match step.kind {
            0..3 => {
                self.writers[step.slot] = Some(disk.create_new(&path)?);
                "created".to_owned()
            }
            3..8 => match &mut self.writers[step.slot] {
                Some(writer) => {
                    let fill = u8::try_from(step.size % 251).unwrap();
                    let bytes = vec![fill; usize::try_from(step.size).unwrap()];
                    let (left, right) = bytes.split_at(bytes.len() / 3);
                    writer.append(&[IoSlice::new(left), IoSlice::new(right)])?;
                    format!("appended to {}", writer.len())
                }
                None => "no writer".to_owned(),
            },
            8 => match &mut self.writers[step.slot] {
                Some(writer) => {
                    writer.allocate(step.size * 2)?;
                    format!("reserved, {} long", writer.len())
                }
                None => "no writer".to_owned(),
            },
            9 => match &mut self.writers[step.slot] {
                Some(writer) => writer.sync().map(|()| "synced".to_owned())?,
                None => "no writer".to_owned(),
            },
            // What a sync of the wrong kind of thing says differs between systems.
            10 if disk.metadata(&path).is_ok_and(|it| !it.is_dir) => {
                disk.sync_file(&path).map(|()| "synced".to_owned())?
            }
            11 if disk.metadata(&path).is_ok_and(|it| it.is_dir) => {
                disk.sync_dir(&path).map(|()| "synced".to_owned())?
            }
            // Opening a directory works on some systems and not on others.
            10..13 if disk.metadata(&path).is_ok_and(|it| !it.is_dir) => {
                self.readers[step.slot] = Some(disk.open(&path)?);
                "opened".to_owned()
            }
            13 | 14 => match &self.readers[step.slot] {
                Some(reader) => {
                    let mut bytes = vec![0; usize::try_from(step.size).unwrap()];
                    let count = read_full(reader.as_ref(), &mut bytes, step.other * 700)?;
                    format!("{} of {}: {:?}", count, reader.len()?, &bytes[..count])
                }
                None => "no reader".to_owned(),
            },
            15 | 16 if !disk.metadata(&path).is_ok_and(|it| it.is_dir) => {
                disk.rename(&path, &other).map(|()| "renamed".to_owned())?
            }
            17 => disk.remove_file(&path).map(|()| "removed".to_owned())?,
            18 if !disk.metadata(&path).is_ok_and(|it| it.is_dir) => {
                format!("{:?}", disk.link_or_copy(&path, &other)?)
            }
            19 if step.name == 8 => disk.create_dir_all(&path).map(|()| "made".to_owned())?,
            20 => format!("{:?}", disk.metadata(&path)?),
            21 if !disk.metadata(&path).is_ok_and(|it| it.is_dir) => {
                self.locks[step.slot] = None;
                let mode = if step.size.is_multiple_of(2) { LockMode::Shared } else { LockMode::Exclusive };
                let is_empty = disk.metadata(&path).map_or(true, |it| it.len == 0);
                self.locks[step.slot] = Some(disk.lock(&path, mode)?);
                if is_empty && disk.metadata(&path)?.len != 0 {
                    // A disk may leave a word there for people. The others do not, and the file may be one that is written.
                    assert_eq!(mode, LockMode::Exclusive);
                    std::fs::File::options()
                        .write(true)
                        .open(&path)
                        .and_then(|file| file.set_len(0))
                        .unwrap();
                }
                "locked".to_owned()
            }
            23 => match &mut self.writers[step.slot] {
                Some(writer) => writer.trim().map(|()| "trimmed".to_owned())?,
                None => "no writer".to_owned(),
            },
            24 => match &self.locks[step.slot] {
                Some(lock) => lock.check().map(|()| "still ours".to_owned())?,
                None => "no lock".to_owned(),
            },
            22 => {
                self.writers[step.slot] = None;
                self.readers[step.slot] = None;
                self.locks[step.slot] = None;
                "dropped".to_owned()
            }
            _ => format!("{:?}", disk.read_dir(&path)?),
        })
    }

    /// Tells everything that is on the disk.
    fn everything(&self) -> String {
        let mut text = String::new();
        let mut ahead = vec![self.root.to_owned()];
        while let Some(dir) = ahead.pop() {
            for entry in self.disk.read_dir(&dir).unwrap() {
                let path = dir.join(&entry.name);
                if entry.is_dir {
                    ahead.push(path);
                    continue;
                }
                let file = self.disk.open(&path).unwrap();
                let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
                let count = read_full(file.as_ref(), &mut bytes, 0).unwrap();
                assert_eq!(count, bytes.len());
                writeln!(text, "{} {bytes:?}", entry.name).unwrap();
            }
        }
        text
    }
}

#[test]
fn three_disks_agree() {
    for seed in 0..SEEDS_COUNT {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::ALL[usize::try_from(seed % 3).unwrap()];
        let sim = SimDisk::new(profile, Tape::from_seed(seed));
        // Every other time through a view that holds the directory.
        let view = |disk: Arc<dyn Vfs>, root: &Path| {
            disk.create_dir_all(root).unwrap();
            if seed.is_multiple_of(2) { disk } else { disk.hold_dir(root).unwrap() }
        };
        let os = view(Arc::new(OsVfs::new()), dir.path());
        let mem = view(Arc::new(MemVfs::new()), Path::new("/x"));
        let held_sim = view(Arc::new(sim.clone()), Path::new("/x"));
        let mut players = [
            ("real", Player::new(os.as_ref(), dir.path())),
            ("memory", Player::new(mem.as_ref(), Path::new("/x"))),
            ("simulated", Player::new(held_sim.as_ref(), Path::new("/x"))),
        ];
        let tape = Tape::from_seed(seed);
        for index in 0..STEPS_COUNT {
            let step = Step::draw(&tape);
            let answers = players.each_mut().map(|(name, player)| (*name, player.play(step)));
            for (name, answer) in &answers[1..] {
                assert_eq!(*answer, answers[0].1, "seed {seed}, step {index} {step:?}, on the disk {name}");
            }
        }
        let ends = players.each_ref().map(|(_, player)| player.everything());
        assert!(ends.iter().all(|end| *end == ends[0]), "seed {seed}");
        // Without a crash of power nothing is lost, and a killed process leaves all of it too.
        drop(players);
        for survivor in [sim.copy(), sim.killed()] {
            assert_eq!(Player::new(&survivor, Path::new("/x")).everything(), ends[0], "seed {seed}");
        }
    }
}
