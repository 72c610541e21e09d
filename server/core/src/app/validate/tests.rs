use super::*;

mod any;
mod repositories;

fn request() -> OnboardRequest {
    OnboardRequest {
        name: "shop-api".to_owned(),
        env: "stage".to_owned(),
        runtime: "python".to_owned(),
        source: exec("/usr/bin/python3", &["-m", "http.server"]),
        ..OnboardRequest::default()
    }
}

fn exec(path: &str, args: &[&str]) -> RequestedSource {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    RequestedSource::Exec { path: path.to_owned(), args }
}

fn repo(url: &str) -> RequestedSource {
    RequestedSource::Repo { url: url.to_owned(), revision: None }
}

/// What is wrong with the request after the change, as (field, reason).
fn wrong(change: impl FnOnce(&mut OnboardRequest)) -> Vec<(String, String)> {
    let mut request = request();
    change(&mut request);
    match validate(Env::Stage, &Fetch::default(), &request, false) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.into_iter().map(|v| (v.field, v.reason)).collect(),
    }
}

fn check(story: &str, change: impl FnOnce(&mut OnboardRequest), expected: &[(&str, &str)]) {
    let found = wrong(change);
    let found: Vec<(&str, &str)> = found.iter().map(|(f, r)| (f.as_str(), r.as_str())).collect();
    assert_eq!(found, expected, "{story}");
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn a_small_request_gets_the_documented_defaults() {
    let spec = validate(Env::Stage, &Fetch::default(), &request(), false).unwrap();
    assert_eq!(spec.name.as_str(), "shop-api");
    assert_eq!((spec.env, spec.runtime), (Env::Stage, Runtime::Python));
    assert_eq!(spec.instances, Instances { min: 1, max: 1, desired: 1 });
    assert_eq!(spec.stop_grace_ms, STOP_GRACE_MS);
    assert_eq!((spec.listen, spec.health, spec.autonomy), (None, None, None));
}

#[test]
fn a_full_request_is_taken_as_it_is() {
    let mut request = request();
    request.working_dir = text("/srv/shop/");
    request.min_instances = Some(2);
    request.max_instances = Some(8);
    request.listen = text("127.0.0.1:8080");
    let probe = Probe::Http { url: "/healthz?deep=1".to_owned() };
    request.health = Some(RequestedHealth { probe, interval_ms: Some(500), timeout_ms: None });
    request.environment = [("PORT".to_owned(), "8080".to_owned())].into();
    request.labels = [("protected".to_owned(), "true".to_owned())].into();
    request.thresholds = [("error_ratio".to_owned(), (0.05, 0.04))].into();
    request.autonomy = text("PROPOSE");
    request.stop_grace_ms = Some(0);
    let spec = validate(Env::Stage, &Fetch::default(), &request, false).unwrap();
    assert_eq!(spec.working_dir.as_deref(), Some("/srv/shop/"));
    assert_eq!(spec.instances, Instances { min: 2, max: 8, desired: 2 });
    let health = spec.health.clone().unwrap();
    assert_eq!(
        health.probe,
        Probe::Http { url: "http://127.0.0.1:8080/healthz?deep=1".to_owned() }
    );
    assert_eq!((health.interval_ms, health.timeout_ms), (500, 250));
    assert_eq!(spec.thresholds[&Metric::ErrorRatio], Override { enter: 50_000, leave: 40_000 });
    assert_eq!(spec.autonomy, Some(Level::Propose));
    assert!(spec.is_protected());
    assert_eq!(
        validate(Env::Stage, &Fetch::default(), &request, false).unwrap().digest(),
        spec.digest()
    );
}

#[test]
fn everything_is_said_at_once_and_in_the_order_of_the_fields() {
    check(
        "an empty request",
        |r| *r = OnboardRequest::default(),
        &[
            ("environment", "REQUIRED"),
            ("name", "REQUIRED"),
            ("runtime", "REQUIRED"),
            ("source", "REQUIRED"),
        ],
    );
    check(
        "everything is wrong",
        |r| {
            r.name = "A".to_owned();
            r.env = "live".to_owned();
            r.runtime = "cobol".to_owned();
            r.source = exec("run", &["a\nb"]);
            r.working_dir = text("tmp");
            r.min_instances = Some(0);
            r.listen = text("8080");
            r.autonomy = text("auto");
            r.stop_grace_ms = Some(600_001);
        },
        &[
            ("environment", "ENV_NOT_SERVED"),
            ("name", "INVALID"),
            ("runtime", "INVALID"),
            ("exec.path", "INVALID"),
            ("exec.args[0]", "INVALID"),
            ("working_dir", "INVALID"),
            ("instances.min", "OUT_OF_RANGE"),
            ("instances.desired", "OUT_OF_RANGE"),
            ("instances.max", "OUT_OF_RANGE"),
            ("listen", "INVALID"),
            ("autonomy", "INVALID"),
            ("stop_grace_ms", "OUT_OF_RANGE"),
        ],
    );
}

#[test]
fn names_that_attack_are_refused_with_the_rule() {
    let long = "a".repeat(64);
    for name in [
        "../x",
        "..",
        "/etc/passwd",
        "A",
        "Shop",
        "-x",
        "x-",
        "a..b",
        "a.b",
        "a_b",
        "a b",
        "1a",
        "a\0",
        "\0",
        "a\n",
        "sh\u{043e}p",
        "\u{202e}pohs",
        "shop\u{200b}",
        "con",
        "nul",
        "lpt1",
        "shop.",
        "a;reboot",
        "$(id)",
        "%2e%2e",
        &long,
    ] {
        check(name, |r| r.name = name.to_owned(), &[("name", "INVALID")]);
    }
    let violations = validate(
        Env::Stage,
        &Fetch::default(),
        &OnboardRequest { name: "../x".to_owned(), ..request() },
        false,
    )
    .unwrap_err();
    assert_eq!(violations[0].rule, AppName::RULE);
    check("the longest", |r| r.name = "a".repeat(63), &[]);
    check("the control plane", |r| r.name = "agentd".to_owned(), &[("name", "FORBIDDEN")]);
}

#[test]
fn an_environment_is_the_served_one_or_as_good_as_none() {
    let found = |served, env: &str, taken| {
        let request = OnboardRequest { env: env.to_owned(), ..request() };
        let violations =
            validate(served, &Fetch::default(), &request, taken).err().unwrap_or_default();
        violations.into_iter().map(|v| (v.reason, v.rule)).collect::<Vec<_>>()
    };
    assert_eq!(found(Env::Stage, "stage", false), []);
    let other = found(Env::Stage, "dev", false);
    assert_eq!(other[0].0, "ENV_NOT_SERVED");
    assert_eq!(other, found(Env::Stage, "moon", false), "nothing is told about other environments");
    assert_eq!(other, found(Env::Stage, "dev", true), "nor about what exists in this one");
    assert_eq!(other, found(Env::Stage, "STAGE", false), "nothing is corrected");
    assert_eq!(found(Env::Stage, "stage", true)[0].0, "NAME_TAKEN");
    for served in Env::ALL {
        assert_eq!(found(served, "prod", false)[0].0, Reason::ProdSafetyBlock.as_str());
    }
}

#[test]
fn passwords_are_not_repeated() {
    let request = OnboardRequest {
        source: repo("https://me:hunter2@github.com/a/b"),
        environment: [("TOKEN".to_owned(), "hunter2\n".to_owned())].into(),
        ..request()
    };
    let violations = validate(Env::Stage, &Fetch::default(), &request, false).unwrap_err();
    assert_eq!(violations.len(), 2);
    assert!(!format!("{violations:?}").contains("hunter2"));
}

#[test]
fn programs_and_arguments_are_taken_literally() {
    for path in ["/bin/sh", "/opt/my app/run", "/opt/\u{e4}/run"] {
        check(path, |r| r.source = exec(path, &["-c", "a; b $(c) | d > e"]), &[]);
    }
    for path in [
        "run",
        "./run",
        "../run",
        "~/run",
        "/opt/../bin/sh",
        "/opt/./run",
        "/opt//run",
        "/opt/",
        "/",
        "//bin/sh",
        "/bin/sh\0",
        "/bin/\nsh",
        "/bin/\u{202e}sh",
        "\u{1b}[2J",
    ] {
        check(path, |r| r.source = exec(path, &[]), &[("exec.path", "INVALID")]);
    }
    check("none", |r| r.source = exec("", &[]), &[("exec.path", "REQUIRED")]);
    let long = "/".to_owned() + &"a".repeat(4_096);
    check("too long", |r| r.source = exec(&long, &[]), &[("exec.path", "INVALID")]);
    check("256 arguments", |r| r.source = exec("/bin/x", &["a"; 256]), &[]);
    let many = [("exec.args", "TOO_MANY")];
    check("257 arguments", |r| r.source = exec("/bin/x", &["a"; 257]), &many);
    check("8 KiB", |r| r.source = exec("/bin/x", &[&"a".repeat(8_192)]), &[]);
    let large = [("exec.args[1]", "TOO_LARGE")];
    check("more", |r| r.source = exec("/bin/x", &["", &"a".repeat(8_193)]), &large);
    for arg in ["a\0", "a\nb", "\r", "\u{1b}]52;c;x", "\u{9b}1m", "\u{2066}"] {
        check(arg, |r| r.source = exec("/bin/x", &[arg]), &[("exec.args[0]", "INVALID")]);
    }
    let whole = vec!["a".repeat(8_192); 4];
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    check("too much as a whole", |r| r.source = exec("/bin/x", &whole), &[("spec", "TOO_LARGE")]);
}

#[test]
fn working_directories_are_absolute() {
    for path in ["/", "/srv", "/srv/"] {
        check(path, |r| r.working_dir = text(path), &[]);
    }
    for path in ["srv", "/srv//", "/srv/..", "/srv/\0"] {
        check(path, |r| r.working_dir = text(path), &[("working_dir", "INVALID")]);
    }
}

#[test]
fn instances_are_ordered() {
    let with = |min, desired, max| {
        move |r: &mut OnboardRequest| {
            (r.min_instances, r.desired_instances, r.max_instances) = (min, desired, max);
        }
    };
    check("all", with(Some(1), Some(64), Some(64)), &[]);
    check("desired alone", with(None, Some(3), None), &[]);
    check("the fewest alone", with(Some(2), None, None), &[]);
    let order = [("instances", "OUT_OF_RANGE")];
    check("more than the most", with(None, Some(3), Some(2)), &order);
    check("fewer than the fewest", with(Some(3), Some(2), None), &order);
    check("none", with(Some(0), Some(1), Some(1)), &[("instances.min", "OUT_OF_RANGE")]);
    check("too many", with(Some(1), Some(1), Some(65)), &[("instances.max", "OUT_OF_RANGE")]);
}

#[test]
fn a_listen_address_is_one_address() {
    for good in ["127.0.0.1:1", "127.0.0.1:65535", "[::1]:8080", "192.168.1.5:80"] {
        check(good, |r| r.listen = text(good), &[]);
    }
    for bad in [
        "",
        "8080",
        ":8080",
        "localhost:8080",
        "0.0.0.0:80",
        "[::]:80",
        "127.0.0.1:0",
        "127.1:80",
        "127.0.0.1",
        "127.0.0.1:65536",
        "127.0.0.1:080",
        "127.0.0.1:+80",
        "[0::1]:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "127.0.0.1:80 ",
        "[fe80::1%eth0]:80",
        "::1:80",
    ] {
        check(bad, |r| r.listen = text(bad), &[("listen", "INVALID")]);
    }
}

fn ask(probe: Probe, listen: Option<&str>) -> impl FnOnce(&mut OnboardRequest) {
    let listen = listen.map(str::to_owned);
    move |r| {
        r.listen = listen;
        r.health = Some(RequestedHealth { probe, interval_ms: None, timeout_ms: None });
    }
}

fn http_probe(url: &str) -> Probe {
    Probe::Http { url: url.to_owned() }
}

fn tcp_probe(address: &str) -> Probe {
    Probe::Tcp { address: address.to_owned() }
}

#[test]
fn health_is_asked_on_a_clear_address() {
    let http = http_probe;
    for url in [
        "http://127.0.0.1:80",
        "http://127.0.0.1:8080/healthz?x=%20y",
        "http://[::1]:8080/",
        "http://localhost:8080/",
        "http://shop.internal:80/x",
        "http://10.0.0.1:80/",
    ] {
        check(url, ask(http(url), None), &[]);
    }
    for url in [
        "",
        "https://127.0.0.1:80/",
        "http://127.0.0.1/",
        "http://u:p@127.0.0.1:80/",
        "http://127.1:80/",
        "http://2130706433:80/",
        "http://0x7f.1:80/",
        "http://a%2eb:80/",
        "http://127.0.0.1:80/a b",
        "http://127.0.0.1:80/\n",
        "http://127.0.0.1:80/#x",
        "http://127.0.0.1:80?x",
        "http://127.0.0.1:0/",
        "http://:80/",
        "http://[::1:80/",
        "http://a_b:80/",
        "http://-a:80/",
        "file:///etc/passwd",
        "http://127.0.0.1:80\\@x/",
    ] {
        check(url, ask(http(url), None), &[("health.http", "INVALID")]);
    }
}

#[test]
fn health_is_not_asked_where_only_the_infrastructure_answers() {
    for host in [
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "0.0.0.0",
        "[::]",
        "metadata.google.internal",
        "224.0.0.1",
        "100.100.100.200",
    ] {
        let url = format!("http://{host}:80/");
        let forbidden = [("health.http", "HEALTH_HOST_FORBIDDEN")];
        check(host, ask(Probe::Http { url }, None), &forbidden);
        let address = format!("{host}:80");
        let forbidden = [("health.tcp", "HEALTH_HOST_FORBIDDEN")];
        check(host, ask(Probe::Tcp { address }, None), &forbidden);
    }
}

#[test]
fn health_is_asked_on_its_own_address_when_none_is_given() {
    let (http, tcp) = (http_probe, tcp_probe);
    let grpc = |address: &str, service: &str| {
        let (address, service) = (address.to_owned(), service.to_owned());
        Probe::Grpc { address, service }
    };
    let own = Some("127.0.0.1:9000");
    check("a path on its own address", ask(http("/healthz"), own), &[]);
    check("a path on none", ask(http("/healthz"), None), &[("health.http", "REQUIRED")]);
    check("TCP on its own address", ask(tcp(""), own), &[]);
    check("TCP on none", ask(tcp(""), None), &[("health.tcp", "REQUIRED")]);
    check("TCP", ask(tcp("localhost:5432"), None), &[]);
    check("TCP without a port", ask(tcp("localhost"), None), &[("health.tcp", "INVALID")]);
    check("gRPC", ask(grpc("127.0.0.1:50051", "shop.v1.Orders"), None), &[]);
    check("gRPC as a whole", ask(grpc("", ""), own), &[]);
    let service = [("health.grpc.service", "INVALID")];
    check("gRPC, a bad name", ask(grpc("", "a b"), own), &service);
}

#[test]
fn an_answer_is_due_before_the_next_question() {
    let every = |interval_ms, timeout_ms| {
        move |r: &mut OnboardRequest| {
            let probe = Probe::Tcp { address: "127.0.0.1:80".to_owned() };
            r.health = Some(RequestedHealth { probe, interval_ms, timeout_ms });
        }
    };
    check("defaults", every(None, None), &[]);
    check("as long as may be", every(Some(1_000), Some(999)), &[]);
    let timeout = [("health.timeout_ms", "OUT_OF_RANGE")];
    check("as long as the interval", every(Some(1_000), Some(1_000)), &timeout);
    check("too short", every(Some(1_000), Some(9)), &timeout);
    check("longer than the default interval", every(None, Some(2_000)), &timeout);
    check("too often", every(Some(49), None), &[("health.interval_ms", "OUT_OF_RANGE")]);
    check("never", every(Some(u64::MAX), None), &[("health.interval_ms", "OUT_OF_RANGE")]);
}

#[test]
fn variables_do_not_reach_into_the_supervisor() {
    let with = |name: &str, value: &str| {
        let entry = (name.to_owned(), value.to_owned());
        move |r: &mut OnboardRequest| r.environment = [entry].into()
    };
    check("plain", with("_Path_1", "a b=c;$(d)"), &[]);
    let field = "environment_variables";
    for name in ["", "1A", "A-B", "A B", "A=B", "\u{c4}", "A\0", &"A".repeat(129)] {
        check(name, with(name, "x"), &[(field, "INVALID")]);
    }
    for name in FORBIDDEN_VARIABLES {
        check(name, with(name, "x"), &[(field, "FORBIDDEN")]);
    }
    for value in ["\0", "a\nb", "\u{1b}[m", &"x".repeat(8_193)] {
        check(value, with("A", value), &[(field, "INVALID")]);
    }
    let many = |r: &mut OnboardRequest| {
        r.environment = (0..129).map(|n| (format!("A{n}"), String::new())).collect();
    };
    check("too many", many, &[(field, "TOO_MANY")]);
}

#[test]
fn labels_are_short_and_clear() {
    let with = |key: &str, value: &str| {
        let entry = (key.to_owned(), value.to_owned());
        move |r: &mut OnboardRequest| r.labels = [entry].into()
    };
    check("plain", with("team/owner.name_1", "Checkout, EU"), &[]);
    for key in ["", "A", "-a", "a-", "a b", &"a".repeat(64)] {
        check(key, with(key, "x"), &[("labels", "INVALID")]);
    }
    for value in ["\n", "\u{202e}", &"x".repeat(256)] {
        check(value, with("a", value), &[("labels", "INVALID")]);
    }
    check("protected", with("protected", "true"), &[]);
    check("not protected", with("protected", "false"), &[]);
    for unclear in ["yes", "True", "1", ""] {
        check(unclear, with("protected", unclear), &[("labels", "INVALID")]);
    }
    let many = |r: &mut OnboardRequest| {
        r.labels = (0..65).map(|n| (format!("a{n}"), String::new())).collect();
    };
    check("too many", many, &[("labels", "TOO_MANY")]);
}

#[test]
fn thresholds_are_numbers_with_hysteresis() {
    let with = |metric: &str, enter: f64, leave: f64| {
        let entry = (metric.to_owned(), (enter, leave));
        move |r: &mut OnboardRequest| r.thresholds = [entry].into()
    };
    check("plain", with("cpu_utilization", 0.8, 0.6), &[]);
    check("the most", with("error_ratio", 1.0, 0.999_999), &[]);
    for (enter, leave) in [
        (0.6, 0.8),
        (0.8, 0.8),
        (0.8, 0.799_999_9),
        (0.8, 0.0),
        (0.8, -1.0),
        (1.000_001, 0.5),
        (f64::NAN, 0.5),
        (0.5, f64::NAN),
        (f64::INFINITY, 0.5),
        (0.8, f64::NEG_INFINITY),
        (1e300, 1e299),
        (f64::MIN_POSITIVE, 0.0),
    ] {
        let story = format!("{enter} and {leave}");
        check(&story, with("error_ratio", enter, leave), &[("thresholds", "OUT_OF_RANGE")]);
    }
    for metric in ["", "cpu", "CPU_UTILIZATION", "request_rate", "restart_count"] {
        check(metric, with(metric, 0.8, 0.6), &[("thresholds", "INVALID")]);
    }
}

#[test]
fn what_is_repeated_is_bounded_and_stays_text() {
    let request = OnboardRequest { name: "\u{e4}".repeat(5_000), ..request() };
    let violations = validate(Env::Stage, &Fetch::default(), &request, false).unwrap_err();
    assert_eq!(violations[0].value.len(), 203);
    assert_eq!(violations[0].clipped().clipped(), violations[0].clipped(), "clipping is stable");
}
