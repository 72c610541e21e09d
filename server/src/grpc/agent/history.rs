//! What the state does not keep about the switches and the log does: who set them, when and why.

use agentctl_api::v1;
use agentd_core::app::Millis;
use agentd_core::record::{Body, Record};
use agentd_core::state::{Pause, Scope};
use tonic::Status;

use crate::grpc::log::{self, Log};
use crate::grpc::{Services, status, to_proto};

/// Records looked through for the one that set a switch; one that is older is told without its author.
const REACH: usize = 20_000;
/// Records in one read.
const STEP: usize = 512;
const STEP_BYTES: usize = 1 << 20;

/// The record `seq`, which answered a request.
pub(super) async fn record(services: &Services, seq: u64) -> Result<Record, Status> {
    let found = Log::of(services).record(seq).await?;
    let found =
        found.ok_or_else(|| status::data_loss("NOT_A_RECORD", seq, "the record is gone"))?;
    Ok(found.record.clone())
}

/// The pause of `scope` that record `seq` lifted, as far as it can be found.
pub(super) async fn pause_before(
    services: &Services,
    seq: u64,
    scope: Scope,
) -> Result<Option<Pause>, Status> {
    let found =
        newest_before(services, seq, &["MODE_PAUSED", "MODE_HALTED"], move |record| match &record
            .body
        {
            Body::PauseSet { pause, .. } if pause.scope == scope => Some(pause.clone()),
            _ => None,
        });
    found.await
}

/// The freeze that record `seq` set; with 0 the one that is in force already.
pub(super) async fn freeze_at(services: &Services, seq: u64) -> Result<v1::Mode, Status> {
    let setter = if seq > 0 {
        let record = record(services, seq).await?;
        freezer(&record)
    } else {
        let head = Log::of(services).durable().saturating_add(1);
        newest_before(services, head, &["LEARNING_FROZEN", "AGENT_STARTED"], freezer).await?
    };
    let mut mode = v1::Mode {
        kind: v1::ModeKind::Freeze.into(),
        scope: Some(to_proto::scope(&Scope::Env)),
        ..v1::Mode::default()
    };
    if let Some((reason, by, at)) = setter {
        mode.reason = reason;
        mode.set_by = by;
        mode.set_time = Some(to_proto::timestamp(at));
    }
    Ok(mode)
}

/// Why, who and when, of a record that freezes.
fn freezer(record: &Record) -> Option<(String, String, Millis)> {
    match &record.body {
        Body::FreezeSet { frozen: true, reason, .. } => {
            Some((reason.clone(), record.actor.clone(), record.at))
        }
        Body::Started(started) if started.frozen => {
            Some(("started with --freeze".to_owned(), "config".to_owned(), record.at))
        }
        _ => None,
    }
}

/// What `pick` finds in the newest record before `seq` with one of the `events`.
async fn newest_before<T, F>(
    services: &Services,
    seq: u64,
    events: &'static [&'static str],
    pick: F,
) -> Result<Option<T>, Status>
where
    F: Fn(&Record) -> Option<T>,
{
    let log = Log::of(services);
    let mut before = seq;
    let mut looked = 0;
    while before > 1 && looked < REACH {
        let from = before;
        let entries = log.reading(move |reader| reader.read_back(from, STEP, STEP_BYTES)).await?;
        let Some(oldest) = entries.last() else { break };
        before = oldest.seq;
        looked += entries.len();
        for entry in &entries {
            if !log::event_name(&entry.line).is_some_and(|event| events.contains(&event)) {
                continue;
            }
            if let Some(found) = pick(&log.parse(entry.seq, &entry.line)?) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}
