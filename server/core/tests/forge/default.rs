//! Out of nothing.

use agentd_core::permit::Permit;

fn main() {
    let _forged: Permit = Default::default();
}
