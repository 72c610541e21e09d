//! What an onboarding asks for, and how its answer reads.

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

fn parsed(line: &str) -> OnboardArgs {
    let words = line.split_whitespace().map(ToOwned::to_owned);
    match Cli::try_parse_from(words).unwrap().command {
        Command::Onboard(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_of_the_program_are_handed_over_as_they_are() {
    let args = parsed(
        "agentctl onboard my-api --runtime python --exec /usr/bin/python3 main.py -- --port 80 -o x",
    );
    let request = args.request("dev".to_owned(), "7d9f".to_owned()).unwrap();
    let Some(v1::onboard_app_request::Source::Exec(exec)) = request.source else {
        panic!("no exec")
    };
    assert_eq!(exec.path, "/usr/bin/python3");
    assert_eq!(exec.args, ["main.py", "--port", "80", "-o", "x"]);
}

#[test]
fn every_flag_lands_in_its_field() {
    let args = parsed(
        "agentctl onboard my-api --runtime rust --exec /srv/a --instances 3 --min 2 --max 6 \
         --listen 127.0.0.1:8080 --health-url /healthz --health-interval 2s --label team=pay --env-var A=b=c \
         --threshold cpu_overload=0.8:0.6 --threshold latency=:0.5 --autonomy propose --stop-grace 5s \
         --dry-run",
    );
    let request = args.request("dev".to_owned(), "7d9f".to_owned()).unwrap();
    assert_eq!(
        (request.desired_instances, request.min_instances, request.max_instances),
        (Some(3), Some(2), Some(6))
    );
    assert_eq!(request.listen, "127.0.0.1:8080");
    assert_eq!(request.labels["team"], "pay");
    assert_eq!(request.environment_variables["A"], "b=c");
    let limits: Vec<_> = request.thresholds.iter().map(|t| (t.enter, t.leave)).collect();
    assert_eq!(limits, [(Some(0.8), Some(0.6)), (None, Some(0.5))]);
    assert_eq!(request.autonomy_level(), v1::AutonomyLevel::Propose);
    assert!(request.validate_only);
    assert_eq!(request.request_id, "7d9f");
    let probe = request.health_probe.unwrap();
    assert_eq!(probe.interval.unwrap().seconds, 2);
    let Some(v1::health_probe::Kind::Http(http)) = probe.kind else { panic!("no http") };
    assert_eq!(http.target, Some(v1::http_probe::Target::Path("/healthz".to_owned())));
}

#[test]
fn a_probe_without_an_address_asks_the_app_itself() {
    let args = parsed("agentctl onboard a --runtime go --exec /srv/a --health-tcp --min 1");
    let Some(v1::health_probe::Kind::Tcp(tcp)) = args.flags.probe() else { panic!("no tcp") };
    assert_eq!(tcp.address, "");
}

#[test]
fn what_is_started_has_to_be_named_exactly_once() {
    for line in [
        "agentctl onboard a --runtime go",
        "agentctl onboard a --runtime go --exec /srv/a --repo https://h/r",
        "agentctl onboard a --exec /srv/a",
        "agentctl onboard --runtime go --exec /srv/a",
        "agentctl onboard a --runtime go --exec /srv/a --label team",
        "agentctl onboard a --runtime go --exec /srv/a --threshold cpu=high",
    ] {
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_refusal_counts_the_fields_and_says_that_nothing_was_guessed() {
    use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};
    let mut details = ErrorDetails::new();
    details.set_error_info("ONBOARDING_INVALID", "agentctl.dev", std::collections::HashMap::new());
    details.set_bad_request(vec![
        FieldViolation::new(
            "name",
            "must match ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$, got `My API; rm -rf /`",
        ),
        FieldViolation::new("repo.url", "must be an https:// or ssh:// URL, got `file:///etc`"),
    ]);
    let status = tonic::Status::with_error_details(
        tonic::Code::InvalidArgument,
        "2 fields are invalid",
        details,
    );
    let failure = refused(Failure::of_status(&status));
    assert_eq!(failure.exit(), Exit::Usage);
    let mut page = Page::default();
    failure.page(&mut page);
    assert_eq!(
        page.render(false),
        "error: ONBOARDING REFUSED — 2 fields are invalid (nothing was guessed or corrected)\n  \
         name      must match ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$  got \"My API; rm -rf /\"\n  \
         repo.url  must be an https:// or ssh:// URL             got \"file:///etc\"\n\
         hint:  correct them and ask again; --dry-run only validates\n"
    );
}

#[test]
fn an_acceptance_shows_spec_wiring_and_proof() {
    let response = v1::OnboardAppResponse {
        app: Some(v1::App {
            name: "my-api".to_owned(),
            environment: "dev".to_owned(),
            runtime: "rust".to_owned(),
            min_instances: 2,
            max_instances: 6,
            desired_instances: 3,
            listen: "127.0.0.1:8080".to_owned(),
            ..Default::default()
        }),
        spec_digest: "sha256:4be1aabbccdd".to_owned(),
        events: [1042, 1046].map(|seq| v1::AcceptedEvent { seq, ..Default::default() }).to_vec(),
        ..Default::default()
    };
    let mut page = Page::default();
    accepted_page(&mut page, &response);
    page.line(format!("{}   {ACCEPTED}", proof_range(&response.events)));
    assert_eq!(
        page.render(false),
        "✔ validated  my-api   rust   dev\n\
         ✔ spec       apps/my-api/app_spec.json (sha256 4be1aabb)\n\
         ✔ wired      process driver · 2 to 6 instances, 3 wanted · monitor attached · 127.0.0.1:8080\n\
         proof #1042..#1046   ONBOARDING ACCEPTED\n"
    );
}

#[test]
fn the_ruling_decides_the_exit_code() {
    let with = |ruling: v1::Ruling| v1::OnboardAppResponse {
        decision: Some(v1::Decision { ruling: ruling.into(), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(verdict(&with(v1::Ruling::Permitted), false), (ACCEPTED, Exit::Ok));
    assert_eq!(verdict(&with(v1::Ruling::Held), false), (HELD, Exit::Approval));
    assert_eq!(verdict(&with(v1::Ruling::Refused), false), (REFUSED, Exit::Refused));
    assert_eq!(verdict(&v1::OnboardAppResponse::default(), true), (VALID, Exit::Ok));
}

#[test]
fn the_help_says_what_every_runtime_needs_and_is_started_by() {
    use agentd_core::app::{Runtime, Template};
    let help = OnboardArgs::augment_args(clap::Command::new("onboard"))
        .get_after_help()
        .unwrap()
        .to_string();
    for runtime in Runtime::ALL {
        let line = help.lines().find(|line| line.trim_start().starts_with(runtime.as_str()));
        let line = line.unwrap_or_else(|| panic!("{runtime:?} is missing"));
        let template = Template::of(runtime);
        let programs = template.steps.iter().filter_map(|step| step.argv.first());
        let needs =
            template.needs.iter().chain(template.steps.iter().filter_map(|s| s.when.as_ref()));
        for word in needs.chain(programs.filter(|program| **program != "python3")) {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}
