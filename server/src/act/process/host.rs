//! All instances of this machine that belong to one data directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::Error;
use super::instance::{Instance, ORDERS_MAX, Order, Seed, millis};
use super::view::{HostEvent, InstanceView, LinkState};
use crate::shim::LOG_DIR;
use crate::shim::protocol::{
    self, CONFIG_FILE, ExitRecord, Fence, LogLimits, ResourceLimits, User,
};
use crate::tasks::{OnFailure, Tasks};

/// How long a shim may take to answer what it can do at once.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to come up.
const UP: Duration = Duration::from_secs(15);
/// Added to the grace of a stop before its answer counts as missing.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Connections that wait while no instance accepts; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Where and how instances are run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of the apps; an instance lives in `APP/run/SLOT` below it.
    pub root: PathBuf,
    /// Program and first arguments of a shim, such as `["/usr/bin/agentd", "shim"]`; the directory is appended.
    pub shim_command: Vec<OsString>,
    /// Instances of all apps together.
    pub instances_max: usize,
    /// Instances of one app.
    pub slots_max: u32,
}

impl Config {
    /// The usual limits: 4,096 instances, 64 of one app.
    #[must_use]
    pub fn new(root: PathBuf, shim_command: Vec<OsString>) -> Self {
        Self { root, shim_command, instances_max: 4096, slots_max: 64 }
    }
}

