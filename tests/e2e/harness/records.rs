//! The proof log as a test reads it.

use serde_json::Value;

/// Records in order.
#[derive(Debug, Clone)]
pub(crate) struct Records(Vec<Value>);

impl Records {
    /// Reads JSON lines.
    pub(crate) fn parse(lines: &str) -> Self {
        Self(lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect())
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Value> {
        self.0.iter()
    }

    /// Those of one event.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.iter().filter(move |record| event(record) == name)
    }

    /// How many there are of one event.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.of(name).count()
    }

    /// How many attempts were begun with this action.
    pub(crate) fn attempts(&self, action: &str) -> usize {
        self.of("ORCH_EXEC")
            .filter(|record| body(record, "attempted")["plan"]["action"] == action)
            .count()
    }

    /// Process ids of every incarnation that was seen to start, in order.
    pub(crate) fn started(&self) -> Vec<u64> {
        self.of("RUNTIME_EMIT")
            .filter_map(|record| {
                body(record, "observed")["what"]["started"]["fence"]["pid"].as_u64()
            })
            .collect()
    }

    /// Sequence number of the newest record.
    pub(crate) fn head(&self) -> u64 {
        self.0.last().map_or(0, seq)
    }
}

impl IntoIterator for Records {
    type Item = Value;
    type IntoIter = std::vec::IntoIter<Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Name of the event.
pub(crate) fn event(record: &Value) -> &str {
    record["event_name"].as_str().unwrap_or_default()
}

/// Sequence number.
pub(crate) fn seq(record: &Value) -> u64 {
    record["seq"].as_u64().unwrap_or_default()
}

/// The body, if it is of this kind.
pub(crate) fn body<'a>(record: &'a Value, kind: &str) -> &'a Value {
    &record["body"][kind]
}
