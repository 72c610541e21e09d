//! `agentctl explain`: why a decision came out as it did, and what a reason code means.

use agentctl_api::v1;
use agentd_core::reason::page::{PAGES, Page as ReasonPage};
use clap::Args;

use super::{Context, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::time::{self, TimeStyle};
use crate::view::agent::ReasonView;
use crate::view::decision::ExplanationView;

/// Explain a decision, or what a reason code means
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl explain dec-1077
  agentctl explain --last my-api
  agentctl explain COOLDOWN_ACTIVE           what a reason code means; needs no server
  agentctl explain --codes                   all of them")]
pub struct ExplainArgs {
    /// Decision (dec-…) or reason code
    #[arg(value_name = "DECISION|CODE", required_unless_present_any = ["last", "codes"])]
    what: Option<String>,
    /// The newest decision about this app
    #[arg(long, value_name = "APP", conflicts_with = "what")]
    last: Option<String>,
    /// Every reason code
    #[arg(long, conflicts_with_all = ["what", "last"])]
    codes: bool,
}

pub(super) async fn run(args: ExplainArgs, context: &mut Context) -> Result<Exit, Failure> {
    use v1::explain_decision_request::Which;
    if args.codes {
        return all_codes(context);
    }
    let which = match (args.last, args.what) {
        (Some(app), _) => Which::LastOfApp(app),
        (None, Some(what)) if is_code(&what) => return one_code(&what, context),
        (None, Some(what)) => Which::DecisionId(what),
        (None, None) => {
            return Err(Failure::usage("name a decision, a reason code, or --last APP"));
        }
    };
    let session = context.connect().await?;
    let request = session.unary(v1::ExplainDecisionRequest { which: Some(which) });
    let answer =
        session.decisions().explain_decision(request).await.map_err(|s| session.failure(s))?;
    let explanation = answer.into_inner().explanation.unwrap_or_default();
    let style = context.output.settings().time;
    let columns = context.output.columns();
    let verbose = context.global.verbose;
    context.output.emit(&ExplanationView::from(&explanation), |page| {
        explanation_page(page, &explanation, style, columns, verbose);
    })?;
    Ok(Exit::Ok)
}

/// Reason codes are in upper case; ids of decisions are not.
fn is_code(what: &str) -> bool {
    what.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
}

fn one_code(code: &str, context: &mut Context) -> Result<Exit, Failure> {
    let Some(reason) = ReasonPage::find(code) else {
        let near: Vec<_> = PAGES
            .iter()
            .map(ReasonPage::code)
            .filter(|known| {
                known.contains(code) || known.split('_').any(|word| code.contains(word))
            })
            .collect();
        let failure = Failure::new(Exit::NotFound, format!("reason code `{code}` is not known"));
        return Err(if near.is_empty() || near.len() > NEAR_MAX {
            failure.hint("`agentctl explain --codes` lists them")
        } else {
            failure.hint(format!("did you mean {}?", near.join(", ")))
        });
    };
    let columns = context.output.columns();
    context.output.emit(&ReasonView::from(reason), |page| {
        page.header(reason.code());
        let mut table = Table::new(&[]).indent(2).fit(columns);
        table.row(["what", &reason.what()]);
        table.row(["why", &reason.why()]);
        for (index, item) in reason.todo().iter().enumerate() {
            table.row([if index == 0 { "what to do" } else { "" }, item]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

/// Most codes that are suggested for one that is not known.
const NEAR_MAX: usize = 8;

fn all_codes(context: &mut Context) -> Result<Exit, Failure> {
    let views: Vec<_> = PAGES.iter().map(|page| ReasonView::from(*page)).collect();
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let mut table = Table::new(&["CODE", "WHAT IT MEANS"]).fit(columns);
        for view in &views {
            table.row([&view.code, &view.what]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

/// An explanation in reading order: saw, would do, gates, if not.
fn explanation_page(
    page: &mut Page,
    explanation: &v1::Explanation,
    style: Option<TimeStyle>,
    columns: Option<u16>,
    verbose: bool,
) {
    let decision = explanation.decision.clone().unwrap_or_default();
    let recheck =
        if explanation.rechecked { "judged again ✔" } else { "judged again ✖ differs" };
    headline(page, &decision, recheck, style);
    section(page, "Because", because(&decision));
    section(page, "Saw", saw(&explanation.saw, &decision));
    section(page, "Would do", would_do(&explanation.choice_mode, &decision));
    gates_and_after(page, &decision, columns, verbose);
    section(page, "If not", if_not(&explanation.nearest_changes));
    if verbose {
        section(page, "In words", explanation.sentences.clone());
    } else {
        page.line("all gates with all they saw: add -v");
    }
}

/// What would have turned it, nearest first.
fn if_not(changes: &[v1::NearestChange]) -> Vec<String> {
    let line = |change: &v1::NearestChange| {
        let (setting, to) = (&change.setting, &change.to_value);
        // A rule as its file has it; a circumstance in words.
        let to = if setting.contains('.') {
            format!("`{setting} = {to}`")
        } else {
            format!("{setting} {to}")
        };
        let ruling = crate::view::ruling(change.ruling);
        format!("{to} (is {}) → {ruling}", change.from_value)
    };
    let mut lines: Vec<String> = changes.iter().map(line).collect();
    if changes.iter().any(|change| change.together) {
        lines.push("only all of these together: none alone is enough".to_owned());
    }
    lines.extend(
        changes.iter().find(|c| !c.command.is_empty()).map(|c| format!("try it: {}", c.command)),
    );
    lines
}

/// A decision without its explanation.
pub(super) fn decision_page(
    page: &mut Page,
    decision: &v1::Decision,
    style: Option<TimeStyle>,
    columns: Option<u16>,
) {
    headline(page, decision, "", style);
    section(page, "Because", because(decision));
    section(page, "Saw", saw(&[], decision));
    section(page, "Would do", would_do("", decision));
    gates_and_after(page, decision, columns, false);
    page.line(format!("why: agentctl explain {}", decision.id));
}

fn gates_and_after(page: &mut Page, decision: &v1::Decision, columns: Option<u16>, verbose: bool) {
    gates(page, decision, columns, verbose);
    if let Some(plan) = &decision.plan {
        let line = format!(
            "{} {}   risk {}   {}",
            pieces::action(&plan.action),
            pieces::from_to(Some(plan)),
            plan.risk,
            plan.targets.join(", ")
        );
        section(page, "Plan", vec![line]);
    }
    section(page, "Came of it", came_of_it(decision));
}

fn headline(page: &mut Page, decision: &v1::Decision, recheck: &str, style: Option<TimeStyle>) {
    let now = time::now();
    let became = if decision.action == decision.effective_action {
        String::new()
    } else {
        format!(" → {}", pieces::action(&decision.effective_action))
    };
    let trace = decision.trace_id.get(..8).map_or_else(String::new, |id| format!("   trace {id}"));
    page.header(format!(
        "Decision {}   {} / {}   {}   {}{became}   proof #{}   {recheck}{trace}",
        decision.id,
        if decision.app.is_empty() { pieces::NONE } else { &decision.app },
        decision.environment,
        pieces::moment(decision.time.as_ref(), style, TimeStyle::Iso, now),
        crate::view::ruling(decision.ruling).to_ascii_uppercase(),
        decision.seq,
    ));
}

fn section(page: &mut Page, title: &str, lines: Vec<String>) {
    let mut title = title;
    for line in lines {
        page.line(format!("{}  {line}", crate::text::pad(title, 10)));
        title = "";
    }
}

fn because(decision: &v1::Decision) -> Vec<String> {
    if decision.summary.is_empty() { Vec::new() } else { vec![decision.summary.clone()] }
}

fn saw(evidence: &[v1::Evidence], decision: &v1::Decision) -> Vec<String> {
    let mut lines: Vec<_> = decision
        .findings
        .iter()
        .map(|f| format!("{}  {} (limit {})  {}", f.detector, f.value, f.threshold, f.summary))
        .collect();
    let evidence: Vec<_> = evidence
        .iter()
        .map(|e| {
            let age = e.age.as_ref().map_or_else(String::new, |age| {
                format!(", {} old", time::coarse(time::span_of(age)))
            });
            format!("{}={} ({}{age})", e.name, e.value, e.source)
        })
        .collect();
    lines.extend(evidence.chunks(4).map(|chunk| chunk.join("   ")));
    lines
}

fn would_do(choice_mode: &str, decision: &v1::Decision) -> Vec<String> {
    let mut candidates: Vec<_> = decision.candidates.iter().collect();
    candidates.sort_by_key(|candidate| !candidate.chosen);
    let mut line = candidates
        .iter()
        .map(|c| format!("{} {:.2}", pieces::action(&c.action), c.value))
        .collect::<Vec<_>>()
        .join(" | ");
    if line.is_empty() {
        line = pieces::action(&decision.action);
    }
    let parameters = pieces::parameters(&decision.parameters);
    if !parameters.is_empty() {
        line.push_str(&format!("   {parameters}"));
    }
    line.push_str(&format!("   confidence {:.2}", decision.confidence));
    if let Some(v1::Resolution { chance, low, high }) = &decision.p_resolve {
        line.push_str(&format!("   resolves {chance:.2} ({low:.2} to {high:.2})"));
    }
    if !choice_mode.is_empty() {
        line.push_str(&format!("   mode {choice_mode}"));
    }
    let mut lines = vec![line];
    lines.extend(
        candidates
            .iter()
            .filter(|c| !c.summary.is_empty())
            .map(|c| format!("{} ({}): {}", pieces::action(&c.action), c.origin, c.summary)),
    );
    lines
}

/// What stands in the way with all it saw, and the names of the others; or, for who wants to know, all of them with all they saw.
fn gates(page: &mut Page, decision: &v1::Decision, columns: Option<u16>, verbose: bool) {
    if decision.verdicts.is_empty() {
        return;
    }
    page.line(format!("Gates       {}", pieces::gate_strip(&decision.verdicts)));
    let mut table = Table::new(&[]).indent(12).fit(columns);
    let is_pass = |v: &&v1::Verdict| v.effect() == v1::GateEffect::Pass;
    let mut verdicts: Vec<_> =
        decision.verdicts.iter().filter(|v| verbose || !is_pass(v)).collect();
    verdicts.sort_by_key(|v| std::cmp::Reverse(v.effect));
    for v in verdicts {
        let seen = match (v.value.as_str(), v.limit.as_str()) {
            ("", "") => String::new(),
            (value, "") => value.to_owned(),
            ("", limit) => format!("limit {limit}"),
            (value, limit) => format!("{value}, limit {limit}"),
        };
        let who = if v.effect() == v1::GateEffect::Pass {
            ""
        } else if v.self_imposed {
            "self-imposed"
        } else {
            "a human's rule"
        };
        let glyph = format!("{} {}", pieces::effect(v.effect), v.gate);
        table.row([glyph.as_str(), &v.reason, &seen, who]);
    }
    page.table(&table);
    if !verbose {
        let passed: Vec<_> =
            decision.verdicts.iter().filter(is_pass).map(|v| v.gate.as_str()).collect();
        let mut table = Table::new(&[]).indent(12).fit(columns);
        table.row([format!("✔ {} passed: {}", passed.len(), passed.join(" "))]);
        page.table(&table);
    }
}

fn came_of_it(decision: &v1::Decision) -> Vec<String> {
    let mut lines = Vec::new();
    if !decision.approval_id.is_empty() {
        lines.push(format!("approval {}", decision.approval_id));
    }
    if let Some(attempt) = &decision.attempt {
        let glyph = if attempt.delivered { "✔ delivered" } else { "▶ in flight" };
        lines.push(format!("{glyph}   {}   {}", attempt.summary, attempt.id));
    }
    if let Some(outcome) = &decision.outcome {
        let took = outcome
            .recovery_time
            .as_ref()
            .map_or_else(String::new, |span| format!(" in {}", time::coarse(time::span_of(span))));
        lines.push(format!("{}{took}   {}", pieces::outcome_kind(outcome.kind), outcome.summary));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;
    use crate::output::tests::taped;

    fn context(format: Format) -> (Context, crate::output::tests::Tape) {
        let (output, out, _) = taped(format);
        (Context { output, global: crate::cli::Global::default() }, out)
    }

    #[test]
    fn a_reason_code_is_explained_without_a_server() {
        let (mut context, out) = context(Format::Table);
        one_code("COOLDOWN_ACTIVE", &mut context).unwrap();
        let text = out.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "COOLDOWN_ACTIVE");
        assert_eq!(lines[1], "  what        The same action ran on this app a moment ago.");
        assert!(lines[2].starts_with("  why         An action needs time to show its effect."));
        assert!(lines[3].starts_with("  what to do  Wait until the time"), "{text}");
    }

    #[test]
    fn every_code_the_server_can_send_is_explained_in_every_format() {
        for reason in PAGES {
            for format in [Format::Table, Format::Json, Format::Yaml] {
                let (mut context, out) = context(format);
                one_code(reason.code(), &mut context).unwrap();
                assert!(out.text().contains(reason.code()), "{}", out.text());
            }
        }
    }

    #[test]
    fn an_unknown_code_suggests_a_known_one() {
        let (mut context, _) = context(Format::Table);
        let failure = one_code("COOLDOWN", &mut context).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        let mut page = Page::default();
        failure.page(&mut page);
        assert!(page.render(false).contains("did you mean COOLDOWN_ACTIVE?"));
    }

    #[test]
    fn ids_and_codes_are_told_apart() {
        assert!(is_code("COOLDOWN_ACTIVE"));
        assert!(!is_code("dec-1077"));
    }

    fn verdicts() -> Vec<v1::Verdict> {
        vec![
            v1::Verdict {
                gate: "source".to_owned(),
                group: 1,
                effect: v1::GateEffect::Pass.into(),
                ..Default::default()
            },
            v1::Verdict {
                gate: "cooldown".to_owned(),
                group: 4,
                effect: v1::GateEffect::Refuse.into(),
                reason: "COOLDOWN_ACTIVE".to_owned(),
                value: "28s".to_owned(),
                limit: "60s".to_owned(),
                ..Default::default()
            },
        ]
    }

    #[test]
    fn an_explanation_says_what_was_seen_wanted_and_in_the_way() {
        let explanation = v1::Explanation {
            decision: Some(v1::Decision {
                id: "dec-1077".to_owned(),
                seq: 1077,
                app: "my-api".to_owned(),
                environment: "stage".to_owned(),
                time: Some(prost_types::Timestamp { seconds: 1_795_442_559, nanos: 0 }),
                action: "RESTART".to_owned(),
                effective_action: "NOOP".to_owned(),
                ruling: v1::Ruling::Refused.into(),
                reason: "COOLDOWN_ACTIVE".to_owned(),
                confidence: 0.94,
                p_resolve: Some(v1::Resolution { chance: 0.88, low: 0.74, high: 0.95 }),
                candidates: vec![
                    v1::Candidate { action: "NOOP".to_owned(), value: 0.05, ..Default::default() },
                    v1::Candidate {
                        action: "RESTART".to_owned(),
                        value: 0.81,
                        chosen: true,
                        ..Default::default()
                    },
                ],
                verdicts: verdicts(),
                ..Default::default()
            }),
            saw: vec![v1::Evidence {
                name: "exit".to_owned(),
                value: "137".to_owned(),
                source: "process".to_owned(),
                age: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
            }],
            choice_mode: "deterministic".to_owned(),
            rechecked: true,
            nearest_changes: vec![v1::NearestChange {
                setting: "cooldown.base_ms.RESTART".to_owned(),
                from_value: "60000".to_owned(),
                to_value: "25000".to_owned(),
                command: "agentctl policy simulate dec-1077 --set 'cooldown.base_ms.RESTART=25000'"
                    .to_owned(),
                ruling: v1::Ruling::Permitted.into(),
                summary: "28 s have passed".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut page = Page::default();
        explanation_page(&mut page, &explanation, None, None, false);
        assert_eq!(
            page.render(false),
            "Decision dec-1077   my-api / stage   2026-11-23T14:02:39.000Z   REFUSED → noop   proof #1077   judged again ✔\n\
             Saw         exit=137 (process, 200ms old)\n\
             Would do    restart 0.81 | noop 0.05   confidence 0.94   resolves 0.88 (0.74 to 0.95)   mode deterministic\n\
             Gates       ●··✖···\n            \
             ✖ cooldown  COOLDOWN_ACTIVE  28s, limit 60s  a human's rule\n            \
             ✔ 1 passed: source\n\
             If not      `cooldown.base_ms.RESTART = 25000` (is 60000) → permitted\n            \
             try it: agentctl policy simulate dec-1077 --set 'cooldown.base_ms.RESTART=25000'\n\
             all gates with all they saw: add -v\n"
        );
    }
}
