//! How fast a killed process runs again, with every gate and a durable intent in between; and how many connections are refused
//! meanwhile.
//!
//! The limits are measured in the same run: a bare respawn of the same program by its parent, and one write plus `fdatasync` of
//! 4 KiB, both at the pace at which agentd does the same. Peers (`supervisord`, `pm2`) are measured when they are installed.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentd::app::App;
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{self, Client, Row, now_ns, settle};

const ROUNDS: usize = 40;
/// Kills while clients call.
const KILLS: usize = 20;
/// About how long an incarnation runs under agentd before it is killed: until its recovery is verified.
const REST: Duration = Duration::from_millis(100);

/// The supervised program: its first act is to write when it ran.
pub(crate) fn stamp(file: &Path) -> ! {
    write_stamp(file);
    loop {
        std::thread::park();
    }
}

fn write_stamp(file: &Path) {
    let line = format!("{} {}\n", std::process::id(), now_ns());
    let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

/// The supervised program that serves: on the socket it is handed, or none.
pub(crate) fn serve(file: &Path) -> ! {
    write_stamp(file);
    let listener: TcpListener =
        listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap().unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut buffer = [0; 64];
        let _ = stream.read(&mut buffer);
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    loop {
        std::thread::park();
    }
}

/// Stamps in a file: (pid, nanoseconds).
fn stamps(file: &Path) -> Vec<(i32, u64)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter_map(|line| {
            let (pid, ns) = line.split_once(' ')?;
            Some((pid.parse().ok()?, ns.parse().ok()?))
        })
        .collect()
}

pub(crate) fn wait_stamp(file: &Path, count: usize, patience: Duration) -> Option<(i32, u64)> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = stamps(file);
        if seen.len() >= count {
            return seen.last().copied();
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Kills the newest incarnation; how many there were.
pub(crate) fn kill_newest(file: &Path) -> usize {
    let before = stamps(file);
    let newest = before.last().and_then(|(pid, _)| Pid::from_raw(*pid)).unwrap();
    kill_process(newest, Signal::KILL).unwrap();
    before.len()
}

/// Kills the newest incarnation and gives the nanoseconds until the next one ran.
fn kill_once(file: &Path, patience: Duration) -> Option<u64> {
    let before = stamps(file);
    let pid = before.last()?.0;
    let killed = now_ns();
    kill_process(Pid::from_raw(pid)?, Signal::KILL).ok()?;
    let (_, ran) = wait_stamp(file, before.len() + 1, patience)?;
    Some(ran.saturating_sub(killed))
}

/// The limit: the parent itself waits for the end of its child and starts it again, with no one to ask. `rest` is how long a child
/// has run when it is killed: one that dies the moment it ran finds its own pages, and those of its successor, still in the caches
/// of the processor, which halves every cost, and none that anybody supervises dies like that.
fn bare_respawn(name: &str, me: &Path, dir: &Path, rest: Duration) -> Row {
    let file = dir.join(format!("bare-{}", rest.as_millis()));
    let spawn = || -> Child {
        Command::new(me).arg("stamp").arg(&file).stdin(Stdio::null()).spawn().unwrap()
    };
    let mut child = spawn();
    wait_stamp(&file, 1, Duration::from_secs(5)).unwrap();
    let mut samples = Vec::new();
    for n in 0..ROUNDS {
        std::thread::sleep(rest);
        let killed = now_ns();
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
        child.wait().unwrap();
        child = spawn();
        let (_, ran) = wait_stamp(&file, n + 2, Duration::from_secs(5)).unwrap();
        samples.push(ran - killed);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    Row::new(name, samples)
}

async fn kills(server: &App, name: &str, file: &Path, rounds: usize) -> Vec<u64> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let file = file.to_owned();
        let sample = tokio::task::spawn_blocking(move || {
            kill_once(&file, Duration::from_secs(10)).expect("it is restarted")
        });
        samples.push(sample.await.unwrap());
        settle(server, name).await;
    }
    samples
}

/// Connections of four clients while the app is killed twenty times.
async fn refused(server: &App, file: &Path, address: SocketAddr) -> (u64, u64, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicU64; 3]> = Arc::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = TcpStream::connect(address).and_then(|mut stream| {
                        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
                        let mut answer = Vec::new();
                        stream.read_to_end(&mut answer)?;
                        Ok(answer.len())
                    });
                    let index = match outcome {
                        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => 1,
                        Ok(n) if n > 0 => 0,
                        _ => 2,
                    };
                    counts[index].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    kills(server, "serve", file, KILLS).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let get = |i: usize| counts[i].load(Ordering::Relaxed);
    (get(0), get(1), get(2))
}

