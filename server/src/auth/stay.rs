//! Calls that last. Whoever was let in is looked at again whenever the principals change: a stream outlives neither its token nor
//! what the token may do.

use std::sync::Arc;

use http::HeaderMap;
use tokio::sync::watch;
use tonic::Status;

use super::matrix::{self, Access};
use super::{Authorizer, Principal, names, token_of};
use crate::grpc::status;

/// One call that was let in.
#[derive(Debug)]
pub struct Stay {
    authorizer: Arc<Authorizer>,
    changes: watch::Receiver<()>,
    path: String,
    digest: [u8; 32],
    principal: Principal,
}

impl Stay {
    /// The stay of `principal`, who came with `headers` to call the method at `path`; `None` if no token was asked for. `changes` was
    /// subscribed to before the caller was let in, so that no change falls in between.
    #[must_use]
    pub fn of(
        authorizer: &Arc<Authorizer>,
        changes: watch::Receiver<()>,
        path: &str,
        headers: &HeaderMap,
        principal: &Principal,
    ) -> Option<Self> {
        let digest = super::tokens::digest(token_of(headers)?);
        let authorizer = Arc::clone(authorizer);
        Some(Self {
            authorizer,
            changes,
            path: path.to_owned(),
            digest,
            principal: principal.clone(),
        })
    }

    /// Waits until the caller has to go, and says why.
    pub async fn over(&mut self) -> Status {
        loop {
            if self.changes.changed().await.is_err() {
                // Nobody is left who could change anything.
                std::future::pending::<()>().await;
            }
            if let Err(why) = self.judged() {
                return why;
            }
        }
    }

    /// Whether the caller may stay.
    fn judged(&self) -> Result<(), Status> {
        let now = self.authorizer.known(&self.digest);
        let Some(now) = now.filter(|now| now.name() == self.principal.name()) else {
            return Err(invalid("the token was revoked"));
        };
        match matrix::access(&self.path) {
            Some(Access::AnyOf(need)) if !need.iter().any(|role| now.has(*role)) => {
                Err(status::role_required(&self.path, &names(now.roles()), &names(need)))
            }
            // What the call works with is what the token could report on when it began.
            _ if now.apps() != self.principal.apps() => {
                Err(invalid("the apps this token is bound to were changed: call again"))
            }
            _ => Ok(()),
        }
    }
}

fn invalid(why: &str) -> Status {
    status::unauthenticated("TOKEN_INVALID", why)
}
