//! The 24 bytes that open an HTTP/2 connection, read before anything is built for it.
//!
//! hyper waits for them for ever; here a silent client is gone after the preface timeout.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// RFC 9113 section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a client opened its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    /// With the HTTP/2 preface.
    Http2,
    /// With the first letters of GET, HEAD or POST, and what was read behind them.
    Http1(Bytes),
    /// With something else, most likely TLS or another method of HTTP/1.1.
    Other,
}

/// Reads the preface; stops at the first byte that differs.
pub(super) async fn read<Io: AsyncRead + Unpin>(io: &mut Io) -> io::Result<Opening> {
    let mut expected: &[u8] = PREFACE;
    let mut buffer = [0_u8; PREFACE.len()];
    while !expected.is_empty() {
        // Never more than the preface: what follows belongs to hyper.
        let Some(space) = buffer.get_mut(..expected.len()) else { break };
        let count = io.read(space).await?;
        let got = buffer.get(..count).unwrap_or_default();
        if got.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match expected.strip_prefix(got) {
            Some(rest) => expected = rest,
            None => {
                // What was taken for a preface so far belongs to it as well: POST begins as PRI does.
                let matched = PREFACE.len().saturating_sub(expected.len());
                let first = [PREFACE.get(..matched).unwrap_or_default(), got].concat();
                let method = [&b"G"[..], b"H", b"PO"].iter().any(|begin| first.starts_with(begin));
                return Ok(if method { Opening::Http1(first.into()) } else { Opening::Other });
            }
        }
    }
    Ok(Opening::Http2)
}

/// Tells a client that speaks HTTP/1.1 what this port speaks; whoever speaks something else ignores it.
pub(super) async fn refuse<Io: AsyncWrite + Unpin>(io: &mut Io) {
    const BODY: &str = "this port speaks gRPC over HTTP/2; see `agentctl help`\n";
    let answer = format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    // The connection ends either way.
    let _ = io.write_all(answer.as_bytes()).await;
    let _ = io.shutdown().await;
}

/// A connection whose first bytes were read: hyper is given them again.
#[derive(Debug)]
pub(super) struct Replayed<Io> {
    first: Bytes,
    io: Io,
}

impl<Io> Replayed<Io> {
    /// Behind the HTTP/2 preface.
    pub(super) fn new(io: Io) -> Self {
        Self::behind(Bytes::from_static(PREFACE), io)
    }

    /// Behind these bytes.
    pub(super) const fn behind(first: Bytes, io: Io) -> Self {
        Self { first, io }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Replayed<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Replayed<Io> {
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
    use super::*;

    #[tokio::test]
    async fn the_preface_is_known_in_any_number_of_pieces_and_given_again() {
        for size in [1, 5, 23, 24] {
            let (mut client, mut server) = tokio::io::duplex(size);
            let send = async {
                client.write_all(PREFACE).await.expect("sent");
                client.write_all(b"rest").await.expect("sent");
                client.shutdown().await.expect("closed");
            };
            let receive = async {
                assert_eq!(read(&mut server).await.expect("read"), Opening::Http2);
                let mut all = Vec::new();
                Replayed::new(server).read_to_end(&mut all).await.expect("read");
                assert_eq!(all, [PREFACE.as_slice(), b"rest"].concat());
            };
            tokio::join!(send, receive);
        }
    }

    #[tokio::test]
    async fn the_first_wrong_byte_ends_the_wait() {
        for opening in ["PUT / HTTP/1.1\r\n", "PRI * HTTP/1.1", "PRGET /", "\u{16}\u{3}\u{1}"] {
            let (mut client, mut server) = tokio::io::duplex(64);
            client.write_all(opening.as_bytes()).await.expect("sent");
            assert_eq!(read(&mut server).await.expect("read"), Opening::Other, "{opening}");
        }
    }

    #[tokio::test]
    async fn a_page_is_asked_for_in_the_old_way_and_nothing_of_it_is_lost() {
        for (opening, size) in [
            ("GET /metrics HTTP/1.1\r\n\r\n", 64),
            ("HEAD / HTTP/1.0\r\n\r\n", 64),
            ("G", 64),
            ("POST /v1/metrics HTTP/1.1\r\n\r\n", 64),
            // POST begins as the preface does: one byte at a time, the first one looks right.
            ("POST / HTTP/1.1\r\n\r\n", 1),
        ] {
            let (mut client, mut server) = tokio::io::duplex(size);
            let sent = async {
                client.write_all(opening.as_bytes()).await.expect("sent");
                client.shutdown().await.expect("closed");
            };
            let receive = async {
                let Opening::Http1(first) = read(&mut server).await.expect("read") else {
                    panic!("{opening}")
                };
                let mut all = String::new();
                Replayed::behind(first, server).read_to_string(&mut all).await.expect("read");
                assert_eq!(all, opening);
            };
            tokio::join!(sent, receive);
        }
    }

    #[tokio::test]
    async fn an_early_end_is_an_error() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(b"PRI * HT").await.expect("sent");
        client.shutdown().await.expect("closed");
        let error = read(&mut server).await.expect_err("too short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
