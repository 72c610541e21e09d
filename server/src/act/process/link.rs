//! agentd's end of the connection to one shim.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::shim::protocol::{LINE_BYTES_MAX, Message, Request, SOCKET_FILE};
use crate::shim::socket::{receive_with_fds, send_with_fd};

/// A connection to a shim.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    inbox: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Link {
    /// Connects to the shim that serves `dir`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` if there is none.
    pub(super) async fn connect(dir: &Path) -> io::Result<Self> {
        // The path of a socket is limited to 108 bytes, the path of the directory is not.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd());
        Ok(Self::new(UnixStream::connect(path).await?))
    }

    /// A link over one end of a socket pair.
    pub(super) fn over(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::new(UnixStream::from_std(stream)?))
    }

    fn new(stream: UnixStream) -> Self {
        Self { stream, inbox: Vec::new(), fds: VecDeque::new() }
    }

    /// The next line. `None` when the shim is gone. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// If the line is too long or not a message.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
                let rest = self.inbox.split_off(end + 1);
                let line = std::mem::replace(&mut self.inbox, rest);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.inbox.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("a line of the shim is too long"));
            }
            let mut chunk = [0_u8; 16 * 1024];
            self.stream.readable().await?;
            let (stream, fds) = (&self.stream, &mut self.fds);
            let read = stream.try_io(Interest::READABLE, || {
                Ok(receive_with_fds(stream.as_fd(), &mut chunk, fds)?)
            });
            match read {
                Ok(0) => return Ok(None),
                Ok(read) => self.inbox.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptor that came with the line just received.
    pub(super) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Sends a request, with a descriptor beside it.
    ///
    /// # Errors
    /// If the shim is gone.
    pub(super) async fn send(
        &self,
        request: &Request,
        mut fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        if line.len() > LINE_BYTES_MAX {
            return Err(io::Error::other("the request is too long"));
        }
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            self.stream.writable().await?;
            let sent = self
                .stream
                .try_io(Interest::WRITABLE, || Ok(send_with_fd(self.stream.as_fd(), rest, fd)?));
            match sent {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fd = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
