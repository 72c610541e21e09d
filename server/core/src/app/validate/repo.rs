//! Repository addresses. A server that fetches what a stranger names must not be led to its own network, so only `https` to a
//! public name or address passes, in the one notation that cannot be read in two ways; and what the policy lists by name.
//!
//! This looks at the text alone. Whoever fetches resolves the name, checks the address it connects to with [`is_public`]'s rule
//! again (a name can resolve to anything, and to something else a moment later), and follows no redirect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Broken, INVALID, TOO_LARGE, broken, is_deceptive};
use crate::policy::{Fetch, Scheme};

const URL_BYTES_MAX: usize = 2_048;
const REVISION_BYTES_MAX: usize = 255;

const SCHEME: Broken =
    broken("REPO_SCHEME", "must begin with `https://`", "use the https address of the repository");
const USERINFO: Broken = broken(
    "REPO_USERINFO",
    "must not contain a user name or password",
    "leave out everything before the `@`, and the `@`",
);
const PRIVATE: Broken = broken(
    "REPO_HOST_PRIVATE",
    "must name a public host, in lower case as a full domain name or a plain address",
    "use the public name of the host",
);
const OPTION: Broken = broken(
    "REPO_OPTION_LIKE",
    "must not look like an option, and must not contain percent escapes",
    "write the address plainly",
);
const PLAIN: Broken = broken(
    INVALID,
    "must be plain ASCII without spaces, control characters and backslashes",
    "write the address plainly",
);
const NOT_LISTED: Broken = broken(
    "REPO_HOST_NOT_LISTED",
    "must be a host that the policy lists",
    "ask whoever keeps the policy to list it under `fetch.hosts`",
);
const PATH: Broken = broken(
    INVALID,
    "must have a path without `.`, `..` or empty components, and neither `?` nor `#`",
    "use the address that `git clone` takes",
);
const LONG: Broken =
    broken(TOO_LARGE, "must be 2048 bytes at most", "use the address of the repository itself");
const REVISION: Broken = broken(
    INVALID,
    "must be a branch, tag or commit of at most 255 letters, digits, `.`, `_`, `/`, `+` and `-`, \
     without `..`, `//` and `/` at an end",
    "name an existing branch, tag or commit",
);

/// Names that by convention or by standard (RFC 6761, 6762, 8375, 9476) do not lead to a public host.
const PRIVATE_SUFFIXES: [&str; 17] = [
    "alt",
    "arpa",
    "corp",
    "domain",
    "example",
    "home",
    "host",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "test",
];

/// Services that turn any address into a name.
const ADDRESS_NAMES: [&str; 5] = ["nip.io", "sslip.io", "xip.io", "localtest.me", "lvh.me"];

/// The address of a repository that a policy lets in, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoUrl {
    /// How it is fetched.
    pub scheme: Scheme,
    /// Name or plain address, without brackets.
    pub host: String,
    /// Given, or the usual one of the scheme.
    pub port: u16,
    /// Whether a human listed this host: then it may have any address. Otherwise every address it has must be public.
    pub listed: bool,
}

