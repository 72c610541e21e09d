//! Trees of foreign files: how large they are, whether they stay within themselves, and how they are made immutable.
//!
//! No symbolic link is ever followed here, except to find out where it leads.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use super::Error;
use crate::shim::protocol::User;

/// What an entry of a directory counts at least: even an empty file takes room.
const ENTRY_BYTES: u64 = 4_096;

/// What a tree takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// All of it, a file by its length where the file system stored less than that: one that compresses, or allocates only when it
    /// writes back, would let through what another one refuses.
    pub(super) bytes: u64,
    /// Length of its longest file.
    pub(super) largest: u64,
}

/// Measures a tree that may be changing. What cannot be looked at counts as nothing.
pub(super) fn usage(root: &Path) -> Usage {
    let mut usage = Usage::default();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            // Of the entry itself, not of what a link leads to.
            let Ok(meta) = entry.metadata() else { continue };
            let bytes = meta.blocks().saturating_mul(512).max(meta.len()).max(ENTRY_BYTES);
            usage.bytes = usage.bytes.saturating_add(bytes);
            if meta.is_file() {
                usage.largest = usage.largest.max(meta.len());
            } else if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    usage
}

/// Visits every entry below `root`, directories before what is in them.
fn visit(
    root: &Path,
    mut each: impl FnMut(&Path, &Metadata) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::io("reading", &dir))? {
            let path = entry.map_err(Error::io("reading", &dir))?.path();
            let meta = fs::symlink_metadata(&path).map_err(Error::io("looking at", &path))?;
            each(&path, &meta)?;
            if meta.is_dir() {
                left.push(path);
            }
        }
    }
    Ok(())
}

/// Makes sure that a tree holds files, directories and links that stay in it, and nothing else.
///
/// # Errors
/// The first entry that is something else.
pub(super) fn check(root: &Path) -> Result<(), Error> {
    let root = fs::canonicalize(root).map_err(Error::io("looking at", root))?;
    let shown = |path: &Path| path.strip_prefix(&root).unwrap_or(path).display().to_string();
    visit(&root, |path, meta| {
        if meta.is_symlink() {
            // Resolved for real: what looks harmless step by step may lead out through another link. One that leads nowhere may
            // lead anywhere later.
            let inside = fs::canonicalize(path).is_ok_and(|target| target.starts_with(&root));
            return if inside { Ok(()) } else { Err(Error::Link(shown(path))) };
        }
        if meta.is_file() || meta.is_dir() { Ok(()) } else { Err(Error::Special(shown(path))) }
    })
}

/// Who owns a sealed tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owners {
    /// Who built it: nothing else in it is touched.
    pub(super) build: User,
    /// Who may read and execute it.
    pub(super) run: User,
}

/// Makes a tree immutable: nobody may write to it, only its group may read it, and where agentd is root it belongs to root.
///
/// # Errors
/// Something in it is not the work of the build, or cannot be changed.
pub(super) fn seal(root: &Path, owners: Option<Owners>) -> Result<(), Error> {
    let own = fs::symlink_metadata(root).map_err(Error::io("looking at", root))?;
    seal_one(root, &own, owners)?;
    let mut directories = Vec::new();
    visit(root, |path, meta| {
        // A directory stays readable for the visit; who owns it does not matter for that.
        if meta.is_dir() {
            directories.push((path.to_owned(), meta.clone()));
            Ok(())
        } else {
            seal_one(path, meta, owners)
        }
    })?;
    directories.iter().rev().try_for_each(|(path, meta)| seal_one(path, meta, owners))
}

fn seal_one(path: &Path, meta: &Metadata, owners: Option<Owners>) -> Result<(), Error> {
    if let Some(Owners { build, run }) = owners {
        // A hard link to a file of somebody else would hand that file over.
        if meta.uid() != build.uid {
            return Err(Error::Special(path.display().to_string()));
        }
        lchown(path, Some(0), Some(run.gid)).map_err(Error::io("handing over", path))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let executable = meta.is_dir() || meta.mode() & 0o111 != 0;
    let mode = if executable { 0o550 } else { 0o440 };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("sealing", path))
}

