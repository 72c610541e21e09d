//! Fetching: one commit of one repository, by git, from nowhere but where the policy allows.
//!
//! The name is resolved here, every address it has is judged, and git is told to connect to exactly these: a name that resolves to
//! something else a moment later changes nothing. No redirect is followed, nobody is asked for a password, no configuration but
//! what stands here is read, no hook, filter, submodule or large-file server is consulted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use agentd_core::app::{RepoUrl, is_public};
use agentd_core::policy::Fetch;
use tokio::time::{Instant, timeout};

use super::Error;
use super::releases::Stage;
use super::step::{Bench, Bounds};

/// Longest wait for the addresses of a name.
const RESOLVE: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// The oldest git that connects where it is told to (`http.curloptResolve`).
const GIT_MIN: (u32, u32) = (2, 37);
const WHAT: &str = "the repository";

/// What is to be fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order<'a> {
    /// Where from.
    pub(super) url: &'a str,
    /// Branch, tag or commit.
    pub(super) revision: Option<&'a str>,
    /// What the policy allows.
    pub(super) rules: &'a Fetch,
}

/// Fetches into the stage. Returns the commit.
///
/// # Errors
/// The address is not allowed, or git failed or had to be ended.
pub(super) async fn fetch(
    bench: &Bench<'_>,
    stage: &Stage,
    order: Order<'_>,
) -> Result<String, Error> {
    let url = RepoUrl::parse(order.url, order.rules).map_err(Error::NotAllowed)?;
    let addresses = resolve(&url).await?;
    git_is_new_enough(bench, stage, order).await?;
    let deadline = Instant::now() + Duration::from_millis(order.rules.timeout_ms);
    let bounds = |directory| Bounds {
        what: WHAT,
        deadline,
        timeout_ms: order.rules.timeout_ms,
        directory,
        bytes_max: order.rules.bytes_max,
    };
    let settings = settings(&url, &addresses);
    let git = |words: &[&str]| -> Vec<String> {
        let words = words.iter().map(|word| (*word).to_owned());
        ["git".to_owned()].into_iter().chain(settings.clone()).chain(words).collect()
    };
    let env = environment(bench, stage, &url);
    let in_git = bounds(&stage.git);
    bench.run(git(&["init", "--quiet", "--bare", "--template="]), env.clone(), in_git).await?;
    let wanted = order.revision.unwrap_or("HEAD");
    let words = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"];
    let words = [&words[..], &["--no-auto-gc", "--", order.url, wanted]].concat();
    bench.run(git(&words), env.clone(), in_git).await?;
    let words = ["checkout", "--quiet", "--force", "--detach", "--no-recurse-submodules"];
    let words = [&words[..], &["FETCH_HEAD"]].concat();
    let mut in_tree = env;
    in_tree.insert("GIT_WORK_TREE".to_owned(), stage.src.display().to_string());
    bench.run(git(&words), in_tree, bounds(&stage.src)).await?;
    let head = stage.git.join("HEAD");
    let commit = std::fs::read_to_string(&head).map_err(Error::io("reading", &head))?;
    let commit = commit.trim();
    let is_commit = commit.len() >= 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    if is_commit { Ok(commit.to_owned()) } else { Err(Error::NoCommit) }
}

/// The addresses git may connect to.
async fn resolve(url: &RepoUrl) -> Result<Vec<IpAddr>, Error> {
    let unknown = || Error::Unresolved(url.host.clone());
    let found = timeout(RESOLVE, tokio::net::lookup_host((url.host.as_str(), url.port))).await;
    let found = found.map_err(|_late| unknown())?.map_err(|_unknown| unknown())?;
    judge(url, found.map(|address| address.ip()).collect())
}

