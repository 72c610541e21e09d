//! The only table from an error to a `tonic::Status`.
//!
//! Every status carries `google.rpc.ErrorInfo` with a stable reason; what varies is in its metadata or in a typed detail.
//! Text from outside is escaped and cut, so that a status always fits into the header list of any client.

use std::time::Duration;

use agentctl_api::text;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// Domain of every `ErrorInfo`.
pub const DOMAIN: &str = "agentctl.dev";

/// Most bytes of a status message.
pub const MAX_MESSAGE: usize = 1024;

/// Most bytes of all details together: a third of the 16 KiB of headers that clients accept by default, after base64.
pub const MAX_DETAILS: usize = 4096;

const MAX_VALUE: usize = 128;
const MAX_RULE: usize = 256;

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, such as `health_probe.http.path`.
    pub field: String,
    /// Its value, as it came.
    pub value: String,
    /// The rule, such as `must be 1 to 64`.
    pub rule: String,
}

impl Violation {
    /// `field` has `value`, which breaks `rule`.
    pub fn new(
        field: impl Into<String>,
        value: impl Into<String>,
        rule: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), value: value.into(), rule: rule.into() }
    }
}

/// `INVALID_ARGUMENT` with every violation at once, reason `INVALID_ARGUMENT`.
#[must_use]
pub fn invalid(violations: &[Violation]) -> Status {
    invalid_because("INVALID_ARGUMENT", violations)
}

/// `INVALID_ARGUMENT` with every violation at once and a reason of its own.
#[must_use]
pub fn invalid_because(reason: &str, violations: &[Violation]) -> Status {
    let message = match violations {
        [] => "invalid argument".to_owned(),
        [one] => format!("`{}` {}, got `{}`", shown(&one.field), one.rule, shown(&one.value)),
        [first, ..] => format!(
            "{} fields are invalid, the first is `{}`: {}, got `{}`",
            violations.len(),
            shown(&first.field),
            first.rule,
            shown(&first.value)
        ),
    };
    let mut answer = Answer::new(Code::InvalidArgument, reason, &message);
    for violation in violations {
        let rule = text::line(&violation.rule);
        answer.fields.push(FieldViolation::new(
            shown(&violation.field),
            format!("{}, got `{}`", text::cut(&rule, MAX_RULE), shown(&violation.value)),
        ));
    }
    answer.into_status()
}

/// `NOT_FOUND` for a resource, reason `NOT_FOUND`. The answer is the same whether it never existed or belongs to another
/// environment.
#[must_use]
pub fn not_found(kind: &str, name: &str) -> Status {
    let mut answer =
        Answer::new(Code::NotFound, "NOT_FOUND", &format!("{kind} `{name}` not found"));
    answer.details.set_resource_info(kind, shown(name), "", "does not exist in this environment");
    answer.into_status()
}

/// `NOT_FOUND` for an entry that was there: the log begins with `oldest` by now.
#[must_use]
pub fn pruned(seq: u64, oldest: u64) -> Status {
    let message = format!("entry {seq} is pruned: entries before {oldest} are no longer kept here");
    let mut answer = Answer::new(Code::NotFound, "ENTRY_PRUNED", &message);
    answer.details.set_resource_info("entry", seq.to_string(), "", "is no longer kept here");
    answer.with("oldest_seq", &oldest.to_string()).into_status()
}

/// `ALREADY_EXISTS` for a resource, such as an app that is onboarded or a request id that was used for something else.
#[must_use]
pub fn already_exists(reason: &str, kind: &str, name: &str) -> Status {
    let mut answer =
        Answer::new(Code::AlreadyExists, reason, &format!("{kind} `{name}` already exists"));
    answer.details.set_resource_info(kind, shown(name), "", "exists already");
    answer.into_status()
}

/// `FAILED_PRECONDITION`: `subject` is not in the state the call needs; `description` says what would clear it.
#[must_use]
pub fn precondition(reason: &str, subject: &str, description: &str) -> Status {
    let mut answer = Answer::new(Code::FailedPrecondition, reason, description);
    // Whole, as in the message: who shows both can tell that it is one text.
    let text = answer.message.clone();
    answer.details.add_precondition_failure_violation(reason, shown(subject), text);
    answer.into_status()
}

/// `UNAVAILABLE`: the server cannot serve this now; with `retry` the client may try again after it.
#[must_use]
pub fn unavailable(reason: &str, message: &str, retry: Option<Duration>) -> Status {
    let mut answer = Answer::new(Code::Unavailable, reason, message);
    if retry.is_some() {
        answer.details.set_retry_info(retry);
    }
    answer.into_status()
}

