//! `agentctl proof verify`: the chain of a log, checked by the server, or here without trusting it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use agentctl_api::v1;
use agentd_core::chain::{self, LINE_BYTES_MAX, LineVerifier};
use agentd_core::record::Record;
use agentd_core::replay::Replay;
use clap::Args;
use serde::Deserialize;

use crate::command::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Page;
use crate::server;
use crate::text;
use crate::time;
use crate::view::proof::{FaultView, VerificationView};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// JSON lines to check here, without a server; `-`: stdin
    #[arg(value_name = "FILE", conflicts_with = "data_dir")]
    file: Option<PathBuf>,
    /// Also judge every decision again and compare the bytes
    #[arg(long)]
    replay: bool,
}

pub(super) async fn run(args: VerifyArgs, context: &mut Context) -> Result<Exit, Failure> {
    let directory = context.global.data_dir.clone();
    let view = match (args.file, directory) {
        (Some(path), _) => blocking(move || verify_file(&path, args.replay)).await?,
        (None, Some(dir)) => blocking(move || verify_dir(Path::new(&dir), args.replay)).await?,
        (None, None) => by_the_server(args.replay, context).await?,
    };
    context.output.emit(&view, |page| verification_page(page, &view))?;
    Ok(if view.valid { Exit::Ok } else { Exit::ProofFailed })
}

/// Ctrl-C still ends the command while a large log is read.
async fn blocking(
    work: impl FnOnce() -> Result<VerificationView, Failure> + Send + 'static,
) -> Result<VerificationView, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::because(Exit::Failure, "the verification broke off", &error))?
}

async fn by_the_server(replay: bool, context: &mut Context) -> Result<VerificationView, Failure> {
    let session = context.connect().await?;
    let mut request = session.unary(v1::VerifyProofRequest { recheck_decisions: replay });
    if context.global.timeout.is_none() {
        // A long log takes as long as it takes.
        request = tonic::Request::new(*request.get_ref());
    }
    let answer = session.proof().verify_proof(request).await;
    Ok(from_server(&answer.map_err(|s| session.failure(s))?.into_inner(), replay))
}

/// The server's own account of its log.
pub(in crate::command) fn from_server(
    response: &v1::VerifyProofResponse,
    replay: bool,
) -> VerificationView {
    VerificationView {
        valid: response.valid,
        checked: "server",
        log_id: (!response.log_id.is_empty()).then(|| response.log_id.clone()),
        entry_count: response.entry_count,
        first_seq: response.first_seq,
        last_seq: response.last_seq,
        head_hash: response.head_hash.clone(),
        decisions_rechecked: replay.then_some(response.decisions_rechecked),
        decisions_different: replay.then_some(response.decisions_different),
        elapsed_seconds: time::seconds(response.elapsed.as_ref()).unwrap_or_default(),
        fault: response.fault.as_ref().map(Into::into),
    }
}

fn verify_file(path: &Path, replay: bool) -> Result<VerificationView, Failure> {
    let unreadable = |error: &io::Error| {
        let exit =
            if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Failure::because(exit, &format!("cannot read `{}`", path.display()), error)
    };
    if path.as_os_str() == "-" {
        return verify_lines(&mut io::stdin().lock(), replay).map_err(|error| unreadable(&error));
    }
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    verify_lines(&mut BufReader::new(file), replay).map_err(|error| unreadable(&error))
}

/// Checks JSON lines from `input` to the end or to the first fault.
pub(in crate::command) fn verify_lines(
    input: &mut dyn BufRead,
    replay: bool,
) -> io::Result<VerificationView> {
    let started = Instant::now();
    let mut check = Check::new(replay);
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
        if !check.line(&line) {
            break;
        }
    }
    Ok(check.finish("file", None, started))
}

fn verify_dir(dir: &Path, replay: bool) -> Result<VerificationView, Failure> {
    let started = Instant::now();
    let mut check = Check::new(replay);
    let mut going = true;
    let log = server::read_log(dir, &mut |_, line| going = going && check.line(line))?;
    if let (None, Some((seq, summary))) = (&check.fault, log.fault) {
        check.fault =
            Some(FaultView { seq, reason: "DAMAGED".to_owned(), summary, ..FaultView::default() });
    }
    Ok(check.finish("data_dir", log.log_id, started))
}

/// Reason of a fault that is not in the chain.
const DIFFERS: &str = "REPLAY_DIFFERS";

/// Where an export that does not begin with the first entry begins.
#[derive(Deserialize)]
struct Beginning {
    seq: u64,
    prev: chain::Hash,
}

/// Checks lines one by one.
struct Check {
    verifier: Option<LineVerifier>,
    first_seq: u64,
    count: u64,
    rejudge: Option<Rejudge>,
    fault: Option<FaultView>,
}

