//! The fault catalogue: which faults there are, how they look, what fixes them and what that costs. It is what the agent believes
//! before it has seen anything; learning corrects it and never replaces it.
//!
//! The numbers of the built-in catalogue are judgements, written down so that they can be read, disputed and versioned.

use serde::{Deserialize, Serialize};

use super::fixed::Fixed;
use crate::action::Action;
use crate::detect::Signature;

mod read;

pub use read::Mistake;

/// The actions a catalogue knows the effect of, in the order that breaks ties: what changes least comes first.
pub const ACTIONS: [Action; 6] = [
    Action::Noop,
    Action::ScaleUp,
    Action::Restart,
    Action::ScaleDown,
    Action::RetryDeployment,
    Action::Rollback,
];

/// Number of [`ACTIONS`].
pub const COUNT: usize = ACTIONS.len();

/// Position of `action` in [`ACTIONS`].
#[must_use]
pub fn position(action: Action) -> Option<usize> {
    ACTIONS.iter().position(|known| *known == action)
}

/// A fault catalogue. Probabilities and costs are millionths; a cost of one is one step of full downtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Name and version; what was learned under another one cannot be merged.
    pub version: String,
    /// Length of one step.
    pub step_ms: u64,
    /// Steps after which an incident is given to a human.
    pub horizon: u8,
    /// What that costs.
    pub escalation: i64,
    /// The effort of each action, in the order of [`ACTIONS`].
    pub efforts: [Effort; COUNT],
    /// The faults.
    pub faults: Vec<Fault>,
}

/// What an action takes, whatever the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Steps until its effect is known.
    pub steps: u8,
    /// What it costs.
    pub cost: i64,
}

/// Downtime counts up to so many times what the catalogue allows, so that one clock jump cannot ruin a ratio.
const LONGEST: u64 = 10;

impl Effort {
    /// What an attempt cost that was expected to cost `cost0` and took so long until the app was well again: the price, and the time it
    /// took instead of the time the catalogue allows for it.
    #[must_use]
    pub fn measured(self, cost0: Fixed, took_ms: u64, step_ms: u64) -> Fixed {
        let allowed = u64::from(self.steps).saturating_mul(step_ms).max(1);
        let took = took_ms.min(allowed.saturating_mul(LONGEST));
        let share = i64::try_from(took.saturating_mul(1_000_000) / allowed).unwrap_or(i64::MAX);
        let price = Fixed::micro(self.cost);
        price.plus(cost0.minus(price).times(Fixed::micro(share)))
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Name.
    pub name: String,
    /// Share of incidents it causes.
    pub prior: i64,
    /// What a step of it costs.
    pub downtime: i64,
    /// How likely it looks like each signature; absent is never.
    pub looks: Vec<(Signature, i64)>,
    /// What each action does to it, in the order of [`ACTIONS`].
    pub effects: [Effect; COUNT],
}

/// What an action does to a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// How likely it ends the fault.
    pub fixes: i64,
    /// The harm it does besides.
    pub harm: i64,
}

/// What is wrong with a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} breaks the rule: {rule}")]
pub struct Flaw {
    /// Where.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What must hold.
    pub rule: &'static str,
}

const MILLION: i64 = 1_000_000;
/// Most faults of a catalogue.
const FAULTS: usize = 32;
/// Largest cost: four times an escalation of the built-in one, so that sums of a whole incident stay far from the limits.
const COST: i64 = 16 * MILLION;
/// Longest horizon.
const HORIZON: u8 = 32;

/// Horizon of the built-in catalogue: eight minutes.
pub const BUILTIN_HORIZON: u8 = 16;

/// Efforts of the built-in catalogue, in the order of [`ACTIONS`].
pub const EFFORTS: [Effort; COUNT] = {
    const fn effort(steps: u8, cost: i64) -> Effort {
        Effort { steps, cost }
    }
    [
        effort(1, 0),
        effort(1, 200_000),
        effort(1, 250_000),
        effort(1, 100_000),
        effort(3, 500_000),
        effort(3, 800_000),
    ]
};

