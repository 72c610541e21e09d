//! What was learned is brought, forgotten, and in prod promoted by humans.

use crate::action::Action;
use crate::app::{AppName, Env, Millis, OnboardRequest};
use crate::backtest::{Verdict, promotion};
use crate::choose::ccq::{Fixed, Knowledge, OWN, Trial};
use crate::choose::snapshot::Snapshot;
use crate::choose::{Expertise, Lesson, Taught, ValueTable};
use crate::detect::{FindingKind, Signature};
use crate::policy::Learner;
use crate::record::{Author, Backtested, Body, LearningChange};
use crate::signal::{MICRO, Metric};
use crate::state::{ApprovalState, Outcome};
use crate::step::world::{AGENT, World};
use crate::step::{By, Failure, Input, Reply};

const MINUTE: Millis = 60_000;
const PERCENT: i64 = MICRO / 100;
const MEMORY: Metric = Metric::MemoryUtilization;

fn full() -> [(Metric, i64); 2] {
    [(MEMORY, 97 * PERCENT), (Metric::RequestRate, MICRO)]
}

fn calm() -> [(Metric, i64); 2] {
    [(MEMORY, 40 * PERCENT), (Metric::RequestRate, MICRO)]
}

/// An app in prod whose memory fills up now and then, and which one action alone cures.
struct Prod {
    world: World,
    app: AppName,
    cure: Action,
}

impl Prod {
    fn new(cure: Action, learner: Learner) -> Self {
        let mut world = World::new(Env::Stage);
        let request = OnboardRequest { max_instances: Some(64), ..World::request("web", 2) };
        world.try_onboard(request, World::by("olivia"));
        world.pass(world.policy.verification.hold_ms + 5_000);
        let app = AppName::parse("web").unwrap();
        world.turn_prod();
        // Nothing but the choice matters here: no gate stands between an incident and the next one.
        let rules = &mut world.policy;
        (rules.repetition.limit, rules.memory.failures, rules.memory.identical) = (45, 45, 45);
        rules.breaker.failures = 1_000;
        rules.memory.window_ms = 10 * MINUTE;
        rules.learning.learner = learner;
        rules.cooldown.base_ms.values_mut().for_each(|span| *span = 1_000);
        rules.cooldown.restart_cap_ms = 1_000;
        rules.stability.flap_changes = 1_000;
        world.start_agent();
        world.hear(&app, 31 * MINUTE, &calm());
        Self { world, app, cure }
    }

    /// What waits for a human when memory is full.
    fn proposed(&mut self) -> (u64, Action) {
        for _ in 0..60 {
            if let Some(approval) = self.world.app(&self.app).approval {
                return (approval, self.world.state.approvals[&approval].plan.action);
            }
            self.world.hear(&self.app, 1_000, &full());
        }
        panic!("nothing is proposed: {:?}", self.world.last_decision());
    }

    /// Memory fills up, and Ann approves what is proposed until it helps. Gives what was tried.
    fn incident(&mut self) -> Vec<Action> {
        let mut tried = Vec::new();
        while tried.last() != Some(&self.cure) {
            let (approval, action) = self.proposed();
            tried.push(action);
            assert!(tried.len() < 8, "{tried:?}");
            let reading = Some(self.world.close(&self.app));
            let (plan_digest, comment, by) = (None, "go".to_owned(), World::by("ann"));
            self.world.give(&Input::Approve { approval, plan_digest, comment, reading, by });
            let says = if action == self.cure { calm() } else { full() };
            while self.world.app(&self.app).attempt.is_some() {
                self.world.hear(&self.app, 1_000, &says);
            }
        }
        self.world.hear(&self.app, 12 * MINUTE, &calm());
        tried
    }

    fn candidate(&self) -> &Expertise {
        &self.world.state.learning.candidate.as_deref().expect("a candidate").expertise
    }

    fn backtest(&self) -> Backtested {
        backtest(&self.world, self.candidate())
    }

    fn promote(&mut self) -> Reply {
        let backtest = Box::new(self.backtest());
        promote(&mut self.world, backtest, World::by("olivia"))
    }
}

fn promote(world: &mut World, backtest: Box<Backtested>, by: By) -> Reply {
    world.give(&Input::Promote { backtest, reason: "it knows more".to_owned(), by })
}

/// Judges a candidate over the log, as the server does.
fn backtest(world: &World, candidate: &Expertise) -> Backtested {
    let (env, acting) = (world.state.env, world.state.acting());
    let read = |take: &mut dyn FnMut(&crate::record::Record)| {
        world.log.iter().for_each(take);
        Ok::<_, std::convert::Infallible>(())
    };
    promotion(env, &acting, candidate, read).unwrap()
}

