//! The tree over the lines that are checked, held against every signed checkpoint at hand.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use agentd_core::chain::Hash;
use agentd_core::tlog::note::NOTE_BYTES_MAX;
use agentd_core::tlog::policy::{POLICY_BYTES_MAX, Policy};
use agentd_core::tlog::tree::Frontier;
use agentd_core::tlog::{Checkpoint, Note, VerifierKey};

use super::super::known::{Known, KnownLogs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::proof::FaultView;

/// Follows the tree, and what was promised about it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    frontier: Frontier,
    /// By size, the smallest first; those that are reached are gone.
    open: Vec<Checkpoint>,
    /// Sizes of those over fewer leaves than are not at hand.
    uncompared: Vec<u64>,
    /// The first entry that is at hand, where nothing says which tree came before it: no root can be computed then.
    rootless: Option<u64>,
    /// The largest one that holds.
    pub(super) good: Option<Checkpoint>,
}

impl Claims {
    /// The fault of a promise that an empty log does not keep.
    pub(super) fn new(mut open: Vec<Checkpoint>) -> (Self, Option<FaultView>) {
        open.sort_by_key(|checkpoint| checkpoint.size);
        let mut claims = Self { open, ..Self::default() };
        let fault = claims.reached();
        (claims, fault)
    }

    /// Goes on behind leaves that are not at hand: what was promised about fewer cannot be compared, see [`Claims::all_compared`].
    pub(super) fn begin(&mut self, frontier: Frontier) -> Option<FaultView> {
        let beyond = self.open.partition_point(|checkpoint| checkpoint.size < frontier.size());
        self.uncompared.extend(self.open.drain(..beyond).map(|checkpoint| checkpoint.size));
        self.frontier = frontier;
        self.reached()
    }

    /// Goes on behind `before` leaves of which nothing is at hand, not even their tree.
    pub(super) fn lose_beginning(&mut self, before: u64) -> Option<FaultView> {
        self.rootless = Some(before.saturating_add(1));
        None
    }

    /// Refuses to call a log that ends with entry `last` sound beside a checkpoint that it could not be held against.
    pub(super) fn all_compared(&self, last: u64) -> Result<(), Failure> {
        if self.finish(last).is_some() {
            return Ok(());
        }
        if let (Some(first), Some(claim)) = (self.rootless, self.open.first()) {
            let size = claim.size;
            let text = format!(
                "the checkpoint over {size} entries cannot be compared: nothing shows the tree before entry #{first}"
            );
            return Err(Failure::usage(text).hint(format!(
                "`agentctl proof export --file` keeps that beside the lines; `agentctl proof prove {first} --file FILE.tlog-proof` too"
            )));
        }
        let Some(size) = self.uncompared.first() else { return Ok(()) };
        let text = format!(
            "the checkpoint over {size} entries cannot be compared: entries behind it are pruned"
        );
        Err(Failure::usage(text)
            .hint("check it against an export from before, or give a checkpoint over more entries"))
    }

    pub(super) const fn tree(&self) -> &Frontier {
        &self.frontier
    }

    /// Takes the next leaf; `stored` receives the hashes that tiles hold.
    pub(super) fn push(
        &mut self,
        leaf: Hash,
        stored: &mut dyn FnMut(u8, Hash),
    ) -> Option<FaultView> {
        self.frontier.push(leaf, stored);
        self.reached()
    }

    fn reached(&mut self) -> Option<FaultView> {
        let (size, mut fault) = (self.frontier.size(), None);
        while let Some(claim) = self.open.first().filter(|claim| claim.size == size) {
            let (stored, computed) = (claim.root, self.frontier.root());
            let claim = self.open.remove(0);
            if stored == computed {
                self.good = Some(claim);
            } else if fault.is_none() {
                let before = self.good.as_ref().map_or(0, |good| good.size);
                let first = before.saturating_add(1);
                fault = Some(FaultView {
                    seq: first,
                    reason: "ROOT_DIFFERS".to_owned(),
                    stored: Some(stored.to_string()),
                    computed: Some(computed.to_string()),
                    summary: format!(
                        "entries {first} to {size} are not those that were signed: signed root {stored}, computed {computed}"
                    ),
                });
            }
        }
        fault
    }

    /// The fault of a promise that goes beyond the end, which is entry `last`.
    pub(super) fn finish(&self, last: u64) -> Option<FaultView> {
        let claim = self.open.last()?;
        let there = if self.rootless.is_some() { last } else { self.frontier.size() };
        let size = claim.size;
        (size > there).then(|| FaultView {
            seq: there.saturating_add(1),
            reason: "CUT_SHORT".to_owned(),
            summary: format!("{size} entries were signed, {there} are there: the end was cut off"),
            ..FaultView::default()
        })
    }
}

