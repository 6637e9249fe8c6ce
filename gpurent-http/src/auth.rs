//! Who may call: an [`Authenticator`] says. By default API keys do, and without any, nobody but this
//! machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gpurent_core::api_key::{KeyDigest, KeyStore, Role};
use gpurent_core::id::RenterId;
use gpurent_core::invalid::Invalid;
use gpurent_core::rental::Rental;
use gpurent_core::store::StoreError;
use subtle::ConstantTimeEq;

use crate::problem::Problem;

/// Who calls, and what they may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Under whom their rentals are recorded.
    pub renter: RenterId,
    /// What they may do.
    pub role: Role,
}

impl Caller {
    /// Whether they may see and end this rental.
    pub(crate) fn may_see(&self, rental: &Rental) -> bool {
        self.role == Role::Platform || rental.spec().renter == self.renter
    }

    /// Whose rentals they see; `None` means everybody's.
    pub(crate) fn scope(&self) -> Option<RenterId> {
        (self.role != Role::Platform).then(|| self.renter.clone())
    }
}

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// They did not prove who they are.
    #[error("no valid proof of who calls")]
    Unauthenticated,
    /// They may not call from where they are, whoever they are.
    #[error("{0}")]
    Forbidden(&'static str),
    /// It cannot be found out now.
    #[error("who calls cannot be found out now")]
    Unavailable(#[source] StoreError),
}

/// Tells who calls. An embedder plugs its own login in here; see the example `embed`.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Who sent a request with this head. Asked once for each request, and for those who listen again and
    /// again while they do. Never log what it holds.
    async fn authenticate(&self, request: &Parts) -> Result<Caller, Denied>;

    /// Whether callers have to prove anything: where they need not, [`Server`](crate::Server) listens on
    /// loopback only.
    async fn is_guarded(&self) -> bool {
        true
    }
}

/// An API key as it is checked: its SHA-256, never the key itself.
#[derive(Clone)]
pub struct ApiKey {
    digest: KeyDigest,
    caller: Caller,
}

impl ApiKey {
    /// The key of a platform, which sees and ends every rental; those it makes are recorded under `name`.
    ///
    /// # Errors
    /// Refuses a key shorter than 16 characters: it could be guessed.
    pub fn platform(key: &str, name: RenterId) -> Result<Self, Invalid> {
        Self::new(key, Caller { renter: name, role: Role::Platform })
    }

    /// The key of one renter, who sees and ends their own rentals only.
    ///
    /// # Errors
    /// As [`ApiKey::platform`].
    pub fn renter(key: &str, renter: RenterId) -> Result<Self, Invalid> {
        Self::new(key, Caller { renter, role: Role::Renter })
    }

    fn new(key: &str, caller: Caller) -> Result<Self, Invalid> {
        if key.len() < 16 || key.len() > 512 || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Invalid::new("api_key", "must be 16 to 512 visible ASCII characters"));
        }
        Ok(Self { digest: KeyDigest::of(key), caller })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// The keys that are accepted: fixed ones, and those of a store, which come and go while the server runs.
/// As long as there was none at all since the start, everybody is let in who is on this machine: which the
/// connection has to show, by [`ConnectInfo`].
#[derive(Clone, Default)]
pub struct ApiKeys {
    fixed: Arc<[ApiKey]>,
    stored: Option<Arc<dyn KeyStore>>,
    /// Set with the first key that is seen: revoking the last one shuts everybody out, and opens nothing.
    asks: Arc<AtomicBool>,
}

impl ApiKeys {
    /// Accepts these keys.
    #[must_use]
    pub fn new(keys: Vec<ApiKey>) -> Self {
        Self { fixed: keys.into(), ..Self::default() }
    }

    /// Accepts those of a store too.
    #[must_use]
    pub fn with_store(self, store: Arc<dyn KeyStore>) -> Self {
        Self { stored: Some(store), ..self }
    }

    async fn caller(&self, presented: &str) -> Result<Caller, Denied> {
        let digest = KeyDigest::of(presented);
        // Every key is compared, and each in constant time: the answer's time tells nothing.
        let matches = |key: &ApiKey| bool::from(key.digest.0.ct_eq(&digest.0));
        let fixed = self.fixed.iter().fold(None, |found, key| if matches(key) { Some(&key.caller) } else { found });
        if let Some(caller) = fixed {
            return Ok(caller.clone());
        }
        let Some(store) = &self.stored else { return Err(Denied::Unauthenticated) };
        match store.find_key(&digest).await {
            Ok(Some(key)) => Ok(Caller { renter: key.renter, role: key.role }),
            Ok(None) => Err(Denied::Unauthenticated),
            Err(error) => Err(Denied::Unavailable(error)),
        }
    }

    async fn has_any(&self) -> Result<bool, StoreError> {
        if self.asks.load(Ordering::SeqCst) {
            return Ok(true);
        }
        let stored = match &self.stored {
            Some(store) => !store.keys().await?.is_empty(),
            None => false,
        };
        let any = stored || !self.fixed.is_empty();
        self.asks.fetch_or(any, Ordering::SeqCst);
        Ok(any)
    }
}

