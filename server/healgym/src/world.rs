//! A world: which faults happen, how they look, what fixes them and what that costs.

use std::collections::BTreeMap;

use agentd_core::action::Action;
use agentd_core::choose::ccq::{ACTIONS, COUNT, Limits, Signature, Tried, position};
use serde::Deserialize;

use crate::random::Random;

/// The constants of HealGym v1, as published.
pub const JSON: &str = include_str!("../data/healgym_v1.json");

/// Faults of the world.
pub const FAULTS: usize = 7;

/// What incidents can look like, in the order of the published file.
pub const SIGNATURES: [Signature; 8] = [
    Signature::Down,
    Signature::DownDeploy,
    Signature::MemRising,
    Signature::CpuLoad,
    Signature::DepErrors,
    Signature::Unspecific,
    Signature::Flap,
    Signature::DownRepeat,
];

/// A world. Actions are in the order of [`ACTIONS`]; what the published file does not know is never permitted in it.
#[derive(Debug, Clone)]
pub struct World {
    /// Share of incidents each fault causes.
    pub prior: [f64; FAULTS],
    /// How likely each fault looks like each of [`SIGNATURES`].
    pub looks: [[f64; 8]; FAULTS],
    /// How likely each action ends each fault.
    pub fixes: [[f64; COUNT]; FAULTS],
    /// The harm each action does to each fault.
    pub harm: [[f64; COUNT]; FAULTS],
    /// What a step of each fault costs.
    pub downtime: [f64; FAULTS],
    /// What each action costs.
    pub price: [f64; COUNT],
    /// Steps each action takes.
    pub steps: [u8; COUNT],
    /// Steps after which a human takes over.
    pub horizon: u8,
    /// What that costs.
    pub escalation: f64,
}

/// Which actions are permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shield {
    /// What the gates permit: three restarts, two steps up, none down, one rollback of what was deployed of late.
    On,
    /// Whatever the environment itself can do.
    Off,
}

/// The published file, as far as it is read.
#[derive(Debug, Deserialize)]
struct Published {
    actions: Vec<String>,
    signatures: Vec<String>,
    prior: Vec<f64>,
    p_sig_given_fault: Vec<Vec<f64>>,
    p_fix: Vec<Vec<f64>>,
    harm: Vec<Vec<f64>>,
    downtime_cost_per_step: Vec<f64>,
    action_cost: Vec<f64>,
    duration_steps: Vec<u8>,
    horizon_steps: u8,
    escalation_cost: f64,
    reference_values_cost_succ_steps_harm: BTreeMap<String, serde_json::Value>,
}

/// What the published file says about one policy: cost, success, steps, harmful actions.
pub type Reference = [f64; 4];

impl World {
    /// The published world.
    ///
    /// # Errors
    /// When the file is not what this version reads.
    pub fn nominal() -> Result<Self, String> {
        let file: Published = serde_json::from_str(JSON).map_err(|error| error.to_string())?;
        let known: Vec<&str> = SIGNATURES.iter().map(|signature| signature.as_str()).collect();
        if file.signatures != known {
            return Err(format!("signatures {:?} are not {known:?}", file.signatures));
        }
        let spread = |row: &[f64], absent: f64| -> Result<[f64; COUNT], String> {
            let mut all = [absent; COUNT];
            for (name, value) in file.actions.iter().zip(row) {
                all[named(name)?] = *value;
            }
            Ok(all)
        };
        let mut steps = [1; COUNT];
        for (name, value) in file.actions.iter().zip(&file.duration_steps) {
            steps[named(name)?] = *value;
        }
        Ok(Self {
            prior: array(&file.prior)?,
            looks: array(
                &file.p_sig_given_fault.iter().map(|r| array(r)).collect::<Result<Vec<_>, _>>()?,
            )?,
            fixes: array(
                &file.p_fix.iter().map(|r| spread(r, 0.0)).collect::<Result<Vec<_>, _>>()?,
            )?,
            harm: array(&file.harm.iter().map(|r| spread(r, 0.0)).collect::<Result<Vec<_>, _>>()?)?,
            downtime: array(&file.downtime_cost_per_step)?,
            price: spread(&file.action_cost, 0.0)?,
            steps,
            horizon: file.horizon_steps,
            escalation: file.escalation_cost,
        })
    }

