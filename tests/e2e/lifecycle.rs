//! The life of an app on real processes: it is taken in from a file, changed, fenced off, and let go.

use std::path::PathBuf;

use agentd_core::action::{Action, Level};
use serde_json::Value;

use crate::harness::{AGENTCTL, App, Options, Run, Server, body, processes, seq};

/// A file below the directory of the server.
fn file(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn app_yaml(server: &Server, more: &str) -> String {
    let mark = server.dir().display();
    let address = server.app_address(8080);
    format!(
        "name: web\nruntime: rust\nexec:\n  path: {AGENTCTL}\n  args: [demo-app, --version-label, {mark}]\n\
         listen: {address}\nhealth: {{ http: /healthz, interval: 200ms }}\n{more}"
    )
}

fn shown(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

fn app(server: &Server) -> App {
    App { name: "web".to_owned(), address: server.app_address(8080) }
}

fn spec_file(server: &Server) -> Value {
    let bytes = std::fs::read(server.data_dir().join("apps/web/app_spec.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The stem of a run that updates `web`.
fn update(server: &Server, flags: &[&str]) -> Run {
    let words = [&["app", "update", "web", "-o", "json"], flags].concat();
    server.ctl(&words)
}

#[test]
fn an_app_comes_from_a_file_and_its_export_is_that_file_again() {
    let server = Server::quick();
    let yaml = app_yaml(&server, "labels: { team: shop }\nautonomy: propose\n");
    let path = file(&server, "app.yaml", &yaml);
    let dry = server.ctl(&["onboard", "-f", shown(&path), "--dry-run"]).ok();
    assert!(dry.stdout.contains("ONBOARDING VALID"), "{dry:#?}");
    let valid = server.ctl(&["spec", "validate", "-f", shown(&path)]).ok();
    assert!(valid.stdout.contains("a new app"), "{valid:#?}");
    assert!(server.status()["apps"].as_array().unwrap().is_empty());

    server.ctl(&["onboard", "-f", shown(&path), "--wait=healthy"]).ok();
    assert!(app(&server).get("/healthz").is_some());
    let exported = server.ctl(&["app", "spec", "export", "web"]).ok().stdout;
    assert!(exported.contains("team: shop") && exported.contains("propose"), "{exported}");
    let again = file(&server, "again.yaml", &exported);
    let same = server.ctl(&["spec", "diff", "-f", shown(&again), "--exit-code", "-o", "json"]).ok();
    assert_eq!(same.json()["differences"], serde_json::json!([]));
    let unchanged = server.ctl(&["app", "update", "-f", shown(&again), "-o", "json"]).ok().json();
    assert_eq!(unchanged["result"], "UNCHANGED", "{unchanged:#}");

    let edited = file(&server, "edited.yaml", &exported.replace("team: shop", "team: pay"));
    let differs = server.ctl(&["app", "spec", "diff", "-f", shown(&edited), "--exit-code"]);
    let differs = differs.exits(1);
    assert!(differs.stdout.contains("labels.team"), "{differs:#?}");
    server.ctl(&["app", "update", "-f", shown(&edited)]).ok();
    let labels = server.ctl(&["app", "get", "web", "-o", "json"]).ok().json()["labels"].clone();
    assert_eq!(labels["team"], "pay");
    let json = server.ctl(&["spec", "export", "web", "-o", "json"]).ok().stdout;
    let path = file(&server, "app.json", &json);
    server.ctl(&["spec", "diff", "-f", shown(&path), "--exit-code"]).ok();
}

#[test]
fn a_file_with_a_mistake_names_the_line_and_nothing_is_asked() {
    let server = Server::quick();
    let head = server.records().head();
    let wrong = file(&server, "app.yaml", "name: web\nruntime: rust\nlable: { a: b }\n");
    let run = server.ctl(&["onboard", "-f", shown(&wrong)]).exits(2);
    run.says(&["line 3", "no key `lable`", "did you mean `labels`?"]);
    let missing = server.dir().join("nothing.yaml");
    server.ctl(&["onboard", "-f", shown(&missing)]).exits(2).says(&["nothing.yaml"]);
    server.ctl(&["onboard", "-f", shown(&wrong), "--min", "2"]).exits(2);
    // What the file says is judged like what flags say, all of it at once.
    let yaml = app_yaml(&server, "labels: { protected: maybe }\ninstances: { min: 900 }\n");
    let path = file(&server, "bad.yaml", &yaml.replace("runtime: rust", "runtime: cobol"));
    let run = server.ctl(&["onboard", "-f", shown(&path), "-o", "json"]).exits(2);
    let fields = run.error()["violations"].to_string();
    for field in ["labels", "runtime", "min_instances"] {
        assert!(fields.contains(field), "{field} in {fields}");
    }
    let refused = server.records().of("ONBOARDING_REFUSED").filter(|r| seq(r) > head).count();
    assert_eq!(refused, 1, "only what was asked is on record");
}

#[test]
fn settings_change_at_once_and_the_process_goes_on() {
    let server = Server::quick();
    let app = server.onboard("web");
    let pid = app.pid();
    let flags = ["--label", "team=shop", "--autonomy", "off", "--threshold", "latency=3:2"];
    let changed = update(&server, &flags).ok().json();
    assert_eq!(changed["result"], "UPDATED");
    assert_eq!(changed["decision"]["action"], "CONFIGURE", "{changed:#}");
    assert_eq!(app.pid(), pid, "no process was touched");
    server.wait("the file follows", || {
        (spec_file(&server)["labels"]["team"] == "shop").then_some(())
    });
    // The level counts: a crash is not healed any more, until it may be again.
    let before = server.records().head();
    app.kill9();
    let refused = server.wait_decision(&app, "RESTART", before);
    let reason = &body(&refused, "decided")["ruling"]["reason"];
    assert_eq!(reason, "ACTION_ELIGIBILITY_FAILED", "{refused:#}");
    // To let the agent go further takes a second person.
    let wider = ["--clear", "autonomy_level", "--remove", "label.team"];
    let held = update(&server, &wider).exits(6).json();
    let approval = held["decision"]["approval_id"].as_str().unwrap_or_else(|| panic!("{held:#}"));
    server.ctl_as("approver", &["approve", approval, "--reason", "yes", "--yes"]).ok();
    server.wait_verified(&app, before);
    let labels = server.ctl(&["app", "get", "web", "-o", "json"]).ok().json()["labels"].clone();
    assert_eq!(labels, serde_json::json!({}));
}

#[test]
fn another_program_is_a_revision_that_can_be_taken_back() {
    let server = Server::quick();
    let app = server.onboard("web");
    let old = app.pid();
    let dry = update(&server, &["--env-var", "GREETING=hello", "--dry-run"]).ok().json();
    assert_eq!((dry["result"].as_str(), app.pid()), (Some("UPDATE VALID"), old));
    let missing = update(&server, &["--exec", "/no/such/program"]).exits(2);
    assert!(missing.error()["violations"].to_string().contains("exec.path"), "{missing:#?}");
    let env = ["--env-var", "GREETING=hello", "--wait"];
    let changed = update(&server, &env).ok().json();
    assert_eq!(changed["decision"]["action"], "DEPLOY", "{changed:#}");
    assert_eq!(changed["decision"]["outcome"]["kind"], "verified");
    assert_ne!(app.pid(), old);
    assert_eq!(spec_file(&server)["environment"]["GREETING"], "hello");
    let back = server.ctl(&["act", "web", "rollback", "--reason", "worse", "-o", "json"]);
    let approval = back.exits(6).json()["approval_id"].as_str().unwrap().to_owned();
    let before = server.records().head();
    server.ctl_as("approver", &["approve", &approval, "--reason", "yes", "--yes"]).ok();
    server.wait_verified(&app, before);
    server.wait("the file is the old one", || {
        spec_file(&server)["environment"].get("GREETING").is_none().then_some(())
    });
    let history = server.ctl(&["app", "history", "web", "-o", "json"]).ok().json();
    let told: Vec<_> = history.as_array().unwrap().iter().map(|c| c["event"].as_str()).collect();
    assert!(
        told.contains(&Some("SPEC_GENERATED")) && told.contains(&Some("ORCH_EXEC")),
        "{told:?}"
    );
    let fields = history.as_array().unwrap().iter().find(|c| !c["fields"].is_null()).unwrap();
    assert_eq!(fields["fields"], serde_json::json!(["environment_variables"]));
    assert_eq!(fields["actor"], "local");
}

#[test]
fn two_people_who_change_one_app_do_not_overwrite_each_other() {
    let server = Server::quick();
    server.onboard("web");
    let seen = server.ctl(&["app", "get", "web", "-o", "json"]).ok().json();
    let etag = seen["etag"].as_str().unwrap().to_owned();
    update(&server, &["--label", "a=1", "--etag", &etag]).ok();
    let late = update(&server, &["--label", "b=2", "--etag", &etag]).exits(7);
    assert_eq!(late.error()["reason"], "ETAG_MISMATCH");
    let offboard = ["app", "offboard", "web", "--reason", "x", "--yes", "--etag", &etag];
    server.ctl(&offboard).exits(7);
    // Whoever reads again has the newest, and the same request twice is one.
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let flags = ["--autonomy", "propose", "--request-id", id];
    let first = update(&server, &flags).ok().json();
    let again = update(&server, &flags).ok().json();
    assert_eq!(first["events"], again["events"]);
    let other = update(&server, &["--autonomy", "auto", "--request-id", id]).exits(7);
    assert_eq!(other.error()["reason"], "IDEMPOTENCY_KEY_REUSED");
    let specs = server.records().of("SPEC_GENERATED").count();
    assert_eq!(specs, 3, "the onboarding and two changes");
    let missing = server.ctl(&["app", "update", "nobody", "--max", "3", "-o", "json"]).exits(3);
    assert_eq!(missing.error()["code"], "NOT_FOUND");
}

#[test]
fn what_is_protected_is_left_alone_until_the_label_is_taken_off() {
    let server = Server::quick();
    let app = server.onboard_with("web", 8080, &["--label", "protected=true"]);
    let before = server.records().head();
    app.kill9();
    let refused = server.wait_decision(&app, "RESTART", before);
    assert_eq!(body(&refused, "decided")["ruling"]["reason"], "PROTECTED", "{refused:#}");
    let words = ["app", "offboard", "web", "--reason", "x", "--yes", "-o", "json"];
    assert_eq!(server.ctl(&words).exits(5).json()["reason"], "PROTECTED");
    let act = ["act", "web", "restart", "--reason", "x", "-o", "json"];
    assert_eq!(server.ctl(&act).exits(5).json()["reason"], "PROTECTED", "for a human too");
    update(&server, &["--remove", "label.protected"]).ok();
    server.wait_verified(&app, before);
}

#[test]
fn a_maintenance_window_of_one_app_holds_until_a_human_ends_it() {
    let server = Server::quick();
    let (web, shop) = (server.onboard("web"), server.onboard_with("shop", 8081, &[]));
    let window = "night=2020-01-01T00:00:00Z/2099-01-01T00:00:00Z";
    update(&server, &["--window", window]).ok();
    let before = server.records().head();
    web.kill9();
    shop.kill9();
    server.wait_verified(&shop, before);
    let refused = server.wait_decision(&web, "RESTART", before);
    assert_eq!(body(&refused, "decided")["ruling"]["reason"], "MAINTENANCE_WINDOW");
    update(&server, &["--window", "night=2020-01-01T00:00:00Z/soon"]).exits(2);
    update(&server, &["--remove", "window.night"]).ok();
    server.wait_verified(&web, before);
}

#[test]
fn an_offboarded_app_is_stopped_recorded_and_its_name_is_free() {
    let server = Server::quick();
    let app = server.onboard_with("web", 8080, &["--min", "2"]);
    let pid = app.pid();
    let words = ["app", "offboard", "web", "--reason", "moved", "-o", "json"];
    server.ctl(&words).exits(2).says(&["--yes"]);
    let dry = server.ctl(&[&words[..], &["--dry-run"]].concat()).ok().json();
    assert_eq!(
        (dry["action"].as_str(), dry["ruling"].as_str()),
        (Some("OFFBOARD"), Some("permitted"))
    );
    assert!(processes::runs(pid), "a dry run touches nothing");
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let yes = [&words[..], &["--yes", "--wait", "--request-id", id]].concat();
    let gone = server.ctl(&yes).ok().json();
    assert_eq!(gone["outcome"]["kind"], "verified", "{gone:#}");
    assert!(!processes::runs(pid), "the process is gone");
    assert!(app.get("/healthz").is_none(), "and so is its socket");
    server.ctl(&["status", "web"]).exits(3);
    server.wait("its file is gone", || {
        (!server.data_dir().join("apps/web/app_spec.json").exists()).then_some(())
    });
    let again = server.ctl(&yes).ok().json();
    assert_eq!(again["id"], gone["id"], "the same request is answered the same");

    let records = server.records();
    assert_eq!(records.count("APP_OFFBOARDED"), 1);
    let ends: Vec<&Value> = records
        .of("RUNTIME_EMIT")
        .map(|r| &body(r, "observed")["what"]["exited"]["expected"])
        .filter(|expected| !expected.is_null())
        .collect();
    assert_eq!(ends, [true, true], "every stop is on record, and as asked");
    assert_eq!(records.count("FINDING_RAISED"), 0, "nothing of it was taken for a crash");
    let history = server.ctl(&["app", "history", "web", "-o", "json"]).ok().json();
    assert_eq!(history[0]["event"], "APP_OFFBOARDED", "the log is kept");
    server.ctl(&["proof", "verify"]).ok();

    let anew = server.onboard("web");
    assert_eq!(server.app_status("web")["revision"], "1");
    assert!(anew.get("/healthz").is_some());
}

#[test]
fn an_app_that_was_let_go_stays_away_after_kill_9_of_the_server() {
    let mut server = Server::quick();
    let web = server.onboard("web");
    server.onboard_with("shop", 8081, &[]);
    let pid = web.pid();
    server.ctl(&["app", "offboard", "web", "--reason", "moved", "--yes", "--wait"]).ok();
    server.restart();
    let apps = server.ctl(&["app", "list", "-o", "json"]).ok().json();
    let names: Vec<_> = apps.as_array().unwrap().iter().map(|a| a["name"].as_str()).collect();
    assert_eq!(names, [Some("shop")]);
    assert!(!processes::runs(pid));
}

#[test]
fn the_policy_and_the_roles_say_who_may_change_an_app_and_let_it_go() {
    let server = Server::start(Options::with(|policy| {
        for action in [Action::Offboard, Action::Configure] {
            policy.levels.insert(action, Level::Off);
        }
    }));
    let app = server.onboard("web");
    let refused = server.ctl(&["app", "offboard", "web", "--reason", "x", "--yes", "-o", "json"]);
    assert_eq!(refused.exits(5).json()["reason"], "ACTION_ELIGIBILITY_FAILED");
    update(&server, &["--label", "a=1"]).exits(5);
    assert!(app.get("/healthz").is_some(), "it runs on");
    for who in ["viewer", "monitor", "approver"] {
        let words = ["app", "offboard", "web", "--reason", "x", "--yes"];
        server.ctl_as(who, &words).exits(4);
        server.ctl_as(who, &["app", "update", "web", "--autonomy", "off"]).exits(4);
    }
    let records = server.records();
    assert_eq!(records.attempts("OFFBOARD") + records.attempts("CONFIGURE"), 0);
}

#[test]
fn lists_have_pages_filters_and_a_description_has_everything() {
    let server = Server::quick();
    for (name, port) in [("web", 8080), ("shop", 8081)] {
        let words =
            server.onboarding(name, &server.app_address(port), &["--label", &format!("of={name}")]);
        server.ctl_words(&words).ok();
    }
    server.wait_verified(&app(&server), 0);
    let names = |words: &[&str]| -> Vec<String> {
        let words = [&["app", "list", "-o", "json"], words].concat();
        let apps = server.ctl(&words).ok().json();
        apps.as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["shop", "web"]);
    assert_eq!(names(&["--limit", "1"]), ["shop"]);
    assert_eq!(names(&["--label", "of=web"]), ["web"]);
    assert_eq!(names(&["--health", "down"]), Vec::<String>::new());
    let page = server.ctl(&["app", "describe", "web"]).ok().stdout;
    for part in ["SPECIFICATION", "CHANGES", "DECISIONS", "etag", "healthy", "of: web"] {
        assert!(page.contains(part), "{part} in\n{page}");
    }
    let detail = server.ctl(&["app", "get", "web", "-o", "yaml"]).ok().stdout;
    assert!(detail.contains("etag:") && detail.contains("spec:"), "{detail}");
}
