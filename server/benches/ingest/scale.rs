//! What so many apps cost: processor and memory of a server in which each of them reports at its pace; and, with `--minutes N`, whether
//! it grows while a million signals come in each second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::bed::Process;
use crate::monitor::{BATCH, Monitor, Pace};
use crate::native::join;

/// How many apps, how often each of them reports, and for how many seconds that is looked at.
const CASES: [(usize, u64, u64); 4] =
    [(100, 1, 30), (1_000, 1, 20), (10_000, 1, 20), (100_000, 10, 30)];
/// How much is known of so many apps: samples of each metric, the last time as many as the policy looks back.
const PASTS: [(usize, u64); 3] = [(5_000, 1), (5_000, 60), (500, 2_100)];
const MONITORS: usize = 16;
/// Seconds in which a server without apps is looked at.
const IDLE: u64 = 20;
/// Between two questions of whether the loop answers.
const PING: Duration = Duration::from_millis(20);

const CORE_GOAL: f64 = 25.0;
const KIB_GOAL: f64 = 20.0;
const IDLE_GOAL_MIB: f64 = 15.0;
/// Of the dearest case over the cheapest one: what is flat within the noise of a shared machine and the size of its caches.
const FLAT: f64 = 1.5;

/// Apps and signals each second of the soak.
const SOAK_APPS: usize = 10_000;
const SOAK_MONITORS: usize = 32;
const SOAK_PERIOD: Duration = Duration::from_millis(10);
/// Most that it may grow from its middle to its end, in MiB an hour.
const GROWTH_GOAL: f64 = 60.0;

fn goal(case: &str, measured: f64, unit: &str, most: f64) {
    let met = if measured <= most { "met" } else { "MISSED" };
    println!("{case:<66} {measured:>9.2} {unit:<6} goal {most:>6.1}  {met}");
}

fn start(apps: usize, past: u64) -> (Process, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (apps, past) = (apps.to_string(), past.to_string());
    (Process::start(&["agentd", dir.path().to_str().unwrap(), &apps, &past]), dir)
}

async fn monitors(server: &Process, apps: usize, most: usize) -> Vec<Monitor> {
    let count = most.min(apps / BATCH).max(1);
    let each = apps.div_ceil(count);
    let mut monitors = Vec::new();
    for n in 0..count {
        let apps = n * each..((n + 1) * each).min(apps);
        monitors.push(Monitor::open(&server.address, n, apps).await);
    }
    monitors
}

/// How many signals were sent, and how many of them counted.
async fn push(monitors: &mut [Monitor], pace: Pace) -> (u64, u64) {
    let told = join(monitors.iter_mut().map(|monitor| monitor.report(pace))).await;
    told.iter().fold((0, 0), |sum, (sent, accepted)| (sum.0 + sent, sum.1 + accepted))
}

async fn report(monitors: &mut [Monitor], pace: Pace) -> u64 {
    let (sent, accepted) = push(monitors, pace).await;
    assert_eq!(accepted, sent, "all of it is accepted");
    sent
}

/// Asks the loop for an answer until told to stop; milliseconds that each took, least first.
fn pings(
    mut server: Process,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<(Process, Vec<f64>)> {
    std::thread::spawn(move || {
        let mut took = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            server.ping();
            took.push(began.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(PING);
        }
        took.sort_by(f64::total_cmp);
        (server, took)
    })
}

/// A server without apps.
struct Empty {
    kib: f64,
    cores: f64,
}

fn empty() -> Empty {
    let (mut server, _dir) = start(0, 0);
    std::thread::sleep(Duration::from_secs(1));
    let (before, kib) = (server.used(), server.resident_kib());
    let stop = Arc::new(AtomicBool::new(false));
    let pinged = pings(server, Arc::clone(&stop));
    std::thread::sleep(Duration::from_secs(IDLE));
    stop.store(true, Ordering::Relaxed);
    let (mut server, _) = pinged.join().unwrap();
    let cores = (server.used().cpu_ns - before.cpu_ns) as f64 / 1e9 / IDLE as f64;
    Empty { kib, cores }
}

/// One line of the curve.
struct Line {
    apps: usize,
    /// Of one core, in percent.
    core: f64,
    /// Microseconds of the processor for each report.
    us: f64,
    kib: f64,
}

fn case(runtime: &Runtime, empty: &Empty, (apps, period, seconds): (usize, u64, u64)) -> Line {
    let (mut server, _dir) = start(apps, 0);
    let period = Duration::from_secs(period);
    let rounds = |seconds: u64| u32::try_from(seconds / period.as_secs()).unwrap();
    let mut all = runtime.block_on(monitors(&server, apps, MONITORS));
    // So that every window exists, and the start is over.
    runtime.block_on(report(&mut all, Pace { period, rounds: rounds(period.as_secs().max(5)) }));
    let (before, began) = (server.used(), Instant::now());
    let stop = Arc::new(AtomicBool::new(false));
    let pinged = pings(server, Arc::clone(&stop));
    let sent = runtime.block_on(report(&mut all, Pace { period, rounds: rounds(seconds) }));
    stop.store(true, Ordering::Relaxed);
    let (mut server, took) = pinged.join().unwrap();
    let (planned, seconds) = (seconds, began.elapsed().as_secs_f64());
    let after = server.used();
    let cores = (after.cpu_ns - before.cpu_ns) as f64 / 1e9 / seconds;
    let us = 1e6 * (cores - empty.cores) * seconds / sent as f64;
    let line = Line {
        apps,
        core: 100.0 * cores,
        us,
        kib: (server.resident_kib() - empty.kib) / apps as f64,
    };
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "{apps:>8} {:>5} s {:>9.0} {:>12.2} {us:>14.2} {:>13.2} {:>9.1} {:>9.1}",
        period.as_secs(),
        sent as f64 / seconds,
        line.core,
        line.kib,
        at(99),
        at(100)
    );
    assert_eq!(after.incidents, 0, "the apps were well");
    if seconds > 1.1 * planned as f64 {
        println!("  the machine was too busy to keep the pace: {planned} s took {seconds:.0} s");
    }
    line
}

