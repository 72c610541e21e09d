//! A process is killed and comes back.

use super::Scenario;
use super::steps::{KILL, ONBOARD, RESTARTED, STABLE};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "crash",
    summary: "kill -9 of a real process",
    steps: &[ONBOARD, KILL, RESTARTED, STABLE],
    any_app: true,
    human: false,
    typical: |tempo| 2 * tempo.effect_ms(),
};
