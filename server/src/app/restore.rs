//! Opens the log and finds the state that it leads to.

use agentd_core::replay::Replay;
use agentd_core::tlog::policy as tlog_policy;

use super::{Error, keep_sound};
use crate::agent::Restored;
use crate::blobs::Blobs;
use crate::config::Config;
use crate::journal::{self, Journal};
use crate::snapshot::{Found, Snapshots};
use crate::tlog::{self, Tlog};
use crate::{retention, specs};

/// Who is asked to cosign.
fn witnesses(config: &Config) -> Result<Option<tlog_policy::Policy>, Error> {
    let Some(path) = &config.proof_witnesses else { return Ok(None) };
    let refused = |why: String| Error::Witnesses { path: path.clone(), why };
    let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let policy = tlog_policy::Policy::parse(&bytes).map_err(|error| refused(error.to_string()))?;
    if policy.witnesses().is_empty() {
        return Err(refused("it has no witness".to_owned()));
    }
    Ok(Some(policy))
}

/// The log, and the state and policy that it leads to.
pub(super) fn open_log(config: &Config) -> Result<(Journal, Tlog, Restored), Error> {
    let published = tlog::Config {
        key: config.proof_key.clone().unwrap_or_else(|| config.data_dir.join(tlog::KEY_FILE)),
        anchor: config.proof_anchor.clone(),
        redis: config.redis.clone(),
        witnesses: witnesses(config)?,
        ..tlog::Config::new(&config.data_dir, config.env.as_str())
    };
    let (opened, tlog, replay) = open_behind_snapshot(config, &published)?;
    let Replay { state, policy, .. } = replay;
    retention::resume(&opened.journal, state.kept.oldest());
    if let journal::Status::Damaged(damage) = &opened.journal.status() {
        tracing::error!(seq = damage.seq, segment = %damage.segment, why = %damage.why,
            "the proof log is damaged: no action will be taken");
    }
    if let Err(error) = specs::restore(&config.data_dir, &state.specs) {
        // They are copies of what the log holds; the next start tries again.
        tracing::warn!(%error, "specification files cannot be written");
    }
    let mut restored = Restored { state, policy, head: opened.head };
    keep_sound(config, &mut restored);
    Ok((opened.journal, tlog, restored))
}

/// Opens the log behind the newest snapshot of the state that it vouches for, or from its first record.
fn open_behind_snapshot(
    config: &Config,
    published: &tlog::Config,
) -> Result<(journal::Opened, Tlog, Replay), Error> {
    let snapshots = Snapshots::of_log(&published.dir);
    for found in snapshots.all().map(Some).chain([None]) {
        match replay_log(config, published, found.as_ref()) {
            Err(Error::Journal(error)) if error.is_of_the_snapshot() => {
                tracing::warn!(%error, "the log is read from further back");
            }
            other => return other,
        }
    }
    // The last attempt was without a snapshot, so none of its errors is about one.
    Err(Error::Journal(tlog::Error::Journal(journal::Error::Closed)))
}

fn replay_log(
    config: &Config,
    published: &tlog::Config,
    found: Option<&Found>,
) -> Result<(journal::Opened, Tlog, Replay), Error> {
    let begun = found.map(|found| Replay::resume(found.snapshot.clone()));
    let mut replay = begun.unwrap_or_else(|| Replay::new(config.env));
    let mut failed = None;
    if replay.state.env != config.env {
        // The log has not vouched for it yet. If all of the log is of another environment, its records say so.
        let (seq, why) = (replay.state.last_seq, "it is of another environment");
        return Err(Error::Journal(tlog::Error::Snapshot { seq, why }));
    }
    let blobs = Blobs::of_log(&published.dir);
    let mut on_entry = |seq: u64, line: &[u8]| {
        if failed.is_some() {
            return;
        }
        match blobs.record(line) {
            Ok(record) if record.env != config.env => {
                failed = Some(Error::Environment { found: record.env, served: config.env });
            }
            Ok(record) => replay.fold(&record),
            Err(source) => failed = Some(Error::Log { seq, source }),
        }
    };
    let segments = journal::Config::new(published.dir.clone());
    let (opened, tlog) = tlog::open_from(published.clone(), segments, found, &mut on_entry)?;
    match failed {
        Some(error) => Err(error),
        None => Ok((opened, tlog, replay)),
    }
}
