//! `agentctl app update`: changes an app that is under control.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agentctl_api::v1;
use clap::Args;

use super::super::Context;
use super::super::flags::Flags;
use super::{WAIT, exit_of, fetch, ruling_page, spec, verified, wait_outcome};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::spec_file::SpecFile;
use crate::view::app::{AcceptedEventView, UpdateView};

/// Change an app: labels, thresholds, bounds and windows at once, everything else as a new revision
///
/// Only what is named changes. Labels, variables, thresholds and windows are merged with those that are there, by name.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl app update my-api --label team=shop --autonomy propose
  agentctl app update my-api --max 6 --threshold cpu_overload=0.9:0.7
  agentctl app update my-api --remove label.protected
  agentctl app update my-api --clear health_probe --dry-run
  agentctl app update my-api --exec /srv/my-api-2 --wait
  agentctl app update my-api --repo https://github.com/user/my-api     what is in it now
  agentctl app update -f app.yaml

Exit codes: 0 done or nothing to do, 2 invalid, 5 refused, 6 waits for an approval,
7 changed meanwhile.")]
pub(super) struct UpdateArgs {
    /// App
    #[arg(value_name = "APP", required_unless_present = "file")]
    name: Option<String>,
    /// The whole specification from a file, `-` for stdin: YAML or JSON, as `agentctl app spec export` writes it
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["Flags", "runtime", "clear", "remove"])]
    file: Option<PathBuf>,
    /// Runtime: nodejs, python, go, rust, java, static or binary
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    #[command(flatten)]
    flags: Flags,
    /// Take a field out, such as listen, health_probe, autonomy_level, labels or maintenance_windows
    #[arg(long, value_name = "FIELD")]
    clear: Vec<String>,
    /// Take one entry out: label.NAME, env_var.NAME, threshold.NAME or window.NAME
    #[arg(long, value_name = "ENTRY")]
    remove: Vec<String>,
    /// The app as it was read; fails if somebody changed it since [default: as it is now]
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Judge and answer; nothing is recorded or done
    #[arg(long)]
    dry_run: bool,
    /// Wait until the change is verified
    #[arg(long)]
    wait: bool,
    /// UUID: the same one again returns the first answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

pub(super) async fn run(args: UpdateArgs, context: &mut Context) -> Result<Exit, Failure> {
    let file = args.file.as_deref().map(|path| SpecFile::read(path)?.request()).transpose()?;
    let session = context.connect().await?;
    let change = match file {
        Some(given) => {
            let name = args.name.clone().unwrap_or_else(|| given.name.clone());
            let etag = args.etag.clone().unwrap_or_default();
            let specification = v1::OnboardAppRequest { name, ..given };
            Change { specification, paths: vec!["*".to_owned()], etag }
        }
        None => merge(&session, &args).await?,
    };
    if change.paths.is_empty() {
        return Err(Failure::usage("nothing to change was named")
            .hint("`agentctl app update --help` lists what can be"));
    }
    let request = v1::UpdateAppRequest {
        request_id: args.request_id.clone().unwrap_or_else(super::super::request_id),
        validate_only: args.dry_run,
        specification: Some(change.specification),
        update_mask: Some(prost_types::FieldMask { paths: change.paths }),
        etag: change.etag,
    };
    let answer = session.onboarding().update_app(session.unary(request)).await;
    let mut response = answer.map_err(|s| session.failure(s))?.into_inner();
    let exit = exit_of(response.decision.as_ref());
    if let Some(decision) = &mut response.decision
        && args.wait
        && exit == Exit::Ok
        && !args.dry_run
    {
        let limit = context.global.timeout.map_or(WAIT, |span| span.0);
        *decision = wait_outcome(&session, &decision.id, limit).await?;
        verified(decision)?;
    }
    show(&response, exit, args.dry_run, context)?;
    Ok(exit)
}

