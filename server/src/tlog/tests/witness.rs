//! Witnesses that do what they should, and every way in which they do not: the checkpoint is shown with what there is.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use agentd_core::tlog::WitnessKey;
use agentd_core::tlog::policy::{Policy, Unmet};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

use super::*;

const NAME: &str = "witness.example/w1";
const TIME: u64 = 1_800_000_000;

/// What a witness does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Manner {
    /// What it should.
    Sound,
    /// As it should, with a foreign signature in front of its own.
    InCompany,
    /// Answers with this status and text.
    Says(u16, String),
    /// Signs with another key under its own name.
    Forges,
    /// Signs another checkpoint.
    Misses,
    Hangs,
    /// Sends without end.
    Floods,
    /// Closes the connection within the answer.
    BreaksOff,
}

struct State {
    manner: Manner,
    /// What it cosigned last.
    last: (u64, Hash),
}

/// A witness in this process; it answers for as long as the test lasts.
#[derive(Clone)]
struct FakeWitness {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    asked: Arc<AtomicU32>,
}

fn key_id(name: &str, secret: &SigningKey) -> [u8; 4] {
    let public = secret.verifying_key();
    let text = [name.as_bytes(), b"\n\x04", public.as_bytes()].concat();
    Sha256::digest(text)[..4].try_into().unwrap()
}

fn vkey(name: &str, secret: &SigningKey) -> String {
    let id = u32::from_be_bytes(key_id(name, secret));
    let key = [[4].as_slice(), secret.verifying_key().as_bytes()].concat();
    format!("{name}+{id:08x}+{}", STANDARD.encode(key))
}

fn cosign(name: &str, named_by: &SigningKey, secret: &SigningKey, text: &str) -> String {
    let signed = format!("cosignature/v1\ntime {TIME}\n{text}");
    let signature = secret.sign(signed.as_bytes()).to_bytes();
    let id = key_id(name, named_by);
    let data = [id.as_slice(), &TIME.to_be_bytes(), &signature].concat();
    format!("— {name} {}\n", STANDARD.encode(data))
}

fn secret() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

/// The one witness, there.
fn policy(url: Option<&str>) -> Policy {
    let key = vkey(NAME, &secret());
    let text = format!("witness w1 {key} {}\nquorum w1\n", url.unwrap_or_default());
    Policy::parse(text.as_bytes()).unwrap()
}

impl FakeWitness {
    fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let last = (0, tree::Frontier::new().root());
        let state = Arc::new(Mutex::new(State { manner, last }));
        let witness = Self { address, state, asked: Arc::default() };
        let serving = witness.clone();
        std::thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming() {
                    let one = serving.clone();
                    // Each connection on its own: one that hangs must not hold the others.
                    std::thread::Builder::new().spawn(move || one.serve(stream.unwrap())).unwrap();
                }
            })
            .unwrap();
        witness
    }

    fn is(&self, manner: Manner) {
        self.state.lock().unwrap().manner = manner;
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    fn policy(&self) -> Policy {
        policy(Some(&format!("http://{}/prefix/", self.address)))
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let (mut line, mut length) = (String::new(), 0);
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            assert_eq!(line, "POST /prefix/add-checkpoint HTTP/1.1\r\n");
            loop {
                line.clear();
                reader.read_line(&mut line).unwrap();
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.answer(&mut stream, &String::from_utf8(body).unwrap()).is_none() {
                return;
            }
        }
    }

    fn answer(&self, stream: &mut TcpStream, body: &str) -> Option<()> {
        let manner = self.state.lock().unwrap().manner.clone();
        let (status, text) = match manner {
            Manner::Hangs => {
                // Until the client goes away.
                let _ = stream.read(&mut [0]);
                return None;
            }
            Manner::Floods => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                while stream.write_all(b"1000\r\n").is_ok() {
                    let _ = stream.write_all(&[b'x'; 0x1000]);
                    let _ = stream.write_all(b"\r\n");
                }
                return None;
            }
            Manner::BreaksOff => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nabc");
                return None;
            }
            Manner::Says(status, text) => (status, text),
            manner => self.cosigned(&manner, body),
        };
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", text.len());
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(text.as_bytes()).ok()
    }

    /// Checks as the specification has it.
    fn cosigned(&self, manner: &Manner, body: &str) -> (u16, String) {
        let (head, note) = body.split_once("\n\n").unwrap();
        let mut lines = head.lines();
        let old: u64 = lines.next().unwrap().strip_prefix("old ").unwrap().parse().unwrap();
        let proof: Vec<Hash> = lines
            .map(|line| Hash::from_bytes(STANDARD.decode(line).unwrap().try_into().unwrap()))
            .collect();
        let note = Note::parse(note.as_bytes()).unwrap();
        let new = Checkpoint::parse(note.text()).unwrap();
        let mut state = self.state.lock().unwrap();
        if old != state.last.0 {
            return (409, format!("{}\n", state.last.0));
        }
        let grown = if old == 0 {
            proof.is_empty()
        } else {
            verify_consistency(state.last, (new.size, new.root), &proof).is_ok()
        };
        if !grown {
            return (422, "the proof does not verify\n".to_owned());
        }
        state.last = (new.size, new.root);
        let (own, other) = (secret(), SigningKey::from_bytes(&[43; 32]));
        let text = note.text();
        let answer = match manner {
            Manner::Forges => cosign(NAME, &own, &other, text),
            Manner::Misses => cosign(NAME, &own, &own, &text.replacen('\n', "\n1", 1)),
            Manner::InCompany => {
                cosign("stranger.example", &other, &other, text) + &cosign(NAME, &own, &own, text)
            }
            _ => cosign(NAME, &own, &own, text),
        };
        (200, answer)
    }
}

