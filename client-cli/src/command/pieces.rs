//! Pieces of text that more than one command shows: a status is always a glyph and a word.

use agentctl_api::v1;
use chrono::{DateTime, Utc};

use crate::text;
use crate::time::{self, TimeStyle};
use crate::view;

/// What stands for "nothing to say".
pub(super) const NONE: &str = "–";

/// `RESTART` as people write it.
pub(super) fn action(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Health of an app.
pub(super) fn health(value: i32) -> String {
    let glyph = match v1::AppHealth::try_from(value) {
        Ok(v1::AppHealth::Healthy) => '●',
        Ok(v1::AppHealth::Degraded) => '◐',
        Ok(v1::AppHealth::Down) => '✖',
        Ok(v1::AppHealth::Starting) => '◷',
        _ => '○',
    };
    format!("{glyph} {}", view::app_health(value))
}

/// State of an instance.
pub(super) fn instance_state(value: i32) -> String {
    let glyph = match v1::InstanceState::try_from(value) {
        Ok(v1::InstanceState::Ready) => '●',
        Ok(v1::InstanceState::Unready) => '◐',
        Ok(v1::InstanceState::Exited) => '✖',
        Ok(v1::InstanceState::Starting | v1::InstanceState::Stopping) => '◷',
        _ => '○',
    };
    format!("{glyph} {}", view::instance_state(value))
}

/// State of an approval.
pub(super) fn approval_state(value: i32) -> String {
    use v1::ApprovalState as S;
    let glyph = match S::try_from(value) {
        Ok(S::Verified | S::Cleared) => '✔',
        Ok(S::Pending) => '◷',
        Ok(S::Approved | S::Executing) => '▶',
        Ok(S::Failed | S::Rejected) => '✖',
        _ => '○',
    };
    format!("{glyph} {}", view::approval_state(value))
}

/// What became of a decision, as far as is known.
pub(super) fn result(decision: &v1::Decision) -> String {
    if let Some(outcome) = &decision.outcome {
        return outcome_kind(outcome.kind);
    }
    let shadow = if decision.shadow { " (shadow)" } else { "" };
    match v1::Ruling::try_from(decision.ruling) {
        Ok(v1::Ruling::Held) => "◷ pending".to_owned(),
        Ok(v1::Ruling::Refused) => "✖ refused".to_owned(),
        Ok(v1::Ruling::Permitted) if is_quiet(&decision.effective_action) => {
            format!("○ {}", action(&decision.effective_action))
        }
        Ok(v1::Ruling::Permitted) => match &decision.attempt {
            Some(attempt) if attempt.delivered => format!("▶ delivered{shadow}"),
            _ => format!("✔ permitted{shadow}"),
        },
        _ => format!("○ {}", view::ruling(decision.ruling)),
    }
}

/// What was observed after an attempt.
pub(super) fn outcome_kind(kind: i32) -> String {
    let glyph = match v1::OutcomeKind::try_from(kind) {
        Ok(v1::OutcomeKind::Verified) => '✔',
        Ok(v1::OutcomeKind::Failed) => '✖',
        Ok(v1::OutcomeKind::Inconclusive) => '◐',
        _ => '○',
    };
    format!("{glyph} {}", view::outcome_kind(kind))
}

/// Actions that touch nothing.
pub(super) fn is_quiet(action: &str) -> bool {
    matches!(action, "NOOP" | "OBSERVE")
}

/// One glyph per group of gates, in order: `●` passed, `◐` held, `✖` refused, `·` not judged.
pub(super) fn gate_strip(verdicts: &[v1::Verdict]) -> String {
    (1..=7)
        .map(|group| {
            let worst = verdicts.iter().filter(|v| v.group == group).map(|v| v.effect).max();
            match worst.map(v1::GateEffect::try_from) {
                Some(Ok(v1::GateEffect::Pass)) => '●',
                Some(Ok(v1::GateEffect::Hold)) => '◐',
                Some(Ok(v1::GateEffect::Refuse)) => '✖',
                _ => '·',
            }
        })
        .collect()
}

/// What a gate said.
pub(super) fn effect(value: i32) -> &'static str {
    match v1::GateEffect::try_from(value) {
        Ok(v1::GateEffect::Pass) => "✔",
        Ok(v1::GateEffect::Hold) => "◐",
        Ok(v1::GateEffect::Refuse) => "✖",
        _ => "·",
    }
}

