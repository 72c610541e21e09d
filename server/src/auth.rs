//! Who calls, and what they may call: principals, roles, and the check that every request passes before any service sees it.
//!
//! Default deny: a method that is not in the table of [`matrix`] cannot be called by anybody.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use tokio::sync::watch;
use tonic::Status;

use crate::grpc::status;

pub mod matrix;
pub mod reload;
mod stay;
mod throttle;
pub mod tokens;

use matrix::Access;
pub use stay::Stay;
use throttle::Throttle;
pub(crate) use throttle::network;
pub use tokens::TokenTable;

/// What a principal may do. Roles are not ordered: `admin` cannot approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything.
    Viewer,
    /// Pushes signals, and nothing else.
    Monitor,
    /// Onboards apps, asks for actions, stops and starts the agent.
    Operator,
    /// Approves and rejects, and may stop the agent.
    Approver,
    /// What an operator may, and pushes signals by hand.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Viewer, Self::Monitor, Self::Operator, Self::Approver, Self::Admin];

    /// Stable name, as in a token file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Monitor => "monitor",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }

    /// The role called `name`, if it is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// An authenticated caller. Services find it in the extensions of their request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: Arc<str>,
    roles: BTreeSet<Role>,
    apps: Option<Arc<BTreeSet<String>>>,
}

impl Principal {
    /// A principal with these roles; `apps` restricts what it may push signals about, `None` does not.
    #[must_use]
    pub fn new(
        name: &str,
        roles: impl IntoIterator<Item = Role>,
        apps: Option<BTreeSet<String>>,
    ) -> Self {
        Self { name: name.into(), roles: roles.into_iter().collect(), apps: apps.map(Arc::new) }
    }

    /// Its name: what records call the requester or the approver.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if it has `role`.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Its roles.
    #[must_use]
    pub const fn roles(&self) -> &BTreeSet<Role> {
        &self.roles
    }

    /// Apps its token is bound to; `None`: it is bound to none.
    #[must_use]
    pub fn apps(&self) -> Option<&BTreeSet<String>> {
        self.apps.as_deref()
    }

    /// True if its token is not bound to other apps than `app`.
    #[must_use]
    pub fn may_report(&self, app: &str) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.contains(app))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Checks every request against the token table and the role matrix.
#[derive(Debug)]
pub struct Authorizer {
    tokens: RwLock<TokenTable>,
    changes: watch::Sender<()>,
    throttle: Throttle,
}

impl Authorizer {
    /// Checks against `tokens`.
    #[must_use]
    pub fn new(tokens: TokenTable) -> Self {
        let (changes, _) = watch::channel(());
        Self { tokens: RwLock::new(tokens), changes, throttle: Throttle::default() }
    }

    /// Checks against `tokens` from here on, and looks again at everybody who is there: see [`Stay`].
    pub fn replace(&self, tokens: TokenTable) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        self.changes.send_replace(());
    }

    /// Tells of every change of the principals.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn known(&self, digest: &[u8; 32]) -> Option<Principal> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).find_digest(digest)
    }

    /// Decides whether the caller behind `headers` may call the method at `path` (`/package.Service/Method`).
    ///
    /// Answers the principal, or `None` for a public method that was called without a token.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for a method outside the matrix, `UNAUTHENTICATED` (`TOKEN_MISSING`, `TOKEN_INVALID`),
    /// `RESOURCE_EXHAUSTED` after too many invalid tokens from one address, `PERMISSION_DENIED` (`ROLE_REQUIRED`, and
    /// `READ_ONLY` where the caller bound themself with [`READ_ONLY`]).
    pub fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: IpAddr,
        now: Instant,
    ) -> Result<Option<Principal>, Status> {
        let Some(access) = matrix::access(path) else {
            return Err(status::unimplemented(path));
        };
        self.admit_to(access, path, headers, peer, now)
    }

    /// As [`Authorizer::admit`], to something else than a method.
    ///
    /// # Errors
    /// As [`Authorizer::admit`].
    pub fn admit_to(
        &self,
        access: Access,
        path: &str,
        headers: &HeaderMap,
        peer: IpAddr,
        now: Instant,
    ) -> Result<Option<Principal>, Status> {
        let need = match access {
            Access::Public => return Ok(None),
            Access::AnyOf(need) => need,
        };
        let principal = self.authenticate(headers, peer, now)?;
        if access.mutates() && headers.contains_key(READ_ONLY) {
            let text = format!("`{path}` may change something, and this call came as read-only");
            return Err(status::permission_denied("READ_ONLY", &text));
        }
        if need.iter().any(|role| principal.has(*role)) {
            Ok(Some(principal))
        } else {
            Err(status::role_required(path, &names(principal.roles()), &names(need)))
        }
    }

    /// Requests whose token was not known, so far.
    #[must_use]
    pub fn rejected_tokens(&self) -> u64 {
        self.throttle.failures()
    }

    fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        now: Instant,
    ) -> Result<Principal, Status> {
        if !headers.contains_key(AUTHORIZATION) {
            return Err(status::unauthenticated(
                "TOKEN_MISSING",
                "no token: send it as `authorization: Bearer TOKEN`",
            ));
        }
        let known = token_of(headers).and_then(|token| {
            self.tokens.read().unwrap_or_else(PoisonError::into_inner).find(token)
        });
        // A valid token always passes, whatever else comes from its address: otherwise one broken script on the host could
        // lock the operator out of `pause`. Guessing 256 bits is hopeless; the limit is there to make it visible and cheap.
        known.ok_or_else(|| match self.throttle.failure(peer, now) {
            None => status::unauthenticated(
                "TOKEN_INVALID",
                "the token is not known to this server, or is malformed",
            ),
            Some(wait) => status::exhausted(
                "AUTH_FAILURES",
                &format!("address:{peer}"),
                "too many requests with an invalid token from this address",
                Some(wait),
            ),
        })
    }
}

/// A header with which a caller binds themself: whatever their roles, a call with it changes nothing. Its value does not matter, so
/// that no spelling of "no" can be mistaken.
pub const READ_ONLY: &str = "agentctl-read-only";

const BEARER: &[u8] = b"Bearer ";

/// The one token of a request, if it is written as one. Two are ambiguous: whoever put one of them there might not be the caller.
fn token_of(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then_some(token)
}

fn names<'a>(roles: impl IntoIterator<Item = &'a Role>) -> String {
    roles.into_iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