/// What agents of `env` have learned: how often an action ended incidents that look like that, out of so many.
fn learned(env: Env, look: Signature, outcomes: &[(Action, u32, u32)]) -> Snapshot {
    let mut knowledge = Knowledge::default();
    let mut table = ValueTable::default();
    for (action, helped, of) in outcomes {
        for n in 0..*of {
            // They know what they are about: hardly an outcome surprises them.
            let resolved = n < *helped;
            let chance = Fixed::micro(if resolved { 950_000 } else { 50_000 });
            let (cost, cost0) = (Fixed::ONE, Fixed::ONE);
            let trial = Trial { signature: look, action: *action, resolved, cost, chance, cost0 };
            knowledge.learn(OWN, &trial);
            let outcome = if resolved { Outcome::Verified } else { Outcome::Failed };
            let (finding, taught) = (FindingKind::MemoryOverload, Taught::Outcome(outcome));
            table.learn(&Lesson { finding, action: *action, taught, took_ms: MINUTE });
        }
    }
    Snapshot::new(env, "agent-else", 7, &Expertise { table, knowledge }, &[])
}

fn import(world: &mut World, snapshot: &Snapshot, weak_prior: bool) -> Reply {
    let (reason, by) = ("from the drill".to_owned(), World::by("adam"));
    let snapshot = Box::new(Snapshot::parse(&snapshot.text()).unwrap());
    world.give(&Input::Import { snapshot, weak_prior, reason, by })
}

fn forget(world: &mut World, acting: bool) -> Reply {
    let (reason, by) = ("it was a drill".to_owned(), World::by("adam"));
    world.give(&Input::Forget { acting, reason, by })
}

#[test]
fn prod_learns_a_candidate_and_acts_on_it_only_after_a_backtest_and_a_human() {
    let mut prod = Prod::new(Action::ScaleUp, Learner::Q);
    let by_the_rules = [Action::Restart, Action::Restart, Action::ScaleUp];
    assert_eq!(prod.incident(), by_the_rules);
    assert!(prod.world.state.acting().is_empty(), "nothing that was learned here is acted on");
    assert!(!prod.candidate().is_empty());
    let beside = |body: &Body| matches!(body, Body::Learned { candidate, .. } if !candidate);
    assert!(!prod.world.log.iter().any(|record| beside(&record.body)));

    // One incident proves nothing.
    let Reply::Failed(Failure::BacktestNotPassed { verdict, why }) = prod.promote() else {
        panic!("promoted without proof");
    };
    assert_eq!(verdict, "inconclusive");
    assert!(why.contains("fewer than"), "{why}");
    assert_eq!(prod.world.count("PROMOTION_REFUSED"), 1);

    for _ in 0..7 {
        assert_eq!(prod.incident(), by_the_rules, "what is in force has not learned");
    }
    let backtest = prod.backtest();
    assert_eq!((backtest.verdict, backtest.differing), (Verdict::Better, 0), "{backtest:?}");
    let Reply::Done { seq: Some(approval) } = prod.promote() else { panic!("not asked") };
    assert!(prod.world.state.acting().is_empty(), "asked is not answered");

    // Nobody approves what they asked for themselves, nor what they have not read.
    let own = prod.world.approve(approval, None, World::by("olivia"));
    assert_eq!(own, Reply::Failed(Failure::SelfApproval("olivia".to_owned())));
    let unread = prod.world.approve(approval, Some("00".to_owned()), World::by("ann"));
    assert!(matches!(unread, Reply::Failed(Failure::PlanChanged { .. })), "{unread:?}");
    let plan = prod.world.state.learning.promotion(approval).unwrap().plan_digest.clone();
    let candidate = prod.candidate().clone();
    let reply = prod.world.approve(approval, Some(plan), World::by("ann"));
    assert!(matches!(reply, Reply::Done { seq: Some(_) }), "{reply:?}");
    assert_eq!(prod.world.state.acting(), candidate);
    assert_eq!(prod.world.state.learning.candidate, None, "nothing more was learned meanwhile");
    assert_eq!(prod.world.state.learning.parents.len(), 1, "it says what it came from");
    assert_eq!(prod.incident(), [Action::ScaleUp], "now it is acted on");
    let again = prod.world.approve(approval, None, World::by("ann"));
    assert!(matches!(again, Reply::Failed(Failure::ApprovalClosed { .. })), "{again:?}");
    prod.world.assert_replays();
}

