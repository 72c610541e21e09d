//! How much of the log is kept: old entries go when an admin says so and somebody else has them, and what is left still proves itself.

use std::path::Path;

use agentctl_api::client::{Client, Target};
use agentctl_api::v1;
use serde_json::Value;
use tonic::Code;

use crate::harness::{App, Options, Run, Server, body, quick, seq};
use crate::transparency::{get, token};

/// The entries before this one are to go.
const BEFORE: &str = "600";
/// The first that stays then: bundles of 256 go whole.
const OLDEST: u64 = 513;

/// Does something with the client library, as the principal `local`.
fn with_client<T>(server: &Server, work: impl AsyncFnOnce(Client) -> T) -> T {
    let tokens = server.data_dir().join("tokens.toml");
    let token = agentctl::server::plain_token(&tokens, "local").unwrap();
    let target = Target::new(server.address(), "the test", Some(token));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work(Client::connect(&target).await.unwrap()).await })
}

/// Has the log grow: learning is stopped and goes on again, with an entry each time.
fn live(server: &Server, entries: u64) {
    with_client(server, async |client| {
        for turn in 0..entries {
            let (reason, request_id) = (format!("turn {turn}"), String::new());
            let seq = if turn % 2 == 0 {
                let request = v1::FreezeRequest { reason, request_id };
                client.agent().freeze(request).await.unwrap().into_inner().seq
            } else {
                let request = v1::UnfreezeRequest { reason, request_id };
                client.agent().unfreeze(request).await.unwrap().into_inner().seq
            };
            assert!(seq > 0, "turn {turn} left no entry");
        }
    });
}

/// One page of the list, from the beginning or from where the page before it ended.
fn page(server: &Server, token: &str) -> Result<v1::ListProofEntriesResponse, tonic::Status> {
    let page_token = token.to_owned();
    let request = v1::ListProofEntriesRequest { page_size: 10, page_token, ..Default::default() };
    with_client(server, async |client| client.proof().list_proof_entries(request).await)
        .map(tonic::Response::into_inner)
}

fn kept(server: &Server) -> Value {
    server.ctl(&["proof", "status", "-o", "json"]).ok().json()
}

fn prune(server: &Server, more: &[&str]) -> Run {
    let mut words = vec!["proof", "prune", "--before", BEFORE, "--reason", "disk", "-o", "json"];
    words.extend(more);
    server.ctl(&words)
}

/// Why a prune was refused; that it was, and that everything is there still.
fn refusal(server: &Server, more: &[&str]) -> String {
    let error = prune(server, more).exits(5).error();
    assert_eq!(error["exit_code"], 5, "{error:#}");
    assert_eq!(error["code"], "FAILED_PRECONDITION", "{error:#}");
    assert_eq!(error["reason"], "NOT_PRUNABLE", "{error:#}");
    let records = server.records();
    assert_eq!((records.iter().next().map(seq), records.count("LOG_PRUNED")), (Some(1), 0));
    assert_eq!(kept(server)["oldest_seq"], 1);
    error["message"].as_str().unwrap().to_owned()
}

/// Exports everything as tiles into a new directory and has that put on record.
fn export(server: &Server, dir: &Path) -> Run {
    let dir = dir.to_str().unwrap();
    server.ctl(&["proof", "export", "--format", "tiles", "--file", dir, "--record"])
}

