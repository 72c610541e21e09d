//! Monitors that are lost: what they said expires, and that says nothing about the app.

use crate::app::Env;
use crate::record::Body;
use crate::signal::{MICRO, Metric};
use crate::step::Input;
use crate::step::world::World;

const TTL: u64 = 15_000;

/// The monitor of the CPU is never heard again while another one goes on; what the shell would give the brain each second.
fn lose_the_cpu_monitor(world: &mut World, app: &crate::app::AppName, seconds: u64) {
    let mut before = None;
    for _ in 0..seconds {
        world.now += 1_000;
        world.say(app, "other", Metric::RequestRate, MICRO);
        let reading = world.close(app);
        if reading.has_expired_since(before.as_ref()) {
            world.give(&Input::Stale(reading.clone()));
        }
        before = Some(reading);
    }
}

#[test]
fn a_lost_monitor_is_on_record_once_and_its_app_stays_as_it_is() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    world.say(&app, "edge", Metric::CpuUtilization, MICRO / 2);
    let from = world.now;
    let acted = world.executed.len();
    let health = world.app(&app).health();
    lose_the_cpu_monitor(&mut world, &app, 60);
    let told: Vec<_> =
        world.log.iter().filter(|r| r.body.event_name() == "SIGNALS_EXPIRED").collect();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    let Body::SignalsExpired { metrics } = &told.body else { panic!("{told:?}") };
    assert_eq!(*metrics, [(Metric::CpuUtilization, from + TTL)].into());
    assert_eq!(world.executed.len(), acted, "nothing is done about it");
    assert_eq!(world.app(&app).health(), health, "and nothing is concluded about the app");
    world.assert_replays();
}

#[test]
fn a_monitor_that_comes_and_goes_does_not_flood_the_log() {
    let mut world = World::new(Env::Stage);
    let app = world.onboard("web", 1);
    for _ in 0..10 {
        world.say(&app, "edge", Metric::CpuUtilization, MICRO / 2);
        lose_the_cpu_monitor(&mut world, &app, 20);
    }
    // 200 s, and silence counts as a finding after 45 s.
    let expected = 200 / 45 + 1;
    let told = world.count("SIGNALS_EXPIRED");
    assert!((2..=expected).contains(&told), "{told}");
}

#[test]
fn an_app_nobody_knows_any_more_is_no_input() {
    let mut world = World::new(Env::Stage);
    let app = crate::app::AppName::parse("gone").unwrap();
    let mut reading = crate::signal::Reading::silent(app, world.now, None);
    reading.stale.insert(Metric::CpuUtilization, world.now);
    let before = world.log.len();
    world.give(&Input::Stale(reading));
    assert_eq!(world.log.len(), before);
}
