//! A renter's range of ports as both databases keep it.

use gpurent_core::error::ValidationError;
use gpurent_core::model::PortRange;
use gpurent_core::store::{OwnRange, StoreError};

pub(super) fn corrupt(error: ValidationError) -> StoreError {
    StoreError::Corrupt(error.into())
}

/// first_port, last_port
pub(crate) fn range((first, last): (i64, i64)) -> Result<PortRange, StoreError> {
    format!("{first}-{last}").parse().map_err(corrupt)
}

/// renter, first_port, last_port
pub(crate) fn own_range((renter, first, last): (String, i64, i64)) -> Result<OwnRange, StoreError> {
    Ok(OwnRange { renter: renter.try_into().map_err(corrupt)?, range: range((first, last))? })
}
