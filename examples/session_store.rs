//! A session store: sessions by id, with one index by user and one by expiry.
//!
//! Shows keyspaces as indexes, batches that keep data and indexes in step whatever happens, snapshots that read them all as
//! of one moment, and a program that can be started again and again on the same directory.
//!
//! Run with `cargo run --example session_store [DIRECTORY]`; without a directory it takes a temporary one.

use std::path::{Path, PathBuf};
use tinylsm::sync::{Mutex, time};
use tinylsm::{Db, Durability, Error, ErrorKind, Keyspace, Result, Snapshot, UnixMillis, WriteBatch};

#[derive(Clone, Debug, PartialEq)]
struct Session {
    user: String,
    expires_at: UnixMillis,
}

impl Session {
    fn encode(&self) -> Vec<u8> {
        [&self.expires_at.0.to_be_bytes(), self.user.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Session> {
        let parts = bytes.split_first_chunk().and_then(|(expires_at, user)| {
            let user = String::from_utf8(user.to_vec()).ok()?;
            Some(Session { user, expires_at: UnixMillis(i64::from_be_bytes(*expires_at)) })
        });
        parts.ok_or_else(|| Error::new(ErrorKind::Corruption, "what is stored is no session"))
    }
}

struct Sessions {
    db: Db,
    /// Sessions by id.
    by_id: Keyspace,
    /// User, a zero byte, id; no values.
    by_user: Keyspace,
    /// Expiry, big-endian so that earlier ones come first, and id; no values.
    by_expiry: Keyspace,
    /// Held from reading a session to writing what became of it. Those who only read need no lock.
    changing: Mutex<()>,
}

impl Sessions {
    fn open(directory: &Path) -> Result<Sessions> {
        let db = Db::open(directory)?;
        let by_id = db.open_keyspace("sessions", Default::default())?;
        let by_user = db.open_keyspace("sessions-by-user", Default::default())?;
        let by_expiry = db.open_keyspace("sessions-by-expiry", Default::default())?;
        Ok(Sessions { db, by_id, by_user, by_expiry, changing: Mutex::new(()) })
    }

    /// Begins a session. It is on disk when this returns.
    fn log_in(&self, id: &str, user: &str, expires_at: UnixMillis) -> Result<()> {
        self.change(id, |_| Some(Session { user: user.to_owned(), expires_at }))
    }

    /// Lets a session live longer; one that is not there stays away.
    fn extend(&self, id: &str, expires_at: UnixMillis) -> Result<()> {
        self.change(id, |session| Some(Session { expires_at, ..session? }))
    }

    fn log_out(&self, id: &str) -> Result<()> {
        self.change(id, |_| None)
    }

    /// Ends all sessions of a user, all at once.
    fn log_out_everywhere(&self, user: &str) -> Result<()> {
        let _changing = self.changing.lock();
        let mut batch = WriteBatch::new();
        for (id, session) in self.sessions_of(user, &self.db.snapshot())? {
            self.delete(&mut batch, &id, &session);
        }
        self.db.write(batch, Durability::Disk)?;
        Ok(())
    }

    /// Removes what has expired, and says how many that were.
    fn expire(&self, now: UnixMillis) -> Result<usize> {
        let _changing = self.changing.lock();
        let mut batch = WriteBatch::new();
        let mut expired = 0;
        for entry in self.by_expiry.range(..now.0.to_be_bytes())? {
            let (key, _) = entry?;
            let id = &key[size_of::<i64>()..];
            if let Some(session) = self.by_id.get(id)? {
                self.delete(&mut batch, id, &Session::decode(&session)?);
                expired += 1;
            }
        }
        // No sync: should the power go, they expire again.
        self.db.write(batch, Durability::Os)?;
        Ok(expired)
    }

    fn get(&self, id: &str, now: UnixMillis) -> Result<Option<Session>> {
        let session = self.by_id.get(id)?.map(|bytes| Session::decode(&bytes)).transpose()?;
        Ok(session.filter(|session| session.expires_at >= now))
    }

    /// Lists the sessions of a user by id. In a snapshot, index and sessions agree, whoever writes meanwhile.
    fn sessions_of(&self, user: &str, snapshot: &Snapshot) -> Result<Vec<(Vec<u8>, Session)>> {
        let prefix = user_key(user, b"");
        let by_id = snapshot.keyspace(&self.by_id);
        let mut sessions = Vec::new();
        for entry in snapshot.keyspace(&self.by_user).prefix(&prefix)? {
            let (key, _) = entry?;
            let id = &key[prefix.len()..];
            if let Some(session) = by_id.get(id)? {
                sessions.push((id.to_vec(), Session::decode(&session)?));
            }
        }
        Ok(sessions)
    }

    /// Replaces a session by what `edit` makes of it, together with its entries in both indexes: all of it or nothing.
    fn change(&self, id: &str, edit: impl FnOnce(Option<Session>) -> Option<Session>) -> Result<()> {
        let _changing = self.changing.lock();
        let id = id.as_bytes();
        let old = self.by_id.get(id)?.map(|bytes| Session::decode(&bytes)).transpose()?;
        let mut batch = WriteBatch::new();
        if let Some(old) = &old {
            self.delete(&mut batch, id, old);
        }
        if let Some(new) = edit(old) {
            batch.put(&self.by_id, id, new.encode());
            batch.put(&self.by_user, user_key(&new.user, id), "");
            batch.put(&self.by_expiry, expiry_key(new.expires_at, id), "");
        }
        self.db.write(batch, Durability::Disk)?;
        Ok(())
    }

    fn delete(&self, batch: &mut WriteBatch, id: &[u8], session: &Session) {
        batch.delete(&self.by_id, id);
        batch.delete(&self.by_user, user_key(&session.user, id));
        batch.delete(&self.by_expiry, expiry_key(session.expires_at, id));
    }

    /// Tells whether both indexes have an entry for each session, and no others.
    fn indexes_agree(&self) -> Result<bool> {
        let snapshot = self.db.snapshot();
        for entry in snapshot.keyspace(&self.by_id).iter()? {
            let (id, bytes) = entry?;
            let session = Session::decode(&bytes)?;
            let user = snapshot.keyspace(&self.by_user).contains_key(user_key(&session.user, &id))?;
            let expiry =
                snapshot.keyspace(&self.by_expiry).contains_key(expiry_key(session.expires_at, &id))?;
            if !user || !expiry {
                return Ok(false);
            }
        }
        let count = |keyspace| snapshot.keyspace(keyspace).len();
        Ok(count(&self.by_user)? == count(&self.by_id)? && count(&self.by_expiry)? == count(&self.by_id)?)
    }
}

fn user_key(user: &str, id: &[u8]) -> Vec<u8> {
    [user.as_bytes(), b"\0", id].concat()
}

fn expiry_key(expires_at: UnixMillis, id: &[u8]) -> Vec<u8> {
    [&expires_at.0.to_be_bytes(), id].concat()
}

fn main() -> Result<()> {
    let temporary = tempfile::tempdir().expect("a temporary directory can be made");
    let directory = std::env::args_os().nth(1).map_or(temporary.path().to_owned(), PathBuf::from);
    let now = time::wall();
    let in_minutes = |minutes: i64| UnixMillis(now.0 + minutes * 60_000);

    let sessions = Sessions::open(&directory)?;
    let expired = sessions.expire(now)?;
    let earlier = sessions.sessions_of("ada", &sessions.db.snapshot())?.len();
    println!("sessions of ada found: {earlier}; expired ones removed: {expired}");

    // Whoever copies this takes random bits for an id.
    let id = |device: &str| format!("{device}-{}", now.0);
    let (phone, laptop, tablet) = (id("phone"), id("laptop"), id("tablet"));
    sessions.log_in(&phone, "ada", in_minutes(30))?;
    sessions.log_in(&laptop, "ada", in_minutes(30))?;
    sessions.log_in(&tablet, "kurt", in_minutes(30))?;
    sessions.extend(&phone, in_minutes(90))?;
    let before = sessions.db.snapshot();
    sessions.log_out(&laptop)?;
    assert_eq!(sessions.sessions_of("ada", &before)?.len(), earlier + 2);
    assert_eq!(sessions.sessions_of("ada", &sessions.db.snapshot())?.len(), earlier + 1);
    assert!(sessions.indexes_agree()?);
    sessions.db.close()?;

    let sessions = Sessions::open(&directory)?;
    let found = sessions.get(&phone, now)?;
    assert_eq!(found, Some(Session { user: "ada".to_owned(), expires_at: in_minutes(90) }));
    assert_eq!(sessions.get(&phone, in_minutes(91))?, None);
    assert_eq!(sessions.get(&laptop, now)?, None);
    assert!(sessions.expire(in_minutes(31))? >= 1);
    assert_eq!(sessions.get(&tablet, now)?, None);
    sessions.log_in(&tablet, "kurt", in_minutes(60))?;
    sessions.log_out_everywhere("kurt")?;
    assert!(sessions.sessions_of("kurt", &sessions.db.snapshot())?.is_empty());
    assert!(sessions.indexes_agree()?);
    println!("sessions of ada left: {}", sessions.sessions_of("ada", &sessions.db.snapshot())?.len());
    sessions.db.close()
}
