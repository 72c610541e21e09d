//! The same scenario in stage, twice: what was decided is the same to the byte, as it is stored.

use agentd_core::app::AppName;
use serde_json::value::RawValue;

use super::*;

async fn entries(server: &Server, event: &str) -> Vec<v1::ProofEntry> {
    let filter = v1::ProofFilter { events: vec![event.to_owned()], ..Default::default() };
    let request = v1::ListProofEntriesRequest { filter: Some(filter), ..Default::default() };
    let service = Service(server.services.clone());
    service.list_proof_entries(Request::new(request)).await.unwrap().into_inner().entries
}

/// The stored bodies of the decisions, as `proof list --event RL_DECISION --select body` prints them.
async fn bodies(server: &Server) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let entries = entries(server, "RL_DECISION").await;
    entries
        .iter()
        .map(|entry| serde_json::from_slice::<Line<'_>>(&entry.raw).unwrap().body.get().to_owned())
        .collect()
}

/// A deployment, then what people ask for while it settles: each answer is complete before the next question.
async fn scenario(drill: &str) -> Vec<String> {
    let server = Server::start();
    server.onboard("web").await;
    let deployed = AppName::parse("web").unwrap();
    server
        .until(move |view| {
            let app = view.state.apps.get(&deployed)?;
            (app.ready() == app.desired).then_some(())
        })
        .await;
    // Time stands still: what the agent would do of its own accord later is not part of this.
    while entries(&server, "ORCH_DELIVERED").await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for request in [
        proposal("drop_database"),
        adjustment("0.9"),
        v1::ProposeActionRequest { reason: drill.to_owned(), ..proposal("ROLLBACK") },
    ] {
        propose(&server, request).await.unwrap();
    }
    bodies(&server).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scenario_that_is_played_twice_leaves_the_same_bytes() {
    let first = scenario("drill").await;
    assert!(first.len() >= 4, "a deployment and three requests: {first:#?}");
    assert_eq!(first, scenario("drill").await);
    // And it would show if it were not so.
    assert_ne!(first, scenario("another drill").await);
}
