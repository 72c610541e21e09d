//! The same failures lead to the same decisions: two servers, each with its own log and processes, and the bodies of their
//! decisions compared byte for byte.
//!
//! What is compared is the whole choice: findings, candidates with their values, action, confidence, probability, all verdicts
//! and the ruling. Left out is only what is different because two runs happen at two times with two processes: clock times,
//! sequence numbers, process ids and measured values, also where one is the limit of another. That nothing else was needed to decide is
//! shown by the second check: every decision is judged again from its own record, and the bytes must be the same.

use serde_json::{Map, Value};

use super::{Suite, Trial, on_scratch};
use crate::command::scratch::{Rules, Scratch};
use crate::command::{Context, demo, proof};
use crate::exit::Exit;
use crate::failure::Failure;

/// Scenarios that are played on each server.
const PLAYED: [&str; 3] = ["crash", "signal-conflict", "unsafe-action"];

/// What one server decided, and whether judging again gave the same bytes.
struct Run {
    bodies: Vec<String>,
    rechecked: u64,
    different: u64,
}

pub(super) async fn run(context: &mut Context) -> Result<Trial, Failure> {
    let mut trial = Trial::new(Suite::Determinism);
    let first = once(&mut trial, "first run", context).await?;
    let second = once(&mut trial, "second run", context).await?;
    let (got, held) = compare(&first.bodies, &second.bodies);
    trial.found("same decisions", "the same RL_DECISION bodies in both runs", got, held);
    for (name, run) in [("first", &first), ("second", &second)] {
        let got = format!("{} judged again, {} different", run.rechecked, run.different);
        let held = run.different == 0 && run.rechecked > 0;
        let check = format!("{name} run judged again");
        trial.found(&check, "every decision comes out the same, byte for byte", got, held);
    }
    Ok(trial)
}

async fn once(trial: &mut Trial, what: &str, context: &mut Context) -> Result<Run, Failure> {
    let rules = Rules { policy: demo::POLICY, freeze: true, ..Rules::default() };
    on_scratch(rules, context, async |stage, context| {
        let mut named = Vec::new();
        for scenario in PLAYED {
            let check = format!("{what}: {scenario}");
            let played = trial.rehearse(scenario, &check, stage, context).await?;
            named.extend(played.decisions().map(ToOwned::to_owned));
        }
        read(stage, &named).await
    })
    .await
}

/// The bodies of the decisions that the steps of the scenarios named, in their order.
async fn read(stage: &Scratch, named: &[String]) -> Result<Run, Failure> {
    let lines = proof::download(&stage.operator, 1, 0, None).await?;
    let again = proof::verify::verify_lines(&mut lines.as_slice(), true)?;
    let mut bodies = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: Value =
            serde_json::from_slice(line).map_err(|error| Failure::unprintable(&error))?;
        let id = format!("dec-{}", record.get("seq").and_then(Value::as_u64).unwrap_or(0));
        if record.get("event_name").and_then(Value::as_str) == Some("RL_DECISION")
            && named.contains(&id)
        {
            let decided = record.pointer("/body/decided").ok_or_else(|| {
                Failure::new(Exit::ProofFailed, format!("{id} has no decision in its record"))
            })?;
            bodies.push(choice(decided).to_string());
        }
    }
    Ok(Run {
        bodies,
        rechecked: again.decisions_rechecked.unwrap_or(0),
        different: again.decisions_different.unwrap_or(0),
    })
}

/// Fields of a decision that have to be the same.
const WHOLE: [&str; 3] = ["trigger", "policy_digest", "ruling"];
const OF_FINDING: [&str; 4] = ["kind", "metric", "limit", "persistence"];
const OF_PROPOSAL: [&str; 9] = [
    "action",
    "missing",
    "confidence",
    "candidates",
    "because",
    "source",
    "requested_as",
    "explored",
    "propensity_ppm",
];
const OF_VERDICT: [&str; 6] = ["gate", "group", "effect", "reason", "limit", "self_imposed"];

/// Of two monitors that contradict each other the one is the limit of the other: what was measured, and by agentd itself where that is
/// the least.
fn is_measured(limit_of: &Map<String, Value>) -> bool {
    let says = |field: &str, what: &str| limit_of.get(field).and_then(Value::as_str) == Some(what);
    says("kind", "CONTRADICTION") || says("gate", "conflict")
}

