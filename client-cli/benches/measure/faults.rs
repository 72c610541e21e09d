//! Real faults on real processes under a real agentd: what the agent makes of each of them, twenty times.
//!
//! The rules are those of stage, with every span a tenth of what it is there: cooldowns, hold times, windows, breakers, time to live.
//! Only what restrains the agent because many apps fail at once (storm, common cause, budgets) is out of the way, because twenty of
//! them fail at once here on purpose.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentctl_api::v1;
use agentd::app::App;
use agentd_core::action::Action;
use agentd_core::app::{AppName, Env};
use agentd_core::policy::Policy;
use agentd_core::record::{Body, Record};
use agentd_core::state::AppState;
use agentd_core::verdict::Ruling;
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{self, Client};
use crate::wire::Monitor;

mod monitor;
pub(crate) mod patient;

use monitor::{Shared, Traffic, Watched, get};

/// Runs of each fault.
const RUNS: usize = 20;
/// Goal: share of the runs that end as they should, in percent.
const GOAL: usize = 90;
/// Every span of the policy is divided by this.
const FASTER: u64 = 10;

const ASKING: Traffic = Traffic { path: "/ask", per_second: 20 };
const WORKING: Traffic = Traffic { path: "/work", per_second: 10 };
/// Half as much again as one instance can.
const TOO_MUCH: Traffic = Traffic { path: "/work", per_second: 30 };

