//! From what the loop and the log answer to a `tonic::Status`, and from a caller to the `By` of a record.

use std::collections::HashMap;
use std::time::Duration;

use agentctl_api::text;
use agentd_core::action::Action;
use agentd_core::digest::sha256_hex;
use agentd_core::record;
use agentd_core::step::{By, Failure, Reply};
use http::Extensions;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use uuid::Uuid;

use super::status::{self, Violation};
use crate::agent::{Gone, Unavailable};
use crate::auth::{Principal, Role};
use crate::journal;

/// Time after which a client may try again while the log cannot be written.
const LOG_RETRY: Duration = Duration::from_secs(1);
/// Time after which a client may try again at a server that starts again.
const STOPPED_RETRY: Duration = Duration::from_secs(2);
/// Names of actions a caller may ask for besides those of [`Action::ALL`].
const ALIASES: [&str; 4] =
    ["restart_service", "scale_workers", "retry", "restore_previous_version"];

/// The reply of the loop, or the status that says why there is none. What is left is never `Reply::Failed` or
/// `Reply::Invalid`.
///
/// # Errors
/// `UNAVAILABLE` when the agent has stopped or the log cannot be written, `DATA_LOSS` when the log is damaged,
/// `INVALID_ARGUMENT` with every violation, and what [`failure`] gives.
pub fn answer(result: Result<Result<Reply, Unavailable>, Gone>) -> Result<Reply, Status> {
    match result.map_err(gone)?.map_err(|error| unavailable(&error))? {
        Reply::Failed(failed) => Err(failure(failed)),
        Reply::Invalid(violations) => Err(status::invalid(&wire(violations))),
        reply => Ok(reply),
    }
}

/// The agent has stopped: `UNAVAILABLE`, reason `DRAINING`.
#[must_use]
pub fn gone(gone: Gone) -> Status {
    status::unavailable("DRAINING", &gone.to_string(), Some(STOPPED_RETRY))
}

/// The log cannot be written: `UNAVAILABLE` with `LOG_UNAVAILABLE`, or `DATA_LOSS` with `LOG_DAMAGED`, which no retry clears.
#[must_use]
pub fn unavailable(error: &Unavailable) -> Status {
    if error.damaged {
        // The text names the record; the loop does not hand its number over.
        let mut details = ErrorDetails::new();
        details.set_error_info("LOG_DAMAGED", status::DOMAIN, HashMap::new());
        let text = text::line(&error.to_string()).into_owned();
        let text = text::cut(&text, status::MAX_MESSAGE);
        return Status::with_error_details(Code::DataLoss, text, details);
    }
    status::unavailable("LOG_UNAVAILABLE", &error.to_string(), Some(LOG_RETRY))
}

/// Why a request cannot be done, as a status.
#[must_use]
pub fn failure(failure: Failure) -> Status {
    let text = failure.to_string();
    match failure {
        Failure::NoSuchApp(name) => status::not_found("app", &name),
        Failure::Changed { etag, .. } => {
            status::conflict("ETAG_MISMATCH", &text, &[("etag", &etag)])
        }
        Failure::NoSuchApproval(seq) => status::not_found("approval", &super::ids::approval(seq)),
        Failure::ApprovalClosed { approval, .. } => {
            status::precondition("REQUEST_CLOSED", &super::ids::approval(approval), &text)
        }
        Failure::ApprovalExpired(approval) => {
            status::precondition("APPROVAL_EXPIRED", &super::ids::approval(approval), &text)
        }
        Failure::SelfApproval(_) => status::permission_denied("SELF_APPROVAL", &text),
        Failure::PlanChanged { pending } => {
            let pending = super::ids::digest(&pending);
            status::conflict("REQUEST_CHANGED", &text, &[("plan_digest", &pending)])
        }
        Failure::UnknownAction(name) => unknown_action(&name),
        Failure::RequestReused(id) => {
            status::already_exists("IDEMPOTENCY_KEY_REUSED", "request", &id)
        }
        Failure::AppExists(name) => status::already_exists("ALREADY_ONBOARDED", "app", &name),
        Failure::Limit { what, .. } => status::exhausted("LIMIT_REACHED", what, &text, None),
        Failure::Unprunable { before, .. } => {
            status::precondition("NOT_PRUNABLE", &format!("entries before {before}"), &text)
        }
        Failure::Frozen => status::precondition("LEARNING_FROZEN", "learning", &text),
        Failure::NoCandidate(_) => status::precondition("NO_CANDIDATE", "candidate", &text),
        Failure::CandidateChanged { candidate } => {
            let candidate = super::ids::digest(&candidate);
            status::conflict("CANDIDATE_CHANGED", &text, &[("candidate_digest", &candidate)])
        }
        Failure::BacktestNotPassed { .. } => {
            status::precondition("BACKTEST_NOT_PASSED", "candidate", &text)
        }
        Failure::NotHuman(_) => status::permission_denied("NOT_HUMAN", &text),
    }
}

