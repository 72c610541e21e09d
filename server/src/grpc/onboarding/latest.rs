//! The ruling of each app's newest decision: it is in the log, not in the state.

use agentctl_api::v1;

use crate::grpc::log::Log;
use crate::grpc::{Services, from_proto, to_proto};
use crate::publish::Next;

/// Records read from disk for one answer. Of an app whose newest decision is further back than the ring and this, the ruling
/// stays unspecified.
const FROM_DISK_MAX: usize = 64;

/// Adds the ruling and its reason to the newest decision of every app.
pub(in crate::grpc) async fn complete(services: &Services, apps: &mut [v1::App]) {
    let log = Log::of(services);
    let mut from_disk = 0;
    for last in apps.iter_mut().filter_map(|app| app.last_decision.as_mut()) {
        let Some(seq) = from_proto::seq_of("dec-", &last.id) else { continue };
        let near =
            matches!(services.publisher.after(seq - 1, 1), Next::Records(r) if !r.is_empty());
        if !near {
            from_disk += 1;
            if from_disk > FROM_DISK_MAX {
                continue;
            }
        }
        // A log that cannot be read there is told by the status; the app is as it is.
        if let Ok(Some(found)) = log.record(seq).await
            && let Some(summary) = to_proto::decision_summary(&found.record, None)
        {
            *last = v1::DecisionSummary { outcome: last.outcome, ..summary };
        }
    }
}
