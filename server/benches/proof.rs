//! How fast the proof log is, against the limits of this machine measured in the same run: `cargo bench -p agentd --bench proof`.
//!
//! F is one write of 4 KiB into zeroed space with one fdatasync: what a record costs that is written by itself. This class of machine
//! moves by a multiple with its neighbours, so it is the ratios that say something. Where other work runs beside it, give all of it
//! the same priority: `chrt -r 5` before the built bench. `BENCH_DIR` is where it writes; parts that are named behind `--` (`write`,
//! `peers`, `read`, `index`, `long`) are the only ones that run.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark prints a table, reads the clock and stops at the first surprise"
)]

use std::path::Path;

use agentd::{journal, tlog};
use agentd_core::chain::LineVerifier;

#[path = "proof/index.rs"]
mod index;
#[path = "proof/long.rs"]
mod long;
#[path = "proof/peers.rs"]
mod peers;
#[path = "proof/read.rs"]
mod read;
#[path = "proof/table.rs"]
mod table;
#[path = "proof/write.rs"]
mod write;

/// Length of a record.
const ENTRY_BYTES: usize = 375;
/// Writers at once.
const WRITERS: usize = 64;
/// Records that are proved and verified, at least.
const RECORDS: u64 = 300_000;

/// A log that is open, published every second as a server does it.
struct Log {
    journal: journal::Journal,
    tlog: tlog::Tlog,
    chain: LineVerifier,
}

impl Log {
    fn open(dir: &Path) -> Self {
        let config = tlog::Config::new(dir, "stage");
        let segments = journal::Config::new(config.dir.clone());
        let (opened, tlog) = tlog::open(config, segments, &mut |_, _| {}).unwrap();
        Self { journal: opened.journal, tlog, chain: LineVerifier::new() }
    }

    const fn size(&self) -> u64 {
        self.chain.next_seq() - 1
    }

    /// Waits until nothing is left to be published.
    async fn publish(&self) {
        self.tlog.publish(self.size()).await.unwrap();
    }
}

/// The writers share one thread, which keeps their records in order.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let dir =
        tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    let mut table = table::Table::default().head();
    let mut log = Log::open(dir.path());
    if wanted("write") {
        let mut floor = write::Floor::new(dir.path());
        write::run(&mut table, &mut log, &mut floor).await;
    }
    if wanted("peers") {
        peers::run(&mut table, &mut log, dir.path()).await;
    }
    if wanted("read") {
        while log.size() < RECORDS {
            log.writers().await;
        }
        log.publish().await;
        read::proofs(&mut table, &log.tlog, log.size());
        read::verify(&mut table, &log.journal, log.size());
    }
    drop(log);
    if wanted("index") {
        index::run(&mut table, &dir.path().join("indexed")).await;
    }
    if wanted("long") {
        long::run(&mut table, &dir.path().join("long")).await;
    }
    table.end();
}
