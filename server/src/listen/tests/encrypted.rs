//! TLS: what is served, what is cut, what is refused at the start.

use std::os::unix::fs::PermissionsExt as _;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::*;

struct Files {
    dir: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

fn files(key_mode: u32) -> Files {
    let dir = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(dir.path().join("tls.crt"), made.cert.pem()).expect("written");
    let key = dir.path().join("tls.key");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(key_mode)).expect("mode set");
    Files { dir, certificate: made.cert.der().clone() }
}

fn setup(files: &Files) -> Result<TlsSetup, tls::Error> {
    TlsSetup::load(&files.dir.path().join("tls.crt"), &files.dir.path().join("tls.key"))
}

#[tokio::test]
async fn a_trusting_client_is_served_and_others_are_cut() {
    let files = files(0o600);
    let server = start_with(quick(), Some(setup(&files).expect("usable"))).await;

    let mut stalled = server.tcp().await;
    stalled.write_all(b"\x16\x03\x01").await.expect("sent");
    let mut plain = server.tcp().await;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");

    let mut roots = RootCertStore::empty();
    roots.add(files.certificate.clone()).expect("added");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, server.tcp().await)
        .await
        .expect("a handshake");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("h2");
    server.tasks.spawn("client", OnFailure::Log, async move {
        let _ = connection.await;
    });
    assert_eq!(code(call(&mut client, server.request("ok")).await.headers()), Code::Ok);

    read_to_close(&mut stalled).await;
    read_to_close(&mut plain).await;
    assert_eq!(server.count("tls_failures"), 2);
    server.stop().await;
}

#[test]
fn a_key_others_can_read_is_refused_with_the_fix() {
    let error = setup(&files(0o644)).expect_err("refused").to_string();
    assert!(error.contains("chmod 600"), "{error}");
    setup(&files(0o640)).expect("readable by the group, as secrets are mounted");
}

#[test]
fn files_that_are_no_pem_are_named() {
    let made = files(0o600);
    std::fs::write(made.dir.path().join("tls.crt"), "hello").expect("written");
    let error = setup(&made).expect_err("refused").to_string();
    assert!(error.contains("tls.crt") && error.contains("certificate"), "{error}");

    let made = files(0o600);
    std::fs::write(made.dir.path().join("tls.key"), "hello").expect("written");
    let error = setup(&made).expect_err("refused").to_string();
    assert!(error.contains("tls.key") && error.contains("private key"), "{error}");

    let made = files(0o600);
    std::fs::remove_file(made.dir.path().join("tls.key")).expect("removed");
    assert!(matches!(setup(&made), Err(tls::Error::Io { .. })));

    let (one, other) = (files(0o600), files(0o600));
    std::fs::copy(other.dir.path().join("tls.key"), one.dir.path().join("tls.key"))
        .expect("copied");
    assert!(matches!(setup(&one), Err(tls::Error::Rejected { .. })), "a foreign key");
}
