//! Judged by a list of one's own.

use agentd_core::gates::{Case, enforce_with};

fn lenient(case: &Case<'_>) -> bool {
    enforce_with(&[], case, 1).permit.is_some()
}

fn main() {
    let _ = lenient;
}
