//! The proof log: whoever holds a copy can check it without the server, and whoever alters it is found out.

use std::path::{Path, PathBuf};

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Server, event, seq};

/// A server with a crash behind it, and its log as a file.
fn exported() -> (Server, PathBuf) {
    let server = Server::quick();
    let app = server.onboard("web");
    server.crash_and_heal(&app);
    let file = server.dir().join("log.jsonl");
    server.ctl(&["proof", "export", "--file", file.to_str().unwrap()]).ok();
    (server, file)
}

/// What `proof verify` says about a file, offline.
fn verify(server: &Server, lines: &[String]) -> (i32, serde_json::Value) {
    let file = server.dir().join("edited.jsonl");
    let mut text = lines.join("\n");
    text.push('\n');
    std::fs::write(&file, text).unwrap();
    let mut command = server.program();
    command.args(["proof", "verify", "--replay", "-o", "json"]).arg(&file);
    let run = crate::harness::Run::of(command);
    (run.code, run.json())
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_sound_log_verifies_at_the_server_on_disk_and_in_a_copy() {
    let (mut server, file) = exported();
    let live = server.ctl(&["proof", "verify", "--replay", "-o", "json"]).ok().json();
    assert_eq!(live["valid"], true, "{live:#}");
    assert!(live["decisions_rechecked"].as_u64() >= Some(2), "{live:#}");
    assert_eq!(live["decisions_different"], 0);
    let (code, copy) = verify(&server, &lines(&file));
    assert_eq!((code, &copy["valid"]), (0, &true.into()), "{copy:#}");
    assert_eq!(copy["decisions_rechecked"], live["decisions_rechecked"]);
    server.stop();
    let data = server.data_dir();
    let mut command = server.program();
    command.args(["proof", "verify", "--replay", "-o", "json", "--data-dir"]).arg(&data);
    let disk = crate::harness::Run::of(command).ok().json();
    assert!(disk["entry_count"].as_u64() > copy["entry_count"].as_u64(), "it went on: {disk:#}");
    assert_eq!(disk["decisions_different"], 0);
}

#[test]
fn an_edited_index_forges_nothing_and_is_named_where_it_differs() {
    let (mut server, _) = exported();
    let of_web = ["proof", "list", "--app", "web", "--limit", "1000", "--select", "seq"];
    let sound = server.ctl(&of_web).ok().stdout;
    let edit = |sql: &str| {
        let index = server.data_dir().join("proof/index.db");
        rusqlite::Connection::open(index).unwrap().execute_batch(sql).unwrap();
    };
    edit("UPDATE entry SET app = NULL, event = 1");
    let listed = server.ctl(&of_web).ok().stdout;
    assert!(listed.starts_with(&sound), "nothing is lost, nothing is made up: {listed}");
    let said = server.ctl(&["proof", "verify", "--index", "-o", "json"]).ok().json();
    assert_eq!(said["valid"], true, "it was thrown away and is made anew: {said:#}");

    server.wait("an index that is whole again", || {
        let said = server.ctl(&["proof", "verify", "--index", "-o", "json"]).ok().json();
        (said["index_checked"].as_u64() > Some(10)).then_some(())
    });
    assert_eq!(server.stop(), 0);
    let data = server.data_dir();
    let offline =
        ["proof", "verify", "--index", "-o", "json", "--data-dir", data.to_str().unwrap()];
    assert_eq!(server.ctl(&offline).ok().json()["valid"], true);
    let index = data.join("proof/index.db");
    let change = "UPDATE entry SET reason = 1 WHERE seq = 7; DELETE FROM entry WHERE seq = 9";
    rusqlite::Connection::open(&index).unwrap().execute_batch(change).unwrap();
    let fault = &server.ctl(&offline).exits(10).json()["fault"];
    assert_eq!((&fault["seq"], &fault["reason"]), (&7.into(), &"INDEX_DIFFERS".into()));
    std::fs::remove_file(index).unwrap();
    server.ctl(&offline).exits(1);
    server.ctl(&["proof", "verify", "--index", "--server"]).exits(2);
}

#[test]
fn every_edit_of_a_copy_is_named_by_its_first_bad_entry() {
    let (server, file) = exported();
    let sound = lines(&file);
    let at = sound.len() / 2;
    let first_bad = |edited: &[String]| {
        let (code, said) = verify(&server, edited);
        assert_eq!((code, &said["valid"]), (10, &false.into()), "{said:#}");
        said["fault"]["seq"].as_u64().unwrap()
    };
    let number = at as u64 + 1;

    let mut edited = sound.clone();
    edited[at] = edited[at].replacen("\"actor\":\"", "\"actor\":\"x", 1);
    assert_ne!(edited[at], sound[at]);
    // The line itself still reads well: the one behind it no longer fits.
    assert!((number..=number + 1).contains(&first_bad(&edited)), "edited");

    let mut deleted = sound.clone();
    deleted.remove(at);
    assert_eq!(first_bad(&deleted), number, "deleted");

    let mut swapped = sound.clone();
    swapped.swap(at, at + 1);
    assert_eq!(first_bad(&swapped), number, "reordered");

    let mut doubled = sound.clone();
    doubled.insert(at, sound[at - 1].clone());
    assert_eq!(first_bad(&doubled), number, "replayed");

    let mut garbled = sound;
    garbled[at] = "{\"seq\":".to_owned();
    assert_eq!(first_bad(&garbled), number, "garbled");

    let mut command = server.program();
    command.args(["proof", "verify"]).arg(server.dir().join("edited.jsonl"));
    let page = crate::harness::Run::of(command).exits(10).stdout;
    assert!(page.contains(&format!("entry #{number}")), "{page}");
}

#[test]
fn a_decision_that_does_not_follow_from_its_evidence_is_found() {
    use agentd_core::chain::{GENESIS, leaf_hash};
    let (server, file) = exported();
    let mut prev = GENESIS;
    let mut forged = Vec::new();
    // Everything is hashed again, so the chain itself is sound; what is forged is the ruling.
    for line in lines(&file) {
        let mut record = agentd_core::record::Record::parse(line.as_bytes()).unwrap();
        if let agentd_core::record::Body::Decided(decided) = &mut record.body
            && decided.proposal.action == agentd_core::action::Action::Restart
        {
            decided.proposal.confidence = 999;
        }
        let line = record.line(prev);
        prev = leaf_hash(&line);
        forged.push(String::from_utf8(line).unwrap());
    }
    let (code, said) = verify(&server, &forged);
    assert_eq!((code, &said["fault"]["reason"]), (10, &"REPLAY_DIFFERS".into()), "{said:#}");
}

fn health(server: &Server, service: &str) -> Option<ServingStatus> {
    let address = format!("http://{}", server.address());
    let service = service.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel =
            tonic::transport::Endpoint::from_shared(address).ok()?.connect().await.ok()?;
        let mut client = HealthClient::new(channel);
        let answer = client.check(HealthCheckRequest { service }).await.ok()?;
        ServingStatus::try_from(answer.into_inner().status).ok()
    })
}

