//! `/v1/rentals/{id}/access`: how to log in, and how from now on. The only place of `/v1` where a secret
//! is told.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::error::ValidationError;
use gpurent_core::host::Rentals;
use gpurent_core::model::{Credential, CredentialKind, HostPort, LoginUser, PublicKey, Rental};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::problem::Problem;
use crate::protocols::state_names;
use crate::v1::etag::{etag, precondition};
use crate::v1::request::{Auth, credential};
use crate::v1::view::CredentialSchema;
use crate::v1::{Refusals, find};

/// Tells how to log in
///
/// The only place of this API where a secret is told.
#[utoipa::path(
    get, path = "/v1/rentals/{id}/access", operation_id = "show_access", tag = "rentals", params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "How to log in", body = AccessView<'static>), Refusals)
)]
pub(super) async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let rental = find(&rentals, &caller, &id).await?;
    access_response(&rentals, &rental).await
}

/// Replaces the credential
///
/// By a password, a key, or, with neither, a password that is made up. `pending` is true until the container lets in by
/// it.
#[utoipa::path(
    put, path = "/v1/rentals/{id}/access", operation_id = "change_access", tag = "rentals", request_body = Auth,
    params(("id" = String, Path, format = Uuid), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses((status = 200, description = "How to log in from now on", body = AccessView<'static>), Refusals)
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
    let rental = at.judge(at.rentals.change_access(id, wanted).await)?;
    access_response(&rentals, &rental).await
}

/// A key to let in by.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    /// As a line of OpenSSH's: `ssh-ed25519 AAAA...`
    ssh_key: String,
}

/// Which key.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichKey {
    /// The key's fingerprint, as `ssh_keys` tells it.
    #[param(pattern = "^SHA256:[A-Za-z0-9+/]{43}$")]
    fingerprint: String,
}

/// Lets in by one more key
///
/// For rentals whose renter logs in by keys. One that lets in already changes nothing.
#[utoipa::path(
    post, path = "/v1/rentals/{id}/access/keys", operation_id = "add_key", tag = "rentals", request_body = NewKey,
    params(("id" = String, Path, format = Uuid), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses((status = 200, description = "How to log in from now on", body = AccessView<'static>), Refusals)
)]
pub(super) async fn add_key(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<NewKey>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let key: PublicKey = body?.ssh_key.parse()?;
    let at = precondition(&rentals, &headers)?;
    let rental = at.judge(at.rentals.add_key(id, key).await)?;
    access_response(&rentals, &rental).await
}

/// Lets in no longer by a key
///
/// Sessions that are open stay open. The last key stays: nobody could log in any more.
#[utoipa::path(
    delete, path = "/v1/rentals/{id}/access/keys", operation_id = "remove_key", tag = "rentals",
    params(("id" = String, Path, format = Uuid), WhichKey, ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses((status = 200, description = "How to log in from now on", body = AccessView<'static>), Refusals)
)]
pub(super) async fn remove_key(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Result<Query<WhichKey>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let Query(which) = query.map_err(|_| ValidationError::new("query", "takes fingerprint"))?;
    if which.fingerprint.len() != 50 || !which.fingerprint.starts_with("SHA256:") {
        return Err(ValidationError::new("fingerprint", "must be a key's fingerprint such as 'SHA256:...'").into());
    }
    let at = precondition(&rentals, &headers)?;
    let rental = at.judge(at.rentals.remove_key(id, &which.fingerprint).await)?;
    access_response(&rentals, &rental).await
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
    /// The first of the keys that let in.
    ssh_key: Option<&'a str>,
    /// All keys that let in.
    ssh_keys: Vec<KeyView<'a>>,
    /// The keys by which the server is known; the same as long as the rental lives.
    host_keys: Vec<KeyView<'a>>,
    /// The name under which SSH knows the server (`HostKeyAlias`): a port is used by others later.
    host_key_alias: &'a str,
    /// Lines of a file `known_hosts`, under that name.
    known_hosts: String,
    ssh_command: String,
    /// Whether the container does not let in by it yet.
    pending: bool,
    state: &'static str,
}

/// A public key.
#[derive(Serialize, ToSchema)]
struct KeyView<'a> {
    algorithm: &'a str,
    /// As OpenSSH writes it: `SHA256:...`
    fingerprint: String,
    /// As one line of OpenSSH's, without a comment.
    key: &'a str,
}

impl<'a> KeyView<'a> {
    fn of(key: &'a PublicKey) -> Self {
        Self { algorithm: key.algorithm(), fingerprint: key.fingerprint(), key: key.as_str() }
    }
}

async fn access_response(rentals: &Rentals, rental: &Rental) -> Result<Response, Problem> {
    let access = rentals.access(rental).await?.ok_or_else(Problem::not_found)?;
    let (password, keys) = match &access.credential {
        Some(Credential::Password(password)) => (Some(password.expose()), None),
        Some(Credential::PublicKeys(keys)) => (None, Some(keys)),
        None => (None, None),
    };
    let body = AccessView {
        host: &access.host,
        port: access.port,
        user: &access.user,
        auth: access.kind,
        password,
        ssh_key: keys.and_then(|keys| keys.iter().next()).map(PublicKey::as_str),
        ssh_keys: keys.iter().flat_map(|keys| keys.iter()).map(KeyView::of).collect(),
        host_keys: access.host_keys.iter().map(KeyView::of).collect(),
        host_key_alias: &access.host_key_alias,
        known_hosts: access.known_hosts(),
        ssh_command: access.ssh_command(),
        pending: rental.access_outdated(),
        state: state_names::v1(rental.state()),
    };
    Ok(([(CACHE_CONTROL, "no-store")], etag(rental), Json(body)).into_response())
}
