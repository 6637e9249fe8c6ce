//! A new rental on its way into the store.

use jiff::Timestamp;

use crate::allocation::{Holds, Placed, Placement, PlacementError, RenterHas};
use crate::clock::Moment;
use crate::id::{Attempt, HostId, IdempotencyKey, InstanceName, LaunchId, RentalId};
use crate::model::{Claim, CredentialKind, Fingerprint, RecordedEvent, Rental, RentalSpec, Sealed};
use crate::store::StoreError;

/// A rental that is to be placed.
#[derive(Clone, Debug)]
pub struct NewRental {
    /// The rental's id.
    pub id: RentalId,
    /// The rental's host.
    pub host: HostId,
    /// The rental's name.
    pub name: InstanceName,
    /// The rental's specification.
    pub spec: RentalSpec,
    /// How its renter gets in.
    pub credential: CredentialKind,
    /// The credential itself, sealed.
    pub sealed: Sealed,
    /// The fingerprint that tells the same request from another under the same name or key.
    pub fingerprint: Fingerprint,
    /// The renter's own key for this request. If set, only this key identifies a repeated request; an equal name does not.
    pub key: Option<IdempotencyKey>,
    /// Until when it has to have started.
    pub due: Timestamp,
    /// Now.
    pub at: Moment,
}

/// A rental that was made before, and how it was asked for.
#[derive(Clone, Debug)]
pub struct PriorRequest {
    /// The rental.
    pub rental: Rental,
    /// The fingerprint of its request.
    pub fingerprint: Fingerprint,
}

/// The stored facts that decide on a claim, all read in the transaction that writes it, or guarded by constraints until then.
#[derive(Clone, Debug)]
pub struct ClaimSnapshot {
    /// The resources that the host's live rentals hold.
    pub held: Holds,
    /// The sums of what the renter has.
    pub has: RenterHas,
    /// The renter's rental that the same key made, live or ended.
    pub same_key: Option<PriorRequest>,
    /// The renter's live rental of the same name.
    pub same_name: Option<PriorRequest>,
}

/// The decision on a claim.
#[derive(Clone, Debug)]
pub enum ClaimDecision {
    /// Nothing is to be written: the same request made this rental before.
    Existing(Box<Rental>),
    /// The rental is to be written, in this place.
    Place(Placed),
}

impl NewRental {
    /// Decides what a claim comes to: what a key and a name mean is the same in every store.
    ///
    /// A key identifies a request for ever; without one, the name does while its rental lives and is not ending.
    ///
    /// # Errors
    /// [`ClaimError`]: nothing is to be written.
    pub fn decide(&self, snapshot: ClaimSnapshot, placement: &Placement) -> Result<ClaimDecision, ClaimError> {
        if let Some(prior) = snapshot.same_key {
            return if prior.fingerprint == self.fingerprint {
                Ok(ClaimDecision::Existing(Box::new(prior.rental)))
            } else {
                Err(ClaimError::KeyReused)
            };
        }
        if let Some(prior) = snapshot.same_name {
            let is_same = self.key.is_none() && prior.fingerprint == self.fingerprint;
            return if is_same && prior.rental.state().end_reason().is_none() {
                Ok(ClaimDecision::Existing(Box::new(prior.rental)))
            } else {
                Err(ClaimError::NameTaken(self.name.clone()))
            };
        }
        placement.renter_limits.allow(&snapshot.has, &self.spec).map_err(PlacementError::from)?;
        Ok(ClaimDecision::Place(placement.place(self.launch(), &self.spec, &snapshot.held)?))
    }

    /// The rental's first launch.
    #[must_use]
    pub fn launch(&self) -> LaunchId {
        LaunchId { rental: self.id, attempt: Attempt::new(1) }
    }

    /// The rental and its first event, once it has a place.
    #[must_use]
    pub fn settle(&self, placed: Placed) -> (Rental, RecordedEvent) {
        let claim = Claim {
            id: self.id,
            host: self.host.clone(),
            name: self.name.clone(),
            spec: self.spec.clone(),
            credential: self.credential,
            gpus: placed.gpus,
            ports: placed.ports,
            quote: placed.quote,
            due: self.due,
            at: self.at.clone(),
            used: jiff::SignedDuration::ZERO,
        };
        Rental::from_claim(claim, self.at.wall)
    }
}

/// The outcome of a claim.
#[derive(Clone, Debug)]
pub enum ClaimOutcome {
    /// The rental was made.
    New(Rental),
    /// The same request was made before: under the same key, or, without one, under the same name by a
    /// rental that lives and is not ending.
    Existing(Rental),
}

impl ClaimOutcome {
    /// The rental, new or not.
    #[must_use]
    pub fn rental(&self) -> &Rental {
        match self {
            Self::New(rental) | Self::Existing(rental) => rental,
        }
    }
}

/// Why a claim came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// There is no place for it.
    #[error(transparent)]
    NotPlaced(#[from] PlacementError),
    /// A live rental of the renter's has this name, and was asked for in another way or is just ending.
    #[error("the name {0} belongs to another rental that still runs")]
    NameTaken(InstanceName),
    /// The renter used this key for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
