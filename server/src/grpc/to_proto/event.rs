//! Records that are not decisions, in short; and entries of the proof log as they are.

use agentctl_api::v1;
use agentd_core::explain;
use agentd_core::graduation::Demoted;
use agentd_core::record::{Author, Body, Heartbeat, LearningChange, Observation, Record};
use agentd_core::state::{Approval, Health, Pause, Scope};

use super::timestamp;
use crate::grpc::ids;
use crate::publish::Published;

/// A record in short.
#[must_use]
pub fn event(record: &Record) -> v1::EventSummary {
    v1::EventSummary {
        seq: record.seq,
        time: Some(timestamp(record.at)),
        event: record.body.event_name().to_owned(),
        app: record.app.as_ref().map(ToString::to_string).unwrap_or_default(),
        decision_id: record.decision_seq().map(ids::decision).unwrap_or_default(),
        reason: record.reason().unwrap_or_default().to_owned(),
        summary: sentence(record),
    }
}

/// An entry of the proof log: the exact line, and what is needed to read it.
#[must_use]
pub fn proof_entry(published: &Published) -> v1::ProofEntry {
    let record = &published.record;
    v1::ProofEntry {
        seq: record.seq,
        raw: published.line.to_vec(),
        time: Some(timestamp(record.at)),
        event: record.body.event_name().to_owned(),
        app: record.app.as_ref().map(ToString::to_string).unwrap_or_default(),
        hash: published.hash.to_string(),
        reason: record.reason().unwrap_or_default().to_owned(),
        decision_id: record.decision_seq().map(ids::decision).unwrap_or_default(),
    }
}

/// A record in one sentence.
#[must_use]
pub fn sentence(record: &Record) -> String {
    match &record.body {
        Body::Decided(decided) => explain::headline(decided),
        body => life_cycle(body)
            .or_else(|| effect(body))
            .or_else(|| human(record))
            .unwrap_or_else(|| body.event_name().to_ascii_lowercase().replace('_', " ")),
    }
}

/// The agent, the log and the apps.
fn life_cycle(body: &Body) -> Option<String> {
    Some(match body {
        Body::Started(started) => {
            format!("{} started, version {}", started.agent_id, started.version)
        }
        Body::Stopped(stopped) => {
            format!("stopped after {} turns and {} decisions", stopped.loops, stopped.decisions)
        }
        Body::LogRecovered { bytes_cut } => {
            format!("a torn tail of {bytes_cut} bytes was cut from the log")
        }
        Body::KeyRotated { to, .. } => {
            format!("the log is signed by another key from here on: {to}")
        }
        Body::Snapshotted(kept) => {
            format!("the state after entry {} is kept beside the log", kept.upto)
        }
        Body::Exported(export) => format!("an export has the entries up to {}", export.size),
        Body::Pruned(pruned) => format!(
            "the entries up to {} are no longer kept here; an export has those up to {}",
            pruned.upto, pruned.exported
        ),
        Body::PolicyApplied { digest, author, reason, .. } => {
            let who = match author {
                Author::File => String::new(),
                Author::Principal(name) => format!(", by {name}"),
            };
            let why = reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("policy {digest} is in force{who}{why}")
        }
        Body::Offboarded { revision, .. } => {
            format!("the app is let go at revision {revision}, its name is free")
        }
        Body::OnboardingStarted { name } => format!("onboarding of `{name}` was asked for"),
        Body::OnboardingPassed => "every field is valid".to_owned(),
        Body::OnboardingRefused { violations } => {
            format!("onboarding refused with {} violations", violations.len())
        }
        Body::SpecGenerated { revision, .. } => format!("specification {revision} is on record"),
        Body::DeploymentTriggered { revision } => format!("revision {revision} is deployed"),
        Body::Observed { slot, what } => format!("instance {slot} {}", observation(what)),
        Body::HealthChanged { health } => format!("health is {}", health_name(*health)),
        Body::Raised(finding) => explain::finding(finding),
        Body::Cleared { kind } => format!("{} is over", kind.as_str()),
        Body::Heartbeat(heartbeat) => alive(heartbeat),
        Body::Transition { path } => path.join(" -> "),
        Body::SignalsExpired { metrics } => {
            let names: Vec<&str> = metrics.keys().map(|metric| metric.as_str()).collect();
            format!("nothing is known any more of {}", names.join(", "))
        }
        Body::StormBegan { unhealthy, apps } => {
            format!("storm: {unhealthy} of {apps} apps are unhealthy")
        }
        Body::StormCalm { calm: true } => "the storm calms down".to_owned(),
        Body::StormCalm { calm: false } => "the storm picks up again".to_owned(),
        Body::StormEnded => "the storm is over".to_owned(),
        Body::Injected { scenario, what } => format!("scenario {scenario}: {what}"),
        _ => return None,
    })
}

