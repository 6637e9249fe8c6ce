//! `/v1/rentals`: rent, list, look, extend, suspend, resume, end.

use axum::extract::rejection::QueryRejection;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::error::ValidationError;
use gpurent_core::host::{Rentals, TermExtension as ByOrTo};
use gpurent_core::id::{IdempotencyKey, RentalId};
use gpurent_core::model::{EndKind, Phase, Rental};
use gpurent_core::store::{ClaimOutcome, Filter};
use serde::{Deserialize, Serialize};

use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::middleware::auth::first_message::SocketAuth;
use crate::problem::Problem;
use crate::subscribers::Subscribers;
use crate::v1::etag::{etag, precondition};
use crate::v1::request::{CreateRental, Duration};
use crate::v1::view::RentalView;
use crate::v1::{Refusals, Reserved, find, log_stream, view};

/// Rents
///
/// With an `Idempotency-Key`, at most once however often it is sent: 201 the first time, 200 then.
#[utoipa::path(
    post, path = "/v1/rentals", operation_id = "create_rental", tag = "rentals", request_body = CreateRental,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    responses(
        (status = 201, description = "It is claimed", body = RentalView<'static>, headers(("location" = String), ("etag" = String))),
        (status = 200, description = "It was asked for before", body = RentalView<'static>, headers(("etag" = String))),
        Refusals,
    )
)]
pub(super) async fn create(
    State(rentals): State<Rentals>,
    State(reserved): State<Reserved>,
    Extension(caller): Extension<Caller>,
    OriginalUri(asked): OriginalUri,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateRental>,
) -> Result<Response, Problem> {
    let rentals = caller.within_their_limits(&rentals);
    let key = idempotency_key(&headers)?;
    let request = body?.into_request(caller.renter, &reserved.0)?;
    let claimed = match key {
        Some(key) => rentals.rent_once(key, request).await?,
        None => rentals.rent(request).await?,
    };
    let status = match &claimed {
        ClaimOutcome::New(_) => StatusCode::CREATED,
        ClaimOutcome::Existing(_) => StatusCode::OK,
    };
    let rental = claimed.rental();
    // Below whatever path the API is mounted.
    let location = [(LOCATION, format!("{}/{}", asked.path().trim_end_matches('/'), rental.id()))];
    Ok((status, location, etag(rental), Json(view::rental(&rentals, rental))).into_response())
}

/// The header of the IETF's draft "The Idempotency-Key HTTP Header Field", whose value is quoted; most
/// clients send it bare, and that is taken too.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ValidationError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    text.parse().map(Some).map_err(|error: ValidationError| error.named("Idempotency-Key"))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// The last rental of the page before.
    after: Option<String>,
    /// One or more of the words that rentals show as their `state`, separated by commas.
    state: Option<String>,
    name: Option<String>,
    renter: Option<String>,
    /// `name=value`
    label: Option<String>,
}

impl ListQuery {
    fn filter(&self, caller: &Caller) -> Result<Filter, ValidationError> {
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
                _ => {
                    return Err(ValidationError::new(
                        "state",
                        "must be states as rentals show them, separated by commas",
                    ));
                }
            }
        }
        filter.name =
            self.name.as_deref().map(str::parse).transpose().map_err(|error: ValidationError| error.named("name"))?;
        if let Some(renter) = &self.renter {
            let renter = renter.parse()?;
            // Others have nothing that this caller may see.
            filter.renter = Some(filter.renter.unwrap_or(renter));
        }
        if let Some(label) = &self.label {
            let (name, value) =
                label.split_once('=').ok_or_else(|| ValidationError::new("label", "must be name=value"))?;
            filter.label = Some((name.to_owned(), value.to_owned()));
        }
        Ok(filter)
    }
}

