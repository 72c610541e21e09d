//! The first thing anybody does: an app is onboarded, really crashes, is really restarted, and every step can be asked about.

use std::collections::BTreeSet;

use agentd_core::app::Env;
use agentd_core::gates::GATES;
use serde_json::Value;

use crate::harness::{AGENTCTL, Options, Server, body, seq};

#[test]
fn a_crashed_app_is_restarted_and_every_step_is_seen_and_explained() {
    let server = Server::quick();
    let app = server.onboard("web");
    let before = server.records().head();
    let mut watch = server.follow(&["watch", "web", "-o", "jsonl", "--since", &before.to_string()]);

    let (old, new) = server.crash_and_heal(&app);
    assert_ne!(old, new, "another process answers now");

    let seen = watch.until("SYSTEM_STABLE", |line| line["event"] == "SYSTEM_STABLE");
    let decision = seen
        .iter()
        .find(|line| line["type"] == "decision" && line["action"] == "RESTART")
        .expect("the decision is on the watch");
    assert_eq!(decision["ruling"], "permitted", "{decision:#}");
    let id = decision["id"].as_str().unwrap();
    let under: Vec<&str> = seen
        .iter()
        .filter(|line| line["type"] == "event" && line["decision_id"] == id)
        .filter_map(|line| line["event"].as_str())
        .collect();
    for step in ["ORCH_EXEC", "ORCH_DELIVERED", "SYSTEM_STABLE"] {
        assert!(under.contains(&step), "{step} is not under {id}: {under:?}");
    }

    let records = server.records();
    let chain = server.ctl(&["proof", "list", "--decision", id, "-o", "json"]).ok().json();
    let chain: BTreeSet<&str> =
        chain.as_array().unwrap().iter().filter_map(|entry| entry["event"].as_str()).collect();
    for step in ["RL_DECISION", "RL_INTAKE_VALIDATED", "EXECUTION_GATE_PASSED", "ORCH_EXEC"] {
        assert!(chain.contains(step), "{step} is not in the log under {id}: {chain:?}");
    }
    let begun = records.of("ORCH_EXEC").last().map(seq).unwrap();
    let started = records
        .of("RUNTIME_EMIT")
        .find(|r| body(r, "observed")["what"]["started"]["fence"]["pid"] == u64::from(new))
        .map(seq)
        .expect("the new process was seen");
    assert!(begun < started, "recorded #{begun} before it was done #{started}");

    let explained = server.ctl(&["explain", "--last", "web", "-o", "json"]).ok().json();
    assert_eq!(explained["decision"]["id"], id, "{explained:#}");
    let named: BTreeSet<&str> = explained["decision"]["verdicts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|verdict| verdict["gate"].as_str())
        .collect();
    let all: BTreeSet<&str> = GATES.iter().map(|gate| gate.id).collect();
    assert_eq!(named, all, "every gate judged and says so");
    assert_eq!(explained["rechecked"], true, "it comes out the same when judged again");
    let page = server.ctl(&["explain", id]).ok().stdout;
    assert!(page.contains("restart") && page.contains(id), "{page}");

    // How likely it was to help, with how sure that is: the same in every form.
    let resolves = &explained["decision"]["p_resolve"];
    let share = |name: &str| resolves[name].as_f64().unwrap_or_else(|| panic!("{explained:#}"));
    let (low, chance, high) = (share("low"), share("chance"), share("high"));
    assert!(0.0 < low && low < chance && chance < high && high < 1.0, "{resolves:#}");
    let chosen = &explained["decision"]["candidates"][0];
    assert_eq!((&chosen["chosen"], &chosen["p_resolve"]), (&Value::Bool(true), resolves));
    let said = format!("resolves {chance:.2} ({low:.2} to {high:.2})");
    assert!(page.contains(&said), "{said} is not in\n{page}");
    let list = server.ctl(&["decision", "list", "-o", "json"]).ok().json();
    let listed = list.as_array().unwrap().iter().find(|decision| decision["id"] == id);
    assert_eq!(&listed.expect("it is in the list")["p_resolve"], resolves);
}

#[test]
fn a_name_is_onboarded_once_and_the_same_request_twice_is_one() {
    let server = Server::quick();
    let app = server.onboard("web");
    let head = server.records().head();
    let again = server.onboarding("web", &server.app_address(8081), &[]);
    server.ctl_words(&again).exits(7).says(&["ONBOARDING REFUSED", "web"]);
    assert_eq!(app.get("/healthz").as_deref(), Some("ok\n"), "the first one goes on");

    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let second = server.onboarding("shop", &server.app_address(8082), &["--request-id", id]);
    let first = server.ctl_words(&second).ok();
    let repeated = server.ctl_words(&second).ok();
    assert!(first.stdout.contains("shop") && repeated.stdout.contains("shop"));
    let records = server.records();
    let specs = records.of("SPEC_GENERATED").filter(|r| r["app"] == "shop").count();
    assert_eq!(specs, 1, "a repeat of the same request is the same request");
    let refused = records.of("ONBOARDING_REFUSED").filter(|r| seq(r) > head).count();
    assert_eq!(refused, 1, "the refusal is on record");
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_nothing_is_corrected() {
    let server = Server::quick();
    let words = [
        "onboard",
        "My API; rm -rf /",
        "--runtime",
        "cobol",
        "--repo",
        "file:///etc",
        "--listen",
        "localhost",
        "--min",
        "3",
        "--max",
        "2",
        "-o",
        "json",
    ];
    let refused = server.ctl(&words).exits(2);
    let error = refused.error();
    let fields: BTreeSet<&str> = error["violations"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|violation| violation["field"].as_str())
        .collect();
    for field in ["name", "runtime", "repo.url", "listen", "desired_instances"] {
        assert!(fields.contains(field), "`{field}` is missing in {fields:?}");
    }
    server.ctl(&words[..12]).exits(2).says(&["ONBOARDING REFUSED", "My API; rm -rf /", "cobol"]);
    let records = server.records();
    assert_eq!(records.count("ONBOARDING_REFUSED"), 2);
    assert_eq!(records.count("SPEC_GENERATED"), 0);
    assert!(server.status()["apps"].as_array().unwrap().is_empty());
}

#[test]
fn hostile_names_and_sources_are_refused() {
    let server = Server::quick();
    let names = ["../x", "A", "a..b", "web.", "con\u{202e}", "agentd", "-x", &"a".repeat(64)];
    for name in names {
        let words = ["onboard", "--runtime", "rust", "--exec", AGENTCTL, "-o", "json", "--", name];
        let words: Vec<&str> = if name.starts_with('-') {
            // Taken for a flag before anything is sent.
            ["onboard", name, "--runtime", "rust", "--exec", AGENTCTL].into()
        } else {
            let mut words = words.to_vec();
            words.truncate(7);
            words.insert(1, name);
            words
        };
        let run = server.ctl(&words).exits(2);
        assert!(!run.stderr.contains('\u{202e}'), "{run:#?}");
    }
    for repo in [
        "file:///etc",
        "/etc",
        "ext::sh -c id",
        "--upload-pack=touch /tmp/x",
        "ssh://-oProxyCommand=id/x",
        "https://user:secret@example.org/x",
        "http://169.254.169.254/latest",
        "https://127.1/x",
        "https://[::1]/x",
    ] {
        let run = server.ctl(&["onboard", "web", "--runtime", "go", &format!("--repo={repo}")]);
        let run = run.exits(2);
        assert!(!run.stderr.contains("secret"), "a password is not repeated: {run:#?}");
    }
    let missing = server.ctl(&["onboard", "web", "--runtime", "go", "--exec", "/no/such/program"]);
    missing.exits(2).says(&["exec.path", "/no/such/program", "must exist"]);
    assert_eq!(server.records().count("SPEC_GENERATED"), 0);
}

#[test]
fn nothing_is_onboarded_into_prod() {
    let server = Server::quick();
    let words = server.onboarding("web", &server.app_address(8080), &["--env", "prod"]);
    server.ctl_words(&words).exits(5).says(&["ONBOARDING REFUSED", "PROD_SAFETY_BLOCK"]);
    assert_eq!(server.records().count("ONBOARDING_REFUSED"), 1, "the refusal is on record");

    let prod = Server::start(Options { env: Env::Prod, policy: None, ..Options::default() });
    let words = prod.onboarding("web", &prod.app_address(8080), &[]);
    prod.ctl_words(&words).exits(5).says(&["ONBOARDING REFUSED", "PROD_SAFETY_BLOCK"]);
    assert_eq!(prod.records().count("ORCH_EXEC"), 0);
}

#[test]
fn a_dry_run_validates_and_leaves_no_trace() {
    let server = Server::quick();
    let words = server.onboarding("web", &server.app_address(8080), &["--dry-run"]);
    let run = server.ctl_words(&words).ok();
    assert!(run.stdout.contains("web"), "{run:#?}");
    let records = server.records();
    for event in ["ONBOARDING_STARTED", "SPEC_GENERATED", "RL_DECISION", "ORCH_EXEC"] {
        assert_eq!(records.count(event), 0, "{event}");
    }
    assert!(server.status()["apps"].as_array().unwrap().is_empty());
}

#[test]
fn the_specification_is_written_and_its_digest_is_on_record() {
    let server = Server::quick();
    server.onboard("web");
    let file = server.data_dir().join("apps/web/app_spec.json");
    let spec: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(spec["name"], "web");
    let records = server.records();
    let recorded = body(records.of("SPEC_GENERATED").next().unwrap(), "spec_generated");
    assert_eq!(recorded["spec"], spec, "what is in the file is what is on record");
    let digest = format!("sha256:{}", recorded["digest"].as_str().unwrap());
    assert_eq!(server.app_status("web")["spec_digest"], digest);
}
