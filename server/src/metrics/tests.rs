//! What is counted, from records to text; and that what is shipped for Prometheus and Grafana asks for nothing else.

use std::collections::BTreeMap;

use agentd_core::action::Action;
use agentd_core::app::{OnboardRequest, RequestedSource};
use agentd_core::policy::Policy;
use agentd_core::state::State;
use agentd_core::step::{By, Input, Moment, step};

use super::*;
use crate::agent::{AgentState, AgentView, Readings};

fn record(seq: u64, app: Option<&str>, body: Body) -> Record {
    let app = app.map(|name| AppName::parse(name).unwrap());
    Record {
        seq,
        at: seq,
        env: Env::Stage,
        app,
        cause: None,
        actor: "agent-1".to_owned(),
        trace: None,
        body,
    }
}

/// Records of an app that is onboarded: with a decision and all its verdicts.
fn onboarding() -> Vec<Record> {
    let request = OnboardRequest {
        name: "web".to_owned(),
        env: "stage".to_owned(),
        runtime: "binary".to_owned(),
        source: RequestedSource::Exec { path: "/bin/web".to_owned(), args: Vec::new() },
        ..OnboardRequest::default()
    };
    let by =
        By { principal: "olivia".to_owned(), human: true, request: None, validate_only: false };
    let input = Input::Onboard { request: Box::new(request), found: Vec::new(), update: None, by };
    let moment = Moment { agent: "agent-1", now: 1_000, seq: 1, log_writable: true };
    let policy = Policy::default_for(Env::Stage);
    step(&State::new(Env::Stage), &policy, &input, &moment).records
}

/// A decision with all its verdicts.
pub(crate) fn decision() -> Record {
    onboarding().into_iter().find(|record| record.decision().is_some()).expect("one was made")
}

fn concluded(outcome: Outcome) -> Body {
    Body::Concluded(Concluded {
        decision: 1,
        action: Action::Restart,
        outcome,
        detail: String::new(),
        elapsed_ms: 1_500,
        human: false,
        approval: None,
    })
}

/// Metrics of which every one has been seen at least once.
fn full() -> (Metrics, String) {
    let metrics = Metrics::new(Env::Stage);
    let records = onboarding();
    assert!(records.iter().any(|record| record.decision().is_some()));
    records.iter().for_each(|record| metrics.record(record));
    metrics.record(&record(50, Some("web"), concluded(Outcome::Verified)));
    metrics.record(&record(51, None, Body::Repeated { decision: 1, count: 41 }));
    metrics.record(&record(
        52,
        None,
        Body::Escalated { findings: Vec::new(), message: String::new() },
    ));
    let mut refused = decision();
    if let Body::Decided(decided) = &mut refused.body {
        let reason = agentd_core::reason::Reason::CooldownActive;
        decided.ruling = Ruling::Refused { reason, instead: Action::Noop };
        let finding = agentd_core::detect::FindingKind::Crash;
        metrics.findings.get_or_create(&[("kind", finding.as_str().into())]).inc();
    }
    metrics.record(&refused);
    metrics.turn(Duration::from_millis(2));
    metrics.append(Duration::from_millis(1));
    metrics.signal(250);
    metrics.stream_dropped("proof");
    let (state, policy) = (State::new(Env::Stage), Policy::default_for(Env::Stage));
    let view = AgentView {
        id: "agent-0badcafe",
        version: "1.2.3",
        phase: AgentState::Idle,
        state: &state,
        policy: &policy,
        readings: &Readings::default(),
        counters: &crate::agent::Counters::default(),
        started_at: 1_000,
        now: 61_000,
        blocked: None,
        loop_interval_ms: 1_000,
    };
    let mut snapshot = Snapshot::of(&view);
    snapshot.outside = Outside {
        bus: Some(crate::bus::BusStats {
            backend: "memory",
            place: String::new(),
            connected: true,
            published: 7,
            dropped: 0,
            lag: 2,
            failures: 0,
            last_error: None,
            last_published: None,
            depth: None,
        }),
        watchers: 3,
        signals: 12,
        limits: BTreeMap::from([("signals_rejected", 4)]),
        port: BTreeMap::from([("requests", 9)]),
    };
    let text = metrics.render(&snapshot);
    (metrics, text)
}

