//! Port ranges and audit entries between their columns and the domain.

use gpurent_core::error::ValidationError;
use gpurent_core::store::{AuditEntry, NumberedEntry, StoreError};

use crate::rows::port_range::corrupt;
use crate::rows::rental::{time, unsigned};

/// number, at, renter, role, key_id, address, action, status
pub(crate) type AuditColumns = (i64, i64, String, String, Option<String>, Option<String>, String, i64);

pub(crate) fn entry(
    (number, at, renter, role, key, address, action, status): AuditColumns,
) -> Result<NumberedEntry, StoreError> {
    let not_an_address = |_| corrupt(ValidationError::new("address", "must be an IP address"));
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
