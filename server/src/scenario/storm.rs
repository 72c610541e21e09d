//! A host loses everything at once: that is not the fault of one app, and everything comes back without a stampede.

use std::collections::BTreeSet;
use std::time::Duration;

use agentd_core::action::Action;
use agentd_core::app::{AppName, Millis};
use agentd_core::policy::StormRule;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Concluded, Record};
use agentd_core::state::Outcome;
use rustix::process::{Signal, pidfd_send_signal};

use super::overloaded_environment::deploy_all;
use super::play::{Play, Unmet};
use super::steps::{fence, shim_fence, untouched};
use super::{Scenario, Seen, Step, Tempo};
use crate::shim::procfs;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "storm",
    summary: "a large share of the environment dies at once",
    steps: &[
        Step {
            name: "as many apps as make a storm are onboarded",
            expected: "their deployments are verified",
            run: |play| Box::pin(onboard(play)),
        },
        Step {
            name: "effects on them are paused for a moment, and all are killed (kill -9)",
            expected: "STORM_BEGAN, with the apps that are down, and nothing is executed",
            run: |play| Box::pin(killed(play)),
        },
        Step {
            name: "effects are resumed, and the agent brings them back",
            expected: "few at a time, more as they turn out well: the others wait with STORM; all are verified",
            run: |play| Box::pin(back(play)),
        },
        Step {
            name: "the storm passes",
            expected: "STORM_CALM, and the end after the calm time of the policy",
            run: |play| Box::pin(passed(play)),
        },
    ],
    any_app: false,
    human: false,
    typical: |tempo| {
        let rounds = (tempo.effect_ms().saturating_add(delay_ms(tempo))).saturating_mul(5);
        rounds.saturating_add(tempo.policy.storm.exit_ms)
    },
};

/// Most apps it brings; an environment that takes more for a storm is not one to rehearse in.
const MOST: u32 = 24;
/// Longest calm time that is waited for.
const CALM_MAX: Duration = Duration::from_secs(60);

/// Time an app takes to start, so that starts at the same time can be told from starts one after the other.
fn delay_ms(tempo: &Tempo) -> Millis {
    (tempo.policy.verification.deadline_ms / 4).min(300)
}

/// How many more apps have to be down for a storm, in an environment of `apps`.
fn needed(rule: &StormRule, apps: u32) -> Option<u32> {
    (rule.min_apps.max(1)..=MOST).find(|n| {
        let all = u64::from(apps.saturating_add(*n));
        u64::from(*n) >= (all * u64::from(rule.permille)).div_ceil(1_000)
    })
}

async fn onboard(play: &mut Play) -> Result<Seen, Unmet> {
    let known = play.doors().agent.query(|view| view.state.apps.len()).await;
    let known = known.map_err(|_gone| Unmet::Stopped)?;
    let apps = u32::try_from(known).unwrap_or(u32::MAX);
    let needed = needed(&play.tempo.policy.storm, apps).ok_or_else(|| {
        Unmet::Differs(format!("with {apps} apps a storm takes more than {MOST} of its own"))
    })?;
    play.enlarge(usize::try_from(needed).unwrap_or(usize::MAX)).await?;
    let delay = delay_ms(&play.tempo).to_string();
    deploy_all(play, &["--version-label", "v1", "--start-delay-ms", &delay], 1).await
}

async fn killed(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.notes.since = since;
    let n = play.size();
    play.announce(&format!("kill -9 of {n} processes")).await?;
    let mut victims = Vec::new();
    for _ in 0..n {
        // The first would be back before the last is down.
        super::kill_switch::pause(play).await?;
        let fence = fence(play, 0).await?;
        let gone = || Unmet::Differs(format!("pid {} is gone already", fence.pid));
        victims.push(procfs::open_incarnation(&shim_fence(&fence)).ok_or_else(gone)?);
        play.turn();
    }
    for victim in &victims {
        let killed = pidfd_send_signal(victim, Signal::KILL);
        killed.map_err(|error| Unmet::Differs(format!("a process cannot be killed: {error}")))?;
    }
    let began = |record: &Record| match record.body {
        Body::StormBegan { unhealthy, apps } => Some((unhealthy, apps)),
        _ => None,
    };
    let deadline = Play::within(play.tempo.reaction());
    let (down, apps) = play.log.find(since, deadline, "STORM_BEGAN", began).await?;
    untouched(play, since)?;
    Ok(Seen::new(format!("{n} killed; STORM_BEGAN: {down} of {apps} apps are unhealthy")))
}

async fn back(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.notes.since;
    for _ in 0..play.size() {
        super::kill_switch::resume(play).await?;
        play.turn();
    }
    let mut healed: BTreeSet<AppName> = BTreeSet::new();
    while healed.len() < play.size() {
        let verified = |record: &Record| match &record.body {
            Body::Concluded(Concluded {
                action: Action::Restart,
                outcome: Outcome::Verified,
                ..
            }) => record.app.clone().filter(|app| !healed.contains(app)),
            _ => None,
        };
        let deadline = Play::within(play.tempo.patience());
        let app = play.log.find(since, deadline, "another app to come back", verified).await?;
        healed.insert(app);
        play.say(Seen::new(format!("{} of {} are back", healed.len(), play.size())));
    }
    let waits = |record: &&Record| match &record.body {
        Body::Blocked { verdict, .. } => verdict.reason == Some(Reason::Storm),
        _ => false,
    };
    let waited = play.log.since(since).filter(waits).count();
    let most = at_once(play.log.since(since));
    if waited == 0 || most >= play.size() {
        return Err(Unmet::Differs(format!("{most} started at once, {waited} had to wait")));
    }
    let n = healed.len();
    Ok(Seen::new(format!("{n} are back, at most {most} at once; {waited} refusals with STORM")))
}

/// Most starts that were under way at the same time.
fn at_once<'a>(records: impl Iterator<Item = &'a Record>) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for record in records {
        match &record.body {
            Body::Attempted(attempt) if attempt.plan.action == Action::Restart => now += 1,
            Body::Delivered { .. } => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

async fn passed(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.notes.since;
    let calm = |record: &Record| match record.body {
        Body::StormCalm { calm: true } => Some(()),
        _ => None,
    };
    let deadline = Play::within(play.tempo.patience());
    play.log.find(since, deadline, "STORM_CALM", calm).await?;
    let exit = Duration::from_millis(play.tempo.policy.storm.exit_ms);
    if exit > CALM_MAX {
        let minutes = exit.as_secs() / 60;
        return Ok(Seen::new(format!("STORM_CALM; it ends after {minutes} calm minutes")));
    }
    let ended = |record: &Record| matches!(record.body, Body::StormEnded).then_some(());
    let deadline = Play::within(exit + play.tempo.reaction());
    play.log.find(since, deadline, "STORM_ENDED", ended).await?;
    Ok(Seen::new("STORM_CALM, then STORM_ENDED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_takes_more_apps_where_there_are_more() {
        let rule = StormRule {
            min_apps: 3,
            permille: 300,
            exit_ms: 1,
            common_apps: 3,
            common_window_ms: 1,
        };
        assert_eq!(needed(&rule, 0), Some(3));
        assert_eq!(needed(&rule, 7), Some(3));
        assert_eq!(needed(&rule, 8), Some(4));
        assert_eq!(needed(&rule, 50), Some(22));
        assert_eq!(needed(&rule, 100), None);
    }
}
