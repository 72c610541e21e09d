//! Faults with the real binary: agentd is killed at every step, its disk fails, it stands still. What was acknowledged stays,
//! nothing is done twice, nothing is done without a record; and for each of these checks a planted bug shows that it can fail.
//!
//! Needs the cargo feature `failpoints`.

#[cfg(test)]
#[path = "../e2e/harness.rs"]
#[expect(dead_code, reason = "the stories use more of it")]
mod harness;

#[cfg(test)]
mod blind;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod still;
#[cfg(test)]
mod world;
