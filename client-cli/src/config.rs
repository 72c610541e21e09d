//! The file of the command line: named contexts, each a server with what is needed to talk to it.
//!
//! ```toml
//! current = "stage"
//!
//! [contexts.stage]
//! address = "agentd.stage.example.org:7443"
//! env = "stage"
//! token_file = "stage.token"
//! ```
//!
//! A flag wins over the environment, that over the context, and that over the default.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use agentctl_api::client;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::{server, text};

/// Largest file that is read.
const FILE_MAX: u64 = 256 * 1024;
/// Most contexts of one file.
const CONTEXTS_MAX: usize = 200;
/// What a context may set.
const KEYS: [&str; 7] = ["address", "env", "token_file", "as", "tls_ca", "plaintext", "data_dir"];
/// What the file may hold.
const TOP: [&str; 2] = ["current", "contexts"];

/// A server, and what is needed to talk to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Environment it has to serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// File with a token; relative to the file of contexts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Principal of a token file with several.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Its certificate authority; relative to the file of contexts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// Plain text, even to another host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plaintext: bool,
    /// Data directory of a server on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
}

/// The file, as it is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contexts {
    /// Name of the context in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Profile>,
}

/// `AGENTCTL_CONFIG`, else `agentctl/agentctl.toml` in the user's configuration directory; `None` without a home.
#[must_use]
pub fn path(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(named) = env("AGENTCTL_CONFIG") {
        return Some(PathBuf::from(named));
    }
    let base = env("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        // The specification of these directories has relative ones ignored.
        .filter(|path| path.is_absolute())
        .or_else(|| Some(Path::new(&env("HOME")?).join(".config")))?;
    Some(base.join("agentctl").join("agentctl.toml"))
}

impl Contexts {
    /// Reads the file; one that is not there holds no context.
    ///
    /// # Errors
    /// It cannot be read, or breaks rules: all of them are named, with their lines.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Ok(meta) if meta.len() > FILE_MAX => {
                return Err(Failure::usage(format!(
                    "`{}` is larger than {FILE_MAX} bytes",
                    path.display()
                )));
            }
            _ => {}
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::because(Exit::Usage, &format!("cannot read `{}`", path.display()), &error)
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// As [`Contexts::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let malformed = |why: &str| {
            Failure::usage(format!("`{}` is malformed: {why}", path.display()))
                .hint("`agentctl config init` shows what it may hold")
        };
        let table: toml::Table =
            toml::from_str(text).map_err(|error| malformed(error.message()))?;
        let mut problems = unknown_keys(&table);
        // What has a wrong type is said by the reader itself; the keys are told all at once before.
        if problems.is_empty() {
            let contexts: Self =
                toml::from_str(text).map_err(|error| malformed(error.message()))?;
            problems = contexts.problems();
            if problems.is_empty() {
                return Ok(contexts);
            }
        }
        let what = format!("`{}` is invalid", path.display());
        Err(problems.into_iter().fold(Failure::usage(what), |failure, (key, rule)| {
            let place = line_of(text, &key).map_or(key.clone(), |line| format!("{line}: {key}"));
            failure.fact(place, rule)
        }))
    }

    /// Everything that breaks a rule: the key, and the rule with the value.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if self.contexts.len() > CONTEXTS_MAX {
            problems.push(("contexts".to_owned(), format!("more than {CONTEXTS_MAX} contexts")));
        }
        if let Some(current) = &self.current
            && !self.contexts.contains_key(current)
        {
            let rule = format!("must name a context of the file, got `{}`", text::line(current));
            problems.push(("current".to_owned(), rule));
        }
        for (name, profile) in &self.contexts {
            if !is_name(name) {
                let rule = "must be 1 to 64 of letters, digits, `-_.`".to_owned();
                problems.push((format!("contexts.{}", text::line(name)), rule));
            }
            for (key, rule) in profile.problems() {
                problems.push((format!("contexts.{}.{key}", text::line(name)), rule));
            }
        }
        problems
    }

    /// Writes the file, readable by its owner alone, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(|error| Failure::unprintable(&error))?;
        write_private(path, &text)
    }
}

/// Writes a file that only its owner can read, under another name first: a reader finds the old one or the new one.
///
/// # Errors
/// It cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(directory)?;
        // Temporary files of this crate are made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        std::io::Result::Ok(())
    };
    write().map_err(|error| {
        Failure::because(Exit::Failure, &format!("cannot write `{}`", path.display()), &error)
    })
}

impl Profile {
    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Some(address) = &self.address
            && client::check_address(address).is_err()
        {
            let rule = format!("must be `host:port`, got `{}`", text::line(address));
            problems.push(("address", rule));
        }
        if let Some(env) = &self.env
            && server::env_of(env).is_none()
        {
            let rule = format!("must be dev, stage or prod, got `{}`", text::line(env));
            problems.push(("env", rule));
        }
        if self.plaintext && self.tls_ca.is_some() {
            problems.push(("plaintext", "cannot stand beside tls_ca".to_owned()));
        }
        problems
    }
}

