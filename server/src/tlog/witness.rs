//! Asks witnesses to cosign a checkpoint before it is shown (C2SP tlog-witness, `add-checkpoint`).
//!
//! A witness is somebody else's server. It is asked over one short path with a limit on everything: time, bytes, attempts. One that
//! fails is left alone for a while, longer each time: each that is silent holds up one checkpoint in thirty seconds at most, by up to
//! three, and the others come as fast as those of a log without witnesses. A checkpoint is shown with the cosignatures there are; as
//! long as the quorum of the policy is not among them, the witnesses that are missing are asked for it again, whether the log grows or
//! not. Who needs a quorum says so in the policy that checkpoints are verified with.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use agentd_core::chain::Hash;
use agentd_core::tlog::note::Signature;
use agentd_core::tlog::policy::{Policy, Witness};
use agentd_core::tlog::{Checkpoint, Note};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Longest time for all that is asked of one witness about one checkpoint.
const PATIENCE: Duration = Duration::from_secs(3);
/// Doublings of the time for which one that fails again and again is left alone.
const DOUBLINGS_MAX: u32 = 4;
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Most characters of an answer that are repeated.
const TEXT_MAX: usize = 120;

/// Why witnesses cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of one.
    #[error("the URL of witness `{name}`, `{url}`, must be http:// or https:// with a host")]
    Url {
        /// Which.
        name: String,
        /// As it was given.
        url: String,
    },
    /// None has an address.
    #[error("no witness of the policy has a URL to submit checkpoints to")]
    Nobody,
    /// The runtime, or the certificates of the system.
    #[error("cannot prepare to ask witnesses")]
    Io(#[from] io::Error),
}

/// Gives the hashes that prove that the log grew from one size to the checkpoint; `None` if it cannot have had that size.
pub(super) type Growth<'a> = dyn Fn(u64) -> io::Result<Option<Vec<Hash>>> + 'a;

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The witnesses of a log.
pub(super) struct Witnesses {
    /// Its own: the thread that publishes blocks on it, and needs nobody else to go on.
    runtime: tokio::runtime::Runtime,
    http: Http,
    policy: Policy,
    /// How long one that failed is left alone at first.
    rest: Duration,
    all: Vec<Asked>,
}

impl std::fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witnesses").field("all", &self.all).finish_non_exhaustive()
    }
}

