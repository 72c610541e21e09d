//! Plans: what exactly would be done to what exactly, with a digest that an approval is bound to.

use serde::{Deserialize, Serialize};

use crate::action::{Action, Level};
use crate::app::AppName;
use crate::signal::Metric;

/// Identity of one incarnation of a process: a pid alone is recycled, the pair with its start time is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_time: u64,
}

/// What an actuator is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Operation {
    /// Bring up `instances` of revision `revision` (first deployment, or a new one).
    Deploy {
        /// Revision of the specification.
        revision: u32,
        /// Instances to run.
        instances: u32,
    },
    /// Restart these instances one at a time; those that are down are just started.
    Restart {
        /// Slots with the incarnation each is expected to have; `None` when it never ran.
        targets: Vec<Target>,
    },
    /// Change the number of instances.
    Scale {
        /// Now.
        from: u32,
        /// Afterwards.
        to: u32,
    },
    /// Back to an earlier revision.
    Rollback {
        /// Now.
        from: u32,
        /// Afterwards.
        to: u32,
        /// Instances to run.
        instances: u32,
    },
    /// Put the settings of a revision in force: labels, thresholds, bounds, windows. Touches no process.
    Configure {
        /// Revision of the specification.
        revision: u32,
        /// The level it raises the autonomy of the app to, if it does: that takes a second person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        raises: Option<Level>,
    },
    /// Stop every instance, one at a time, and let the app go.
    Offboard {
        /// Instances that are wanted now.
        instances: u32,
    },
    /// Change one detector threshold of this app; touches no process.
    AdjustThreshold {
        /// Which one.
        metric: Metric,
        /// New enter value in millionths.
        enter: i64,
        /// New leave value in millionths.
        leave: i64,
    },
}

/// One instance a plan touches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Slot number, from 0.
    pub slot: u32,
    /// The incarnation the decision saw; a different one makes the plan stale.
    pub fence: Option<Fence>,
    /// Whether it was running (and is taken down by this plan).
    pub running: bool,
}

/// A complete, digestible plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The app.
    pub app: AppName,
    /// The action it carries out.
    pub action: Action,
    /// What is done.
    pub operation: Operation,
    /// Revision of the specification that is running.
    pub revision: u32,
    /// Digest of that specification.
    pub spec_digest: String,
}

impl Plan {
    /// SHA-256 over the plan and the digest of the policy it was judged under, in hex. An approval is bound to it.
    #[must_use]
    pub fn digest(&self, policy_digest: &str) -> String {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(0);
        bytes.extend_from_slice(policy_digest.as_bytes());
        crate::digest::sha256_hex(&bytes)
    }

    /// Instances that run now and that this plan takes down, at most one at a time: the unit of every disruption budget.
    #[must_use]
    pub fn disrupts(&self) -> u32 {
        match &self.operation {
            Operation::Restart { targets } => {
                u32::try_from(targets.iter().filter(|t| t.running).count()).unwrap_or(u32::MAX)
            }
            Operation::Scale { from, to } => from.saturating_sub(*to),
            Operation::Rollback { instances, .. } | Operation::Offboard { instances } => *instances,
            Operation::Deploy { .. }
            | Operation::Configure { .. }
            | Operation::AdjustThreshold { .. } => 0,
        }
    }
}