/// What the detectors noticed, in a few words.
pub(super) fn findings(decision: &v1::Decision) -> String {
    if decision.source() == v1::DecisionSource::Human {
        return format!("asked by {}", decision.requested_by);
    }
    if decision.findings.is_empty() {
        return NONE.to_owned();
    }
    let words: Vec<_> = decision
        .findings
        .iter()
        .map(|finding| match (summary(finding), finding.value.as_str()) {
            (Some(summary), _) => summary.to_owned(),
            (None, "") => finding.detector.clone(),
            (None, value) => format!("{} {value}", finding.detector),
        })
        .collect();
    words.join(", ")
}

/// Longest summary of a finding that is shown in place of its detector and value.
const SUMMARY_MAX: usize = 28;

/// The sentence of a finding without the detector's name in front of it and the figures behind it, if that is short.
fn summary(finding: &v1::Finding) -> Option<&str> {
    let rest = finding.summary.split_once(": ").map_or(finding.summary.as_str(), |(_, rest)| rest);
    let sentence = rest.split_once(" (").map_or(rest, |(sentence, _)| sentence);
    (!sentence.is_empty() && text::width(sentence) <= SUMMARY_MAX).then_some(sentence)
}

/// The deciding reason with what it saw and when it clears.
pub(super) fn because(decision: &v1::Decision, now: DateTime<Utc>) -> String {
    if let Some(outcome) = &decision.outcome {
        let took = outcome.recovery_time.as_ref().map(|span| time::coarse(time::span_of(span)));
        return match took {
            Some(took) => format!("healthy in {took}"),
            None => outcome.summary.clone(),
        };
    }
    if decision.reason == "EXECUTION_GATE_PASSED" {
        return decision.summary.clone();
    }
    let verdict = decision.verdicts.iter().find(|v| v.reason == decision.reason);
    let Some(verdict) = verdict else { return decision.reason.clone() };
    let cleared = verdict.clear_time.as_ref().and_then(time::of).filter(|clear| *clear > now);
    if let Some(clear) = cleared {
        let left = clear.signed_duration_since(now).to_std().unwrap_or_default();
        return format!("{} {} left", decision.reason, time::coarse(left));
    }
    match (verdict.value.as_str(), verdict.limit.as_str()) {
        ("", _) => decision.reason.clone(),
        (value, "") => format!("{} {value}", decision.reason),
        (value, limit) => format!("{} {value}, limit {limit}", decision.reason),
    }
}

/// `61%`; unknown is not zero.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |share| format!("{:.0}%", share * 100.0))
}

/// `180ms`, `2.1s`.
pub(super) fn latency(seconds: Option<f64>) -> String {
    match seconds.map(std::time::Duration::try_from_secs_f64) {
        Some(Ok(span)) => time::coarse(span),
        _ => NONE.to_owned(),
    }
}

/// Who set a restriction and why; empty if neither is known.
pub(super) fn by_whom(mode: &v1::Mode) -> String {
    match (mode.set_by.as_str(), mode.reason.as_str()) {
        ("", "") => String::new(),
        ("", reason) => format!("  {reason}"),
        (who, "") => format!("  by {who}"),
        (who, reason) => format!("  by {who}: {reason}"),
    }
}

/// A moment in a table: in `preferred` style unless a flag says otherwise.
pub(super) fn moment(
    stamp: Option<&prost_types::Timestamp>,
    style: Option<TimeStyle>,
    preferred: TimeStyle,
    now: DateTime<Utc>,
) -> String {
    stamp
        .and_then(time::of)
        .map_or_else(|| NONE.to_owned(), |t| time::moment(t, style.unwrap_or(preferred), now))
}