/// One witness, and what is known of it.
#[derive(Debug)]
struct Asked {
    witness: Witness,
    uri: Uri,
    /// Size it cosigned last, as far as we know.
    size: u64,
    resting_until: Option<Instant>,
    /// Times it failed since it last did not.
    failures: u32,
    said: Option<String>,
}

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("no answer within {} seconds", PATIENCE.as_secs())]
    Silent,
    #[error("its answer is longer than {ANSWER_BYTES_MAX} bytes or breaks off: {0}")]
    Answer(String),
    #[error("it answers {0}: {1}")]
    Status(StatusCode, String),
    #[error(
        "it has seen {seen} records of this log, which has {size}: an older copy of the log is running, or another one has its key"
    )]
    Ahead { seen: u64, size: u64 },
    #[error("it says that it is at {0} records whatever it is sent")]
    Stuck(u64),
    #[error("it answers with no cosignature of `{0}`")]
    Unsigned(String),
    #[error("its cosignature is refused: {0}")]
    Signature(#[from] agentd_core::tlog::note::Error),
    #[error("the hashes for it cannot be read: {0}")]
    Hashes(#[from] io::Error),
}

impl Witnesses {
    /// Those of `policy` that have a URL. One that fails is left alone for `rest`, and twice as long each time it fails again.
    ///
    /// # Errors
    /// A URL is none; no witness has one.
    pub(super) fn new(policy: &Policy, rest: Duration) -> Result<Self, Error> {
        let mut all = Vec::new();
        for witness in policy.witnesses() {
            let Some(url) = &witness.url else { continue };
            let uri = submission(url)
                .ok_or_else(|| Error::Url { name: witness.name.clone(), url: url.clone() })?;
            let witness = witness.clone();
            let (resting_until, failures, said) = (None, 0, None);
            all.push(Asked { witness, uri, size: 0, resting_until, failures, said });
        }
        if all.is_empty() {
            return Err(Error::Nobody);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(PATIENCE));
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(tokio_rustls::rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(https);
        Ok(Self { runtime, http, policy: policy.clone(), rest, all })
    }

    /// Whether `note` needs the cosignature of one that can be asked now.
    pub(super) fn are_due(&self, note: &Note) -> bool {
        let now = Instant::now();
        self.policy.check(note).is_err() && self.all.iter().any(|one| one.is_due(note, now))
    }

    /// What those that are missing make of the checkpoint in `note`; those that refuse are said to. Takes no longer than [`PATIENCE`].
    pub(super) fn cosign(
        &mut self,
        checkpoint: &Checkpoint,
        note: &Note,
        growth: &Growth<'_>,
    ) -> Vec<Signature> {
        let now = Instant::now();
        let (http, rest) = (&self.http, self.rest);
        let submitted = Submitted { checkpoint, note, growth };
        let due = self.all.iter_mut().filter(|one| one.is_due(note, now));
        let asked: Vec<Pin<Box<dyn Future<Output = Option<Signature>> + '_>>> =
            due.map(|one| Box::pin(one.attend(http, submitted, rest)) as _).collect();
        self.runtime.block_on(all_of(asked)).into_iter().flatten().collect()
    }
}

/// How long one is left alone that failed as many times before.
fn pause(rest: Duration, failures: u32) -> Duration {
    rest.saturating_mul(1 << failures.min(DOUBLINGS_MAX))
}

/// Where checkpoints go for a submission prefix.
fn submission(prefix: &str) -> Option<Uri> {
    let uri: Uri = format!("{}/add-checkpoint", prefix.trim_end_matches('/')).parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none())
        .then_some(uri)
}

/// All of them at once.
async fn all_of<T>(mut pending: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut done = Vec::with_capacity(pending.len());
    std::future::poll_fn(|context| {
        pending.retain_mut(|one| match one.as_mut().poll(context) {
            Poll::Ready(value) => {
                done.push(value);
                false
            }
            Poll::Pending => true,
        });
        if pending.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done
}

#[derive(Clone, Copy)]
struct Submitted<'a> {
    checkpoint: &'a Checkpoint,
    note: &'a Note,
    growth: &'a Growth<'a>,
}

impl Submitted<'_> {
    fn body(&self, old: u64) -> io::Result<Option<Bytes>> {
        use std::fmt::Write as _;
        // A proof from nothing is empty.
        let hashes = if old == 0 { Some(Vec::new()) } else { (self.growth)(old)? };
        let Some(hashes) = hashes else { return Ok(None) };
        let mut body = format!("old {old}\n");
        for hash in hashes {
            let _ = writeln!(body, "{}", STANDARD.encode(hash.as_bytes()));
        }
        let _ = write!(body, "\n{}", self.note);
        Ok(Some(body.into()))
    }
}

impl Asked {
    /// Whether it has not cosigned and can be asked to.
    fn is_due(&self, note: &Note, now: Instant) -> bool {
        let cosigned = matches!(self.witness.key.time_of(note), Ok(Some(_)));
        !cosigned && self.resting_until.is_none_or(|until| until <= now)
    }

    async fn attend(
        &mut self,
        http: &Http,
        submitted: Submitted<'_>,
        rest: Duration,
    ) -> Option<Signature> {
        let answer = tokio::time::timeout(PATIENCE, self.submit(http, submitted)).await;
        let name = &self.witness.name;
        match answer.unwrap_or(Err(Refused::Silent)) {
            Ok(signature) => {
                self.failures = 0;
                if self.said.take().is_some() {
                    tracing::info!(witness = name, "the witness cosigns again");
                }
                Some(signature)
            }
            Err(refused) => {
                let why = agentctl_api::text::line(&refused.to_string()).into_owned();
                if self.said.as_deref() != Some(&why) {
                    tracing::warn!(witness = name, %why, "a witness does not cosign the proof log");
                    self.said = Some(why);
                }
                self.resting_until = Instant::now().checked_add(pause(rest, self.failures));
                self.failures = self.failures.saturating_add(1);
                None
            }
        }
    }

    async fn submit(
        &mut self,
        http: &Http,
        submitted: Submitted<'_>,
    ) -> Result<Signature, Refused> {
        let size = submitted.checkpoint.size;
        // Twice: what it has seen is not known at the start, and it says so when asked.
        for _ in 0..2 {
            let body = submitted.body(self.size)?.ok_or(Refused::Stuck(self.size))?;
            let (status, answer) = self.post(http, body).await?;
            match status {
                StatusCode::OK => {
                    let signature = self.own(&answer, submitted.note)?;
                    self.size = size;
                    return Ok(signature);
                }
                StatusCode::CONFLICT => {
                    let seen =
                        seen(&answer).ok_or_else(|| Refused::Status(status, short(&answer)))?;
                    if seen > size {
                        return Err(Refused::Ahead { seen, size });
                    }
                    if seen == self.size {
                        return Err(Refused::Stuck(seen));
                    }
                    self.size = seen;
                }
                other => return Err(Refused::Status(other, short(&answer))),
            }
        }
        Err(Refused::Stuck(self.size))
    }

    async fn post(&self, http: &Http, body: Bytes) -> Result<(StatusCode, Vec<u8>), Refused> {
        let unreachable = |error: &dyn std::error::Error| {
            let mut why = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                why = format!("{why}: {cause}");
                source = cause.source();
            }
            Refused::Unreachable(why)
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::new(body))
            .map_err(|error| unreachable(&error))?;
        let answer = http.request(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = bytes.map_err(|error| Refused::Answer(error.to_string()))?;
        Ok((status, bytes.to_bytes().to_vec()))
    }

    /// The witness's own cosignature among those in the answer, once it is found to be sound.
    fn own(&self, answer: &[u8], note: &Note) -> Result<Signature, Refused> {
        let unsigned = || Refused::Unsigned(self.witness.key.name().to_owned());
        let text = std::str::from_utf8(answer).map_err(|_why| unsigned())?;
        // Others may be there too and say nothing to us.
        for signature in Signature::parse_lines(text)? {
            let cosigned = note.with_signatures(vec![signature.clone()])?;
            if self.witness.key.time_of(&cosigned)?.is_some() {
                return Ok(signature);
            }
        }
        Err(unsigned())
    }
}

/// The size in the answer of a witness that is elsewhere.
fn seen(answer: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(answer).ok()?.strip_suffix('\n')?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn short(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        "no more than that".to_owned()
    } else {
        line.chars().take(TEXT_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_again_and_again_is_left_alone_for_longer_up_to_a_limit() {
        let rests =
            [0, 1, 2, 3, 4, 5, u32::MAX].map(|n| pause(Duration::from_secs(30), n).as_secs());
        assert_eq!(rests, [30, 60, 120, 240, 480, 480, 480]);
    }
}