/// Names of the samples in a rendered text.
fn names(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

#[test]
fn what_happened_is_counted_from_the_records_and_levels_come_from_the_loop() {
    let (_metrics, text) = full();
    for line in [
        "agentctl_decisions_total{env=\"stage\",app=\"web\",action=\"DEPLOY\",outcome=\"permitted\"} 1",
        "agentctl_decisions_total{env=\"stage\",app=\"web\",action=\"DEPLOY\",outcome=\"refused\"} 1",
        "agentctl_decisions_repeated_total{env=\"stage\"} 41",
        "agentctl_gate_verdicts_total{env=\"stage\",gate=\"cooldown\",verdict=\"pass\"} 2",
        "agentctl_refusals_total{env=\"stage\",reason=\"COOLDOWN_ACTIVE\"} 1",
        "agentctl_outcomes_total{env=\"stage\",action=\"RESTART\",outcome=\"verified\"} 1",
        "agentctl_action_duration_seconds_sum{env=\"stage\",action=\"RESTART\",outcome=\"verified\"} 1.5",
        "agentctl_proof_entries_total{env=\"stage\",event=\"RL_DECISION\"} 2",
        "agentctl_signal_lag_seconds_sum{env=\"stage\"} 0.25",
        "agentctl_stream_dropped_total{env=\"stage\",stream=\"proof\"} 1",
        "agentctl_build_info{env=\"stage\",version=\"1.2.3\",agent_id=\"agent-0badcafe\"} 1",
        "agentctl_bus_info{env=\"stage\",backend=\"memory\"} 1",
        "agentctl_agent_state{env=\"stage\",state=\"idle\"} 1",
        "agentctl_agent_state{env=\"stage\",state=\"blocked\"} 0",
        "agentctl_agent_uptime_seconds{env=\"stage\"} 60",
        "agentctl_approvals_pending{env=\"stage\"} 0",
        "agentctl_limit_hits_total{env=\"stage\",limit=\"signals_rejected\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_loop_that_does_not_answer_is_shown_and_the_rest_with_it() {
    let text = Metrics::new(Env::Dev).render(&Snapshot::default());
    assert!(text.contains("agentctl_agent_up{env=\"dev\"} 0"), "{text}");
    assert!(text.contains("agentctl_watchers{env=\"dev\"} 0") && !text.contains("agent_can_act"));
}

#[test]
fn apps_without_end_take_no_labels_without_end() {
    let metrics = Metrics::new(Env::Stage);
    let base = decision();
    for n in 0..APPS_MAX + 50 {
        let app = Some(AppName::parse(&format!("app-{n}")).unwrap());
        metrics.record(&Record { app, ..base.clone() });
    }
    // Whoever has a label keeps it.
    metrics.record(&Record { app: Some(AppName::parse("app-0").unwrap()), ..base });
    let text = metrics.render(&Snapshot::default());
    let of = |line: &&str| line.starts_with("agentctl_decisions_total{");
    assert_eq!(text.lines().filter(of).count(), APPS_MAX + 1);
    assert!(text.contains("app=\"app-0\",action=\"DEPLOY\",outcome=\"permitted\"} 2"));
    assert!(text.contains("app=\"_other\",action=\"DEPLOY\",outcome=\"permitted\"} 50"));
    assert!(text.contains("agentctl_label_overflow_total{env=\"stage\"} 50"));
}

#[test]
fn an_app_that_was_let_go_leaves_its_label_to_another() {
    let metrics = Metrics::new(Env::Stage);
    let base = decision();
    let decided = |name: &str| {
        let app = Some(AppName::parse(name).unwrap());
        metrics.record(&Record { app, ..base.clone() });
    };
    (0..APPS_MAX).for_each(|n| decided(&format!("app-{n}")));
    decided("late");
    let gone = Body::Offboarded { revision: 1, digest: String::new() };
    metrics.record(&record(90, Some("app-7"), gone));
    decided("next");
    let text = metrics.render(&Snapshot::default());
    assert!(!text.contains("app=\"app-7\""), "its counts went with it");
    assert!(text.contains("app=\"next\",action=\"DEPLOY\",outcome=\"permitted\"} 1"));
    assert!(text.contains("app=\"_other\",action=\"DEPLOY\",outcome=\"permitted\"} 1"));
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    let (_metrics, text) = full();
    for name in names(&text) {
        assert!(name.starts_with("agentctl_"), "{name}");
        assert!(
            !name.contains("__") && !name.contains("_ms") && !name.contains("total_total"),
            "{name}"
        );
    }
    let described = text.lines().filter(|line| line.starts_with("# HELP ")).count();
    let typed = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(described, typed, "every metric says what it is");
}

/// Every metric that a text of ours names.
fn asked(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in text.split("agentctl_").skip(1) {
        let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(part.len());
        found.insert(format!("agentctl_{}", &part[..end]));
    }
    found
}

#[test]
fn alerts_and_the_board_ask_for_nothing_that_is_not_there() {
    let (_metrics, text) = full();
    let exposed = names(&text);
    for (file, shipped, least) in [
        ("alerts.yml", include_str!("../../../deploy/prometheus/alerts.yml"), 10),
        ("agentd.json", include_str!("../../../deploy/grafana/agentd.json"), 20),
    ] {
        let asked = asked(shipped);
        assert!(asked.len() >= least, "{file}: {asked:?}");
        let missing: Vec<_> =
            asked.iter().filter(|name| !exposed.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}; there are {exposed:#?}");
    }
    let board: serde_json::Value =
        serde_json::from_str(include_str!("../../../deploy/grafana/agentd.json")).unwrap();
    assert!(board["panels"].as_array().unwrap().len() > 15);
}
