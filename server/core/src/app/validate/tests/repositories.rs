//! Repository addresses, the good ones and the attacks.

use super::*;
use crate::policy::{Host, Scheme};

const OTHER_SCHEMES: [&str; 16] = [
    "file:///etc",
    "/etc",
    "ext::sh -c id",
    "http://169.254.169.254",
    "git@-host:x",
    "ssh://-oProxyCommand=touch x/y",
    "git://github.com/a/b",
    "HTTPS://github.com/a/b",
    "https:/github.com/a/b",
    "https:github.com/a/b",
    "github.com/a/b",
    "",
    "ftp://a.b/c",
    " https://github.com/a/b",
    "data:text/plain,x",
    "https\n://github.com/a/b",
];

const OPTIONS: [&str; 8] = [
    "-u./payload",
    "--upload-pack=touch x",
    "https://-oProxyCommand=x/y",
    "https://-host/a",
    "https://github.com/%2d%2dupload-pack=x",
    "https://github.com/a%0ab",
    "https://github.com/--upload-pack=x",
    "https://github.com/a/-b",
];

const USERS: [&str; 6] = [
    "https://u:p@github.com/a/b",
    "https://u@github.com/a/b",
    "https://@github.com/a/b",
    "https://github.com@127.0.0.1/a/b",
    "https://127.0.0.1:x@github.com/a/b",
    "https://-a.com:443@/x",
];

const PRIVATE_HOSTS: [&str; 65] = [
    "https://127.0.0.1/a/b",
    "https://127.1/a/b",
    "https://127.0.0.1./a/b",
    "https://2130706433/a/b",
    "https://0x7f000001/a/b",
    "https://0x7f.1/a/b",
    "https://0177.0.0.1/a/b",
    "https://017700000001/a/b",
    "https://0x7F.0.0.0x1/a/b",
    "https://0/a/b",
    "https://0.0.0.0/a/b",
    "https://1.1/a/b",
    "https://1.2.3.4.5/a/b",
    "https://10.1.2.3/a/b",
    "https://172.16.0.1/a/b",
    "https://172.31.255.255/a/b",
    "https://192.168.1.1/a/b",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/a/b",
    "https://198.18.0.1/a/b",
    "https://224.0.0.1/a/b",
    "https://255.255.255.255/a/b",
    "https://168.63.129.16/a/b",
    "https://192.0.2.1/a/b",
    "https://[::1]/a/b",
    "https://[::]/a/b",
    "https://[::ffff:127.0.0.1]/a/b",
    "https://[::127.0.0.1]/a/b",
    "https://[fe80::1]/a/b",
    "https://[fe80::1%25eth0]/a/b",
    "https://[fd00:ec2::254]/a/b",
    "https://[fc00::1]/a/b",
    "https://[64:ff9b::7f00:1]/a/b",
    "https://[2002:7f00:1::]/a/b",
    "https://[2001:0:7f00:1::]/a/b",
    "https://[ff02::1]/a/b",
    "https://[2001:db8::1]/a/b",
    "https://[::1/a/b",
    "https://[]/a/b",
    "https://localhost/a/b",
    "https://LOCALHOST/a/b",
    "https://localhost./a/b",
    "https://a.localhost/a/b",
    "https://intranet/a/b",
    "https://git.internal/a/b",
    "https://metadata.google.internal/a/b",
    "https://printer.local/a/b",
    "https://git.lan/a/b",
    "https://nas.home.arpa/a/b",
    "https://1.0.0.127.in-addr.arpa/a/b",
    "https://127.0.0.1.nip.io/a/b",
    "https://localtest.me/a/b",
    "https://github.com./a/b",
    "https://github.com:/a/b",
    "https://github.com:0/a/b",
    "https://github.com:65536/a/b",
    "https://github.com:+443/a/b",
    "https://github.com:0443/a/b",
    "https://github.com:443:1/a/b",
    "https:///a/b",
    "https://.com/a/b",
    "https://a..b/a/b",
    "https://gith%75b.com/a/b",
    "https://127%2e0.0.1/a/b",
    "https://GitHub.com/a/b",
];

const UNCLEAR: [&str; 15] = [
    "https://github.com",
    "https://github.com/",
    "https://github.com//a",
    "https://github.com/a/../b",
    "https://github.com/./b",
    "https://github.com/a?b",
    "https://github.com/a#b",
    "https://github.com?a",
    "https://github.com/a b",
    "https://github.com/a\nb",
    "https://github.com/a\tb",
    "https://github.com/a\0b",
    "https://github.com/\u{202e}b",
    "https://g\u{456}thub.com/a",
    "https://github.com\\a/b",
];

fn refused(urls: &[&str], reason: &str) {
    for url in urls {
        check(url, |r| r.source = repo(url), &[("repo", reason)]);
    }
}

#[test]
fn repositories_that_lead_elsewhere_are_refused() {
    refused(&OTHER_SCHEMES, "REPO_SCHEME");
    refused(&OPTIONS, "REPO_OPTION_LIKE");
    refused(&USERS, "REPO_USERINFO");
    refused(&PRIVATE_HOSTS, "REPO_HOST_PRIVATE");
    refused(&UNCLEAR, "INVALID");
    let long = format!("https://github.com/{}", "a".repeat(2_048 - 19));
    check("as long as may be", |r| r.source = repo(&long), &[]);
    check("too long", |r| r.source = repo(&format!("{long}a")), &[("repo", "TOO_LARGE")]);
}

