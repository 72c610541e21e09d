//! The proof log for strangers: signed, proven, exported, fetched, and remembered by whoever looked once.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use agentd_core::chain::leaf_hash;
use agentd_core::tlog::proof::ProofFile;
use agentd_core::tlog::tile::{self, Kind, Tile};
use agentd_core::tlog::{Checkpoint, Note, VerifierKey, tree::Frontier};

use crate::harness::{Options, Run, Server};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A command of somebody who has only files: no server, no memory.
fn stranger(server: &Server, args: &[&str]) -> Run {
    let home = server.dir().join("stranger");
    fs::create_dir_all(&home).unwrap();
    let mut command = server.program();
    command.args(args).env("HOME", home);
    Run::of(command)
}

#[test]
fn an_entry_is_proven_to_somebody_who_has_only_the_public_key() {
    let server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let decision = server.records().of("RL_DECISION").map(crate::harness::seq).last().unwrap();
    let decision = decision.to_string();

    let shown = server.ctl(&["proof", "checkpoint", "-o", "json"]).ok().json();
    let key = shown["verifier_key"].as_str().unwrap().to_owned();
    assert!(shown["origin"].as_str().unwrap().starts_with("agentctl.dev/stage/"), "{shown:#}");
    assert_eq!(shown["continues"], serde_json::Value::Null, "seen for the first time");

    let file = server.dir().join("decision.tlog-proof");
    server.ctl(&["proof", "prove", &decision, "--file", path(&file)]).ok();
    let said = stranger(&server, &["proof", "verify", path(&file), "--key", &key, "-o", "json"]);
    let said = said.ok().json();
    assert_eq!((&said["valid"], said["seq"].to_string()), (&true.into(), decision.clone()));
    let entry: serde_json::Value = serde_json::from_str(said["entry"].as_str().unwrap()).unwrap();
    assert_eq!(entry["event_name"], "RL_DECISION");
    stranger(&server, &["proof", "verify", path(&file)]).exits(2);
    // A key is asked for nothing where nobody signed: lines alone are no reason to call it the right one.
    let lines = server.dir().join("alone.jsonl");
    server.ctl(&["proof", "export", "--file", path(&lines)]).ok();
    let refused = stranger(&server, &["proof", "verify", path(&lines), "--key", &key]).exits(2);
    assert!(refused.stderr.contains("no checkpoint that --key could be applied to"), "{refused:?}");
    let refused = stranger(&server, &["proof", "verify", path(&lines), "--key", "nonsense"]);
    assert!(refused.exits(2).stderr.contains("--key `nonsense`"));
    let tiles = ["proof", "export", "--format", "tiles", "--file", path(&lines)];
    assert!(server.ctl(&tiles).exits(2).stderr.contains("it is no directory"));

    // The same file from the export, and a forged one.
    let args = ["proof", "export", "--format", "tlog-proof", "--entry", &decision];
    let exported = server.ctl(&args).ok().stdout;
    let mut proof = ProofFile::parse(exported.as_bytes()).unwrap();
    let mut forged = proof.extra.take().unwrap();
    let at = forged.iter().position(|byte| *byte == b'R').unwrap();
    forged[at] = b'r';
    proof.extra = Some(forged);
    fs::write(&file, proof.to_string()).unwrap();
    stranger(&server, &["proof", "verify", path(&file), "--key", &key]).exits(10);
    server.ctl(&["proof", "prove", "99999999"]).exits(3);
}

