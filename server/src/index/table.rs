//! The table itself: one row per entry, and what is asked of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use agentd_core::chain::{GENESIS, Hash};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params, params_from_iter};

use super::{Error, Facts};
use crate::journal::LogId;

/// Another number, another layout: a table of an earlier one is made anew.
const VERSION: i64 = 1;
/// Names kept in memory on their way to numbers; more are looked up again.
const NAMES_MAX: usize = 20_000;

const LAYOUT: &str = "
    CREATE TABLE log(log_id TEXT NOT NULL, upto INTEGER NOT NULL, head TEXT NOT NULL) STRICT;
    CREATE TABLE name(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE entry(seq INTEGER PRIMARY KEY, event INTEGER NOT NULL, app INTEGER, reason INTEGER, decision INTEGER) STRICT;
    CREATE INDEX entry_event ON entry(event);
    CREATE INDEX entry_app ON entry(app) WHERE app IS NOT NULL;
    CREATE INDEX entry_reason ON entry(reason) WHERE reason IS NOT NULL;
    CREATE INDEX entry_decision ON entry(decision) WHERE decision IS NOT NULL;";

/// Which entries. Fields that are set must all match; inside one field any match will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Apps; empty: all.
    pub apps: Vec<String>,
    /// Event names; empty: all.
    pub events: Vec<String>,
    /// Reason codes; empty: all.
    pub reasons: Vec<String>,
    /// Decisions; empty: all.
    pub decisions: Vec<u64>,
}

impl Wanted {
    /// Whether every entry is wanted: then there is nothing to ask.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// The fields that are set, each with the values it may have; the one that leaves the fewest entries first.
    fn fields(&self) -> Vec<(&'static str, Vec<Value>)> {
        let texts = |texts: &[String]| texts.iter().cloned().map(Value::Text).collect::<Vec<_>>();
        let numbers = self.decisions.iter().filter_map(|seq| i64::try_from(*seq).ok());
        let fields = [
            ("decision", numbers.map(Value::Integer).collect()),
            ("app", texts(&self.apps)),
            ("reason", texts(&self.reasons)),
            ("event", texts(&self.events)),
        ];
        fields.into_iter().filter(|(_, values): &(_, Vec<_>)| !values.is_empty()).collect()
    }
}

/// How far a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The last entry in it.
    pub(super) upto: u64,
    /// Its leaf hash.
    pub(super) head: Hash,
}

/// The first row that is not as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which entry.
    pub seq: u64,
    /// In which way.
    pub why: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} is not in the index as it is in the log: {}", self.seq, self.why)
    }
}

#[derive(Debug)]
pub(super) struct Table {
    connection: Connection,
    /// What SQLite counts up when another connection writes.
    version: i64,
    numbers: BTreeMap<String, i64>,
}

