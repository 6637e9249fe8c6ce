//! An event as `/v1/events` shows it. Secrets are never part of it, and neither is the renter's
//! environment.

use gpurent_core::id::RentalId;
use gpurent_core::model::{JournalEntry, RecordedEvent, RentalEvent};
use gpurent_core::runtime::Progress;
use serde_json::{Value, json};

use crate::v1::view;

/// An entry of the journal.
pub(super) fn entry(public_host: &str, entry: &JournalEntry) -> Value {
    let recorded = &entry.recorded;
    json!({
        "position": entry.position,
        "rental_id": entry.rental,
        "seq": recorded.seq,
        "at": recorded.at,
        "type": recorded.event.name(),
        "data": data(public_host, &recorded.event),
    })
}

/// An event of one rental, without its place in the journal.
pub(super) fn recorded(public_host: &str, recorded: &RecordedEvent) -> Value {
    json!({
        "seq": recorded.seq,
        "at": recorded.at,
        "type": recorded.event.name(),
        "data": data(public_host, &recorded.event),
    })
}

fn data(public_host: &str, event: &RentalEvent) -> Value {
    match event {
        RentalEvent::Claimed(claim) => json!({
            "name": claim.name,
            "renter": claim.spec.renter,
            "gpus": claim.gpus.iter().map(view::gpu).collect::<Vec<_>>(),
            "image": claim.spec.image,
            "ports": claim.ports,
            "duration_seconds": claim.spec.term.duration().map(|duration| duration.as_secs()),
            "due": claim.due,
        }),
        RentalEvent::Pinned { digest } => json!({"image_digest": digest}),
        RentalEvent::Created { container, gpus_attached, image, files, .. } => json!({
            "container_id": container,
            "gpus_attached": gpus_attached,
            "image_digest": image.as_ref().and_then(|image| image.digest.as_ref()),
            "image_built_at": image.as_ref().and_then(|image| image.built_at),
            "image_fetched_at": image.as_ref().and_then(|image| image.fetched_at),
            "files": files,
        }),
        RentalEvent::Started { started_at, .. } => json!({"started_at": started_at}),
        RentalEvent::Relaunched { ports } => json!({"ports": ports}),
        RentalEvent::Verified { paid_from } => json!({"paid_from": paid_from.wall}),
        RentalEvent::Extended { term } => {
            json!({"duration_seconds": term.duration().map(|duration| duration.as_secs())})
        }
        RentalEvent::AccessChanged { credential } => json!({"auth": credential}),
        RentalEvent::SuspendBegan { cause } => json!(view::cause(cause)),
        RentalEvent::Suspended { since, retained } => json!({
            "since": since.wall,
            "files_kept": retained.is_some(),
            "files_bytes": retained.as_ref().and_then(|retained| retained.bytes),
        }),
        RentalEvent::Resumed(given) => json!({
            "gpus": given.gpus.iter().map(view::gpu).collect::<Vec<_>>(),
            "ports": given.ports,
            "due": given.due,
        }),
        RentalEvent::EndBegan { reason } => json!(view::end(reason)),
        RentalEvent::Adopted(found) => json!({
            "container_id": found.container,
            "gpus_attached": found.gpus_attached,
            "ports": found.ports,
            "started_at": found.started_at,
        }),
        RentalEvent::DiskWarned { used, limit } => json!({"used": used, "limit": limit}),
        RentalEvent::ServicesUp { services } => json!({"services": view::services(public_host, services)}),
        RentalEvent::Stopped { exit, .. } => json!({"exit": exit}),
        _ => json!({}),
    }
}

/// How far a pull is; has no position, since it is not kept.
pub(super) fn progress(rental: RentalId, progress: &Progress) -> Value {
    json!({
        "rental_id": rental,
        "type": "progress",
        "data": {
            "current_bytes": progress.current_bytes,
            "total_bytes": progress.total_bytes,
            "status": progress.status,
        },
    })
}

/// An event of a rental in an archive.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes what is put together above")]
pub(crate) struct ArchivedEventSchema {
    /// The event's number within the rental.
    seq: u64,
    #[schema(format = DateTime)]
    at: String,
    /// `claimed`, `started`, `verified`, `ended` and so on.
    r#type: String,
    /// The details of the event; depends on the type.
    data: serde_json::Map<String, Value>,
}

/// An event.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes what is put together above")]
pub(crate) struct EventSchema {
    /// Where it is in the host's journal.
    position: u64,
    #[schema(format = Uuid)]
    rental_id: String,
    /// The event's number within the rental.
    seq: u64,
    #[schema(format = DateTime)]
    at: String,
    /// `claimed`, `started`, `verified`, `ended` and so on.
    r#type: String,
    /// The details of the event; depends on the type.
    data: serde_json::Map<String, Value>,
}