fn unknown_action(name: &str) -> Status {
    status::invalid_because("UNKNOWN_ACTION", &[unknown_action_violation(name)])
}

/// The violation of an action name that nobody knows, with the names that are.
#[must_use]
pub fn unknown_action_violation(name: &str) -> Violation {
    let known = Action::ALL.iter().filter(|action| action.is_selectable());
    let names: Vec<&str> = known.map(|action| action.as_str()).chain(ALIASES).collect();
    Violation::new("action", name, format!("must be one of {}", names.join(", ")))
}

/// Violations found by the core, as the status module wants them.
#[must_use]
pub fn wire(violations: Vec<agentd_core::app::Violation>) -> Vec<Violation> {
    violations.into_iter().map(|v| Violation::new(v.field, v.value, v.rule)).collect()
}

/// What reading the log failed with, as a status: `DATA_LOSS` with the sequence number at damage, `OUT_OF_RANGE` for what is
/// pruned, `UNAVAILABLE` for the rest.
#[must_use]
pub fn journal(error: &journal::Error, oldest_cursor: &str) -> Status {
    match error {
        journal::Error::Damaged(damage) => {
            status::data_loss("CHAIN_BROKEN", damage.seq, &damage.to_string())
        }
        journal::Error::Pruned { .. } => {
            status::out_of_range("WATCH_COMPACTED", &error.to_string(), oldest_cursor)
        }
        journal::Error::Closed => {
            status::unavailable("DRAINING", &error.to_string(), Some(STOPPED_RETRY))
        }
        _ => {
            let cause = std::error::Error::source(error);
            let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
            status::unavailable("LOG_UNREADABLE", &text, Some(LOG_RETRY))
        }
    }
}

/// The authenticated caller.
///
/// # Errors
/// `UNAUTHENTICATED` when nothing in front of the service authenticated one, which the listener rules out.
pub fn principal(extensions: &Extensions) -> Result<&Principal, Status> {
    extensions.get::<Principal>().ok_or_else(|| {
        status::unauthenticated(
            "TOKEN_MISSING",
            "no token: send it as `authorization: Bearer TOKEN`",
        )
    })
}

/// Who asks, for the record.
///
/// `content` is the request with its `request_id` cleared: with `method` (such as `DecisionService/ProposeAction`) it is what a
/// repeat of the same request id must equal. Maps of the API are ordered, so equal messages have equal bytes.
///
/// # Errors
/// `INVALID_ARGUMENT` when `request_id` is there and no UUID, `UNAUTHENTICATED` when nobody is.
pub fn by(
    extensions: &Extensions,
    method: &'static str,
    request_id: &str,
    content: &impl Message,
    validate_only: bool,
) -> Result<By, Status> {
    let principal = principal(extensions)?;
    let human =
        [Role::Operator, Role::Approver, Role::Admin].into_iter().any(|role| principal.has(role));
    let request = match request_id {
        "" => None,
        id => Some(record::Request { id: parse_request_id(id)?, digest: digest(method, content) }),
    };
    Ok(By { principal: principal.name().to_owned(), human, request, validate_only })
}

/// The request id in its one canonical form: the same UUID in other letters is the same request.
fn parse_request_id(id: &str) -> Result<String, Status> {
    Uuid::try_parse(id).map(|uuid| uuid.to_string()).map_err(|_not_a_uuid| {
        status::invalid(&[Violation::new("request_id", id, "must be a UUID or empty")])
    })
}

fn digest(method: &str, content: &impl Message) -> String {
    let mut bytes = Vec::with_capacity(method.len() + 1 + content.encoded_len());
    bytes.extend_from_slice(method.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&content.encode_to_vec());
    sha256_hex(&bytes)
}

