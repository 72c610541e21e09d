//! How fast one client may make the server work. What a frame costs hardly depends on what is in it, so it is frames of next to nothing
//! that are counted: one byte of data, a ping, a setting. Beyond the rate the connection is read more slowly, and nothing else happens
//! to it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::counters::Counters;

/// Bytes that a frame has to carry to be worth its cost; one that carries fewer owes the rest.
const WORTH: u32 = 64;
/// What may be owed per second: fifty thousand frames of nothing. A server reads about a million of them per second and core.
const PER_SECOND: u64 = 50_000 * WORTH as u64;
/// What may be owed at once: a second's worth.
const BURST: u64 = PER_SECOND;

const HEAD: usize = 9;

/// The frames of HTTP/2 in what is read, behind the preface.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD],
    /// Bytes of the next head that are there.
    have: usize,
    /// Bytes of the last payload that are not.
    missing: usize,
}

impl Frames {
    /// What the frames that begin in `bytes` owe.
    fn owe(&mut self, mut bytes: &[u8]) -> u64 {
        let mut owed = 0;
        while !bytes.is_empty() {
            let payload = self.missing.min(bytes.len());
            self.missing -= payload;
            bytes = bytes.get(payload..).unwrap_or_default();
            let count = (HEAD - self.have).min(bytes.len());
            let (more, rest) = bytes.split_at_checked(count).unwrap_or_default();
            if let Some(space) = self.head.get_mut(self.have..self.have + count) {
                space.copy_from_slice(more);
            }
            self.have += count;
            bytes = rest;
            if self.have == HEAD {
                let [a, b, c, ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                owed += u64::from(WORTH.saturating_sub(length));
                self.missing = usize::try_from(length).unwrap_or(usize::MAX);
                self.have = 0;
            }
        }
        owed
    }
}

/// What was owed and is not forgiven yet.
#[derive(Debug)]
struct Debt {
    owed: u64,
    since: Instant,
}

impl Debt {
    /// Adds to it; answers for how long nothing more should be read.
    fn add(&mut self, owed: u64, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.since).as_micros();
        let forgiven = passed.saturating_mul(u128::from(PER_SECOND)) / 1_000_000;
        self.owed = self.owed.saturating_sub(u64::try_from(forgiven).unwrap_or(u64::MAX)) + owed;
        self.since = now;
        let over = self.owed.checked_sub(BURST).filter(|over| *over > 0)?;
        Some(Duration::from_micros(over.saturating_mul(1_000_000) / PER_SECOND))
    }
}

/// A connection that is read no faster than its frames are worth.
pub(super) struct Metered<Io> {
    io: Io,
    frames: Frames,
    debt: Debt,
    pause: Option<Pin<Box<Sleep>>>,
    counters: Arc<Counters>,
}

impl<Io> Metered<Io> {
    pub(super) fn new(io: Io, counters: Arc<Counters>) -> Self {
        let debt = Debt { owed: 0, since: Instant::now() };
        Self { io, frames: Frames::default(), debt, pause: None, counters }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Metered<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        let owed = this.frames.owe(buffer.filled().get(before..).unwrap_or_default());
        if owed > 0
            && let Some(pause) = this.debt.add(owed, Instant::now())
        {
            this.counters.bump(&this.counters.slowed_reads);
            this.pause = Some(Box::pin(sleep(pause)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Metered<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, 0, 0, 0, 0, 0, 1];
        frame.resize(HEAD + usize::from(length), b'x');
        frame
    }

    /// Time until all of `bytes` was read, and how often a pause was made.
    async fn reading(bytes: Vec<u8>) -> (Duration, u64) {
        let counters = Arc::new(Counters::default());
        let (mut client, server) = tokio::io::duplex(16 * 1024);
        let mut server = Metered::new(server, Arc::clone(&counters));
        let began = Instant::now();
        let send = async {
            client.write_all(&bytes).await.expect("sent");
            client.shutdown().await.expect("closed");
        };
        let receive = async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.expect("read");
            assert_eq!(all, bytes, "nothing is lost");
        };
        tokio::join!(send, receive);
        (began.elapsed(), counters.snapshot()["slowed_reads"])
    }

    #[tokio::test]
    async fn a_byte_at_a_time_is_read_at_a_bounded_rate() {
        for length in [1, 8] {
            // A second and a half's worth of frames, of which the first second's is free.
            let (took, slowed) = reading(frame(length).repeat(3 * 50_000 / 2)).await;
            assert!(took >= Duration::from_millis(300), "{took:?}");
            assert!(slowed > 0);
        }
    }

    #[tokio::test]
    async fn frames_that_carry_something_are_read_as_fast_as_they_come() {
        for length in [64, 255] {
            assert_eq!(reading(frame(length).repeat(100_000)).await.1, 0, "{length}");
        }
        assert_eq!(reading(frame(1).repeat(40_000)).await.1, 0, "a burst is nothing bad");
    }

    #[test]
    fn what_is_owed_is_forgiven_with_time() {
        let began = Instant::now();
        let mut debt = Debt { owed: 0, since: began };
        assert_eq!(debt.add(BURST, began), None);
        assert_eq!(debt.add(PER_SECOND / 2, began), Some(Duration::from_millis(500)));
        let later = began + Duration::from_millis(500);
        assert_eq!(debt.add(0, later), None, "who waited may go on");
        assert_eq!(debt.add(PER_SECOND, later + Duration::from_secs(3_600)), None);
        assert_eq!(debt.owed, PER_SECOND, "nothing is saved up");
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [frame(0), frame(3), frame(200), frame(64), frame(63)].concat();
        for size in [1, 2, 8, 9, 10, 100, bytes.len()] {
            let mut frames = Frames::default();
            let owed: u64 = bytes.chunks(size).map(|chunk| frames.owe(chunk)).sum();
            assert_eq!(owed, 64 + 61 + 1, "in pieces of {size}");
        }
    }
}
