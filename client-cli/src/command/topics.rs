//! Topics of `agentctl help`: what holds for every command.

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;

/// Every variable that changes what agentctl does.
const VARIABLES: [(&str, &str); 13] = [
    ("AGENTCTL_ADDRESS", "address of the server, where --address does not say"),
    ("AGENTCTL_CONTEXT", "context, where --context does not say"),
    (
        "AGENTCTL_CONFIG",
        "file of contexts, where it is not agentctl/agentctl.toml below XDG_CONFIG_HOME",
    ),
    ("AGENTCTL_TOKEN", "token, where --token and --token-file do not say"),
    ("AGENTCTL_OUTPUT", "format of the data, where --output does not say"),
    ("AGENTD_DATA_DIR", "data directory of a server on this host, where --data-dir does not say"),
    ("AGENTD_ENV", "environment whose local server is looked for first"),
    ("XDG_CONFIG_HOME", "where the file of contexts is; absolute, else ~/.config"),
    ("HOME", "home directory"),
    ("NO_COLOR", "no colour, if it is set to anything"),
    ("CLICOLOR", "0: no colour"),
    ("CLICOLOR_FORCE", "1: colour even where stdout is no terminal"),
    ("COLUMNS", "width of the help"),
];

/// Every format.
const FORMATS: [(&str, &str); 6] = [
    ("table", "for people; may change with every version"),
    ("wide", "as table, and no cell is wrapped or cut to fit the terminal"),
    ("json", "one document; a stream writes one document per line. The stable contract"),
    ("jsonl", "one document per item and line, written out at once"),
    ("yaml", "the same as json; a stream writes one document after the other"),
    ("name", "names or ids alone, one per line"),
];

const RULES: &str = "\
stdout is data, stderr is everything else: progress, notes, questions, errors.
With json, jsonl or yaml an error is one JSON object on stderr, with the exit code in it.
--columns chooses columns of a table by name; --jq sends the JSON through a jq program.
A status is a glyph and a word; colour only repeats it.";

/// Show the environment variables that count
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  agentctl environment\n  agentctl help environment",
    after_long_help = format!("{}\n\nExamples:\n  agentctl environment\n  agentctl help environment", list(&VARIABLES))
)]
pub struct EnvironmentArgs {}

/// Show the formats and what is written where
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  agentctl output\n  agentctl help output",
    after_long_help = format!("{}\n\n{RULES}\n\nExamples:\n  agentctl output\n  agentctl help output", list(&FORMATS))
)]
pub struct OutputArgs {}

#[derive(Debug, Serialize)]
struct TopicView {
    name: &'static str,
    meaning: &'static str,
}

/// Lines for the long help.
fn list(rows: &[(&str, &str)]) -> String {
    let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, meaning): &(&str, &str)| format!("  {name:widest$}  {meaning}");
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn environment(context: &mut Context) -> Result<Exit, Failure> {
    show(&VARIABLES, ["VARIABLE", "MEANING"], "", context)
}

pub(super) fn output(context: &mut Context) -> Result<Exit, Failure> {
    show(&FORMATS, ["FORMAT", "MEANING"], RULES, context)
}

fn show(
    rows: &[(&'static str, &'static str)],
    headers: [&'static str; 2],
    rules: &str,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let views: Vec<_> = rows.iter().map(|(name, meaning)| TopicView { name, meaning }).collect();
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let mut table = Table::new(&headers).fit(columns);
        for view in &views {
            table.row([view.name, view.meaning]);
        }
        page.table(&table);
        page.block(rules);
    })?;
    Ok(Exit::Ok)
}
