//! `agentctl proof verify`: the chain of a log, checked by the server, or here without trusting it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use agentctl_api::v1;
use agentd_core::chain::Hash;
use agentd_core::tlog::policy::Policy;
use agentd_core::tlog::proof::FILE_BYTES_MAX;
use agentd_core::tlog::tree::Frontier;
use clap::Args;

use super::export::{Leaf, leaves};
use super::known::{KnownLogs, Meeting, meet};
use crate::command::{Context, blocking};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Page;
use crate::server::{self, Bodies};
use crate::text;
use crate::time;
use crate::view::proof::{FaultView, VerificationView};

mod check;
mod claims;
mod proof_file;
pub(super) mod static_tree;

use check::Check;
use claims::Belief;

#[derive(Debug, Default, Args)]
pub(super) struct VerifyArgs {
    /// What to check here, without a server: JSON lines, a .tlog-proof, a directory with tiles, or a data directory; `-`: stdin
    #[arg(value_name = "FILE|DIR", conflicts_with = "data_dir")]
    file: Option<PathBuf>,
    /// Download the log and check it here, against its checkpoint and against what was seen of it before
    #[arg(long, conflicts_with_all = ["file", "data_dir"])]
    server: bool,
    /// Signed checkpoint that the entries have to lead to; can be given more than once
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Public key of the log, or a file with it [default: the one that was seen before]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Policy (C2SP tlog-policy): the checkpoint also has to be signed by one of its logs and cosigned by a quorum of its witnesses
    #[arg(long, value_name = "FILE", value_parser = claims::policy)]
    policy: Option<Policy>,
    /// File with the entry that a .tlog-proof is about, where it does not carry it
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,
    /// Also judge every decision again and compare the bytes
    #[arg(long)]
    replay: bool,
    /// Also compare the index with the log: at the server, or in a data directory
    #[arg(long, conflicts_with = "server")]
    index: bool,
}

impl VerifyArgs {
    /// Whom a checkpoint has to be signed by.
    fn belief(&self) -> Belief<'_> {
        Belief { key: self.key.as_deref(), policy: self.policy.as_ref() }
    }
}

pub(super) async fn run(args: VerifyArgs, context: &mut Context) -> Result<Exit, Failure> {
    let directory = context.global.data_dir.clone();
    if args.index
        && args.file.as_ref().is_some_and(|path| !path.is_dir() || static_tree::is_one(path))
    {
        return Err(Failure::usage("an export has no index")
            .hint("--index goes with a data directory, or with the server alone"));
    }
    let quorum = args.policy.as_ref().map(|policy| policy.quorum().to_owned());
    // Whom to believe is about a checkpoint: an answer without one would look as if somebody had vouched for it.
    let belief = match (&quorum, &args.key) {
        (Some(_), _) => Some("--policy"),
        (None, Some(key)) => claims::given_key(key).map(|_key| Some("--key"))?,
        (None, None) => None,
    };
    let mut view = match (args.file.clone(), directory) {
        _ if args.server => download(&args, context).await?,
        (Some(path), _) if path.is_dir() => {
            if static_tree::is_one(&path) {
                blocking("the verification", move || {
                    static_tree::verify(&path, args.belief(), args.replay)
                })
                .await?
            } else {
                blocking("the verification", move || verify_dir(&path, &args)).await?
            }
        }
        (Some(path), _) => {
            match blocking("the verification", move || verify_file(&path, &args)).await? {
                Found::Proof(view) => {
                    context.output.emit(&view, |page| view.page(page))?;
                    return Ok(view.exit());
                }
                Found::Lines(view) => *view,
            }
        }
        (None, Some(dir)) => {
            blocking("the verification", move || verify_dir(Path::new(&dir), &args)).await?
        }
        (None, None) => match belief {
            Some(flag) => {
                let text = format!("{flag} is for what is checked here, not by the server");
                return Err(Failure::usage(text)
                    .hint("add --server to download the log, or name a FILE or DIR"));
            }
            None => by_the_server(&args, context).await?,
        },
    };
    if let Some(flag) = belief.filter(|_| view.valid && view.last_good_checkpoint.is_none()) {
        let text = format!("there is no checkpoint that {flag} could be applied to");
        return Err(Failure::usage(text)
            .hint("give one with --checkpoint; `agentctl proof checkpoint --note` shows it"));
    }
    view.quorum = quorum.filter(|_| view.valid);
    context.output.emit(&view, |page| verification_page(page, &view))?;
    Ok(if view.valid { Exit::Ok } else { Exit::ProofFailed })
}

