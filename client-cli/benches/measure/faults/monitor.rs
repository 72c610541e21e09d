//! What the users of an app see: requests at a steady pace, and what becomes of them, told to agentd five times a second.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentctl_api::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::Monitor;

/// Time between two signals.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// A figure covers the requests of so many ticks.
const COVERS: u32 = 3;
/// Users do not wait longer.
const ANSWER: Duration = Duration::from_secs(10);
/// What an app may keep in memory, in KiB.
const MEMORY_KIB: f64 = 48.0 * 1024.0;

/// What users ask for, and how many of them do so per second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) path: &'static str,
    pub(crate) per_second: u32,
}

/// The stream that all of them tell.
pub(crate) type Shared = Arc<tokio::sync::Mutex<Monitor>>;

/// One answered request: when, how long it took, and whether it was a good answer.
type Answered = (Instant, Duration, bool);

/// Users and the monitor that counts for them; ends when dropped.
pub(crate) struct Watched {
    traffic: Arc<Mutex<Traffic>>,
    pids: Arc<Mutex<Vec<i32>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// Everybody tells the same monitor: a principal has a limited number of streams.
    pub(crate) fn start(
        monitor: &Shared,
        app: String,
        address: SocketAddr,
        first: Traffic,
    ) -> Self {
        let monitor = Arc::clone(monitor);
        let (traffic, pids) = (Arc::new(Mutex::new(first)), Arc::default());
        let parts = (Arc::clone(&traffic), Arc::clone(&pids));
        let task = tokio::spawn(watch(monitor, app, address, parts.0, parts.1));
        Self { traffic, pids, task }
    }

    pub(crate) fn ask(&self, traffic: Traffic) {
        *self.traffic.lock().unwrap() = traffic;
    }

    /// The processes whose memory counts.
    pub(crate) fn runs_as(&self, pids: Vec<i32>) {
        *self.pids.lock().unwrap() = pids;
    }

    pub(crate) fn memory(&self) -> f64 {
        memory(&self.pids.lock().unwrap())
    }
}

async fn watch(
    monitor: Shared,
    app: String,
    address: SocketAddr,
    traffic: Arc<Mutex<Traffic>>,
    pids: Arc<Mutex<Vec<i32>>>,
) {
    let answers: Arc<Mutex<Vec<Answered>>> = Arc::default();
    let mut every = tokio::time::interval(TICK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Traffic { path, per_second } = *traffic.lock().unwrap();
        let count = per_second * u32::try_from(TICK.as_millis()).unwrap() / 1_000;
        for n in 0..count {
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                tokio::time::sleep(TICK * n / count.max(1)).await;
                let began = Instant::now();
                let good = tokio::time::timeout(ANSWER, get(address, path)).await;
                let good = matches!(good, Ok(Ok(status)) if status == 200);
                answers.lock().unwrap().push((Instant::now(), began.elapsed(), good));
            });
        }
        let memory = memory(&pids.lock().unwrap());
        let told = figures(&app, &answers, memory);
        monitor.lock().await.say(vec![told]).await;
    }
}

/// What is known of the requests that were answered of late.
fn figures(app: &str, answers: &Mutex<Vec<Answered>>, memory: f64) -> v1::Signal {
    let covered = TICK * COVERS;
    let mut known = answers.lock().unwrap();
    known.retain(|(at, ..)| at.elapsed() <= covered);
    let mut times: Vec<Duration> = known.iter().map(|(_, took, _)| *took).collect();
    let failed = known.iter().filter(|(.., good)| !good).count();
    times.sort_unstable();
    let all = times.len();
    let p99 = times.get((all * 99 / 100).min(all.saturating_sub(1)));
    v1::Signal {
        app: app.to_owned(),
        time: Some(std::time::SystemTime::now().into()),
        latency_p99_seconds: p99.map(Duration::as_secs_f64),
        error_ratio: (all > 0).then(|| failed as f64 / all as f64),
        request_rate: Some(all as f64 / covered.as_secs_f64()),
        memory_utilization: (memory > 0.0).then_some(memory),
        ..v1::Signal::default()
    }
}

/// Resident memory of the processes, as a share of what they may keep.
fn memory(pids: &[i32]) -> f64 {
    let resident = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    pids.iter().filter_map(resident).sum::<f64>() / MEMORY_KIB
}

/// The status of one request.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("no answer"))
}
