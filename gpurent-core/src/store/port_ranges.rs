//! Ports of a renter's own: a range that is theirs from the first time they rent until it is given back, so that
//! their addresses stay the same from one rental to the next.

use async_trait::async_trait;

use crate::id::{HostId, RenterId};
use crate::model::PortRange;
use crate::store::StoreError;

/// A range, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRange {
    /// The renter.
    pub renter: RenterId,
    /// Which ports.
    pub range: PortRange,
}

/// The outcome for a range that was to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// The range is free for others.
    Yes,
    /// The renter had none.
    NothingThere,
    /// A live rental holds one of its ports, or is to have them again when it is resumed.
    InUse,
}

/// Keeps renters' port ranges. Beside a [`Store`](crate::store::Store) in the same database; an implementation
/// proves itself with [`range_suite!`](crate::range_suite).
#[async_trait]
pub trait RangeStore: Send + Sync + 'static {
    /// The renter's range on a host. Where they have none, the first one of `size` ports in `pool` becomes
    /// theirs that is nobody's; `None` where there is no such.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it may be theirs all the same.
    async fn own_range(
        &self,
        host: &HostId,
        renter: &RenterId,
        pool: &PortRange,
        size: u16,
    ) -> Result<Option<PortRange>, StoreError>;

    /// The renter's range, if they have one.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn range_of(&self, host: &HostId, renter: &RenterId) -> Result<Option<PortRange>, StoreError>;

    /// All ranges of a host in order of their ports, at most [`MAX_PAGE`](crate::store::MAX_PAGE).
    ///
    /// # Errors
    /// [`StoreError`]
    async fn ranges(&self, host: &HostId) -> Result<Vec<OwnRange>, StoreError>;

    /// Gives a range back, unless a live rental holds one of its ports, or one of the renter's has
    /// [`sticky_ports`](crate::model::RentalSpec::sticky_ports).
    ///
    /// # Errors
    /// [`StoreError`]
    async fn give_back(&self, host: &HostId, renter: &RenterId) -> Result<GivenBack, StoreError>;
}
