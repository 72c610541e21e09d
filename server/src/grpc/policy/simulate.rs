//! Recorded decisions judged again under other rules. Nothing here can reach an actuator: a judgement gives a ruling, and the permit
//! of a permitted one ends in this file.

use std::collections::{BTreeMap, BTreeSet};

use agentctl_api::v1;
use agentctl_api::v1::simulate_policy_request::Which;
use agentd_core::app::AppName;
use agentd_core::counterfactual::{Judged, rejudge};
use agentd_core::policy::{Policy, set};
use agentd_core::record::{Body, Decided, Record};
use tonic::Status;

use super::super::log::{self, Log};
use super::super::status::Violation;
use super::super::{Services, from_proto, ids, outcome, status, to_proto};
use super::{faults, unreadable};
use crate::blobs::Blobs;
use crate::journal::{self, Reader};
use crate::rules;

const LIMIT: usize = 1_000;
const LIMIT_MAX: usize = 10_000;
/// Most settings of one question.
const SETTINGS: usize = 50;
/// Differences that are told; more are only counted as judged.
const TOLD: usize = 1_000;
/// Records looked at for one question.
const RECORDS: usize = 500_000;

/// Judges again what was asked for.
pub(super) async fn simulate(
    services: &Services,
    request: v1::SimulatePolicyRequest,
) -> Result<v1::SimulatePolicyResponse, Status> {
    let log = Log::of(services);
    let mut violations = Vec::new();
    let rules = read_rules(&request, &mut violations);
    let apps = read_apps(&request.apps, &mut violations);
    let limit = match request.limit {
        0 => LIMIT,
        asked => match usize::try_from(asked) {
            Ok(asked) if asked <= LIMIT_MAX => asked,
            _ => {
                let rule = format!("must be 1 to {LIMIT_MAX}, or 0");
                violations.push(Violation::new("limit", asked.to_string(), rule));
                0
            }
        },
    };
    let (one, since) = which(request.which, &mut violations);
    if !violations.is_empty() {
        return Err(status::invalid(&violations));
    }
    let (current, demo) = services
        .agent
        .query(|view| (view.policy.clone(), view.state.mode.demo))
        .await
        .map_err(outcome::gone)?;
    // What is wrong with it is told: it can be tried all the same.
    let base = rules.text.clone().unwrap_or(current);
    let tried = rules.settled(&base).map_err(|violation| status::invalid(&[violation]))?;
    let wrong = faults(rules::check(&tried, services.env, demo));
    let question = Question { rules, apps, limit, one, since };
    let missing = one.map(ids::decision);
    let mut answer = log.reading(move |reader| question.ask(reader)).await?;
    if let Some(missing) = missing.filter(|_| answer.judged + answer.skipped == 0) {
        return Err(status::not_found("decision", &missing));
    }
    answer.faults = wrong;
    Ok(answer)
}

/// Which decision, or from when on.
fn which(asked: Option<Which>, violations: &mut Vec<Violation>) -> (Option<u64>, u64) {
    match asked {
        None => (None, 0),
        Some(Which::DecisionId(id)) => match ids::parse_decision("decision_id", &id) {
            Ok(seq) => (Some(seq), 0),
            Err(violation) => {
                violations.push(violation);
                (None, 0)
            }
        },
        Some(Which::StartTime(time)) => match from_proto::millis(&time) {
            Some(since) => (None, since),
            None => {
                let rule = "must be a time since 1970";
                violations.push(Violation::new("start_time", time.to_string(), rule));
                (None, 0)
            }
        },
    }
}

fn read_apps(names: &[String], violations: &mut Vec<Violation>) -> BTreeSet<AppName> {
    let mut apps = BTreeSet::new();
    for name in names {
        match AppName::parse(name) {
            Ok(app) => _ = apps.insert(app),
            Err(_) => violations.push(Violation::new("apps", name, AppName::RULE)),
        }
    }
    apps
}

/// The rules to judge under.
struct Rules {
    /// The whole policy; `None`: the one of each decision.
    text: Option<Policy>,
    settings: BTreeMap<String, String>,
}

fn read_rules(request: &v1::SimulatePolicyRequest, violations: &mut Vec<Violation>) -> Rules {
    let text = match request.text.as_str() {
        "" => None,
        text => match rules::parse(text) {
            Ok(policy) => Some(policy),
            Err(detail) => {
                let v1::PolicyFault { rule, .. } = unreadable(detail);
                violations.push(Violation::new("text", "a text", rule));
                None
            }
        },
    };
    let settings = request.settings.clone();
    if settings.len() > SETTINGS {
        let rule = format!("must be {SETTINGS} at most");
        violations.push(Violation::new("settings", settings.len().to_string(), rule));
    }
    if request.text.is_empty() && settings.is_empty() {
        let rule = "must be given, or a policy: without either nothing would differ";
        violations.push(Violation::new("settings", "", rule));
    }
    Rules { text, settings }
}

impl Rules {
    /// `policy` with every setting.
    fn settled(&self, policy: &Policy) -> Result<Policy, Violation> {
        let start = self.text.as_ref().unwrap_or(policy).clone();
        self.settings.iter().try_fold(start, |rules, (path, value)| {
            set(&rules, path, value).map_err(|error| {
                Violation::new(format!("settings.{path}"), value, error.to_string())
            })
        })
    }
}

struct Question {
    rules: Rules,
    apps: BTreeSet<AppName>,
    limit: usize,
    one: Option<u64>,
    since: u64,
}

