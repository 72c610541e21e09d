//! The proof log as the services read it: the newest records from memory, everything else from disk on a blocking thread.

use std::borrow::Cow;
use std::sync::Arc;

use agentd_core::app::Millis;
use agentd_core::chain::{GENESIS, Hash, leaf_hash};
use agentd_core::record::Record;
use chrono::DateTime;
use serde::Deserialize;
use tonic::Status;

use super::opaque::Cursor;
use super::{Services, outcome, status};
use crate::journal::{self, Entry, Journal, LogId, Reader};
use crate::publish::{Next, Published, Publisher};

/// Records in one read.
pub(super) const READ_RECORDS: usize = 512;
/// Bytes of lines in one read.
pub(super) const READ_BYTES: usize = 1 << 20;

/// Records looked at for the last ones of a kind.
const TAIL_RECORDS: usize = 100_000;

/// Handle for reading; clones share the log.
#[derive(Debug, Clone)]
pub(super) struct Log {
    /// On disk.
    pub(super) journal: Journal,
    /// The newest records.
    pub(super) publisher: Publisher,
}

impl Log {
    pub(super) fn of(services: &Services) -> Self {
        Self { journal: services.journal.clone(), publisher: services.publisher.clone() }
    }

    pub(super) fn id(&self) -> LogId {
        self.journal.head().log_id
    }

    /// The newest record that was published; what is durable beyond it is about to be.
    pub(super) fn head(&self) -> u64 {
        *self.publisher.head().borrow()
    }

    /// The newest durable record.
    pub(super) fn durable(&self) -> u64 {
        self.journal.head().next_seq.saturating_sub(1)
    }

    /// The oldest record that is kept; 1 for an empty log.
    pub(super) fn oldest(&self) -> u64 {
        self.journal.reader().oldest_seq()
    }

    /// Where the log is damaged, if it is.
    pub(super) fn damage(&self) -> Option<journal::Damage> {
        match self.journal.status() {
            journal::Status::Damaged(damage) => Some(damage),
            journal::Status::Writable | journal::Status::Unwritable { .. } => None,
        }
    }

