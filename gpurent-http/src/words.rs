//! What each surface calls a rental's state. One table, so that no two surfaces disagree.
//!
//! | state | `/v1` | `rent` WebSocket |
//! |---|---|---|
//! | provisioning | `provisioning` | `creating` |
//! | running | `running` | `running` |
//! | ready | `ready` | `ready` |
//! | ending | `stopping` | (nothing) |
//! | ended, expired | `expired` | `expired` |
//! | ended, failed | `failed` | `error` |
//! | ended otherwise | `terminated` | `terminated` |
//!
//! The last three are said only once the container is confirmed gone.

use gpurent_core::lifecycle::{EndReason, State};

/// The word of `/v1`.
pub(crate) fn v1(state: &State) -> &'static str {
    match state {
        State::Provisioning => "provisioning",
        State::Running => "running",
        State::Ready => "ready",
        State::Ending { .. } => "stopping",
        State::Ended { reason, .. } => match reason {
            EndReason::Expired => "expired",
            EndReason::Failed(_) => "failed",
            _ => "terminated",
        },
    }
}

/// The word of the `rent` WebSocket for an end.
pub(crate) fn rent_end(reason: &EndReason) -> &'static str {
    match reason {
        EndReason::Expired => "expired",
        EndReason::Failed(_) => "error",
        _ => "terminated",
    }
}