fn witnessed(dir: &TempDir, witness: &FakeWitness) -> Config {
    Config { witnesses: Some(witness.policy()), ..config(dir) }
}

#[tokio::test]
async fn every_checkpoint_that_is_shown_was_seen_by_the_witness() {
    let dir = TempDir::new().unwrap();
    let witness = FakeWitness::new(Manner::Sound);
    let (config, policy) = (witnessed(&dir, &witness), witness.policy());
    let mut log = Log::open(&config).unwrap();
    for more in [0, 1, 1, 254, 1, 300] {
        log.append(more).await;
        let published = log.published().await;
        let seen = policy.check(&published.note).unwrap();
        assert_eq!((seen.len(), seen[0].time), (1, TIME));
        assert_eq!(witness.state.lock().unwrap().last.0, log.size());
        let kept = Note::parse(&fs::read(config.checkpoint()).unwrap()).unwrap();
        assert_eq!(kept, published.note, "kept with the checkpoint");
    }
    assert_eq!(witness.asked(), 6, "once each: what it has seen is known");
    let before = log.tlog.published().unwrap();
    drop(log);

    // After a restart nobody knows what the witness has seen; it says so.
    witness.is(Manner::InCompany);
    let mut log = Log::open(&config).unwrap();
    assert_eq!(log.tlog.published().unwrap(), before, "served with its cosignature at once");
    log.append(7).await;
    let published = log.published().await;
    assert!(policy.check(&published.note).is_ok());
    assert_eq!(witness.asked(), 8, "and once more");
    let names: Vec<&str> = published.note.signatures().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, [published.checkpoint.origin.as_str(), NAME], "no signatures of strangers");
}

#[tokio::test]
async fn a_witness_that_does_anything_else_is_left_out_and_left_alone() {
    let says = |status, text: &str| Manner::Says(status, text.to_owned());
    for manner in [
        says(400, "old size too large\n"),
        says(403, ""),
        says(404, "unknown log\n"),
        says(409, "0\n"),
        says(409, "1\n"),
        says(409, "9999999\n"),
        says(409, "18446744073709551616\n"),
        says(409, "-1\n"),
        says(409, "3"),
        says(409, ""),
        says(422, "\u{1b}[31mred\n"),
        says(500, &"x".repeat(10_000)),
        says(200, ""),
        says(200, "hello\n"),
        says(200, "— witness.example/w1 !!!\n"),
        says(200, &"— stranger.example AAAAAAAA\n".repeat(100)),
        says(301, ""),
        Manner::Forges,
        Manner::Misses,
        Manner::Hangs,
        Manner::Floods,
        Manner::BreaksOff,
    ] {
        let dir = TempDir::new().unwrap();
        let witness = FakeWitness::new(manner.clone());
        let mut log = Log::open(&witnessed(&dir, &witness)).unwrap();
        log.append(3).await;
        let published = log.published().await;
        assert_eq!(published.note.signatures().len(), 1, "{manner:?}: the log's own alone");
        let refused = witness.policy().check(&published.note).unwrap_err();
        assert!(matches!(refused, Unmet::Quorum { .. }), "{manner:?}: {refused}");
        assert_eq!(log.damage(), None, "{manner:?}: the agent goes on");
        let asked = witness.asked();
        assert!((1..=3).contains(&asked), "{manner:?}: asked {asked} times");
        log.append(1).await;
        log.published().await;
        assert_eq!(witness.asked(), asked, "{manner:?}: not again right away");
    }
}