#[async_trait]
impl Authenticator for ApiKeys {
    async fn authenticate(&self, request: &Parts) -> Result<Caller, Denied> {
        if let Some(key) = presented(&request.headers) {
            return self.caller(key).await;
        }
        if self.has_any().await.map_err(Denied::Unavailable)? {
            return Err(Denied::Unauthenticated);
        }
        if !comes_from_this_machine(request) {
            return Err(Denied::Forbidden("without an API key only programs on this machine may call"));
        }
        // A plain word is a valid renter.
        let renter = "local".parse().map_err(|_| Denied::Unauthenticated)?;
        Ok(Caller { renter, role: Role::Platform })
    }

    async fn is_guarded(&self) -> bool {
        // A store that does not answer lets nobody in.
        self.has_any().await.unwrap_or(true)
    }
}

/// Lets a request pass with its caller, or refuses it.
pub(crate) async fn authenticate(
    State(authenticator): State<Arc<dyn Authenticator>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match authenticator.authenticate(&parts).await {
        Ok(caller) => {
            let pass = Pass { authenticator, caller: caller.clone(), request: Arc::new(parts.clone()) };
            parts.extensions.insert(caller);
            parts.extensions.insert(pass);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(denied) => Problem::from(denied).into_response(),
    }
}

/// What a listener was let in by, to be shown again while it listens: a key may be revoked meanwhile.
#[derive(Clone)]
pub(crate) struct Pass {
    authenticator: Arc<dyn Authenticator>,
    caller: Caller,
    request: Arc<Parts>,
}

impl Pass {
    /// Whether it would be let in now, as the same caller. Where that cannot be found out, it stays.
    pub(crate) async fn is_valid(&self) -> bool {
        match self.authenticator.authenticate(&self.request).await {
            Ok(caller) => caller == self.caller,
            Err(Denied::Unavailable(_)) => true,
            Err(_) => false,
        }
    }
}

/// The key in `Authorization: Bearer` or `X-API-Key`; never in a URL, where logs would keep it.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok()).map(str::trim)
}

/// A browser can be made to call loopback addresses by any web page: its requests name the page in
/// `Origin`, or (DNS rebinding) a foreign name in `Host`.
fn comes_from_this_machine(request: &Parts) -> bool {
    let connection = request.extensions.get::<ConnectInfo<SocketAddr>>();
    let headers = &request.headers;
    // A proxy on this machine speaks for others.
    let is_passed_on = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
    let is_local = connection.is_some_and(|ConnectInfo(address)| address.ip().to_canonical().is_loopback());
    is_local && is_passed_on.iter().all(|name| !headers.contains_key(*name)) && is_meant_for_this_machine(headers)
}

/// What the request itself says of where it goes to and comes from.
fn is_meant_for_this_machine(headers: &HeaderMap) -> bool {
    let is_local = |host: &str| {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let host_is_local = match headers.get(HOST).map(|host| host.to_str().map(str::parse::<Uri>)) {
        None => true,
        Some(Ok(Ok(uri))) => uri.host().is_some_and(is_local),
        Some(_) => false,
    };
    let origin_is_local = match headers.get(ORIGIN).map(|origin| origin.to_str().map(str::parse::<Uri>)) {
        None => true,
        Some(Ok(Ok(uri))) => uri.host().is_some_and(is_local),
        Some(_) => false,
    };
    host_is_local && origin_is_local
}

/// The address that is used where none is named.
pub(crate) const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_browser_on_another_page_is_not_this_machine() {
        assert!(is_meant_for_this_machine(&headers(&[("host", "127.0.0.1:8000")])));
        assert!(is_meant_for_this_machine(&headers(&[
            ("host", "localhost:8000"),
            ("origin", "http://localhost:3000")
        ])));
        assert!(is_meant_for_this_machine(&headers(&[("host", "[::1]:8000")])));
        assert!(!is_meant_for_this_machine(&headers(&[("host", "evil.example:8000")])));
        assert!(!is_meant_for_this_machine(&headers(&[("host", "127.0.0.1"), ("origin", "https://evil.example")])));
        assert!(!is_meant_for_this_machine(&headers(&[("host", "127.0.0.1"), ("origin", "null")])));
    }

    #[tokio::test]
    async fn keys_are_told_apart_and_never_printed() {
        let key = |text: &str, who: &str| ApiKey::renter(text, who.parse().unwrap()).unwrap();
        let keys = ApiKeys::new(vec![key("0123456789abcdef", "a"), key("fedcba9876543210", "b")]);
        let who = async |text: &str| keys.caller(text).await.ok().map(|caller| caller.renter.to_string());
        assert_eq!(who("fedcba9876543210").await.as_deref(), Some("b"));
        assert_eq!(who("fedcba987654321").await, None);
        assert!(!format!("{:?}", key("0123456789abcdef", "a")).contains("0123456789abcdef"));
        assert!(ApiKey::renter("short", "a".parse().unwrap()).is_err());
    }
}
