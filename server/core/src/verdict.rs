//! Verdicts of gates and the ruling they add up to.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::action::{Action, Level};
use crate::app::Millis;
use crate::reason::Reason;

/// A value or limit as a gate or detector saw it. Typed, so that nothing is formatted on the decide path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Nothing to compare.
    None,
    /// A number of things.
    Count(u64),
    /// A span in milliseconds.
    Ms(Millis),
    /// A moment, in milliseconds since the Unix epoch.
    At(Millis),
    /// A share in permille.
    Permille(u32),
    /// A metric value in millionths of its unit.
    Micro(i64),
    /// An autonomy level.
    Level(Level),
    /// An action.
    Action(Action),
    /// Several actions.
    Actions(Vec<Action>),
    /// A yes or no.
    Flag(bool),
    /// Fixed words, or a validated name.
    Text(Cow<'static, str>),
}

/// What a gate wants. Ordered: the most restrictive wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing against it.
    Pass,
    /// A human may let it through.
    Hold,
    /// No.
    Refuse,
}

/// The judgement of one gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Gate id = its file name.
    pub gate: Cow<'static, str>,
    /// Group, 1 to 7.
    pub group: u8,
    /// What it wants.
    pub effect: Effect,
    /// Why; `None` when it passes with nothing to say.
    pub reason: Option<Reason>,
    /// What was seen.
    pub value: Fact,
    /// What it was compared with.
    pub limit: Fact,
    /// When it would pass by itself, if time alone can clear it.
    pub clears_at: Option<Millis>,
    /// Whether the agent restrains itself here (`true`), or a human or the environment does.
    pub self_imposed: bool,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ruling")]
pub enum Ruling {
    /// Every gate passed.
    Permitted,
    /// A human decides.
    Held {
        /// Why.
        reason: Reason,
    },
    /// Not now, or never.
    Refused {
        /// The primary reason: lowest group first, then catalogue order, whatever the order of the list.
        reason: Reason,
        /// What is done instead.
        instead: Action,
    },
}
