//! `agentctl app spec`: the specification of an app as a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agentctl_api::v1;
use agentd_core::app::AppSpec;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::super::Context;
use super::fetch;
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;
use crate::spec_file::SpecFile;
use crate::view::app::{SpecDiffView, SpecDifferenceView};

/// Export, compare and check the specification of an app
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl app spec export my-api > app.yaml
  agentctl app spec diff -f app.yaml
  agentctl spec validate -f app.yaml          `spec` alone is short for `app spec`")]
pub struct SpecArgs {
    #[command(subcommand)]
    command: SpecCommand,
}

#[derive(Debug, Subcommand)]
enum SpecCommand {
    /// Print the specification in force, ready to be edited
    #[command(after_help = "\
Examples:
  agentctl app spec export my-api > app.yaml
  agentctl spec export my-api -o json         then: agentctl app update -f app.json")]
    Export(ExportArgs),
    /// Show in what a file differs from what is in force
    #[command(after_help = "\
Examples:
  agentctl app spec diff -f app.yaml
  agentctl spec diff -f app.yaml --exit-code

Exit codes: 0, with --exit-code 1 if they differ.")]
    Diff(DiffArgs),
    /// Have the server check a file; nothing is recorded or done
    #[command(after_help = "\
Examples:
  agentctl app spec validate -f app.yaml
  cat app.json | agentctl spec validate -f -
  agentctl spec validate -f app.json")]
    Validate(FileArgs),
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// App
    #[arg(value_name = "APP")]
    name: String,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// File in YAML or JSON, `-` for stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct DiffArgs {
    #[command(flatten)]
    file: FileArgs,
    /// End with 1 if there are differences
    #[arg(long)]
    exit_code: bool,
}

pub(in super::super) async fn run(args: SpecArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        SpecCommand::Export(args) => export(&args.name, context).await,
        SpecCommand::Diff(args) => diff(&args, context).await,
        SpecCommand::Validate(args) => validate(&args, context).await,
    }
}

/// A specification as the server wrote it, as a file.
pub(super) fn file_of(spec_json: &[u8]) -> Result<SpecFile, Failure> {
    let spec: AppSpec = serde_json::from_slice(spec_json).map_err(|error| {
        Failure::unprintable(&error).hint("the server is newer than this agentctl")
    })?;
    Ok(SpecFile::of(&spec))
}

async fn export(name: &str, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let (_, spec_json) = fetch(&session, name).await?;
    let file = file_of(&spec_json)?;
    let yaml = serde_saphyr::to_string(&file).map_err(|error| Failure::unprintable(&error))?;
    context.output.emit(&file, |page| page.block(&yaml))?;
    Ok(Exit::Ok)
}

/// What the server would make of the file, and what is in force; `None` for an app that is not there yet.
async fn judged(session: &Session, file: &SpecFile) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
    let mut specification = file.request()?;
    let request = session.unary(v1::GetAppRequest { name: file.name.clone() });
    let current = match session.onboarding().get_app(request).await {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) if status.code() == tonic::Code::NotFound => None,
        Err(status) => return Err(session.failure(status)),
    };
    if specification.environment.is_empty() {
        let request = session.unary(v1::GetStatusRequest {});
        let answer = session.agent().get_status(request).await.map_err(|s| session.failure(s))?;
        specification.environment = answer.into_inner().status.unwrap_or_default().environment;
    }
    let Some(current) = current else {
        let request = v1::OnboardAppRequest { validate_only: true, ..specification };
        let answer = session.onboarding().onboard_app(session.unary(request)).await;
        return Ok((answer.map_err(|s| session.failure(s))?.into_inner().spec_json, None));
    };
    let request = v1::UpdateAppRequest {
        validate_only: true,
        specification: Some(specification),
        update_mask: Some(prost_types::FieldMask { paths: vec!["*".to_owned()] }),
        ..v1::UpdateAppRequest::default()
    };
    let answer = session.onboarding().update_app(session.unary(request)).await;
    let asked = answer.map_err(|s| session.failure(s))?.into_inner().spec_json;
    Ok((asked, Some(current.spec_json)))
}

async fn diff(args: &DiffArgs, context: &mut Context) -> Result<Exit, Failure> {
    let file = SpecFile::read(&args.file.file)?;
    let session = context.connect().await?;
    let (asked, current) = judged(&session, &file).await?;
    let Some(current) = current else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("app `{}` is not onboarded here", file.name),
        )
        .hint("`agentctl onboard -f` takes it in"));
    };
    let view = SpecDiffView { app: file.name.clone(), differences: differences(&current, &asked) };
    let differs = !view.differences.is_empty();
    context.output.emit(&view, |page| {
        if !differs {
            page.line("○ nothing differs");
            return;
        }
        let mut table = Table::new(&["FIELD", "IN FORCE", "IN THE FILE"]);
        for difference in &view.differences {
            let shown = |value: &Option<Value>| value.as_ref().map_or("–".to_owned(), text);
            table.row([difference.path.clone(), shown(&difference.from), shown(&difference.to)]);
        }
        page.table(&table);
    })?;
    Ok(if differs && args.exit_code { Exit::Failure } else { Exit::Ok })
}

async fn validate(args: &FileArgs, context: &mut Context) -> Result<Exit, Failure> {
    let file = SpecFile::read(&args.file)?;
    let session = context.connect().await?;
    let (asked, current) = judged(&session, &file).await?;
    let spec: Value = serde_json::from_slice(&asked).unwrap_or_default();
    context.output.emit(&spec, |page| {
        let how = match current {
            Some(_) => "an update of what is there",
            None => "a new app",
        };
        page.line(format!("✔ VALID   `{}` would be {how}", file.name));
    })?;
    Ok(Exit::Ok)
}

/// Where two specifications differ, by path.
fn differences(from: &[u8], to: &[u8]) -> Vec<SpecDifferenceView> {
    let leaves = |json: &[u8]| {
        let mut all = BTreeMap::new();
        flatten("", &serde_json::from_slice(json).unwrap_or_default(), &mut all);
        all
    };
    let (from, to) = (leaves(from), leaves(to));
    let paths: std::collections::BTreeSet<_> = from.keys().chain(to.keys()).collect();
    paths
        .into_iter()
        .filter(|path| from.get(*path) != to.get(*path))
        .map(|path| SpecDifferenceView {
            path: path.clone(),
            from: from.get(path).cloned(),
            to: to.get(path).cloned(),
        })
        .collect()
}

fn flatten(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, all);
            }
        }
        Value::Null => {}
        leaf => _ = all.insert(path.to_owned(), leaf.clone()),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
