//! A new rental on its way into the store.

use jiff::Timestamp;

use crate::allocation::{Placed, PlacementError};
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

impl NewRental {
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
