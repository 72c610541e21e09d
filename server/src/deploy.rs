//! Deployments from repositories: fetched, built and kept as immutable releases.
//!
//! This is the part of an effect that comes before any process is touched: it happens under a permit, and its failure is the
//! failure of the deployment. It decides nothing and repeats nothing. What comes in is foreign code, so nothing of it runs in this
//! process or with its rights: git and every step of a build run under [`crate::shim::step`], as a user of their own where
//! agentd is root, within the limits of the policy, and whatever happens to them, nothing of them is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_core::app::{AppSpec, Source, Template};
use agentd_core::policy::{Fetch, Sandbox};
use tokio_util::sync::CancellationToken;

mod build;
mod fetch;
mod pool;
mod releases;
mod step;
mod tree;

pub use pool::{Load, WAITING_MAX, WORKERS_MAX};

use crate::shim::protocol::{ResourceLimits, User};
use pool::Pool;
use releases::{Place, Stage, Users};
use step::Bench;

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy does not let the address in (any more).
    #[error("the repository is not allowed by the policy: its address {0}")]
    NotAllowed(String),
    /// The name has no address.
    #[error("`{0}` has no address")]
    Unresolved(String),
    /// The name leads into a private network.
    #[error("`{host}` leads to {address}, which is not public and not listed by the policy")]
    Private {
        /// The name.
        host: String,
        /// The address.
        address: IpAddr,
    },
    /// This git cannot be told where to connect.
    #[error("git {needed} or newer is needed, and it says `{said}`")]
    OldGit {
        /// The oldest that serves.
        needed: String,
        /// What it says of itself.
        said: String,
    },
    /// git did not leave a commit.
    #[error("git left no commit")]
    NoCommit,
    /// It took too long.
    #[error("{what} took longer than {ms} ms")]
    Timeout {
        /// What.
        what: &'static str,
        /// The limit.
        ms: u64,
    },
    /// It became too large.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit.
        bytes_max: u64,
    },
    /// A step ended badly.
    #[error("`{step}` failed ({how}): {said}")]
    Failed {
        /// Program and first argument.
        step: String,
        /// How it ended.
        how: String,
        /// Its last error.
        said: String,
    },
    /// Something of a step cannot be killed.
    #[error("processes of the build cannot be ended")]
    Remains,
    /// A link leads out of the release.
    #[error("symbolic link `{0}` leads out of the release, or nowhere")]
    Link(String),
    /// Something is neither a file nor a directory, or is not the build's own.
    #[error("`{0}` is no file or directory of the build's own")]
    Special(String),
    /// The repository is of another kind.
    #[error("the repository is no {runtime} app: it has no `{needs}`")]
    NotOfRuntime {
        /// The runtime.
        runtime: &'static str,
        /// The file it would have.
        needs: String,
    },
    /// It is not clear what to start.
    #[error("the build left {found} files to start in `{directory}`, and there has to be one")]
    Start {
        /// Where.
        directory: &'static str,
        /// How many.
        found: usize,
    },
    /// The release is not kept any more, or never was.
    #[error("no release of revision {0} is kept")]
    NoRelease(u32),
    /// Too many wait.
    #[error("{0} deployments wait already")]
    QueueFull(usize),
    /// It was stopped.
    #[error("halted before anything was changed")]
    Halted,
    /// The app's user could not reach its release.
    #[error(
        "`{path}` cannot be entered by user {uid}: put the data directory where others may pass"
    )]
    Closed {
        /// The directory.
        path: PathBuf,
        /// Who cannot.
        uid: u32,
    },
    /// Every user of the range is taken.
    #[error("no user is left from {0} on")]
    NoUser(u32),
    /// The operating system refused something.
    #[error("{what} `{path}` failed: {source}", path = path.display())]
    Io {
        /// The step.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// A release on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its directory.
    pub dir: PathBuf,
    /// Revision of the specification it was built for.
    pub revision: u32,
}

impl Release {
    /// `REVISION-COMMIT`.
    #[must_use]
    pub fn name(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// What an app from a repository is run by: everything the process backend has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// The release.
    pub cwd: PathBuf,
    /// Limits of each instance.
    pub limits: ResourceLimits,
    /// Whom it runs as.
    pub user: Option<User>,
}

/// What a deployment may do; from the policy that permitted it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Where from.
    pub fetch: Fetch,
    /// How.
    pub sandbox: Sandbox,
    /// Revisions whose releases a rollback may need.
    pub keep: BTreeSet<u32>,
}

/// Makes releases; clones share the workers.
#[derive(Debug, Clone)]
pub struct Deployer {
    apps: PathBuf,
    shim: Arc<[OsString]>,
    pool: Arc<Pool>,
}

/// How busy the workers are, for whoever shows it.
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Pool>);

impl Monitor {
    /// At this moment.
    #[must_use]
    pub fn load(&self) -> Load {
        self.0.load()
    }
}

impl Deployer {
    /// A deployer below the directory of the apps. What an earlier one left half done is removed.
    #[must_use]
    pub fn open(apps: PathBuf, shim: Vec<OsString>) -> Self {
        for app in releases::apps(&apps) {
            if let Err(error) = Place::new(&apps, &app).clear() {
                tracing::warn!(app, %error, "an unfinished build cannot be removed");
            }
        }
        Self { apps, shim: shim.into(), pool: Arc::default() }
    }

