//! Runs of every scenario, and what is refused.

use std::time::Duration;

use agentctl_api::client::Client;
use agentctl_api::v1;
use agentd_core::state::Health;
use tonic::{Code, Status};
use v1::run_scenario_response::Item;

use super::server::Server;

/// Far beyond anything a test should take; a test never measures time.
const PATIENCE: Duration = Duration::from_secs(60);
/// The one that waits for a human.
const APPROVAL: &str = "rollback-approval";

/// One at a time: these tests use real CPU, and one of them is about how much.
static STAGE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn request(name: &str) -> v1::RunScenarioRequest {
    v1::RunScenarioRequest { name: name.to_owned(), ..v1::RunScenarioRequest::default() }
}

type Steps = tonic::Streaming<v1::RunScenarioResponse>;

async fn begin(client: &Client, request: v1::RunScenarioRequest) -> Result<Steps, Status> {
    Ok(client.scenarios().run_scenario(request).await?.into_inner())
}

/// The next step, or the summary.
async fn next(steps: &mut Steps) -> Option<Item> {
    let message = tokio::time::timeout(PATIENCE, steps.message()).await.expect("a step in time");
    message.unwrap().map(|response| response.item.unwrap())
}

/// Runs a scenario to its end. A human approves what waits for one.
async fn run(server: &Server, name: &str) -> v1::ScenarioSummary {
    let operator = server.client("operator").await;
    let approver = server.client("approver").await;
    let mut steps = begin(&operator, request(name)).await.unwrap();
    let mut story = Vec::new();
    let mut approved = false;
    loop {
        match next(&mut steps).await.expect("a summary comes last") {
            Item::Step(step) => {
                story.push(format!(
                    "{}/{} {:?} {}: {} [{}]",
                    step.index,
                    step.total,
                    step.status(),
                    step.name,
                    step.actual,
                    step.decision_id
                ));
                let waits =
                    step.status() == v1::StepStatus::Running && step.actual.contains("apr-");
                if waits && !std::mem::replace(&mut approved, true) {
                    approve(&approver, &step.actual).await;
                }
            }
            Item::Summary(summary) => {
                let story = story.join("\n  ");
                println!("{name}: {:?}\n  {story}", summary.elapsed);
                assert!(summary.passed, "{name}\n  {story}\n{:#?}", summary.event_counts);
                assert_eq!(summary.passed_steps, summary.total_steps);
                assert!(next(&mut steps).await.is_none(), "the summary is last");
                return summary;
            }
        }
    }
}

