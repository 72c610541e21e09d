use super::*;

#[test]
fn a_status_is_told_as_http_has_it_and_to_protobuf_as_a_status() {
    let retry = Some(Duration::from_millis(1_200));
    let status = status::exhausted("SIGNAL_RATE", "principal:ci", "too fast", retry);
    let answer = refused(&status, false);
    assert_eq!((answer.status, answer.retry_after), (StatusCode::TOO_MANY_REQUESTS, Some(2)));
    let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
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
