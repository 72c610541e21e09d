//! A copy of the last checkpoint in Redis, where one is configured: it outlives the data directory, so a start with an older copy
//! of the log is noticed.
//!
//! Redis is where records are offered, and the agent works without it. So is this: a Redis that is not there delays nothing for long
//! and stops nothing. What stops the agent is only what nobody but the log's own key can make, a signed checkpoint over more records
//! than the log has, or over others.
//!
//! The login needs `WATCH`, `GET`, `MULTI`, `SET` and `EXEC` on the one key `agentd:<env>:checkpoint:<origin>`.

use std::io;
use std::time::{Duration, Instant};

use agentd_core::chain::Hash;
use agentd_core::tlog::{Checkpoint, checkpoint};
use redis::{Client, Connection, RedisResult, Value};

use super::signers::Signers;
use super::tiles::Tiles;
use super::{Published, claims};
use crate::bus::{Address, redis as bus};
use crate::failpoint;

/// How long a Redis that failed is left alone.
const REST: Duration = Duration::from_secs(10);

/// The copy in one Redis.
pub(super) struct Copy {
    address: Address,
    key: String,
    connection: Option<Connection>,
    resting_until: Option<Instant>,
    /// What was said last, so that it is not said again each second.
    said: Option<String>,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy").field("address", &self.address).field("key", &self.key).finish()
    }
}

/// What came of an attempt to replace the copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is the new one, or something else stands there, which was said.
    Done,
    /// It could not be replaced now, which was said.
    NotNow,
    /// It promises what this log does not keep.
    Against(Against),
}

/// A checkpoint with the signature of the log that is not one of its own. That is the only trace of a second log with the same key, so
/// it must not be written over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Against {
    pub(super) found: Checkpoint,
    /// The root that this log has at that size; `None` if it has fewer records.
    pub(super) root: Option<Hash>,
}

/// What is about to be published: whatever the log promised before has to be the beginning of it.
#[derive(Clone, Copy)]
pub(super) struct Next<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    /// The note around it.
    pub(super) text: &'a str,
    /// Its tree.
    pub(super) tiles: &'a Tiles,
    /// Who can have signed what stands elsewhere.
    pub(super) signers: &'a Signers,
}

impl Next<'_> {
    /// Whether `found`, signed by the log, promises something else: more records, or others.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub(super) fn contradicted_by(&self, found: &Checkpoint) -> io::Result<Option<Against>> {
        let size = self.checkpoint.size;
        let smaller = found.size < size;
        let root = match found.size {
            more if more > size => None,
            part if part < size => Some(self.tiles.root(part, size)?),
            _ => Some(self.checkpoint.root),
        };
        let kept = root == Some(found.root) || smaller && failpoint::bug("tlog.copy_by_size");
        Ok((!kept).then(|| Against { found: found.clone(), root }))
    }
}

/// What is in place of the copy.
enum Found {
    Nothing,
    /// What was looked for.
    Checkpoint(Box<Published>),
    /// Something else, whatever it is.
    Foreign(checkpoint::Error),
}

/// Reads a checkpoint, or says why it is none.
type Open<'a> = dyn Fn(&[u8]) -> Result<Published, checkpoint::Error> + 'a;

/// Why nothing came of it, without credentials.
type Refused = String;

impl Copy {
    /// The copy of the log called `origin`.
    pub(super) fn new(address: Address, env: &str, origin: &str) -> Self {
        let key = format!("{}:{env}:checkpoint:{origin}", bus::PREFIX);
        Self { address, key, connection: None, resting_until: None, said: None }
    }