async fn approve(client: &Client, text: &str) {
    let id = text.split_whitespace().find(|word| word.starts_with("apr-")).unwrap();
    let approval_id = id.trim_end_matches(':').to_owned();
    let asked = v1::GetApprovalRequest { approval_id: approval_id.clone() };
    let approval = client.approvals().get_approval(asked).await.unwrap().into_inner();
    let plan_digest = approval.approval.unwrap().plan.unwrap().digest;
    let request = v1::ApproveActionRequest {
        approval_id,
        plan_digest,
        reason: "read".to_owned(),
        request_id: String::new(),
    };
    client.approvals().approve_action(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_passes_on_one_server_and_what_they_recorded_is_proved() {
    let _alone = STAGE.lock().await;
    let server = Server::demo().await;
    let operator = server.client("operator").await;
    let known = operator.scenarios().list_scenarios(v1::ListScenariosRequest {}).await;
    let known = known.unwrap().into_inner().scenarios;
    for expected in [
        "onboard",
        "crash",
        "overload",
        "false-alarm",
        "signal-conflict",
        "cooldown",
        "repetition",
        APPROVAL,
        "kill-switch",
        "unsafe-action",
        "low-confidence",
        "slow-deployment",
        "failed-deployment",
        "kill-switch-rolling",
        "overloaded-environment",
        "storm",
    ] {
        assert!(known.iter().any(|s| s.name == expected && !s.steps.is_empty()), "{expected}");
    }
    let mut total = std::collections::BTreeMap::<String, u64>::new();
    for scenario in &known {
        let summary = run(&server, &scenario.name).await;
        for (event, count) in summary.event_counts {
            *total.entry(event).or_default() += count;
        }
        let (health, _) = server.health(&format!("demo-{}", scenario.name)).await;
        assert_eq!(health, Health::Healthy, "{} leaves its app healthy", scenario.name);
    }
    for event in [
        "FAILURE_INJECTED",
        "ONBOARDING_REFUSED",
        "UNCERTAINTY_NOOP",
        "COOLDOWN_ACTIVE",
        "REPETITION_SUPPRESSED",
        "UNSAFE_ACTION_REFUSED",
        "PAUSED",
        "APPROVAL_REQUESTED",
        "APPROVAL_GRANTED",
        "SYSTEM_STABLE",
        "ESCALATED",
        "MODE_HALTED",
        "COMMON_CAUSE",
        "STORM_BEGAN",
        "STORM",
        "STORM_ENDED",
    ] {
        assert!(total.get(event).is_some_and(|n| *n > 0), "{event} in {total:#?}");
    }
    let verify = v1::VerifyProofRequest { recheck_decisions: true, ..Default::default() };
    let proof = operator.proof().verify_proof(verify).await.unwrap().into_inner();
    assert!(proof.valid, "{:?}", proof.fault);
    assert!(proof.decisions_rechecked > 0);
    assert_eq!(proof.decisions_different, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_there_can_be_crashed_too_and_some_scenarios_bring_their_own() {
    let _alone = STAGE.lock().await;
    let server = Server::demo().await;
    run(&server, "onboard").await;
    let operator = server.client("operator").await;
    let on =
        |name: &str, app: &str| v1::RunScenarioRequest { app: app.to_owned(), ..request(name) };
    let mut steps = begin(&operator, on("crash", "demo-onboard")).await.unwrap();
    let summary = loop {
        if let Item::Summary(summary) = next(&mut steps).await.unwrap() {
            break summary;
        }
    };
    assert!(summary.passed, "{summary:?}");
    let status = begin(&operator, on("crash", "nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = begin(&operator, on("overload", "demo-onboard")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = begin(&operator, request("earthquake")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    // The name is taken: a second run takes the next one.
    run(&server, "onboard").await;
    assert_eq!(server.health("demo-onboard-2").await.0, Health::Healthy);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_and_whoever_hangs_up_leaves_a_healthy_app() {
    let _alone = STAGE.lock().await;
    let server = Server::demo().await;
    let operator = server.client("operator").await;
    let request_id = "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned();
    let first = v1::RunScenarioRequest { request_id, ..request(APPROVAL) };
    let mut steps = begin(&operator, first.clone()).await.unwrap();
    // Until it waits for a human who never comes.
    loop {
        match next(&mut steps).await.unwrap() {
            Item::Step(step) if step.actual.starts_with("waiting for approval") => break,
            Item::Step(step) => assert_ne!(step.status(), v1::StepStatus::Failed, "{step:?}"),
            Item::Summary(summary) => panic!("{summary:?}"),
        }
    }
    let status = begin(&operator, request("crash")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let status = begin(&operator, first).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    drop(steps);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut steps = loop {
        match begin(&operator, request("unsafe-action")).await {
            Ok(steps) => break steps,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "the stage is given up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    while let Some(item) = next(&mut steps).await {
        assert!(!matches!(item, Item::Summary(summary) if !summary.passed));
    }
    let (health, revision) = server.health("demo-rollback-approval").await;
    assert_eq!((health, revision), (Health::Healthy, 3), "the specification that worked is back");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_prod_there_are_none() {
    let server = Server::start("prod", None).await;
    let operator = server.client("operator").await;
    let known = operator.scenarios().list_scenarios(v1::ListScenariosRequest {}).await.unwrap();
    assert!(known.into_inner().scenarios.is_empty());
    let status = begin(&operator, request("crash")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("prod"), "{status}");
    server.stop().await;
}
