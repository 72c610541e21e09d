//! Who has to have seen a checkpoint before it is believed (C2SP tlog-policy): logs, witnesses, groups of them, one quorum.
//!
//! ```text
//! log <key of the log> [<url>]
//! witness <name> <key> [<url>]
//! group <name> all|any|<k> <name>...
//! quorum <name>|none
//! ```

use std::fmt;

use super::cosignature::WitnessKey;
use super::note::{self, Note, VerifierKey};

/// Most bytes of a policy.
pub const POLICY_BYTES_MAX: usize = 64 << 10;
/// Most logs, witnesses and groups, each.
pub const ITEMS_MAX: usize = 64;
/// The quorum that asks for nobody.
const NONE: &str = "none";

/// One thing that is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where; 0 for the file as a whole.
    pub line: usize,
    /// What, with the rule.
    pub why: String,
}

/// Everything that is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(pub Vec<Fault>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Fault { line, why }) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            match line {
                0 => write!(f, "{separator}{why}")?,
                line => write!(f, "{separator}line {line}: {why}")?,
            }
        }
        Ok(())
    }
}

/// A witness of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name within the policy.
    pub name: String,
    /// What its cosignatures are checked with.
    pub key: WitnessKey,
    /// Where checkpoints are submitted.
    pub url: Option<String>,
}

/// A name that was defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Witness(usize),
    Group(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    threshold: usize,
    members: Vec<Member>,
}

/// A policy that can be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<VerifierKey>,
    witnesses: Vec<Witness>,
    /// Each refers to earlier ones alone.
    groups: Vec<Group>,
    quorum: Option<Member>,
    quorum_name: String,
}

/// A witness that saw a checkpoint, and when, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its name within the policy.
    pub witness: String,
    /// When.
    pub time: u64,
}

/// Why a policy does not accept a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// None of its logs signed it.
    #[error("none of the {0} logs of the policy signed the checkpoint")]
    Log(usize),
    /// A signature of a log or witness of the policy is not what it says.
    #[error(transparent)]
    Forged(#[from] note::Error),
    /// Too few witnesses.
    #[error(
        "the quorum `{quorum}` is not met: {} of {all} witnesses cosigned the checkpoint{}", seen.len(), names(seen)
    )]
    Quorum {
        /// Its name.
        quorum: String,
        /// Who did.
        seen: Vec<Seen>,
        /// Witnesses in the policy.
        all: usize,
    },
}

