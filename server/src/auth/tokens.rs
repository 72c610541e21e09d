//! The token file: who exists, with which roles. It must be readable by its owner alone.
//!
//! ```toml
//! [[principal]]
//! name = "alice"
//! roles = ["operator", "viewer"]
//! token_sha256 = "…64 hex digits…"
//!
//! [[principal]]
//! name = "node-exporter"
//! roles = ["monitor"]
//! token = "agt_…"
//! apps = ["my-api"]
//! ```

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Principal, Role};

pub mod edit;

/// Name of the token file in a data directory.
pub const FILE_NAME: &str = "tokens.toml";

/// Principal the command line uses on the host of the server.
pub const LOCAL: &str = "local";

/// Most principals of one file: every request is compared with each of them.
pub const MAX_PRINCIPALS: usize = 1000;

const MAX_FILE: u64 = 1024 * 1024;
const MIN_TOKEN: usize = 32;
const MAX_TOKEN: usize = 512;

/// Why a token file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read, or not be made.
    #[error("cannot use token file `{path}`")]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read or change it.
    #[error(
        "token file `{path}` is accessible to others (mode {mode:04o}), run `chmod 600 {path}`"
    )]
    Permissions {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("token file `{path}` belongs to user {owner}, not to the user of the server ({me})")]
    Owner {
        /// Its path.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs the server.
        me: u32,
    },
    /// It is no TOML or JSON of the right shape.
    #[error("{path}:{line}: malformed token file: {detail}")]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Where and why.
        detail: String,
    },
    /// Entries break rules; all of them are named.
    #[error("token file `{path}` has invalid entries\n  {}", .problems.join("\n  "))]
    Invalid {
        /// Its path.
        path: PathBuf,
        /// One line each, with the place of the entry.
        problems: Vec<String>,
    },
    /// It has a form that is not changed by a program.
    #[error("token file `{path}` cannot be changed here: {why}; edit it by hand")]
    ByHand {
        /// Its path.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// No principal of that name has its token in the file in plain.
    #[error("token file `{path}` holds no token for `{name}`")]
    NoToken {
        /// Its path.
        path: PathBuf,
        /// Who was looked for.
        name: String,
    },
}

/// The principals a server knows, by the digest of their tokens.
#[derive(Debug, Clone, Default)]
pub struct TokenTable {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    digest: [u8; 32],
    principal: Principal,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(default)]
    principal: Vec<EntryForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryForm {
    name: String,
    roles: Vec<String>,
    token: Option<String>,
    token_sha256: Option<String>,
    apps: Option<BTreeSet<String>>,
}

/// What a token is known by.
pub(super) fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

impl TokenTable {
    /// Reads a token file, TOML or (by its extension) JSON.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read, is accessible to others, or any entry is invalid.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let (form, text) = read(path)?;
        let place = |index: usize| place(path, &text, index);
        let mut problems = Vec::new();
        let mut table = Self::default();
        if form.principal.is_empty() {
            problems.push(format!("{}: it names no principal, add one", path.display()));
        }
        if form.principal.len() > MAX_PRINCIPALS {
            let path = path.display();
            problems.push(format!("{path}: it names more than {MAX_PRINCIPALS} principals"));
        }
        let mut names = BTreeSet::new();
        let mut digests = BTreeSet::new();
        for (index, entry) in form.principal.iter().enumerate() {
            let entry = match check(entry) {
                Ok(entry) => entry,
                Err(more) => {
                    problems.extend(more.iter().map(|rule| format!("{}: {rule}", place(index))));
                    continue;
                }
            };
            let (at, name) = (place(index), &entry.principal);
            if !names.insert(name.name().to_owned()) {
                problems.push(format!("{at}: `{name}` is there twice, remove one"));
            }
            if !digests.insert(entry.digest) {
                problems.push(format!("{at}: `{name}` has the token of another principal"));
            }
            table.entries.push(entry);
        }
        if problems.is_empty() {
            Ok(table)
        } else {
            Err(Error::Invalid { path: path.to_owned(), problems })
        }
    }

    /// Reads the token file of a data directory, after making one with fresh tokens if there is none.
    ///
    /// # Errors
    /// As [`TokenTable::load`].
    pub fn load_or_generate(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(FILE_NAME);
        if !path.try_exists().map_err(|source| Error::Io { path: path.clone(), source })? {
            generate(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        Self::load(&path)
    }

    /// The principal with this token. Takes the same time whichever entry matches, and if none does.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<Principal> {
        if token.len() > MAX_TOKEN { None } else { self.find_digest(&digest(token)) }
    }

    /// As [`TokenTable::find`], by the digest of the token.
    #[must_use]
    pub fn find_digest(&self, digest: &[u8; 32]) -> Option<Principal> {
        let mut found = None;
        for entry in &self.entries {
            if bool::from(entry.digest.ct_eq(digest)) {
                found = Some(&entry.principal);
            }
        }
        found.cloned()
    }

    /// How many principals there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The plain token of `name` in the token file at `path`; the command line uses it for [`LOCAL`].
///
/// # Errors
/// [`Error`] if the file is not usable or holds no plain token of that name.
pub fn plain_token(path: &Path, name: &str) -> Result<String, Error> {
    let (form, _) = read(path)?;
    form.principal
        .into_iter()
        .find(|entry| entry.name == name)
        .and_then(|entry| entry.token)
        .ok_or_else(|| Error::NoToken { path: path.to_owned(), name: name.to_owned() })
}

/// `path:line` of an entry; the path alone where the file is not written as the format of this module shows it.
fn place(path: &Path, text: &str, index: usize) -> String {
    let mut lines = text.lines().zip(1..);
    let header = |(line, _): &(&str, usize)| line.trim_start().starts_with("[[principal]]");
    match lines.by_ref().filter(header).nth(index) {
        Some((_, line)) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

fn read(path: &Path) -> Result<(FileForm, String), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    // Opened first and then asked: what is checked is what is read.
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Permissions { path: path.to_owned(), mode });
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(Error::Owner { path: path.to_owned(), owner: meta.uid(), me });
    }
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(io)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(io(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
    }
    let syntax = |line: usize, detail: String| Error::Syntax {
        path: path.to_owned(),
        line,
        detail: agentctl_api::text::line(&detail).into_owned(),
    };
    let form = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text).map_err(|e| syntax(e.line(), e.to_string()))
    } else {
        // `message()` only: the full rendering quotes the line at fault, and that line may hold a token.
        toml::from_str(&text).map_err(|e: toml::de::Error| {
            let at = e.span().map_or(0, |span| span.start);
            let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
            syntax(line, e.message().to_owned())
        })
    };
    Ok((form?, text))
}