/// What follows a decision.
fn effect(body: &Body) -> Option<String> {
    Some(match body {
        Body::Consumed { findings } if findings.is_empty() => "a reading was taken in".to_owned(),
        Body::Consumed { findings } => {
            let kinds: Vec<&str> = findings.iter().map(|kind| kind.as_str()).collect();
            format!("a reading with {} was taken in", kinds.join(", "))
        }
        Body::IntakeValidated => "the proposal comes from where proposals may come from".to_owned(),
        Body::GatesPassed { gates } => format!("all {gates} gates pass"),
        Body::Blocked { message, .. }
        | Body::Escalated { message, .. }
        | Body::Demoted(Demoted { message, .. }) => message.clone(),
        Body::Refused { action, reason, instead } => {
            format!("{action} refused ({reason}), {instead} instead")
        }
        Body::RefusalEmitted => "the refusal was published".to_owned(),
        Body::Attempted(attempt) => {
            format!("{} of {} starts", attempt.plan.action, attempt.plan.app)
        }
        Body::Autonomous { action } => format!("{action} runs without a human"),
        Body::Delivered { ok: true, detail, .. } => format!("carried out: {detail}"),
        Body::Delivered { ok: false, detail, .. } => format!("not carried out: {detail}"),
        Body::Indeterminate { decision } => format!(
            "what became of {} is not known; it is observed and not repeated",
            ids::attempt(*decision)
        ),
        Body::Concluded(concluded) => format!("{}: {}", concluded.action, concluded.detail),
        Body::Learned { lesson, before, after, .. } => format!(
            "{} for {}: value {:.3} -> {:.3}",
            lesson.action,
            lesson.finding.as_str(),
            super::natural(before.q_micro),
            super::natural(after.q_micro)
        ),
        Body::LearningSkipped { why, .. } => format!("nothing learned: {why}"),
        Body::Repeated { decision, count } => {
            format!("{} came out the same {count} more times", ids::decision(*decision))
        }
        _ => return None,
    })
}

/// What a human asked for or answered.
fn human(record: &Record) -> Option<String> {
    let actor = &record.actor;
    Some(match &record.body {
        Body::Answered { request } => format!("request {} was answered", request.id),
        Body::ApprovalRequested(approval) => asked(approval),
        Body::ApprovalAnswered { approval, state, comment, .. } => {
            let verb = verb(*state);
            format!("{actor} {verb} {}: {comment}", ids::approval(*approval))
        }
        Body::ApprovalEnded { approval, state } => {
            format!("{} is {}", ids::approval(*approval), verb(*state))
        }
        Body::LearningChanged(change) => learning(change, actor),
        Body::PauseSet { pause, .. } => paused(pause),
        Body::PauseLifted { scope, reason, .. } => {
            format!("{} resumed by {actor}: {reason}", scope_name(scope))
        }
        Body::FreezeSet { frozen: true, reason, .. } => {
            format!("learning frozen by {actor}: {reason}")
        }
        Body::FreezeSet { frozen: false, reason, .. } => {
            format!("learning unfrozen by {actor}: {reason}")
        }
        _ => return None,
    })
}

fn learning(change: &LearningChange, actor: &str) -> String {
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    match change {
        LearningChange::Imported(imported) => {
            let (what, from) = (short(&imported.snapshot), imported.from);
            let how = if imported.weak_prior { " as a weak prior" } else { "" };
            let into = if imported.candidate { ", for the candidate" } else { "" };
            format!("{actor} brought {what}, learned in {from}{how}{into}: {}", imported.reason)
        }
        LearningChange::Forgotten(forgotten) => {
            let what = if forgotten.acting { "what was learned" } else { "the candidate" };
            format!("{actor} had {what} forgotten: {}", forgotten.reason)
        }
        LearningChange::Asked(asked) => {
            let candidate = short(&asked.backtest.candidate);
            format!("{actor} asks for the promotion of {candidate}: {}", asked.reason)
        }
        LearningChange::Refused(backtest) => {
            let (candidate, verdict) = (short(&backtest.candidate), backtest.verdict.as_str());
            format!("{candidate} is not promoted: {verdict}, {}", backtest.because())
        }
        LearningChange::Promoted(promoted) => {
            format!("{} is in force from here on", short(&promoted.digest))
        }
    }
}

fn verb(state: agentd_core::state::ApprovalState) -> String {
    let name = super::approval_state(state).as_str_name();
    name.trim_start_matches("APPROVAL_STATE_").to_ascii_lowercase()
}

fn asked(approval: &Approval) -> String {
    let Approval { seq, plan, requester, .. } = approval;
    format!("{requester} asks for {} of {}: {}", plan.action, plan.app, ids::approval(*seq))
}

fn paused(pause: &Pause) -> String {
    let verb = if pause.halt { "halted" } else { "paused" };
    format!("{} {verb} by {}: {}", scope_name(&pause.scope), pause.by, pause.reason)
}

fn scope_name(scope: &Scope) -> String {
    match scope {
        Scope::Env => "the environment".to_owned(),
        Scope::App(app) => format!("app {app}"),
        Scope::Action(action) => format!("action {action}"),
    }
}

fn observation(what: &Observation) -> String {
    match what {
        Observation::Started { fence } => format!("runs as pid {}", fence.pid),
        Observation::Ready => "is ready".to_owned(),
        Observation::Unready => "does not answer".to_owned(),
        Observation::Exited { exit, expected: true, .. } => format!("ended as asked: {exit}"),
        Observation::Exited { exit, expected: false, .. } => format!("ended: {exit}"),
        Observation::Removed => "was removed".to_owned(),
    }
}

const fn health_name(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Down => "down",
        Health::Unknown => "unknown",
    }
}

fn alive(heartbeat: &Heartbeat) -> String {
    let Heartbeat { state, loops, apps, quiet, .. } = heartbeat;
    format!("{state} after {loops} turns, {quiet} of {apps} apps quiet")
}
