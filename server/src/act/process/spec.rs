//! From a specification to what this backend runs and asks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use agentd_core::app::{self, AppSpec};

use super::AppProcess;
use super::rollout::ReadyCheck;
use crate::act::Workload;
use crate::sense::probe::Probe;
use crate::shim::protocol;

/// What the specification alone says of how an app is run.
pub(super) fn bare(spec: &AppSpec, revision: u32) -> Result<AppProcess, String> {
    Ok(AppProcess {
        name: spec.name.to_string(),
        revision: revision.to_string(),
        argv: Vec::new(),
        env: BTreeMap::new(),
        cwd: None,
        listen: spec.listen.as_deref().map(address_of).transpose()?,
        grace: Duration::from_millis(spec.stop_grace_ms),
        log: protocol::LogLimits::default(),
        limits: protocol::ResourceLimits::default(),
        user: None,
    })
}

/// An address as the specification gives it; `localhost` is loopback, any other name would need a resolver that can lie.
fn address_of(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|p| p.parse().ok()) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_bad| format!("`{text}` is not an ip:port address"))
}

pub(super) fn probe_of(probe: &app::Probe) -> Result<Probe, String> {
    match probe {
        app::Probe::Http { url } => {
            let rest = url.strip_prefix("http://").ok_or_else(|| format!("`{url}` is not http"))?;
            let (host, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, "/"),
            };
            let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
            Ok(Probe::Http { address: address_of(&host)?, path: path.to_owned() })
        }
        app::Probe::Tcp { address } => Ok(Probe::Tcp { address: address_of(address)? }),
        app::Probe::Grpc { address, service } => {
            Ok(Probe::Grpc { address: address_of(address)?, service: service.clone() })
        }
    }
}

pub(super) fn ready_check(workload: &Workload) -> Result<ReadyCheck, String> {
    let health = workload.spec.health.as_ref();
    let probe = health.map(|h| probe_of(&h.probe)).transpose()?;
    Ok(ReadyCheck {
        probe,
        min_uptime: Duration::from_millis(workload.min_uptime_ms),
        deadline: Duration::from_millis(workload.ready_deadline_ms),
        ..ReadyCheck::default()
    })
}
