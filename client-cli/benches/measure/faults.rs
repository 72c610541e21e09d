//! Real faults on real processes under a real agentd: what the agent makes of each of them, twenty times.
//!
//! Every run has an agentd of its own with one app, and twenty go side by side. In one environment they would be a storm with a common
//! cause and are treated as one, and what the first of them teach is known to the last; that is right, and told elsewhere.
//!
//! The rules are those of stage, with every span a tenth of what it is there: cooldowns, hold times, windows, breakers, time to live. In a
//! tenth of the time there are a tenth of the requests to judge by, so ten times as many of them may fail: as much evidence is asked for
//! within the same span. What is deployed was deployed an hour ago by the clock of agentd, because what breaks within half an hour of a
//! deployment is blamed on it.
//!
//! What should become of each fault, and by which rule:
//!
//! | fault | what is done | final state | because |
//! |---|---|---|---|
//! | crash | one `RESTART` | runs, answers | starting what is down takes nothing away |
//! | crash loop | `RESTART`, 8 times at most | humans are told; runs when the cause is gone | a breaker never hot-loops and never gives up for good |
//! | leak | `RESTART`, once or twice | memory free, and it never was full | growth is found before the limit is |
//! | overload | one `SCALE_UP` | two instances, fast under the same load | nothing is restarted that only has too much to do |
//! | dependency | one `RESTART` at most | humans are told; well when it is back | what is well itself is not mended by a restart |
//! | blip | nothing | well, and nobody was told | what ends by itself needs neither a restart nor a human |
//! | flap | one `RESTART` at most | left to a human while it goes on; well after it | acting on a condition that keeps changing amplifies it |

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentctl_api::v1;
use agentd::app::App;
use agentd_core::action::Action;
use agentd_core::app::{AppName, Env};
use agentd_core::detect::FindingKind;
use agentd_core::policy::Policy;
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Record};
use agentd_core::state::AppState;
use agentd_core::verdict::Ruling;
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{self, Client};
use crate::wire::Monitor;

mod monitor;
pub(crate) mod patient;

use monitor::{Traffic, Watched, get};

/// Runs of each fault.
const RUNS: usize = 20;
/// Goal: share of the runs that end as they should, in percent.
const GOAL: usize = 90;
/// Every span of the policy is divided by this.
const FASTER: u64 = 10;
/// How long ago by its clock everything was deployed, in milliseconds.
const AGE_MS: u64 = 60 * 60 * 1_000;
/// Where the apps and what they depend on listen. Connections come from another address of the host, so that none of them is given a port
/// that is free for a while because something is down.
const HOST: &str = "127.0.0.2:0";

const ASKING: Traffic = Traffic { path: "/ask", per_second: 20 };
const WORKING: Traffic = Traffic { path: "/work", per_second: 10 };
/// Half as much again as one instance can.
const TOO_MUCH: Traffic = Traffic { path: "/work", per_second: 30 };

/// The rules, faster.
fn policy() -> Policy {
    let mut policy = serde_json::to_value(Policy::default_for(Env::Stage)).unwrap();
    faster("", &mut policy);
    let mut policy: Policy = serde_json::from_value(policy).unwrap();
    policy.statistics.error_budget *= i64::try_from(FASTER).unwrap();
    policy
}

fn faster(name: &str, value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            // Spans of actions stand in a map that is called so.
            let all = name == "base_ms" || name == "ttl_by_metric";
            map.iter_mut().for_each(|(key, value)| faster(if all { name } else { key }, value));
        }
        serde_json::Value::Number(_) if name.ends_with("_ms") => {
            let ms = value.as_u64().unwrap();
            *value = ms.div_ceil(FASTER).into();
        }
        _ => {}
    }
}

/// A fault: how often it is met, and what should become of it.
struct Fault {
    name: &'static str,
    good: &'static str,
    traffic: Traffic,
    most: u32,
    probed: bool,
}

const FAULTS: [Fault; 7] = [
    Fault { good: "restarted once, and nothing else is done", ..fault("crash", WORKING) },
    Fault {
        good: "told to humans, 8 restarts at most, well when the cause is gone",
        ..fault("crash-loop", WORKING)
    },
    Fault {
        good: "restarted before the memory is full, and little is left of it",
        ..fault("leak", WORKING)
    },
    Fault {
        good: "one more instance, nothing restarted, well under the same load",
        most: 2,
        ..fault("overload", WORKING)
    },
    Fault {
        good: "told to humans, one restart at most, well when it is back",
        ..fault("dependency", ASKING)
    },
    Fault { good: "nothing is done, and nobody told", ..fault("blip", ASKING) },
    Fault {
        good: "one restart at most, then left to a human, well when it is over",
        probed: true,
        ..fault("flap", WORKING)
    },
];