#[test]
fn a_candidate_that_would_cost_more_is_not_promoted() {
    let mut prod = Prod::new(Action::Restart, Learner::Ccq);
    for _ in 0..11 {
        assert_eq!(prod.incident(), [Action::Restart]);
    }
    // Stage believes the opposite, and firmly.
    let outcomes = [(Action::Restart, 0, 4_000), (Action::ScaleUp, 4_000, 4_000)];
    let stage = learned(Env::Stage, Signature::MemRising, &outcomes);
    let reply = import(&mut prod.world, &stage, true);
    assert!(matches!(reply, Reply::Done { seq: Some(_) }), "{reply:?}");
    assert!(prod.world.state.acting().is_empty(), "in prod it is for the candidate");
    let before = prod.world.state.acting();
    let backtest = prod.backtest();
    assert_eq!(backtest.verdict, Verdict::Worse, "{backtest:?}");
    let reply = prod.promote();
    assert!(
        matches!(reply, Reply::Failed(Failure::BacktestNotPassed { verdict: "worse", .. })),
        "{reply:?}"
    );
    assert_eq!(prod.world.state.acting(), before);
    assert!(prod.world.state.learning.promotion.is_none(), "no human is asked");

    // A verdict that speaks of something else is none: what is promoted is what was judged.
    let better = Backtested { verdict: Verdict::Better, candidate: "00".to_owned(), ..backtest };
    let reply = promote(&mut prod.world, Box::new(better), World::by("olivia"));
    assert!(matches!(reply, Reply::Failed(Failure::CandidateChanged { .. })), "{reply:?}");

    assert!(matches!(forget(&mut prod.world, false), Reply::Done { seq: Some(_) }));
    assert_eq!(prod.world.state.learning.candidate, None);
    let nothing = Box::new(Backtested { verdict: Verdict::Better, ..backtest_of(&prod.world) });
    let reply = promote(&mut prod.world, nothing, World::by("olivia"));
    assert!(matches!(reply, Reply::Failed(Failure::NoCandidate(_))), "{reply:?}");
    prod.world.assert_replays();
}

/// A backtest of what the agent decides by against itself.
fn backtest_of(world: &World) -> Backtested {
    backtest(world, &world.state.acting())
}

/// A server of prod that nothing happens on, with a candidate and a backtest that speaks for it.
fn promising() -> (World, Box<Backtested>) {
    let mut world = World::new(Env::Prod);
    let snapshot = learned(Env::Prod, Signature::Down, &[(Action::Restart, 3, 9)]);
    import(&mut world, &snapshot, false);
    let candidate = world.state.taught();
    let judged = backtest(&world, &candidate);
    assert_ne!(judged.acting, judged.candidate);
    (world, Box::new(Backtested { verdict: Verdict::Better, why: None, ..judged }))
}

fn asked(world: &mut World, backtest: &Backtested) -> u64 {
    let reply = promote(world, Box::new(backtest.clone()), World::by("olivia"));
    let Reply::Done { seq: Some(approval) } = reply else { panic!("{reply:?}") };
    approval
}

fn state(world: &World, approval: u64) -> ApprovalState {
    world.state.learning.promotion(approval).expect("the newest one").state
}

#[test]
fn a_promotion_ends_when_it_is_rejected_replaced_late_or_rests_on_other_rules() {
    let (mut world, backtest) = promising();
    let rejected = asked(&mut world, &backtest);
    let (comment, by) = ("not on a Friday".to_owned(), World::by("ann"));
    world.give(&Input::Reject { approval: rejected, comment, by });
    assert_eq!(state(&world, rejected), ApprovalState::Rejected);

    let replaced = asked(&mut world, &backtest);
    let late = asked(&mut world, &backtest);
    assert!(world.state.learning.promotion(replaced).is_none());
    assert_eq!(world.count("APPROVAL_SUPERSEDED"), 1);
    world.pass(world.policy.approval.ttl_ms + 1_000);
    assert_eq!(state(&world, late), ApprovalState::Expired);
    let reply = world.approve(late, None, World::by("ann"));
    assert_eq!(reply, Reply::Failed(Failure::ApprovalExpired(late)));

    let ruled = asked(&mut world, &backtest);
    let mut policy = world.policy.clone();
    policy.confidence.r1 += 10;
    world.apply(policy, Author::Principal("adam".to_owned()));
    let reply = world.approve(ruled, None, World::by("ann"));
    assert!(matches!(reply, Reply::Failed(Failure::PlanChanged { .. })), "{reply:?}");

    let frozen = asked(&mut world, &backtest);
    let by = World::by("olivia");
    world.give(&Input::Freeze { frozen: true, reason: "drill".to_owned(), by });
    let reply = world.approve(frozen, None, World::by("ann"));
    assert_eq!(reply, Reply::Failed(Failure::Frozen));
    assert!(world.state.acting().is_empty());
    world.assert_replays();
}

#[test]
fn what_is_learned_while_a_promotion_waits_stays_behind_it() {
    let (mut world, backtest) = promising();
    let approval = asked(&mut world, &backtest);
    let asked_for = world.state.taught();
    let more = learned(Env::Prod, Signature::Flap, &[(Action::ScaleUp, 9, 9)]);
    import(&mut world, &more, false);
    let grown = world.state.taught();
    assert_ne!(grown, asked_for);
    world.approve(approval, None, World::by("ann"));
    assert_eq!(world.state.acting(), asked_for, "what was judged, and nothing else");
    assert_eq!(world.state.taught(), grown, "the rest waits for the next one");
    world.assert_replays();
}

