//! A copy of the last checkpoint in Redis, where one is configured: it outlives the data directory, so a start with an older copy
//! of the log is noticed.
//!
//! Redis is where records are offered, and the agent works without it. So is this: a Redis that is not there delays nothing for long
//! and stops nothing. What stops the agent is only what nobody but the log's own key can make, a signed checkpoint over more records
//! than the log has, or over as many others.
//!
//! The login needs `WATCH`, `GET`, `MULTI`, `SET` and `EXEC` on the one key `agentd:<env>:checkpoint:<origin>`.

use std::time::{Duration, Instant};

use agentd_core::tlog::{Checkpoint, SignerKey};
use redis::{Client, Connection, RedisResult, Value};

use super::Published;
use super::claims;
use crate::bus::{Address, redis as bus};

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
    /// It is the new one, or could not be replaced now, which was said.
    AsFarAsPossible,
    /// It promises what the new one does not: see [`is_against`].
    Against(Checkpoint),
}

/// Whether `found`, signed by the log, promises what `own` does not keep: more records, or as many with another root. That is the
/// only trace of a second log with the same key, so it must not be written over.
pub(super) fn is_against(found: &Checkpoint, own: &Checkpoint) -> bool {
    found.size > own.size || found.size == own.size && found.root != own.root
}

/// What is in place of the copy.
enum Found {
    Nothing,
    /// Signed by the log.
    Checkpoint(Box<Published>),
    /// Not a checkpoint of this log, whatever it is.
    Foreign(String),
}

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

    /// The checkpoint in it; `None` if there is none, or none that can be believed, which is said.
    pub(super) fn load(&mut self, signer: &SignerKey) -> Option<Published> {
        match self.read(signer) {
            Ok(Found::Nothing) => None,
            Ok(Found::Checkpoint(published)) => Some(*published),
            Ok(Found::Foreign(why)) => {
                self.say(&foreign(&why));
                None
            }
            Err(why) => {
                self.rest(&why);
                None
            }
        }
    }

    /// Replaces the copy, unless it promises what this log does not keep.
    pub(super) fn replace(
        &mut self,
        checkpoint: &Checkpoint,
        text: &str,
        signer: &SignerKey,
    ) -> Kept {
        if self.resting_until.is_some_and(|until| Instant::now() < until) {
            return Kept::AsFarAsPossible;
        }
        match self.try_replace(checkpoint, text, signer) {
            Ok(kept) => kept,
            Err(why) => {
                self.rest(&why);
                Kept::AsFarAsPossible
            }
        }
    }

    fn try_replace(
        &mut self,
        checkpoint: &Checkpoint,
        text: &str,
        signer: &SignerKey,
    ) -> Result<Kept, Refused> {
        match self.watch(signer)? {
            Found::Checkpoint(found) if is_against(&found.checkpoint, checkpoint) => {
                Ok(Kept::Against(found.checkpoint))
            }
            Found::Foreign(why) => {
                // Left as it is: it may be all that is left of what somebody did.
                self.say(&foreign(&why));
                Ok(Kept::AsFarAsPossible)
            }
            Found::Checkpoint(_) | Found::Nothing => {
                let key = self.key.clone();
                // Nothing is set if somebody else did between: the next turn looks again.
                let _: Value = self.ask(|connection| {
                    redis::pipe().atomic().cmd("SET").arg(&key).arg(text).query(connection)
                })?;
                if self.said.take().is_some() {
                    tracing::info!(
                        place = self.place(),
                        "the copy of the checkpoint is kept again"
                    );
                }
                Ok(Kept::AsFarAsPossible)
            }
        }
    }

    fn watch(&mut self, signer: &SignerKey) -> Result<Found, Refused> {
        let key = self.key.clone();
        self.ask(|connection| redis::cmd("WATCH").arg(&key).exec(connection))?;
        self.read(signer)
    }

    fn read(&mut self, signer: &SignerKey) -> Result<Found, Refused> {
        let key = self.key.clone();
        let found: Option<Vec<u8>> =
            self.ask(|connection| redis::cmd("GET").arg(&key).query(connection))?;
        Ok(match found.as_deref().map(|text| claims::open(text, signer)) {
            None => Found::Nothing,
            Some(Ok(published)) => Found::Checkpoint(Box::new(published)),
            Some(Err(error)) => Found::Foreign(error.to_string()),
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

fn foreign(why: &str) -> String {
    format!(
        "something else stands there and is left alone ({why}): delete it once you know what it is"
    )
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::Hash;

    use super::*;

    #[test]
    fn more_records_or_as_many_others_are_against_the_log() {
        let of = |size, root| {
            let origin = "agentctl.dev/stage/x".to_owned();
            Checkpoint { origin, size, root: Hash::from_bytes([root; 32]) }
        };
        let own = of(4, 1);
        assert!(is_against(&of(5, 1), &own) && is_against(&of(4, 2), &own));
        // A smaller one is what this log had before.
        assert!(!is_against(&of(4, 1), &own) && !is_against(&of(3, 2), &own));
    }
}
