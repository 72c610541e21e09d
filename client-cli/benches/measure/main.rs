//! What agentd costs and how fast it is, each figure beside its limit and its peers of the same run.
//!
//! `cargo bench -p agentctl` prints every table; `cargo bench -p agentctl -- heal` only one.

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

mod bed;
mod crowd;
mod fan;
mod faults;
mod heal;
mod nats;
mod overload;
mod reaction;
mod scale;
mod streams;
mod wire;

type Table = (&'static str, fn(&Path, &Path));

const TABLES: [Table; 9] = [
    ("heal", heal::measure),
    ("faults", faults::measure),
    ("wire", wire::measure),
    ("reaction", reaction::measure),
    ("crowd", crowd::measure),
    ("fan", fan::measure),
    ("streams", streams::measure),
    ("overload", overload::measure),
    ("scale", scale::measure),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        // This program is also the shim, the apps and the server that is measured from outside.
        ["shim", dir] => {
            let code = agentd::shim::main(Path::new(dir));
            std::process::exit(if code == std::process::ExitCode::SUCCESS { 0 } else { 1 });
        }
        ["stamp", file] => heal::stamp(Path::new(file)),
        ["serve", file] => heal::serve(Path::new(file)),
        ["server", dir] => scale::server(Path::new(dir)),
        ["flood", address, tokens] => overload::flood(address, Path::new(tokens)),
        ["patient", file, dependency] => {
            faults::patient::run(Path::new(file), dependency.parse().unwrap())
        }
        _ => {}
    }
    let me = std::env::current_exe().unwrap();
    let wanted = |name: &str| {
        let named: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
        named.is_empty() || named.iter().any(|word| **word == name)
    };
    for (name, measure) in TABLES.into_iter().filter(|(name, _)| wanted(name)) {
        let dir = tempfile::tempdir().unwrap();
        println!("\n== {name}");
        measure(&me, dir.path());
    }
}
