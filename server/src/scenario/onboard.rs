//! Onboarding: what is valid runs, what is not is refused with everything that is wrong with it.

use std::collections::BTreeSet;
use std::time::Duration;

use agentd_core::app::{Env, OnboardRequest, RequestedSource, Violation};
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Record};
use agentd_core::step::{Failure, Reply};
use http::StatusCode;

use super::play::{Play, Unmet};
use super::steps::{GOOD, ONBOARD};
use super::{Scenario, Seen, Step, web};
use crate::agent::Ask;
use crate::specs;

/// Time the app has for an answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "onboard",
    summary: "an app is validated, deployed and verified",
    steps: &[
        Step {
            name: "an app with five mistakes is onboarded",
            expected: "refused, with all five named at once",
            run: |play| Box::pin(invalid(play)),
        },
        Step {
            name: "an app is onboarded into prod",
            expected: "refused with PROD_SAFETY_BLOCK",
            run: |play| Box::pin(into_prod(play)),
        },
        ONBOARD,
        Step {
            name: "its specification is read back",
            expected: "app_spec.json has the digest that is on record",
            run: |play| Box::pin(specified(play)),
        },
        Step {
            name: "the same name is onboarded again",
            expected: "refused: the name is taken",
            run: |play| Box::pin(taken(play)),
        },
        Step {
            name: "a user asks the app itself",
            expected: "it answers on its own port, as the process that is supervised",
            run: |play| Box::pin(answers(play)),
        },
    ],
    any_app: false,
    human: false,
    typical: |tempo| tempo.effect_ms(),
};

async fn specified(play: &mut Play) -> Result<Seen, Unmet> {
    let generated = |record: &Record| match &record.body {
        Body::SpecGenerated { digest, revision, .. } => Some((digest.clone(), *revision)),
        _ => None,
    };
    let deadline = Play::within(play.tempo.reaction());
    let from = super::follow::Mark::default();
    let (digest, revision) = play.log.find(from, deadline, "SPEC_GENERATED", generated).await?;
    let path = specs::path(&play.doors().data_dir, play.app());
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    let content = match read {
        Ok(Ok(content)) => content,
        Ok(Err(error)) => return Err(Unmet::Differs(format!("{}: {error}", specs::FILE))),
        Err(error) => return Err(Unmet::Differs(error.to_string())),
    };
    let found = agentd_core::digest::sha256_hex(&content);
    if found != digest {
        return Err(Unmet::Differs(format!("{} has digest {found}, not {digest}", specs::FILE)));
    }
    Ok(Seen::new(format!("revision {revision}, sha256:{digest}, {} bytes", content.len())))
}

async fn answers(play: &mut Play) -> Result<Seen, Unmet> {
    let pid = super::steps::fence(play, 0).await?.pid;
    let info = info(play).await?;
    if !info.contains(&format!("\"pid\":{pid}")) {
        return Err(Unmet::Differs(format!("pid {pid} is supervised, but {info} answers")));
    }
    Ok(Seen::new(format!("answers as pid {pid} on {}", play.address())))
}

/// What the app says of itself.
pub(super) async fn info(play: &Play) -> Result<String, Unmet> {
    let answer = web::get(play.address(), "/info", ANSWER).await;
    let answer = answer.map_err(|error| Unmet::Differs(crate::shim::chain(&error)))?;
    if answer.status != StatusCode::OK {
        return Err(Unmet::Differs(format!("HTTP status {}", answer.status.as_u16())));
    }
    Ok(String::from_utf8_lossy(&answer.body).trim().to_owned())
}

async fn taken(play: &mut Play) -> Result<Seen, Unmet> {
    let request = Box::new(play.request(GOOD, 1));
    match play.ask(Ask::Onboard(request, Vec::new())).await? {
        Reply::Failed(failure @ Failure::AppExists(_)) => {
            play.log.catch_up().await?;
            super::steps::untouched(play, play.begun)?;
            Ok(Seen::new(failure.to_string()))
        }
        other => Err(Unmet::Differs(format!("{other:?}"))),
    }
}

/// One mistake each in the name, the runtime, the program, the numbers of instances and the address.
const MISTAKES: [&str; 5] = ["name", "runtime", "exec.path", "instances", "listen"];

async fn invalid(play: &mut Play) -> Result<Seen, Unmet> {
    let request = OnboardRequest {
        name: "My API; rm -rf /".to_owned(),
        env: play.doors().env.as_str().to_owned(),
        runtime: "cobol".to_owned(),
        source: RequestedSource::Exec { path: "../run".to_owned(), args: Vec::new() },
        min_instances: Some(3),
        desired_instances: Some(3),
        max_instances: Some(2),
        listen: Some("0.0.0.0:80".to_owned()),
        ..OnboardRequest::default()
    };
    let violations = refused(play, request).await?;
    let fields: BTreeSet<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    if fields != BTreeSet::from(MISTAKES) {
        return Err(Unmet::Differs(format!("violations of {fields:?}")));
    }
    let rules: Vec<String> =
        violations.iter().map(|v| format!("{} {}", v.field, v.reason)).collect();
    Ok(Seen::new(format!("ONBOARDING_REFUSED: {}", rules.join(", "))))
}

async fn into_prod(play: &mut Play) -> Result<Seen, Unmet> {
    let env = Env::Prod.as_str().to_owned();
    let request = OnboardRequest { env, ..play.request(GOOD, 1) };
    let violations = refused(play, request).await?;
    let prod = violations.iter().find(|v| v.reason == Reason::ProdSafetyBlock.as_str());
    let prod = prod.ok_or_else(|| Unmet::Differs(format!("{violations:?}")))?;
    Ok(Seen::new(format!("{}: {}", prod.reason, prod.rule)))
}

/// The violations of a request that must be refused, once the refusal is on record.
async fn refused(play: &mut Play, request: OnboardRequest) -> Result<Vec<Violation>, Unmet> {
    let since = play.begun;
    match play.ask(Ask::Onboard(Box::new(request), Vec::new())).await? {
        Reply::Invalid(violations) => {
            let recorded = |record: &Record| {
                matches!(record.body, Body::OnboardingRefused { .. }).then_some(())
            };
            let deadline = Play::within(play.tempo.reaction());
            play.log.find(since, deadline, "ONBOARDING_REFUSED", recorded).await?;
            Ok(violations)
        }
        other => Err(Unmet::Differs(format!("{other:?}"))),
    }
}
