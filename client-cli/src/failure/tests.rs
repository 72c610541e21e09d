//! Golden texts of errors: what people and programs read when something is refused.

use std::collections::HashMap;

use tonic_types::{ErrorDetails, FieldViolation};

use super::*;

fn status(code: Code, message: &str, reason: &str, edit: impl FnOnce(&mut ErrorDetails)) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "agentctl.dev", HashMap::new());
    edit(&mut details);
    Status::with_error_details(code, message, details)
}

fn shown(failure: &Failure) -> String {
    let mut page = Page::default();
    failure.page(&mut page);
    page.render(false)
}

fn two_bad_fields() -> Status {
    status(Code::InvalidArgument, "2 fields are invalid", "ONBOARDING_INVALID", |details| {
        details.set_bad_request(vec![
            FieldViolation::new(
                "name",
                "must match ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$, got `My API; rm -rf /\x1b[2J`",
            ),
            FieldViolation::new("repo.url", "must be an https:// or ssh:// URL, got `file:///etc`"),
        ]);
    })
}

#[test]
fn all_violations_are_shown_aligned_with_rule_and_value() {
    assert_eq!(
        shown(&Failure::of_status(&two_bad_fields())),
        "error: 2 fields are invalid\n  \
         name      must match ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$  got \"My API; rm -rf /\\u{1b}[2J\"\n  \
         repo.url  must be an https:// or ssh:// URL             got \"file:///etc\"\n"
    );
}

#[test]
fn a_program_gets_the_same_as_one_object() {
    let failure = Failure::of_status(&two_bad_fields());
    let json = serde_json::to_value(failure.view()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"error": {
            "exit_code": 2,
            "message": "2 fields are invalid",
            "code": "INVALID_ARGUMENT",
            "reason": "ONBOARDING_INVALID",
            "violations": [
                {
                    "field": "name",
                    "rule": "must match ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$",
                    "value": "My API; rm -rf /\u{1b}[2J",
                },
                {"field": "repo.url", "rule": "must be an https:// or ssh:// URL", "value": "file:///etc"},
            ],
        }})
    );
}

#[test]
fn a_governance_refusal_says_what_it_means_and_what_to_do() {
    let refused = status(
        Code::FailedPrecondition,
        "prod is served by another server",
        "PROD_SAFETY_BLOCK",
        |details| {
            details.add_precondition_failure_violation(
                "PROD_SAFETY_BLOCK",
                "environment",
                "this server serves dev",
            );
        },
    );
    let failure = Failure::of_status(&refused);
    assert_eq!(failure.exit(), Exit::Refused);
    assert_eq!(
        shown(&failure),
        "error: prod is served by another server\n  \
         environment        this server serves dev\n  \
         PROD_SAFETY_BLOCK  The environment of the request is not the one this server serves, or prod forbids it.\n\
         hint:  use the server of that environment\n\
         hint:  `agentctl explain PROD_SAFETY_BLOCK` says more\n"
    );
}

#[test]
fn a_missing_role_names_the_role_and_the_flag() {
    let mut details = ErrorDetails::new();
    let metadata = HashMap::from([("need".to_owned(), "approver".to_owned())]);
    details.set_error_info("ROLE_REQUIRED", "agentctl.dev", metadata);
    let failure =
        Failure::of_status(&Status::with_error_details(Code::PermissionDenied, "no", details));
    assert_eq!(failure.exit(), Exit::Denied);
    assert!(shown(&failure).contains("use a token with the role approver"), "{}", shown(&failure));
}

#[test]
fn a_retry_delay_is_shown() {
    let busy = status(Code::ResourceExhausted, "64 watchers are open", "WATCHERS", |details| {
        details.set_retry_info(Some(Duration::from_secs(3)));
    });
    assert_eq!(shown(&Failure::of_status(&busy)), "error: 64 watchers are open\n  retry  in 3s\n");
}

#[test]
fn a_bare_status_still_reads_well() {
    let failure = Failure::of_status(&Status::new(Code::ResourceExhausted, ""));
    assert_eq!(failure.to_string(), "the server answered RESOURCE_EXHAUSTED");
}

#[test]
fn a_chain_of_errors_is_told_once_each() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);
    let error = Outer(std::io::Error::other("inner"));
    assert_eq!(chain(&error), "outer: inner");
}