impl Table {
    /// Opens an existing table for writing; `None` if there is none, or none of this log.
    pub(super) fn open(path: &Path, log_id: LogId) -> rusqlite::Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let connection = Connection::open(path)?;
        let layout: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if layout != VERSION {
            return Ok(None);
        }
        let found: Option<String> =
            connection.query_row("SELECT log_id FROM log", [], |row| row.get(0)).optional()?;
        if found != Some(log_id.to_string()) {
            return Ok(None);
        }
        Self::ready(connection).map(Some)
    }

    /// Makes an empty one.
    pub(super) fn make(path: &Path, log_id: LogId) -> Result<Self, Error> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        let made = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        made.map_err(|source| Error::File { verb: "make", path: path.to_owned(), source })?;
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA journal_mode = WAL;")?;
        connection
            .execute_batch(&format!("BEGIN; {LAYOUT} PRAGMA user_version = {VERSION}; COMMIT;"))?;
        let first = params![log_id.to_string(), 0, GENESIS.to_string()];
        connection.execute("INSERT INTO log VALUES (?1, ?2, ?3)", first)?;
        Ok(Self::ready(connection)?)
    }

    /// Opens a table to look at it.
    pub(super) fn look(path: &Path) -> Result<Self, Error> {
        std::fs::metadata(path).map_err(|source| Error::File {
            verb: "read",
            path: path.to_owned(),
            source,
        })?;
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        // All that is read is as of the first read: what a running server enters meanwhile is no difference.
        connection.execute_batch("BEGIN;")?;
        Ok(Self { connection, version: 0, numbers: BTreeMap::new() })
    }

    fn ready(connection: Connection) -> rusqlite::Result<Self> {
        // It can be made anew, so it need not survive a power cut; it must not wait for anybody either.
        connection.execute_batch(
            "PRAGMA synchronous = OFF; PRAGMA cache_size = -16384; PRAGMA busy_timeout = 100;",
        )?;
        let mut table = Self { connection, version: 0, numbers: BTreeMap::new() };
        table.version = table.data_version()?;
        Ok(table)
    }

    /// Removes the file and what belongs to it.
    pub(super) fn remove(path: &Path) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            let file = PathBuf::from(name);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %file.display(), %error, "cannot remove the old index");
                }
                _ => {}
            }
        }
    }

    fn data_version(&self) -> rusqlite::Result<i64> {
        self.connection.pragma_query_value(None, "data_version", |row| row.get(0))
    }

    /// Whether somebody else wrote to it since it was opened.
    pub(super) fn is_foreign(&self) -> rusqlite::Result<bool> {
        Ok(self.data_version()? != self.version)
    }

    pub(super) fn place(&self) -> rusqlite::Result<Place> {
        self.connection.query_row("SELECT upto, head FROM log", [], |row| {
            let (upto, head): (i64, String) = (row.get(0)?, row.get(1)?);
            Ok(Place {
                upto: u64::try_from(upto).unwrap_or(0),
                head: head.parse().unwrap_or(GENESIS),
            })
        })
    }

    /// Enters entries that follow the last one.
    pub(super) fn enter(&mut self, facts: &[(u64, Facts)], place: Place) -> rusqlite::Result<()> {
        if self.numbers.len() > NAMES_MAX {
            self.numbers.clear();
        }
        let Self { connection, numbers, .. } = self;
        let change = connection.transaction()?;
        {
            let mut row = change.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for (seq, facts) in facts {
                let event = number(&change, numbers, &facts.event)?;
                let named = |text: Option<&str>, numbers: &mut _| {
                    text.map(|text| number(&change, numbers, text)).transpose()
                };
                let app = named(facts.app.as_deref(), numbers)?;
                let reason = named(facts.reason, numbers)?;
                let decision = facts.decision.and_then(|seq| i64::try_from(seq).ok());
                row.execute(params![signed(*seq), event, app, reason, decision])?;
            }
            let mut log = change.prepare_cached("UPDATE log SET upto = ?1, head = ?2")?;
            log.execute(params![signed(place.upto), place.head.to_string()])?;
        }
        change.commit()
    }

    /// Removes what is not in the log any more because older entries are not kept.
    pub(super) fn forget_before(&mut self, oldest: u64) -> rusqlite::Result<()> {
        if oldest > 1 {
            self.connection.execute("DELETE FROM entry WHERE seq < ?1", [signed(oldest)])?;
        }
        Ok(())
    }

    /// Numbers from `from` up to `upto`, in order.
    pub(super) fn after(
        &mut self,
        wanted: &Wanted,
        from: u64,
        upto: u64,
        max: usize,
    ) -> rusqlite::Result<Vec<u64>> {
        self.find(wanted, (from, upto), "ASC", max)
    }

    /// Numbers before `before`, newest first.
    pub(super) fn before(
        &mut self,
        wanted: &Wanted,
        before: u64,
        max: usize,
    ) -> rusqlite::Result<Vec<u64>> {
        self.find(wanted, (0, before.saturating_sub(1)), "DESC", max)
    }

    /// One ordered walk per value of the leading field, and one over what cannot be read; SQLite merges them, so it stops once
    /// there are enough.
    fn find(
        &mut self,
        wanted: &Wanted,
        (from, to): (u64, u64),
        order: &str,
        max: usize,
    ) -> rusqlite::Result<Vec<u64>> {
        let fields = wanted.fields();
        let mut values = vec![Value::Integer(signed(from)), Value::Integer(signed(to))];
        let mut place = |value: &Value| {
            values.push(value.clone());
            match value {
                Value::Integer(_) => format!("?{}", values.len()),
                _ => format!("(SELECT id FROM name WHERE text = ?{})", values.len()),
            }
        };
        let within = "seq BETWEEN ?1 AND ?2";
        let unread = place(&Value::Text(String::new()));
        let mut walks = vec![format!("SELECT seq FROM entry WHERE event = {unread} AND {within}")];
        match fields.split_first() {
            None => walks = vec![format!("SELECT seq FROM entry WHERE {within}")],
            Some(((leading, leads), others)) => {
                let mut also = String::new();
                for (field, allowed) in others {
                    let allowed: Vec<String> = allowed.iter().map(&mut place).collect();
                    also.push_str(&format!(" AND +{field} IN ({})", allowed.join(", ")));
                }
                for lead in leads {
                    let lead = place(lead);
                    walks.push(format!(
                        "SELECT seq FROM entry WHERE {leading} = {lead} AND {within}{also}"
                    ));
                }
            }
        }
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let sql = format!("{} ORDER BY seq {order} LIMIT {max}", walks.join(" UNION ALL "));
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| row.get::<_, i64>(0))?;
        rows.map(|seq| seq.map(|seq| u64::try_from(seq).unwrap_or(0))).collect()
    }

    /// The first of `known`, which are the entries from `first` on, that the table has in another way.
    pub(super) fn differ(
        &mut self,
        first: u64,
        known: &[(u64, Facts)],
    ) -> rusqlite::Result<Option<Difference>> {
        let Some((last, _)) = known.last() else { return Ok(None) };
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, (SELECT text FROM name WHERE id = event), app, (SELECT text FROM name WHERE id = app),
                    reason, (SELECT text FROM name WHERE id = reason), decision
             FROM entry WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq",
        )?;
        let mut rows = statement.query([signed(first), signed(*last)])?;
        for (seq, facts) in known {
            let why = match rows.next()? {
                Some(row) if row.get::<_, i64>(0)? == signed(*seq) => row_differs(row, facts)?,
                _ => Some("it has no row".to_owned()),
            };
            if let Some(why) = why {
                return Ok(Some(Difference { seq: *seq, why }));
            }
        }
        Ok(None)
    }

    /// The first row from `next` on, where there should be none.
    pub(super) fn beyond(&mut self, next: u64) -> rusqlite::Result<Option<Difference>> {
        let sql = "SELECT min(seq) FROM entry WHERE seq >= ?1";
        let found: Option<i64> =
            self.connection.query_row(sql, [signed(next)], |row| row.get(0))?;
        Ok(found.map(|seq| Difference {
            seq: u64::try_from(seq).unwrap_or(0),
            why: "it has a row that nobody entered".to_owned(),
        }))
    }
}

