//! API keys: who may call a host's API, kept as SHA-256 digests of 256-bit keys.
//!
//! A key is random and long, so a plain digest tells nothing about it, and looking it up needs no slow
//! hash. The key itself is shown once, when it is made.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
pub use ipnet::IpNet;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ValidationError;
use crate::id::{ApiKeyId, RenterId};
use crate::store::StoreError;

/// The rights of a key's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees and changes every rental.
    Platform,
    /// As a platform; and sees and changes what belongs to the machine: its images, renters' ports, who did what.
    Operator,
    /// Sees and ends their own rentals.
    Renter,
}

impl Role {
    /// The role in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Operator => "operator",
            Self::Renter => "renter",
        }
    }
}

impl FromStr for Role {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match text {
            "platform" => Ok(Self::Platform),
            "operator" => Ok(Self::Operator),
            "renter" => Ok(Self::Renter),
            _ => Err(ValidationError::new("role", "must be platform, operator or renter")),
        }
    }
}

/// The SHA-256 of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// The digest of a key as it was presented.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key's name in listings, which tells nothing about it.
    pub id: ApiKeyId,
    /// Under whom its owner's rentals are recorded.
    pub renter: RenterId,
    /// The owner's rights.
    pub role: Role,
    /// The digest that the key itself is recognised by.
    pub digest: KeyDigest,
    /// When it was made.
    pub created_at: Timestamp,
    /// From where its owner may call; from anywhere where there are none.
    pub allowed_ips: Vec<IpNet>,
}

/// A new key, to be shown once. Never printed by `Debug`.
pub struct NewKey {
    /// The record that is kept of the key.
    pub record: KeyRecord,
    key: SecretString,
}

impl NewKey {
    /// Makes up a key of 256 random bits.
    #[must_use]
    pub fn generate(renter: RenterId, role: Role, at: Timestamp) -> Self {
        let secret: [u8; 32] = rand::random();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let key = format!("gpurent_{}", hex(&secret));
        let id = format!("key-{}", hex(&rand::random::<[u8; 8]>()));
        let id = id.parse().unwrap_or_else(|_| unreachable!("{id} is a valid id"));
        let record =
            KeyRecord { id, renter, role, digest: KeyDigest::of(&key), created_at: at, allowed_ips: Vec::new() };
        Self { record, key: key.into() }
    }

    /// A key that is good only for calls from these networks.
    #[must_use]
    pub fn allowed_from(mut self, networks: Vec<IpNet>) -> Self {
        self.record.allowed_ips = networks;
        self
    }

    /// The key in clear, for its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.key.expose_secret()
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.record.id).finish_non_exhaustive()
    }
}

/// Keeps API keys. Beside a [`Store`](crate::store::Store) in the same database, for all hosts in it.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// Keeps a new key.
    async fn add_key(&self, key: &KeyRecord) -> Result<(), StoreError>;

    /// The key with this digest; `None` where there is none, or it was revoked.
    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<KeyRecord>, StoreError>;

    /// All keys, oldest first, at most [`MAX_PAGE`](crate::store::MAX_PAGE).
    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError>;

    /// Forgets a key: whoever presents it is refused from then on. False where there is none.
    async fn revoke_key(&self, id: &ApiKeyId) -> Result<bool, StoreError>;
}
