//! Building: the fixed steps of the runtime, and what is started afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use agentd_core::app::{Runtime, Start, Template};
use tokio::time::Instant;

use super::Error;
use super::releases::Stage;
use super::step::{Bench, Bounds};
use crate::shim::files;

const WHAT: &str = "the build";

/// Takes the steps of the runtime in the stage.
///
/// # Errors
/// It is no app of this runtime, or a step failed or had to be ended.
pub(super) async fn build(bench: &Bench<'_>, stage: &Stage, runtime: Runtime) -> Result<(), Error> {
    let template = Template::of(runtime);
    let is_there = |file: &str| stage.src.join(file).is_file();
    if !template.needs.iter().any(|file| is_there(file)) {
        let needs = template.needs.join("` or `");
        return Err(Error::NotOfRuntime { runtime: runtime.as_str(), needs });
    }
    let deadline = Instant::now() + Duration::from_millis(bench.sandbox.build_timeout_ms);
    let bounds = Bounds {
        what: WHAT,
        deadline,
        timeout_ms: bench.sandbox.build_timeout_ms,
        directory: &stage.root,
        bytes_max: bench.sandbox.disk_bytes_max,
    };
    for step in template.steps.iter().filter(|step| step.when.is_none_or(is_there)) {
        let argv = step.argv.iter().map(|word| (*word).to_owned()).collect();
        let mut env = environment(template, &bench.sandbox.path, &stage.home);
        env.insert("CI".to_owned(), "true".to_owned());
        bench.run(argv, env, bounds).await?;
    }
    Ok(())
}

/// What a build, or an app that was built, has in its environment: no word of who agentd is or what it knows.
pub(super) fn environment(
    template: &Template,
    path: &str,
    home: &Path,
) -> BTreeMap<String, String> {
    let home = home.display().to_string();
    let usual = [("PATH", path), ("HOME", &home), ("TMPDIR", &home), ("LC_ALL", "C.UTF-8")];
    let all = usual.into_iter().chain(template.environment.iter().copied());
    all.map(|(name, value)| (name.to_owned(), value.replace(Template::HOME, &home))).collect()
}

/// What is started in a release. `shim` is the program that is also the server of static files, with its first arguments.
///
/// # Errors
/// The build left nothing, or more than one thing, to start.
pub(super) fn start(
    release: &Path,
    runtime: Runtime,
    shim: &[String],
) -> Result<Vec<String>, Error> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match Template::of(runtime).start {
        Start::Program(argv) => Ok(owned(argv)),
        Start::Files => Ok([shim, &[files::WORD.to_owned()]].concat()),
        Start::Built { before, directory, suffix, otherwise } => {
            let built = built(&release.join(directory), suffix);
            let file = match (built.as_slice(), otherwise) {
                ([only], _) => format!("./{directory}/{only}"),
                ([], Some(file)) if release.join(file).is_file() => format!("./{file}"),
                _ => return Err(Error::Start { directory, found: built.len() }),
            };
            Ok([owned(before), vec![file]].concat())
        }
    }
}

/// Names of the files a build put into a directory, without those that some tools put beside them.
fn built(directory: &Path, suffix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let beside = |name: &str| {
        name.starts_with(['.', '-'])
            || name.starts_with("original-")
            || ["-sources.jar", "-javadoc.jar", "-tests.jar"].iter().any(|end| name.ends_with(end))
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(suffix) && !beside(name))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    fn started(runtime: Runtime, files: &[&str]) -> Result<String, String> {
        let dir = with(files);
        let shim = ["/usr/bin/agentd".to_owned(), "shim".to_owned()];
        start(dir.path(), runtime, &shim)
            .map(|argv| argv.join(" "))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_started_is_what_the_build_left_and_never_a_guess() {
        let ok = |runtime, files: &[&str]| started(runtime, files).unwrap();
        assert_eq!(ok(Runtime::Nodejs, &[]), "node .");
        assert_eq!(ok(Runtime::Python, &[]), "python3 main.py");
        assert_eq!(ok(Runtime::Static, &[]), "/usr/bin/agentd shim files");
        assert_eq!(ok(Runtime::Binary, &[]), "./app");
        assert_eq!(ok(Runtime::Go, &[".release/app"]), "./.release/app");
        assert_eq!(ok(Runtime::Rust, &[".release/bin/shop"]), "./.release/bin/shop");
        let jars = ["target/shop.jar", "target/original-shop.jar", "target/shop-sources.jar"];
        assert_eq!(ok(Runtime::Java, &jars), "java -jar ./target/shop.jar");
        assert_eq!(ok(Runtime::Java, &["app.jar"]), "java -jar ./app.jar");
        for (runtime, files) in [
            (Runtime::Go, &[][..]),
            (Runtime::Rust, &[".release/bin/a", ".release/bin/b"]),
            (Runtime::Java, &["target/a.jar", "target/b.jar"]),
            (Runtime::Java, &[]),
        ] {
            let error = started(runtime, files).unwrap_err();
            assert!(error.contains(&format!("{} files", files.len())), "{error}");
        }
    }

    #[test]
    fn the_environment_is_the_templates_alone() {
        let env = environment(Template::of(Runtime::Go), "/usr/bin", "/h".as_ref());
        assert_eq!(env["GOCACHE"], "/h/go-build");
        assert_eq!((env["PATH"].as_str(), env["HOME"].as_str()), ("/usr/bin", "/h"));
        assert_eq!(env.len(), 8, "{env:?}");
    }
}
