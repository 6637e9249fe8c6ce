//! Which GPUs and ports a rental gets: the policy that every store applies inside its claim.
//!
//! A [`Placement`] asks the [`Allocator`] for GPUs and the [`PortPools`] for ports, out of what is neither [held](Holds) nor
//! in [`Quarantine`], and keeps to the limits of machine, disk and renter.

pub mod allocator;
pub mod capacity;
pub mod disk_limit;
pub mod disk_probe;
pub mod division;
pub mod holds;
pub mod placement;
pub mod port_pools;
pub mod quarantine;
pub mod renter_limits;

pub use allocator::{AllocationRequest, Allocator, BestFit};
pub use capacity::Capacity;
pub use disk_limit::{Allowed, Before, DiskLimit, DiskRoom, Verdict, Written};
pub use disk_probe::{DiskProbe, NoDiskProbe};
pub use division::{Division, Part};
pub use holds::Holds;
pub use placement::{Placed, Placement, PlacementError};
pub use port_pools::{NoPortProbe, PortError, PortPools, PortProbe};
pub use quarantine::Quarantine;
pub use renter_limits::{RenterHas, RenterLimits, TooMany};
