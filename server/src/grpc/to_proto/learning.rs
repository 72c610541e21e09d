//! A promotion of what was learned, as a human is asked for it.

use std::collections::BTreeMap;

use agentctl_api::v1;
use agentd_core::record::Backtested;
use agentd_core::state::Promotion;

use super::{approval_state, natural, timestamp};
use crate::grpc::ids;

/// How the action is called that puts a candidate in force: none that the agent could ever choose.
pub const PROMOTE: &str = "PROMOTE_LEARNING";

/// What the log says about a candidate.
#[must_use]
pub fn backtest(backtest: &Backtested) -> v1::Backtest {
    let difference = &backtest.difference;
    v1::Backtest {
        digest: ids::digest(&backtest.acting),
        candidate_digest: ids::digest(&backtest.candidate),
        upto_seq: backtest.upto,
        differing: backtest.differing,
        situations: backtest.situations,
        outcomes: backtest.outcomes,
        difference: natural(difference.mean_micro),
        difference_low: natural(difference.low_micro),
        difference_high: natural(difference.high_micro),
        verdict: backtest.verdict.as_str().to_owned(),
        why: if backtest.is_passed() { String::new() } else { backtest.because() },
    }
}

/// The request to a human.
#[must_use]
pub fn promotion(promotion: &Promotion) -> v1::Approval {
    let Backtested { acting, candidate, situations, outcomes, difference, .. } =
        &promotion.backtest;
    let parameters = BTreeMap::from([
        ("candidate".to_owned(), ids::digest(candidate)),
        ("situations".to_owned(), situations.to_string()),
        ("outcomes".to_owned(), outcomes.to_string()),
        ("difference".to_owned(), format!("{:.3}", natural(difference.mean_micro))),
        ("verdict".to_owned(), promotion.backtest.verdict.as_str().to_owned()),
    ]);
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    let plan = v1::Plan {
        action: PROMOTE.to_owned(),
        parameters,
        from_revision: short(acting),
        to_revision: short(candidate),
        risk: "R2".to_owned(),
        digest: ids::digest(&promotion.plan_digest),
        ..v1::Plan::default()
    };
    v1::Approval {
        id: ids::approval(promotion.seq),
        state: approval_state(promotion.state).into(),
        plan: Some(plan),
        requested_by: promotion.requester.clone(),
        summary: promotion.reason.clone(),
        create_time: Some(timestamp(promotion.requested_at)),
        expire_time: Some(timestamp(promotion.expires_at)),
        decided_by: promotion.decided_by.clone().unwrap_or_default(),
        decide_reason: promotion.comment.clone().unwrap_or_default(),
        ..v1::Approval::default()
    }
}
