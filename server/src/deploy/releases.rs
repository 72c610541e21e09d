//! The releases of an app on disk.
//!
//! ```text
//! apps/NAME/releases/REVISION-COMMIT   a release: complete, sealed, never changed
//! apps/NAME/releases/current           link to the one whose instances were last seen healthy
//! apps/NAME/releases/.new-REVISION     being made; removed when that fails, and at every start
//! apps/NAME/data                       the only place the app may write to
//! apps/NAME/build.log                  end of what the last failed build said
//! ```
//!
//! A release appears under its name in one step, when it is whole. Where agentd is root, the group of `releases` says whom the
//! app runs as; nothing else remembers it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink,
};
use std::path::{Path, PathBuf};

use agentd_core::policy::Sandbox;

use super::tree::{self, Owners};
use super::{Error, Release};
use crate::shim::protocol::User;

const RELEASES: &str = "releases";
const CURRENT: &str = "current";
const NEW: &str = ".new-";
const DATA: &str = "data";
const BUILD_LOG: &str = "build.log";
/// What is kept of the output of a build that failed.
const LOG_BYTES_MAX: u64 = 256 * 1024;
/// Characters of a commit in the name of its release.
const COMMIT_SHORT: usize = 12;
/// Users looked at before there is none left.
const USERS_MAX: u32 = 10_000;

/// Whom an app and its build run as; `None`: as agentd, which is no root.
pub(super) type Users = Option<Owners>;

/// The directories of one app.
#[derive(Debug, Clone)]
pub(super) struct Place {
    apps: PathBuf,
    app: String,
}

/// A release in the making.
#[derive(Debug)]
pub(super) struct Stage {
    /// Everything is below it.
    pub(super) root: PathBuf,
    /// What becomes the release.
    pub(super) src: PathBuf,
    /// The git directory.
    pub(super) git: PathBuf,
    /// Where programs may write what nobody keeps.
    pub(super) home: PathBuf,
    /// What the steps say.
    pub(super) log: PathBuf,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn make(path: &Path, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("making", path)(error))
        }
        _ => fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(Error::io("opening up", path)),
    }
}

fn give(path: &Path, user: User) -> Result<(), Error> {
    chown(path, Some(user.uid), Some(user.gid)).map_err(Error::io("handing over", path))
}

impl Place {
    pub(super) fn new(apps: &Path, app: &str) -> Self {
        Self { apps: apps.to_owned(), app: app.to_owned() }
    }

    fn home(&self) -> PathBuf {
        self.apps.join(&self.app)
    }

    fn releases(&self) -> PathBuf {
        self.home().join(RELEASES)
    }

    /// The only place the app may write to.
    pub(super) fn data(&self) -> PathBuf {
        self.home().join(DATA)
    }

