//! The columns that both databases read for a claim, in the form that core's decision takes.

use gpurent_core::allocation::RenterHas;
use gpurent_core::model::lifecycle::BY_THE_HOST;
use gpurent_core::model::{FailureKind, Fingerprint, Rental};
use gpurent_core::store::{PriorRequest, StoreError};
use sqlx::types::Json;

/// A rental that was made before, of its columns.
pub(crate) fn prior((Json(rental), fingerprint): (Json<Rental>, Vec<u8>)) -> Result<PriorRequest, StoreError> {
    let fingerprint = fingerprint.try_into().map(Fingerprint);
    let fingerprint = fingerprint
        .map_err(|bytes: Vec<u8>| StoreError::Corrupt(format!("a fingerprint of {} bytes", bytes.len()).into()))?;
    Ok(PriorRequest { rental, fingerprint })
}

/// Rentals, those of them that are on their way up, suspended ones, those that came to nothing lately, GPUs: as databases
/// count them.
pub(crate) type Counts = (i64, i64, i64, i64, i64);

pub(crate) fn counted((live, unready, suspended, in_vain, gpus): Counts) -> RenterHas {
    let count = |counted: i64| u32::try_from(counted).unwrap_or(u32::MAX);
    RenterHas {
        live: count(live),
        unready: count(unready),
        suspended: count(suspended),
        in_vain: count(in_vain),
        gpus: count(gpus),
    }
}

/// The kinds of failures that count against no renter, as an array of the words that bodies have for them.
pub(crate) const NOT_IN_VAIN: Json<[FailureKind; 3]> = Json(BY_THE_HOST);