/// From here on the policy keeps nothing for its age alone.
fn keep_nothing(server: &Server) {
    let file = server.dir().join("next.toml");
    std::fs::write(&file, toml::to_string(&quick()).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    server.ctl(&["policy", "apply", file, "--reason", "the disk is full", "--yes"]).ok();
}

/// A server with an app and 700 entries behind that, whose policy keeps all of them for a day.
fn grown() -> (Server, App) {
    let server = Server::start(Options::with(|policy| policy.retention.keep_ms = 86_400_000));
    let app = server.onboard("web");
    live(&server, 700);
    (server, app)
}

#[test]
fn old_entries_go_once_nothing_stands_against_it_and_each_thing_that_does_is_named() {
    let (server, _app) = grown();
    let before = kept(&server);
    assert_eq!((&before["oldest_seq"], &before["minimum_index"]), (&1.into(), &0.into()));
    assert_eq!((&before["exported_upto"], &before["exported_seq"]), (&0.into(), &Value::Null));
    assert_eq!(before["snapshot_upto"], 0, "{before:#}");
    let shown = server.ctl(&["proof", "status"]).ok().stdout;
    assert!(shown.contains("no export is on record") && shown.contains("none yet"), "{shown}");

    // All of it at once, and the same whether it is meant or only asked.
    let (export_missing, young) = ("an export is on record for the records up to 0", "86400000 ms");
    let snapshot_missing = "the newest snapshot of the state is that after record 0";
    for meant in ["--yes", "--dry-run"] {
        let said = refusal(&server, &[meant]);
        for unmet in [export_missing, snapshot_missing, young, "those up to 512 would go"] {
            assert!(said.contains(unmet), "`{unmet}` is missing: {said}");
        }
    }
    let words = ["proof", "prune", "--before", BEFORE, "--reason", "disk", "--yes"];
    let explain = "`agentctl explain NOT_PRUNABLE`";
    let refused = server.ctl(&words).exits(5);
    let refused = refused.says(&[export_missing, snapshot_missing, young, explain]);
    assert_eq!(refused.stderr.matches(export_missing).count(), 1, "said once: {}", refused.stderr);

    let tiles = server.dir().join("tiles");
    export(&server, &tiles).ok().says(&["recorded as entry #", "may be pruned"]);
    let exported = kept(&server);
    assert!(exported["exported_upto"].as_u64() >= Some(700), "{exported:#}");
    let receipts: Vec<u64> = server.records().of("LOG_EXPORTED").map(seq).collect();
    assert_eq!(Value::from(receipts), serde_json::json!([exported["exported_seq"]]));
    let said = refusal(&server, &["--yes"]);
    assert!(said.contains(young) && !said.contains("an export is on record"), "{said}");
    assert_eq!(kept(&server)["snapshot_upto"], 0, "none is taken for a prune that is refused");

    keep_nothing(&server);
    let dry = prune(&server, &["--dry-run"]).ok().json();
    assert_eq!(dry, serde_json::json!({"oldest_seq": OLDEST, "dry_run": true}));
    assert_eq!(kept(&server)["oldest_seq"], 1, "only asked");
    let done = prune(&server, &["--yes"]).ok().json();
    assert_eq!((&done["oldest_seq"], &done["dry_run"]), (&OLDEST.into(), &false.into()));
    let now = kept(&server);
    assert_eq!((&now["oldest_seq"], &now["minimum_index"]), (&OLDEST.into(), &512.into()));
    assert!(now["snapshot_upto"].as_u64() >= Some(512), "it was taken for this: {now:#}");
    let records = server.records();
    assert_eq!(records.iter().next().map(seq), Some(OLDEST));
    let pruned: Vec<&Value> = records.of("LOG_PRUNED").collect();
    assert_eq!((pruned.len(), &pruned[0]["seq"]), (1, &done["seq"]));
    assert_eq!(
        (&pruned[0]["actor"], &body(pruned[0], "pruned")["reason"]),
        (&"local".into(), &"disk".into())
    );
    let again = prune(&server, &["--yes"]).exits(5).error();
    assert!(again["message"].as_str().unwrap().contains("the oldest record is 513"), "{again:#}");
}

/// What a verification says of a log that was pruned: sound, from the oldest entry that is kept to the end.
#[track_caller]
fn is_sound(said: &Value) {
    assert_eq!((&said["valid"], &said["first_seq"]), (&true.into(), &OLDEST.into()), "{said:#}");
    assert!(said["decisions_rechecked"].as_u64() >= Some(1), "those behind the snapshot: {said:#}");
    assert_eq!(said["decisions_different"], 0, "{said:#}");
}

/// Everything that is asked of a pruned log. `reading` is a page of the list that somebody was about to turn to.
fn holds(server: &Server, reading: &str) {
    assert_eq!(kept(server)["oldest_seq"], OLDEST);
    let refused = page(server, reading).unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains("records before 513 are no longer kept"), "{refused}");
    assert_eq!(page(server, "").unwrap().entries[0].seq, OLDEST, "who begins, begins there");
    for below in [["export", "--from", "512"], ["tail", "--since", "5"]] {
        let error = server.ctl(&[&["proof", "-o", "jsonl"][..], &below].concat()).exits(2).error();
        assert_eq!(error["code"], "OUT_OF_RANGE", "{error:#}");
        assert_eq!(error["reason"], "WATCH_COMPACTED", "{error:#}");
        assert!(error["message"].as_str().unwrap().contains("records before 513"), "{error:#}");
    }
    server.ctl(&["proof", "export", "--from", "513", "--to", "520"]).ok();
    let error = server.ctl(&["proof", "get", "512", "-o", "json"]).exits(3).error();
    assert_eq!(error["reason"], "ENTRY_PRUNED", "{error:#}");
    server
        .ctl(&["proof", "get", "512"])
        .exits(3)
        .says(&["entry 512 is pruned", "an export has it"]);
    server.ctl(&["proof", "get", "99999999"]).exits(3).says(&["is not in the log"]);

    // Entry by entry here, under a checkpoint that covers those that are gone too; and by the server itself.
    let newest = server.records().head().to_string();
    server.ctl(&["proof", "checkpoint", "--min-size", &newest]).ok();
    let said = server.ctl(&["proof", "verify", "--server", "--replay", "-o", "json"]).ok().json();
    is_sound(&said);
    assert_eq!(said["last_good_checkpoint"], said["last_seq"], "{said:#}");
    is_sound(&server.ctl(&["proof", "verify", "--replay", "-o", "json"]).ok().json());
    let shown = server.ctl(&["proof", "verify", "--server"]).ok().stdout;
    assert!(shown.contains("it begins with #513: what came before is not covered"), "{shown}");
    let proof = server.dir().join("520.tlog-proof");
    let proof = proof.to_str().unwrap();
    server.ctl(&["proof", "prove", "520", "--file", proof, "--yes"]).ok();
    server.ctl(&["proof", "verify", proof]).ok();
    lines_hold(server);

    // Tools of others are told the same: bundles are gone for good, hashes are not.
    let token = token(server);
    let status = |path| get(server, path, Some(&token)).0;
    assert_eq!((status("/tile/entries/000"), status("/tile/entries/001")), (410, 410));
    assert_eq!((status("/tile/0/000"), status("/tile/0/001")), (200, 200));
    assert_eq!(status("/tile/entries/002.p/1"), 200);
}

