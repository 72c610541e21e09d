//! `agentctl proof`: reads, follows, verifies and exports the log of everything that was done and not done.

use std::io::Write as _;
use std::path::PathBuf;

use agentctl_api::v1;
use clap::{Args, Subcommand};
use v1::watch_proof_entries_request::Start;
use v1::watch_proof_entries_response::Item;

use super::follow::{Link, Since};
use super::{Context, pieces};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Format;
use crate::page::Table;
use crate::server::Bodies;
use crate::text;
use crate::time::{self, TimeStyle};
use crate::view::proof::EntryView;

mod checkpoint;
mod export;
mod keep;
mod known;
mod rotate;
mod select;
mod tiles;
pub(super) mod verify;

use export::ExportFormat;

/// Read, follow, verify and export the proof log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl proof tail --event RL_DECISION
  agentctl proof verify
  agentctl proof export > log.jsonl && agentctl proof verify log.jsonl --replay")]
pub struct ProofArgs {
    #[command(subcommand)]
    command: ProofCommand,
}

#[derive(Debug, Subcommand)]
enum ProofCommand {
    /// List entries, oldest first
    #[command(after_help = "\
Examples:
  agentctl proof list --app my-api --since 1h
  agentctl proof list --newest --limit 20
  agentctl proof list --event ORCH_REFUSE --reason COOLDOWN_ACTIVE -o jsonl | jq -r .raw
  agentctl proof list --event RL_DECISION --select body    to compare runs")]
    List(ListArgs),
    /// Print one entry exactly as it is recorded
    #[command(
        after_help = "Examples:\n  agentctl proof get 1077\n  agentctl proof get 1077 | jq .body"
    )]
    Get(GetArgs),
    /// Show the last entries and follow
    #[command(after_help = "\
Examples:
  agentctl proof tail
  agentctl proof tail -n 100 --no-follow
  agentctl proof tail --event RL_DECISION --app my-api -o jsonl")]
    Tail(TailArgs),
    /// Check the hash chain, and with --replay judge every decision again
    #[command(after_help = "\
Examples:
  agentctl proof verify                        the server checks its own disk
  agentctl proof verify log.jsonl --replay     a file, here, without a server
  agentctl proof verify --data-dir DIR         a data directory, here, without a server
  agentctl proof verify --index                also the index that lists are answered from
  agentctl proof verify --server               what the server hands out, checked here
  agentctl proof verify TILES                  a directory of tiles
  agentctl proof verify 1077.tlog-proof        one entry, by the key of the log alone
  agentctl proof export | agentctl proof verify -

Exit code 10 if anything is wrong: the first bad entry is named.")]
    Verify(verify::VerifyArgs),
    /// Show the newest signed checkpoint, held against what was seen of the log before
    #[command(after_help = "\
Examples:
  agentctl proof checkpoint
  agentctl proof checkpoint --note > checkpoint    for other tools

Exit code 10 if the log was set back, or does not continue what was seen.")]
    Checkpoint(checkpoint::CheckpointArgs),
    /// Prove that an entry is in the log
    #[command(after_help = "\
Examples:
  agentctl proof prove 1077
  agentctl proof prove 1077 --file 1077.tlog-proof && agentctl proof verify 1077.tlog-proof")]
    Prove(checkpoint::ProveArgs),
    /// Give the log another key, recorded and signed by both
    #[command(after_help = "\
Examples:
  agentctl proof rotate-key --data-dir DIR
  agentctl proof rotate-key --data-dir DIR --retire

The old key signs beside the new one until it is retired, so that everybody has time to see the
exchange. No server may run on the directory meanwhile. What was signed before is checked with the
old key.")]
    RotateKey(rotate::RotateArgs),
    /// Show how much of the log is kept, exported, sealed and pruned
    #[command(after_help = "Examples:\n  agentctl proof status\n  agentctl proof status -o json")]
    Status,
    /// Let old entries go, once an export has them
    #[command(after_help = "\
Examples:
  agentctl proof export --format tiles --file DIR --record
  agentctl proof prune --before 1000000 --reason \"disk\" --dry-run
  agentctl proof prune --before 1000000 --reason \"disk\" --yes

