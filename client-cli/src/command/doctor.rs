//! `agentctl doctor`: what is needed, looked at piece by piece, with what to do where something is missing.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentctl_api::v1;
use clap::Args;
use serde::Serialize;

use super::Context;
use crate::config::{self, Contexts};
use crate::connect::{self, Session};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::server;

/// Longest time the whole of it takes, where --timeout does not say.
const LIMIT: Duration = Duration::from_millis(900);

/// Check the configuration, the server and what it needs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl doctor
  agentctl doctor --server                   also judges every decision of the proof log again
  agentctl doctor -o json | jq '.[] | select(.status == \"failed\")'

Exit codes: 0 nothing is wrong, 1 something is (✖). A warning (!) changes nothing.")]
pub struct DoctorArgs {
    /// Also look deeper into the server: judge every decision again, and ask each of its parts
    #[arg(long)]
    server: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct CheckView {
    check: &'static str,
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warning,
    Failed,
    Skipped,
}

impl Status {
    const fn glyph(self) -> &'static str {
        match self {
            Self::Ok => "✔ ok",
            Self::Warning => "! warning",
            Self::Failed => "✖ failed",
            Self::Skipped => "○ skipped",
        }
    }
}

fn check(check: &'static str, status: Status, found: impl Into<String>) -> CheckView {
    CheckView { check, status, found: found.into(), fix: None }
}

impl CheckView {
    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

pub(super) async fn run(args: DoctorArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut checks = vec![configuration()];
    checks.extend(on_server(&args, context).await);
    checks.extend(on_this_host(context));
    checks.extend(runtimes());
    let failed = checks.iter().filter(|check| check.status == Status::Failed).count();
    context.output.emit_list(&checks, |page| page_of(page, &checks, failed))?;
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failure })
}

fn page_of(page: &mut Page, checks: &[CheckView], failed: usize) {
    let mut table = Table::new(&["CHECK", "STATUS", "FOUND"]);
    for check in checks {
        table.row([check.check, check.status.glyph(), &check.found]);
    }
    page.table(&table);
    for check in checks {
        if let Some(fix) = &check.fix {
            page.line(format!("{}: {fix}", check.check));
        }
    }
    page.line(match failed {
        0 => "✔ nothing is wrong".to_owned(),
        1 => "✖ 1 thing is wrong".to_owned(),
        n => format!("✖ {n} things are wrong"),
    });
}

/// The file of the command line.
fn configuration() -> CheckView {
    let Some(path) = config::path(&connect::env) else {
        return check("config", Status::Skipped, "HOME is not set");
    };
    let shown = path.display().to_string();
    match Contexts::load(&path) {
        Ok(_) if !path.exists() => {
            check("config", Status::Ok, format!("{shown} is not there, and need not be"))
        }
        Ok(contexts) => {
            check("config", Status::Ok, format!("{shown}, {} contexts", contexts.contexts.len()))
        }
        Err(failure) => check("config", Status::Failed, failure.to_string())
            .fix("`agentctl config validate` names every mistake"),
    }
}

/// The server, within the limit of time: what takes longer is said to.
async fn on_server(args: &DoctorArgs, context: &mut Context) -> Vec<CheckView> {
    let limit = context.global.timeout.map_or(LIMIT, |span| span.0);
    let began = std::time::Instant::now();
    let (mut checks, mut known) = (Vec::new(), None);
    let asked = tokio::time::timeout(limit, async {
        let session = match context.connect().await {
            Ok(session) => session,
            Err(failure) => {
                checks.push(unreachable(&failure));
                return;
            }
        };
        let request = session.unary(v1::GetStatusRequest {});
        match session.agent().get_status(request).await {
            Ok(answer) => {
                let status = answer.into_inner().status.unwrap_or_default();
                checks.push(version(&session, &status));
                checks.extend(parts(&status, args.server));
            }
            Err(status) => {
                checks.push(unreachable(&session.failure(status)));
                return;
            }
        }
        checks.push(bus(&session).await);
        known = Some(session);
    });
    if asked.await.is_err() {
        let late = format!("no answer within {} ms", limit.as_millis());
        checks.push(check("server", Status::Failed, late).fix("allow more with --timeout"));
    }
    if let Some(session) = known {
        // A long log takes as long as it takes; who wants to know asks for it.
        let limit =
            if args.server { session.patience() } else { limit.saturating_sub(began.elapsed()) };
        let chain = tokio::time::timeout(limit, proof(&session, args.server)).await;
        checks.push(chain.unwrap_or_else(|_late| {
            check("proof chain", Status::Skipped, "too long to look at in passing")
                .fix("`agentctl proof verify` takes the time it needs")
        }));
    }
    checks
}