/// Whom a checkpoint has to be signed by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Belief<'a> {
    /// Key of the log, or a file with it.
    pub(super) key: Option<&'a str>,
    /// Its logs and witnesses.
    pub(super) policy: Option<&'a Policy>,
}

impl Belief<'_> {
    /// Refuses a checkpoint that the policy does not accept.
    pub(super) fn hold(&self, note: &Note) -> Result<(), Failure> {
        let Some(policy) = self.policy else { return Ok(()) };
        policy.check(note).map(drop).map_err(|unmet| {
            Failure::because(Exit::ProofFailed, "the policy does not accept the checkpoint", &unmet)
        })
    }
}

/// What a file begins with: all of it, unless it is longer than `most` bytes, which one byte more shows.
pub(super) fn beginning_of(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a policy.
pub(super) fn policy(path: &str) -> Result<Policy, String> {
    let bytes =
        beginning_of(Path::new(path), POLICY_BYTES_MAX).map_err(|error| error.to_string())?;
    Policy::parse(&bytes).map_err(|error| error.to_string())
}

/// The key that a log is believed by.
pub(super) struct Trust {
    pub(super) key: VerifierKey,
    /// It came with what it is to vouch for.
    pub(super) own: bool,
}

/// A key, or a file with it.
pub(super) fn given_key(given: &str) -> Result<VerifierKey, Failure> {
    let text = key_file(Path::new(given)).unwrap_or_else(|| given.to_owned());
    text.trim().parse().map_err(|error: agentd_core::tlog::note::Error| {
        Failure::because(Exit::Usage, &format!("--key `{given}`"), &error)
            .hint("a key is `NAME+HEX+BASE64`, as `agentctl proof checkpoint` shows it")
    })
}

fn key_file(path: &Path) -> Option<String> {
    String::from_utf8(beginning_of(path, NOTE_BYTES_MAX).ok()?).ok()
}

/// The key for the log called `origin`: from the command line, else from the policy, else from memory, else the one that came with
/// the files.
pub(super) fn trust(
    origin: &str,
    belief: Belief<'_>,
    beside: Option<&Path>,
) -> Result<Trust, Failure> {
    if let Some(given) = belief.key {
        return Ok(Trust { key: given_key(given)?, own: false });
    }
    let listed = belief.policy.map(Policy::logs).unwrap_or_default();
    if let Some(key) = listed.iter().find(|log| log.name() == origin) {
        return Ok(Trust { key: key.clone(), own: false });
    }
    if let Some(known) = KnownLogs::of_user().get(origin)? {
        return Ok(Trust { key: known.key, own: false });
    }
    match beside.and_then(key_file).and_then(|text| text.trim().parse().ok()) {
        Some(key) => Ok(Trust { key, own: true }),
        None => Err(Failure::usage(format!("nothing is known of the log `{origin}`"))
            .hint("give its public key with --key; `agentctl proof checkpoint` shows it")),
    }
}

/// A checkpoint from a file, signed by a key that is trusted for its log.
pub(super) fn read(
    path: &Path,
    belief: Belief<'_>,
    beside: Option<&Path>,
) -> Result<(Known, bool), Failure> {
    let text = beginning_of(path, NOTE_BYTES_MAX).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failure,
        };
        Failure::because(exit, &format!("cannot read `{}`", path.display()), &error)
    })?;
    open(&text, belief, beside)
        .map_err(|failure| failure.fact("checkpoint", path.display().to_string()))
}

fn open(text: &[u8], belief: Belief<'_>, beside: Option<&Path>) -> Result<(Known, bool), Failure> {
    let bad = |error: &dyn std::error::Error| {
        Failure::because(Exit::ProofFailed, "the checkpoint cannot be trusted", error)
    };
    let note = Note::parse(text).map_err(|error| bad(&error))?;
    let claimed = Checkpoint::parse(note.text()).map_err(|error| bad(&error))?;
    let Trust { key, own } = trust(&claimed.origin, belief, beside)?;
    let known = Known::open(text, key)?;
    belief.hold(&known.note)?;
    Ok((known, own))
}

/// All of them.
pub(super) fn read_all(paths: &[PathBuf], belief: Belief<'_>) -> Result<Vec<Checkpoint>, Failure> {
    paths.iter().map(|path| Ok(read(path, belief, None)?.0.checkpoint)).collect()
}
