//! Port ranges and audit entries between their columns and the domain.

use gpurent_core::error::Invalid;
use gpurent_core::model::PortRange;
use gpurent_core::store::{AuditEntry, NumberedEntry, OwnRange, StoreError};

use crate::row::{time, unsigned};

fn corrupt(error: Invalid) -> StoreError {
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

/// number, at, renter, role, key_id, address, action, status
pub(crate) type AuditColumns = (i64, i64, String, String, Option<String>, Option<String>, String, i64);

pub(crate) fn entry(
    (number, at, renter, role, key, address, action, status): AuditColumns,
) -> Result<NumberedEntry, StoreError> {
    let not_an_address = |_| corrupt(Invalid::new("address", "must be an IP address"));
    let entry = AuditEntry {
        at: time(at)?,
        renter: renter.try_into().map_err(corrupt)?,
        role: role.parse().map_err(corrupt)?,
        key: key.map(TryInto::try_into).transpose().map_err(corrupt)?,
        address: address.map(|address| address.parse()).transpose().map_err(not_an_address)?,
        action,
        status: u16::try_from(status).unwrap_or(0),
    };
    Ok(NumberedEntry { number: unsigned(number), entry })
}