    /// How busy the workers are.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor(Arc::clone(&self.pool))
    }

    /// The release of a revision: the one that is kept, or else a new one. A revision is built once; what failed after that is
    /// tried again with the same files.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind then but the end of the output.
    pub async fn make(
        &self,
        spec: &AppSpec,
        revision: u32,
        rules: &Rules,
        stop: &CancellationToken,
    ) -> Result<Release, Error> {
        let place = self.place(spec);
        let looked = place.clone();
        if let Some(found) = blocking(move || Ok(looked.find(revision))).await? {
            return Ok(found);
        }
        let _worker = self.pool.place(stop).await?;
        let (sandbox, prepared) = (rules.sandbox.clone(), place.clone());
        let (users, stage) = blocking(move || {
            let users = prepared.prepare(&sandbox)?;
            Ok((users, prepared.stage(revision, users)?))
        })
        .await?;
        let stage = Arc::new(stage);
        let made = self.fill(spec, &stage, users, (rules, stop)).await;
        blocking(move || match made {
            Ok(commit) => place.finish(&stage, (revision, &commit), users).inspect_err(|_failed| {
                // The first error is the one to tell; the next try clears up again.
                let _ = place.abandon(&stage);
            }),
            Err(error) => place.abandon(&stage).and(Err(error)),
        })
        .await
    }

    /// Fetches and builds. Returns the commit.
    async fn fill(
        &self,
        spec: &AppSpec,
        stage: &Stage,
        users: Users,
        (rules, stop): (&Rules, &CancellationToken),
    ) -> Result<String, Error> {
        let Source::Repo { url, revision } = &spec.source else { return Err(Error::NoCommit) };
        let bench = Bench {
            shim: &self.shim,
            app: spec.name.as_str(),
            user: users.map(|owners| owners.build),
            sandbox: &rules.sandbox,
            cwd: stage.src.clone(),
            writable: stage.root.clone(),
            log: stage.log.clone(),
            stop,
        };
        let order = fetch::Order { url, revision: revision.as_deref(), rules: &rules.fetch };
        let commit = fetch::fetch(&bench, stage, order).await?;
        let (src, git) = (stage.src.clone(), stage.git.clone());
        blocking(move || {
            tree::remove(&git)?;
            tree::check(&src)
        })
        .await?;
        build::build(&bench, stage, spec.runtime).await?;
        let (src, runtime) = (stage.src.clone(), spec.runtime);
        blocking(move || {
            tree::check(&src)?;
            // A release that cannot be started is none.
            build::start(&src, runtime, &[])
        })
        .await?;
        Ok(commit)
    }

    /// The release of a revision that is kept: where a rollback leads.
    ///
    /// # Errors
    /// There is none.
    pub fn kept(&self, spec: &AppSpec, revision: u32) -> Result<Release, Error> {
        self.place(spec).find(revision).ok_or(Error::NoRelease(revision))
    }

    /// The release whose instances were last seen healthy, or else the one of `revision`: what is started when nothing is deployed.
    ///
    /// # Errors
    /// There is neither.
    pub fn running(&self, spec: &AppSpec, revision: u32) -> Result<Release, Error> {
        self.place(spec).current().map_or_else(|| self.kept(spec, revision), Ok)
    }

    /// How the app is started from a release.
    ///
    /// # Errors
    /// It is not clear what to start.
    pub fn launch(
        &self,
        spec: &AppSpec,
        release: &Release,
        sandbox: &Sandbox,
    ) -> Result<Launch, Error> {
        let place = self.place(spec);
        let shim: Vec<String> =
            self.shim.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let argv = build::start(&release.dir, spec.runtime, &shim)?;
        let template = Template::of(spec.runtime);
        let mut env = build::environment(template, &sandbox.path, &place.data());
        env.extend(spec.environment.clone());
        let limits = ResourceLimits {
            core_bytes: Some(0),
            file_bytes: Some(sandbox.file_bytes_max),
            data_bytes: Some(sandbox.memory_bytes_max),
            processes: Some(sandbox.processes_max.into()),
            ..ResourceLimits::default()
        };
        let user = place.users().map(|owners| owners.run);
        Ok(Launch { argv, env, cwd: release.dir.clone(), limits, user })
    }

    /// Every instance of this release is healthy: it is the current one, and old ones go.
    ///
    /// # Errors
    /// The link cannot be changed. What cannot be removed is only logged.
    pub async fn settle(
        &self,
        spec: &AppSpec,
        release: &Release,
        rules: &Rules,
    ) -> Result<(), Error> {
        let (place, release, rules) = (self.place(spec), release.clone(), rules.clone());
        blocking(move || {
            place.switch(&release)?;
            if let Err(error) = place.prune(&rules.keep, rules.sandbox.releases_kept) {
                tracing::warn!(release = release.name(), %error, "old releases are not removed");
            }
            Ok(())
        })
        .await
    }

    /// Removes the releases of an app that is not looked after any more. What the app wrote is set aside, under a name with the
    /// decision that let it go.
    ///
    /// # Errors
    /// Something of it is left.
    pub async fn remove(&self, spec: &AppSpec, decision: u64) -> Result<(), Error> {
        let place = self.place(spec);
        blocking(move || place.remove(&format!("data.dec-{decision}"))).await
    }

    fn place(&self, spec: &AppSpec) -> Place {
        Place::new(&self.apps, spec.name.as_str())
    }
}

/// Work on files, away from the threads that wait for sockets.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Halted))
}
