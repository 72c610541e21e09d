//! Credentials of Redis stay where they are: not in a log line, not in the stats, not in `Debug`.

use std::net::TcpListener;
use std::process::Command;

use agentd::bus::Address;

use super::world::{Redis, World, logged};

/// No trace of `secret` in anything that can be seen from outside.
fn assert_hidden(world: &World, url: &str, secret: &str) {
    let address = Address::parse(url).unwrap();
    let seen =
        format!("{:?} {:?} {address} {address:?} {}", world.stats(), world.publisher, logged());
    assert!(!seen.contains(secret), "found in {seen}");
    assert!(logged().contains("agentd::bus"), "something was logged at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_lets_in_and_is_shown_nowhere() {
    const SECRET: &str = "canary-right-4711";
    let Some(redis) = Redis::locked(SECRET) else { return };
    let url = format!("{}?pass={SECRET}", redis.url());
    let mut world = World::new(&url, 0);
    world.publish(10);
    let stats = world.caught_up().await;
    assert_eq!(stats.place, redis.url().replace("redis+unix://", "redis+unix://***@"));
    assert_eq!(redis.seqs().len(), 10);
    assert_hidden(&world, &url, SECRET);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_missing_passwords_are_refused_and_shown_nowhere() {
    const SECRET: &str = "canary-wrong-4712";
    const OTHER: &str = "canary-other-4713";
    let Some(redis) = Redis::locked(OTHER) else { return };
    for (url, secret) in [(format!("{}?pass={SECRET}", redis.url()), SECRET), (redis.url(), OTHER)]
    {
        let mut world = World::new(&url, 0);
        world.publish(1);
        let stats = world.until("the refusal", |stats| stats.failures > 1).await;
        let error = stats.last_error.unwrap();
        assert!(error.starts_with("access refused: "), "{error}");
        assert_hidden(&world, &url, secret);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_repeats_the_login_back_does_not_make_it_visible() {
    const SECRET: &str = "canary-echo-4714";
    // It does not know the commands and says so with all their arguments.
    let flags = ["--rename-command", "AUTH", "", "--rename-command", "HELLO", ""];
    let Some(redis) = Redis::start(&flags) else { return };
    for (protocol, long) in [("2", ""), ("3", ""), ("3", &*"x".repeat(200))] {
        let secret = format!("{SECRET}{long}");
        let login = format!("user=canary-user-4715&pass={secret}&protocol={protocol}");
        let url = format!("{}?{login}", redis.url());
        let mut world = World::new(&url, 0);
        world.publish(1);
        let stats = world.until("the refusal", |stats| stats.failures > 0).await;
        assert!(!stats.connected);
        assert_hidden(&world, &url, SECRET);
        assert_hidden(&world, &url, "canary-user-4715");
    }
}

/// A Redis that speaks TLS on a port of its own, its certificate in `cert.pem`, and the address to reach it.
fn with_tls() -> Option<(Redis, String)> {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut redis = Redis::prepare(&[])?;
    let path = |name: &str| redis.path().join(name).to_string_lossy().into_owned();
    let (cert_file, key_file) = (path("cert.pem"), path("key.pem"));
    std::fs::write(&cert_file, key.cert.pem()).unwrap();
    std::fs::write(&key_file, key.signing_key.serialize_pem()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for flags in [
        ["--tls-port", &port],
        ["--bind", "127.0.0.1"],
        ["--tls-cert-file", &cert_file],
        ["--tls-key-file", &key_file],
        ["--tls-auth-clients", "no"],
    ] {
        redis.add_flags(&flags);
    }
    redis.restart();
    Some((redis, format!("localhost:{port}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_nobody_vouches_for_is_refused() {
    const SECRET: &str = "canary-tls-4716";
    let Some((redis, place)) = with_tls() else { return };
    let url = format!("rediss://:{SECRET}@{place}");
    let mut world = World::new(&url, 0);
    world.publish(1);
    let stats = world.until("the refusal", |stats| stats.failures > 0).await;
    let error = stats.last_error.unwrap();
    assert!(error.contains("certificate"), "{error}");
    assert!(redis.calls().keys().all(|command| command != "auth"), "the password was not sent");
    assert_hidden(&world, &url, SECRET);
}

const TRUSTING: &str = "AGENTD_TEST_TRUSTING";

/// Which certificates a process trusts is part of its environment, so the one that trusts is another process.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_the_host_trusts_is_good() {
    if let Ok(url) = std::env::var(TRUSTING) {
        let mut world = World::new(&url, 0);
        world.publish(10);
        world.caught_up().await;
        return;
    }
    let Some((redis, place)) = with_tls() else { return };
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bus::secrets::a_certificate_the_host_trusts_is_good"])
        .env(TRUSTING, format!("rediss://{place}"))
        .env("SSL_CERT_FILE", redis.path().join("cert.pem"))
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert_eq!(redis.seqs().len(), 10);
}