const fn fault(name: &'static str, traffic: Traffic) -> Fault {
    Fault { name, good: "", traffic, most: 1, probed: false }
}

/// What the log says was made of it.
#[derive(Debug, Default)]
struct Done {
    /// What was carried out.
    actions: Vec<Action>,
    /// How often humans were told.
    told: usize,
    /// How often something was left to a human, because the condition kept changing.
    left: usize,
}

impl Done {
    fn restarts(&self) -> usize {
        self.actions.iter().filter(|action| **action == Action::Restart).count()
    }

    /// Whether that is what the fault called for.
    fn is_right(&self, fault: &Fault) -> bool {
        let restarts = self.restarts();
        let only_restarts = restarts == self.actions.len();
        match fault.name {
            "crash" => self.actions == [Action::Restart],
            "crash-loop" => only_restarts && (1..=8).contains(&restarts) && self.told > 0,
            "leak" => only_restarts && (1..=2).contains(&restarts),
            "overload" => self.actions == [Action::ScaleUp],
            "dependency" => only_restarts && restarts <= 1 && self.told > 0,
            "flap" => only_restarts && restarts <= 1 && self.left > 0,
            _ => self.actions.is_empty() && self.told == 0,
        }
    }
}

/// What became of a run.
struct Ended {
    name: String,
    wrong: Vec<String>,
    done: Done,
    /// From the fault to the end, when everything is as it should be again.
    seconds: f64,
}

/// What an app depends on: it takes every call, while it is there.
struct Dependency {
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Dependency {
    async fn start(address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        Self { address, serving }
    }

    async fn is_down_for(&mut self, span: Duration) {
        self.serving.abort();
        tokio::time::sleep(span).await;
        *self = Self::start(self.address).await;
    }
}

/// One run: an agentd, its only app, its users and what it depends on.
struct Run {
    server: App,
    name: AppName,
    file: PathBuf,
    address: SocketAddr,
    dependency: Dependency,
    watched: Watched,
    log: PathBuf,
}

impl Run {
    async fn start(me: &Path, dir: &Path, fault: &Fault, n: usize) -> Self {
        let name = AppName::parse(&format!("{}-{n}", fault.name)).unwrap();
        let dir = dir.join(name.as_str());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("policy.toml"), toml::to_string(&policy()).unwrap()).unwrap();
        let server = bed::serve(me, &dir).await;
        let client = Client::connect(&server.address().to_string(), server.tokens(), "local").await;
        let dependency = Dependency::start(HOST.parse().unwrap()).await;
        let address = TcpListener::bind(HOST).unwrap().local_addr().unwrap();
        let file = dir.join("patient");
        let source = v1::ExecSource {
            path: me.display().to_string(),
            args: ["patient", &file.display().to_string(), &dependency.address.to_string()]
                .map(str::to_owned)
                .into(),
        };
        onboard(&client, &name, fault, source, address).await;
        let monitor = Monitor::open(&client).await;
        let watched = Watched::start(monitor, &name, address, fault.traffic, server.clock());
        let log = dir.join("data").join("proof");
        Self { server, name, file, address, dependency, watched, log }
    }

