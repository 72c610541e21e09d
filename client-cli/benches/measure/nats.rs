//! A peer: NATS, which tells subscribers as agentd tells watchers, and keeps nothing for those who were away.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed;

pub(crate) struct Nats {
    child: Child,
    address: String,
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nats {
    /// `None` if `nats-server` is not at hand.
    pub(crate) async fn start() -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let (host, port) = address.split_once(':').unwrap();
        let mut command = Command::new("nats-server");
        command.args(["--addr", host, "--port", port]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let nats = Self { child, address };
        while TcpStream::connect(&nats.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(nats)
    }

    /// Seconds of a core it has used.
    pub(crate) fn cpu(&self) -> f64 {
        bed::cpu_of(self.child.id())
    }

    /// A connection that was answered: what was said on it is in force.
    async fn connect(&self, says: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let hello = format!("CONNECT {{\"verbose\":false}}\r\n{says}PING\r\n");
        stream.write_all(hello.as_bytes()).await.unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"PONG\r\n") {
            stream.read_exact(&mut byte).await.unwrap();
            seen.push(byte[0]);
        }
        stream
    }

    /// Who publishes.
    pub(crate) async fn publisher(&self) -> Publisher {
        Publisher(self.connect("").await)
    }

    /// Who is told.
    pub(crate) async fn subscriber(&self) -> Subscriber {
        Subscriber(self.connect("SUB t 1\r\n").await)
    }
}

pub(crate) struct Publisher(TcpStream);

impl Publisher {
    /// So many messages of so many bytes, as fast as they are taken.
    pub(crate) async fn publish(&mut self, count: usize, bytes: usize) {
        let message = format!("PUB t {bytes}\r\n{}\r\n", "x".repeat(bytes));
        for _ in 0..count.div_ceil(100) {
            self.0.write_all(message.repeat(count.min(100)).as_bytes()).await.unwrap();
        }
    }
}

pub(crate) struct Subscriber(TcpStream);

impl Subscriber {
    /// Takes so many messages of so many bytes. They are all alike, so that counting bytes is counting them.
    pub(crate) async fn take(&mut self, count: usize, bytes: usize) {
        let mut left = count * (format!("MSG t 1 {bytes}\r\n").len() + bytes + 2);
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let most = left.min(buffer.len());
            let read = self.0.read(&mut buffer[..most]).await.unwrap();
            assert!(read > 0, "the peer is gone");
            left -= read;
        }
    }
}
