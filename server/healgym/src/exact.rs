//! Policies are evaluated exactly, by summing over everything that can happen; nothing is sampled.

use agentd_core::choose::ccq::{COUNT, Limits, Signature, Tried};

use crate::world::{FAULTS, SIGNATURES, Shield, World};

/// What a policy is worth per incident.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Value {
    /// Cost, in steps of full downtime.
    pub cost: f64,
    /// Share of incidents that end without a human.
    pub success: f64,
    /// Steps.
    pub steps: f64,
    /// Actions that did harm.
    pub harmful: f64,
}

impl Value {
    fn add(&mut self, weight: f64, other: Self) {
        self.cost += weight * other.cost;
        self.success += weight * other.success;
        self.steps += weight * other.steps;
        self.harmful += weight * other.harmful;
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.add(1.0, other);
        self
    }
}

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// What it looks like.
    pub signature: Signature,
    /// How often each action failed.
    pub tried: Tried,
    /// How often each action may be tried at most.
    pub limits: Limits,
    /// Whether something was explored in this incident.
    pub explored: bool,
}

impl Situation {
    /// The beginning of an incident.
    #[must_use]
    pub fn first(world: &World, signature: Signature, shield: Shield) -> Self {
        let limits = world.limits(signature, shield);
        Self { signature, tried: [0; COUNT], limits, explored: false }
    }

    /// Positions of the actions that are permitted.
    pub fn permitted(&self) -> impl Iterator<Item = usize> + use<> {
        let (tried, limits) = (self.tried, self.limits);
        (0..COUNT).filter(move |action| tried[*action] < limits[*action])
    }

    /// After `action` failed.
    #[must_use]
    pub fn after(mut self, action: usize) -> Self {
        self.tried[action] += 1;
        self
    }
}

/// One thing a policy may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Move {
    /// What.
    pub action: usize,
    /// With which probability.
    pub chance: f64,
    /// Whether it is explored.
    pub explored: bool,
}

impl Move {
    /// What is done for certain.
    #[must_use]
    pub const fn certain(action: usize) -> Self {
        Self { action, chance: 1.0, explored: false }
    }
}

/// What a policy would do in a situation.
pub type Policy<'a> = dyn FnMut(&Situation) -> Vec<Move> + 'a;

/// What `policy` is worth in incidents that look like that, weighted with how often they happen.
pub fn evaluate(world: &World, first: Situation, policy: &mut Policy<'_>) -> Value {
    let mut walk = Walk { world, policy, known: Memory::new(&first) };
    let values = walk.from(first);
    let mut total = Value::default();
    for (weight, value) in world.joint(first.signature).into_iter().zip(values) {
        total.add(weight, value);
    }
    total
}

/// What `policy` is worth in all incidents together.
pub fn evaluate_all(world: &World, shield: Shield, policy: &mut Policy<'_>) -> Value {
    let signatures = SIGNATURES.into_iter();
    let value = |s| evaluate(world, Situation::first(world, s, shield), policy);
    signatures.map(value).fold(Value::default(), Value::plus)
}

struct Walk<'a, 'b> {
    world: &'a World,
    policy: &'a mut Policy<'b>,
    known: Memory<[Value; FAULTS]>,
}

impl Walk<'_, '_> {
    /// What the policy is worth from there on, fault by fault.
    fn from(&mut self, at: Situation) -> [Value; FAULTS] {
        if self.world.elapsed(&at.tried) >= self.world.horizon {
            return [Value { cost: self.world.escalation, ..Value::default() }; FAULTS];
        }
        if let Some(values) = self.known.get(&at) {
            return values;
        }
        let mut values = [Value::default(); FAULTS];
        for Move { action, chance, explored } in (self.policy)(&at) {
            let after = at.after(action);
            let next = self.from(Situation { explored: after.explored || explored, ..after });
            for (fault, value) in values.iter_mut().enumerate() {
                let fixes = self.world.fixes[fault][action];
                let now = Value {
                    cost: self.world.cost(fault, action),
                    success: fixes,
                    steps: f64::from(self.world.steps[action]),
                    harmful: f64::from(u8::from(self.world.harm[fault][action] > 0.0)),
                };
                value.add(chance, now);
                value.add(chance * (1.0 - fixes), next[fault]);
            }
        }
        self.known.set(&at, values);
        values
    }
}

/// Something known about every situation that can follow a first one.
#[derive(Debug)]
struct Memory<T> {
    limits: Limits,
    slots: Vec<Option<T>>,
}

impl<T: Copy> Memory<T> {
    fn new(first: &Situation) -> Self {
        let size = first.limits.iter().map(|limit| usize::from(*limit) + 1).product::<usize>();
        Self { limits: first.limits, slots: vec![None; 2 * size] }
    }

    fn index(&self, at: &Situation) -> usize {
        let counts = at.tried.iter().zip(self.limits);
        counts.fold(usize::from(at.explored), |index, (n, limit)| {
            index * (usize::from(limit) + 1) + usize::from(*n)
        })
    }

    fn get(&self, at: &Situation) -> Option<T> {
        self.slots[self.index(at)]
    }

    fn set(&mut self, at: &Situation, value: T) {
        let index = self.index(at);
        self.slots[index] = Some(value);
    }
}

