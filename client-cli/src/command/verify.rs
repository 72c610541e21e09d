//! `agentctl verify`: each promise is tried out on a scratch server with real processes, and the first lie fails the command.
//!
//! The server is the one `agentctl up` runs, spoken to over gRPC like by any client; the failures are the scenarios of that
//! server. Nothing here decides anything: it asks, and compares the answer with what was promised.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::demo;
use super::scratch::{self, Rules, Scratch};
use super::{Context, scenario};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time;

mod apps;
mod determinism;
mod governance;
mod modes;
mod proof;

/// Try out what is promised, on a scratch server with real processes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl verify all
  agentctl verify governance
  agentctl verify governance --policy stage.toml    do these rules still block?

Nothing that runs on this host is touched: the server, its log and its apps are made for it, in a
temporary directory, and end with the command.

Exit codes: 0 every promise was kept, 1 one was not, 10 the proof does not verify.")]
pub struct VerifyArgs {
    #[command(subcommand)]
    command: VerifyCommand,
}

#[derive(Debug, Subcommand)]
enum VerifyCommand {
    /// Each rule of self-restraint blocks: cooldown, repetition, conflict, low confidence, and the rest
    #[command(after_help = "\
Examples:
  agentctl verify governance
  agentctl verify governance -o json | jq '.[] | select(.held | not)'
  agentctl verify governance --policy stage.toml

Exit codes: 0 every rule blocks, 1 one does not.")]
    Governance(PolicyArgs),
    /// Demo mode: a direct request is blocked, a safe action runs, everything else is refused
    #[command(after_help = "\
Examples:
  agentctl verify demo

Exit codes: 0 every promise was kept, 1 one was not.")]
    Demo,
    /// Freeze: the agent goes on healing and learns nothing
    #[command(after_help = "\
Examples:
  agentctl verify freeze

Exit codes: 0 every promise was kept, 1 one was not.")]
    Freeze,
    /// The same failures lead to the same decisions, on two servers, byte for byte
    #[command(after_help = "\
Examples:
  agentctl verify determinism

Exit codes: 0 they do, 1 they do not.")]
    Determinism,
    /// The proof log verifies, and a changed byte, a missing and an exchanged line are noticed
    #[command(after_help = "\
Examples:
  agentctl verify proof

Exit codes: 0 it does, 10 it does not.")]
    Proof,
    /// All of them
    #[command(after_help = "\
Examples:
  agentctl verify all
  agentctl verify all -o jsonl

Exit codes: 0 every promise was kept, 1 one was not, 10 the proof does not verify.")]
    All(PolicyArgs),
}

#[derive(Debug, Args)]
struct PolicyArgs {
    /// Policy of stage to try out [default: that of stage with short times]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// A group of promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Suite {
    Governance,
    Demo,
    Freeze,
    Determinism,
    Proof,
}

impl Suite {
    const fn name(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Demo => "demo",
            Self::Freeze => "freeze",
            Self::Determinism => "determinism",
            Self::Proof => "proof",
        }
    }
}

/// One promise and what became of it.
#[derive(Debug, Clone, Serialize)]
struct Promise {
    suite: Suite,
    check: String,
    expected: String,
    got: String,
    held: bool,
    elapsed_seconds: f64,
}

/// The promises of one suite as they are tried out.
#[derive(Debug)]
struct Trial {
    suite: Suite,
    promises: Vec<Promise>,
    began: Instant,
}

impl Trial {
    fn new(suite: Suite) -> Self {
        Self { suite, promises: Vec::new(), began: Instant::now() }
    }

    /// Writes down what became of one promise.
    fn found(&mut self, check: &str, expected: &str, got: impl Into<String>, held: bool) {
        let elapsed = std::mem::replace(&mut self.began, Instant::now()).elapsed();
        self.promises.push(Promise {
            suite: self.suite,
            check: check.to_owned(),
            expected: expected.to_owned(),
            got: got.into(),
            held,
            elapsed_seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        });
    }

    /// Plays a scenario of the server and writes down whether every step went as expected.
    async fn rehearse(
        &mut self,
        name: &str,
        check: &str,
        stage: &Scratch,
        context: &mut Context,
    ) -> Result<demo::report::Played, Failure> {
        let known = scenario::list(&stage.operator).await?;
        let Some(found) = known.into_iter().find(|scenario| scenario.name == name) else {
            return Err(Failure::new(Exit::NotFound, format!("scenario `{name}` is not known")));
        };
        let expected = found.summary.clone();
        let played = demo::play(&found, stage, context).await?;
        let got = played.complaint().unwrap_or_else(|| played.result());
        self.found(check, &expected, got, played.passed);
        Ok(played)
    }
}

pub(super) async fn run(args: VerifyArgs, context: &mut Context) -> Result<Exit, Failure> {
    let promises = perform(args.command, context).await?;
    let lies = promises.iter().filter(|promise| !promise.held).count();
    if context.output.format() == crate::output::Format::Jsonl {
        // They were written as they came.
        return Ok(exit(&promises));
    }
    context.output.emit_list(&promises, |page| summary(page, promises.len(), lies))?;
    Ok(exit(&promises))
}

