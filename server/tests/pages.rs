//! The pages beside gRPC, asked for as scrapers, probes and people ask, on a real server.

#[cfg(test)]
mod pages {
    use std::path::PathBuf;
    use std::time::Duration;

    use agentd::app::{App, Host};
    use agentd::auth::tokens;
    use agentd::config::{Config, ServerArgs};
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    /// Far beyond anything a page takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Server {
        app: App,
        dir: TempDir,
    }

    async fn start(open: bool) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agentd.toml");
        std::fs::write(&file, format!("metrics_open = {open}\n")).unwrap();
        let config = Config::load(&ServerArgs {
            config: Some(file),
            env: Some("stage".to_owned()),
            listen: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(dir.path().join("data").to_str().unwrap().to_owned()),
            ..ServerArgs::default()
        });
        let shim = vec![PathBuf::from(env!("CARGO_BIN_EXE_agentd")), "shim".into()];
        let app = App::start(config.unwrap(), Host { shim, demo_app: Vec::new() }).await.unwrap();
        Server { app, dir }
    }

    impl Server {
        fn token(&self, principal: &str) -> String {
            let token = tokens::plain_token(self.app.tokens(), principal).unwrap();
            format!("authorization: Bearer {token}\r\n")
        }

        /// Sends these bytes and takes everything until the server closes.
        async fn raw(&self, request: &str) -> String {
            let exchange = async {
                let mut tcp = TcpStream::connect(self.app.address()).await.unwrap();
                tcp.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                let _ = tcp.read_to_string(&mut answer).await;
                answer
            };
            timeout(PATIENCE, exchange).await.expect("the connection ends")
        }

        async fn get(&self, path: &str, headers: &str) -> String {
            let host = self.app.address();
            self.raw(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n")).await
        }

        async fn stop(self) {
            self.app.stop().await.unwrap();
            drop(self.dir);
        }
    }

    fn status(answer: &str) -> u16 {
        let code = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"));
        code.parse().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn metrics_are_for_who_may_read_and_probes_need_no_token() {
        let server = start(false).await;
        let answer = server.get("/metrics", "").await;
        assert!(status(&answer) == 401 && answer.contains("TOKEN_MISSING"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("www-authenticate: bearer"), "{answer}");
        let wrong = server.get("/metrics", "authorization: Bearer guess\r\n").await;
        assert!(status(&wrong) == 401 && wrong.contains("TOKEN_INVALID"), "{wrong}");
        let monitor = server.get("/metrics", &server.token("monitor")).await;
        assert!(status(&monitor) == 403 && monitor.contains("ROLE_REQUIRED"), "{monitor}");
        for role in ["viewer", "operator", "approver", "admin"] {
            let answer = server.get("/metrics", &server.token(role)).await;
            assert_eq!(status(&answer), 200, "{role}: {answer}");
            assert!(answer.contains("application/openmetrics-text"), "{answer}");
            assert!(answer.contains("agentctl_agent_up{env=\"stage\"} 1"), "{answer}");
            assert!(
                answer.contains(
                    "agentctl_proof_entries_total{env=\"stage\",event=\"AGENT_STARTED\"} 1"
                )
            );
            assert!(answer.ends_with("# EOF\n"), "whole");
        }
        for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
            let answer = server.get(path, "").await;
            assert!(status(&answer) == 200 && answer.ends_with(text), "{answer}");
        }
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_port_stays_strict_about_everything_else() {
        let server = start(false).await;
        let answer = server.get("/", "").await;
        assert!(status(&answer) == 404 && answer.contains("gRPC"), "{answer}");
        for path in [
            "/metrics/",
            "//metrics",
            "/metrics%2e",
            "/../healthz",
            "/agentctl.v1.AgentService/Pause",
        ] {
            let answer = server.get(path, &server.token("local")).await;
            assert_eq!(status(&answer), 404, "{path}: {answer}");
        }
        let post =
            server.raw("POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
        assert!(status(&post) == 405 && post.contains("allow: GET, HEAD"), "{post}");
        let put = server.raw("PUT /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(status(&put) == 505, "{put}");
        // A second request hides behind the first: one request, one answer, and the connection ends.
        let host = "host: x\r\n";
        let two = format!("GET /healthz HTTP/1.1\r\n{host}\r\nGET /readyz HTTP/1.1\r\n{host}\r\n");
        let answer = server.raw(&two).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        for broken in
            ["GET\r\n\r\n", "GARBAGE\r\n\r\n", "GET /healthz HTTP/1.1\r\nno colon\r\n\r\n"]
        {
            let answer = server.raw(broken).await;
            assert!(answer.is_empty() || status(&answer) == 400, "{broken:?}: {answer}");
        }
        let huge =
            format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
        let answer = server.raw(&huge).await;
        assert!(answer.is_empty() || matches!(status(&answer), 400 | 431), "{answer}");
        // Whoever asks for nothing is gone after the time for the first bytes.
        assert_eq!(server.raw("GET /health").await, "");
        assert_eq!(status(&server.get("/healthz", "").await), 200, "and nobody else is hurt");
        let head = server.raw("HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(status(&head) == 200 && head.ends_with("\r\n\r\n"), "{head}");
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn open_metrics_are_open_to_this_host_and_not_to_a_page_in_its_browser() {
        let server = start(true).await;
        assert_eq!(status(&server.get("/metrics", "").await), 200);
        let led_here = "GET /metrics HTTP/1.1\r\nhost: evil.example:7443\r\n\r\n";
        assert_eq!(status(&server.raw(led_here).await), 401);
        let by_name = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(status(&server.raw(by_name).await), 200);
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_page_over_http_2_is_the_same_page() {
        let server = start(false).await;
        let io = TokioIo::new(TcpStream::connect(server.app.address()).await.unwrap());
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(connection);
        let ask = |path: &str| {
            let uri = format!("http://{}{path}", server.app.address());
            Request::get(uri).body(Empty::<Bytes>::new()).unwrap()
        };
        for (path, expected) in [("/healthz", 200), ("/metrics", 401), ("/", 405)] {
            let answer = sender.send_request(ask(path)).await.unwrap();
            assert_eq!(answer.status(), expected, "{path}");
            answer.into_body().collect().await.unwrap();
        }
        server.stop().await;
    }
}
