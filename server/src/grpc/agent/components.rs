//! The parts of the server that each do one job, as `agentctl agents` lists them. All but the neighbours of the loop are steps
//! of the one loop, so they are healthy exactly while it can record what it does.

use agentctl_api::v1;
use agentd_core::app::Millis;
use agentd_core::detect::DETECTORS;
use agentd_core::state::{AppState, ApprovalState, Health, Outcome};

use super::overview::Shell;
use crate::agent::AgentView;
use crate::deploy::{Load, WORKERS_MAX};
use crate::grpc::to_proto;
use crate::publish::RING;

/// What a part says of itself.
struct Part {
    name: &'static str,
    healthy: bool,
    detail: String,
    last_active: Option<Millis>,
}

/// Every part.
pub(super) fn all(view: &AgentView<'_>, shell: &Shell) -> Vec<v1::Component> {
    let acts = view.blocked.is_none();
    [
        deploy_agent(view, acts),
        worker_pool(view, shell, acts),
        issue_detector(view, acts),
        uptime_monitor(view),
        auto_heal(view, acts),
        optimizer(view),
        queue_monitor(shell),
        arbitrator(view, acts),
        supervisor(view, acts),
        rules(view, shell),
    ]
    .into_iter()
    .map(|part| v1::Component {
        name: part.name.to_owned(),
        healthy: part.healthy,
        detail: match &view.blocked {
            Some(why) if !part.healthy => format!("{}; the proof log: {why}", part.detail),
            _ => part.detail,
        },
        last_active_time: part.last_active.map(to_proto::timestamp),
    })
    .collect()
}

fn apps<'a>(view: &AgentView<'a>) -> impl Iterator<Item = &'a AppState> {
    view.state.apps.values()
}

fn deploy_agent(view: &AgentView<'_>, healthy: bool) -> Part {
    let failed = apps(view).filter(|app| app.profile.failed_revision.is_some()).count();
    Part {
        name: "deploy_agent",
        healthy,
        detail: format!("{} apps deployed, {failed} with a failed deployment", count(apps(view))),
        last_active: apps(view).map(|app| app.onboarded_at).max(),
    }
}

fn worker_pool(view: &AgentView<'_>, shell: &Shell, healthy: bool) -> Part {
    let deploying = shell.workers.map_or_else(String::new, |load| {
        let Load { workers, working, waiting, .. } = load;
        let plural = if workers == 1 { "" } else { "s" };
        format!("{workers} deploy worker{plural} of {WORKERS_MAX}: {working} deployments building, {waiting} waiting; ")
    });
    let running = apps(view).filter(|app| app.attempt.is_some()).count();
    let started = apps(view).filter_map(|app| app.attempt.as_ref()).map(|a| a.started_at);
    let before = apps(view).flat_map(|app| app.last_effect.values()).map(|effect| effect.at);
    Part {
        name: "worker_pool",
        healthy,
        detail: format!("{deploying}{running} effects in flight, at most one per app"),
        last_active: started.chain(before).max(),
    }
}

fn issue_detector(view: &AgentView<'_>, healthy: bool) -> Part {
    let open = apps(view).map(|app| app.open.len()).sum::<usize>();
    let raised = apps(view).flat_map(|app| app.open.values()).map(|open| open.since);
    let cleared = apps(view).flat_map(|app| app.cleared.values().copied());
    Part {
        name: "issue_detector",
        healthy,
        detail: format!("{} detectors, {open} open findings", DETECTORS.len()),
        last_active: raised.chain(cleared).max(),
    }
}

/// It only listens: a log that cannot be written does not make it deaf.
fn uptime_monitor(view: &AgentView<'_>) -> Part {
    let of = |health: Health| apps(view).filter(|app| app.health() == health).count();
    Part {
        name: "uptime_monitor",
        healthy: true,
        detail: format!(
            "{} healthy, {} degraded, {} down, {} unknown",
            of(Health::Healthy),
            of(Health::Degraded),
            of(Health::Down),
            of(Health::Unknown)
        ),
        last_active: view.readings.heard().map(|(_, at)| at).max(),
    }
}

fn auto_heal(view: &AgentView<'_>, healthy: bool) -> Part {
    let outcomes = || apps(view).flat_map(|app| &app.decisions).filter(|d| !d.human);
    let verified = outcomes().filter(|d| d.outcome == Some(Outcome::Verified)).count();
    let executed = outcomes().filter(|d| d.executed).count();
    let open = apps(view).flat_map(|app| app.breakers.values());
    let open = open.filter(|b| b.open_until.is_some_and(|until| until > view.now)).count();
    let pauses = view.state.mode.pauses.len();
    Part {
        name: "auto_heal",
        healthy,
        detail: format!(
            "{verified} of the last {executed} actions verified, {open} breakers open, {pauses} pauses in force"
        ),
        last_active: outcomes().filter(|d| d.executed).map(|d| d.at).max(),
    }
}

/// The value table is a fold of the log: it cannot be ill, only frozen.
fn optimizer(view: &AgentView<'_>) -> Part {
    let values = count(view.state.table.iter());
    let learning = if view.state.mode.frozen { "frozen" } else { "learning" };
    let exploration = view.policy.learning.exploration_ppm / 10_000;
    Part {
        name: "rl_optimizer",
        healthy: true,
        detail: format!("{learning}, {values} values, {exploration} % exploration"),
        last_active: None,
    }
}

fn queue_monitor(shell: &Shell) -> Part {
    let ring = format!(
        "log of the last {RING} records, {} watchers, {} monitors",
        shell.watchers, shell.monitors
    );
    let Some(bus) = &shell.bus else {
        return Part { name: "queue_monitor", healthy: true, detail: ring, last_active: None };
    };
    let why = match &bus.last_error {
        Some(error) if !bus.connected => format!(": {error}"),
        _ => String::new(),
    };
    Part {
        name: "queue_monitor",
        healthy: bus.connected,
        detail: format!(
            "{ring}; bus {} {}, {} published, {} dropped, {} waiting{why}",
            bus.backend, bus.place, bus.published, bus.dropped, bus.lag
        ),
        last_active: bus.last_published,
    }
}

fn arbitrator(view: &AgentView<'_>, healthy: bool) -> Part {
    let decisions = view.counters.decisions;
    let trust = view.policy.learning.trust;
    Part {
        name: "decision_arbitrator",
        healthy,
        detail: format!("{decisions} decisions; the rule wins below {trust} outcomes of a value"),
        last_active: apps(view).filter_map(|app| app.decisions.back()).map(|d| d.at).max(),
    }
}

fn supervisor(view: &AgentView<'_>, healthy: bool) -> Part {
    let approvals = || view.state.approvals.values();
    let pending = approvals().filter(|a| a.state == ApprovalState::Pending).count();
    let answered = approvals().filter(|a| a.decided_by.is_some()).count();
    Part {
        name: "supervisor_feedback",
        healthy,
        detail: format!("{pending} approvals pending, {answered} answered by a human"),
        last_active: approvals().map(|a| a.requested_at).max(),
    }
}

/// A policy file that was read again and not taken is told until it is: what runs is not what is written.
fn rules(view: &AgentView<'_>, shell: &Shell) -> Part {
    let digest = view.state.policy_digest.get(..12).unwrap_or_default();
    let rejected = shell.rejected.as_ref().map(|why| format!("; the file was not taken: {why}"));
    Part {
        name: "policy",
        healthy: shell.rejected.is_none(),
        detail: format!("{digest} is in force{}", rejected.unwrap_or_default()),
        last_active: None,
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> usize {
    items.count()
}