fn show(
    response: &v1::UpdateAppResponse,
    exit: Exit,
    dry_run: bool,
    context: &mut Context,
) -> Result<(), Failure> {
    let result = match exit {
        _ if response.unchanged => "UNCHANGED",
        Exit::Ok if dry_run => "UPDATE VALID",
        Exit::Ok => "UPDATED",
        Exit::Approval => "UPDATE HELD",
        _ => "UPDATE REFUSED",
    };
    let view = UpdateView {
        result,
        app: response.app.as_ref().map(Into::into),
        spec: serde_json::from_slice(&response.spec_json).ok(),
        spec_digest: response.spec_digest.clone(),
        decision: response.decision.as_ref().map(Into::into),
        events: response.events.iter().map(AcceptedEventView::from).collect(),
    };
    context.output.emit(&view, |page| match &response.decision {
        Some(decision) => ruling_page(page, result, decision, dry_run),
        None => page.line("○ UNCHANGED   the app is already so"),
    })
}

/// What is to be, which fields of it count, and of which app.
struct Change {
    specification: v1::OnboardAppRequest,
    paths: Vec<String>,
    etag: String,
}

/// Merges the flags into what is there: the server replaces whole fields, people mean entries.
async fn merge(session: &Session, args: &UpdateArgs) -> Result<Change, Failure> {
    let name = args.name.clone().unwrap_or_default();
    let flags = &args.flags;
    let mut asked = v1::OnboardAppRequest {
        runtime: args.runtime.clone().unwrap_or_default(),
        ..flags.request()
    };
    let mut paths = named(args, &asked);
    let entries = Entries::parse(&args.remove)?;
    let mut etag = args.etag.clone().unwrap_or_default();
    if !flags.label.is_empty()
        || !flags.env_var.is_empty()
        || !flags.threshold.is_empty()
        || !flags.window.is_empty()
        || !args.remove.is_empty()
    {
        let (app, spec_json) = fetch(session, &name).await?;
        let there = spec::file_of(&spec_json)?.request()?;
        entries.merge(&mut asked, there, &mut paths)?;
        // What was merged with is what is replaced.
        if etag.is_empty() {
            etag = app.etag;
        }
    }
    for field in &args.clear {
        let field = field.replace('-', "_");
        if !paths.contains(&field) {
            paths.push(field);
        }
    }
    asked.name = name;
    Ok(Change { specification: asked, paths, etag })
}

/// Fields that flags name.
fn named(args: &UpdateArgs, asked: &v1::OnboardAppRequest) -> Vec<String> {
    let flags = &args.flags;
    let fields = [
        ("runtime", args.runtime.is_some()),
        ("source", asked.source.is_some()),
        ("working_directory", flags.workdir.is_some()),
        ("min_instances", flags.min.is_some()),
        ("max_instances", flags.max.is_some()),
        ("desired_instances", flags.instances.is_some()),
        ("listen", flags.listen.is_some()),
        ("health_probe", asked.health_probe.is_some()),
        ("environment_variables", !flags.env_var.is_empty()),
        ("labels", !flags.label.is_empty()),
        ("thresholds", !flags.threshold.is_empty()),
        ("maintenance_windows", !flags.window.is_empty()),
        ("autonomy_level", flags.autonomy.is_some()),
        ("stop_grace", flags.stop_grace.is_some()),
    ];
    fields.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.to_owned()).collect()
}

/// Entries to take out, by what they are entries of.
#[derive(Debug, Default)]
struct Entries {
    labels: Vec<String>,
    variables: Vec<String>,
    thresholds: Vec<String>,
    windows: Vec<String>,
}

impl Entries {
    fn parse(given: &[String]) -> Result<Self, Failure> {
        let mut entries = Self::default();
        for text in given {
            let of = match text.split_once('.') {
                Some(("label", _)) => &mut entries.labels,
                Some(("env_var", _)) => &mut entries.variables,
                Some(("threshold", _)) => &mut entries.thresholds,
                Some(("window", _)) => &mut entries.windows,
                _ => {
                    return Err(Failure::usage(format!("`{text}` names no entry"))
                        .hint("write label.NAME, env_var.NAME, threshold.NAME or window.NAME"));
                }
            };
            of.extend(text.split_once('.').map(|(_, name)| name.to_owned()));
        }
        Ok(entries)
    }