/// `DATA_LOSS`: the log is damaged at `seq`, or the cursor belongs to another log.
#[must_use]
pub fn data_loss(reason: &str, seq: u64, message: &str) -> Status {
    Answer::new(Code::DataLoss, reason, message).with("seq", &seq.to_string()).into_status()
}

/// `OUT_OF_RANGE`: the requested position is gone or not there yet; `oldest_cursor` is one that works.
#[must_use]
pub fn out_of_range(reason: &str, message: &str, oldest_cursor: &str) -> Status {
    Answer::new(Code::OutOfRange, reason, message)
        .with("oldest_cursor", oldest_cursor)
        .into_status()
}

/// `RESOURCE_EXHAUSTED`: `subject` used up a limit.
#[must_use]
pub fn exhausted(reason: &str, subject: &str, message: &str, retry: Option<Duration>) -> Status {
    let mut answer = Answer::new(Code::ResourceExhausted, reason, message);
    answer.details.add_quota_failure_violation(shown(subject), shown(message));
    if retry.is_some() {
        answer.details.set_retry_info(retry);
    }
    answer.into_status()
}

/// `ABORTED`: somebody or something else was faster; read again and repeat. `metadata` says with what.
#[must_use]
pub fn conflict(reason: &str, message: &str, metadata: &[(&str, &str)]) -> Status {
    metadata
        .iter()
        .fold(Answer::new(Code::Aborted, reason, message), |answer, (key, value)| {
            answer.with(key, value)
        })
        .into_status()
}

/// `UNAUTHENTICATED`: no token, or one that is not known.
#[must_use]
pub fn unauthenticated(reason: &str, message: &str) -> Status {
    Answer::new(Code::Unauthenticated, reason, message).into_status()
}

/// `PERMISSION_DENIED` for a reason other than a missing role, such as `SELF_APPROVAL`.
#[must_use]
pub fn permission_denied(reason: &str, message: &str) -> Status {
    Answer::new(Code::PermissionDenied, reason, message).into_status()
}

/// `PERMISSION_DENIED`, reason `ROLE_REQUIRED`, with the roles the caller has and the roles any one of which is needed.
#[must_use]
pub fn role_required(method: &str, have: &str, need: &str) -> Status {
    let message = format!("`{method}` needs one of the roles {need}; the token has {have}");
    Answer::new(Code::PermissionDenied, "ROLE_REQUIRED", &message)
        .with("have", have)
        .with("need", need)
        .into_status()
}

/// `UNIMPLEMENTED`: this server has no such method, or none that any role may call.
#[must_use]
pub fn unimplemented(method: &str) -> Status {
    Answer::new(Code::Unimplemented, "METHOD_UNKNOWN", &format!("unknown method `{method}`"))
        .into_status()
}

/// `DEADLINE_EXCEEDED`: the time the client gave is over. What was recorded stays recorded.
#[must_use]
pub fn deadline_exceeded() -> Status {
    let message = "the deadline of the call passed before the answer was ready";
    Answer::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).into_status()
}

/// `INTERNAL`: a bug. Its text stays in the server's log; the client gets what finds it there.
#[must_use]
pub fn internal(request_id: &str) -> Status {
    let message = format!("internal error, see the server's log for request `{request_id}`");
    Answer::new(Code::Internal, "INTERNAL", &message).with("request_id", request_id).into_status()
}

fn shown(value: &str) -> String {
    text::cut(&text::line(value), MAX_VALUE).into_owned()
}

struct Answer {
    code: Code,
    reason: String,
    message: String,
    metadata: Vec<(String, String)>,
    fields: Vec<FieldViolation>,
    details: ErrorDetails,
}

