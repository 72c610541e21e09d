//! How the real binary starts, and how it refuses to: one line for each mistake, with its place and the fix, and exit code 78.

#[cfg(test)]
mod start {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Command, Output};

    use tempfile::TempDir;

    /// `EX_CONFIG` of sysexits.h: systemd is told not to start it again.
    const EX_CONFIG: i32 = 78;

    fn write(dir: &TempDir, name: &str, text: &str, mode: u32) -> String {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs agentd with these arguments in a directory of its own; none of the environment of the test reaches it.
    fn agentd(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentd"));
        command.env_clear().env("HOME", dir).envs(env.iter().copied()).current_dir(dir);
        command.args(args).output().unwrap()
    }

    /// It does not start, says why with all of `parts`, and shows no secret.
    fn refuses(dir: &TempDir, args: &[&str], parts: &[&str]) {
        let output = agentd(dir.path(), args, &[]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(EX_CONFIG), "{args:?}: {told}");
        assert!(output.stdout.is_empty());
        for part in parts {
            assert!(told.contains(part), "{args:?}: `{part}` is missing in\n{told}");
        }
        assert!(!told.contains("hunter2") && !told.contains("s3cret"), "{told}");
    }

    #[test]
    fn whatever_is_wrong_with_the_configuration_is_told_in_one_line_each() {
        let dir = tempfile::tempdir().unwrap();
        let text = "lisen = \"127.0.0.1:1\"\nfreeze = \"yes\"\n[limits]\nmax_streams = 0\n";
        write(&dir, "agentd.toml", text, 0o600);
        refuses(
            &dir,
            &["--redis", "redis://:hunter2@127.0.0.1"],
            &[
                "agentd.toml:1: `lisen` is no setting, did you mean `listen`?",
                "agentd.toml:2: `\"yes\"` must be true or false",
                "agentd.toml:4: `0` must be a whole number, 1 to 4096",
                "--redis: holds a password, which the list of processes would show",
            ],
        );
        write(&dir, "agentd.toml", "redis = \"redis://:hunter2@127.0.0.1\"", 0o644);
        refuses(&dir, &[], &["agentd.toml:1: holds a password", "chmod 600"]);
    }

    #[test]
    fn a_file_with_secrets_that_others_can_read_is_refused_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let entry = "[[principal]]\nname = \"a\"\nroles = [\"viewer\"]\n";
        let tokens =
            write(&dir, "t.toml", &format!("{entry}token = \"{}\"\n", "s3cret".repeat(8)), 0o644);
        refuses(&dir, &["--tokens", &tokens], &[&tokens, "mode 0644", "chmod 600"]);
        let short = write(&dir, "s.toml", &format!("{entry}token = \"s3cret\"\n"), 0o600);
        refuses(&dir, &["--tokens", &short], &["s.toml:1: `a` needs a token of 32 to 512 bytes"]);

        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = write(&dir, "tls.crt", &made.cert.pem(), 0o644);
        let key = write(&dir, "tls.key", &made.signing_key.serialize_pem(), 0o604);
        let tls = ["--tls-cert", &certificate, "--tls-key", &key];
        refuses(&dir, &tls, &[&key, "mode 0604", "chmod 600"]);
        refuses(&dir, &["--policy", "nowhere.toml"], &["nowhere.toml"]);
    }

    #[test]
    fn a_port_that_is_taken_is_no_mistake_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let output = agentd(dir.path(), &["--listen", &address], &[]);
        assert_eq!(output.status.code(), Some(1), "starting again may help");
    }

    #[test]
    fn what_is_in_force_is_printed_with_its_origin_and_nothing_is_started() {
        let dir = tempfile::tempdir().unwrap();
        write(
            &dir,
            "agentd.toml",
            "redis = \"redis://:hunter2@127.0.0.1\"\nfreeze = true\n",
            0o600,
        );
        let env = [("AGENTD_LOOP_INTERVAL", "2s"), ("AGENTD_LOG", "debug")];
        let args = ["--env", "stage", "--log-filter", "warn"];
        let output = agentd(dir.path(), &[&args[..], &["--dump-config"]].concat(), &env);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        for line in [
            "env = \"stage\"  # --env",
            "loop_interval = \"2s\"  # AGENTD_LOOP_INTERVAL",
            "log_filter = \"warn\"  # --log-filter",
            "freeze = true  # agentd.toml:2",
            "listen = \"127.0.0.1:7443\"  # default",
            "# policy = \"/etc/agentd/policy.toml\"  # not set",
        ] {
            assert!(text.contains(line), "`{line}` is missing in\n{text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!dir.path().join(".local").exists(), "nothing was made");

        let output = agentd(dir.path(), &["--dump-config=json"], &env);
        let settings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let freeze = settings.as_array().unwrap().iter().find(|s| s["key"] == "freeze").unwrap();
        assert_eq!(
            (&freeze["value"], &freeze["origin"]),
            (&"true".into(), &"agentd.toml:2".into())
        );
        assert!(!settings.to_string().contains("hunter2"));
    }

    #[test]
    fn the_collector_may_be_named_as_elsewhere_and_needs_a_build_that_can_send() {
        let dir = tempfile::tempdir().unwrap();
        let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")];
        let output = agentd(dir.path(), &["--dump-config"], &env);
        if agentd::telemetry::EXPORTS {
            let text = String::from_utf8(output.stdout).unwrap();
            let line = "otlp_endpoint = \"http://127.0.0.1:4317\"  # OTEL_EXPORTER_OTLP_ENDPOINT";
            assert!(text.contains(line), "{text}");
            refuses(
                &dir,
                &["--otlp-endpoint", "http://u:hunter2@h:1"],
                &["without user and password"],
            );
        } else {
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(EX_CONFIG));
            assert!(told.contains("--features otel"), "{told}");
        }
    }
}