    /// Where it is, to show.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.address, self.key)
    }

    /// The checkpoint in it, whoever signed it; `None` if there is none, which is said if it is something else.
    pub(super) fn load(&mut self) -> Option<Published> {
        match self.read(&claims::unchecked) {
            Ok(Found::Nothing) => None,
            Ok(Found::Checkpoint(published)) => Some(*published),
            Ok(Found::Foreign(error)) => {
                self.say_foreign(&error);
                None
            }
            Err(why) => {
                self.rest(&why);
                None
            }
        }
    }

    /// Says that what stands there is none of this log.
    pub(super) fn say_foreign(&mut self, error: &checkpoint::Error) {
        self.say(&format!(
            "something else stands there and is left alone ({error}): delete it once you know what it is"
        ));
    }

    /// Replaces the copy, unless it promises what this log does not keep.
    pub(super) fn replace(&mut self, next: Next<'_>) -> Kept {
        if self.resting_until.is_some_and(|until| Instant::now() < until) {
            return Kept::NotNow;
        }
        match self.try_replace(next) {
            Ok(kept) => kept,
            Err(why) => {
                self.rest(&why);
                Kept::NotNow
            }
        }
    }

    fn try_replace(&mut self, next: Next<'_>) -> Result<Kept, Refused> {
        let found = self.watch(&|text| next.signers.open(text))?;
        if let Found::Checkpoint(found) = &found {
            let against = next.contradicted_by(&found.checkpoint);
            let unread = |error| format!("the hashes of the log cannot be read: {error}");
            if let Some(against) = against.map_err(unread)? {
                return Ok(Kept::Against(against));
            }
        }
        match found {
            Found::Foreign(error) => {
                // Left as it is: it may be all that is left of what somebody did.
                self.say_foreign(&error);
                Ok(Kept::Done)
            }
            Found::Checkpoint(_) | Found::Nothing => {
                let key = self.key.clone();
                let set: Value = self.ask(|connection| {
                    redis::pipe().atomic().cmd("SET").arg(&key).arg(next.text).query(connection)
                })?;
                if set == Value::Nil {
                    // Somebody else set it between: the next turn looks again.
                    return Ok(Kept::NotNow);
                }
                if self.said.take().is_some() {
                    tracing::info!(
                        place = self.place(),
                        "the copy of the checkpoint is kept again"
                    );
                }
                Ok(Kept::Done)
            }
        }
    }

    fn watch(&mut self, open: &Open<'_>) -> Result<Found, Refused> {
        let key = self.key.clone();
        self.ask(|connection| redis::cmd("WATCH").arg(&key).exec(connection))?;
        self.read(open)
    }

    fn read(&mut self, open: &Open<'_>) -> Result<Found, Refused> {
        let key = self.key.clone();
        let found: Option<Vec<u8>> =
            self.ask(|connection| redis::cmd("GET").arg(&key).query(connection))?;
        Ok(match found.as_deref().map(open) {
            None => Found::Nothing,
            Some(Ok(published)) => Found::Checkpoint(Box::new(published)),
            Some(Err(error)) => Found::Foreign(error),
        })
    }

    /// Asks on the connection, which is not used again after an error.
    fn ask<T>(
        &mut self,
        ask: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, Refused> {
        let answer = self.connected().and_then(|mut connection| {
            let answer = ask(&mut connection)?;
            self.connection = Some(connection);
            Ok(answer)
        });
        answer.map_err(|error| {
            agentctl_api::text::line(&self.address.scrub(&error.to_string())).into_owned()
        })
    }

    fn connected(&mut self) -> RedisResult<Connection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let client = Client::open(self.address.info())?;
        let connection = client.get_connection_with_timeout(bus::CONNECT)?;
        connection.set_read_timeout(Some(bus::ANSWER))?;
        connection.set_write_timeout(Some(bus::ANSWER))?;
        Ok(connection)
    }

    fn rest(&mut self, why: &str) {
        self.resting_until = Instant::now().checked_add(REST);
        self.say(why);
    }

    fn say(&mut self, why: &str) {
        if self.said.as_deref() != Some(why) {
            tracing::warn!(place = self.place(), why, "the copy of the checkpoint is not kept");
            self.said = Some(why.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::leaf_hash;
    use agentd_core::tlog::SignerKey;
    use agentd_core::tlog::tree::Frontier;

    use super::super::files::Writer;
    use super::*;

    #[test]
    fn more_records_or_others_are_against_the_log_at_every_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Writer::resume(dir.path(), Frontier::new(), 1, 1 << 20).unwrap();
        let origin = "agentctl.dev/stage/x".to_owned();
        let of = |size, root| Checkpoint { origin: origin.clone(), size, root };
        let mut promised = vec![of(0, Frontier::new().root())];
        for size in 1..=600_u64 {
            files.push(size, format!("{size}").as_bytes()).unwrap();
            promised.push(of(size, files.frontier().root()));
        }
        files.flush().unwrap();
        let journal = crate::journal::Config::new(dir.path().to_owned());
        let journal = crate::journal::open(journal, &mut |_, _| {}).unwrap().journal;
        let key = SignerKey::from_seed(&origin, &[1; 32]).unwrap();
        let signers = Signers::new(key, journal.reader());
        let tiles = Tiles::new(dir.path());
        let own = promised.last().unwrap();
        let next = Next { checkpoint: own, text: "", tiles: &tiles, signers: &signers };
        for (before, found) in promised.iter().enumerate() {
            assert_eq!(next.contradicted_by(found).unwrap(), None, "{before}");
            let other = Checkpoint { root: leaf_hash(b"other"), ..found.clone() };
            let against = next.contradicted_by(&other).unwrap().unwrap();
            assert_eq!(against, Against { found: other, root: Some(found.root) });
        }
        let more = of(601, own.root);
        let against = next.contradicted_by(&more).unwrap();
        assert_eq!(against, Some(Against { found: more, root: None }));
    }
}
