//! Probes against real sockets.

use std::net::{Ipv4Addr, SocketAddr};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tasks::{OnFailure, Tasks};

/// A server that answers every connection with `answer` after `delay`.
async fn server(tasks: &Tasks, answer: &'static str, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("test-server", OnFailure::Log, async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0_u8; 1024];
            let _ = stream.read(&mut request).await;
            sleep(delay).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

async fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn http_status_decides_and_every_answer_is_told_apart() {
    let tasks = Tasks::new();
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", ""),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP status 404"),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "HTTP status 503"),
        ("garbage\r\n\r\n", "no valid HTTP answer"),
        ("", "no valid HTTP answer"),
    ] {
        let address = server(&tasks, answer, Duration::ZERO).await;
        let probe = Probe::Http { address, path: "/healthz?x=1".into() };
        let outcome = timeout(Duration::from_secs(5), probe.check()).await.unwrap();
        let text = outcome.err().map(|error| crate::shim::chain(&error)).unwrap_or_default();
        assert_eq!(text.is_empty(), expected.is_empty(), "{answer:?}: {text}");
        assert!(text.contains(expected), "{answer:?}: {text}");
    }
    let address = free_address().await;
    let refused = Probe::Http { address, path: "/".into() }.check().await.unwrap_err();
    assert_eq!(refused.to_string(), format!("cannot connect to {address}"));
    assert!(Probe::Tcp { address }.check().await.is_err());
    tasks.stop();
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_unhealthy_in_time() {
    let tasks = Tasks::new();
    let address = server(&tasks, "", Duration::from_secs(600)).await;
    assert!(Probe::Tcp { address }.check().await.is_ok());
    let (samples, mut received) = Samples::channel(8);
    let schedule = Schedule::new(Duration::from_millis(100), Duration::from_secs(9));
    assert!(schedule.timeout < schedule.period);
    let stop = CancellationToken::new();
    let probe = Probe::Http { address, path: "/".into() };
    let watch = watch_app("web".into(), None, probe, schedule, samples, stop.clone());
    tasks.spawn("watch", OnFailure::Log, watch);
    let sample = timeout(Duration::from_secs(10), received.recv()).await.unwrap().unwrap();
    let Sample::Probe { app, healthy, why, .. } = sample else { panic!("{sample:?}") };
    assert_eq!((app.as_str(), healthy), ("web", false));
    assert_eq!(why, "no answer within 90 ms");
    stop.cancel();
    tasks.stop();
}

#[tokio::test]
async fn grpc_health_tells_serving_from_not_serving_from_unknown() {
    let tasks = Tasks::new();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("good", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("ill", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("grpc", OnFailure::Log, async move {
        let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        }
    });
    for (service, expected) in [("good", ""), ("ill", "NOT_SERVING"), ("unknown", "NotFound")] {
        let probe = Probe::Grpc { address, service: service.into() };
        let outcome = timeout(Duration::from_secs(5), probe.check()).await.unwrap();
        let text = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(text.is_empty(), expected.is_empty(), "{service}: {text}");
        assert!(text.contains(expected), "{service}: {text}");
    }
    tasks.stop();
}

#[test]
fn a_full_channel_loses_samples_and_counts_them() {
    let (samples, _received) = Samples::channel(1);
    let sample = || Sample::Probe {
        app: "a".into(),
        slot: None,
        healthy: true,
        elapsed_us: 1,
        why: String::new(),
    };
    samples.send(sample());
    samples.send(sample());
    assert_eq!(samples.lost(), 1);
}

#[test]
fn jitter_stays_in_its_range_and_moves() {
    let mut jitter = Jitter::new("web");
    let draws: Vec<_> = (0..100).map(|_| jitter.below(Duration::from_millis(100))).collect();
    assert!(draws.iter().all(|draw| *draw < Duration::from_millis(100)));
    assert!(draws.iter().any(|draw| *draw > Duration::from_millis(50)));
    assert!(draws.iter().any(|draw| *draw < Duration::from_millis(50)));
    assert_eq!(Jitter::new("x").below(Duration::ZERO), Duration::ZERO);
}