fn row_differs(row: &rusqlite::Row<'_>, facts: &Facts) -> rusqlite::Result<Option<String>> {
    let text = |number, text| -> rusqlite::Result<Option<String>> {
        // A number without a name is not nothing.
        let known: Option<i64> = row.get(number)?;
        let name: Option<String> = row.get(text)?;
        Ok(known.map(|_| name.unwrap_or_else(|| "?".to_owned())))
    };
    let event: Option<String> = row.get(1)?;
    let decision: Option<i64> = row.get(6)?;
    let decision = decision.map(|seq| u64::try_from(seq).unwrap_or(0).to_string());
    let fields = [
        ("event", event, Some(facts.event.clone())),
        ("app", text(2, 3)?, facts.app.clone()),
        ("reason", text(4, 5)?, facts.reason.map(str::to_owned)),
        ("decision", decision, facts.decision.map(|seq| seq.to_string())),
    ];
    let say =
        |text: Option<String>| text.map_or_else(|| "none".to_owned(), |text| format!("`{text}`"));
    Ok(fields.into_iter().find(|(_, indexed, logged)| indexed != logged).map(
        |(field, indexed, logged)| {
            format!("its {field} is {} in the index and {} in the log", say(indexed), say(logged))
        },
    ))
}

fn number(
    connection: &Connection,
    numbers: &mut BTreeMap<String, i64>,
    text: &str,
) -> rusqlite::Result<i64> {
    if let Some(id) = numbers.get(text) {
        return Ok(*id);
    }
    let find = "SELECT id FROM name WHERE text = ?1";
    let known = connection.prepare_cached(find)?.query_row([text], |row| row.get(0)).optional()?;
    let id = match known {
        Some(id) => id,
        None => connection.prepare_cached("INSERT INTO name(text) VALUES (?1)")?.insert([text])?,
    };
    numbers.insert(text.to_owned(), id);
    Ok(id)
}

fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
