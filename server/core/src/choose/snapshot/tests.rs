use super::*;
use crate::action::Action;
use crate::choose::ccq::{Fixed, Trial};
use crate::detect::Signature;

fn snapshot(env: Env, agent: &str, outcomes: u32) -> Snapshot {
    let mut knowledge = Knowledge::default();
    for n in 0..outcomes {
        let trial = Trial {
            signature: Signature::Down,
            action: Action::Restart,
            resolved: n % 3 != 0,
            cost: Fixed::ONE,
            chance: Fixed::micro(800_000),
            cost0: Fixed::ONE,
        };
        knowledge.learn(OWN, &trial);
    }
    let learned = Expertise { knowledge, ..Expertise::default() };
    Snapshot::new(env, agent, outcomes.into(), &learned, &[])
}

fn stage(agent: &str, outcomes: u32) -> Snapshot {
    snapshot(Env::Stage, agent, outcomes)
}

#[test]
fn a_snapshot_reads_back_and_one_that_was_touched_does_not() {
    let text = stage("agent-1", 12).text();
    assert_eq!(Snapshot::parse(&text).unwrap().text(), text);
    let touched = text.replace("\"trials\": 12", "\"trials\": 13");
    assert_ne!(touched, text);
    assert!(matches!(Snapshot::parse(&touched), Err(Error::Digest { .. })));
    let cut = text.split_at(text.len() / 2).0;
    let error = Snapshot::parse(cut).unwrap_err().to_string();
    assert!(error.contains("line "), "{error}");
    let unknown = text.replacen("\"schema\"", "\"shema\"", 1);
    let error = Snapshot::parse(&unknown).unwrap_err().to_string();
    assert!(error.contains("shema") && error.contains("line 2"), "{error}");
    let newer = text.replacen("\"schema\": 1", "\"schema\": 2", 1);
    assert_eq!(Snapshot::parse(&newer), Err(Error::Schema(2)));
    let foreign = Snapshot { catalogue: "00".to_owned(), ..stage("a", 1) }.sealed();
    assert_eq!(Snapshot::parse(&foreign.text()), Err(Error::Catalogue("00".to_owned())));
}

#[test]
fn a_merge_is_the_same_in_any_order_grouping_and_number() {
    let (a, b, c) = (stage("a", 5), stage("b", 9), stage("c", 30));
    let merge = |x: &Snapshot, y: &Snapshot| x.merged(y).unwrap();
    assert_eq!(merge(&a, &b), merge(&b, &a));
    assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
    assert_eq!(merge(&a, &a), a);
    let all = merge(&merge(&a, &b), &c);
    assert_eq!(merge(&all, &b), all);
    let learned = all.knowledge.beliefs(Signature::Down).get(Action::Restart);
    assert_eq!(learned.trials, 44);
    assert_eq!(Snapshot::parse(&all.text()).unwrap(), all);
}

#[test]
fn environments_are_not_merged() {
    let (here, there) = (stage("a", 5), snapshot(Env::Prod, "b", 5));
    assert_eq!(here.merged(&there), Err(Error::Environments(Env::Stage, Env::Prod)));
}

/// The text of a snapshot with one number exchanged and its digest made to fit: what somebody writes who wants to be believed.
fn forged(number: &str, instead: &str) -> String {
    let text = stage("agent-1", 12).text();
    assert_eq!(text.matches(number).count(), 1, "{number} in {text}");
    let mut forged: Snapshot = serde_json::from_str(&text.replace(number, instead)).unwrap();
    forged = forged.sealed();
    forged.text()
}

#[test]
fn what_nobody_can_have_learned_is_told_with_line_and_field() {
    let at = "knowledge.origins.agent-1.down.cells.RESTART";
    for (number, instead, field) in [
        ("\"resolved\": 8", "\"resolved\": 13", "resolved"),
        ("\"trials\": 12", "\"trials\": 4000000000", "trials"),
        ("\"base\": 0", "\"base\": 90000000000", "base"),
        ("\"below\": 0", "\"below\": -1", "below"),
    ] {
        let text = forged(number, instead);
        let Err(Error::Flaws(flaws)) = Snapshot::parse(&text) else { panic!("{instead} passed") };
        let flaw = flaws.iter().find(|flaw| flaw.field == format!("{at}.{field}"));
        let flaw = flaw.unwrap_or_else(|| panic!("{field} in {flaws:?}"));
        let line = text.lines().nth(flaw.line - 1).unwrap();
        assert!(line.contains(instead), "line {} is `{line}`", flaw.line);
    }
    // Everything at once.
    let text = forged("\"resolved\": 8", "\"resolved\": 13");
    let text = text.replace("\"base\": 0", "\"base\": 90000000000");
    let text = serde_json::from_str::<Snapshot>(&text).unwrap().sealed().text();
    let error = Snapshot::parse(&text).unwrap_err().to_string();
    assert!(error.contains("resolved`: 13 must") && error.contains("base`: 2"), "{error}");
    // A number of another kind does not even read, and that is told with its field too.
    let text = stage("agent-1", 12).text().replace("\"trials\": 12", "\"trials\": -12");
    let Err(Error::Form { line, field, what }) = Snapshot::parse(&text) else { panic!("{text}") };
    assert_eq!(field, format!("{at}.trials"));
    assert!(text.lines().nth(line - 1).unwrap().contains("-12"), "{what}");
    let long = " ".repeat(TEXT_MAX + 1);
    assert_eq!(Snapshot::parse(&long), Err(Error::Long(TEXT_MAX + 1)));
    // The name under which an agent keeps what it experienced itself is nobody else's.
    let disguised = stage(OWN, 3).text();
    assert!(matches!(Snapshot::parse(&disguised), Err(Error::Flaws(flaws)) if flaws.len() == 2));
}