/// The choice itself, without when and with which process.
fn choice(decided: &Value) -> Value {
    let mut choice = pick(decided, &WHOLE);
    let all = |name: &str, fields: &[&str]| {
        let list = decided.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let items = list.iter().map(|item| {
            let mut picked = pick(item, fields);
            if is_measured(&picked) {
                picked.remove("limit");
            }
            Value::Object(picked)
        });
        Value::from(items.collect::<Vec<_>>())
    };
    choice.insert("findings".to_owned(), all("findings", &OF_FINDING));
    choice.insert("verdicts".to_owned(), all("verdicts", &OF_VERDICT));
    let proposal = decided.get("proposal").unwrap_or(&Value::Null);
    choice.insert("proposal".to_owned(), Value::Object(pick(proposal, &OF_PROPOSAL)));
    Value::Object(choice)
}

fn pick(from: &Value, fields: &[&str]) -> Map<String, Value> {
    let field = |name: &&str| Some(((*name).to_owned(), from.get(*name)?.clone()));
    fields.iter().filter_map(field).collect()
}

/// Whether both runs decided the same, and if not, from which decision on they did not.
fn compare(first: &[String], second: &[String]) -> (String, bool) {
    if first.is_empty() {
        return ("no decision was made".to_owned(), false);
    }
    if let Some(at) = first.iter().zip(second).position(|(one, other)| one != other) {
        let body = |run: &[String]| -> Option<Value> { serde_json::from_str(run.get(at)?).ok() };
        let (one, other) = (body(first).unwrap_or_default(), body(second).unwrap_or_default());
        let what = difference("body", &one, &other);
        return (format!("decision {} of {} differs: {what}", at + 1, first.len()), false);
    }
    let bytes: usize = first.iter().map(String::len).sum();
    let got = format!("{} and {} decisions, {bytes} bytes", first.len(), second.len());
    (got, first.len() == second.len())
}

/// The first place below `path` where two bodies say different things, and what.
fn difference(path: &str, one: &Value, other: &Value) -> String {
    let deeper = match (one, other) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => a
            .iter()
            .zip(b.values())
            .find(|((_, a), b)| a != b)
            .map(|((name, a), b)| difference(&format!("{path}.{name}"), a, b)),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find(|(_, (a, b))| a != b)
            .map(|(at, (a, b))| difference(&format!("{path}[{at}]"), a, b)),
        _ => None,
    };
    deeper.unwrap_or_else(|| format!("{path} is {one}, then {other}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decided(pid: u32, action: &str) -> Value {
        json!({
            "trigger": "reading", "now": 1, "seq": pid, "policy_digest": "ab",
            "findings": [{"kind": "CRASH", "value": {"count": 1}, "limit": {"count": 0}}],
            "proposal": {"action": action, "confidence": 900, "plan": {"pid": pid}},
            "verdicts": [{"gate": "cooldown", "effect": "pass", "value": {"ms": pid}}],
            "ruling": {"ruling": "permitted"}, "reading": {"at": pid},
        })
    }

    #[test]
    fn time_and_process_are_left_out_and_the_choice_is_not() {
        let body = |pid, action| choice(&decided(pid, action)).to_string();
        assert_eq!(body(1, "RESTART"), body(2, "RESTART"));
        assert_ne!(body(1, "RESTART"), body(1, "NOOP"));
        assert!(body(1, "RESTART").contains("\"confidence\":900"));
    }

    #[test]
    fn what_a_contradiction_is_measured_against_is_left_out_and_other_limits_are_not() {
        let body = |kind: &str, gate: &str, limit: u32| {
            let mut decided = decided(1, "OBSERVE");
            decided["findings"] = json!([{"kind": kind, "limit": {"micro": limit}}]);
            decided["verdicts"] = json!([{"gate": gate, "limit": {"micro": limit}}]);
            choice(&decided).to_string()
        };
        assert_eq!(body("CONTRADICTION", "conflict", 0), body("CONTRADICTION", "conflict", 7));
        assert_ne!(body("CONTRADICTION", "cooldown", 0), body("CONTRADICTION", "cooldown", 7));
        assert_ne!(body("CRASH", "conflict", 0), body("CRASH", "conflict", 7));
    }

    #[test]
    fn a_planted_difference_is_found() {
        let run = |actions: &[&str]| {
            actions.iter().map(|a| choice(&decided(1, a)).to_string()).collect::<Vec<_>>()
        };
        let (got, same) = compare(&run(&["RESTART", "OBSERVE"]), &run(&["RESTART", "NOOP"]));
        let told = "decision 2 of 2 differs: body.proposal.action is \"OBSERVE\", then \"NOOP\"";
        assert_eq!((got.as_str(), same), (told, false));
        assert!(!compare(&run(&["RESTART"]), &run(&["RESTART", "NOOP"])).1);
        assert!(compare(&run(&["RESTART"]), &run(&["RESTART"])).1);
        assert!(!compare(&[], &[]).1);
    }
}
