//! The end of a connection: of one that is old, of one that is good for nothing, and of one whose client is gone.

use super::*;
use tonic_types::StatusExt as _;

/// A connection is old after about a second.
fn brief() -> Limits {
    Limits {
        max_connection_age: Duration::from_secs(1),
        connection_grace: Duration::from_millis(200),
        ..quick()
    }
}

/// Waits until so much was counted.
async fn counted(server: &TestServer, name: &str, count: u64) {
    let started = Instant::now();
    while server.count(name) < count {
        assert!(started.elapsed() < GENEROUS, "{name} stays below {count}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_old_connection_takes_no_more_and_a_stream_on_it_is_told_to_come_back() {
    let server = start(brief()).await;
    let mut client = server.client().await;
    let stream = call(&mut client, server.request("forever")).await;
    let status = Status::from_header_map(&trailers(stream).await).expect("a status");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().expect("an ErrorInfo").reason, "CONNECTION_AGE");
    assert!(status.get_details_retry_info().is_some(), "it may come back");
    let refused = server.request("ok").body(Empty::new()).expect("a request");
    let refused = timeout(GENEROUS, client.send_request(refused)).await.expect("an answer");
    assert!(refused.is_err(), "it said goodbye");
    let mut new = server.client().await;
    assert_eq!(code(call(&mut new, server.request("ok")).await.headers()), Code::Ok);
    assert_eq!((server.count("old_connections"), server.count("cut_connections")), (1, 0));
    server.stop().await;
}

#[tokio::test]
async fn what_is_in_flight_on_an_old_connection_has_its_grace() {
    let limits = Limits { connection_grace: GENEROUS, ..brief() };
    let server = start(limits).await;
    let mut client = server.client().await;
    let request = server.request("wait").body(Empty::new()).expect("a request");
    let in_flight = client.send_request(request);
    counted(&server, "old_connections", 1).await;
    server.release.notify_one();
    let answer = timeout(GENEROUS, in_flight).await.expect("an answer").expect("an answer");
    assert_eq!(code(answer.headers()), Code::Ok);
    server.stop().await;
}

#[tokio::test]
async fn who_reads_nothing_does_not_hold_an_old_connection() {
    let server = start(brief()).await;
    let mut client = server.client().await;
    let unread = call(&mut client, server.request("forever")).await;
    counted(&server, "cut_connections", 1).await;
    timeout(GENEROUS, server.release.notified()).await.expect("its stream is let go");
    drop(unread);
    assert_eq!(server.stop().await, Drained { aborted: 0 });
}

#[tokio::test]
async fn a_connection_without_a_request_that_is_let_in_ends_soon() {
    let limits = Limits { first_request_timeout: Duration::from_millis(300), ..quick() };
    let server = start(limits).await;
    let mut useful = server.client().await;
    assert_eq!(code(call(&mut useful, server.request("ok")).await.headers()), Code::Ok);
    let mut stranger = server.client().await;
    let denied =
        Request::post(format!("http://test{METHOD}")).header("content-type", "application/grpc");
    assert_eq!(code(call(&mut stranger, denied).await.headers()), Code::Unauthenticated);
    let _silent = server.client().await;
    counted(&server, "useless_connections", 2).await;
    assert!(timeout(GENEROUS, stranger.ready()).await.expect("closed").is_err());
    assert_eq!(code(call(&mut useful, server.request("ok")).await.headers()), Code::Ok);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_let_go_in_the_middle_of_whatever_it_says() {
    let limits = Limits {
        keepalive_interval: Duration::from_millis(200),
        keepalive_timeout: Duration::from_millis(200),
        ..quick()
    };
    let server = start(limits).await;
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let half_headers = [opening, &b"\0\0\x40\x01\x04\0\0\0\x01\x83"[..]].concat();
    for said in [&opening[..], &half_headers] {
        let mut tcp = server.tcp().await;
        tcp.write_all(said).await.expect("sent");
        read_to_close(&mut tcp).await;
    }
    let mut client = server.client().await;
    assert_eq!(code(call(&mut client, server.request("ok")).await.headers()), Code::Ok);
    server.stop().await;
}
