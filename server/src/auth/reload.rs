//! A token file that changes while the server runs: whoever is revoked is out within a second, without a restart.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Authorizer, TokenTable};

/// Time between two looks at the file.
pub const EVERY: Duration = Duration::from_secs(1);

/// What tells one version of a file from another.
type Version = (u64, u64, i64, i64);

fn version(path: &Path) -> Option<Version> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// Looks at the file until `stop` fires. A file that is not usable leaves the principals as they were, and is said loudly: a slip of
/// an editor must lock nobody out, and let nobody in.
pub async fn watch(path: PathBuf, authorizer: Arc<Authorizer>, stop: CancellationToken) {
    let mut known = version(&path);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = version(&path);
        if now == known {
            continue;
        }
        known = now;
        match TokenTable::load(&path) {
            Ok(tokens) => {
                tracing::info!(principals = tokens.len(), path = %path.display(), "token file read again");
                authorizer.replace(tokens);
            }
            Err(error) => tracing::error!(
                error = crate::shim::chain(&error),
                "the token file is not usable: the principals stay as they were"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Instant;

    use http::HeaderMap;
    use http::header::AUTHORIZATION;

    use super::*;
    use crate::auth::Role;
    use crate::auth::tokens::{FILE_NAME, edit};

    fn may(authorizer: &Authorizer, token: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        authorizer
            .admit("/agentctl.v1.AgentService/GetStatus", &headers, peer, Instant::now())
            .is_ok()
    }

    async fn until(what: impl Fn() -> bool) {
        let waiting = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it never happened");
    }

    #[tokio::test]
    async fn who_is_added_is_in_who_is_revoked_is_out_and_a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let authorizer =
            Arc::new(Authorizer::new(TokenTable::load_or_generate(dir.path()).unwrap()));
        let (path, stop) = (dir.path().join(FILE_NAME), CancellationToken::new());
        let story = async {
            let roles = BTreeSet::from([Role::Viewer]);
            // The watch has to have seen the file as it was.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let token = edit::create(&path, "ci", &roles, &BTreeSet::new()).unwrap();
            until(|| may(&authorizer, &token)).await;
            let good = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, "[[principal]]\nname = 7\n").unwrap();
            tokio::time::sleep(EVERY * 2).await;
            assert!(may(&authorizer, &token), "the old ones stay");
            std::fs::write(&path, good).unwrap();
            edit::revoke(&path, "ci").unwrap();
            until(|| !may(&authorizer, &token)).await;
            stop.cancel();
        };
        tokio::join!(watch(path.clone(), Arc::clone(&authorizer), stop.clone()), story);
    }
}
