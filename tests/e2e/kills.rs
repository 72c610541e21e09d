//! Whatever is killed (the server, a connection, a watcher), whoever watches sees every record once and in order.
//!
//! `AGENTD_WATCH_KILLS=200 cargo test -p agentctl --test e2e kills` kills more often than the gate has time for, and
//! `AGENTD_WATCH_SEED` repeats a run.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Server, Stream, deadline};

/// What goes between watchers and the server passes through here, until it is cut.
struct Proxy {
    address: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, server) = (Arc::new(Mutex::new(Vec::new())), server.to_owned());
        let kept = Arc::clone(&open);
        let accept = move || {
            for client in listener.incoming().flatten() {
                // While the server is away nobody gets further than here.
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                for (from, to) in [(&client, &upstream), (&upstream, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let pass = move || {
                        let _ = copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    };
                    Builder::new().spawn(pass).unwrap();
                }
                kept.lock().unwrap().extend([client, upstream]);
            }
        };
        Builder::new().spawn(accept).unwrap();
        Self { address, open }
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Somebody who watches, is killed, and goes on behind the last line that was whole.
struct Watcher {
    words: Vec<String>,
    stream: Stream,
    seen: Vec<Value>,
}

impl Watcher {
    fn begin(server: &Server, proxy: &Proxy, words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let stream = Self::stream(server, proxy, &words, "0");
        Self { words, stream, seen: Vec::new() }
    }

    fn stream(server: &Server, proxy: &Proxy, words: &[String], since: &str) -> Stream {
        let mut all: Vec<&str> = words.iter().map(String::as_str).collect();
        all.extend(["--since", since, "-o", "jsonl"]);
        server.follow_through(&proxy.address, &all)
    }

    fn is_killed(&mut self, server: &Server, proxy: &Proxy) {
        self.stream.kill9();
        while let Some(line) = self.stream.line(deadline()) {
            // The last line may be cut in the middle.
            self.seen.extend(serde_json::from_str::<Value>(&line).ok());
        }
        let place = |line: &Value| {
            let cursor = line["cursor"].as_str().map(str::to_owned);
            cursor.or_else(|| line["seq"].as_u64().map(|seq| seq.to_string()))
        };
        let since = self.seen.iter().rev().find_map(place).unwrap_or_else(|| "0".to_owned());
        self.stream = Self::stream(server, proxy, &self.words, &since);
    }

    /// The numbers of everything it saw up to `end`.
    fn seqs(mut self, server: &Server, proxy: &Proxy, end: u64) -> Vec<u64> {
        let patience = deadline();
        while self.seen.last().and_then(|line| line["seq"].as_u64()) < Some(end) {
            match self.stream.line(patience) {
                Some(line) => self.seen.push(serde_json::from_str(&line).unwrap()),
                // Whoever is cut off before he has seen anything gives up at once.
                None if Instant::now() < patience => self.is_killed(server, proxy),
                None => panic!("the end never came: {:?}\n{}", self.seen.last(), server.log()),
            }
        }
        self.seen.iter().filter_map(|line| line["seq"].as_u64()).collect()
    }
}

/// Makes one event after the other for as long as it is let, whatever becomes of the server.
fn events(server: &Server) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let mut command = server.client("local", &["pause", "--reason", "one more", "-o", "json"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let make = move || {
        while !told.load(Ordering::Relaxed) {
            let _ = command.status();
        }
    };
    (over, Builder::new().spawn(make).unwrap())
}

/// Numbers that look random and are the same again for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn whoever_is_killed_every_watcher_sees_every_record_once_and_in_order() {
    let kills = number("AGENTD_WATCH_KILLS", 10);
    let seed = number("AGENTD_WATCH_SEED", u64::from(std::process::id()));
    eprintln!("AGENTD_WATCH_SEED={seed}");
    let (mut dice, mut server) = (Dice(seed), Server::quick());
    let proxy = Proxy::before(server.address());
    let words: [&[&str]; 3] = [&["proof", "tail"], &["proof", "tail"], &["watch", "--all"]];
    let mut watchers = words.map(|words| Watcher::begin(&server, &proxy, words));
    let (over, making) = events(&server);
    let mut killed = [0; 3];
    for n in 0..kills {
        sleep(Duration::from_millis(50 + dice.below(350)));
        // Each kind has its turn, however short the run.
        let kind = if n < 3 { n } else { dice.below(3) };
        killed[usize::try_from(kind).unwrap()] += 1;
        match kind {
            0 => server.restart(),
            1 => proxy.cut(),
            _ => {
                let who = usize::try_from(dice.below(3)).unwrap();
                watchers[who].is_killed(&server, &proxy);
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    making.join().unwrap();
    let end = server.ctl(&["pause", "--reason", "the end", "-o", "json"]).ok().json();
    let end = end["seq"].as_u64().unwrap();

    let [one, two, decisions] = watchers.map(|watcher| watcher.seqs(&server, &proxy, end));
    let all: Vec<u64> = (1..=end).collect();
    assert_eq!(one, all, "killed {killed:?}");
    assert_eq!(two, all, "killed {killed:?}");
    let undisturbed = Watcher::begin(&server, &proxy, words[2]).seqs(&server, &proxy, end);
    assert_eq!(decisions, undisturbed, "killed {killed:?}");
    assert!(undisturbed.len() > 3, "there was something to see: {undisturbed:?}");
}