/// Lines that begin where the log begins by now are held against a checkpoint over all of it, or it is said why they cannot be.
fn lines_hold(server: &Server) {
    let (lines, note) = (server.dir().join("kept.jsonl"), server.dir().join("checkpoint"));
    let (lines, note) = (lines.to_str().unwrap(), note.to_str().unwrap());
    let signed = server.ctl(&["proof", "checkpoint", "--note"]).ok().stdout;
    std::fs::write(note, signed).unwrap();
    let exported = server.ctl(&["proof", "export", "--file", lines, "--yes"]).ok();
    exported.says(&["they begin with #513"]);
    let verify = ["proof", "verify", lines, "--checkpoint", note, "-o", "json"];
    let said = server.ctl(&verify).ok().json();
    assert!(said["last_good_checkpoint"].as_u64() >= Some(700), "{said:#}");
    // Without what lies beside them.
    std::fs::remove_file(format!("{lines}.tlog-proof")).unwrap();
    server.ctl(&verify).exits(2).says(&["cannot be compared", "before entry #513"]);
    server.ctl(&["proof", "prove", "513", "--file", &format!("{lines}.tlog-proof")]).ok();
    server.ctl(&verify).ok();
}

/// The line of an entry in a tree of tiles.
fn exported_line(tiles: &Path, seq: usize) -> Vec<u8> {
    let bundle = std::fs::read(tiles.join("tile/entries/000")).unwrap();
    agentd_core::tlog::tile::entries(&bundle).unwrap()[seq - 1].to_vec()
}

