//! API keys between their columns and the domain.

use gpurent_core::api_key::{KeyDigest, KeyRecord};
use gpurent_core::invalid::Invalid;
use gpurent_core::store::StoreError;

use crate::row::time;

/// id, renter, role, digest, created_at
pub(crate) type KeyColumns = (String, String, String, Vec<u8>, i64);

pub(crate) fn record((id, renter, role, digest, created_at): KeyColumns) -> Result<KeyRecord, StoreError> {
    let corrupt = |error: Invalid| StoreError::Corrupt(error.into());
    let digest = digest.try_into().map_err(|_| corrupt(Invalid::new("digest", "must be 32 bytes")))?;
    Ok(KeyRecord {
        id: id.try_into().map_err(corrupt)?,
        renter: renter.try_into().map_err(corrupt)?,
        role: role.parse().map_err(corrupt)?,
        digest: KeyDigest(digest),
        created_at: time(created_at)?,
    })
}
