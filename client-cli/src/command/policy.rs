//! `agentctl policy`: the rules in force, and what other rules would do.

use std::path::{Path, PathBuf};

use agentctl_api::v1;
use clap::{Args, Subcommand};
use v1::simulate_policy_request::Which;

use super::follow::Since;
use super::{Context, flags, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time;
use crate::view::agent::{PolicyChangeView, PolicyFaultView, PolicyView, SimulationView};

/// Show, check, change and try the human's rules
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl policy get > stage.toml
  agentctl policy validate stage.toml
  agentctl policy apply stage.toml --reason \"shorter cooldown, INC-481\"
  agentctl policy simulate dec-1077 --set cooldown.base_ms.RESTART=25000")]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Print the policy in force, ready to be edited
    #[command(after_help = "\
Examples:
  agentctl policy get
  agentctl policy get > stage.toml           then: agentctl policy apply stage.toml
  agentctl policy get -o json | jq -r .digest")]
    Get,
    /// Tell everything that is wrong with a policy; nothing is changed
    #[command(after_help = "\
Examples:
  agentctl policy validate stage.toml
  agentctl policy validate stage.toml --offline     without a server

Exit codes: 0 it can be applied, 2 it cannot.")]
    Validate(ValidateArgs),
    /// Show in what a policy differs from the one in force
    #[command(after_help = "\
Examples:
  agentctl policy diff stage.toml
  agentctl policy diff stage.toml --exit-code

Exit codes: 0, with --exit-code 1 if they differ.")]
    Diff(DiffArgs),
    /// Put a policy in force
    #[command(after_help = "\
Examples:
  agentctl policy apply stage.toml --reason \"shorter cooldown, INC-481\"
  agentctl policy get | agentctl policy apply - --reason drill --yes --dry-run

What waits for an approval was planned under the old rules: it is superseded and asked anew.")]
    Apply(ApplyArgs),
    /// Judge recorded decisions again under other rules, and tell which would differ; touches nothing
    #[command(after_help = "\
Examples:
  agentctl policy simulate dec-1077 --set cooldown.base_ms.RESTART=25000
  agentctl policy simulate --since 7d --policy stage.toml
  agentctl policy simulate --app my-api --set repetition.limit=5 -o jsonl")]
    Simulate(SimulateArgs),
}

#[derive(Debug, Args)]
struct ValidateArgs {
    /// File in TOML or JSON, `-` for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check it here, for the environment it names itself
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, Args)]
struct DiffArgs {
    /// File in TOML or JSON, `-` for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// End with 1 if there are differences
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    /// File in TOML or JSON, `-` for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Why; goes into the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Digest of the policy it is to replace; fails if another one is in force [default: the one it is compared with]
    #[arg(long, value_name = "DIGEST")]
    replaces: Option<String>,
    /// Only check it and show what would change
    #[arg(long)]
    dry_run: bool,
    /// UUID: the same one again returns the first answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

#[derive(Debug, Args)]
struct SimulateArgs {
    /// One decision (dec-…) [default: the newest]
    #[arg(value_name = "DECISION", conflicts_with_all = ["since", "app"])]
    decision: Option<String>,
    /// Change a setting, by its path
    #[arg(long, value_name = "PATH=VALUE", value_parser = flags::pair, required_unless_present = "policy")]
    set: Vec<(String, String)>,
    /// Judge under this policy [default: the one each decision was made under]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Decisions from then on: a duration such as 7d, or an RFC 3339 time
    #[arg(long, value_name = "START")]
    since: Option<Since>,
    /// Only decisions about these apps
    #[arg(long, value_name = "APP")]
    app: Vec<String>,
    /// At most so many decisions, newest first
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    limit: i32,
}

pub(super) async fn run(args: PolicyArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        PolicyCommand::Get => get(context).await,
        PolicyCommand::Validate(args) if args.offline => offline(&args.file, context),
        PolicyCommand::Validate(args) => validate(&args.file, context).await,
        PolicyCommand::Diff(args) => diff(&args, context).await,
        PolicyCommand::Apply(args) => apply(args, context).await,
        PolicyCommand::Simulate(args) => simulate(args, context).await,
    }
}

