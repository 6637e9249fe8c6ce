//! An event as `/v1/events` shows it. Secrets are never part of it, and neither is the renter's
//! environment.

use gpurent_core::id::RentalId;
use gpurent_core::model::{Event, JournalEntry, Recorded};
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
pub(super) fn recorded(public_host: &str, recorded: &Recorded) -> Value {
    json!({
        "seq": recorded.seq,
        "at": recorded.at,
        "type": recorded.event.name(),
        "data": data(public_host, &recorded.event),
    })
}

fn data(public_host: &str, event: &Event) -> Value {
    match event {
        Event::Claimed(claim) => json!({
            "name": claim.name,
            "renter": claim.spec.renter,
            "gpus": claim.gpus.iter().map(view::gpu).collect::<Vec<_>>(),
            "image": claim.spec.image,
            "ports": claim.ports,
            "duration_seconds": claim.spec.term.duration().map(|duration| duration.as_secs()),
            "due": claim.due,
        }),
        Event::Pinned { digest } => json!({"image_digest": digest}),
        Event::Created { container, gpus_attached, image, files, .. } => json!({
            "container_id": container,
            "gpus_attached": gpus_attached,
            "image_digest": image.as_ref().and_then(|image| image.digest.as_ref()),
            "image_built_at": image.as_ref().and_then(|image| image.built_at),
            "image_fetched_at": image.as_ref().and_then(|image| image.fetched_at),
            "files": files,
        }),
        Event::Started { started_at, .. } => json!({"started_at": started_at}),
        Event::Relaunched { ports } => json!({"ports": ports}),
        Event::Verified { paid_from } => json!({"paid_from": paid_from.wall}),
        Event::Extended { term } => {
            json!({"duration_seconds": term.duration().map(|duration| duration.as_secs())})
        }
        Event::AccessChanged { credential } => json!({"auth": credential}),
        Event::SuspendBegan { cause } => json!(view::cause(cause)),
        Event::Suspended { since, retained } => json!({
            "since": since.wall,
            "files_kept": retained.is_some(),
            "files_bytes": retained.as_ref().and_then(|retained| retained.bytes),
        }),
        Event::Resumed(given) => json!({
            "gpus": given.gpus.iter().map(view::gpu).collect::<Vec<_>>(),
            "ports": given.ports,
            "due": given.due,
        }),
        Event::EndBegan { reason } => json!(view::end(reason)),
        Event::Adopted(found) => json!({
            "container_id": found.container,
            "gpus_attached": found.gpus_attached,
            "ports": found.ports,
            "started_at": found.started_at,
        }),
        Event::DiskWarned { used, limit } => json!({"used": used, "limit": limit}),
        Event::ServicesUp { services } => json!({"services": view::services(public_host, services)}),
        Event::Stopped { exit, .. } => json!({"exit": exit}),
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
