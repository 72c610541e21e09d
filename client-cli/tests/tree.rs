//! Walks the tree of commands: what holds for one of them holds for all of them.

use agentctl::cli::{Cli, Command, Global};
use agentctl::exit::Exit;
use agentctl::output::Format;
use clap::{CommandFactory as _, Parser as _};

/// Every command with the words that lead to it.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    fn walk(path: &[String], command: &clap::Command, all: &mut Vec<(Vec<String>, clap::Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let mut path = path.to_vec();
            path.push(sub.get_name().to_owned());
            walk(&path, sub, all);
            all.push((path, sub.clone()));
        }
    }
    let mut root = Cli::command();
    root.build();
    let mut all = Vec::new();
    walk(&[], &root, &mut all);
    assert!(all.len() > 30, "only {} commands", all.len());
    all
}

fn is_hidden(path: &[String]) -> bool {
    matches!(path.first().map(String::as_str), Some("shim" | "demo-app"))
}

#[test]
fn the_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_examples_that_start_with_its_own_name() {
    for (path, command) in commands() {
        if is_hidden(&path) {
            continue;
        }
        let help = command.get_after_help().unwrap_or_default().to_string();
        let (_, examples) =
            help.split_once("Examples:\n").unwrap_or_else(|| panic!("{path:?} has no examples"));
        let own = format!("  agentctl {}", path.join(" "));
        assert!(
            examples.lines().any(|line| line.starts_with(&own)),
            "no example of {path:?} runs it:\n{examples}"
        );
    }
}

#[test]
fn examples_fit_into_the_width_of_the_help() {
    let mut all = commands();
    all.push((Vec::new(), Cli::command()));
    let mut long = Vec::new();
    for (_, command) in all {
        let help = command.get_after_help().unwrap_or_default().to_string();
        long.extend(help.lines().filter(|line| line.chars().count() >= 100).map(ToOwned::to_owned));
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_example_is_a_valid_command_line() {
    let mut tried = 0;
    for (path, command) in commands() {
        if is_hidden(&path) {
            continue;
        }
        let help = command.get_after_help().unwrap_or_default().to_string().replace("\\\n", " ");
        for line in help.lines().filter(|line| line.starts_with("  agentctl ")) {
            let words = words(line);
            if let Err(error) = Cli::try_parse_from(&words) {
                assert!(!error.use_stderr(), "{line}\n{words:?}\n{error}");
            }
            tried += 1;
        }
    }
    assert!(tried > 60, "only {tried} examples");
}

/// The words of an example as a shell would see them, without pipes, redirections and the comment behind them.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut spaces = 0;
    for c in line.trim().chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            (' ', None) => {
                spaces += 1;
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            // Three spaces set a comment apart; the alignment of a continued line is none.
            _ if spaces >= 3 && quote.is_none() && word.is_empty() && c != '-' => break,
            ('|' | '>' | '<' | '&', None) => break,
            _ => word.push(c),
        }
        spaces = 0;
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[test]
fn every_command_takes_every_format_and_the_global_flags() {
    for (path, command) in commands() {
        let has = |name: &str| command.get_arguments().any(|arg| arg.get_id().as_str() == name);
        for flag in [
            "output",
            "address",
            "context",
            "env",
            "request_id",
            "columns",
            "jq",
            "token",
            "token_file",
            "data_dir",
            "timeout",
            "read_only",
            "yes",
            "no_input",
            "color",
            "time",
            "quiet",
            "verbose",
        ] {
            assert!(has(flag), "{path:?} lacks {flag}");
        }
    }
    for format in ["table", "wide", "json", "jsonl", "yaml", "name"] {
        assert!(Cli::try_parse_from(["agentctl", "status", "-o", format]).is_ok());
        assert!(Cli::try_parse_from(["agentctl", "-o", format, "status"]).is_ok());
    }
}

#[test]
fn every_command_and_flag_says_what_it_is_for() {
    for (path, command) in commands() {
        assert!(command.get_about().is_some(), "{path:?} has no help");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path:?} {} has no help", argument.get_id());
        }
    }
}

#[test]
fn no_flag_of_a_command_hides_a_global_one() {
    let root = Cli::command();
    let globals: Vec<_> = root.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    for (path, command) in commands() {
        // The data directory of the server that is started is the one whose tokens are meant, and so is its environment.
        let allowed = path == ["up"];
        let mut seen = std::collections::BTreeSet::new();
        for argument in command.get_arguments() {
            let id = argument.get_id().to_string();
            assert!(
                seen.insert(id.clone()) || (allowed && ["data_dir", "env"].contains(&id.as_str())),
                "{path:?} has {id} twice"
            );
            if let Some(long) = argument.get_long() {
                let clash = globals.contains(&id);
                assert!(clash || !is_global_long(&root, long), "{path:?} redefines --{long}");
            }
        }
    }
}

fn is_global_long(root: &clap::Command, long: &str) -> bool {
    root.get_arguments()
        .any(|arg| arg.get_long() == Some(long) && long != "help" && long != "version")
}