#[test]
fn an_entry_that_is_pruned_is_still_proven_to_whoever_has_its_line() {
    let (server, _app) = grown();
    let tiles = server.dir().join("tiles");
    export(&server, &tiles).ok();
    keep_nothing(&server);
    prune(&server, &["--yes"]).ok();
    let (proof, line) = (server.dir().join("5.tlog-proof"), server.dir().join("line"));
    let (proof, line) = (proof.to_str().unwrap(), line.to_str().unwrap());
    let proven = server.ctl(&["proof", "prove", "5", "--file", proof, "-o", "json"]).ok().json();
    assert_eq!((&proven["pruned"], &proven["leaf_index"]), (&true.into(), &4.into()));
    server.ctl(&["proof", "verify", proof]).exits(2).says(&["--entry"]);
    std::fs::write(line, exported_line(&tiles, 5)).unwrap();
    server.ctl(&["proof", "verify", proof, "--entry", line]).ok();
    std::fs::write(line, exported_line(&tiles, 6)).unwrap();
    server.ctl(&["proof", "verify", proof, "--entry", line]).exits(10);
}

/// Prunes everything that an export on record has; answers with the entry that the log begins with now.
fn prune_all(server: &Server) -> u64 {
    let before = kept(server)["exported_upto"].to_string();
    let words = ["proof", "prune", "--before", &before, "--reason", "disk", "--yes", "-o", "json"];
    server.ctl(&words).ok().json()["oldest_seq"].as_u64().unwrap()
}

#[test]
fn a_log_is_exported_and_pruned_again_and_again() {
    let (mut server, app) = grown();
    keep_nothing(&server);
    let (archive, late) = (server.dir().join("archive"), server.dir().join("late"));
    let verify = |server: &Server, dir: &Path| {
        let said =
            server.ctl(&["proof", "verify", dir.to_str().unwrap(), "-o", "json"]).ok().json();
        assert_eq!(said["last_good_checkpoint"], said["last_seq"], "{said:#}");
        said
    };
    let mut oldest = 1;
    for round in 1..=3 {
        export(&server, &archive).ok().says(&["recorded as entry #"]);
        let now = prune_all(&server);
        assert!(now > oldest, "round {round}: {now} after {oldest}");
        oldest = now;
        let said = verify(&server, &archive);
        assert_eq!(
            (&said["first_seq"], &said["pruned_upto"]),
            (&1.into(), &Value::Null),
            "{said:#}"
        );
        live(&server, 260);
        if round == 2 {
            server.restart();
        }
    }
    // Somebody begins another archive only now: it has what is kept, and the hashes of the rest, and that is as good for what comes.
    let said = export(&server, &late).ok();
    said.says(&[&format!("! up to #{}", oldest - 1), "recorded as entry #"]);
    let receipt = server.records();
    let receipt = body(receipt.of("LOG_EXPORTED").last().unwrap(), "exported").clone();
    assert_eq!(receipt["first"], oldest, "{receipt:#}");
    let now = prune_all(&server);
    assert!(now > oldest, "{now} after {oldest}");
    let said = verify(&server, &late);
    assert_eq!((&said["first_seq"], &said["pruned_upto"]), (&oldest.into(), &(oldest - 1).into()));
    // The old one has a gap by then, and knows it.
    live(&server, 260);
    export(&server, &late).ok();
    prune_all(&server);
    let said = export(&server, &archive).ok();
    said.says(&["by their hash alone"]);
    let said = verify(&server, &archive);
    assert!(said["first_seq"].as_u64() > Some(oldest), "{said:#}");
    assert_eq!(verify(&server, &late)["first_seq"], oldest);
    server.crash_and_heal(&app);
    server.ctl(&["proof", "verify"]).ok();
}

