//! `agentd.toml`: flat keys and one table `[limits]`.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use toml::Value;

use super::{Error, Setting, Violation};

const MAX_FILE: u64 = 1024 * 1024;

/// A configuration file as it was read.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
    /// Dotted keys, such as `limits.max_streams`.
    values: BTreeMap<String, Value>,
}

impl ConfigFile {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(io)?;
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
        Ok(Self { path: path.to_owned(), text, values })
    }

    /// Directory that relative paths in the file start at.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The value of `key` as text, and its place.
    pub(super) fn get(&self, key: &str) -> Option<Setting> {
        let value = self.values.get(key)?;
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(Setting { value, origin: self.place(key) })
    }

    /// A violation for each key that is no setting, with the setting that was probably meant.
    pub(super) fn unknown_keys(&self, settings: &[(&str, &str, &str)]) -> Vec<Violation> {
        self.values
            .keys()
            .filter(|key| !settings.iter().any(|(known, ..)| known == key))
            .map(|key| {
                let near = settings
                    .iter()
                    .map(|(known, ..)| (distance(known, key), *known))
                    .min()
                    .filter(|(distance, _)| *distance <= key.len().div_ceil(3));
                let rule = match near {
                    Some((_, known)) => format!("is no setting, did you mean `{known}`?"),
                    None => "is no setting, see `agentd --help`".to_owned(),
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

/// Edits between two words (Levenshtein 1966), for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            left = (diagonal + usize::from(from != to)).min(left + 1).min(above + 1);
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, edits) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("listen", "listen", 0),
            ("lisen", "listen", 1),
        ] {
            assert_eq!(distance(a, b), edits);
            assert_eq!(distance(b, a), edits);
        }
    }
}
