//! Our own API, version 1.
//!
//! | route | |
//! |---|---|
//! | `POST /v1/rentals` | rent |
//! | `GET /v1/rentals` | list, newest first: `?limit=&after=&phase=` |
//! | `GET /v1/rentals/{id}` | one rental, with its bill |
//! | `GET /v1/rentals/{id}/access` | how to log in |
//! | `DELETE /v1/rentals/{id}` | end it |

mod request;
mod view;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use gpurent_core::access::Credential;
use gpurent_core::id::RentalId;
use gpurent_core::invalid::Invalid;
use gpurent_core::lifecycle::Phase;
use gpurent_core::rental::Rental;
use gpurent_core::rentals::Rentals;
use gpurent_core::store::{Claimed, Filter};
use serde::Deserialize;
use serde_json::json;

use crate::auth::Caller;
use crate::body::JsonBody;
use crate::problem::Problem;
use request::CreateRental;

/// The routes, to be mounted anywhere.
pub fn router() -> Router<Rentals> {
    Router::new()
        .route("/v1/rentals", post(create).get(list))
        .route("/v1/rentals/{id}", get(show).delete(end))
        .route("/v1/rentals/{id}/access", get(access))
}

async fn create(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<CreateRental>,
) -> Result<Response, Problem> {
    let request = body?.into_request(caller.renter)?;
    let claimed = rentals.rent(request).await?;
    let status = match &claimed {
        Claimed::New(_) => StatusCode::CREATED,
        Claimed::Existing(_) => StatusCode::OK,
    };
    let rental = claimed.rental();
    let location = [(LOCATION, format!("/v1/rentals/{}", rental.id()))];
    Ok((status, location, Json(view::rental(&rentals, rental))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
    phase: Option<Phase>,
}

async fn list(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| Invalid::new("query", "takes limit, after and phase"))?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(Invalid::new("limit", "must be 1 to 200").into());
    }
    let after = query.after.map(|id| id.parse::<RentalId>().map_err(|error| error.named("after"))).transpose()?;
    let filter = Filter { renter: caller.scope(), phases: query.phase.into_iter().collect() };
    let page = rentals.list(&filter, after, limit).await?;
    let next = (page.len() == limit).then(|| page.last().map(Rental::id)).flatten();
    let views: Vec<_> = page.iter().map(|rental| view::rental(&rentals, rental)).collect();
    Ok(Json(json!({"rentals": views, "next": next})).into_response())
}

/// A rental that the caller may see; any other does not exist for them.
async fn find(rentals: &Rentals, caller: &Caller, id: &str) -> Result<Rental, Problem> {
    let id = id.parse::<RentalId>().map_err(|_| Problem::not_found())?;
    rentals.get(id).await?.filter(|rental| caller.may_see(rental)).ok_or_else(Problem::not_found)
}

async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let rental = find(&rentals, &caller, &id).await?;
    Ok(Json(view::rental(&rentals, &rental)).into_response())
}

async fn access(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let rental = find(&rentals, &caller, &id).await?;
    let access = rentals.access(&rental).await?.ok_or_else(Problem::not_found)?;
    let (password, ssh_key) = match &access.credential {
        Some(Credential::Password(password)) => (Some(password.expose()), None),
        Some(Credential::PublicKey(key)) => (None, Some(key.as_str())),
        None => (None, None),
    };
    let body = json!({
        "host": access.host,
        "port": access.port,
        "user": access.user,
        "auth": access.kind,
        "password": password,
        "ssh_key": ssh_key,
        "ssh_command": access.ssh_command(),
        "state": crate::words::v1(rental.state()),
    });
    Ok(([(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

async fn end(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let rental = rentals.cancel(id).await?.ok_or_else(Problem::not_found)?;
    let status = if rental.is_live() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(view::rental(&rentals, &rental))).into_response())
}
