//! What was learned, as a file: named by its digest, bound to an environment and a fault catalogue, and naming what it came from.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Expertise;
use super::ccq::{Catalogue, Knowledge, MergeError, OWN};
use super::table::ValueTable;
use crate::app::Env;

mod place;

use place::Places;

/// Version of the format.
const SCHEMA: u32 = 1;
/// Longest snapshot in bytes: what a record can carry beside the log, with room to spare.
pub const TEXT_MAX: usize = 1 << 20;

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
    /// It cannot be read.
    #[error("line {line}, field `{field}`: {what}")]
    Form {
        /// Where.
        line: usize,
        /// In which field, or right behind it.
        field: String,
        /// Why.
        what: String,
    },
    /// It is too long to be one.
    #[error("{0} bytes are more than the {TEXT_MAX} a snapshot may have")]
    Long(usize),
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
    /// Nobody can have learned this: everything that is wrong with it.
    #[error("{}", all(.0))]
    Flaws(Vec<Flaw>),
    /// Environments do not learn from each other.
    #[error("field `env`: what was learned in {0} and in {1} is not merged")]
    Environments(Env, Env),
    /// Too many agents.
    #[error("field `knowledge`: {0}")]
    Agents(#[from] MergeError),
}

/// A number that nobody can have learned, or a name that nobody has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, field `{field}`: {value} {rule}")]
pub struct Flaw {
    /// Where it stands.
    pub line: usize,
    /// In which field.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What must hold.
    pub rule: String,
}

fn all(flaws: &[Flaw]) -> String {
    flaws.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Flaws that are told; a text that is wrong all over does not fill the answer.
const FLAWS: usize = 20;
/// Longest name of an agent.
const NAME_MAX: usize = 64;
/// Most snapshots that one names as those it was made from.
const PARENTS_MAX: usize = 64;

impl Snapshot {
    /// What `agent` has learned up to record `last_seq` of its log, made from `parents`.
    #[must_use]
    pub fn new(
        env: Env,
        agent: &str,
        last_seq: u64,
        learned: &Expertise,
        parents: &[String],
    ) -> Self {
        Self {
            schema: SCHEMA,
            env,
            catalogue: Catalogue::builtin().digest(),
            agent: agent.to_owned(),
            last_seq,
            parents: parents.to_vec(),
            table: learned.table.clone(),
            knowledge: learned.knowledge.signed(agent),
            digest: String::new(),
        }
        .sealed()
    }

    /// Reads one and checks it: nothing is half loaded.
    ///
    /// # Errors
    /// [`Error`], with the line and the field.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > TEXT_MAX {
            return Err(Error::Long(text.len()));
        }
        let snapshot: Self = serde_json::from_str(text).map_err(|error| form(text, &error))?;
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
        let flaws = snapshot.flaws(text);
        if !flaws.is_empty() {
            return Err(Error::Flaws(flaws));
        }
        // Merged with nothing, it keeps the limits of a merge.
        Knowledge::default().merge(&snapshot.knowledge)?;
        Ok(snapshot)
    }

    /// Everything in it that nobody can have learned: whoever writes a digest of their own is believed no more than others.
    fn flaws(&self, text: &str) -> Vec<Flaw> {
        let mut found: Vec<(String, String, String)> = Vec::new();
        let origins = self.knowledge.iter().map(|(origin, ..)| origin).collect::<BTreeSet<_>>();
        let named = origins.into_iter().map(|name| (format!("knowledge.origins.{name}"), name));
        for (field, name) in named.chain([("agent".to_owned(), &*self.agent)]) {
            if !is_name(name) {
                let rule = format!("is `{OWN}`, or no 1 to {NAME_MAX} letters, digits, - _ .");
                found.push((field, format!("`{name}`"), rule));
            }
        }
        for (origin, signature, row) in self.knowledge.iter() {
            for (action, cell) in &row.cells {
                let at =
                    format!("knowledge.origins.{origin}.{}.cells.{action}", signature.as_str());
                let told = |(field, value, rule): (&str, String, &str)| {
                    (format!("{at}.{field}"), value, rule.to_owned())
                };
                found.extend(cell.flaws().into_iter().map(told));
            }
        }
        for (finding, action, value) in self.table.iter() {
            let at = format!("table.{}.{action}", finding.as_str());
            let told = |(field, value, rule): (&str, String, &str)| {
                (format!("{at}.{field}"), value, rule.to_owned())
            };
            found.extend(value.flaws().into_iter().map(told));
        }
        if self.parents.len() > PARENTS_MAX {
            let rule = format!("snapshots are more than {PARENTS_MAX}");
            found.push(("parents".to_owned(), self.parents.len().to_string(), rule));
        }
        if found.is_empty() {
            return Vec::new();
        }
        let places = Places::of(text);
        found.truncate(FLAWS);
        let flaw = |(field, value, rule): (String, String, String)| {
            let line = places.line_of(&field);
            Flaw { line, field, value, rule }
        };
        found.into_iter().map(flaw).collect()
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

    /// What it knows.
    #[must_use]
    pub fn expertise(&self) -> Expertise {
        Expertise { table: self.table.clone(), knowledge: self.knowledge.clone() }
    }

    fn seal(&self) -> String {
        let bare = Self { digest: String::new(), ..self.clone() };
        crate::digest::sha256_hex(&serde_json::to_vec(&bare).unwrap_or_default())
    }
}

/// Whether an agent may be called so. What an agent experienced itself it keeps under a name that is nobody else's.
fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && name != OWN && name.bytes().all(known)
}

/// What serde says of a text, with the field it stopped in.
fn form(text: &str, error: &serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    let field = Places::of(text).field_at(line, column).to_owned();
    let what = error.to_string();
    let what = what.split(" at line ").next().unwrap_or_default().to_owned();
    Error::Form { line, field, what }
}

#[cfg(test)]
mod tests;