/// What a file turned out to be.
#[derive(Debug)]
enum Found {
    Proof(proof_file::ProofFileView),
    Lines(Box<VerificationView>),
}

/// Checks the log of a server here, entry by entry.
async fn download(args: &VerifyArgs, context: &mut Context) -> Result<VerificationView, Failure> {
    let started = Instant::now();
    let session = context.connect().await?;
    let logs = KnownLogs::of_user();
    let belief = args.belief();
    let mut claims = claims::read_all(&args.checkpoint, belief)?;
    let (known, meeting) = meet(&session, &logs, 0).await?;
    belief.hold(&known.note)?;
    if args.key.is_some() && claims::trust(known.key.name(), belief, None)?.key != known.key {
        return Err(Failure::new(
            Exit::ProofFailed,
            "the log is signed with another key than --key",
        ));
    }
    claims.push(known.checkpoint.clone());
    let received = Bodies::received()?;
    let (oldest, beginning) = oldest(&session).await?;
    // Where a checkpoint ends among the pruned entries, it takes the hash of each of them.
    let early = claims.iter().any(|claim| claim.size.saturating_add(1) < oldest);
    let first = if early { 1 } else { oldest };
    let mut check = Check::new(args.replay).against(claims).with(received.clone());
    check = check.behind(Box::new(move |_| beginning));
    let mut going = true;
    leaves(&session, (first, &known), &received, &mut |leaf| {
        going = going
            && match leaf {
                Leaf::Kept(line) => check.line(line),
                Leaf::Pruned(hash) => check.hash(hash, &mut |_, _| {}),
            };
        Ok(())
    })
    .await?;
    check.all_compared()?;
    let mut view = check.finish("download", None, started);
    view.origin = Some(known.checkpoint.origin);
    if meeting == Meeting::First {
        context
            .output
            .say("! the log is seen for the first time: compare its key with one from elsewhere");
    }
    Ok(view)
}

/// The oldest entry that the server keeps, and the tree over what came before it, as a proof of that entry shows it.
async fn oldest(session: &Session) -> Result<(u64, Option<Frontier>), Failure> {
    let request = session.unary(v1::GetProofStatusRequest {});
    let answer = session.proof().get_proof_status(request).await;
    let seq = answer.map_err(|status| session.failure(status))?.into_inner().oldest_seq;
    if seq <= 1 {
        return Ok((1, None));
    }
    let request = session.unary(v1::GetInclusionProofRequest { seq, tree_size: seq });
    let answer = session.proof().get_inclusion_proof(request).await;
    let proof = answer.map_err(|status| session.failure(status))?.into_inner();
    let hashes =
        proof.hashes.iter().map(|hash| Some(Hash::from_bytes(hash.as_slice().try_into().ok()?)));
    let hashes: Option<Vec<Hash>> = hashes.collect();
    Ok((seq, hashes.and_then(|hashes| Frontier::of_path(seq - 1, &hashes))))
}

