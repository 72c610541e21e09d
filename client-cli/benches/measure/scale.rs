//! What a thousand apps cost in memory, and how long a start takes that replays a hundred thousand records.

use std::io::{Read, Write};
use std::path::Path;

use agentd::journal;
use agentd_core::app::{AppName, Env, OnboardRequest, RequestedSource};
use agentd_core::plan::Fence;
use agentd_core::policy::Policy;
use agentd_core::record::{Observation, Record, Started};
use agentd_core::signal::{Exit, Reading};
use agentd_core::state::{Scope, State};
use agentd_core::step::{By, Input, Moment, commit, step};
use bytes::Bytes;

use crate::bed::{self, Client, Process};

const APPS: usize = 1_000;
const RECORDS: u64 = 100_000;
const RESIDENT_GOAL_MIB: f64 = 100.0;
const REPLAY_GOAL_MS: f64 = 1_000.0;

/// The server in a process of its own, so that what is measured is the server alone. Ends with its standard input.
pub(crate) fn server(dir: &Path) -> ! {
    let me = std::env::current_exe().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = bed::serve(&me, dir).await;
        println!("{} {}", server.address(), server.tokens().display());
        std::io::stdout().flush().unwrap();
        let asked = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = asked.await;
        server.stop().await;
    });
    std::process::exit(0)
}

/// The brain alone, with apps that obey, writing a log as the agent would.
struct Author {
    state: State,
    policy: Policy,
    now: u64,
    log: journal::Opened,
    lines: Vec<Bytes>,
}

impl Author {
    async fn give(&mut self, input: &Input) {
        let seq = self.state.last_seq + 1;
        let moment = Moment { agent: "agent-0badcafe", now: self.now, seq, log_writable: true };
        let step = step(&self.state, &self.policy, input, &moment);
        commit(&mut self.state, &self.policy, &step.records);
        for record in &step.records {
            self.write(record).await;
        }
    }

    async fn write(&mut self, record: &Record) {
        let line = Bytes::from(record.line(self.log.head.hash));
        self.log.head.hash = agentd_core::chain::leaf_hash(&line);
        self.log.head.next_seq = record.seq + 1;
        self.lines.push(line);
        if self.lines.len() >= 500 {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let first = self.log.head.next_seq - lines.len() as u64;
        self.log.journal.append(first, lines).await.unwrap();
    }

    async fn observe(&mut self, app: &AppName, what: Observation) {
        let reading = Reading::silent(app.clone(), self.now, Some(self.now));
        self.give(&Input::Observed { app: app.clone(), slot: 0, what, reading }).await;
    }

    /// The app obeys the attempt in flight, becomes ready, and the outcome is verified.
    async fn obey(&mut self, app: &AppName) {
        let Some(decision) = self.state.apps[app].attempt.as_ref().map(|a| a.decision) else {
            return;
        };
        let fence = Fence { boot_id: "b".into(), pid: 7, start_time: self.now };
        self.observe(app, Observation::Started { fence }).await;
        self.observe(app, Observation::Ready).await;
        let reading = Reading::silent(app.clone(), self.now, Some(self.now));
        let (app, detail) = (app.clone(), String::new());
        self.give(&Input::Delivered {
            app: app.clone(),
            decision,
            ok: true,
            detail,
            untouched: false,
            reading,
        })
        .await;
        self.now += 100;
        let reading = Reading::silent(app, self.now, Some(self.now));
        self.give(&Input::Reading(reading)).await;
    }
}

fn by(name: &str) -> By {
    By { principal: name.into(), human: true, request: None, validate_only: false }
}

/// Writes a log of [`RECORDS`] records about [`APPS`] apps that crash and are healed in turn. It ends paused: the apps do not
/// exist, and the server that replays it must not start them.
async fn write_log(dir: &Path) -> u64 {
    let config = journal::Config::new(dir.join("data").join("proof"));
    let log = journal::open(config, &mut |_, _| {}).unwrap();
    let (state, policy) = (State::new(Env::Stage), bed::policy());
    let mut author = Author { state, policy: policy.clone(), now: 1_000_000, log, lines: vec![] };
    let started = Started {
        agent_id: "agent-0badcafe".into(),
        version: "bench".into(),
        demo: false,
        dry_run: false,
        frozen: false,
    };
    let policy = Box::new(policy);
    author.give(&Input::Started { started, policy, bytes_cut: None }).await;
    let apps: Vec<_> = (0..APPS).map(|n| AppName::parse(&format!("app-{n}")).unwrap()).collect();
    for app in &apps {
        let request = OnboardRequest {
            name: app.to_string(),
            env: "stage".into(),
            runtime: "binary".into(),
            source: RequestedSource::Exec { path: "/usr/bin/app".into(), args: Vec::new() },
            ..OnboardRequest::default()
        };
        let (request, found, by) = (Box::new(request), Vec::new(), by("ops"));
        author.give(&Input::Onboard { request, found, update: None, by }).await;
        author.obey(app).await;
    }
    for app in apps.iter().cycle() {
        if author.state.last_seq >= RECORDS {
            break;
        }
        author.now += 1_000;
        let exit = Exit::Signal(9);
        author.observe(app, Observation::Exited { fence: None, exit, expected: false }).await;
        author.obey(app).await;
    }
    let (scope, reason) = (Scope::Env, "the apps of this log do not exist".into());
    author.give(&Input::Pause { scope, halt: false, reason, ttl_ms: None, by: by("ops") }).await;
    author.flush().await;
    author.state.last_seq
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let fresh = dir.join("fresh");
    std::fs::create_dir(&fresh).unwrap();
    let server = Process::start(me, &fresh);
    let empty = server.resident_mib();
    runtime.block_on(async {
        let tokens = Path::new(&server.tokens);
        let client = Client::connect(&server.address, tokens, "local").await;
        for n in 0..APPS {
            let name = format!("app-{n}");
            client.onboard(&name, me, "stamp", &fresh.join(&name), "").await;
        }
        // Every app has been started, observed and verified by then.
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    });
    let full = server.resident_mib();
    server.stop();
    bed::end_apps(&fresh);

    let old = dir.join("old");
    std::fs::create_dir_all(old.join("data")).unwrap();
    let records = runtime.block_on(write_log(&old));
    let mut starts: Vec<u64> = (0..5)
        .map(|_| {
            let server = Process::start(me, &old);
            let up_ns = server.up_ns;
            server.stop();
            up_ns
        })
        .collect();
    starts.sort_unstable();
    let start_ms = starts[starts.len() / 2] as f64 / 1e6;

    println!("{:<52} {:>12} {:>12}", "case", "measured", "goal");
    println!("{:<52} {:>8.1} MiB {:>12}", "server without apps, resident", empty, "");
    let name = format!("server with {APPS} running apps, resident");
    println!("{name:<52} {full:>8.1} MiB {:>12}", format!("< {RESIDENT_GOAL_MIB} MiB"));
    let name = format!("start that replays {records} records (median of 5)");
    println!("{name:<52} {start_ms:>9.0} ms {:>12}", format!("< {REPLAY_GOAL_MS} ms"));
}
