//! API keys as proof of who calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::http::request::Parts;
use gpurent_core::error::ValidationError;
use gpurent_core::id::RenterId;
use gpurent_core::store::api_keys::IpNet;
use gpurent_core::store::{KeyDigest, KeyStore, Role, StoreError};
use subtle::ConstantTimeEq;

use crate::caller::Caller;
use crate::middleware::auth::origin::{address, comes_from_its_own_machine, comes_from_this_machine, presented};
use crate::middleware::auth::{AuthError, Authenticator, NOT_FROM_THERE};

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
    pub fn platform(key: &str, name: RenterId) -> Result<Self, ValidationError> {
        Self::new(key, Caller::new(name, Role::Platform))
    }

    /// The key of an operator, who may do what a platform may, and run the machine.
    ///
    /// # Errors
    /// As [`ApiKey::platform`].
    pub fn operator(key: &str, name: RenterId) -> Result<Self, ValidationError> {
        Self::new(key, Caller::new(name, Role::Operator))
    }

    /// The key of one renter, who sees and ends their own rentals only.
    ///
    /// # Errors
    /// As [`ApiKey::platform`].
    pub fn renter(key: &str, renter: RenterId) -> Result<Self, ValidationError> {
        Self::new(key, Caller::new(renter, Role::Renter))
    }

    fn new(key: &str, caller: Caller) -> Result<Self, ValidationError> {
        if key.len() < 16 || key.len() > 512 || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ValidationError::new("api_key", "must be 16 to 512 visible ASCII characters"));
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
/// connection has to show, by [`ConnectInfo`](axum::extract::ConnectInfo).
#[derive(Clone, Default)]
pub struct ApiKeys {
    fixed: Arc<[ApiKey]>,
    stored: Option<Arc<dyn KeyStore>>,
    /// Set with the first key that is seen: revoking the last one shuts everybody out, and opens nothing.
    asks: Arc<AtomicBool>,
    /// From where anybody may call; from anywhere where there are none.
    allowed: Arc<[IpNet]>,
    keyless: bool,
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

    /// Lets nobody in from elsewhere than these networks, whatever key they have.
    #[must_use]
    pub fn allow_from(self, networks: Vec<IpNet>) -> Self {
        Self { allowed: networks.into(), ..self }
    }

    /// Lets everybody in who calls from an allowed network, without a key: the network is the proof then. Has no
    /// effect without [`allow_from`](Self::allow_from), nor once there is a key.
    #[must_use]
    pub fn without_keys(self) -> Self {
        Self { keyless: true, ..self }
    }

    /// Whether a request comes from one of these networks. One whose connection does not tell comes from nowhere.
    fn comes_from(networks: &[IpNet], request: &Parts) -> bool {
        address(request).is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
    }

