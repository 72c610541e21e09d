//! What else one could write a record to, on the same disk in the same run, as fast as each of them goes. What is not at hand is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::table::{Goal, Table, per_second};
use super::{ENTRY_BYTES, Log, WRITERS};

/// Turns of the log and of each peer.
const ROUNDS: usize = 3;

/// Entries per second of 64 writers, each waiting for its own; `None` if it is not at hand.
type Rate = Option<f64>;

/// The same load on what else could hold it, and on the log right before. Of what each turn says, the median counts.
pub(crate) async fn run(table: &mut Table, log: &mut Log, dir: &Path) {
    let tessera = Tessera::build(dir);
    let tessera = |name: &str, batch, entries| {
        tessera.as_ref()?.rate(&dir.join(name), batch, [WRITERS, entries, ENTRY_BYTES])
    };
    let names = ["SQLite, WAL, synchronous=FULL", "Redis XADD, appendfsync always"];
    let own = "Tessera POSIX, its own 256 / 250 ms";
    let tuned = "Tessera POSIX, tuned: 64 / 5 ms";
    let goals = [Some(10.0), Some(1.5), Some(10.0), None];
    let (mut ours, mut theirs) = (Vec::new(), [const { Vec::new() }; 4]);
    for turn in 0..ROUNDS {
        let dir = dir.join(format!("turn-{turn}"));
        fs::create_dir(&dir).unwrap();
        ours.push(log.writers().await.rate());
        let rates = [
            sqlite(&dir, WRITERS, ENTRY_BYTES),
            redis(&dir, WRITERS, ENTRY_BYTES),
            tessera(&format!("turn-{turn}/own"), None, 1_000),
            tessera(&format!("turn-{turn}/tuned"), Some((WRITERS, 5)), 20_000),
        ];
        theirs.iter_mut().zip(rates).for_each(|(all, rate)| all.extend(rate));
        fs::remove_dir_all(&dir).unwrap();
    }
    let rows = names.into_iter().chain([own, tuned]).zip(goals).zip(theirs);
    for ((peer, goal), theirs) in rows {
        let what = format!("  {peer}");
        if theirs.len() < ROUNDS {
            table.absent(&what);
            continue;
        }
        let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
        let theirs = format!("theirs, {}", per_second(median(theirs.iter().copied())));
        let ours = per_second(median(ours.iter().copied()));
        match goal {
            Some(least) => table.goal(&what, &ours, (&theirs, ratio), Goal::AtLeast(least)),
            None => table.note(&what, &ours, &theirs, Some(ratio)),
        }
    }
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// SQLite, each row a transaction of its own: `journal_mode=WAL`, `synchronous=FULL`. The writers share one connection: with one each
/// they wait for its lock, which is slower.
fn sqlite(dir: &Path, writers: usize, bytes: usize) -> Rate {
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
fn redis(dir: &Path, writers: usize, bytes: usize) -> Rate {
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
struct Tessera(PathBuf);

impl Tessera {
    /// Builds it with Go.
    fn build(dir: &Path) -> Option<Self> {
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

    fn rate(&self, dir: &Path, batch: Option<(usize, u64)>, load: [usize; 3]) -> Rate {
        let mut bench = Command::new(&self.0);
        bench.arg(dir).args(load.map(|n| n.to_string()));
        if let Some((size, millis)) = batch {
            bench.args([size.to_string(), millis.to_string()]);
        }
        let said = bench.stderr(Stdio::null()).output().ok()?;
        String::from_utf8_lossy(&said.stdout).trim().parse().ok()
    }
}