#[test]
fn ordinary_repositories_pass() {
    for url in [
        "https://github.com/rust-lang/rust",
        "https://github.com/rust-lang/rust.git",
        "https://gitlab.com/group/sub/project/",
        "https://git.example.com:8443/~user/a_b.git",
        "https://xn--bcher-kva.ch/a",
        "https://1.1.1.1/a/b",
        "https://[2606:4700::1111]:443/a/b",
        "https://123.github.io/a",
        "https://3com.com/a",
        "https://a.b0/x",
    ] {
        check(url, |r| r.source = repo(url), &[]);
    }
    let at = |revision: &str| {
        let url = "https://github.com/a/b".to_owned();
        RequestedSource::Repo { url, revision: text(revision) }
    };
    for good in ["main", "v1.2.3", "feature/x-1", "0123456789abcdef0123456789abcdef01234567"] {
        check(good, |r| r.source = at(good), &[]);
    }
    check("an option", |r| r.source = at("--exec=x"), &[("repo.revision", "REPO_OPTION_LIKE")]);
    for bad in ["", "a..b", "a b", "a~1", "@{u}", "a//b", "/a", "a/", ".a", "a.lock", "a\n", "a:b"]
    {
        check(bad, |r| r.source = at(bad), &[("repo.revision", "INVALID")]);
    }
}

/// What is wrong with the address under a policy that lists hosts.
fn under(fetch: &Fetch, url: &str) -> Vec<String> {
    let request = OnboardRequest { source: repo(url), ..request() };
    let violations = validate(Env::Stage, fetch, &request, false).err().unwrap_or_default();
    violations.into_iter().map(|violation| violation.reason).collect()
}

#[test]
fn a_listed_host_passes_by_its_scheme_and_port_and_nothing_else_of_it() {
    let entry = |host: &str, scheme, port| Host { host: host.to_owned(), scheme, port };
    let hosts = vec![
        entry("127.0.0.1", Scheme::Http, 8_080),
        entry("git.corp.internal", Scheme::Https, 443),
        entry("::1", Scheme::Https, 8_443),
    ];
    let fetch = Fetch { hosts, ..Fetch::default() };
    for good in [
        "http://127.0.0.1:8080/a.git",
        "https://git.corp.internal/a/b",
        "https://git.corp.internal:443/a/b",
        "https://[::1]:8443/a",
        "https://github.com/a/b",
    ] {
        assert_eq!(under(&fetch, good), [""; 0], "{good}");
    }
    for (bad, reason) in [
        ("http://127.0.0.1/a.git", "REPO_SCHEME"),
        ("http://127.0.0.1:8081/a.git", "REPO_SCHEME"),
        ("https://127.0.0.1:8080/a.git", "REPO_HOST_PRIVATE"),
        ("http://git.corp.internal/a/b", "REPO_SCHEME"),
        ("https://git.corp.internal:8443/a/b", "REPO_HOST_PRIVATE"),
        ("https://sub.git.corp.internal/a/b", "REPO_HOST_PRIVATE"),
        ("https://u@git.corp.internal/a/b", "REPO_USERINFO"),
        ("https://git.corp.internal/a/../b", "INVALID"),
        ("https://git.corp.internal/--upload-pack=x", "REPO_OPTION_LIKE"),
        ("http://github.com/a/b", "REPO_SCHEME"),
    ] {
        assert_eq!(under(&fetch, bad), [reason], "{bad}");
    }
    let strict = Fetch { public: false, ..fetch };
    assert_eq!(under(&strict, "https://github.com/a/b"), ["REPO_HOST_NOT_LISTED"]);
    assert_eq!(under(&strict, "https://git.corp.internal/a/b"), [""; 0]);
}

#[test]
fn what_was_let_in_says_where_it_leads() {
    let parse = |url: &str| RepoUrl::parse(url, &Fetch::default()).unwrap();
    let plain = parse("https://github.com/a/b");
    assert_eq!((plain.host.as_str(), plain.port, plain.listed), ("github.com", 443, false));
    let six = parse("https://[2606:4700::1111]:8443/a");
    assert_eq!((six.host.as_str(), six.port), ("2606:4700::1111", 8_443));
    let error = RepoUrl::parse("https://127.0.0.1/a", &Fetch::default()).unwrap_err();
    assert!(error.contains("public host"), "{error}");
}

#[test]
fn an_app_from_a_repository_works_in_its_release_and_files_need_an_address() {
    let files = |r: &mut OnboardRequest| {
        r.runtime = "static".to_owned();
        r.source = repo("https://github.com/a/b");
    };
    check("no address", files, &[("listen", "REQUIRED")]);
    let heard = |r: &mut OnboardRequest| {
        files(r);
        r.listen = text("127.0.0.1:8080");
    };
    check("an address", heard, &[]);
    let elsewhere = |r: &mut OnboardRequest| {
        r.source = repo("https://github.com/a/b");
        r.working_dir = text("/srv");
    };
    check("it works in its release", elsewhere, &[("working_dir", "FORBIDDEN")]);
}