Refused unless an export is on record that has them, and while the policy keeps them
(retention.keep_ms). Their hashes stay: proofs over what is kept go on working.")]
    Prune(keep::PruneArgs),
    /// Write the log as JSON lines, as tiles, or one entry with its proof
    #[command(after_help = "\
Examples:
  agentctl proof export > log.jsonl
  agentctl proof export --file log.jsonl
  agentctl proof export --format tiles --file DIR --record    then it may be pruned
  agentctl proof export --format tlog-proof --entry 1077 > 1077.tlog-proof
  agentctl proof export --app my-api | jq .event_name    filtered: cannot be verified")]
    Export(ExportArgs),
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only these apps
    #[arg(long, value_name = "APP")]
    app: Vec<String>,
    /// Only these events, such as RL_DECISION
    #[arg(long, value_name = "EVENT")]
    event: Vec<String>,
    /// Only these reason codes
    #[arg(long, value_name = "CODE")]
    reason: Vec<String>,
    /// Only what belongs to these decisions
    #[arg(long, value_name = "ID")]
    decision: Vec<String>,
}

impl FilterArgs {
    fn filter(&self) -> v1::ProofFilter {
        let upper = |names: &[String]| names.iter().map(|n| n.to_ascii_uppercase()).collect();
        v1::ProofFilter {
            apps: self.app.clone(),
            events: upper(&self.event),
            reasons: upper(&self.reason),
            decision_ids: self.decision.clone(),
            start_time: None,
            end_time: None,
        }
    }

    const fn is_empty(&self) -> bool {
        self.app.is_empty()
            && self.event.is_empty()
            && self.reason.is_empty()
            && self.decision.is_empty()
    }
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// From then on: a duration such as 1h, or an RFC 3339 time
    #[arg(long, value_name = "START")]
    since: Option<Since>,
    /// Newest first
    #[arg(long)]
    newest: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
    /// Print this field of each entry alone, byte for byte as it is recorded, such as body
    #[arg(long, value_name = "FIELD")]
    select: Option<String>,
    /// Read the whole log instead of asking the index where to look
    #[arg(long)]
    exhaustive: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Sequence number
    #[arg(value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    seq: u64,
}

#[derive(Debug, Args)]
struct TailArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Start with the last N
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
    lines: u32,
    /// Start behind this sequence number or cursor
    #[arg(long, value_name = "SEQ|CURSOR", conflicts_with_all = ["lines", "no_follow"])]
    since: Option<Since>,
    /// End with the newest entry instead of waiting for more
    #[arg(long)]
    no_follow: bool,
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// What it looks like
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "jsonl")]
    format: ExportFormat,
    /// The entry that --format tlog-proof is about
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    entry: Option<u64>,
    /// From this sequence number on
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// Up to this sequence number
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    to: u64,
    /// Have the server record that the tiles are here: what they hold may be pruned then
    #[arg(long)]
    record: bool,
    /// Write to this file, replaced only with --yes, or the tiles to this directory: a new one, or one with an earlier export
    #[arg(long, value_name = "FILE|DIR")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: ProofArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        ProofCommand::List(args) => list(args, context).await,
        ProofCommand::Get(args) => get(args.seq, context).await,
        ProofCommand::Tail(args) => tail(args, context).await,
        ProofCommand::Verify(args) => verify::run(args, context).await,
        ProofCommand::Checkpoint(args) => checkpoint::checkpoint(args, context).await,
        ProofCommand::Prove(args) => checkpoint::prove(args, context).await,
        ProofCommand::RotateKey(args) => rotate::run(args, context).await,
        ProofCommand::Status => keep::status(context).await,
        ProofCommand::Prune(args) => keep::prune(args, context).await,
        ProofCommand::Export(args) => export_as(args, context).await,
    }
}

