//! Entries of the log in pages, in either direction.

use agentctl_api::v1;
use agentd_core::record::Detached;
use tonic::Status;

use super::super::candidates::Candidates;
use super::super::filter::ProofFilter;
use super::super::log::{self, Log};
use super::super::page::{PAGE_BYTES, Question, SCAN_RECORDS};
use super::super::status::Violation;
use super::super::{Services, from_proto, status, to_proto};
use crate::journal::{self, Damage, Entry, Reader};

/// A page of entries.
pub(super) async fn list(
    services: &Services,
    request: v1::ListProofEntriesRequest,
) -> Result<v1::ListProofEntriesResponse, Status> {
    let log = Log::of(services);
    let mut violations = Vec::new();
    let newest_first = newest_first(request.order, &mut violations);
    let method = if newest_first { "ListProofEntries/back" } else { "ListProofEntries" };
    let asked = request.filter.clone().unwrap_or_default();
    let question = Question::new(method, log.id().as_bytes(), &asked);
    let position = question.position(&request.page_token, &mut violations);
    let filter = ProofFilter::parse(request.filter, &mut violations);
    let size = from_proto::page_size(request.page_size).unwrap_or_else(|violation| {
        violations.push(violation);
        0
    });
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    let at = match (position, newest_first) {
        (Some(at), _) => at,
        (None, true) => match filter.span.until {
            Some(until) => log.first_at(until).await?,
            None => u64::MAX,
        },
        (None, false) => match filter.span.from {
            Some(from) => log.first_at(from).await?,
            None => log.oldest(),
        },
    };
    let damage = log.damage();
    let index = services.index.clone().filter(|_| !request.exhaustive);
    let page = log.reading(move |reader| {
        let candidates = Candidates::new(index, filter.wanted());
        let entries = Vec::new();
        let mut page = Page { filter, candidates, size, entries, bytes: 0, looked_at: 0 };
        let next = if newest_first {
            page.backward(reader, at)?
        } else {
            page.forward(reader, at, damage)?
        };
        Ok((page.entries, next))
    });
    let (found, next) = page.await?;
    let mut entries = Vec::with_capacity(found.len());
    for entry in found {
        let published = log.published(entry)?;
        entries.push(to_proto::proof_entry(&published));
    }
    let next_page_token = next.map(|at| question.token(at)).unwrap_or_default();
    Ok(v1::ListProofEntriesResponse { entries, next_page_token })
}

fn newest_first(order: i32, violations: &mut Vec<Violation>) -> bool {
    match v1::ProofOrder::try_from(order) {
        Ok(v1::ProofOrder::Unspecified | v1::ProofOrder::OldestFirst) => false,
        Ok(v1::ProofOrder::NewestFirst) => true,
        Err(_) => {
            let rule = "must be OLDEST_FIRST or NEWEST_FIRST";
            violations.push(Violation::new("order", order.to_string(), rule));
            false
        }
    }
}

/// A page that is being filled.
struct Page {
    filter: ProofFilter,
    candidates: Candidates,
    size: usize,
    entries: Vec<Entry>,
    bytes: usize,
    looked_at: usize,
}

enum Taken {
    More,
    Full,
    /// It does not fit any more: the next page begins with it.
    Next,
    /// Nothing further can match.
    Over,
}

impl Page {
    fn take(
        &mut self,
        reader: &Reader,
        entry: Entry,
        beyond: impl Fn(&ProofFilter, u64) -> bool,
    ) -> Taken {
        self.looked_at += 1;
        if let Some(at) = log::Envelope::parse(&entry.line).and_then(|envelope| envelope.at())
            && beyond(&self.filter, at)
        {
            return Taken::Over;
        }
        let matches = self.filter.may_match(&entry.line)
            && match reader.blobs().record(&entry.line) {
                Ok(record) => self.filter.matches(&record),
                // Shown, so that reading it as an entry fails with its number.
                Err(_) => true,
            };
        if matches {
            // What lies beside the log is read and sent like what stands in the line.
            let beside = Detached::in_line(&entry.line).map_or(0, |blob| blob.bytes);
            let beside = usize::try_from(beside).unwrap_or(usize::MAX);
            let bytes = self.bytes.saturating_add(entry.line.len()).saturating_add(beside);
            if !self.entries.is_empty() && bytes > PAGE_BYTES {
                return Taken::Next;
            }
            self.bytes = bytes;
            self.entries.push(entry);
        }
        let full = self.entries.len() >= self.size
            || self.bytes > PAGE_BYTES
            || self.looked_at >= SCAN_RECORDS;
        if full { Taken::Full } else { Taken::More }
    }

