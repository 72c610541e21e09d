//! What keeps the tree as it was meant: who may do what is a matter of files, and a test reads the files.

#[cfg(test)]
mod tidy {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    use agentd_core::app::Env;
    use agentd_core::gates::GATES;
    use agentd_core::policy::{Policy, lint};

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    fn read(path: &str) -> String {
        let path = root().join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Every file of the project, by its path from the root.
    fn files() -> Vec<String> {
        fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                let built =
                    ["target", ".git", "node_modules", "dist", "__pycache__", ".venv", ".agentctl"];
                if built.iter().any(|skip| name == *skip) {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    walk(&path, root, found);
                } else {
                    found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let (root, mut found) = (root(), Vec::new());
        walk(&root, &root, &mut found);
        found.sort();
        assert!(found.len() > 100, "only {} files", found.len());
        found
    }

    fn is_test_file(path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let file = parts.last().unwrap_or(&"");
        parts.iter().any(|part| matches!(*part, "tests" | "benches"))
            || matches!(*file, "tests.rs" | "harness.rs" | "scene.rs" | "arbitrary.rs" | "story.rs")
    }

    /// Rust files that are part of the program, without their tests.
    fn program() -> BTreeMap<String, String> {
        let places = ["server/src/", "server/core/src/", "client-cli/src/", "proto/"];
        files()
            .into_iter()
            .filter(|path| path.ends_with(".rs") && places.iter().any(|p| path.starts_with(p)))
            .filter(|path| !is_test_file(path))
            .map(|path| {
                let text = read(&path);
                let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
                (path, text[..end].to_owned())
            })
            .collect()
    }

    /// Lines of code, not of comments, that hold one of `words`, outside of the files in `allowed`.
    fn elsewhere(words: &[&str], allowed: &[(&str, &str)]) -> Vec<String> {
        let mut found = Vec::new();
        for (path, text) in program() {
            if allowed.iter().any(|(file, _)| *file == path) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if words.iter().any(|word| code.contains(word)) {
                    found.push(format!("{path}:{}: {}", number + 1, line.trim()));
                }
            }
        }
        found
    }

    /// Exceptions that nobody needs any more are removed from the list.
    fn all_are_needed(words: &[&str], allowed: &[(&str, &str)]) {
        let program = program();
        for (file, why) in allowed {
            let text = program.get(*file).unwrap_or_else(|| panic!("{file} ({why}) is gone"));
            assert!(words.iter().any(|word| text.contains(word)), "{file} does not need it: {why}");
        }
    }

    #[test]
    fn the_core_depends_on_nothing_that_reaches_the_outside() {
        let manifest: toml::Table = read("server/core/Cargo.toml").parse().unwrap();
        let names: BTreeSet<&str> =
            manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
        // base64 and ed25519-dalek are arithmetic: keys and randomness come from outside. smol_str is a text.
        let allowed = BTreeSet::from([
            "base64",
            "chrono",
            "ed25519-dalek",
            "serde",
            "serde_json",
            "sha2",
            "smol_str",
            "thiserror",
        ]);
        assert_eq!(names, allowed);
        let features = manifest["dependencies"]["chrono"]["workspace"].as_bool();
        let workspace: toml::Table = read("Cargo.toml").parse().unwrap();
        let chrono = &workspace["workspace"]["dependencies"]["chrono"];
        assert_eq!(features, Some(true));
        assert_eq!(chrono["default-features"].as_bool(), Some(false), "no clock in it: {chrono}");
        let clock =
            chrono["features"].as_array().unwrap().iter().any(|f| f.as_str() == Some("clock"));
        assert!(!clock, "{chrono}");
    }

    #[test]
    fn every_gate_is_a_file_and_every_file_a_gate() {
        let beside = ["arbitrary", "scene", "tests"];
        let of_files: BTreeSet<String> = files()
            .into_iter()
            .filter_map(|path| {
                let name =
                    path.strip_prefix("server/core/src/gates/")?.strip_suffix(".rs")?.to_owned();
                (!beside.contains(&name.as_str()) && !name.contains('/')).then_some(name)
            })
            .collect();
        let listed: BTreeSet<String> = GATES.iter().map(|gate| gate.id.to_owned()).collect();
        assert_eq!(of_files, listed);
        assert_eq!(listed.len(), GATES.len(), "no gate is listed twice");
        for gate in &listed {
            let text = read(&format!("server/core/src/gates/{gate}.rs"));
            assert!(text.contains(&format!("id: \"{gate}\"")), "{gate}: the id is the file's name");
            assert!(text.contains("mod tests"), "{gate} has its table of cases");
        }
    }

    #[test]
    fn only_the_clock_reads_the_clock() {
        let words = ["SystemTime::now", "Utc::now", "Local::now"];
        let allowed = [("server/src/clock.rs", "it is the clock")];
        assert_eq!(elsewhere(&words, &allowed), Vec::<String>::new());
        all_are_needed(&words, &allowed);
        let core = elsewhere(&["Instant", "SystemTime"], &[]);
        let core: Vec<_> = core.iter().filter(|line| line.starts_with("server/core/")).collect();
        assert!(core.is_empty(), "{core:#?}");
    }

    #[test]
    fn only_tasks_spawns() {
        let words = ["tokio::spawn(", "task::spawn(", "thread::spawn("];
        let allowed = [("server/src/tasks.rs", "it is the spawner")];
        assert_eq!(elsewhere(&words, &allowed), Vec::<String>::new());
        all_are_needed(&words, &allowed);
    }

    #[test]
    fn only_output_prints() {
        let words = ["println!", "print!(", "io::stdout()", "io::stderr()"];
        let allowed = [
            ("client-cli/src/lib.rs", "usage errors, before there are settings"),
            ("client-cli/src/output.rs", "it is the printer"),
            ("client-cli/src/command.rs", "asks a question before it reads the answer"),
            ("client-cli/src/demo_app.rs", "another program: its output is what agentd captures"),
            ("server/src/failpoint.rs", "says why it aborts; not in a release"),
            ("server/src/main.rs", "errors before there is a log"),
            ("server/src/shim.rs", "another program: its errors go to shim.err"),
            ("server/src/shim/files.rs", "another program: its output is what agentd captures"),
            ("server/src/shim/step.rs", "another program: it answers on standard output"),
            ("server/src/telemetry.rs", "it is the log"),
        ];
        assert_eq!(elsewhere(&words, &allowed), Vec::<String>::new());
        all_are_needed(&words, &allowed);
    }

    #[test]
    fn wire_types_stop_at_grpc_and_the_core_has_never_heard_of_them() {
        let words = ["v1::", "agentctl_api::v1"];
        let found: Vec<String> = elsewhere(&words, &[])
            .into_iter()
            .filter(|line| line.starts_with("server/") && !line.starts_with("server/src/grpc"))
            .collect();
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn no_program_is_started_but_the_shim_and_by_the_shim_the_app_or_a_step_of_its_build() {
        let words = ["Command::new(", "Program::new("];
        let allowed = [
            ("server/src/act/process/instance.rs", "starts shims"),
            ("server/src/deploy/step.rs", "starts shims for the steps of a build"),
            ("server/src/shim/run/start.rs", "starts the app"),
            ("server/src/shim/step.rs", "starts a step of a build"),
        ];
        assert_eq!(elsewhere(&words, &allowed), Vec::<String>::new());
        let shell = elsewhere(&["\"sh\"", "/bin/sh", "\"bash\""], &[]);
        assert_eq!(shell, Vec::<String>::new(), "there is no shell anywhere");
    }

    #[test]
    fn files_are_short_enough_to_be_read() {
        let long: Vec<String> = files()
            .into_iter()
            .filter(|path| path.ends_with(".rs") || path.ends_with(".proto"))
            .filter_map(|path| {
                let lines = read(&path).lines().count();
                (lines > 600).then(|| format!("{path}: {lines} lines"))
            })
            .collect();
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn files_say_what_they_are_for_and_names_mean_something() {
        let empty_names = ["utils", "util", "common", "manager", "helper", "helpers", "misc"];
        let mut wrong = Vec::new();
        for path in files() {
            let stem = Path::new(&path).file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
            if empty_names.contains(&stem) || path.ends_with("/mod.rs") {
                wrong.push(format!("{path}: the name says nothing"));
            }
            // What a file of tests is for is the file it stands beside.
            let tests = is_test_file(&path);
            if path.ends_with(".rs") && !tests && !read(&path).starts_with("//!") {
                wrong.push(format!("{path}: does not begin with what it is for"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn no_file_knows_the_machine_it_was_written_on() {
        // Put together here, so that this file is not among the findings.
        let places = ["root", "work", "Users"].map(|name| format!("/{name}/"));
        let mut wrong = Vec::new();
        for path in files() {
            let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
            for (number, line) in text.lines().enumerate() {
                for place in &places {
                    let at = line.find(place.as_str());
                    // `grpc/work/` is a path of ours; one of the machine begins behind no name.
                    let own = |at: usize| {
                        line[..at]
                            .ends_with(|c: char| c.is_ascii_alphanumeric() || "-_.})".contains(c))
                    };
                    if at.is_some_and(|at| !own(at)) {
                        wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// What stands in quotes and is written like a code.
    fn codes(text: &str) -> BTreeSet<String> {
        let code = |word: &&str| {
            word.len() > 3 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        };
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        lines
            .flat_map(|line| line.split('"').skip(1).step_by(2))
            .filter(code)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_reason_an_error_can_carry_has_a_page_and_no_page_is_about_nothing() {
        use agentd_core::reason::page::{PAGES, Page};
        let program = program();
        let edge = ["server/src/grpc", "server/src/auth", "server/src/listen"];
        let at_the_edge =
            program.iter().filter(|(path, _)| edge.iter().any(|e| path.starts_with(e)));
        // Written like a code and none: names of events, of actions, of methods and of what is approved, and reasons of single fields, which come
        // with their own rule and fix.
        let other = [
            "APPROVAL_STATE_",
            "INVALID",
            "NOT_A_DIRECTORY",
            "NOT_A_FILE",
            "NOT_EXECUTABLE",
            "NOT_READABLE",
            "POST",
            "PROMOTE_LEARNING",
            "REQUIRED",
        ];
        let events = codes(&program["server/core/src/record/event.rs"]);
        let mut missing = Vec::new();
        let mut used = BTreeSet::new();
        for (path, text) in at_the_edge {
            for code in codes(text) {
                let known = events.contains(&code) || other.contains(&code.as_str());
                if Page::find(&code).is_none() && !known {
                    missing.push(format!("{path}: `{code}`"));
                }
                used.insert(code);
            }
        }
        assert!(missing.is_empty(), "write server/core/reasons/CODE.md: {missing:#?}");
        for code in other {
            assert!(used.contains(code), "`{code}` needs no exception any more");
        }
        let all: BTreeSet<String> = program
            .iter()
            .filter(|(path, _)| !path.ends_with("reason/page.rs"))
            .flat_map(|(_, text)| codes(text))
            .collect();
        let idle: Vec<_> =
            PAGES.iter().map(Page::code).filter(|code| !all.contains(*code)).collect();
        assert!(idle.is_empty(), "nothing sends these: {idle:?}");
    }

    #[test]
    fn policies_that_are_shipped_are_the_built_in_ones_and_have_no_faults() {
        let mut seen = BTreeSet::new();
        for path in files().into_iter().filter(|path| path.starts_with("deploy/policy/")) {
            let policy: Policy =
                toml::from_str(&read(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(lint(&policy), Vec::new(), "{path}");
            let name = Path::new(&path).file_stem().and_then(|stem| stem.to_str()).unwrap();
            match Env::parse(name) {
                Some(env) => {
                    assert_eq!(policy, Policy::default_for(env), "{path}");
                    seen.insert(env.as_str());
                }
                None => assert_eq!(policy.lint_for_demo(), Vec::new(), "{path}"),
            }
        }
        assert_eq!(seen.len(), 3, "one for each environment: {seen:?}");
    }

    /// Targets of links, and words in backticks that are paths.
    fn references(text: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for part in text.split("](").skip(1) {
            found.extend(part.split(')').next().map(str::to_owned));
        }
        for (index, part) in text.split('`').enumerate() {
            let is_path =
                part.contains('/') && !part.contains([' ', '\n', '*', '{', '<', '$', ':']);
            let ours =
                ["proto/", "server/", "client-cli/", "tests/", "deploy/", "clients/", ".ci/"];
            if index % 2 == 1 && is_path && ours.iter().any(|place| part.starts_with(place)) {
                found.insert(part.to_owned());
            }
        }
        found
    }

    #[test]
    fn what_the_readme_points_at_is_there() {
        let Ok(text) = std::fs::read_to_string(root().join("README.md")) else {
            // There is none yet.
            return;
        };
        let mut missing = Vec::new();
        for reference in references(&text) {
            let foreign = ["http://", "https://", "mailto:", "#"];
            if foreign.iter().any(|scheme| reference.starts_with(scheme)) {
                continue;
            }
            let (path, part) = match reference.split_once('#') {
                Some((path, part)) => (path, Some(part)),
                None => (reference.as_str(), None),
            };
            let place = root().join(path);
            if !place.exists() {
                missing.push(format!("{reference}: no such file"));
                continue;
            }
            // `#L12` is a line, `#name` the name of a test.
            let is_line = |part: &str| {
                part.strip_prefix('L').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
            };
            if let Some(part) = part.filter(|part| !is_line(part))
                && path.ends_with(".rs")
                && !std::fs::read_to_string(&place).unwrap().contains(&format!("fn {part}("))
            {
                missing.push(format!("{reference}: no such test"));
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