#[tokio::test]
async fn a_witness_that_is_not_there_holds_nothing_up() {
    let dir = TempDir::new().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = policy(Some(&format!("http://{closed}")));
    let mut log = Log::open(&Config { witnesses: Some(nobody), ..config(&dir) }).unwrap();
    log.append(3).await;
    assert_eq!(log.published().await.note.signatures().len(), 1);
}

/// Asks the witness until the checkpoint that is shown has its cosignature.
async fn quorum(log: &Log, policy: &Policy) -> Arc<Published> {
    let mut progress = log.tlog.progress();
    let has =
        |now: &Progress| now.published.as_ref().is_some_and(|p| policy.check(&p.note).is_ok());
    let cosigned = tokio::time::timeout(Duration::from_secs(60), progress.wait_for(has));
    cosigned.await.expect("in time").unwrap().published.clone().unwrap()
}

#[tokio::test]
async fn a_checkpoint_gets_its_quorum_later_though_nothing_else_happens() {
    let dir = TempDir::new().unwrap();
    let witness = FakeWitness::new(Manner::Says(503, "not now\n".to_owned()));
    let often = Duration::from_millis(5);
    let config = Config { interval: often, witness_rest: often, ..witnessed(&dir, &witness) };
    let mut log = Log::open(&config).unwrap();
    log.append(3).await;
    let first = log.published().await;
    assert_eq!(first.note.signatures().len(), 1, "shown without it");
    let deadline = Instant::now() + Duration::from_secs(60);
    while witness.asked() < 4 {
        assert!(Instant::now() < deadline, "asked {} times", witness.asked());
        tokio::time::sleep(often).await;
    }
    witness.is(Manner::Sound);
    let later = quorum(&log, &witness.policy()).await;
    assert_eq!(later.checkpoint, first.checkpoint, "the same, seen by the witness");
    let kept = Note::parse(&fs::read(config.checkpoint()).unwrap()).unwrap();
    assert_eq!(kept, later.note, "kept with the checkpoint");
    assert_eq!(kept.signatures().len(), 2, "each of them once");

    // What is whole is left alone, and the next one is cosigned at once.
    let asked = witness.asked();
    log.append(1).await;
    assert!(witness.policy().check(&log.published().await.note).is_ok());
    assert_eq!(witness.asked(), asked + 1);
}

#[tokio::test]
async fn a_checkpoint_without_its_quorum_gets_it_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let witness = FakeWitness::new(Manner::BreaksOff);
    let config = witnessed(&dir, &witness);
    let mut log = Log::open(&config).unwrap();
    log.append(3).await;
    let first = log.published().await;
    drop(log);
    assert!(witness.policy().check(&first.note).is_err());
    witness.is(Manner::Sound);
    let log = Log::open(&config).unwrap();
    let later = quorum(&log, &witness.policy()).await;
    assert_eq!(later.checkpoint, first.checkpoint);
}

#[test]
fn a_witness_whose_address_is_none_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    for url in ["w.example", "ftp://w.example", "https://", "http://w.example/?x=1", "http://"] {
        let config = Config { witnesses: Some(policy(Some(url))), ..config(&dir) };
        let Err(Error::Witnesses(error)) = Log::open(&config) else { panic!("{url} is taken") };
        let said = error.to_string();
        assert!(said.contains("`w1`") && said.contains(url), "{said}");
    }
    let config = Config { witnesses: Some(policy(None)), ..config(&dir) };
    let error = Log::open(&config).map(drop).unwrap_err();
    assert!(matches!(error, Error::Witnesses(WitnessError::Nobody)), "{error}");
    let key: WitnessKey = vkey(NAME, &secret()).parse().unwrap();
    assert_eq!(key.name(), NAME);
}