/// Judges every decision again from its own record.
#[derive(Default)]
struct Rejudge {
    replay: Option<Replay>,
    rechecked: u64,
    different: u64,
}

impl Check {
    fn new(replay: bool) -> Self {
        let rejudge = replay.then(Rejudge::default);
        Self { verifier: None, first_seq: 0, count: 0, rejudge, fault: None }
    }

    /// Takes the next line; false if nothing behind it can be trusted.
    fn line(&mut self, line: &[u8]) -> bool {
        let verifier =
            self.verifier.get_or_insert_with(|| match serde_json::from_slice::<Beginning>(line) {
                Ok(begin) if begin.seq > 1 => LineVerifier::resume(begin.seq, begin.prev),
                _ => LineVerifier::new(),
            });
        if self.count == 0 {
            self.first_seq = verifier.next_seq();
        }
        let prev = verifier.head();
        if let Err(error) = verifier.check(line) {
            self.fault = Some(chain_fault(&error));
            return false;
        }
        self.count += 1;
        if let Some(rejudge) = &mut self.rejudge
            && let Some(fault) = rejudge.line(line, prev)
        {
            // The chain is sound: the rest can still be read, and the first fault is the one that is named.
            self.fault.get_or_insert(fault);
        }
        true
    }

    fn finish(
        self,
        checked: &'static str,
        log_id: Option<String>,
        started: Instant,
    ) -> VerificationView {
        let verifier = self.verifier.unwrap_or_default();
        // A broken chain vouches for nothing from the fault on; a decision that differs leaves the chain as it is.
        let broken = self.fault.as_ref().filter(|fault| fault.reason != DIFFERS).map(|f| f.seq);
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
            fault: self.fault,
        }
    }
}

impl Rejudge {
    /// What does not come out as recorded, if anything.
    fn line(&mut self, line: &[u8], prev: chain::Hash) -> Option<FaultView> {
        let record = match Record::parse(line) {
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
        let replay = self.replay.get_or_insert_with(|| Replay::new(record.env));
        let mut fault = None;
        if record.line(prev) != line {
            fault = Some("the record does not serialize to its own bytes".to_owned());
        }
        if let Some(decided) = record.decision() {
            self.rechecked += 1;
            if let Err(mismatch) = replay.recheck(decided) {
                fault = Some(mismatch.to_string());
            }
        }
        replay.fold(&record);
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

/// What was found, in a line or two.
pub(in crate::command) fn verification_page(page: &mut Page, view: &VerificationView) {
    if let Some(fault) = &view.fault {
        page.line(format!("✖ entry #{}: {}", fault.seq, describe(fault)));
        if fault.reason == DIFFERS {
            page.line(format!(
                "  {} of {} decisions come out differently; the hash chain itself is sound",
                view.decisions_different.unwrap_or(0),
                view.decisions_rechecked.unwrap_or(0)
            ));
        } else {
            let good = fault.seq.saturating_sub(1);
            page.line(format!(
                "  everything from #{} on is untrusted; {} before it verified, the last good one is #{good}",
                fault.seq,
                text::count(good.saturating_sub(view.first_seq.saturating_sub(1)), "entry", "entries"),
            ));
        }
        return;
    }
    if view.entry_count == 0 {
        page.line("○ the log is empty");
        return;
    }
    let judged = match view.decisions_rechecked {
        None => String::new(),
        Some(n) => {
            format!("  ✔ {} judged again, all the same", text::count(n, "decision", "decisions"))
        }
    };
    page.line(format!(
        "{}  ✔ hash chain  ✔ no gaps  #{}..#{}  head {}{judged}  in {}",
        text::count(view.entry_count, "entry", "entries"),
        view.first_seq,
        view.last_seq,
        short_hash(&view.head_hash),
        time::coarse(
            std::time::Duration::try_from_secs_f64(view.elapsed_seconds).unwrap_or_default()
        )
    ));
    if view.first_seq > 1 {
        page.line(format!("! it begins with #{}: what came before is not covered", view.first_seq));
    }
}

fn describe(fault: &FaultView) -> String {
    match (&fault.stored, &fault.computed) {
        (Some(stored), Some(computed)) => format!(
            "hash mismatch (stored {}, computed {})",
            short_hash(stored),
            short_hash(computed)
        ),
        _ => fault.summary.clone(),
    }
}

/// `9c41…e07b`.
pub(in crate::command) fn short_hash(hash: &str) -> String {
    match (hash.get(..4), hash.len().checked_sub(4).and_then(|at| hash.get(at..))) {
        (Some(head), Some(tail)) if hash.len() > 8 => format!("{head}…{tail}"),
        _ => hash.to_owned(),
    }
}

#[cfg(test)]
mod tests;
