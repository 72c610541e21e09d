//! Another key for a log, and what is in the way of it.

use agentd_core::app::Env;
use agentd_core::record::{Body, Record};
use agentd_core::tlog::rotation::Rotation;

use super::super::rotate::{self, retire, rotate};
use super::*;

/// A stopped log with one record in it.
async fn stopped() -> (TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::on_demand(dir.path());
    first_record(&config).await;
    (dir, config)
}

async fn first_record(config: &Config) {
    let log = Log::open(config).unwrap();
    let (seq, at, env, actor) = (1, 2_000, Env::Stage, "agent-0badcafe".to_owned());
    let body = Body::StormEnded;
    let record = Record { seq, at, env, app: None, cause: None, actor, trace: None, body };
    let line = record.line(agentd_core::chain::GENESIS);
    log.journal.append(1, vec![line.into()]).await.unwrap();
}

/// The checkpoint on disk, and the keys of which it carries a sound signature.
fn signed(config: &Config, keys: &[&VerifierKey]) -> (u64, Vec<bool>) {
    let text = fs::read(config.checkpoint()).unwrap();
    let note = Note::parse(&text).unwrap();
    let size = Checkpoint::parse(note.text()).unwrap().size;
    (size, keys.iter().map(|key| note.verify(key).is_ok()).collect())
}

#[tokio::test]
async fn keys_overlap_and_each_exchange_is_a_record() {
    let (_dir, config) = stopped().await;
    let done = rotate(config.clone(), 1_000).await.unwrap();
    let (a, b) = (done.from, done.to);
    assert_eq!(signed(&config, &[&a, &b]), (2, vec![true, true]));
    let mut lines = Vec::new();
    journal::read_dir(&config.dir, &mut |_, line| lines.push(line.to_vec())).unwrap();
    let record = Record::parse(&lines[1]).unwrap();
    assert_eq!(record.at, 2_000, "time does not go back");
    let Body::KeyRotated { from, to, note } = record.body else { panic!("{record:?}") };
    assert_eq!((from, to), (a.to_string(), b.to_string()));
    let note = Note::parse(note.as_bytes()).unwrap();
    assert_eq!(Rotation::open(&note).unwrap(), Rotation { from: a.clone(), to: b.clone() });

    assert!(matches!(rotate(config.clone(), 0).await, Err(rotate::Error::Overlapping(_))));
    assert_eq!(retire(config.clone()).await.unwrap(), a);
    assert!(matches!(retire(config.clone()).await, Err(rotate::Error::NothingToRetire(_))));
    let done = rotate(config.clone(), 3_000).await.unwrap();
    assert_eq!((&done.from, done.seq), (&b, 3));
    assert_eq!(signed(&config, &[&a, &b, &done.to]), (3, vec![false, true, true]));
}

#[tokio::test]
async fn a_second_path_that_was_away_while_keys_were_exchanged_is_taken_up_again() {
    let (dir, config) = stopped().await;
    let anchor = dir.path().join("elsewhere");
    let anchored = Config { anchor: Some(anchor.clone()), ..config.clone() };
    drop(Log::open(&anchored).unwrap());
    let mut keys = Vec::new();
    for now in [1_000, 2_000] {
        // Nobody says where the second path is.
        let done = rotate(config.clone(), now).await.unwrap();
        keys.extend([done.from, done.to]);
        retire(config.clone()).await.unwrap();
    }
    let (a, c) = (&keys[0], &keys[3]);
    let note = Note::parse(&fs::read(&anchor).unwrap()).unwrap();
    assert!(note.verify(a).is_ok() && note.verify(c).is_err(), "two exchanges behind");
    let log = Log::open(&anchored).unwrap();
    assert_eq!(log.damage(), None);
    drop(log);
    let note = Note::parse(&fs::read(&anchor).unwrap()).unwrap();
    assert!(note.verify(c).is_ok() && note.verify(a).is_err(), "signed anew");
    assert_eq!(checkpoint_of(&anchor).size, 3);
}

