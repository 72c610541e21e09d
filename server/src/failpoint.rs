//! Named points where a test makes the server fail, and switches that plant a known bug.
//!
//! Only under the cargo feature `failpoints`; without it every function here is an inlined no-op and the names are not in
//! the binary. Points are armed by the environment, `AGENTD_FAILPOINTS="journal.fsync=eio@3;agent.after_intent=kill"`, or by
//! [`set`]. `@n` means the n-th time only; without it, every time.
//!
//! | action | effect of [`hit`] |
//! |---|---|
//! | `kill` | SIGKILL to this process |
//! | `enospc` `eio` `erofs` | the error a disk gives |
//! | `sleep(ms)` | blocks the calling thread |
//! | `bug` | nothing; [`bug`] answers true |

use std::fmt;

/// Environment variable that arms points.
pub const ENV: &str = "AGENTD_FAILPOINTS";

/// A specification that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSpec(String);

impl fmt::Display for BadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a failpoint: name=kill|enospc|eio|erofs|sleep(ms)|bug[@n]", self.0)
    }
}

impl std::error::Error for BadSpec {}

#[cfg(not(feature = "failpoints"))]
pub use disabled::{bug, clear, hit, set};
#[cfg(feature = "failpoints")]
pub use enabled::{bug, clear, hit, set};

#[cfg(not(feature = "failpoints"))]
mod disabled {
    use super::BadSpec;

    /// Passes the point called `name`.
    ///
    /// # Errors
    /// Never in this build.
    #[inline(always)]
    pub const fn hit(_name: &str) -> std::io::Result<()> {
        Ok(())
    }

    /// Whether the bug called `name` is planted: never in this build.
    #[inline(always)]
    #[must_use]
    pub const fn bug(_name: &str) -> bool {
        false
    }

    /// Arms a point.
    ///
    /// # Errors
    /// Always in this build: a test must not believe that it injected a fault.
    pub fn set(name: &str, _action: &str) -> Result<(), BadSpec> {
        Err(BadSpec(name.to_owned()))
    }

    /// Disarms a point.
    pub const fn clear(_name: &str) {}
}

#[cfg(feature = "failpoints")]
mod enabled {
    use std::collections::BTreeMap;
    use std::io::{self, Write as _};
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use super::{BadSpec, ENV};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Errno(i32),
        Sleep(Duration),
        Bug,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Point {
        action: Action,
        /// Fires on this hit only.
        only: Option<u64>,
        hits: u64,
    }

    impl Point {
        fn parse(spec: &str) -> Option<Self> {
            let (action, only) = match spec.split_once('@') {
                Some((action, n)) => (action, Some(n.parse().ok()?)),
                None => (spec, None),
            };
            let action = match action {
                "kill" => Action::Kill,
                "enospc" => Action::Errno(rustix::io::Errno::NOSPC.raw_os_error()),
                "eio" => Action::Errno(rustix::io::Errno::IO.raw_os_error()),
                "erofs" => Action::Errno(rustix::io::Errno::ROFS.raw_os_error()),
                "bug" => Action::Bug,
                sleep => {
                    let ms = sleep.strip_prefix("sleep(")?.strip_suffix(')')?;
                    Action::Sleep(Duration::from_millis(ms.parse().ok()?))
                }
            };
            Some(Self { action, only, hits: 0 })
        }

        fn fires(&mut self) -> bool {
            self.hits = self.hits.saturating_add(1);
            self.only.is_none_or(|n| n == self.hits)
        }
    }

    type Points = BTreeMap<String, Point>;

    fn parse(spec: &str) -> Result<Points, BadSpec> {
        spec.split(';')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .map(|one| {
                let (name, action) = one.split_once('=').ok_or_else(|| BadSpec(one.to_owned()))?;
                let point = Point::parse(action).ok_or_else(|| BadSpec(one.to_owned()))?;
                Ok((name.to_owned(), point))
            })
            .collect()
    }

    static POINTS: LazyLock<Mutex<Points>> = LazyLock::new(|| {
        let spec = std::env::var(ENV).unwrap_or_default();
        match parse(&spec) {
            Ok(points) => Mutex::new(points),
            Err(error) => {
                // A test that believes it injected a fault and did not is worse than one that stops.
                let _ = writeln!(io::stderr(), "{ENV}: {error}");
                std::process::abort()
            }
        }
    });

    fn points() -> MutexGuard<'static, Points> {
        POINTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes the point called `name`: dies, sleeps, or goes on, as armed.
    ///
    /// # Errors
    /// The error the point is armed with.
    pub fn hit(name: &str) -> io::Result<()> {
        let Some(action) = points().get_mut(name).and_then(|p| p.fires().then_some(p.action))
        else {
            return Ok(());
        };
        match action {
            Action::Kill => die(),
            Action::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
            Action::Sleep(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            Action::Bug => Ok(()),
        }
    }

    /// Whether the bug called `name` is planted.
    #[must_use]
    pub fn bug(name: &str) -> bool {
        points().get_mut(name).is_some_and(|p| p.action == Action::Bug && p.fires())
    }

    /// Arms the point `name` with an action as written in the environment variable (`eio@3`); hits count from now.
    ///
    /// # Errors
    /// The action cannot be read.
    pub fn set(name: &str, action: &str) -> Result<(), BadSpec> {
        let point = Point::parse(action).ok_or_else(|| BadSpec(format!("{name}={action}")))?;
        points().insert(name.to_owned(), point);
        Ok(())
    }

    /// Disarms the point `name`.
    pub fn clear(name: &str) {
        points().remove(name);
    }

    fn die() -> ! {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is on its way; nothing after the point may run.
        loop {
            std::thread::park();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_specification_arms_several_points() {
            let points =
                parse("journal.fsync=eio@3; agent.after_intent=kill;x=sleep(20);y=bug;").unwrap();
            assert_eq!(points.len(), 4);
            assert_eq!(points["journal.fsync"].only, Some(3));
            assert_eq!(points["agent.after_intent"].action, Action::Kill);
            assert_eq!(points["x"].action, Action::Sleep(Duration::from_millis(20)));
        }

        #[test]
        fn nonsense_is_refused_by_name() {
            for bad in ["a", "a=", "a=eio@", "a=eio@x", "a=sleep", "a=sleep(x)", "a=nap(3)"] {
                let error = parse(&format!("ok=eio;{bad}")).unwrap_err();
                assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
            }
        }

        #[test]
        fn the_nth_hit_and_only_that_fires() {
            set("test.nth", "enospc@2").unwrap();
            assert!(hit("test.nth").is_ok());
            assert_eq!(hit("test.nth").unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert!(hit("test.nth").is_ok());
            set("test.nth", "erofs").unwrap();
            assert!(hit("test.nth").is_err() && hit("test.nth").is_err());
            clear("test.nth");
            assert!(hit("test.nth").is_ok());
        }

        #[test]
        fn a_bug_is_a_switch_and_not_an_error() {
            set("test.bug", "bug").unwrap();
            assert!(bug("test.bug") && hit("test.bug").is_ok());
            clear("test.bug");
            assert!(!bug("test.bug"));
        }
    }
}
