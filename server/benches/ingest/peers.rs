//! What an app sample (six values of one app at one time) costs agentd, beside the servers that others would send it to, each in the
//! encoding it is made for.
//!
//! They store or route what they take, and agentd does not: it keeps what is newest in each window, judges it, and stores what it
//! decides. The table says so, and shows that the others did.

use std::path::Path;
use std::time::Duration;

use crate::bed::Process;
use crate::load::{APPS, Export, Lane, SENDERS, apps_of};
use crate::native::join;
use crate::peer::{Absent, Peer};
use crate::remote::{SERIES, Writer};
use crate::table::{self, Passes};

const PASSES: usize = 9;
/// A pass is over so long after its last answer: what goes on behind an answer is part of its price. agentd has looked at every window
/// by then, and the others have collected garbage and written what they had put off.
const BEHIND: Duration = Duration::from_millis(1_200);

enum Server {
    Own(Process),
    Peer(Peer),
}

impl Server {
    fn cpu_ns(&mut self) -> u64 {
        match self {
            // A pass is too cheap here to be read in ticks.
            Self::Own(process) => process.used().cpu_ns,
            Self::Peer(peer) => peer.cpu_ns(),
        }
    }
}

enum Senders {
    Native(Vec<Lane>),
    Otlp(Vec<Export>),
    Write(Vec<Writer>),
}

impl Senders {
    /// Each sends so many messages, as fast as they are taken.
    async fn push(&mut self, messages: usize) {
        match self {
            Self::Native(lanes) => {
                let told = join(lanes.iter().map(|lane| lane.push(messages))).await;
                let accepted: u64 = told.iter().map(|told| told.accepted).sum();
                assert_eq!(accepted, (SENDERS * messages * APPS) as u64, "all are accepted");
            }
            Self::Otlp(exports) => {
                join(exports.iter().map(|export| export.push(messages))).await;
            }
            Self::Write(writers) => {
                join(writers.iter_mut().map(|writer| writer.push(messages))).await;
            }
        }
    }
}

/// A server, and those that send to it.
struct Case {
    name: String,
    server: Server,
    senders: Senders,
    /// Messages of one sender in one pass: as many as make it long enough to be measured.
    messages: usize,
    passes: Passes,
}

impl Case {
    fn new(name: &str, server: Server, senders: Senders, messages: usize) -> Self {
        Self { name: name.to_owned(), server, senders, messages, passes: Passes::default() }
    }

    /// agentd, told in the way of this project.
    async fn native(dir: &Path) -> Self {
        let (server, mut lanes) = (own(dir), Vec::new());
        for n in 0..SENDERS {
            lanes.push(Lane::open(&server.address, n, &apps_of(n), APPS).await);
        }
        Self::new("agentd, gRPC", Server::Own(server), Senders::Native(lanes), 400)
    }

    /// agentd, told in the way of OpenTelemetry.
    async fn otlp(dir: &Path) -> Self {
        let server = own(dir);
        let exports = exports(&server.address).await;
        Self::new("agentd, OTLP", Server::Own(server), Senders::Otlp(exports), 200)
    }

    async fn collector(peer: Peer) -> Self {
        let exports = exports(&peer.address).await;
        let name = format!("{}, OTLP to nop", peer.name);
        Self::new(&name, Server::Peer(peer), Senders::Otlp(exports), 100)
    }

    async fn store(peer: Peer) -> Self {
        let mut writers = Vec::new();
        for n in 0..SENDERS {
            writers.push(Writer::open(&peer.address, &apps_of(n)).await);
        }
        let name = format!("{}, remote write 1.0", peer.name);
        Self::new(&name, Server::Peer(peer), Senders::Write(writers), 50)
    }

    /// Microseconds of the server's processor per app sample.
    async fn pass(&mut self) -> f64 {
        let before = self.server.cpu_ns();
        self.senders.push(self.messages).await;
        tokio::time::sleep(BEHIND).await;
        let used = self.server.cpu_ns() - before;
        used as f64 / (SENDERS * self.messages * APPS) as f64 / 1_000.0
    }
}

fn own(dir: &Path) -> Process {
    Process::start(&["agentd", dir.to_str().unwrap(), &(SENDERS * APPS).to_string()])
}

async fn exports(address: &str) -> Vec<Export> {
    let mut exports = Vec::new();
    for n in 0..SENDERS {
        exports.push(Export::open(address, n, &apps_of(n)).await);
    }
    exports
}

/// A line for each peer that is here: it by agentd, with what that has to be.
fn compare(peer: &Result<Case, Absent>, with: &[(&Case, Option<f64>)]) {
    match peer {
        Ok(peer) => {
            for (own, goal) in with {
                let case = format!("{} / {}", peer.name, own.name);
                table::peer(&case, &own.passes, &peer.passes, *goal);
            }
        }
        Err(Absent { name, how }) => println!("{name} is not here: {how}"),
    }
}

/// What the others did with it, in their own words.
fn kept(peer: &Result<Case, Absent>) {
    if let Ok(Case { name, server: Server::Peer(peer), messages, .. }) = peer
        && let Some(took) = peer.took()
    {
        let sent = (SENDERS * messages * APPS * SERIES.len() * (PASSES + 1)) as u64;
        assert_eq!(took, sent, "{name} has all of it");
        println!("  {name}: it says it stored {took} samples, which is all it was sent");
    }
}

pub(crate) fn measure(_args: &[String]) {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let [native, otlp] = dirs.each_ref().map(tempfile::TempDir::path);
        let (mut native, mut otlp) = (Case::native(native).await, Case::otlp(otlp).await);
        let mut stores = Vec::new();
        for peer in [Peer::prometheus(), Peer::victoria_metrics()] {
            stores.push(match peer {
                Ok(peer) => Ok(Case::store(peer).await),
                Err(absent) => Err(absent),
            });
        }
        let mut collector = match Peer::collector() {
            Ok(peer) => Ok(Case::collector(peer).await),
            Err(absent) => Err(absent),
        };
        for n in 0..=PASSES {
            let peers = stores.iter_mut().chain([&mut collector]).flatten();
            for case in [&mut native, &mut otlp].into_iter().chain(peers) {
                let us = case.pass().await;
                // The first ones warm all of them up, and make the series of those that have series.
                if n > 0 {
                    case.passes.push(us);
                }
            }
        }
        table::header("us/sample");
        for (store, (grpc, over_otlp)) in stores.iter().zip([(40.0, 10.0), (15.0, 4.0)]) {
            compare(store, &[(&native, Some(grpc)), (&otlp, Some(over_otlp))]);
        }
        compare(&collector, &[(&otlp, None)]);
        println!(
            "  Not the same work: Prometheus and VictoriaMetrics store every sample and the Collector routes it on; agentd does neither.\n  \
             It keeps the newest of each window, judges every window each second, and stores what it decides."
        );
        stores.iter().for_each(kept);
        for case in [native, otlp] {
            if let Server::Own(mut server) = case.server {
                assert_eq!(server.used().incidents, 0, "the apps were well");
            }
        }
    });
}