#[test]
fn the_log_is_exported_as_tiles_and_verified_from_every_side() {
    let server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let online = server.ctl(&["proof", "verify", "--server", "--replay", "-o", "json"]).ok().json();
    assert_eq!((&online["valid"], &online["checked"]), (&true.into(), &"download".into()));
    assert_eq!(online["last_good_checkpoint"], online["last_seq"], "{online:#}");
    assert_eq!(online["decisions_different"], 0);

    let tiles = server.dir().join("tiles");
    let export = ["proof", "export", "--format", "tiles", "--file", path(&tiles)];
    server.ctl(&export).ok();
    server.ctl(&["pause", "--reason", "one entry more"]).ok();
    server.ctl(&export).ok().says(&["new: an export of"]);
    let other = server.dir().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("notes.txt"), "mine").unwrap();
    let export = ["proof", "export", "--format", "tiles", "--file", path(&other)];
    server.ctl(&export).exits(2).says(&["not empty", "earlier export of this log"]);
    let said = stranger(&server, &["proof", "verify", path(&tiles), "-o", "json"]).ok().json();
    assert_eq!((&said["valid"], &said["key_came_with_it"]), (&true.into(), &true.into()));
    let note = server.dir().join("checkpoint");
    fs::write(&note, server.ctl(&["proof", "checkpoint", "--note"]).ok().stdout).unwrap();

    let lines = server.dir().join("log.jsonl");
    server.ctl(&["proof", "export", "--file", path(&lines)]).ok();
    let args = ["proof", "verify", path(&lines), "--checkpoint", path(&note), "-o", "json"];
    assert!(server.ctl(&args).ok().json()["last_good_checkpoint"].as_u64() > Some(10));
    let text = fs::read_to_string(&lines).unwrap();
    let cut: Vec<&str> = text.lines().take(10).collect();
    fs::write(&lines, cut.join("\n")).unwrap();
    let said = server.ctl(&args).exits(10).json();
    assert_eq!(
        (&said["fault"]["seq"], &said["fault"]["reason"]),
        (&11.into(), &"CUT_SHORT".into())
    );

    // One byte of one entry: the first bad entry is named. The widest of the partial bundles is the log's, the others are older.
    let bundles = fs::read_dir(tiles.join("tile/entries/000.p")).unwrap().flatten();
    let width = |file: &fs::DirEntry| file.file_name().to_str().unwrap().parse::<u32>().unwrap();
    let bundle = bundles.max_by_key(width).unwrap();
    let mut bytes = fs::read(bundle.path()).unwrap();
    let third: usize = tile::entries(&bytes).unwrap()[..2].iter().map(|e| e.len() + 2).sum();
    bytes[third + 20] ^= 1;
    fs::write(bundle.path(), bytes).unwrap();
    let said = server.ctl(&["proof", "verify", path(&tiles), "-o", "json"]).exits(10).json();
    assert_eq!(said["fault"]["seq"], 3, "{said:#}");
}

