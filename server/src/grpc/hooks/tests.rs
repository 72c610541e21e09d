use agentd_core::app::Env;
use serde_json::Value;

use super::*;
use crate::auth::Role;
use crate::grpc::telemetry::harness::Server;

#[test]
fn a_status_is_told_as_http_has_it_and_to_protobuf_as_a_status() {
    let retry = Some(Duration::from_millis(1_200));
    let status = status::exhausted("SIGNAL_RATE", "principal:ci", "too fast", retry);
    let answer = refused(&status, false);
    assert_eq!((answer.status, answer.retry_after), (StatusCode::TOO_MANY_REQUESTS, Some(2)));
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(told["reason"], "SIGNAL_RATE");
    let answer = refused(&status, true);
    let told = tonic_types::pb::Status::decode(answer.body).unwrap();
    assert_eq!((told.code, told.message.as_str()), (8, "too fast"));
    let bare = refused(&Status::permission_denied("no"), true);
    assert_eq!(tonic_types::pb::Status::decode(bare.body).unwrap().message, "no");
}

#[test]
fn every_door_is_in_the_table_of_who_may_knock_and_only_those() {
    for (path, access) in crate::auth::matrix::HOOKS {
        assert!(Hook::at(path).is_some(), "{path}");
        assert!(access.mutates(), "{path} changes what is known");
    }
    assert_eq!(Hook::at("/v1/logs"), None);
}

#[test]
fn an_event_names_every_rule_it_breaks_and_its_data_is_read_as_an_import_reads_it() {
    let body = br#"{"specversion":"0.3","type":"x","data":{"cpu":1},"time":"soon"}"#;
    let status = events::structured(body).unwrap_err();
    let details = status.get_details_bad_request().unwrap();
    let fields: Vec<_> = details.field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["specversion", "type", "id", "source", "data", "time"]);
    let body = br#"{"specversion":"1.0","type":"dev.agentctl.signal.v1","id":"1","source":"/s","subject":"web",
        "time":"2026-01-01T00:00:00Z","data":{"cpuUtilization":0.5,"ttl":"30s"}}"#;
    let [event] = events::structured(body).unwrap().try_into().unwrap();
    assert_eq!((event.signal.app.as_str(), event.signal.cpu_utilization), ("web", Some(0.5)));
    assert_eq!(event.signal.time.unwrap().seconds, 1_767_225_600);
}

/// Sends `(id, app, seconds from now)` as a batch; what was told.
fn send(
    server: &Server,
    principal: &Principal,
    events: &[(&str, &str, i64)],
) -> (StatusCode, Value) {
    let now = i64::try_from(server.services.clock.now_ms() / 1_000).unwrap();
    let event = |(id, app, after): &(&str, &str, i64)| {
        let time = chrono::DateTime::from_timestamp(now + after, 0).unwrap().to_rfc3339();
        serde_json::json!({ "specversion": "1.0", "type": events::TYPE, "id": id, "source": "/s", "subject": app,
            "time": time, "data": { "cpuUtilization": 0.5 } })
    };
    let body = serde_json::to_vec(&events.iter().map(event).collect::<Vec<_>>()).unwrap();
    let kind = "application/cloudevents-batch+json";
    let answer =
        cloud_events(&server.services, principal.clone(), kind, &HeaderMap::new(), &body).unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn monitor(name: &str, app: &str) -> Principal {
    Principal::new(name, [Role::Monitor], Some([app.to_owned()].into()))
}

#[tokio::test]
async fn events_of_one_principal_are_no_duplicates_of_those_of_another() {
    let server = Server::start(Env::Dev);
    server.onboard("a").await;
    server.onboard("b").await;
    let (of_a, of_b) = (monitor("ma", "a"), monitor("mb", "b"));
    let (_, told) = send(&server, &of_b, &[("1", "b", 0)]);
    assert_eq!(told["accepted"], 1);
    let (_, told) = send(&server, &of_a, &[("1", "a", 0), ("1", "a", 0)]);
    assert_eq!((&told["accepted"], &told["duplicates"]), (&1.into(), &1.into()), "{told}");
    let (status, told) = send(&server, &of_a, &[("1", "a", 0)]);
    assert_eq!((status, &told["duplicates"]), (StatusCode::OK, &1.into()), "{told}");
}

#[tokio::test]
async fn an_event_that_was_rejected_is_no_duplicate_when_it_is_sent_again() {
    let server = Server::start(Env::Dev);
    server.onboard("a").await;
    let all = Principal::new("ci", [Role::Monitor], None);
    let (status, told) = send(&server, &all, &[("1", "late", 0), ("2", "a", 86_400)]);
    assert_eq!((status, &told["rejected"]), (StatusCode::UNPROCESSABLE_ENTITY, &2.into()));
    let reasons: Vec<_> =
        told["rejections"].as_array().unwrap().iter().map(|r| &r["reason"]).collect();
    assert_eq!(reasons, ["UNKNOWN_APP", "CLOCK_SKEW"]);
    server.onboard("late").await;
    let (_, told) = send(&server, &all, &[("1", "late", 0), ("2", "a", 0)]);
    assert_eq!(told, serde_json::json!({ "accepted": 2, "rejected": 0 }));
}

#[tokio::test]
async fn a_rejection_names_its_place_in_the_body() {
    let server = Server::start(Env::Dev);
    server.onboard("a").await;
    let all = Principal::new("ci", [Role::Monitor], None);
    let (_, told) = send(&server, &all, &[("1", "a", 0), ("1", "a", 0), ("2", "nobody", 0)]);
    assert_eq!((&told["duplicates"], &told["rejections"][0]["index"]), (&1.into(), &2.into()));
}

#[test]
fn a_line_break_in_a_source_makes_no_two_events_one() {
    let event = |source: &str, id: &str| {
        let (source, id) = (source.to_owned(), id.to_owned());
        events::Event { source, id, signal: v1::Signal::default() }
    };
    assert_ne!(name_of(&event("a\nb", "c")), name_of(&event("a", "b\nc")));
}
