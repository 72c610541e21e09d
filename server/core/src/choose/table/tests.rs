use proptest::prelude::*;

use super::*;

fn lesson(action: Action, outcome: Outcome, took_ms: Millis) -> Lesson {
    Lesson { finding: FindingKind::Latency, action, taught: Taught::Outcome(outcome), took_ms }
}

#[test]
fn a_verified_outcome_that_did_not_last_is_worth_as_much_as_one_that_failed() {
    let lesson = |taught| Lesson {
        finding: FindingKind::Crash,
        action: Action::Restart,
        taught,
        took_ms: 60_000,
    };
    let taught = |lessons: &[Taught]| {
        let mut table = ValueTable::default();
        lessons.iter().for_each(|taught| _ = table.learn(&lesson(*taught)));
        table.row(FindingKind::Crash).get(Action::Restart)
    };
    let failed = taught(&[Taught::Outcome(Outcome::Failed)]);
    let relapsed = taught(&[Taught::Outcome(Outcome::Verified), Taught::Relapsed]);
    assert_eq!((relapsed.trials, relapsed.verified), (failed.trials, failed.verified));
    let verified = taught(&[Taught::Outcome(Outcome::Verified)]);
    assert!(relapsed.q_micro < verified.q_micro, "{relapsed:?} {verified:?}");
}

#[test]
fn step_sizes_are_those_of_the_formula() {
    // Computed with 50 decimal digits and rounded down.
    let known = [(1, 1_000_000), (2, 615_572), (3, 463_463), (10, 199_526), (100, 39_810)];
    for (n, ppm) in known {
        assert_eq!(alpha_ppm(n), ppm, "n = {n}");
    }
    assert!(ALPHA_PPM.is_sorted_by(|a, b| a > b));
    assert!(alpha_ppm(267) > ALPHA_MIN_PPM && power_ppm(268) < ALPHA_MIN_PPM);
    assert_eq!([alpha_ppm(268), alpha_ppm(u32::MAX)], [ALPHA_MIN_PPM; 2]);
}

#[test]
fn the_first_lesson_is_believed_and_later_ones_move_the_value_less_and_less() {
    let mut table = ValueTable::default();
    let (before, after) = table.learn(&lesson(Action::Restart, Outcome::Verified, 60_000));
    assert_eq!(before, Value::default());
    // One minute of downtime and a quarter for the restart.
    let expected = Value { q_micro: -1_250_000, trials: 1, verified: 1, rejected: 0 };
    assert_eq!(after, expected);
    let (before, after) = table.learn(&lesson(Action::Restart, Outcome::Verified, 0));
    assert_eq!((before.q_micro, after.q_micro), (-1_250_000, -1_250_000 + 615_572));
}

#[test]
fn a_failure_costs_its_time_and_what_comes_after_it() {
    let mut table = ValueTable::default();
    table.learn(&lesson(Action::ScaleUp, Outcome::Verified, 60_000));
    let (_, after) = table.learn(&lesson(Action::Restart, Outcome::Failed, 300_000));
    // Five minutes, a quarter, and 0.95 of the best known way out.
    assert_eq!(after.q_micro, -5_250_000 - 1_200_000 * 95 / 100);
    assert_eq!((after.trials, after.verified), (1, 0));
}

#[test]
fn giving_up_is_never_worse_than_asking_a_human() {
    let mut table = ValueTable::default();
    for _ in 0..1_000 {
        table.learn(&lesson(Action::Restart, Outcome::Failed, Millis::MAX));
    }
    let worst = table.row(FindingKind::Latency).get(Action::Restart).q_micro;
    // Ten minutes at most, a quarter, and 0.95 of what asking a human costs; integer steps stop just before it.
    let limit = -10_250_000 - 3_800_000;
    assert!((limit..limit + 100).contains(&worst), "{worst}");
}

#[test]
fn nothing_is_learned_from_not_knowing_or_from_doing_nothing() {
    let mut table = ValueTable::default();
    for lesson in [
        lesson(Action::Restart, Outcome::Inconclusive, 5),
        lesson(Action::Noop, Outcome::Failed, 5),
    ] {
        assert_eq!(table.learn(&lesson), (Value::default(), Value::default()));
    }
    assert_eq!(table, ValueTable::default());
}

#[test]
fn a_rejection_lowers_the_value_and_is_no_trial() {
    let mut table = ValueTable::default();
    let rejection =
        Lesson { taught: Taught::Rejected, ..lesson(Action::Rollback, Outcome::Failed, 0) };
    let (_, after) = table.learn(&rejection);
    assert!(after.q_micro < 0);
    assert_eq!((after.trials, after.rejected), (0, 1));
}

#[test]
fn it_reads_back_what_it_writes_and_its_digest_is_of_what_it_says() {
    let mut table = ValueTable::default();
    let empty = table.digest();
    table.learn(&lesson(Action::Restart, Outcome::Verified, 60_000));
    let json = serde_json::to_string(&table).unwrap();
    let expected = concat!(
        r#"{"LATENCY":{"RESTART":"#,
        r#"{"q_micro":-1250000,"trials":1,"verified":1,"rejected":0}}}"#
    );
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_str::<ValueTable>(&json).unwrap(), table);
    assert_ne!(table.digest(), empty);
    assert_eq!(table.iter().count(), 1);
}

fn any_lesson() -> impl Strategy<Value = Lesson> {
    let outcomes = [Outcome::Verified, Outcome::Failed, Outcome::Inconclusive];
    let taught = prop::sample::select(
        outcomes.into_iter().map(Taught::Outcome).chain([Taught::Rejected]).collect::<Vec<_>>(),
    );
    let finding = prop::sample::select(FindingKind::ALL.to_vec());
    let action = prop::sample::select(Action::ALL.to_vec());
    (finding, action, taught, any::<Millis>())
        .prop_map(|(finding, action, taught, took_ms)| Lesson { finding, action, taught, took_ms })
}

proptest! {
    #[test]
    fn values_stay_bounded_and_a_table_is_a_fold_of_its_lessons(
        lessons in prop::collection::vec(any_lesson(), 0..60),
    ) {
        let fold = || {
            let mut table = ValueTable::default();
            for lesson in &lessons {
                table.learn(lesson);
            }
            table
        };
        let table = fold();
        prop_assert_eq!(table.digest(), fold().digest());
        for (_, _, value) in table.iter() {
            prop_assert!((-20 * MICRO..=0).contains(&value.q_micro));
            prop_assert!(value.verified <= value.trials);
        }
    }

    #[test]
    fn a_corrupt_table_cannot_make_it_panic(
        q_micro in any::<i64>(), trials in any::<u32>(), verified in any::<u32>(),
        taught in any_lesson(),
    ) {
        let value = Value { q_micro, trials, verified, rejected: u32::MAX };
        let row = serde_json::to_value(value).unwrap();
        let row = serde_json::json!({ taught.action.as_str(): row });
        let table = serde_json::json!({ taught.finding.as_str(): row });
        let mut table: ValueTable = serde_json::from_value(table).unwrap();
        table.learn(&taught);
    }
}
