//! Decisions of the real loop: asked for, listed, explained and watched.

use agentctl_api::v1::decision_service_client::DecisionServiceClient;
use agentctl_api::v1::watch_decisions_request::Start;
use agentctl_api::v1::watch_decisions_response::Item;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::auth::Role;
use crate::grpc::feed::{Framed, Outlet, tests::Book};
use crate::publish::{Encoded, Next};
use server::{PATIENCE, Server, adjustment, proposal};

pub(in crate::grpc) mod server;

fn service(server: &Server) -> Service {
    Service(server.services.clone())
}

pub(in crate::grpc) async fn propose(
    server: &Server,
    request: v1::ProposeActionRequest,
) -> Result<v1::Decision, Status> {
    let request = Server::ask(Role::Operator, request);
    let answer = service(server).propose_action(request).await?;
    Ok(answer.into_inner().decision.expect("a decision"))
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_answer_and_an_unknown_name_is_an_error() {
    let server = Server::ready().await;
    let refused = propose(&server, proposal("drop_database")).await.unwrap();
    assert_eq!(refused.ruling(), v1::Ruling::Refused);
    assert_eq!(refused.reason, "UNSAFE_ACTION_REFUSED");
    assert_eq!((refused.action.as_str(), &*refused.effective_action), ("drop_database", "NOOP"));
    assert_eq!(refused.requested_by, "operator");
    assert_eq!(refused.verdicts.len(), agentd_core::gates::GATES.len());
    assert!(refused.verdicts.iter().all(|verdict| !verdict.summary.is_empty()));

    let status = propose(&server, proposal("dance")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "UNKNOWN_ACTION".into()));
    let elsewhere = v1::ProposeActionRequest { app: "api".into(), ..proposal("RESTART") };
    let status = propose(&server, elsewhere).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_id_returns_the_first_answer_and_no_second_effect() {
    let server = Server::ready().await;
    let request_id = "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned();
    let request = v1::ProposeActionRequest { request_id, ..proposal("RESTART") };
    let before = server.memory.executed().len();
    let first = propose(&server, request.clone()).await.unwrap();
    assert_eq!(first.ruling(), v1::Ruling::Permitted, "{first:?}");
    let again = propose(&server, request.clone()).await.unwrap();
    assert_eq!(again.id, first.id);
    let other = v1::ProposeActionRequest { reason: "another".into(), ..request };
    let status = propose(&server, other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(reason(&status), "IDEMPOTENCY_KEY_REUSED");
    server.settled().await;
    assert_eq!(server.memory.executed().len(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validate_only_judges_and_leaves_no_trace() {
    let server = Server::ready().await;
    let decisions = service(&server);
    let count = async || {
        let request = Server::ask(Role::Viewer, v1::ListDecisionsRequest::default());
        decisions.list_decisions(request).await.unwrap().into_inner().decisions.len()
    };
    let before = count().await;
    let request = v1::ProposeActionRequest { validate_only: true, ..proposal("RESTART") };
    let judged = propose(&server, request).await.unwrap();
    assert_eq!((judged.ruling(), judged.id.as_str()), (v1::Ruling::Permitted, ""));
    assert!(judged.plan.is_some_and(|plan| plan.digest.starts_with("sha256:")));
    assert_eq!(count().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_read_back_with_what_became_of_it() {
    let server = Server::ready().await;
    let id = propose(&server, proposal("restart_service")).await.unwrap().id;
    server.settled().await;
    let get = |decision_id: &str| {
        let decision_id = decision_id.to_owned();
        let request = Server::ask(Role::Viewer, v1::GetDecisionRequest { decision_id });
        let service = service(&server);
        async move { service.get_decision(request).await.map(Response::into_inner) }
    };
    let decision = get(&id).await.unwrap().decision.unwrap();
    assert_eq!(decision.action, "RESTART");
    assert_eq!(decision.parameters["slots"], "0,1");
    let attempt = decision.attempt.expect("an attempt");
    assert!(attempt.delivered && attempt.end_time.is_some(), "{attempt:?}");
    assert_eq!(attempt.id, id.replace("dec-", "act-"));
    let outcome = decision.outcome.expect("an outcome");
    assert_eq!(outcome.kind(), v1::OutcomeKind::Verified, "{outcome:?}");
    assert!(outcome.time.is_some() && outcome.recovery_time.is_some(), "{outcome:?}");
    assert_eq!(get("dec-1").await.unwrap_err().code(), Code::NotFound, "no decision");
    assert_eq!(get("dec-999999").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(get("act-1").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_decisions_walk_everything_once_newest_first() {
    let server = Server::ready().await;
    for _ in 0..23 {
        propose(&server, proposal("drop_database")).await.unwrap();
    }
    let service = service(&server);
    let list = |request: v1::ListDecisionsRequest| {
        let service = service.clone();
        async move {
            let request = Server::ask(Role::Viewer, request);
            service.list_decisions(request).await.unwrap().into_inner()
        }
    };
    let all = list(v1::ListDecisionsRequest::default()).await;
    assert!(all.next_page_token.is_empty());
    let all: Vec<u64> = all.decisions.iter().map(|decision| decision.seq).collect();
    assert!(all.len() >= 24 && all.is_sorted_by(|a, b| a > b), "{all:?}");
    let mut request =
        v1::ListDecisionsRequest { page_size: 5, summary_only: true, ..Default::default() };
    let mut walked = Vec::new();
    loop {
        let page = list(request.clone()).await;
        assert!(page.decisions.iter().all(|decision| decision.verdicts.is_empty()));
        walked.extend(page.decisions.iter().map(|decision| decision.seq));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(walked, all);
    let filter = v1::DecisionFilter {
        actions: vec!["drop_database".into()],
        rulings: vec![v1::Ruling::Refused.into()],
        reasons: vec!["UNSAFE_ACTION_REFUSED".into()],
        apps: vec!["web".into()],
        ..Default::default()
    };
    let some = list(v1::ListDecisionsRequest { filter: Some(filter), ..Default::default() }).await;
    assert_eq!(some.decisions.len(), 23);
    let filter = v1::DecisionFilter { apps: vec!["api".into()], ..Default::default() };
    let none = list(v1::ListDecisionsRequest { filter: Some(filter), ..Default::default() }).await;
    assert!(none.decisions.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_is_judged_again_and_says_what_would_have_changed_it() {
    let server = Server::ready().await;
    let service = service(&server);
    let explain = |which| {
        let service = service.clone();
        async move {
            let request = v1::ExplainDecisionRequest { which };
            let answer = service.explain_decision(Server::ask(Role::Viewer, request)).await?;
            Ok::<_, Status>(answer.into_inner().explanation.expect("an explanation"))
        }
    };
    use v1::explain_decision_request::Which;
    let refused = propose(&server, proposal("drop_database")).await.unwrap();
    let told = explain(Some(Which::DecisionId(refused.id.clone()))).await.unwrap();
    assert!(told.rechecked, "{told:?}");
    assert!(told.sentences[0].contains("UNSAFE_ACTION_REFUSED"), "{:?}", told.sentences);
    assert_eq!(told.choice_mode, "asked for by a human");
    assert!(told.nearest_changes.is_empty(), "nothing lets this through");
    let last = explain(Some(Which::LastOfApp("web".into()))).await.unwrap();
    assert_eq!(last.decision.unwrap().id, refused.id);
    assert_eq!(last.record_hash.len(), 64);

    // A rollback has nowhere to go to, and asking for thresholds needs a second person.
    let held = propose(&server, adjustment("0.85")).await.unwrap();
    assert_eq!(held.ruling(), v1::Ruling::Held, "{}", held.summary);
    assert!(held.approval_id.starts_with("apr-"), "{}", held.approval_id);
    let told = explain(Some(Which::DecisionId(held.id))).await.unwrap();
    assert!(told.rechecked);

    assert_eq!(explain(None).await.unwrap_err().code(), Code::InvalidArgument);
    let unknown = Some(Which::LastOfApp("api".into()));
    assert_eq!(explain(unknown).await.unwrap_err().code(), Code::NotFound);
}

/// A client of the service over a real connection.
async fn connect(server: &Server) -> DecisionServiceClient<tonic::transport::Channel> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = wire::Wire::new(service(server));
    let stop = server.services.tasks.stopping();
    server.services.tasks.spawn("server", crate::tasks::OnFailure::Log, async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await.unwrap();
    });
    DecisionServiceClient::connect(format!("http://{address}")).await.unwrap()
}

type Items = tonic::Streaming<v1::WatchDecisionsResponse>;

async fn watch(
    client: &mut DecisionServiceClient<tonic::transport::Channel>,
    start: Start,
    include_events: bool,
) -> Items {
    let start = Some(start);
    let request = v1::WatchDecisionsRequest { start, include_events, ..Default::default() };
    client.watch_decisions(request).await.unwrap().into_inner()
}

async fn next(items: &mut Items) -> v1::WatchDecisionsResponse {
    let next = tokio::time::timeout(PATIENCE, items.next()).await.expect("something comes");
    next.expect("the stream goes on").expect("no error")
}

/// The next items up to the decision with number `last`; bookmarks left out.
async fn up_to(items: &mut Items, last: u64) -> Vec<v1::WatchDecisionsResponse> {
    let mut seen = Vec::new();
    loop {
        let item = next(items).await;
        let seq = match item.item.as_ref().expect("an item") {
            Item::Decision(decision) => decision.seq,
            Item::Event(event) => event.seq,
            _ => continue,
        };
        seen.push(item);
        if seq == last {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_over_a_connection_is_gapless_and_resumes_where_it_was() {
    let server = Server::ready().await;
    let mut client = connect(&server).await;
    let mut live = watch(&mut client, Start::Now(true), false).await;
    let Some(Item::Opened(opened)) = next(&mut live).await.item else { panic!("opened is first") };
    assert_eq!(opened.log_id, server.services.journal.head().log_id.to_string());
    let mut last = 0;
    for _ in 0..5 {
        last = propose(&server, proposal("drop_database")).await.unwrap().seq;
    }
    let seen = up_to(&mut live, last).await;
    let said = |item: &v1::WatchDecisionsResponse| match item.item.as_ref() {
        Some(Item::Decision(decision)) => decision.summary.clone(),
        other => format!("{other:?}"),
    };
    let said: Vec<String> = seen.iter().map(said).collect();
    assert_eq!(seen.len(), 5, "{said:?}");

    // Everything, from the beginning, decisions and events: every number once and in order.
    let mut all = watch(&mut client, Start::Beginning(true), true).await;
    let all = up_to(&mut all, last).await;
    let seqs: Vec<u64> = all
        .iter()
        .map(|item| match item.item.as_ref().unwrap() {
            Item::Decision(decision) => decision.seq,
            Item::Event(event) => event.seq,
            _ => 0,
        })
        .collect();
    assert_eq!(seqs, (1..=last).collect::<Vec<_>>());
    for item in &all {
        if let Some(Item::Event(event)) = &item.item {
            assert!(!event.summary.is_empty() && !event.event.is_empty(), "{event:?}");
        }
    }
    for cut in [0, 3, all.len() / 2] {
        let cursor = Start::Cursor(all[cut].cursor.clone());
        let mut rest = watch(&mut client, cursor, true).await;
        assert_eq!(up_to(&mut rest, last).await, all[cut + 1..]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_comes_first_and_the_stream_goes_on_behind_it() {
    let server = Server::ready().await;
    for n in 0..5 {
        server.onboard(&format!("app-{n}")).await;
    }
    let mut client = connect(&server).await;
    let mut items = watch(&mut client, Start::Snapshot(true), false).await;
    assert!(matches!(next(&mut items).await.item, Some(Item::Opened(_))));
    let mut names = Vec::new();
    loop {
        match next(&mut items).await.item {
            Some(Item::SnapshotItem(item)) => {
                let app = item.app.expect("an app");
                let last = app.last_decision.expect("its deployment was decided");
                assert_ne!(last.ruling(), v1::Ruling::Unspecified, "{last:?}");
                names.push(app.name);
            }
            Some(Item::SnapshotEnd(end)) => {
                assert_eq!(end.count, 6);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names, ["app-0", "app-1", "app-2", "app-3", "app-4", "web"]);
    let last = propose(&server, proposal("drop_database")).await.unwrap().seq;
    up_to(&mut items, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_decision_names_its_approval_in_the_stream() {
    let server = Server::ready().await;
    let mut client = connect(&server).await;
    let mut items = watch(&mut client, Start::Now(true), false).await;
    let held = propose(&server, adjustment("0.85")).await.unwrap();
    let seen = up_to(&mut items, held.seq).await;
    let Some(Item::Decision(decision)) = &seen[seen.len() - 1].item else { panic!("a decision") };
    assert_eq!(decision.ruling(), v1::Ruling::Held, "{}", decision.summary);
    assert!(decision.approval_id.starts_with("apr-"), "{}", decision.approval_id);
    assert_eq!(decision.approval_id, held.approval_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_words_of_a_watch_are_checked() {
    let server = Server::start();
    let filter = v1::DecisionFilter { reasons: vec!["NOPE".into()], ..Default::default() };
    let request = v1::WatchDecisionsRequest {
        start: Some(Start::Now(false)),
        filter: Some(filter),
        bookmark_interval: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
        include_events: false,
    };
    let request = Server::ask(Role::Viewer, request);
    let status = service(&server).watch_decisions(request).await.err().expect("refused");
    let bad = status.get_details_bad_request().expect("a BadRequest");
    let fields: Vec<&str> = bad.field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["bookmark_interval", "filter.reasons", "now"]);
}

async fn watch_bytes(services: &Services, filter: Option<v1::DecisionFilter>) -> Outlet<Framed> {
    let start = Some(Start::Beginning(true));
    let request =
        v1::WatchDecisionsRequest { start, filter, include_events: true, ..Default::default() };
    watch::watch(services, Request::new(request)).await.unwrap()
}

/// What a watcher is sent of the records up to `last`: the number of each, and its bytes.
async fn sent(items: &mut Outlet<Framed>, last: u64) -> Vec<(u64, bytes::Bytes)> {
    let mut seen: Vec<(u64, _)> = Vec::new();
    while seen.last().is_none_or(|(seq, _)| *seq < last) {
        let next = tokio::time::timeout(PATIENCE, items.next()).await.expect("something comes");
        let bytes = next.expect("the stream goes on").expect("no error");
        let item = v1::WatchDecisionsResponse::decode(bytes.clone()).unwrap().item.unwrap();
        match item {
            Item::Decision(decision) => seen.push((decision.seq, bytes)),
            Item::Event(event) => seen.push((event.seq, bytes)),
            _ => {}
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_beside_one_that_reads_nothing_are_sent_the_same_bytes() {
    let mut book = Book::open();
    let stalled = watch_bytes(&book.services, None).await;
    let mut watchers = Vec::new();
    for _ in 0..1_000 {
        watchers.push(watch_bytes(&book.services, None).await);
    }
    let of_web = Some(v1::DecisionFilter { apps: vec!["web".into()], ..Default::default() });
    let mut chosen = watch_bytes(&book.services, of_web).await;
    book.write(100).await;
    let first = sent(&mut watchers[0], 100).await;
    assert!(first.iter().map(|(seq, _)| *seq).eq(1..=100), "each once and in order");
    let Next::Records(records) = book.services.publisher.after(0, 100) else { panic!("there") };
    for published in &records {
        let kept = published.encoded.get_or_make(0, || panic!("encoded again"));
        assert_eq!(kept, first[usize::try_from(published.record.seq).unwrap() - 1].1);
    }
    for watcher in &mut watchers[1..] {
        assert_eq!(sent(watcher, 100).await, first);
    }
    let even: Vec<_> = first.into_iter().filter(|(seq, _)| seq % 2 == 0).collect();
    assert_eq!(sent(&mut chosen, 100).await, even, "a filter chooses among the same bytes");
    drop(stalled);
}

#[test]
fn what_becomes_of_a_decision_is_encoded_anew() {
    let encoded = Encoded::default();
    let mut made = 0;
    for upto in [0, 0, 7, 7, 7] {
        encoded.get_or_make(upto, || {
            made += 1;
            bytes::Bytes::from_static(b"x")
        });
    }
    assert_eq!(made, 2, "once for what is known, and once for what was learned");
}
