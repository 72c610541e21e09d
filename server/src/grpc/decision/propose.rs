//! A human asks for an action.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentd_core::app::{AppName, Override};
use agentd_core::choose::Params;
use agentd_core::signal::{MICRO, Metric};
use agentd_core::step::{Reply, is_known_action};
use tonic::{Request, Status};

use super::super::status::Violation;
use super::super::to_proto::{self, Subject};
use super::super::{Services, from_proto, outcome, status};
use crate::agent::Ask;

const METHOD: &str = "DecisionService/ProposeAction";
/// The parameters an action can have.
const PARAMETERS: [&str; 5] = ["instances", "revision", "metric", "enter", "leave"];
/// Longest name of an action that is looked at.
const ACTION_MAX: usize = 64;

/// Asks the loop. A refusal is an answer.
pub(super) async fn propose(
    services: &Services,
    request: Request<v1::ProposeActionRequest>,
) -> Result<v1::Decision, Status> {
    let (_, extensions, mut content) = request.into_parts();
    let request_id = std::mem::take(&mut content.request_id);
    let validate_only = content.validate_only;
    let by = outcome::by(&extensions, METHOD, &request_id, &content, validate_only)?;
    let ask = parse(content)?;
    let answered = outcome::answer(services.agent.ask(ask, by).await)?;
    match answered {
        Reply::Decided { seq: None, decided, .. } => {
            Ok(to_proto::judged(&decided, &Subject { seq: None, env: services.env, cause: 0 }))
        }
        Reply::Decided { seq: Some(seq), .. } | Reply::Repeated { seq } => {
            super::read_decision(services, seq).await.map(|(decision, _)| decision)
        }
        Reply::None
        | Reply::Onboarded { .. }
        | Reply::Updated { .. }
        | Reply::Invalid(_)
        | Reply::Done { .. }
        | Reply::Failed(_) => {
            tracing::error!("the loop answered a proposal with something else");
            Err(status::internal(&request_id))
        }
    }
}

fn parse(content: v1::ProposeActionRequest) -> Result<Ask, Status> {
    let v1::ProposeActionRequest { app, action, parameters, reason, .. } = content;
    let mut violations = Vec::new();
    let name = AppName::parse(&app);
    if name.is_err() {
        violations.push(Violation::new("app", &app, AppName::RULE));
    }
    let known = action.len() <= ACTION_MAX && is_known_action(&action);
    if !known {
        violations.push(outcome::unknown_action_violation(&action));
    }
    let params = params(&parameters, &mut violations);
    let reason = from_proto::reason(&reason).unwrap_or_else(|violation| {
        violations.push(violation);
        String::new()
    });
    match name {
        Ok(app) if violations.is_empty() => Ok(Ask::Act { app, name: action, params, reason }),
        _ if !known && violations.len() == 1 => {
            Err(status::invalid_because("UNKNOWN_ACTION", &violations))
        }
        _ => Err(status::invalid(&violations)),
    }
}

/// The parameters by name; what has no meaning is refused, not ignored.
fn params(given: &BTreeMap<String, String>, violations: &mut Vec<Violation>) -> Params {
    for (name, value) in given.iter().filter(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
        let rule = format!("is no parameter; there are {}", PARAMETERS.join(", "));
        violations.push(Violation::new(field(name), value, rule));
    }
    let mut number = |name: &str| {
        let text = given.get(name)?;
        let number = text.parse::<u32>().ok().filter(|number| *number > 0);
        if number.is_none() {
            violations.push(Violation::new(field(name), text, "must be a whole number above 0"));
        }
        number
    };
    let (instances, revision) = (number("instances"), number("revision"));
    Params { instances, revision, raises: None, threshold: threshold(given, violations) }
}

fn threshold(
    given: &BTreeMap<String, String>,
    violations: &mut Vec<Violation>,
) -> Option<(Metric, Override)> {
    let names = ["metric", "enter", "leave"];
    let texts = names.map(|name| given.get(name));
    if texts.iter().all(Option::is_none) {
        return None;
    }
    let [Some(metric), Some(enter), Some(leave)] = texts else {
        for (name, _) in names.iter().zip(texts).filter(|(_, text)| text.is_none()) {
            let rule = "must be given: a threshold has `metric`, `enter` and `leave`";
            violations.push(Violation::new(field(name), "", rule));
        }
        return None;
    };
    let known = Metric::ALL.into_iter().find(|known| known.as_str() == metric);
    if known.is_none() {
        let names = Metric::ALL.map(Metric::as_str).join(", ");
        let rule = format!("must be one of {names}");
        violations.push(Violation::new(field("metric"), metric, rule));
    }
    let mut value = |name: &str, text: &str| {
        let micro = parse_micro(text);
        if micro.is_none() {
            let rule = "must be a decimal number of at most 6 places, such as 0.85";
            violations.push(Violation::new(field(name), text, rule));
        }
        micro
    };
    let (enter, leave) = (value("enter", enter), value("leave", leave));
    Some((known?, Override { enter: enter?, leave: leave? }))
}

fn field(name: &str) -> String {
    format!("parameters.{name}")
}

/// A decimal number in millionths, exactly.
fn parse_micro(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let part: i64 = format!("{part:0<6}").parse().ok()?;
    whole.checked_mul(MICRO)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    fn request(action: &str, parameters: &[(&str, &str)]) -> v1::ProposeActionRequest {
        let pairs = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        v1::ProposeActionRequest {
            app: "web".into(),
            action: action.into(),
            parameters: pairs.collect(),
            reason: "drill".into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_unknown_action_is_told_apart_from_one_that_is_refused_by_name() {
        let status = parse(request("dance", &[])).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.reason, "UNKNOWN_ACTION");
        let bad = status.get_details_bad_request().expect("a BadRequest");
        assert!(bad.field_violations[0].description.contains("RESTART"), "{bad:?}");
        for known in ["restart", "RESTART", "restart_service", "scale_workers", "drop_database"] {
            assert!(parse(request(known, &[])).is_ok(), "{known}");
        }
    }

    #[test]
    fn every_violation_is_reported_at_once() {
        let bad = v1::ProposeActionRequest {
            app: "Web!".into(),
            action: "dance".into(),
            parameters: request("", &[("instances", "-1"), ("colour", "red")]).parameters,
            reason: " ".into(),
            ..Default::default()
        };
        let status = parse(bad).unwrap_err();
        let bad = status.get_details_bad_request().expect("a BadRequest");
        let fields: Vec<&str> = bad.field_violations.iter().map(|v| v.field.as_str()).collect();
        let expected = ["app", "action", "parameters.colour", "parameters.instances", "reason"];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_threshold_is_read_exactly_or_not_at_all() {
        let given = [("metric", "latency_p99"), ("enter", "2.5"), ("leave", "2")];
        let Ok(Ask::Act { params, .. }) = parse(request("ADJUST_THRESHOLDS", &given)) else {
            panic!("valid")
        };
        let threshold = Override { enter: 2_500_000, leave: 2_000_000 };
        assert_eq!(params.threshold, Some((Metric::LatencyP99, threshold)));
        for text in ["", ".", "1.", ".5", "-1", "1e3", "0.1234567", "99999999999999999999", "NaN"] {
            assert_eq!(parse_micro(text), None, "{text}");
        }
        assert!(parse(request("ADJUST_THRESHOLDS", &given[..2])).is_err(), "one is missing");
    }
}
