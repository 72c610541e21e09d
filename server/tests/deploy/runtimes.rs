//! Every runtime for real, as far as its tools are on the machine: fetched, built, started, crashed and healed.

use std::os::unix::fs::MetadataExt as _;

use agentd_core::action::Action;
use agentd_core::app::Probe;
use agentd_core::state::Outcome;
use rustix::process::{Pid, Signal, kill_process};

use super::git;
use super::server::Server;
use super::tools;

const PYTHON: &str = "\
import http.server, os, socket
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(('python %d' % os.getuid()).encode())
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('', 0), H, bind_and_activate=False)
s.socket = socket.socket(fileno=3)
s.serve_forever()
";

const NODE: &str = "\
const uid = process.getuid();
require('http').createServer((q, r) => r.end(`node ${uid}`)).listen({ fd: 3 });
";

const GO: &str = "\
package main

import (
\t\"fmt\"
\t\"net\"
\t\"os\"
)

func main() {
\tlistener, err := net.FileListener(os.NewFile(3, \"listener\"))
\tif err != nil {
\t\tpanic(err)
\t}
\tbody := fmt.Sprintf(\"go %d\", os.Getuid())
\tfor {
\t\tc, err := listener.Accept()
\t\tif err != nil {
\t\t\tcontinue
\t\t}
\t\tc.Read(make([]byte, 4096))
\t\tfmt.Fprintf(c, \"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\nconnection: close\\r\\n\\r\\n%s\", len(body), body)
\t\tc.Close()
\t}
}
";

const RUST: &str = "\
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::fs::MetadataExt;

fn main() {
    let listener = unsafe { std::net::TcpListener::from_raw_fd(3) };
    let body = format!(\"rust {}\", std::fs::metadata(\"/proc/self\").unwrap().uid());
    for mut caller in listener.incoming().flatten() {
        let _ = caller.read(&mut [0; 4096]);
        let head = format!(\"content-length: {}\\r\\nconnection: close\", body.len());
        let _ = write!(caller, \"HTTP/1.1 200 OK\\r\\n{head}\\r\\n\\r\\n{body}\");
    }
}
";

const JAVA: &str = "\
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;

public class Main {
    public static void main(String[] args) throws Exception {
        String[] at = System.getenv(\"ADDRESS\").split(\":\");
        byte[] body = (\"java \" + Files.getAttribute(Path.of(\"/proc/self\"), \"unix:uid\")).getBytes();
        HttpServer server = HttpServer.create(new InetSocketAddress(at[0], Integer.parseInt(at[1])), 0);
        server.createContext(\"/\", exchange -> {
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
";

/// Deploys an app of one runtime, checks that it answers as the user it should be, and that its crash is healed.
async fn deployed(runtime: &str, tools: &[&str], files: &[(&str, &str)]) {
    if tools.iter().all(|tool| git::is_there(tool)) {
        let server = Server::start().await;
        server.git.commit("web", files);
        heals(&server, runtime).await;
    }
}

/// As [`deployed`], of what is in the repository of a server.
async fn heals(server: &Server, runtime: &str) {
    let mut request = server.request("web", runtime);
    if runtime == "java" {
        // It has no way to a socket that it is handed, so it listens by itself.
        let address = request.listen.take().unwrap();
        let probe = Probe::Http { url: format!("http://{address}/") };
        request.health.as_mut().unwrap().probe = probe;
        request.environment.insert("ADDRESS".to_owned(), address);
    }
    assert!(server.deploy(request, false).await);
    server.wait_concluded(Action::Deploy, Outcome::Verified, 1).await;
    let is_root = rustix::process::geteuid().is_root();
    let release = server.releases("web").join(server.current("web").unwrap());
    let sealed = std::fs::metadata(&release).unwrap();
    assert_eq!(sealed.mode() & 0o7777, 0o550, "nobody writes to a release");
    let fence = |state: agentd_core::state::AppState| state.instances[&0].fence.clone().unwrap();
    let before = fence(server.state("web").await);
    let owner = std::fs::metadata(format!("/proc/{}", before.pid)).unwrap().uid();
    if is_root {
        assert_eq!(sealed.uid(), 0);
        assert_eq!(
            owner,
            sealed.gid(),
            "it runs as the user that may read the release, and no other"
        );
        assert!(owner > 1_000);
    }
    if runtime != "static" {
        server.wait_answer(&format!("{} {owner}", runtime.trim_end_matches("js"))).await;
    }
    kill_process(Pid::from_raw(before.pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    server.wait_concluded(Action::Restart, Outcome::Verified, 1).await;
    assert_ne!(fence(server.state("web").await), before);
    if runtime == "static" {
        assert_eq!(server.get("/").as_deref(), Some("hello"));
        assert_eq!(server.get("/css/a.css").as_deref(), Some("a {}"));
        for gone in ["/.hidden", "/../../../proof", "/nothing"] {
            assert_eq!(server.get(gone), None, "{gone}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_app() {
    deployed("python", &["git", "python3"], &[("main.py", PYTHON)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_app_with_a_package_of_its_own() {
    // A package with a build of its own, and nothing to download.
    let backend = "\
import os, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = 'said-1-py3-none-any.whl'
    with zipfile.ZipFile(os.path.join(directory, name), 'w') as wheel:
        wheel.writestr('said.py', 'WORD = \"python\"\\n')
        wheel.writestr('said-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: said\\nVersion: 1\\n')
        wheel.writestr('said-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
        wheel.writestr('said-1.dist-info/RECORD', '')
    return name
";
    let project =
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    let main = format!("import said\nassert said.WORD == 'python'\n{PYTHON}");
    let files = [
        ("main.py", main.as_str()),
        ("requirements.txt", "./said\n"),
        ("said/pyproject.toml", project),
        ("said/backend.py", backend),
    ];
    deployed("python", &["git", "python3", "pip3"], &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_app() {
    let package = "{\"name\": \"web\", \"main\": \"server.js\"}\n";
    let files = [("package.json", package), ("server.js", NODE)];
    deployed("nodejs", &["git", "node"], &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_app_with_a_package_of_its_own() {
    let package = "{\"name\": \"web\", \"version\": \"1.0.0\", \"main\": \"server.js\", \
                   \"dependencies\": {\"said\": \"file:said\"}}\n";
    let lock = "{\"name\": \"web\", \"version\": \"1.0.0\", \"lockfileVersion\": 3, \"requires\": true, \
                \"packages\": {\"\": {\"name\": \"web\", \"version\": \"1.0.0\", \
                \"dependencies\": {\"said\": \"file:said\"}}, \
                \"node_modules/said\": {\"resolved\": \"said\", \"link\": true}, \
                \"said\": {\"version\": \"1.0.0\"}}}\n";
    let main = format!("if (require('said') !== 'node') throw 1;\n{NODE}");
    let files = [
        ("package.json", package),
        ("package-lock.json", lock),
        ("server.js", main.as_str()),
        (
            "said/package.json",
            "{\"name\": \"said\", \"version\": \"1.0.0\", \"main\": \"index.js\"}\n",
        ),
        ("said/index.js", "module.exports = 'node';\n"),
    ];
    deployed("nodejs", &["git", "node", "npm"], &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_app() {
    let files = [("go.mod", "module example.com/web\n\ngo 1.20\n"), ("main.go", GO)];
    deployed("go", &["git", "go"], &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_app() {
    if !["git", "cc"].iter().all(|tool| git::is_there(tool)) {
        return;
    }
    let place = tools::open_directory();
    let Some(path) = tools::rust(place.path()) else { return };
    let manifest = "[package]\nname = \"web\"\nversion = \"1.0.0\"\nedition = \"2021\"\n";
    let lock = "version = 3\n\n[[package]]\nname = \"web\"\nversion = \"1.0.0\"\n";
    let files = [("Cargo.toml", manifest), ("Cargo.lock", lock), ("src/main.rs", RUST)];
    let more = format!("{}:/usr/bin:/bin", path.display());
    let server = Server::with(|policy| policy.sandbox.path = more).await;
    server.git.commit("web", &files);
    heals(&server, "rust").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_app_that_maven_builds() {
    if !["git", "java", "javac", "mvn"].iter().all(|tool| git::is_there(tool)) {
        return;
    }
    let place = tools::open_directory();
    let Some(repository) = tools::maven(place.path()) else { return };
    let pom = tools::pom(&repository);
    let files = [("pom.xml", pom.as_str()), ("src/main/java/Main.java", JAVA)];
    let server = Server::start().await;
    server.git.commit("web", &files);
    heals(&server, "java").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_app_that_is_built_already() {
    if !["git", "java", "javac", "jar"].iter().all(|tool| git::is_there(tool)) {
        return;
    }
    let server = Server::start().await;
    server.git.commit("web", &[("Main.java", JAVA)]);
    tools::jar(&server.git.tree("web"));
    server.git.commit_all("web");
    heals(&server, "java").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_as_it_is() {
    let program = format!("#!/usr/bin/python3\n{}", PYTHON.replace("python %d", "binary %d"));
    deployed("binary", &["git", "python3"], &[("app*", &program)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_files() {
    let files = [("index.html", "hello\n"), ("css/a.css", "a {}\n"), (".hidden", "no\n")];
    deployed("static", &["git"], &files).await;
}
