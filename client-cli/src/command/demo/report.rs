//! What the demo shows and reports.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::command::proof::verify::short_hash;
use crate::command::scenario::StepView;
use crate::exit::Exit;
use crate::page::Page;
use crate::server::Local;
use crate::text;
use crate::time;
use crate::view::proof::VerificationView;

/// Columns of the title and of the result of a scenario.
const TITLE: usize = 45;
const RESULT: usize = 46;

/// A scenario that was played.
#[derive(Debug)]
pub(in crate::command) struct Played {
    pub(super) name: String,
    pub(super) title: String,
    pub(in crate::command) passed: bool,
    pub(super) steps: Vec<StepView>,
    pub(super) approvals: Vec<String>,
    pub(super) action: Option<String>,
    pub(super) gates: Option<String>,
    pub(super) elapsed: Duration,
}

/// Something that has to hold at the end.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    what: &'static str,
    held: bool,
}

impl Check {
    pub(super) const fn new(what: &'static str, held: bool) -> Self {
        Self { what, held }
    }
}

/// Everything the demo found.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) played: Vec<Played>,
    pub(super) checks: Vec<Check>,
    pub(super) own: VerificationView,
    pub(super) event_counts: BTreeMap<String, u64>,
    pub(super) duration: Duration,
}

/// A scenario in JSON.
#[derive(Debug, Serialize)]
pub(super) struct PlayedView<'a> {
    r#type: &'static str,
    name: &'a str,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    elapsed_seconds: f64,
    steps: &'a [StepView],
}

/// The report in JSON.
#[derive(Debug, Serialize)]
pub(super) struct ReportView<'a> {
    r#type: &'static str,
    passed: bool,
    scenarios_passed: usize,
    scenarios_total: usize,
    scenarios: Vec<PlayedView<'a>>,
    checks: &'a [Check],
    proof: &'a VerificationView,
    event_counts: &'a BTreeMap<String, u64>,
    duration_seconds: f64,
}

/// The first line: what runs where.
pub(super) fn banner(page: &mut Page, local: &Local) {
    page.header(format!(
        "agentctl {}   api {}   store {} (temp)   env {}   policy {}   {}",
        env!("CARGO_PKG_VERSION"),
        local.address(),
        local.data_dir().display(),
        local.env(),
        text::short_digest(local.policy_digest()),
        local.agent_id(),
    ));
}

impl Played {
    /// The decisions its steps name, each once, in their order.
    pub(in crate::command) fn decisions(&self) -> impl Iterator<Item = &str> {
        let mut seen = std::collections::BTreeSet::new();
        self.steps.iter().filter_map(StepView::decision).filter(move |id| seen.insert(*id))
    }

    /// What its last step said.
    pub(in crate::command) fn result(&self) -> String {
        self.steps.last().map_or_else(String::new, |step| step.said().to_owned())
    }

    /// What was not as expected, if anything.
    pub(in crate::command) fn complaint(&self) -> Option<String> {
        self.steps.iter().find(|step| step.is_failed()).map(StepView::complaint)
    }

    /// One numbered line, what a human did below it, and what went wrong.
    pub(super) fn page(&self, page: &mut Page, index: usize, total: usize) {
        let glyph = if self.passed { '✔' } else { '✖' };
        let mut result = self.action.clone().unwrap_or_default();
        if let Some(last) = self.steps.last() {
            result = format!("{result} {}", last.said());
        }
        let gates =
            self.gates.as_ref().map_or_else(String::new, |strip| format!("   gates {strip}"));
        let place = format!("{index}/{total}");
        let widest = format!("{total}/{total}").len();
        page.line(format!(
            "  {place:>widest$}  {}  {}  {glyph} {}  {:>7}{gates}",
            text::pad(&text::fit(&text::line(&self.name), 17), 17),
            text::pad(&text::fit(&text::line(&self.title), TITLE), TITLE),
            text::pad(&clauses(text::line(&result).trim(), RESULT), RESULT),
            time::precise(self.elapsed),
        ));
        for approval in &self.approvals {
            page.line(format!("       ◷ {approval}"));
        }
        for step in self.steps.iter().filter(|step| step.is_failed()) {
            page.line(format!("       ✖ {}", step.complaint()));
        }
    }

    /// The same for programs.
    pub(super) fn view(&self) -> PlayedView<'_> {
        PlayedView {
            r#type: "scenario",
            name: &self.name,
            passed: self.passed,
            action: self.action.as_deref(),
            elapsed_seconds: self.elapsed.as_secs_f64(),
            steps: &self.steps,
        }
    }
}

/// As many whole clauses of `text` as fit into `columns`.
fn clauses(text: &str, columns: usize) -> String {
    if text::width(text) <= columns {
        return text.to_owned();
    }
    let ends = text.match_indices([';', ',']).map(|(at, _)| at);
    let fitting = ends.filter_map(|at| text.get(..at)).rfind(|part| text::width(part) <= columns);
    fitting.map_or_else(|| text::fit(text, columns), ToOwned::to_owned)
}

impl Report {
    fn scenarios_passed(&self) -> usize {
        self.played.iter().filter(|played| played.passed).count()
    }

    fn all_scenarios_passed(&self) -> bool {
        !self.played.is_empty() && self.scenarios_passed() == self.played.len()
    }

