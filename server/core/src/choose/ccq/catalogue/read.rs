//! A catalogue as a file: read whole, or refused with everything that is wrong with it, each with its line and field.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{ACTIONS, COUNT, Catalogue, Fault};

/// Largest file: many times what the most faults need.
const BYTES_MAX: usize = 1 << 20;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Mistake {
    /// Where, counted from one.
    pub line: usize,
    /// Which field, its value, and what must hold.
    pub what: String,
}

/// The file with its parts as they stand there, so that each can be told by its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts<'a> {
    #[serde(borrow)]
    version: &'a RawValue,
    #[serde(borrow)]
    step_ms: &'a RawValue,
    #[serde(borrow)]
    horizon: &'a RawValue,
    #[serde(borrow)]
    escalation: &'a RawValue,
    #[serde(borrow)]
    efforts: &'a RawValue,
    #[serde(borrow)]
    faults: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultParts<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(borrow)]
    prior: &'a RawValue,
    #[serde(borrow)]
    downtime: &'a RawValue,
    #[serde(borrow)]
    looks: &'a RawValue,
    #[serde(borrow)]
    effects: &'a RawValue,
}

impl Catalogue {
    /// Reads one from JSON: nothing is half loaded.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        if text.len() > BYTES_MAX {
            let what = format!("{} bytes: must be {BYTES_MAX} at most", text.len());
            return Err(vec![Mistake { line: 1, what }]);
        }
        let mut reader = Reader { text, lines: BTreeMap::new(), mistakes: Vec::new() };
        let read = reader.catalogue();
        let Reader { lines, mut mistakes, .. } = reader;
        let Some(catalogue) = read.filter(|_| mistakes.is_empty()) else {
            mistakes.sort_by_key(|mistake| mistake.line);
            return Err(mistakes);
        };
        // What is wrong with several places at once is told at the first of them.
        let line = |field: &str| {
            let known =
                std::iter::successors(Some(field), |f| f.rsplit_once('.').map(|(up, _)| up));
            known.filter_map(|field| lines.get(field)).next().copied().unwrap_or(1)
        };
        let flaws = catalogue.flaws().into_iter();
        let mut mistakes: Vec<Mistake> =
            flaws.map(|flaw| Mistake { line: line(&flaw.field), what: flaw.to_string() }).collect();
        mistakes.sort_by_key(|mistake| mistake.line);
        if mistakes.is_empty() { Ok(catalogue) } else { Err(mistakes) }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Where each field stands, by the names that flaws have for them.
    lines: BTreeMap<String, usize>,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    fn catalogue(&mut self) -> Option<Catalogue> {
        let parts: Parts<'_> = match serde_json::from_str(self.text) {
            Ok(parts) => parts,
            Err(error) => {
                self.mistakes.push(Mistake { line: error.line().max(1), what: error.to_string() });
                return None;
            }
        };
        let version = self.part("version", parts.version);
        let step_ms = self.part("step_ms", parts.step_ms);
        let horizon = self.part("horizon", parts.horizon);
        let escalation = self.part("escalation", parts.escalation);
        let named = ACTIONS.iter().map(|action| format!("efforts.{action}"));
        let efforts = self.list("efforts", parts.efforts, named.collect());
        let faults = self.faults(parts.faults);
        Some(Catalogue {
            version: version?,
            step_ms: step_ms?,
            horizon: horizon?,
            escalation: escalation?,
            efforts: efforts?,
            faults: faults?,
        })
    }

    fn faults(&mut self, raw: &'a RawValue) -> Option<Vec<Fault>> {
        let all: Vec<&RawValue> = self.part("faults", raw)?;
        let faults: Vec<Option<Fault>> =
            all.into_iter().enumerate().map(|(index, fault)| self.fault(index, fault)).collect();
        faults.into_iter().collect()
    }

    fn fault(&mut self, index: usize, raw: &'a RawValue) -> Option<Fault> {
        let parts: FaultParts<'_> = self.part(&format!("faults[{index}]"), raw)?;
        let name: String = self.part(&format!("faults[{index}].name"), parts.name)?;
        let at = |part: &str| format!("faults.{name}.{part}");
        let line = self.line(raw);
        self.lines.insert(format!("faults.{name}"), line);
        let prior = self.part(&at("prior"), parts.prior);
        let downtime = self.part(&at("downtime"), parts.downtime);
        let looks = self.part(&at("looks"), parts.looks);
        let named = ACTIONS.iter().map(|action| at(action.as_str()));
        let effects = self.list(&at("effects"), parts.effects, named.collect());
        Some(Fault { prior: prior?, downtime: downtime?, looks: looks?, effects: effects?, name })
    }

    /// One entry per action, each with a name of its own.
    fn list<T: DeserializeOwned>(
        &mut self,
        field: &str,
        raw: &'a RawValue,
        names: Vec<String>,
    ) -> Option<[T; COUNT]> {
        let all: Vec<&RawValue> = self.part(field, raw)?;
        if all.len() != COUNT {
            let names: Vec<&str> = ACTIONS.iter().map(|action| action.as_str()).collect();
            let rule = format!("must have {COUNT} entries: {}", names.join(", "));
            self.mistake(raw, 0, format!("{field}: {} entries, {rule}", all.len()));
            return None;
        }
        let parts = all.into_iter().zip(&names).map(|(raw, name)| self.part(name, raw));
        let parts: Vec<Option<T>> = parts.collect();
        parts.into_iter().collect::<Option<Vec<T>>>()?.try_into().ok()
    }

    fn part<'b, T: Deserialize<'b>>(&mut self, field: &str, raw: &'b RawValue) -> Option<T> {
        let line = self.line(raw);
        self.lines.insert(field.to_owned(), line);
        match serde_json::from_str(raw.get()) {
            Ok(value) => Some(value),
            Err(error) => {
                let text = error.to_string();
                let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
                self.mistake(raw, error.line().saturating_sub(1), format!("{field}: {what}"));
                None
            }
        }
    }

    fn mistake(&mut self, raw: &RawValue, below: usize, what: String) {
        self.mistakes.push(Mistake { line: self.line(raw) + below, what });
    }

    /// The line a part begins in: parts are borrowed from the text, so their distance is that of their addresses.
    fn line(&self, raw: &RawValue) -> usize {
        let begins = raw.get().as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let before = self.text.as_bytes().iter().take(begins);
        1 + before.filter(|byte| **byte == b'\n').count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The built-in catalogue as a file, with something else in one place.
    fn told(from: &str, to: &str) -> Vec<String> {
        let text = text();
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text, "{from} is not in the file");
        Catalogue::parse(&wrong).unwrap_err().iter().map(Mistake::to_string).collect()
    }

    fn text() -> String {
        serde_json::to_string_pretty(&Catalogue::builtin()).unwrap()
    }

    /// The line of the first place in the file that has `part`.
    fn line(part: &str) -> usize {
        1 + text().lines().position(|line| line.contains(part)).unwrap()
    }

    #[test]
    fn a_catalogue_reads_back() {
        assert_eq!(Catalogue::parse(&text()).unwrap(), Catalogue::builtin());
    }

    #[test]
    fn what_is_no_json_or_lacks_a_field_names_line_and_field() {
        let cut = text().split_at(200).0.to_owned();
        let mistakes = Catalogue::parse(&cut).unwrap_err();
        assert_eq!(mistakes[0].line, cut.lines().count(), "{mistakes:?}");
        let missing = told("  \"horizon\": 16,\n", "");
        assert!(missing[0].contains("missing field `horizon`"), "{missing:?}");
        let unknown = told("\"horizon\"", "\"horison\"");
        let place = format!("line {}: unknown field `horison`", line("\"horizon\""));
        assert!(unknown[0].starts_with(&place), "{unknown:?}");
        let large = " ".repeat(BYTES_MAX + 1);
        assert!(Catalogue::parse(&large).unwrap_err()[0].what.contains("at most"));
    }

    #[test]
    fn a_value_of_another_kind_is_named_with_its_own_line() {
        let crash = line("\"prior\": 220000");
        let wrong = told("\"prior\": 220000", "\"prior\": \"often\"");
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].starts_with(&format!("line {crash}: faults.crash.prior: ")), "{wrong:?}");
        assert!(wrong[0].contains("often"), "{wrong:?}");
        let wrong = told("\"escalation\": 4000000", "\"escalation\": NaN");
        let place = format!("line {}: ", line("\"escalation\""));
        assert!(wrong[0].starts_with(&place), "{wrong:?}");
        let wrong = told("\"cpu_load\"", "\"cpu_lode\"");
        let place = format!("line {}: faults.leak.looks: unknown variant", line("\"cpu_load\""));
        assert!(wrong[0].starts_with(&place), "{wrong:?}");
    }

    #[test]
    fn every_number_that_breaks_a_rule_is_named_at_once_in_the_order_of_the_lines() {
        let text = text()
            .replacen("\"horizon\": 16", "\"horizon\": 33", 1)
            .replacen("\"prior\": 220000", "\"prior\": 230000", 1)
            .replacen("\"fixes\": 900000", "\"fixes\": 1000000", 1);
        let told = Catalogue::parse(&text).unwrap_err();
        let of = |part: &str| told.iter().find(|m| m.what.starts_with(part)).map(|m| m.line);
        assert_eq!(of("horizon: 33"), Some(line("\"horizon\"")));
        assert_eq!(of("faults.prior: 1010000"), Some(line("\"faults\"")));
        let restart = of("faults.crash.RESTART: 1000000").unwrap();
        assert!((line("\"fixes\": 900000") - 1..=line("\"fixes\": 900000")).contains(&restart));
        assert!(told.is_sorted_by_key(|mistake| mistake.line) && told.len() == 3, "{told:?}");
    }

    #[test]
    fn lists_have_an_entry_for_every_action_and_names_are_given_once() {
        let entry = "    {\n      \"steps\": 1,\n      \"cost\": 200000\n    },\n";
        let short = told(entry, "");
        assert!(short[0].contains("efforts: 5 entries, must have 6"), "{short:?}");
        let twice = told("\"crashloop\"", "\"crash\"");
        assert!(twice.iter().any(|m| m.contains("each fault has a name of its own")), "{twice:?}");
        let twice = told("\"unspecific\"", "\"down\"");
        assert!(twice.iter().any(|m| m.contains("each signature once")), "{twice:?}");
    }
}
