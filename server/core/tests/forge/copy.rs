//! One permit becomes two.

use agentd_core::permit::Permit;

fn two(permit: &Permit) -> Permit {
    Permit::clone(permit)
}

fn main() {
    let _ = two;
}
