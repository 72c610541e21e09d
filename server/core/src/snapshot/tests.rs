use proptest::prelude::*;

use super::*;
use crate::app::Env;
use crate::chain::GENESIS;
use crate::digest::sha256_hex;
use crate::policy::Policy;
use crate::replay::Replay;
use crate::signal::Metric;
use crate::state::Scope;
use crate::step::Input;
use crate::step::world::World;

/// One thing that happens to the two apps of a small world.
#[derive(Debug, Clone, Copy)]
enum Event {
    Crash(bool, u32),
    Break(bool),
    Mend,
    Deploy(bool),
    Pass(u64),
    Load(bool),
    Restart(bool),
    Pause,
    Resume,
    Freeze(bool),
    Offboard,
    Onboard,
    Approve,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (any::<bool>(), 0u32..2).prop_map(|(app, slot)| Event::Crash(app, slot)),
        any::<bool>().prop_map(Event::Break),
        Just(Event::Mend),
        any::<bool>().prop_map(Event::Deploy),
        (1u64..90).prop_map(Event::Pass),
        any::<bool>().prop_map(Event::Load),
        any::<bool>().prop_map(Event::Restart),
        Just(Event::Pause),
        Just(Event::Resume),
        any::<bool>().prop_map(Event::Freeze),
        Just(Event::Offboard),
        Just(Event::Onboard),
        Just(Event::Approve),
    ]
}

/// A world after these events.
fn lived(env: Env, events: &[Event]) -> World {
    let mut world = World::new(env);
    let apps = [world.onboard("web", 2), world.onboard("api", 2)];
    for event in events {
        happen(&mut world, &apps, *event);
    }
    world
}

fn happen(world: &mut World, apps: &[crate::app::AppName; 2], event: Event) {
    let app = |second: bool| &apps[usize::from(second)];
    let known = |world: &World, second| world.state.apps.contains_key(app(second));
    let by = World::with_request("olivia", &world.state.last_seq.to_string(), "content");
    match event {
        Event::Crash(second, slot) if known(world, second) => world.crash(app(second), slot),
        Event::Break(second) => world.broken.push(app(second).clone()),
        Event::Mend => world.broken.clear(),
        Event::Deploy(second) if known(world, second) => {
            let next = world.state.specs[app(second)].revisions.len().to_string();
            let request = crate::app::OnboardRequest {
                environment: [("VERSION".to_owned(), next)].into(),
                ..Default::default()
            };
            world.update(app(second), request, [crate::app::Field::Environment], None);
        }
        Event::Pass(seconds) => world.pass(seconds * 1_000),
        Event::Load(second) if known(world, second) => {
            for _ in 0..20 {
                world.say(app(second), "one", Metric::CpuUtilization, 990_000);
                world.tick(1_000);
            }
        }
        Event::Restart(second) if known(world, second) => {
            world.act(app(second), "restart", by);
        }
        Event::Pause => {
            let (scope, reason) = (Scope::Env, "because".to_owned());
            world.give(&Input::Pause { scope, halt: false, reason, ttl_ms: Some(60_000), by });
        }
        Event::Resume => {
            world.give(&Input::Resume { scope: Scope::Env, reason: String::new(), by });
        }
        Event::Freeze(frozen) => {
            world.give(&Input::Freeze { frozen, reason: String::new(), by });
        }
        Event::Offboard if known(world, true) => {
            world.offboard(app(true), by);
        }
        Event::Onboard if !known(world, true) => {
            world.try_onboard(World::request("api", 1), by);
        }
        Event::Approve => {
            let pending = world.state.approvals.keys().next_back().copied();
            if let Some(approval) = pending {
                world.approve(approval, None, World::by("adam"));
            }
        }
        _ => {}
    }
}

/// The state at `at` records, kept, read back by `read`, and what follows folded in.
fn resumed(world: &World, at: usize, read: &dyn Fn(&[u8]) -> Snapshot) -> Replay {
    let mut replay = Replay::new(world.state.env);
    world.log[..at].iter().for_each(|record| replay.fold(record));
    let log = "a log".to_owned();
    let kept = Snapshot::new(log, GENESIS, GENESIS, replay.policy.clone(), replay.state);
    let mut replay = Replay::resume(read(&kept.encode()));
    world.log[at..].iter().for_each(|record| replay.fold(record));
    replay
}

fn agrees(world: &World, at: usize, read: &dyn Fn(&[u8]) -> Snapshot) -> bool {
    let resumed = resumed(world, at, read);
    resumed.state == world.state && resumed.policy == world.policy
}

/// What a run of the property is made of; the same for the sound and the planted one.
fn histories() -> impl Strategy<Value = (bool, Vec<Event>, prop::sample::Index)> {
    (any::<bool>(), prop::collection::vec(event(), 1..16), any::<prop::sample::Index>())
}