/// What a walk back through the log has found.
#[derive(Default)]
struct Walk {
    answer: v1::SimulatePolicyResponse,
    /// Decisions whose policy has not been met yet: it is further back in the log.
    waiting: Vec<(u64, Box<Decided>, Option<AppName>)>,
    /// Policies by digest, with the settings applied.
    policies: BTreeMap<String, Option<Policy>>,
    taken: usize,
}

impl Question {
    /// Walks back from the newest record, or from the one decision. The policy a decision was made under is recorded before it.
    fn ask(&self, reader: &Reader) -> Result<v1::SimulatePolicyResponse, journal::Error> {
        let mut walk = Walk::default();
        let newest = reader.durable_seq().saturating_add(1);
        let mut at = self.one.map_or(newest, |seq| seq.saturating_add(1)).min(newest);
        let mut looked_at = 0;
        'log: while looked_at < RECORDS {
            let entries = reader.read_back(at, log::READ_RECORDS, log::READ_BYTES)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                (at, looked_at) = (entry.seq, looked_at + 1);
                match log::event_name(&entry.line) {
                    Some("RL_DECISION") => self.take(reader.blobs(), &entry.line, &mut walk),
                    Some("POLICY_APPLIED") => self.learn(reader.blobs(), &entry.line, &mut walk),
                    _ => {}
                }
                if self.is_done(&walk) && walk.waiting.is_empty() {
                    break 'log;
                }
            }
        }
        let mut answer = walk.answer;
        answer.skipped += u32::try_from(walk.waiting.len()).unwrap_or(u32::MAX);
        answer.truncated = self.one.is_none() && walk.taken >= self.limit;
        answer.differences.sort_by_key(|d| std::cmp::Reverse(seq_of(d)));
        answer.differences.truncate(TOLD);
        Ok(answer)
    }

    fn is_done(&self, walk: &Walk) -> bool {
        walk.taken >= if self.one.is_some() { 1 } else { self.limit }
    }

    fn take(&self, blobs: &Blobs, line: &[u8], walk: &mut Walk) {
        let Ok(record) = blobs.record(line) else { return };
        let of_app = self.apps.is_empty() || record.app.iter().any(|app| self.apps.contains(app));
        let wanted = self.one.map_or(of_app && record.at >= self.since, |seq| record.seq == seq);
        if self.is_done(walk) {
            return;
        }
        if record.at < self.since {
            // Older ones are not asked for: what is left is to find the policies of those that are.
            walk.taken = walk.taken.max(self.limit);
            return;
        }
        let Body::Decided(decided) = record.body else { return };
        if !wanted {
            return;
        }
        walk.taken += 1;
        match walk.policies.get(&decided.policy_digest) {
            Some(policy) => {
                walk.answer.judge(record.seq, &decided, record.app.as_ref(), policy.as_ref());
            }
            None if self.rules.text.is_some() => {
                let policy = self.rules.text.as_ref().and_then(|p| self.rules.settled(p).ok());
                walk.answer.judge(record.seq, &decided, record.app.as_ref(), policy.as_ref());
                walk.policies.insert(decided.policy_digest, policy);
            }
            None => walk.waiting.push((record.seq, decided, record.app)),
        }
    }

    fn learn(&self, blobs: &Blobs, line: &[u8], walk: &mut Walk) {
        if self.rules.text.is_some() {
            return;
        }
        let Ok(Record { body: Body::PolicyApplied { policy, digest, .. }, .. }) =
            blobs.record(line)
        else {
            return;
        };
        let settled = self.rules.settled(&policy).ok();
        let (known, waiting) = std::mem::take(&mut walk.waiting)
            .into_iter()
            .partition(|(_, decided, _)| decided.policy_digest == digest);
        walk.waiting = waiting;
        let known: Vec<(u64, Box<Decided>, Option<AppName>)> = known;
        for (seq, decided, app) in known {
            walk.answer.judge(seq, &decided, app.as_ref(), settled.as_ref());
        }
        walk.policies.insert(digest, settled);
    }
}

fn seq_of(decision: &v1::SimulatedDecision) -> u64 {
    from_proto::seq_of("dec-", &decision.decision_id).unwrap_or(0)
}

trait Judge {
    fn judge(
        &mut self,
        seq: u64,
        decided: &Decided,
        app: Option<&AppName>,
        policy: Option<&Policy>,
    );
}

impl Judge for v1::SimulatePolicyResponse {
    fn judge(
        &mut self,
        seq: u64,
        decided: &Decided,
        app: Option<&AppName>,
        policy: Option<&Policy>,
    ) {
        let Some(policy) = policy else {
            self.skipped += 1;
            return;
        };
        self.judged += 1;
        let Judged { proposal, verdicts, ruling, .. } = rejudge(decided, policy);
        let same = proposal.action == decided.proposal.action && ruling == decided.ruling;
        if same {
            return;
        }
        let before = decided.verdicts.iter().map(|v| (&v.gate, v.effect));
        let before: BTreeMap<_, _> = before.collect();
        let changed = verdicts.iter().filter(|v| before.get(&v.gate) != Some(&v.effect));
        self.differences.push(v1::SimulatedDecision {
            decision_id: ids::decision(seq),
            time: Some(to_proto::timestamp(decided.now)),
            app: app.map(ToString::to_string).unwrap_or_default(),
            action: decided.proposal.action.as_str().to_owned(),
            ruling: to_proto::ruling(&decided.ruling).into(),
            reason: decided.ruling.reason_code().to_owned(),
            new_action: proposal.action.as_str().to_owned(),
            new_ruling: to_proto::ruling(&ruling).into(),
            new_reason: ruling.reason_code().to_owned(),
            gates: changed.map(|verdict| verdict.gate.to_string()).collect(),
        });
    }
}