    fn is_proved(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.held)
    }

    /// Success only if everything held.
    pub(super) fn exit(&self) -> Exit {
        match (self.is_proved(), self.all_scenarios_passed()) {
            (true, true) => Exit::Ok,
            (false, _) => Exit::ProofFailed,
            (true, false) => Exit::Failure,
        }
    }

    /// For programs.
    pub(super) fn view(&self) -> ReportView<'_> {
        ReportView {
            r#type: "report",
            passed: self.exit() == Exit::Ok,
            scenarios_passed: self.scenarios_passed(),
            scenarios_total: self.played.len(),
            scenarios: self.played.iter().map(Played::view).collect(),
            checks: &self.checks,
            proof: &self.own,
            event_counts: &self.event_counts,
            duration_seconds: self.duration.as_secs_f64(),
        }
    }

    /// For people: proof, summary, events, what next.
    pub(super) fn summary_page(&self, page: &mut Page, kept: Option<&Path>) {
        page.line(format!(
            "proof  {}  head {}  {} judged again",
            text::count(self.own.entry_count, "entry", "entries"),
            short_hash(&self.own.head_hash),
            text::count(self.own.decisions_rechecked.unwrap_or(0), "decision", "decisions"),
        ));
        for check in &self.checks {
            page.line(format!("       {} {}", if check.held { '✔' } else { '✖' }, check.what));
        }
        if let Some(fault) = &self.own.fault {
            page.line(format!("       ✖ entry #{}: {}", fault.seq, fault.summary));
        }
        page.blank();
        page.header("DEMO SUMMARY");
        let all = self.all_scenarios_passed();
        let verdict = if all { "✔ passed" } else { "✖ failed" };
        page.pairs(
            2,
            &[
                (
                    "scenarios",
                    format!("{}/{} {verdict}", self.scenarios_passed(), self.played.len()),
                ),
                ("proof events", text::thousands(self.own.entry_count)),
                ("duration", format!("{:.1} seconds", self.duration.as_secs_f64())),
                (
                    "status",
                    if self.exit() == Exit::Ok {
                        "✔ DEMO COMPLETE".to_owned()
                    } else {
                        "✖ DEMO FAILED".to_owned()
                    },
                ),
            ],
        );
        page.blank();
        page.header("EVENTS");
        let counts: Vec<_> = self
            .event_counts
            .iter()
            .map(|(name, n)| (name.as_str(), text::thousands(*n)))
            .collect();
        page.pairs(2, &counts);
        page.blank();
        match kept {
            Some(directory) => page.line(format!(
                "next:  agentctl proof verify --data-dir {}/data --replay",
                directory.display()
            )),
            None => page.line(
                "next:  agentctl up   |   agentctl demo --keep   |   agentctl explain --codes",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use agentctl_api::v1;

    use super::*;

    fn step(status: v1::StepStatus) -> StepView {
        let step = v1::ScenarioStep {
            index: 1,
            total: 1,
            name: "restart".to_owned(),
            status: status.into(),
            expected: "healthy again".to_owned(),
            actual: "healthy in 0.6s".to_owned(),
            ..Default::default()
        };
        StepView::new("crash", &step)
    }

    fn played(passed: bool) -> Played {
        let status = if passed { v1::StepStatus::Passed } else { v1::StepStatus::Failed };
        Played {
            name: "crash".to_owned(),
            title: "kill -9 of a real process".to_owned(),
            passed,
            steps: vec![step(status)],
            approvals: vec![],
            action: Some("restart".to_owned()),
            gates: Some("●●●●●●●".to_owned()),
            elapsed: Duration::from_millis(630),
        }
    }

    fn report(passed: bool, held: bool) -> Report {
        Report {
            played: vec![played(passed)],
            checks: vec![Check::new("the hash chain is sound", held)],
            event_counts: BTreeMap::from([("RL_DECISION".to_owned(), 3)]),
            own: VerificationView {
                entry_count: 41,
                decisions_rechecked: Some(3),
                ..Default::default()
            },
            duration: Duration::from_millis(6800),
        }
    }

    #[test]
    fn a_scenario_is_one_line() {
        let mut page = Page::default();
        played(true).page(&mut page, 2, 8);
        assert_eq!(
            page.render(false),
            "  2/8  crash              kill -9 of a real process                      ✔ restart healthy in 0.6s                           0.63s   gates ●●●●●●●\n"
        );
    }

    #[test]
    fn a_failed_scenario_says_what_was_expected() {
        let mut page = Page::default();
        played(false).page(&mut page, 2, 8);
        assert!(
            page.render(false).contains("✖ restart: expected healthy again, got healthy in 0.6s"),
            "{}",
            page.render(false)
        );
    }

    #[test]
    fn a_result_is_cut_between_clauses() {
        let text = "restart SYSTEM_STABLE; ready in 31 ms, verified after 280 ms";
        assert_eq!(clauses(text, 44), "restart SYSTEM_STABLE; ready in 31 ms");
        assert_eq!(clauses(text, 30), "restart SYSTEM_STABLE");
        assert_eq!(clauses(text, 10), "restart S…");
        assert_eq!(clauses(text, 80), text);
    }

    #[test]
    fn success_needs_every_scenario_and_every_check() {
        assert_eq!(report(true, true).exit(), Exit::Ok);
        assert_eq!(report(false, true).exit(), Exit::Failure);
        assert_eq!(report(true, false).exit(), Exit::ProofFailed);
        assert_eq!(Report::default().exit(), Exit::ProofFailed, "nothing shown is nothing proved");
    }

    #[test]
    fn the_summary_reads_like_the_promise() {
        let mut page = Page::default();
        report(true, true).summary_page(&mut page, None);
        let text = page.render(false);
        for line in [
            "scenarios     1/1 ✔ passed",
            "proof events  41",
            "duration      6.8 seconds",
            "status        ✔ DEMO COMPLETE",
            "RL_DECISION  3",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
