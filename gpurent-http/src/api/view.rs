//! A rental as `/v1` shows it. Secrets are never part of it.

use gpurent_core::gpu::Gpu;
use gpurent_core::lifecycle::{EndReason, State};
use gpurent_core::rental::Rental;
use gpurent_core::rentals::Rentals;
use serde_json::{Value, json};

use crate::words;

/// A GPU.
pub(crate) fn gpu(gpu: &Gpu) -> Value {
    json!({
        "uuid": gpu.uuid,
        "index": gpu.index,
        "model": gpu.model,
        "memory_mib": gpu.memory_mib,
        "simulated": gpu.simulated,
    })
}

/// The rental, with its bill as it stands.
pub(crate) fn rental(rentals: &Rentals, rental: &Rental) -> Value {
    let now = rentals.now().wall;
    let spec = rental.spec();
    let gpus: Vec<_> = rental.gpus().iter().map(gpu).collect();
    let ended_at = match rental.state() {
        State::Ended { at, .. } => Some(at),
        _ => None,
    };
    json!({
        "id": rental.id(),
        "name": rental.name(),
        "renter": spec.renter,
        "state": words::v1(rental.state()),
        "end": rental.state().end_reason().map(end),
        "gpus": gpus,
        "gpus_attached": rental.gpus_attached(),
        "image": spec.image,
        "image_digest": rental.pinned(),
        "duration_seconds": spec.term.duration().map(|duration| duration.as_secs()),
        "user": spec.login,
        "auth": rental.credential(),
        "ports": rental.ports(),
        "labels": spec.labels,
        "container_id": rental.container(),
        "attempt": rental.attempt(),
        "revision": rental.revision(),
        "created_at": rental.created_at(),
        "started_at": rental.started_at(),
        "expires_at": rental.expires_at(),
        "ended_at": ended_at,
        "exit": rental.exit(),
        "segments": rental.segments(),
        "bill": rental.bill(now),
    })
}

pub(crate) fn end(reason: &EndReason) -> Value {
    let failure = match reason {
        EndReason::Failed(failure) => json!({"kind": failure.kind, "log_tail": failure.log_tail}),
        _ => Value::Null,
    };
    json!({
        "message": reason.describe(),
        "fault": reason.fault(),
        "retryable": reason.retryable(),
        "failure": failure,
    })
}