fn names(seen: &[Seen]) -> String {
    let names: Vec<&str> = seen.iter().map(|seen| seen.witness.as_str()).collect();
    if names.is_empty() { String::new() } else { format!(" (`{}`)", names.join("`, `")) }
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let whole = |why: &str| Invalid(vec![Fault { line: 0, why: why.to_owned() }]);
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(whole("longer than the 64 KiB that a policy may have"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_why| whole("not UTF-8 text"))?;
        let mut reading = Reading::default();
        for (line, text) in (1..).zip(text.split('\n')) {
            if let Err(why) = reading.line(text) {
                reading.faults.push(Fault { line, why });
            }
        }
        reading.finish()
    }

    /// Its witnesses.
    #[must_use]
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Its logs.
    #[must_use]
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// Name of its quorum.
    #[must_use]
    pub fn quorum(&self) -> &str {
        &self.quorum_name
    }

    /// Checks that `note` is signed by one of the logs, where there are any, and seen by a quorum of the witnesses; says by whom.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, note: &Note) -> Result<Vec<Seen>, Unmet> {
        let mut signed = self.logs.is_empty();
        for log in &self.logs {
            match note.verify(log) {
                Ok(()) => signed = true,
                Err(note::Error::Unsigned(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !signed {
            return Err(Unmet::Log(self.logs.len()));
        }
        let times: Result<Vec<Option<u64>>, note::Error> =
            self.witnesses.iter().map(|witness| witness.key.time_of(note)).collect();
        let times = times?;
        let seen: Vec<Seen> = self
            .witnesses
            .iter()
            .zip(&times)
            .filter_map(|(witness, time)| {
                Some(Seen { witness: witness.name.clone(), time: (*time)? })
            })
            .collect();
        if self.is_met(&times) {
            return Ok(seen);
        }
        let (quorum, all) = (self.quorum_name.clone(), self.witnesses.len());
        Err(Unmet::Quorum { quorum, seen, all })
    }

    fn is_met(&self, times: &[Option<u64>]) -> bool {
        let mut groups: Vec<bool> = Vec::with_capacity(self.groups.len());
        let holds = |member: &Member, groups: &[bool]| match member {
            Member::Witness(at) => times.get(*at).is_some_and(Option::is_some),
            Member::Group(at) => groups.get(*at).copied().unwrap_or(false),
        };
        for group in &self.groups {
            let members = group.members.iter().filter(|member| holds(member, &groups)).count();
            groups.push(members >= group.threshold);
        }
        self.quorum.as_ref().is_none_or(|quorum| holds(quorum, &groups))
    }
}

/// A policy as far as it was read.
#[derive(Default)]
struct Reading {
    logs: Vec<VerifierKey>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    quorum: Option<(Option<Member>, String)>,
    /// What is a member of a group already.
    taken: Vec<Member>,
    faults: Vec<Fault>,
}

impl Reading {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(bad) = line.chars().find(|c| c.is_ascii_control() && *c != '\t') {
            return Err(format!("the control character U+{:04X}", u32::from(bad)));
        }
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        match words.next() {
            None => Ok(()),
            Some(comment) if comment.starts_with('#') => Ok(()),
            Some("log") => self.log(&words.collect::<Vec<_>>()),
            Some("witness") => self.witness(&words.collect::<Vec<_>>()),
            Some("group") => self.group(&words.collect::<Vec<_>>()),
            Some("quorum") => self.quorum(&words.collect::<Vec<_>>()),
            Some(other) => Err(format!("`{other}` is none of log, witness, group, quorum")),
        }
    }

    fn log(&mut self, words: &[&str]) -> Result<(), String> {
        let ([key] | [key, _]) = words else {
            return Err("a log is `log <key> [<url>]`".to_owned());
        };
        let key: VerifierKey = key.parse().map_err(|error| format!("`{key}`: {error}"))?;
        if self.logs.iter().any(|log| log.public() == key.public()) {
            return Err(format!("the key of `{}` is there already", key.name()));
        }
        room(self.logs.len(), "logs")?;
        self.logs.push(key);
        Ok(())
    }

    fn witness(&mut self, words: &[&str]) -> Result<(), String> {
        let (name, key, url) = match words {
            [name, key] => (name, key, None),
            [name, key, url] => (name, key, Some((*url).to_owned())),
            _ => return Err("a witness is `witness <name> <key> [<url>]`".to_owned()),
        };
        self.is_free(name)?;
        let key: WitnessKey = key.parse().map_err(|error| format!("`{key}`: {error}"))?;
        if let Some(other) = self.witnesses.iter().find(|other| other.key.public() == key.public())
        {
            return Err(format!("the key of `{name}` is that of `{}`", other.name));
        }
        room(self.witnesses.len(), "witnesses")?;
        self.witnesses.push(Witness { name: (*name).to_owned(), key, url });
        Ok(())
    }

    fn group(&mut self, words: &[&str]) -> Result<(), String> {
        let [name, threshold, names @ ..] = words else {
            return Err("a group is `group <name> all|any|<k> <name>...`".to_owned());
        };
        self.is_free(name)?;
        let count = names.len();
        let threshold = match *threshold {
            "all" => count,
            "any" => 1,
            number => super::decimal(number)
                .and_then(|number| usize::try_from(number).ok())
                .ok_or_else(|| format!("`{number}` is none of all, any and a number"))?,
        };
        if threshold == 0 || threshold > count {
            return Err(format!("{threshold} of {count} members: it must be from 1 to {count}"));
        }
        let mut members = Vec::with_capacity(count);
        for member in names {
            let found = self.find(member)?;
            if self.taken.contains(&found) || members.contains(&found) {
                return Err(format!("`{member}` is a member of a group already"));
            }
            members.push(found);
        }
        room(self.groups.len(), "groups")?;
        self.taken.extend(&members);
        self.groups.push(Group { name: (*name).to_owned(), threshold, members });
        Ok(())
    }

    fn quorum(&mut self, words: &[&str]) -> Result<(), String> {
        let [name] = words else {
            return Err("a quorum is `quorum <name>` or `quorum none`".to_owned());
        };
        if self.quorum.is_some() {
            return Err("a second quorum".to_owned());
        }
        let member = if *name == NONE { None } else { Some(self.find(name)?) };
        self.quorum = Some((member, (*name).to_owned()));
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Member, String> {
        let witness = self.witnesses.iter().position(|witness| witness.name == name);
        let group = self.groups.iter().position(|group| group.name == name);
        witness
            .map(Member::Witness)
            .or(group.map(Member::Group))
            .ok_or_else(|| format!("`{name}` is not defined before this line"))
    }

    fn is_free(&self, name: &str) -> Result<(), String> {
        if name == NONE || self.find(name).is_ok() {
            return Err(format!("the name `{name}` is taken"));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Policy, Invalid> {
        if self.quorum.is_none() && self.faults.is_empty() {
            let why = "no quorum: it needs one line `quorum <name>` or `quorum none`".to_owned();
            self.faults.push(Fault { line: 0, why });
        }
        let Self { logs, witnesses, groups, quorum, faults, .. } = self;
        match quorum {
            Some((quorum, quorum_name)) if faults.is_empty() => {
                Ok(Policy { logs, witnesses, groups, quorum, quorum_name })
            }
            _ => Err(Invalid(faults)),
        }
    }
}

fn room(count: usize, what: &str) -> Result<(), String> {
    if count < ITEMS_MAX { Ok(()) } else { Err(format!("more than {ITEMS_MAX} {what}")) }
}

#[cfg(test)]
mod tests {
    use super::super::SignerKey;
    use super::super::cosignature::tests::{cosign, witness};
    use super::*;

    fn log(seed: u8) -> SignerKey {
        SignerKey::from_seed(&format!("example.com/log{seed}"), &[seed; 32]).unwrap()
    }

    fn policy(text: &str) -> Policy {
        Policy::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    #[test]
    fn two_of_three_and_one_of_the_others_is_a_quorum_and_less_is_none() {
        let log = log(9);
        let all: Vec<_> = (1..=5).map(|seed| witness(&format!("w.example/{seed}"), seed)).collect();
        let mut text = format!("# who has to have seen it\nlog {}\n\n", log.verifier());
        for (name, (_, key)) in ["x1", "x2", "x3", "y1", "y2"].iter().zip(&all) {
            text.push_str(&format!("  witness\t{name} {key} https://{name}.example/ \n"));
        }
        text.push_str("group x 2 x1 x2 x3\ngroup y any y1 y2\ngroup both all x y\nquorum both\n");
        let policy = policy(&text);
        assert_eq!(policy.witnesses()[3].url.as_deref(), Some("https://y1.example/"));
        let note = log.sign("example.com/log9\n3\nroot\n").unwrap();
        for set in 0_u32..32 {
            let by: Vec<_> = (0..5).filter(|at| set >> at & 1 == 1).collect();
            let more = by.iter().map(|at| cosign(&all[*at], &note, 100 + *at as u64)).collect();
            let cosigned = note.with_signatures(more).unwrap();
            let wanted = (set & 7).count_ones() >= 2 && set >> 3 != 0;
            let found = policy.check(&cosigned);
            assert_eq!(found.is_ok(), wanted, "{set:05b}: {found:?}");
            if let Ok(seen) = found {
                assert_eq!(seen.len(), by.len());
                assert_eq!(seen[0].time, 100 + by[0] as u64);
            }
        }
        let error = policy.check(&note).unwrap_err().to_string();
        assert_eq!(error, "the quorum `both` is not met: 0 of 5 witnesses cosigned the checkpoint");
        let stranger = SignerKey::from_seed("example.com/log9", &[8; 32]).unwrap();
        let note = stranger.sign("example.com/log9\n3\nroot\n").unwrap();
        assert_eq!(policy.check(&note), Err(Unmet::Log(1)));
    }

    #[test]
    fn a_cosignature_that_is_forged_condemns_the_checkpoint() {
        let log = log(9);
        let (a, b) = (witness("w.example/a", 1), witness("w.example/b", 2));
        let text = format!("witness a {}\nwitness b {}\ngroup g any a b\nquorum g\n", a.1, b.1);
        let note = log.sign("example.com/log9\n3\nroot\n").unwrap();
        let mut forged = cosign(&b, &note, 5);
        forged.bytes[20] ^= 1;
        let note = note.with_signatures(vec![cosign(&a, &note, 5), forged]).unwrap();
        assert!(matches!(policy(&text).check(&note), Err(Unmet::Forged(_))));
        let none = policy("quorum none\n");
        assert_eq!(none.check(&note), Ok(vec![]), "nobody is asked for");
    }

    #[test]
    fn everything_that_is_wrong_is_named_with_its_line() {
        let (key, other) = (witness("w.example/a", 1).1, witness("w.example/b", 1).1);
        let log = log(9).verifier();
        let text = format!(
            "log\nlog {log}\nlog {log}\nwitness a {key}\nwitness a {key}\nwitness b {other}\nwitness none {key}\n\
             witness c {log}\ngroup g 0 a\ngroup g 2 a\ngroup g x a\ngroup g any z\ngroup g any a a\ngroup g any\n\
             quorum z\nquorum a\nquorum a\nrule x\nlog\u{7} x\n"
        );
        let Invalid(faults) = Policy::parse(text.as_bytes()).unwrap_err();
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        let wanted = vec![1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19];
        assert_eq!(lines, wanted, "{faults:#?}");
        let said = Invalid(faults).to_string();
        for part in [
            "line 1: a log is `log <key> [<url>]`",
            "the name `a` is taken",
            "the key of `b` is that of `a`",
            "the name `none` is taken",
            "type 4",
            "0 of 1 members: it must be from 1 to 1",
            "`z` is not defined before this line",
            "a second quorum",
            "`rule` is none of log, witness, group, quorum",
            "U+0007",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(Policy::parse(b"").unwrap_err().to_string().starts_with("no quorum"));
        assert!(Policy::parse(&[0xff]).unwrap_err().to_string().contains("UTF-8"));
        let long = Policy::parse("# x\n".repeat(20_000).as_bytes()).unwrap_err();
        assert!(long.to_string().contains("64 KiB"), "{long}");
    }

    #[test]
    fn what_is_said_in_one_group_is_not_counted_again_in_another() {
        let (a, b) = (witness("w.example/a", 1).1, witness("w.example/b", 2).1);
        let text =
            format!("witness a {a}\nwitness b {b}\ngroup g any a b\ngroup h any a\nquorum h\n");
        let said = Policy::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(said.contains("line 4: `a` is a member of a group already"), "{said}");
    }
}
