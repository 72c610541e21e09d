//! Token files: what is made, what is refused, and with which words.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(FILE_NAME);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
    (dir, path)
}

fn entry(name: &str, roles: &str, rest: &str) -> String {
    format!("[[principal]]\nname = \"{name}\"\nroles = [{roles}]\n{rest}\n")
}

#[test]
fn the_first_start_makes_a_private_file_and_the_next_start_keeps_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let table = TokenTable::load_or_generate(dir.path()).expect("made");
    assert_eq!(table.len(), 6);
    let path = dir.path().join(FILE_NAME);
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
    assert_eq!(left.len(), 1, "nothing temporary is left: {left:?}");

    let token = plain_token(&path, LOCAL).expect("a plain token");
    let again = TokenTable::load_or_generate(dir.path()).expect("loaded");
    let local = again.find(token.as_bytes()).expect("known");
    assert_eq!(local.name(), "local");
    assert!(local.has(Role::Approver) && local.has(Role::Admin) && !local.has(Role::Monitor));
    let monitor = plain_token(&path, "monitor").expect("a plain token");
    let monitor = again.find(monitor.as_bytes()).expect("known");
    assert_eq!(monitor.roles().iter().copied().collect::<Vec<_>>(), [Role::Monitor]);
}

#[test]
fn a_file_others_can_read_is_refused_with_the_fix() {
    let token = "t".repeat(40);
    let text = entry("a", "\"viewer\"", &format!("token = \"{token}\""));
    for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
        let (_dir, path) = file(&text, mode);
        let error = TokenTable::load(&path).expect_err("refused").to_string();
        assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        assert!(error.contains(&format!("{mode:04o}")), "{error}");
    }
    let (_dir, path) = file(&text, 0o600);
    assert!(TokenTable::load(&path).expect("accepted").find(token.as_bytes()).is_some());
}

#[test]
fn all_invalid_entries_are_named_at_once() {
    let good = format!("token = \"{}\"", "g".repeat(32));
    let text = [
        entry("ok", "\"viewer\"", &good),
        entry("ok", "\"viewer\"", &good),
        entry("agent-1234", "\"viewer\"", &good),
        entry("short", "\"viewer\"", "token = \"abc\""),
        entry("both", "\"viewer\"", &format!("{good}\ntoken_sha256 = \"00\"")),
        entry("none", "\"viewer\"", ""),
        entry("hex", "\"viewer\"", "token_sha256 = \"zz\""),
        entry("odd", "\"root\"", &good),
        entry("mixed", "\"monitor\", \"approver\"", &good),
        entry("idle", "", &good),
    ]
    .concat();
    let (_dir, path) = file(&text, 0o600);
    let Err(Error::Invalid { problems, .. }) = TokenTable::load(&path) else {
        panic!("must be refused")
    };
    for part in [
        "`ok` is there twice",
        "has the token of another",
        "reserved for the agent",
        "`short` needs a token",
        "`both` needs exactly one",
        "`none` needs exactly one",
        "token_sha256 of `hex`",
        "unknown role `root`",
        "can therefore not be an approver",
        "`idle` has no role",
    ] {
        assert!(problems.iter().any(|p| p.contains(part)), "{part} missing in {problems:?}");
    }
    let line = text.lines().position(|line| line.contains("\"short\"")).expect("it is there");
    let place = format!("{}:{line}: `short` needs a token", path.display());
    assert!(problems.iter().any(|p| p.starts_with(&place)), "{place} missing in {problems:?}");
}

#[test]
fn a_digest_does_as_well_as_a_token_and_binds_a_monitor_to_its_apps() {
    let token = "agt_".to_owned() + &"7".repeat(64);
    let digest: String =
        Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = entry("m", "\"monitor\"", &format!("token_sha256 = \"{digest}\"\napps = [\"a\"]"));
    let (_dir, path) = file(&text, 0o600);
    let principal = TokenTable::load(&path).expect("loaded").find(token.as_bytes()).expect("known");
    assert!(principal.may_report("a") && !principal.may_report("b"));
    assert!(matches!(plain_token(&path, "m"), Err(Error::NoToken { .. })));
}

#[test]
fn a_malformed_file_is_refused_without_quoting_a_token() {
    let secret = "s3cret".repeat(8);
    let (_dir, path) = file(&format!("[[principal]]\ntoken = \"{secret}\nname = 1"), 0o600);
    let error = TokenTable::load(&path).expect_err("refused").to_string();
    assert!(!error.contains(&secret), "{error}");
    let (_dir, path) = file("[[principal]]\nnmae = \"x\"\n", 0o600);
    let error = TokenTable::load(&path).expect_err("refused").to_string();
    assert!(error.contains("nmae") && error.contains("tokens.toml:2:"), "{error}");
}