async fn list(args: ListArgs, context: &mut Context) -> Result<Exit, Failure> {
    let start_time = match &args.since {
        None => None,
        Some(since) => Some(since.start_time().ok_or_else(|| {
            Failure::usage("--since of a list is a duration or a time")
                .hint("`agentctl proof tail --since` takes sequence numbers and cursors")
        })?),
    };
    let session = context.connect().await?;
    let order = if args.newest { v1::ProofOrder::NewestFirst } else { v1::ProofOrder::OldestFirst };
    let request = v1::ListProofEntriesRequest {
        page_size: args.limit,
        page_token: String::new(),
        filter: Some(v1::ProofFilter { start_time, ..args.filter.filter() }),
        order: order.into(),
        exhaustive: args.exhaustive,
    };
    let answer = session.proof().list_proof_entries(session.unary(request)).await;
    let response = answer.map_err(|s| session.failure(s))?.into_inner();
    if let Some(field) = &args.select {
        select::print(&response.entries, field, context)?;
        say_more(&response, context);
        return Ok(Exit::Ok);
    }
    let views: Vec<_> = response.entries.iter().map(EntryView::from).collect();
    let style = context.output.settings().time;
    context.output.emit_list(&views, |page| {
        if response.entries.is_empty() {
            page.line("no entries match");
            return;
        }
        let mut table =
            Table::new(&["SEQ", "TIME UTC", "APP", "EVENT", "REASON", "DECISION", "HASH"])
                .right(&[0]);
        for entry in &response.entries {
            table.row(entry_cells(entry, style));
        }
        page.table(&table);
    })?;
    say_more(&response, context);
    Ok(Exit::Ok)
}

fn say_more(response: &v1::ListProofEntriesResponse, context: &mut Context) {
    if !response.next_page_token.is_empty() {
        let shown = response.entries.len();
        context
            .output
            .say(format!("there are more than {shown}; --limit shows up to 1000, export all"));
    }
}

fn entry_cells(entry: &v1::ProofEntry, style: Option<TimeStyle>) -> [String; 7] {
    let or_none =
        |text: &str| if text.is_empty() { pieces::NONE.to_owned() } else { text.to_owned() };
    [
        format!("#{}", entry.seq),
        pieces::row_time(entry.time.as_ref(), style, time::now()),
        if entry.app.is_empty() { "·".to_owned() } else { entry.app.clone() },
        entry.event.clone(),
        if entry.reason == entry.event { pieces::NONE.to_owned() } else { or_none(&entry.reason) },
        or_none(&entry.decision_id),
        text::short_digest(&entry.hash),
    ]
}

async fn get(seq: u64, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let missing = || {
        Failure::new(Exit::NotFound, format!("entry #{seq} is not in the log"))
            .hint("`agentctl proof list --newest --limit 1` shows the newest one")
    };
    let lines = match download(&session, seq, seq, None).await {
        Ok(lines) if lines.is_empty() => return Err(missing()),
        Err(failure) if failure.code() == Some(tonic::Code::OutOfRange) => {
            // Of a range, only where it begins is said; of an entry, whether it ever was there.
            let request = session.unary(v1::GetProofEntryRequest { seq });
            let answer = session.proof().get_proof_entry(request).await;
            let why = answer.err().map(|status| session.failure(status));
            return Err(why
                .filter(|why| why.reason() == Some("ENTRY_PRUNED"))
                .unwrap_or_else(missing));
        }
        other => other?,
    };
    // The bytes of the record are what counts, so a line is handed out as it is.
    if context.output.is_table() || context.output.is_plain(Format::Jsonl) {
        context.output.raw(&lines)?;
    } else {
        let value: serde_json::Value =
            serde_json::from_slice(&lines).map_err(|error| Failure::unprintable(&error))?;
        context.output.emit(&value, |_| {})?;
    }
    context.output.flush()?;
    Ok(Exit::Ok)
}

/// Lines `first` to `last` (0: newest) in memory.
pub(super) async fn download(
    session: &Session,
    first: u64,
    last: u64,
    filter: Option<v1::ProofFilter>,
) -> Result<Vec<u8>, Failure> {
    let request = v1::ExportProofRequest {
        first_seq: first,
        last_seq: last,
        filter,
        pruned_as_hashes: false,
    };
    let answer = session.proof().export_proof(request).await;
    let mut stream = answer.map_err(|s| session.failure(s))?.into_inner();
    let mut lines = Vec::new();
    while let Some(part) = stream.message().await.map_err(|s| session.failure(s))? {
        lines.extend_from_slice(&part.lines);
    }
    Ok(lines)
}