fn check(form: &EntryForm) -> Result<Entry, Vec<String>> {
    let name = agentctl_api::text::line(&form.name);
    let mut problems = Vec::new();
    let name_ok = (1..=128).contains(&form.name.len())
        && form.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b));
    if !name_ok {
        problems.push(format!("name `{name}` must be 1 to 128 of letters, digits, `-_.@`"));
    }
    if form.name.eq_ignore_ascii_case("agent")
        || form.name.to_ascii_lowercase().starts_with("agent-")
    {
        problems.push(format!("name `{name}` is reserved for the agent itself"));
    }
    let mut roles = BTreeSet::new();
    for role in &form.roles {
        match Role::parse(role) {
            Some(role) => {
                roles.insert(role);
            }
            None => problems.push(format!(
                "`{name}` has the unknown role `{}`, known are viewer, monitor, operator, approver, admin",
                agentctl_api::text::line(role)
            )),
        }
    }
    if form.roles.is_empty() {
        problems.push(format!("`{name}` has no role"));
    }
    if roles.contains(&Role::Monitor) && roles.contains(&Role::Approver) {
        problems.push(format!("`{name}` is a monitor and can therefore not be an approver"));
    }
    let digest = match (&form.token, &form.token_sha256) {
        (Some(token), None) if (MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) => {
            Some(Sha256::digest(token.as_bytes()).into())
        }
        (Some(_), None) => {
            problems.push(format!("`{name}` needs a token of {MIN_TOKEN} to {MAX_TOKEN} bytes"));
            None
        }
        (None, Some(hex)) => {
            let digest = unhex(hex);
            if digest.is_none() {
                problems.push(format!("token_sha256 of `{name}` must be 64 hex digits"));
            }
            digest
        }
        _ => {
            problems.push(format!("`{name}` needs exactly one of token and token_sha256"));
            None
        }
    };
    match digest {
        Some(digest) if problems.is_empty() => {
            Ok(Entry { digest, principal: Principal::new(&form.name, roles, form.apps.clone()) })
        }
        _ => Err(problems),
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok().filter(|_| !pair.starts_with('+'))?;
    }
    Some(out)
}

/// Roles of the principals of a fresh token file. `local` is what the command line on this host uses; it has every role but
/// `monitor`, since a monitor can never approve.
const GENERATED: [(&str, &[Role]); 6] = [
    (LOCAL, &[Role::Viewer, Role::Operator, Role::Approver, Role::Admin]),
    ("viewer", &[Role::Viewer]),
    ("monitor", &[Role::Monitor]),
    ("operator", &[Role::Viewer, Role::Operator]),
    ("approver", &[Role::Viewer, Role::Approver]),
    ("admin", &[Role::Viewer, Role::Admin]),
];

fn generate(path: &Path) -> io::Result<()> {
    let mut text = String::from(
        "# Principals of this agentd, made at its first start. Whoever can read this file can act as any of them:\n\
         # keep it at mode 0600. Replace `token` by `token_sha256` where the plain token lives elsewhere.\n",
    );
    for (name, roles) in GENERATED {
        let roles: Vec<_> = roles.iter().map(|role| format!("\"{}\"", role.as_str())).collect();
        text.push_str(&format!(
            "\n[[principal]]\nname = \"{name}\"\nroles = [{}]\ntoken = \"{}\"\n",
            roles.join(", "),
            fresh_token()?
        ));
    }
    // Written under another name first: a reader finds the whole file or none, and a crash leaves no half of one.
    let temporary = path.with_extension(format!("toml.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    // A link fails where a rename would replace the file of a server that was faster.
    let linked = written.and_then(|()| match std::fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    std::fs::remove_file(&temporary)?;
    linked?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// A token of 256 random bits.
fn fresh_token() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let mut token = String::from("agt_");
    for byte in bytes {
        token.push_str(&format!("{byte:02x}"));
    }
    Ok(token)
}

#[cfg(test)]
mod tests;