    /// What is there, without what is to be taken out, with what was given.
    fn merge(
        &self,
        asked: &mut v1::OnboardAppRequest,
        there: v1::OnboardAppRequest,
        paths: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let v1::OnboardAppRequest {
            labels,
            environment_variables,
            thresholds,
            maintenance_windows,
            ..
        } = there;
        let threshold = |t: v1::ThresholdOverride| (t.detector.clone(), t);
        let window = |w: v1::MaintenanceWindow| (w.name.clone(), w);
        let given: BTreeMap<_, _> = asked.thresholds.drain(..).map(threshold).collect();
        let thresholds = thresholds.into_iter().map(threshold).collect();
        let spans: BTreeMap<_, _> = asked.maintenance_windows.drain(..).map(window).collect();
        let windows = maintenance_windows.into_iter().map(window).collect();
        let mut name = |field: &str, out: &[String]| {
            if !out.is_empty() && !paths.iter().any(|path| path == field) {
                paths.push(field.to_owned());
            }
        };
        name("labels", &self.labels);
        name("environment_variables", &self.variables);
        name("thresholds", &self.thresholds);
        name("maintenance_windows", &self.windows);
        asked.labels = merged(labels, std::mem::take(&mut asked.labels), &self.labels)?;
        asked.environment_variables = merged(
            environment_variables,
            std::mem::take(&mut asked.environment_variables),
            &self.variables,
        )?;
        asked.thresholds = merged(thresholds, given, &self.thresholds)?.into_values().collect();
        asked.maintenance_windows = merged(windows, spans, &self.windows)?.into_values().collect();
        Ok(())
    }
}

fn merged<T>(
    mut there: BTreeMap<String, T>,
    given: BTreeMap<String, T>,
    out: &[String],
) -> Result<BTreeMap<String, T>, Failure> {
    for name in out {
        if there.remove(name).is_none() {
            let known: Vec<_> = there.keys().map(String::as_str).collect();
            let failure = Failure::usage(format!("there is no `{name}` to take out"));
            return Err(if known.is_empty() {
                failure
            } else {
                failure.hint(format!("there is {}", known.join(", ")))
            });
        }
    }
    there.extend(given);
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn parsed(line: &str) -> UpdateArgs {
        let words = line.split_whitespace().map(ToOwned::to_owned);
        match Cli::try_parse_from(words).unwrap().command {
            Command::App(super::super::AppArgs {
                command: super::super::AppCommand::Update(args),
            }) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn there() -> v1::OnboardAppRequest {
        v1::OnboardAppRequest {
            labels: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
            thresholds: vec![v1::ThresholdOverride {
                detector: "latency".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn only_what_is_named_counts() {
        let args = parsed("agentctl app update web --max 6 --autonomy off --listen 127.0.0.1:1");
        let paths = named(&args, &args.flags.request());
        assert_eq!(paths, ["max_instances", "listen", "autonomy_level"]);
    }

    #[test]
    fn entries_are_merged_with_those_that_are_there() {
        let args = parsed("agentctl app update web --label b=3 --label c=4 --remove label.a");
        let mut asked = args.flags.request();
        let mut paths = named(&args, &asked);
        Entries::parse(&args.remove).unwrap().merge(&mut asked, there(), &mut paths).unwrap();
        let expected = [("b", "3"), ("c", "4")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(asked.labels, expected.into());
        assert_eq!(asked.thresholds.len(), 1, "nobody spoke of them");
        assert_eq!(paths, ["labels"], "so they do not count");
    }

    #[test]
    fn what_is_not_there_cannot_be_taken_out() {
        let take = |entry: &str| {
            let (mut asked, mut paths) = (v1::OnboardAppRequest::default(), Vec::new());
            let entries = Entries::parse(&[entry.to_owned()])?;
            entries.merge(&mut asked, there(), &mut paths)
        };
        assert!(take("label.a").is_ok());
        for wrong in ["label.x", "threshold.cpu", "a", "colour.red", "window.night"] {
            assert_eq!(take(wrong).unwrap_err().exit(), Exit::Usage, "{wrong}");
        }
    }
}