async fn export_as(args: ExportArgs, context: &mut Context) -> Result<Exit, Failure> {
    let whole = args.filter.is_empty() && args.from == 0 && args.to == 0;
    if args.record && args.format != ExportFormat::Tiles {
        return Err(Failure::usage("--record goes with --format tiles")
            .hint("only tiles hold every entry together with what proves that it is all of them"));
    }
    match (args.format, args.entry, &args.file) {
        (ExportFormat::Jsonl, None, _) => export(args, context).await,
        (ExportFormat::Tiles, None, Some(dir)) if whole => {
            export::tiles(dir, args.record, context).await
        }
        (ExportFormat::TlogProof, Some(seq), file) if whole => {
            export::tlog_proof(seq, file.as_deref(), context).await
        }
        (ExportFormat::Jsonl, Some(_), _) => {
            Err(Failure::usage("--entry goes with --format tlog-proof")
                .hint("`agentctl proof get SEQ` prints one entry"))
        }
        (ExportFormat::Tiles, ..) => Err(Failure::usage(
            "--format tiles writes the whole log into a directory: give --file DIR, and neither filter nor range",
        )),
        (ExportFormat::TlogProof, ..) => {
            Err(Failure::usage("--format tlog-proof is about one entry: give --entry SEQ alone"))
        }
    }
}

async fn export(args: ExportArgs, context: &mut Context) -> Result<Exit, Failure> {
    if context.output.format() == Format::Yaml {
        return Err(Failure::usage("an export is JSON lines, byte for byte")
            .hint("leave -o yaml out, or use `agentctl proof list -o yaml`"));
    }
    let session = context.connect().await?;
    let filter = (!args.filter.is_empty()).then(|| args.filter.filter());
    let mut file = match &args.file {
        None => None,
        Some(path) => Some(create(path, context.global.yes)?),
    };
    let request = v1::ExportProofRequest {
        first_seq: args.from,
        last_seq: args.to,
        filter,
        pruned_as_hashes: false,
    };
    let answer = session.proof().export_proof(request).await;
    let mut stream = answer.map_err(|s| session.failure(s))?.into_inner();
    let (mut count, mut first_seq, mut last_seq, mut beside) = (0_u64, 0, 0, 0_u64);
    while let Some(part) = stream.message().await.map_err(|s| session.failure(s))? {
        let lines = part.lines.iter().filter(|byte| **byte == b'\n').count();
        let lines = u64::try_from(lines).unwrap_or(0);
        count += lines;
        beside += u64::try_from(part.bodies.len()).unwrap_or(0);
        if let Some(path) = &args.file {
            Bodies::beside(path).put(&part.bodies)?;
        }
        if count == lines {
            first_seq = part.last_seq.saturating_add(1).saturating_sub(lines);
        }
        last_seq = part.last_seq;
        match (&mut file, &args.file) {
            (Some(file), Some(path)) => file.write_all(&part.lines).map_err(|error| {
                Failure::because(
                    Exit::Failure,
                    &format!("cannot write `{}`", path.display()),
                    &error,
                )
            })?,
            _ => context.output.raw(&part.lines)?,
        }
    }
    if let (Some(file), Some(path)) = (file, &args.file) {
        file.sync_all().map_err(|error| {
            Failure::because(Exit::Failure, &format!("cannot write `{}`", path.display()), &error)
        })?;
        context.output.say(format!(
            "✔ {} up to #{last_seq} in {}",
            text::count(count, "entry", "entries"),
            path.display()
        ));
        if first_seq > 1 && args.filter.is_empty() {
            export::beginning(&session, path, first_seq, context).await?;
        }
    }
    if beside > 0 && args.file.is_none() {
        let bodies = text::count(beside, "body is", "bodies are");
        context.output.say(format!("! {bodies} too long for a line; --file keeps them beside it"));
    }
    context.output.flush()?;
    Ok(Exit::Ok)
}

