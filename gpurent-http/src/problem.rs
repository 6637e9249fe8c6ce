//! Errors of `/v1` as problem details (RFC 9457) with stable types.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use gpurent_core::host::{Refusal, RefusalKind, ToRefusal};
use gpurent_core::id::{Position, RentalId};
use serde::Serialize;

/// Problem details (RFC 9457) with a type that programs can tell apart: what `/v1` answers where it refuses, for handlers
/// of an embedder's own as well. Every error of core's that implements [`ToRefusal`] becomes one.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// A relative reference that never changes: `/problems/<code>`.
    #[serde(rename = "type", serialize_with = "as_reference")]
    code: &'static str,
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    #[schema(value_type = u16)]
    status: StatusCode,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The rental that the problem is about, where it may exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    rental_id: Option<RentalId>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn as_reference<S: serde::Serializer>(code: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("/problems/{code}"))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { code, title, status, detail: detail.into(), field: None, rental_id: None, retry_after: None }
    }

    pub(crate) fn about(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    pub(crate) fn later(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "No valid API key", "send Authorization: Bearer KEY")
    }

    /// A caller who may not do this: 403.
    #[must_use]
    pub fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// A rental that is not there, or that the caller is not to know of: 404.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such thing", "there is no such rental or route")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let title = "No such method here";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", title, "the route has other methods")
    }

    pub(crate) fn precondition_failed() -> Self {
        let detail = "the rental was changed since; look at it again";
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", "Changed meanwhile", detail).about("If-Match")
    }

    pub(crate) fn unknown_cursor(last: Position) -> Self {
        let detail = format!("the journal ends at {last}: read everything again, then go on after that");
        Self::new(StatusCode::GONE, "unknown-cursor", "Unknown position", detail).about("after")
    }

    pub(crate) fn overloaded() -> Self {
        let detail = "the host did not get to it in time; ask whether it was done, or try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too much at once", detail).later(1)
    }

    /// The problem in one sentence.
    pub(crate) fn sentence(&self) -> String {
        self.detail.clone()
    }

    pub(crate) fn upgrade_required() -> Self {
        let detail = "this is a WebSocket: send Upgrade: websocket";
        Self::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", "A WebSocket is wanted", detail)
    }

    pub(crate) fn rate_limited(seconds: u64) -> Self {
        let detail = "this key calls too often; wait as long as Retry-After says";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests", detail).later(seconds)
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", "see the host's log")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl Problem {
    /// The problem for a refusal of core's.
    #[must_use]
    pub fn of(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::Conflict | RefusalKind::NoCapacity | RefusalKind::NotReady => StatusCode::CONFLICT,
            RefusalKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::NotSupported => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            code: refusal.code,
            title: refusal.title,
            status,
            detail: refusal.detail,
            field: refusal.field,
            rental_id: refusal.rental,
            retry_after: refusal.retry_after.map(|wait| wait.as_secs()),
        }
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// The refusal that an error of core's is. What is the host's own in it goes to the log.
pub(crate) fn refusal_of<E: ToRefusal + 'static>(error: &E) -> Refusal {
    let refusal = error.refusal();
    // A refusal that says all there is to know is no news to the operator: renters could fill the log with them.
    let has_a_cause = error.store_error().is_some() || error.source().is_some();
    let error = error as &dyn std::error::Error;
    match refusal.kind {
        RefusalKind::Internal => tracing::error!(error, "request failed"),
        RefusalKind::Unavailable if has_a_cause => tracing::warn!(error, "request refused for now"),
        _ => {}
    }
    refusal
}

impl<E: ToRefusal + 'static> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::of(refusal_of(&error))
    }
}
