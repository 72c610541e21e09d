//! Lines checked one by one: each continues the one before it, the tree over them is the one that was signed, and a decision comes out
//! as it was recorded.

use std::io::{self, BufRead, Read as _};
use std::time::Instant;

use agentd_core::chain::{self, Hash, LINE_BYTES_MAX, LineVerifier};
use agentd_core::record::Body;
use agentd_core::replay::{Mismatch, Replay};
use agentd_core::tlog::Checkpoint;
use agentd_core::tlog::tree::Frontier;
use serde::Deserialize;

use super::claims::Claims;
use super::{BODY_LOST, DIFFERS, is_beside_the_chain};
use crate::failure::Failure;
use crate::server::Bodies;
use crate::view::proof::{FaultView, VerificationView};

/// Where an export that does not begin with the first entry begins.
#[derive(Deserialize)]
struct Beginning {
    seq: u64,
    prev: Hash,
}

/// Checks lines one by one.
pub(super) struct Check {
    verifier: Option<LineVerifier>,
    first_seq: u64,
    count: u64,
    rejudge: Option<Rejudge>,
    /// The tree over the entries, from the first one on.
    pub(super) claims: Claims,
    /// Where bodies are that are too long for a line.
    bodies: Bodies,
    /// The tree over so many entries that are not at hand.
    beginning: Option<Beginnings>,
    /// Up to this entry some are known by their hash alone; 0: none.
    pruned: u64,
    pub(super) fault: Option<FaultView>,
}

/// Where the tree over entries that were pruned comes from. A wrong one leads to no root that was signed.
pub(super) type Beginnings = Box<dyn FnOnce(u64) -> Option<Frontier> + Send>;

/// Judges every decision again from its own record.
#[derive(Default)]
struct Rejudge {
    replay: Option<Replay>,
    /// From here on every policy in force is known: the log begins with its first record, or one that carries a policy was seen.
    known: bool,
    rechecked: u64,
    different: u64,
}

impl Check {
    pub(super) fn new(replay: bool) -> Self {
        let rejudge = replay.then(Rejudge::default);
        let claims = Claims::default();
        let (bodies, beginning, fault) = (Bodies::nowhere(), None, None);
        let (verifier, first_seq, count, pruned) = (None, 0, 0, 0);
        Self { verifier, first_seq, count, rejudge, claims, bodies, beginning, pruned, fault }
    }

    /// Also holds the entries against these checkpoints.
    pub(super) fn against(mut self, checkpoints: Vec<Checkpoint>) -> Self {
        (self.claims, self.fault) = Claims::new(checkpoints);
        self
    }

    /// Looks there for bodies that are too long for a line.
    pub(super) fn with(mut self, bodies: Bodies) -> Self {
        self.bodies = bodies;
        self
    }

    /// Where entries were pruned, takes the tree over them from there.
    pub(super) fn behind(mut self, beginning: Beginnings) -> Self {
        self.beginning = Some(beginning);
        self
    }

