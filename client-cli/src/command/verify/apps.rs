//! A small app on a scratch server: a real process, started by the server like any other.

use std::time::Duration;

use agentctl_api::v1;

use crate::command::scratch::Scratch;
use crate::command::status;
use crate::exit::Exit;
use crate::failure::Failure;

/// Longest wait for something that has to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Onboards the app that ships with agentctl, with changes, and waits until its deployment is verified.
pub(super) async fn onboard(
    stage: &Scratch,
    name: &str,
    change: impl FnOnce(&mut v1::OnboardAppRequest),
) -> Result<(), Failure> {
    ask_for(stage, name, change).await?;
    until(&format!("the deployment of `{name}` is verified"), async || {
        let verified = |d: &v1::Decision| {
            let outcome = d.outcome.as_ref().map(v1::Outcome::kind);
            d.action == "DEPLOY" && outcome == Some(v1::OutcomeKind::Verified)
        };
        Ok(decisions(stage, name).await?.iter().any(verified).then_some(()))
    })
    .await
}

/// Asks for an app, whatever becomes of the request.
pub(super) async fn ask_for(
    stage: &Scratch,
    name: &str,
    change: impl FnOnce(&mut v1::OnboardAppRequest),
) -> Result<(), Failure> {
    let session = &stage.operator;
    let program = std::env::current_exe()
        .map_err(|error| Failure::because(Exit::Failure, "cannot find this program", &error))?;
    let mut request = v1::OnboardAppRequest {
        request_id: crate::command::request_id(),
        name: name.to_owned(),
        environment: stage.local.env().to_owned(),
        runtime: "binary".to_owned(),
        source: Some(v1::onboard_app_request::Source::Exec(v1::ExecSource {
            path: program.to_string_lossy().into_owned(),
            args: vec!["demo-app".to_owned()],
        })),
        listen: free_address()?,
        ..v1::OnboardAppRequest::default()
    };
    change(&mut request);
    let answer = session.onboarding().onboard_app(session.unary(request)).await;
    answer.map(drop).map_err(|s| session.failure(s))
}

/// A free address for the socket that the server holds for the app.
fn free_address() -> Result<String, Failure> {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    bound
        .map(|address| address.to_string())
        .map_err(|error| Failure::because(Exit::Failure, "cannot find a free port", &error))
}

/// Process of the first instance.
pub(super) async fn pid(stage: &Scratch, name: &str) -> Result<u32, Failure> {
    let app = status::get_app(&stage.operator, name).await?;
    let pid = app.instances.first().map(|instance| instance.pid).filter(|pid| *pid > 0);
    pid.ok_or_else(|| Failure::new(Exit::Failure, format!("`{name}` has no process")))
}

/// SIGKILL, as from outside.
pub(super) fn kill(pid: u32) -> Result<(), Failure> {
    use rustix::process::{Pid, Signal, kill_process};
    let killed = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let killed = killed.map(|pid| kill_process(pid, Signal::KILL));
    match killed {
        Some(Ok(())) => Ok(()),
        _ => Err(Failure::new(Exit::Failure, format!("cannot kill process {pid}"))),
    }
}

/// Looks again and again until there is something.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_elapsed| {
        let patience = PATIENCE.as_secs();
        Err(Failure::new(Exit::TimedOut, format!("not within {patience} s: {what}")))
    })
}

/// The newest decision of the agent itself about an app that `is_it` accepts.
pub(super) async fn decision(
    stage: &Scratch,
    app: &str,
    what: &str,
    is_it: impl Fn(&v1::Decision) -> bool,
) -> Result<v1::Decision, Failure> {
    until(what, async || {
        let mut decisions = decisions(stage, app).await?.into_iter();
        Ok(decisions.find(|d| d.source() == v1::DecisionSource::Agent && is_it(d)))
    })
    .await
}

/// The decisions about an app, newest first.
async fn decisions(stage: &Scratch, app: &str) -> Result<Vec<v1::Decision>, Failure> {
    let session = &stage.operator;
    let apps = vec![app.to_owned()];
    let request = v1::ListDecisionsRequest {
        page_size: 50,
        filter: Some(v1::DecisionFilter { apps, ..v1::DecisionFilter::default() }),
        ..v1::ListDecisionsRequest::default()
    };
    let answer = session.decisions().list_decisions(session.unary(request)).await;
    Ok(answer.map_err(|s| session.failure(s))?.into_inner().decisions)
}