fn unreachable(failure: &Failure) -> CheckView {
    let fix = match failure.exit() {
        Exit::Unreachable => "start one with `agentctl up`, or name another one with --address",
        Exit::Denied => "give a token with --token-file or AGENTCTL_TOKEN",
        _ => "`agentctl config view --show-origin` shows where each setting comes from",
    };
    check("server", Status::Failed, failure.to_string()).fix(fix)
}

fn version(session: &Session, status: &v1::AgentStatus) -> CheckView {
    let own = env!("CARGO_PKG_VERSION");
    let found = format!(
        "{} agentd {}, serves {}",
        session.address().value,
        status.version,
        status.environment
    );
    if status.version == own {
        return check("server", Status::Ok, found);
    }
    check("server", Status::Warning, format!("{found}; this is agentctl {own}"))
        .fix("use the agentctl of the same version where something is not understood")
}

/// What the status says of the server's own parts.
fn parts(status: &v1::AgentStatus, all: bool) -> Vec<CheckView> {
    let journal = status.journal.clone().unwrap_or_default();
    let mut checks = vec![match journal.state() {
        v1::JournalState::Writable => check(
            "proof log",
            Status::Ok,
            format!("writable, #{}..#{}", journal.oldest_seq, journal.head_seq),
        ),
        _ => check("proof log", Status::Failed, format!("{}: no action runs", journal.detail))
            .fix("free space or mend the disk, then restart agentd; reads go on meanwhile"),
    }];
    for part in &status.components {
        // The bus has a check of its own.
        if part.name == "queue_monitor" || (part.healthy && !all) {
            continue;
        }
        let status = if part.healthy { Status::Ok } else { Status::Failed };
        checks.push(check("part", status, format!("{}: {}", part.name, part.detail)));
    }
    for mode in &status.modes {
        let what = crate::view::mode_kind(mode.kind);
        checks.push(
            check("mode", Status::Warning, format!("{what}{}", super::pieces::by_whom(mode)))
                .fix("`agentctl status` shows every restriction; `agentctl resume` lifts a pause"),
        );
    }
    checks
}

async fn bus(session: &Session) -> CheckView {
    let answer = session.bus().get_bus_stats(session.unary(v1::GetBusStatsRequest {})).await;
    let stats = match answer {
        Ok(answer) => answer.into_inner().stats.unwrap_or_default(),
        Err(status) => {
            return check("bus", Status::Warning, session.failure(status).to_string());
        }
    };
    let place = format!("{} {}", stats.backend, stats.place);
    match (stats.backend.as_str(), stats.connected, stats.dropped) {
        ("memory", ..) => check("bus", Status::Ok, "memory, in the server: no Redis is configured"),
        (_, true, 0) => check("bus", Status::Ok, place),
        (_, true, dropped) => {
            check("bus", Status::Warning, format!("{place}, {dropped} records were skipped"))
                .fix("they stand on the bus as gaps; the proof log has them all")
        }
        (_, false, _) => check("bus", Status::Failed, format!("{place}: {}", stats.last_error))
            .fix("start it, or start agentd without --redis; no decision waits for it"),
    }
}

async fn proof(session: &Session, recheck: bool) -> CheckView {
    let request =
        session.unary(v1::VerifyProofRequest { recheck_decisions: recheck, ..Default::default() });
    let answer = match session.proof().verify_proof(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            return check("proof chain", Status::Failed, session.failure(status).to_string())
                .fix("`agentctl proof verify` shows the damage");
        }
    };
    if answer.valid {
        let judged = if recheck { ", every decision judged again" } else { "" };
        return check(
            "proof chain",
            Status::Ok,
            format!("sound up to #{}{judged}", answer.last_seq),
        );
    }
    check("proof chain", Status::Failed, "the log does not verify")
        .fix("`agentctl proof verify` shows the damage; nothing behind it is trusted")
}

