//! Why what was asked of [`Rentals`](crate::host::Rentals) was not done. What the caller can do about it is in the
//! variant.

use crate::allocation::{PlacementError, TooMany};
use crate::error::{BoxError, ValidationError};
use crate::id::{InstanceName, RentalId};
use crate::model::{ImageRef, SealError};
use crate::runtime::RuntimeError;
use crate::store::{ClaimError, DeadlineError, StoreError};

/// Why a rental was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RentError {
    /// There is no place for it: the host has no such GPU, or all are rented, or a port is taken.
    #[error(transparent)]
    NotPlaced(PlacementError),
    /// A live rental of the renter's has this name, and was asked for in another way.
    #[error("the name {0} belongs to another rental that still runs")]
    NameTaken(InstanceName),
    /// The renter used the idempotency key for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The image is being pulled, and nothing was claimed meanwhile: ask again after a few seconds.
    #[error("the image {0} is being pulled: ask again")]
    Pulling(ImageRef),
    /// The image cannot be pulled; the renter has to name another.
    #[error("{0}")]
    Unpullable(String),
    /// The host has no reconciler, so nothing would ever happen.
    #[error("no reconciler runs for this host: spawn the one that came with these rentals")]
    NotReconciled,
    /// The host does not know yet what runs on it, since its store or its engine does not answer: what seems
    /// free may not be. Later.
    #[error("the host cannot tell yet what is free on it")]
    Starting,
    /// The credential could not be sealed.
    #[error("the credential could not be sealed")]
    Seal(#[source] SealError),
    /// The store failed; nothing was done.
    #[error(transparent)]
    Store(StoreError),
    /// The store does not answer, and so does not tell whether the rental was made: ask for it later, or
    /// rent again under the same name, which makes no second one.
    #[error("the store does not answer; rental {id} may or may not have been made")]
    Unconfirmed {
        /// The id that it has if it was made.
        id: RentalId,
        /// Why the store did not answer.
        #[source]
        cause: BoxError,
    },
}

impl From<ClaimError> for RentError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::NotPlaced(why) => Self::NotPlaced(why),
            ClaimError::NameTaken(name) => Self::NameTaken(name),
            ClaimError::KeyReused => Self::KeyReused,
            ClaimError::Store(error) => Self::Store(error),
        }
    }
}

/// Why a rental was not extended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The rental is ending or has ended, or less than one second of its paid time is left.
    #[error("the rental is over")]
    Over,
    /// The rental has no end that could be moved.
    #[error("the rental has no fixed term")]
    OpenEnded,
    /// The new term is longer than any may be, or shorter than the present one.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The new end could not be written down on the host, so that it might not hold; nothing was changed.
    #[error("the new end could not be kept")]
    Unkept(#[from] DeadlineError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a rental's credential was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeAccessError {
    /// The keys that would let in then are none, or too many.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The renter logs in by a password: keys are set all together, in its place.
    #[error("the renter logs in by a password: set keys in its place first")]
    ByPassword,
    /// The rental is ending or has ended.
    #[error("the rental is over")]
    Over,
    /// The stored secrets cannot be opened, or the new ones not be sealed.
    #[error("the credential could not be sealed")]
    Seal(#[source] SealError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a rental's output could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogsError {
    /// The engine does not give it.
    #[error("the container's output cannot be read")]
    Runtime(#[from] RuntimeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a rental was not suspended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendError {
    /// The rental is ending or has ended, or less than one second of its paid time is left.
    #[error("the rental is over")]
    Over,
    /// The renter has as many suspended rentals as one may have.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a suspended rental was not resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The rental is ending or has ended, or less than one second of its paid time is left.
    #[error("the rental is over")]
    Over,
    /// The rental's container is still being taken down; in a moment it can be resumed.
    #[error("the rental is still being suspended")]
    StillSuspending,
    /// There is no place for it now: its GPU was not kept for it.
    #[error(transparent)]
    NotPlaced(#[from] PlacementError),
    /// The host has no reconciler, so nothing would ever happen.
    #[error("no reconciler runs for this host: spawn the one that came with these rentals")]
    NotReconciled,
    /// The host does not know yet what runs on it: what seems free may not be. Later.
    #[error("the host cannot tell yet what is free on it")]
    Starting,
    /// The store failed; after [`StoreError::Unavailable`] it may have been recorded all the same.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nobody was let into a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The host was built without a way into its containers.
    #[error("this host offers no way into its containers")]
    NotSupported,
    /// There is no container that could be entered now.
    #[error("the rental is not ready")]
    NotRunning,
    /// The engine did not do it.
    #[error("the container cannot be entered")]
    Runtime(#[from] RuntimeError),
}
