//! What log lines look like, and what they can never do.

use std::sync::{Arc, Mutex};

use agentd_core::app::Env;
use serde_json::Value;

use super::speaker::Introduction;
use super::*;

#[derive(Clone, Default)]
struct Captured(LogFormat, Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = SafeWriter<Self>;
    fn make_writer(&'a self) -> Self::Writer {
        SafeWriter { format: self.0, inner: self.clone() }
    }
}

/// What an agent logs that has just decided something.
fn heard(format: LogFormat, speak: impl FnOnce()) -> String {
    heard_of(format, decider, speak)
}

/// The agent of these tests. That of the process is the one of whichever test runs beside.
fn decider() -> Introduction {
    let record = crate::metrics::tests::decision();
    let data = speaker::Data::of(&record, record.decision().expect("a decision"));
    let last = Some(speaker::LastDecision::of(&record, &data));
    Introduction { id: Some("agent-a3f9c2b1".to_owned()), state: "deciding", last }
}

fn heard_of(format: LogFormat, who: fn() -> Introduction, speak: impl FnOnce()) -> String {
    let captured = Captured(format, Arc::default());
    let lines = tracing_subscriber::fmt::layer()
        .event_format(line::Lines::of(format, who))
        .with_writer(captured.clone());
    let subscriber = tracing_subscriber::registry().with(trace::Traces).with(lines);
    tracing::subscriber::with_default(subscriber, speak);
    let bytes = captured.1.lock().expect("not poisoned").clone();
    String::from_utf8(bytes).expect("utf-8")
}

const HOSTILE: &str = "evil\u{1b}[2J\u{9b}\u{202e}\r\n2026-01-01 ERROR forged";

#[test]
fn text_from_outside_can_neither_steer_a_terminal_nor_forge_a_line() {
    let out = heard(LogFormat::Text, || tracing::error!(name = HOSTILE, "{HOSTILE}"));
    assert_eq!(out.matches('\n').count(), 1, "{out}");
    assert!(out.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{out:?}");
    assert_eq!(out.matches("forged").count(), 2, "nothing is hidden");
}

#[test]
fn json_stays_json() {
    let out = heard(LogFormat::Json, || {
        tracing::error!(
            app = "a\u{1b}\u{202e}\n",
            agent_id = "agent-forged",
            decision_data = HOSTILE,
            "plain"
        );
    });
    let value: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["app"], "a\u{1b}\u{202e}\n");
    assert_eq!((&value["message"], &value["level"]), (&"plain".into(), &"ERROR".into()));
    assert_eq!(value["decision_data"], HOSTILE, "what is no JSON stays text");
    assert_eq!(value["agent_id"], "agent-a3f9c2b1");
    assert_eq!(out.matches("agent_id").count(), 1, "{out}");
    assert!(!out.contains('\u{202e}') && out.matches('\n').count() == 1);
}

#[test]
fn every_line_says_which_agent_in_which_state_and_what_it_decided_last() {
    let record = crate::metrics::tests::decision();
    let decided = record.decision().expect("a decision");
    let nobody = || Introduction { id: None, state: "idle", last: None };
    let before = heard_of(LogFormat::Json, nobody, || tracing::info!("nothing yet"));
    let before: Value = serde_json::from_str(&before).expect("JSON");
    assert!(before.get("agent_id").is_none() && before.get("last_decision").is_none());
    let speak = || crate::agent::tell(&record, decided);
    let line: Value = serde_json::from_str(&heard(LogFormat::Json, speak)).expect("JSON");
    assert_eq!(line["agent_id"], "agent-a3f9c2b1");
    assert_eq!(line["agent_state"], "deciding");
    assert_eq!(line["event"], "decision");
    assert_eq!(line["decision_type"], "rl_decision");
    assert_eq!(line["last_decision"]["type"], "rl_decision");
    assert_eq!(line["last_decision"]["data"], line["decision_data"]);
    assert_eq!(line["decision_data"]["action"], "DEPLOY");
    assert_eq!(line["decision_data"]["ruling"], "permitted");
    assert!(line["decision_data"]["confidence"].is_f64(), "{line:#}");
    assert!(line["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')), "{line:#}");
    let text = heard(LogFormat::Text, speak);
    assert!(text.contains(" INFO agent-a3f9c2b1 deciding dec-"), "{text}");
    assert!(text.contains(" web DEPLOY permitted, confidence ") && !text.contains("decision_data"));
}

#[test]
fn one_turn_is_one_trace_and_what_outlives_it_belongs_to_it() {
    let out = heard(LogFormat::Json, || {
        let effect = trace::turn().span.in_scope(|| {
            tracing::info!("first");
            tracing::info_span!("act").in_scope(|| tracing::info!("second"));
            tracing::info_span!("effect")
        });
        trace::turn().span.in_scope(|| tracing::info!("another"));
        effect.in_scope(|| tracing::info!("later"));
        tracing::info!("outside");
    });
    let ids: Vec<Option<String>> = out
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["trace_id"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    let [first, second, another, later, outside] = ids.as_slice() else { panic!("{out}") };
    assert!(first.as_ref().is_some_and(|id| id.len() == 32), "{out}");
    assert_eq!((first, first), (second, later), "{out}");
    assert!(another.is_some() && another != first && outside.is_none(), "{out}");
}

#[test]
fn filters_are_checked_before_they_are_used() {
    assert!(is_filter("info") && is_filter("agentd=debug,info") && is_filter("off"));
    assert!(!is_filter("agentd=loud") && !is_filter("=,="));
}

#[test]
fn the_environment_is_the_one_that_is_served() {
    let config = Config::load(&crate::config::ServerArgs {
        config: Some(std::path::PathBuf::from("/dev/null")),
        env: Some("stage".to_owned()),
        log_format: Some("json".to_owned()),
        ..Default::default()
    });
    let config = config.expect("valid");
    let settings = Settings::of(&config);
    assert_eq!((settings.env, settings.format), (Env::Stage.as_str(), LogFormat::Json));
}