/// Removes a tree, sealed or not. One that is not there is removed already.
///
/// # Errors
/// Something of it is left.
pub(super) fn remove(root: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(meta) if !meta.is_dir() => {
            return fs::remove_file(root).map_err(Error::io("removing", root));
        }
        _ => {}
    }
    unseal(root);
    fs::remove_dir_all(root).map_err(Error::io("removing", root))
}

/// Makes directories writable again; root needs it not, others do. What fails here fails again when it is removed.
fn unseal(root: &Path) {
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let _ = fs::set_permissions(&dir, Permissions::from_mode(0o700));
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        left.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("r/a/b")).unwrap();
        fs::write(dir.path().join("r/a/file"), "x").unwrap();
        fs::write(dir.path().join("outside"), "secret").unwrap();
        dir
    }

    fn link(target: &str, at: &str) -> Result<(), Error> {
        let dir = tree();
        symlink(target, dir.path().join("r").join(at)).unwrap();
        check(&dir.path().join("r"))
    }

    #[test]
    fn links_stay_in_the_tree_or_are_refused() {
        for (target, at) in [("a/file", "l"), ("../file", "a/b/l"), (".", "l"), ("a/b/..", "l")] {
            link(target, at).unwrap();
        }
        for (target, at) in [
            ("/etc/passwd", "l"),
            ("../outside", "l"),
            ("../../outside", "a/l"),
            ("a/../../outside", "l"),
            ("nowhere", "l"),
            ("..", "l"),
            ("l", "l"),
            ("/proc/self/root/etc/passwd", "a/b/l"),
        ] {
            let error = link(target, at).unwrap_err();
            assert!(matches!(&error, Error::Link(path) if path == at), "{target}: {error}");
        }
    }

    #[test]
    fn links_that_only_lead_out_together_are_refused() {
        let dir = tree();
        let root = dir.path().join("r");
        symlink("../..", root.join("a/b/up")).unwrap();
        check(&root).unwrap();
        symlink("a/b/up/../outside", root.join("l")).unwrap();
        assert!(matches!(check(&root), Err(Error::Link(_))));
    }

    #[test]
    fn what_is_neither_file_nor_directory_is_refused() {
        let dir = tree();
        let root = dir.path().join("r");
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        assert!(matches!(check(&root), Err(Error::Special(path)) if path == "socket"));
    }

    #[test]
    fn empty_files_take_room_too_and_the_longest_file_is_known() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..10 {
            fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        symlink("/usr", dir.path().join("away")).unwrap();
        assert_eq!(usage(dir.path()), Usage { bytes: 11 * ENTRY_BYTES, largest: 0 });
        // A file without a block of its own is what any file looks like where the file system compresses or delays.
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        let bytes = 11 * ENTRY_BYTES + (1 << 30);
        assert_eq!(usage(dir.path()), Usage { bytes, largest: 1 << 30 });
    }

    #[test]
    fn a_sealed_tree_cannot_be_written_to_and_can_be_removed() {
        let dir = tree();
        let root = dir.path().join("r");
        fs::set_permissions(root.join("a/file"), Permissions::from_mode(0o6755)).unwrap();
        seal(&root, None).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("."), mode("a"), mode("a/file")), (0o550, 0o550, 0o550));
        remove(&root).unwrap();
        assert!(!root.exists());
        remove(&root).unwrap();
    }

    #[test]
    fn a_link_in_place_of_a_tree_is_removed_alone() {
        let dir = tree();
        let there = dir.path().join("link");
        symlink(dir.path().join("r"), &there).unwrap();
        remove(&there).unwrap();
        assert!(dir.path().join("r/a/file").exists() && !there.exists());
    }
}
