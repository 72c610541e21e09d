//! Repositories that are broken, gone, too large, or lead elsewhere.

use std::os::unix::fs::symlink;

use agentd::deploy::Error;
use agentd_core::app::{Runtime, Source};

use super::git::{self, GitServer, Manner};
use super::world::World;

fn world() -> Option<World> {
    git::is_there("git").then(World::new)
}

/// Text that no compression makes smaller.
fn noise(bytes: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + (state % 95) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_cut_off_half_way_is_no_release() {
    let Some(world) = world() else { return };
    world.git.commit("half", &[("main.py", "print()\n"), ("data", &noise(200_000))]);
    let app = world.app("half", Runtime::Python);
    world.git.behave(Manner::HalfWay);
    let error = world.make(&app, 1).await.unwrap_err();
    assert!(matches!(&error, Error::Failed { step, .. } if step.starts_with("git")), "{error}");
    world.assert_clean(&app);
    world.git.behave(Manner::Serve);
    world.make(&app, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_vanished_is_said_to_be_gone_and_what_was_built_stays() {
    let Some(world) = world() else { return };
    world.git.commit("gone", &[("main.py", "print()\n")]);
    let app = world.app("gone", Runtime::Python);
    let first = world.make(&app, 1).await.unwrap();
    world.git.behave(Manner::Gone);
    let error = world.make(&app, 2).await.unwrap_err().to_string();
    assert!(error.contains("not found"), "{error}");
    assert_eq!(world.make(&app, 1).await.unwrap(), first, "what is kept needs no server");
    assert_eq!(world.deployer.kept(&app, 1).unwrap(), first);
    assert!(matches!(world.deployer.kept(&app, 2), Err(Error::NoRelease(2))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_to_wherever_it_leads() {
    let Some(world) = world() else { return };
    let private = GitServer::start();
    private.commit("moved", &[("main.py", "print()\n")]);
    world.git.commit("moved", &[("main.py", "print()\n")]);
    world.git.behave(Manner::Redirect(format!("http://127.0.0.1:{}", private.port())));
    let app = world.app("moved", Runtime::Python);
    let error = world.make(&app, 1).await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error}");
    assert_eq!(private.requests(), 0, "nobody knocked");
    world.assert_clean(&app);
    // A git that is not told otherwise follows it, so there was something to refuse.
    world.git.git("moved", &["ls-remote", &world.git.url("moved")]);
    assert!(private.requests() > 0);
    world.git.behave(Manner::Serve);
    world.make(&app, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_policy_does_not_list_any_more_is_not_asked() {
    let Some(mut world) = world() else { return };
    world.git.commit("unlisted", &[("main.py", "print()\n")]);
    let app = world.app("unlisted", Runtime::Python);
    world.rules.fetch.hosts.clear();
    let error = world.make(&app, 1).await.unwrap_err();
    assert!(matches!(error, Error::NotAllowed(_)), "{error}");
    assert_eq!(world.git.requests(), 0);
    world.assert_clean(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_waited_for_only_so_long() {
    let Some(mut world) = world() else { return };
    world.rules.fetch.timeout_ms = 1_500;
    world.git.commit("silent", &[("main.py", "print()\n")]);
    world.git.behave(Manner::Silent);
    let app = world.app("silent", Runtime::Python);
    let error = world.make(&app, 1).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { what: "the repository", .. }), "{error}");
    world.assert_clean(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_too_large_is_refused_packed_or_unpacked() {
    let Some(mut world) = world() else { return };
    world.rules.fetch.bytes_max = 1 << 20;
    world.git.commit("large", &[("main.py", "print()\n"), ("data", &noise(3 << 20))]);
    let error = world.refused(&world.app("large", Runtime::Python)).await;
    assert!(matches!(error, Error::TooLarge { what: "the repository", .. }), "{error}");
    // A few kilobytes on the way, and more than anybody allowed when they are unpacked: faster than anybody looks.
    let zeros = "0".repeat(600_000);
    let names: Vec<String> = (0..4).map(|n| format!("zeros/{n}")).collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), &*zeros)).collect();
    files.push(("main.py", "print()\n"));
    world.git.commit("bomb", &files);
    let error = world.refused(&world.app("bomb", Runtime::Python)).await;
    assert!(matches!(error, Error::TooLarge { what: "the repository", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_lead_out_of_the_release_are_refused_before_anything_is_built() {
    let Some(world) = world() else { return };
    for (n, target) in ["/etc/passwd", "../../../../data", "nowhere"].into_iter().enumerate() {
        let name = format!("links-{n}");
        world.git.commit(&name, &[("go.mod", "module x\n"), ("behave.sh", "touch $HOME/ran\n")]);
        std::fs::create_dir(world.git.tree(&name).join("sub")).unwrap();
        symlink(target, world.git.tree(&name).join("sub/link")).unwrap();
        world.git.commit_all(&name);
        let error = world.refused(&world.app(&name, Runtime::Go)).await;
        assert!(matches!(&error, Error::Link(path) if path == "sub/link"), "{target}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_filters_and_hooks_of_a_repository_do_nothing() {
    let Some(world) = world() else { return };
    let inner = world.git.commit("inner", &[("file", "x\n")]);
    let modules =
        format!("[submodule \"sub\"]\n\tpath = sub\n\turl = {}\n", world.git.url("inner"));
    let files = [
        ("main.py", "print()\n"),
        (".gitmodules", modules.as_str()),
        (".gitattributes", "* filter=evil\n*.bin filter=lfs\n"),
        (".git-hooks/post-checkout*", "#!/bin/sh\ntouch $HOME/ran\n"),
        ("big.bin", "version https://git-lfs.github.com/spec/v1\n"),
    ];
    world.git.commit("outer", &files);
    let link = format!("160000,{inner},sub");
    world.git.git("outer", &["update-index", "--add", "--cacheinfo", &link]);
    world.git.git("outer", &["commit", "--quiet", "--message", "with a submodule"]);
    let release = world.make(&world.app("outer", Runtime::Python), 1).await.unwrap();
    assert_eq!(std::fs::read_dir(release.dir.join("sub")).unwrap().count(), 0);
    let big = std::fs::read_to_string(release.dir.join("big.bin")).unwrap();
    assert!(big.starts_with("version"), "a pointer stays a pointer");
    assert!(!release.dir.join(".git").exists(), "what git needs is not part of a release");
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_tags_and_commits_are_found_and_others_are_said_to_be_missing() {
    let Some(world) = world() else { return };
    let first = world.git.commit("many", &[("main.py", "print(1)\n")]);
    world.git.git("many", &["tag", "--annotate", "v1", "--message", "v1"]);
    let second = world.git.commit("many", &[("main.py", "print(2)\n")]);
    world.git.git("many", &["branch", "feature/x"]);
    world.git.commit("many", &[("main.py", "print(3)\n")]);
    let at = |revision: &str| {
        let mut app = world.app("many", Runtime::Python);
        let revision = Some(revision.to_owned());
        app.source = Source::Repo { url: world.git.url("many"), revision };
        app
    };
    for (n, (revision, commit)) in
        [("v1", &first), ("feature/x", &second), (second.as_str(), &second)].into_iter().enumerate()
    {
        let n = u32::try_from(n).unwrap() + 1;
        let release = world.make(&at(revision), n).await.unwrap();
        assert_eq!(release.name(), format!("{n}-{}", &commit[..12]), "{revision}");
    }
    let error = world.make(&at("nope"), 9).await.unwrap_err().to_string();
    assert!(error.contains("couldn't find remote ref nope"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_another_kind_is_not_guessed_at() {
    let Some(world) = world() else { return };
    world.git.commit("other", &[("server.rb", "puts 1\n")]);
    let error = world.refused(&world.app("other", Runtime::Nodejs)).await.to_string();
    let said = "the repository is no nodejs app: it has no `package.json` or `index.js`";
    assert_eq!(error, said);
}
