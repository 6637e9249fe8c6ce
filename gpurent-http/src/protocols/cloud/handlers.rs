//! The handlers: each reads its body, calls `Rentals`, waits a while and shows the instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::host::Rentals;
use gpurent_core::id::RentalId;
use gpurent_core::model::{Phase, Quote, Rental, RentalState};
use gpurent_core::store::{Filter, MAX_PAGE};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::protocols::cloud::view::{billing, short_name, view};
use crate::protocols::cloud::{Cloud, Refused, TEMPLATE, not_found};
use crate::protocols::wait::{WAIT_LIMIT, until};

#[derive(Deserialize)]
pub(super) struct CreateBody {
    pub(super) template: String,
    pub(super) gpu: String,
    /// Gigabytes.
    #[serde(default)]
    pub(super) storage: Option<u32>,
    #[serde(default = "ssh_alone")]
    pub(super) access: Vec<String>,
}

pub(super) fn ssh_alone() -> Vec<String> {
    vec!["ssh".to_owned()]
}

pub(super) async fn find(rentals: &Rentals, caller: &Caller, name: &str) -> Result<Rental, Refused> {
    let id = name.strip_prefix("inst_").and_then(|id| id.parse::<RentalId>().ok()).ok_or_else(not_found)?;
    let is_ours = |rental: &Rental| rental.spec().labels.get(TEMPLATE).is_some() && caller.may_see(rental);
    rentals.get(id).await?.filter(is_ours).ok_or_else(not_found)
}

pub(super) async fn create(
    State(rentals): State<Rentals>,
    State(cloud): State<Arc<Cloud>>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<CreateBody>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let body = body.map_err(|malformed| Refused(StatusCode::UNPROCESSABLE_ENTITY, malformed.sentence()))?;
    let rentals = caller.within_their_limits(&rentals);
    let request = cloud.request(caller, &body)?;
    let updates = rentals.subscribe();
    let claimed = rentals.rent(request).await?;
    let rental = until(&rentals, claimed.rental().clone(), updates, deadline, is_up_or_over).await;
    if let Some(reason) = rental.state().end_reason() {
        return Err(Refused(StatusCode::UNPROCESSABLE_ENTITY, reason.describe()));
    }
    respond(StatusCode::CREATED, &rentals, &rental).await
}

pub(super) fn is_up_or_over(rental: &Rental) -> bool {
    let state = rental.state();
    matches!(state, RentalState::Ready | RentalState::Suspended { .. }) || state.end_reason().is_some()
}

pub(super) async fn list(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    let is_ours = |rental: &Rental| rental.spec().labels.get(TEMPLATE).is_some() && caller.may_see(rental);
    let mut listed: Vec<_> = rentals.active().await?.into_iter().filter(is_ours).collect();
    let filter = Filter { renter: caller.scope(), phases: vec![Phase::Suspended], ..Filter::default() };
    listed.extend(rentals.list(&filter, None, MAX_PAGE).await?.into_iter().filter(is_ours));
    listed.sort_by_key(|rental| std::cmp::Reverse(rental.created_at()));
    // And some of those that have ended: the protocol knows no pages.
    let filter = Filter { renter: caller.scope(), phases: vec![Phase::Ended], ..Filter::default() };
    listed.extend(rentals.list(&filter, None, 200).await?.into_iter().filter(is_ours));
    let mut instances = Vec::with_capacity(listed.len());
    for rental in &listed {
        instances.push(view(&rentals, rental, false).await?);
    }
    Ok(Json(json!({"instances": instances})).into_response())
}

pub(super) async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let rental = find(&rentals, &caller, &name).await?;
    respond(StatusCode::OK, &rentals, &rental).await
}

pub(super) async fn destroy(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let id = find(&rentals, &caller, &name).await?.id();
    let updates = rentals.subscribe();
    let rental = rentals.cancel(id).await?.ok_or_else(not_found)?;
    let rental = until(&rentals, rental, updates, deadline, |rental| !rental.is_live()).await;
    let status = if rental.is_live() { StatusCode::ACCEPTED } else { StatusCode::OK };
    respond(status, &rentals, &rental).await
}

pub(super) async fn stop(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let rentals = caller.within_their_limits(&rentals);
    let rental = find(&rentals, &caller, &name).await?;
    let id = rental.id();
    if rental.is_on_its_first_way_up() {
        return Err(Refused(StatusCode::CONFLICT, "it is still starting; ask again".to_owned()));
    }
    let updates = rentals.subscribe();
    let rental = rentals.suspend(id).await?.ok_or_else(not_found)?;
    let is_down = |rental: &Rental| matches!(rental.state(), RentalState::Suspended { .. }) || !rental.is_live();
    let rental = until(&rentals, rental, updates, deadline, is_down).await;
    let status = if is_down(&rental) { StatusCode::OK } else { StatusCode::ACCEPTED };
    respond(status, &rentals, &rental).await
}

pub(super) async fn start(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let rentals = caller.within_their_limits(&rentals);
    let id = find(&rentals, &caller, &name).await?.id();
    let updates = rentals.subscribe();
    let rental = rentals.resume(id).await?.ok_or_else(not_found)?;
    let rental = until(&rentals, rental, updates, deadline, is_up_or_over).await;
    if let Some(cause) = rental.state().suspend_cause() {
        let gpurent_core::model::SuspendCause::Failed(failure) = cause else {
            return Err(Refused(StatusCode::CONFLICT, "it was stopped again".to_owned()));
        };
        return Err(Refused(StatusCode::CONFLICT, failure.detail.clone()));
    }
    let status = if matches!(rental.state(), RentalState::Ready) { StatusCode::OK } else { StatusCode::ACCEPTED };
    respond(status, &rentals, &rental).await
}

pub(super) async fn respond(status: StatusCode, rentals: &Rentals, rental: &Rental) -> Result<Response, Refused> {
    let body = view(rentals, rental, true).await?;
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

pub(super) async fn templates(State(cloud): State<Arc<Cloud>>) -> Result<Response, Refused> {
    Ok(Json(json!({"templates": cloud.templates})).into_response())
}

pub(super) async fn availability(
    State(rentals): State<Rentals>,
    State(cloud): State<Arc<Cloud>>,
) -> Result<Response, Refused> {
    let held = rentals.held().await?;
    let mut kinds: BTreeMap<String, (u32, u32, Option<Quote>)> = BTreeMap::new();
    for gpu in rentals.gpus() {
        let price = cloud.prices.as_ref().and_then(|prices| prices.quote_of(gpu));
        let (total, free, _) = kinds.entry(short_name(&gpu.model)).or_insert((0, 0, price));
        *total += 1;
        *free += u32::from(!held.gpus.contains(&gpu.uuid));
    }
    let kinds: Vec<_> = kinds
        .into_iter()
        .map(|(gpu, (total, available, price))| {
            json!({"gpu": gpu, "total": total, "available": available, "billing": price.as_ref().map(billing)})
        })
        .collect();
    Ok(Json(json!({"gpus": kinds})).into_response())
}
