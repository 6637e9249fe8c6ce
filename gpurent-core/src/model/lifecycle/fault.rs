//! The party at fault for an end.

use serde::{Deserialize, Serialize};

/// The party that has to do something about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// No one: the rental ended as agreed.
    Nobody,
    /// The renter: the same request would end the same way.
    Renter,
    /// The host: another host, or this one later, may do better.
    Host,
}
