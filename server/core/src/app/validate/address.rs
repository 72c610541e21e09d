//! Addresses on which an app listens and is asked for its health. Nothing here leaves the machine's own networks for sure, so the
//! rules are about one clear notation and about keeping away from metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Broken, INVALID, REQUIRED, broken, is_deceptive};

const URL_BYTES_MAX: usize = 2_048;
const SERVICE_BYTES_MAX: usize = 255;

const LISTEN: Broken = broken(
    INVALID,
    "must be `ip:port` with one address of this host (no wildcard, no name) and a port from 1 to \
     65535",
    "write it like 127.0.0.1:8080 or [::1]:8080",
);
const HTTP: Broken = broken(
    INVALID,
    "must be `http://host:port/path` in plain ASCII, without user, `#` and percent escapes in the \
     host, or a path from `/` on the listen address",
    "write it like http://127.0.0.1:8080/healthz",
);
const PEER: Broken = broken(
    INVALID,
    "must be `host:port` with a name or a plain address, or empty for the listen address",
    "write it like 127.0.0.1:8080",
);
const UNREACHABLE: Broken = broken(
    "HEALTH_HOST_FORBIDDEN",
    "must not be a wildcard, multicast, link-local or metadata address",
    "use the address on which the app itself answers",
);
const NO_LISTEN: Broken = broken(
    REQUIRED,
    "needs the `listen` address, or a full address of its own",
    "give `listen`, or write the host and port",
);
const SERVICE: Broken = broken(
    INVALID,
    "must be at most 255 letters, digits, `.`, `_`, `/` and `-`",
    "use the full name of the gRPC service, or leave it empty",
);

/// Judges a listen address.
pub(super) fn listen(text: &str) -> Result<(), Broken> {
    let address: SocketAddr = text.parse().map_err(|_not_an_address| LISTEN)?;
    let ip = address.ip();
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    let explicit = !ip.is_unspecified() && !ip.is_multicast() && !broadcast;
    // The same address in another notation would be another text in every digest.
    if explicit && address.port() > 0 && address.to_string() == text { Ok(()) } else { Err(LISTEN) }
}

/// Judges the URL of an HTTP probe; a path alone is one on the app's own address.
pub(super) fn http(url: &str, own: Option<&str>) -> Result<String, Broken> {
    let plain = |c: char| c.is_ascii_graphic() && c != '\\' && c != '#' && !is_deceptive(c);
    if url.len() > URL_BYTES_MAX || !url.chars().all(plain) {
        return Err(HTTP);
    }
    if url.starts_with('/') {
        let own = own.ok_or(NO_LISTEN)?;
        return Ok(format!("http://{own}{url}"));
    }
    let rest = url.strip_prefix("http://").ok_or(HTTP)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if path.starts_with('?') {
        return Err(HTTP);
    }
    host_and_port(authority, HTTP)?;
    Ok(url.to_owned())
}

/// Judges the address of a TCP or gRPC probe; an empty one is the app's own.
pub(super) fn peer(address: &str, own: Option<&str>) -> Result<String, Broken> {
    if address.is_empty() {
        return own.map(str::to_owned).ok_or(NO_LISTEN);
    }
    host_and_port(address, PEER)?;
    Ok(address.to_owned())
}

/// Judges the name of a gRPC service.
pub(super) fn service(name: &str) -> Result<(), Broken> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    if name.len() <= SERVICE_BYTES_MAX && name.bytes().all(plain) { Ok(()) } else { Err(SERVICE) }
}

fn host_and_port(authority: &str, otherwise: Broken) -> Result<(), Broken> {
    let (host, number) = authority.rsplit_once(':').ok_or_else(|| otherwise.clone())?;
    if port(number).is_none() {
        return Err(otherwise);
    }
    let address = if let Some(inside) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(IpAddr::V6(inside.parse().map_err(|_not_an_address| otherwise)?))
    } else if is_numeric(host) {
        Some(IpAddr::V4(host.parse().map_err(|_not_an_address| otherwise)?))
    } else if is_dns_name(host) {
        None
    } else {
        return Err(otherwise);
    };
    let metadata = matches!(host, "metadata" | "metadata.google.internal" | "instance-data");
    if metadata || address.is_some_and(is_forbidden) { Err(UNREACHABLE) } else { Ok(()) }
}

/// Addresses that are nobody's health check: link-local ones carry the metadata services of clouds.
fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => {
            // The metadata address of one cloud is a unique local one.
            let metadata = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
            let mapped = v6.to_ipv4_mapped().is_some();
            let [first, ..] = v6.segments();
            let link_local = first & 0xffc0 == 0xfe80;
            v6.is_unspecified() || v6.is_multicast() || link_local || mapped || v6 == metadata
        }
    }
}

fn is_forbidden_v4(v4: Ipv4Addr) -> bool {
    let broadcast = v4 == Ipv4Addr::BROADCAST;
    let known = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
    let zero = matches!(v4.octets(), [0, ..]);
    zero || v4.is_multicast() || v4.is_link_local() || broadcast || known.contains(&v4)
}

/// A host name or a plain address in the one notation that cannot be read in two ways, without brackets.
pub(crate) fn is_host(text: &str) -> bool {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().is_ok();
    }
    if is_numeric(text) { text.parse::<Ipv4Addr>().is_ok() } else { is_dns_name(text) }
}

/// A port without sign and leading zeros.
pub(super) fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

/// Whether something would read `host` as an IPv4 address: its last part is a number in some notation (WHATWG URL, "ends in a
/// number").
pub(super) fn is_numeric(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let digits = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    digits || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A host name of RFC 1123 in lower case, without a final dot.
pub(super) fn is_dns_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}
