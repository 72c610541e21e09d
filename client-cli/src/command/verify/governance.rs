//! Each rule of self-restraint blocks when it should.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentd_core::policy::Policy;

use super::{Suite, Trial, apps, ask, blocked, on_scratch};
use crate::command::Context;
use crate::command::scratch::{Rules, Scratch};
use crate::failure::Failure;

/// Scenarios of the server, and the rule each of them shows.
const REHEARSED: [(&str, &str); 6] = [
    ("cooldown", "cooldown"),
    ("repetition", "repetition"),
    ("signal-conflict", "signal conflict"),
    ("unsafe-action", "unsafe names"),
    ("kill-switch", "kill switch"),
    ("rollback-approval", "approval"),
];

pub(super) async fn run(policy: &str, context: &mut Context) -> Result<Trial, Failure> {
    let mut trial = Trial::new(Suite::Governance);
    let rules = Rules { policy, freeze: true, ..Rules::default() };
    on_scratch(rules, context, async |stage, context| {
        eligibility(&mut trial, stage).await?;
        prerequisite(&mut trial, stage).await?;
        protection(&mut trial, stage).await?;
        for (scenario, rule) in REHEARSED {
            trial.rehearse(scenario, rule, stage, context).await?;
        }
        Ok(())
    })
    .await?;
    let sure = only_sure(policy)?;
    let rules = Rules { policy: &sure, freeze: true, ..Rules::default() };
    on_scratch(rules, context, async |stage, _| confidence(&mut trial, stage).await).await?;
    Ok(trial)
}

/// An app whose level is OFF is left to its humans, even when it crashes.
async fn eligibility(trial: &mut Trial, stage: &Scratch) -> Result<(), Failure> {
    const APP: &str = "verify-off";
    apps::onboard(stage, APP, |request| request.set_autonomy_level(v1::AutonomyLevel::Off)).await?;
    apps::kill(apps::pid(stage, APP).await?)?;
    let what = "a decision to restart it";
    let decision = apps::decision(stage, APP, what, |d| d.action == "RESTART").await?;
    let (got, held) = blocked(&decision, "ACTION_ELIGIBILITY_FAILED");
    trial.found("eligibility", "a crashed app whose level is OFF is not restarted", got, held);
    Ok(())
}

/// A rollback of an app that has nothing to go back to is not tried.
async fn prerequisite(trial: &mut Trial, stage: &Scratch) -> Result<(), Failure> {
    apps::onboard(stage, "verify-first", |_| {}).await?;
    let decision = ask(stage, "verify-first", "ROLLBACK").await?;
    let (got, held) = blocked(&decision, "MISSING_PREREQUISITE");
    let expected = "a rollback without an earlier revision is refused";
    trial.found("prerequisite", expected, got, held);
    Ok(())
}

/// What is labelled protected is left alone, whoever asks.
async fn protection(trial: &mut Trial, stage: &Scratch) -> Result<(), Failure> {
    // Nor is it deployed, so there is nothing to wait for.
    apps::ask_for(stage, "verify-kept", |request| {
        request.labels = BTreeMap::from([("protected".to_owned(), "true".to_owned())]);
    })
    .await?;
    let decision = ask(stage, "verify-kept", "RESTART").await?;
    let (got, held) = blocked(&decision, "PROTECTED");
    trial.found("protection", "a restart of a protected app is refused", got, held);
    Ok(())
}

/// The policy, but with a minimum of confidence that no crash reaches.
fn only_sure(policy: &str) -> Result<String, Failure> {
    let mut policy: Policy =
        toml::from_str(policy).map_err(|error| Failure::usage(error.to_string()))?;
    let minimum = &mut policy.confidence;
    (minimum.r1, minimum.r2, minimum.r3) = (1_000, 1_000, 1_000);
    toml::to_string(&policy).map_err(|error| Failure::unprintable(&error))
}

/// An agent that is not sure enough does nothing.
async fn confidence(trial: &mut Trial, stage: &Scratch) -> Result<(), Failure> {
    const APP: &str = "verify-unsure";
    apps::onboard(stage, APP, |_| {}).await?;
    apps::kill(apps::pid(stage, APP).await?)?;
    let what = "a decision about the crash";
    let decision = apps::decision(stage, APP, what, |d| !d.findings.is_empty()).await?;
    let (got, held) = blocked(&decision, "UNCERTAINTY_NOOP");
    let held = held && decision.effective_action == "NOOP";
    let expected = "a crash whose restart is less than certain ends in NOOP";
    trial.found("low confidence", expected, format!("{got} → {}", decision.effective_action), held);
    Ok(())
}
