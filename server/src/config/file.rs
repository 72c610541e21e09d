//! `agentd.toml`: flat keys and one table `[limits]`.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use toml::Value;

use super::keys::{self, KEYS, Kind};
use super::{Error, Setting, Violation};

const MAX_FILE: u64 = 1024 * 1024;

/// A configuration file as it was read.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    mode: u32,
    text: String,
    /// Dotted keys, such as `limits.max_streams`.
    values: BTreeMap<String, Value>,
}

impl ConfigFile {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o7777;
        let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(io)?;
        if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE {
            return Err(io(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
        }
        let table: toml::Table = toml::from_str(&text).map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            Error::Syntax {
                path: path.display().to_string(),
                line: text.bytes().take(at).filter(|b| *b == b'\n').count() + 1,
                detail: agentctl_api::text::line(error.message()).into_owned(),
            }
        })?;
        let mut values = BTreeMap::new();
        flatten("", table, &mut values);
        Ok(Self { path: path.to_owned(), mode, text, values })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its permission bits.
    pub(super) const fn mode(&self) -> u32 {
        self.mode
    }

    /// True if others than its owner and its group can read it, or its group can change it: as with the key of the certificate.
    pub(super) const fn is_exposed(&self) -> bool {
        self.mode & 0o037 != 0
    }

    /// Directory that relative paths in the file start at.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The value of `key` as text, and its place. Text where a number or a truth value belongs keeps its quotes, so that it is
    /// refused and the reader sees why.
    pub(super) fn get(&self, key: &str) -> Option<Setting> {
        let value = self.values.get(key)?;
        let wants_text = keys::key(key).is_none_or(|key| key.kind == Kind::Text);
        let value = match value {
            Value::String(text) if wants_text => text.clone(),
            other => other.to_string(),
        };
        Some(Setting { value, origin: self.place(key) })
    }

    /// A violation for each key that is no setting, with the setting that was probably meant.
    pub(super) fn unknown_keys(&self) -> Vec<Violation> {
        let unknown = self.values.keys().filter(|key| keys::key(key).is_none());
        unknown
            .map(|key| {
                let rule = match nearest(key) {
                    Some(known) => format!("is no setting, did you mean `{known}`?"),
                    None => {
                        "is no setting, see `agentd --help` and `agentd --dump-config`".to_owned()
                    }
                };
                Violation { origin: self.place(key), value: key.clone(), rule }
            })
            .collect()
    }

    /// `path:line` of a key.
    fn place(&self, key: &str) -> String {
        let path = self.path.display();
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let mut current = "";
        for (number, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[') {
                current = header.split(']').next().unwrap_or_default().trim();
                continue;
            }
            let Some((left, _)) = line.split_once('=') else { continue };
            let left = left.trim().trim_matches('"');
            if (current == table && left == name) || (current.is_empty() && left == key) {
                return format!("{path}:{}", number + 1);
            }
        }
        path.to_string()
    }
}

fn flatten(prefix: &str, table: toml::Table, into: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, into),
            other => {
                into.insert(key, other);
            }
        }
    }
}

/// The setting that was meant by `key`: a few edits away, or the same name in another table.
fn nearest(key: &str) -> Option<&'static str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let elsewhere = KEYS.iter().find(|known| last(known.name) == last(key));
    let near = KEYS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known.name, key), known))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, _)| *edits <= key.chars().count().div_ceil(3));
    elsewhere.or(near.map(|(_, known)| known)).map(|known| known.name)
}