async fn get(context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let answer = session.agent().get_policy(session.unary(v1::GetPolicyRequest {})).await;
    let policy = answer.map_err(|s| session.failure(s))?.into_inner();
    context.output.say(format!("policy {} from {}", policy.digest, policy.origin));
    context.output.emit(&PolicyView::from(&policy), |page| page.block(&policy.text))?;
    Ok(Exit::Ok)
}

/// Largest policy that is sent.
const FILE_MAX: u64 = 256 << 10;

pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let read = if path.as_os_str() == "-" {
        read_limited(std::io::stdin())
    } else {
        std::fs::File::open(path).and_then(read_limited)
    };
    read.map_err(|error| {
        Failure::because(Exit::Usage, &format!("cannot read `{}`", path.display()), &error)
    })
}

fn read_limited(from: impl std::io::Read) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    from.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

async fn judged(
    session: &crate::connect::Session,
    text: String,
) -> Result<v1::ValidatePolicyResponse, Failure> {
    let request = session.unary(v1::ValidatePolicyRequest { text });
    let answer = session.policy().validate_policy(request).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner())
}

fn change_view(answer: &v1::ValidatePolicyResponse) -> PolicyChangeView {
    PolicyChangeView {
        digest: answer.digest.clone(),
        previous_digest: answer.digest_in_force.clone(),
        seq: None,
        faults: answer.faults.iter().map(Into::into).collect(),
        differences: answer.differences.iter().map(Into::into).collect(),
    }
}

async fn validate(file: &Path, context: &mut Context) -> Result<Exit, Failure> {
    let text = read(file)?;
    let session = context.connect().await?;
    let answer = judged(&session, text).await?;
    told(&change_view(&answer), context)
}

fn offline(file: &Path, context: &mut Context) -> Result<Exit, Failure> {
    let (digest, faults) = crate::server::check_policy(&read(file)?);
    told(&PolicyChangeView { digest, faults, ..PolicyChangeView::default() }, context)
}

fn told(view: &PolicyChangeView, context: &mut Context) -> Result<Exit, Failure> {
    let valid = view.faults.is_empty();
    context.output.emit(view, |page| {
        if valid {
            page.line(format!("✔ VALID   {}", view.digest));
        } else {
            faults_page(page, &view.faults);
        }
    })?;
    Ok(if valid { Exit::Ok } else { Exit::Usage })
}

fn faults_page(page: &mut Page, faults: &[PolicyFaultView]) {
    page.line(format!("✖ INVALID   {} to mend", faults.len()));
    let mut table = Table::new(&["SETTING", "VALUE", "RULE", "WHAT TO DO"]);
    for fault in faults {
        table.row([&fault.field, &fault.value, &fault.rule, &fault.fix]);
    }
    page.table(&table);
}

fn differences_page(page: &mut Page, view: &PolicyChangeView) {
    if view.differences.is_empty() {
        page.line("○ nothing differs");
        return;
    }
    let mut table = Table::new(&["SETTING", "IN FORCE", "IN THE FILE"]);
    let shown =
        |value: &str| if value.is_empty() { pieces::NONE.to_owned() } else { value.to_owned() };
    for d in &view.differences {
        table.row([d.setting.clone(), shown(&d.from_value), shown(&d.to_value)]);
    }
    page.table(&table);
}

async fn diff(args: &DiffArgs, context: &mut Context) -> Result<Exit, Failure> {
    let text = read(&args.file)?;
    let session = context.connect().await?;
    let answer = judged(&session, text).await?;
    let view = change_view(&answer);
    if answer.digest.is_empty() {
        return told(&view, context);
    }
    let differs = !view.differences.is_empty();
    context.output.emit(&view, |page| differences_page(page, &view))?;
    Ok(if differs && args.exit_code { Exit::Failure } else { Exit::Ok })
}

