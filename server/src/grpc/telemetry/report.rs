//! One signal on its way from whoever claims it to the table of windows. Every door for signals leads through here: what a source
//! may report on, what a claim must obey and what is counted is the same for all of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentd_core::app::Millis;
use agentd_core::policy::Freshness;
use agentd_core::record::format_time;
use agentd_core::signal::{self, Accepted, Claims, Code, Condition, Rejection, Spoken};
use agentd_core::window::{self, Absorbed};

use super::EXIT_REPORTED;
use super::intake::Counters;
use crate::auth::Principal;
use crate::grpc::Services;
use crate::grpc::from_proto::Claim;
use crate::metrics::Lags;

/// Whoever reports, under one name.
#[derive(Debug)]
pub(in crate::grpc) struct Reporter<'a> {
    services: &'a Services,
    principal: Principal,
    /// `monitor@principal`: two principals never share a monitor, and a probe's name has no `@`.
    pub(in crate::grpc) source: String,
    rules: Arc<Freshness>,
    heard: Heard,
}

/// What was heard and not yet counted where everybody counts.
#[derive(Debug, Default)]
struct Heard {
    accepted: u64,
    superseded: u64,
    last_ms: Millis,
    lags: Lags,
}

impl<'a> Reporter<'a> {
    /// The monitor called `monitor` that came with the token of `principal`.
    pub(in crate::grpc) fn new(
        services: &'a Services,
        principal: Principal,
        monitor: &str,
    ) -> Self {
        let source = format!("{monitor}@{}", principal.name());
        let rules = services.ingest.rules();
        Self { services, principal, source, rules, heard: Heard::default() }
    }

    /// Its principal.
    pub(in crate::grpc) const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Takes the rules that are in force now.
    pub(in crate::grpc) fn refresh(&mut self) {
        self.rules = self.services.ingest.rules();
    }

    /// Applies what is claimed, with the time to live of the claim or else `default_ttl_ms`.
    ///
    /// # Errors
    /// Every rule it breaks; nothing of it is applied then.
    pub(in crate::grpc) fn take(
        &self,
        claim: Claim,
        default_ttl_ms: Option<Millis>,
        now: Millis,
    ) -> Result<Absorbed, Vec<Rejection>> {
        let Claim { signal, ttl_ms, mut rejections } = claim;
        // An app the token may not report on is answered like one that does not exist.
        let known = |name: &str| {
            let mine = self.principal.may_report(name);
            mine.then(|| self.services.ingest.find(name)).flatten()
        };
        let counters = &self.services.intake.counters;
        match signal::validate(&signal, &self.source, now, &self.rules, known) {
            Ok(accepted) if rejections.is_empty() => {
                Ok(self.accept(accepted, ttl_ms.or(default_ttl_ms), now))
            }
            judged => {
                let found = judged.err().unwrap_or_default().into_iter();
                rejections.extend(found.map(|rejection| as_on_wire(rejection, &signal)));
                Counters::add(&counters.rejected, 1);
                Err(rejections)
            }
        }
    }

    /// Applies what is said about `app` while it still lies where it was read, and counts it with the next [`Reporter::settle`]; `None`,
    /// and nothing was applied, if it breaks a rule. [`Reporter::take`] says which.
    pub(in crate::grpc) fn hear(
        &mut self,
        app: &str,
        spoken: &Spoken,
        conditions: Claims<'_>,
        now: Millis,
    ) -> Option<Absorbed> {
        if !self.principal.may_report(app) {
            return None;
        }
        let believed = spoken.believe(conditions, &self.source, now, &self.rules)?;
        let absorbed = self.services.ingest.hear(app, &believed)?;
        let heard = &mut self.heard;
        heard.accepted += 1;
        heard.superseded += u64::from(absorbed.superseded > 0);
        heard.last_ms = now;
        if !believed.values().is_empty() {
            heard.lags.add(now.saturating_sub(spoken.observed_ms));
        }
        if believed.is_urgent()
            && let Some(app) = self.services.ingest.find(app)
            && self.services.intake.may_urge(&app, now)
        {
            self.services.agent.urgent(app);
        }
        Some(absorbed)
    }

    /// Counts what was heard.
    pub(in crate::grpc) fn settle(&mut self) {
        let Heard { accepted, superseded, last_ms, lags } = &mut self.heard;
        if *accepted == 0 {
            return;
        }
        let counters = &self.services.intake.counters;
        Counters::add(&counters.accepted, std::mem::take(accepted));
        Counters::add(&counters.superseded, std::mem::take(superseded));
        counters.last_signal_ms.fetch_max(*last_ms, Ordering::Relaxed);
        self.services.metrics.signals(lags);
        lags.clear();
    }

    fn accept(&self, mut accepted: Accepted, ttl_ms: Option<Millis>, now: Millis) -> Absorbed {
        if accepted.exit.is_some() {
            let condition = Condition { value: true, source: self.source.clone(), at: now };
            accepted.conditions.insert(EXIT_REPORTED.to_owned(), condition);
        }
        accepted.ttl_ms = ttl_ms;
        let counters = &self.services.intake.counters;
        Counters::add(&counters.accepted, 1);
        counters.last_signal_ms.fetch_max(now, Ordering::Relaxed);
        if let Some(observed) = accepted.samples.iter().map(|sample| sample.observed_ms).max() {
            self.services.metrics.signal(now.saturating_sub(observed));
        }
        let absorbed = self.services.ingest.accept(&accepted);
        if absorbed.superseded > 0 {
            Counters::add(&counters.superseded, 1);
        }
        if window::urgent(&accepted) && self.services.intake.may_urge(&accepted.app, now) {
            self.services.agent.urgent(accepted.app);
        }
        absorbed
    }
}

/// A rejection of the core with the names of the proto and with times that can be read.
fn as_on_wire(rejection: Rejection, signal: &signal::Signal) -> Rejection {
    let field = match rejection.field.as_str() {
        "observed" => "time",
        "latency_p50" => "latency_p50_seconds",
        "latency_p99" => "latency_p99_seconds",
        other => other,
    };
    let time = Some(format_time(signal.observed_ms)).filter(|time| !time.is_empty());
    let value = match (field, time) {
        ("time", Some(time)) => time,
        _ => rejection.value,
    };
    let rule = match rejection.code {
        Code::UnknownApp => "must be an onboarded app that this token may report on".to_owned(),
        _ => rejection.rule,
    };
    Rejection { field: field.to_owned(), value, rule, ..rejection }
}
