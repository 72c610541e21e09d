//! What a healed crash leaves in the metrics and in the log of the server.

use serde_json::Value;

use crate::harness::{Options, Server, event};

#[test]
fn a_healed_crash_shows_in_the_metrics_and_every_line_of_the_log_says_whose_it_is() {
    let flags = ["--metrics-open", "--log-format", "json"].map(str::to_owned).to_vec();
    let server = Server::start(Options { flags, ..Options::default() });
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let text = server.page("/metrics");
    for line in [
        "agentctl_decisions_total{env=\"stage\",app=\"web\",action=\"DEPLOY\",outcome=\"permitted\"} 1",
        "agentctl_decisions_total{env=\"stage\",app=\"web\",action=\"RESTART\",outcome=\"permitted\"} 1",
        "agentctl_outcomes_total{env=\"stage\",action=\"RESTART\",outcome=\"verified\"} 1",
        "agentctl_action_duration_seconds_count{env=\"stage\",action=\"RESTART\",outcome=\"verified\"} 1",
        "agentctl_findings_total{env=\"stage\",kind=\"CRASH\"} 1",
        "agentctl_apps{env=\"stage\",health=\"healthy\"} 1",
        "agentctl_bus_info{env=\"stage\",backend=\"memory\"} 1",
        "agentctl_approvals_pending{env=\"stage\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis missing in\n{text}");
    }
    assert!(server.page("/readyz").ends_with("ready\n"));

    let log = server.log();
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let decision = lines.iter().find(|line| line["decision_data"]["action"] == "RESTART");
    let decision = decision.unwrap_or_else(|| panic!("no RESTART in\n{log}"));
    assert_eq!(decision["event"], "decision");
    assert_eq!(decision["decision_data"]["ruling"], "permitted");
    assert_eq!(decision["last_decision"]["data"], decision["decision_data"]);
    assert!(decision["agent_id"].as_str().is_some_and(|id| id.starts_with("agent-")));
    let trace = decision["trace_id"].as_str().unwrap();
    let record = server.wait_record("the decision", |r| r["trace"] == trace);
    assert_eq!((event(&record), &record["app"]), ("RL_DECISION", &"web".into()));
    assert!(
        !crate::harness::body(&record, "decided").to_string().contains(trace),
        "not in the body"
    );
    let explained = server.ctl(&["explain", "--last", "web"]).ok().stdout;
    assert!(explained.contains(&format!("trace {}", &trace[..8])), "{explained}");
    let acting = lines.iter().find(|line| line["message"] == "acting" && line["trace_id"] == trace);
    assert!(acting.is_some(), "the effect is part of the trace of its decision:\n{log}");
}