    /// Makes the directories of the app, and finds or chooses its users.
    pub(super) fn prepare(&self, sandbox: &Sandbox) -> Result<Users, Error> {
        let (home, releases, data) = (self.home(), self.releases(), self.data());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&home)
            .map_err(Error::io("making", &home))?;
        if !is_root() {
            make(&releases, 0o700)?;
            make(&data, 0o700)?;
            return Ok(None);
        }
        let known = self.users();
        let owners = match known {
            Some(owners) => owners,
            None => self.free_users(sandbox)?,
        };
        self.open_up(owners.build)?;
        make(&releases, 0o711)?;
        chown(&releases, Some(0), Some(owners.run.gid))
            .map_err(Error::io("handing over", &releases))?;
        make(&data, 0o700)?;
        give(&data, owners.run)?;
        Ok(Some(owners))
    }

    /// Whom the app runs as, if that was chosen.
    pub(super) fn users(&self) -> Users {
        let gid = fs::symlink_metadata(self.releases()).ok()?.gid();
        is_root().then(|| owners(gid)).flatten()
    }

    /// The first two user ids of the policy's range that no app has.
    fn free_users(&self, sandbox: &Sandbox) -> Result<Owners, Error> {
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(&self.apps).map_err(Error::io("reading", &self.apps))?.flatten() {
            let meta = fs::symlink_metadata(entry.path().join(RELEASES));
            taken.extend(meta.map(|meta| meta.gid()));
        }
        let numbers = (0..USERS_MAX).map(|n| sandbox.first_uid.saturating_add(2 * n + 1));
        let free = numbers.into_iter().find(|gid| !taken.contains(gid));
        free.and_then(owners).ok_or(Error::NoUser(sandbox.first_uid))
    }

    /// Lets the users of the app pass, not look: a release can only be entered by whoever may enter all that is above it.
    fn open_up(&self, user: User) -> Result<(), Error> {
        let home = self.home();
        let own = [self.apps.parent(), Some(self.apps.as_path()), Some(home.as_path())];
        for dir in own.into_iter().flatten() {
            let meta = fs::metadata(dir).map_err(Error::io("looking at", dir))?;
            if meta.mode() & 0o001 == 0 {
                let mode = Permissions::from_mode(meta.mode() & 0o777 | 0o011);
                fs::set_permissions(dir, mode).map_err(Error::io("opening up", dir))?;
            }
        }
        let closed = |dir: &&Path| {
            let open = |meta: fs::Metadata| {
                meta.mode() & 0o001 != 0 || (meta.uid() == user.uid && meta.mode() & 0o100 != 0)
            };
            !fs::metadata(dir).is_ok_and(open)
        };
        match home.ancestors().find(closed) {
            None => Ok(()),
            Some(dir) => Err(Error::Closed { path: dir.to_owned(), uid: user.uid }),
        }
    }

    /// Begins a release, in place of whatever an earlier try left.
    pub(super) fn stage(&self, revision: u32, users: Users) -> Result<Stage, Error> {
        self.clear()?;
        let root = self.releases().join(format!("{NEW}{revision}"));
        let below = |name: &str| root.join(name);
        let stage = Stage {
            src: below("src"),
            git: below("git"),
            home: below("home"),
            log: below("log"),
            root: root.clone(),
        };
        make(&root, 0o711)?;
        for dir in [&stage.src, &stage.git, &stage.home] {
            make(dir, 0o700)?;
            if let Some(Owners { build, .. }) = users {
                give(dir, build)?;
            }
        }
        Ok(stage)
    }

    /// Makes a stage a release: sealed, complete, and under its name at once.
    pub(super) fn finish(
        &self,
        stage: &Stage,
        (revision, commit): (u32, &str),
        users: Users,
    ) -> Result<Release, Error> {
        tree::seal(&stage.src, users)?;
        let short = commit.get(..COMMIT_SHORT).unwrap_or(commit);
        let dir = self.releases().join(format!("{revision}-{short}"));
        let mode = |path: &Path, mode| {
            let set = fs::set_permissions(path, Permissions::from_mode(mode));
            set.map_err(Error::io("sealing", path))
        };
        // Only root may move a directory that it may not write to.
        mode(&stage.src, 0o750)?;
        fs::rename(&stage.src, &dir).map_err(Error::io("naming", &dir))?;
        mode(&dir, 0o550)?;
        let releases = self.releases();
        let synced = fs::File::open(&releases).and_then(|dir| dir.sync_all());
        synced.map_err(Error::io("syncing", &releases))?;
        tree::remove(&stage.root)?;
        Ok(Release { dir, revision })
    }

    /// Gives a stage up; the end of what its steps said is kept for people.
    pub(super) fn abandon(&self, stage: &Stage) -> Result<(), Error> {
        if let Err(error) = self.keep_log(&stage.log) {
            tracing::warn!(app = self.app, %error, "output of the failed build is not kept");
        }
        tree::remove(&stage.root)
    }

    fn keep_log(&self, log: &Path) -> io::Result<()> {
        let mut said = fs::File::open(log)?;
        let length = said.metadata()?.len();
        said.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
        let mut end = Vec::new();
        said.take(LOG_BYTES_MAX).read_to_end(&mut end)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(self.home().join(BUILD_LOG))?.write_all(&end)
    }

    /// Removes what tries that did not come to an end left behind.
    pub(super) fn clear(&self) -> Result<(), Error> {
        for path in self.entries().filter(|path| name_of(path).starts_with(NEW)) {
            tree::remove(&path)?;
        }
        Ok(())
    }

    fn entries(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.releases()).into_iter().flatten();
        entries.flatten().map(|entry| entry.path())
    }

    /// Every complete release, oldest revision first.
    pub(super) fn all(&self) -> Vec<Release> {
        let mut all: Vec<Release> = self.entries().filter_map(release_at).collect();
        all.sort_by_key(|release| release.revision);
        all
    }

    /// The release of a revision.
    pub(super) fn find(&self, revision: u32) -> Option<Release> {
        self.all().into_iter().find(|release| release.revision == revision)
    }

    /// The release whose instances were last seen healthy.
    pub(super) fn current(&self) -> Option<Release> {
        let target = fs::read_link(self.releases().join(CURRENT)).ok()?;
        release_at(self.releases().join(target.file_name()?))
    }

    /// From now on this is the current release.
    pub(super) fn switch(&self, release: &Release) -> Result<(), Error> {
        let (new, link) = (self.releases().join(".current"), self.releases().join(CURRENT));
        tree::remove(&new)?;
        symlink(name_of(&release.dir), &new).map_err(Error::io("linking", &new))?;
        fs::rename(&new, &link).map_err(Error::io("switching", &link))
    }

    /// Removes old releases, but none that is current or that `keep` names.
    pub(super) fn prune(&self, keep: &BTreeSet<u32>, newest: u32) -> Result<(), Error> {
        let all = self.all();
        let current = self.current().map(|release| release.revision);
        let beyond = all.len().saturating_sub(usize::try_from(newest).unwrap_or(usize::MAX));
        let needed = |r: &Release| keep.contains(&r.revision) || current == Some(r.revision);
        for old in all.iter().take(beyond).filter(|release| !needed(release)) {
            tree::remove(&old.dir)?;
        }
        Ok(())
    }

    /// Removes what agentd made of an app that is not looked after any more. What the app itself wrote is nobody's to delete here: it
    /// is set aside under `name`, closed to everybody but agentd, so that the next app of this name begins with nothing.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let (data, aside) = (self.data(), self.home().join(name));
        match fs::remove_dir(&data) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_not_empty) => {
                fs::rename(&data, &aside).map_err(Error::io("setting aside", &data))?;
                if is_root() {
                    chown(&aside, Some(0), Some(0)).map_err(Error::io("closing", &aside))?;
                }
            }
        }
        tree::remove(&self.releases())?;
        tree::remove(&self.home().join(BUILD_LOG))
    }
}

