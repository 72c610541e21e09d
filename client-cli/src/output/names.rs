//! `-o name`: what identifies each item, one per line, for `xargs` and loops.

use serde::Serialize;
use serde_json::Value;

use crate::exit::Exit;
use crate::failure::Failure;

/// Fields that identify something, in the order in which they are looked for.
const IDENTIFYING: [&str; 10] = [
    "name",
    "id",
    "decision_id",
    "approval_id",
    "agent_id",
    "code",
    "seq",
    "check",
    "app",
    "environment",
];

/// The names in a value, a line each.
///
/// # Errors
/// Something in it has none.
pub(super) fn of<T: Serialize>(value: &T) -> Result<String, Failure> {
    let value = serde_json::to_value(value).map_err(|error| Failure::unprintable(&error))?;
    let items = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    let mut lines = String::new();
    for item in &items {
        lines.push_str(&crate::text::line(&name(item)?));
        lines.push('\n');
    }
    Ok(lines)
}

fn name(item: &Value) -> Result<String, Failure> {
    let found = IDENTIFYING.iter().find_map(|field| match item.get(field)? {
        Value::String(name) if !name.is_empty() => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    found.ok_or_else(|| {
        Failure::new(Exit::Usage, "this answer has no names")
            .hint("use another format, such as -o json")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_item_has_its_name_on_a_line_of_its_own() {
        let apps = json!([{"name": "my-api", "id": 1}, {"name": "a\nb\u{1b}"}]);
        assert_eq!(of(&apps).unwrap(), "my-api\na\\nb\\u{1b}\n");
        assert_eq!(of(&json!({"decision_id": "dec-7"})).unwrap(), "dec-7\n");
        assert_eq!(of(&json!({"code": 10})).unwrap(), "10\n");
        assert_eq!(of(&json!([])).unwrap(), "");
    }

    #[test]
    fn what_has_no_name_says_so() {
        assert_eq!(of(&json!({"ready": 2})).unwrap_err().exit(), Exit::Usage);
    }
}
