//! The stories that the whole has to tell, by number, and which tests tell them. A number without a test fails.

use std::path::Path;

/// One story.
struct Story {
    number: u32,
    name: &'static str,
    /// Files, from the root, and the tests in them that together tell it.
    tests: &'static [(&'static str, &'static [&'static str])],
    /// The part of it that needs another backend than processes, or other tools than a Rust toolchain, and where it is told.
    elsewhere: &'static str,
}

const STORIES: &[Story] = &[
    Story {
        number: 1,
        name: "first value: onboarded, killed, healed, seen; a second time and nonsense refused",
        tests: &[(
            "tests/e2e/first_value.rs",
            &[
                "a_crashed_app_is_restarted_and_every_step_is_seen_and_explained",
                "a_name_is_onboarded_once_and_the_same_request_twice_is_one",
                "hostile_names_and_sources_are_refused",
            ],
        )],
        elsewhere: "",
    },
    Story {
        number: 2,
        name: "what the level leaves to humans waits for a second one, and runs once",
        tests: &[
            (
                "tests/e2e/approval.rs",
                &["an_approved_restart_is_executed_exactly_once", "whoever_asked_cannot_approve"],
            ),
            ("tests/e2e/first_value.rs", &["nothing_is_onboarded_into_prod"]),
            (
                "server/core/src/step/tests.rs",
                &["in_prod_a_crash_waits_for_a_human_and_the_requester_cannot_be_the_one"],
            ),
        ],
        elsewhere: "",
    },
    Story {
        number: 3,
        name: "a request expires, is superseded by another plan, or is cleared by recovery",
        tests: &[(
            "tests/e2e/approval.rs",
            &[
                "an_unanswered_request_expires_by_itself",
                "a_changed_app_supersedes_the_request_and_the_old_plan_opens_nothing",
                "a_request_for_an_app_that_recovered_is_cleared",
            ],
        )],
        elsewhere: "",
    },
    Story {
        number: 4,
        name: "a crash loop of four hours: few restarts, one call, slow probes, no giving up",
        tests: &[
            (
                "server/core/src/step/tests.rs",
                &[
                    "a_crash_loop_of_four_hours_gets_at_most_eight_restarts_and_still_heals_after_the_fix",
                ],
            ),
            (
                "server/core/src/step/tests/mission.rs",
                &["a_human_restarts_past_an_open_breaker_and_is_not_counted_in_it"],
            ),
            ("tests/e2e/telemetry.rs", &["an_app_that_cannot_live_is_not_started_again_and_again"]),
        ],
        elsewhere: "",
    },
    Story {
        number: 5,
        name: "an outage of a dependency: a storm, one incident, no second wave",
        tests: &[
            (
                "server/core/src/step/tests/outage.rs",
                &[
                    "of_twelve_apps_that_fail_within_thirty_seconds_one_is_tried",
                    "a_dependency_takes_twelve_of_twenty_apps_along_and_the_way_back_is_no_second_wave",
                    "a_dependency_that_makes_requests_fail_costs_one_restart_and_nothing_when_it_is_back",
                    "whatever_crashes_when_no_more_are_tried_than_were_healed_and_one",
                ],
            ),
            (
                "client-cli/tests/scenarios/runs.rs",
                &["every_scenario_passes_on_one_server_and_what_they_recorded_is_proved"],
            ),
        ],
        elsewhere: "",
    },
    Story {
        number: 6,
        name: "a bad probe of all replicas takes down one at most",
        tests: &[
            (
                "tests/e2e/replicas.rs",
                &["a_probe_that_is_broken_itself_takes_down_one_of_five_and_no_more"],
            ),
            (
                "server/tests/process/rollouts.rs",
                &["a_restart_stops_at_the_first_instance_that_does_not_come_back"],
            ),
        ],
        elsewhere: "refused evictions need Kubernetes",
    },
    Story {
        number: 7,
        name: "an hour around the threshold: flapping, few scalings, no ping-pong",
        tests: &[(
            "server/core/src/step/tests/mission.rs",
            &[
                "an_hour_around_the_threshold_is_no_hour_of_up_and_down",
                "a_rolling_restart_that_a_human_asked_for_is_no_flapping_and_crashes_that_are_healed_are",
            ],
        )],
        elsewhere: "",
    },
    Story {
        number: 8,
        name: "telemetry that lies moves nothing",
        tests: &[
            (
                "server/core/src/step/tests/mission.rs",
                &[
                    "monitors_that_are_silent_or_say_zero_or_contradict_or_scream_move_nothing",
                    "one_monitor_that_says_zero_takes_no_instance_away_and_two_do",
                ],
            ),
            (
                "tests/e2e/telemetry.rs",
                &[
                    "contradicting_signals_lead_to_a_closer_look_and_to_nothing_else",
                    "a_monitor_that_screams_is_not_believed_against_what_the_server_sees_itself",
                ],
            ),
            ("tests/faults/blind.rs", &["a_lone_monitor_that_says_zero_takes_no_instance_away"]),
            ("server/src/grpc/telemetry/tests.rs", &["every_rule_a_signal_breaks_is_told"]),
        ],
        elsewhere: "",
    },
    Story {
        number: 9,
        name: "the kill switch in the middle of a rolling restart, and through a crash of the server",
        tests: &[
            (
                "tests/e2e/pause.rs",
                &[
                    "a_halt_stops_a_rollout_at_the_next_safe_point",
                    "a_pause_survives_kill_9_and_a_crash_under_it_waits_for_the_resume",
                ],
            ),
            ("tests/e2e/proof.rs", &["a_byte_flipped_on_disk_stops_every_act_and_no_read"]),
        ],
        elsewhere: "",
    },
    Story {
        number: 10,
        name: "kill -9 at every boundary of a step: nothing twice, nothing lost",
        tests: &[
            (
                "tests/faults/kill.rs",
                &[
                    "before_an_intent_is_recorded",
                    "after_an_intent_is_recorded",
                    "in_the_middle_of_a_write",
                    "before_an_effect_it_is_not_taken_for_done",
                    "after_an_effect_it_is_not_done_again",
                    "before_the_outcome_is_recorded",
                    "between_an_effect_and_the_record_that_it_was_seen",
                    "again_and_again_while_the_app_crashes",
                ],
            ),
            ("tests/e2e/approval.rs", &["a_request_survives_the_server_and_is_joined_not_doubled"]),
        ],
        elsewhere: "",
    },
    Story {
        number: 11,
        name: "a watch that was away goes on where it was, or is told that it cannot",
        tests: &[
            (
                "tests/e2e/watch.rs",
                &[
                    "a_watch_goes_on_through_restarts_without_gap_or_duplicate",
                    "a_cursor_from_any_line_starts_right_behind_it",
                ],
            ),
            (
                "server/src/grpc/feed/tests.rs",
                &[
                    "a_watcher_that_the_ring_has_overtaken_goes_on_from_disk",
                    "a_start_that_does_not_exist_is_told_apart",
                    "a_reader_that_takes_nothing_is_let_go_with_the_cursor_to_go_on_from",
                    "two_hundred_watchers_beside_one_that_reads_nothing_see_every_record_once_and_in_order",
                ],
            ),
            (
                "server/src/grpc/decision/tests.rs",
                &["a_thousand_watchers_beside_one_that_reads_nothing_are_sent_the_same_bytes"],
            ),
        ],
        elsewhere: "",
    },
    Story {
        number: 12,
        name: "an explanation names every gate, and the nearest change really turns the decision",
        tests: &[
            (
                "server/core/src/counterfactual/tests.rs",
                &[
                    "whatever_the_case_the_named_change_turns_it_and_no_smaller_one_does",
                    "what_would_have_made_a_silent_agent_act_is_named",
                ],
            ),
            ("tests/e2e/policy.rs", &["the_named_change_really_turns_the_decision"]),
        ],
        elsewhere: "",
    },
    Story {
        number: 13,
        name: "the past under the same rules is the past; a dry run touches nothing",
        tests: &[
            (
                "tests/e2e/policy.rs",
                &["the_past_judged_under_the_same_rules_is_the_past_and_under_looser_ones_is_not"],
            ),
            ("server/core/src/step/tests.rs", &["dry_run_decides_and_touches_nothing"]),
        ],
        elsewhere: "",
    },
    Story {
        number: 14,
        name: "a bad deployment is taken back to what was verified, by a second person, once",
        tests: &[
            (
                "server/tests/deploy/revisions.rs",
                &["a_bad_revision_is_retried_and_then_taken_back_by_a_second_person"],
            ),
            (
                "server/core/src/step/tests.rs",
                &["a_bad_revision_is_tried_again_and_then_taken_back_by_a_human_and_left_alone"],
            ),
        ],
        elsewhere: "",
    },
    Story {
        number: 15,
        name: "one owner: two servers never work on one target",
        tests: &[
            (
                "tests/e2e/start.rs",
                &["two_servers_cannot_share_a_log_and_the_second_names_the_first"],
            ),
            ("server/tests/process/faults.rs", &["two_shims_never_serve_one_directory"]),
        ],
        elsewhere: "an autoscaler or a repository that owns a workload needs Kubernetes",
    },
    Story {
        number: 16,
        name: "environments, roles, revoked tokens and protected apps",
        tests: &[
            (
                "tests/e2e/isolation.rs",
                &[
                    "a_token_of_one_environment_sees_and_changes_nothing_of_another",
                    "an_app_of_another_environment_is_as_good_as_none",
                ],
            ),
            (
                "server/src/grpc/telemetry/tests.rs",
                &["a_monitor_that_is_bound_to_one_app_cannot_speak_of_another"],
            ),
            ("tests/e2e/watch.rs", &["a_stream_does_not_outlive_the_token_it_was_opened_with"]),
            (
                "tests/e2e/lifecycle.rs",
                &["what_is_protected_is_left_alone_until_the_label_is_taken_off"],
            ),
        ],
        elsewhere: "",
    },
    Story {
        number: 17,
        name: "a log that was changed is named by its first bad entry, and stops every act",
        tests: &[
            (
                "tests/e2e/proof.rs",
                &[
                    "every_edit_of_a_copy_is_named_by_its_first_bad_entry",
                    "a_byte_flipped_on_disk_stops_every_act_and_no_read",
                ],
            ),
            (
                "tests/e2e/transparency.rs",
                &["whoever_looked_once_notices_a_log_that_was_set_back_or_written_anew"],
            ),
            ("tests/faults/disk.rs", &["nothing_is_done_that_cannot_be_recorded"]),
        ],
        elsewhere: "",
    },
    Story {
        number: 18,
        name: "monitors in other languages, resending, and floods",
        tests: &[(
            "server/src/grpc/telemetry/tests.rs",
            &[
                "what_is_sent_again_after_a_reconnect_is_counted_and_not_applied",
                "a_flood_of_signals_delays_neither_the_switch_nor_the_status",
            ],
        )],
        elsewhere: "the clients in Python, Go, TypeScript and Java are run by clients/test",
    },
    Story {
        number: 19,
        name: "graduation: a report, an approved change to AUTO, and demotion after failures",
        tests: &[
            (
                "tests/e2e/graduation.rs",
                &["an_app_in_shadow_graduates_acts_alone_and_is_demoted_after_failures"],
            ),
            (
                "server/core/src/graduation/tests.rs",
                &[
                    "agreement_with_humans_is_reported_raised_by_a_second_person_and_taken_back_after_failures",
                    "in_prod_only_what_has_graduated_is_left_to_the_agent_app_by_app",
                ],
            ),
        ],
        elsewhere: "",
    },
];

