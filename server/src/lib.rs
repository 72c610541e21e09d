//! agentd: the IO shell around the pure brain of `agentd-core`.
//!
//! Everything that touches the outside world lives here: the proof log on disk ([`journal`]), the actuators ([`act`]), what
//! is fetched and built for them ([`deploy`]), the probes ([`sense`]), the bus ([`bus`]), the gRPC services ([`grpc`]) and the loop that drives the brain ([`agent`]).

pub mod act;
pub mod agent;
pub mod app;
pub mod auth;
pub mod blobs;
pub mod bus;
pub mod clock;
pub mod config;
pub mod deploy;
pub mod failpoint;
pub mod grpc;
pub mod index;
pub mod ingest;
pub mod journal;
pub mod listen;
pub mod metrics;
pub mod pages;
pub mod publish;
pub mod retention;
pub mod rules;
pub mod scenario;
pub mod sense;
pub mod shim;
pub mod snapshot;
pub mod specs;
pub mod tasks;
pub mod telemetry;
pub mod tlog;