    async fn caller(&self, presented: &str, request: &Parts) -> Result<Caller, AuthError> {
        let digest = KeyDigest::of(presented);
        // Every key is compared, and each in constant time: the answer's time tells nothing.
        let matches = |key: &ApiKey| bool::from(key.digest.0.ct_eq(&digest.0));
        let fixed = self.fixed.iter().fold(None, |found, key| if matches(key) { Some(&key.caller) } else { found });
        if let Some(caller) = fixed {
            return Ok(caller.clone());
        }
        let Some(store) = &self.stored else { return Err(AuthError::Unauthenticated) };
        match store.find_key(&digest).await {
            Ok(Some(key)) if !key.allowed_ips.is_empty() && !Self::comes_from(&key.allowed_ips, request) => {
                Err(AuthError::Forbidden("this key is not good from there"))
            }
            Ok(Some(key)) => Ok(Caller { key: Some(key.id), ..Caller::new(key.renter, key.role) }),
            Ok(None) => Err(AuthError::Unauthenticated),
            Err(error) => Err(AuthError::Unavailable(error)),
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
    async fn authenticate(&self, request: &Parts) -> Result<Caller, AuthError> {
        if !self.admits_from(request) {
            return Err(AuthError::Forbidden(NOT_FROM_THERE));
        }
        if let Some(key) = presented(&request.headers) {
            return self.caller(key, request).await;
        }
        if self.has_any().await.map_err(AuthError::Unavailable)? {
            return Err(AuthError::Unauthenticated);
        }
        let by_the_network = self.keyless && !self.allowed.is_empty() && comes_from_its_own_machine(request);
        if !by_the_network && !comes_from_this_machine(request) {
            return Err(AuthError::Forbidden("without an API key only programs on this machine may call"));
        }
        // A plain word is a valid renter.
        let renter = "local".parse().map_err(|_| AuthError::Unauthenticated)?;
        Ok(Caller::new(renter, Role::Operator))
    }

    fn admits_from(&self, request: &Parts) -> bool {
        self.allowed.is_empty() || Self::comes_from(&self.allowed, request)
    }

    async fn is_guarded(&self) -> bool {
        // A store that does not answer lets nobody in.
        (self.keyless && !self.allowed.is_empty()) || self.has_any().await.unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::extract::ConnectInfo;
    use axum::http::Request;
    use gpurent_core::memory::MemoryStore;
    use gpurent_core::store::NewKey;

    use super::*;

    fn request() -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.headers.insert("host", "10.0.0.5:8000".parse().unwrap());
        parts
    }

    fn from(address: &str, key: Option<&str>) -> Parts {
        let mut parts = request();
        parts.extensions.insert(ConnectInfo(SocketAddr::new(address.parse().unwrap(), 4711)));
        if let Some(key) = key {
            parts.headers.insert("x-api-key", key.parse().unwrap());
        }
        parts
    }

    #[tokio::test]
    async fn keys_are_told_apart_and_never_printed() {
        let key = |text: &str, who: &str| ApiKey::renter(text, who.parse().unwrap()).unwrap();
        let keys = ApiKeys::new(vec![key("0123456789abcdef", "a"), key("fedcba9876543210", "b")]);
        let who = async |text: &str| keys.caller(text, &request()).await.ok().map(|caller| caller.renter.to_string());
        assert_eq!(who("fedcba9876543210").await.as_deref(), Some("b"));
        assert_eq!(who("fedcba987654321").await, None);
        assert!(!format!("{:?}", key("0123456789abcdef", "a")).contains("0123456789abcdef"));
        assert!(ApiKey::renter("short", "a".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn a_key_is_good_only_from_its_networks() {
        let store = Arc::new(MemoryStore::default());
        let new = NewKey::generate("me".parse().unwrap(), Role::Renter, jiff::Timestamp::UNIX_EPOCH);
        let new = new.allowed_from(vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        store.add_key(&new.record).await.unwrap();
        let keys = ApiKeys::default().with_store(store);
        let key = Some(new.expose());
        for (address, good) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("2001:db8::1", true), ("10.2.0.1", false)]
        {
            assert_eq!(keys.authenticate(&from(address, key)).await.is_ok(), good, "{address}");
        }
        for header in ["x-forwarded-for", "x-real-ip", "forwarded", "x-client-ip"] {
            let mut spoofed = from("10.2.0.1", key);
            spoofed.headers.insert(header, "10.1.2.3".parse().unwrap());
            assert!(matches!(keys.authenticate(&spoofed).await, Err(AuthError::Forbidden(_))), "{header}");
        }
        let mut untold = request();
        untold.headers.insert("x-api-key", new.expose().parse().unwrap());
        assert!(matches!(keys.authenticate(&untold).await, Err(AuthError::Forbidden(_))), "from nowhere");
    }

    #[tokio::test]
    async fn a_network_is_proof_enough_only_where_that_was_said() {
        let networks = vec!["10.0.0.0/8".parse().unwrap()];
        let open = ApiKeys::default().allow_from(networks.clone()).without_keys();
        assert!(open.is_guarded().await);
        assert!(open.authenticate(&from("10.9.9.9", None)).await.is_ok());
        assert!(open.authenticate(&from("192.0.2.1", None)).await.is_err());
        let mut page = from("10.9.9.9", None);
        page.headers.insert("origin", "https://evil.example".parse().unwrap());
        assert!(open.authenticate(&page).await.is_err(), "a browser inside that a page outside sends");
        let mut rebound = from("10.9.9.9", None);
        rebound.headers.insert("host", "evil.example:8000".parse().unwrap());
        assert!(open.authenticate(&rebound).await.is_err(), "a name that leads here by somebody else's DNS");
        let mut passed_on = from("10.9.9.9", None);
        passed_on.headers.insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
        assert!(open.authenticate(&passed_on).await.is_err(), "a proxy inside for somebody outside");
        let asked = ApiKeys::default().allow_from(networks);
        assert!(asked.authenticate(&from("10.9.9.9", None)).await.is_err());
        let everywhere = ApiKeys::default().without_keys();
        assert!(everywhere.authenticate(&from("10.9.9.9", None)).await.is_err());
        assert!(!everywhere.is_guarded().await);
    }
}
