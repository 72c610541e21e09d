//! What is kept of the log: snapshots, exports, and what may be pruned.

use crate::app::Millis;
use crate::record::{Body, Exported, HandedOver, Pruned, Snapshotted};
use crate::state::Kept;
use crate::tlog::tree::TILE_WIDTH;

use super::request::{clip, is_answered, request_of};
use super::{By, Context, Failure, Reply};

/// A wish to prune.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// Records before this one.
    pub before: u64,
    /// Why.
    pub reason: String,
    /// When the newest record was made that would go; `None` if there is none.
    pub newest_at: Option<Millis>,
    /// What the records that would go say about keys of the log.
    pub keys: Vec<HandedOver>,
}

impl Prune {
    /// The last record that goes: bundles go whole, so fewer may go than were asked for.
    #[must_use]
    pub const fn upto(&self) -> u64 {
        let wanted = self.before.saturating_sub(1);
        wanted - wanted % TILE_WIDTH
    }
}

/// What has to be so before records may go, and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// There are not so many.
    #[error("the newest record is {head}")]
    Ahead {
        /// The newest one.
        head: u64,
    },
    /// Nothing would go.
    #[error(
        "no whole bundle of {TILE_WIDTH} records lies before it, and the oldest record is {oldest}"
    )]
    Nothing {
        /// The oldest one that is kept.
        oldest: u64,
    },
    /// They would be gone for good.
    #[error(
        "an export is on record for the records up to {exported}, and those up to {upto} would go"
    )]
    NotExported {
        /// What the largest export has.
        exported: u64,
        /// What would go.
        upto: u64,
    },
    /// A start would not find the state they led to.
    #[error(
        "the newest snapshot of the state is that after record {snapshot}, and those up to {upto} would go"
    )]
    NoSnapshot {
        /// The newest snapshot.
        snapshot: u64,
        /// What would go.
        upto: u64,
    },
    /// The policy wants them kept for longer.
    #[error("the newest of them was made at {made}, and the policy keeps records for {keep_ms} ms")]
    Young {
        /// When, as text.
        made: String,
        /// For how long.
        keep_ms: Millis,
    },
}

/// The state is kept beside the log.
pub(super) fn snapshotted(ctx: &mut Context<'_>, snapshot: &Snapshotted) {
    if snapshot.upto > ctx.state.kept.snapshot {
        let seq = ctx.write(None, None, Body::Snapshotted(Box::new(snapshot.clone())));
        ctx.reply = Reply::Done { seq: Some(seq) };
    } else {
        ctx.reply = Reply::Done { seq: None };
    }
}

