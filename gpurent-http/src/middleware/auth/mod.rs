//! Authentication: an [`Authenticator`] says who may call. By default API keys do, and without any, nobody but this
//! machine.

pub(crate) mod api_keys;
pub(crate) mod first_message;
pub(crate) mod origin;
mod pending;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub use api_keys::{ApiKey, ApiKeys};
use async_trait::async_trait;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gpurent_core::store::StoreError;

use crate::caller::Caller;
use crate::middleware::auth::pending::PendingSockets;
use crate::middleware::rate_limit::RateLimits;
use crate::problem::Problem;

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The caller did not prove who they are.
    #[error("no valid proof of who calls")]
    Unauthenticated,
    /// Calls from this address are refused, with any key.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The caller cannot be found out now.
    #[error("who calls cannot be found out now")]
    Unavailable(#[source] StoreError),
}

/// Tells who calls. An embedder plugs its own login in here; see the example `embed`.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The caller who sent a request with this head. Asked for each request (twice where one of the dashboard's has a
    /// word in the place of a key), and for those who listen again and
    /// again while they do. Never log what it holds.
    async fn authenticate(&self, request: &Parts) -> Result<Caller, AuthError>;

    /// Whether calls from a request's address are admitted without a key, for what is
    /// [offered to everybody](crate::protocols::dashboard::Dashboard::with_downloads). From everywhere by default.
    fn admits_from(&self, _request: &Parts) -> bool {
        true
    }

    /// Whether callers have to prove anything: where they need not, [`Server`](crate::server::Server) listens on
    /// loopback only.
    async fn is_guarded(&self) -> bool {
        true
    }
}

/// Where requests are let in.
#[derive(Clone)]
pub(crate) struct AuthLayer {
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) rates: Option<RateLimits>,
    waiting: Arc<PendingSockets>,
}

impl AuthLayer {
    pub(crate) fn new(authenticator: Arc<dyn Authenticator>) -> Self {
        Self { authenticator, rates: None, waiting: Arc::default() }
    }

    /// The answer to somebody who is not let in.
    fn refuse(&self, denied: AuthError, request: &Parts) -> Response {
        if let (AuthError::Unauthenticated, Some(rates)) = (&denied, &self.rates)
            && let Err(problem) = rates.anonymous(request)
        {
            return problem.into_response();
        }
        Problem::from(denied).into_response()
    }
}

/// Whether a protocol's clients send a word in the place of a key.
#[derive(Clone, Copy)]
pub(crate) struct Words(pub(crate) bool);

/// Lets a request pass with its caller, or refuses it.
pub(crate) async fn authenticate(
    State((gate, Words(words_for_keys))): State<(AuthLayer, Words)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let mut answer = gate.authenticator.authenticate(&parts).await;
    if matches!(answer, Err(AuthError::Unauthenticated)) && words_for_keys {
        // Where no key is needed, a word in the place of one is none.
        if let Some(word) = parts.headers.remove(AUTHORIZATION) {
            answer = gate.authenticator.authenticate(&parts).await;
            parts.headers.insert(AUTHORIZATION, word);
        }
    }
    match answer {
        Ok(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(denied) => gate.refuse(denied, &parts),
    }
}

/// Lets a request pass without a key, if its address is allowed and has not called too often.
pub(crate) async fn admit_anonymous(State(gate): State<AuthLayer>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if !gate.authenticator.admits_from(&parts) {
        return gate.refuse(AuthError::Forbidden(NOT_FROM_THERE), &parts);
    }
    match gate.rates.as_ref().map_or(Ok(()), |rates| rates.anonymous(&parts)) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response(),
    }
}

/// The answer to everybody from a network that nobody may call from.
const NOT_FROM_THERE: &str = "nobody may call from there";

/// A pass by which a listener was let in, to be shown again while it listens: a key may be revoked meanwhile.
#[derive(Clone)]
pub(crate) struct SocketSession {
    authenticator: Arc<dyn Authenticator>,
    caller: Caller,
    request: Arc<Parts>,
}

impl SocketSession {
    /// Whether it would be let in now, as the same caller. Where that cannot be found out, it stays.
    pub(crate) async fn is_valid(&self) -> bool {
        match self.authenticator.authenticate(&self.request).await {
            Ok(caller) => caller == self.caller,
            Err(AuthError::Unavailable(_)) => true,
            Err(_) => false,
        }
    }
}

/// The address that is used where none is named.
pub(crate) const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl From<AuthError> for Problem {
    fn from(denied: AuthError) -> Self {
        match denied {
            AuthError::Unauthenticated => Self::unauthorized(),
            AuthError::Forbidden(why) => Self::forbidden(why),
            AuthError::Unavailable(error) => error.into(),
        }
    }
}
