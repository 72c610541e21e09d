use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::command::top::feed::Order;
use crate::command::top::model::{Event, Next, Rights};

const NOW: i64 = 1_795_442_531;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).unwrap()
}

fn stamp(seconds_ago: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: NOW - seconds_ago, nanos: 0 })
}

fn app(name: &str, health: v1::AppHealth) -> v1::App {
    v1::App {
        name: name.to_owned(),
        health: health.into(),
        ready_instances: 1,
        desired_instances: 2,
        reading: Some(v1::AppReading {
            cpu_utilization: Some(0.61),
            latency_p99_seconds: Some(0.18),
            ..v1::AppReading::default()
        }),
        last_decision: Some(v1::DecisionSummary {
            action: "RESTART".to_owned(),
            ruling: v1::Ruling::Permitted.into(),
            reason: "EXECUTION_GATE_PASSED".to_owned(),
            time: stamp(120),
            ..v1::DecisionSummary::default()
        }),
        ..v1::App::default()
    }
}

fn status() -> v1::AgentStatus {
    v1::AgentStatus {
        agent_id: "agent-0badcafe".to_owned(),
        environment: "stage".to_owned(),
        state: v1::AgentState::Observing.into(),
        loop_count: 212,
        uptime: Some(prost_types::Duration { seconds: 1_020, nanos: 0 }),
        ruling_counts: [("permitted".to_owned(), 3), ("refused".to_owned(), 1)].into(),
        journal: Some(v1::JournalStatus {
            state: v1::JournalState::Writable.into(),
            head_seq: 41,
            ..v1::JournalStatus::default()
        }),
        apps: vec![app("my-api", v1::AppHealth::Healthy), app("billing", v1::AppHealth::Degraded)],
        components: vec![v1::Component {
            name: "auto_heal".to_owned(),
            healthy: true,
            detail: "1 of the last 1 actions verified".to_owned(),
            last_active_time: stamp(3),
        }],
        monitors: 2,
        ..v1::AgentStatus::default()
    }
}

fn decision() -> v1::Decision {
    let verdict = |gate: &str, group: i32, effect: v1::GateEffect, reason: &str| v1::Verdict {
        gate: gate.to_owned(),
        group,
        effect: effect.into(),
        reason: reason.to_owned(),
        value: "28 s".to_owned(),
        limit: "60 s".to_owned(),
        ..v1::Verdict::default()
    };
    v1::Decision {
        id: "dec-40".to_owned(),
        seq: 40,
        time: stamp(5),
        app: "my-api".to_owned(),
        action: "RESTART".to_owned(),
        effective_action: "NOOP".to_owned(),
        ruling: v1::Ruling::Refused.into(),
        reason: "COOLDOWN_ACTIVE".to_owned(),
        confidence: 0.94,
        verdicts: vec![
            verdict("source", 1, v1::GateEffect::Pass, "RL_INTAKE_VALIDATED"),
            verdict("cooldown", 4, v1::GateEffect::Refuse, "COOLDOWN_ACTIVE"),
        ],
        ..v1::Decision::default()
    }
}

fn approval() -> v1::Approval {
    v1::Approval {
        id: "apr-39".to_owned(),
        app: "my-api".to_owned(),
        plan: Some(v1::Plan {
            action: "ROLLBACK".to_owned(),
            from_revision: "v7".to_owned(),
            to_revision: "v6".to_owned(),
            digest: "sha256:ab".to_owned(),
            ..v1::Plan::default()
        }),
        requested_by: "agent-0badcafe".to_owned(),
        expire_time: stamp(-552),
        summary: "3 restarts failed".to_owned(),
        ..v1::Approval::default()
    }
}

fn rights(methods: &[&str]) -> Rights {
    let who = v1::WhoAmIResponse {
        principal: "local".to_owned(),
        methods: methods.iter().map(|m| format!("/agentctl.v1.{m}")).collect(),
        ..v1::WhoAmIResponse::default()
    };
    Rights::of(&who, false)
}

fn model() -> Model {
    let all = ["ApprovalService/ApproveAction", "AgentService/Pause", "AgentService/Resume"];
    let mut model = Model::new("127.0.0.1:7443".to_owned(), rights(&all));
    model.take(Event::Status(Box::new(status())));
    model.take(Event::Decision(Box::new(decision())));
    model.take(Event::Approvals(vec![approval()]));
    model.seen = Some(now());
    model
}

