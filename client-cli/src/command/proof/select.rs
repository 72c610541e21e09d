//! `agentctl proof list --select FIELD`: one field of each entry.

use std::collections::BTreeMap;

use agentctl_api::v1;
use serde_json::value::RawValue;

use super::Context;
use crate::failure::Failure;

/// Prints the field of each entry on a line of its own, as the bytes that are in the log: two runs can be compared with `diff`,
/// and nothing between log and terminal can make them equal.
pub(super) fn print(
    entries: &[v1::ProofEntry],
    field: &str,
    context: &mut Context,
) -> Result<(), Failure> {
    let mut found = false;
    for entry in entries {
        let value = value_of(&entry.raw, field).map_err(|error| Failure::unprintable(&error))?;
        found = found || value.is_some();
        let mut line = value.unwrap_or("null").as_bytes().to_vec();
        line.push(b'\n');
        context.output.raw(&line)?;
    }
    context.output.flush()?;
    if !found && !entries.is_empty() {
        return Err(Failure::usage(format!("no entry has a field `{field}`"))
            .hint("such as body, seq, ts, event_name, app, actor or cause"));
    }
    Ok(())
}

/// The stored text of a field; `None` if the entry has none.
fn value_of<'a>(line: &'a [u8], field: &str) -> Result<Option<&'a str>, serde_json::Error> {
    let fields: BTreeMap<&str, &'a RawValue> = serde_json::from_slice(line)?;
    Ok(fields.get(field).map(|value| value.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_printed_as_it_is_stored() {
        // Neither order, nor spaces, nor the way a character is escaped, nor the digits of a number are touched.
        let stored = r#"{"b":1.50,"a": "\u0041\u202e€","n":1e2,"a":[ ]}"#;
        let line = format!(r#"{{"event_name":"RL_DECISION","seq":7,"body":{stored}}}"#);
        assert_eq!(value_of(line.as_bytes(), "body").unwrap(), Some(stored));
        assert_eq!(value_of(line.as_bytes(), "seq").unwrap(), Some("7"));
        assert_eq!(value_of(line.as_bytes(), "app").unwrap(), None);
        assert!(value_of(b"not a line", "body").is_err());
        assert!(value_of(b"[1]", "body").is_err());
    }
}
