//! Whose turn it is when several apps show the same finding: what the gate `common_cause` is told.
//!
//! | of the other apps | this one |
//! |---|---|
//! | none was acted on for it | goes at once: a crash of one app waits for nobody |
//! | one is being tried, too few show it for a cause | waits until another would have joined at the pace of a cause |
//! | one is being tried | waits for what comes of it |
//! | a human is asked about one | waits a window from the question, and no longer: the answer may never come |
//! | one was tried in vain | waits a window from that effect, and is the next canary |
//! | `n` were healed by it | goes while no more than `n` others are being tried: 1, 2, 4 ... |
//!
//! Failing apps are counted and not effects: of an outage that takes one app after the other along, all but the first wait from the
//! moment they fail, long before so many are down that it is called a storm.

use crate::app::{AppName, Millis};
use crate::choose::Proposal;
use crate::detect::FindingKind;
use crate::gates::CommonCause;
use crate::state::{AppState, ApprovalState, Outcome, State};

use super::Context;

/// Windows over which apps of one outage still count together: what is tried in turn shows the finding anew at each try.
const TURNS: u64 = 5;

/// What another app has to do with the cause.
enum Part {
    /// Nothing.
    None,
    /// It shows the same finding, and nothing was done about it.
    Shows,
    /// An effect was begun, and it is not known to have helped: it counts until then, or until more is known.
    Tried { since: Millis, until: Option<Millis> },
    /// An effect has helped it.
    Healed,
}

/// What the parts are told by.
struct Cause<'a> {
    state: &'a State,
    kind: FindingKind,
    /// When the app that asks was found to have it.
    raised: Millis,
    window: Millis,
    now: Millis,
}

/// The cause that `app` shares with others, if it does.
pub(super) fn of(ctx: &Context<'_>, app: &AppState, proposal: &Proposal) -> Option<CommonCause> {
    // A human who approved it knew of the others, and would have to be asked all over again.
    if proposal.grant.is_some() {
        return None;
    }
    let kind = match *proposal.because.first()? {
        // Of crashes the third one is called a loop; it is the same trouble.
        FindingKind::CrashLoop => FindingKind::Crash,
        kind => kind,
    };
    let (rule, raised, now) = (&ctx.policy.storm, app.open.get(&kind)?.since, ctx.now);
    let window = rule.common_window_ms;
    let cause = Cause { state: ctx.state, kind, raised, window, now };
    let me = &app.profile.name;
    let (mut apps, mut healed) = (1_u32, 0_u32);
    let mut first: Option<(Millis, &AppName)> = None;
    let mut tried: Vec<Millis> = Vec::new();
    for (name, other) in ctx.state.apps.iter().filter(|(name, _)| *name != me) {
        match cause.part(other) {
            Part::None => continue,
            Part::Shows => {}
            Part::Healed => healed = healed.saturating_add(1),
            Part::Tried { since, until } => {
                let earlier = first.is_none_or(|known| (since, name) < known);
                first = if earlier { Some((since, name)) } else { first };
                tried.push(until.unwrap_or(Millis::MAX));
            }
        }
        apps = apps.saturating_add(1);
    }
    let position = u32::try_from(tried.len()).unwrap_or(u32::MAX);
    let mut until = turn(tried, healed);
    if apps < rule.common_apps {
        // So few may be chance: it is none if another one joins before this.
        let pace = window.checked_div(rule.common_apps.into()).unwrap_or(window);
        let chance = raised.saturating_add(pace);
        if position == 0 || chance <= now {
            return None;
        }
        until = Some(until.map_or(chance, |until| until.min(chance)));
    }
    let first = first.map_or(me, |(_, name)| name).clone();
    Some(CommonCause { kind, apps, first, allowance: healed, position, until })
}

/// When so few of those that were tried still count that it is the next one's turn, as far as time alone brings it.
fn turn(mut tried: Vec<Millis>, healed: u32) -> Option<Millis> {
    tried.sort_unstable();
    let most = usize::try_from(healed).unwrap_or(usize::MAX);
    let last = tried.len().checked_sub(most)?.checked_sub(1)?;
    tried.get(last).copied().filter(|until| *until < Millis::MAX)
}

impl Cause<'_> {
    fn part(&self, other: &AppState) -> Part {
        let open = other.open.get(&self.kind).map(|open| open.since);
        if let Some(since) = self.under_way(other) {
            return Part::Tried { since, until: None };
        }
        let vain = self.in_vain(other).filter(|_| open.is_some());
        if let Some(since) = self.asked(other).or(vain) {
            return Part::Tried { since, until: Some(since.saturating_add(self.window)) };
        }
        match open {
            Some(since) if self.is_near(since) || self.is_within(TURNS, since) => Part::Shows,
            None if self.is_healed(other) => Part::Healed,
            _ => Part::None,
        }
    }

    /// When an effect against the finding was begun whose outcome is not known.
    fn under_way(&self, other: &AppState) -> Option<Millis> {
        let attempt = other.attempt.as_ref();
        let attempt = attempt.filter(|a| !a.human && a.trigger.contains(&self.kind))?;
        let at = attempt.started_at;
        (self.is_near(at) || self.is_within(1, at)).then_some(at)
    }

    /// When a human was asked for an effect against the finding, if that is less than a window ago.
    fn asked(&self, other: &AppState) -> Option<Millis> {
        let asked = other.approval.and_then(|seq| self.state.approvals.get(&seq)).filter(|a| {
            a.state == ApprovalState::Pending && !a.human && a.because.contains(&self.kind)
        })?;
        self.is_within(1, asked.requested_at).then_some(asked.requested_at)
    }

    /// When the last effect was begun, if it did not help and was begun just now.
    fn in_vain(&self, other: &AppState) -> Option<Millis> {
        let last = other.decisions.iter().rev().find(|d| d.executed && !d.human)?;
        let vain = matches!(last.outcome, Some(Outcome::Failed | Outcome::Inconclusive));
        (vain && self.is_within(1, last.at)).then_some(last.at)
    }

    /// Whether it had the finding in the same window, and is rid of it after an action that was verified.
    fn is_healed(&self, other: &AppState) -> bool {
        let since = self.raised.saturating_sub(self.window);
        let Some(cleared) = other.cleared.get(&self.kind).filter(|at| **at >= since) else {
            return false;
        };
        let earliest = cleared.saturating_sub(self.window.saturating_mul(TURNS));
        other
            .decisions
            .iter()
            .rev()
            .any(|d| d.executed && d.outcome == Some(Outcome::Verified) && d.at >= earliest)
    }

    /// Within a window of the finding of the app that asks.
    const fn is_near(&self, at: Millis) -> bool {
        at.abs_diff(self.raised) <= self.window
    }

    /// No longer ago than so many windows.
    const fn is_within(&self, windows: u64, at: Millis) -> bool {
        at.saturating_add(self.window.saturating_mul(windows)) > self.now
    }
}
