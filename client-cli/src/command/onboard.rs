//! `agentctl onboard`: takes an application under control.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use agentctl_api::v1;
use clap::Args;

use super::flags::Flags;
use super::{Context, pieces, watch};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Page;
use crate::spec_file::SpecFile;
use crate::text;
use crate::time;
use crate::view::app::{AcceptedEventView, OnboardingView};

/// Time to wait for health, where the command line does not say.
const WAIT: Duration = Duration::from_secs(120);

/// Take an application under control
///
/// The server checks every field and reports all that is wrong at once; nothing is guessed or corrected. Arguments of the
/// program follow behind `--` and are handed over as they are, never through a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl onboard my-api --runtime python --exec /usr/bin/python3 -- /srv/my-api/main.py
  agentctl onboard my-api --runtime rust --exec /srv/server --min 2 --max 6 \\
      --listen 127.0.0.1:8080 --health-url /healthz --wait
  agentctl onboard my-api --runtime nodejs --repo https://github.com/user/my-api --dry-run
  agentctl onboard my-api --runtime go --exec /srv/my-api --threshold cpu_overload=0.8:0.6
  agentctl onboard -f app.yaml --wait

A repository is built by the fixed steps of its runtime; nothing in it can change them:
  nodejs  package.json or index.js   npm ci, with a package-lock.json    node .
  python  main.py                    pip install, with requirements.txt  python3 main.py
  go      go.mod                     go build                            the program
  rust    Cargo.lock                 cargo install                       the one program
  java    pom.xml or app.jar         mvn package, with a pom.xml         java -jar, the one jar
  static  index.html                 -                                   served at --listen
  binary  app                        -                                   ./app

