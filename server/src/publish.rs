//! Records on their way to watchers: encoded once, shared, read by cursor.
//!
//! The ring holds the newest durable records. A watcher holds nothing but its position: one that falls behind the ring goes on
//! reading from disk, so a slow reader costs no memory and loses nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use agentd_core::chain::Hash;
use agentd_core::record::Record;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Records in the ring.
pub const RING: usize = 4_096;

/// Watchers at once. Each holds its queue and its place in the log, nothing else.
pub const WATCHERS: usize = 1_024;

/// A durable record in both of its forms.
#[derive(Debug)]
pub struct Published {
    /// Parsed.
    pub record: Record,
    /// As it is in the log.
    pub line: Bytes,
    /// Leaf hash of the line.
    pub hash: Hash,
    /// As watchers get it, once one of them asked.
    pub encoded: Encoded,
}

impl Published {
    /// A record and its line, which nobody has asked for yet.
    #[must_use]
    pub fn new(record: Record, line: Bytes, hash: Hash) -> Self {
        Self { record, line, hash, encoded: Encoded::default() }
    }
}

/// What one watcher was sent of a record, so that the next one is sent the same bytes. It changes with what the records behind it say
/// about it: so it is kept under the number of the last of those.
///
/// It is kept for as long as its record is in the ring: it is smaller than the line beside it, and of all readers those who come back
/// after an interruption are many at once, and are behind the newest.
#[derive(Debug, Default)]
pub struct Encoded(Mutex<Option<(u64, Bytes)>>);

impl Encoded {
    /// The bytes for what is known up to record `upto`; made once, by whoever comes first.
    pub fn get_or_make(&self, upto: u64, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref().filter(|(known, _)| *known == upto) {
            Some((_, bytes)) => bytes.clone(),
            None => {
                let bytes = make();
                *kept = Some((upto, bytes.clone()));
                bytes
            }
        }
    }
}

/// The ring; clones share it.
#[derive(Debug, Clone)]
pub struct Publisher {
    ring: Arc<Mutex<VecDeque<Arc<Published>>>>,
    head: Arc<watch::Sender<u64>>,
    places: Arc<Semaphore>,
}

/// What the ring knows of a position.
#[derive(Debug)]
pub enum Next {
    /// The records after it, oldest first; empty when there are none yet.
    Records(Vec<Arc<Published>>),
    /// It is older than the ring: read it from disk.
    OnDisk,
}

impl Publisher {
    /// An empty ring behind a log that ends at `head`.
    #[must_use]
    pub fn new(head: u64) -> Self {
        let ring = VecDeque::with_capacity(RING);
        let places = Arc::new(Semaphore::new(WATCHERS));
        Self { ring: Arc::new(Mutex::new(ring)), head: Arc::new(watch::Sender::new(head)), places }
    }

    /// A place for one more watcher, free again when dropped; none when there are [`WATCHERS`] of them.
    #[must_use]
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Adds durable records, in order.
    pub fn publish(&self, records: Vec<Arc<Published>>) {
        let Some(last) = records.last().map(|p| p.record.seq) else { return };
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            for record in records {
                if ring.len() >= RING {
                    ring.pop_front();
                }
                ring.push_back(record);
            }
        }
        self.head.send_replace(last);
    }

    /// Changes whenever something was published; its value is the newest sequence number.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The newest sequence number that was published.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.head.borrow()
    }

    /// Watchers that wait right now.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.head.receiver_count()
    }

    /// Up to `max` records after position `after`.
    #[must_use]
    pub fn after(&self, after: u64, max: usize) -> Next {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(oldest) = ring.front().map(|p| p.record.seq) else {
            let behind = *self.head.borrow() > after;
            return if behind { Next::OnDisk } else { Next::Records(Vec::new()) };
        };
        if after.saturating_add(1) < oldest {
            return Next::OnDisk;
        }
        let skip = usize::try_from(after.saturating_add(1) - oldest).unwrap_or(usize::MAX);
        Next::Records(ring.iter().skip(skip).take(max).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::app::Env;
    use agentd_core::chain::{GENESIS, leaf_hash};
    use agentd_core::record::Body;

    use super::*;

    fn published(seq: u64) -> Arc<Published> {
        let body = Body::Transition { path: Vec::new() };
        let actor = "agent-0badcafe".to_owned();
        let record = Record {
            seq,
            at: seq,
            env: Env::Stage,
            app: None,
            cause: None,
            actor,
            trace: None,
            body,
        };
        let line = Bytes::from(record.line(GENESIS));
        let hash = leaf_hash(&line);
        Arc::new(Published::new(record, line, hash))
    }

    /// Reads everything that is there as a watcher does; what it read, and how much of it it had to encode.
    fn read(publisher: &Publisher) -> (usize, usize) {
        let after = publisher.newest() - RING as u64;
        let Next::Records(records) = publisher.after(after, RING) else { panic!("it is there") };
        let mut made = 0;
        for record in &records {
            record.encoded.get_or_make(record.record.seq, || {
                made += 1;
                Bytes::from_static(b"x")
            });
        }
        (records.len(), made)
    }

    #[test]
    fn what_is_in_the_ring_is_encoded_once_however_far_behind_somebody_reads() {
        let publisher = Publisher::new(0);
        let mut seq = 1..;
        let mut publish =
            |count| publisher.publish(seq.by_ref().take(count).map(published).collect());
        publish(RING + 10);
        assert_eq!(read(&publisher), (RING, RING), "the first one encodes");
        assert_eq!(read(&publisher), (RING, 0), "and nobody after him");
        publish(10);
        assert_eq!(read(&publisher), (RING, 10), "what left the ring took its bytes along");
        assert!(matches!(publisher.after(0, RING), Next::OnDisk));
    }
}
