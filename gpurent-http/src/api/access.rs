//! `/v1/rentals/{id}/access`: how to log in, and how from now on. The only place of `/v1` where a secret
//! is told.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::access::{Credential, CredentialKind, LoginUser};
use gpurent_core::port::HostPort;
use gpurent_core::rental::Rental;
use gpurent_core::rentals::{ChangeAccessError, Rentals};
use serde::Serialize;
use utoipa::ToSchema;

use super::precondition::{etag, precondition};
use super::request::{Auth, credential};
use super::view::CredentialSchema;
use super::{Refusals, find};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::problem::Problem;
use crate::words;

/// Tells how to log in
///
/// The only place of this API where a secret is told.
#[utoipa::path(
    get, path = "/v1/rentals/{id}/access", tag = "rentals", params(("id" = String, Path, format = Uuid)),
    responses((status = 200, body = AccessView<'static>), Refusals)
)]
pub(super) async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let rental = find(&rentals, &caller, &id).await?;
    tell(&rentals, &rental).await
}

/// Replaces the credential
///
/// By a password, a key, or, with neither, a password that is made up. `pending` is true until the container lets in by
/// it.
#[utoipa::path(
    put, path = "/v1/rentals/{id}/access", tag = "rentals", request_body = Auth,
    params(("id" = String, Path, format = Uuid), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses((status = 200, body = AccessView<'static>), Refusals)
)]
pub(super) async fn change(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Auth>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let wanted = credential(body?)?;
    let at = precondition(&rentals, &headers)?;
    let rental = at.judge(at.rentals.change_access(id, wanted).await, |error| match error {
        ChangeAccessError::Store(error) => Some(error),
        _ => None,
    })?;
    tell(&rentals, &rental).await
}

/// How to log in.
#[derive(Serialize, ToSchema)]
struct AccessView<'a> {
    host: &'a str,
    #[schema(value_type = u16)]
    port: HostPort,
    #[schema(value_type = String)]
    user: &'a LoginUser,
    #[schema(value_type = CredentialSchema)]
    auth: CredentialKind,
    password: Option<&'a str>,
    ssh_key: Option<&'a str>,
    ssh_command: String,
    /// Whether the container does not let in by it yet.
    pending: bool,
    state: &'static str,
}

async fn tell(rentals: &Rentals, rental: &Rental) -> Result<Response, Problem> {
    let access = rentals.access(rental).await?.ok_or_else(Problem::not_found)?;
    let (password, ssh_key) = match &access.credential {
        Some(Credential::Password(password)) => (Some(password.expose()), None),
        Some(Credential::PublicKey(key)) => (None, Some(key.as_str())),
        None => (None, None),
    };
    let body = AccessView {
        host: &access.host,
        port: access.port,
        user: &access.user,
        auth: access.kind,
        password,
        ssh_key,
        ssh_command: access.ssh_command(),
        pending: rental.access_outdated(),
        state: words::v1(rental.state()),
    };
    Ok(([(CACHE_CONTROL, "no-store")], etag(rental), Json(body)).into_response())
}
