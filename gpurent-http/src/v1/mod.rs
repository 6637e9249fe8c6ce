//! Our own API, version 1.
//!
//! | route | |
//! |---|---|
//! | `POST /v1/rentals` | rent; with `Idempotency-Key`, at most once |
//! | `GET /v1/rentals` | list, newest first: `?limit=&after=&state=&name=&renter=&label=` |
//! | `GET /v1/rentals/{id}` | one rental, with its bill |
//! | `DELETE /v1/rentals/{id}` | end it |
//! | `POST /v1/rentals/{id}/extend` | make its paid time longer, `by` or `to` a duration |
//! | `POST /v1/rentals/{id}/suspend` | stop paying: its container goes, its GPU is free for others |
//! | `POST /v1/rentals/{id}/resume` | go on, where there is a GPU |
//! | `GET /v1/rentals/{id}/access` | how to log in |
//! | `PUT /v1/rentals/{id}/access` | log in another way from now on |
//! | `GET /v1/rentals/{id}/logs` | its program's last lines: `?tail=`; with `?follow=true`, then whatever comes |
//! | `GET /v1/rentals/{id}/terminal` | a shell on a WebSocket |
//! | `GET /v1/events` | what happens: WebSocket, server-sent events, or pages; `?after=&rental=` |
//! | `GET /v1/gpus` | this host's GPUs, and which are free |
//! | `GET /v1/audit` | who did what, for operators |
//! | `GET /v1/archive` | rentals that ended before `?ended_before=`, for operators |
//! | `POST /v1/archive/deletions` | delete those that were exported, for operators |
//! | `GET /v1/openapi.json`, `/v1/docs` | all of this, for programs and for people |
//!
//! Errors are problem details (RFC 9457) with stable types. What shows a rental has its revision as `ETag`; changes with
//! `If-Match` are made of that revision alone.

mod access;
mod archive;
mod audit;
mod docs;
mod etag;
mod event;
mod event_cache;
mod events;
mod gpus;
mod log_stream;
mod rentals;
mod request;
mod terminal;
mod view;

use std::sync::Arc;

pub use archive::archived;
use axum::Router;
use axum::extract::FromRef;
use gpurent_core::host::Rentals;
use gpurent_core::id::RentalId;
use gpurent_core::model::Rental;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::health;
use crate::problem::Problem;
use crate::protocol::Protocol;
use crate::state::{AppState, Own};
use crate::v1::docs::Refusals;
use crate::v1::event_cache::EventCache;

/// The state that `/v1` alone has.
#[derive(Clone, Default)]
pub(crate) struct V1 {
    /// Events as they are sent.
    events: Arc<EventCache>,
    reserved: Reserved,
}

/// The beginnings of labels that say by which protocol a rental was made: no renter sets such.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved(pub(crate) Arc<[&'static str]>);

impl FromRef<Own<V1>> for Arc<EventCache> {
    fn from_ref(state: &Own<V1>) -> Self {
        Self::clone(&state.own.events)
    }
}

impl FromRef<Own<V1>> for Reserved {
    fn from_ref(state: &Own<V1>) -> Self {
        state.own.reserved.clone()
    }
}

/// The protocol, as a host speaks it that has set these labels aside.
pub(crate) fn protocol(state: &AppState, reserved: Reserved) -> Protocol {
    let (routes, sockets, _) = described_routes();
    let state = state.own(V1 { events: Arc::default(), reserved });
    Protocol::new(routes.with_state(state.clone()))
        .with_sockets(sockets.with_state(state))
        .revealing(|path| path.ends_with("/access") || path.ends_with("/terminal"))
}

/// The routes of `/v1`, those that are or may be WebSockets or streams, and the description of both and of every other route
/// that a host may have.
fn described_routes() -> (Router<Own<V1>>, Router<Own<V1>>, OpenApi) {
    let (routes, mut document) = OpenApiRouter::with_openapi(docs::skeleton())
        .routes(routes!(rentals::create, rentals::list))
        .routes(routes!(rentals::show, rentals::end))
        .routes(routes!(rentals::extend))
        .routes(routes!(rentals::suspend))
        .routes(routes!(rentals::resume))
        .routes(routes!(access::show, access::change))
        .routes(routes!(access::add_key, access::remove_key))
        .routes(routes!(gpus::list))
        .routes(routes!(audit::list))
        .routes(routes!(archive::export))
        .routes(routes!(archive::delete))
        .split_for_parts();
    let (sockets, more) = OpenApiRouter::new()
        .routes(routes!(rentals::logs))
        .routes(routes!(terminal::terminal))
        .routes(routes!(events::events))
        .split_for_parts();
    let of_others = [
        docs::routes().into_openapi(),
        health::routes().into_openapi(),
        #[cfg(any(feature = "instances", feature = "rent"))]
        crate::protocols::updates::routes().into_openapi(),
        #[cfg(feature = "rent")]
        crate::protocols::rent::routes().into_openapi(),
        #[cfg(feature = "instances")]
        crate::protocols::instances::routes().into_openapi(),
        #[cfg(feature = "dashboard")]
        crate::protocols::dashboard::routes().into_openapi(),
        #[cfg(feature = "dashboard")]
        crate::protocols::dashboard::open_routes().into_openapi(),
        #[cfg(feature = "cloud")]
        crate::protocols::cloud::routes().into_openapi(),
    ];
    document.merge(more);
    of_others.into_iter().for_each(|more| document.merge(more));
    (routes, sockets, document)
}

/// The routes that are open to everybody: the description.
pub(crate) fn open_routes() -> Router {
    docs::routes().into()
}

fn described() -> OpenApi {
    described_routes().2
}

/// The description of `/v1`, and of the other protocols' routes, as OpenAPI 3.1 in JSON. A host has those of them that are on.
#[must_use]
pub fn openapi() -> &'static str {
    docs::document()
}

/// A rental that the caller may see; any other does not exist for them.
async fn find(rentals: &Rentals, caller: &Caller, id: &str) -> Result<Rental, Problem> {
    let id = id.parse::<RentalId>().map_err(|_| Problem::not_found())?;
    rentals.get(id).await?.filter(|rental| caller.may_see(rental)).ok_or_else(Problem::not_found)
}