    /// Takes from `next` on; where the page after it begins, if there is more. A damaged record ends the page before it, and fails
    /// the page that begins with it.
    fn forward(
        &mut self,
        reader: &Reader,
        mut next: u64,
        damage: Option<Damage>,
    ) -> Result<Option<u64>, journal::Error> {
        loop {
            let step = match self.candidates.forward(reader, next) {
                Err(journal::Error::Damaged(_)) if !self.entries.is_empty() => {
                    return Ok(Some(next));
                }
                other => other?,
            };
            if step.over {
                return self.at_end(next, damage);
            }
            for entry in step.entries {
                let seq = entry.seq;
                next = seq.saturating_add(1);
                match self.take(reader, entry, |filter, at| filter.span.is_over(at)) {
                    Taken::More => {}
                    Taken::Full => {
                        let more = next <= reader.durable_seq() || damage.is_some();
                        return Ok(more.then_some(next));
                    }
                    Taken::Next => return Ok(Some(seq)),
                    Taken::Over => return Ok(None),
                }
            }
            next = step.next;
        }
    }

    /// The sound part of the log ends here.
    fn at_end(&self, next: u64, damage: Option<Damage>) -> Result<Option<u64>, journal::Error> {
        match damage {
            Some(_) if !self.entries.is_empty() => Ok(Some(next)),
            Some(damage) => Err(journal::Error::Damaged(damage)),
            None => Ok(None),
        }
    }

    /// As [`Page::forward`], from before `at` towards the oldest.
    fn backward(&mut self, reader: &Reader, mut at: u64) -> Result<Option<u64>, journal::Error> {
        loop {
            let step = self.candidates.backward(reader, at)?;
            for entry in step.entries {
                at = entry.seq;
                let before =
                    |filter: &ProofFilter, time| filter.span.from.is_some_and(|from| time < from);
                match self.take(reader, entry, before) {
                    Taken::More => {}
                    Taken::Full => return Ok((at > reader.oldest_seq()).then_some(at)),
                    Taken::Next => return Ok(Some(at.saturating_add(1))),
                    Taken::Over => return Ok(None),
                }
            }
            if step.over {
                return Ok(None);
            }
            at = step.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_core::app::Env;
    use agentd_core::chain::{GENESIS, leaf_hash};
    use agentd_core::record::{Body, Record};
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn bodies_beside_the_log_count_towards_the_bytes_of_a_page() {
        let dir = TempDir::new().unwrap();
        let config = journal::Config::new(dir.path().to_owned());
        let journal = journal::open(config, &mut |_, _| {}).unwrap().journal;
        let mut head = GENESIS;
        for seq in 1..=5 {
            let what = "x".repeat(900 << 10);
            let body = Body::Injected { scenario: seq.to_string(), what };
            let (env, actor) = (Env::Stage, "agent-1".to_owned());
            let record =
                Record { seq, at: seq, env, app: None, cause: None, actor, trace: None, body };
            let (line, blob) = record.line_detached(head);
            journal.blobs().put(&blob).unwrap();
            head = leaf_hash(&line);
            journal.append(seq, vec![line.into()]).await.unwrap();
        }
        let reader = journal.reader();
        let page = || {
            let filter = ProofFilter::parse(None, &mut Vec::new());
            let candidates = Candidates::new(None, filter.wanted());
            Page { filter, candidates, size: 100, entries: Vec::new(), bytes: 0, looked_at: 0 }
        };
        let seqs = |page: &Page| page.entries.iter().map(|e| e.seq).collect::<Vec<_>>();
        let (mut forward, mut next) = (Vec::new(), Some(1));
        while let Some(at) = next {
            let mut page = page();
            next = page.forward(&reader, at, None).unwrap();
            forward.push(seqs(&page));
        }
        assert_eq!(forward, [vec![1, 2], vec![3, 4], vec![5]]);
        let (mut backward, mut next) = (Vec::new(), Some(u64::MAX));
        while let Some(at) = next {
            let mut page = page();
            next = page.backward(&reader, at).unwrap();
            backward.push(seqs(&page));
        }
        assert_eq!(backward, [vec![5, 4], vec![3, 2], vec![1]]);
    }
}