impl Catalogue {
    /// What is wrong with it, all at once; nothing when it can be used.
    #[must_use]
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut found = Flaws::default();
        found.within("horizon", self.horizon.into(), 1, HORIZON.into(), "between 1 and 32 steps");
        found.within("escalation", self.escalation, 0, COST, "a cost between 0 and 16000000");
        for (effort, action) in self.efforts.iter().zip(ACTIONS) {
            let field = format!("efforts.{action}");
            found.within(&field, effort.cost, 0, COST, "a cost between 0 and 16000000");
            let steps = i64::from(effort.steps);
            found.within(&field, steps, 1, self.horizon.into(), "between one step and the horizon");
        }
        let faults = i64::try_from(self.faults.len()).unwrap_or(i64::MAX);
        found.within("faults", faults, 1, FAULTS as i64, "between 1 and 32 faults");
        let priors = self.faults.iter().fold(0_i64, |sum, fault| sum.saturating_add(fault.prior));
        found.within("faults.prior", priors, MILLION, MILLION, "priors sum to 1000000");
        for (index, fault) in self.faults.iter().enumerate() {
            let is_new = self.faults.iter().take(index).all(|other| other.name != fault.name);
            let rule = "each fault has a name of its own";
            found.unless(is_new, &format!("faults.{}", fault.name), &fault.name, rule);
            found.of_fault(fault, &self.efforts);
        }
        found.0
    }

    /// SHA-256 of its canonical JSON form, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        crate::digest::sha256_hex(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Whether incidents that look like `signature` are in it at all.
    #[must_use]
    pub fn knows(&self, signature: Signature) -> bool {
        self.faults.iter().any(|fault| fault.likelihood(signature) > 0)
    }

    /// The built-in catalogue.
    #[must_use]
    pub fn builtin() -> Self {
        Self {
            version: "builtin-1".to_owned(),
            step_ms: 30_000,
            horizon: BUILTIN_HORIZON,
            escalation: 4 * MILLION,
            efforts: EFFORTS,
            faults: builtin_faults(),
        }
    }
}

impl Fault {
    /// How likely it looks like `signature`, in millionths.
    #[must_use]
    pub fn likelihood(&self, signature: Signature) -> i64 {
        let look = self.looks.iter().find(|(look, _)| *look == signature);
        look.map_or(0, |(_, likelihood)| *likelihood)
    }

    /// Cost of one attempt of `effort` with `effect` while this fault lasts.
    pub(super) fn cost(&self, effort: Effort, effect: Effect) -> Fixed {
        Fixed::micro(self.attempt(effort, effect))
    }

    fn attempt(&self, effort: Effort, effect: Effect) -> i64 {
        let downtime = self.downtime.saturating_mul(effort.steps.into());
        downtime.saturating_add(effort.cost).saturating_add(effect.harm)
    }
}

#[derive(Default)]
struct Flaws(Vec<Flaw>);

impl Flaws {
    fn within(&mut self, field: &str, value: i64, least: i64, most: i64, rule: &'static str) {
        self.unless((least..=most).contains(&value), field, &value.to_string(), rule);
    }

    fn unless(&mut self, holds: bool, field: &str, value: &str, rule: &'static str) {
        if !holds {
            self.0.push(Flaw { field: field.to_owned(), value: value.to_owned(), rule });
        }
    }

    fn of_fault(&mut self, fault: &Fault, efforts: &[Effort; COUNT]) {
        let at = |part: &str| format!("faults.{}.{part}", fault.name);
        self.within(&at("prior"), fault.prior, 0, MILLION, "between 0 and 1000000");
        self.within(&at("downtime"), fault.downtime, 0, COST, "a cost between 0 and 16000000");
        for (index, (look, likelihood)) in fault.looks.iter().enumerate() {
            let is_new = fault.looks.iter().take(index).all(|(other, _)| other != look);
            self.unless(is_new, &at("looks"), look.as_str(), "each signature once");
            let rule = "a likelihood between 0 and 1000000";
            self.within(&at("looks"), *likelihood, 0, MILLION, rule);
        }
        let sum = fault.looks.iter().fold(0_i64, |sum, (_, share)| sum.saturating_add(*share));
        self.within(&at("looks"), sum, MILLION, MILLION, "likelihoods sum to 1000000");
        for ((effect, effort), action) in fault.effects.iter().zip(efforts).zip(ACTIONS) {
            let field = at(action.as_str());
            self.within(&field, effect.fixes, 0, 999_000, "a chance between 0 and 999000");
            self.within(&field, effect.harm, 0, COST, "a harm between 0 and 16000000");
            let all = fault.attempt(*effort, *effect);
            self.within(&field, all, 0, COST - 1, "one attempt costs less than 16000000");
        }
    }
}

