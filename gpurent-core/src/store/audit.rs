//! The audit log: kept apart from rentals' own events, which tell what happened and not who asked for it.

use std::net::IpAddr;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ApiKeyId, RenterId};
use crate::store::{Role, StoreError};

/// Something that somebody asked for and that may have changed something. Holds no secret: neither bodies nor keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When it was answered.
    pub at: Timestamp,
    /// The caller.
    pub renter: RenterId,
    /// In which role.
    pub role: Role,
    /// By which key, where they have one.
    pub key: Option<ApiKeyId>,
    /// From where, as far as the connection tells.
    pub address: Option<IpAddr>,
    /// The request: method and path, such as `POST /v1/rentals`.
    pub action: String,
    /// The answer's status.
    pub status: u16,
}

/// An entry and its number, by which older ones are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumberedEntry {
    /// Grows with every entry.
    pub number: u64,
    /// The entry.
    #[serde(flatten)]
    pub entry: AuditEntry,
}

/// How many entries are kept; older ones are dropped with new ones.
pub const MOST_ENTRIES: u64 = 100_000;

/// Keeps who did what. Beside a [`Store`](crate::store::Store) in the same database; an implementation proves itself
/// with [`audit_suite!`](crate::audit_suite).
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Appends entries, and drops what is beyond `most`.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn append(&self, entries: &[AuditEntry], most: u64) -> Result<(), StoreError>;

    /// The newest entries before a number, newest first, at most `limit` (and
    /// [`MAX_PAGE`](crate::store::MAX_PAGE)).
    ///
    /// # Errors
    /// [`StoreError`]
    async fn entries(&self, before: Option<u64>, limit: usize) -> Result<Vec<NumberedEntry>, StoreError>;
}
