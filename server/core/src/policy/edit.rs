//! One setting of a policy by its path: `cooldown.base_ms.RESTART = 25000`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Policy;

/// Why a setting cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No setting is called so.
    #[error("no setting is called `{path}`; `{parent}` has {names}")]
    Unknown {
        /// As it was given.
        path: String,
        /// The part of it that exists.
        parent: String,
        /// What is there.
        names: String,
    },
    /// The value is none for this setting.
    #[error("`{value}` is no value for `{path}`: {detail}")]
    Value {
        /// As it was given.
        path: String,
        /// As it was given.
        value: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// `policy` with the setting at `path` changed to `value`, written as in the policy file. The result may break rules of the
/// linter: whoever wants to put it in force asks it.
///
/// # Errors
/// [`SetError`], when there is no such setting or the value is of another kind.
pub fn set(policy: &Policy, path: &str, value: &str) -> Result<Policy, SetError> {
    let invalid =
        |detail: String| SetError::Value { path: path.to_owned(), value: value.to_owned(), detail };
    let mut document = serde_json::to_value(policy).map_err(|error| invalid(error.to_string()))?;
    let place = find(&mut document, path)?;
    let text = || Value::String(value.to_owned());
    *place = match serde_json::from_str(value) {
        // What is a text already stays one, whatever it looks like.
        Ok(_) if place.is_string() => text(),
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => value,
        Ok(_) | Err(_) => text(),
    };
    serde_json::from_value(document).map_err(|error| invalid(error.to_string()))
}

/// The place a path leads to. A key that a map of actions or metrics does not hold yet may be added: whether it is one is told
/// when the policy is read back.
fn find<'a>(document: &'a mut Value, path: &str) -> Result<&'a mut Value, SetError> {
    let mut place = document;
    let mut walked = String::new();
    let parts: Vec<&str> = path.split('.').collect();
    let last = parts.len().saturating_sub(1);
    for (depth, part) in parts.into_iter().enumerate() {
        let (key, indices) = part.split_once('[').unwrap_or((part, ""));
        let growing = depth == last && GROWING.contains(&walked.as_str());
        let names = names_of(place);
        let unknown = || SetError::Unknown {
            path: path.to_owned(),
            parent: if walked.is_empty() { "the policy".to_owned() } else { walked.clone() },
            names: names.clone(),
        };
        let map = place.as_object_mut().ok_or_else(unknown)?;
        place = match growing {
            true => map.entry(key).or_insert(Value::Null),
            false => map.get_mut(key).ok_or_else(unknown)?,
        };
        for index in indices.split('[').filter(|index| !index.is_empty()) {
            let index = index.strip_suffix(']').and_then(|index| index.parse::<usize>().ok());
            place = index.and_then(|index| place.get_mut(index)).ok_or_else(unknown)?;
        }
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(part);
    }
    Ok(place)
}

/// One setting in which two policies differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its path, as [`set`] takes it.
    pub path: String,
    /// In the first; `None` if it is not there.
    pub from: Option<String>,
    /// In the second; `None` if it is not there.
    pub to: Option<String>,
}

/// Every setting in which `from` and `to` differ, by path.
#[must_use]
pub fn differences(from: &Policy, to: &Policy) -> Vec<Difference> {
    let (from, to) = (settings(from), settings(to));
    let paths: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    paths
        .into_iter()
        .filter(|path| from.get(*path) != to.get(*path))
        .map(|path| Difference {
            path: path.clone(),
            from: from.get(path).cloned(),
            to: to.get(path).cloned(),
        })
        .collect()
}

/// Every setting of a policy by its path.
fn settings(policy: &Policy) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    flatten("", &serde_json::to_value(policy).unwrap_or_default(), &mut all);
    all
}

fn flatten(path: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, all);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, all);
            }
        }
        Value::Null => {}
        Value::String(text) => _ = all.insert(path.to_owned(), text.clone()),
        Value::Bool(_) | Value::Number(_) => _ = all.insert(path.to_owned(), value.to_string()),
    }
}

/// Maps whose keys are actions.
const GROWING: [&str; 2] = ["levels", "cooldown.base_ms"];

fn names_of(place: &Value) -> String {
    match place {
        Value::Object(map) => map.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        Value::Array(list) => format!("{} entries", list.len()),
        _ => "no settings below it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Level};
    use crate::app::Env;

    #[test]
    fn a_setting_is_changed_by_its_path_and_nothing_else_is() {
        let policy = Policy::default_for(Env::Stage);
        let changed = set(&policy, "cooldown.base_ms.RESTART", "25000").unwrap();
        assert_eq!(changed.cooldown_ms(Action::Restart), 25_000);
        let back = set(&changed, "cooldown.base_ms.RESTART", "60000").unwrap();
        assert_eq!(back, policy);
        let levels = set(&policy, "levels.RESTART", "PROPOSE").unwrap();
        assert_eq!(levels.level(Action::Restart), Level::Propose);
        let mut bare = policy;
        bare.levels.remove(&Action::Offboard);
        let added = set(&bare, "levels.OFFBOARD", "AUTO").unwrap();
        assert_eq!(added.level(Action::Offboard), Level::Auto, "what is absent can be added");
        let detector = set(&bare, "thresholds.cpu_utilization.enter", "900000").unwrap();
        assert_ne!(detector, bare);
    }

    #[test]
    fn what_was_set_is_what_differs() {
        let policy = Policy::default_for(Env::Stage);
        assert_eq!(differences(&policy, &policy), []);
        let changed = set(&policy, "cooldown.base_ms.RESTART", "25000").unwrap();
        let mut changed = set(&changed, "repetition.limit", "4").unwrap();
        changed.levels.remove(&Action::Offboard);
        let told: Vec<_> = differences(&policy, &changed)
            .into_iter()
            .map(|d| (d.path, d.from.unwrap_or_default(), d.to.unwrap_or_default()))
            .collect();
        let expected = [
            ("cooldown.base_ms.RESTART", "60000", "25000"),
            ("levels.OFFBOARD", "AUTO", ""),
            ("repetition.limit", "3", "4"),
        ];
        assert_eq!(told, expected.map(|(p, f, t)| (p.into(), f.into(), t.into())));
    }

    #[test]
    fn a_path_that_leads_nowhere_says_what_is_there() {
        let policy = Policy::default_for(Env::Stage);
        let error = set(&policy, "cooldown.base.RESTART", "1").unwrap_err().to_string();
        assert!(error.contains("`cooldown` has") && error.contains("base_ms"), "{error}");
        for path in ["", ".", "x", "levels", "levels.DANCE", "windows[0].end", "env.x", "levels."] {
            assert!(set(&policy, path, "1").is_err(), "{path}");
        }
        for (path, value) in [
            ("repetition.limit", "-1"),
            ("repetition.limit", "many"),
            ("repetition.limit", "1.5"),
            ("repetition.limit", "{}"),
            ("levels.RESTART", "MAYBE"),
            ("repetition", "1"),
        ] {
            let error = set(&policy, path, value).unwrap_err();
            assert!(matches!(error, SetError::Value { .. }), "{path}: {error}");
        }
    }
}
