//! Another plan in an honest permit.

use agentd_core::permit::Permit;
use agentd_core::plan::Plan;

fn swap(permit: &mut Permit, plan: Plan) {
    permit.plan = plan;
}

fn main() {
    let _ = swap;
}
