//! An app from a repository, from the command line: fetched, built, started, seen; refused where the policy says so; and a server
//! that is killed in the middle of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use agentd_core::policy::{Host, Scheme};

#[path = "../../server/tests/deploy/git.rs"]
mod git;

use git::{GitServer, Manner};

use crate::harness::{Options, Server, body, event, processes};

const MAIN: &str = "\
import http.server, socket
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'from a repository')
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('', 0), H, bind_and_activate=False)
s.socket = socket.socket(fileno=3)
s.serve_forever()
";

/// A server whose policy lists a git server.
fn server() -> Option<(Server, GitServer)> {
    if !git::is_there("git") || !git::is_there("python3") {
        return None;
    }
    let git = GitServer::start();
    let port = git.port();
    let server = Server::start(Options::with(|policy| {
        let host = "127.0.0.1".to_owned();
        policy.fetch.hosts = vec![Host { host, scheme: Scheme::Http, port }];
        policy.sandbox.path = "/usr/local/bin:/usr/bin:/bin".to_owned();
        // The kernel counts the processes of a user wherever they are, so every test has users of its own.
        policy.sandbox.first_uid = 2_000_000 + u32::from(port) * 10;
    }));
    // The users of the apps pass through here.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(server.dir(), open).unwrap();
    Some((server, git))
}

fn onboarding(server: &Server, git: &GitServer, name: &str, runtime: &str) -> Vec<String> {
    let (url, address) = (git.url(name), server.app_address(8080));
    let words = ["onboard", name, "--repo", &url, "--runtime", runtime, "--listen", &address];
    let health = ["--health-url", "/", "--health-interval", "200ms"];
    words.into_iter().chain(health).map(str::to_owned).collect()
}

#[test]
fn a_repository_is_fetched_built_started_and_healed() {
    let Some((server, git)) = server() else { return };
    git.commit("web", &[("main.py", MAIN)]);
    let mut words = onboarding(&server, &git, "web", "python");
    words.push("--wait".to_owned());
    let accepted = server.ctl_words(&words).ok();
    assert!(accepted.stdout.contains("ONBOARDING ACCEPTED"), "{accepted:#?}");
    let app = crate::harness::App { name: "web".to_owned(), address: server.app_address(8080) };
    assert_eq!(app.get("/").as_deref(), Some("from a repository"));
    let delivered = server.wait_record("the delivery", |r| event(r) == "ORCH_DELIVERED");
    let detail = body(&delivered, "delivered")["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("release 1-"), "{detail}");

    let (pid, before) = (server.records().started()[0], server.records().head());
    processes::kill(u32::try_from(pid).unwrap());
    server.wait_verified(&app, before);
    assert_eq!(app.get("/").as_deref(), Some("from a repository"));
}

#[test]
fn the_policy_decides_where_repositories_come_from() {
    let Some((server, git)) = server() else { return };
    let other = format!("http://127.0.0.1:{}/web.git", git.port() ^ 1);
    let run = server.ctl(&["onboard", "web", "--repo", &other, "--runtime", "python"]);
    run.exits(2).says(&["ONBOARDING REFUSED", "repo", "https://"]);
    let run = server.ctl(&["onboard", "page", "--repo", &git.url("page"), "--runtime", "static"]);
    run.exits(2).says(&["listen"]);
    let dry = ["onboard", "web", "--repo", &git.url("web"), "--runtime", "python", "--dry-run"];
    server.ctl(&dry).ok();
    assert_eq!(git.requests(), 0, "nothing is fetched before it is permitted and on record");
}

#[test]
fn a_deployment_that_fails_says_why_and_is_a_finding() {
    let Some((server, git)) = server() else { return };
    let private = GitServer::start();
    let elsewhere = format!("http://127.0.0.1:{}", private.port());
    for (name, manner, why) in [
        ("gone", Manner::Gone, "not found"),
        ("half", Manner::HalfWay, "`git"),
        ("moved", Manner::Redirect(elsewhere), "`git"),
    ] {
        git.commit(name, &[("main.py", MAIN)]);
        git.behave(manner);
        server.ctl_words(&onboarding(&server, &git, name, "python")).ok();
        let failed =
            server.wait_record("the failure", |r| event(r) == "ORCH_DELIVERED" && r["app"] == name);
        assert_eq!(body(&failed, "delivered")["ok"], false);
        let detail = body(&failed, "delivered")["detail"].as_str().unwrap();
        assert!(detail.contains(why), "{name}: {detail}");
        server.wait("the finding in the status", || {
            let status = server.app_status(name).to_string();
            status.contains("the last deployment did not become healthy").then_some(())
        });
    }
    assert_eq!(private.requests(), 0);
}

#[test]
fn deploy_workers_come_with_the_queue_and_are_seen() {
    let Some((server, git)) = server() else { return };
    let pool = || {
        let agents = server.ctl(&["agents", "-o", "json"]).ok().json();
        let agents = agents.as_array().unwrap();
        let pool = agents.iter().find(|agent| agent["name"] == "worker_pool").unwrap();
        pool["detail"].as_str().unwrap().to_owned()
    };
    let idle = "1 deploy worker of 3: 0 deployments building, 0 waiting";
    assert!(pool().starts_with(idle), "{}", pool());
    git.behave(Manner::Silent);
    for name in ["a", "b", "c", "d"] {
        server.ctl_words(&onboarding(&server, &git, name, "python")).ok();
    }
    let busy = "3 deploy workers of 3: 3 deployments building, 1 waiting";
    server.wait("three workers", || pool().starts_with(busy).then_some(()));
    server.ctl(&["pause", "--halt", "--reason", "enough"]).ok();
    server.wait("the workers to go", || pool().starts_with(idle).then_some(()));
}

#[test]
fn a_server_that_is_killed_leaves_no_build_behind_and_does_not_repeat_it_blindly() {
    let Some((mut server, git)) = server() else { return };
    git.behave(Manner::Silent);
    server.ctl_words(&onboarding(&server, &git, "slow", "python")).ok();
    let stage = server.data_dir().join("apps/slow/releases/.new-1");
    let builds = |stage: &Path| !running_in(stage).is_empty();
    server.wait("the build", || builds(&stage).then_some(()));
    server.kill9();
    let ended = crate::harness::wait_for(|| (!builds(&stage)).then_some(()));
    ended.expect("the build ends with agentd");
    assert!(stage.exists());
    server.up();
    assert!(!stage.exists(), "what it left is removed");
    server.wait_record("the attempt whose end nobody knows", |r| {
        event(r) == "ORCH_OUTCOME_UNKNOWN" && r["app"] == "slow"
    });
}

/// Processes that have their home below a stage.
fn running_in(stage: &Path) -> Vec<String> {
    let needle = stage.as_os_str().as_encoded_bytes();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.windows(needle.len()).any(|window| window == needle)
    });
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
