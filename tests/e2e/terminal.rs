//! Foreign text never reaches a terminal as it is, whichever way it took.

use crate::harness::{Run, Server};

/// Escapes, a title, a clipboard write, a carriage return, a C1 byte and a change of direction.
const HOSTILE: &str = "x\u{1b}[2J\u{1b}]52;c;ZXZpbA==\u{7}\r\u{9b}31m\u{202e}y\u{2066}";

/// What a terminal would act on, decided here without the product's own idea of it.
fn hostile(text: &str) -> Option<char> {
    text.chars().find(|c| {
        let code = u32::from(*c);
        (code < 0x20 && *c != '\n' && *c != '\t')
            || (0x7f..=0x9f).contains(&code)
            || (0x200e..=0x200f).contains(&code)
            || (0x202a..=0x202e).contains(&code)
            || (0x2066..=0x2069).contains(&code)
    })
}

fn check(run: &Run) {
    for (stream, text) in [("stdout", &run.stdout), ("stderr", &run.stderr)] {
        if let Some(c) = hostile(text) {
            panic!("{stream} of `{}` holds {c:?}: {text:?}", run.command.escape_debug());
        }
    }
}

#[test]
fn reasons_are_shown_and_not_obeyed() {
    let server = Server::quick();
    let app = server.onboard("web");
    // Whether such a reason is accepted or refused: it must not come out raw anywhere.
    for words in [
        &["pause", "--app", "web", "--reason", HOSTILE][..],
        &["freeze", "--reason", HOSTILE],
        &["act", "web", "restart", "--reason", HOSTILE],
        &["act", "web", HOSTILE, "--reason", "x"],
        &["act", HOSTILE, "restart", "--reason", "x"],
        &["explain", HOSTILE],
        &["status", HOSTILE],
        &["approve", HOSTILE, "--reason", HOSTILE, "--yes"],
        &["watch", HOSTILE, "--until", "1", "--timeout", "1s"],
        &["signal", "send", HOSTILE, "--cpu", "0.5"],
        &["signal", "send", "web", "--cpu", "0.5", "--monitor-id", HOSTILE],
        &["onboard", HOSTILE, "--runtime", HOSTILE, "--repo", HOSTILE],
        &["onboard", "shop", "--runtime", "rust", "--exec", HOSTILE],
        &["onboard", "shop", "--runtime", "rust", "--exec", "/bin/true", "--label", HOSTILE],
    ] {
        check(&server.ctl(words));
        let json: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
        check(&server.ctl(&json));
    }
    drop(app);
    for words in [
        &["status"][..],
        &["status", "web"],
        &["explain", "--last", "web"],
        &["decision", "list"],
        &["pause", "report"],
        &["proof", "tail", "--no-follow", "-n", "500"],
        &["proof", "list", "--limit", "500"],
        &["watch", "--since", "0", "--all", "--until", "2", "--timeout", "20s"],
        &["approval", "list", "--all"],
    ] {
        for format in ["table", "json", "jsonl", "yaml"] {
            let all: Vec<&str> = words.iter().copied().chain(["-o", format]).collect();
            check(&server.ctl(&all));
        }
    }
    check(&server.ctl(&["proof", "export"]));
    let log = server.log();
    assert_eq!(hostile(&log), None, "nor into the log of the server: {log:?}");
}

#[test]
fn a_command_line_that_cannot_be_read_is_shown_and_not_obeyed() {
    let server = Server::quick();
    for words in [
        &["proof", "tail", "--since", HOSTILE][..],
        &["watch", "--tail", HOSTILE],
        &["status", "--output", HOSTILE],
        &[HOSTILE],
    ] {
        check(&server.ctl(words).exits(2));
    }
}

#[test]
fn arguments_that_would_deceive_are_refused_and_shown_harmless() {
    let server = Server::quick();
    let words = ["onboard", "web", "--runtime", "rust", "--exec", "/bin/true", HOSTILE];
    let run = server.ctl(&words).exits(2);
    check(&run);
    run.says(&["exec.args[0]"]);
    assert_eq!(server.records().count("SPEC_GENERATED"), 0);
}