#[test]
fn plain_lines_on_disk_are_the_log() {
    let mut server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    server.stop();
    let lines = fs::read_to_string(server.data_dir().join("proof/proof.jsonl")).unwrap();
    assert!(lines.lines().any(|line| line.starts_with(r#"{"event_name":"RL_DECISION""#)));
    let data = server.data_dir();
    let said =
        server.ctl(&["proof", "verify", "-o", "json", "--data-dir", path(&data)]).ok().json();
    let count = lines.lines().count() as u64;
    assert_eq!(said["entry_count"], count, "the last of them too");
    assert_eq!(said["last_good_checkpoint"], count, "published at the stop: {said:#}");
    let file = data.join("proof/proof.jsonl");
    server.ctl(&["proof", "verify", "--replay", path(&file)]).ok();
}

#[test]
fn whoever_looked_once_notices_a_log_that_was_set_back_or_written_anew() {
    let mut server = Server::quick();
    server.ctl(&["pause", "--reason", "one"]).ok();
    server.stop();
    let (data, backup) = (server.data_dir(), server.dir().join("backup"));
    copy(&data, &backup);
    server.up();
    server.ctl(&["resume", "--reason", "two"]).ok();
    let archive = server.dir().join("archive");
    let export = ["proof", "export", "--format", "tiles", "--file", path(&archive)];
    server.ctl(&export).ok();
    let newest = server.records().head();
    let args = ["proof", "checkpoint", "--min-size", &newest.to_string(), "-o", "json"];
    server.ctl(&args).ok();
    let again = server.ctl(&["proof", "checkpoint", "-o", "json"]).ok().json();
    assert!(again["continues"].as_u64() >= Some(newest), "{again:#}");
    server.stop();

    // An old backup is restored, and grows past what was seen: a fork.
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    server.up();
    let found = server.ctl(&["proof", "checkpoint"]);
    assert_eq!(found.code, 10, "{found:#?}");
    assert!(found.stderr.contains("not the log that was seen"), "{found:#?}");
    server.wait("the fork grows past what was seen", || {
        (server.records().head() > again["size"].as_u64().unwrap() + 2).then_some(())
    });
    let found = server.ctl(&["proof", "checkpoint"]);
    assert_eq!(found.code, 10, "{found:#?}");
    assert!(found.stderr.contains("history was changed"), "{found:#?}");
    assert!(found.stderr.contains(".contradiction"), "the evidence is kept: {found:#?}");
    server.ctl(&["proof", "verify", "--server"]).exits(10);
    // Somebody who never looked has nothing to compare it with.
    let token = server.data_dir().join("tokens.toml");
    let address = server.address().to_owned();
    let args = ["proof", "checkpoint", "--address", &address, "--token-file", path(&token)];
    stranger(&server, &args).ok();
    // But for an export: what is in it stays as it is.
    let export = [&export[..], &["--address", &address, "--token-file", path(&token)]].concat();
    stranger(&server, &export).exits(10).says(&["does not continue the export", "evidence"]);
    stranger(&server, &["proof", "verify", path(&archive)]).ok();
}

#[test]
fn whoever_knew_the_old_key_follows_the_log_to_the_new_one_and_to_no_other() {
    let mut server = Server::quick();
    server.ctl(&["pause", "--reason", "one"]).ok();
    let first = server_checkpoint(&server);
    let old_key = first["verifier_key"].as_str().unwrap().to_owned();
    let old_note = server.dir().join("old-checkpoint");
    fs::write(&old_note, first["checkpoint"].as_str().unwrap()).unwrap();
    let data = server.data_dir();
    let rotate = ["proof", "rotate-key", "--data-dir", path(&data), "-o", "json"];
    let busy = server.ctl(&rotate).exits(1);
    assert!(busy.stderr.contains("in use"), "{}", busy.stderr);
    server.ctl(&["proof", "rotate-key"]).exits(2);

    server.stop();
    let done = server.ctl(&rotate).ok().json();
    assert_eq!(done["from"], old_key.as_str());
    let again = server.ctl(&rotate).exits(1);
    assert!(again.stderr.contains("--retire"), "{}", again.stderr);
    server.up();
    let second = server_checkpoint(&server);
    assert_eq!(second["verifier_key"], done["to"]);
    assert!(second["continues"].as_u64() >= first["size"].as_u64(), "{second:#}");
    // Somebody who has only the old key still believes it, until that key is retired.
    let note = second["checkpoint"].as_str().unwrap().to_owned();
    let old: VerifierKey = old_key.parse().unwrap();
    let new: VerifierKey = done["to"].as_str().unwrap().parse().unwrap();
    let opens =
        |note: &str, key| Checkpoint::open(&Note::parse(note.as_bytes()).unwrap(), key).is_ok();
    assert!(opens(&note, &old) && opens(&note, &new));
    server.stop();
    let retire = ["proof", "rotate-key", "--retire", "--data-dir", path(&data), "-o", "json"];
    assert_eq!(server.ctl(&retire).ok().json()["retired"], old_key.as_str());
    server.ctl(&retire).exits(1);
    server.up();
    // The first checkpoint over what this start recorded is signed by the new key alone.
    server.wait("the retired key signs no more", || {
        let third = server_checkpoint(&server);
        let note = third["checkpoint"].as_str().unwrap();
        assert!(opens(note, &new));
        (!opens(note, &old)).then_some(())
    });

    // What was signed before is checked with the old key; the record of the exchange is part of the log.
    let lines = server.dir().join("log.jsonl");
    server.ctl(&["proof", "export", "--file", path(&lines)]).ok();
    let verify =
        ["proof", "verify", path(&lines), "--checkpoint", path(&old_note), "--key", &old_key];
    server.ctl(&verify).ok();
    assert_eq!(server.records().of("KEY_ROTATED").count(), 1);
    server.ctl(&["proof", "verify", "--server", "--replay"]).ok();

    // A thief of the disk makes a key of their own: nobody handed over to it.
    server.stop();
    let theirs = agentd_core::tlog::SignerKey::from_seed(old.name(), &[7; 32]).unwrap();
    let key = data.join("proof.key");
    fs::write(&key, theirs.to_secret_text()).unwrap();
    fs::remove_file(data.join("proof/checkpoint")).unwrap();
    server.up();
    let found = server.ctl(&["proof", "checkpoint"]).exits(10);
    assert!(found.stderr.contains("did not hand over"), "{}", found.stderr);
}

fn server_checkpoint(server: &Server) -> serde_json::Value {
    server.ctl(&["proof", "checkpoint", "-o", "json"]).ok().json()
}

#[test]
fn a_second_path_stops_a_server_on_an_old_backup_before_it_acts() {
    let mut options = Options::default();
    let elsewhere = tempfile::tempdir().unwrap();
    let anchor = elsewhere.path().join("stage.checkpoint");
    options.flags = vec!["--proof-anchor".into(), path(&anchor).into()];
    let mut server = Server::start(options);
    server.stop();
    let (data, backup) = (server.data_dir(), server.dir().join("backup"));
    copy(&data, &backup);
    server.up();
    server.onboard("web");
    server.stop();
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    server.up();
    let status = server.status();
    assert_eq!(status["journal"]["state"], "damaged", "{status:#}");
    let detail = status["journal"]["detail"].as_str().unwrap();
    assert!(detail.contains("older copy"), "{detail}");
    assert_eq!(server.ctl(&["pause", "--reason", "x"]).code, 10, "nothing is recorded any more");
    server.ctl(&["proof", "list", "--limit", "3"]).ok();
    server.ctl(&["proof", "verify"]).exits(10);
    assert_eq!(server.stop(), 0);
}

#[test]
fn tools_of_others_fetch_the_log_over_plain_http() {
    let server = Server::quick();
    server.onboard("web");
    server.ctl(&["proof", "checkpoint", "--min-size", "5"]).ok();
    let (code, _, _) = get(&server, "/checkpoint", None);
    assert_eq!(code, 401, "not without a token");
    let token = token(&server);
    let (code, headers, body) = get(&server, "/checkpoint", Some(&token));
    assert_eq!(code, 200);
    assert!(headers.contains("no-cache"), "{headers}");
    let note = Note::parse(&body).unwrap();
    let key: VerifierKey = fs::read_to_string(server.data_dir().join("proof/log.vkey"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let checkpoint = Checkpoint::open(&note, &key).unwrap();
    let mut tree = Frontier::new();
    for tile in Tile::all(checkpoint.size).filter(|tile| tile.kind() == Kind::Entries) {
        let (code, headers, body) = get(&server, &format!("/{tile}"), Some(&token));
        assert_eq!(code, 200, "{tile}");
        assert!(headers.contains("immutable"), "{headers}");
        for entry in tile::entries(&body).unwrap() {
            tree.push(leaf_hash(entry), &mut |_, _| {});
        }
    }
    assert_eq!((tree.size(), tree.root()), (checkpoint.size, checkpoint.root));
    for none in [
        "/tile/0/000",
        "/tile/0/x000/001",
        "/tile/../checkpoint",
        "/tile/0/000.p/0",
        "/tile/entries/999",
    ] {
        assert_eq!(get(&server, none, Some(&token)).0, 404, "{none}");
    }
}

#[test]
fn one_field_of_each_entry_is_a_line_that_can_be_compared() {
    let bodies = || {
        let server = Server::quick();
        server.onboard("web");
        let args = ["proof", "list", "--event", "ONBOARDING_STARTED", "--select", "body"];
        (server.ctl(&args).ok().stdout, server)
    };
    let (first, server) = bodies();
    assert_eq!(first.lines().count(), 1, "{first}");
    assert!(first.contains("web"), "{first}");
    assert_eq!(first, bodies().0, "the same in another run");
    server.ctl(&["proof", "list", "--select", "nonsense"]).exits(2);
    let seqs = server.ctl(&["proof", "list", "--limit", "3", "--select", "seq"]).ok().stdout;
    assert_eq!(seqs, "1\n2\n3\n");
}

#[test]
fn no_secret_gets_into_the_log_the_output_or_what_is_handed_out() {
    let server = Server::quick();
    let canary = "agt_canary_0123456789abcdef0123456789abcdef";
    let refused = server.ctl(&["status", "--token", canary]).exits(4);
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let tiles = server.dir().join("tiles");
    server.ctl(&["proof", "export", "--format", "tiles", "--file", path(&tiles)]).ok();
    let shown = server.ctl(&["proof", "checkpoint", "-v", "-o", "json"]).ok();

    let key = fs::read_to_string(server.data_dir().join("proof.key")).unwrap();
    // Of the fifth part on it is the key, and a `+` may be in that too.
    let secret = key.trim().splitn(5, '+').nth(4).unwrap();
    assert_eq!(secret.len(), 44, "a byte for the algorithm and 32 of the key");
    let mut secrets = vec![("a refused token", canary.to_owned()), ("the key", secret.to_owned())];
    let tokens: toml::Table =
        fs::read_to_string(server.data_dir().join("tokens.toml")).unwrap().parse().unwrap();
    for principal in tokens["principal"].as_array().unwrap() {
        secrets.push(("a token", principal["token"].as_str().unwrap().to_owned()));
    }
    assert!(secrets.len() >= 4, "{secrets:?}");
    let mut places = vec![
        ("the log of the server".to_owned(), server.log().into_bytes()),
        ("a refusal".to_owned(), [refused.stdout, refused.stderr].concat().into_bytes()),
        ("a checkpoint".to_owned(), [shown.stdout, shown.stderr].concat().into_bytes()),
    ];
    collect(&server.data_dir().join("proof"), &mut places);
    collect(&tiles, &mut places);
    assert!(places.iter().any(|(name, _)| name.ends_with(".seg")), "the segments are searched");
    let found = |places: &[(String, Vec<u8>)]| {
        let holds = |text: &[u8], secret: &str| {
            text.windows(secret.len()).any(|part| part == secret.as_bytes())
        };
        let pairs = places.iter().flat_map(|(name, text)| {
            secrets
                .iter()
                .filter(|(_, s)| holds(text, s))
                .map(move |(what, _)| format!("{what} in {name}"))
        });
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(found(&places), Vec::<String>::new());
    // The search finds what is there.
    places.push(("planted".to_owned(), format!("token={canary}").into_bytes()));
    assert_eq!(found(&places), ["a refused token in planted"]);
}

/// Every file below `dir`.
fn collect(dir: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), into);
        } else {
            into.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
        }
    }
}

pub(crate) fn token(server: &Server) -> String {
    let file: toml::Table =
        fs::read_to_string(server.data_dir().join("tokens.toml")).unwrap().parse().unwrap();
    let principals = file["principal"].as_array().unwrap();
    let local = principals.iter().find(|p| p["name"].as_str() == Some("local")).unwrap();
    local["token"].as_str().unwrap().to_owned()
}

/// Status, headers and body of one GET, as a tool in any language asks.
pub(crate) fn get(server: &Server, path: &str, token: Option<&str>) -> (u16, String, Vec<u8>) {
    let mut tcp = TcpStream::connect(server.address()).unwrap();
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(tcp, "GET {path} HTTP/1.1\r\nhost: {}\r\n{token}\r\n", server.address()).unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).unwrap();
    let at = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let body = answer.split_off(at + 4);
    let head = String::from_utf8(answer).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