#[test]
fn what_was_learned_elsewhere_is_taken_in_once_and_is_in_the_log() {
    let mut world = World::new(Env::Stage);
    let look = Signature::MemRising;
    let snapshot = learned(Env::Stage, look, &[(Action::ScaleUp, 8, 9)]);
    let reply = import(&mut world, &snapshot, false);
    assert!(matches!(reply, Reply::Done { seq: Some(_) }), "{reply:?}");
    let beliefs = world.state.knowledge.beliefs(look).get(Action::ScaleUp);
    assert_eq!((beliefs.trials, beliefs.resolved), (9, 8));
    let value = world.state.table.row(FindingKind::MemoryOverload).get(Action::ScaleUp);
    assert_eq!((value.trials, value.verified), (9, 8));
    assert_eq!(world.state.learning.parents, std::slice::from_ref(&snapshot.digest));
    let again = import(&mut world, &snapshot, false);
    assert_eq!(again, Reply::Done { seq: None }, "what is known already changes nothing");

    // What this agent exported comes home under its own name, and counts once.
    let own = Snapshot::new(Env::Stage, AGENT, 9, &world.state.acting(), &[]);
    assert_eq!(import(&mut world, &own, false), Reply::Done { seq: None });

    assert!(matches!(forget(&mut world, false), Reply::Done { seq: Some(_) }));
    assert!(world.state.acting().is_empty() && world.state.learning.is_empty());
    assert_eq!(forget(&mut world, false), Reply::Done { seq: None });
    assert_eq!(world.count("LEARNING_IMPORTED") + world.count("LEARNING_RESET"), 2);
    world.assert_replays();
}

#[test]
fn environments_do_not_learn_from_each_other_but_weakly_and_when_asked_to() {
    let mut world = World::new(Env::Stage);
    let look = Signature::Down;
    let dev = learned(Env::Dev, look, &[(Action::Restart, 10, 100)]);
    let Reply::Invalid(violations) = import(&mut world, &dev, false) else { panic!("taken") };
    assert_eq!(violations[0].field, "snapshot.env");
    assert!(violations[0].rule.contains("weak prior"), "{violations:?}");
    let own = learned(Env::Stage, look, &[(Action::Restart, 1, 1)]);
    assert!(matches!(import(&mut world, &own, true), Reply::Invalid(_)), "it is no other one");
    assert!(world.state.acting().is_empty());

    assert!(matches!(import(&mut world, &dev, true), Reply::Done { seq: Some(_) }));
    let there = dev.knowledge.beliefs(look).get(Action::Restart);
    let here = world.state.knowledge.beliefs(look).get(Action::Restart);
    assert!(here.offset < Fixed::ZERO && here.offset > there.offset);
    assert!(here.precision < there.precision && here.trials == 20);
    assert_eq!(world.state.table, ValueTable::default(), "values mean nothing elsewhere");
    let said = world.log.iter().find_map(|record| match &record.body {
        Body::LearningChanged(change) => match &**change {
            LearningChange::Imported(imported) => Some((imported.from, imported.weak_prior)),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(said, Some((Env::Dev, true)));
    world.assert_replays();
}

#[test]
fn nothing_learned_is_changed_by_hand_while_it_is_frozen_or_by_what_is_no_human() {
    let mut world = World::new(Env::Stage);
    let snapshot = learned(Env::Stage, Signature::Down, &[(Action::Restart, 3, 9)]);
    let parsed = Box::new(snapshot.clone());
    let by = By { human: false, ..World::by("monitor-1") };
    let input = Input::Import { snapshot: parsed, weak_prior: false, reason: String::new(), by };
    let reply = world.give(&input);
    assert_eq!(reply, Reply::Failed(Failure::NotHuman("monitor-1".to_owned())));
    let by = World::by("olivia");
    world.give(&Input::Freeze { frozen: true, reason: "drill".to_owned(), by });
    assert_eq!(import(&mut world, &snapshot, false), Reply::Failed(Failure::Frozen));
    assert_eq!(forget(&mut world, true), Reply::Failed(Failure::Frozen));
    let judged = Box::new(backtest_of(&world));
    let reply = promote(&mut world, judged.clone(), World::by("olivia"));
    assert_eq!(reply, Reply::Failed(Failure::Frozen));
    let by = World::by("olivia");
    world.give(&Input::Freeze { frozen: false, reason: "over".to_owned(), by });
    let reply = promote(&mut world, judged, World::by("olivia"));
    assert!(
        matches!(reply, Reply::Failed(Failure::NoCandidate(_))),
        "stage acts on what it learns"
    );
    world.assert_replays();
}
