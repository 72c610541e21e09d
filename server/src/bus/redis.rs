//! The bus on Redis: one stream per environment, appended to and never read.
//!
//! Each record is one entry of `agentd:<env>:records` with the fields `seq`, `event`, `app` (empty if it is about none) and
//! `line` (the record as it is in the proof log). Skipped records are one entry with `event` = `gap`, `from` and `to`; names of
//! records are upper case, so the two cannot be mixed up. A batch is one transaction: it is there as a whole or not at all. If
//! the answer to it was lost it is sent again, so a reader may see a `seq` twice, but never out of order.
//!
//! The login needs no more than `XADD` on that key, and `MULTI`, `EXEC`, `PING` and `SELECT`; and what the copy of the checkpoint of
//! the proof log needs, on a key of its own.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError};
use agentd_core::app::Env;

use super::{Address, Bus, Entry, Error};

/// First part of the name of the stream.
pub const PREFIX: &str = "agentd";
/// Entries Redis keeps, about: it trims whole nodes of the stream.
pub const KEPT: usize = 100_000;
/// Event name of an entry that stands for skipped records.
pub const GAP: &str = "gap";
/// Longest wait for a connection, login included.
pub const CONNECT: Duration = Duration::from_secs(3);
/// Longest wait for the answer to one batch.
pub const ANSWER: Duration = Duration::from_secs(2);
/// Longest text that is kept of an error, in characters.
const TEXT_MAX: usize = 160;

/// Name of the stream of an environment.
#[must_use]
pub fn stream(env: Env) -> String {
    format!("{PREFIX}:{env}:records")
}

/// A stream of one Redis server.
pub struct RedisBus {
    address: Address,
    stream: String,
    connection: Option<MultiplexedConnection>,
}

impl std::fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBus")
            .field("address", &self.address)
            .field("stream", &self.stream)
            .field("connected", &self.connection.is_some())
            .finish()
    }
}

impl RedisBus {
    /// The stream of `env` on the server at `address`; connects when it is first used.
    #[must_use]
    pub fn new(address: Address, env: Env) -> Self {
        Self { address, stream: stream(env), connection: None }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        let fail = |error| self.error(error, CONNECT);
        let client = Client::open(self.address.info()).map_err(fail)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(fail),
            Err(_elapsed) => Err(Error::Silent(CONNECT)),
        }
    }

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        entries: &[Entry],
    ) -> Result<(), RedisError> {
        if entries.is_empty() {
            return ::redis::cmd("PING").exec_async(connection).await;
        }
        // On its own, not by `Pipeline::atomic`: that panics on a server that refuses `MULTI`, and what follows a refused one
        // would not be a transaction.
        ::redis::cmd("MULTI").exec_async(connection).await?;
        self.transaction(entries).exec_async(connection).await
    }

    /// What comes after `MULTI`.
    fn transaction(&self, entries: &[Entry]) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(entries.len().saturating_add(1));
        for entry in entries {
            let add = pipeline.cmd("XADD").arg(&self.stream).arg("MAXLEN").arg("~").arg(KEPT);
            let add = add.arg("*");
            match entry {
                Entry::Record(published) => {
                    let record = &published.record;
                    let app = record.app.as_ref().map_or("", |app| app.as_str());
                    add.arg("seq").arg(record.seq).arg("event").arg(record.body.event_name());
                    add.arg("app").arg(app).arg("line").arg(&*published.line)
                }
                Entry::Gap { from, to } => {
                    add.arg("event").arg(GAP).arg("from").arg(*from).arg("to").arg(*to)
                }
            };
        }
        pipeline.cmd("EXEC");
        pipeline
    }

    /// What `error` means, without credentials and without anything that steers a terminal.
    fn error(&self, error: RedisError, waited: Duration) -> Error {
        if error.is_timeout() {
            return Error::Silent(waited);
        }
        let kind = error.kind();
        let whole = error.to_string();
        // A refused transaction holds one error per command; the first tells enough.
        let server = error.into_server_errors().and_then(|all| all.first().cloned());
        let Some((_, server)) = server else {
            return match kind {
                ErrorKind::Io => Error::Connection(self.text(&whole)),
                ErrorKind::AuthenticationFailed => Error::Access(self.text(&whole)),
                _ => Error::Refused(self.text(&whole)),
            };
        };
        let code = server.code();
        let text = self.text(&format!("{code} {}", server.details().unwrap_or_default()));
        match code {
            "READONLY" => Error::ReadOnly(text),
            "OOM" => Error::Full(text),
            "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Error::Access(text),
            _ => Error::Refused(text),
        }
    }

    fn text(&self, raw: &str) -> String {
        let safe = self.address.scrub(raw);
        agentctl_api::text::line(&safe).chars().take(TEXT_MAX).collect::<String>().trim().to_owned()
    }
}

impl Bus for RedisBus {
    const BACKEND: &'static str = "redis";

    /// Ends within [`CONNECT`] and [`ANSWER`].
    async fn publish(&mut self, entries: &[Entry]) -> Result<(), Error> {
        // Taken out: after an error, or when this is dropped half-way, the connection is not used again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        match tokio::time::timeout(ANSWER, self.send(&mut connection, entries)).await {
            Ok(Ok(())) => {
                self.connection = Some(connection);
                Ok(())
            }
            Ok(Err(error)) => Err(self.error(error, ANSWER)),
            Err(_elapsed) => Err(Error::Silent(ANSWER)),
        }
    }

    fn place(&self) -> String {
        self.address.to_string()
    }
}
