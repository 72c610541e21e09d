use super::*;
use crate::action::Action;

/// The gates permit what the simulation's shield does.
const LIMITS: Limits = [16, 2, 3, 0, 0, 1];

fn backup(signature: Signature, limits: Limits) -> Backup {
    let catalogue = Catalogue::builtin();
    Backup::new(&catalogue, signature, [Correction::NONE; COUNT], [0; COUNT], limits).unwrap()
}

fn greedy(backup: &Backup, tried: Tried) -> Action {
    ACTIONS[backup.greedy(&tried).unwrap()]
}

#[test]
fn every_signature_is_answered_by_what_fixes_its_most_likely_fault() {
    let rollback = |signature| {
        let most = u8::from(matches!(signature, Signature::DownDeploy | Signature::DownRepeat));
        [16, 2, 3, 0, 0, most]
    };
    for (signature, action) in [
        (Signature::Down, Action::Restart),
        (Signature::DownDeploy, Action::Rollback),
        (Signature::DownRepeat, Action::Rollback),
        (Signature::MemRising, Action::Restart),
        (Signature::CpuLoad, Action::ScaleUp),
        (Signature::DepErrors, Action::Noop),
        (Signature::Unspecific, Action::Noop),
        (Signature::Flap, Action::ScaleUp),
    ] {
        assert_eq!(greedy(&backup(signature, rollback(signature)), [0; COUNT]), action);
    }
}

#[test]
fn a_value_is_the_cost_now_and_the_best_ever_after_if_it_fails() {
    let backup = backup(Signature::Down, LIMITS);
    let tried = [0; COUNT];
    for (action, expected) in backup.expected(&tried).into_iter().enumerate() {
        let Some(expected) = expected else { continue };
        let mut after = tried;
        after[action] += 1;
        let best = backup.expected(&after).into_iter().flatten().map(|e| e.value).min();
        assert_eq!(best, Some(expected.next));
        let fails = Fixed::ONE.minus(expected.chance);
        assert_eq!(expected.value, expected.cost.plus(fails.times(expected.next)));
    }
}

#[test]
fn what_the_gates_do_not_permit_has_no_value_now_or_later() {
    let free = backup(Signature::DownDeploy, [16, 2, 3, 0, 0, 1]);
    let shielded = backup(Signature::DownDeploy, [16, 2, 3, 0, 0, 0]);
    assert!(shielded.expected(&[0; COUNT])[5].is_none());
    let value = |backup: &Backup| backup.expected(&[0; COUNT])[2].unwrap().value;
    assert!(value(&free) < value(&shielded), "a restart is worth more when a rollback can follow");
}

#[test]
fn failures_change_the_diagnosis_and_the_time_ends() {
    let backup = backup(Signature::Down, LIMITS);
    let share = |tried: Tried, fault: usize| {
        backup.diagnosis(&tried).into_iter().find(|(n, _)| *n == fault).unwrap().1
    };
    let (crash, crashloop) = (0, 1);
    assert!(share([0; COUNT], crash) > share([0; COUNT], crashloop));
    assert!(share([0, 0, 3, 0, 0, 0], crash) < share([0, 0, 3, 0, 0, 0], crashloop));
    assert!(backup.expected(&[16, 0, 0, 0, 0, 0]).iter().all(Option::is_none));
    assert!(backup.expected(&[0, 0, 4, 0, 0, 0]).iter().all(Option::is_none), "not permitted");
}

#[test]
fn a_situation_in_the_middle_is_worth_the_same_from_wherever_it_is_looked_at() {
    let catalogue = Catalogue::builtin();
    let from = [2, 0, 1, 0, 0, 0];
    let none = [Correction::NONE; COUNT];
    let later = Backup::new(&catalogue, Signature::Down, none, from, LIMITS).unwrap();
    assert_eq!(later.expected(&from), backup(Signature::Down, LIMITS).expected(&from));
}

#[test]
fn more_failures_than_the_catalogue_can_explain_still_leave_a_value() {
    let backup = backup(Signature::MemRising, [16, 4, 16, 4, 0, 0]);
    let expected = backup.expected(&[0, 0, 15, 0, 0, 0]);
    assert!(expected[2].unwrap().chance > Fixed::ZERO);
}

#[test]
fn the_order_of_the_actions_is_the_order_of_how_little_they_change() {
    assert!(ACTIONS.is_sorted());
    assert!(ACTIONS.iter().enumerate().all(|(n, action)| position(*action) == Some(n)));
    assert_eq!(position(Action::Deploy), None);
}