/// Whether `text` has a test of this name.
fn has_test(text: &str, name: &str) -> bool {
    let declared = format!("fn {name}(");
    let Some(at) = text.find(&declared) else { return false };
    // What makes it a test stands right above it.
    let mut above = text[..at].trim_end().lines().rev().take_while(|line| !line.trim().is_empty());
    above.any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
}

/// Everything that is wrong with a table of stories.
fn gaps(stories: &[Story]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut gaps = Vec::new();
    for number in 1..=19 {
        if !stories.iter().any(|story| story.number == number) {
            gaps.push(format!("story {number} is not in the table"));
        }
    }
    for Story { number, name, tests, .. } in stories {
        if tests.iter().all(|(_, names)| names.is_empty()) {
            gaps.push(format!("story {number}, {name}: no test tells it"));
        }
        for (file, names) in *tests {
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let missing = names.iter().filter(|test| !has_test(&text, test));
            gaps.extend(missing.map(|test| format!("story {number}: {file} has no test `{test}`")));
        }
    }
    gaps
}

#[test]
fn every_story_is_told_by_tests_that_are_there() {
    let gaps = gaps(STORIES);
    assert!(gaps.is_empty(), "{gaps:#?}");
    let elsewhere: Vec<u32> =
        STORIES.iter().filter(|s| !s.elsewhere.is_empty()).map(|s| s.number).collect();
    assert_eq!(elsewhere, [6, 15, 18], "parts that another backend or tool is needed for");
}

#[test]
fn a_story_without_tests_and_a_test_that_is_gone_are_found() {
    let untold = Story { number: 1, name: "untold", tests: &[], elsewhere: "" };
    let tests: &[(&str, &[&str])] = &[
        ("tests/e2e/mission.rs", &["every_story_is_told_by_tests_that_are_there", "has_test"]),
        ("tests/e2e/nowhere.rs", &["gone"]),
    ];
    let renamed = Story { number: 2, name: "renamed", tests, elsewhere: "" };
    let found = gaps(&[untold, renamed]);
    assert_eq!(found.len(), 17 + 1 + 2, "{found:#?}");
    assert!(found.contains(&"story 2: tests/e2e/mission.rs has no test `has_test`".to_owned()));
}
