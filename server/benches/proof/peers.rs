//! What else one could write a record to, on the same disk in the same run, as fast as each of them goes. What is not at hand is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Entries per second of 64 writers, each waiting for its own; `None` if it is not at hand.
pub(crate) type Rate = Option<f64>;

/// SQLite, each row a transaction of its own: `journal_mode=WAL`, `synchronous=FULL`. The writers share one connection: with one each
/// they wait for its lock, which is slower.
pub(crate) fn sqlite(dir: &Path, writers: usize, bytes: usize) -> Rate {
    const ROWS: usize = 4_000;
    let connection = rusqlite::Connection::open(dir.join("peer.db")).unwrap();
    let mode: String =
        connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    connection.execute_batch("PRAGMA synchronous=FULL; CREATE TABLE log(line BLOB)").unwrap();
    let (connection, next, line) = (Mutex::new(connection), AtomicUsize::new(0), vec![b'x'; bytes]);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < ROWS {
                    let connection = connection.lock().unwrap();
                    let mut insert =
                        connection.prepare_cached("INSERT INTO log VALUES (?1)").unwrap();
                    insert.execute([&line]).unwrap();
                }
            });
        }
    });
    Some(ROWS as f64 / began.elapsed().as_secs_f64())
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Redis, `XADD` with `appendfsync always`, driven by its own benchmark over a local socket.
pub(crate) fn redis(dir: &Path, writers: usize, bytes: usize) -> Rate {
    let dir = dir.join("redis");
    fs::create_dir(&dir).unwrap();
    let socket = dir.join("r.sock");
    let mut server = Command::new("redis-server");
    server.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    server.arg("--dir").arg(&dir).arg("--unixsocket").arg(&socket).stdout(Stdio::null());
    let _server = Server(server.spawn().ok()?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "redis-server does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (clients, line) = (writers.to_string(), "x".repeat(bytes));
    let mut bench = Command::new("redis-benchmark");
    bench.arg("-s").arg(&socket).args(["-c", &clients, "-n", "60000", "--csv"]);
    let said = bench.args(["XADD", "log", "*", "line", &line]).output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // "XADD log * line xxx","34567.12","1.7",...
    let rate = said.lines().find(|line| line.starts_with("\"XADD"))?.split("\",\"").nth(1)?;
    rate.trim_matches('"').parse().ok()
}

/// Tessera's log on a POSIX file system: with the batches it makes by itself, or made as soon as all writers wait.
pub(crate) struct Tessera(PathBuf);

impl Tessera {
    /// Builds it with Go.
    pub(crate) fn build(dir: &Path) -> Option<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/proof/tessera");
        let build = dir.join("tessera-build");
        fs::create_dir(&build).unwrap();
        for name in ["go.mod", "main.go"] {
            fs::copy(source.join(name), build.join(name)).unwrap();
        }
        let mut go = Command::new("go");
        go.args(["build", "-o", "bench", "."]).current_dir(&build).env("GOFLAGS", "-mod=mod");
        let built = go.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?.success();
        built.then(|| Self(build.join("bench")))
    }

    pub(crate) fn rate(&self, dir: &Path, batch: Option<(usize, u64)>, load: [usize; 3]) -> Rate {
        let mut bench = Command::new(&self.0);
        bench.arg(dir).args(load.map(|n| n.to_string()));
        if let Some((size, millis)) = batch {
            bench.args([size.to_string(), millis.to_string()]);
        }
        let said = bench.stderr(Stdio::null()).output().ok()?;
        String::from_utf8_lossy(&said.stdout).trim().parse().ok()
    }
}
