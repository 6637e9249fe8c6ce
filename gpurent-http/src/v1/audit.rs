//! `/v1/audit`: who did what on this host.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::error::ValidationError;
use gpurent_core::store::Role;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::caller::Caller;
use crate::middleware::audit::Audit;
use crate::problem::Problem;
use crate::v1::Refusals;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// 100 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// Older entries than this one.
    before: Option<u64>,
}

/// Something that somebody asked for.
#[derive(Serialize, ToSchema)]
struct EntryView {
    number: u64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    renter: String,
    #[schema(value_type = String)]
    role: Role,
    key: Option<String>,
    address: Option<String>,
    /// Method and path.
    action: String,
    /// The answer's status.
    status: u16,
}

/// A page of entries.
#[derive(Serialize, ToSchema)]
struct AuditPage {
    entries: Vec<EntryView>,
    /// The number to ask for `before`; null on the last page.
    next: Option<u64>,
}

/// Lists who did what, newest first
///
/// For operators.
#[utoipa::path(
    get, path = "/v1/audit", operation_id = "list_audit", tag = "host", params(AuditQuery),
    responses((status = 200, description = "A page of entries, newest first", body = AuditPage), Refusals)
)]
pub(super) async fn list(
    State(audit): State<Option<Audit>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    if !caller.runs_the_machine() {
        return Err(Problem::forbidden("this is for operators"));
    }
    let Query(query) = query.map_err(|_| ValidationError::new("query", "takes limit and before"))?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=500).contains(&limit) {
        return Err(ValidationError::new("limit", "must be 1 to 500").into());
    }
    let Some(audit) = audit else { return Err(Problem::not_found()) };
    let found = audit.log.entries(query.before, limit).await?;
    let next = (found.len() == limit).then(|| found.last().map(|entry| entry.number)).flatten();
    let entries = found.into_iter().map(|found| EntryView {
        number: found.number,
        at: found.entry.at,
        renter: found.entry.renter.into(),
        role: found.entry.role,
        key: found.entry.key.map(Into::into),
        address: found.entry.address.map(|address| address.to_string()),
        action: found.entry.action,
        status: found.entry.status,
    });
    Ok(Json(AuditPage { entries: entries.collect(), next }).into_response())
}
