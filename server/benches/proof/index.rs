//! The index: how fast it follows, and how fast it answers.

use std::time::{Duration, Instant};

use agentd::index::{Index, Wanted};
use agentd::journal;
use agentd_core::action::Action;
use agentd_core::app::{AppName, Env};
use agentd_core::chain::{GENESIS, leaf_hash};
use agentd_core::reason::Reason;
use agentd_core::record::{Body, Record};
use bytes::Bytes;

use super::table::{Table, per_second, percentile};

const ENTRIES: u64 = 400_000;
const APPS: u64 = 100;

/// Entries of all four kinds of keys: app, event, reason, decision.
fn record(seq: u64) -> Record {
    let app = AppName::parse(&format!("app-{}", seq % APPS)).unwrap();
    let body = match seq % 3 {
        0 => Body::Refused {
            action: Action::Restart,
            reason: Reason::CooldownActive,
            instead: Action::Noop,
        },
        1 => Body::Indeterminate { decision: seq - 1 },
        _ => Body::StormEnded,
    };
    let (at, env, actor) = (1_795_448_641_000 + seq, Env::Stage, "agent-0badcafe".to_owned());
    Record { seq, at, env, app: Some(app), cause: Some(seq - 1), actor, trace: None, body }
}

pub(crate) async fn run(table: &mut Table, dir: &std::path::Path) {
    let config = journal::Config::new(dir.to_owned());
    let journal = journal::open(config, &mut |_, _| {}).unwrap().journal;
    let (mut prev, mut seq) = (GENESIS, 1);
    while seq <= ENTRIES {
        let first = seq;
        let mut lines = Vec::new();
        while lines.len() < 2_000 && seq <= ENTRIES {
            let line = record(seq).line(prev);
            (prev, seq) = (leaf_hash(&line), seq + 1);
            lines.push(Bytes::from(line));
        }
        journal.append(first, lines).await.unwrap();
    }
    let started = Instant::now();
    let index = Index::start(dir, &journal).unwrap();
    index.progress().wait_for(|progress| progress.upto == ENTRIES).await.unwrap();
    let rate = |started: Instant| ENTRIES as f64 / started.elapsed().as_secs_f64();
    table.rate("index, made from the log", rate(started), 80_000.0);
    let started = Instant::now();
    assert_eq!(index.compare().unwrap().difference, None);
    table.note("index, compared with the log", &per_second(rate(started)), "", None);
    let mut times: Vec<Duration> = (0..2_000)
        .map(|turn| {
            let wanted = Wanted { apps: vec![format!("app-{}", turn % APPS)], ..Wanted::default() };
            let started = Instant::now();
            assert_eq!(index.before(&wanted, ENTRIES + 1, 50).unwrap().0.len(), 50);
            started.elapsed()
        })
        .collect();
    let p99 = percentile(&mut times, 990);
    table.time("index, last 50 of an app, p99", p99, Duration::from_millis(1));
}
