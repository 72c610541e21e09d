//! The honest way: judged by every gate, obeyed once.

use agentd_core::gates::{Case, enforce};
use agentd_core::permit::Permit;

fn obey(permit: Permit) -> u64 {
    permit.decision()
}

fn act(case: &Case<'_>) -> Option<u64> {
    enforce(case, 7).permit.map(obey)
}

pub(crate) fn main() {
    let _ = act;
}
