//! Servers of others that the same signals could be sent to: each a process of its own on loopback, with a directory of its own and
//! what it says in a file there. One that is not at hand is not an error.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bed;

/// Longest time from the start of a peer to its first answer.
const START_MAX: Duration = Duration::from_secs(60);

/// A peer that takes signals.
pub(crate) struct Peer {
    /// What it is, with its version as far as it tells.
    pub(crate) name: String,
    pub(crate) address: String,
    /// What it counts of what it was sent, if it does: the beginning of the line of its own metrics.
    counter: Option<&'static str>,
    child: Child,
    _dir: TempDir,
}

/// It could not be had: what it is, and how to get it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Absent {
    pub(crate) name: &'static str,
    pub(crate) how: &'static str,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// Takes remote write, and keeps what it took.
    pub(crate) fn prometheus() -> Result<Self, Absent> {
        let absent = Absent { name: "Prometheus", how: "apt-get install prometheus" };
        let dir = tempfile::tempdir().unwrap();
        // Nothing to scrape and no rule: it only takes what it is sent.
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, "").unwrap();
        let address = free();
        let mut command = Command::new("prometheus");
        command
            .arg("--web.enable-remote-write-receiver")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let mut peer = Self::start(absent, command, address, dir)?;
        peer.counter = Some("prometheus_tsdb_head_samples_appended_total");
        Ok(peer.until(|address| page(address, "/-/ready").is_ok()))
    }

    /// Takes remote write, and keeps what it took.
    pub(crate) fn victoria_metrics() -> Result<Self, Absent> {
        let absent = Absent { name: "VictoriaMetrics", how: "apt-get install victoria-metrics" };
        let (dir, address) = (tempfile::tempdir().unwrap(), free());
        let mut command = Command::new("victoria-metrics");
        command
            .arg(format!("-storageDataPath={}", dir.path().join("data").display()))
            .arg(format!("-httpListenAddr={address}"));
        let mut peer = Self::start(absent, command, address, dir)?;
        peer.counter = Some("vm_rows_inserted_total{type=\"promremotewrite\"}");
        Ok(peer.until(|address| page(address, "/-/ready").is_ok()))
    }

    /// Takes OTLP, and throws it away after it went through a pipeline: no batching, no metrics of its own, no way out.
    pub(crate) fn collector() -> Result<Self, Absent> {
        let absent = Absent {
            name: "OpenTelemetry Collector",
            how: "Go (go.dev/dl) builds it from clients/stories/collector",
        };
        let (dir, address) = (tempfile::tempdir().unwrap(), free());
        let program = dir.path().join("collector");
        let mut build = Command::new("go");
        build.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".");
        build.current_dir(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/stories/collector"),
        );
        if !build.status().is_ok_and(|built| built.success()) {
            return Err(absent);
        }
        let config = dir.path().join("collector.yaml");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"{address}\"}}}}}}}}\n\
             exporters: {{nop: {{}}}}\n\
             service: {{pipelines: {{metrics: {{receivers: [otlp], exporters: [nop]}}}}}}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("--config").arg(config);
        let peer = Self::start(absent, command, address, dir)?;
        Ok(peer.until(|address| TcpStream::connect(address).is_ok()))
    }

    fn start(
        absent: Absent,
        mut command: Command,
        address: String,
        dir: TempDir,
    ) -> Result<Self, Absent> {
        let said = File::create(dir.path().join("said")).unwrap();
        command.stdout(Stdio::null()).stderr(said);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent),
            Err(error) => panic!("{}: {error}", absent.name),
        };
        let version = version(Path::new(command.get_program())).unwrap_or_default();
        let name = format!("{} {version}", absent.name).trim_end().to_owned();
        Ok(Self { name, address, counter: None, child, _dir: dir })
    }

    /// Waits until it answers.
    fn until(mut self, answers: impl Fn(&str) -> bool) -> Self {
        let deadline = Instant::now() + START_MAX;
        while !answers(&self.address) {
            let ended = self.child.try_wait().unwrap().is_some();
            if ended || Instant::now() > deadline {
                let said = fs::read_to_string(self._dir.path().join("said")).unwrap_or_default();
                panic!("{} does not start: {said}", self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self
    }

    /// Processor time it used so far, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        bed::cpu_ns(self.child.id())
    }

    /// Samples it says it took; `None` if it counts none.
    pub(crate) fn took(&self) -> Option<u64> {
        let counter = self.counter?;
        let page = page(&self.address, "/metrics").unwrap();
        let lines = page.lines().filter(|line| line.starts_with(counter));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Some(values.sum::<f64>() as u64)
    }
}

/// An address of loopback that nobody has.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The version a program tells, as far as it tells one.
fn version(program: &Path) -> Option<String> {
    let told = Command::new(program).arg("--version").output().ok()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    told.split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(Into::into)
}

/// What a peer answers to a question; an error if it is not that it is well.
fn page(address: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let well = answer.split_whitespace().nth(1) == Some("200");
    if well { Ok(answer) } else { Err(io::Error::other(answer)) }
}
