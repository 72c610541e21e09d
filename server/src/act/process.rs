//! The process backend: applications as processes of this machine, each under its own shim.
//!
//! [`ProcessHost`] knows the instances, [`rollout`] changes several of them one at a time. A restart of agentd touches no app:
//! what runs is found again on disk and taken over.

mod actuator;
mod host;
mod instance;
mod link;
pub mod rollout;
mod spec;
mod view;

pub use actuator::ProcessActuator;
pub use host::{AppProcess, Config, ProcessHost};
pub use view::{HostEvent, InstanceView, LinkState};

use std::io;
use std::net::SocketAddr;

use crate::shim::protocol::RefusalCode;

/// Why the host could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be a directory.
    #[error("`{0}` is not a valid app name")]
    Name(String),
    /// The slot number is beyond the limit.
    #[error("instance {slot} is beyond the limit of {max} instances per app")]
    Slot {
        /// What was asked for.
        slot: u32,
        /// The limit.
        max: u32,
    },
    /// The host has as many instances as it may have.
    #[error("the limit of {0} instances is reached")]
    TooMany(usize),
    /// The instance does not exist.
    #[error("app `{app}` has no instance {slot}")]
    Unknown {
        /// The app.
        app: String,
        /// The slot.
        slot: u32,
    },
    /// The app's address could not be bound.
    #[error("address {address} cannot be bound for app `{app}`")]
    Bind {
        /// The app.
        app: String,
        /// Its address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The shim said no.
    #[error("{text}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        text: String,
    },
    /// The shim went away before it answered: whether the request was carried out is not known.
    #[error("the shim of the instance went away before it answered")]
    ShimLost,
    /// No shim can be had at present.
    #[error("the instance has no shim: {0}")]
    Unavailable(String),
    /// No answer in time: whether the request was carried out is not known.
    #[error("the shim did not answer within {0} ms")]
    Timeout(u64),
    /// A file of the instance could not be written.
    #[error("{what} failed")]
    Io {
        /// The step.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the shim refused with `code`.
    #[must_use]
    pub fn is_refusal(&self, expected: RefusalCode) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == expected)
    }
}