#[cfg(test)]
mod tests {
    use agentctl_api::v1;

    use super::*;

    fn operator() -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(Principal::new("ada", [Role::Operator], None));
        extensions
    }

    fn reason(status: &Status) -> String {
        status.get_details_error_info().expect("an ErrorInfo").reason
    }

    #[test]
    fn the_same_request_id_means_the_same_request_only_for_the_same_method_and_content() {
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let request = |method, id: &str, reason: &str| {
            let content = v1::FreezeRequest { reason: reason.into(), request_id: String::new() };
            by(&operator(), method, id, &content, false).unwrap().request.unwrap()
        };
        let first = request("AgentService/Freeze", id, "drill");
        assert_eq!(first, request("AgentService/Freeze", &id.to_uppercase(), "drill"));
        assert_ne!(first.digest, request("AgentService/Freeze", id, "other").digest);
        assert_ne!(first.digest, request("AgentService/Unfreeze", id, "drill").digest);
        assert_eq!(first.digest.len(), 64);
    }

    #[test]
    fn a_request_id_that_is_no_uuid_is_refused_and_a_missing_one_is_fine() {
        let content = v1::FreezeRequest::default();
        let status = by(&operator(), "m", "1'; drop", &content, false).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(by(&operator(), "m", "", &content, false).unwrap().request, None);
        let status = by(&Extensions::new(), "m", "", &content, false).unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }

    #[test]
    fn only_people_who_may_ask_for_actions_count_as_human() {
        for (role, human) in [
            (Role::Viewer, false),
            (Role::Monitor, false),
            (Role::Operator, true),
            (Role::Approver, true),
            (Role::Admin, true),
        ] {
            let mut extensions = Extensions::new();
            extensions.insert(Principal::new("p", [role], None));
            let by = by(&extensions, "m", "", &v1::FreezeRequest::default(), true).unwrap();
            assert_eq!((by.human, by.validate_only), (human, true), "{role:?}");
        }
    }

    #[test]
    fn every_failure_has_its_code_and_reason() {
        for (failed, code, expected) in [
            (Failure::NoSuchApp("x".into()), Code::NotFound, "NOT_FOUND"),
            (Failure::NoSuchApproval(7), Code::NotFound, "NOT_FOUND"),
            (
                Failure::ApprovalClosed { approval: 7, state: "rejected".into() },
                Code::FailedPrecondition,
                "REQUEST_CLOSED",
            ),
            (Failure::ApprovalExpired(7), Code::FailedPrecondition, "APPROVAL_EXPIRED"),
            (Failure::SelfApproval("ada".into()), Code::PermissionDenied, "SELF_APPROVAL"),
            (Failure::PlanChanged { pending: "aa".into() }, Code::Aborted, "REQUEST_CHANGED"),
            (
                Failure::Changed { app: "x".into(), etag: "e".into() },
                Code::Aborted,
                "ETAG_MISMATCH",
            ),
            (Failure::UnknownAction("dance".into()), Code::InvalidArgument, "UNKNOWN_ACTION"),
            (Failure::RequestReused("u".into()), Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"),
            (Failure::AppExists("x".into()), Code::AlreadyExists, "ALREADY_ONBOARDED"),
            (
                Failure::Limit { what: "pauses", limit: 100 },
                Code::ResourceExhausted,
                "LIMIT_REACHED",
            ),
            (Failure::NotHuman("m".into()), Code::PermissionDenied, "NOT_HUMAN"),
        ] {
            let status = answer(Ok(Ok(Reply::Failed(failed)))).unwrap_err();
            assert_eq!((status.code(), reason(&status)), (code, expected.to_owned()));
        }
        let status = failure(Failure::UnknownAction("dance".into()));
        let bad = status.get_details_bad_request().expect("a BadRequest");
        let text = &bad.field_violations[0].description;
        assert!(text.contains("RESTART") && text.contains("scale_workers"), "{text}");
        assert!(!text.contains("DEPLOY,"), "a deployment is not asked for by name: {text}");
        let status = answer(Err(Gone)).unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "DRAINING".to_owned()));
        let down = Unavailable { reason: "disk full".into(), damaged: false };
        let status = answer(Ok(Err(down))).unwrap_err();
        assert_eq!(reason(&status), "LOG_UNAVAILABLE");
        assert!(status.get_details_retry_info().is_some());
    }
}
