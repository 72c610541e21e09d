//! A real app under the server's care: the small web server that ships with agentctl.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::run::Run;
use super::{AGENTCTL, Server, body, event, processes, seq};

/// An onboarded demo app that listens.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// Its name.
    pub(crate) name: String,
    /// Where it answers.
    pub(crate) address: String,
}

impl App {
    /// Asks the app itself; `None` when it does not answer.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        // The socket is there even while nobody answers, so this is how long a silent app costs.
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    /// The process that answers, by its own word.
    pub(crate) fn pid(&self) -> u32 {
        self.find_pid().expect("the app answers")
    }

    /// As [`App::pid`]; `None` when it does not answer.
    pub(crate) fn find_pid(&self) -> Option<u32> {
        let info: Value = serde_json::from_str(&self.get("/info")?).ok()?;
        u32::try_from(info["pid"].as_u64()?).ok()
    }

    /// `kill -9` of the process that answers. Returns its id.
    pub(crate) fn kill9(&self) -> u32 {
        let pid = self.pid();
        processes::kill(pid);
        pid
    }
}

impl Server {
    /// The words that onboard a demo app which listens at `address`.
    pub(crate) fn onboarding(&self, name: &str, address: &str, more: &[&str]) -> Vec<String> {
        let mut words: Vec<String> =
            ["onboard", name, "--runtime", "rust", "--exec", AGENTCTL, "demo-app"]
                .map(str::to_owned)
                .into();
        let flags = ["--listen", address, "--health-url", "/healthz", "--health-interval", "200ms"];
        words.extend(flags.map(str::to_owned));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        // The label marks the process as one of this test.
        let mark = self.dir().display().to_string();
        words.extend(["--".to_owned(), "--version-label".to_owned(), mark]);
        words
    }

    /// Onboards a demo app and waits until its deployment is verified.
    pub(crate) fn onboard(&self, name: &str) -> App {
        self.onboard_with(name, 8080, &[])
    }

    /// As [`Server::onboard`], with more flags.
    pub(crate) fn onboard_with(&self, name: &str, port: u16, more: &[&str]) -> App {
        let address = self.app_address(port);
        let words = self.onboarding(name, &address, more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let accepted = self.ctl(&words).ok();
        assert!(accepted.stdout.contains("ONBOARDING ACCEPTED"), "{accepted:#?}");
        let app = App { name: name.to_owned(), address };
        self.wait_verified(&app, 0);
        app
    }

    /// Waits until an attempt on the app that began after `after` is verified. Returns the verification.
    pub(crate) fn wait_verified(&self, app: &App, after: u64) -> Value {
        self.wait_record(&format!("{} verified behind #{after}", app.name), |record| {
            event(record) == "SYSTEM_STABLE"
                && record["app"] == app.name.as_str()
                && body(record, "concluded")["decision"].as_u64().unwrap_or(0) > after
        })
    }

    /// Crashes the app for real and waits until its restart is verified. Returns the old and the new process.
    pub(crate) fn crash_and_heal(&self, app: &App) -> (u32, u32) {
        let before = self.records().head();
        let old = app.kill9();
        self.wait_verified(app, before);
        (old, app.pid())
    }

    /// The newest decision about the app with this action, once there is one behind `after`.
    pub(crate) fn wait_decision(&self, app: &App, action: &str, after: u64) -> Value {
        self.wait_record(&format!("{action} for {} behind #{after}", app.name), |record| {
            event(record) == "RL_DECISION"
                && seq(record) > after
                && record["app"] == app.name.as_str()
                && body(record, "decided")["proposal"]["action"] == action
        })
    }

    /// Runs words that were put together.
    pub(crate) fn ctl_words(&self, words: &[String]) -> Run {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.ctl(&words)
    }
}
