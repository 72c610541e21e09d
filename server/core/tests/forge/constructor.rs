//! Made by the constructor of the gates.

use agentd_core::permit::Permit;
use agentd_core::plan::Plan;

fn forge(plan: Plan) -> Permit {
    Permit::new(plan, 1)
}

fn main() {
    let _ = forge;
}