/// Lists rentals, newest first
#[utoipa::path(
    get, path = "/v1/rentals", operation_id = "list_rentals", tag = "rentals", params(ListQuery),
    responses((status = 200, description = "A page of rentals, newest first", body = RentalPage<'static>), Refusals)
)]
pub(super) async fn list(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) =
        query.map_err(|_| ValidationError::new("query", "takes limit, after, state, name, renter and label"))?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(ValidationError::new("limit", "must be 1 to 200").into());
    }
    let after = query.after.as_deref().map(str::parse::<RentalId>).transpose();
    let after = after.map_err(|error| error.named("after"))?;
    if let Some(after) = after
        && !rentals.get(after).await?.is_some_and(|rental| caller.may_see(&rental))
    {
        // Behind one that was deleted there may be others that live.
        return Err(ValidationError::new("after", "is no rental, or none any more: begin again").into());
    }
    let page = rentals.list(&query.filter(&caller)?, after, limit).await?;
    let next = (page.len() == limit).then(|| page.last().map(Rental::id)).flatten();
    let views = page.iter().map(|rental| view::rental(&rentals, rental)).collect();
    Ok(Json(RentalPage { rentals: views, next }).into_response())
}

/// Shows a rental, with its bill as it stands
#[utoipa::path(
    get, path = "/v1/rentals/{id}", operation_id = "show_rental", tag = "rentals", params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The rental, with its bill", body = RentalView<'static>, headers(("etag" = String))), Refusals)
)]
pub(super) async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let rental = find(&rentals, &caller, &id).await?;
    Ok((etag(&rental), Json(view::rental(&rentals, &rental))).into_response())
}

/// One of the two.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"by": "1h"}))]
pub(super) struct Extend {
    /// So much longer than now; sent twice, it extends twice. Such as `1h`.
    by: Option<Duration>,
    /// So long in all; may be sent again. Such as `3h`.
    to: Option<Duration>,
}

/// Makes a rental's paid time longer
#[utoipa::path(
    post, path = "/v1/rentals/{id}/extend", operation_id = "extend_rental", tag = "rentals", request_body = Extend,
    params(("id" = String, Path, format = Uuid), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses((status = 200, description = "The rental, with its new end", body = RentalView<'static>, headers(("etag" = String))), Refusals)
)]
pub(super) async fn extend(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Extend>,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let extension = match body? {
        Extend { by: Some(by), to: None } => ByOrTo::By(by.term().map_err(|error: ValidationError| error.named("by"))?),
        Extend { by: None, to: Some(to) } => ByOrTo::To(to.term().map_err(|error: ValidationError| error.named("to"))?),
        _ => return Err(ValidationError::new("by", "must be given, or else to, and not both").into()),
    };
    let at = precondition(&rentals, &headers)?;
    let rental = at.judge(at.rentals.extend(id, extension).await)?;
    Ok((etag(&rental), Json(view::rental(&rentals, &rental))).into_response())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    /// How many lines; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    tail: Option<usize>,
    /// Whether to stay, and be told whatever comes: as plain text then.
    follow: Option<bool>,
    /// Whether to be told who logged in from where instead of the program's output.
    access: Option<bool>,
}

/// Shows a rental's output
///
/// Its program's last lines; with `follow`, then whatever comes, until the container ends. With `access`, who logged in
/// from where, and who could not, as long as the container runs.
#[utoipa::path(
    get, path = "/v1/rentals/{id}/logs", operation_id = "show_logs", tag = "rentals", params(("id" = String, Path, format = Uuid), LogsQuery),
    responses(
        (status = 200, description = "The last lines, or whatever comes", content((LogsView = "application/json"), (String = "text/plain"))),
        Refusals,
    )
)]
pub(super) async fn logs(
    State(rentals): State<Rentals>,
    State(subscribers): State<Subscribers>,
    Extension(auth): Extension<SocketAuth>,
    Path(id): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    // No WebSocket, and so nothing to show a key on later.
    let SocketAuth::Authenticated(caller, pass) = auth else { return Err(Problem::unauthorized()) };
    let Query(query) = query.map_err(|_| ValidationError::new("query", "takes tail, follow and access"))?;
    let tail = query.tail.unwrap_or(100);
    if !(1..=1000).contains(&tail) {
        return Err(ValidationError::new("tail", "must be 1 to 1000").into());
    }
    let rental = find(&rentals, &caller, &id).await?;
    if query.access == Some(true) {
        if query.follow == Some(true) {
            return Err(ValidationError::new("follow", "goes with the program's output only").into());
        }
        let lines = rentals.access_log(&rental, tail).await?;
        return Ok(Json(LogsView { lines, live: true }).into_response());
    }
    if query.follow == Some(true) {
        let place = subscribers.enter(&caller)?;
        let follower = subscribers.follow(rental.id())?;
        let output = rentals.follow_output(&rental, tail).await?;
        return Ok(log_stream::answer(output, pass, subscribers.stopping, (place, follower)));
    }
    let logs = rentals.logs(&rental, tail).await?;
    Ok(Json(LogsView { lines: logs.lines, live: logs.live }).into_response())
}