/// Files of a server on this host.
fn on_this_host(context: &Context) -> Vec<CheckView> {
    let named = context.global.data_dir.clone().or_else(|| connect::env("AGENTD_DATA_DIR"));
    let directory = match (&named, server::token_file(named.as_deref())) {
        (Some(directory), _) => PathBuf::from(directory),
        (None, Some(tokens)) => tokens.parent().map(Path::to_owned).unwrap_or_default(),
        (None, None) => {
            return vec![check("data dir", Status::Skipped, "no server of this user on this host")];
        }
    };
    let mut checks = Vec::new();
    let shown = directory.display();
    match std::fs::metadata(&directory) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => checks.push(
            check(
                "data dir",
                Status::Failed,
                format!(
                    "{shown} is open to others (mode {:04o})",
                    meta.permissions().mode() & 0o7777
                ),
            )
            .fix(format!("chmod 700 {shown}")),
        ),
        Ok(meta) if meta.is_dir() => {
            checks.push(check("data dir", Status::Ok, format!("{shown}, owner {}", meta.uid())));
        }
        Ok(_) => checks.push(check("data dir", Status::Failed, format!("{shown} is no directory"))),
        Err(error) => {
            checks.push(
                check("data dir", Status::Failed, format!("{shown}: {error}"))
                    .fix("name the server's data directory with --data-dir"),
            );
            return checks;
        }
    }
    let tokens = directory.join(server::TOKENS_FILE);
    checks.push(match server::principals(&tokens) {
        Ok(all) => {
            check("tokens", Status::Ok, format!("{}, {} principals", tokens.display(), all.len()))
        }
        Err(failure) => check("tokens", Status::Failed, failure.to_string())
            .fix(format!("chmod 600 {}", tokens.display())),
    });
    checks
}

/// What builds and runs apps: only looked for, never started.
fn runtimes() -> Vec<CheckView> {
    let search = connect::env("PATH").unwrap_or_default();
    let find = |names: &[&str]| {
        std::env::split_paths(&search)
            .flat_map(|directory| {
                names.iter().map(move |name| directory.join(name)).collect::<Vec<_>>()
            })
            .find(|path| is_program(path))
    };
    [
        ("git", &["git"][..], "needed to onboard from a repository"),
        ("node", &["node", "nodejs"], "needed to onboard nodejs apps"),
        ("python", &["python3", "python"], "needed to onboard python apps"),
    ]
    .into_iter()
    .map(|(name, programs, why)| match find(programs) {
        Some(path) => check(name, Status::Ok, path.display().to_string()),
        None => check(name, Status::Warning, "not on PATH").fix(why),
    })
    .collect()
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_counted_and_each_has_its_fix() {
        let checks = [
            check("config", Status::Ok, "fine"),
            check("tokens", Status::Failed, "mode 0644").fix("chmod 600 tokens.toml"),
            check("node", Status::Warning, "not on PATH").fix("needed to onboard nodejs apps"),
        ];
        let mut page = Page::default();
        page_of(&mut page, &checks, 1);
        assert_eq!(
            page.render(false),
            "CHECK   STATUS     FOUND\n\
             config  ✔ ok       fine\n\
             tokens  ✖ failed   mode 0644\n\
             node    ! warning  not on PATH\n\
             tokens: chmod 600 tokens.toml\n\
             node: needed to onboard nodejs apps\n\
             ✖ 1 thing is wrong\n"
        );
    }

    #[test]
    fn a_log_that_cannot_be_written_and_a_pause_are_noticed() {
        let status = v1::AgentStatus {
            journal: Some(v1::JournalStatus {
                state: v1::JournalState::Unavailable.into(),
                detail: "no space left".to_owned(),
                ..Default::default()
            }),
            modes: vec![v1::Mode { reason: "INC-481".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let checks = parts(&status, false);
        assert_eq!(checks[0].status, Status::Failed);
        assert_eq!(checks[0].found, "no space left: no action runs");
        assert_eq!(checks[1].status, Status::Warning);
    }
}