impl RepoUrl {
    /// The address, if `fetch` lets it in. What was let in when the app was onboarded is asked again before every fetch: the policy
    /// may have changed.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn parse(url: &str, fetch: &Fetch) -> Result<Self, String> {
        Self::judge(url, fetch).map_err(|broken| format!("{}; {}", broken.rule, broken.fix))
    }

    pub(super) fn judge(url: &str, fetch: &Fetch) -> Result<Self, Broken> {
        if url.len() > URL_BYTES_MAX {
            return Err(LONG);
        }
        if url.starts_with('-') {
            return Err(OPTION);
        }
        let (scheme, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (Scheme::Https, rest),
            (None, Some(rest)) => (Scheme::Http, rest),
            (None, None) => return Err(SCHEME),
        };
        let plain = |c: char| c.is_ascii_graphic() && c != '\\' && !is_deceptive(c);
        if !rest.chars().all(plain) {
            return Err(if scheme == Scheme::Https { PLAIN } else { SCHEME });
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let judged = Self::authority(scheme, authority, fetch)?;
        path_of(path)?;
        Ok(judged)
    }

    fn authority(scheme: Scheme, authority: &str, fetch: &Fetch) -> Result<Self, Broken> {
        let split = host_and_port(authority);
        if let Some((host, port)) = split {
            let port = port.unwrap_or(scheme.port());
            if fetch.lists(scheme, host, port) {
                return Ok(Self { scheme, host: host.to_owned(), port, listed: true });
            }
        }
        if scheme == Scheme::Http {
            return Err(SCHEME);
        }
        if authority.contains('@') {
            return Err(USERINFO);
        }
        if authority.starts_with('-') {
            return Err(OPTION);
        }
        let (host, port) = split.filter(|(host, _)| is_public_host(host)).ok_or(PRIVATE)?;
        if !fetch.public {
            return Err(NOT_LISTED);
        }
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port: port.unwrap_or(scheme.port()),
            listed: false,
        })
    }
}

fn path_of(path: &str) -> Result<(), Broken> {
    if path.contains('%') {
        return Err(OPTION);
    }
    let inner = path.strip_prefix('/').ok_or(PATH)?;
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let tidy = inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !tidy || path.contains(['?', '#']) {
        return Err(PATH);
    }
    if inner.split('/').any(|part| part.starts_with('-')) { Err(OPTION) } else { Ok(()) }
}

/// Judges the name of a revision; a subset of `git check-ref-format`.
pub(super) fn revision(text: &str) -> Result<(), Broken> {
    if text.starts_with('-') {
        return Err(OPTION);
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/+-".contains(&b);
    let good = (1..=REVISION_BYTES_MAX).contains(&text.len())
        && text.bytes().all(plain)
        && !text.contains("..")
        && text
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.'))
        && !text.ends_with(".lock");
    if good { Ok(()) } else { Err(REVISION) }
}

/// The host, an IPv6 address without its brackets, and the port if one is named; `None` if there is nothing like that.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(inside, _)| inside.contains(':'))?,
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            authority.split_at_checked(end)?
        }
    };
    let port = match port.strip_prefix(':') {
        // Without sign and leading zeros.
        Some(port) => Some(super::address::port(port)?),
        None if port.is_empty() => None,
        None => return None,
    };
    Some((host, port))
}

fn is_public_host(host: &str) -> bool {
    if host.contains(':') {
        return host.parse::<Ipv6Addr>().is_ok_and(|address| is_public(IpAddr::V6(address)));
    }
    if super::address::is_numeric(host) {
        // Octal, hexadecimal, decimal and short notations are not parsed, hence refused.
        return host.parse::<Ipv4Addr>().is_ok_and(|address| is_public(IpAddr::V4(address)));
    }
    let under = |suffix: &str| {
        host == suffix || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
    };
    super::address::is_dns_name(host)
        && host.contains('.')
        && !PRIVATE_SUFFIXES.iter().any(|suffix| under(suffix))
        && !ADDRESS_NAMES.iter().any(|suffix| under(suffix))
}

/// Whether an address is one that the public internet routes (IANA special-purpose registries, October 2025).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = matches!(
        address.octets(),
        [0 | 10 | 127 | 224..=255, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [192, 0, 0 | 2, _]
            | [192, 31, 196, _]
            | [192, 52, 193, _]
            | [192, 88, 99, _]
            | [192, 175, 48, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    );
    // The metadata service of one large cloud answers on a routed address.
    !special && address.octets() != [168, 63, 129, 16]
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Only global unicast, without the blocks in it that carry other addresses inside or lead nowhere: protocol assignments and
    // Teredo (2001::/23), documentation (2001:db8::/32, 3fff::/20) and 6to4 (2002::/16). Mapped and translated IPv4 addresses lie
    // outside of global unicast or in 64:ff9b::/96, which is refused with it.
    match address.segments() {
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x2002, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}