/// A page of rentals.
#[derive(Serialize, utoipa::ToSchema)]
struct RentalPage<'a> {
    rentals: Vec<RentalView<'a>>,
    /// The rental to ask for `after`; null on the last page.
    #[schema(value_type = Option<String>, format = Uuid)]
    next: Option<RentalId>,
}

/// A container's last lines.
#[derive(Serialize, utoipa::ToSchema)]
struct LogsView {
    lines: Vec<String>,
    /// Whether they come from the container itself, or are what was kept of it.
    live: bool,
}

/// The answer to a request for another state: 200 once the rental is in it, 202 while it is on its way there.
fn on_its_way_to(goal: Phase, rentals: &Rentals, rental: &Rental) -> Response {
    let status = if rental.state().phase() == goal { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, etag(rental), Json(view::rental(rentals, rental))).into_response()
}

/// Suspends a rental
///
/// Its container is stopped and kept with its files, its GPU is free for others, its paid time stands still.
#[utoipa::path(
    post, path = "/v1/rentals/{id}/suspend", operation_id = "suspend_rental", tag = "rentals",
    params(("id" = String, Path, format = Uuid), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses(
        (status = 202, description = "It is being suspended", body = RentalView<'static>, headers(("etag" = String))),
        (status = 200, description = "It is suspended", body = RentalView<'static>, headers(("etag" = String))),
        Refusals,
    )
)]
pub(super) async fn suspend(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let at = precondition(&caller.within_their_limits(&rentals), &headers)?;
    let rental = at.judge(at.rentals.suspend(id).await)?;
    Ok(on_its_way_to(Phase::Suspended, &rentals, &rental))
}

/// Resumes a suspended rental, where there is a GPU for it
#[utoipa::path(
    post, path = "/v1/rentals/{id}/resume", operation_id = "resume_rental", tag = "rentals",
    params(("id" = String, Path, format = Uuid), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses(
        (status = 202, description = "It is on its way up", body = RentalView<'static>, headers(("etag" = String))),
        (status = 200, description = "It is ready", body = RentalView<'static>, headers(("etag" = String))),
        Refusals,
    )
)]
pub(super) async fn resume(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let at = precondition(&caller.within_their_limits(&rentals), &headers)?;
    let rental = at.judge(at.rentals.resume(id).await)?;
    Ok(on_its_way_to(Phase::Ready, &rentals, &rental))
}

/// Ends a rental
#[utoipa::path(
    delete, path = "/v1/rentals/{id}", operation_id = "end_rental", tag = "rentals",
    params(("id" = String, Path, format = Uuid), ("If-Match" = Option<String>, Header, pattern = r#"^(\*|"[0-9]{1,9}")$"#)),
    responses(
        (status = 202, description = "It is ending", body = RentalView<'static>, headers(("etag" = String))),
        (status = 200, description = "It has ended", body = RentalView<'static>, headers(("etag" = String))),
        Refusals,
    )
)]
pub(super) async fn end(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = find(&rentals, &caller, &id).await?.id();
    let at = precondition(&rentals, &headers)?;
    let rental = at.judge(at.rentals.cancel(id).await)?;
    Ok(on_its_way_to(Phase::Ended, &rentals, &rental))
}
