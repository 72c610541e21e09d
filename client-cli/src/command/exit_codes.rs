//! `agentctl exit-codes`: the part of the command line that scripts depend on.

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;

/// Show what the exit codes mean
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  agentctl exit-codes\n  agentctl help exit-codes",
    after_long_help = format!("{}\nExamples:\n  agentctl exit-codes\n  agentctl help exit-codes", Exit::table())
)]
pub struct ExitCodesArgs {}

#[derive(Serialize)]
struct CodeView {
    code: u8,
    meaning: &'static str,
}

pub(super) fn run(context: &mut Context) -> Result<Exit, Failure> {
    let codes = Exit::ALL.map(|exit| CodeView { code: exit.code(), meaning: exit.meaning() });
    context.output.emit_list(&codes, |page| {
        let mut table = Table::new(&["CODE", "MEANING"]).right(&[0]);
        for code in &codes {
            table.row([code.code.to_string().as_str(), code.meaning]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}
