//! Written down instead of earned.

use agentd_core::permit::Permit;
use agentd_core::plan::Plan;

fn forge(plan: Plan) -> Permit {
    Permit { plan, decision: 1 }
}

fn main() {
    let _ = forge;
}
