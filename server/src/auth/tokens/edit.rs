//! Changes to a token file by the command line on the server's host: a new principal, one that goes.
//!
//! What is written holds the digest of a new token, never the token: that is told once. Other entries stay as they are, line by
//! line, comments included.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Entry, Error, TokenTable, fresh_token, read};
use crate::auth::Role;

/// A principal, without its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its roles.
    pub roles: Vec<&'static str>,
    /// Apps it is bound to; empty: none.
    pub apps: Vec<String>,
    /// True if the file holds only the digest of its token.
    pub hashed: bool,
}

/// Everybody in the file at `path`.
///
/// # Errors
/// [`Error`] if the file is not usable.
pub fn list(path: &Path) -> Result<Vec<Listed>, Error> {
    let table = TokenTable::load(path)?;
    let (form, _) = read(path)?;
    let hashed: BTreeSet<&str> = form
        .principal
        .iter()
        .filter(|entry| entry.token.is_none())
        .map(|entry| entry.name.as_str())
        .collect();
    let listed = |Entry { principal, .. }: &Entry| Listed {
        name: principal.name().to_owned(),
        roles: principal.roles().iter().map(|role| role.as_str()).collect(),
        apps: principal.apps().into_iter().flatten().cloned().collect(),
        hashed: hashed.contains(principal.name()),
    };
    Ok(table.entries.iter().map(listed).collect())
}

/// Adds a principal and returns its token, which is nowhere else.
///
/// # Errors
/// [`Error::Invalid`] with every rule the entry breaks, such as a name that is there already; nothing is written then.
pub fn create(
    path: &Path,
    name: &str,
    roles: &BTreeSet<Role>,
    apps: &BTreeSet<String>,
) -> Result<String, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let token = fresh_token().map_err(io)?;
    change(path, |text| {
        let digest = Sha256::digest(token.as_bytes());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let quoted = |values: Vec<&str>| {
            let quoted: Vec<String> =
                values.into_iter().map(|v| toml::Value::from(v).to_string()).collect();
            quoted.join(", ")
        };
        let mut text = text.trim_end().to_owned();
        text.push_str(&format!(
            "\n\n[[principal]]\nname = {}\nroles = [{}]\ntoken_sha256 = \"{hex}\"\n",
            toml::Value::from(name),
            quoted(roles.iter().map(|role| role.as_str()).collect()),
        ));
        if !apps.is_empty() {
            text.push_str(&format!(
                "apps = [{}]\n",
                quoted(apps.iter().map(String::as_str).collect())
            ));
        }
        Some(text)
    })?;
    Ok(token)
}

/// Removes a principal.
///
/// # Errors
/// [`Error::NoToken`] if there is none of that name, [`Error::Invalid`] if it is the last one; nothing is written then.
pub fn revoke(path: &Path, name: &str) -> Result<(), Error> {
    if !list(path)?.iter().any(|principal| principal.name == name) {
        return Err(Error::NoToken { path: path.to_owned(), name: name.to_owned() });
    }
    change(path, |text| without(text, name))
}

/// The text without the entry of `name`: from its header to the next one.
fn without(text: &str, name: &str) -> Option<String> {
    let mut parts: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if line.trim_start().starts_with("[[principal]]") {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let is_it = |part: &String| {
        let table: Option<toml::Table> = toml::from_str(part).ok();
        let entry = table.as_ref().and_then(|t| t.get("principal")?.as_array()?.first());
        entry.and_then(|entry| entry.get("name")?.as_str()) == Some(name)
    };
    let kept: Vec<String> = parts.iter().filter(|part| !is_it(part)).cloned().collect();
    // An entry that was written in another form than one table each is not found, and then nothing is changed.
    (kept.len() < parts.len()).then(|| kept.concat())
}

/// Puts a changed file in place of the old one, after reading it back as the server will.
fn change(path: &Path, edit: impl FnOnce(&str) -> Option<String>) -> Result<(), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if path.extension().is_some_and(|extension| extension == "json") {
        return Err(Error::ByHand { path: path.to_owned(), why: "it is no TOML file" });
    }
    TokenTable::load(path)?;
    let text = std::fs::read_to_string(path).map_err(io)?;
    let Some(changed) = edit(&text) else {
        let why = "the entry is not a [[principal]] table of its own";
        return Err(Error::ByHand { path: path.to_owned(), why });
    };
    let temporary = path.with_extension(format!("{}.toml", std::process::id()));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(changed.as_bytes())?;
        file.sync_all()
    };
    let result = write().map_err(io).and_then(|()| {
        // Names, limits and duplicates are judged by the one reader there is.
        TokenTable::load(&temporary).map_err(|error| named(error, &temporary, path))?;
        std::fs::rename(&temporary, path).map_err(io)
    });
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result.and_then(|()| sync_parent(path).map_err(io))
}

