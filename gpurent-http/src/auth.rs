//! Who may call: API keys, and without any, nobody but this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gpurent_core::id::RenterId;
use gpurent_core::invalid::Invalid;
use gpurent_core::rental::Rental;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Problem;

/// An API key as it is checked: its SHA-256, never the key itself.
#[derive(Clone)]
pub struct ApiKey {
    digest: [u8; 32],
    caller: Caller,
}

impl ApiKey {
    /// The key of a platform, which sees and ends every rental; those it makes are recorded under `name`.
    ///
    /// # Errors
    /// Refuses a key shorter than 16 characters: it could be guessed.
    pub fn platform(key: &str, name: RenterId) -> Result<Self, Invalid> {
        Self::new(key, Caller { renter: name, sees_all: true })
    }

    /// The key of one renter, who sees and ends their own rentals only.
    ///
    /// # Errors
    /// As [`ApiKey::platform`].
    pub fn renter(key: &str, renter: RenterId) -> Result<Self, Invalid> {
        Self::new(key, Caller { renter, sees_all: false })
    }

    fn new(key: &str, caller: Caller) -> Result<Self, Invalid> {
        if key.len() < 16 || key.len() > 512 || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Invalid::new("api_key", "must be 16 to 512 visible ASCII characters"));
        }
        Ok(Self { digest: Sha256::digest(key).into(), caller })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// The keys that are accepted; with none, everybody is who can reach the loopback address.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Arc<[ApiKey]>);

impl ApiKeys {
    /// Accepts these keys.
    #[must_use]
    pub fn new(keys: Vec<ApiKey>) -> Self {
        Self(keys.into())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn caller(&self, presented: &str) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        // Every key is compared, and each in constant time: the answer's time tells nothing.
        let matches = |key: &ApiKey| bool::from(key.digest.ct_eq(&digest));
        self.0.iter().fold(None, |found, key| if matches(key) { Some(key.caller.clone()) } else { found })
    }
}

/// Who calls, as the handlers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Under whom their rentals are recorded.
    pub(crate) renter: RenterId,
    sees_all: bool,
}

impl Caller {
    /// Whether they may see and end this rental.
    pub(crate) fn may_see(&self, rental: &Rental) -> bool {
        self.sees_all || rental.spec().renter == self.renter
    }

    /// Whose rentals they see; `None` means everybody's.
    pub(crate) fn scope(&self) -> Option<RenterId> {
        (!self.sees_all).then(|| self.renter.clone())
    }
}

/// Lets a request pass with its caller, or refuses it.
pub(crate) async fn authenticate(State(keys): State<ApiKeys>, mut request: Request, next: Next) -> Response {
    let caller = if keys.is_empty() {
        if !comes_from_this_machine(request.headers()) {
            return Problem::forbidden("without an API key only programs on this machine may call").into_response();
        }
        // A plain word is a valid renter.
        "local".parse().ok().map(|renter| Caller { renter, sees_all: true })
    } else {
        presented(request.headers()).and_then(|key| keys.caller(key))
    };
    let Some(caller) = caller else { return Problem::unauthorized().into_response() };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// The key in `Authorization: Bearer` or `X-API-Key`; never in a URL, where logs would keep it.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok()).map(str::trim)
}

/// A browser can be made to call loopback addresses by any web page: its requests name the page in
/// `Origin`, or (DNS rebinding) a foreign name in `Host`.
fn comes_from_this_machine(headers: &HeaderMap) -> bool {
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
        assert!(comes_from_this_machine(&headers(&[("host", "127.0.0.1:8000")])));
        assert!(comes_from_this_machine(&headers(&[("host", "localhost:8000"), ("origin", "http://localhost:3000")])));
        assert!(comes_from_this_machine(&headers(&[("host", "[::1]:8000")])));
        assert!(!comes_from_this_machine(&headers(&[("host", "evil.example:8000")])));
        assert!(!comes_from_this_machine(&headers(&[("host", "127.0.0.1"), ("origin", "https://evil.example")])));
        assert!(!comes_from_this_machine(&headers(&[("host", "127.0.0.1"), ("origin", "null")])));
    }

    #[test]
    fn keys_are_told_apart_and_never_printed() {
        let key = |text: &str, who: &str| ApiKey::renter(text, who.parse().unwrap()).unwrap();
        let keys = ApiKeys::new(vec![key("0123456789abcdef", "a"), key("fedcba9876543210", "b")]);
        assert_eq!(keys.caller("fedcba9876543210").map(|caller| caller.renter), Some("b".parse().unwrap()));
        assert_eq!(keys.caller("fedcba987654321"), None);
        assert!(!format!("{keys:?}").contains("0123456789abcdef"));
        assert!(ApiKey::renter("short", "a".parse().unwrap()).is_err());
    }
}
