//! `agentctl demo`: the whole promise on real processes, in one command that fails if any of it does not hold.
//!
//! It starts the same server as `agentctl up`, talks to it over gRPC like any client, and believes nothing: at the end the
//! log is exported and verified and replayed here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentctl_api::v1;
use clap::Args;

use super::proof::{self, verify};
use super::scenario::{self, StepView};
use super::scratch::{self, Rules, Scratch};
use super::{Context, approval, pieces};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;

pub(super) mod report;

use report::{Check, Played, Report};

/// The rules of the demo: those of stage with every time shortened.
pub(super) const POLICY: &str = include_str!("../../../deploy/policy/demo.toml");

/// The scenarios that are shown, and have to be there; others take longer and are run by name.
const REQUIRED: [&str; 10] = [
    "onboard",
    "crash",
    "overload",
    "false-alarm",
    "signal-conflict",
    "cooldown",
    "repetition",
    "rollback-approval",
    "kill-switch",
    "unsafe-action",
];
/// What is shown with `--fast`: the first so many of them.
const FAST: usize = 4;
/// The one that waits for a human.
const APPROVAL: &str = "rollback-approval";
/// Longest time one scenario may take.
const SCENARIO_MAX: Duration = Duration::from_secs(60);

/// Crash and heal real processes, approve a rollback, and prove all of it
///
/// Starts a server in this process with a temporary data directory, onboards a small app that ships with agentctl, and runs
/// the scenarios against it over gRPC. Then the proof log is verified, exported, and every decision is judged again byte for
/// byte. Needs nothing but this program.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl demo
  agentctl demo --scenario crash -v         one scenario with all its steps
  agentctl demo --keep                      keeps the data directory with the proof log
  agentctl demo -o json | jq .event_counts

