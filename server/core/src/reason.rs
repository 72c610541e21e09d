//! The catalogue of reason codes: stable, upper snake case, each with what it means, why it exists and what to do.

use serde::{Deserialize, Serialize};

pub mod page;

use page::Page;

macro_rules! reasons {
    ($($(#[doc = $what:literal])+ $name:ident = $code:literal, why $why:literal, todo $todo:literal;)+) => {
        /// Why a gate passed, held or refused. The codes are part of the API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[doc = $what])+ #[serde(rename = $code)] $name,)+ }

        impl Reason {
            /// Every code, in catalogue order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable code.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $code,)+ } }

            /// What it means.
            #[must_use]
            pub const fn what(self) -> &'static str { match self { $(Self::$name => concat!($($what),+).trim_ascii(),)+ } }

            /// Why the rule exists.
            #[must_use]
            pub const fn why(self) -> &'static str { match self { $(Self::$name => $why,)+ } }

            /// What an operator can do.
            #[must_use]
            pub const fn todo(self) -> &'static str { match self { $(Self::$name => $todo,)+ } }
        }
    };
}

reasons! {
    /// The proposal came from the agent, an authenticated human or a replay.
    RlIntakeValidated = "RL_INTAKE_VALIDATED", why "nothing reaches an actuator except through the decision path", todo "nothing";
    /// The proposal came from a source that may not propose actions.
    SourceRefused = "SOURCE_REFUSED", why "monitors report, they never act", todo "use a principal with the operator role";
    /// Demo mode accepts only what the agent itself chose, and only the actions on the demo allowlist.
    DemoModeBlock = "DEMO_MODE_BLOCK", why "a demonstration must show the agent, not a hand behind it", todo "start the server without --demo-mode, or let the agent decide";
    /// An equal decision about this app is already waiting or running.
    DuplicateInProgress = "DUPLICATE_IN_PROGRESS", why "one cause must have one effect", todo "watch the decision that is named in the value";
    /// Effects are paused for this scope.
    Paused = "PAUSED", why "a human stopped new effects", todo "agentctl resume, with the same scope";
    /// Effects are halted: running ones stop at the next safe point as well.
    Halted = "HALTED", why "a human hit the kill switch, or the saved state could not be read", todo "agentctl resume, with the same scope";
    /// The server decides and records, and touches nothing.
    DryRun = "DRY_RUN", why "dry run is inert by definition", todo "start the server without --dry-run";
    /// The proof log cannot be written, so nothing may be done.
    LogUnavailable = "LOG_UNAVAILABLE", why "an action that cannot be proved is not taken", todo "free disk space or repair the disk; agentctl status shows the cause";
    /// The name asked for is never an action, in any environment.
    UnsafeActionRefused = "UNSAFE_ACTION_REFUSED", why "the set of actions is closed and excludes everything destructive", todo "do it by hand, outside agentd";
    /// The autonomy level of this action does not let the agent execute it alone.
    ActionEligibilityFailed = "ACTION_ELIGIBILITY_FAILED", why "each environment states what the agent may do alone", todo "approve it, or raise the level in the policy up to its ceiling";
    /// The environment of the request is not the one this server serves, or prod forbids it.
    ProdSafetyBlock = "PROD_SAFETY_BLOCK", why "environments are isolated by construction", todo "use the server of that environment";
    /// The target is protected: no effect, whatever the policy says.
    Protected = "PROTECTED", why "the control plane must not operate on itself or on what a human fenced off", todo "remove the label `protected`, if it is yours to remove";
    /// Another controller owns the field this action would change.
    OwnerConflict = "OWNER_CONFLICT", why "two controllers on one knob oscillate", todo "take the other controller off, or leave it alone";
    /// The driver of this app cannot do this action.
    DriverUnsupported = "DRIVER_UNSUPPORTED", why "an actuator states what it can do", todo "see the capabilities of the driver in agentctl gates";
    /// Something the action needs does not exist.
    MissingPrerequisite = "MISSING_PREREQUISITE", why "prerequisites fail closed", todo "see the value: it names what is missing";
    /// The same action ran on this app a moment ago.
    CooldownActive = "COOLDOWN_ACTIVE", why "an action needs time to show its effect", todo "wait until the time given, or change the cooldown in the policy";
    /// The same action ran as often as the window allows.
    RepetitionSuppressed = "REPETITION_SUPPRESSED", why "repeating what did not help is a loop", todo "find the cause; the window clears at the time given";
    /// A maintenance window is open for this app.
    MaintenanceWindow = "MAINTENANCE_WINDOW", why "humans are working on it", todo "wait for the end of the window";
    /// Another action on this app is in flight.
    ResourceBusy = "RESOURCE_BUSY", why "one action at a time per app", todo "wait for the outcome of the action named in the value";
    /// The signals this decision rests on are too old or missing.
    StaleData = "STALE_DATA", why "missing is unknown, never zero and never healthy", todo "repair the monitor";
    /// One source alone says that an app has more instances than it needs.
    InsufficientSources = "INSUFFICIENT_SOURCES", why "a monitor that is broken says zero", todo "let a second monitor report the CPU, or lower freshness.quorum in the policy";
    /// Sources contradict each other about one metric.
    SignalConflictObserve = "SIGNAL_CONFLICT_OBSERVE", why "contradicting signals cannot both be right", todo "find the monitor that is wrong";
    /// The condition keeps changing.
    Flapping = "FLAPPING", why "acting on a flapping signal amplifies it", todo "wait until it is stable, or widen the threshold";
    /// The agent is not sure enough that acting beats doing nothing.
    UncertaintyNoop = "UNCERTAINTY_NOOP", why "doing nothing is the safe default", todo "nothing; more evidence raises the confidence";
    /// Too many failures or identical actions in the memory of this app.
    MemoryOverride = "MEMORY_OVERRIDE", why "what failed before will fail again", todo "find the cause; a human can still act";
    /// The breaker of this action is open after failed outcomes.
    BreakerOpen = "BREAKER_OPEN", why "an action that does not help is not repeated hot", todo "find the cause; the breaker probes at the time given";
    /// The budget for disruptions is used up.
    BudgetExhausted = "BUDGET_EXHAUSTED", why "the agent must not take down more than it can lose", todo "wait, or raise the budget in the policy";
    /// A large share of the environment is unhealthy.
    Storm = "STORM", why "when everything looks broken, the cause is not one app", todo "look for the common cause; starts of what is down go on, paced";
    /// Several apps show the same finding at once: one canary is tried first.
    CommonCause = "COMMON_CAUSE", why "one cause deserves one experiment", todo "wait for the canary named in the value";
    /// A human must approve this plan.
    ApprovalRequired = "APPROVAL_REQUIRED", why "the level of this action asks for a human", todo "agentctl approve, or reject";
    /// The approval came too late.
    ApprovalExpired = "APPROVAL_EXPIRED", why "an approval is for the situation it was given in", todo "ask for a new one: the agent proposes again while the finding stands";
    /// The plan is not the one that was approved.
    PlanChanged = "PLAN_CHANGED", why "an approval is bound to what was shown", todo "look at the new plan and approve that";
}

impl Reason {
    /// The reason called `code`, if it is in the catalogue.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == code)
    }

    /// Its page.
    #[must_use]
    pub fn page(self) -> Option<Page> {
        Page::find(self.as_str())
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