#[test]
fn what_is_left_proves_itself_and_whoever_asks_for_the_rest_is_told_where_it_begins() {
    let (mut server, app) = grown();
    let reading = page(&server, "").unwrap().next_page_token;
    let tiles = server.dir().join("tiles");
    export(&server, &tiles).ok();
    keep_nothing(&server);
    prune(&server, &["--yes"]).ok();
    server.crash_and_heal(&app);
    holds(&server, &reading);

    // What is known of the app was in the entries that are gone: a start has it from the snapshot.
    server.restart();
    server.crash_and_heal(&app);
    holds(&server, &reading);

    let verify = ["proof", "verify", tiles.to_str().unwrap(), "-o", "json"];
    let said = server.ctl(&verify).ok().json();
    assert_eq!((&said["valid"], &said["first_seq"]), (&true.into(), &1.into()), "{said:#}");
    assert!(said["last_seq"].as_u64() >= Some(OLDEST - 1), "the export has the rest: {said:#}");
    assert_eq!(server.stop(), 0);
    let data = server.data_dir();
    let verify = ["proof", "verify", "-o", "json", "--data-dir", data.to_str().unwrap()];
    let said = server.ctl(&verify).ok().json();
    assert_eq!(said["last_good_checkpoint"], said["last_seq"], "{said:#}");
}

#[test]
fn whoever_knew_a_key_from_before_the_prune_still_follows_the_log_to_the_new_one() {
    let (mut server, _app) = grown();
    keep_nothing(&server);
    let first = server.ctl(&["proof", "checkpoint", "-o", "json"]).ok().json();
    let logs = std::fs::read_dir(server.dir().join(".local/state/agentctl/logs")).unwrap();
    let memory = logs.flatten().next().unwrap().path();
    let known = std::fs::read(&memory).unwrap();
    assert_eq!(server.stop(), 0);
    let data = server.data_dir();
    let rotate = ["proof", "rotate-key", "--data-dir", data.to_str().unwrap(), "-o", "json"];
    let rotated = server.ctl(&rotate).ok().json();
    server.ctl(&[&rotate[..], &["--retire"]].concat()).ok();
    server.up();
    live(&server, 300);
    export(&server, &server.dir().join("tiles")).ok();
    prune_all(&server);
    let records = server.records();
    assert_eq!(records.count("KEY_ROTATED"), 0, "it is among what was pruned");
    let keys = &body(records.of("LOG_PRUNED").next().unwrap(), "pruned")["keys"];
    assert_eq!(keys[0]["seq"], rotated["seq"], "{keys:#}");
    // Whoever was away all the time knows the old key and nothing else.
    std::fs::write(&memory, known).unwrap();
    let now = server.ctl(&["proof", "checkpoint", "-o", "json"]).ok().json();
    assert_eq!(now["verifier_key"], rotated["to"]);
    assert_eq!(now["continues"], first["size"], "{now:#}");
    // And so does the server of its own copies, after a start that reads none of what was pruned.
    server.restart();
    server.ctl(&["proof", "verify", "--server"]).ok();
}

