//! Compilers and their repositories, where a build can get at them: they often lie in the home of whoever runs the test, which nobody
//! else may enter. They are linked, not copied, and nothing is downloaded.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that every user may enter.
pub(super) fn open_directory() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("agentd-tools-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The same files under another name, in directories that every user may enter.
fn linked(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            linked(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, target)?;
        } else {
            std::fs::hard_link(entry.path(), target)?;
        }
    }
    Ok(())
}

fn not_run(what: &str) {
    eprintln!("NOT RUN: {what}");
}

/// The directory of `cargo` and `rustc`, below `place`.
pub(super) fn rust(place: &Path) -> Option<PathBuf> {
    // The compiler that builds the tests, whatever stands in front of it.
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).args(["--print", "sysroot"]).output().ok();
    let sysroot = said.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let Some(sysroot) = sysroot.map(PathBuf::from).filter(|root| root.join("bin/cargo").is_file())
    else {
        not_run("there is no `cargo` beside the compiler");
        return None;
    };
    for part in ["bin", "lib"] {
        if let Err(error) = linked(&sysroot.join(part), &place.join(part)) {
            not_run(&format!("the toolchain in {} cannot be linked: {error}", sysroot.display()));
            return None;
        }
    }
    Some(place.join("bin"))
}

/// Plugins that a plain jar takes, as Maven's own directory of downloads names them.
const PLUGINS: [&str; 4] = ["resources", "compiler", "surefire", "jar"];

/// A Maven repository below `place`, of what was downloaded for other builds of whoever runs the test.
pub(super) fn maven(place: &Path) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let known = home.join(".m2/repository");
    let missing = PLUGINS.iter().find(|plugin| version(&known, plugin).is_none());
    if let Some(plugin) = missing {
        not_run(&format!("Maven has not downloaded its {plugin} plugin here yet"));
        return None;
    }
    let repository = place.join("m2");
    match linked(&known, &repository) {
        Ok(()) => Some(repository),
        Err(error) => {
            not_run(&format!("{} cannot be linked: {error}", known.display()));
            None
        }
    }
}

/// A version of a plugin whose program is there, and not only what is said about it.
fn version(repository: &Path, plugin: &str) -> Option<String> {
    let name = format!("maven-{plugin}-plugin");
    let versions = repository.join("org/apache/maven/plugins").join(&name);
    let mut found: Vec<String> = std::fs::read_dir(&versions)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|version| versions.join(version).join(format!("{name}-{version}.jar")).is_file())
        .collect();
    found.sort();
    found.pop()
}

/// A project of one class, built with the plugins of `repository`.
pub(super) fn pom(repository: &Path) -> String {
    let plugin = |plugin: &str, configuration: &str| {
        let version = version(repository, plugin).unwrap();
        format!(
            "<plugin><artifactId>maven-{plugin}-plugin</artifactId><version>{version}</version>{configuration}</plugin>"
        )
    };
    let main = "<configuration><archive><manifest><mainClass>Main</mainClass></manifest></archive></configuration>";
    let plugins: String =
        PLUGINS.iter().map(|name| plugin(name, if *name == "jar" { main } else { "" })).collect();
    let place = format!("<id>central</id><url>file://{}</url>", repository.display());
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>
<groupId>example</groupId><artifactId>web</artifactId><version>1.0.0</version>
<properties><maven.compiler.release>17</maven.compiler.release>
<project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>
<repositories><repository>{place}</repository></repositories>
<pluginRepositories><pluginRepository>{place}</pluginRepository></pluginRepositories>
<build><plugins>{plugins}</plugins></build></project>
"
    )
}

/// Compiles `Main.java` of `tree` into `app.jar`, and leaves nothing else beside it.
pub(super) fn jar(tree: &Path) {
    let run = |program: &str, words: &[&str]| {
        let out = Command::new(program).args(words).current_dir(tree).output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    };
    run("javac", &["-d", "classes", "Main.java"]);
    run("jar", &["--create", "--file=app.jar", "--main-class=Main", "-C", "classes", "."]);
    std::fs::remove_dir_all(tree.join("classes")).unwrap();
}
