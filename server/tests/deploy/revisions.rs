//! What happens to an app over its revisions: a release becomes current when it is healthy, a failed deployment is a finding, and
//! the way back is a human's decision.

use agentd_core::action::Action;
use agentd_core::detect::FindingKind;
use agentd_core::plan::Operation;
use agentd_core::record::Body;
use agentd_core::state::Outcome;

use super::git::{self, Manner};
use super::server::Server;

/// A web app that says `version`.
fn python(version: &str) -> String {
    format!(
        "import http.server, socket\n\
         class H(http.server.BaseHTTPRequestHandler):\n\
         \x20   def do_GET(self):\n\
         \x20       self.send_response(200); self.end_headers(); self.wfile.write(b'{version}')\n\
         \x20   def log_message(self, *a): pass\n\
         s = http.server.ThreadingHTTPServer(('', 0), H, bind_and_activate=False)\n\
         s.socket = socket.socket(fileno=3)\n\
         s.serve_forever()\n"
    )
}

async fn server() -> Option<Server> {
    if !git::is_there("git") || !git::is_there("python3") {
        return None;
    }
    Some(Server::start().await)
}

/// An app whose first revision is deployed and verified.
async fn first_revision(server: &Server) {
    server.git.commit("web", &[("main.py", &python("v1"))]);
    assert!(server.deploy(server.request("web", "python"), false).await);
    server.wait_concluded(Action::Deploy, Outcome::Verified, 1).await;
    server.wait_answer("v1").await;
}

/// Deploys the next revision; the label makes it another specification.
async fn next_revision(server: &Server, label: &str) {
    let mut request = server.request("web", "python");
    request.labels.insert("version".to_owned(), label.to_owned());
    // Refused while the agent is busy with the app; every try is a revision, of which only so many are remembered.
    let permitted = async || {
        let idle = server.state("web").await.attempt.is_none();
        (idle && server.deploy(request.clone(), true).await).then_some(())
    };
    server.wait("a deployment is permitted", permitted).await;
}

fn revision_of(release: Option<String>) -> String {
    release.unwrap_or_default().split('-').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_takes_over_when_it_is_healthy() {
    let Some(server) = server().await else { return };
    first_revision(&server).await;
    assert_eq!(revision_of(server.current("web")), "1");
    server.git.commit("web", &[("main.py", &python("v2"))]);
    next_revision(&server, "2").await;
    server.wait_concluded(Action::Deploy, Outcome::Verified, 2).await;
    server.wait_answer("v2").await;
    assert_eq!(revision_of(server.current("web")), "2");
    let delivered = server.records().into_iter().rev().find_map(|record| match record.body {
        Body::Delivered { detail, .. } => Some(detail),
        _ => None,
    });
    let detail = delivered.unwrap();
    assert!(
        detail.starts_with("release 2-") && detail.ends_with("1 instances changed"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_revision_is_retried_and_then_taken_back_by_a_second_person() {
    let Some(server) = server().await else { return };
    first_revision(&server).await;
    for (n, label) in [(1, "2"), (2, "3")] {
        server.git.commit("web", &[("main.py", "raise SystemExit('broken')\n"), ("n", label)]);
        next_revision(&server, label).await;
        server.wait_concluded(Action::Deploy, Outcome::Failed, n).await;
    }
    assert!(server.state("web").await.open.contains_key(&FindingKind::DeploymentFailed));
    assert_eq!(revision_of(server.current("web")), "1", "what never was healthy is not current");
    server.wait_concluded(Action::RetryDeployment, Outcome::Failed, 1).await;
    let is_rollback =
        async || server.pending().await.filter(|approval| approval.plan.action == Action::Rollback);
    let approval = server.wait("a rollback waits for approval", is_rollback).await;
    // The newest verified one, not merely the one before.
    let plan = &approval.plan.operation;
    assert!(matches!(plan, Operation::Rollback { from: 3.., to: 1, .. }), "{plan:?}");
    // What was built once needs no repository any more.
    server.git.behave(Manner::Gone);
    let asked = server.git.requests();
    server.approve(&approval).await;
    server.wait_concluded(Action::Rollback, Outcome::Verified, 1).await;
    server.wait_answer("v1").await;
    assert_eq!(revision_of(server.current("web")), "1");
    assert_eq!(server.git.requests(), asked);
    assert!(server.state("web").await.profile.failed_revision.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_repository_fails_the_deployment_and_leaves_what_runs_alone() {
    let Some(server) = server().await else { return };
    first_revision(&server).await;
    let fence = |state: agentd_core::state::AppState| state.instances[&0].fence.clone();
    let before = fence(server.state("web").await);
    server.git.behave(Manner::Gone);
    next_revision(&server, "2").await;
    server.wait_concluded(Action::Deploy, Outcome::Failed, 1).await;
    let failed = server.concluded().into_iter().find(|c| c.outcome == Outcome::Failed).unwrap();
    assert!(failed.detail.contains("not found"), "{}", failed.detail);
    assert_eq!(fence(server.state("web").await), before, "the same process");
    assert_eq!(server.get("/").as_deref(), Some("v1"));
    let in_force = async || {
        let profile = server.state("web").await.profile;
        ((profile.revision, profile.failed_revision) == (1, Some(2))).then_some(())
    };
    server.wait("revision 1 to be in force between the tries", in_force).await;
    // What runs is healed all the same, from its own release.
    let pid = rustix::process::Pid::from_raw(before.unwrap().pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    server.wait_concluded(Action::Restart, Outcome::Verified, 1).await;
    server.wait_answer("v1").await;
    // It comes back, and the agent deploys what was asked for.
    server.git.commit("web", &[("main.py", &python("v2"))]);
    server.git.behave(Manner::Serve);
    server.wait_concluded(Action::RetryDeployment, Outcome::Verified, 1).await;
    server.wait_answer("v2").await;
    assert!(!server.state("web").await.open.contains_key(&FindingKind::DeploymentFailed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_deployment_that_fails_is_a_finding_and_is_tried_again() {
    let Some(server) = server().await else { return };
    server.git.commit("web", &[("main.py", &python("v1"))]);
    server.git.behave(Manner::HalfWay);
    assert!(server.deploy(server.request("web", "python"), false).await);
    server.wait_concluded(Action::Deploy, Outcome::Failed, 1).await;
    server.git.behave(Manner::Serve);
    server.wait_concluded(Action::RetryDeployment, Outcome::Verified, 1).await;
    server.wait_answer("v1").await;
    let raised = server.records().into_iter().any(|record| {
        matches!(record.body, Body::Raised(finding) if finding.kind == FindingKind::DeploymentFailed)
    });
    assert!(raised);
}