    /// Does `work` with a reader where it may block.
    ///
    /// # Errors
    /// What reading failed with, as a status.
    pub(super) async fn reading<T, F>(&self, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Reader) -> Result<T, journal::Error> + Send + 'static,
    {
        let reader = self.journal.reader();
        match tokio::task::spawn_blocking(move || work(&reader)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(&error).await),
            Err(error) => {
                tracing::error!(%error, "reading the proof log panicked");
                Err(status::internal("proof-log-reader"))
            }
        }
    }

    /// The record behind which the last `count` ones are whose lines are `wanted`. Looks at a bounded number of them.
    pub(super) async fn before_last(
        &self,
        count: u32,
        wanted: impl Fn(&Reader, &[u8]) -> bool + Send + 'static,
    ) -> Result<u64, Status> {
        let head = self.head();
        let seq = self.reading(move |reader| {
            let mut left = count;
            let (mut at, mut looked_at) = (head.saturating_add(1), 0);
            while left > 0 && looked_at < TAIL_RECORDS {
                let entries = reader.read_back(at, READ_RECORDS, READ_BYTES)?;
                if entries.is_empty() {
                    break;
                }
                for entry in entries {
                    if left == 0 {
                        break;
                    }
                    (at, looked_at) = (entry.seq, looked_at + 1);
                    left -= u32::from(wanted(reader, &entry.line));
                }
            }
            Ok(at.saturating_sub(1))
        });
        seq.await
    }

    /// Why the log cannot be read, with the oldest cursor where that helps.
    async fn failed(&self, error: &journal::Error) -> Status {
        let oldest = match error {
            journal::Error::Pruned { oldest } => self.cursor_before(*oldest).await,
            _ => String::new(),
        };
        outcome::journal(error, &oldest)
    }

    /// The cursor in front of record `oldest`, from its own `prev`; empty if it cannot be read.
    pub(super) async fn cursor_before(&self, oldest: u64) -> String {
        let reader = self.journal.reader();
        let first = tokio::task::spawn_blocking(move || reader.read(oldest, 1, READ_BYTES)).await;
        let hash = match first {
            Ok(Ok(entries)) => match entries.first() {
                Some(entry) => prev_of(&entry.line),
                None => Some(GENESIS),
            },
            Ok(Err(_)) | Err(_) => None,
        };
        let before = oldest.saturating_sub(1);
        hash.map(|hash| Cursor::new(self.id(), before, hash).to_string()).unwrap_or_default()
    }

    /// Leaf hash of record `seq`, of which the beginning (0) has one too; `None` if there is no such record.
    ///
    /// # Errors
    /// The log cannot be read there.
    pub(super) async fn hash_at(&self, seq: u64) -> Result<Option<Hash>, Status> {
        if seq == 0 {
            return Ok(Some(GENESIS));
        }
        if let Next::Records(found) = self.publisher.after(seq - 1, 1)
            && let Some(first) = found.first()
        {
            return Ok(Some(first.hash));
        }
        let oldest = self.oldest();
        if seq.saturating_add(1) == oldest {
            let next = self.reading(move |reader| reader.read(oldest, 1, READ_BYTES)).await?;
            return Ok(next.first().and_then(|entry| prev_of(&entry.line)));
        }
        let found = self.reading(move |reader| reader.read(seq, 1, READ_BYTES)).await?;
        Ok(found.first().map(|entry| leaf_hash(&entry.line)))
    }

    /// Record `seq` in both of its forms; `None` if there is none.
    ///
    /// # Errors
    /// The log cannot be read there, or what stands there is no record.
    pub(super) async fn record(&self, seq: u64) -> Result<Option<Arc<Published>>, Status> {
        if seq == 0 || seq < self.oldest() {
            return Ok(None);
        }
        if let Next::Records(found) = self.publisher.after(seq - 1, 1)
            && let Some(first) = found.into_iter().next()
        {
            return Ok(Some(first));
        }
        let found = self.reading(move |reader| reader.read(seq, 1, READ_BYTES)).await?;
        found.into_iter().next().map(|entry| self.published(entry)).transpose()
    }

    /// Up to `max` records behind `after`, oldest first: from memory where they are still there.
    ///
    /// # Errors
    /// As [`Log::record`]; records before damage are served before it is reported.
    pub(super) async fn after(
        &self,
        after: u64,
        max: usize,
    ) -> Result<Vec<Arc<Published>>, Status> {
        if let Next::Records(records) = self.publisher.after(after, max) {
            return Ok(records);
        }
        let from = after.saturating_add(1);
        let entries = self.reading(move |reader| read_sound(reader, from, max)).await?;
        entries.into_iter().map(|entry| self.published(entry)).collect()
    }

    /// A line from disk as it would have been published.
    ///
    /// # Errors
    /// `DATA_LOSS` when it is no record of a version this server knows, or its body is gone.
    pub(super) fn published(&self, entry: Entry) -> Result<Arc<Published>, Status> {
        let Entry { seq, line } = entry;
        let record = self.parse(seq, &line)?;
        let hash = leaf_hash(&line);
        Ok(Arc::new(Published::new(record, line, hash)))
    }

    /// A line as a record.
    ///
    /// # Errors
    /// As [`Log::published`].
    pub(super) fn parse(&self, seq: u64, line: &[u8]) -> Result<Record, Status> {
        self.journal.blobs().record(line).map_err(|error| {
            status::data_loss("NOT_A_RECORD", seq, &format!("entry {seq} cannot be read: {error}"))
        })
    }

    /// The first record of time `at` or later; the one behind the newest if there is none. By halving: times never go back.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn first_at(&self, at: Millis) -> Result<u64, Status> {
        self.reading(move |reader| {
            let (mut low, mut high) = (reader.oldest_seq(), reader.durable_seq().saturating_add(1));
            while low < high {
                let middle = low + (high - low) / 2;
                let found = reader.read(middle, 1, 1)?;
                let time = found.first().and_then(|entry| Envelope::parse(&entry.line)?.at());
                // What cannot be read as a record has no time: look before it, where reading will stumble over it.
                if time.is_some_and(|time| time < at) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            Ok(low)
        })
        .await
    }
}

/// Records from `from` on. In front of damage there are those before it; only a read that begins at it fails.
///
/// # Errors
/// As [`Reader::read`].
pub(super) fn read_sound(
    reader: &Reader,
    from: u64,
    max: usize,
) -> Result<Vec<Entry>, journal::Error> {
    match reader.read(from, max, READ_BYTES) {
        Err(journal::Error::Damaged(damage)) if damage.seq > from => {
            let sound = usize::try_from(damage.seq - from).unwrap_or(max);
            reader.read(from, sound.min(max), READ_BYTES)
        }
        other => other,
    }
}

/// The outside of a line, read without its body: enough to tell whether the body is worth reading.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<'a> {
    /// Event name.
    #[serde(borrow)]
    pub(super) event_name: Cow<'a, str>,
    /// App.
    #[serde(borrow)]
    pub(super) app: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ts: Cow<'a, str>,
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Time of the record.
    pub(super) fn at(&self) -> Option<Millis> {
        let time = DateTime::parse_from_rfc3339(&self.ts).ok()?;
        u64::try_from(time.timestamp_millis()).ok()
    }
}

/// The event name with which every line begins, read without parsing the line.
pub(super) fn event_name(line: &[u8]) -> Option<&str> {
    let rest = line.strip_prefix(br#"{"event_name":""#)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

fn prev_of(line: &[u8]) -> Option<Hash> {
    #[derive(Deserialize)]
    struct Link {
        prev: Hash,
    }
    serde_json::from_slice::<Link>(line).ok().map(|link| link.prev)
}
