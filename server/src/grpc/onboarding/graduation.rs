//! The case for leaving more of an app to the agent.

use agentctl_api::v1;
use agentd_core::app::AppName;
use agentd_core::explain;
use agentd_core::graduation::{self, Condition, Count, Report};
use tonic::Status;

use crate::grpc::{Services, outcome, status, to_proto};

/// The report on an app, action by action.
pub(super) async fn report(
    services: &Services,
    asked: &str,
) -> Result<v1::GetAppGraduationResponse, Status> {
    let missing = || status::not_found("app", asked);
    let name = AppName::parse(asked).map_err(|_invalid| missing())?;
    let query = services.agent.query(move |view| {
        let app = view.state.apps.get(&name)?;
        Some(graduation::report(app, view.policy))
    });
    let reports = query.await.map_err(outcome::gone)?.ok_or_else(missing)?;
    Ok(v1::GetAppGraduationResponse { actions: reports.iter().map(action).collect() })
}

fn action(report: &Report) -> v1::ActionGraduation {
    let Count { answered, agreed, unproven, differed, unneeded } = report.count;
    v1::ActionGraduation {
        action: report.action.as_str().to_owned(),
        level: to_proto::level(report.level).into(),
        answered,
        agreed,
        unproven,
        differed,
        unneeded,
        held: report.held,
        failed: report.failed,
        demote_time: report.demoted_at.map(to_proto::timestamp),
        conditions: report.conditions.iter().map(condition).collect(),
        ready: report.is_ready(),
    }
}

fn condition(condition: &Condition) -> v1::GraduationCondition {
    v1::GraduationCondition {
        what: condition.what.to_owned(),
        value: explain::fact(&condition.value),
        limit: explain::fact(&condition.limit),
        met: condition.met,
    }
}
