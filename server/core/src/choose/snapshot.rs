//! What was learned, as a file: named by its digest, bound to an environment and a fault catalogue, and naming what it came from.

use serde::{Deserialize, Serialize};

use super::ccq::{Catalogue, Knowledge, MergeError};
use super::table::ValueTable;
use crate::app::Env;

/// Version of the format.
const SCHEMA: u32 = 1;

/// What agents have learned up to a record of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Version of the format.
    pub schema: u32,
    /// Where it was learned.
    pub env: Env,
    /// Digest of the fault catalogue it corrects.
    pub catalogue: String,
    /// The agent whose log it was made from; of merged ones, the first by name.
    pub agent: String,
    /// The last record that is in it.
    pub last_seq: u64,
    /// Digests of the snapshots it was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// Values by finding and action. They have no meaning beside those of another agent, so a merge keeps none.
    pub table: ValueTable,
    /// Corrections of the catalogue, agent by agent.
    pub knowledge: Knowledge,
    /// SHA-256 of all of the above.
    pub digest: String,
}

/// Why a text is no snapshot, or two cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be read; with line and column.
    #[error("{0}")]
    Form(String),
    /// Another version of the format.
    #[error("field `schema`: {0} must be {SCHEMA}")]
    Schema(u32),
    /// Somebody changed it.
    #[error("field `digest`: `{said}` must be `{found}`: it was changed")]
    Digest {
        /// What it says.
        said: String,
        /// What it is.
        found: String,
    },
    /// It corrects other numbers.
    #[error("field `catalogue`: `{0}` is not the fault catalogue of this version")]
    Catalogue(String),
    /// Environments do not learn from each other.
    #[error("field `env`: what was learned in {0} and in {1} is not merged")]
    Environments(Env, Env),
    /// Too many agents.
    #[error("field `knowledge`: {0}")]
    Agents(#[from] MergeError),
}

impl Snapshot {
    /// What `agent` has learned up to record `last_seq` of its log.
    #[must_use]
    pub fn new(
        env: Env,
        agent: &str,
        last_seq: u64,
        table: &ValueTable,
        knowledge: &Knowledge,
    ) -> Self {
        Self {
            schema: SCHEMA,
            env,
            catalogue: Catalogue::builtin().digest(),
            agent: agent.to_owned(),
            last_seq,
            parents: Vec::new(),
            table: table.clone(),
            knowledge: knowledge.signed(agent),
            digest: String::new(),
        }
        .sealed()
    }

    /// Reads one and checks it: nothing is half loaded.
    ///
    /// # Errors
    /// [`Error`], with the line or the field.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let snapshot: Self =
            serde_json::from_str(text).map_err(|error| Error::Form(error.to_string()))?;
        if snapshot.schema != SCHEMA {
            return Err(Error::Schema(snapshot.schema));
        }
        let found = snapshot.seal();
        if snapshot.digest != found {
            return Err(Error::Digest { said: snapshot.digest, found });
        }
        if snapshot.catalogue != Catalogue::builtin().digest() {
            return Err(Error::Catalogue(snapshot.catalogue));
        }
        // Merged with nothing, it keeps the limits of a merge.
        Knowledge::default().merge(&snapshot.knowledge)?;
        Ok(snapshot)
    }

    /// What two of them know together: the same whichever is merged into which, in whatever order and however often.
    ///
    /// # Errors
    /// [`Error::Environments`] and [`Error::Agents`]; nothing is merged then.
    pub fn merged(&self, other: &Self) -> Result<Self, Error> {
        if self.env != other.env {
            return Err(Error::Environments(self.env, other.env));
        }
        let mut knowledge = self.knowledge.clone();
        knowledge.merge(&other.knowledge)?;
        if *self == *other {
            return Ok(self.clone());
        }
        let parents = |of: &Self| {
            if of.parents.is_empty() { vec![of.digest.clone()] } else { of.parents.clone() }
        };
        let mut all = [parents(self), parents(other)].concat();
        all.sort();
        all.dedup();
        let (agent, last_seq) =
            (self.agent.clone().min(other.agent.clone()), self.last_seq.max(other.last_seq));
        let merged = Self {
            agent,
            last_seq,
            parents: all,
            table: ValueTable::default(),
            knowledge,
            ..self.clone()
        };
        Ok(merged.sealed())
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    fn sealed(mut self) -> Self {
        self.digest = self.seal();
        self
    }

    fn seal(&self) -> String {
        let bare = Self { digest: String::new(), ..self.clone() };
        crate::digest::sha256_hex(&serde_json::to_vec(&bare).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::choose::ccq::{Fixed, OWN, Trial};
    use crate::detect::Signature;

    fn snapshot(env: Env, agent: &str, outcomes: u32) -> Snapshot {
        let mut knowledge = Knowledge::default();
        for n in 0..outcomes {
            let trial = Trial {
                signature: Signature::Down,
                action: Action::Restart,
                resolved: n % 3 != 0,
                cost: Fixed::ONE,
                chance: Fixed::micro(800_000),
                cost0: Fixed::ONE,
            };
            knowledge.learn(OWN, &trial);
        }
        Snapshot::new(env, agent, outcomes.into(), &ValueTable::default(), &knowledge)
    }

    fn stage(agent: &str, outcomes: u32) -> Snapshot {
        snapshot(Env::Stage, agent, outcomes)
    }

    #[test]
    fn a_snapshot_reads_back_and_one_that_was_touched_does_not() {
        let text = stage("agent-1", 12).text();
        assert_eq!(Snapshot::parse(&text).unwrap().text(), text);
        let touched = text.replace("\"trials\": 12", "\"trials\": 13");
        assert_ne!(touched, text);
        assert!(matches!(Snapshot::parse(&touched), Err(Error::Digest { .. })));
        let cut = text.split_at(text.len() / 2).0;
        let error = Snapshot::parse(cut).unwrap_err().to_string();
        assert!(error.contains("line "), "{error}");
        let unknown = text.replacen("\"schema\"", "\"shema\"", 1);
        let error = Snapshot::parse(&unknown).unwrap_err().to_string();
        assert!(error.contains("shema") && error.contains("line 2"), "{error}");
        let newer = text.replacen("\"schema\": 1", "\"schema\": 2", 1);
        assert_eq!(Snapshot::parse(&newer), Err(Error::Schema(2)));
        let foreign = Snapshot { catalogue: "00".to_owned(), ..stage("a", 1) }.sealed();
        assert_eq!(Snapshot::parse(&foreign.text()), Err(Error::Catalogue("00".to_owned())));
    }

    #[test]
    fn a_merge_is_the_same_in_any_order_grouping_and_number() {
        let (a, b, c) = (stage("a", 5), stage("b", 9), stage("c", 30));
        let merge = |x: &Snapshot, y: &Snapshot| x.merged(y).unwrap();
        assert_eq!(merge(&a, &b), merge(&b, &a));
        assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        assert_eq!(merge(&a, &a), a);
        let all = merge(&merge(&a, &b), &c);
        assert_eq!(merge(&all, &b), all);
        let learned = all.knowledge.beliefs(Signature::Down).get(Action::Restart);
        assert_eq!(learned.trials, 44);
        assert_eq!(Snapshot::parse(&all.text()).unwrap(), all);
    }

    #[test]
    fn environments_are_not_merged() {
        let (here, there) = (stage("a", 5), snapshot(Env::Prod, "b", 5));
        assert_eq!(here.merged(&there), Err(Error::Environments(Env::Stage, Env::Prod)));
    }
}