const AGENT: &str = "agentctl.v1.AgentService";

#[test]
fn a_byte_flipped_on_disk_stops_every_act_and_no_read() {
    let (mut server, _) = exported();
    assert_eq!(health(&server, AGENT), Some(ServingStatus::Serving));
    let records = server.records();
    let victim = records.of("ORCH_EXEC").next().map(seq).unwrap();
    assert_eq!(server.stop(), 0);

    let wal = server.data_dir().join("proof/wal");
    let mut found = 0;
    for entry in std::fs::read_dir(wal).unwrap().flatten() {
        let mut bytes = std::fs::read(entry.path()).unwrap();
        let mark = format!("\"seq\":{victim},");
        if let Some(at) = bytes.windows(mark.len()).position(|part| part == mark.as_bytes()) {
            bytes[at + mark.len() + 3] ^= 0x20;
            std::fs::write(entry.path(), bytes).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1);

    server.up();
    let status = server.status();
    assert_eq!(status["journal"]["state"], "damaged", "{status:#}");
    assert!(
        status["journal"]["detail"].as_str().unwrap().contains(&victim.to_string()),
        "{status:#}"
    );
    assert_eq!(health(&server, AGENT), Some(ServingStatus::NotServing));
    assert_eq!(health(&server, ""), Some(ServingStatus::Serving), "queries go on");

    let list = server.ctl(&["proof", "list", "--limit", "5", "-o", "json"]).ok().json();
    assert_eq!(list[0]["seq"], 1, "what stands before the damage can be read");
    let verified = server.ctl(&["proof", "verify", "-o", "json"]).exits(10).json();
    assert_eq!(verified["fault"]["seq"], victim, "{verified:#}");
    for act in [&["act", "web", "restart", "--reason", "x"][..], &["pause", "--reason", "x"][..]] {
        let run = server.ctl(act);
        assert_eq!(run.code, 10, "{run:#?}");
    }
    assert_eq!(server.stop(), 0, "it still stops in good order");
}

#[test]
fn a_torn_tail_is_cut_and_the_cut_is_on_record() {
    let (mut server, _) = exported();
    let head = server.records().head();
    server.kill9();
    server.tear_log();
    server.up();
    let records = server.records();
    assert_eq!(records.count("LOG_RECOVERED"), 1);
    assert!(records.head() > head, "nothing that was acknowledged is gone");
    server.ctl(&["proof", "verify", "--replay"]).ok();
}

#[test]
fn the_log_can_be_asked() {
    let (server, _) = exported();
    let words = ["proof", "list", "--event", "orch_exec", "--app", "web", "-o", "json"];
    let list = server.ctl(&words).ok().json();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2, "the deployment and the restart");
    let last = list[1]["seq"].as_u64().unwrap();
    let raw = server.ctl(&["proof", "get", &last.to_string()]).ok().json();
    assert_eq!((event(&raw), seq(&raw)), ("ORCH_EXEC", last));
    server.ctl(&["proof", "get", "99999999"]).exits(3);
    let decision = list[1]["decision_id"].as_str().unwrap();
    let about = server.ctl(&["proof", "list", "--decision", decision, "-o", "json"]).ok().json();
    assert!(about.as_array().unwrap().len() >= 4, "the chain of one decision: {about:#}");
    let some = server.ctl(&["proof", "export", "--from", "3", "--to", "7"]).ok().stdout;
    assert_eq!(some.lines().count(), 5);
}
