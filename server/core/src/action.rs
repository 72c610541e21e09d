//! The closed set of actions and the static facts of each.
//!
//! The set is compiled in. Names that would be dangerous are refused by name ([`parse`]), every other unknown name is invalid.

use serde::{Deserialize, Serialize};

/// What can be done to an application. Ordered by how little it changes: ties between candidates go to the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Nothing, on purpose.
    Noop,
    /// Sample more, decide again.
    Observe,
    /// Tell humans; the end of every ladder.
    Escalate,
    /// More instances.
    ScaleUp,
    /// Start what is down, or replace what runs, one instance at a time.
    Restart,
    /// One instance fewer.
    ScaleDown,
    /// Redo the last failed deployment of the same revision.
    RetryDeployment,
    /// Widen or narrow one detector threshold of one app within the policy's bounds.
    AdjustThresholds,
    /// Back to the newest revision that was verified healthy.
    Rollback,
    /// Bring up a revision that a human asked for. Never a candidate of the agent.
    Deploy,
    /// Put the settings of a revision in force that no process has to be restarted for. Never a candidate of the agent.
    Configure,
    /// Stop every instance and let the app go. Never a candidate of the agent.
    Offboard,
}

/// Risk class of an action; the confidence minimum grows with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Risk {
    /// Passive: nothing is touched.
    None,
    /// Reversible and local.
    R1,
    /// Takes capacity away or repeats something that failed.
    R2,
    /// Changes what runs.
    R3,
}

impl Action {
    /// Every action, in order.
    pub const ALL: [Self; 12] = [
        Self::Noop,
        Self::Observe,
        Self::Escalate,
        Self::ScaleUp,
        Self::Restart,
        Self::ScaleDown,
        Self::RetryDeployment,
        Self::AdjustThresholds,
        Self::Rollback,
        Self::Deploy,
        Self::Configure,
        Self::Offboard,
    ];

    /// Stable name, as written in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Noop => "NOOP",
            Self::Observe => "OBSERVE",
            Self::Escalate => "ESCALATE",
            Self::ScaleUp => "SCALE_UP",
            Self::Restart => "RESTART",
            Self::ScaleDown => "SCALE_DOWN",
            Self::RetryDeployment => "RETRY_DEPLOYMENT",
            Self::AdjustThresholds => "ADJUST_THRESHOLDS",
            Self::Rollback => "ROLLBACK",
            Self::Deploy => "DEPLOY",
            Self::Configure => "CONFIGURE",
            Self::Offboard => "OFFBOARD",
        }
    }

    /// Passive actions touch nothing: no gate but the unsafe-name check can stop them.
    #[must_use]
    pub const fn is_passive(self) -> bool {
        matches!(self, Self::Noop | Self::Observe | Self::Escalate)
    }

    /// Whether the agent may choose it; the others are about what a human wants to be there, and only ever asked for by one.
    #[must_use]
    pub const fn is_selectable(self) -> bool {
        !matches!(self, Self::Deploy | Self::Configure | Self::Offboard)
    }

    /// Risk class. A restart of the only instance is one class higher: the caller knows the number of `instances`.
    #[must_use]
    pub const fn risk(self, instances: u32) -> Risk {
        match self {
            Self::Noop | Self::Observe | Self::Escalate => Risk::None,
            Self::Restart if instances > 1 => Risk::R1,
            Self::ScaleUp => Risk::R1,
            Self::Restart
            | Self::ScaleDown
            | Self::RetryDeployment
            | Self::AdjustThresholds
            | Self::Deploy
            | Self::Configure => Risk::R2,
            Self::Rollback | Self::Offboard => Risk::R3,
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names that are refused in every environment: they are never actions.
pub const UNSAFE_NAMES: [&str; 15] = [
    "delete_production_data",
    "drop_database",
    "delete_backups",
    "format_drives",
    "remove_snapshots",
    "modify_user_accounts",
    "change_security_settings",
    "disable_authentication",
    "modify_permissions",
    "access_external_systems",
    "modify_system_files",
    "execute_shell_commands",
    "install_software",
    "modify_kernel",
    "change_network_config",
];

/// An action name as a human wrote it, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// A known action.
    Known(Action),
    /// `scale_workers`: the sign of the change decides between up and down.
    ScaleBySign,
    /// A name of [`UNSAFE_NAMES`]: refused, recorded, never retried.
    Unsafe(&'static str),
    /// Anything else.
    Unknown,
}

/// Resolves a name given at the edge (CLI, JSON): the stable names in any case, and the three older aliases.
#[must_use]
pub fn parse(name: &str) -> Requested {
    let lower = name.to_ascii_lowercase();
    if let Some(unsafe_name) = UNSAFE_NAMES.iter().find(|n| **n == lower) {
        return Requested::Unsafe(unsafe_name);
    }
    match lower.as_str() {
        "restart_service" => Requested::Known(Action::Restart),
        "retry" => Requested::Known(Action::RetryDeployment),
        "restore_previous_version" => Requested::Known(Action::Rollback),
        "scale_workers" => Requested::ScaleBySign,
        _ => Action::ALL
            .into_iter()
            .find(|a| a.is_selectable() && a.as_str().eq_ignore_ascii_case(&lower))
            .map_or(Requested::Unknown, Requested::Known),
    }
}

/// How far the agent may go with an action on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    /// Refused.
    Off,
    /// Decided and recorded, never executed.
    Shadow,
    /// A human executes it by approving.
    Propose,
    /// The agent acts alone when every gate passes.
    Auto,
}

impl Level {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Shadow => "SHADOW",
            Self::Propose => "PROPOSE",
            Self::Auto => "AUTO",
        }
    }
}

/// The most a policy may ever allow: rollback and threshold changes stay with humans for good.
#[must_use]
pub const fn ceiling(action: Action) -> Level {
    match action {
        Action::Rollback | Action::AdjustThresholds => Level::Propose,
        _ => Level::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_resolves_to_itself_and_the_life_cycle_cannot_be_asked_for_by_name() {
        for action in Action::ALL {
            let expected =
                if action.is_selectable() { Requested::Known(action) } else { Requested::Unknown };
            assert_eq!(parse(action.as_str()), expected);
            assert_eq!(parse(&action.as_str().to_ascii_lowercase()), expected);
        }
    }

    #[test]
    fn aliases_of_the_older_system_are_understood() {
        assert_eq!(parse("restart_service"), Requested::Known(Action::Restart));
        assert_eq!(parse("retry"), Requested::Known(Action::RetryDeployment));
        assert_eq!(parse("restore_previous_version"), Requested::Known(Action::Rollback));
        assert_eq!(parse("scale_workers"), Requested::ScaleBySign);
    }

    #[test]
    fn every_unsafe_name_is_refused_by_name_in_any_case() {
        for name in UNSAFE_NAMES {
            assert_eq!(parse(name), Requested::Unsafe(name));
            assert_eq!(parse(&name.to_ascii_uppercase()), Requested::Unsafe(name));
        }
        assert_eq!(parse("rm -rf /"), Requested::Unknown);
        assert_eq!(parse(""), Requested::Unknown);
    }
}
