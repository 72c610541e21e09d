//! What may be fetched, and how what was fetched is built and run. What comes from a repository is foreign code until somebody has
//! read it, and nobody has.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::lint::Faults;
use super::{HOUR, MINUTE};
use crate::app::{Env, Millis, is_host};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Most hosts that may be listed.
const HOSTS_MAX: usize = 100;
/// Longest search path, in bytes.
const PATH_BYTES_MAX: usize = 1_024;

/// Where repositories may come from, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// Whether any public host may be fetched from by https; `false` leaves only `hosts`.
    pub public: bool,
    /// Hosts that may be fetched from beside. Whoever lists a host vouches for it: only here private addresses are possible.
    pub hosts: Vec<Host>,
    /// Most bytes of one repository.
    pub bytes_max: u64,
    /// Most time for one repository.
    pub timeout_ms: Millis,
}

/// One host that may be fetched from, by one scheme on one port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name or plain address, as it stands in the URL; an IPv6 address without brackets.
    pub host: String,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// On which port.
    pub port: u16,
}

/// How a repository is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Encrypted, and the host proves who it is.
    Https,
    /// In plain text; on loopback only, where nobody is in between.
    Http,
}

impl Scheme {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// The port of a URL that names none.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

impl Default for Fetch {
    fn default() -> Self {
        let (bytes_max, timeout_ms) = (512 * MIB, 2 * MINUTE);
        Self { public: true, hosts: Vec::new(), bytes_max, timeout_ms }
    }
}

impl Fetch {
    /// Whether a human has listed exactly this host.
    #[must_use]
    pub fn lists(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        self.hosts.iter().any(|h| h.scheme == scheme && h.host == host && h.port == port)
    }
}

/// How a fetched repository is built and run. The limits of one process hold for everything that is built and for every instance
/// of what was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// Most time for a build, from its first step to its last.
    pub build_timeout_ms: Millis,
    /// Most CPU time of one process of a build.
    pub build_cpu_ms: Millis,
    /// Most bytes on disk that a build may take, the repository and everything it leaves behind included.
    pub disk_bytes_max: u64,
    /// Most bytes of one file.
    pub file_bytes_max: u64,
    /// Most memory of one process that is its own to write to.
    pub memory_bytes_max: u64,
    /// Most processes and threads at once of one app, and of its build.
    pub processes_max: u32,
    /// Releases of one app that are kept beside those a rollback may need.
    pub releases_kept: u32,
    /// Where git, compilers and interpreters are looked for.
    pub path: String,
    /// First of the user ids that apps and their builds run as, where agentd is root: two for each app.
    pub first_uid: u32,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            build_timeout_ms: 10 * MINUTE,
            build_cpu_ms: 10 * MINUTE,
            disk_bytes_max: 2 * GIB,
            file_bytes_max: GIB,
            memory_bytes_max: 4 * GIB,
            processes_max: 512,
            releases_kept: 3,
            path: "/usr/local/bin:/usr/local/go/bin:/usr/bin:/bin".to_owned(),
            first_uid: 61_184,
        }
    }
}

impl Sandbox {
    /// The built-in one of an environment: environments on one host share no users.
    pub(super) fn default_for(env: Env) -> Self {
        let usual = Self::default();
        let first_uid = match env {
            Env::Dev => usual.first_uid,
            Env::Stage => usual.first_uid + 1_000,
            Env::Prod => usual.first_uid + 2_000,
        };
        Self { first_uid, ..usual }
    }
}

pub(super) fn lint(fetch: &Fetch, sandbox: &Sandbox, faults: &mut Faults) {
    hosts(&fetch.hosts, faults);
    faults.within("fetch.bytes_max", fetch.bytes_max, 1, 64 * GIB);
    faults.within("fetch.timeout_ms", fetch.timeout_ms, 1, HOUR);
    faults.within("sandbox.build_timeout_ms", sandbox.build_timeout_ms, 1, 6 * HOUR);
    faults.within("sandbox.build_cpu_ms", sandbox.build_cpu_ms, 1, 24 * HOUR);
    faults.within("sandbox.disk_bytes_max", sandbox.disk_bytes_max, 1, 1_024 * GIB);
    faults.within("sandbox.file_bytes_max", sandbox.file_bytes_max, 1, 1_024 * GIB);
    faults.within("sandbox.memory_bytes_max", sandbox.memory_bytes_max, MIB, 1_024 * GIB);
    faults.within("sandbox.processes_max", sandbox.processes_max.into(), 1, 1_000_000);
    faults.within("sandbox.releases_kept", sandbox.releases_kept.into(), 1, 100);
    let absolute = |dir: &str| dir.starts_with('/') && !dir.chars().any(char::is_control);
    let good = sandbox.path.len() <= PATH_BYTES_MAX && sandbox.path.split(':').all(absolute);
    let rule =
        format!("must be absolute directories joined by `:`, {PATH_BYTES_MAX} bytes at most");
    let fix = "write it like /usr/local/bin:/usr/bin:/bin";
    faults.unless(good, "sandbox.path", format!("{:?}", sandbox.path), rule, fix);
    // Below are the users of the system and of people.
    faults.within("sandbox.first_uid", sandbox.first_uid.into(), 1_000, 2_000_000_000);
}

