//! A server that may die at any moment, an app that notes each of its real starts, and what must hold afterwards.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::harness::{AGENTCTL, App, Options, Records, Run, Server, Stream, seq, wait_for};

/// One request id for the onboarding: repeated after a crash it is the same request.
const REQUEST: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

impl Server {
    /// Sets the failpoints of the next start.
    pub(crate) fn arm(&mut self, failpoints: &str) {
        failpoints.clone_into(&mut self.options.failpoints);
    }

    /// Whether the server still runs.
    pub(crate) fn is_up(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// The log as its export has it, if the server answers.
    pub(crate) fn try_records(&self) -> Option<Records> {
        let run = self.ctl(&["proof", "export"]);
        (run.code == 0).then(|| Records::parse(&run.stdout))
    }

    /// Waits until `look` finds something; `None` if the server died before.
    pub(crate) fn wait_or_death<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let ended = wait_for(|| match look(self) {
            Some(found) => Some(Some(found)),
            None if !self.is_up() => Some(None),
            None => None,
        });
        ended.unwrap_or_else(|| panic!("never happened: {what}\n{}", self.log()))
    }
}

/// A server under fault, an app whose real starts are counted, and a watcher that notes everything it is shown.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) app: App,
    watcher: Stream,
    seen: Vec<Value>,
}

impl World {
    /// A server without faults that has begun its log, and a watcher on it.
    pub(crate) fn new() -> Self {
        let server = Server::start(Options::default());
        let script = server.dir().join("app");
        let stamps = server.dir().join("starts");
        // The shell is replaced by the app: the number noted is the app's.
        let text = format!(
            "#!/bin/sh\necho $$ >> {}\nexec {AGENTCTL} demo-app \"$@\"\n",
            stamps.display()
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let app = App { name: "web".to_owned(), address: server.app_address(8080) };
        let mut watcher = server.follow(&["proof", "tail", "--since", "0", "-o", "jsonl"]);
        let seen = watcher.until("the start", |_| true);
        Self { server, app, watcher, seen }
    }

    /// A world in which the app is onboarded and well.
    pub(crate) fn with_app() -> Self {
        let world = Self::new();
        world.onboard().ok();
        world.server.wait_verified(&world.app, 0);
        world
    }

    /// Asks for the onboarding; the same request each time.
    pub(crate) fn onboard(&self) -> Run {
        let script = self.server.dir().join("app").display().to_string();
        let mark = self.server.dir().display().to_string();
        let words = [
            "onboard",
            "web",
            "--runtime",
            "rust",
            "--exec",
            &script,
            "--listen",
            &self.app.address,
            "--health-url",
            "/healthz",
            "--health-interval",
            "200ms",
            "--request-id",
            REQUEST,
            "--",
            "--version-label",
            &mark,
        ];
        self.server.ctl(&words)
    }

    /// Kills the server and starts it again with these failpoints; false if it died before it answered.
    pub(crate) fn restart_armed(&mut self, failpoints: &str) -> bool {
        self.server.kill9();
        self.server.arm(failpoints);
        self.server.try_up()
    }

    /// Goes through the main job for as long as the server lives: onboarding, crash, healing. True if it lived through it.
    pub(crate) fn main_job(&mut self) -> bool {
        let app = self.app.clone();
        if self.onboard().code != 0 {
            return false;
        }
        let verified = |after: u64| {
            let app = app.clone();
            move |server: &Server| {
                let records = server.try_records()?;
                records.verified_after(&app.name, after).then(|| records.head())
            }
        };
        let Some(head) = self.server.wait_or_death("deployed", verified(0)) else { return false };
        app.kill9();
        self.server.wait_or_death("healed", verified(head)).is_some()
    }

    /// Starts the server without faults on what the fault has left.
    pub(crate) fn recover(&mut self) {
        if self.server.child.is_some() {
            if self.server.is_up() {
                self.server.kill9();
            } else {
                self.server.ended();
            }
        }
        self.server.arm("");
        self.server.up();
    }

    /// After a recovery: the app gets well by itself, and one more crash is healed.
    pub(crate) fn settle(&mut self) {
        let onboarded = self.onboard();
        assert_eq!(onboarded.code, 0, "the same request again: {onboarded:#?}");
        let (server, app) = (&self.server, &self.app);
        server.wait("the app is well", || {
            let status = server.app_status(&app.name);
            let well = status["health"] == "healthy" && status["findings"].as_array()?.is_empty();
            let quiet = server.records().open_attempts(&app.name) == 0;
            (well && quiet && app.get("/healthz").is_some()).then_some(())
        });
        server.crash_and_heal(app);
    }

    /// Process ids the app itself noted at each of its real starts.
    pub(crate) fn starts(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.server.dir().join("starts")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// What is wrong, in words; empty if every promise was kept.
    pub(crate) fn broken_promises(&mut self) -> Vec<String> {
        let mut broken = Vec::new();
        let marked = self.server.ctl(&["pause", "--reason", "the end", "-o", "json"]).ok().json();
        let end = marked["seq"].as_u64().unwrap();
        let records = self.server.records();
        self.seen.extend(self.watcher.until("the end", |line| line["seq"].as_u64() >= Some(end)));

        for pair in self.seen.windows(2) {
            if pair[1]["seq"].as_u64() != pair[0]["seq"].as_u64().map(|seq| seq + 1) {
                broken
                    .push(format!("the watcher saw {} behind {}", pair[1]["seq"], pair[0]["seq"]));
            }
        }
        let recorded: Vec<&Value> = records.iter().collect();
        for line in &self.seen {
            let raw: Value = serde_json::from_str(line["raw"].as_str().unwrap()).unwrap();
            let at = usize::try_from(seq(&raw)).unwrap_or(0).wrapping_sub(1);
            if recorded.get(at) != Some(&&raw) {
                broken.push(format!("record {} was shown and is gone or another one", seq(&raw)));
            }
        }
        let verified = self.server.ctl(&["proof", "verify", "--replay", "-o", "json"]);
        if verified.code != 0 {
            broken.push(format!("the proof does not verify: {}", verified.stdout));
        }
        broken.extend(self.undue_starts(&records));
        broken
    }

    /// Real starts that no recorded intent stands for.
    pub(crate) fn undue_starts(&self, records: &Records) -> Vec<String> {
        let starts = self.starts();
        let mut broken = Vec::new();
        let intents = records.count("ORCH_EXEC");
        if starts.len() > intents {
            broken.push(format!("{} starts for {intents} recorded intents", starts.len()));
        }
        let real: BTreeSet<u64> = starts.iter().copied().collect();
        for pid in records.started().iter().filter(|pid| !real.contains(pid)) {
            broken.push(format!("process {pid} is recorded and never was"));
        }
        broken
    }
}

impl Records {
    /// Whether an attempt on the app that began behind `after` was verified.
    pub(crate) fn verified_after(&self, app: &str, after: u64) -> bool {
        self.of("SYSTEM_STABLE").any(|record| {
            let decision = record["body"]["concluded"]["decision"].as_u64();
            record["app"] == app && decision.is_some_and(|decision| decision > after)
        })
    }

    /// Attempts on the app that have no outcome yet.
    pub(crate) fn open_attempts(&self, app: &str) -> usize {
        let of_app = |record: &&Value| record["app"] == app;
        let begun = self.of("ORCH_EXEC").filter(of_app).count();
        let ended =
            self.iter().filter(of_app).filter(|record| record["body"]["concluded"].is_object());
        begun - ended.count()
    }
}
