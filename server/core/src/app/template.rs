//! How what a repository holds is built and started: one fixed template per runtime, argument vectors only. Nothing in a repository
//! can change them, and none of them is ever read by a shell.

use super::Runtime;

/// How one runtime is built and started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// One of these files is at the root of the repository, or it is not of this runtime.
    pub needs: &'static [&'static str],
    /// Steps of the build, in order.
    pub steps: &'static [Step],
    /// Variables of the build and of the app. [`Template::HOME`] in a value is the directory that the build, or the app, may write
    /// to.
    pub environment: &'static [(&'static str, &'static str)],
    /// What is started, in the release.
    pub start: Start,
}

/// One step of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Taken only if this file is there.
    pub when: Option<&'static str>,
    /// Program and arguments.
    pub argv: &'static [&'static str],
}

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// This program with these arguments.
    Program(&'static [&'static str]),
    /// The one file with this suffix that the build put into a directory.
    Built {
        /// Program and arguments in front of it.
        before: &'static [&'static str],
        /// The directory.
        directory: &'static str,
        /// Its suffix.
        suffix: &'static str,
        /// What it is when nothing was built.
        otherwise: Option<&'static str>,
    },
    /// agentd's own server of static files.
    Files,
}

impl Template {
    /// Stands for a directory that may be written to.
    pub const HOME: &str = "{home}";

    /// The template of a runtime.
    #[must_use]
    pub const fn of(runtime: Runtime) -> &'static Self {
        match runtime {
            Runtime::Nodejs => &NODEJS,
            Runtime::Python => &PYTHON,
            Runtime::Go => &GO,
            Runtime::Rust => &RUST,
            Runtime::Java => &JAVA,
            Runtime::Static => &STATIC,
            Runtime::Binary => &BINARY,
        }
    }

    /// The programs that have to be on the host, besides git, whatever the repository holds.
    #[must_use]
    pub fn programs(&self) -> Vec<&'static str> {
        let always = self.steps.iter().filter(|step| step.when.is_none()).map(|step| step.argv);
        let start = match self.start {
            Start::Program(argv) | Start::Built { before: argv, .. } => argv,
            Start::Files => &[],
        };
        let first = always.chain([start]).filter_map(|argv| argv.first().copied());
        let mut programs: Vec<_> = first.filter(|program| !program.contains('/')).collect();
        programs.dedup();
        programs
    }
}

const NODEJS: Template = Template {
    needs: &["package.json", "index.js"],
    steps: &[Step {
        when: Some("package-lock.json"),
        argv: &["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
    }],
    environment: &[("NODE_ENV", "production"), ("npm_config_cache", "{home}/npm")],
    start: Start::Program(&["node", "."]),
};

const PYTHON: Template = Template {
    needs: &["main.py"],
    steps: &[Step {
        when: Some("requirements.txt"),
        argv: &[
            "python3",
            "-m",
            "pip",
            "install",
            "--no-input",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--target=.packages",
            "--requirement=requirements.txt",
        ],
    }],
    environment: &[
        ("PYTHONPATH", ".packages"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONUNBUFFERED", "1"),
    ],
    start: Start::Program(&["python3", "main.py"]),
};

const GO: Template = Template {
    needs: &["go.mod"],
    steps: &[Step {
        when: None,
        argv: &["go", "build", "-mod=readonly", "-trimpath", "-o", ".release/app", "."],
    }],
    environment: &[
        ("GOTOOLCHAIN", "local"),
        ("GOTELEMETRY", "off"),
        ("GOPATH", "{home}/go"),
        ("GOCACHE", "{home}/go-build"),
    ],
    start: Start::Built { before: &[], directory: ".release", suffix: "", otherwise: None },
};

const RUST: Template = Template {
    needs: &["Cargo.lock"],
    steps: &[Step {
        when: None,
        argv: &["cargo", "install", "--locked", "--no-track", "--path=.", "--root=.release"],
    }],
    environment: &[("CARGO_HOME", "{home}/cargo"), ("CARGO_TARGET_DIR", "{home}/target")],
    start: Start::Built { before: &[], directory: ".release/bin", suffix: "", otherwise: None },
};

const JAVA: Template = Template {
    needs: &["pom.xml", "app.jar"],
    steps: &[Step {
        when: Some("pom.xml"),
        argv: &["mvn", "--batch-mode", "--quiet", "-DskipTests", "package"],
    }],
    environment: &[(
        "MAVEN_OPTS",
        "-Duser.home={home} -Djava.io.tmpdir={home} -Dmaven.repo.local={home}/m2",
    )],
    start: Start::Built {
        before: &["java", "-jar"],
        directory: "target",
        suffix: ".jar",
        otherwise: Some("app.jar"),
    },
};

const STATIC: Template =
    Template { needs: &["index.html"], steps: &[], environment: &[], start: Start::Files };

const BINARY: Template =
    Template { needs: &["app"], steps: &[], environment: &[], start: Start::Program(&["./app"]) };

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(template: &Template) -> Vec<&'static [&'static str]> {
        let start = match template.start {
            Start::Program(argv) | Start::Built { before: argv, .. } => argv,
            Start::Files => &[],
        };
        template.steps.iter().map(|step| step.argv).chain([start]).collect()
    }

    #[test]
    fn no_template_has_a_word_for_a_shell() {
        for runtime in Runtime::ALL {
            for word in vectors(Template::of(runtime)).concat() {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=".contains(&b);
                assert!(!word.is_empty() && word.bytes().all(plain), "{runtime:?}: {word}");
                // npm runs its scripts with a shell, and so does `npm start`.
                assert!(!["sh", "bash", "start", "run", "exec"].contains(&word), "{runtime:?}");
            }
        }
    }

    #[test]
    fn what_a_repository_must_have_is_at_its_root() {
        for runtime in Runtime::ALL {
            let template = Template::of(runtime);
            assert!(!template.needs.is_empty(), "{runtime:?}");
            assert!(template.needs.iter().all(|file| !file.contains('/')), "{runtime:?}");
        }
    }

    #[test]
    fn the_programs_that_are_always_needed_are_known_beforehand() {
        let programs = |runtime| Template::of(runtime).programs();
        assert_eq!(programs(Runtime::Nodejs), ["node"]);
        assert_eq!(programs(Runtime::Go), ["go"]);
        assert_eq!(programs(Runtime::Java), ["java"], "maven is for those who have a pom.xml");
        assert!(programs(Runtime::Static).is_empty() && programs(Runtime::Binary).is_empty());
    }
}
