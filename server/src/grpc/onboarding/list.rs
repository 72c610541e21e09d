//! Pages of apps, by name.

use std::collections::{BTreeMap, BTreeSet};

use agentctl_api::v1;
use agentd_core::app::AppName;
use agentd_core::state::SpecHistory;
use prost::Message as _;
use tonic::Status;

use crate::agent::AgentView;
use crate::grpc::page::{self, Question};
use crate::grpc::status::{self, Violation};
use crate::grpc::{from_proto, to_proto};

/// Most labels a filter may ask for: as many as an app may have.
const LABELS_MAX: usize = 64;

/// What is listed, checked.
#[derive(Debug)]
pub(super) struct Listing {
    size: usize,
    after: Option<AppName>,
    names: BTreeSet<String>,
    health: BTreeSet<i32>,
    labels: BTreeMap<String, String>,
    question: Question,
}

impl Listing {
    /// Reads a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every violation.
    pub(super) fn read(wire: v1::ListAppsRequest) -> Result<Self, Status> {
        let mut violations = Vec::new();
        let size = from_proto::page_size(wire.page_size).unwrap_or_else(|violation| {
            violations.push(violation);
            from_proto::PAGE_DEFAULT
        });
        let filter = wire.filter.unwrap_or_default();
        let question = Question::new("ListApps", b"apps", &filter);
        let after = after(&wire.page_token, &question, &mut violations);
        page::check_count("filter.names", filter.names.len(), &mut violations);
        if filter.labels.len() > LABELS_MAX {
            let count = filter.labels.len().to_string();
            violations.push(Violation::new("filter.labels", count, "must be at most 64 labels"));
        }
        for (index, health) in filter.health.iter().enumerate() {
            let known = v1::AppHealth::try_from(*health);
            if known.is_err() || known == Ok(v1::AppHealth::Unspecified) {
                let field = format!("filter.health[{index}]");
                let rule = "must be a state of health";
                violations.push(Violation::new(field, health.to_string(), rule));
            }
        }
        if !violations.is_empty() {
            return Err(status::invalid(&violations));
        }
        Ok(Self {
            size,
            after,
            names: filter.names.into_iter().collect(),
            health: filter.health.into_iter().collect(),
            labels: filter.labels,
            question,
        })
    }

    /// The page, from one look at the agent.
    pub(super) fn page(&self, view: &AgentView<'_>) -> v1::ListAppsResponse {
        let mut answer = v1::ListAppsResponse::default();
        let mut bytes = 0;
        let mut full = false;
        for name in view.state.apps.keys().filter(|name| self.is_named(view, name)) {
            // An app is only put together where somebody looks at it.
            let app = (!self.health.is_empty()).then(|| to_proto::app(view, name)).flatten();
            if !self.health.is_empty() && !app.as_ref().is_some_and(|app| self.is_of(app)) {
                continue;
            }
            answer.total_size = answer.total_size.saturating_add(1);
            if self.after.as_ref().is_some_and(|after| name <= after) {
                continue;
            }
            if full {
                if answer.next_page_token.is_empty()
                    && let Some(last) = answer.apps.last()
                {
                    answer.next_page_token = format!("{}.{}", self.question.token(0), last.name);
                }
                continue;
            }
            let Some(app) = app.or_else(|| to_proto::app(view, name)) else { continue };
            bytes += app.encoded_len();
            answer.apps.push(app);
            full = answer.apps.len() >= self.size || bytes > page::PAGE_BYTES;
        }
        answer
    }

    fn is_of(&self, app: &v1::App) -> bool {
        self.health.contains(&app.health)
    }

    fn is_named(&self, view: &AgentView<'_>, name: &AppName) -> bool {
        let named = self.names.is_empty() || self.names.contains(name.as_str());
        named
            && (self.labels.is_empty()
                || view.state.specs.get(name).and_then(SpecHistory::spec).is_some_and(|spec| {
                    self.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
                }))
    }
}

/// The app the last page ended with. By name, so that an app that comes in between moves no other to another page.
fn after(token: &str, question: &Question, violations: &mut Vec<Violation>) -> Option<AppName> {
    if token.is_empty() {
        return None;
    }
    let (seal, name) = token.split_once('.').unwrap_or((token, ""));
    let before = violations.len();
    let sealed = question.position(seal, violations);
    let name = AppName::parse(name).ok();
    if violations.len() == before && (sealed.is_none() || name.is_none()) {
        let rule = "must be a `next_page_token` as it was given out";
        violations.push(Violation::new("page_token", token, rule));
    }
    name
}