/// The error as it is about `path`, not about the temporary file.
fn named(error: Error, temporary: &Path, path: &Path) -> Error {
    let (old, new) = (temporary.display().to_string(), path.display().to_string());
    let path = path.to_owned();
    match error {
        Error::Invalid { problems, .. } => {
            let problems = problems.iter().map(|problem| problem.replace(&old, &new)).collect();
            Error::Invalid { path, problems }
        }
        Error::Syntax { line, detail, .. } => Error::Syntax { path, line, detail },
        other => other,
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tokens::{FILE_NAME, LOCAL, plain_token};

    fn made() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        TokenTable::load_or_generate(dir.path()).unwrap();
        let path = dir.path().join(FILE_NAME);
        (dir, path)
    }

    fn roles(names: &[Role]) -> BTreeSet<Role> {
        names.iter().copied().collect()
    }

    #[test]
    fn a_new_principal_is_known_by_its_token_and_the_file_does_not_hold_it() {
        let (_dir, path) = made();
        let apps = BTreeSet::from(["web".to_owned()]);
        let token = create(&path, "edge-1", &roles(&[Role::Monitor]), &apps).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(token.starts_with("agt_") && !text.contains(&token));
        let principal = TokenTable::load(&path).unwrap().find(token.as_bytes()).unwrap();
        assert_eq!((principal.name(), principal.may_report("web")), ("edge-1", true));
        assert!(!principal.may_report("other"));
        let listed = list(&path).unwrap();
        let edge = listed.iter().find(|p| p.name == "edge-1").unwrap();
        assert_eq!(
            (&*edge.roles, &*edge.apps, edge.hashed),
            (&["monitor"][..], &apps.into_iter().collect::<Vec<_>>()[..], true)
        );
        assert!(!listed.iter().find(|p| p.name == LOCAL).unwrap().hashed);
    }

    #[test]
    fn what_is_revoked_is_gone_and_everything_else_is_as_it_was() {
        let (_dir, path) = made();
        let before = std::fs::read_to_string(&path).unwrap();
        let token = create(&path, "ci", &roles(&[Role::Viewer]), &BTreeSet::new()).unwrap();
        revoke(&path, "ci").unwrap();
        assert!(TokenTable::load(&path).unwrap().find(token.as_bytes()).is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), before.trim());
        assert!(plain_token(&path, LOCAL).is_ok());
        assert!(matches!(revoke(&path, "ci"), Err(Error::NoToken { .. })));
    }

    #[test]
    fn an_entry_that_breaks_rules_is_refused_with_all_of_them_and_the_file_stays() {
        let (dir, path) = made();
        let before = std::fs::read_to_string(&path).unwrap();
        let both = roles(&[Role::Monitor, Role::Approver]);
        for (name, roles, says) in [
            ("viewer", roles(&[Role::Viewer]), "`viewer` is there twice"),
            ("agent-1", roles(&[Role::Viewer]), "reserved for the agent"),
            ("a b\"", roles(&[Role::Viewer]), "must be 1 to 128"),
            ("both", both, "can therefore not be an approver"),
            ("none", BTreeSet::new(), "`none` has no role"),
        ] {
            let error = create(&path, name, &roles, &BTreeSet::new()).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("/tokens.toml`"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no half of a file is left");
    }

    #[test]
    fn the_last_principal_stays() {
        let (_dir, path) = made();
        let names: Vec<String> = list(&path).unwrap().into_iter().map(|p| p.name).collect();
        let (last, others) = names.split_last().unwrap();
        for name in others {
            revoke(&path, name).unwrap();
        }
        assert!(matches!(revoke(&path, last), Err(Error::Invalid { .. })));
        assert_eq!(list(&path).unwrap().len(), 1);
    }
}
