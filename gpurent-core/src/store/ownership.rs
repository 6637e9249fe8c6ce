//! Which process acts for a host.

use crate::id::{Epoch, Position};

/// The ownership of a host, held by the process that took it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOwnership {
    /// Fences off everybody who held the host before.
    pub epoch: Epoch,
    /// The last position in the host's journal.
    pub last_position: Position,
}
