//! The readings decisions are made on, as they are taken. Each look sends what is new since the last one, and nothing is queued:
//! a slow reader sees the newest reading of each app.

use std::collections::{BTreeMap, BTreeSet};

use agentctl_api::v1;
use agentd_core::app::{AppName, Millis};
use agentd_core::signal::Reading;
use tonic::Status;

use crate::grpc::pace::Looks;
use crate::grpc::status::{self, Violation};
use crate::grpc::{Services, outcome, to_proto};

/// Most apps of one watch that names them.
const APPS_MAX: usize = 100;
/// Readings of one answer: far below what any client takes in one message.
const PER_ANSWER: usize = 200;
/// The apps of a watch; none: all.
///
/// # Errors
/// `INVALID_ARGUMENT` with every name that is none, or for too many of them.
pub(super) fn apps(names: &[String]) -> Result<BTreeSet<AppName>, Status> {
    if names.len() > APPS_MAX {
        let rule = format!("must be at most {APPS_MAX} names");
        return Err(status::invalid(&[Violation::new("apps", names.len().to_string(), rule)]));
    }
    let (mut apps, mut wrong) = (BTreeSet::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        match AppName::parse(name) {
            Ok(app) => {
                apps.insert(app);
            }
            Err(_) => {
                let rule = "must be the name of an app";
                wrong.push(Violation::new(format!("apps[{index}]"), name, rule));
            }
        }
    }
    if wrong.is_empty() { Ok(apps) } else { Err(status::invalid(&wrong)) }
}

/// Looks again and again until the reader leaves or the server drains.
pub(super) async fn watch(looks: &Looks<'_, v1::WatchSignalsResponse>, apps: &BTreeSet<AppName>) {
    let mut sent = BTreeMap::new();
    loop {
        let readings = match news(looks.services, apps, std::mem::take(&mut sent)).await {
            Ok((readings, known)) => {
                sent = known;
                readings
            }
            Err(status) => {
                looks.show(Err(status)).await;
                return;
            }
        };
        for part in readings.chunks(PER_ANSWER) {
            if !looks.show(Ok(v1::WatchSignalsResponse { readings: part.to_vec() })).await {
                return;
            }
        }
        if !looks.wait().await {
            return;
        }
    }
}

/// When the newest signal of each app came, for what was sent already.
type Sent = BTreeMap<AppName, Millis>;

/// The readings with signals that are newer than those in `sent`, and what has been sent with them.
async fn news(
    services: &Services,
    apps: &BTreeSet<AppName>,
    mut sent: Sent,
) -> Result<(Vec<v1::SignalReading>, Sent), Status> {
    let apps = apps.clone();
    let news = services.agent.query(move |view| {
        let mut fresh = Vec::new();
        for (name, seen) in view.readings.heard() {
            let wanted = apps.is_empty() || apps.contains(name);
            if wanted && sent.insert(name.clone(), seen) != Some(seen) {
                fresh.extend(view.readings.get(name).as_ref().map(told));
            }
        }
        (fresh, sent)
    });
    news.await.map_err(outcome::gone)
}

fn told(reading: &Reading) -> v1::SignalReading {
    let metrics = reading.metrics.iter().filter_map(|(metric, series)| {
        // Where sources disagree decisions look at the worst of them.
        let (source, point) = series.sources.iter().max_by_key(|(_, point)| point.micro)?;
        Some(v1::MetricReading {
            name: metric.as_str().to_owned(),
            value: to_proto::natural(point.micro),
            time: Some(to_proto::timestamp(point.at)),
            source: source.to_string(),
            sources: u32::try_from(series.sources.len()).unwrap_or(u32::MAX),
        })
    });
    v1::SignalReading {
        app: reading.app.to_string(),
        time: Some(to_proto::timestamp(reading.at)),
        last_signal_time: reading.last_seen.map(to_proto::timestamp),
        metrics: metrics.collect(),
        conditions: reading.conditions.iter().map(|(k, c)| (k.clone(), c.value)).collect(),
    }
}
