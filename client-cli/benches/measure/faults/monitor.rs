//! What the users of an app see: requests at a steady pace, and what becomes of them, told to agentd five times a second.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use agentctl_api::v1;
use agentd::clock::Clock;
use agentd_core::app::AppName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::Monitor;

/// Time between two signals.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// A figure covers the requests of so many ticks.
const COVERS: u32 = 3;
/// Users do not wait longer.
const ANSWER: Duration = Duration::from_secs(5);
/// What an app may keep in memory, in KiB.
const MEMORY_KIB: f64 = 48.0 * 1024.0;

/// What users ask for, and how many of them do so per second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) path: &'static str,
    pub(crate) per_second: u32,
}

/// One answered request: when, how long it took, and whether it was a good answer.
type Answered = (Instant, Duration, bool);

/// Users and the monitor that counts for them; ends when dropped.
pub(crate) struct Watched {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

/// What is asked for, of which processes, and the most memory they kept.
struct Seen {
    /// So much time is to have passed by the clock at the next signal.
    ahead_ms: u64,
    traffic: Traffic,
    pids: Vec<i32>,
    peak: f64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// What it tells was seen at the time of `clock`, which may be ahead of that of the machine.
    pub(crate) fn start(
        monitor: Monitor,
        app: &AppName,
        address: SocketAddr,
        traffic: Traffic,
        clock: Arc<Clock>,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Seen { ahead_ms: 0, traffic, pids: Vec::new(), peak: 0.0 }));
        let task = tokio::spawn(watch(monitor, app.to_string(), address, Arc::clone(&seen), clock));
        Self { seen, task }
    }

    pub(crate) fn ask(&self, traffic: Traffic) {
        self.seen.lock().unwrap().traffic = traffic;
    }

    /// Puts the clock forward with the next signal, so that agentd hardly has a moment in which nobody reported for so long.
    pub(crate) fn put_forward(&self, by_ms: u64) {
        self.seen.lock().unwrap().ahead_ms = by_ms;
    }

    /// The processes whose memory counts.
    pub(crate) fn runs_as(&self, pids: Vec<i32>) {
        self.seen.lock().unwrap().pids = pids;
    }

    pub(crate) fn memory(&self) -> f64 {
        memory(&self.seen.lock().unwrap().pids)
    }

    /// The most memory they kept so far.
    pub(crate) fn peak(&self) -> f64 {
        self.seen.lock().unwrap().peak
    }
}

async fn watch(
    mut monitor: Monitor,
    app: String,
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    clock: Arc<Clock>,
) {
    let answers: Arc<Mutex<Vec<Answered>>> = Arc::default();
    let mut every = tokio::time::interval(TICK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let (Traffic { path, per_second }, memory) = {
            let mut seen = seen.lock().unwrap();
            let memory = memory(&seen.pids);
            seen.peak = seen.peak.max(memory);
            clock.advance(std::mem::take(&mut seen.ahead_ms));
            (seen.traffic, memory)
        };
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
        let told = v1::Signal {
            app: app.clone(),
            time: Some((UNIX_EPOCH + Duration::from_millis(clock.now_ms())).into()),
            memory_utilization: (memory > 0.0).then_some(memory),
            ..figures(&answers)
        };
        monitor.say(vec![told]).await;
    }
}

/// What is known of the requests that were answered of late.
fn figures(answers: &Mutex<Vec<Answered>>) -> v1::Signal {
    let covered = TICK * COVERS;
    let mut known = answers.lock().unwrap();
    known.retain(|(at, ..)| at.elapsed() <= covered);
    let mut times: Vec<Duration> = known.iter().map(|(_, took, _)| *took).collect();
    let failed = known.iter().filter(|(.., good)| !good).count();
    times.sort_unstable();
    let all = times.len();
    let p99 = times.get((all * 99 / 100).min(all.saturating_sub(1)));
    v1::Signal {
        latency_p99_seconds: p99.map(Duration::as_secs_f64),
        error_ratio: (all > 0).then(|| failed as f64 / all as f64),
        request_rate: Some(all as f64 / covered.as_secs_f64()),
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
