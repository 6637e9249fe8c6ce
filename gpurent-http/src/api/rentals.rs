//! `/v1/rentals`: rent, list, look, extend, end.

use axum::extract::rejection::QueryRejection;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::id::{IdempotencyKey, RentalId};
use gpurent_core::invalid::Invalid;
use gpurent_core::lifecycle::{EndKind, Phase};
use gpurent_core::rental::Rental;
use gpurent_core::rentals::{Extension as ByOrTo, Rentals};
use gpurent_core::store::{Claimed, Filter};
use serde::Deserialize;
use serde_json::json;

use super::request::CreateRental;
use super::{find, view};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::problem::Problem;

pub(super) async fn create(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    OriginalUri(asked): OriginalUri,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateRental>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let request = body?.into_request(caller.renter)?;
    let claimed = match key {
        Some(key) => rentals.rent_once(key, request).await?,
        None => rentals.rent(request).await?,
    };
    let status = match &claimed {
        Claimed::New(_) => StatusCode::CREATED,
        Claimed::Existing(_) => StatusCode::OK,
    };
    let rental = claimed.rental();
    // Below whatever path the surfaces are mounted.
    let location = [(LOCATION, format!("{}/{}", asked.path().trim_end_matches('/'), rental.id()))];
    Ok((status, location, Json(view::rental(&rentals, rental))).into_response())
}

/// The header of the IETF's draft "The Idempotency-Key HTTP Header Field", whose value is quoted; most
/// clients send it bare, and that is taken too.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Invalid> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    text.parse().map(Some).map_err(|error: Invalid| error.named("Idempotency-Key"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
    /// One or more of the words that rentals show as their `state`, separated by commas.
    state: Option<String>,
    name: Option<String>,
    renter: Option<String>,
    /// `name=value`
    label: Option<String>,
}

impl ListQuery {
    fn filter(&self, caller: &Caller) -> Result<Filter, Invalid> {
        let mut filter = Filter { renter: caller.scope(), ..Filter::default() };
        for word in self.state.iter().flat_map(|words| words.split(',')) {
            match word {
                "provisioning" => filter.phases.push(Phase::Provisioning),
                "running" => filter.phases.push(Phase::Running),
                "ready" => filter.phases.push(Phase::Ready),
                "suspending" => filter.phases.push(Phase::Suspending),
                "suspended" => filter.phases.push(Phase::Suspended),
                "stopping" => filter.phases.push(Phase::Ending),
                "expired" => filter.ends.push(EndKind::Expired),
                "failed" => filter.ends.push(EndKind::Failed),
                "terminated" => filter.ends.push(EndKind::Terminated),
                _ => return Err(Invalid::new("state", "must be states as rentals show them, separated by commas")),
            }
        }
        filter.name = self.name.as_deref().map(str::parse).transpose().map_err(|error: Invalid| error.named("name"))?;
        if let Some(renter) = &self.renter {
            let renter = renter.parse()?;
            // Others have nothing that this caller may see.
            filter.renter = Some(filter.renter.unwrap_or(renter));
        }
        if let Some(label) = &self.label {
            let (name, value) = label.split_once('=').ok_or_else(|| Invalid::new("label", "must be name=value"))?;
            filter.label = Some((name.to_owned(), value.to_owned()));
        }
        Ok(filter)
    }
}

pub(super) async fn list(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| Invalid::new("query", "takes limit, after, state, name, renter and label"))?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(Invalid::new("limit", "must be 1 to 200").into());
    }
    let after = query.after.as_deref().map(str::parse::<RentalId>).transpose();
    let after = after.map_err(|error| error.named("after"))?;
    let page = rentals.list(&query.filter(&caller)?, after, limit).await?;
    let next = (page.len() == limit).then(|| page.last().map(Rental::id)).flatten();
    let views: Vec<_> = page.iter().map(|rental| view::rental(&rentals, rental)).collect();
    Ok(Json(json!({"rentals": views, "next": next})).into_response())
}

pub(super) async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let rental = find(&rentals, &caller, &id).await?;
    Ok(Json(view::rental(&rentals, &rental)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extend {
    by: Option<String>,
    to: Option<String>,
}

pub(super) async fn extend(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Extend>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let extension = match body? {
        Extend { by: Some(by), to: None } => ByOrTo::By(by.parse().map_err(|error: Invalid| error.named("by"))?),
        Extend { by: None, to: Some(to) } => ByOrTo::To(to.parse().map_err(|error: Invalid| error.named("to"))?),
        _ => return Err(Invalid::new("by", "must be given, or else to, and not both").into()),
    };
    let rental = rentals.extend(id, extension).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(view::rental(&rentals, &rental)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    tail: Option<usize>,
}

pub(super) async fn logs(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| Invalid::new("query", "takes tail"))?;
    let tail = query.tail.unwrap_or(100);
    if !(1..=1000).contains(&tail) {
        return Err(Invalid::new("tail", "must be 1 to 1000").into());
    }
    let rental = find(&rentals, &caller, &id).await?;
    let logs = rentals.logs(&rental, tail).await?;
    Ok(Json(json!({"lines": logs.lines, "live": logs.live})).into_response())
}

pub(super) async fn suspend(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let rental = rentals.suspend(id).await?.ok_or_else(Problem::not_found)?;
    let is_done = rental.state().phase() == Phase::Suspended;
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(view::rental(&rentals, &rental))).into_response())
}

pub(super) async fn resume(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let rental = rentals.resume(id).await?.ok_or_else(Problem::not_found)?;
    let is_done = rental.state().phase() == Phase::Ready;
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(view::rental(&rentals, &rental))).into_response())
}

pub(super) async fn end(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let rental = rentals.cancel(id).await?.ok_or_else(Problem::not_found)?;
    let status = if rental.is_live() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(view::rental(&rentals, &rental))).into_response())
}