#[test]
fn plain_lines_that_were_altered_are_named_and_written_anew_without_them() {
    let mut server = Server::quick();
    server.onboard("web");
    server.ctl(&["proof", "checkpoint", "--min-size", "5"]).ok();
    server.ctl(&["proof", "verify"]).ok();
    let log = server.data_dir().join("proof/log");
    let file = log.join(format!("{:020}.jsonl", 1));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"seq\":3,", "\"seq\":8,", 1)).unwrap();
    let said = server.ctl(&["proof", "verify", "-o", "json"]).exits(10).json();
    assert_eq!(
        (&said["fault"]["seq"], &said["fault"]["reason"]),
        (&3.into(), &"LINES_DIFFER".into())
    );
    server.stop();
    let data = server.data_dir();
    let offline = ["proof", "verify", "-o", "json", "--data-dir", data.to_str().unwrap()];
    let said = server.ctl(&offline).exits(10).json();
    assert_eq!(
        (&said["fault"]["seq"], &said["fault"]["reason"]),
        (&3.into(), &"LINES_DIFFER".into())
    );
    std::fs::remove_dir_all(&log).unwrap();
    let said = server.ctl(&offline).exits(10).json();
    assert_eq!(
        (&said["fault"]["seq"], &said["fault"]["reason"]),
        (&1.into(), &"LINES_DIFFER".into())
    );
    server.up();
    let newest = server.records().head().to_string();
    server.ctl(&["proof", "checkpoint", "--min-size", &newest]).ok();
    server.ctl(&["proof", "verify"]).ok();
    server.stop();
    server.ctl(&offline).ok();
}

#[test]
fn a_prune_that_makes_no_sense_or_is_not_theirs_to_ask_for_changes_nothing() {
    let server = Server::quick();
    let words = |before: &'static str| {
        ["proof", "prune", "--before", before, "--reason", "disk", "--yes", "-o", "json"]
    };
    for bad in ["0", "-1", "many", "1.5", "", "18446744073709551616"] {
        server.ctl(&words(bad)).exits(2).says(&["--before"]);
    }
    server.ctl(&["proof", "prune", "--before", "300", "--yes"]).exits(2).says(&["--reason"]);
    server.ctl(&["proof", "prune", "--reason", "disk", "--yes"]).exits(2).says(&["--before"]);
    let unasked = ["proof", "prune", "--before", "300", "--reason", "disk"];
    server.ctl(&unasked).exits(2).says(&["#300", "--yes"]);
    let empty = ["proof", "prune", "--before", "300", "--reason", "", "--yes", "-o", "json"];
    let error = server.ctl(&empty).exits(2).error();
    assert_eq!(error["violations"][0]["field"], "reason", "{error:#}");

    let newest = kept(&server)["newest_seq"].as_u64().unwrap();
    for ahead in ["100000", "18446744073709551615"] {
        let error = server.ctl(&words(ahead)).exits(5).error();
        assert_eq!(error["reason"], "NOT_PRUNABLE");
        assert!(error["message"].as_str().unwrap().contains("the newest record is "), "{error:#}");
    }
    let error = server.ctl(&words("2")).exits(5).error();
    assert!(error["message"].as_str().unwrap().contains("no whole bundle of 256"), "{error:#}");

    for who in ["viewer", "monitor", "operator", "approver"] {
        let error = server.ctl_as(who, &words("300")).exits(4).error();
        assert_eq!(error["reason"], "ROLE_REQUIRED", "{who}: {error:#}");
    }
    server.ctl_as("viewer", &["proof", "status"]).ok();
    let tiles = server.dir().join("of-a-viewer");
    let record = ["proof", "export", "--format", "tiles", "--file", tiles.to_str().unwrap()];
    let error = server.ctl_as("viewer", &[&record[..], &["--record", "-o", "json"]].concat());
    assert_eq!(error.exits(4).error()["reason"], "ROLE_REQUIRED");
    server.ctl(&["proof", "export", "--record"]).exits(2).says(&["--format tiles"]);

    let (records, now) = (server.records(), kept(&server));
    assert_eq!((records.count("LOG_PRUNED"), records.count("LOG_EXPORTED")), (0, 0));
    assert_eq!((&now["oldest_seq"], &now["exported_upto"]), (&1.into(), &0.into()), "{now:#}");
    assert!(now["newest_seq"].as_u64() >= Some(newest), "{now:#}");
}