/// An app as this backend runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppProcess {
    /// Name, `[a-z]([-a-z0-9]{0,61}[a-z0-9])?`.
    pub name: String,
    /// Which revision this is; reported back.
    pub revision: String,
    /// Program and arguments; never a shell line.
    pub argv: Vec<String>,
    /// Environment; `APP_NAME` and `INSTANCE` are added.
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` if absent.
    pub cwd: Option<PathBuf>,
    /// Address whose listening socket is held for the app and handed to every instance as descriptor 3.
    pub listen: Option<SocketAddr>,
    /// Time between TERM and KILL.
    pub grace: Duration,
    /// Limits of the output files.
    pub log: LogLimits,
    /// Resource limits of each instance.
    pub limits: ResourceLimits,
    /// Who it runs as; whoever agentd runs as, if absent.
    pub user: Option<User>,
}

impl AppProcess {
    fn shim_config(&self, slot: u32) -> protocol::Config {
        let mut env = self.env.clone();
        env.insert("APP_NAME".to_owned(), self.name.clone());
        env.insert("INSTANCE".to_owned(), slot.to_string());
        protocol::Config {
            label: format!("{}-{slot}", self.name),
            argv: self.argv.clone(),
            env,
            cwd: self.cwd.clone(),
            revision: self.revision.clone(),
            listen: self.listen.is_some(),
            grace_ms: millis(self.grace),
            log: self.log,
            limits: self.limits,
            user: self.user,
        }
    }
}

/// Runs instances; cheap to clone.
#[derive(Debug, Clone)]
pub struct ProcessHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    shim_command: Arc<[OsString]>,
    tasks: Tasks,
    events: mpsc::Sender<HostEvent>,
    instances: Mutex<BTreeMap<(String, u32), Handle>>,
    listeners: Mutex<BTreeMap<String, Listener>>,
    /// One change of the set of instances at a time.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Handle {
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<InstanceView>,
}

#[derive(Debug, Clone)]
struct Listener {
    socket: Arc<OwnedFd>,
    address: SocketAddr,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can leave the map half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProcessHost {
    /// Takes over what an earlier agentd left below the root, then answers. What happened meanwhile is sent to `events`, so
    /// somebody must read them while this runs. An instance whose shim cannot be had is [`LinkState::Down`] and tried again.
    ///
    /// # Errors
    /// If the root cannot be read or made.
    pub async fn open(
        config: Config,
        tasks: Tasks,
        events: mpsc::Sender<HostEvent>,
    ) -> Result<Self, Error> {
        let io = |source| Error::Io { what: "opening the directory of the apps", source };
        let mut config = config;
        config.root = std::path::absolute(&config.root).map_err(io)?;
        make_dir(&config.root).map_err(io)?;
        let found = find_instances(&config.root).map_err(io)?;
        let shim_command = config.shim_command.clone().into();
        let host = Self {
            inner: Arc::new(Inner {
                config,
                shim_command,
                tasks,
                events,
                instances: Mutex::default(),
                listeners: Mutex::default(),
                changing: tokio::sync::Mutex::default(),
            }),
        };
        let mut adopted = Vec::new();
        for (app, slot) in found {
            adopted.push(host.add(&app, slot, None)?);
        }
        for mut handle in adopted {
            let settled = handle.view.wait_for(|view| view.link != LinkState::Opening);
            let _ = timeout(UP, settled).await;
        }
        Ok(host)
    }

    /// The latest known state of all instances, by app and slot.
    #[must_use]
    pub fn views(&self) -> Vec<InstanceView> {
        locked(&self.inner.instances).values().map(|h| h.view.borrow().clone()).collect()
    }

    /// The latest known state of the instances of one app, by slot.
    #[must_use]
    pub fn views_of(&self, app: &str) -> Vec<InstanceView> {
        let range = (app.to_owned(), 0)..=(app.to_owned(), u32::MAX);
        locked(&self.inner.instances).range(range).map(|(_, h)| h.view.borrow().clone()).collect()
    }

    /// Follows the state of one instance.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn watch(&self, app: &str, slot: u32) -> Result<watch::Receiver<InstanceView>, Error> {
        Ok(self.handle(app, slot)?.view)
    }

    /// The address of the socket held for an app: the real port if the spec said port 0.
    #[must_use]
    pub fn listen_address(&self, app: &str) -> Option<SocketAddr> {
        locked(&self.inner.listeners).get(app).map(|listener| listener.address)
    }

    /// Directory of an instance.
    #[must_use]
    pub fn dir(&self, app: &str, slot: u32) -> PathBuf {
        self.inner.config.root.join(app).join("run").join(slot.to_string())
    }

    /// The file an instance's output goes to at present.
    #[must_use]
    pub fn log_file(&self, app: &str, slot: u32) -> PathBuf {
        self.dir(app, slot).join(crate::shim::LOG_CURRENT)
    }

    /// Makes sure that the instance has a shim with this configuration and the listening socket. Starts nothing: the
    /// configuration counts from the next start.
    ///
    /// # Errors
    /// A limit, an address that cannot be bound, or a shim that does not come up.
    pub async fn ensure(&self, app: &AppProcess, slot: u32) -> Result<InstanceView, Error> {
        let _one_at_a_time = self.inner.changing.lock().await;
        check_name(&app.name)?;
        let max = self.inner.config.slots_max;
        if slot >= max {
            return Err(Error::Slot { slot, max });
        }
        let listener = match app.listen {
            Some(address) => Some(self.listener(&app.name, address).await?),
            None => None,
        };
        let dir = self.dir(&app.name, slot);
        let io = |source| Error::Io { what: "writing the configuration", source };
        make_dir(&dir).map_err(io)?;
        write_config(&dir, &app.shim_config(slot)).map_err(io)?;
        let known = locked(&self.inner.instances).get(&(app.name.clone(), slot)).cloned();
        let mut handle = match known {
            Some(handle) => handle,
            None => self.add(&app.name, slot, listener.clone())?,
        };
        let settled = handle.view.wait_for(|view| view.link != LinkState::Opening);
        match timeout(UP, settled).await {
            Ok(Ok(view)) => match &view.link {
                LinkState::Down(why) => return Err(Error::Unavailable(why.clone())),
                LinkState::Removed => return Err(self.unknown(&app.name, slot)),
                LinkState::Up | LinkState::Opening => {}
            },
            Ok(Err(_)) => return Err(Error::ShimLost),
            Err(_) => return Err(Error::Timeout(millis(UP))),
        }
        if let Some(listener) = listener {
            let order = |answer| Order::GiveListener { listener, answer };
            self.order(&app.name, slot, ANSWER, order).await?;
        }
        let view = handle.view.borrow().clone();
        Ok(view)
    }

    /// Starts the instance. Idempotent on `action_id`. `expect` is the latest incarnation the caller knows of; the shim refuses
    /// if there has been another one since, or if it still runs.
    ///
    /// # Errors
    /// A refusal, or [`Error::ShimLost`] and [`Error::Timeout`], after which the outcome is unknown.
    pub async fn start(
        &self,
        app: &str,
        slot: u32,
        action_id: &str,
        expect: Option<Fence>,
    ) -> Result<Fence, Error> {
        let action_id = action_id.to_owned();
        self.order(app, slot, ANSWER, |answer| Order::Start { action_id, expect, answer }).await
    }

    /// Stops the instance: TERM, KILL after `grace`; answers when it is gone, with its exit. With `expect`, only that
    /// incarnation. One that does not run is stopped already.
    ///
    /// # Errors
    /// As [`ProcessHost::start`].
    pub async fn stop(
        &self,
        app: &str,
        slot: u32,
        action_id: &str,
        expect: Option<Fence>,
        grace: Duration,
    ) -> Result<Option<ExitRecord>, Error> {
        let (action_id, grace_ms) = (action_id.to_owned(), millis(grace));
        let order = |answer| Order::Stop { action_id, expect, grace_ms, answer };
        self.order(app, slot, grace.saturating_add(STOP_MARGIN), order).await
    }

    /// Tells the instance that its exits up to `through` are recorded elsewhere; without this they are reported again after a
    /// restart of agentd.
    pub async fn acknowledge(&self, app: &str, slot: u32, through: u64) {
        if let Ok(handle) = self.handle(app, slot) {
            let _ = handle.orders.send(Order::Acknowledge { through }).await;
        }
    }

    /// Stops the instance and forgets it. Its output files stay.
    ///
    /// # Errors
    /// As [`ProcessHost::stop`].
    pub async fn remove(&self, app: &str, slot: u32, grace: Duration) -> Result<(), Error> {
        let grace_ms = millis(grace);
        let patience = grace.saturating_add(STOP_MARGIN);
        self.order(app, slot, patience, |answer| Order::Remove { grace_ms, answer }).await?;
        locked(&self.inner.instances).remove(&(app.to_owned(), slot));
        Ok(())
    }

    /// Removes every instance of an app and closes its listening socket.
    ///
    /// # Errors
    /// As [`ProcessHost::stop`]; instances before the one that failed are gone.
    pub async fn remove_app(&self, app: &str, grace: Duration) -> Result<(), Error> {
        for view in self.views_of(app).into_iter().rev() {
            self.remove(app, view.slot, grace).await?;
        }
        locked(&self.inner.listeners).remove(app);
        Ok(())
    }

    fn unknown(&self, app: &str, slot: u32) -> Error {
        Error::Unknown { app: app.to_owned(), slot }
    }

    fn handle(&self, app: &str, slot: u32) -> Result<Handle, Error> {
        let known = locked(&self.inner.instances).get(&(app.to_owned(), slot)).cloned();
        known.ok_or_else(|| self.unknown(app, slot))
    }

    async fn order<T>(
        &self,
        app: &str,
        slot: u32,
        patience: Duration,
        order: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Order,
    ) -> Result<T, Error> {
        let handle = self.handle(app, slot)?;
        let (answer, answered) = oneshot::channel();
        let ask = async {
            handle.orders.send(order(answer)).await.map_err(|_ended| Error::ShimLost)?;
            answered.await.map_err(|_ended| Error::ShimLost)?
        };
        timeout(patience, ask).await.unwrap_or_else(|_late| Err(Error::Timeout(millis(patience))))
    }

    /// Begins to look after an instance whose directory exists.
    fn add(&self, app: &str, slot: u32, listener: Option<Arc<OwnedFd>>) -> Result<Handle, Error> {
        let inner = &self.inner;
        let mut instances = locked(&inner.instances);
        if instances.len() >= inner.config.instances_max {
            return Err(Error::TooMany(inner.config.instances_max));
        }
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let (view, viewed) = watch::channel(InstanceView::new(app, slot));
        let seed = Seed {
            dir: self.dir(app, slot),
            shim_command: Arc::clone(&inner.shim_command),
            events: inner.events.clone(),
            tasks: inner.tasks.clone(),
            view,
            orders: inbox,
            listener,
        };
        inner.tasks.spawn("instance", OnFailure::Log, Instance::new(seed).run());
        let handle = Handle { orders, view: viewed };
        instances.insert((app.to_owned(), slot), handle.clone());
        Ok(handle)
    }

    /// The listening socket of an app: the one held, or one that a shim kept while agentd was away, or a new one.
    async fn listener(&self, app: &str, wanted: SocketAddr) -> Result<Arc<OwnedFd>, Error> {
        let held = locked(&self.inner.listeners).get(app).cloned();
        if let Some(listener) = held
            && fits(listener.address, wanted)
        {
            return Ok(listener.socket);
        }
        let mut socket = None;
        for view in self.views_of(app) {
            let order = |answer| Order::TakeListener { answer };
            if let Ok(kept) = self.order(app, view.slot, ANSWER, order).await
                && local_address(&kept).is_some_and(|address| fits(address, wanted))
            {
                socket = Some(kept);
                break;
            }
        }
        let socket = match socket {
            Some(kept) => kept,
            None => bind(wanted).map_err(|source| Error::Bind {
                app: app.to_owned(),
                address: wanted,
                source,
            })?,
        };
        let address = local_address(&socket).unwrap_or(wanted);
        let socket = Arc::new(socket);
        let listener = Listener { socket: Arc::clone(&socket), address };
        locked(&self.inner.listeners).insert(app.to_owned(), listener);
        Ok(socket)
    }
}

/// Port 0 asks for any port, so any port that is held serves.
fn fits(held: SocketAddr, wanted: SocketAddr) -> bool {
    held.ip() == wanted.ip() && (wanted.port() == 0 || held.port() == wanted.port())
}

fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    rustix::net::getsockname(socket).ok()?.try_into().ok()
}

/// A blocking socket: what an app that takes over descriptor 3 expects.
fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The name becomes a directory and part of a cgroup's name.
fn check_name(name: &str) -> Result<(), Error> {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let good = bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|last| *last != b'-')
        && bytes.iter().all(inner);
    if good { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

/// Instances that were not removed, by app and slot.
fn find_instances(root: &Path) -> io::Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for app in fs::read_dir(root)? {
        let app = app?.file_name();
        let Some(name) = app.to_str().filter(|name| check_name(name).is_ok()) else { continue };
        let run = root.join(name).join("run");
        let Ok(slots) = fs::read_dir(&run) else { continue };
        for slot in slots.flatten() {
            let slot = slot.file_name();
            let slot = slot.to_str().and_then(|slot| slot.parse::<u32>().ok());
            if let Some(slot) =
                slot.filter(|slot| run.join(slot.to_string()).join(CONFIG_FILE).is_file())
            {
                found.push((name.to_owned(), slot));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces the configuration in one step, so that a shim never reads half of it.
fn write_config(dir: &Path, config: &protocol::Config) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(config)?;
    if fs::read(dir.join(CONFIG_FILE)).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let new = dir.join(format!("{CONFIG_FILE}.new"));
    // The environment may hold secrets.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(&bytes)?;
    file.sync_data()?;
    fs::rename(&new, dir.join(CONFIG_FILE))
}

/// Removes what makes a directory an instance, the configuration first: without it the directory is not taken over again.
pub(super) fn clear_dir(dir: &Path) -> io::Result<()> {
    let gone = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(fs::remove_file(dir.join(CONFIG_FILE)))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != LOG_DIR && !entry.file_type()?.is_dir() {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_a_plain_label_never_becomes_a_path() {
        for good in ["a", "web", "web-2", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "../x", "A", "-x", "x-", "a.b", "a/b", "a\0", "1a", &"a".repeat(64)] {
            assert!(matches!(check_name(bad), Err(Error::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn only_directories_with_a_configuration_are_instances() {
        let root = tempfile::tempdir().unwrap();
        for (app, slot) in [("web", "0"), ("web", "1"), ("web", "x"), ("Bad", "0"), ("db", "10")] {
            let dir = root.path().join(app).join("run").join(slot);
            fs::create_dir_all(&dir).unwrap();
            if slot != "1" {
                fs::write(dir.join(CONFIG_FILE), "{}").unwrap();
            }
        }
        let found = find_instances(root.path()).unwrap();
        assert_eq!(found, [("db".to_owned(), 10), ("web".to_owned(), 0)]);
    }

    #[test]
    fn clearing_keeps_the_output() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(LOG_DIR)).unwrap();
        fs::write(dir.path().join("log/current"), "said").unwrap();
        fs::write(dir.path().join(CONFIG_FILE), "{}").unwrap();
        fs::write(dir.path().join("born"), "x").unwrap();
        clear_dir(dir.path()).unwrap();
        assert!(!dir.path().join(CONFIG_FILE).exists() && !dir.path().join("born").exists());
        assert_eq!(fs::read_to_string(dir.path().join("log/current")).unwrap(), "said");
    }
}
