//! What each surface calls a rental's state. One table, so that no two surfaces disagree.
//!
//! | state | `/v1` | `rent` WebSocket |
//! |---|---|---|
//! | provisioning | `provisioning` | `creating` |
//! | running | `running` | `running` |
//! | ready | `ready` | `ready` |
//! | suspending | `suspending` | (nothing) |
//! | suspended | `suspended` | `live_update` |
//! | ending | `stopping` | (nothing) |
//! | ended, expired | `expired` | `expired` |
//! | ended, failed | `failed` | `error` |
//! | ended otherwise | `terminated` | `terminated` |
//!
//! The last three are said only once the container is confirmed gone.

use gpurent_core::lifecycle::{EndKind, EndReason, State};

/// The word of `/v1`.
pub(crate) fn v1(state: &State) -> &'static str {
    match state {
        State::Provisioning => "provisioning",
        State::Running => "running",
        State::Ready => "ready",
        State::Suspending { .. } => "suspending",
        State::Suspended { .. } => "suspended",
        State::Ending { .. } => "stopping",
        State::Ended { reason, .. } => reason.kind().as_str(),
    }
}

/// The word of the `rent` WebSocket for an end.
pub(crate) fn rent_end(reason: &EndReason) -> &'static str {
    match reason.kind() {
        EndKind::Failed => "error",
        other => other.as_str(),
    }
}
