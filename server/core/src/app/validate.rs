//! From what a person typed to an [`AppSpec`]: deterministic, and all violations at once.
//!
//! Nothing is guessed or corrected: a value is taken as it is or refused with the rule it breaks. These defaults are documented
//! and the only ones:
//!
//! | absent | taken |
//! |---|---|
//! | fewest instances | 1 |
//! | instances to start with | the fewest |
//! | most instances | those to start with |
//! | time between TERM and KILL | [`STOP_GRACE_MS`] |
//! | interval of the health check | [`HEALTH_INTERVAL_MS`] |
//! | timeout of the health check | half its interval, at most [`HEALTH_TIMEOUT_MS`] |
//! | address of the health check (empty, or a path from `/`) | the app's own `listen` address |

use std::collections::BTreeMap;

use super::{
    AppName, AppSpec, Env, HealthCheck, Instances, Millis, Override, Probe, Runtime, Source,
};
use crate::action::Level;
use crate::detect::claim_of;
use crate::policy::{Fault, Fetch, Window, lint_windows};
use crate::reason::Reason;
use crate::signal::{MICRO, Metric};

mod address;
mod repo;
mod request;

pub(crate) use address::is_host;
pub use repo::{RepoUrl, is_public};
pub use request::{OnboardRequest, RequestedHealth, RequestedSource, RequestedWindow, Violation};

/// Time between TERM and KILL when nobody says.
const STOP_GRACE_MS: Millis = 5_000;
/// Time between two health questions when nobody says.
const HEALTH_INTERVAL_MS: Millis = 2_000;
/// Most time for an answer when nobody says.
const HEALTH_TIMEOUT_MS: Millis = 1_000;

const STOP_GRACE_MAX: Millis = 600_000;
const HEALTH_INTERVAL: std::ops::RangeInclusive<Millis> = 50..=3_600_000;
const HEALTH_TIMEOUT_MIN: Millis = 10;
const PATH_BYTES_MAX: usize = 4_096;
const ARGS_MAX: usize = 256;
const ARG_BYTES_MAX: usize = 8 * 1_024;
const VARIABLES_MAX: usize = 128;
const VARIABLE_NAME_MAX: usize = 128;
const VARIABLE_BYTES_MAX: usize = 8 * 1_024;
const LABELS_MAX: usize = 64;
const LABEL_KEY_MAX: usize = 63;
const LABEL_VALUE_MAX: usize = 255;
const THRESHOLDS_MAX: usize = 16;
const WINDOWS_MAX: usize = 20;
/// Most bytes of a whole specification: it has to fit into one record of the log with room to spare.
const SPEC_BYTES_MAX: usize = 32 * 1_024;

/// Names that belong to the supervisor or change what is executed.
const FORBIDDEN_VARIABLES: [&str; 12] = [
    "DYLD_INSERT_LIBRARIES",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// An app of this name would be the control plane itself.
const CONTROL_PLANE: &str = "agentd";

/// Turns a request into a specification for the environment this server serves. `fetch` says which repositories may be fetched,
/// `taken` whether an app of that name exists here already.
///
/// # Errors
/// All violations, in the order of the fields.
pub fn validate(
    served: Env,
    fetch: &Fetch,
    request: &OnboardRequest,
    taken: bool,
) -> Result<AppSpec, Vec<Violation>> {
    let mut check = Check { violations: Vec::new() };
    let env = check.env(served, &request.env);
    check.spec(env, fetch, request, taken)
}

/// As [`validate`], for what an app that is under control would be: it is where it is, in prod too, where a second person
/// approves the change.
///
/// # Errors
/// All violations, in the order of the fields.
pub fn revalidate(
    served: Env,
    fetch: &Fetch,
    request: &OnboardRequest,
) -> Result<AppSpec, Vec<Violation>> {
    Check { violations: Vec::new() }.spec(Some(served), fetch, request, false)
}

const INVALID: &str = "INVALID";
const REQUIRED: &str = "REQUIRED";
const OUT_OF_RANGE: &str = "OUT_OF_RANGE";
const TOO_LARGE: &str = "TOO_LARGE";
const TOO_MANY: &str = "TOO_MANY";
const FORBIDDEN: &str = "FORBIDDEN";
const NAME_TAKEN: &str = "NAME_TAKEN";
const ENV_NOT_SERVED: &str = "ENV_NOT_SERVED";

/// A rule that is broken, by whoever knows the rule but not the field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Broken {
    reason: &'static str,
    rule: &'static str,
    fix: &'static str,
}