async fn by_the_server(
    args: &VerifyArgs,
    context: &mut Context,
) -> Result<VerificationView, Failure> {
    let session = context.connect().await?;
    let (recheck_decisions, check_index) = (args.replay, args.index);
    let mut request = session.unary(v1::VerifyProofRequest { recheck_decisions, check_index });
    if context.global.timeout.is_none() {
        // A long log takes as long as it takes.
        request = tonic::Request::new(*request.get_ref());
    }
    let answer = session.proof().verify_proof(request).await;
    let answer = answer.map_err(|s| session.failure(s))?.into_inner();
    let index_checked = args.index.then_some(answer.index_checked);
    Ok(VerificationView { index_checked, ..from_server(&answer, args.replay) })
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
        ..VerificationView::default()
    }
}

/// Checks a `.tlog-proof` or JSON lines, from a file, a pipe or stdin: it is read once, from its beginning.
fn verify_file(path: &Path, args: &VerifyArgs) -> Result<Found, Failure> {
    let unreadable = |error: &io::Error| {
        let exit =
            if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Failure::because(exit, &format!("cannot read `{}`", path.display()), error)
    };
    let started = Instant::now();
    let is_stdin = path.as_os_str() == "-";
    let mut input: Box<dyn BufRead> = if is_stdin {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(|error| unreadable(&error))?))
    };
    let mut beginning = Vec::new();
    let mut read_to = |most: usize| {
        let more = most.saturating_sub(beginning.len());
        let limit = u64::try_from(more).unwrap_or(u64::MAX);
        input.by_ref().take(limit).read_to_end(&mut beginning).map_err(|e| unreadable(&e))?;
        Ok::<_, Failure>(proof_file::is_one(&beginning))
    };
    if read_to(proof_file::BEGINS_WITH.len())? {
        read_to(FILE_BYTES_MAX.saturating_add(1))?;
        let view = proof_file::verify(&beginning, args.entry.as_deref(), args.belief())?;
        return Ok(Found::Proof(view));
    }
    let claims = claims::read_all(&args.checkpoint, args.belief())?;
    let mut check = Check::new(args.replay).against(claims);
    if !is_stdin {
        let beside = beginning_beside(path);
        let tree_before = move |before| proof_file::tree_before(&beside, before);
        check = check.with(Bodies::beside(path)).behind(Box::new(tree_before));
    }
    let read = check.all(&mut beginning.as_slice().chain(input));
    read.map_err(|error| unreadable(&error))?;
    check.all_compared()?;
    Ok(Found::Lines(Box::new(check.finish("file", None, started))))
}

/// What shows the tree before the first line of a file that does not begin with the first entry: the proof of that line.
pub(super) fn beginning_beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".tlog-proof");
    name.into()
}

/// Checks JSON lines from `input` to the end or to the first fault.
pub(in crate::command) fn verify_lines(
    input: &mut dyn BufRead,
    replay: bool,
) -> io::Result<VerificationView> {
    let (mut check, started) = (Check::new(replay), Instant::now());
    check.all(input)?;
    Ok(check.finish("file", None, started))
}

