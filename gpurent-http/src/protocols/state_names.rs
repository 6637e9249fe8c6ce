//! The names that each protocol has for a rental's state. One table, so that no two of them disagree.
//!
//! | state | `/v1` | `rent` and `instances` WebSocket | `dashboard` | `cloud` |
//! |---|---|---|---|---|
//! | provisioning | `provisioning` | `creating` | `created` | `pending` |
//! | running | `running` | `running` | `running` | `pending` |
//! | ready | `ready` | `ready` | `running` | `running` |
//! | suspending | `suspending` | (nothing) | `stopping` | `running` |
//! | suspended | `suspended` | `live_update` | `exited` | `stopped` |
//! | ending | `stopping` | (nothing) | `removing` | `running` |
//! | ended, expired | `expired` | `expired` | `removed` | `terminated` |
//! | ended, failed | `failed` | `error` | `removed` | `terminated` |
//! | ended otherwise | `terminated` | `terminated` | `removed` | `terminated` |
//!
//! The last three are said only once the container is confirmed gone.

use gpurent_core::model::{EndKind, EndReason, RentalState};

/// The word of `/v1`.
pub(crate) fn v1(state: &RentalState) -> &'static str {
    match state {
        RentalState::Provisioning => "provisioning",
        RentalState::Running => "running",
        RentalState::Ready => "ready",
        RentalState::Suspending { .. } => "suspending",
        RentalState::Suspended { .. } => "suspended",
        RentalState::Ending { .. } => "stopping",
        RentalState::Ended { reason, .. } => reason.kind().as_str(),
    }
}

/// The word of the `rent` WebSocket for an end.
pub(crate) fn rent_end(reason: &EndReason) -> &'static str {
    match reason.kind() {
        EndKind::Failed => "error",
        other => other.as_str(),
    }
}

/// The word of the `dashboard` protocol, which knows Docker's.
pub(crate) fn dashboard(state: &RentalState) -> &'static str {
    match state {
        RentalState::Provisioning => "created",
        RentalState::Running | RentalState::Ready => "running",
        RentalState::Suspending { .. } => "stopping",
        RentalState::Suspended { .. } => "exited",
        RentalState::Ending { .. } => "removing",
        RentalState::Ended { .. } => "removed",
    }
}

/// The word of the `cloud` protocol.
pub(crate) fn cloud(state: &RentalState) -> &'static str {
    match state {
        RentalState::Provisioning | RentalState::Running => "pending",
        RentalState::Ready | RentalState::Suspending { .. } | RentalState::Ending { .. } => "running",
        RentalState::Suspended { .. } => "stopped",
        RentalState::Ended { .. } => "terminated",
    }
}
