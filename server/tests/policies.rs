//! The policy files that are shipped: the built-in ones written out, and the one of the demonstration.

#[cfg(test)]
mod policies {
    use std::path::{Path, PathBuf};

    use agentd_core::app::Env;
    use agentd_core::policy::{Policy, lint};

    fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policy").join(format!("{name}.toml"))
    }

    fn text(name: &str) -> String {
        std::fs::read_to_string(path(name)).unwrap()
    }

    fn policy(name: &str) -> Policy {
        toml::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    #[test]
    fn the_files_of_the_environments_are_the_built_in_policies() {
        for env in Env::ALL {
            let written = policy(env.as_str());
            assert_eq!(written, Policy::default_for(env), "{env}");
            assert_eq!(lint(&written), [], "{env}");
        }
    }

    #[test]
    fn the_policy_of_the_demonstration_is_sound() {
        let demo = policy("demo");
        assert_eq!(demo.env, Env::Stage);
        assert_eq!(demo.lint_for_demo(), []);
    }

    #[test]
    fn whatever_the_demonstration_changes_says_what_stage_has_instead() {
        let (stage, demo) = (text("stage"), text("demo"));
        let values = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#'));
            lines.map(str::to_owned).collect()
        };
        let (stage, demo) = (values(&stage), values(&demo));
        assert_eq!(stage.len(), demo.len());
        let mut changed = 0;
        for (there, here) in stage.iter().zip(&demo) {
            if there == here {
                continue;
            }
            changed += 1;
            let (key, value) = there.split_once(" = ").unwrap();
            assert!(here.starts_with(&format!("{key} = ")), "{here}");
            assert!(here.contains(&format!("# stage: {value}; ")), "{here}");
        }
        assert!(changed > 0);
    }
}