async fn perform(command: VerifyCommand, context: &mut Context) -> Result<Vec<Promise>, Failure> {
    let (suites, policy): (&[Suite], _) = match command {
        VerifyCommand::Governance(args) => (&[Suite::Governance], args.policy),
        VerifyCommand::Demo => (&[Suite::Demo], None),
        VerifyCommand::Freeze => (&[Suite::Freeze], None),
        VerifyCommand::Determinism => (&[Suite::Determinism], None),
        VerifyCommand::Proof => (&[Suite::Proof], None),
        VerifyCommand::All(args) => (
            &[Suite::Governance, Suite::Demo, Suite::Freeze, Suite::Determinism, Suite::Proof],
            args.policy,
        ),
    };
    let policy = match policy {
        Some(path) => std::fs::read_to_string(&path).map_err(|error| {
            let what = format!("cannot read policy `{}`", path.display());
            Failure::because(Exit::Usage, &what, &error)
        })?,
        None => demo::POLICY.to_owned(),
    };
    let mut promises = Vec::new();
    for suite in suites {
        let kept = match suite {
            Suite::Governance => governance::run(&policy, context).await?,
            Suite::Demo => modes::demo(context).await?,
            Suite::Freeze => modes::freeze(context).await?,
            Suite::Determinism => determinism::run(context).await?,
            Suite::Proof => proof::run(context).await?,
        };
        show(&kept.promises, context)?;
        promises.extend(kept.promises);
        if promises.iter().any(|promise| !promise.held) {
            // The first lie ends it: what follows would be built on it.
            break;
        }
    }
    Ok(promises)
}

/// A proof that fails counts more than anything else.
fn exit(promises: &[Promise]) -> Exit {
    let lies = || promises.iter().filter(|promise| !promise.held);
    match (lies().any(|promise| promise.suite == Suite::Proof), lies().count()) {
        _ if promises.is_empty() => Exit::Failure,
        (true, _) => Exit::ProofFailed,
        (false, 0) => Exit::Ok,
        (false, _) => Exit::Failure,
    }
}

fn show(promises: &[Promise], context: &mut Context) -> Result<(), Failure> {
    if context.output.format() == crate::output::Format::Jsonl {
        for promise in promises {
            context.output.emit_item(promise, |_| {})?;
        }
        return Ok(());
    }
    let columns = context.output.columns();
    context.output.page(|page| {
        let mut table = Table::new(&["SUITE", "CHECK", "RESULT", "FOUND", "TOOK"]).fit(columns);
        for promise in promises {
            let took = Duration::from_secs_f64(promise.elapsed_seconds);
            table.row([
                promise.suite.name(),
                &promise.check,
                if promise.held { "✔ kept" } else { "✖ broken" },
                &promise.got,
                &time::precise(took),
            ]);
        }
        page.table(&table);
        for promise in promises.iter().filter(|promise| !promise.held) {
            page.line(format!("  ✖ {}: expected {}", promise.check, promise.expected));
        }
        page.blank();
    })
}

fn summary(page: &mut Page, total: usize, lies: usize) {
    if lies == 0 {
        page.line(format!("✔ {total} promises, all kept"));
    } else {
        page.line(format!("✖ {lies} of {total} promises broken"));
    }
}

/// Runs `work` on a scratch server that is closed whatever becomes of it.
async fn on_scratch<T>(
    rules: Rules<'_>,
    context: &mut Context,
    work: impl AsyncFnOnce(&Scratch, &mut Context) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let stage = Scratch::start("agentctl-verify-", &rules, context).await?;
    let done = tokio::select! {
        done = work(&stage, context) => done,
        () = scratch::interrupted() => Err(Failure::silent(Exit::Interrupted)),
    };
    // Whatever happened: no process of it outlives the command.
    stage.close().await?;
    done
}

/// The answer to a request for an action.
async fn ask(stage: &Scratch, app: &str, action: &str) -> Result<v1::Decision, Failure> {
    let session = &stage.operator;
    let request = v1::ProposeActionRequest {
        request_id: super::request_id(),
        validate_only: false,
        app: app.to_owned(),
        action: action.to_owned(),
        parameters: std::collections::BTreeMap::new(),
        reason: "agentctl verify asks for it".to_owned(),
    };
    let answer = session.decisions().propose_action(session.unary(request)).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().decision.unwrap_or_default())
}

/// Whether a decision was not carried out for this reason, and what it says.
fn blocked(decision: &v1::Decision, reason: &str) -> (String, bool) {
    let ruling = crate::view::ruling(decision.ruling);
    let by = decision.blocked_by.join(" ");
    let held = decision.ruling() != v1::Ruling::Permitted
        && decision.blocked_by.iter().any(|code| code == reason);
    (format!("{} {ruling} {by}", decision.id), held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(suite: Suite, held: bool) -> Promise {
        let mut trial = Trial::new(suite);
        trial.found("cooldown", "COOLDOWN_ACTIVE", "dec-1 permitted", held);
        trial.promises.remove(0)
    }

    #[test]
    fn one_lie_fails_and_a_broken_proof_counts_most() {
        let kept = promise(Suite::Governance, true);
        assert_eq!(exit(std::slice::from_ref(&kept)), Exit::Ok);
        assert_eq!(exit(&[kept, promise(Suite::Demo, false)]), Exit::Failure);
        let broken = promise(Suite::Proof, false);
        assert_eq!(exit(&[promise(Suite::Demo, false), broken]), Exit::ProofFailed);
        assert_eq!(exit(&[]), Exit::Failure, "nothing tried is nothing kept");
    }

    #[test]
    fn what_was_permitted_was_not_blocked() {
        let decision = |ruling: v1::Ruling, by: &str| v1::Decision {
            ruling: ruling.into(),
            blocked_by: vec![by.to_owned()],
            ..v1::Decision::default()
        };
        assert!(blocked(&decision(v1::Ruling::Refused, "PROTECTED"), "PROTECTED").1);
        assert!(!blocked(&decision(v1::Ruling::Refused, "PAUSED"), "PROTECTED").1);
        assert!(!blocked(&decision(v1::Ruling::Permitted, "PROTECTED"), "PROTECTED").1);
    }
}
