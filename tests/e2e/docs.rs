//! Every console block of every document is run, line by line, against a real server: what a reader types works.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use agentd_core::action::{Action, Level};

use crate::harness::{AGENTCTL, App, Options, Run, Server, deadline};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Markdown file of the project.
fn documents() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            // What stands in `clients` is typed by the stories there, with the tools of each language.
            if ["target", ".git", "node_modules", "clients"].iter().any(|skip| name == *skip) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    found
}

/// The commands of the console blocks of a text, in words; what stands behind `#` is for people.
fn commands(text: &str) -> Vec<Vec<String>> {
    let blocks = text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ "));
    lines
        .flat_map(|line| line.split("  #").next().unwrap_or_default().split(" && "))
        .map(words)
        .collect()
}

/// Words as a shell would take them, quotes included.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()));
            }
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|w| !w.is_empty()));
    words
}

/// A reader at a keyboard: what in a document stands for something of theirs is replaced by something of this test.
struct Reader {
    server: Server,
    app: App,
}

impl Reader {
    fn new() -> Self {
        let server = Server::start(Options::with(|policy| {
            policy.levels.insert(Action::Restart, Level::Propose);
        }));
        let app = App { name: "my-api".to_owned(), address: server.app_address(8080) };
        // The label marks the process as one of this test.
        let program = server.dir().join("my-api");
        let mark = server.dir().display();
        let text = format!("#!/bin/sh\nexec {AGENTCTL} demo-app --version-label {mark}\n");
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let rules = toml::to_string(server.options.policy.as_ref().unwrap()).unwrap();
        std::fs::write(server.dir().join("stage.toml"), rules).unwrap();
        Self { server, app }
    }

    /// A decision there is.
    fn decision(&self) -> String {
        let list = self.server.ctl(&["decision", "list", "-o", "json"]).ok().json();
        list[0]["id"].as_str().unwrap().to_owned()
    }

    /// The plan that waits for an answer: the app was killed, and the agent may not restart it alone.
    fn approval(&self) -> String {
        let pending = || {
            let list = self.server.ctl(&["approval", "list", "-o", "json"]).ok().json();
            list.get(0).and_then(|approval| approval["id"].as_str().map(str::to_owned))
        };
        pending().unwrap_or_else(|| {
            // Before that its end would be one of the deployment.
            self.server.wait_verified(&self.app, 0);
            self.app.kill9();
            self.server.wait("an approval to answer", pending)
        })
    }

    fn type_in(&self, document: &str, words: &[String]) {
        let words: Vec<String> = words
            .iter()
            .map(|word| match word.as_str() {
                "/srv/my-api" => self.server.dir().join("my-api").display().to_string(),
                "127.0.0.1:8080" => self.app.address.clone(),
                "apr-42" => self.approval(),
                "dec-77" => self.decision(),
                "1077" => "3".to_owned(),
                other => other.to_owned(),
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        println!("{document}: {words:?}");
        match words.as_slice() {
            // What these two run is run by the gate, and the demonstration has a test of its own.
            ["cargo", "test", rest @ ..] => {
                let gate = std::fs::read_to_string(root().join(".ci/run")).unwrap();
                let line = format!("\ncargo test {}\n", rest.join(" "));
                assert!(
                    gate.contains(&line),
                    "{document}: the gate does not run `{}`",
                    line.trim()
                );
            }
            ["cargo", "run", "--release", "-p", "agentctl", "--", rest @ ..] => {
                let mut command = self.server.program();
                command.args(rest).arg("--help");
                Run::of(command).ok();
            }
            // The server runs already; this one only says how it would be.
            ["agentctl", "up", rest @ ..] => {
                let mut command = self.server.program();
                command.arg("up").args(rest);
                if !rest.contains(&"--dump-config") {
                    command.arg("--dump-config");
                }
                let run = Run::of(command).ok();
                assert!(run.stdout.contains("env = \"stage\""), "{run:#?}");
            }
            // It goes on until the reader has seen enough.
            ["agentctl", "watch", rest @ ..] => {
                let words = [&["watch", "--since", "0"], rest].concat();
                let mut watch = self.server.follow(&words);
                assert!(watch.line(deadline()).is_some(), "{document}: it says something");
            }
            // A person is asked whether they mean it, and says yes.
            ["agentctl", rest @ ..]
                if matches!(
                    rest,
                    ["approve", ..] | ["app", "offboard", ..] | ["policy", "apply", ..]
                ) =>
            {
                drop(self.server.ctl(&[rest, &["--yes"]].concat()).ok());
            }
            ["agentctl", rest @ ..] => drop(self.server.ctl(rest).ok()),
            other => panic!("{document}: nobody knows how to run {other:?}"),
        }
    }
}

#[test]
fn every_console_block_can_be_typed() {
    let reader = Reader::new();
    let mut typed = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let name = document.file_name().unwrap().to_string_lossy().into_owned();
        for words in commands(&text) {
            reader.type_in(&name, &words);
            typed += 1;
        }
        // A block that this test does not see is a block that nobody has tried.
        let shell = ["```sh", "```bash", "```shell"].iter().any(|fence| text.contains(fence));
        assert!(!shell, "{name}: write it as a console block");
    }
    assert!(typed >= 12, "only {typed} commands were found");
}

#[test]
fn a_line_is_taken_apart_as_a_shell_would() {
    let text = "```console\n$ agentctl a --reason \"b  c\" && agentctl d    # e\noutput\n```\n";
    assert_eq!(commands(text), [vec!["agentctl", "a", "--reason", "b  c"], vec!["agentctl", "d"]]);
}
