//! `agentctl monitor run`: a small monitor beside an app, that looks at it from where it stands and pushes what it sees.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use agentctl_api::client::Backoff;
use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use v1::push_signals_request::Message;

use super::Context;
use super::follow::Link;
use super::signal::push;
use crate::connect::{self, Session};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server::sense::Probe;
use crate::time::Span;

mod sampler;

use sampler::{Look, Sampler};

/// Signals that may wait for the connection; what does not fit is older than what follows, and is left out.
const WAITING: usize = 4;
/// Time the server has to answer a farewell.
const FAREWELL: Duration = Duration::from_secs(5);

/// Run a monitor beside an app
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl monitor run --app my-api --probe http --target http://127.0.0.1:8080/healthz
  agentctl monitor run --app my-api --probe process --pid-file /run/my-api.pid --as monitor")]
pub struct MonitorArgs {
    #[command(subcommand)]
    command: MonitorCommand,
}

#[derive(Debug, Subcommand)]
enum MonitorCommand {
    /// Look at an app again and again and push what is seen, until SIGTERM or Ctrl-C
    #[command(after_help = "\
Examples:
  agentctl monitor run --app my-api --probe http --target http://127.0.0.1:8080/healthz
  agentctl monitor run --app my-db --probe tcp --target 127.0.0.1:5432 --every 5s
  agentctl monitor run --app my-rpc --probe grpc --target 127.0.0.1:50051/my.Service
  agentctl monitor run --app my-api --probe process --pid 4711 --as monitor
  agentctl monitor run --app my-api --probe cgroup --cgroup /sys/fs/cgroup/my-api.service

A probe by http, tcp or grpc (grpc.health.v1) reports response times and the share of failures over
the last 20 looks; one of a process reports its share of one core and of the memory of the machine,
and one of a control group what all in it use, against the limits it has. When the server is away
it comes back by itself, and sends what it sees then: an old signal is worth nothing. A clean stop
says goodbye, so that the server knows that the monitor left and was not lost.

Exit codes: 0 stopped, 2 a signal was not accepted, 4 the token may not push signals.")]
    Run(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// App the signals are about
    #[arg(long, value_name = "APP")]
    app: String,
    /// How to look at it
    #[arg(long, value_enum)]
    probe: Kind,
    /// What to look at: an http:// URL with an IP address, IP:PORT, or IP:PORT/SERVICE of gRPC
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Process to look at
    #[arg(long, value_name = "PID", conflicts_with = "pid_file")]
    pid: Option<u32>,
    /// File with the process id, read again when the process is gone
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Directory of the control group (version 2) to look at
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s")]
    every: Span,
    /// Instance the signals are about [default: the app as a whole]
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<String>,
    /// Who sends; stable across restarts
    #[arg(long, value_name = "ID", default_value = "agentctl-monitor")]
    monitor_id: String,
    /// Stop after so many signals
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Http,
    Tcp,
    Grpc,
    Process,
    Cgroup,
}

/// What the monitor did, at its end.
#[derive(Debug, Serialize)]
struct EndView {
    app: String,
    sent: u64,
    accepted: u64,
    rejected: u64,
    left_out: u64,
    reconnects: u64,
}

/// How one stream ended.
enum End {
    /// We left, and the server said what became of the signals.
    Left(v1::PushSignalsResponse),
    /// It is gone; why.
    Lost(tonic::Status),
}

/// What outlives a stream.
struct Feed {
    epoch: u64,
    seq: u64,
    view: EndView,
    limit: Option<u64>,
}

pub(super) async fn run(args: MonitorArgs, context: &mut Context) -> Result<Exit, Failure> {
    let MonitorCommand::Run(args) = args.command;
    let mut sampler = Sampler::new(look(&args)?, args.every.0, &args.app, args.instance.as_deref());
    let stop = stopped()?;
    let mut stop = pin!(stop);
    let mut feed = Feed {
        // Sequence numbers begin again with every start of the monitor.
        epoch: uuid::Uuid::new_v4().as_u64_pair().0,
        seq: 0,
        view: EndView {
            app: args.app.clone(),
            sent: 0,
            accepted: 0,
            rejected: 0,
            left_out: 0,
            reconnects: 0,
        },
        limit: args.count,
    };
    let (mut backoff, mut link) = (Backoff::default(), Link::default());
    loop {
        let tried = tokio::select! {
            tried = once(&args, &feed, &mut link, context) => tried,
            () = &mut stop, if feed.seq == 0 => return Ok(Exit::Ok),
        };
        let (why, sent) = match tried {
            Ok((session, mut streaming)) => {
                let before = feed.view.sent;
                let end = streaming.run(&session, &mut sampler, &mut feed, stop.as_mut()).await;
                match end {
                    End::Left(summary) => return told(&feed, &summary, context),
                    End::Lost(status) if passes(&status) => {
                        (session.failure(status), feed.view.sent > before)
                    }
                    End::Lost(status) => return Err(session.failure(status)),
                }
            }
            Err(failure) if failure.exit() == Exit::Unreachable => (failure, false),
            Err(failure) => return Err(failure),
        };
        if sent {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        link.seq = feed.seq;
        link.lost(&mut context.output, &why, wait);
        feed.view.reconnects += 1;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // There is nobody to say goodbye to.
            () = &mut stop => return told(&feed, &v1::PushSignalsResponse::default(), context),
        }
    }
}

/// True if trying again may help.
fn passes(status: &tonic::Status) -> bool {
    connect::is_transient(status) || status.code() == Code::ResourceExhausted
}

/// Connects and greets.
async fn once(
    args: &RunArgs,
    feed: &Feed,
    link: &mut Link,
    context: &mut Context,
) -> Result<(Session, Streaming), Failure> {
    let session = context.connect().await?;
    let environment = push::environment(&session).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let hello = v1::Hello {
        monitor_id: args.monitor_id.clone(),
        epoch: feed.epoch,
        environment,
        default_ttl: None,
    };
    // The channel is empty: there is room.
    let _ = sender.try_send(push::wrap(Message::Hello(hello)));
    link.restored(&mut context.output);
    Ok((session, Streaming { sender, receiver: Some(receiver) }))
}

/// An open stream.
struct Streaming {
    sender: mpsc::Sender<v1::PushSignalsRequest>,
    receiver: Option<mpsc::Receiver<v1::PushSignalsRequest>>,
}

impl Streaming {
    /// Looks and sends until the server ends the stream, or it is time to leave.
    async fn run(
        &mut self,
        session: &Session,
        sampler: &mut Sampler,
        feed: &mut Feed,
        mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> End {
        let Some(receiver) = self.receiver.take() else {
            return End::Lost(tonic::Status::unavailable("the stream was used up"));
        };
        let mut telemetry = session.telemetry();
        let mut answer = pin!(telemetry.push_signals(ReceiverStream::new(receiver)));
        loop {
            tokio::select! {
                answer = &mut answer => return match answer {
                    // Nobody left: a server that drains ends streams with a status.
                    Ok(summary) => End::Left(summary.into_inner()),
                    Err(status) => End::Lost(status),
                },
                () = &mut stop => break,
                signal = sampler.next() => {
                    feed.seq += 1;
                    match self.sender.try_send(push::batch(feed.seq, vec![signal])) {
                        Ok(()) => feed.view.sent += 1,
                        // The connection does not take them: the next one is fresher.
                        Err(_full) => feed.view.left_out += 1,
                    }
                    if feed.limit == Some(feed.view.sent) {
                        break;
                    }
                }
            }
        }
        let farewell = async {
            let reason = "the monitor was stopped".to_owned();
            let _ = self.sender.send(push::wrap(Message::Bye(v1::Bye { reason }))).await;
            std::future::pending::<()>().await;
        };
        let ended = tokio::time::timeout(FAREWELL, async {
            tokio::select! {
                answer = &mut answer => answer,
                () = farewell => Err(tonic::Status::unavailable("no answer to the farewell")),
            }
        });
        match ended.await {
            Ok(Ok(summary)) => End::Left(summary.into_inner()),
            Ok(Err(status)) => End::Lost(status),
            Err(_elapsed) => End::Left(v1::PushSignalsResponse::default()),
        }
    }
}

fn told(
    feed: &Feed,
    summary: &v1::PushSignalsResponse,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let EndView { app, sent, left_out, reconnects, .. } = &feed.view;
    let view = EndView {
        app: app.clone(),
        sent: *sent,
        accepted: summary.accepted,
        rejected: summary.rejected,
        left_out: *left_out,
        reconnects: *reconnects,
    };
    context.output.emit(&view, |page| {
        page.line(format!(
            "✔ said goodbye: {sent} signals about {app} sent, {left_out} left out, {reconnects} reconnects"
        ));
        for rejection in summary.rejections.iter().take(5) {
            page.line(format!("✖ {} {}: {}", rejection.reason, rejection.field, rejection.rule));
        }
    })?;
    Ok(if summary.rejected == 0 { Exit::Ok } else { Exit::Usage })
}

/// Ends at SIGTERM or Ctrl-C.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Failure::because(Exit::Failure, "cannot wait for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What is looked at, from the flags.
fn look(args: &RunArgs) -> Result<Look, Failure> {
    let needs = |what: &str| {
        let kind = format!("{:?}", args.probe).to_ascii_lowercase();
        Failure::usage(format!("--probe {kind} needs {what}"))
    };
    match args.probe {
        Kind::Process => match (args.pid, &args.pid_file) {
            (Some(pid), _) => Ok(Look::process(sampler::Pid::Given(pid))),
            (None, Some(path)) => Ok(Look::process(sampler::Pid::File(path.clone()))),
            (None, None) => Err(needs("--pid or --pid-file")),
        },
        Kind::Cgroup => {
            let path = args.cgroup.clone().ok_or_else(|| needs("--cgroup DIR"))?;
            // A group of version 1 has no such file, and none that would tell as much.
            if !path.join("cpu.stat").exists() || !path.join("cgroup.procs").exists() {
                let path = path.display();
                return Err(Failure::usage(format!("`{path}` is no control group of version 2"))
                    .hint("such as /sys/fs/cgroup/system.slice/my-api.service"));
            }
            Ok(Look::group(path))
        }
        Kind::Grpc => {
            let target = args.target.as_deref().ok_or_else(|| needs("--target IP:PORT"))?;
            let (host, service) = target.split_once('/').unwrap_or((target, ""));
            let service = service.to_owned();
            Ok(Look::Probe(Probe::Grpc { address: address(host)?, service }))
        }
        Kind::Tcp => {
            let target = args.target.as_deref().ok_or_else(|| needs("--target IP:PORT"))?;
            Ok(Look::Probe(Probe::Tcp { address: address(target)? }))
        }
        Kind::Http => {
            let target =
                args.target.as_deref().ok_or_else(|| needs("--target http://IP:PORT/PATH"))?;
            let rest = target.strip_prefix("http://").ok_or_else(|| {
                Failure::usage(format!("--target `{target}` is no http:// URL"))
                    .hint("such as http://127.0.0.1:8080/healthz")
            })?;
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            Ok(Look::Probe(Probe::Http { address: address(host)?, path: format!("/{path}") }))
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, Failure> {
    text.parse().map_err(|_invalid| {
        Failure::usage(format!("`{text}` is no IP:PORT")).hint(
            "a monitor stands beside its app: name the address itself, such as 127.0.0.1:8080",
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn asked(line: &str) -> Result<Look, Failure> {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Monitor(MonitorArgs { command: MonitorCommand::Run(args) }) => look(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_probe_says_what_it_needs() {
        let line = "agentctl monitor run --app web --probe";
        let http =
            asked(&format!("{line} http --target http://127.0.0.1:8080/healthz?x=1")).unwrap();
        let Look::Probe(Probe::Http { address, path }) = http else { panic!("no http") };
        assert_eq!((address.port(), path.as_str()), (8080, "/healthz?x=1"));
        assert!(asked(&format!("{line} tcp --target [::1]:5432")).is_ok());
        assert!(asked(&format!("{line} process --pid 1")).is_ok());
        let grpc = asked(&format!("{line} grpc --target 127.0.0.1:50051/my.Service")).unwrap();
        let Look::Probe(Probe::Grpc { service, .. }) = grpc else { panic!("no grpc") };
        assert_eq!(service, "my.Service");
        for (rest, says) in [
            ("http", "--probe http needs --target"),
            ("http --target https://127.0.0.1:1/", "is no http:// URL"),
            ("http --target http://example.org/", "`example.org` is no IP:PORT"),
            ("tcp --target nowhere", "`nowhere` is no IP:PORT"),
            ("process", "--probe process needs --pid or --pid-file"),
            ("grpc", "--probe grpc needs --target IP:PORT"),
            ("grpc --target my-host:1", "`my-host:1` is no IP:PORT"),
            ("cgroup", "--probe cgroup needs --cgroup DIR"),
            ("cgroup --cgroup /proc", "`/proc` is no control group of version 2"),
        ] {
            let Err(failure) = asked(&format!("{line} {rest}")) else { panic!("{rest}") };
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.to_string().contains(says), "{failure}");
        }
    }
}
