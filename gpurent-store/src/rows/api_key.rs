//! API keys between their columns and the domain.

use gpurent_core::error::ValidationError;
use gpurent_core::store::{KeyDigest, KeyRecord, StoreError};

use crate::rows::rental::time;

/// id, renter, role, digest, created_at, allowed_ips
pub(crate) type KeyColumns = (String, String, String, Vec<u8>, i64, String);

/// The networks that a key is good from, as one column.
pub(crate) fn networks(key: &KeyRecord) -> String {
    key.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) fn record((id, renter, role, digest, created_at, allowed_ips): KeyColumns) -> Result<KeyRecord, StoreError> {
    let networks = allowed_ips.split(',').filter(|text| !text.is_empty()).map(str::parse);
    let networks: Result<Vec<_>, _> = networks.collect();
    let corrupt = |error: ValidationError| StoreError::Corrupt(error.into());
    let digest = digest.try_into().map_err(|_| corrupt(ValidationError::new("digest", "must be 32 bytes")))?;
    Ok(KeyRecord {
        id: id.try_into().map_err(corrupt)?,
        renter: renter.try_into().map_err(corrupt)?,
        role: role.parse().map_err(corrupt)?,
        digest: KeyDigest(digest),
        created_at: time(created_at)?,
        // A key whose networks cannot be read must not be good from everywhere.
        allowed_ips: networks.map_err(|_| corrupt(ValidationError::new("allowed_ips", "must be networks")))?,
    })
}
