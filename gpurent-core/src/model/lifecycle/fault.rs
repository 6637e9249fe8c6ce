//! Whose fault an end is.

use serde::{Deserialize, Serialize};

/// Who has to do something about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nobody: it ended as agreed.
    Nobody,
    /// The renter: the same request would end the same way.
    Renter,
    /// The host: another host, or this one later, may do better.
    Host,
}