/// Every app that has releases, or the beginning of one.
pub(super) fn apps(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().join(RELEASES).is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn owners(gid: u32) -> Option<Owners> {
    let user = |id: u32| User { uid: id, gid: id };
    let build = gid.checked_sub(1).filter(|uid| *uid > 0)?;
    Some(Owners { build: user(build), run: user(gid) })
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn release_at(dir: PathBuf) -> Option<Release> {
    let (revision, commit) = name_of(&dir).split_once('-')?;
    let hex = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_hexdigit());
    let is_dir = fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir());
    let revision = revision.parse().ok().filter(|_| hex && is_dir)?;
    Some(Release { dir, revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let place = Place::new(&dir.path().join("data/apps"), "web");
        (dir, place)
    }

    fn release(place: &Place, revision: u32, users: Users) -> Release {
        let stage = place.stage(revision, users).unwrap();
        fs::write(stage.src.join("file"), revision.to_string()).unwrap();
        if let Some(Owners { build, .. }) = users {
            give(&stage.src.join("file"), build).unwrap();
        }
        let commit = "0123456789abcdef0123456789abcdef01234567";
        place.finish(&stage, (revision, commit), users).unwrap()
    }

    fn revisions(place: &Place) -> Vec<u32> {
        place.all().into_iter().map(|release| release.revision).collect()
    }

    #[test]
    fn a_release_is_whole_or_not_there_and_the_last_healthy_ones_stay() {
        let (_dir, place) = place();
        let users = place.prepare(&Sandbox::default()).unwrap();
        let first = release(&place, 1, users);
        assert!(first.dir.ends_with("releases/1-0123456789ab"), "{first:?}");
        assert_eq!(place.find(1).as_ref(), Some(&first));
        assert_eq!(place.current(), None);
        place.switch(&first).unwrap();
        assert_eq!(place.current(), Some(first));
        for revision in 2..=6 {
            release(&place, revision, users);
        }
        place.prune(&BTreeSet::from([3]), 2).unwrap();
        assert_eq!(revisions(&place), [1, 3, 5, 6], "current, needed, and the newest two");
        let half = place.stage(7, users).unwrap();
        fs::write(&half.log, "it went wrong\n").unwrap();
        assert_eq!(revisions(&place), [1, 3, 5, 6]);
        place.abandon(&half).unwrap();
        assert!(!half.root.exists());
        let kept = fs::read_to_string(place.home().join(BUILD_LOG)).unwrap();
        assert_eq!(kept, "it went wrong\n");
        place.remove("data.dec-7").unwrap();
        assert_eq!(fs::read_dir(place.home()).unwrap().count(), 0);
        place.prepare(&Sandbox::default()).unwrap();
        fs::write(place.data().join("orders.db"), "precious").unwrap();
        place.remove("data.dec-9").unwrap();
        let left = fs::read_to_string(place.home().join("data.dec-9/orders.db")).unwrap();
        assert_eq!(left, "precious", "what the app wrote is never deleted");
        assert_eq!(fs::read_dir(place.home()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_server_left_half_done_is_removed() {
        let (_dir, place) = place();
        let users = place.prepare(&Sandbox::default()).unwrap();
        let half = place.stage(1, users).unwrap();
        assert_eq!(apps(&place.apps), ["web"]);
        place.clear().unwrap();
        assert!(!half.root.exists());
    }

    #[test]
    fn every_app_has_users_of_its_own_and_keeps_them() {
        if !is_root() {
            eprintln!("NOT RUN: only root gives apps users of their own");
            return;
        }
        let (_dir, web) = place();
        let shop = Place::new(&web.apps, "shop");
        let sandbox = Sandbox { first_uid: 70_000, ..Sandbox::default() };
        let ids = |place: &Place, sandbox: &Sandbox| {
            let Owners { build, run } = place.prepare(sandbox).unwrap().unwrap();
            (build.uid, run.uid)
        };
        assert_eq!(ids(&web, &sandbox), (70_000, 70_001));
        assert_eq!(ids(&shop, &sandbox), (70_002, 70_003));
        let moved = Sandbox { first_uid: 80_000, ..sandbox };
        assert_eq!(ids(&web, &moved), (70_000, 70_001), "what was chosen stays");
        let file = release(&web, 1, web.users()).dir.join("file");
        let meta = fs::metadata(file).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (0, 70_001, 0o440));
    }

    #[test]
    fn a_file_the_build_does_not_own_is_not_handed_over() {
        if !is_root() {
            eprintln!("NOT RUN: only root gives apps users of their own");
            return;
        }
        let (dir, place) = place();
        let users = place.prepare(&Sandbox::default()).unwrap();
        let stage = place.stage(1, users).unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "x").unwrap();
        fs::hard_link(&precious, stage.src.join("file")).unwrap();
        let refused = place.finish(&stage, (1, "0123456789abcdef"), users);
        assert!(matches!(refused, Err(Error::Special(_))), "{refused:?}");
        assert_eq!(fs::metadata(precious).unwrap().gid(), 0);
    }

    #[test]
    fn a_directory_nobody_else_may_enter_is_named() {
        if !is_root() {
            eprintln!("NOT RUN: only root gives apps users of their own");
            return;
        }
        let (dir, place) = place();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let error = place.prepare(&Sandbox::default()).unwrap_err();
        assert!(matches!(&error, Error::Closed { path, .. } if path == dir.path()), "{error}");
        let mode = fs::metadata(dir.path()).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700, "what is not agentd's own is left as it is");
    }
}