/// Somebody has an export. A smaller one than is on record adds nothing.
pub(super) fn exported(ctx: &mut Context<'_>, export: &Exported, by: &By) {
    if is_answered(ctx, by) {
        return;
    }
    if export.size <= ctx.state.kept.exported || by.validate_only {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    let body = Body::Exported(Exported { request: request_of(by), ..export.clone() });
    let seq = ctx.write_as(by.principal.clone(), None, None, body);
    ctx.reply = Reply::Done { seq: Some(seq) };
}

/// Records are to go, if nothing stands against it. This only says so: the shell removes them once that is durable.
pub(super) fn prune(ctx: &mut Context<'_>, wish: &Prune, by: &By) {
    if is_answered(ctx, by) {
        return;
    }
    let unmet = unmet(ctx, wish);
    if !unmet.is_empty() {
        ctx.reply = Reply::Failed(Failure::Unprunable { before: wish.before, unmet });
        return;
    }
    if by.validate_only {
        ctx.reply = Reply::Done { seq: None };
        return;
    }
    let Kept { exported, exported_seq, .. } = ctx.state.kept;
    let body = Body::Pruned(Pruned {
        upto: wish.upto(),
        exported,
        reason: clip(&wish.reason, 1_024),
        keys: wish.keys.clone(),
        request: request_of(by),
    });
    let seq = ctx.write_as(by.principal.clone(), None, Some(exported_seq), body);
    ctx.reply = Reply::Done { seq: Some(seq) };
}

fn unmet(ctx: &Context<'_>, wish: &Prune) -> Vec<Unmet> {
    let (state, upto) = (ctx.state, wish.upto());
    let Kept { snapshot, exported, .. } = state.kept;
    let head = state.last_seq;
    if wish.before > head {
        return vec![Unmet::Ahead { head }];
    }
    if upto <= state.kept.pruned {
        return vec![Unmet::Nothing { oldest: state.kept.oldest() }];
    }
    let mut unmet = Vec::new();
    if exported < upto {
        unmet.push(Unmet::NotExported { exported, upto });
    }
    if snapshot < upto {
        unmet.push(Unmet::NoSnapshot { snapshot, upto });
    }
    let keep_ms = ctx.policy.retention.keep_ms;
    // One whose age is not known counts as made now.
    let made = wish.newest_at.unwrap_or(ctx.now);
    if ctx.now.saturating_sub(made) < keep_ms {
        unmet.push(Unmet::Young { made: crate::record::format_time(made), keep_ms });
    }
    unmet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Env;
    use crate::chain::GENESIS;
    use crate::step::Input;
    use crate::step::world::World;

    fn old_world() -> World {
        let mut world = World::new(Env::Stage);
        world.onboard("web", 1);
        while world.state.last_seq < 1_000 {
            world.now += 1_000;
            let path = vec!["idle".into()];
            world.give(&Input::Transition { path });
        }
        world
    }

    fn export(world: &mut World, size: u64) -> Reply {
        let export = Exported { first: 1, size, root: GENESIS, request: None };
        world.give(&Input::Exported { export, by: World::by("adam") })
    }

    fn snapshot(world: &mut World, upto: u64) -> Reply {
        let policy = Box::new(world.policy.clone());
        let snapshot = Snapshotted { upto, root: GENESIS, sha256: GENESIS, bytes: 1, policy };
        world.give(&Input::Snapshotted(Box::new(snapshot)))
    }

    fn prune(world: &mut World, before: u64, by: By) -> Reply {
        let newest_at = world.log.get(usize::try_from(before).unwrap_or(0)).map(|r| r.at);
        let wish = Prune { before, reason: "disk".to_owned(), newest_at, keys: Vec::new() };
        world.give(&Input::Prune { wish, by })
    }

    fn unmet(reply: Reply) -> Vec<Unmet> {
        match reply {
            Reply::Failed(Failure::Unprunable { unmet, .. }) => unmet,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_go_only_once_an_export_and_a_snapshot_have_what_they_say() {
        let mut world = old_world();
        let by = || World::by("adam");
        // Everything that is missing is said at once.
        let both = unmet(prune(&mut world, 600, by()));
        let (upto, before) = (512, world.state.last_seq);
        assert_eq!(
            both,
            [Unmet::NotExported { exported: 0, upto }, Unmet::NoSnapshot { snapshot: 0, upto }]
        );
        assert_eq!(world.state.last_seq, before, "a refusal writes nothing");
        assert_eq!(export(&mut world, 511), Reply::Done { seq: Some(before + 1) });
        snapshot(&mut world, 512);
        assert_eq!(
            unmet(prune(&mut world, 600, by())),
            [Unmet::NotExported { exported: 511, upto }]
        );
        export(&mut world, 600);
        assert_eq!(export(&mut world, 300), Reply::Done { seq: None }, "less than is on record");
        let dry = By { validate_only: true, ..by() };
        assert_eq!(prune(&mut world, 600, dry), Reply::Done { seq: None });
        assert_eq!(world.state.kept.pruned, 0);
        let seq = world.state.last_seq + 1;
        assert_eq!(prune(&mut world, 600, by()), Reply::Done { seq: Some(seq) });
        assert_eq!(world.state.kept.oldest(), 513);
        assert_eq!(unmet(prune(&mut world, 600, by())), [Unmet::Nothing { oldest: 513 }]);
        assert!(matches!(
            &unmet(prune(&mut world, 1_000, by()))[..],
            [Unmet::NotExported { .. }, Unmet::NoSnapshot { .. }]
        ));
        world.assert_replays();
    }

    #[test]
    fn what_cannot_be_pruned_in_any_way_is_said_alone() {
        let mut world = old_world();
        let head = world.state.last_seq;
        for before in [head + 1, head + 2, u64::MAX] {
            let found = unmet(prune(&mut world, before, World::by("adam")));
            assert_eq!(found, [Unmet::Ahead { head }], "{before}");
        }
        for before in [0, 1, 2, 256] {
            let found = unmet(prune(&mut world, before, World::by("adam")));
            assert_eq!(found, [Unmet::Nothing { oldest: 1 }], "{before}");
        }
    }

    #[test]
    fn the_policy_says_how_old_a_record_must_be() {
        let mut world = old_world();
        export(&mut world, 900);
        snapshot(&mut world, 900);
        let mut policy = world.policy.clone();
        policy.retention.keep_ms = 1_000_000;
        world.apply(policy, crate::record::Author::Principal("adam".to_owned()));
        let young = unmet(prune(&mut world, 800, World::by("adam")));
        assert!(matches!(young[..], [Unmet::Young { keep_ms: 1_000_000, .. }]), "{young:?}");
        world.now += 1_000_000;
        assert!(matches!(prune(&mut world, 800, World::by("adam")), Reply::Done { seq: Some(_) }));
    }

    #[test]
    fn the_same_request_prunes_once() {
        let mut world = old_world();
        export(&mut world, 900);
        snapshot(&mut world, 900);
        let by = || World::with_request("adam", "id", "content");
        let Reply::Done { seq: Some(seq) } = prune(&mut world, 800, by()) else { panic!() };
        assert_eq!(prune(&mut world, 800, by()), Reply::Repeated { seq });
    }
}
