//! Where a command works: the directory, the keyspace, and how they are opened.

use crate::escape::{escaped, shown, unescaped};
use crate::failure::{Failure, Outcome};
use crate::modify::bytes_of;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::ffi::OsString;
use std::path::PathBuf;
use tinylsm::{Db, DbBuilder, ErrorKind, Keyspace, KeyspaceOptions, NAME_LEN_BYTES_MAX, Options};

/// The directory of a database.
#[derive(Args)]
pub(crate) struct Place {
    /// The directory that holds the database.
    #[arg(long, value_name = "DIR")]
    pub(crate) db: PathBuf,
    /// Open although tables are missing or damaged: what needs them fails, the rest is read and written.
    #[arg(long)]
    pub(crate) degraded: bool,
}

/// A keyspace of a database.
#[derive(Args)]
pub(crate) struct KeyspacePlace {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The keyspace to work in, with escapes.
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = name_parser())]
    pub(crate) keyspace: String,
}

/// Takes a keyspace's name, which is text, with the escapes that it is printed with.
pub(crate) fn name_parser() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(|name: OsString| {
        let no_text = || "the name of a keyspace is text in UTF-8".to_owned();
        let name = unescaped(bytes_of(&name).ok_or_else(no_text)?)?;
        let name = String::from_utf8(name).map_err(|_| no_text())?;
        // Before a database is created for it.
        if (1..=NAME_LEN_BYTES_MAX).contains(&name.len()) {
            return Ok(name);
        }
        Err(format!("the name of a keyspace has 1 to {NAME_LEN_BYTES_MAX} bytes, not {}", name.len()))
    })
}

impl Place {
    /// Keyspaces are opened with the options stored with them. Of those of a database, which are not stored, one must go
    /// with them: writes must not stop on level 0 before a merge is due there, and an application may have put that off as
    /// far as it likes. Writes that merges do not keep up with are delayed all the same, more with every table.
    fn builder(&self) -> DbBuilder {
        let options = Options::default().level0_stop(usize::MAX);
        Db::builder(&self.db).options(options).degraded(self.degraded)
    }

    /// Opens the database so that no byte of it can change.
    pub(crate) fn open_to_look(&self) -> Outcome<Db> {
        self.must_exist()?;
        Ok(self.builder().open_read_only()?)
    }

    /// Opens the database for writing; it must exist.
    pub(crate) fn open_to_change(&self) -> Outcome<Db> {
        self.must_exist()?;
        Ok(self.builder().create_if_missing(false).open()?)
    }

    /// Opens the database for writing and creates it if it is missing.
    pub(crate) fn open_or_create(&self) -> Outcome<Db> {
        Ok(self.builder().open()?)
    }

    /// Finds a keyspace of the opened database.
    pub(crate) fn keyspace(&self, db: &Db, name: &str) -> Outcome<Keyspace> {
        db.keyspace(name).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::engine(format!(
                "there is no keyspace \"{}\" in {}; it has: {}",
                escaped(name.as_bytes()),
                shown(&self.db),
                db.keyspaces().iter().map(|name| escaped(name.as_bytes())).collect::<Vec<_>>().join(", ")
            )),
            _ => Failure::from(error),
        })
    }

    /// Says plainly that the directory is missing, before the engine says which of its files is.
    fn must_exist(&self) -> Outcome {
        let shown = shown(&self.db);
        if !self.db.exists() {
            return Err(Failure::engine(format!("{shown}: there is no such directory")));
        }
        if !self.db.is_dir() {
            return Err(Failure::engine(format!("{shown}: this is not a directory")));
        }
        Ok(())
    }
}

impl KeyspacePlace {
    /// Opens the keyspace so that no byte of the database can change.
    pub(crate) fn open_to_look(&self) -> Outcome<(Db, Keyspace)> {
        let db = self.place.open_to_look()?;
        let keyspace = self.place.keyspace(&db, &self.keyspace)?;
        Ok((db, keyspace))
    }

    /// Opens the keyspace for writing; it must exist.
    pub(crate) fn open_to_change(&self) -> Outcome<(Db, Keyspace)> {
        let db = self.place.open_to_change()?;
        let keyspace = self.place.keyspace(&db, &self.keyspace)?;
        Ok((db, keyspace))
    }

    /// Opens the keyspace for writing, creating it and the database if they are missing.
    pub(crate) fn open_or_create(&self) -> Outcome<(Db, Keyspace)> {
        let db = self.place.open_or_create()?;
        let keyspace = match db.keyspace(&self.keyspace) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                db.create_keyspace(&self.keyspace, KeyspaceOptions::default())?
            }
            other => other?,
        };
        Ok((db, keyspace))
    }
}