/// One fault per call: prior, downtime, looks, and (fixes, harm) of each action; all in hundredths.
fn fault(
    name: &str,
    (prior, downtime): (i64, i64),
    looks: &[(Signature, i64)],
    effects: [(i64, i64); COUNT],
) -> Fault {
    const PERCENT: i64 = MILLION / 100;
    Fault {
        name: name.to_owned(),
        prior: prior * PERCENT,
        downtime: downtime * PERCENT,
        looks: looks.iter().map(|(signature, share)| (*signature, share * PERCENT)).collect(),
        effects: effects
            .map(|(fixes, harm)| Effect { fixes: fixes * PERCENT, harm: harm * PERCENT }),
    }
}

fn builtin_faults() -> Vec<Fault> {
    use Signature as S;
    vec![
        fault(
            "crash",
            (22, 100),
            &[(S::Down, 78), (S::DownDeploy, 8), (S::Unspecific, 10), (S::DownRepeat, 4)],
            [(3, 0), (5, 0), (90, 0), (0, 50), (60, 0), (70, 100)],
        ),
        fault(
            "crashloop",
            (12, 100),
            &[(S::Down, 10), (S::DownDeploy, 55), (S::Unspecific, 5), (S::DownRepeat, 30)],
            [(0, 0), (0, 10), (3, 20), (0, 30), (50, 20), (93, 0)],
        ),
        fault(
            "leak",
            (13, 50),
            &[(S::Down, 8), (S::MemRising, 75), (S::CpuLoad, 5), (S::Unspecific, 12)],
            [(0, 0), (10, 0), (93, 0), (0, 50), (60, 0), (30, 100)],
        ),
        fault(
            "overload",
            (18, 60),
            &[(S::CpuLoad, 75), (S::DepErrors, 5), (S::Unspecific, 12), (S::Flap, 8)],
            [(4, 0), (85, 0), (4, 80), (0, 150), (4, 80), (5, 100)],
        ),
        fault(
            "dependency",
            (13, 70),
            &[(S::Down, 5), (S::CpuLoad, 10), (S::DepErrors, 65), (S::Unspecific, 20)],
            [(9, 0), (1, 20), (1, 50), (0, 30), (1, 50), (1, 100)],
        ),
        fault(
            "false_alarm",
            (15, 10),
            &[
                (S::MemRising, 10),
                (S::CpuLoad, 25),
                (S::DepErrors, 5),
                (S::Unspecific, 50),
                (S::Flap, 10),
            ],
            [(55, 0), (50, 20), (45, 80), (50, 30), (40, 80), (40, 100)],
        ),
        fault(
            "flapping",
            (7, 30),
            &[(S::CpuLoad, 20), (S::Unspecific, 15), (S::Flap, 65)],
            [(10, 0), (80, 0), (15, 40), (0, 80), (10, 40), (15, 100)],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_has_no_flaw_and_survives_a_round_trip() {
        let catalogue = Catalogue::builtin();
        assert_eq!(catalogue.flaws(), []);
        let json = serde_json::to_vec(&catalogue).unwrap();
        assert_eq!(serde_json::from_slice::<Catalogue>(&json).unwrap(), catalogue);
        for signature in Signature::ALL {
            let observed = matches!(signature, Signature::Conflict | Signature::Stale);
            assert_eq!(catalogue.knows(signature), !observed, "{signature:?}");
        }
    }

    #[test]
    fn every_flaw_is_named_with_its_place_at_once() {
        let mut catalogue = Catalogue::builtin();
        catalogue.horizon = 0;
        catalogue.faults[0].prior += 1;
        catalogue.faults[1].effects[2].fixes = MILLION;
        catalogue.faults[2].looks.clear();
        let flaws: Vec<String> = catalogue.flaws().iter().map(Flaw::to_string).collect();
        assert!(flaws.iter().any(|f| f.starts_with("horizon: 0 breaks")), "{flaws:?}");
        assert!(flaws.iter().any(|f| f.starts_with("faults.prior: 1000001")), "{flaws:?}");
        assert!(flaws.iter().any(|f| f.starts_with("faults.crashloop.RESTART: 1000000")));
        assert!(flaws.iter().any(|f| f.starts_with("faults.leak.looks: 0")), "{flaws:?}");
    }
}
