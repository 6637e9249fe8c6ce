//! `ETag` and `If-Match` (RFC 9110, sections 8.8.3 and 13.1.1): a rental's revision, and changes only of that one.

use axum::http::HeaderMap;
use axum::http::header::{ETAG, HeaderName, IF_MATCH};
use gpurent_core::error::ValidationError;
use gpurent_core::host::{Rentals, ToRefusal};
use gpurent_core::id::Revision;
use gpurent_core::model::Rental;
use gpurent_core::store::StoreError;

use crate::problem::Problem;

/// The header that names what the answer shows.
pub(super) fn etag(rental: &Rental) -> [(HeaderName, String); 1] {
    [(ETAG, format!("\"{}\"", rental.revision()))]
}

/// The revision that may be changed, and whether the caller minds which it is.
pub(super) struct Precondition {
    pub(super) rentals: Rentals,
    is_given: bool,
}

/// Reads `If-Match`.
pub(super) fn precondition(rentals: &Rentals, headers: &HeaderMap) -> Result<Precondition, Problem> {
    let Some(value) = headers.get(IF_MATCH) else {
        return Ok(Precondition { rentals: rentals.clone(), is_given: false });
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Precondition { rentals: rentals.clone(), is_given: false });
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map(str::parse);
    match number {
        Some(Ok(number)) => Ok(Precondition { rentals: rentals.only_at(Revision::new(number)), is_given: true }),
        _ => Err(ValidationError::new("If-Match", "must be an ETag of this rental").into()),
    }
}

impl Precondition {
    /// The answer to a change that came to this.
    pub(super) fn judge<T, E: ToRefusal + 'static>(&self, changed: Result<Option<T>, E>) -> Result<T, Problem> {
        match changed {
            Ok(changed) => changed.ok_or_else(Problem::not_found),
            Err(error) if self.is_given && matches!(error.store_error(), Some(StoreError::Conflict)) => {
                Err(Problem::precondition_failed())
            }
            Err(error) => Err(error.into()),
        }
    }
}