/// The rules, faster.
fn policy() -> Policy {
    let mut policy = serde_json::to_value(Policy::default_for(Env::Stage)).unwrap();
    faster("", &mut policy);
    let mut policy: Policy = serde_json::from_value(policy).unwrap();
    policy.storm.min_apps = 10_000;
    policy.storm.common_apps = 10_000;
    policy.budget.concurrent_permille = 1_000;
    policy.budget.per_hour = 10_000;
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

/// One run: an app, its users and what it depends on.
struct Run {
    server: Arc<App>,
    name: AppName,
    file: PathBuf,
    address: SocketAddr,
    dependency: SocketAddr,
    up: Option<TcpListener>,
    watched: Watched,
    log: PathBuf,
}

/// What became of a run.
struct Ended {
    name: String,
    wrong: Vec<String>,
    restarts: usize,
    actions: usize,
}

/// A fault: how often it is met, what is done, and what should become of it.
struct Fault {
    name: &'static str,
    good: &'static str,
    traffic: Traffic,
    most: u32,
    probed: bool,
}

const FAULTS: [Fault; 7] = [
    Fault {
        name: "crash",
        good: "restarted, and nothing else is done",
        traffic: WORKING,
        most: 1,
        probed: false,
    },
    Fault {
        name: "crash-loop",
        good: "told to humans, 8 restarts at most, well when the cause is gone",
        traffic: WORKING,
        most: 1,
        probed: false,
    },
    Fault {
        name: "leak",
        good: "restarted before the memory is full, and little is left of it",
        traffic: WORKING,
        most: 1,
        probed: false,
    },
    Fault {
        name: "overload",
        good: "one more instance, nothing restarted, well under the same load",
        traffic: WORKING,
        most: 2,
        probed: false,
    },
    Fault {
        name: "dependency",
        good: "one restart at most, and well when it is back",
        traffic: ASKING,
        most: 1,
        probed: false,
    },
    Fault { name: "blip", good: "nothing is done", traffic: ASKING, most: 1, probed: false },
    Fault {
        name: "flap",
        good: "held back after one restart, and well when it is over",
        traffic: WORKING,
        most: 1,
        probed: true,
    },
];

/// Whether that is what the fault called for.
fn is_right(fault: &Fault, done: &[Action]) -> bool {
    let restarts = done.iter().filter(|action| **action == Action::Restart).count();
    match fault.name {
        "crash" => done == [Action::Restart],
        "crash-loop" => (1..=8).contains(&restarts) && restarts == done.len(),
        "leak" => (1..=2).contains(&restarts) && restarts == done.len(),
        "overload" => done == [Action::ScaleUp],
        "dependency" | "flap" => restarts <= 1 && restarts == done.len(),
        _ => done.is_empty(),
    }
}

impl Run {
    async fn start(
        server: &Arc<App>,
        client: &Client,
        monitor: &Shared,
        (me, dir): (&Path, &Path),
        fault: &Fault,
        n: usize,
    ) -> Self {
        let name = AppName::parse(&format!("{}-{n}", fault.name)).unwrap();
        let file = dir.join(name.as_str());
        let up = TcpListener::bind("127.0.0.1:0").unwrap();
        let dependency = up.local_addr().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
            source: Some(v1::onboard_app_request::Source::Exec(v1::ExecSource {
                path: me.display().to_string(),
                args: ["patient".into(), file.display().to_string(), dependency.to_string()].into(),
            })),
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
        let watched = Watched::start(monitor, name.to_string(), address, fault.traffic);
        let log = dir.join("data").join("proof");
        let server = Arc::clone(server);
        Self { server, name, file, address, dependency, up: Some(up), watched, log }
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

    async fn dependency_down(&mut self, span: Duration) {
        self.up = None;
        tokio::time::sleep(span).await;
        self.up = Some(TcpListener::bind(self.dependency).unwrap());
    }

    /// What was carried out since the record `since`.
    fn done(&self, since: u64) -> Vec<Action> {
        let mut done = Vec::new();
        let mut note = |seq: u64, line: &[u8]| {
            let Some(record) = (seq > since).then(|| Record::parse(line).ok()).flatten() else {
                return;
            };
            if let (Body::Decided(decided), Some(app)) = (&record.body, &record.app)
                && *app == self.name
                && decided.ruling == Ruling::Permitted
                && !decided.proposal.action.is_passive()
            {
                done.push(decided.proposal.action);
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
        expect(self.well(120).await, "it never was well");
        let since = self.last_seq().await;
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
                expect(self.until(180, |app| app.escalated).await, "nobody was told");
                tokio::time::sleep(Duration::from_secs(10)).await;
                self.heal("sick");
                expect(self.well(700).await, "it is not well");
            }
            "leak" => {
                let _ = get(self.address, "/leak").await;
                let restarted = |app: &AppState| app.last_effect.contains_key(&Action::Restart);
                expect(self.until(60, restarted).await, "nothing was done");
                expect(self.well(60).await, "it is not well");
                expect(self.watched.memory() < 0.5, "its memory is not free");
            }
            "overload" => {
                self.watched.ask(TOO_MUCH);
                expect(self.until(60, |app| app.desired == 2).await, "nothing was done");
                expect(self.well(60).await, "it is not well");
            }
            "dependency" => {
                self.dependency_down(Duration::from_secs(20)).await;
                expect(self.well(120).await, "it is not well");
            }
            "blip" => {
                for _ in 0..3 {
                    self.dependency_down(monitor::TICK).await;
                    tokio::time::sleep(Duration::from_secs(4)).await;
                }
                expect(self.well(60).await, "it is not well");
            }
            _ => {
                for _ in 0..6 {
                    self.suffer("ill");
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    self.heal("ill");
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                expect(self.well(180).await, "it is not well");
            }
        }
        let done = self.done(since);
        expect(is_right(fault, &done), &format!("done was {done:?}"));
        let restarts = done.iter().filter(|action| **action == Action::Restart).count();
        Ended { name: self.name.to_string(), wrong, restarts, actions: done.len() }
    }

    async fn answers(&self) -> bool {
        let answer = tokio::time::timeout(Duration::from_secs(5), get(self.address, "/work")).await;
        matches!(answer, Ok(Ok(200)))
    }
}

fn is_well(app: &AppState) -> bool {
    app.attempt.is_none() && app.open.is_empty() && app.ready() >= app.desired
}

async fn twenty(me: &Path, dir: &Path, fault: &'static Fault) -> Vec<Ended> {
    std::fs::write(dir.join("policy.toml"), toml::to_string(&policy()).unwrap()).unwrap();
    let server = Arc::new(bed::serve(me, dir).await);
    let address = server.address().to_string();
    let client = Client::connect(&address, server.tokens(), "local").await;
    let monitor = Arc::new(tokio::sync::Mutex::new(Monitor::open(&client).await));
    let mut runs = tokio::task::JoinSet::new();
    for n in 0..RUNS {
        let run = Run::start(&server, &client, &monitor, (me, dir), fault, n).await;
        runs.spawn(run.suffers(fault));
    }
    let ended = runs.join_all().await;
    Arc::into_inner(server).unwrap().stop().await;
    bed::end_apps(dir);
    ended
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let only = std::env::var("FAULT").ok();
    println!(
        "{:<12} {:>5} {:>9} {:>6} {:>8} {:>8}  as it should be",
        "fault", "runs", "correct", "ratio", "restarts", "actions"
    );
    let wanted = |fault: &&Fault| only.as_ref().is_none_or(|only| only == fault.name);
    let mut met = true;
    for fault in FAULTS.iter().filter(wanted) {
        let dir = dir.join(fault.name);
        std::fs::create_dir(&dir).unwrap();
        let ended = runtime.block_on(twenty(me, &dir, fault));
        let correct = ended.iter().filter(|run| run.wrong.is_empty()).count();
        let restarts: usize = ended.iter().map(|run| run.restarts).sum();
        let actions: usize = ended.iter().map(|run| run.actions).sum();
        let percent = 100 * correct / RUNS;
        let ratio = percent as f64 / GOAL as f64;
        println!(
            "{:<12} {RUNS:>5} {percent:>7} % {ratio:>6.2} {restarts:>8} {actions:>8}  {}",
            fault.name, fault.good
        );
        for run in ended.iter().filter(|run| !run.wrong.is_empty()) {
            println!("  {}: {}", run.name, run.wrong.join("; "));
        }
        let twice = ended.iter().filter(|run| run.restarts > 1).count();
        let acted = ended.iter().filter(|run| run.actions > 0).count();
        met &= percent >= GOAL
            && (fault.name != "dependency" || twice == 0)
            && (fault.name != "blip" || acted == 0);
    }
    let said = if met { "met" } else { "MISSED" };
    println!(
        "\ngoal: {GOAL} % correct, no second restart on a dependency outage, no action on blips: {said}"
    );
}
