//! Obeyed twice.

use agentd_core::permit::Permit;

fn obey(permit: Permit) -> u64 {
    permit.decision()
}

fn twice(permit: Permit) -> u64 {
    obey(permit) + obey(permit)
}

fn main() {
    let _ = twice;
}