/// Kibibytes that each of so many apps takes, when so much is known of it.
fn memory(runtime: &Runtime, empty: &Empty, (apps, past): (usize, u64)) -> f64 {
    let (server, _dir) = start(apps, past);
    let mut all = runtime.block_on(monitors(&server, apps, MONITORS));
    runtime.block_on(report(&mut all, Pace { period: Duration::from_secs(1), rounds: 3 }));
    (server.resident_kib() - empty.kib) / apps as f64
}

fn curve(runtime: &Runtime) {
    let empty = empty();
    println!(
        "{:>8} {:>7} {:>9} {:>12} {:>14} {:>13} {:>9} {:>9}",
        "apps",
        "every",
        "signals/s",
        "% of a core",
        "us per report",
        "KiB per app",
        "p99 ms",
        "max ms"
    );
    println!("{:>8} {:>7} {:>9} {:>12.2}", 0, "", "", 100.0 * empty.cores);
    let lines: Vec<Line> = CASES.into_iter().map(|c| case(runtime, &empty, c)).collect();
    println!("  (p99 and max: of the time in which the loop answers, asked every 20 ms)\n");
    goal("a server without apps, resident", empty.kib / 1_024.0, "MiB", IDLE_GOAL_MIB);
    let of = |apps: usize| lines.iter().find(|line| line.apps == apps).unwrap();
    goal("10,000 apps that report each second, of one core", of(10_000).core, "%", CORE_GOAL);
    goal("100,000 apps, resident for each", of(100_000).kib, "KiB", KIB_GOAL);
    let costs = || lines.iter().map(|line| line.us);
    let (least, most) = (costs().fold(f64::MAX, f64::min), costs().fold(0.0, f64::max));
    goal("a report, from 100 to 100,000 apps: dearest over cheapest", most / least, "times", FLAT);
    for (apps, past) in PASTS {
        let case = format!("each of {apps} apps with {past} samples of its past, resident");
        goal(&case, memory(runtime, &empty, (apps, past)), "KiB", KIB_GOAL);
    }
}

/// As many signals as the monitors can send, for so many minutes.
fn soak(runtime: &Runtime, minutes: u64) {
    let (mut server, _dir) = start(SOAK_APPS, 0);
    let mut all = runtime.block_on(monitors(&server, SOAK_APPS, SOAK_MONITORS));
    println!(
        "{:>7} {:>12} {:>12} {:>12} {:>12}",
        "minute", "signals/s", "counted", "% of a core", "MiB"
    );
    let rounds = u32::try_from(60_000 / SOAK_PERIOD.as_millis()).unwrap();
    let mut resident = Vec::new();
    for minute in 1..=minutes {
        let (before, began) = (server.used(), Instant::now());
        let pace = Pace { period: SOAK_PERIOD, rounds };
        let (sent, accepted) = runtime.block_on(push(&mut all, pace));
        let (after, seconds) = (server.used(), began.elapsed().as_secs_f64());
        let cores = (after.cpu_ns - before.cpu_ns) as f64 / 1e9 / seconds;
        let mib = server.resident_kib() / 1_024.0;
        println!(
            "{minute:>7} {:>12.0} {:>10.2} % {:>12.1} {mib:>12.1}",
            sent as f64 / seconds,
            100.0 * accepted as f64 / sent as f64,
            100.0 * cores
        );
        resident.push((seconds, mib));
        assert_eq!(after.incidents, 0, "the apps were well");
    }
    let late = &resident[resident.len() / 2..];
    if let ([(_, first), rest @ ..], Some((_, last))) = (late, late.last()) {
        let hours = rest.iter().map(|(seconds, _)| seconds).sum::<f64>() / 3_600.0;
        let growth = if rest.is_empty() { 0.0 } else { (last - first) / hours };
        goal("growth in the second half", growth, "MiB/h", GROWTH_GOAL);
    }
}

pub(crate) fn measure(args: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let minutes = args.iter().skip_while(|arg| *arg != "--minutes").nth(1);
    match minutes {
        Some(minutes) => soak(&runtime, minutes.parse().unwrap()),
        None => curve(&runtime),
    }
}