#[test]
fn the_long_help_lists_all_exit_codes() {
    let mut root = Cli::command();
    let help = root.render_long_help().to_string();
    for exit in Exit::ALL {
        assert!(
            help.contains(&format!("{:>3}  {}", exit.code(), exit.meaning())),
            "{exit:?}\n{help}"
        );
    }
    let topic = Cli::try_parse_from(["agentctl", "help", "exit-codes"]).unwrap_err().to_string();
    assert!(topic.contains("10  proof verification failed"), "{topic}");
}

#[test]
fn exit_codes_that_a_help_names_are_those_there_are() {
    let mut named = 0;
    for (path, command) in commands() {
        let help = command.get_after_help().unwrap_or_default().to_string();
        let Some((_, line)) = help.split_once("Exit codes: ") else { continue };
        let line = line.lines().next().unwrap_or_default();
        for part in line.trim_end_matches('.').split(", ") {
            let Some(code) = part.split_whitespace().next().and_then(|n| n.parse::<u8>().ok())
            else {
                continue;
            };
            assert!(Exit::ALL.iter().any(|exit| exit.code() == code), "{path:?}: {part}");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} codes are named");
}

#[test]
fn every_topic_is_a_page_of_help() {
    for (topic, says) in [
        ("exit-codes", "proof verification failed"),
        ("environment", "AGENTCTL_CONTEXT"),
        ("output", "stdout is data"),
    ] {
        let page = Cli::try_parse_from(["agentctl", "help", topic]).unwrap_err().to_string();
        assert!(page.contains(says), "{topic}: {page}");
    }
}

#[test]
fn every_shell_is_completed_and_every_command_has_a_manual_page() {
    use clap_complete::Shell;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "agentctl", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("whoami") && script.contains("signal"), "{shell}");
    }
    for (path, command) in commands() {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{path:?}");
    }
}

#[test]
fn the_environment_of_up_is_the_one_that_was_given() {
    for line in [["agentctl", "up", "--env", "stage"], ["agentctl", "--env", "stage", "up"]] {
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(format!("{:?}", cli.command).contains("stage"), "{line:?}: {:?}", cli.command);
    }
}

#[test]
fn the_data_directory_of_up_is_the_one_that_was_given() {
    for line in
        [["agentctl", "up", "--data-dir", "/srv/a"], ["agentctl", "--data-dir", "/srv/a", "up"]]
    {
        let cli = Cli::try_parse_from(line).unwrap();
        assert_eq!(cli.global.data_dir.as_deref(), Some("/srv/a"), "{line:?}");
        assert!(format!("{:?}", cli.command).contains("/srv/a"), "{line:?}: {:?}", cli.command);
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for line in [
        vec!["agentctl", "no-such-command"],
        vec!["agentctl", "status", "-o", "xml"],
        vec!["agentctl", "pause"],
        vec!["agentctl", "act", "my-api", "restart"],
        vec!["agentctl", "watch", "--until", "soon"],
        vec!["agentctl", "explain"],
        vec!["agentctl", "status", "--timeout", "10"],
        vec!["agentctl", "pause", "--reason", "x", "--app", "a", "--action", "restart"],
    ] {
        let error = Cli::try_parse_from(&line).unwrap_err();
        assert!(error.use_stderr(), "{line:?}");
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{line:?}");
    }
}

#[test]
fn a_pause_needs_a_reason_and_its_report_does_not() {
    assert!(Cli::try_parse_from(["agentctl", "pause", "report"]).is_ok());
    assert!(Cli::try_parse_from(["agentctl", "pause", "--reason", "INC-481"]).is_ok());
}

#[test]
fn defaults_are_for_people() {
    let cli = Cli::try_parse_from(["agentctl", "status"]).unwrap();
    let Global { output, yes, quiet, .. } = cli.global;
    assert_eq!((output, yes, quiet), (Format::Table, false, false));
    assert!(matches!(cli.command, Command::Status(_)));
}

/// Every `agentctl …` in backticks on the page of a reason code.
fn advised() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for page in agentd_core::reason::page::PAGES {
        let text = page.text().split_whitespace().collect::<Vec<_>>().join(" ");
        let spans = text.split('`').skip(1).step_by(2);
        let commands = spans.filter(|span| span.starts_with("agentctl "));
        found.extend(commands.map(|span| (page.code(), span.to_owned())));
    }
    found
}

#[test]
fn every_command_that_a_reason_code_advises_can_be_typed() {
    let advised = advised();
    assert!(advised.len() > 20, "{advised:#?}");
    for (code, command) in advised {
        let typed = command.replace("dec-…", "dec-1").replace("apr-…", "apr-1");
        // A command that is named without its arguments is a pointer to its help.
        let whole = Cli::try_parse_from(typed.split(' '));
        let named = Cli::try_parse_from(typed.split(' ').chain(["--help"]));
        let help =
            matches!(named, Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp);
        assert!(whole.is_ok() || help, "{code}: `{command}`: {:?}", whole.err());
    }
}
