//! Apps outlive agentd: whatever happens to the server, the processes it looks after go on and are taken over again.

use crate::harness::{Server, body, processes, seq};

#[test]
fn an_app_survives_kill_and_term_of_the_server_and_is_adopted_again() {
    let mut server = Server::quick();
    let app = server.onboard("web");
    let pid = app.pid();
    for how in ["SIGKILL", "SIGTERM"] {
        let head = server.records().head();
        if how == "SIGKILL" {
            server.kill9();
        } else {
            assert_eq!(server.stop(), 0, "it ends in good order");
        }
        assert_eq!(app.pid(), pid, "{how}: the app goes on while nobody looks after it");
        server.up();
        assert_eq!(app.pid(), pid, "{how}: and is not touched by the new server");
        server.wait("healthy again", || {
            let status = server.app_status("web");
            (status["health"] == "healthy" && status["instances"][0]["pid"] == pid).then_some(())
        });
        let records = server.records();
        assert!(records.of("ORCH_EXEC").all(|r| seq(r) < head), "{how}: nothing was done to it");
        let stopped = records.count("AGENT_STOPPED");
        assert_eq!(stopped, usize::from(how == "SIGTERM"), "{how}");
    }
    let (old, new) = server.crash_and_heal(&app);
    assert!(old == pid && new != pid, "and it is still looked after");
}

#[test]
fn a_crash_while_the_server_is_down_is_seen_with_its_exit_code_and_healed() {
    let mut server = Server::quick();
    let app = server.onboard("web");
    let before = server.records().head();
    let pid = app.pid();
    server.kill9();
    let _ = app.get("/exit?code=7");
    server.up();
    server.wait_verified(&app, before);
    assert_ne!(app.pid(), pid);
    let records = server.records();
    let exit = records
        .of("RUNTIME_EMIT")
        .filter(|r| seq(r) > before)
        .find_map(|r| body(r, "observed")["what"]["exited"].as_object())
        .expect("the exit is on record");
    assert_eq!(exit["exit"]["code"], 7, "{exit:?}");
    assert_eq!(exit["expected"], false);
    assert_eq!(exit["fence"]["pid"], u64::from(pid));
    assert_eq!(records.attempts("RESTART"), 1);
}

#[test]
fn a_killed_shim_costs_neither_the_app_nor_its_care() {
    let server = Server::quick();
    let app = server.onboard("web");
    let (pid, head) = (app.pid(), server.records().head());
    let shims: Vec<u32> = processes::below(&server.data_dir().join("apps")).into_iter().collect();
    let shim = shims.into_iter().find(|shim| *shim != pid).expect("there is a shim");
    processes::kill(shim);
    server.wait("another shim", || {
        let found = processes::below(&server.data_dir().join("apps"));
        (!found.contains(&shim) && found.iter().any(|other| *other != pid)).then_some(())
    });
    assert_eq!(app.pid(), pid, "the app does not notice");
    assert!(server.records().of("ORCH_EXEC").all(|r| seq(r) < head));
    let (old, new) = server.crash_and_heal(&app);
    assert!(old == pid && new != pid);
}

#[test]
fn several_instances_are_each_looked_after() {
    let server = Server::quick();
    let app = server.onboard_with("web", 8080, &["--min", "3", "--max", "4"]);
    let pids = |status: &serde_json::Value| -> Vec<u64> {
        let instances = status["instances"].as_array().unwrap();
        instances.iter().filter_map(|i| i["pid"].as_u64()).collect()
    };
    let before = pids(&server.app_status("web"));
    assert_eq!(before.len(), 3);
    let head = server.records().head();
    processes::kill(u32::try_from(before[1]).unwrap());
    server.wait_verified(&app, head);
    let after = pids(&server.app_status("web"));
    assert_eq!((after[0], after[2]), (before[0], before[2]), "the others are left alone");
    assert_ne!(after[1], before[1]);
}
