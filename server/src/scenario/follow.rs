//! The proof log as a scenario sees it: every record about its apps, in order, as it becomes durable.
//!
//! It waits for records, never for time: the publisher wakes it, and where the ring has moved on it reads the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agentd_core::app::AppName;
use agentd_core::record::{Body, Record};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::play::Unmet;
use crate::journal::{Journal, Reader};
use crate::publish::{Next, Publisher};

/// Most records of one run that are kept.
const RECORDS: usize = 10_000;
/// Records taken at once.
const BATCH: usize = 512;
/// Bytes taken from disk at once.
const BATCH_BYTES: usize = 4 << 20;

/// A place among the records of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(usize);

/// Follows the records of the apps of one run.
#[derive(Debug)]
pub(super) struct Follow {
    publisher: Publisher,
    reader: Reader,
    head: watch::Receiver<u64>,
    position: u64,
    apps: BTreeSet<AppName>,
    principal: String,
    /// Records of this run that are about no app.
    own: BTreeSet<u64>,
    records: Vec<Arc<Record>>,
    events: BTreeMap<&'static str, u64>,
    full: bool,
}

impl Follow {
    /// Follows what is recorded from now on about `app`, and what `principal` does beside.
    pub(super) fn new(
        publisher: Publisher,
        journal: &Journal,
        app: AppName,
        principal: String,
    ) -> Self {
        let head = publisher.head();
        let position = *head.borrow();
        Self {
            publisher,
            reader: journal.reader(),
            head,
            position,
            apps: BTreeSet::from([app]),
            principal,
            own: BTreeSet::new(),
            records: Vec::new(),
            events: BTreeMap::new(),
            full: false,
        }
    }

    /// From now on what is recorded about `app` as well.
    pub(super) fn also(&mut self, app: AppName) {
        self.apps.insert(app);
    }

    /// The end of what was seen.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.records.len())
    }

    /// What was seen since `mark`, oldest first.
    pub(super) fn since(&self, mark: Mark) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.iter().skip(mark.0).map(AsRef::as_ref)
    }

    /// Records seen, by event name.
    pub(super) fn events(&self) -> BTreeMap<&'static str, u64> {
        self.events.clone()
    }

    /// Takes in everything that is durable now.
    pub(super) async fn catch_up(&mut self) -> Result<(), Unmet> {
        // Marked as seen before it is read: what is published meanwhile wakes the next wait.
        let head = *self.head.borrow_and_update();
        while self.position < head {
            match self.publisher.after(self.position, BATCH) {
                Next::Records(records) if records.is_empty() => break,
                Next::Records(records) => {
                    for one in records {
                        self.take(Arc::new(one.record.clone()));
                    }
                }
                Next::OnDisk => self.read_disk().await?,
            }
        }
        if self.full {
            let told = format!("more than {RECORDS} records in one run");
            return Err(Unmet::Differs(told));
        }
        Ok(())
    }

    async fn read_disk(&mut self) -> Result<(), Unmet> {
        let (reader, from) = (self.reader.clone(), self.position.saturating_add(1));
        let read = tokio::task::spawn_blocking(move || reader.read(from, BATCH, BATCH_BYTES)).await;
        let entries = match read {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => return Err(Unmet::Log(error.to_string())),
            Err(error) => return Err(Unmet::Log(error.to_string())),
        };
        if entries.is_empty() {
            return Err(Unmet::Log(format!("record {from} is published and not on disk")));
        }
        for entry in entries {
            match self.reader.blobs().record(&entry.line) {
                Ok(record) => self.take(Arc::new(record)),
                Err(error) => return Err(Unmet::Log(error.to_string())),
            }
        }
        Ok(())
    }

    fn take(&mut self, record: Arc<Record>) {
        self.position = self.position.max(record.seq);
        if !self.is_ours(&record) {
            return;
        }
        if record.app.is_none() {
            self.own.insert(record.seq);
        }
        let count = self.events.entry(record.body.event_name()).or_default();
        *count = count.saturating_add(1);
        if self.records.len() < RECORDS {
            self.records.push(record);
        } else {
            self.full = true;
        }
    }

    fn is_ours(&self, record: &Record) -> bool {
        match &record.app {
            Some(app) => self.apps.contains(app),
            None => match &record.body {
                Body::OnboardingStarted { .. }
                | Body::PauseSet { .. }
                | Body::PauseLifted { .. } => record.actor == self.principal,
                // What happens to the environment happens to every app.
                Body::StormBegan { .. } | Body::StormCalm { .. } | Body::StormEnded => true,
                _ => record.cause.is_some_and(|cause| self.own.contains(&cause)),
            },
        }
    }

    /// The first record since `mark` that `pick` takes, waiting for it until `deadline`. `what` says what is waited for.
    pub(super) async fn find<T>(
        &mut self,
        mark: Mark,
        deadline: Instant,
        what: &str,
        mut pick: impl FnMut(&Record) -> Option<T>,
    ) -> Result<T, Unmet> {
        let began = Instant::now();
        let mut next = mark.0;
        loop {
            self.catch_up().await?;
            let fresh = self.records.get(next..).unwrap_or_default();
            if let Some(found) = fresh.iter().find_map(|record| pick(record)) {
                return Ok(found);
            }
            next = self.records.len();
            match timeout_at(deadline, self.head.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(Unmet::Stopped),
                Err(_elapsed) => {
                    let waited = Instant::now().saturating_duration_since(began);
                    return Err(self.late(what, waited));
                }
            }
        }
    }

    fn late(&self, what: &str, waited: Duration) -> Unmet {
        let last = self.records.iter().rev().find_map(|record| {
            let decided = record.decision()?;
            let action = decided.proposal.action;
            Some(format!("dec-{} {action} {:?}", record.seq, decided.ruling))
        });
        let newest = self.records.last().map(|r| r.body.event_name());
        Unmet::Late {
            what: what.to_owned(),
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            last: last.unwrap_or_else(|| "none".to_owned()),
            newest: newest.unwrap_or("none"),
        }
    }
}
