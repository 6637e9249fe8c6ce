//! `/v1/rentals/{id}/access`: how to log in, and how from now on. The only place of `/v1` where a secret
//! is told.

use axum::extract::{Path, State};
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::access::Credential;
use gpurent_core::rental::Rental;
use gpurent_core::rentals::Rentals;
use serde_json::json;

use super::find;
use super::request::{Auth, credential};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::problem::Problem;
use crate::words;

pub(super) async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let rental = find(&rentals, &caller, &id).await?;
    tell(&rentals, &rental).await
}

/// Replaces the credential: by a password, a key, or, with neither, a password that is made up. `pending`
/// is true until the container lets in by it.
pub(super) async fn change(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Auth>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let wanted = credential(body?)?;
    let rental = rentals.change_access(id, wanted).await?.ok_or_else(Problem::not_found)?;
    tell(&rentals, &rental).await
}

async fn tell(rentals: &Rentals, rental: &Rental) -> Result<Response, Problem> {
    let access = rentals.access(rental).await?.ok_or_else(Problem::not_found)?;
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
        "pending": rental.access_outdated(),
        "state": words::v1(rental.state()),
    });
    Ok(([(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}
