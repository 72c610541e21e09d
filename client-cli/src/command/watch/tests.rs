//! What a watcher reads, and what it never reads twice.

use super::*;
use crate::output::Format;
use crate::output::tests::{Tape, taped};

fn args() -> WatchArgs {
    WatchArgs {
        apps: vec![],
        since: None,
        tail: None,
        action: vec![],
        ruling: vec![],
        reason: vec![],
        until: None,
        all: false,
    }
}

fn refused(seq: u64) -> v1::Decision {
    v1::Decision {
        id: format!("dec-{seq}"),
        seq,
        time: Some(prost_types::Timestamp { seconds: 1_795_442_559, nanos: 0 }),
        app: "my-api".to_owned(),
        action: "RESTART".to_owned(),
        effective_action: "NOOP".to_owned(),
        ruling: v1::Ruling::Refused.into(),
        reason: "COOLDOWN_ACTIVE".to_owned(),
        confidence: 0.94,
        findings: vec![v1::Finding {
            detector: "crash".to_owned(),
            value: "exit 137".to_owned(),
            ..Default::default()
        }],
        verdicts: vec![v1::Verdict {
            group: 4,
            effect: v1::GateEffect::Refuse.into(),
            reason: "COOLDOWN_ACTIVE".to_owned(),
            value: "28s".to_owned(),
            limit: "60s".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn item(cursor: &str, item: Item) -> v1::WatchDecisionsResponse {
    v1::WatchDecisionsResponse { cursor: cursor.to_owned(), item: Some(item) }
}

async fn fed(
    format: Format,
    args: WatchArgs,
    items: Vec<v1::WatchDecisionsResponse>,
) -> (Tape, u64, bool) {
    let (mut output, out, _) = taped(format);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let session = connect::tests::with_server(listener).await;
    let mut watch = Watch::new(args, &session, &mut output);
    let mut done = false;
    for item in &items {
        done = watch.take(item).unwrap();
    }
    let last_seq = watch.last_seq;
    (out, last_seq, done)
}

#[tokio::test]
async fn a_row_reads_like_a_sentence() {
    let items = vec![item("c7", Item::Decision(Box::new(refused(7))))];
    let (out, ..) = fed(Format::Table, args(), items).await;
    assert_eq!(
        out.text(),
        "TIME UTC  APP           SIGNAL                        DECISION     CONF  GATES    OUTCOME       DETAIL                              ID\n\
         14:02:39  my-api        crash exit 137                restart      0.94  ···✖···  ✖ refused     COOLDOWN_ACTIVE 28s, limit 60s      dec-7\n"
    );
}

#[tokio::test]
async fn a_resumed_stream_shows_nothing_twice() {
    let items = vec![
        item("c7", Item::Decision(Box::new(refused(7)))),
        item("c7", Item::Decision(Box::new(refused(7)))),
        item("c8", Item::Decision(Box::new(refused(8)))),
        item("c9", Item::Bookmark(v1::Bookmark { seq: 9, ..Default::default() })),
    ];
    let (out, last_seq, _) = fed(Format::Jsonl, args(), items).await;
    let seqs: Vec<_> = out
        .text()
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["type"], "decision");
            (value["cursor"].as_str().unwrap().to_owned(), value["seq"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(seqs, [("c7".to_owned(), 7), ("c8".to_owned(), 8)]);
    assert_eq!(last_seq, 8);
}

#[tokio::test]
async fn a_watch_until_two_decisions_ends_with_the_second() {
    let until = WatchArgs { until: Some(Until::Count(2)), ..args() };
    let items = vec![
        item("c7", Item::Decision(Box::new(refused(7)))),
        item("c8", Item::Decision(Box::new(refused(8)))),
    ];
    let (_, _, done) = fed(Format::Jsonl, until, items).await;
    assert!(done);
}

#[tokio::test]
async fn under_a_filter_only_events_of_shown_decisions_follow() {
    let event = |seq, decision: &str| {
        Item::Event(v1::EventSummary {
            seq,
            event: "ORCH_EXEC".to_owned(),
            decision_id: decision.to_owned(),
            ..Default::default()
        })
    };
    let named = |seq, event: &str| {
        Item::Event(v1::EventSummary {
            seq,
            event: event.to_owned(),
            decision_id: "dec-7".to_owned(),
            ..Default::default()
        })
    };
    let filtered = WatchArgs { action: vec!["restart".to_owned()], ..args() };
    let items = vec![
        item("c7", Item::Decision(Box::new(refused(7)))),
        item("c8", event(8, "dec-7")),
        item("c9", event(9, "dec-5")),
        item("c10", event(10, "")),
        item("c11", named(11, "RL_INTAKE_VALIDATED")),
    ];
    let (out, ..) = fed(Format::Jsonl, filtered, items).await;
    assert_eq!(out.text().lines().count(), 2);
}

#[test]
fn outcomes_of_the_command_line_become_a_filter() {
    let filter = filter(
        &["a".to_owned()],
        &["restart".to_owned()],
        &["cooldown_active".to_owned()],
        &[RulingArg::Refused, RulingArg::Noop],
    );
    assert_eq!(filter.actions, ["RESTART", "NOOP"]);
    assert_eq!(filter.reasons, ["COOLDOWN_ACTIVE"]);
    assert_eq!(filter.rulings, [i32::from(v1::Ruling::Refused)]);
}

#[test]
fn until_is_stable_or_a_number() {
    assert_eq!("stable".parse(), Ok(Until::Stable));
    assert_eq!("3".parse(), Ok(Until::Count(3)));
    assert!("0".parse::<Until>().is_err());
    assert!("soon".parse::<Until>().is_err());
}
