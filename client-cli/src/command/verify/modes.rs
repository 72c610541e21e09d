//! Demo mode and freeze.

use std::collections::BTreeMap;

use agentctl_api::v1;

use super::{Suite, Trial, apps, ask, blocked, on_scratch};
use crate::command::scratch::{Rules, Scratch};
use crate::command::{Context, demo as demonstration, proof};
use crate::failure::Failure;

/// Events a demonstration leaves behind.
const EVENTS: [&str; 7] = [
    "DEMO_MODE_BLOCK",
    "UNSAFE_ACTION_REFUSED",
    "RL_INTAKE_VALIDATED",
    "EXECUTION_GATE_PASSED",
    "ORCH_EXEC",
    "ORCH_REFUSE",
    "SYSTEM_STABLE",
];

/// Demo mode: only what the agent itself chose, and only what is harmless.
pub(super) async fn demo(context: &mut Context) -> Result<Trial, Failure> {
    let mut trial = Trial::new(Suite::Demo);
    let rules = Rules { policy: demonstration::POLICY, demo_mode: true, freeze: true };
    on_scratch(rules, context, async |stage, context| {
        const APP: &str = "verify-demo";
        apps::onboard(stage, APP, |_| {}).await?;
        let direct = ask(stage, APP, "RESTART").await?;
        let (got, held) = blocked(&direct, "DEMO_MODE_BLOCK");
        trial.found("direct request", "blocked with DEMO_MODE_BLOCK", got, held);
        trial.rehearse("crash", "safe action of the agent", stage, context).await?;
        let unsafe_name = ask(stage, APP, "delete_production_data").await?;
        let (got, held) = blocked(&unsafe_name, "UNSAFE_ACTION_REFUSED");
        trial.found("unsafe action", "refused with UNSAFE_ACTION_REFUSED", got, held);
        let rollback = ask(stage, APP, "RETRY_DEPLOYMENT").await?;
        let verdict = rollback.verdicts.iter().find(|verdict| verdict.gate == "demo_allowlist");
        let refused = verdict.is_some_and(|v| v.effect() == v1::GateEffect::Refuse);
        let got = format!(
            "{} demo_allowlist {}",
            rollback.id,
            if refused { "refuses" } else { "lets it pass" }
        );
        let expected = "an action outside of noop, restart, scale up and scale down is refused";
        trial.found("action outside of the list", expected, got, refused);
        let counts = events(stage).await?;
        let missing: Vec<_> = EVENTS.into_iter().filter(|e| !counts.contains_key(*e)).collect();
        let got = if missing.is_empty() {
            format!("all {} are there", EVENTS.len())
        } else {
            format!("missing: {}", missing.join(" "))
        };
        trial.found("events", &EVENTS.join(" "), got, missing.is_empty());
        Ok(())
    })
    .await?;
    Ok(trial)
}

/// Freeze: healing goes on, learning stands still, and both go on afterwards.
pub(super) async fn freeze(context: &mut Context) -> Result<Trial, Failure> {
    let mut trial = Trial::new(Suite::Freeze);
    let rules = Rules { policy: demonstration::POLICY, freeze: true, ..Rules::default() };
    on_scratch(rules, context, async |stage, context| {
        let played = trial.rehearse("crash", "heals while frozen", stage, context).await?;
        let counts = events(stage).await?;
        let (learned, skipped) = learning(&counts);
        let got = format!("{learned} updates, {skipped} skipped");
        trial.found(
            "learns nothing",
            "no update of the table, and each skipped one on record",
            got,
            learned == 0 && skipped > 0,
        );
        let drawn = exploration(stage, &played).await?;
        trial.found("draws nothing", "no decision was an exploration", drawn.0, drawn.1);
        thaw(stage).await?;
        demonstration::play(&scenario("crash"), stage, context).await?;
        let (after, _) = learning(&events(stage).await?);
        // Had this found nothing, finding nothing above would have meant nothing.
        trial.found(
            "learns again",
            "the same crash is learned from once thawed",
            format!("{after} updates"),
            after > 0,
        );
        Ok(())
    })
    .await?;
    Ok(trial)
}

fn scenario(name: &str) -> v1::Scenario {
    v1::Scenario { name: name.to_owned(), ..v1::Scenario::default() }
}

fn learning(counts: &BTreeMap<String, u64>) -> (u64, u64) {
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    (of("LEARNING_UPDATED"), of("LEARNING_SKIPPED"))
}

/// How often each event is in the log.
async fn events(stage: &Scratch) -> Result<BTreeMap<String, u64>, Failure> {
    let lines = proof::download(&stage.operator, 1, 0, None).await?;
    Ok(demonstration::event_counts(&lines))
}

/// Whether all decisions of a scenario were chosen without a draw.
async fn exploration(
    stage: &Scratch,
    played: &demonstration::report::Played,
) -> Result<(String, bool), Failure> {
    let mut decisions = Vec::new();
    for id in played.decisions() {
        decisions.push(demonstration::decision(&stage.operator, id).await?);
    }
    let drawn = decisions.iter().filter(|d| d.exploratory).count();
    let got = format!("{drawn} of {} drawn", decisions.len());
    Ok((got, drawn == 0 && !decisions.is_empty()))
}

async fn thaw(stage: &Scratch) -> Result<(), Failure> {
    let session = &stage.operator;
    let request = v1::UnfreezeRequest {
        reason: "agentctl verify: would it learn?".to_owned(),
        request_id: crate::command::request_id(),
    };
    let answer = session.agent().unfreeze(session.unary(request)).await;
    answer.map(drop).map_err(|s| session.failure(s))
}