    async fn state<T: Send + 'static>(&self, of: fn(&AppState) -> T) -> T {
        let name = self.name.clone();
        let asked = self.server.agent().query(move |view| view.state.apps.get(&name).map(of)).await;
        asked.unwrap().unwrap()
    }

    /// Waits until that holds; whether it did in time.
    async fn until(&self, patience: u64, holds: fn(&AppState) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(patience);
        while Instant::now() < deadline {
            self.note_pids().await;
            if self.state(holds).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    async fn well(&self, patience: u64) -> bool {
        self.until(patience, is_well).await
    }

    /// Lets it come up, and be what was deployed long ago.
    async fn settle(&self) -> bool {
        let came_up = self.well(120).await;
        self.watched.put_forward(AGE_MS);
        tokio::time::sleep(Duration::from_secs(2)).await;
        if self.state(|app| app.escalated).await {
            // It had a moment, and told humans of an hour of silence: what comes next is another incident only after a while of health.
            tokio::time::sleep(Duration::from_millis(policy().cooldown.healthy_reset_ms)).await;
        }
        came_up && self.well(60).await
    }

    async fn note_pids(&self) {
        let running = |app: &AppState| -> Vec<i32> {
            let fences = app.instances.values().filter_map(|instance| instance.fence.as_ref());
            fences.filter_map(|fence| i32::try_from(fence.pid).ok()).collect()
        };
        self.watched.runs_as(self.state(running).await);
    }

    async fn kill(&self) {
        let pid = self.state(|app| app.instances.get(&0).and_then(|i| i.fence.clone())).await;
        let pid = i32::try_from(pid.unwrap().pid).unwrap();
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }

    fn suffer(&self, from: &str) {
        std::fs::write(self.file.with_extension(from), "").unwrap();
    }

    fn heal(&self, from: &str) {
        std::fs::remove_file(self.file.with_extension(from)).unwrap();
    }

    /// What was made of everything since the record `since`.
    fn done(&self, since: u64) -> Done {
        let mut done = Done::default();
        let mut note = |seq: u64, line: &[u8]| {
            let Some(record) = (seq > since).then(|| Record::parse(line).ok()).flatten() else {
                return;
            };
            match &record.body {
                Body::Escalated { .. } => done.told += 1,
                Body::Decided(decided) if !decided.proposal.action.is_passive() => {
                    match decided.ruling {
                        Ruling::Permitted => done.actions.push(decided.proposal.action),
                        Ruling::Held { reason: Reason::Flapping } => done.left += 1,
                        Ruling::Held { .. } | Ruling::Refused { .. } => {}
                    }
                }
                _ => {}
            }
        };
        agentd::journal::read_dir(&self.log, &mut note).unwrap();
        done
    }

    async fn last_seq(&self) -> u64 {
        self.server.agent().query(|view| view.state.last_seq).await.unwrap()
    }

    /// Makes it ill, waits, and says what did not come as it should.
    async fn suffers(mut self, fault: &Fault) -> Ended {
        let mut wrong = Vec::new();
        let mut expect = |holds: bool, what: &str| {
            if !holds {
                wrong.push(what.to_owned());
            }
        };
        expect(self.settle().await, "it never was well");
        let (since, began) = (self.last_seq().await, Instant::now());
        match fault.name {
            "crash" => {
                self.kill().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                expect(self.well(60).await, "it is not well");
                expect(self.answers().await, "it does not answer");
            }
            "crash-loop" => {
                self.suffer("sick");
                self.kill().await;
                expect(self.until(180, is_told_of_loop).await, "nobody was told");
                tokio::time::sleep(Duration::from_secs(10)).await;
                self.heal("sick");
                expect(self.well(400).await, "it is not well");
                expect(self.answers().await, "it does not answer");
            }
            "leak" => {
                let _ = get(self.address, "/leak").await;
                expect(self.until(60, was_restarted).await, "nothing was done");
                expect(self.watched.peak() < 1.0, "its memory was full");
                expect(self.well(60).await, "it is not well");
                expect(self.watched.memory() < 0.5, "its memory is not free");
            }
            "overload" => {
                self.watched.ask(TOO_MUCH);
                expect(self.until(60, |app| app.desired == 2).await, "nothing was done");
                expect(self.well(60).await, "it is not well");
            }
            "dependency" => {
                // Ten minutes, if nothing went faster.
                self.dependency.is_down_for(Duration::from_secs(60)).await;
                expect(self.well(120).await, "it is not well");
                expect(self.answers().await, "it does not answer");
            }
            "blip" => {
                for _ in 0..3 {
                    self.dependency.is_down_for(monitor::TICK).await;
                    tokio::time::sleep(Duration::from_secs(4)).await;
                }
                // Three of them are a condition that keeps changing, and that is over when it has not changed for a while.
                expect(self.well(180).await, "it is not well");
            }
            _ => {
                for _ in 0..8 {
                    self.suffer("ill");
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    self.heal("ill");
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                expect(self.well(240).await, "it is not well");
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let done = self.done(since);
        expect(done.is_right(fault), &format!("{done:?}"));
        let Self { server, name, watched, .. } = self;
        drop(watched);
        server.stop().await;
        Ended { name: name.to_string(), wrong, done, seconds }
    }

    async fn answers(&self) -> bool {
        let answer = tokio::time::timeout(Duration::from_secs(5), get(self.address, "/work")).await;
        matches!(answer, Ok(Ok(200)))
    }
}

async fn onboard(
    client: &Client,
    name: &AppName,
    fault: &Fault,
    source: v1::ExecSource,
    address: SocketAddr,
) {
    let probe = v1::HealthProbe {
        kind: Some(v1::health_probe::Kind::Http(v1::HttpProbe {
            target: Some(v1::http_probe::Target::Path("/healthz".into())),
        })),
        interval: Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 }),
        timeout: Some(prost_types::Duration { seconds: 0, nanos: 400_000_000 }),
    };
    let request = client.say(v1::OnboardAppRequest {
        name: name.to_string(),
        environment: "stage".into(),
        runtime: "binary".into(),
        source: Some(v1::onboard_app_request::Source::Exec(source)),
        max_instances: Some(fault.most),
        listen: address.to_string(),
        health_probe: fault.probed.then_some(probe),
        thresholds: vec![v1::ThresholdOverride {
            detector: "latency_p99".into(),
            enter: Some(1.0),
            leave: Some(0.8),
            ..v1::ThresholdOverride::default()
        }],
        ..v1::OnboardAppRequest::default()
    });
    let mut onboarding =
        v1::onboarding_service_client::OnboardingServiceClient::new(client.channel.clone());
    onboarding.onboard_app(request).await.unwrap();
}

fn is_well(app: &AppState) -> bool {
    app.attempt.is_none() && app.open.is_empty() && app.ready() >= app.desired
}

/// Of this incident: that they were told of one before is forgotten when the next begins.
fn is_told_of_loop(app: &AppState) -> bool {
    app.escalated && app.open.contains_key(&FindingKind::CrashLoop)
}

fn was_restarted(app: &AppState) -> bool {
    app.last_effect.contains_key(&Action::Restart)
}

async fn twenty(me: &Path, dir: &Path, fault: &'static Fault) -> Vec<Ended> {
    let mut runs = tokio::task::JoinSet::new();
    for n in 0..RUNS {
        let run = Run::start(me, dir, fault, n).await;
        runs.spawn(run.suffers(fault));
    }
    let ended = runs.join_all().await;
    bed::end_apps(dir);
    ended
}

/// Prints what became of the runs of one fault; whether that is the goal.
fn tell(fault: &Fault, ended: &[Ended]) -> bool {
    let sum = |of: fn(&Ended) -> usize| ended.iter().map(of).sum::<usize>();
    let correct = sum(|run| usize::from(run.wrong.is_empty()));
    let percent = 100 * correct / ended.len().max(1);
    let most = ended.iter().map(|run| run.done.restarts()).max().unwrap_or(0);
    let actions = sum(|run| run.done.actions.len());
    let met = percent >= GOAL
        && (fault.name != "dependency" || most <= 1)
        && (fault.name != "blip" || actions == 0);
    let mut seconds: Vec<f64> = ended.iter().map(|run| run.seconds).collect();
    seconds.sort_unstable_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or_default();
    println!(
        "{:<11} {:>4} {percent:>7} % {GOAL:>4} % {:>6.2} {:>4}  {actions:>7} {:>8} {:>4} {median:>8.1}  {}",
        fault.name,
        ended.len(),
        percent as f64 / GOAL as f64,
        if met { "yes" } else { "NO" },
        sum(|run| run.done.restarts()),
        sum(|run| run.done.told),
        fault.good
    );
    for run in ended.iter().filter(|run| !run.wrong.is_empty()) {
        println!("  {}: {}", run.name, run.wrong.join("; "));
    }
    met
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let only = std::env::var("FAULT").ok();
    println!(
        "{:<11} {:>4} {:>9} {:>6} {:>6} {:>4}  {:>7} {:>8} {:>4} {:>8}  as it should be",
        "fault",
        "runs",
        "correct",
        "goal",
        "ratio",
        "met",
        "actions",
        "restarts",
        "told",
        "seconds"
    );
    let wanted = |fault: &&Fault| only.as_ref().is_none_or(|only| only == fault.name);
    let mut met = true;
    for fault in FAULTS.iter().filter(wanted) {
        let dir = dir.join(fault.name);
        std::fs::create_dir(&dir).unwrap();
        met &= tell(fault, &runtime.block_on(twenty(me, &dir, fault)));
    }
    let said = if met { "met" } else { "MISSED" };
    println!(
        "\ngoal: {GOAL} % correct, no second restart on a dependency outage, no action on blips: {said}"
    );
}