Exit codes: 0 every check held, 1 one did not, 10 the proof does not verify.")]
pub struct DemoArgs {
    /// Only these scenarios, see `agentctl scenario list` [default: ten of them]
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Only the first four: onboard, crash, overload, false-alarm
    #[arg(long, conflicts_with = "scenario")]
    fast: bool,
    /// Keep the data directory
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(args: DemoArgs, context: &mut Context) -> Result<Exit, Failure> {
    let started = Instant::now();
    let rules = Rules { policy: POLICY, freeze: true, ..Rules::default() };
    let stage = Scratch::start("agentctl-demo-", &rules, context).await?;
    context.output.page(|page| report::banner(page, &stage.local))?;
    let performed = tokio::select! {
        report = perform(&args, &stage, context) => report,
        () = scratch::interrupted() => Err(Failure::silent(Exit::Interrupted)),
    };
    // Whatever happened: no process of the demo outlives it.
    let directory = stage.close().await?;
    let report = Report { duration: started.elapsed(), ..performed? };
    let kept = if args.keep { Some(directory.keep()) } else { None };
    let view = report.view();
    context.output.emit_item(&view, |page| report.summary_page(page, kept.as_deref()))?;
    Ok(report.exit())
}

async fn perform(
    args: &DemoArgs,
    stage: &Scratch,
    context: &mut Context,
) -> Result<Report, Failure> {
    let known = scenario::list(&stage.operator).await?;
    let wanted = wanted(args, &known)?;
    let total = wanted.len();
    let mut report = Report::default();
    for (index, scenario) in wanted.iter().enumerate() {
        let played = play(scenario, stage, context).await?;
        context.output.page(|page| played.page(page, index + 1, total))?;
        if context.output.format() == crate::output::Format::Jsonl {
            context.output.emit_item(&played.view(), |_| {})?;
        }
        report.played.push(played);
    }
    prove(stage, &mut report).await?;
    Ok(report)
}

/// The scenarios to show, in the order of the server. One that is missing is an error, not a shorter demo.
fn wanted(args: &DemoArgs, known: &[v1::Scenario]) -> Result<Vec<v1::Scenario>, Failure> {
    let needed: Vec<&str> = if args.scenario.is_empty() {
        REQUIRED.iter().copied().take(if args.fast { FAST } else { REQUIRED.len() }).collect()
    } else {
        args.scenario.iter().map(String::as_str).collect()
    };
    for name in &needed {
        if !known.iter().any(|scenario| scenario.name == *name) {
            let have: Vec<_> = known.iter().map(|scenario| scenario.name.as_str()).collect();
            return Err(Failure::new(Exit::NotFound, format!("scenario `{name}` is not known"))
                .hint(format!("there are: {}", have.join(", "))));
        }
    }
    let shown = |scenario: &&v1::Scenario| needed.contains(&scenario.name.as_str());
    Ok(known.iter().filter(shown).cloned().collect())
}

/// Plays one scenario; where a human is needed, the approver is that human.
pub(super) async fn play(
    scenario: &v1::Scenario,
    stage: &Scratch,
    context: &mut Context,
) -> Result<Played, Failure> {
    let started = Instant::now();
    let steps = RefCell::new(Vec::new());
    let approvals = RefCell::new(Vec::new());
    let verbose = context.global.verbose;
    let output = &mut context.output;
    let run = scenario::play(&stage.operator, &scenario.name, "", |step| {
        if verbose {
            output.page(|page| scenario::step_line(page, step))?;
        }
        if step.status() != v1::StepStatus::Running {
            steps.borrow_mut().push(StepView::new(&scenario.name, step));
        }
        Ok(())
    });
    let summary = tokio::select! {
        ended = run => ended?,
        failure = answer_for_the_human(&scenario.name, stage, &approvals) => return Err(failure),
        () = tokio::time::sleep(SCENARIO_MAX) => {
            let what = format!("`{}` did not end within {}s", scenario.name, SCENARIO_MAX.as_secs());
            return Err(Failure::new(Exit::TimedOut, what));
        }
    };
    let steps = steps.into_inner();
    let decision = match steps.iter().rev().find_map(StepView::decision) {
        Some(id) => Some(decision(&stage.operator, id).await?),
        None => None,
    };
    Ok(Played {
        name: scenario.name.clone(),
        title: scenario.summary.clone(),
        passed: summary.passed && summary.passed_steps == summary.total_steps,
        steps,
        approvals: approvals.into_inner(),
        action: decision.as_ref().map(shown_action),
        gates: decision.as_ref().map(|d| pieces::gate_strip(&d.verdicts)),
        elapsed: started.elapsed(),
    })
}

/// What stands after the ruling: a refused action became another one.
fn shown_action(decision: &v1::Decision) -> String {
    match decision.ruling() {
        v1::Ruling::Refused => pieces::action(&decision.effective_action),
        _ => pieces::action(&decision.action),
    }
}

pub(super) async fn decision(session: &Session, id: &str) -> Result<v1::Decision, Failure> {
    let request = session.unary(v1::GetDecisionRequest { decision_id: id.to_owned() });
    let answer = session.decisions().get_decision(request).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().decision.unwrap_or_default())
}

/// Approves what waits, as a second principal who looked at the plan. Only returns if that fails.
async fn answer_for_the_human(
    scenario: &str,
    stage: &Scratch,
    approvals: &RefCell<Vec<String>>,
) -> Failure {
    if scenario != APPROVAL {
        return std::future::pending().await;
    }
    let mut every = tokio::time::interval(Duration::from_millis(20));
    loop {
        every.tick().await;
        let waiting =
            match approval::pending(&stage.approver, v1::ApprovalFilter::default(), 10).await {
                Ok(waiting) => waiting,
                Err(failure) => return failure,
            };
        for approval in waiting {
            let plan = approval.plan.clone().unwrap_or_default();
            let request = v1::ApproveActionRequest {
                approval_id: approval.id.clone(),
                plan_digest: plan.digest.clone(),
                reason: "the demo's second principal has read the plan".to_owned(),
                request_id: super::request_id(),
            };
            let request = stage.approver.unary(request);
            match stage.approver.approvals().approve_action(request).await {
                Ok(answer) => {
                    let by = answer.into_inner().approval.unwrap_or_default().decided_by;
                    approvals.borrow_mut().push(format!(
                        "{}  {} {}  ✔ approved by {by}, who did not ask for it",
                        approval.id,
                        pieces::action(&plan.action),
                        pieces::from_to(Some(&plan))
                    ));
                }
                // The plan changed while it was read: the new one waits under another id.
                Err(status) if status.code() == tonic::Code::Aborted => {}
                Err(status) => return stage.approver.failure(status),
            }
        }
    }
}

