//! Damage to a copy of a database: what is read is right, or an error that names the damaged file.

use crate::tape::Label;
use crate::world::client::DIRECTORY;
use crate::world::judge::{Violation, violation};
use crate::world::recovery::unreadable;
use crate::world::story::Story;
use std::collections::BTreeMap;
use std::path::Path;
use tinylsm::vfs::Vfs;
use tinylsm::{Background, ErrorKind, Slice};

impl Story {
    /// Flips one bit of a closed database: what is read is right, or an error that names the damaged file.
    pub(in crate::world) fn damage_a_copy(&mut self) -> Result<(), Violation> {
        let copy = self.disk.copy();
        let tape = &self.context.tape;
        let mut names = copy.read_dir(Path::new(DIRECTORY)).map_err(|error| unreadable(&error))?;
        names.retain(|entry| !entry.is_dir && entry.name != "notes.txt");
        let name = &tape.pick(Label::Check, &names).name;
        let path = Path::new(DIRECTORY).join(name);
        let len = copy.metadata(&path).map_err(|error| unreadable(&error))?.len;
        if len == 0 {
            return Ok(());
        }
        let (at, bit) = (tape.below(Label::Check, len), tape.below(Label::Check, 8));
        copy.flip_bit(&path, at, u8::try_from(bit).expect("below 8")).map_err(|error| unreadable(&error))?;
        self.reach("read a damaged copy");
        let names_the_file = |error: &tinylsm::Error| {
            let kinds = [ErrorKind::Corruption, ErrorKind::Incompatible];
            kinds.contains(&error.kind()) && error.file() == Some(path.as_path())
        };
        let broken =
            |what: String| violation("no silent damage", format!("byte {at} bit {bit} of {name}: {what}"));
        let db = match self.context.copy_builder(&copy, Background::Manual).open_read_only() {
            Ok(db) => db,
            Err(error) if names_the_file(&error) => return Ok(()),
            Err(error) => return Err(broken(format!("open gives {error:?}"))),
        };
        let (model, keyspaces) = {
            let judge = self.context.judge.lock();
            (judge.model.clone(), judge.keyspaces.clone())
        };
        let last = model.last_known();
        for (id, known) in (0..).zip(&keyspaces) {
            let expected: BTreeMap<&[u8], &[u8]> = model.content_at(id, last).collect();
            let keyspace = match db.keyspace(&known.name) {
                Ok(keyspace) => keyspace,
                Err(error) => return Err(broken(format!("{error:?}"))),
            };
            let scanned: Result<BTreeMap<Slice, Slice>, _> = keyspace.iter().and_then(Iterator::collect);
            match scanned {
                Ok(content) if content.iter().map(|(k, v)| (&**k, &**v)).eq(expected.clone()) => {}
                Ok(_) => return Err(broken("a scan gives something else and no error".into())),
                Err(error) if names_the_file(&error) => {}
                Err(error) => return Err(broken(format!("a scan gives {error:?}"))),
            }
            for (key, value) in &expected {
                match keyspace.get(key) {
                    Ok(Some(found)) if *found == **value => {}
                    Err(error) if names_the_file(&error) => {}
                    other => return Err(broken(format!("get of {} gives {other:?}", key.escape_ascii()))),
                }
            }
        }
        Ok(())
    }
}