fn hosts(hosts: &[Host], faults: &mut Faults) {
    let rule = format!("must be {HOSTS_MAX} at most");
    faults.unless(hosts.len() <= HOSTS_MAX, "fetch.hosts", hosts.len(), rule, "list fewer");
    for (index, Host { host, scheme, port }) in hosts.iter().enumerate().take(HOSTS_MAX) {
        let field = |name: &str| format!("fetch.hosts[{index}].{name}");
        let rule = "must be a host name in lower case, or a plain address without brackets";
        let fix = "write it as it stands in the URL";
        faults.unless(is_host(host), field("host"), format!("{host:?}"), rule, fix);
        faults.within(&field("port"), (*port).into(), 1, u16::MAX.into());
        let loopback = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        let rule = "must be https: what comes in plain text may have been changed on the way; http \
                    is for a loopback address";
        let holds = *scheme == Scheme::Https || loopback;
        faults.unless(holds, field("scheme"), scheme.as_str(), rule, "set it to https");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, lint};
    use super::*;

    fn faults(change: impl FnOnce(&mut Policy)) -> Vec<String> {
        let mut policy = Policy::default_for(Env::Stage);
        change(&mut policy);
        lint(&policy).into_iter().map(|fault| fault.field).collect()
    }

    fn host(host: &str, scheme: Scheme, port: u16) -> Host {
        Host { host: host.to_owned(), scheme, port }
    }

    #[test]
    fn plain_text_is_for_loopback_and_names_are_plain() {
        let list = |entry: Host| faults(|p| p.fetch.hosts = vec![entry]);
        assert!(list(host("127.0.0.1", Scheme::Http, 8_080)).is_empty());
        assert!(list(host("::1", Scheme::Http, 8_080)).is_empty());
        assert!(list(host("git.corp.internal", Scheme::Https, 443)).is_empty());
        assert!(list(host("10.1.2.3", Scheme::Https, 443)).is_empty());
        assert_eq!(list(host("10.1.2.3", Scheme::Http, 80)), ["fetch.hosts[0].scheme"]);
        // A name can lead anywhere, whatever it is called.
        assert_eq!(list(host("localhost", Scheme::Http, 80)), ["fetch.hosts[0].scheme"]);
        for bad in ["", "Git.example", "a b", "[::1]", "127.1", "0x7f.1", "a/b", "u@h", "-x"] {
            assert_eq!(list(host(bad, Scheme::Https, 443)), ["fetch.hosts[0].host"], "{bad}");
        }
        assert_eq!(list(host("git.example", Scheme::Https, 0)), ["fetch.hosts[0].port"]);
    }

    #[test]
    fn every_limit_is_one() {
        let mut all = faults(|p| {
            p.fetch.bytes_max = 0;
            p.fetch.timeout_ms = 0;
            p.sandbox = Sandbox {
                build_timeout_ms: 0,
                build_cpu_ms: 0,
                disk_bytes_max: 0,
                file_bytes_max: 0,
                memory_bytes_max: 0,
                processes_max: 0,
                releases_kept: 0,
                path: "bin:/usr/bin".to_owned(),
                first_uid: 0,
            };
        });
        all.sort();
        assert_eq!(all.len(), 11, "{all:?}");
        assert_eq!(all[0], "fetch.bytes_max");
    }

    #[test]
    fn a_policy_from_before_there_were_repositories_is_still_one() {
        let policy = Policy::default_for(Env::Dev);
        let mut json = serde_json::to_value(&policy).unwrap();
        let fields = json.as_object_mut().unwrap();
        fields.remove("fetch");
        fields.remove("sandbox");
        assert_eq!(serde_json::from_value::<Policy>(json).unwrap(), policy);
    }
}
