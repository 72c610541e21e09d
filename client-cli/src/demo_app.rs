//! `agentctl demo-app`: a small real server to be supervised, and to be made ill on purpose.
//!
//! HTTP/1.1 on the socket it is handed (`LISTEN_FDS`) or on one it binds itself. One thread per request, because burning CPU is
//! one of its duties; the number of threads is limited. On TERM it takes no more connections, finishes what it began and ends.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGTERM;

mod request;

use request::Request;

/// Requests at a time; more are answered with 503.
const REQUESTS_MAX: usize = 256;
/// Time a caller has to send its request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time unfinished requests have after TERM.
const DRAIN: Duration = Duration::from_secs(30);
/// Limits of what can be asked for.
const WORK_MS_MAX: u64 = 60_000;
const LEAK_MIB_MAX: u64 = 1024;

/// Arguments of `agentctl demo-app`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DemoAppArgs {
    /// Address to bind if no socket is handed over.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Version that `/info` reports.
    #[arg(long, value_name = "TEXT", default_value = "v1")]
    pub version_label: String,
    /// Wait this long before taking connections, like an app with a slow start.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub start_delay_ms: u64,
    /// Abort this long after the start, like an app in a crash loop.
    #[arg(long, value_name = "MS")]
    pub crash_after_ms: Option<u64>,
}

/// What the threads share.
#[derive(Debug)]
struct App {
    started: Instant,
    version: String,
    /// Milliseconds after `started` until which `/healthz` says 503.
    ill_until_ms: AtomicU64,
    leaked: Mutex<Vec<Vec<u8>>>,
    served: AtomicUsize,
    busy: Mutex<usize>,
    idle: Condvar,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    body: String,
    content_type: &'static str,
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, body: body.into(), content_type: "text/plain" }
    }
}