/// Verifies the log through the server, exports it, and verifies and replays the export here.
async fn prove(stage: &Scratch, report: &mut Report) -> Result<(), Failure> {
    let session = &stage.operator;
    let request =
        session.unary(v1::VerifyProofRequest { recheck_decisions: true, ..Default::default() });
    let answer = session.proof().verify_proof(request).await.map_err(|s| session.failure(s))?;
    let answer = answer.into_inner();
    let lines = proof::download(session, 1, answer.last_seq, None).await?;
    report.event_counts = event_counts(&lines);
    let own = verify::verify_lines(&mut lines.as_slice(), true)?;
    let served = verify::from_server(&answer, true);
    report.checks = vec![
        Check::new("the server's hash chain is sound", served.valid),
        Check::new(
            "the export's hash chain is sound, from the first entry on",
            own.valid && own.first_seq == 1,
        ),
        Check::new(
            "both end in the same hash",
            own.head_hash == served.head_hash && own.last_seq == served.last_seq,
        ),
        Check::new(
            "every decision comes out the same again, byte for byte",
            own.decisions_different == Some(0) && own.decisions_rechecked.is_some_and(|n| n > 0),
        ),
    ];
    report.own = own;
    Ok(())
}

pub(super) fn event_counts(lines: &[u8]) -> BTreeMap<String, u64> {
    #[derive(serde::Deserialize)]
    struct Named {
        event_name: String,
    }
    let mut counts = BTreeMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        if let Ok(Named { event_name }) = serde_json::from_slice(line) {
            *counts.entry(event_name).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str]) -> Vec<v1::Scenario> {
        let scenario =
            |name: &&str| v1::Scenario { name: (*name).to_owned(), ..Default::default() };
        names.iter().map(scenario).collect()
    }

    fn args(scenario: &[&str], fast: bool) -> DemoArgs {
        let scenario = scenario.iter().map(|name| (*name).to_owned()).collect();
        DemoArgs { scenario, fast, keep: false }
    }

    #[test]
    fn what_is_shown_comes_in_the_order_of_the_server_and_the_rest_is_run_by_name() {
        let mut names = REQUIRED.to_vec();
        names.reverse();
        let mut there = names.clone();
        there.push("storm");
        let all = wanted(&args(&[], false), &known(&there)).unwrap();
        assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(wanted(&args(&["storm"], false), &known(&there)).unwrap().len(), 1);
        assert_eq!(wanted(&args(&[], true), &known(&names)).unwrap().len(), FAST);
    }

    #[test]
    fn the_rules_of_the_demo_are_those_of_stage_but_for_the_times() {
        use agentd_core::app::Env;
        use agentd_core::policy::Policy;
        let policy: Policy = toml::from_str(POLICY).unwrap();
        assert_eq!(policy.lint_for_demo(), []);
        let stage = Policy::default_for(Env::Stage);
        assert_eq!(policy.levels, stage.levels);
        assert_eq!(policy.confidence, stage.confidence);
        assert_eq!(policy.thresholds, stage.thresholds);
        assert_eq!(policy.repetition.limit, stage.repetition.limit);
        assert_eq!(policy.memory.failures, stage.memory.failures);
        assert_eq!(policy.budget.per_app_permille, stage.budget.per_app_permille);
        assert_eq!(policy.learning, stage.learning);
    }

    #[test]
    fn a_scenario_the_server_lacks_fails_the_demo() {
        let failure = wanted(&args(&[], false), &known(&["crash"])).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(wanted(&args(&["crash"], false), &known(&["crash"])).is_ok());
    }

    #[test]
    fn events_are_counted_by_name() {
        let lines = b"{\"event_name\":\"A\"}\n{\"event_name\":\"B\"}\n{\"event_name\":\"A\"}\n";
        assert_eq!(event_counts(lines), BTreeMap::from([("A".to_owned(), 2), ("B".to_owned(), 1)]));
    }
}