fn create(path: &std::path::Path, replace: bool) -> Result<std::fs::File, Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if replace {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path).map_err(|error| {
        let what = format!("cannot write `{}`", path.display());
        let failure = Failure::because(Exit::Usage, &what, &error);
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            failure.hint("add --yes to replace it")
        } else {
            failure
        }
    })
}

async fn tail(args: TailArgs, context: &mut Context) -> Result<Exit, Failure> {
    let start = match &args.since {
        None => Start::Tail(args.lines),
        Some(Since::Seq(seq)) => Start::AfterSeq(*seq),
        Some(Since::Cursor(cursor)) => Start::Cursor(cursor.clone()),
        Some(Since::Ago(_) | Since::Time(_)) => {
            return Err(Failure::usage("--since of a tail is a sequence number or a cursor")
                .hint("`agentctl proof list --since` takes durations and times"));
        }
    };
    let session = context.connect().await?;
    if args.no_follow {
        return last_entries(&args, &session, context).await;
    }
    let request = v1::WatchProofEntriesRequest {
        start: Some(start),
        filter: Some(args.filter.filter()),
        bookmark_interval: None,
    };
    match context.global.timeout {
        None => follow(request, &session, context).await,
        // Following for a while is what was asked for.
        Some(limit) => tokio::time::timeout(limit.0, follow(request, &session, context))
            .await
            .unwrap_or(Ok(Exit::Ok)),
    }
}

async fn last_entries(
    args: &TailArgs,
    session: &Session,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let request = v1::ListProofEntriesRequest {
        page_size: i32::try_from(args.lines).unwrap_or(i32::MAX).clamp(1, 1000),
        page_token: String::new(),
        filter: Some(args.filter.filter()),
        order: v1::ProofOrder::NewestFirst.into(),
        exhaustive: false,
    };
    let answer = session.proof().list_proof_entries(session.unary(request)).await;
    let entries = answer.map_err(|s| session.failure(s))?.into_inner().entries;
    let style = context.output.settings().time;
    for entry in entries.iter().rev() {
        context
            .output
            .emit_item(&EntryView::from(entry), |page| page.line(entry_row(entry, style)))?;
    }
    Ok(Exit::Ok)
}

async fn follow(
    request: v1::WatchProofEntriesRequest,
    session: &Session,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let style = context.output.settings().time;
    let mut watch = session.watch_proof(request);
    let mut link = Link::default();
    loop {
        let response = link.next(&mut watch, session, &mut context.output).await?;
        if let Some(Item::Entry(entry)) = response.item
            && entry.seq > link.seq
        {
            link.seq = entry.seq;
            let view = EntryView::from(&entry);
            context.output.emit_item(&view, |page| page.line(entry_row(&entry, style)))?;
        }
    }
}

fn entry_row(entry: &v1::ProofEntry, style: Option<TimeStyle>) -> String {
    let widths = [7, 8, 12, 28, 24, 12, 0];
    let cells = entry_cells(entry, style);
    let padded = cells.iter().zip(widths).map(|(cell, width)| text::pad(&text::line(cell), width));
    padded.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_aligned_line() {
        let entry = v1::ProofEntry {
            seq: 1077,
            time: Some(prost_types::Timestamp { seconds: 1_795_442_559, nanos: 0 }),
            event: "COOLDOWN_ACTIVE".to_owned(),
            reason: "COOLDOWN_ACTIVE".to_owned(),
            app: "my-api".to_owned(),
            decision_id: "dec-1076".to_owned(),
            hash: "9c41aabbccdd".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            entry_row(&entry, None),
            "#1077    14:02:39  my-api        COOLDOWN_ACTIVE               –                         dec-1076      9c41aabb"
        );
    }

    #[test]
    fn an_export_never_replaces_a_file_by_accident() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.jsonl");
        create(&path, false).unwrap();
        let failure = create(&path, false).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(create(&path, true).is_ok());
    }
}