/// Serves until TERM.
#[must_use]
pub fn run(args: &DemoAppArgs) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "demo-app: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &DemoAppArgs) -> io::Result<()> {
    let app = Arc::new(App {
        started: Instant::now(),
        version: args.version_label.clone(),
        ill_until_ms: AtomicU64::new(0),
        leaked: Mutex::default(),
        served: AtomicUsize::new(0),
        busy: Mutex::new(0),
        idle: Condvar::new(),
    });
    if let Some(ms) = args.crash_after_ms {
        thread::Builder::new().name("crash".to_owned()).spawn(move || {
            thread::sleep(Duration::from_millis(ms));
            std::process::abort();
        })?;
    }
    let (term, wake) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, wake)?;
    if ended_while_starting(&term, Duration::from_millis(args.start_delay_ms))? {
        return Ok(());
    }
    let listener = listener(args)?;
    // Several instances wait on one socket: whoever comes too late must not block in `accept`. A socket shared by them is
    // switched for all, so the flag is set on every start.
    listener.set_nonblocking(true)?;
    let mut out = io::stdout();
    let _ = writeln!(out, "demo-app {} listens on {}", args.version_label, listener.local_addr()?);
    while !terminated(&listener, &term)? {
        match listener.accept() {
            Ok((stream, _)) => app.begin(stream)?,
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    drop(listener);
    app.drain();
    let _ = writeln!(out, "demo-app ends after {} requests", app.served.load(Ordering::Relaxed));
    Ok(())
}

fn listener(args: &DemoAppArgs) -> io::Result<TcpListener> {
    let mut handed = listenfd::ListenFd::from_env();
    if let Some(listener) = handed.take_tcp_listener(0)? {
        return Ok(listener);
    }
    let address = args
        .listen
        .ok_or_else(|| io::Error::other("no socket was handed over and `--listen` is missing"))?;
    TcpListener::bind(address)
}

/// Waits for the time a slow start takes; true when TERM came first.
fn ended_while_starting(term: &UnixStream, delay: Duration) -> io::Result<bool> {
    let until = Instant::now() + delay;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(term.as_fd(), PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for a connection; true when TERM came first.
fn terminated(listener: &TcpListener, term: &UnixStream) -> io::Result<bool> {
    let mut fds = [
        PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(term.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [_, term] = &fds;
    Ok(!term.revents().is_empty())
}

/// Another instance was faster, or the caller is gone again.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

impl App {
    fn begin(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            if *busy >= REQUESTS_MAX {
                drop(busy);
                answer(&stream, &Answer::text("503 Service Unavailable", "busy\n"));
                return Ok(());
            }
            *busy += 1;
        }
        let app = Arc::clone(self);
        thread::Builder::new().name("request".to_owned()).spawn(move || {
            app.handle(&stream);
            *app.busy.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            app.idle.notify_all();
        })?;
        Ok(())
    }

    fn drain(&self) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.idle.wait_timeout_while(busy, DRAIN, |busy| *busy > 0));
    }

    fn handle(&self, stream: &TcpStream) {
        // An accepted connection does not inherit the flag of the listener on Linux, but says so nowhere else.
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let given = match request::read(stream) {
            Ok(request) => self.respond(&request),
            Err(request::Error::Gone) => return,
            Err(error) => Answer::text("400 Bad Request", format!("{error}\n")),
        };
        answer(stream, &given);
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn respond(&self, request: &Request) -> Answer {
        if request.method != "GET" {
            return Answer::text("405 Method Not Allowed", "only GET\n");
        }
        match request.path.as_str() {
            "/healthz" if self.is_ill() => Answer::text("503 Service Unavailable", "ill\n"),
            "/" | "/healthz" => Answer::text("200 OK", "ok\n"),
            "/info" => self.info(),
            "/work" => request.number("ms", WORK_MS_MAX).map_or_else(bad, |ms| {
                burn(Duration::from_millis(ms));
                Answer::text("200 OK", format!("burnt {ms} ms\n"))
            }),
            "/ill" => request.number("for_ms", u64::MAX / 2).map_or_else(bad, |ms| {
                self.ill_until_ms.store(self.uptime_ms().saturating_add(ms), Ordering::SeqCst);
                Answer::text("200 OK", format!("ill for {ms} ms\n"))
            }),
            "/leak" => request.number("mib", LEAK_MIB_MAX).map_or_else(bad, |mib| self.leak(mib)),
            "/crash" => std::process::abort(),
            "/exit" => request
                .number("code", 255)
                .map_or_else(bad, |code| std::process::exit(i32::try_from(code).unwrap_or(1))),
            _ => Answer::text("404 Not Found", "no such page\n"),
        }
    }

    fn info(&self) -> Answer {
        let body = serde_json::json!({
            "pid": std::process::id(),
            "app": std::env::var("APP_NAME").unwrap_or_default(),
            "instance": std::env::var("INSTANCE").unwrap_or_default(),
            "version": self.version,
            "uptime_ms": self.uptime_ms(),
            "served": self.served.load(Ordering::Relaxed),
        });
        Answer { status: "200 OK", body: format!("{body}\n"), content_type: "application/json" }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_ill(&self) -> bool {
        self.uptime_ms() < self.ill_until_ms.load(Ordering::SeqCst)
    }

    /// Keeps memory that is really written, so that it is resident.
    fn leak(&self, mib: u64) -> Answer {
        let mut leaked = self.leaked.lock().unwrap_or_else(PoisonError::into_inner);
        let total = leaked.iter().map(Vec::len).sum::<usize>();
        let bytes = usize::try_from(mib << 20).unwrap_or(0);
        if total.saturating_add(bytes) > usize::try_from(LEAK_MIB_MAX << 20).unwrap_or(0) {
            return Answer::text("409 Conflict", format!("no more than {LEAK_MIB_MAX} MiB\n"));
        }
        leaked.push(vec![0x5a; bytes]);
        Answer::text("200 OK", format!("holding {} MiB\n", (total + bytes) >> 20))
    }
}

fn bad(reason: String) -> Answer {
    Answer::text("400 Bad Request", format!("{reason}\n"))
}

/// Computes until this thread has used `cpu` of CPU time, however long it had to wait for a core.
fn burn(cpu: Duration) {
    let used = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    };
    let until = used() + cpu;
    let mut number: u64 = 1;
    while used() < until {
        for _ in 0..10_000 {
            number = std::hint::black_box(
                number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1),
            );
        }
    }
}

fn answer(mut stream: &TcpStream, answer: &Answer) {
    let Answer { status, body, content_type } = answer;
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
