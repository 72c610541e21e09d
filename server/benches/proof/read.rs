//! What it costs to prove and to verify.

use std::time::{Duration, Instant};

use agentd::{journal, tlog};
use agentd_core::chain::{Hash, LineVerifier, leaf_hash};
use agentd_core::tlog::tree::Frontier;

use super::table::{Table, per_second, percentile, time};

/// Proofs that are asked for.
const PROOFS: u64 = 5_000;

fn prove(tlog: &tlog::Tlog, size: u64) -> Vec<Duration> {
    let one = |turn: u64| {
        let started = Instant::now();
        tlog.inclusion(turn.wrapping_mul(7_919) % size, size).unwrap().unwrap();
        started.elapsed()
    };
    (0..PROOFS).map(one).collect()
}

/// Proofs of entries all over the log, asked for once and then again.
pub(crate) fn proofs(table: &mut Table, tlog: &tlog::Tlog, size: u64) {
    const MOST: Duration = Duration::from_micros(100);
    let ask = || {
        let mut times = prove(tlog, size);
        [500, 990].map(|permille| percentile(&mut times, permille))
    };
    let [p50, p99] = ask();
    table.note("inclusion proof, asked for first, p50", &time(p50), "", None);
    table.note("inclusion proof, asked for first, p99", &time(p99), "", None);
    let [p50, p99] = ask();
    table.note("inclusion proof, hot, p50", &time(p50), "", None);
    table.time("inclusion proof, hot, p99", p99, MOST);
}

/// The lines of the log, as an export has them.
fn export(journal: &journal::Journal, size: u64) -> Vec<u8> {
    let (reader, mut lines, mut next) = (journal.reader(), Vec::new(), 1);
    while next <= size {
        for entry in reader.read(next, journal::READ_ENTRIES_MAX, usize::MAX).unwrap() {
            next = entry.seq + 1;
            lines.extend_from_slice(&entry.line);
            lines.push(b'\n');
        }
    }
    lines
}

/// Everything whoever verifies has to do: chain, leaf hashes, tree.
pub(crate) fn verify(table: &mut Table, journal: &journal::Journal, size: u64) {
    let rate = |started: Instant| size as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    journal.verify().unwrap();
    table.note("verify the segments", &per_second(rate(started)), "", None);
    let lines = export(journal, size);
    let started = Instant::now();
    let (mut tree, mut chain) = (Frontier::new(), LineVerifier::new());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        tree.push(chain.check(line).unwrap(), &mut |_, _| {});
    }
    assert_eq!(tree.size(), size);
    table.rate("verify an export: chain and tree", rate(started), 500_000.0);
    let started = Instant::now();
    let mut tree = Frontier::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        tree.push(leaf_hash(line), &mut |_, _| {});
    }
    let root: Hash = tree.root();
    assert_ne!(root, leaf_hash(b""));
    table.note("verify an export: tree alone", &per_second(rate(started)), "", None);
}