/// One address that is not public is one too many: whoever runs the name chooses which of them is used.
fn judge(url: &RepoUrl, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Error> {
    if !url.listed
        && let Some(private) = addresses.iter().find(|address| !is_public(**address))
    {
        return Err(Error::Private { host: url.host.clone(), address: *private });
    }
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() { Err(Error::Unresolved(url.host.clone())) } else { Ok(addresses) }
}

/// What git is told on every call; nothing else tells it anything.
fn settings(url: &RepoUrl, addresses: &[IpAddr]) -> Vec<String> {
    let scheme = url.scheme.as_str();
    let mut settings = vec![
        "protocol.allow=never".to_owned(),
        format!("protocol.{scheme}.allow=always"),
        "http.followRedirects=false".to_owned(),
        "http.proxy=".to_owned(),
        "http.sslVerify=true".to_owned(),
        "http.lowSpeedLimit=1000".to_owned(),
        "http.lowSpeedTime=30".to_owned(),
        "credential.helper=".to_owned(),
        "core.hooksPath=/dev/null".to_owned(),
        "core.fsmonitor=false".to_owned(),
        "core.symlinks=true".to_owned(),
        "submodule.recurse=false".to_owned(),
        "fetch.fsckObjects=true".to_owned(),
        "fetch.unpackLimit=1".to_owned(),
        "gc.auto=0".to_owned(),
        "maintenance.auto=false".to_owned(),
        "pack.threads=1".to_owned(),
        "advice.detachedHead=false".to_owned(),
    ];
    // A plain address needs no resolution.
    if url.host.parse::<IpAddr>().is_err() {
        let list: Vec<String> = addresses.iter().map(bracketed).collect();
        let (host, port) = (&url.host, url.port);
        settings.push(format!("http.curloptResolve={host}:{port}:{}", list.join(",")));
    }
    settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
}

fn bracketed(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn environment(bench: &Bench<'_>, stage: &Stage, url: &RepoUrl) -> BTreeMap<String, String> {
    let (git, home) = (stage.git.display().to_string(), stage.home.display().to_string());
    [
        ("PATH", bench.sandbox.path.as_str()),
        ("HOME", &home),
        ("TMPDIR", &home),
        ("LC_ALL", "C.UTF-8"),
        ("GIT_DIR", &git),
        ("GIT_ALLOW_PROTOCOL", url.scheme.as_str()),
        ("GIT_PROTOCOL_FROM_USER", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// An older git would not know that it is told where to connect, and would not say so.
async fn git_is_new_enough(
    bench: &Bench<'_>,
    stage: &Stage,
    order: Order<'_>,
) -> Result<(), Error> {
    let bounds = Bounds {
        what: WHAT,
        deadline: Instant::now() + RESOLVE,
        timeout_ms: order.rules.timeout_ms,
        directory: &stage.git,
        bytes_max: order.rules.bytes_max,
    };
    let path = ("PATH".to_owned(), bench.sandbox.path.clone());
    let argv = vec!["git".to_owned(), "version".to_owned()];
    bench.run(argv, BTreeMap::from([path]), bounds).await?;
    let said = std::fs::read_to_string(&stage.log).unwrap_or_default();
    let version = said.lines().find_map(version_of);
    if version.is_some_and(|version| version >= GIT_MIN) {
        Ok(())
    } else {
        let (major, minor) = GIT_MIN;
        Err(Error::OldGit { needed: format!("{major}.{minor}"), said: said.trim().to_owned() })
    }
}

fn version_of(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("git version ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use agentd_core::policy::{Host, Scheme};

    use super::*;

    fn url(listed: bool) -> RepoUrl {
        let host = "git.example.com".to_owned();
        RepoUrl { scheme: Scheme::Https, host, port: 443, listed }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_that_leads_home_is_refused_even_if_only_one_of_its_addresses_does() {
        for bad in ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1"]
        {
            let error = judge(&url(false), ips(&["140.82.121.3", bad])).unwrap_err();
            assert!(matches!(&error, Error::Private { address, .. } if *address == ips(&[bad])[0]));
            assert!(judge(&url(true), ips(&[bad])).is_ok(), "a human vouches for it");
        }
        let public = ips(&["140.82.121.4", "140.82.121.3", "140.82.121.3"]);
        assert_eq!(judge(&url(false), public).unwrap(), ips(&["140.82.121.3", "140.82.121.4"]));
        assert!(matches!(judge(&url(true), Vec::new()), Err(Error::Unresolved(_))));
    }

    #[test]
    fn git_connects_to_the_addresses_that_were_judged() {
        let told = settings(&url(false), &ips(&["140.82.121.3", "2606:4700::1"]));
        let pin = "http.curloptResolve=git.example.com:443:140.82.121.3,[2606:4700::1]";
        assert!(told.contains(&pin.to_owned()), "{told:?}");
        for rule in
            ["protocol.allow=never", "protocol.https.allow=always", "http.followRedirects=false"]
        {
            assert!(told.contains(&rule.to_owned()), "{rule}");
        }
        assert!(!told.iter().any(|word| word.contains("protocol.http.allow")));
    }

    #[test]
    fn the_pin_holds_git_connects_to_the_address_and_not_to_what_the_name_says() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = "no-such-host.invalid".to_owned();
        let url = RepoUrl { scheme: Scheme::Http, host, port, listed: true };
        let ask = |settings: &[String]| {
            let mut git = std::process::Command::new("git");
            git.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").args(settings);
            git.args(["ls-remote", &format!("http://no-such-host.invalid:{port}/x")]);
            git.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()
        };
        let Ok(mut pinned) = ask(&settings(&url, &ips(&["127.0.0.1"]))) else {
            assert!(std::env::var("CI").is_err(), "git is part of the machine that decides");
            eprintln!("NOT RUN: there is no `git`");
            return;
        };
        let (caller, _) = listener.accept().unwrap();
        drop(caller);
        assert!(!pinned.wait().unwrap().success());
        // Without the pin the name counts, and it leads nowhere.
        listener.set_nonblocking(true).unwrap();
        assert!(!ask(&settings(&url, &[])[..0]).unwrap().wait().unwrap().success());
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_git_that_cannot_be_told_is_too_old() {
        assert_eq!(version_of("git version 2.39.5"), Some((2, 39)));
        assert_eq!(version_of("git version 2.36.1 (Apple Git-146)"), Some((2, 36)));
        assert!(version_of("git version 2.36.1").unwrap() < GIT_MIN);
        assert_eq!(version_of("gti"), None);
    }

    #[tokio::test]
    async fn a_listed_name_is_resolved_and_an_unknown_one_is_said_to_be() {
        let hosts = vec![Host { host: "localhost".into(), scheme: Scheme::Https, port: 443 }];
        let fetch = Fetch { hosts, ..Fetch::default() };
        let local = RepoUrl::parse("https://localhost/a", &fetch).unwrap();
        assert!(resolve(&local).await.unwrap().iter().all(IpAddr::is_loopback));
        let nowhere = RepoUrl { host: "no-such-host.invalid".into(), ..local };
        assert!(matches!(resolve(&nowhere).await, Err(Error::Unresolved(_))));
    }
}
