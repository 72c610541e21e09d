//! Stories with the real binary: `agentctl up` is the server, `agentctl` the one who asks, and the apps are real processes.

#[cfg(test)]
mod harness;

#[cfg(test)]
mod approval;
#[cfg(test)]
mod backtest;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod first_value;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod graduation;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod learning;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod mission;
#[cfg(test)]
mod outlive;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod repos;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod start;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod tool;
#[cfg(test)]
mod transparency;
#[cfg(test)]
mod unsafe_names;
#[cfg(test)]
mod watch;
