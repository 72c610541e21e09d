//! Traces of the real binary, sent to a real OTLP receiver.

#[cfg(test)]
mod otlp {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use agentctl_api::client::{Client, Target};
    use agentctl_api::v1;
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status};

    /// Far beyond anything a test should take; a test never measures time.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A collector that hands on what it is sent.
    struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            let _ = self.0.send(request.into_inner()).await;
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    async fn collector() -> (String, mpsc::Receiver<ExportTraceServiceRequest>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = mpsc::channel(1_000);
        let service = TraceServiceServer::new(Collector(sender));
        let server = tonic::transport::Server::builder().add_service(service);
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (endpoint, received)
    }

    /// The server; it and its apps end with the test, whatever happens.
    struct Server(Child, std::path::PathBuf);

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
            end_apps(&self.1);
        }
    }

    impl Server {
        fn start(dir: &Path, endpoint: &str) -> Self {
            let log = std::fs::File::create(dir.join("log")).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_agentd"));
            command.env_clear().env("HOME", dir).current_dir(dir).stdin(Stdio::null());
            command.args(["--env", "stage", "--listen", "127.0.0.1:0", "--data-dir", "data"]);
            command.args(["--loop-interval", "50ms", "--log-format", "json"]);
            command.args(["--otlp-endpoint", endpoint]).stdout(Stdio::null()).stderr(log);
            Self(command.spawn().unwrap(), dir.join("data"))
        }

        fn stop(&mut self) {
            let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
            rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::TERM).unwrap();
            assert!(self.0.wait().unwrap().success(), "it ends in good order");
        }
    }

    fn log(dir: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(dir.join("log")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// A line of the log in which `pick` finds something.
    async fn wait<T>(dir: &Path, pick: impl Fn(&serde_json::Value) -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = log(dir).iter().find_map(&pick) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("not in the log: {:#?}", log(dir)))
    }

    /// Waits until the log on disk says that the effect was carried out.
    async fn delivered(proof: &Path) {
        let is_there = || {
            let files = std::fs::read_dir(proof).unwrap().flatten();
            files
                .filter_map(|file| std::fs::read(file.path()).ok())
                .any(|bytes| bytes.windows(DELIVERED.len()).any(|window| window == DELIVERED))
        };
        let looking = async {
            while !is_there() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("it is carried out");
    }

    const DELIVERED: &[u8] = b"ORCH_DELIVERED";

    /// Onboards an app: a decision that is carried out.
    async fn decide(dir: &Path) {
        let address = |line: &serde_json::Value| line["address"].as_str().map(str::to_owned);
        let address = wait(dir, address).await;
        let tokens = dir.join("data").join(agentd::auth::tokens::FILE_NAME);
        let token = agentd::auth::tokens::plain_token(&tokens, "operator").unwrap();
        let target = Target::new(&format!("http://{address}"), "the test", Some(token));
        let client = Client::connect(&target).await.unwrap();
        let request = v1::OnboardAppRequest {
            name: "web".to_owned(),
            environment: "stage".to_owned(),
            runtime: "binary".to_owned(),
            source: Some(v1::onboard_app_request::Source::Exec(v1::ExecSource {
                path: "/bin/sleep".to_owned(),
                args: vec!["600".to_owned()],
            })),
            ..Default::default()
        };
        client.onboarding().onboard_app(request).await.unwrap();
    }

    fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
        let value = attributes.iter().find(|kv| kv.key == key)?.value.as_ref()?.value.as_ref()?;
        match value {
            Value::StringValue(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn hex(id: &[u8]) -> String {
        id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_turn_of_the_loop_arrives_as_one_trace_with_the_id_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (endpoint, mut received) = collector().await;
        let mut server = Server::start(dir.path(), &endpoint);
        decide(dir.path()).await;
        let trace = wait(dir.path(), |line| {
            (line["event"] == "decision").then(|| line["trace_id"].as_str().map(str::to_owned))?
        })
        .await;
        // The effect has ended, and so has its span.
        delivered(&dir.path().join("data/proof/wal")).await;
        tokio::task::block_in_place(|| server.stop());

        let mut spans: BTreeMap<String, Span> = BTreeMap::new();
        while let Ok(request) = received.try_recv() {
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.unwrap_or_default();
                assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("agentd"));
                let env = text(&resource.attributes, "deployment.environment.name");
                assert_eq!(env.as_deref(), Some("stage"));
                for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    if hex(&span.trace_id) == trace {
                        spans.insert(hex(&span.span_id), span);
                    }
                }
            }
        }
        let roots: Vec<&Span> = spans.values().filter(|s| s.parent_span_id.is_empty()).collect();
        assert!(roots.len() == 1 && roots[0].name == "turn", "{spans:#?}");
        let names: BTreeSet<&str> = spans.values().map(|span| span.name.as_str()).collect();
        for name in ["decide", "enforce", "record", "explain", "act", "effect"] {
            assert!(names.contains(name), "{name} is missing in {names:?}");
        }
        for span in spans.values().filter(|span| span.name != "turn") {
            assert!(spans.contains_key(&hex(&span.parent_span_id)), "{} has no parent", span.name);
        }
    }

    /// Ends every shim below the data directory, and with it its app.
    fn end_apps(data: &Path) {
        let needle = data.as_os_str().as_encoded_bytes().to_vec();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let ours = line.windows(needle.len()).any(|window| window == needle);
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw).filter(|_| ours) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_away_costs_nothing_but_its_traces() {
        let dir = tempfile::tempdir().unwrap();
        // Bound and never accepted: the connection hangs.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let mut server = Server::start(dir.path(), &endpoint);
        wait(dir.path(), |line| line["address"].as_str().map(str::to_owned)).await;
        tokio::task::block_in_place(|| server.stop());
    }
}
