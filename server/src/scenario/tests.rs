//! What can be said of scenarios without a server; the runs themselves are tested end to end by the command line's crate, which
//! brings the demo app.

use std::collections::BTreeSet;

use super::*;

fn request(scenario: &'static Scenario, id: Option<&str>) -> Request {
    let (app, principal) = (None, "olivia".to_owned());
    Request { scenario, app, request_id: id.map(str::to_owned), principal }
}

#[test]
fn names_are_unique_and_every_step_says_what_is_expected() {
    let names: BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), SCENARIOS.len());
    for scenario in SCENARIOS {
        assert!(find(scenario.name).is_some());
        assert!(scenario.summary.len() <= 45, "one line: {}", scenario.summary);
        assert!(!scenario.steps.is_empty());
        for step in scenario.steps {
            assert!(!step.name.is_empty() && !step.expected.is_empty());
        }
    }
    assert!(find("earthquake").is_none());
}

#[test]
fn one_scenario_at_a_time_and_the_same_request_is_told_so() {
    let stage = Arc::new(Stage::new(vec![PathBuf::from("/bin/true")]));
    let seat = stage.enter(&request(&SCENARIOS[1], Some("one"))).unwrap();
    let busy = stage.enter(&request(&SCENARIOS[2], Some("two"))).unwrap_err();
    assert_eq!(busy, Error::Busy { scenario: "crash" });
    let anonymous = stage.enter(&request(&SCENARIOS[2], None)).unwrap_err();
    assert_eq!(anonymous, Error::Busy { scenario: "crash" });
    let same = stage.enter(&request(&SCENARIOS[1], Some("one"))).unwrap_err();
    assert_eq!(same, Error::SameRequest("one".to_owned()));
    drop(seat);
    assert!(stage.enter(&request(&SCENARIOS[2], None)).is_ok());
}

#[test]
fn with_the_rules_of_the_demo_its_scenarios_together_are_estimated_below_ten_seconds() {
    let text = include_str!("../../../deploy/policy/demo.toml");
    let tempo = Tempo { policy: toml::from_str(text).unwrap(), tick_ms: 100 };
    // The others are for whoever asks for them by name.
    let shown = SCENARIOS.iter().take_while(|scenario| scenario.name != "overloaded-environment");
    assert_eq!(shown.clone().count(), 10);
    let total: Duration = shown.map(|scenario| scenario.typical(&tempo)).sum();
    assert!(total < Duration::from_secs(10), "{total:?}");
}