async fn apply(args: ApplyArgs, context: &mut Context) -> Result<Exit, Failure> {
    let text = read(&args.file)?;
    let session = context.connect().await?;
    let answer = judged(&session, text.clone()).await?;
    let view = change_view(&answer);
    if !view.faults.is_empty() {
        return told(&view, context);
    }
    if args.dry_run {
        context.output.emit(&view, |page| differences_page(page, &view))?;
        return Ok(Exit::Ok);
    }
    if !context.global.yes && !view.differences.is_empty() {
        context.output.note(|page| differences_page(page, &view));
        context.confirm("put this policy in force?", "--yes")?;
    }
    let request = v1::ApplyPolicyRequest {
        request_id: args.request_id.unwrap_or_else(super::request_id),
        validate_only: false,
        text,
        reason: args.reason,
        // What was shown is what is replaced.
        expected_digest: args.replaces.unwrap_or(answer.digest_in_force),
    };
    let answer = session.policy().apply_policy(session.unary(request)).await;
    let applied = answer.map_err(|s| session.failure(s))?.into_inner();
    let view = PolicyChangeView {
        digest: applied.digest.clone(),
        previous_digest: applied.previous_digest.clone(),
        seq: (applied.seq != 0).then_some(applied.seq),
        faults: Vec::new(),
        differences: applied.differences.iter().map(Into::into).collect(),
    };
    context.output.emit(&view, |page| match applied.seq {
        0 => page.line(format!("○ UNCHANGED   {} is in force already", applied.digest)),
        seq => {
            page.line(format!("✔ IN FORCE   {}   proof #{seq}", applied.digest));
            differences_page(page, &view);
        }
    })?;
    Ok(Exit::Ok)
}

async fn simulate(args: SimulateArgs, context: &mut Context) -> Result<Exit, Failure> {
    let text = args.policy.as_deref().map(read).transpose()?.unwrap_or_default();
    let start =
        match &args.since {
            None => None,
            Some(since) => Some(since.start_time().ok_or_else(|| {
                Failure::usage("--since of a simulation is a duration or a time")
            })?),
        };
    let which = match (args.decision, start) {
        (Some(id), _) => Some(Which::DecisionId(id)),
        (None, Some(start)) => Some(Which::StartTime(start)),
        (None, None) => None,
    };
    let session = context.connect().await?;
    let request = v1::SimulatePolicyRequest {
        which,
        apps: args.app,
        text,
        settings: args.set.into_iter().collect(),
        limit: args.limit,
    };
    let answer = session.policy().simulate_policy(session.unary(request)).await;
    let answer = answer.map_err(|s| session.failure(s))?.into_inner();
    let view = SimulationView {
        judged: answer.judged,
        skipped: answer.skipped,
        truncated: answer.truncated,
        differences: answer.differences.iter().map(Into::into).collect(),
        faults: answer.faults.iter().map(Into::into).collect(),
    };
    let style = context.output.settings().time;
    context.output.emit(&view, |page| simulation_page(page, &view, &answer, style))?;
    Ok(Exit::Ok)
}

fn simulation_page(
    page: &mut Page,
    view: &SimulationView,
    answer: &v1::SimulatePolicyResponse,
    style: Option<time::TimeStyle>,
) {
    let now = time::now();
    if view.differences.is_empty() {
        page.line("○ nothing would differ");
    } else {
        let mut table = Table::new(&["TIME UTC", "APP", "DECISION", "WAS", "WOULD BE", "GATES"]);
        for (d, wire) in view.differences.iter().zip(&answer.differences) {
            table.row([
                pieces::row_time(wire.time.as_ref(), style, now),
                d.app.clone(),
                d.decision_id.clone(),
                outcome(&d.action, &d.ruling, &d.reason),
                outcome(&d.new_action, &d.new_ruling, &d.new_reason),
                d.gates.join(" "),
            ]);
        }
        page.table(&table);
    }
    let older = if view.truncated { ", there are older ones" } else { "" };
    page.line(format!(
        "{} judged again, {} would differ{older}; nothing was touched",
        view.judged,
        view.differences.len()
    ));
    if view.skipped > 0 {
        page.line(format!(
            "! {} could not be judged: their policy is not in the log",
            view.skipped
        ));
    }
    if !view.faults.is_empty() {
        page.line("! such a policy could not be applied:");
        faults_page(page, &view.faults);
    }
}

fn outcome(action: &str, ruling: &str, reason: &str) -> String {
    match reason {
        "EXECUTION_GATE_PASSED" => format!("{} {ruling}", pieces::action(action)),
        reason => format!("{} {ruling} {reason}", pieces::action(action)),
    }
}
