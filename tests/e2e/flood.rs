//! A flood from another host. All of 127/8 leads to this one, and only 127.0.0.1 counts as it: who comes from another address of it is a
//! stranger, on real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use agentctl_api::v1;
use agentctl_api::v1::agent_service_client::AgentServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::Endpoint;

use crate::harness::{Options, Server};

const FLOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// Few connections for one address, and time enough that none ends by itself: what is refused is refused for their number.
const LIMITS: &str = r#"
[limits]
max_connections_per_address = 64
first_request_timeout = "1m"
"#;
const PER_ADDRESS: usize = 64;
/// What a server may use while it is flooded.
const MEMORY_KIB: u64 = 256 << 10;
/// How a client of HTTP/2 begins: the preface and its settings.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection from `from`; `None` if the server closed it instead of answering.
async fn open(from: IpAddr, server: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let mut stream = socket.connect(server).await.ok()?;
    let answered = async {
        stream.write_all(OPENING).await.ok()?;
        stream.read_exact(&mut [0]).await.ok()
    };
    answered.await.map(|_| stream)
}

/// A client that asks for the status of the agent; `from` is where it comes from.
struct Asker {
    agent: AgentServiceClient<tonic::transport::Channel>,
    token: String,
}

impl Asker {
    async fn connect(server: &Server, from: IpAddr) -> Self {
        let tokens = server.data_dir().join("tokens.toml");
        let token = agentctl::server::plain_token(&tokens, "viewer").unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
        let channel = endpoint.local_address(Some(from)).connect().await.unwrap();
        Self { agent: AgentServiceClient::new(channel), token }
    }

    async fn ask(&mut self) {
        let mut request = tonic::Request::new(v1::GetStatusRequest::default());
        let token = format!("Bearer {}", self.token).parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        let answer = tokio::time::timeout(Duration::from_secs(30), self.agent.get_status(request));
        answer.await.expect("an answer").expect("no error");
    }
}

/// The most memory the server ever had, in KiB.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_flood_from_one_address_takes_its_share_and_who_comes_from_another_sees_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agentd.toml");
    std::fs::write(&config, LIMITS).unwrap();
    let flags = vec!["--metrics-open".into(), "--config".into(), config.display().to_string()];
    let server = Server::start(Options { flags, ..Options::default() });
    let address: SocketAddr = server.address().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut old = Asker::connect(&server, GOOD).await;
        old.ask().await;
        let (mut held, mut refused) = (Vec::new(), 0);
        for n in 0..5 * PER_ADDRESS {
            match open(FLOOD, address).await {
                Some(stream) => held.push(stream),
                None => refused += 1,
            }
            if n % 50 == 0 {
                old.ask().await;
                Asker::connect(&server, GOOD).await.ask().await;
            }
        }
        assert_eq!((held.len(), refused), (PER_ADDRESS, 4 * PER_ADDRESS), "its share and no more");
        Asker::connect(&server, IpAddr::V4(Ipv4Addr::LOCALHOST)).await.ask().await;
        held.clear();
        // Its seats are free when the server has seen them leave.
        while open(FLOOD, address).await.is_none() {}
    });
    let metrics = server.page("/metrics");
    let counted = metrics.lines().find_map(|line| {
        line.contains("refused_connections")
            .then(|| line.rsplit(' ').next()?.parse::<usize>().ok())?
    });
    assert!(counted.is_some_and(|count| count >= 4 * PER_ADDRESS), "{metrics}");
    assert!(peak(&server) < MEMORY_KIB, "{} KiB", peak(&server));
}
