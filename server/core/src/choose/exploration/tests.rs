use proptest::prelude::*;

use super::*;
use crate::choose::Proposal;
use crate::detect::story::Story;
use crate::policy::{Learner, Policy};
use crate::signal::{MICRO, Metric};
use crate::state::Remembered;

const MINUTE: Millis = 60_000;

/// Memory that fills up, in dev, where every decision explores that may.
fn curious() -> Story {
    let mut story = Story::healthy(2);
    (0..3).for_each(|_| _ = story.hears(Metric::MemoryUtilization, MICRO / 100 * 95));
    story.policy = Policy::default_for(Env::Dev);
    story.policy.learning.learner = Learner::Q;
    story.policy.learning.exploration_ppm = 1_000_000;
    story
}

fn decided(story: &mut Story, ago: Millis, explored: bool) {
    let (action, executed, human) = (Action::ScaleUp, true, false);
    let (seq, at) = (story.seq, story.now.saturating_sub(ago));
    let remembered = Remembered { seq, at, action, executed, human, explored, outcome: None };
    story.app.decisions.push_back(remembered);
}

/// When the incident began.
fn story_begin(story: &Story) -> Millis {
    story.app.open.values().map(|open| open.since).min().unwrap()
}

/// What is chosen in a hundred situations that differ in nothing but the draw.
fn chosen(story: &Story) -> Vec<Proposal> {
    let draw = |seq| Story { seq, ..story.clone() }.chooses();
    (0..100).map(draw).collect()
}

fn explores(story: &Story) -> bool {
    let chosen = chosen(story);
    let certain = |p: &Proposal| p.propensity_ppm == draw::CERTAIN_PPM;
    let (explored, best): (Vec<_>, Vec<_>) = chosen.iter().partition(|p| p.explored);
    // Where nothing is drawn the choice is certain, and says so.
    assert!(if explored.is_empty() { best.iter().all(|p| certain(p)) } else { true });
    assert!(explored.iter().all(|p| !certain(p)), "{explored:?}");
    !explored.is_empty()
}

#[test]
fn each_limit_alone_keeps_the_agent_from_exploring() {
    assert!(explores(&curious()), "or nothing below says anything");

    let mut spent = curious();
    spent.leeway.budget_spent = true;
    assert!(!explores(&spent), "an app that was down for too long is no place for experiments");

    let mut troubled = curious();
    troubled.leeway.elsewhere = 1;
    assert!(!explores(&troubled), "its trouble may come from another app");

    let mut waiting = curious();
    waiting.leeway.waits = true;
    assert!(!explores(&waiting), "what a human looks at is not exchanged by chance");

    // The incident is a few seconds old, and the day was long: one more would be within its share.
    let mut before = curious();
    decided(&mut before, DAY / 2, true);
    (0..2 * SHARE).for_each(|_| decided(&mut before, DAY / 2, false));
    assert!(explores(&before));
    let mut again = before.clone();
    let begun = story_begin(&again);
    again.app.decisions.iter_mut().for_each(|decision| decision.at = begun);
    assert!(!explores(&again), "once per incident");
}

#[test]
fn an_app_is_explored_once_a_day_or_in_one_of_fifty_decisions() {
    let mut today = curious();
    decided(&mut today, DAY - MINUTE, true);
    assert!(!explores(&today), "an earlier incident of the same day");
    let mut yesterday = curious();
    decided(&mut yesterday, DAY + MINUTE, true);
    assert!(explores(&yesterday));

    let mut busy = today.clone();
    (0..2 * SHARE).for_each(|n| decided(&mut busy, n as u64 * MINUTE, false));
    assert!(explores(&busy), "one of more than a hundred");
    busy.app.decisions.truncate(2 * SHARE - 1);
    assert!(!explores(&busy), "one of less than a hundred");
}

#[test]
fn what_seldom_helps_is_not_tried_out_of_curiosity() {
    let mut story = curious();
    let finding = crate::choose::primary(&story.findings()).unwrap().kind;
    let weak = |story: &Story| {
        let candidates = story.chooses().candidates;
        let odd = candidates.iter().find(|c| c.action == Action::ScaleUp).unwrap().chance;
        odd < CHANCE_MIN
    };
    for _ in 0..40 {
        if weak(&story) {
            break;
        }
        let taught = crate::choose::Taught::Outcome(crate::state::Outcome::Failed);
        let action = Action::ScaleUp;
        story.table.learn(&crate::choose::Lesson { finding, action, taught, took_ms: 60_000 });
    }
    assert!(weak(&story));
    assert!(!explores(&story));
}

#[test]
fn a_record_from_before_the_limits_is_judged_as_it_was() {
    let mut story = curious();
    story.leeway = Leeway { budget_spent: true, elsewhere: 3, waits: true };
    decided(&mut story, 0, true);
    assert!(!explores(&story));
    let findings = story.findings();
    let row = crate::choose::Row::default();
    let beliefs = crate::choose::ccq::Beliefs::default();
    let old = |seq| {
        crate::choose::choose(&Choice {
            app: &story.app,
            policy: &story.policy,
            findings: &findings,
            reading: &story.reading,
            row: &row,
            beliefs: &beliefs,
            frozen: false,
            leeway: None,
            now: story.now,
            seq,
        })
    };
    assert!((0..100).any(|seq| old(seq).explored));
}

proptest! {
    /// Whatever the situation: who explores was allowed to.
    #[test]
    fn an_exploratory_choice_keeps_every_limit(
        budget_spent in any::<bool>(), elsewhere in 0..2_u32, waits in any::<bool>(),
        frozen in any::<bool>(), env in 0..3_usize, seq in any::<u64>(),
        past in prop::collection::vec((0..2 * DAY, any::<bool>()), 0..8),
    ) {
        let mut story = curious();
        story.policy.env = Env::ALL[env];
        story.leeway = Leeway { budget_spent, elsewhere, waits };
        (story.frozen, story.seq) = (frozen, seq);
        for (ago, explored) in &past {
            decided(&mut story, *ago, *explored);
        }
        let proposal = story.chooses();
        let today = past.iter().filter(|(ago, explored)| *explored && *ago <= DAY).count();
        prop_assert!(proposal.candidates.len() > 1);
        if proposal.explored {
            prop_assert!(!budget_spent && elsewhere == 0 && !waits && !frozen && today == 0);
            prop_assert!(Env::ALL[env] != Env::Stage);
            prop_assert!(matches!(proposal.action, Action::Restart | Action::ScaleUp));
            prop_assert!(proposal.candidates[0].chance >= CHANCE_MIN);
            prop_assert!(proposal.propensity_ppm < draw::CERTAIN_PPM);
        }
    }
}
