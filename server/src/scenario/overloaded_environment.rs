//! Several apps are slow at once: one cause deserves one experiment, so one of them goes first and the others follow.

use std::collections::BTreeSet;
use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::app::AppName;
use agentd_core::detect::FindingKind;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Record};
use agentd_core::state::AppState;

use super::latency::{self, FIRST, SECOND, Told};
use super::play::{Play, Unmet};
use super::steps::{GOOD, untouched};
use super::{Scenario, Seen, Step};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "overloaded-environment",
    summary: "several apps are slow at once",
    steps: &[
        Step {
            name: "apps that may have two instances each are onboarded with one",
            expected: "their deployments are verified",
            run: |play| Box::pin(onboard(play)),
        },
        Step {
            name: "one of two monitors reports slow answers of all of them",
            expected: "LATENCY is found on each, and nothing is executed: the other monitor does not agree",
            run: |play| Box::pin(suspected(play)),
        },
        Step {
            name: "the second monitor reports slow answers too",
            expected: "SCALE_UP of one app is permitted, of the others refused with COMMON_CAUSE (or STORM)",
            run: |play| Box::pin(canary(play)),
        },
        Step {
            name: "the answers of the first app are quick again",
            expected: "SYSTEM_STABLE: what was tried helps",
            run: |play| Box::pin(helped(play)),
        },
        Step {
            name: "it is the turn of the others",
            expected: "SCALE_UP is permitted for each, and each has a second instance",
            run: |play| Box::pin(followed(play)),
        },
        Step {
            name: "all answers are quick again",
            expected: "every app is verified",
            run: |play| Box::pin(calm(play)),
        },
    ],
    any_app: false,
    human: false,
    typical: |tempo| tempo.effect_ms().saturating_mul(4),
};

/// As many as share a cause, and no more.
fn apps(play: &Play) -> usize {
    usize::try_from(play.tempo.policy.storm.common_apps).unwrap_or(usize::MAX).clamp(2, 8)
}

async fn onboard(play: &mut Play) -> Result<Seen, Unmet> {
    forgotten(play).await?;
    play.enlarge(apps(play)).await?;
    deploy_all(play, GOOD, 2).await
}

/// Waits until no app of the environment was healed of LATENCY within the window of a common cause: what has just helped others
/// needs no experiment, and this is about the experiment.
async fn forgotten(play: &Play) -> Result<(), Unmet> {
    let window = play.tempo.policy.storm.common_window_ms;
    let healed = play.doors().agent.query(|view| {
        let cleared = |app: &AppState| app.cleared.get(&FindingKind::Latency).copied();
        view.state.apps.values().filter_map(cleared).max()
    });
    let Some(healed) = healed.await.map_err(|_gone| Unmet::Stopped)? else { return Ok(()) };
    let until = healed.saturating_add(window);
    let left = until.saturating_sub(play.doors().clock.now_ms());
    if left > 0 {
        let told = format!("waiting {} s: an app was healed of LATENCY just now", left / 1_000 + 1);
        play.say(Seen::new(told));
        tokio::time::sleep(Duration::from_millis(left.saturating_add(1))).await;
    }
    Ok(())
}

/// Onboards every app of the run and waits until all are verified.
pub(super) async fn deploy_all(play: &mut Play, args: &[&str], max: u32) -> Result<Seen, Unmet> {
    let mut decisions = Vec::new();
    for _ in 0..play.size() {
        let request = play.request(args, max);
        decisions.push(play.deploy(request, false).await?.1);
        play.turn();
    }
    for decision in &decisions {
        play.verified(*decision).await?;
    }
    Ok(Seen::new(format!("{} apps run and are verified", decisions.len())))
}

async fn suspected(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.notes.since = since;
    play.announce("one monitor says that all apps are slow").await?;
    for _ in 0..play.size() {
        latency::hear_enough(play, &[(FIRST, Told::Slow), (SECOND, Told::Fair)]).await?;
        latency::found(play, since).await?;
        play.turn();
    }
    untouched(play, since)?;
    Ok(Seen::new(format!("LATENCY on {} apps; nothing executed", play.size())))
}

async fn canary(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    for _ in 0..play.size() {
        latency::hear(play, &[(FIRST, Told::Slow), (SECOND, Told::Slow)]).await?;
        play.turn();
    }
    let (decision, _) = latency::scale_up(play, since).await?;
    play.notes.decision = Some(decision);
    let mut waiting: BTreeSet<AppName> = BTreeSet::new();
    let mut reason = Reason::CommonCause;
    while waiting.len() < play.size().saturating_sub(1) {
        let (next, why) = refused(play, &waiting).await?;
        waiting.insert(next);
        reason = why;
    }
    let executed = play.executed(since);
    if executed != [Action::ScaleUp] {
        return Err(Unmet::Differs(format!("executed: {executed:?}")));
    }
    let actual = format!(
        "dec-{decision} SCALE_UP of `{}`; {} refused with {reason}",
        play.app(),
        waiting.len()
    );
    Ok(Seen::of(decision, actual))
}

/// The next app that must wait for the first.
async fn refused(play: &mut Play, seen: &BTreeSet<AppName>) -> Result<(AppName, Reason), Unmet> {
    let blocked = |record: &Record| match &record.body {
        Body::Blocked { action: Action::ScaleUp, verdict, .. } => {
            let app = record.app.clone().filter(|app| !seen.contains(app))?;
            let reason = verdict.reason?;
            matches!(reason, Reason::CommonCause | Reason::Storm).then_some((app, reason))
        }
        _ => None,
    };
    let (since, deadline) = (play.begun, Play::within(play.tempo.reaction()));
    play.log.find(since, deadline, "SCALE_UP refused with COMMON_CAUSE", blocked).await
}

async fn helped(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.notes.since;
    latency::second_is_ready(play, since).await?;
    latency::hear_calm(play).await?;
    super::steps::stable(play).await
}

async fn followed(play: &mut Play) -> Result<Seen, Unmet> {
    // Nobody waits for this step: their turn comes with the outcome of the first.
    let since = play.notes.since;
    let mut decisions = Vec::new();
    for _ in 1..play.size() {
        play.turn();
        latency::hear(play, &[(FIRST, Told::Slow), (SECOND, Told::Slow)]).await?;
    }
    play.turn();
    for _ in 1..play.size() {
        play.turn();
        let (decision, _) = latency::scale_up(play, since).await?;
        latency::second_is_ready(play, since).await?;
        latency::hear_calm(play).await?;
        decisions.push(decision);
    }
    play.turn();
    let last = decisions.last().copied();
    play.notes.others = decisions;
    let actual = format!("{} apps have a second instance", play.notes.others.len());
    Ok(Seen { actual, decision: last })
}

async fn calm(play: &mut Play) -> Result<Seen, Unmet> {
    for decision in play.notes.others.clone() {
        play.verified(decision).await?;
    }
    Ok(Seen::new(format!("{} apps are verified", play.size())))
}
