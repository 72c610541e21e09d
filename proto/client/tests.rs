//! Connecting and watching, against a real server on loopback that comes and goes.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Response};

use super::*;
use crate::v1::decision_service_server::{DecisionService, DecisionServiceServer};
use crate::v1::watch_decisions_request::Start;
use crate::v1::watch_decisions_response::Item;
use crate::v1::{
    Decision, ExplainDecisionRequest, ExplainDecisionResponse, GetDecisionRequest,
    GetDecisionResponse, ListDecisionsRequest, ListDecisionsResponse, ProposeActionRequest,
    ProposeActionResponse, WatchDecisionsRequest, WatchDecisionsResponse, WatchOpened,
};

/// A log of ten decisions whose server hangs up after every third.
#[derive(Clone, Default)]
struct Flaky {
    starts: Arc<Mutex<Vec<Option<Start>>>>,
    tokens: Arc<Mutex<Vec<String>>>,
}

type Items =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<WatchDecisionsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DecisionService for Flaky {
    type WatchDecisionsStream = Items;

    async fn watch_decisions(
        &self,
        request: Request<WatchDecisionsRequest>,
    ) -> Result<Response<Items>, Status> {
        let token = request.metadata().get("authorization").expect("a token");
        self.tokens.lock().expect("free").push(token.to_str().expect("text").to_owned());
        let start = request.into_inner().start;
        self.starts.lock().expect("free").push(start.clone());
        let after: u64 = match start {
            Some(Start::Cursor(cursor)) => cursor.parse().expect("our own cursor"),
            _ => 0,
        };
        let item = |cursor: u64, item| WatchDecisionsResponse {
            cursor: cursor.to_string(),
            item: Some(item),
        };
        let opened = WatchOpened { start_seq: after + 1, ..WatchOpened::default() };
        let mut items = vec![Ok(item(after, Item::Opened(opened)))];
        for seq in (after + 1..=10).take(3) {
            let decision = Decision { seq, ..Decision::default() };
            items.push(Ok(item(seq, Item::Decision(Box::new(decision)))));
        }
        if after >= 9 {
            items.push(Err(Status::out_of_range("the end of the story")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }

    async fn get_decision(
        &self,
        _: Request<GetDecisionRequest>,
    ) -> Result<Response<GetDecisionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_decisions(
        &self,
        _: Request<ListDecisionsRequest>,
    ) -> Result<Response<ListDecisionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn explain_decision(
        &self,
        _: Request<ExplainDecisionRequest>,
    ) -> Result<Response<ExplainDecisionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn propose_action(
        &self,
        _: Request<ProposeActionRequest>,
    ) -> Result<Response<ProposeActionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Serves until the sender is dropped, and then answers on the other channel that the port is free.
fn serve(listener: TcpListener, service: Flaky) -> (oneshot::Sender<()>, oneshot::Receiver<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let (freed, free) = oneshot::channel();
    #[expect(clippy::disallowed_methods, reason = "a server in a test")]
    tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(DecisionServiceServer::new(service))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                let _ = stopped.await;
            })
            .await
            .expect("serves");
        let _ = freed.send(());
    });
    (stop, free)
}

#[tokio::test]
async fn a_watch_goes_on_right_behind_its_last_item_and_ends_when_it_must() {
    let service = Flaky::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    let (stop, free) = serve(listener, service.clone());
    let mut stop = Some(stop);
    let mut free = Some(free);

    let target = Target::new(&address, "the test", Some("agt_secret".to_owned()));
    let client = Client::connect(&target).await.expect("connected");
    let mut watch = client.watch_decisions(WatchDecisionsRequest::default());
    let (mut seqs, mut interruptions, mut resumptions) = (Vec::new(), 0, 0);
    let end = loop {
        match watch.next().await {
            Ok(WatchEvent::Item(WatchDecisionsResponse {
                item: Some(Item::Decision(d)), ..
            })) => {
                seqs.push(d.seq);
            }
            Ok(WatchEvent::Item(_)) => {}
            Ok(WatchEvent::Resumed) => resumptions += 1,
            Ok(WatchEvent::Interrupted { .. }) => {
                interruptions += 1;
                // The whole server restarts on the same port once.
                if let (Some(stop), Some(free)) = (stop.take(), free.take()) {
                    drop(stop);
                    free.await.expect("stopped");
                    let listener = TcpListener::bind(&address).await.expect("bound again");
                    let (stop, _) = serve(listener, service.clone());
                    // It serves until the test ends.
                    std::mem::forget(stop);
                }
            }
            Err(status) => break status,
        }
    };
    assert_eq!(seqs, (1..=10).collect::<Vec<_>>(), "in order, none twice, none left out");
    assert_eq!(end.code(), Code::OutOfRange);
    assert!(interruptions >= 3 && resumptions == 3, "{interruptions} {resumptions}");
    let starts = service.starts.lock().expect("free").clone();
    let cursor = |c: &str| Some(Start::Cursor(c.to_owned()));
    assert_eq!(starts, [None, cursor("3"), cursor("6"), cursor("9")]);
    let tokens = service.tokens.lock().expect("free").clone();
    assert!(tokens.iter().all(|token| token == "Bearer agt_secret"));
    assert_eq!(watch.cursor(), Some("10"));
}

#[tokio::test]
async fn nobody_there_is_told_with_address_origin_and_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let error =
        Client::connect(&Target::new(&address, "--address", None)).await.expect_err("nobody");
    assert_eq!(
        error.to_string(),
        format!("cannot reach agentd at `{address}` (from --address): connection refused")
    );
}

#[test]
fn addresses_and_tokens_that_are_none_are_refused_before_anything_is_sent() {
    let with = |address: &str| endpoint(&Target::new(address, "AGENTCTL_ADDRESS", None));
    for bad in ["", "localhost", "host:99999", "ftp://h:1", "a b:1", "h:1/x", "u@h:1", "\u{1b}:1"] {
        let error = with(bad).expect_err(bad).to_string();
        assert!(error.contains("from AGENTCTL_ADDRESS") && !error.contains('\u{1b}'), "{error}");
    }
    for good in ["127.0.0.1:1", "[::1]:7443", "localhost:7443", "http://127.0.0.1:7443/"] {
        assert_eq!(with(good).expect(good).uri().scheme_str(), Some("http"), "{good}");
    }
    let target = Target::new("127.0.0.1:1", "the test", Some("a\nb".to_owned()));
    assert!(matches!(bearer(&target), Err(Error::Token)));
}

#[test]
fn a_token_never_leaves_the_host_in_plain_text_unless_asked_to() {
    let mut target = Target::new("agentd.example.org:7443", "--address", Some("t".repeat(40)));
    assert_eq!(endpoint(&target).expect("valid").uri().scheme_str(), Some("https"));
    target.address = "http://192.0.2.1:7443".to_owned();
    assert_eq!(endpoint(&target).expect("valid").uri().scheme_str(), Some("https"));
    target.tls = Tls::Plaintext;
    assert_eq!(endpoint(&target).expect("valid").uri().scheme_str(), Some("http"));
    assert!(!format!("{target:?}").contains("tttt"));
    target.tls = Tls::Roots(b"no PEM".to_vec());
    target.address = "https://127.0.0.1:7443".to_owned();
    let tls = endpoint(&target);
    assert!(tls.is_err() || tls.is_ok_and(|e| e.uri().scheme_str() == Some("https")));
}