    /// Checks JSON lines from `input` to the end or to the first fault.
    pub(super) fn all(&mut self, input: &mut dyn BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            // One byte more than the longest line and its end: a longer one is recognised without being read whole.
            let room = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
            if input.take(room).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if !self.line(&line) {
                break;
            }
        }
        Ok(())
    }

    /// The last entry that was taken.
    fn last(&self) -> u64 {
        self.verifier.as_ref().map_or(0, LineVerifier::next_seq).saturating_sub(1)
    }

    /// Refuses to call a log sound beside a checkpoint that it could not be held against, unless something else is wrong with it.
    pub(super) fn all_compared(&self) -> Result<(), Failure> {
        if self.fault.is_some() { Ok(()) } else { self.claims.all_compared(self.last()) }
    }

    /// Takes the next line; false if nothing behind it can be trusted.
    pub(super) fn line(&mut self, line: &[u8]) -> bool {
        self.leaf(line, &mut |_, _| {})
    }

    /// As [`Check::line`]; `stored` receives the hashes that tiles hold.
    pub(super) fn leaf(&mut self, line: &[u8], stored: &mut dyn FnMut(u8, Hash)) -> bool {
        let verifier =
            self.verifier.get_or_insert_with(|| match serde_json::from_slice::<Beginning>(line) {
                Ok(begin) if begin.seq > 1 => LineVerifier::resume(begin.seq, begin.prev),
                _ => LineVerifier::new(),
            });
        if self.count == 0 {
            self.first_seq = verifier.next_seq();
            let before = self.first_seq.saturating_sub(1);
            if self.claims.tree().size() != before {
                let begun = match self.beginning.take().and_then(|beginning| beginning(before)) {
                    Some(frontier) => self.claims.begin(frontier),
                    None => self.claims.lose_beginning(before),
                };
                if let Some(fault) = begun {
                    self.fault = Some(fault);
                    return false;
                }
            }
        }
        let prev = verifier.head();
        if let Err(error) = verifier.check(line) {
            self.fault = Some(chain_fault(&error));
            return false;
        }
        self.count += 1;
        // A tree without its beginning has no root.
        if self.claims.tree().size().saturating_add(1) == verifier.next_seq().saturating_sub(1)
            && let Some(fault) = self.claims.push(verifier.head(), stored)
        {
            self.fault = Some(fault);
            return false;
        }
        if let Err(summary) = self.bodies.check(line) {
            let (seq, reason) = (verifier.next_seq().saturating_sub(1), BODY_LOST.to_owned());
            self.fault.get_or_insert(FaultView { seq, reason, summary, ..FaultView::default() });
        } else if let Some(rejudge) = &mut self.rejudge
            && let Some(fault) = rejudge.line(&self.bodies, line, prev)
        {
            // The chain is sound: the rest can still be read, and the first fault is the one that is named.
            self.fault.get_or_insert(fault);
        }
        true
    }

    /// Takes the hash of an entry that was pruned. What comes behind it has to continue it.
    pub(super) fn hash(&mut self, leaf: Hash, stored: &mut dyn FnMut(u8, Hash)) -> bool {
        if let Some(fault) = self.claims.push(leaf, stored) {
            self.fault = Some(fault);
            return false;
        }
        self.pruned = self.claims.tree().size();
        self.verifier = Some(LineVerifier::resume(self.pruned.saturating_add(1), leaf));
        (self.first_seq, self.count) = (0, 0);
        if let Some(rejudge) = &mut self.rejudge {
            // The policy in force may be in what is gone.
            (rejudge.replay, rejudge.known) = (None, false);
        }
        true
    }

    pub(super) fn finish(
        mut self,
        checked: &'static str,
        log_id: Option<String>,
        started: Instant,
    ) -> VerificationView {
        if self.fault.as_ref().is_none_or(is_beside_the_chain)
            && let Some(fault) = self.claims.finish(self.last())
        {
            self.fault = Some(fault);
        }
        let tree = self.claims.tree();
        let root_hash = (tree.size() > 0).then(|| tree.root().to_string());
        let verifier = self.verifier.unwrap_or_default();
        // A broken chain vouches for nothing from the fault on; a decision that differs leaves the chain as it is.
        let broken = self.fault.as_ref().filter(|fault| !is_beside_the_chain(fault)).map(|f| f.seq);
        let last_seq = broken.unwrap_or_else(|| verifier.next_seq()).saturating_sub(1);
        let has_head = self.count > 0 && broken.is_none();
        VerificationView {
            valid: self.fault.is_none(),
            checked,
            log_id,
            entry_count: match broken {
                Some(seq) => seq.saturating_sub(self.first_seq),
                None => self.count,
            },
            first_seq: self.first_seq,
            last_seq,
            head_hash: if has_head { verifier.head().to_string() } else { String::new() },
            decisions_rechecked: self.rejudge.as_ref().map(|rejudge| rejudge.rechecked),
            decisions_different: self.rejudge.as_ref().map(|rejudge| rejudge.different),
            elapsed_seconds: started.elapsed().as_secs_f64(),
            root_hash: root_hash.filter(|_| has_head),
            last_good_checkpoint: self.claims.good.as_ref().map(|good| good.size),
            pruned_upto: Some(self.pruned).filter(|upto| *upto > 0),
            fault: self.fault,
            ..VerificationView::default()
        }
    }
}

impl Rejudge {
    /// What does not come out as recorded, if anything.
    fn line(&mut self, bodies: &Bodies, line: &[u8], prev: Hash) -> Option<FaultView> {
        let record = match bodies.record(line) {
            Ok(record) => record,
            Err(error) => {
                let seq = serde_json::from_slice::<Beginning>(line).map_or(0, |begin| begin.seq);
                let summary = crate::failure::chain(&error);
                return Some(FaultView {
                    seq,
                    reason: "RECORD_UNREADABLE".to_owned(),
                    summary,
                    ..FaultView::default()
                });
            }
        };
        let replay = self.replay.get_or_insert_with(|| {
            self.known = record.seq == 1;
            Replay::new(record.env)
        });
        let mut fault = None;
        if record.line(prev) != line {
            fault = Some("the record does not serialize to its own bytes".to_owned());
        }
        if let Some(decided) = record.decision() {
            let judged = replay.recheck(decided);
            let unknown = matches!(judged, Err(Mismatch::UnknownPolicy { .. })) && !self.known;
            self.rechecked += u64::from(!unknown);
            fault =
                judged.err().filter(|_| !unknown).map(|mismatch| mismatch.to_string()).or(fault);
        }
        replay.fold(&record);
        self.known |= matches!(record.body, Body::PolicyApplied { .. } | Body::Snapshotted(_));
        let summary = fault?;
        self.different += 1;
        let reason = DIFFERS.to_owned();
        Some(FaultView { seq: record.seq, reason, summary, ..FaultView::default() })
    }
}

fn chain_fault(error: &chain::Error) -> FaultView {
    let (reason, stored, computed) = match error {
        chain::Error::TooLong { .. } => ("TOO_LONG", None, None),
        chain::Error::Malformed { .. } => ("MALFORMED", None, None),
        chain::Error::Seq { .. } => ("GAP", None, None),
        chain::Error::Prev { stored, computed, .. } => {
            ("CHAIN_BROKEN", Some(stored.to_string()), Some(computed.to_string()))
        }
    };
    FaultView {
        seq: error.first_bad_seq(),
        reason: reason.to_owned(),
        stored,
        computed,
        summary: error.to_string(),
    }
}