/// The best that can be done by somebody who knows the world, but not the fault.
#[derive(Debug)]
pub struct Optimum<'a> {
    world: &'a World,
    weights: [f64; FAULTS],
    known: Memory<(f64, usize)>,
}

impl<'a> Optimum<'a> {
    /// For incidents that look like that.
    #[must_use]
    pub fn new(world: &'a World, first: &Situation) -> Self {
        Self { world, weights: world.joint(first.signature), known: Memory::new(first) }
    }

    /// Values of the permitted actions, by position: cost from here on.
    pub fn values(&mut self, at: &Situation) -> Vec<(usize, f64)> {
        let mut weights = self.weights;
        for (fault, weight) in weights.iter_mut().enumerate() {
            for (action, n) in at.tried.iter().enumerate() {
                *weight *= (1.0 - self.world.fixes[fault][action]).powi((*n).into());
            }
        }
        let total: f64 = weights.iter().sum();
        let mean = |of: &dyn Fn(usize) -> f64| {
            weights.iter().enumerate().map(|(fault, weight)| weight * of(fault)).sum::<f64>()
                / total
        };
        let mut values = Vec::new();
        for action in at.permitted() {
            let fixes = mean(&|fault| self.world.fixes[fault][action]);
            let cost = mean(&|fault| self.world.cost(fault, action));
            values.push((action, cost, fixes));
        }
        let after = |(action, cost, fixes): (usize, f64, f64)| {
            (action, cost + (1.0 - fixes) * self.from(&at.after(action)).0)
        };
        values.into_iter().map(after).collect()
    }

    /// The best action.
    pub fn best(&mut self, at: &Situation) -> usize {
        self.from(at).1
    }

    fn from(&mut self, at: &Situation) -> (f64, usize) {
        if self.world.elapsed(&at.tried) >= self.world.horizon {
            return (self.world.escalation, 0);
        }
        if let Some(best) = self.known.get(at) {
            return best;
        }
        let values = self.values(at).into_iter().map(|(action, value)| (value, action));
        let best = values.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let best = best.unwrap_or((self.world.escalation, 0));
        self.known.set(at, best);
        best
    }
}

/// What the optimum is worth in all incidents together.
#[must_use]
pub fn optimal(world: &World, shield: Shield) -> Value {
    let signatures = SIGNATURES.into_iter();
    let value = |signature| {
        let first = Situation::first(world, signature, shield);
        let mut optimum = Optimum::new(world, &first);
        evaluate(world, first, &mut |at| vec![Move::certain(optimum.best(at))])
    };
    signatures.map(value).fold(Value::default(), Value::plus)
}

/// Chance alone among what is permitted.
#[must_use]
pub fn random(at: &Situation) -> Vec<Move> {
    let permitted: Vec<usize> = at.permitted().collect();
    let chance = 1.0 / permitted.len() as f64;
    permitted.into_iter().map(|action| Move { action, chance, explored: false }).collect()
}

/// Doing nothing.
#[must_use]
pub fn noop(_: &Situation) -> Vec<Move> {
    vec![Move::certain(0)]
}

/// Restarting as long as it is permitted, and nothing after that.
#[must_use]
pub fn restart_always(at: &Situation) -> Vec<Move> {
    let restart = at.permitted().find(|action| *action == 2);
    vec![Move::certain(restart.unwrap_or(0))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{reference, reference_values};

    fn check(name: &str, shield: Shield, value: Value) {
        let published = reference(shield, name).unwrap();
        let ours = [value.cost, value.success, value.steps, value.harmful];
        for (ours, published) in ours.into_iter().zip(published) {
            assert!((ours - published).abs() < 1e-9, "{name} {shield:?}: {ours} {published}");
        }
    }

    #[test]
    fn the_published_values_are_reproduced() {
        let world = World::nominal().unwrap();
        for shield in [Shield::On, Shield::Off] {
            check("bayes_optimal", shield, optimal(&world, shield));
            check("random", shield, evaluate_all(&world, shield, &mut random));
            check("noop", shield, evaluate_all(&world, shield, &mut noop));
            check("restart_always", shield, evaluate_all(&world, shield, &mut restart_always));
        }
    }

    #[test]
    fn the_published_values_of_first_actions_are_reproduced() {
        let world = World::nominal().unwrap();
        for shield in [Shield::On, Shield::Off] {
            let published = reference_values(shield).unwrap();
            assert!(published.len() > 20);
            for (signature, action, value) in published {
                let first = Situation::first(&world, signature, shield);
                let values = Optimum::new(&world, &first).values(&first);
                let of = |(position, _): &&(usize, f64)| {
                    agentd_core::choose::ccq::position(action) == Some(*position)
                };
                let ours = values.iter().find(of).unwrap().1;
                assert!((ours - value).abs() < 1e-6, "{signature:?} {action} {ours} {value}");
            }
        }
    }

    #[test]
    fn no_policy_beats_the_optimum_in_any_world() {
        let nominal = World::nominal().unwrap();
        for seed in 1..5 {
            let world = nominal.perturbed(seed);
            let best = optimal(&world, Shield::On).cost;
            assert!(best < evaluate_all(&world, Shield::On, &mut random).cost);
            assert!(best < evaluate_all(&world, Shield::On, &mut restart_always).cost);
            assert!(best >= optimal(&world, Shield::Off).cost, "a shield takes choices away");
        }
    }
}
