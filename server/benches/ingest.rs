//! What it costs to take signals in, beside servers that throw the same messages away and beside servers that others would send them
//! to: `cargo bench -p agentd --bench ingest`, and `-- native`, `-- otlp`, `-- peers` or `-- scale` for one of the tables only;
//! `-- scale --minutes N` lets a million signals come in each second.
//!
//! Each server is a process of its own and is asked for the processor time it used. Passes alternate, because this class of machine
//! moves by a multiple with its neighbours: it is the ratios of one run that say something, and a table whose reference moved too
//! much in itself is marked as failed. Everything is on: the port with its limits, principals, rates, validation, duplicates, windows,
//! times to live, and a loop that looks at every window each second. Only the actuator is one that has nothing to run: the apps are
//! written into the state before the start, since starting processes is not what is measured.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::exit,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark prints a table, reads the clock and stops at the first surprise"
)]

use std::path::Path;

#[path = "ingest/bed.rs"]
mod bed;
#[path = "ingest/load.rs"]
mod load;
#[path = "ingest/monitor.rs"]
mod monitor;
#[path = "ingest/native.rs"]
mod native;
#[path = "ingest/otlp.rs"]
mod otlp;
#[path = "ingest/peer.rs"]
mod peer;
#[path = "ingest/peers.rs"]
mod peers;
#[path = "ingest/remote.rs"]
mod remote;
#[path = "ingest/scale.rs"]
mod scale;
#[path = "ingest/server.rs"]
mod server;
#[path = "ingest/table.rs"]
mod table;
#[path = "ingest/values.rs"]
mod values;

type Table = (&'static str, fn(&[String]));

const TABLES: [Table; 4] = [
    ("native", native::measure),
    ("otlp", otlp::measure),
    ("peers", peers::measure),
    ("scale", scale::measure),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        // This program is also the servers that are measured.
        ["agentd", dir, apps] => server::agentd(Path::new(dir), apps.parse().unwrap(), 0),
        ["agentd", dir, apps, past] => {
            server::agentd(Path::new(dir), apps.parse().unwrap(), past.parse().unwrap())
        }
        ["null"] => server::null(),
        _ => {}
    }
    let named = |name: &str| words.contains(&name);
    let all = !TABLES.iter().any(|(name, _)| named(name));
    for (name, measure) in TABLES.into_iter().filter(|(name, _)| all || named(name)) {
        println!("\n== {name}");
        measure(&args);
    }
}
