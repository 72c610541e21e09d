//! Exit codes: the part of the command line that scripts depend on.

use std::process::ExitCode;

use tonic::Code;

use agentd_core::reason::Reason;

/// How a command ended. The numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Everything that was asked for happened.
    Ok,
    /// It failed for a reason without a code of its own.
    Failure,
    /// The command line or a value on it is not valid, or a question could not be asked.
    Usage,
    /// What was named does not exist in this environment.
    NotFound,
    /// No token, an unknown one, or one whose roles do not allow this.
    Denied,
    /// Governance refused. The refusal is recorded; asking again changes nothing.
    Refused,
    /// A human has to approve first, or nobody did in time.
    Approval,
    /// Something else was faster, or exists already.
    Conflict,
    /// The server cannot be reached.
    Unreachable,
    /// What was waited for did not happen in time.
    TimedOut,
    /// The proof log does not verify.
    ProofFailed,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// Every way to end, in the order of the numbers.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Failure,
        Self::Usage,
        Self::NotFound,
        Self::Denied,
        Self::Refused,
        Self::Approval,
        Self::Conflict,
        Self::Unreachable,
        Self::TimedOut,
        Self::ProofFailed,
        Self::Interrupted,
    ];

    /// The number the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Refused => 5,
            Self::Approval => 6,
            Self::Conflict => 7,
            Self::Unreachable => 8,
            Self::TimedOut => 9,
            Self::ProofFailed => 10,
            Self::Interrupted => 130,
        }
    }

    /// What it means, for the help.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage, or invalid input",
            Self::NotFound => "not found",
            Self::Denied => "unauthenticated or forbidden",
            Self::Refused => "refused by governance",
            Self::Approval => "approval pending or expired",
            Self::Conflict => "conflict: exists already, or changed meanwhile",
            Self::Unreachable => "server unreachable",
            Self::TimedOut => "timed out waiting",
            Self::ProofFailed => "proof verification failed",
            Self::Interrupted => "interrupted (Ctrl-C)",
        }
    }

    /// The code for an RPC status and the reason its `ErrorInfo` carries.
    ///
    /// A reason of the governance catalogue counts more than the status code: the server was reached and said no.
    #[must_use]
    pub fn of_status(code: Code, reason: &str) -> Self {
        match Reason::parse(reason) {
            Some(Reason::ApprovalRequired | Reason::ApprovalExpired) => return Self::Approval,
            Some(Reason::PlanChanged | Reason::DuplicateInProgress) => return Self::Conflict,
            Some(_) if code != Code::PermissionDenied => return Self::Refused,
            _ => {}
        }
        match code {
            Code::Ok => Self::Ok,
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied,
            Code::FailedPrecondition => Self::Refused,
            Code::Aborted | Code::AlreadyExists => Self::Conflict,
            Code::Unavailable => Self::Unreachable,
            Code::DeadlineExceeded => Self::TimedOut,
            Code::DataLoss => Self::ProofFailed,
            Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal => Self::Failure,
        }
    }

    /// The table of codes for the help.
    #[must_use]
    pub fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for exit in Self::ALL {
            text.push_str(&format!("  {:>3}  {}\n", exit.code(), exit.meaning()));
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_contract() {
        let table = Exit::ALL.map(|exit| (exit.code(), exit.meaning()));
        assert_eq!(
            table,
            [
                (0, "ok"),
                (1, "failure"),
                (2, "usage, or invalid input"),
                (3, "not found"),
                (4, "unauthenticated or forbidden"),
                (5, "refused by governance"),
                (6, "approval pending or expired"),
                (7, "conflict: exists already, or changed meanwhile"),
                (8, "server unreachable"),
                (9, "timed out waiting"),
                (10, "proof verification failed"),
                (130, "interrupted (Ctrl-C)"),
            ]
        );
    }

    #[test]
    fn a_status_maps_to_the_code_a_script_expects() {
        for (code, reason, exit) in [
            (Code::InvalidArgument, "INVALID_ARGUMENT", Exit::Usage),
            (Code::OutOfRange, "PRUNED", Exit::Usage),
            (Code::NotFound, "NOT_FOUND", Exit::NotFound),
            (Code::Unauthenticated, "UNAUTHENTICATED", Exit::Denied),
            (Code::PermissionDenied, "ROLE_REQUIRED", Exit::Denied),
            (Code::PermissionDenied, "SOURCE_REFUSED", Exit::Denied),
            (Code::FailedPrecondition, "PROD_SAFETY_BLOCK", Exit::Refused),
            (Code::FailedPrecondition, "APPROVAL_EXPIRED", Exit::Approval),
            (Code::Unavailable, "LOG_UNAVAILABLE", Exit::Refused),
            (Code::Unavailable, "", Exit::Unreachable),
            (Code::AlreadyExists, "ALREADY_EXISTS", Exit::Conflict),
            (Code::Aborted, "PLAN_CHANGED", Exit::Conflict),
            (Code::DeadlineExceeded, "", Exit::TimedOut),
            (Code::DataLoss, "FOREIGN_CURSOR", Exit::ProofFailed),
            (Code::Internal, "", Exit::Failure),
        ] {
            assert_eq!(Exit::of_status(code, reason), exit, "{code:?} {reason}");
        }
    }
}