fn world_of(dev: bool, events: &[Event]) -> World {
    lived(if dev { Env::Dev } else { Env::Stage }, events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_snapshot_and_what_follows_is_the_same_as_everything((dev, events, at) in histories()) {
        let world = world_of(dev, &events);
        let at = at.index(world.log.len());
        prop_assert!(agrees(&world, at, &|bytes| Snapshot::decode(bytes).unwrap()));
    }
}

/// Forgets one part of the state: the property above has to notice that.
fn forgetful(part: &'static str) -> impl Fn(&[u8]) -> Snapshot {
    move |bytes| {
        let mut snapshot = Snapshot::decode(bytes).unwrap();
        let state = &mut snapshot.state;
        match part {
            "ledgers" => state.ledgers.clear(),
            "requests" => state.requests.clear(),
            "table" => state.table = Default::default(),
            "specs" => state.specs.clear(),
            "pauses" => state.mode.pauses.clear(),
            _ => {
                let names: Vec<_> = state.apps.keys().cloned().collect();
                names.iter().for_each(|app| state.apps.get_mut(app).unwrap().breakers.clear());
            }
        }
        snapshot
    }
}

#[test]
fn planted_a_snapshot_that_forgets_anything_is_noticed() {
    use Event::{Crash, Deploy, Load, Pass, Pause, Restart};
    let one = [Crash(false, 1), Pass(80), Load(true), Event::Break(true), Crash(true, 0)];
    let two = [Pass(80), Deploy(false), Pass(80), Restart(false), Pass(20), Pause];
    let world = world_of(false, &[&one[..], &two].concat());
    let end = world.log.len();
    assert!(agrees(&world, end, &|bytes| Snapshot::decode(bytes).unwrap()));
    let parts = ["ledgers", "requests", "table", "specs", "pauses", "breakers"];
    for part in parts {
        assert!(!agrees(&world, end, &forgetful(part)), "{part} can be lost");
    }
}

#[test]
fn equal_states_have_equal_bytes() {
    let events = [Event::Crash(false, 1), Event::Pass(60), Event::Deploy(true)];
    let bytes = || {
        let world = world_of(false, &events);
        let (policy, state) = (world.policy.clone(), world.state);
        Snapshot::new("a log".to_owned(), GENESIS, GENESIS, policy, state).encode()
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn what_is_no_snapshot_of_this_version_is_refused() {
    let world = World::new(Env::Stage);
    let policy = Policy::default_for(Env::Stage);
    let whole = Snapshot::new("a log".to_owned(), GENESIS, GENESIS, policy, world.state);
    let bytes = whole.encode();
    assert_eq!(Snapshot::decode(&bytes).unwrap(), whole);
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(Snapshot::decode(&bytes[..cut]), Err(Error::Json(_))), "cut at {cut}");
    }
    let newer = Snapshot { format: FORMAT + 1, ..whole.clone() };
    assert!(
        matches!(Snapshot::decode(&newer.encode()), Err(Error::Format(found)) if found == FORMAT + 1)
    );
    let torn = Snapshot { seq: whole.seq + 1, ..whole };
    assert!(matches!(Snapshot::decode(&torn.encode()), Err(Error::Torn { .. })));
}

const SHAPE: &str = "1aa67b8abe7dc9eb2bbc72cb3d87a0ce069f9d159983de31af44374ef69af4c3";

/// The shape of a state in which much has happened. Where this differs the encoding changed: if old snapshots still mean the same, put
/// the new digest here; if not, also raise [`FORMAT`].
#[test]
fn a_change_of_the_encoding_is_noticed() {
    fn shape(value: &serde_json::Value, out: &mut std::collections::BTreeSet<String>, path: &str) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, field) in fields {
                    // Names of apps, numbers and findings are data; what stands for itself is the name of a field.
                    let named = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                    let data = !named || ["web", "api"].contains(&name.as_str());
                    shape(field, out, &format!("{path}.{}", if data { "*" } else { name }));
                }
            }
            serde_json::Value::Array(items) => {
                items.iter().for_each(|item| shape(item, out, &format!("{path}[]")));
            }
            _ => {
                out.insert(path.to_owned());
            }
        }
    }
    let events = [Event::Crash(false, 1), Event::Pass(80), Event::Deploy(true), Event::Pass(60)];
    let world = world_of(false, &events);
    let value = serde_json::to_value(&world.state).unwrap();
    let mut found = std::collections::BTreeSet::new();
    shape(&value, &mut found, "");
    let text = found.into_iter().collect::<Vec<_>>().join("\n");
    assert_eq!(sha256_hex(text.as_bytes()), SHAPE, "\n{text}");
}