const fn broken(reason: &'static str, rule: &'static str, fix: &'static str) -> Broken {
    Broken { reason, rule, fix }
}

/// Text that would not be what it looks like: control characters (C0, DEL, C1) and those that change the direction or are
/// invisible.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Collects violations.
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    /// Everything but the environment, and what all of it adds up to.
    fn spec(
        mut self,
        env: Option<Env>,
        fetch: &Fetch,
        request: &OnboardRequest,
        taken: bool,
    ) -> Result<AppSpec, Vec<Violation>> {
        let name = self.name(&request.name, taken && env.is_some());
        let runtime = self.runtime(&request.runtime);
        let source = self.source(&request.source, fetch);
        let working_dir = self.optional(request.working_dir.as_deref(), |check, path| {
            check.path("working_dir", path, true)
        });
        let instances = self.instances(request);
        let listen = self.optional(request.listen.as_deref(), |check, text| {
            check.noted("listen", text, address::listen(text).map(|()| text.to_owned()))
        });
        self.built(request);
        let health = self.optional(request.health.as_ref(), |check, health| {
            check.health(health, request.listen.as_deref())
        });
        let environment = self.variables(&request.environment);
        let labels = self.labels(&request.labels);
        let thresholds = self.thresholds(&request.thresholds);
        let windows = self.windows(&request.windows);
        let autonomy = self.optional(request.autonomy.as_deref(), Check::autonomy);
        let stop_grace_ms = self.stop_grace(request.stop_grace_ms);
        let Self { violations } = self;
        // Each is there exactly when it broke no rule.
        let (Some(name), Some(env), Some(runtime), Some(source), Some(instances)) =
            (name, env, runtime, source, instances)
        else {
            return Err(violations);
        };
        if !violations.is_empty() {
            return Err(violations);
        }
        let spec = AppSpec {
            name,
            env,
            runtime,
            source,
            working_dir,
            instances,
            listen,
            health,
            environment,
            labels,
            thresholds,
            windows,
            autonomy,
            stop_grace_ms,
        };
        let bytes = spec.to_json().len();
        if bytes > SPEC_BYTES_MAX {
            let rule =
                format!("must be {SPEC_BYTES_MAX} bytes at most as a whole, written as JSON");
            let fix = "shorten the arguments, variables or labels";
            let bytes = format!("{bytes} bytes");
            return Err(vec![Violation::new("spec", TOO_LARGE, &bytes, &rule, fix)]);
        }
        Ok(spec)
    }

    fn break_rule(&mut self, field: &str, reason: &str, value: &str, rule: &str, fix: &str) {
        self.violations.push(Violation::new(field, reason, value, rule, fix));
    }

    /// Notes what is broken, if something is.
    fn noted<T>(&mut self, field: &str, value: &str, result: Result<T, Broken>) -> Option<T> {
        match result {
            Ok(good) => Some(good),
            Err(Broken { reason, rule, fix }) => {
                self.break_rule(field, reason, value, rule, fix);
                None
            }
        }
    }

    fn optional<T, U>(
        &mut self,
        given: Option<T>,
        judge: impl FnOnce(&mut Self, T) -> Option<U>,
    ) -> Option<U> {
        given.and_then(|given| judge(self, given))
    }

    fn within(
        &mut self,
        field: &str,
        value: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        if range.contains(&value) {
            return Some(value);
        }
        let rule = format!("must be {} to {}", range.start(), range.end());
        self.break_rule(field, OUT_OF_RANGE, &value.to_string(), &rule, "choose a number within");
        None
    }

    fn at_most(&mut self, field: &str, n: usize, limit: usize) -> bool {
        if n > limit {
            let rule = format!("must be {limit} at most");
            self.break_rule(field, TOO_MANY, &n.to_string(), &rule, "give fewer");
        }
        n <= limit
    }

    fn env(&mut self, served: Env, env: &str) -> Option<Env> {
        if env.is_empty() {
            let rule = "must be `dev`, `stage` or `prod`";
            self.break_rule("environment", REQUIRED, env, rule, "name the environment");
        } else if env == Env::Prod.as_str() {
            let rule = "apps are not onboarded into prod";
            let fix = "onboard it into dev or stage; what goes to prod is a human's decision";
            self.break_rule("environment", Reason::ProdSafetyBlock.as_str(), env, rule, fix);
        } else if Env::parse(env) == Some(served) {
            return Some(served);
        } else {
            // Another environment and no environment at all look the same from here.
            let rule = "is not served here";
            let fix = "use the server of that environment";
            self.break_rule("environment", ENV_NOT_SERVED, env, rule, fix);
        }
        None
    }

    fn name(&mut self, name: &str, taken: bool) -> Option<AppName> {
        let fix = "use lower-case letters, digits and hyphens, such as `shop-api`";
        let Ok(parsed) = AppName::parse(name) else {
            let reason = if name.is_empty() { REQUIRED } else { INVALID };
            self.break_rule("name", reason, name, AppName::RULE, fix);
            return None;
        };
        if parsed.as_str() == CONTROL_PLANE {
            let rule = "must not be the name of the control plane";
            self.break_rule("name", FORBIDDEN, name, rule, "choose another name");
            return None;
        }
        if taken {
            let rule = "must be unique in this environment";
            self.break_rule("name", NAME_TAKEN, name, rule, "choose another name");
            return None;
        }
        Some(parsed)
    }

    fn runtime(&mut self, runtime: &str) -> Option<Runtime> {
        let known = Runtime::ALL.into_iter().find(|known| known.as_str() == runtime);
        if known.is_none() {
            let reason = if runtime.is_empty() { REQUIRED } else { INVALID };
            let rule = "must be one of nodejs, python, go, rust, java, static, binary";
            self.break_rule("runtime", reason, runtime, rule, "name what the app is built from");
        }
        known
    }

    /// What comes from a repository works in its release; and static files are served by agentd's own small server, which has no
    /// other way to learn its address.
    fn built(&mut self, request: &OnboardRequest) {
        let RequestedSource::Repo { .. } = request.source else { return };
        if let Some(directory) = &request.working_dir {
            let rule = "must be absent: an app from a repository works in its release";
            self.break_rule("working_dir", FORBIDDEN, directory, rule, "leave it out");
        }
        if request.runtime == Runtime::Static.as_str() && request.listen.is_none() {
            let rule = "is needed for static files: it is where they are served";
            self.break_rule("listen", REQUIRED, "", rule, "give an address like 127.0.0.1:8080");
        }
    }

    fn source(&mut self, source: &RequestedSource, fetch: &Fetch) -> Option<Source> {
        match source {
            RequestedSource::None => {
                let rule = "must be a program that is built already, or a repository";
                let fix = "give the path of the program (exec) or the URL of the repository (repo)";
                self.break_rule("source", REQUIRED, "", rule, fix);
                None
            }
            RequestedSource::Exec { path, args } => {
                let path = self.path("exec.path", path, false);
                let args = self.args(args);
                Some(Source::Exec { path: path?, args: args? })
            }
            RequestedSource::Repo { url, revision } => {
                // What may hold a password is not repeated.
                let shown = if url.contains('@') { "(withheld)" } else { url.as_str() };
                let url =
                    self.noted("repo", shown, RepoUrl::judge(url, fetch).map(|_| url.clone()));
                let revision = match revision {
                    None => Some(None),
                    Some(text) => {
                        let judged = repo::revision(text).map(|()| Some(text.clone()));
                        self.noted("repo.revision", text, judged)
                    }
                };
                Some(Source::Repo { url: url?, revision: revision? })
            }
        }
    }

    /// An absolute path as it is: nothing in it is resolved or tidied.
    fn path(&mut self, field: &str, path: &str, directory: bool) -> Option<String> {
        let rule = "must be an absolute path of at most 4096 bytes, without `.`, `..` or empty \
                    components and without control characters";
        let inner = path
            .strip_prefix('/')
            .map(|inner| if directory { inner.strip_suffix('/').unwrap_or(inner) } else { inner });
        let root = directory && path == "/";
        let tidy = |inner: &str| inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let good = path.len() <= PATH_BYTES_MAX
            && !path.chars().any(is_deceptive)
            && (root || inner.is_some_and(tidy));
        if !good {
            let reason = if path.is_empty() { REQUIRED } else { INVALID };
            self.break_rule(field, reason, path, rule, "give the full path, such as /opt/app/run");
        }
        good.then(|| path.to_owned())
    }

    fn args(&mut self, args: &[String]) -> Option<Vec<String>> {
        let before = self.violations.len();
        if !self.at_most("exec.args", args.len(), ARGS_MAX) {
            return None;
        }
        for (index, arg) in args.iter().enumerate() {
            let field = format!("exec.args[{index}]");
            let fix = "pass long or binary content in a file";
            if arg.len() > ARG_BYTES_MAX {
                let rule = "must be 8192 bytes at most";
                self.break_rule(&field, TOO_LARGE, arg, rule, fix);
            } else if arg.chars().any(is_deceptive) {
                let rule = "must not contain control or invisible characters";
                self.break_rule(&field, INVALID, arg, rule, fix);
            }
        }
        (self.violations.len() == before).then(|| args.to_vec())
    }

    fn instances(&mut self, request: &OnboardRequest) -> Option<Instances> {
        let min = request.min_instances.unwrap_or(1);
        let desired = request.desired_instances.unwrap_or(min);
        let max = request.max_instances.unwrap_or(desired);
        let limit = u64::from(Instances::LIMIT);
        let before = self.violations.len();
        for (field, value) in
            [("instances.min", min), ("instances.desired", desired), ("instances.max", max)]
        {
            self.within(field, value.into(), 1..=limit);
        }
        if self.violations.len() == before && !(min <= desired && desired <= max) {
            let value = format!("min {min}, desired {desired}, max {max}");
            let rule = "must be min <= desired <= max";
            self.break_rule("instances", OUT_OF_RANGE, &value, rule, "change one of them");
        }
        (self.violations.len() == before).then_some(Instances { min, max, desired })
    }

    fn health(&mut self, health: &RequestedHealth, listen: Option<&str>) -> Option<HealthCheck> {
        let interval = health.interval_ms.unwrap_or(HEALTH_INTERVAL_MS);
        let interval = self.within("health.interval_ms", interval, HEALTH_INTERVAL);
        let timeout = interval.and_then(|interval| {
            let default = (interval / 2).min(HEALTH_TIMEOUT_MS);
            let timeout = health.timeout_ms.unwrap_or(default);
            // Less than the interval, so that questions do not pile up.
            self.within("health.timeout_ms", timeout, HEALTH_TIMEOUT_MIN..=interval - 1)
        });
        let probe = match &health.probe {
            Probe::Http { url } => {
                let judged = address::http(url, listen);
                self.noted("health.http", url, judged).map(|url| Probe::Http { url })
            }
            Probe::Tcp { address } => {
                let judged = address::peer(address, listen);
                self.noted("health.tcp", address, judged).map(|address| Probe::Tcp { address })
            }
            Probe::Grpc { address, service } => {
                let judged = address::peer(address, listen);
                let address = self.noted("health.grpc", address, judged);
                let judged = address::service(service).map(|()| service.clone());
                let service = self.noted("health.grpc.service", service, judged);
                address.zip(service).map(|(address, service)| Probe::Grpc { address, service })
            }
        };
        Some(HealthCheck { probe: probe?, interval_ms: interval?, timeout_ms: timeout? })
    }

    fn variables(&mut self, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        if !self.at_most("environment_variables", given.len(), VARIABLES_MAX) {
            return BTreeMap::new();
        }
        for (name, value) in given {
            let head = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let field = "environment_variables";
            if !head || !plain || name.len() > VARIABLE_NAME_MAX {
                let rule = "a name must match ^[A-Za-z_][A-Za-z0-9_]{0,127}$";
                self.break_rule(field, INVALID, name, rule, "rename it");
            } else if FORBIDDEN_VARIABLES.contains(&name.as_str()) {
                let rule = "must not be one that the supervisor sets or that changes what is run";
                self.break_rule(field, FORBIDDEN, name, rule, "leave it out");
            }
            // Values are not repeated: people put secrets there although they should not.
            if value.len() > VARIABLE_BYTES_MAX || value.chars().any(is_deceptive) {
                let rule = "a value must be 8192 bytes at most, without control or invisible \
                            characters";
                self.break_rule(field, INVALID, name, rule, "put such content in a file");
            }
        }
        given.clone()
    }

    fn labels(&mut self, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        if !self.at_most("labels", given.len(), LABELS_MAX) {
            return BTreeMap::new();
        }
        for (key, value) in given {
            if !is_label_key(key) {
                let rule = "a key must match ^[a-z0-9]([-._/a-z0-9]{0,61}[a-z0-9])?$";
                self.break_rule("labels", INVALID, key, rule, "rename it");
            }
            if value.len() > LABEL_VALUE_MAX || value.chars().any(is_deceptive) {
                let rule = "a value must be 255 bytes at most, without control or invisible \
                            characters";
                self.break_rule("labels", INVALID, value, rule, "shorten it");
            }
            // Anything but a clear yes or no would protect or expose by accident.
            let clear = matches!(value.as_str(), "true" | "false");
            if key == AppSpec::PROTECTED_LABEL && !clear {
                let rule = "`protected` must be `true` or `false`";
                self.break_rule("labels", INVALID, value, rule, "write `true` or `false`");
            }
        }
        given.clone()
    }

    fn thresholds(&mut self, given: &BTreeMap<String, (f64, f64)>) -> BTreeMap<Metric, Override> {
        let mut good = BTreeMap::new();
        if !self.at_most("thresholds", given.len(), THRESHOLDS_MAX) {
            return good;
        }
        for (name, (enter, leave)) in given {
            let metric = Metric::ALL.into_iter().find(|metric| metric.as_str() == name);
            let Some(metric) = metric.filter(|metric| claim_of(*metric).is_some()) else {
                let rule = "must be one of cpu_utilization, memory_utilization, latency_p99, \
                            error_ratio";
                self.break_rule("thresholds", INVALID, name, rule, "name a metric with a detector");
                continue;
            };
            match (micro(*enter, metric), micro(*leave, metric)) {
                (Some(enter), Some(leave)) if leave < enter => {
                    good.insert(metric, Override { enter, leave });
                }
                _ => {
                    let most = metric.max_micro() / MICRO;
                    let rule = format!("must be 0 < leave < enter <= {most}, in millionths apart");
                    let value = format!("{name}: enter {enter}, leave {leave}");
                    let fix = "set leave to about 0.8 of enter";
                    self.break_rule("thresholds", OUT_OF_RANGE, &value, &rule, fix);
                }
            }
        }
        good
    }

    /// Windows of the app alone, under the rules of the policy's.
    fn windows(&mut self, given: &[RequestedWindow]) -> Vec<Window> {
        const FIELD: &str = "maintenance_windows";
        if !self.at_most(FIELD, given.len(), WINDOWS_MAX) {
            return Vec::new();
        }
        let windows = given.iter().cloned().map(Window::from).collect::<Vec<_>>();
        for fault in lint_windows(FIELD, &windows) {
            let Fault { field, value, rule, fix } = fault;
            self.break_rule(&field, INVALID, &value, &rule, &fix);
        }
        windows
    }

    fn autonomy(&mut self, text: &str) -> Option<Level> {
        let levels = [Level::Off, Level::Shadow, Level::Propose, Level::Auto];
        let known = levels.into_iter().find(|level| level.as_str() == text);
        if known.is_none() {
            let rule = "must be OFF, SHADOW, PROPOSE or AUTO";
            self.break_rule("autonomy", INVALID, text, rule, "name a level, or leave it out");
        }
        known
    }

    fn stop_grace(&mut self, given: Option<Millis>) -> Millis {
        let grace = given.unwrap_or(STOP_GRACE_MS);
        self.within("stop_grace_ms", grace, 0..=STOP_GRACE_MAX);
        grace
    }
}

fn is_label_key(key: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = key.as_bytes();
    bytes.len() <= LABEL_KEY_MAX
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || b"-._/".contains(b))
}

/// A natural value in millionths; `None` unless it is a number above 0 that the metric can have.
#[expect(clippy::cast_possible_truncation, reason = "the range was checked before")]
fn micro(value: f64, metric: Metric) -> Option<i64> {
    let scaled = (value * 1e6).round();
    let most = metric.max_micro();
    // NaN is within no range. Every maximum is far below 2^53, so the comparison is exact.
    (1.0..=most as f64).contains(&scaled).then_some(scaled as i64)
}

#[cfg(test)]
mod tests;