Exit codes: 0 accepted, 2 invalid, 5 refused by governance, 6 waits for approval, 7 exists already.")]
#[command(group = clap::ArgGroup::new("source").required(true).args(["exec", "repo", "file"]))]
pub struct OnboardArgs {
    /// Name, unique in the environment
    #[arg(value_name = "NAME", required_unless_present = "file")]
    name: Option<String>,
    /// Everything from a file, `-` for stdin: YAML or JSON, as `agentctl app spec export` writes it
    #[arg(short, long, value_name = "FILE", conflicts_with = "Flags")]
    file: Option<PathBuf>,
    /// Runtime: nodejs, python, go, rust, java, static or binary
    #[arg(long, value_name = "RUNTIME", required_unless_present = "file", conflicts_with = "file")]
    runtime: Option<String>,
    #[command(flatten)]
    flags: Flags,
    /// Only validate and show the specification
    #[arg(long)]
    dry_run: bool,
    /// Wait until it is healthy
    #[arg(long, value_name = "healthy", num_args = 0..=1, require_equals = true, default_missing_value = "healthy")]
    wait: Option<WaitFor>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum WaitFor {
    Healthy,
}

impl OnboardArgs {
    /// What is asked for. `environment` is what the command line or the server says; the file may say it too, and then the
    /// server judges whether it is its own.
    fn request(
        &self,
        environment: String,
        request_id: String,
    ) -> Result<v1::OnboardAppRequest, Failure> {
        let given = match &self.file {
            Some(path) => SpecFile::read(path)?.request()?,
            None => {
                let runtime = self.runtime.clone().unwrap_or_default();
                v1::OnboardAppRequest { runtime, ..self.flags.request() }
            }
        };
        let named = self.name.clone().unwrap_or_else(|| given.name.clone());
        Ok(v1::OnboardAppRequest {
            request_id,
            validate_only: self.dry_run,
            name: named,
            environment: if given.environment.is_empty() {
                environment
            } else {
                given.environment.clone()
            },
            ..given
        })
    }
}

pub(super) async fn run(args: OnboardArgs, context: &mut Context) -> Result<Exit, Failure> {
    let (session, environment) = Session::unguarded(&context.global).await?;
    let environment = match environment {
        Some(environment) => environment.value,
        // A server serves exactly one.
        None => served_environment(&session).await?,
    };
    let request = args.request(environment, context.request_id())?;
    let name = request.name.clone();
    let answer = session.onboarding().onboard_app(session.unary(request)).await;
    let response = answer.map_err(|status| refused(session.failure(status)))?.into_inner();
    let (result, exit) = verdict(&response, args.dry_run);
    let wait = args.wait.is_some() && exit == Exit::Ok && !args.dry_run;
    let started = std::time::Instant::now();
    if wait {
        context.output.note(|page| accepted_page(page, &response));
        let limit = context.global.timeout.map_or(WAIT, |span| span.0);
        wait_healthy(&session, &name, limit).await?;
    }
    let mut view = view(&response, result);
    if wait {
        let app = super::status::get_app(&session, &name).await?;
        view.app = Some((&app).into());
    }
    context.output.emit(&view, |page| match result {
        VALID => valid_page(page, &response),
        REFUSED | HELD => not_accepted_page(page, &response, result),
        _ if wait => healthy_page(page, &view, started.elapsed()),
        _ => {
            accepted_page(page, &response);
            page.line(format!("{}   {ACCEPTED}", proof_range(&response.events)));
        }
    })?;
    Ok(exit)
}

const ACCEPTED: &str = "ONBOARDING ACCEPTED";
const HELD: &str = "ONBOARDING HELD";
const REFUSED: &str = "ONBOARDING REFUSED";
const VALID: &str = "ONBOARDING VALID";

async fn served_environment(session: &Session) -> Result<String, Failure> {
    let request = session.unary(v1::GetStatusRequest {});
    let answer = session.agent().get_status(request).await.map_err(|s| session.failure(s))?;
    Ok(answer.into_inner().status.unwrap_or_default().environment)
}

fn verdict(response: &v1::OnboardAppResponse, dry_run: bool) -> (&'static str, Exit) {
    if dry_run {
        return (VALID, Exit::Ok);
    }
    match response.decision.as_ref().map(v1::Decision::ruling) {
        Some(v1::Ruling::Refused) => (REFUSED, Exit::Refused),
        Some(v1::Ruling::Held) => (HELD, Exit::Approval),
        _ => (ACCEPTED, Exit::Ok),
    }
}

/// An error in front of which it says what was refused, with the number of invalid fields.
fn refused(failure: Failure) -> Failure {
    let said = failure.to_string();
    let fields: BTreeSet<&str> = failure.violations().iter().map(|v| v.field.as_str()).collect();
    match fields.len() {
        0 if failure.exit() == Exit::Unreachable || failure.exit() == Exit::Denied => failure,
        0 => failure.headline(format!("{REFUSED} — {said}")),
        1 => failure
            .headline(format!("{REFUSED} — 1 field is invalid (nothing was guessed or corrected)"))
            .hint("correct it and ask again; --dry-run only validates"),
        n => failure
            .headline(format!(
                "{REFUSED} — {n} fields are invalid (nothing was guessed or corrected)"
            ))
            .hint("correct them and ask again; --dry-run only validates"),
    }
}

async fn wait_healthy(session: &Session, name: &str, limit: Duration) -> Result<(), Failure> {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let mut last = v1::App::default();
    let healthy = async {
        loop {
            every.tick().await;
            last = super::status::get_app(session, name).await?;
            if watch::is_stable(&last) {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(limit, healthy).await {
        Ok(ended) => ended,
        Err(_) => {
            let counts =
                format!("{}/{} instances ready", last.ready_instances, last.desired_instances);
            let what =
                format!("`{name}` is accepted, but not healthy after {}", time::coarse(limit));
            let failure = Failure::new(Exit::TimedOut, what)
                .fact(pieces::health(last.health), counts)
                .hint(format!("`agentctl status {name}` shows its instances, `agentctl explain --last {name}` what was decided"));
            Err(last
                .findings
                .iter()
                .fold(failure, |failure, f| failure.fact(f.detector.as_str(), f.summary.as_str())))
        }
    }
}

fn view(response: &v1::OnboardAppResponse, result: &'static str) -> OnboardingView {
    OnboardingView {
        result,
        app: response.app.as_ref().map(Into::into),
        spec: serde_json::from_slice(&response.spec_json).ok(),
        spec_digest: response.spec_digest.clone(),
        decision: response.decision.as_ref().map(Into::into),
        events: response.events.iter().map(AcceptedEventView::from).collect(),
    }
}

fn spec_line(response: &v1::OnboardAppResponse) -> String {
    let name = response.app.as_ref().map_or("", |app| app.name.as_str());
    format!("apps/{name}/app_spec.json (sha256 {})", text::short_digest(&response.spec_digest))
}

fn accepted_page(page: &mut Page, response: &v1::OnboardAppResponse) {
    let app = response.app.clone().unwrap_or_default();
    page.pairs(
        0,
        &[
            ("✔ validated", format!("{}   {}   {}", app.name, app.runtime, app.environment)),
            ("✔ spec", spec_line(response)),
            (
                "✔ wired",
                format!(
                    "process driver · {} to {} instances, {} wanted · monitor attached{}",
                    app.min_instances,
                    app.max_instances,
                    app.desired_instances,
                    if app.listen.is_empty() {
                        String::new()
                    } else {
                        format!(" · {}", app.listen)
                    }
                ),
            ),
        ],
    );
}

fn healthy_page(page: &mut Page, view: &OnboardingView, took: Duration) {
    let (ready, desired) =
        view.app.as_ref().map_or((0, 0), |app| (app.ready_instances, app.desired_instances));
    page.line(format!(
        "✔ healthy    {ready}/{desired} instances in {}   {}   {ACCEPTED}",
        time::precise(took),
        seq_range(view.events.iter().map(|event| event.seq)),
    ));
}

fn valid_page(page: &mut Page, response: &v1::OnboardAppResponse) {
    page.line(format!("✔ {VALID} (dry run: nothing was recorded or started)"));
    page.line(format!("  spec  {}", spec_line(response)));
    match serde_json::from_slice::<serde_json::Value>(&response.spec_json) {
        Ok(spec) => page.block(&serde_json::to_string_pretty(&spec).unwrap_or_default()),
        Err(_) => page.line(String::from_utf8_lossy(&response.spec_json)),
    }
}

fn not_accepted_page(page: &mut Page, response: &v1::OnboardAppResponse, result: &str) {
    let decision = response.decision.clone().unwrap_or_default();
    let glyph = if result == HELD { '◷' } else { '✖' };
    page.line(format!("{glyph} {result}   {}", pieces::because(&decision, time::now())));
    if !decision.summary.is_empty() {
        page.line(format!("  {}", decision.summary));
    }
    if !decision.approval_id.is_empty() {
        page.line(format!("  another person approves: agentctl approve {}", decision.approval_id));
    }
    page.line(format!("  {}   agentctl explain {}", proof_range(&response.events), decision.id));
}

fn proof_range(events: &[v1::AcceptedEvent]) -> String {
    seq_range(events.iter().map(|event| event.seq))
}

fn seq_range(seqs: impl Iterator<Item = u64> + Clone) -> String {
    match (seqs.clone().min(), seqs.max()) {
        (Some(first), Some(last)) if first == last => format!("proof #{first}"),
        (Some(first), Some(last)) => format!("proof #{first}..#{last}"),
        _ => "proof –".to_owned(),
    }
}

#[cfg(test)]
mod tests;
