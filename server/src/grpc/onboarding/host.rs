//! What only the host can say about an onboarding: is the program there, can it be run, and can this build get it at all.

use std::fs;
use std::io;
use std::path::Path;

use agentd_core::app::{OnboardRequest, RequestedSource, Violation};
use rustix::fs::Access;

/// Reason of a source that this build has no way to fetch.
pub(super) const REPO_UNSUPPORTED: &str = "REPO_DEPLOYMENT_UNSUPPORTED";
/// What is said of it.
pub(super) const REPO_UNSUPPORTED_RULE: &str =
    "cannot be deployed from: this version does not fetch and build repositories";
/// And what to do.
pub(super) const REPO_UNSUPPORTED_FIX: &str =
    "build it yourself and onboard the program: agentctl onboard NAME --exec PATH";

/// Looks at the host. Blocks for as long as the file system takes. What the core refuses by its text is not looked at.
pub(super) fn look(request: &OnboardRequest) -> Vec<Violation> {
    let mut found = Vec::new();
    match &request.source {
        RequestedSource::None => {}
        RequestedSource::Exec { path, .. } => found.extend(program(path)),
        RequestedSource::Repo { url, .. } => {
            // What may hold a password is not repeated.
            let shown = if url.contains('@') { "(withheld)" } else { url };
            let (rule, fix) = (REPO_UNSUPPORTED_RULE, REPO_UNSUPPORTED_FIX);
            found.push(Violation::new("repo", REPO_UNSUPPORTED, shown, rule, fix));
        }
    }
    if let Some(path) = &request.working_dir {
        found.extend(directory(path));
    }
    found
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
        look(request).into_iter().map(|v| format!("{} {}", v.field, v.reason)).collect()
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
    fn a_repository_is_refused_without_repeating_a_password() {
        let source = RequestedSource::Repo { url: "https://u:secret@h/r".into(), revision: None };
        let found = look(&OnboardRequest { source, ..OnboardRequest::default() });
        assert_eq!(found[0].reason, REPO_UNSUPPORTED);
        assert!(!format!("{found:?}").contains("secret"));
    }
}
