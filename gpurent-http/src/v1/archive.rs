//! `/v1/archive`: rentals that ended long ago, to be kept elsewhere and deleted here.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::error::ValidationError;
use gpurent_core::host::Rentals;
use gpurent_core::id::{RentalId, Seq};
use gpurent_core::model::{Rental, RentalState};
use gpurent_core::store::{MAX_PAGE, StoreError};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::problem::Problem;
use crate::v1::event::ArchivedEventSchema;
use crate::v1::view::RentalView;
use crate::v1::{Refusals, event, view};

/// JSON, one value a line.
const LINES: &str = "application/x-ndjson";

/// The age below which a rental is nothing for an archive: its last words are still being read.
const MIN_AGE: SignedDuration = SignedDuration::from_hours(24);
/// The time by which a caller's clock may be ahead.
const MAX_CLOCK_LEAD: SignedDuration = SignedDuration::from_mins(5);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchiveQuery {
    /// Rentals that ended before this time, which is at least a day ago.
    #[param(value_type = String, format = DateTime)]
    ended_before: Timestamp,
    /// How many; 100 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// The last rental of the page before.
    after: Option<String>,
}

/// Rentals to delete.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    /// Ids of rentals that were exported.
    #[schema(value_type = Vec<String>, max_items = 500)]
    rentals: Vec<RentalId>,
}

/// A rental that has ended, and all of its events.
#[derive(Serialize, ToSchema)]
pub(super) struct Archived<'a> {
    rental: RentalView<'a>,
    #[schema(value_type = Vec<ArchivedEventSchema>)]
    events: Vec<Value>,
}

/// A page of rentals that have ended.
#[derive(Serialize, ToSchema)]
struct ArchivePage<'a> {
    rentals: Vec<Archived<'a>>,
    /// The rental to ask for `after`; null on the last page.
    #[schema(value_type = Option<String>, format = Uuid)]
    next: Option<RentalId>,
}

/// The outcome of a deletion.
#[derive(Serialize, ToSchema)]
struct Deleted {
    /// How many rentals.
    deleted: usize,
}

/// Exports rentals that ended before a time
///
/// With all of their events, those that ended first at first; with `Accept: application/x-ndjson` one JSON object a line, and a
/// page that is not full is the last one. Rentals whose end nobody could read yet are left out. For operators.
#[utoipa::path(
    get, path = "/v1/archive", operation_id = "export_archive", tag = "host", params(ArchiveQuery),
    responses(
        (status = 200, description = "A page of rentals", body = ArchivePage<'static>),
        Refusals,
    )
)]
pub(super) async fn export(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    query: Result<Query<ArchiveQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    for_operators(&caller)?;
    let Query(query) = query.map_err(|_| ValidationError::new("query", "takes ended_before, limit and after"))?;
    old_enough(query.ended_before)?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ValidationError::new("limit", "must be 1 to 500").into());
    }
    let after = query.after.as_deref().map(str::parse::<RentalId>).transpose();
    let after = after.map_err(|error| error.named("after"))?;
    let page = rentals.ended_before(query.ended_before, after, limit).await?;
    if headers.get(ACCEPT).is_some_and(|kinds| kinds.to_str().is_ok_and(|kinds| kinds.contains(LINES))) {
        let mut lines = String::new();
        for rental in &page {
            lines += &archived(&rentals, rental).await?;
        }
        return Ok(([(CONTENT_TYPE, LINES)], lines).into_response());
    }
    let next = (page.len() == limit).then(|| page.last().map(Rental::id)).flatten();
    let mut views = Vec::with_capacity(page.len());
    for rental in &page {
        views.push(view(&rentals, rental).await?);
    }
    Ok(Json(ArchivePage { rentals: views, next }).into_response())
}

/// Deletes rentals that were exported
///
/// With their events, at most 500 at once. Those that live, ended less than a day ago, or whose end nobody could read yet stay.
/// Idempotency keys are free again. For operators.
#[utoipa::path(
    post, path = "/v1/archive/deletions", operation_id = "delete_archived", tag = "host", request_body = Deletion,
    responses((status = 200, description = "How many were deleted", body = Deleted), Refusals)
)]
pub(super) async fn delete(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<Deletion>,
) -> Result<Response, Problem> {
    for_operators(&caller)?;
    let ids = body?.rentals;
    if ids.len() > MAX_PAGE {
        return Err(ValidationError::new("rentals", "must be at most 500").into());
    }
    let mut old = Vec::with_capacity(ids.len());
    for id in ids {
        let rental = rentals.get(id).await?;
        let is_old = |rental: &Rental| matches!(rental.state(), RentalState::Ended { at, .. } if is_old_enough(*at));
        if rental.as_ref().is_some_and(is_old) {
            old.push(id);
        }
    }
    Ok(Json(Deleted { deleted: rentals.forget(&old).await? }).into_response())
}

fn for_operators(caller: &Caller) -> Result<(), Problem> {
    if caller.runs_the_machine() { Ok(()) } else { Err(Problem::forbidden("this is for operators")) }
}

fn is_old_enough(at: Timestamp) -> bool {
    Timestamp::now().duration_since(at) >= MIN_AGE - MAX_CLOCK_LEAD
}

fn old_enough(ended_before: Timestamp) -> Result<(), ValidationError> {
    if is_old_enough(ended_before) {
        Ok(())
    } else {
        Err(ValidationError::new("ended_before", "must be at least a day ago"))
    }
}

/// A rental and all of its events, as a line of JSON with its end: no secrets, and nothing of its environment.
///
/// # Errors
/// [`StoreError`]
pub async fn archived(rentals: &Rentals, rental: &Rental) -> Result<String, StoreError> {
    let line = serde_json::to_string(&view(rentals, rental).await?);
    // Names are strings and numbers are finite, so it has a text.
    Ok(line.map_err(|error| StoreError::Corrupt(error.into()))? + "\n")
}

async fn view<'a>(rentals: &Rentals, rental: &'a Rental) -> Result<Archived<'a>, StoreError> {
    let (mut events, mut after) = (Vec::new(), Seq::ZERO);
    loop {
        let page = rentals.events(rental.id(), after, MAX_PAGE).await?;
        events.extend(page.iter().map(|recorded| event::recorded(rentals.public_host(), recorded)));
        match page.last() {
            Some(last) if page.len() == MAX_PAGE => after = last.seq,
            _ => break,
        }
    }
    Ok(Archived { rental: view::rental(rentals, rental), events })
}
