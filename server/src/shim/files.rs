//! `agentd shim files`: the server of an app that is nothing but static files.
//!
//! It serves the directory it is started in on the socket it is handed, one answer per connection, with a fixed number of threads.
//! What lies outside of the directory cannot be opened whatever a path or a link says, and hidden files are not there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// Stands where the directory of an instance stands otherwise.
pub const WORD: &str = "files";
/// Answers at a time.
const THREADS: usize = 8;
/// Longest request, in bytes.
const HEAD_MAX: usize = 8 * 1024;
/// A caller may take so long for its request, and for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Served for a directory.
const INDEX: &str = "index.html";

/// Serves until it is killed.
pub(super) fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "files: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let handed = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    let listener = handed.ok_or_else(|| io::Error::other("no listening socket was handed over"))?;
    let root = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let shared = Arc::new((listener, root));
    let mut threads = Vec::new();
    for n in 0..THREADS {
        let shared = Arc::clone(&shared);
        threads.push(Builder::new().name(format!("files-{n}")).spawn(move || {
            let (listener, root) = &*shared;
            accept(listener, root);
        })?);
    }
    for thread in threads {
        let _ = thread.join();
    }
    Err(io::Error::other("no thread is left"))
}

fn accept(listener: &TcpListener, root: &OwnedFd) {
    loop {
        match listener.accept() {
            Ok((caller, _)) => {
                // The caller went away; the next one is another.
                let _ = answer(caller, root);
            }
            // Out of descriptors, or a caller that was gone before it was there: neither is made better by haste.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn answer(mut caller: TcpStream, root: &OwnedFd) -> io::Result<()> {
    caller.set_read_timeout(Some(PATIENCE))?;
    caller.set_write_timeout(Some(PATIENCE))?;
    let (head, wanted) = match request(&read_head(&mut caller)?) {
        Err(status) => return say(&mut caller, status, "text/plain; charset=utf-8", 0),
        Ok(request) => request,
    };
    match find(root, &wanted) {
        None => say(&mut caller, "404 Not Found", "text/plain; charset=utf-8", 0),
        Some((mut file, name)) => {
            let length = file.metadata()?.len();
            say(&mut caller, "200 OK", kind(&name), length)?;
            if !head {
                io::copy(&mut file, &mut caller)?;
            }
            Ok(())
        }
    }
}

fn say(caller: &mut impl Write, status: &str, kind: &str, length: u64) -> io::Result<()> {
    write!(
        caller,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
         x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
}

fn read_head(caller: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0_u8; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() <= HEAD_MAX {
        match caller.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => head.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    Ok(head)
}

/// Whether only the head is asked for, and the path in plain text; or the status that refuses it.
fn request(head: &[u8]) -> Result<(bool, String), &'static str> {
    const BAD: &str = "400 Bad Request";
    if head.len() > HEAD_MAX {
        return Err("431 Request Header Fields Too Large");
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_not_text| BAD)?;
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words.as_slice() else { return Err(BAD) };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Err(BAD);
    }
    let head = match *method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err("405 Method Not Allowed"),
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    Ok((head, decode(path).ok_or(BAD)?))
}

fn decode(path: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            plain.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            plain.push(byte);
        }
    }
    String::from_utf8(plain).ok().filter(|plain| !plain.contains('\0'))
}

/// The file that a path names, and its name.
fn find(root: &OwnedFd, path: &str) -> Option<(File, String)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // Hidden files, and with them `.` and `..`.
    if parts.iter().any(|part| part.starts_with('.')) {
        return None;
    }
    let path = if parts.is_empty() { ".".to_owned() } else { parts.join("/") };
    let file = open(root.as_fd(), &path)?;
    let kind = file.metadata().ok()?;
    if kind.is_dir() {
        let index = open(file.as_fd(), INDEX)?;
        return index
            .metadata()
            .is_ok_and(|kind| kind.is_file())
            .then(|| (index, INDEX.to_owned()));
    }
    kind.is_file().then_some((file, path))
}

fn open(dir: std::os::fd::BorrowedFd<'_>, path: &str) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(dir, path, flags, Mode::empty(), beneath).ok().map(File::from)
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/vnd.microsoft.icon",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "xml" => "application/xml",
        "txt" | "md" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(line: &str) -> Result<(bool, String), &'static str> {
        request(format!("{line}\r\nhost: a\r\n\r\n").as_bytes())
    }

    #[test]
    fn requests_are_plain_or_refused() {
        assert_eq!(get("GET /a%20b?x=1 HTTP/1.1"), Ok((false, "/a b".to_owned())));
        assert_eq!(get("HEAD / HTTP/1.1"), Ok((true, "/".to_owned())));
        assert_eq!(get("POST / HTTP/1.1"), Err("405 Method Not Allowed"));
        for bad in
            ["GET", "GET a HTTP/1.1", "GET /%zz HTTP/1.1", "GET /%00 HTTP/1.1", "GET /% HTTP/1.1"]
        {
            assert_eq!(get(bad), Err("400 Bad Request"), "{bad}");
        }
        assert!(request(&[b'x'; HEAD_MAX + 1]).unwrap_err().starts_with("431"));
    }

    #[test]
    fn only_what_lies_in_the_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join(INDEX), "home").unwrap();
        std::fs::write(root.join("sub/a.css"), "css").unwrap();
        std::fs::write(root.join(".env"), "secret").unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        std::os::unix::fs::symlink("sub/a.css", root.join("in.css")).unwrap();
        let root: OwnedFd = File::open(root).unwrap().into();
        let read = |path: &str| {
            let (mut file, name) = find(&root, path)?;
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            Some((text, kind(&name)))
        };
        assert_eq!(read("/"), Some(("home".to_owned(), "text/html; charset=utf-8")));
        assert_eq!(read("//sub//a.css").unwrap().0, "css");
        assert_eq!(read("/in.css").unwrap().0, "css", "a link that stays");
        for gone in
            ["/out", "/.env", "/../secret", "/sub/../../secret", "/sub", "/nothing", "/sub/."]
        {
            assert_eq!(read(gone), None, "{gone}");
        }
    }
}
