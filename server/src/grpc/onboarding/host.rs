//! What only the host can say about an onboarding: is the program there, can it be run, and can this build get it at all.

use std::fs;
use std::io;
use std::path::Path;

use agentd_core::app::{OnboardRequest, RequestedSource, Runtime, Template, Violation};
use rustix::fs::Access;
use tonic::Status;

use crate::grpc::{Services, outcome, status};

/// As [`look`], without holding up whoever waits for sockets; programs are looked for where the policy in force says.
///
/// # Errors
/// The loop is gone, or looking panicked while doing `what`.
pub(super) async fn seen(
    services: &Services,
    request: &OnboardRequest,
    what: &'static str,
) -> Result<Vec<Violation>, Status> {
    let search = services.agent.query(|view| view.policy.sandbox.path.clone()).await;
    let search = search.map_err(outcome::gone)?;
    let request = request.clone();
    let looked = tokio::task::spawn_blocking(move || look(&request, &search)).await;
    looked.map_err(|_panicked| status::internal(what))
}

/// Looks at the host. Blocks for as long as the file system takes. What the core refuses by its text is not looked at. `search` are
/// the directories in which the tools of a build are looked for.
fn look(request: &OnboardRequest, search: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    match &request.source {
        RequestedSource::None => {}
        RequestedSource::Exec { path, .. } => found.extend(program(path)),
        RequestedSource::Repo { .. } => found.extend(tools(&request.runtime, search)),
    }
    if let Some(path) = &request.working_dir {
        found.extend(directory(path));
    }
    found
}

/// What fetching and building needs, and the host lacks.
fn tools(runtime: &str, search: &str) -> Vec<Violation> {
    let known = Runtime::ALL.into_iter().find(|known| known.as_str() == runtime);
    let needed = known.map(|runtime| Template::of(runtime).programs()).unwrap_or_default();
    let git = ("repo", "git");
    let all = [git].into_iter().chain(needed.into_iter().map(|program| ("runtime", program)));
    all.filter(|(_, program)| !is_in(search, program))
        .map(|(field, program)| {
            let rule = format!("needs `{program}` in one of {search}, on the host agentd runs on");
            let fix = "install it there, or add its directory to `sandbox.path` of the policy";
            Violation::new(field, "TOOL_MISSING", program, &rule, fix)
        })
        .collect()
}

fn is_in(search: &str, program: &str) -> bool {
    search.split(':').any(|directory| {
        let path = Path::new(directory).join(program);
        path.is_file() && rustix::fs::access(&path, Access::EXEC_OK).is_ok()
    })
}

fn is_worth_a_look(path: &str) -> bool {
    path.starts_with('/') && !path.contains(char::is_control)
}

fn program(path: &str) -> Option<Violation> {
    if !is_worth_a_look(path) {
        return None;
    }
    let (reason, rule, fix) = match fs::metadata(path) {
        Err(error) => unseen(&error),
        Ok(seen) if !seen.is_file() => {
            ("NOT_A_FILE", "must be a regular file", "give the path of the program itself")
        }
        Ok(_) => match rustix::fs::access(Path::new(path), Access::EXEC_OK) {
            Ok(()) => return None,
            Err(_) => {
                let rule = "must be executable by the user agentd runs as";
                ("NOT_EXECUTABLE", rule, "chmod +x, or choose another program")
            }
        },
    };
    Some(Violation::new("exec.path", reason, path, rule, fix))
}

fn directory(path: &str) -> Option<Violation> {
    if !is_worth_a_look(path) {
        return None;
    }
    let (reason, rule, fix) = match fs::metadata(path) {
        Err(error) => unseen(&error),
        Ok(seen) if seen.is_dir() => return None,
        Ok(_) => ("NOT_A_DIRECTORY", "must be a directory", "give the path of a directory"),
    };
    Some(Violation::new("working_dir", reason, path, rule, fix))
}

fn unseen(error: &io::Error) -> (&'static str, &'static str, &'static str) {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let fix = "let the user agentd runs as search the directories on the way";
        ("NOT_READABLE", "must be reachable for agentd", fix)
    } else {
        ("NOT_FOUND", "must exist on the host agentd runs on", "check the path, on that host")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn exec(path: &Path) -> OnboardRequest {
        let path = path.to_str().unwrap().to_owned();
        let source = RequestedSource::Exec { path, args: vec![] };
        OnboardRequest { source, ..OnboardRequest::default() }
    }

    fn reasons(request: &OnboardRequest) -> Vec<String> {
        look(request, "/usr/bin").into_iter().map(|v| format!("{} {}", v.field, v.reason)).collect()
    }

    #[test]
    fn a_program_must_be_there_be_a_file_and_be_executable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run");
        assert_eq!(reasons(&exec(&file)), ["exec.path NOT_FOUND"]);
        fs::write(&file, "#!/bin/true\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(reasons(&exec(&file)), ["exec.path NOT_EXECUTABLE"]);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(reasons(&exec(&file)).is_empty());
        assert_eq!(reasons(&exec(dir.path())), ["exec.path NOT_A_FILE"]);
    }

    #[test]
    fn a_working_directory_must_be_one_and_everything_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let mut request = exec(&dir.path().join("nothing"));
        request.working_dir = Some(file.to_str().unwrap().to_owned());
        assert_eq!(reasons(&request), ["exec.path NOT_FOUND", "working_dir NOT_A_DIRECTORY"]);
        request.working_dir = Some("relative".to_owned());
        assert_eq!(reasons(&request), ["exec.path NOT_FOUND"], "the core refuses it by its text");
    }

    #[test]
    fn the_tools_of_a_build_must_be_on_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let source = RequestedSource::Repo { url: "https://u:secret@h/r".into(), revision: None };
        let runtime = "go".to_owned();
        let request = OnboardRequest { source, runtime, ..OnboardRequest::default() };
        let search = format!("/no/where:{}", dir.path().display());
        let missing = || {
            let found = look(&request, &search);
            assert!(!format!("{found:?}").contains("secret"));
            found.into_iter().map(|v| format!("{} {} {}", v.field, v.reason, v.value)).collect()
        };
        let none: Vec<String> = missing();
        assert_eq!(none, ["repo TOOL_MISSING git", "runtime TOOL_MISSING go"]);
        for tool in ["git", "go"] {
            let tool = dir.path().join(tool);
            fs::write(&tool, "").unwrap();
            fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(missing(), Vec::<String>::new());
    }
}
