//! Who is behind a policy.

use serde::{Deserialize, Serialize};

/// Who put a policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// Whoever may write the policy file, by starting the server with it or having it read again.
    #[default]
    File,
    /// A principal, through the API.
    Principal(String),
}

impl Author {
    /// Whether the policy came with the configuration of the server.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        matches!(self, Self::File)
    }
}
