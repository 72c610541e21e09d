//! Repositories, and the server they are fetched from: git's own, behind as much HTTP as it needs, with the faults of the world.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Builder;

/// How the server behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Serve,
    /// Hangs up in the middle of every pack.
    HalfWay,
    /// Knows no repository any more.
    Gone,
    /// Sends everybody somewhere else.
    Redirect(String),
    /// Accepts and says nothing.
    Silent,
}

/// A git server on loopback. It ends with the test.
#[derive(Debug)]
pub(crate) struct GitServer {
    dir: tempfile::TempDir,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    manner: Mutex<Manner>,
    requests: AtomicU32,
    stopped: AtomicBool,
}

/// Whether git is there. Where it is not, whatever needs it says so and is not run, and on the machine that decides it must be.
pub(crate) fn is_there(program: &str) -> bool {
    let places = ["/usr/local/bin", "/usr/local/go/bin", "/usr/bin", "/bin"];
    let there = places.iter().any(|place| Path::new(place).join(program).is_file());
    if !there {
        let decides = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!decides, "`{program}` is part of the machine that decides");
        eprintln!("NOT RUN: there is no `{program}`");
    }
    there
}

impl GitServer {
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("agentd-git-").tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            root: dir.path().to_owned(),
            manner: Mutex::new(Manner::Serve),
            requests: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let accept = move || {
            for caller in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                let answer = move || drop(answer(&shared, &caller));
                Builder::new().spawn(answer).unwrap();
            }
        };
        Builder::new().spawn(accept).unwrap();
        Self { dir, address, shared }
    }

    /// Port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Address of a repository.
    pub(crate) fn url(&self, repo: &str) -> String {
        format!("http://{}/{repo}.git", self.address)
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u32 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Where the files of a repository lie that the next [`GitServer::commit_all`] takes.
    pub(crate) fn tree(&self, repo: &str) -> PathBuf {
        self.dir.path().join("work").join(repo)
    }

    /// Commits files, in place of all that were there. A name that ends in `*` is executable. Returns the commit.
    pub(crate) fn commit(&self, repo: &str, files: &[(&str, &str)]) -> String {
        let tree = self.tree(repo);
        if tree.exists() {
            std::fs::remove_dir_all(&tree).unwrap();
        }
        std::fs::create_dir_all(&tree).unwrap();
        for (name, content) in files {
            let (name, mode) = name.strip_suffix('*').map_or((*name, 0o644), |name| (name, 0o755));
            let path = tree.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        self.commit_all(repo)
    }

    /// Commits whatever lies in the tree.
    pub(crate) fn commit_all(&self, repo: &str) -> String {
        if !self.dir.path().join(format!("{repo}.git")).exists() {
            self.git(repo, &["init", "--quiet", "--initial-branch=main"]);
        }
        self.git(repo, &["add", "--all", "--force"]);
        self.git(repo, &["commit", "--quiet", "--allow-empty", "--message", "next"]);
        self.git(repo, &["rev-parse", "HEAD"])
    }

    /// Any git command in a repository.
    pub(crate) fn git(&self, repo: &str, words: &[&str]) -> String {
        let mut git = self.command();
        git.env("GIT_DIR", self.dir.path().join(format!("{repo}.git")));
        git.env("GIT_WORK_TREE", self.tree(repo)).current_dir(self.tree(repo));
        let out = git.args(words).output().unwrap();
        assert!(out.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn command(&self) -> Command {
        command(self.dir.path())
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

/// git, knowing nothing of whoever runs the test.
fn command(home: &Path) -> Command {
    let mut git = Command::new("git");
    git.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", home);
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "t").env(format!("GIT_{role}_EMAIL"), "t@t");
    }
    git
}

fn answer(shared: &Shared, caller: &TcpStream) -> io::Result<()> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let mut reader = BufReader::new(caller);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let [method, target, _] = words.as_slice() else { return Ok(()) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (mut length, mut variables) = (0, Vec::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "content-type" => variables.push(("CONTENT_TYPE", value.to_owned())),
            "content-encoding" => variables.push(("HTTP_CONTENT_ENCODING", value.to_owned())),
            "git-protocol" => variables.push(("GIT_PROTOCOL", value.to_owned())),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let manner = shared.manner.lock().unwrap().clone();
    let mut out = caller;
    match &manner {
        Manner::Gone => {
            return out.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
        Manner::Redirect(to) => {
            let to = format!("{to}{path}?{query}");
            return write!(out, "HTTP/1.1 301 M\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        }
        Manner::Silent => {
            // Until the other side has had enough.
            let _ = reader.read(&mut [0]);
            return Ok(());
        }
        Manner::Serve | Manner::HalfWay => {}
    }
    let mut git = command(&shared.root);
    git.arg("http-backend").env("GIT_PROJECT_ROOT", &shared.root).env("GIT_HTTP_EXPORT_ALL", "1");
    git.env("REQUEST_METHOD", method).env("PATH_INFO", path).env("QUERY_STRING", query);
    git.env("CONTENT_LENGTH", length.to_string()).envs(variables);
    let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    git.stdin.take().unwrap().write_all(&body)?;
    let cgi = git.wait_with_output()?.stdout;
    let end = cgi.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or(cgi.len());
    let (head, said) = cgi.split_at((end + 4).min(cgi.len()));
    let head = String::from_utf8_lossy(head);
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    write!(out, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n", said.len())?;
    out.write_all(head.as_bytes())?;
    let has_pack = said.windows(4).any(|word| word == b"PACK");
    if manner == Manner::HalfWay && has_pack {
        out.write_all(said.split_at(said.len() / 2).0)?;
        return caller.shutdown(Shutdown::Both);
    }
    out.write_all(said)
}
