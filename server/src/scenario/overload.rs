//! Real work saturates one instance; a second one takes half of it.

use agentd_core::action::Action;
use agentd_core::app::Millis;
use agentd_core::detect::FindingKind;
use agentd_core::policy::Threshold;
use agentd_core::record::{Body, Decided, Observation, Record};
use agentd_core::signal::Metric;
use agentd_core::verdict::Ruling;

use super::load::Load;
use super::play::{Play, Unmet};
use super::steps::{GOOD, fence, onboarded, shim_fence};
use super::{Scenario, Seen, Step};
use crate::sense::process::Meter;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "overload",
    summary: "real CPU burn saturates one instance",
    steps: &[
        Step {
            name: "an app that may have two instances is onboarded with one",
            expected: "its deployment is verified, with a limit of its own: 0.25 of a core",
            run: |play| Box::pin(onboard(play)),
        },
        Step {
            name: "users send requests that compute for a third of a core",
            expected: "CPU_OVERLOAD is found from the kernel's own figures",
            run: |play| Box::pin(saturate(play)),
        },
        Step {
            name: "the agent reacts",
            expected: "SCALE_UP from 1 to 2 is permitted and the second instance is ready",
            run: |play| Box::pin(scaled(play)),
        },
        Step {
            name: "the load goes on",
            expected: "both instances work, neither at its limit, and SYSTEM_STABLE",
            run: |play| Box::pin(shared(play)),
        },
        Step {
            name: "the load ends",
            expected: "every request was answered",
            run: |play| Box::pin(ended(play)),
        },
    ],
    any_app: false,
    human: false,
    typical: |tempo| {
        let ticks = (Threshold::LEAVE_TICKS as Millis).saturating_mul(2).saturating_add(2);
        tempo.effect_ms().saturating_mul(2).saturating_add(tempo.tick_ms.saturating_mul(ticks))
    },
};

/// Enter and leave value of the app's own threshold, in cores. A busy machine gives no process the 0.8 of a core that the policy
/// asks for, but it gives a third of one.
const LIMITS: (f64, f64) = (0.25, 0.21);
/// Least share of one core at which an instance counts as working.
const WORKS: f64 = 0.05;

async fn onboard(play: &mut Play) -> Result<Seen, Unmet> {
    let mut request = play.request(GOOD, 2);
    request.thresholds.insert(Metric::CpuUtilization.as_str().to_owned(), LIMITS);
    onboarded(play, request).await
}

async fn saturate(play: &mut Play) -> Result<Seen, Unmet> {
    let since = play.begun;
    play.notes.since = since;
    play.announce("load of a third of a core").await?;
    let longest = play.tempo.patience() * 3;
    let (address, tasks) = (play.address(), play.doors().tasks.clone());
    play.notes.load = Some(Load::start(address, longest, &tasks));
    let raised = |record: &Record| match &record.body {
        Body::Raised(f) if f.kind == FindingKind::CpuOverload => {
            Some((record.at, f.detail.clone()))
        }
        _ => None,
    };
    let deadline = Play::within(play.tempo.reaction());
    let (at, detail) = play.log.find(since, deadline, "CPU_OVERLOAD", raised).await?;
    play.notes.hit_at = at;
    Ok(Seen::new(format!("CPU_OVERLOAD: {detail}")))
}

async fn scaled(play: &mut Play) -> Result<Seen, Unmet> {
    let (since, within) = (play.notes.since, play.tempo.reaction());
    let pick = |decided: &Decided| {
        let up = decided.proposal.action == Action::ScaleUp;
        (up && decided.ruling == Ruling::Permitted).then_some(decided.proposal.confidence)
    };
    let (decision, _) = play.decision(since, within, "a permitted SCALE_UP", pick).await?;
    play.notes.decision = Some(decision);
    let ready = |record: &Record| match record.body {
        Body::Observed { slot: 1, what: Observation::Ready } => Some(record.at),
        _ => None,
    };
    let deadline = Play::within(play.tempo.patience());
    let at = play.log.find(since, deadline, "the second instance", ready).await?;
    for slot in [0, 1] {
        let fence = fence(play, slot).await?;
        // The figure of the process itself: no group is asked, so no limit changes what a core is.
        let meter = Meter::open(&shim_fence(&fence), None, 0);
        let mut meter = meter.ok_or_else(|| Unmet::Differs(format!("instance {slot} is gone")))?;
        let _first = meter.read();
        play.notes.meters.insert(slot, meter);
    }
    let desired = play.state().await?.desired;
    let took = at.saturating_sub(play.notes.hit_at);
    let actual = format!("dec-{decision} SCALE_UP to {desired}, ready {took} ms after the finding");
    Ok(Seen::of(decision, actual))
}

async fn shared(play: &mut Play) -> Result<Seen, Unmet> {
    let stable = super::steps::stable(play).await?;
    let (limit, _) = LIMITS;
    let mut used = Vec::new();
    for (slot, meter) in &mut play.notes.meters {
        let usage = meter.read().and_then(|usage| usage.cpu);
        let cpu = usage.ok_or_else(|| Unmet::Differs(format!("instance {slot} is gone")))?;
        used.push(cpu);
    }
    let shown: Vec<String> = used.iter().map(|cpu| format!("{cpu:.2}")).collect();
    let shown = shown.join(" + ");
    if used.iter().any(|cpu| *cpu < WORKS || *cpu >= limit) {
        let told = format!("the instances use {shown} cores, the limit of each is {limit}");
        return Err(Unmet::Differs(told));
    }
    let actual = format!("{shown} cores; {}", stable.actual);
    play.notes.shares = shown;
    Ok(Seen { actual, ..stable })
}

async fn ended(play: &mut Play) -> Result<Seen, Unmet> {
    let none = || Unmet::Differs("there was no load".to_owned());
    let figures = play.notes.load.take().ok_or_else(none)?.stop().await;
    let shares = std::mem::take(&mut play.notes.shares);
    let (answered, failed) = (figures.answered, figures.failed);
    let actual = format!("{shares} cores; {answered} requests answered, {failed} failed");
    if figures.failed > 0 || figures.answered == 0 {
        return Err(Unmet::Differs(actual));
    }
    Ok(Seen::new(actual))
}