/// A moment in a stream of rows: the time of day (UTC) unless a flag says otherwise.
pub(super) fn row_time(
    stamp: Option<&prost_types::Timestamp>,
    style: Option<TimeStyle>,
    now: DateTime<Utc>,
) -> String {
    match (stamp.and_then(time::of), style) {
        (None, _) => NONE.to_owned(),
        (Some(t), None) => time::clock(t),
        (Some(t), Some(style)) => time::moment(t, style, now),
    }
}

/// Parameters of an action: `instances=3`.
pub(super) fn parameters(map: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(" ")
}

/// What a plan changes: `v7 → v6`, or its parameters.
pub(super) fn from_to(plan: Option<&v1::Plan>) -> String {
    let Some(plan) = plan else { return NONE.to_owned() };
    if plan.from_revision.is_empty() && plan.to_revision.is_empty() {
        let parameters = parameters(&plan.parameters);
        return if parameters.is_empty() { NONE.to_owned() } else { parameters };
    }
    let short = |revision: &str| {
        if revision.is_empty() { NONE.to_owned() } else { text::fit(revision, 16) }
    };
    format!("{} → {}", short(&plan.from_revision), short(&plan.to_revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(group: i32, effect: v1::GateEffect) -> v1::Verdict {
        v1::Verdict { group, effect: effect.into(), ..Default::default() }
    }

    #[test]
    fn the_strip_shows_the_worst_verdict_of_each_group() {
        let verdicts = [
            verdict(1, v1::GateEffect::Pass),
            verdict(4, v1::GateEffect::Pass),
            verdict(4, v1::GateEffect::Refuse),
            verdict(7, v1::GateEffect::Hold),
        ];
        assert_eq!(gate_strip(&verdicts), "●··✖··◐");
    }

    #[test]
    fn a_refusal_says_when_it_clears_and_otherwise_what_it_saw() {
        let now = DateTime::from_timestamp_millis(1_795_442_531_000).unwrap();
        let mut cooldown = v1::Verdict {
            reason: "COOLDOWN_ACTIVE".to_owned(),
            value: "28s".to_owned(),
            limit: "60s".to_owned(),
            clear_time: Some(time::to_proto(now + chrono::TimeDelta::seconds(32))),
            ..Default::default()
        };
        let mut decision = v1::Decision {
            reason: "COOLDOWN_ACTIVE".to_owned(),
            verdicts: vec![cooldown.clone()],
            ..Default::default()
        };
        assert_eq!(because(&decision, now), "COOLDOWN_ACTIVE 32s left");
        cooldown.clear_time = None;
        decision.verdicts = vec![cooldown];
        assert_eq!(because(&decision, now), "COOLDOWN_ACTIVE 28s, limit 60s");
    }

    #[test]
    fn a_signal_is_told_in_a_few_words() {
        let told = |summary: &str| {
            let finding = v1::Finding {
                detector: "crash".to_owned(),
                value: "1".to_owned(),
                summary: summary.to_owned(),
                ..Default::default()
            };
            findings(&v1::Decision { findings: vec![finding], ..Default::default() })
        };
        assert_eq!(
            told("CRASH: instance 0 ended: signal 9 (1 against 0)"),
            "instance 0 ended: signal 9"
        );
        assert_eq!(told("a sentence that is much too long for the column"), "crash 1");
        assert_eq!(told(""), "crash 1");
    }

    #[test]
    fn unknown_is_never_zero() {
        assert_eq!(percent(None), "–");
        assert_eq!(percent(Some(0.0)), "0%");
        assert_eq!(percent(Some(0.614)), "61%");
        assert_eq!(latency(None), "–");
        assert_eq!(latency(Some(2.13)), "2.1s");
        assert_eq!(latency(Some(f64::NAN)), "–");
    }
}
