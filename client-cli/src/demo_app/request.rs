//! The part of HTTP/1.1 the demo app needs: a request line and its query. Headers are read and ignored.

use std::io::Read;

/// Longest request, in bytes.
const BYTES_MAX: usize = 8 * 1024;

/// What a caller asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    query: String,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Error {
    /// The caller closed the connection or is too slow.
    #[error("the caller is gone")]
    Gone,
    /// The caller sends more than a request may have.
    #[error("the request is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// Not a request line of HTTP/1.
    #[error("not an HTTP/1.1 request")]
    Malformed,
}

/// Reads a request up to the empty line.
pub(super) fn read(mut stream: impl Read) -> Result<Request, Error> {
    let mut head = Vec::new();
    let mut chunk = [0_u8; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > BYTES_MAX {
            return Err(Error::TooLong);
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return Err(Error::Gone),
            Ok(read) => head.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    parse(&head)
}

fn parse(head: &[u8]) -> Result<Request, Error> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_not_text| Error::Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words.as_slice() else { return Err(Error::Malformed) };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Err(Error::Malformed);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request { method: (*method).to_owned(), path: path.to_owned(), query: query.to_owned() })
}

impl Request {
    /// The number given as `name`, at most `max`; otherwise what is wrong with it.
    pub(super) fn number(&self, name: &str, max: u64) -> Result<u64, String> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(key, _)| *key == name).map(|(_, value)| value);
        let value = value.ok_or_else(|| format!("`{name}` is missing"))?;
        let number = value.parse::<u64>().map_err(|_nan| format!("`{name}` is not a number"))?;
        if number > max { Err(format!("`{name}` is above {max}")) } else { Ok(number) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Request, Error> {
        read(text.as_bytes())
    }

    #[test]
    fn the_query_is_read_and_bad_numbers_are_named() {
        let good = request("GET /work?x=1&ms=25 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!((good.method.as_str(), good.path.as_str()), ("GET", "/work"));
        assert_eq!(good.number("ms", 100), Ok(25));
        assert_eq!(good.number("ms", 10), Err("`ms` is above 10".into()));
        assert_eq!(good.number("no", 10), Err("`no` is missing".into()));
        let bad = request("GET /work?ms=-1 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(bad.number("ms", 10), Err("`ms` is not a number".into()));
    }

    #[test]
    fn what_is_not_http_is_refused_and_bounded() {
        assert_eq!(request("\x16\x03\x01\r\n\r\n"), Err(Error::Malformed));
        assert_eq!(request("GET /\r\n\r\n"), Err(Error::Malformed));
        assert_eq!(request("GET x HTTP/1.1\r\n\r\n"), Err(Error::Malformed));
        assert_eq!(request("GET / HTTP/1.1\r\n"), Err(Error::Gone));
        assert_eq!(request(&"x".repeat(100_000)), Err(Error::TooLong));
    }
}
