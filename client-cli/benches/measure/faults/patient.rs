//! The app that is made ill: one worker, so that more to do than it can is a queue, and files that say what it suffers from.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Time one request takes: twenty per second are all that one instance can.
const SERVICE: Duration = Duration::from_millis(50);
/// What the dependency has to answer within.
const PATIENCE: Duration = Duration::from_millis(300);
/// A request to leak keeps so much more, once in so long.
const LEAK_BYTES: usize = 1 << 20;
const LEAK_EVERY: Duration = Duration::from_millis(150);
/// And no more than that in all.
const LEAKS: usize = 44;

/// Whether the app at `file` suffers from that.
pub(crate) fn suffers(file: &Path, from: &str) -> bool {
    file.with_extension(from).exists()
}

/// Serves on the socket it is handed; `dependency` is what `/ask` needs.
pub(crate) fn run(file: &Path, dependency: SocketAddr) -> ! {
    if suffers(file, "sick") {
        std::thread::sleep(Duration::from_millis(30));
        std::process::abort();
    }
    let listener: TcpListener =
        listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap().unwrap();
    listener.set_nonblocking(false).unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let mut buffer = [0; 256];
        let read = stream.read(&mut buffer).unwrap_or(0);
        // What nobody waits for any more is not done: an app that comes back works for its users, not off the calls of all who gave up
        // while it was down.
        if is_gone(&stream) {
            continue;
        }
        let line = String::from_utf8_lossy(&buffer[..read]);
        let status = match line.split_whitespace().nth(1) {
            Some("/healthz") if suffers(file, "ill") => "503 Service Unavailable",
            Some("/ask") if TcpStream::connect_timeout(&dependency, PATIENCE).is_err() => {
                "502 Bad Gateway"
            }
            Some("/work") => {
                std::thread::sleep(SERVICE);
                "200 OK"
            }
            Some("/leak") => {
                std::thread::Builder::new().spawn(leak).unwrap();
                "200 OK"
            }
            _ => "200 OK",
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    }
    loop {
        std::thread::park();
    }
}

/// Whether whoever asked has given up.
fn is_gone(stream: &TcpStream) -> bool {
    let _ = stream.set_nonblocking(true);
    let gone = matches!(stream.peek(&mut [0]), Ok(0));
    let _ = stream.set_nonblocking(false);
    gone
}

/// Keeps memory that is really written, so that it is resident.
fn leak() {
    let mut kept = Vec::new();
    for n in 0..LEAKS {
        kept.push(vec![n as u8 + 1; LEAK_BYTES]);
        std::thread::sleep(LEAK_EVERY);
    }
    loop {
        std::thread::park();
        assert_eq!(kept.len(), LEAKS);
    }
}
