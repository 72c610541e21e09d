//! Looks at an app at a steady pace and makes a signal of each look.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentctl_api::v1;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::server::sense::{self, GroupMeter, Meter, Probe, Usage};
use crate::time;

/// Looks that quantiles and ratios are made of.
const LOOKS: usize = 20;
/// Condition that says that the process is gone. It is a claim like any other: the supervisor knows by itself what runs.
const GONE: &str = "process_gone";

/// What is looked at.
#[derive(Debug)]
pub(super) enum Look {
    /// An answer to a question.
    Probe(Probe),
    /// What a process uses.
    Process {
        /// Which one.
        pid: Pid,
        /// The open files of the one that was last seen.
        meter: Option<Box<Meter>>,
    },
    /// What a control group uses.
    Group {
        /// Its directory.
        path: PathBuf,
        /// Its open files, while something runs in it.
        meter: Option<Box<GroupMeter>>,
    },
}

/// How a process is found.
#[derive(Debug)]
pub(super) enum Pid {
    /// By its number.
    Given(u32),
    /// By a file with its number.
    File(PathBuf),
}

impl Pid {
    fn find(&self) -> Option<u32> {
        match self {
            Self::Given(pid) => Some(*pid),
            Self::File(path) => std::fs::read_to_string(path).ok()?.trim().parse().ok(),
        }
    }
}

impl Look {
    /// A look at a process.
    pub(super) const fn process(pid: Pid) -> Self {
        Self::Process { pid, meter: None }
    }

    /// A look at a control group.
    pub(super) const fn group(path: PathBuf) -> Self {
        Self::Group { path, meter: None }
    }
}

/// Makes signals.
#[derive(Debug)]
pub(super) struct Sampler {
    look: Look,
    every: Duration,
    ticks: Option<Interval>,
    app: String,
    instance: String,
    /// Time of each of the last looks; `None`: it failed.
    answers: VecDeque<Option<Duration>>,
}

impl Sampler {
    pub(super) fn new(look: Look, every: Duration, app: &str, instance: Option<&str>) -> Self {
        Self {
            look,
            every: every.max(Duration::from_millis(10)),
            ticks: None,
            app: app.to_owned(),
            instance: instance.unwrap_or_default().to_owned(),
            answers: VecDeque::new(),
        }
    }

    /// The next signal, when it is time. Dropping the future loses a look, nothing else.
    pub(super) async fn next(&mut self) -> v1::Signal {
        let every = self.every;
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        ticks.tick().await;
        let mut signal = match &mut self.look {
            Look::Process { pid, meter } => of_process(pid, meter),
            Look::Group { path, meter } => of_group(path, meter),
            Look::Probe(probe) => {
                let began = Instant::now();
                let answer =
                    tokio::time::timeout(every.max(Duration::from_millis(100)), probe.check())
                        .await;
                let good = matches!(answer, Ok(Ok(())));
                if self.answers.len() == LOOKS {
                    self.answers.pop_front();
                }
                self.answers.push_back(good.then(|| began.elapsed()));
                of_answers(&self.answers, every)
            }
        };
        self.app.clone_into(&mut signal.app);
        self.instance.clone_into(&mut signal.instance);
        signal.time = Some(time::to_proto(time::now()));
        signal
    }
}

fn of_process(pid: &Pid, meter: &mut Option<Box<Meter>>) -> v1::Signal {
    if meter.is_none() {
        *meter = pid.find().and_then(sense::meter).map(Box::new);
    }
    let usage = meter.as_mut().and_then(|meter| meter.read());
    if usage.is_none() {
        *meter = None;
    }
    of_usage(usage)
}

fn of_group(path: &Path, meter: &mut Option<Box<GroupMeter>>) -> v1::Signal {
    if meter.is_none() {
        *meter = GroupMeter::open(path).map(Box::new);
    }
    let usage = meter.as_mut().and_then(|meter| meter.read());
    if usage.is_none() {
        *meter = None;
    }
    of_usage(usage)
}

/// A signal about what is used; without, that nothing runs.
fn of_usage(usage: Option<Usage>) -> v1::Signal {
    v1::Signal {
        cpu_utilization: usage.and_then(|usage| usage.cpu),
        memory_utilization: usage.and_then(|usage| usage.memory),
        conditions: BTreeMap::from([(GONE.to_owned(), usage.is_none())]),
        ..v1::Signal::default()
    }
}

fn of_answers(answers: &VecDeque<Option<Duration>>, every: Duration) -> v1::Signal {
    let mut times: Vec<Duration> = answers.iter().flatten().copied().collect();
    times.sort_unstable();
    let at = |permille: usize| {
        let place = (times.len().saturating_sub(1) * permille).div_ceil(1000);
        times.get(place).map(Duration::as_secs_f64)
    };
    let failed = answers.len() - times.len();
    let looks = u32::try_from(answers.len()).unwrap_or(1);
    v1::Signal {
        latency_p50_seconds: at(500),
        latency_p99_seconds: at(990),
        error_ratio: Some(failed as f64 / answers.len().max(1) as f64),
        window: Some(time::span_to_proto(every * looks)),
        ..v1::Signal::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_as_one_and_has_no_response_time() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let answers = VecDeque::from([ms(10), None, ms(30), ms(20)]);
        let signal = of_answers(&answers, Duration::from_secs(1));
        assert_eq!(signal.error_ratio, Some(0.25));
        assert_eq!(signal.latency_p50_seconds, Some(0.02));
        assert_eq!(signal.latency_p99_seconds, Some(0.03));
        assert_eq!(signal.window.unwrap().seconds, 4);
        let down = of_answers(&VecDeque::from([None]), Duration::from_secs(1));
        assert_eq!((down.error_ratio, down.latency_p99_seconds), (Some(1.0), None));
    }

    #[tokio::test]
    async fn a_process_is_measured_and_its_end_is_said_and_its_successor_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let sleep = || std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let mut child = sleep();
        std::fs::write(&file, format!("{}\n", child.id())).unwrap();
        let look = Look::process(Pid::File(file.clone()));
        let mut sampler = Sampler::new(look, Duration::from_millis(10), "web", Some("0"));
        let signal = sampler.next().await;
        assert_eq!((signal.app.as_str(), signal.instance.as_str()), ("web", "0"));
        assert!(signal.memory_utilization.is_some() && !signal.conditions[GONE]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(sampler.next().await.conditions[GONE]);
        let mut next = sleep();
        std::fs::write(&file, next.id().to_string()).unwrap();
        assert!(!sampler.next().await.conditions[GONE]);
        next.kill().unwrap();
        next.wait().unwrap();
    }
}