impl Answer {
    fn new(code: Code, reason: &str, message: &str) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: text::cut(&text::line(message), MAX_MESSAGE).into_owned(),
            metadata: Vec::new(),
            fields: Vec::new(),
            details: ErrorDetails::new(),
        }
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.metadata.push((key.to_owned(), text::cut(&text::line(value), MAX_RULE).into_owned()));
        self
    }

    /// Renders the status. Violations that do not fit are counted in the metadata, never dropped in silence.
    fn into_status(self) -> Status {
        let total = self.fields.len();
        let mut kept = total;
        loop {
            let status = self.render(kept, total);
            if kept == 0 || status.details().len() <= MAX_DETAILS {
                return status;
            }
            kept -= kept.div_ceil(8);
        }
    }

    fn render(&self, kept: usize, total: usize) -> Status {
        let mut details = self.details.clone();
        let mut metadata: std::collections::HashMap<_, _> = self.metadata.iter().cloned().collect();
        if kept < total {
            metadata.insert("violations".to_owned(), total.to_string());
            metadata.insert("violations_omitted".to_owned(), (total - kept).to_string());
        }
        details.set_error_info(&self.reason, DOMAIN, metadata);
        if kept > 0 {
            details.set_bad_request(self.fields.iter().take(kept).cloned().collect::<Vec<_>>());
        }
        Status::with_error_details(self.code, &self.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(status: &Status) -> String {
        let info = status.get_details_error_info().expect("every status has an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        info.reason
    }

    #[test]
    fn every_violation_is_reported_at_once_with_its_field_rule_and_value() {
        let status = invalid(&[
            Violation::new("name", "My API; rm -rf /\n", "must match ^[a-z]"),
            Violation::new("source.repo.url", "file:///etc", "must be an https:// URL"),
        ]);
        assert_eq!(status.code(), Code::InvalidArgument);
        let bad = status.get_details_bad_request().expect("a BadRequest");
        let lines: Vec<_> = bad
            .field_violations
            .iter()
            .map(|v| format!("{}: {}", v.field, v.description))
            .collect();
        assert_eq!(
            lines,
            [
                "name: must match ^[a-z], got `My API; rm -rf /\\n`",
                "source.repo.url: must be an https:// URL, got `file:///etc`"
            ]
        );
    }

    #[test]
    fn a_flood_of_violations_is_cut_to_the_limit_and_says_so() {
        let many: Vec<_> = (0..500)
            .map(|i| Violation::new(format!("f{i}"), "\u{1b}".repeat(300), "r".repeat(1000)))
            .collect();
        let status = invalid(&many);
        assert!(status.message().len() <= MAX_MESSAGE, "{}", status.message().len());
        assert!(status.details().len() <= MAX_DETAILS, "{}", status.details().len());
        let info = status.get_details_error_info().expect("an ErrorInfo");
        let kept = status.get_details_bad_request().expect("some").field_violations.len();
        assert_eq!(info.metadata["violations"], "500");
        assert_eq!(info.metadata["violations_omitted"], (500 - kept).to_string());
        assert!(kept > 0);
    }

    #[test]
    fn text_from_outside_cannot_write_to_a_terminal() {
        let name = "a\u{1b}]52;c;ZXZpbA==\u{7}\u{202e}";
        for status in [
            not_found("app", name),
            already_exists("ALREADY_ONBOARDED", "app", name),
            precondition("PAUSED", name, name),
            exhausted("STREAMS", name, name, None),
            conflict("PLAN_CHANGED", name, &[("digest", name)]),
            unimplemented(name),
        ] {
            assert!(status.message().chars().all(|c| !c.is_control() && c != '\u{202e}'));
            let details = String::from_utf8_lossy(status.details()).into_owned();
            assert!(!details.contains("\u{1b}]52"), "{details}");
        }
    }

    #[test]
    fn each_constructor_has_its_code_reason_and_detail() {
        let retry = Some(Duration::from_secs(3));
        let status = unavailable("LOG_UNAVAILABLE", "the log cannot be written", retry);
        assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "LOG_UNAVAILABLE".into()));
        assert_eq!(status.get_details_retry_info().and_then(|r| r.retry_delay), retry);

        let status = data_loss("CHAIN_BROKEN", 512, "hash mismatch");
        assert_eq!(status.code(), Code::DataLoss);
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.metadata["seq"], "512");

        let status = out_of_range("WATCH_COMPACTED", "pruned", "c1");
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.metadata["oldest_cursor"], "c1");

        let status = role_required("/agentctl.v1.AgentService/Pause", "viewer", "operator, admin");
        assert_eq!(reason(&status), "ROLE_REQUIRED");
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(
            (&*info.metadata["have"], &*info.metadata["need"]),
            ("viewer", "operator, admin")
        );

        let status = exhausted("WATCHERS", "principal:ci", "64 watchers are open", retry);
        let quota = status.get_details_quota_failure().expect("a QuotaFailure");
        assert_eq!(quota.violations[0].subject, "principal:ci");

        let status = precondition("APPROVAL_EXPIRED", "apr-1", "ask again");
        let failure = status.get_details_precondition_failure().expect("a PreconditionFailure");
        assert_eq!(failure.violations[0].r#type, "APPROVAL_EXPIRED");

        assert_eq!(internal("req-1").code(), Code::Internal);
        assert_eq!(deadline_exceeded().code(), Code::DeadlineExceeded);
    }
}
