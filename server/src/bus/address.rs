//! Where Redis is. The address may hold a password, so it cannot be shown as it was written.

use std::fmt;

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

/// Longest address, in bytes.
const ADDRESS_MAX: usize = 2_048;

/// Where Redis is and how to get in. `Debug` and `Display` leave the credentials out.
#[derive(Clone)]
pub struct Address {
    /// As it was written, to tell two of them apart.
    url: String,
    info: ConnectionInfo,
}

impl Address {
    /// What [`Address::parse`] takes.
    pub const RULE: &'static str = "must be an address such as redis://127.0.0.1:6379, \
        rediss://:PASSWORD@HOST:6379/0 or redis+unix:///run/redis.sock";

    /// The address in a URL, if it is one: `redis://` (plain), `rediss://` (TLS, always verified) or `redis+unix://`.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, _) = url.split_once("://")?;
        let known = matches!(scheme, "redis" | "rediss" | "redis+unix" | "unix");
        // A fragment is where certificates could be declared unimportant.
        if !known || url.len() > ADDRESS_MAX || url.contains('#') {
            return None;
        }
        let info = url.into_connection_info().ok()?;
        Some(Self { url: url.to_owned(), info })
    }

    /// True if it holds a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.info.redis_settings().password().is_some()
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        self.info.clone()
    }

    /// `text` without the credentials, in case the other side repeats them.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let settings = self.info.redis_settings();
        // Redis repeats the arguments of a command it does not know, cut to a length of its choice.
        let text = text.split("with args beginning with").next().unwrap_or_default();
        [settings.password(), settings.username()]
            .into_iter()
            .flatten()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.info.redis_settings();
        let scheme = match self.info.addr() {
            ConnectionAddr::Unix(_) => "redis+unix",
            ConnectionAddr::TcpTls { .. } => "rediss",
            _ => "redis",
        };
        let named = settings.password().is_some() || settings.username().is_some();
        let credentials = if named { "***@" } else { "" };
        write!(f, "{scheme}://{credentials}")?;
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }
                if host.contains(':') =>
            {
                write!(f, "[{host}]:{port}")?;
            }
            other => write!(f, "{other}")?,
        }
        match settings.db() {
            0 => Ok(()),
            db => write!(f, "/{db}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Eq for Address {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_credentials() {
        for (url, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379"),
            ("redis://127.0.0.1:6380/3", "redis://127.0.0.1:6380/3"),
            ("redis://:hunter2@cache.example:6379", "redis://***@cache.example:6379"),
            ("rediss://bus:hunter2@cache.example", "rediss://***@cache.example:6379"),
            ("redis://[::1]:6380", "redis://[::1]:6380"),
            ("redis://bus@cache.example", "redis://***@cache.example:6379"),
            ("redis+unix:///run/r.sock?pass=hunter2&db=2", "redis+unix://***@/run/r.sock/2"),
            ("unix:///run/r.sock", "redis+unix:///run/r.sock"),
        ] {
            let address = Address::parse(url).expect(url);
            assert_eq!(address.to_string(), shown);
            let debug = format!("{address:?} {:?}", address.info());
            assert!(!debug.contains("hunter2"), "{debug}");
            assert_eq!(address.has_password(), url.contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("redis://127.0.0.1/?{}", "x".repeat(ADDRESS_MAX));
        for url in [
            "",
            "127.0.0.1:6379",
            "http://127.0.0.1:6379",
            "redis://",
            "redis://0.0.0.0",
            "redis://127.0.0.1/zero",
            "redis://127.0.0.1:99999",
            "rediss://cache.example/#insecure",
            &long,
        ] {
            assert!(Address::parse(url).is_none(), "{url}");
        }
    }

    #[test]
    fn credentials_are_taken_out_of_what_the_other_side_says() {
        let address = Address::parse("redis://bus:hunt%40er2@127.0.0.1").expect("an address");
        assert_eq!(address.scrub("no `hunt@er2` for `bus` here"), "no `***` for `***` here");
        let echoed = "unknown command `AUTH`, with args beginning with: `bus` `hunt@";
        assert_eq!(address.scrub(echoed), "unknown command `AUTH`, ");
    }
}
