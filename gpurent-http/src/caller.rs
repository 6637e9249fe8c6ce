//! Callers, and what they may see.

use gpurent_core::host::Rentals;
use gpurent_core::id::{ApiKeyId, RenterId};
use gpurent_core::model::Rental;
use gpurent_core::store::Role;

/// A caller, and what they may see.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Under whom their rentals are recorded.
    pub renter: RenterId,
    /// The caller's role.
    pub role: Role,
    /// The key that they have shown, for the books.
    pub key: Option<ApiKeyId>,
}

impl Caller {
    /// A caller in a role.
    #[must_use]
    pub fn new(renter: RenterId, role: Role) -> Self {
        Self { renter, role, key: None }
    }

    /// Whether they may see and change this rental.
    pub(crate) fn may_see(&self, rental: &Rental) -> bool {
        self.role != Role::Renter || rental.spec().renter == self.renter
    }

    /// Whether they may act for this renter.
    pub(crate) fn may_act_for(&self, renter: &RenterId) -> bool {
        self.role != Role::Renter || self.renter == *renter
    }

    /// The handle for what they ask: a renter's limits are not a platform's, who has many customers.
    pub(crate) fn within_their_limits(&self, rentals: &Rentals) -> Rentals {
        if self.role == Role::Renter { rentals.clone() } else { rentals.for_a_platform() }
    }

    /// Whether they may see and change what belongs to the machine.
    pub(crate) fn runs_the_machine(&self) -> bool {
        self.role == Role::Operator
    }

    /// The renter whose rentals they see; `None` means everybody's.
    pub(crate) fn scope(&self) -> Option<RenterId> {
        (self.role == Role::Renter).then(|| self.renter.clone())
    }
}