fn press(model: &mut Model, keys: &str) -> Next {
    let mut last = Next::Nothing;
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        last = model.take(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
    last
}

/// What the screen shows, without colours and trailing spaces.
fn picture(model: &Model, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(110, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, now())).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn the_ill_apps_come_first() {
    assert_eq!(
        picture(&model(), 8),
        "\
● LIVE  STAGE  agent-0badcafe at 127.0.0.1:7443  observing  loop 212  up 17m  as local
decisions 3 permitted, 0 held, 1 refused   proof #41 writable   monitors 2
 1 apps 2  2 decisions 1  3 approvals 1  4 bus  5 agent
APP                           HEALTH       READY  CPU    P99     ERRORS  LAST DECISION                   WAITS
billing                       ◐ degraded   1/2    61%    180ms   –       restart permitted 2m ago        –
my-api                        ● healthy    1/2    61%    180ms   –       restart permitted 2m ago        –

: jump   / filter   Enter open   ? keys   q quit
"
    );
}

#[test]
fn a_decision_is_a_row_and_its_gates_are_one_key_away() {
    let mut model = model();
    press(&mut model, ":dec\n");
    let text = picture(&model, 6);
    assert!(text.contains("14:02:06  my-api"), "{text}");
    assert!(
        text.contains("restart       0.94  ●··✖···  ✖ refused       COOLDOWN_ACTIVE 28 s"),
        "{text}"
    );
    press(&mut model, "\n");
    let text = picture(&model, 12);
    assert!(text.contains(" dec-40  restart my-api  ✖ refused  COOLDOWN_ACTIVE "), "{text}");
    // What stood in the way is on top.
    let (refused, passed) = (text.find("✖  cooldown").unwrap(), text.find("✔  source").unwrap());
    assert!(refused < passed, "{text}");
    press(&mut model, "jjj");
    let text = picture(&model, 12);
    assert!(
        !text.contains("✖  cooldown") && text.contains("✔  source"),
        "never beyond the last: {text}"
    );
    press(&mut model, "x");
    assert!(picture(&model, 6).contains("14:02:06"), "any other key goes back");
}

#[test]
fn approving_asks_for_a_reason_and_sends_the_plan_that_was_seen() {
    let mut model = model();
    press(&mut model, "3a");
    let text = picture(&model, 14);
    assert!(text.contains("approve apr-39: rollback my-api v7 → v6"), "{text}");
    assert!(text.contains("reason: ▏"), "{text}");
    assert_eq!(press(&mut model, "\n"), Next::Nothing, "not without a reason");
    assert!(matches!(model.mode, Mode::Confirm { .. }));
    let next = press(&mut model, "INC-481\n");
    let approve = Order::Approve {
        id: "apr-39".to_owned(),
        digest: "sha256:ab".to_owned(),
        reason: "INC-481".to_owned(),
    };
    assert_eq!(next, Next::Order(approve));
    press(&mut model, "r\u{1b}");
    assert_eq!((&model.mode, model.said.as_str()), (&Mode::Browse, "nothing was done"));
}

#[test]
fn what_the_token_may_not_do_is_not_offered() {
    let mut model = Model::new("h:1".to_owned(), rights(&["AgentService/Pause"]));
    model.take(Event::Approvals(vec![approval()]));
    press(&mut model, "3a");
    assert_eq!(
        (&model.mode, model.said.as_str()),
        (&Mode::Browse, "✖ local lacks the role approver")
    );
    press(&mut model, "u");
    assert_eq!(model.said, "✖ local lacks the role operator");
    press(&mut model, "p");
    assert!(matches!(model.mode, Mode::Confirm { .. }), "a pause it may ask for");
    let read_only = Rights::of(&v1::WhoAmIResponse::default(), true);
    assert!(read_only.reads_only());
    assert_eq!(read_only.pause.as_deref(), Some("this screen is read-only"));
}

#[test]
fn a_filter_shows_at_once_and_escape_lifts_it() {
    let mut model = model();
    press(&mut model, "/bill");
    let text = picture(&model, 8);
    assert!(text.contains("billing") && !text.contains("my-api  "), "{text}");
    assert!(text.ends_with("/bill▏\n"), "{text}");
    press(&mut model, "\n");
    assert_eq!(model.apps().len(), 1);
    press(&mut model, "\u{1b}");
    assert_eq!(model.apps().len(), 2);
}

#[test]
fn how_old_the_picture_is_stands_on_it() {
    let mut model = model();
    model.seen = Some(now() - chrono::TimeDelta::seconds(30));
    assert!(picture(&model, 5).starts_with("◐ STALE 30s"), "{}", picture(&model, 5));
    model.take(Event::Lost("cannot reach agentd: connection refused".to_owned()));
    let text = picture(&model, 5);
    assert!(text.starts_with("✖ OFFLINE") && text.contains("connection refused"), "{text}");
}

#[test]
fn nothing_foreign_reaches_the_terminal_as_more_than_text() {
    let mut model = model();
    let evil = "a\u{1b}[31m\u{202e}b".to_owned();
    let mut status = status();
    status.agent_id.clone_from(&evil);
    status.apps[0].name.clone_from(&evil);
    status.components[0].detail.clone_from(&evil);
    status.modes = vec![v1::Mode { reason: evil.clone(), ..v1::Mode::default() }];
    model.take(Event::Status(Box::new(status)));
    let decision = v1::Decision {
        seq: 41,
        app: evil.clone(),
        reason: evil.clone(),
        summary: evil.clone(),
        ..decision()
    };
    model.take(Event::Decision(Box::new(decision)));
    let approval = v1::Approval { app: evil.clone(), summary: evil.clone(), ..approval() };
    model.take(Event::Approvals(vec![approval]));
    let stats =
        v1::BusStats { place: evil.clone(), last_error: evil.clone(), ..Default::default() };
    model.take(Event::Bus(Box::new(stats)));
    model.take(Event::Said(evil));
    for keys in ["1", "2", "\n", "x3", "4", "5"] {
        press(&mut model, keys);
        let text = picture(&model, 30);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    }
}

#[test]
fn every_size_of_terminal_can_be_drawn() {
    let mut model = model();
    for keys in ["1", "2\n", "x3a", "\u{1b}4", "5", "?", "x:", "\u{1b}/x"] {
        press(&mut model, keys);
        for (width, height) in [(1, 1), (20, 3), (80, 24), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &model, now())).unwrap();
        }
    }
}

#[test]
fn what_is_kept_is_bounded_and_none_is_shown_twice() {
    use crate::command::top::model::DECISIONS;
    let mut model = model();
    for seq in 0..2 * u64::try_from(DECISIONS).unwrap() {
        let decision = v1::Decision { seq, id: format!("dec-{seq}"), ..decision() };
        model.take(Event::Decision(Box::new(decision.clone())));
        model.take(Event::Decision(Box::new(decision)));
    }
    assert_eq!(model.decisions.len(), DECISIONS);
    let mut seqs: Vec<_> = model.decisions.iter().map(|d| d.seq).collect();
    seqs.dedup();
    assert_eq!(seqs.len(), DECISIONS);
}
