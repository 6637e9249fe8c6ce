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
//! | `GET /v1/rentals/{id}/logs` | its program's last lines: `?tail=` |
//! | `GET /v1/events` | what happens: WebSocket, server-sent events, or pages; `?after=&rental=` |
//! | `GET /v1/gpus` | this host's GPUs, and which are free |
//!
//! Errors are problem details (RFC 9457) with stable types.

mod access;
mod event;
mod events;
mod gpus;
mod rentals;
mod request;
mod view;

use axum::Router;
use axum::routing::{get, post};
use gpurent_core::id::RentalId;
use gpurent_core::rental::Rental;
use gpurent_core::rentals::Rentals;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::surfaces::Surfaces;

pub(crate) fn router() -> Router<Surfaces> {
    Router::new()
        .route("/v1/rentals", post(rentals::create).get(rentals::list))
        .route("/v1/rentals/{id}", get(rentals::show).delete(rentals::end))
        .route("/v1/rentals/{id}/extend", post(rentals::extend))
        .route("/v1/rentals/{id}/suspend", post(rentals::suspend))
        .route("/v1/rentals/{id}/resume", post(rentals::resume))
        .route("/v1/rentals/{id}/access", get(access::show).put(access::change))
        .route("/v1/rentals/{id}/logs", get(rentals::logs))
        .route("/v1/events", get(events::events))
        .route("/v1/gpus", get(gpus::list))
}

/// A rental that the caller may see; any other does not exist for them.
async fn find(rentals: &Rentals, caller: &Caller, id: &str) -> Result<Rental, Problem> {
    let id = id.parse::<RentalId>().map_err(|_| Problem::not_found())?;
    rentals.get(id).await?.filter(|rental| caller.may_see(rental)).ok_or_else(Problem::not_found)
}
