//! What is seen of instances.

use serde::{Deserialize, Serialize};

use crate::plan::Fence;
use crate::signal::Exit;

/// Something observed about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observation {
    /// A process runs.
    Started {
        /// Its identity.
        fence: Fence,
    },
    /// It answers its health check, or has run long enough.
    Ready,
    /// It does not answer.
    Unready,
    /// It is gone.
    Exited {
        /// Its identity.
        fence: Option<Fence>,
        /// How.
        exit: Exit,
        /// Whether it was asked to end.
        expected: bool,
    },
    /// The instance does not exist any more (scaled down).
    Removed,
}