fn verify_dir(dir: &Path, args: &VerifyArgs) -> Result<VerificationView, Failure> {
    let started = Instant::now();
    let mut claims = claims::read_all(&args.checkpoint, args.belief())?;
    let log = if dir.join("proof").is_dir() { dir.join("proof") } else { dir.to_owned() };
    let (signed, beside) = (log.join("checkpoint"), log.join("log.vkey"));
    let (mut origin, mut own, mut signed_size) = (None, false, 0);
    // Read before the entries: those it covers are there then.
    if signed.is_file() {
        let (known, came_with_it) = claims::read(&signed, args.belief(), Some(&beside))?;
        origin = Some(known.checkpoint.origin.clone());
        own = came_with_it;
        signed_size = known.checkpoint.size;
        claims.push(known.checkpoint);
    }
    let mut check = Check::new(args.replay).against(claims).with(Bodies::of_log(dir));
    let path = log.clone();
    check = check.behind(Box::new(move |size| server::stored_tree(&log, size)));
    let (mut going, mut plain) = (true, server::PlainLines::of_log(&path, signed_size));
    let log = server::read_log(dir, &mut |seq, line| {
        going = going && check.line(line);
        plain.check(seq, line);
    })?;
    if let (None, Some((seq, summary))) = (&check.fault, log.fault) {
        check.fault =
            Some(FaultView { seq, reason: "DAMAGED".to_owned(), summary, ..FaultView::default() });
    }
    check.all_compared()?;
    let mut view = check.finish("data_dir", log.log_id, started);
    if let (None, Some((seq, summary))) = (&view.fault, plain.finish()) {
        let reason = LINES_DIFFER.to_owned();
        view.fault = Some(FaultView { seq, reason, summary, ..FaultView::default() });
        view.valid = false;
    }
    if args.index {
        let (checked, differs) = server::compare_index(dir)?;
        view.index_checked = Some(checked);
        if let (None, Some((seq, summary))) = (&view.fault, differs) {
            let reason = INDEX_DIFFERS.to_owned();
            view.fault = Some(FaultView { seq, reason, summary, ..FaultView::default() });
            view.valid = false;
        }
    }
    Ok(VerificationView { origin, key_came_with_it: own, ..view })
}

/// Reason of a fault that is not in the chain.
const DIFFERS: &str = "REPLAY_DIFFERS";
/// Reason of a fault that is beside the log.
const INDEX_DIFFERS: &str = "INDEX_DIFFERS";
/// Reason of a fault of the plain lines, which are a copy of the log.
const LINES_DIFFER: &str = "LINES_DIFFER";
/// Reason of a fault of what is kept beside the log.
const BODY_LOST: &str = "BODY_LOST";

/// Whether the chain is sound in spite of it.
fn is_beside_the_chain(fault: &FaultView) -> bool {
    [DIFFERS, BODY_LOST].contains(&fault.reason.as_str())
}

/// The first thing that is wrong, and what that means for the rest.
fn fault_page(page: &mut Page, view: &VerificationView, fault: &FaultView) {
    page.line(format!("✖ entry #{}: {}", fault.seq, describe(fault)));
    if fault.reason == INDEX_DIFFERS {
        page.line("  the log itself is sound: the index is made from it anew");
    } else if fault.reason == LINES_DIFFER {
        page.line(
            "  the log itself is sound: without `log` in its directory the lines are written anew",
        );
    } else if fault.reason == BODY_LOST {
        page.line("  the hash chain itself is sound: the line says what the body has to be");
    } else if fault.reason == DIFFERS {
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
        if let Some(size) = view.last_good_checkpoint {
            page.line(format!(
                "  the last good checkpoint covers {}",
                text::count(size, "entry", "entries")
            ));
        }
    }
}

/// What was found, in a line or two.
pub(in crate::command) fn verification_page(page: &mut Page, view: &VerificationView) {
    if let Some(fault) = &view.fault {
        return fault_page(page, view, fault);
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
    if let Some(count) = view.index_checked {
        let entries = text::count(count, "entry", "entries");
        page.line(format!("✔ index  {entries} compared with the log"));
    }
    if let (Some(size), Some(root)) = (view.last_good_checkpoint, &view.root_hash) {
        let covered = text::count(size, "entry", "entries");
        page.line(format!("✔ signed checkpoint over {covered}  root of all {}", short_hash(root)));
    }
    if let Some(quorum) = &view.quorum {
        page.line(format!("✔ quorum `{quorum}` of the policy"));
    }
    if view.key_came_with_it {
        page.line("! the key came with the files: give one from elsewhere with --key");
    }
    match (view.first_seq, view.pruned_upto) {
        (first, None) if first > 1 => {
            page.line(format!("! it begins with #{first}: what came before is not covered"));
        }
        (_, Some(upto)) => {
            page.line(format!(
                "! of what came before #{} some is pruned: there are the hashes, under the same root",
                upto.saturating_add(1)
            ));
        }
        _ => {}
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
