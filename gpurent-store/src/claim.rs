//! The decision on a claim, once it is known what is held and what was asked for before. The same for
//! every database.

use gpurent_core::allocation::{Holds, Placed, Placement, PlacementError, RenterHas};
use gpurent_core::model::lifecycle::BY_THE_HOST;
use gpurent_core::model::{FailureKind, Rental};
use gpurent_core::store::{ClaimError, NewRental};
use sqlx::types::Json;

/// A rental that was asked for before, and the fingerprint of how.
pub(crate) type Asked = (Rental, Vec<u8>);

/// The facts that a claim looks at.
pub(crate) struct ClaimSnapshot {
    pub(crate) held: Holds,
    /// The sums of what the renter has.
    pub(crate) has: RenterHas,
    /// The live rental of the same name.
    pub(crate) same_name: Option<Asked>,
    /// The rental that the same key made.
    pub(crate) same_key: Option<Asked>,
}

/// The decision.
pub(crate) enum Decision {
    /// Nothing: the request made this rental before.
    Existing(Box<Rental>),
    /// Write it, in this place.
    Write(Placed),
}

pub(crate) fn decide(look: ClaimSnapshot, new: &NewRental, placement: &Placement) -> Result<Decision, ClaimError> {
    let is_same = |fingerprint: &[u8]| fingerprint == new.fingerprint.0.as_slice();
    if let Some((made, fingerprint)) = look.same_key {
        return if is_same(&fingerprint) { Ok(Decision::Existing(Box::new(made))) } else { Err(ClaimError::KeyReused) };
    }
    if let Some((live, fingerprint)) = look.same_name {
        let goes_on = live.state().end_reason().is_none();
        return if new.key.is_none() && is_same(&fingerprint) && goes_on {
            Ok(Decision::Existing(Box::new(live)))
        } else {
            Err(ClaimError::NameTaken(new.name.clone()))
        };
    }
    placement.renter_limits.allow(&look.has, &new.spec).map_err(PlacementError::from)?;
    Ok(Decision::Write(placement.place(new.launch(), &new.spec, &look.held)?))
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
