//! The shim's side of its socket: a bounded number of callers, bounded lines, never waiting for a slow one.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
};

use super::protocol::{LINE_BYTES_MAX, Message, SOCKET_FILE};

/// Callers at a time. One agentd needs one; the rest is for people who look.
pub const CLIENTS_MAX: usize = 4;
/// What waits for a caller that does not read; beyond it the caller is cut off and asks again after reconnecting.
const OUT_BYTES_MAX: usize = 512 * 1024;
/// Descriptors that can come with one line.
const FDS_MAX: usize = 4;

/// Binds the socket in the current directory. The relative name keeps within the 108 bytes of a socket address wherever the
/// directory is.
///
/// # Errors
/// If the directory is not writable.
pub(super) fn bind() -> io::Result<OwnedFd> {
    // Only the holder of the lock gets here, so a socket that is in the way belongs to a dead shim.
    match std::fs::remove_file(SOCKET_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The umask of the shim is 077: nobody else can connect.
    rustix::net::bind(&socket, &SocketAddrUnix::new(SOCKET_FILE)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Takes a caller off the listening socket; `None` if there is none, or one of another user.
pub(super) fn accept(socket: &OwnedFd) -> Option<Client> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::accept_with(socket, flags).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    (peer.uid == rustix::process::geteuid() || peer.uid.is_root()).then(|| Client::new(stream))
}

/// One caller.
#[derive(Debug)]
pub(super) struct Client {
    stream: OwnedFd,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    fds: VecDeque<OwnedFd>,
    gone: bool,
}

impl Client {
    /// A caller on a connected, non-blocking stream.
    pub(super) fn new(stream: OwnedFd) -> Self {
        Self {
            stream,
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            fds: VecDeque::new(),
            gone: false,
        }
    }

    /// What to wait on.
    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits to be sent.
    pub(super) fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether the caller hung up, was too slow, or sent more than a line may have.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// The descriptor that came with the line being handled.
    pub(super) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Reads what is there and returns the complete lines.
    pub(super) fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut chunk = [0_u8; 16 * 1024];
        match receive_with_fds(self.stream.as_fd(), &mut chunk, &mut self.fds) {
            Ok(0) => self.gone = true,
            Ok(read) => self.inbox.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
        let mut lines = Vec::new();
        while let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
            let rest = self.inbox.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.inbox, rest);
            line.truncate(end);
            lines.push(line);
        }
        if self.inbox.len() > LINE_BYTES_MAX {
            self.gone = true;
        }
        lines
    }

    /// Sends a line now, or as much as goes and the rest later.
    pub(super) fn send(&mut self, message: &Message) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        if self.outbox.len() + line.len() > OUT_BYTES_MAX {
            self.gone = true;
            return;
        }
        self.outbox.extend(line);
        self.flush();
    }

    /// Sends a line together with a descriptor. False if earlier lines are still waiting.
    pub(super) fn send_with_fd(&mut self, message: &Message, fd: BorrowedFd<'_>) -> bool {
        self.flush();
        let Ok(mut line) = serde_json::to_vec(message) else { return false };
        line.push(b'\n');
        if !self.outbox.is_empty() {
            return false;
        }
        match send_with_fd(self.stream.as_fd(), &line, Some(fd)) {
            Ok(sent) => self.outbox.extend(line.get(sent..).unwrap_or_default()),
            Err(Errno::AGAIN) => return false,
            Err(_) => self.gone = true,
        }
        true
    }

    /// Sends what is waiting.
    pub(super) fn flush(&mut self) {
        while !self.outbox.is_empty() && !self.gone {
            let (front, _) = self.outbox.as_slices();
            match rustix::net::send(&self.stream, front, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.gone = true,
            }
        }
    }
}

/// Sends bytes, with a descriptor beside the first of them.
///
/// # Errors
/// `AGAIN` if the socket does not block and is full.
pub fn send_with_fd(
    stream: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
}

/// Reads bytes and keeps the descriptors that came with them; those beyond the limit are closed.
///
/// # Errors
/// `AGAIN` if there is nothing to read and the socket does not block.
pub fn receive_with_fds(
    stream: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut VecDeque<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received.take(FDS_MAX));
        }
    }
    fds.truncate(FDS_MAX);
    Ok(received.bytes)
}