/// Whether a context may have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn unknown_keys(table: &toml::Table) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let mut check = |prefix: &str, key: &str, known: &[&str]| {
        if !known.contains(&key) {
            let near = known
                .iter()
                .map(|known| (strsim::levenshtein(known, key), *known))
                .min()
                .filter(|(distance, _)| *distance <= key.len().div_ceil(3));
            let rule = match near {
                Some((_, known)) => format!("is no setting, did you mean `{known}`?"),
                None => format!("is no setting; there are {}", known.join(", ")),
            };
            problems.push((format!("{prefix}{}", text::line(key)), rule));
        }
    };
    for key in table.keys() {
        check("", key, &TOP);
    }
    if let Some(contexts) = table.get("contexts").and_then(toml::Value::as_table) {
        for (name, profile) in contexts {
            for key in profile.as_table().into_iter().flat_map(toml::Table::keys) {
                check(&format!("contexts.{}.", text::line(name)), key, &KEYS);
            }
        }
    }
    problems
}

/// `line 7` of a key, where the text shows it.
fn line_of(text: &str, key: &str) -> Option<String> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            header.split(']').next().unwrap_or_default().trim().clone_into(&mut current);
            if current == key {
                return Some(format!("line {}", number + 1));
            }
            continue;
        }
        let left = line.split('=').next().unwrap_or_default().trim().trim_matches('"');
        if current == table && left == name {
            return Some(format!("line {}", number + 1));
        }
    }
    None
}

/// A file to start from, with every setting and what it means.
pub const TEMPLATE: &str = "\
# Contexts of agentctl: named servers. `agentctl context set NAME --address …` writes them too.
# A flag wins over the environment, that over the context in use, and that over the default.

# The context in use; --context and AGENTCTL_CONTEXT name another one.
current = \"local\"

[contexts.local]
# HOST:PORT, or https://HOST:PORT.
address = \"127.0.0.1:7443\"
# Environment the server has to serve: dev, stage or prod. Commands refuse to run against another one.
# env = \"dev\"
# File with a token, or a server's tokens.toml; relative to this file. Sent to this address alone.
# token_file = \"local.token\"
# Principal of a tokens.toml to act as.
# as = \"operator\"
# Certificate authority of the server, PEM; relative to this file. Implies TLS.
# tls_ca = \"ca.pem\"
# Talk plain text to a server on another host.
# plaintext = true
# Data directory of a server on this host, where its tokens are.
# data_dir = \"/var/lib/agentd/dev\"
";

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let failure = Contexts::parse(text, Path::new("agentctl.toml")).unwrap_err();
        let mut page = crate::page::Page::default();
        failure.page(&mut page);
        page.render(false)
    }

    #[test]
    fn the_template_is_valid_and_names_every_setting() {
        let contexts = Contexts::parse(TEMPLATE, Path::new("agentctl.toml")).unwrap();
        assert_eq!(contexts.current.as_deref(), Some("local"));
        let everything = TEMPLATE.replace("# plaintext", "## plaintext");
        let uncommented: String = everything
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let full = Contexts::parse(&uncommented, Path::new("agentctl.toml")).unwrap();
        let profile = toml::Table::try_from(&full.contexts["local"]).unwrap();
        for key in KEYS.iter().filter(|key| **key != "plaintext") {
            assert!(profile.contains_key(*key), "{key}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line_and_a_suggestion() {
        assert_eq!(
            told("curent = 'a'\n[contexts.a]\nadress = '127.0.0.1:1'\n"),
            "error: `agentctl.toml` is invalid\n  \
             line 1: curent             is no setting, did you mean `current`?\n  \
             line 3: contexts.a.adress  is no setting, did you mean `address`?\n"
        );
        assert_eq!(
            told("current = 'b'\n[contexts.a]\naddress = 'nowhere'\nenv = 'qa'\n"),
            "error: `agentctl.toml` is invalid\n  \
             line 1: current             must name a context of the file, got `b`\n  \
             line 3: contexts.a.address  must be `host:port`, got `nowhere`\n  \
             line 4: contexts.a.env      must be dev, stage or prod, got `qa`\n"
        );
        assert!(told("current = 7").contains("is malformed"));
        assert!(told("current = ").contains("is malformed"));
    }

    #[test]
    fn what_is_saved_is_read_back_and_nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agentctl").join("agentctl.toml");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        let profile =
            Profile { address: Some("h:1".to_owned()), plaintext: true, ..Profile::default() };
        let contexts = Contexts {
            current: Some("a".to_owned()),
            contexts: BTreeMap::from([("a".to_owned(), profile)]),
        };
        contexts.save(&path).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), contexts);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_file_is_where_the_user_keeps_such_files() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            }
        };
        let at = |pairs| path(&with(pairs)).map(|path| path.display().to_string());
        assert_eq!(at(&[("AGENTCTL_CONFIG", "/c.toml"), ("HOME", "/h")]).unwrap(), "/c.toml");
        assert_eq!(
            at(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]).unwrap(),
            "/x/agentctl/agentctl.toml"
        );
        assert_eq!(
            at(&[("XDG_CONFIG_HOME", "relative"), ("HOME", "/h")]).unwrap(),
            "/h/.config/agentctl/agentctl.toml"
        );
        assert_eq!(at(&[]), None);
    }
}