fn peers(me: &Path, dir: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(row) = supervisord(me, dir) {
        rows.push(row);
    }
    if let Some(row) = pm2(me, dir) {
        rows.push(row);
    }
    rows
}

fn peer_rounds(name: &str, file: &Path) -> Option<Row> {
    wait_stamp(file, 1, Duration::from_secs(20))?;
    std::thread::sleep(Duration::from_millis(1_500));
    let mut samples = Vec::new();
    for _ in 0..KILLS / 2 {
        samples.push(kill_once(file, Duration::from_secs(20))?);
        std::thread::sleep(Duration::from_millis(1_200));
    }
    Some(Row::new(name, samples))
}

fn supervisord(me: &Path, dir: &Path) -> Option<Row> {
    let file = dir.join("supervisord-stamps");
    let conf = dir.join("supervisord.conf");
    let text = format!(
        "[supervisord]\nnodaemon=true\nlogfile={dir}/supervisord.log\npidfile={dir}/supervisord.pid\n\
         [program:stamp]\ncommand={me} stamp {file}\nautorestart=true\nstartsecs=0\n",
        dir = dir.display(),
        me = me.display(),
        file = file.display()
    );
    std::fs::write(&conf, text).unwrap();
    let mut child = Command::new("supervisord")
        .args(["-n", "-c"])
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let row = peer_rounds("peer: supervisord, startsecs=0", &file);
    kill_process(Pid::from_raw(child.id().cast_signed())?, Signal::TERM).ok()?;
    let _ = child.wait();
    row
}

fn pm2(me: &Path, dir: &Path) -> Option<Row> {
    let file = dir.join("pm2-stamps");
    let home = dir.join("pm2");
    let run = |args: &[&str]| {
        Command::new("pm2")
            .env("PM2_HOME", &home)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()
    };
    let (me, stamps) = (me.display().to_string(), file.display().to_string());
    run(&["start", &me, "--name", "stamp", "--interpreter", "none", "--", "stamp", &stamps])?;
    let row = peer_rounds("peer: pm2, defaults", &file);
    run(&["kill"])?;
    row
}

pub(crate) fn measure(me: &Path, dir: &Path) {
    let hot = bare_respawn("bare respawn by the parent, killed at once", me, dir, Duration::ZERO);
    let bare = bare_respawn("limit: bare respawn by the parent", me, dir, REST);
    let hot_sync = bed::fdatasync("4 KiB write + fdatasync, at once", dir, 200, Duration::ZERO);
    let sync = bed::fdatasync("limit: 4 KiB write + fdatasync", dir, ROUNDS, REST);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (plain, heavy, (answered, refused, cut)) = runtime.block_on(async {
        let server = bed::serve(me, dir).await;
        let address = server.address().to_string();
        let client = Client::connect(&address, server.tokens(), "local").await;
        let file = dir.join("web");
        client.onboard("web", me, "stamp", &file, "").await;
        settle(&server, "web").await;
        let plain = kills(&server, "web", &file, ROUNDS).await;
        let ballast: Vec<u8> = vec![1; 2 << 30];
        let heavy = kills(&server, "web", &file, ROUNDS).await;
        assert_eq!(ballast.iter().step_by(4096).map(|b| u64::from(*b)).sum::<u64>(), 524_288);
        drop(ballast);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = dir.join("serve");
        client.onboard("serve", me, "serve", &file, &port.to_string()).await;
        settle(&server, "serve").await;
        let counts = refused(&server, &file, port).await;
        server.stop().await;
        (
            Row::new("agentd: kill -9 to running again", plain),
            Row::new("agentd: the same with 2 GiB resident", heavy),
            counts,
        )
    });
    bed::end_apps(dir);
    Row::header();
    for row in [&hot, &hot_sync, &bare, &sync, &plain, &heavy] {
        row.print();
    }
    for row in peers(me, dir) {
        row.print();
    }
    let goal = bare.median() + sync.median() + 1.0;
    println!("\ngoal: bare respawn + fdatasync + 1 ms = {goal:.2} ms");
    plain.compare(goal);
    heavy.compare(goal);
    println!(
        "connections over {KILLS} kills with `listen`: {answered} answered, {refused} refused, {cut} cut by the kill itself"
    );
}
