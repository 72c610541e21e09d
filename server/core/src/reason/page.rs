//! A page per code that a person may meet: what it means, why it exists, what to do. Compiled in, so that `agentctl explain CODE`
//! needs neither a server nor a network.

/// Makes the list: a name without its file does not compile.
macro_rules! pages {
    ($($code:literal)+) => {
        /// Every page, by code.
        pub const PAGES: &[Page] = &[$(Page {
            code: $code,
            text: include_str!(concat!("../../reasons/", $code, ".md")),
        }),+];
    };
}

pages! {
    "ACTION_ELIGIBILITY_FAILED"
    "AHEAD_OF_HEAD"
    "ALREADY_ONBOARDED"
    "APPROVAL_EXPIRED"
    "APPROVAL_REQUIRED"
    "AUTH_FAILURES"
    "BACKTEST_NOT_PASSED"
    "BATCH_TOO_LARGE"
    "BODY_LOST"
    "BREAKER_OPEN"
    "BUDGET_EXHAUSTED"
    "CANDIDATE_CHANGED"
    "CHAIN_BROKEN"
    "CLOCK_SKEW"
    "COMMON_CAUSE"
    "CONNECTION_AGE"
    "COOLDOWN_ACTIVE"
    "DEADLINE_EXCEEDED"
    "DECISION_DIFFERS"
    "DEMO_MODE_BLOCK"
    "DRAINING"
    "DRIVER_UNSUPPORTED"
    "DRY_RUN"
    "DUPLICATE_IN_PROGRESS"
    "EMPTY"
    "ENTRY_PRUNED"
    "ETAG_MISMATCH"
    "FLAPPING"
    "HALTED"
    "HELLO_MISSING"
    "HELLO_REPEATED"
    "HISTORY_CHANGED"
    "IDEMPOTENCY_KEY_REUSED"
    "INDEX_DIFFERS"
    "INDEX_UNAVAILABLE"
    "INSUFFICIENT_SOURCES"
    "INTERNAL"
    "INVALID_ARGUMENT"
    "INVALID_NAME"
    "LEARNING_FROZEN"
    "LEARNING_INVALID"
    "LIMIT_REACHED"
    "LINES_DIFFER"
    "LOG_DAMAGED"
    "LOG_ID_MISMATCH"
    "LOG_UNAVAILABLE"
    "LOG_UNPUBLISHED"
    "LOG_UNREADABLE"
    "MAINTENANCE_WINDOW"
    "MEMORY_OVERRIDE"
    "MESSAGE_UNKNOWN"
    "METHOD_UNKNOWN"
    "MISSING_PREREQUISITE"
    "NEGATIVE"
    "NOT_A_RECORD"
    "NOT_FINITE"
    "NOT_FOUND"
    "NOT_HUMAN"
    "NOT_PRUNABLE"
    "NO_CANDIDATE"
    "NO_DEMO_APP"
    "NO_PORT"
    "ONBOARDING_INVALID"
    "OUT_OF_RANGE"
    "OVERLOADED"
    "OWNER_CONFLICT"
    "PAUSED"
    "PLAN_CHANGED"
    "POLICY_CHANGED"
    "POLICY_INVALID"
    "PROD_SAFETY_BLOCK"
    "PROTECTED"
    "READ_ONLY"
    "REPETITION_SUPPRESSED"
    "REPO_HOST_NOT_LISTED"
    "REQUEST_CHANGED"
    "REQUEST_CLOSED"
    "REQUEST_RUNNING"
    "RESOURCE_BUSY"
    "RL_INTAKE_VALIDATED"
    "ROLE_REQUIRED"
    "SCENARIO_RUNNING"
    "SELF_APPROVAL"
    "SIGNAL_CONFLICT_OBSERVE"
    "SIGNAL_RATE"
    "SLOW_CONSUMER"
    "SOURCE_REFUSED"
    "STALE"
    "STALE_DATA"
    "STORM"
    "STREAMS"
    "TOKEN_INVALID"
    "TOKEN_MISSING"
    "TOOL_MISSING"
    "TOO_MANY"
    "TOO_MANY_BAD_SIGNALS"
    "UNCERTAINTY_NOOP"
    "UNKNOWN_ACTION"
    "UNKNOWN_APP"
    "UNREADABLE"
    "UNSAFE_ACTION_REFUSED"
    "WATCH_COMPACTED"
}

/// What is to be known about a code: of a gate, of an error of the API, or of a rejected signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    code: &'static str,
    text: &'static str,
}

impl Page {
    /// The page of `code`, if there is one.
    #[must_use]
    pub fn find(code: &str) -> Option<Self> {
        PAGES.iter().copied().find(|page| page.code == code)
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The whole page, Markdown.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        self.text
    }

    /// What it means; one sentence.
    #[must_use]
    pub fn what(&self) -> String {
        flowing(self.between("# ", "\n## Why\n"))
    }

    /// Why it exists.
    #[must_use]
    pub fn why(&self) -> String {
        flowing(self.between("\n## Why\n", TODO))
    }

    /// What can be done, one item each.
    #[must_use]
    pub fn todo(&self) -> Vec<String> {
        let (_, items) = self.text.split_once(TODO).unwrap_or_default();
        items.split("\n* ").map(flowing).filter(|item| !item.is_empty()).collect()
    }

    /// The text behind the line that `from` begins, up to `to`.
    fn between(&self, from: &str, to: &str) -> &'static str {
        let rest = self.text.split_once(from).map_or("", |(_, rest)| rest);
        let rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        rest.split_once(to).map_or(rest, |(text, _)| text)
    }
}

const TODO: &str = "\n## What to do\n";

/// One paragraph without its line breaks.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::reason::Reason;
    use crate::signal::Code;

    #[test]
    fn every_code_of_a_gate_and_of_a_rejected_signal_has_its_page() {
        for reason in Reason::ALL {
            let page = Page::find(reason.as_str()).unwrap_or_else(|| panic!("{reason} has none"));
            assert_eq!(page.what(), reason.what(), "{reason}: the page and the catalogue agree");
        }
        for rejection in Code::ALL {
            assert!(Page::find(rejection.as_str()).is_some(), "{rejection:?}");
        }
    }

    #[test]
    fn every_page_says_what_why_and_what_to_do_and_is_short() {
        for page in PAGES {
            let code = page.code();
            assert!(page.text().starts_with(&format!("# {code}\n\n")), "{code}");
            assert!(page.what().ends_with('.'), "{code}: {}", page.what());
            assert!(page.why().len() > 30, "{code}: {}", page.why());
            assert!((1..=4).contains(&page.todo().len()), "{code}: {:?}", page.todo());
            assert!(
                page.todo().iter().all(|item| item.ends_with('.')),
                "{code}: {:?}",
                page.todo()
            );
            assert!(
                page.text().lines().all(|line| line.chars().count() <= 120),
                "{code}: too wide"
            );
            assert!(page.text().lines().count() <= 30, "{code}: too long");
        }
    }

    #[test]
    fn codes_are_listed_once_and_in_order() {
        let codes: Vec<_> = PAGES.iter().map(Page::code).collect();
        let sorted: Vec<_> = codes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        assert_eq!(codes, sorted);
    }
}