/// A log whose key was replaced, and a second path on which somebody who has the old key claims more records than there were then.
pub(super) async fn beside_what_a_retired_key_signed_later(dir: &TempDir) -> Result<Log, Error> {
    let config = Config::on_demand(dir.path());
    first_record(&config).await;
    let old = key::load_one(&config.key).unwrap().unwrap();
    rotate(config.clone(), 1_000).await.unwrap();
    retire(config.clone()).await.unwrap();
    let anchor = dir.path().join("elsewhere");
    let later = Checkpoint { size: 9, ..checkpoint_of(&config.checkpoint()) };
    fs::write(&anchor, later.sign(&old).unwrap().to_string()).unwrap();
    Log::open(&Config { anchor: Some(anchor), ..config })
}

#[tokio::test]
async fn a_retired_key_does_not_speak_for_what_came_after_it() {
    let dir = TempDir::new().unwrap();
    let refused = beside_what_a_retired_key_signed_later(&dir).await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::Checkpoint { .. }), "{refused}");

    // Up to the exchange it does: another history signed then is a fork.
    let (dir, config) = stopped().await;
    let old = key::load_one(&config.key).unwrap().unwrap();
    let done = rotate(config.clone(), 1_000).await.unwrap();
    retire(config.clone()).await.unwrap();
    let anchor = dir.path().join("elsewhere");
    let root = leaf_hash(b"another history");
    let other = Checkpoint { size: done.seq, root, ..checkpoint_of(&config.checkpoint()) };
    fs::write(&anchor, other.sign(&old).unwrap().to_string()).unwrap();
    let log = Log::open(&Config { anchor: Some(anchor), ..config }).unwrap();
    assert!(log.damage().expect("noticed").why.contains("not those that were published"));
}

#[tokio::test]
async fn an_exchange_that_broke_off_is_taken_up() {
    let (_dir, config) = stopped().await;
    let old = fs::read(&config.key).unwrap();
    let done = rotate(config.clone(), 1_000).await.unwrap();
    // As after a crash between the record and the exchange of the files.
    fs::rename(&config.key, key::next(&config.key)).unwrap();
    fs::rename(key::before(&config.key), &config.key).unwrap();
    assert_eq!(fs::read(&config.key).unwrap(), old);
    let again = rotate(config.clone(), 1_000).await.unwrap();
    assert_eq!(again, done, "no second record");
    assert_eq!(signed(&config, &[&done.from, &done.to]), (2, vec![true, true]));
}

#[tokio::test]
async fn what_cannot_be_done_leaves_the_key_as_it_was() {
    let (dir, config) = stopped().await;
    let key = fs::read(&config.key).unwrap();
    let running = Log::open(&config).unwrap();
    let error = rotate(config.clone(), 0).await.unwrap_err();
    let locked = rotate::Error::Log(Error::Journal(journal::Error::Locked {
        dir: config.dir.clone(),
        holder: None,
    }));
    assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&locked), "{error}");
    assert!(!key::next(&config.key).exists(), "no key was made");
    drop(running);

    let elsewhere = Config { key: dir.path().join("nowhere"), ..config.clone() };
    assert!(matches!(rotate(elsewhere, 0).await, Err(rotate::Error::NoKey(_))));
    fs::write(key::next(&config.key), "no key").unwrap();
    assert!(matches!(
        rotate(config.clone(), 0).await,
        Err(rotate::Error::Log(Error::Permissions { .. }))
    ));
    fs::remove_file(key::next(&config.key)).unwrap();

    let segment = config.dir.join("wal/00000000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(11).position(|part| part == b"STORM_ENDED").unwrap();
    bytes[at] = b's';
    fs::write(&segment, bytes).unwrap();
    let error = rotate(config.clone(), 0).await.unwrap_err();
    assert!(matches!(error, rotate::Error::Damaged(_)), "{error}");
    assert_eq!(fs::read(&config.key).unwrap(), key);
}