    /// A world with the same structure and other numbers: chances moved by one standard deviation of one in the log-odds, shares
    /// drawn anew around the published ones, harm between half and one and a half times.
    #[must_use]
    pub fn perturbed(&self, seed: u64) -> Self {
        /// Shares are as far from the published ones as those counted in this many incidents would be.
        const WEIGHT: f64 = 20.0;
        let mut random = Random::new(seed);
        let mut world = self.clone();
        world.prior.copy_from_slice(&random.dirichlet(&self.prior, WEIGHT));
        for row in &mut world.looks {
            let drawn = random.dirichlet(row.as_slice(), WEIGHT);
            row.copy_from_slice(&drawn);
        }
        for p in world.fixes.iter_mut().flatten().filter(|p| **p > 0.0) {
            let logit = (*p / (1.0 - *p)).ln() + random.normal();
            *p = 1.0 / (1.0 + (-logit).exp());
        }
        for harm in world.harm.iter_mut().flatten() {
            *harm *= 0.5 + random.uniform();
        }
        world
    }

    /// The same world after somebody changed it: a restart does what one more instance did, and the other way round.
    #[must_use]
    pub fn shifted(&self) -> Self {
        let mut world = self.clone();
        let (up, restart) = (1, 2);
        world.fixes.iter_mut().chain(&mut world.harm).for_each(|row| row.swap(up, restart));
        world
    }

    /// How often each action may be tried in one incident that looks like that.
    #[must_use]
    pub fn limits(&self, signature: Signature, shield: Shield) -> Limits {
        let deployed = matches!(signature, Signature::DownDeploy | Signature::DownRepeat);
        match shield {
            Shield::On => [self.horizon, 2, 3, 0, 0, u8::from(deployed)],
            Shield::Off => [self.horizon, 3, 5, 1, 0, 1],
        }
    }

    /// Steps that have passed.
    #[must_use]
    pub fn elapsed(&self, tried: &Tried) -> u8 {
        tried.iter().zip(self.steps).map(|(n, steps)| n * steps).sum()
    }

    /// Cost of one attempt while that fault lasts.
    #[must_use]
    pub fn cost(&self, fault: usize, action: usize) -> f64 {
        self.downtime[fault] * f64::from(self.steps[action])
            + self.price[action]
            + self.harm[fault][action]
    }

    /// How likely an incident is of each fault and looks like that.
    #[must_use]
    pub fn joint(&self, signature: Signature) -> [f64; FAULTS] {
        let index = SIGNATURES.iter().position(|known| *known == signature);
        std::array::from_fn(|f| index.map_or(0.0, |s| self.prior[f] * self.looks[f][s]))
    }
}

/// What the published file says about `policy`.
///
/// # Errors
/// When the file does not say it.
pub fn reference(shield: Shield, policy: &str) -> Result<Reference, String> {
    let file: Published = serde_json::from_str(JSON).map_err(|error| error.to_string())?;
    let part = if shield == Shield::On { "shield" } else { "noshield" };
    let values = &file.reference_values_cost_succ_steps_harm;
    let values = values.get(part).and_then(|part| part.get(policy));
    let values = values.ok_or_else(|| format!("nothing is published about `{policy}`"))?;
    let value = |key: &str| values.get(key).and_then(serde_json::Value::as_f64);
    let all: Option<Vec<f64>> = ["cost", "succ", "steps", "harm"].into_iter().map(value).collect();
    array(&all.ok_or_else(|| format!("`{policy}` is not complete"))?)
}

/// What the published file says about the value of each first action of the optimum.
///
/// # Errors
/// When the file does not say it.
pub fn reference_values(shield: Shield) -> Result<Vec<(Signature, Action, f64)>, String> {
    let file: serde_json::Value = serde_json::from_str(JSON).map_err(|error| error.to_string())?;
    let part = if shield == Shield::On { "shield" } else { "noshield" };
    let all = &file["reference_values_cost_succ_steps_harm"][part]["optimal_Q_first"];
    let mut values = Vec::new();
    for signature in SIGNATURES {
        for (name, value) in all[signature.as_str()].as_object().into_iter().flatten() {
            let value = value.as_f64().ok_or("a value is no number")?;
            values.push((signature, ACTIONS[named(name)?], value));
        }
    }
    Ok(values)
}

fn named(name: &str) -> Result<usize, String> {
    let actions = ACTIONS.iter();
    let found = actions.copied().find(|action| action.as_str().eq_ignore_ascii_case(name));
    found.and_then(position).ok_or_else(|| format!("`{name}` is no action"))
}

fn array<T: Copy, const N: usize>(values: &[T]) -> Result<[T; N], String> {
    values.try_into().ok().ok_or_else(|| format!("{} values instead of {N}", values.len()))
}
