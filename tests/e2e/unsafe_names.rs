//! What must never be done is refused by name, with a record; what nobody knows is not an action.

use crate::harness::{Server, body, seq};

/// The names the design lists.
const UNSAFE: [&str; 15] = [
    "delete_production_data",
    "drop_database",
    "delete_backups",
    "format_drives",
    "remove_snapshots",
    "modify_user_accounts",
    "change_security_settings",
    "disable_authentication",
    "modify_permissions",
    "access_external_systems",
    "modify_system_files",
    "execute_shell_commands",
    "install_software",
    "modify_kernel",
    "change_network_config",
];

#[test]
fn every_unsafe_action_is_refused_by_name_and_recorded() {
    let server = Server::quick();
    let app = server.onboard("web");
    let (pid, before) = (app.pid(), server.records().head());
    for name in UNSAFE {
        let words = ["act", "web", name, "--reason", "INC-481", "-o", "json"];
        let answer = server.ctl(&words).exits(5).json();
        assert_eq!(answer["ruling"], "refused", "{name}: {answer:#}");
        assert_eq!(answer["reason"], "UNSAFE_ACTION_REFUSED", "{name}: {answer:#}");
        assert_eq!(answer["effective_action"], "NOOP", "{name}: {answer:#}");
    }
    let records = server.records();
    assert_eq!(records.count("UNSAFE_ACTION_REFUSED"), UNSAFE.len());
    let asked: Vec<&str> = records
        .of("RL_DECISION")
        .filter(|r| seq(r) > before)
        .filter_map(|r| body(r, "decided")["proposal"]["requested_as"].as_str())
        .collect();
    assert_eq!(asked, UNSAFE, "by the name that was used");
    assert!(records.of("ORCH_EXEC").all(|r| seq(r) < before));
    assert_eq!(app.pid(), pid);
}

#[test]
fn an_unknown_action_is_invalid_and_the_known_ones_are_named() {
    let server = Server::quick();
    server.onboard("web");
    let run = server.ctl(&["act", "web", "dance", "--reason", "x"]).exits(2);
    run.says(&["dance", "RESTART"]);
    server.ctl(&["act", "nobody", "restart", "--reason", "x"]).exits(3);
    assert_eq!(server.records().count("UNSAFE_ACTION_REFUSED"), 0);
}

#[test]
fn a_human_takes_the_same_gates_and_a_request_id_runs_once() {
    let server = Server::quick();
    let app = server.onboard("web");
    let before = server.records().head();
    let pid = app.pid();
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let dry = ["act", "web", "restart", "--reason", "x", "--dry-run", "-o", "json"];
    assert_eq!(server.ctl(&dry).ok().json()["ruling"], "permitted");
    assert_eq!(server.records().attempts("RESTART"), 0, "a dry run only judges");
    let words = ["act", "web", "restart", "--reason", "stuck", "--request-id", id, "-o", "json"];
    let first = server.ctl(&words).ok().json();
    let second = server.ctl(&words).ok().json();
    assert_eq!(first["id"], second["id"]);
    server.wait_verified(&app, before);
    assert_ne!(app.pid(), pid);
    assert_eq!(server.records().attempts("RESTART"), 1);
    let other = ["act", "web", "restart", "--reason", "else", "--request-id", id];
    server.ctl(&other).exits(7);
    assert_eq!(server.records().attempts("RESTART"), 1);
}
