//! Errors of `/v1` as problem details (RFC 9457) with stable types.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use gpurent_core::allocation::{PlacementError, PortError, TooMany};
use gpurent_core::error::ValidationError;
use gpurent_core::host::{
    AccessError, ChangeAccessError, ExecError, ExtendError, LogsError, RentError, ResumeError, SuspendError,
};
use gpurent_core::id::{Position, RentalId};
use gpurent_core::runtime::RuntimeError;
use gpurent_core::store::StoreError;
use serde::Serialize;

/// A refusal, in a form that programs can tell apart.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Problem {
    /// A relative reference that never changes: `/problems/<kind>`.
    #[serde(rename = "type")]
    kind: &'static str,
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
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, title, status, detail: detail.into(), field: None, rental_id: None, retry_after: None }
    }

    pub(crate) fn about(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    pub(crate) fn later(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "/problems/unauthorized",
            "No valid API key",
            "send Authorization: Bearer KEY",
        )
    }

    pub(crate) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "/problems/forbidden", "Not allowed", detail)
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "/problems/not-found", "No such thing", "there is no such rental or route")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let title = "No such method here";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "/problems/method-not-allowed", title, "the route has other methods")
    }

    pub(crate) fn precondition_failed() -> Self {
        let detail = "the rental was changed since; look at it again";
        Self::new(StatusCode::PRECONDITION_FAILED, "/problems/precondition-failed", "Changed meanwhile", detail)
            .about("If-Match")
    }

    pub(crate) fn unknown_cursor(last: Position) -> Self {
        let detail = format!("the journal ends at {last}: read everything again, then go on after that");
        Self::new(StatusCode::GONE, "/problems/unknown-cursor", "Unknown position", detail).about("after")
    }

    pub(crate) fn overloaded() -> Self {
        let detail = "the host did not get to it in time; ask whether it was done, or try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/overloaded", "Too much at once", detail).later(1)
    }

    /// The problem in one sentence.
    pub(crate) fn sentence(&self) -> String {
        self.detail.clone()
    }

    pub(crate) fn upgrade_required() -> Self {
        let detail = "this is a WebSocket: send Upgrade: websocket";
        Self::new(StatusCode::UPGRADE_REQUIRED, "/problems/upgrade-required", "A WebSocket is wanted", detail)
    }

    pub(crate) fn rate_limited(seconds: u64) -> Self {
        let detail = "this key calls too often; wait as long as Retry-After says";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "/problems/rate-limited", "Too many requests", detail).later(seconds)
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "/problems/internal", "Internal error", "see the host's log")
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

impl From<ValidationError> for Problem {
    fn from(invalid: ValidationError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "/problems/invalid", "Invalid request", invalid.to_string())
            .about(invalid.field())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Conflict | StoreError::Fenced => {
                tracing::warn!(error = &error as &dyn std::error::Error, "request refused for now");
                let detail = "the host's database does not answer; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(5)
            }
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "request failed");
                Self::internal()
            }
        }
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Store(error) => error.into(),
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "access cannot be told");
                Self::internal()
            }
        }
    }
}

impl From<ExtendError> for Problem {
    fn from(error: ExtendError) -> Self {
        let detail = error.to_string();
        match error {
            ExtendError::Over => Self::new(StatusCode::CONFLICT, "/problems/rental-over", "Too late", detail),
            ExtendError::Invalid(invalid) => invalid.into(),
            ExtendError::Store(error) => error.into(),
            ExtendError::Unkept(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an extension was refused");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(5)
            }
            other => {
                let detail = other.to_string();
                Self::new(StatusCode::CONFLICT, "/problems/open-ended", "Nothing to extend", detail)
            }
        }
    }
}

impl From<ChangeAccessError> for Problem {
    fn from(error: ChangeAccessError) -> Self {
        let detail = error.to_string();
        match error {
            ChangeAccessError::Over => Self::new(StatusCode::CONFLICT, "/problems/rental-over", "Too late", detail),
            ChangeAccessError::Invalid(invalid) => invalid.into(),
            ChangeAccessError::ByPassword => {
                Self::new(StatusCode::CONFLICT, "/problems/login-by-password", "No keys to change", detail)
            }
            ChangeAccessError::Store(error) => error.into(),
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "access cannot be changed");
                Self::internal()
            }
        }
    }
}

impl From<ExecError> for Problem {
    fn from(error: ExecError) -> Self {
        let detail = error.to_string();
        match error {
            ExecError::NotRunning | ExecError::Runtime(RuntimeError::Missing) => {
                Self::new(StatusCode::CONFLICT, "/problems/not-ready", "Not ready", detail)
            }
            ExecError::NotSupported => {
                Self::new(StatusCode::NOT_IMPLEMENTED, "/problems/not-supported", "Not offered", detail)
            }
            other => {
                tracing::warn!(error = &other as &dyn std::error::Error, "a container cannot be entered");
                let detail = "the host's container engine does not answer; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(5)
            }
        }
    }
}

impl From<LogsError> for Problem {
    fn from(error: LogsError) -> Self {
        match error {
            LogsError::Store(error) => error.into(),
            other => {
                tracing::warn!(error = &other as &dyn std::error::Error, "logs cannot be read");
                let detail = "the host's container engine does not answer; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(5)
            }
        }
    }
}

impl From<PlacementError> for Problem {
    fn from(no_place: PlacementError) -> Self {
        let detail = no_place.to_string();
        let conflict = |kind, title| Self::new(StatusCode::CONFLICT, kind, title, detail.clone());
        let invalid = |kind, title, field: &str| {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, kind, title, detail.clone()).about(field)
        };
        match no_place {
            PlacementError::UnknownGpu { .. } => invalid("/problems/unknown-gpu", "No such GPU here", "gpu"),
            PlacementError::NoGpuFree(_) => conflict("/problems/no-gpu-free", "No GPU free").about("gpu"),
            PlacementError::NoPlaceWithoutGpu => conflict("/problems/no-capacity", "No place free"),
            PlacementError::GpuRequired => invalid("/problems/gpu-required", "A GPU has to be asked for", "gpu"),
            PlacementError::TooMuch(invalid) => invalid.into(),
            PlacementError::TooMany(TooMany::InVain(_)) => {
                let title = "Too many came to nothing";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "/problems/renter-limit", title, detail).later(600)
            }
            PlacementError::TooMany(_) => conflict("/problems/renter-limit", "As much as one renter may have"),
            PlacementError::DiskFull => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/disk-full", "Disk almost full", detail).later(60)
            }
            PlacementError::EngineUnavailable => {
                let title = "The container engine does not answer";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/engine-unavailable", title, detail).later(10)
            }
            PlacementError::WorkspacesNotSupported => {
                invalid("/problems/workspaces-not-supported", "No workspaces here", "workspace")
            }
            PlacementError::UdpNotSupported => invalid("/problems/udp-not-supported", "No UDP ports here", "ports"),
            PlacementError::NoRateWithoutGpu => invalid("/problems/no-price", "No price without a GPU", "gpu"),
            PlacementError::NoRate(_) => invalid("/problems/no-price", "No price for this GPU", "gpu"),
            PlacementError::NoPort(PortError::NotAllowed(_)) => {
                invalid("/problems/port-not-allowed", "Port not allowed", "ports")
            }
            PlacementError::NoPort(_) => conflict("/problems/port-taken", "Port taken").about("ports"),
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "no place");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(5)
            }
        }
    }
}

impl From<SuspendError> for Problem {
    fn from(error: SuspendError) -> Self {
        match error {
            SuspendError::Store(error) => error.into(),
            SuspendError::TooMany(limit) => Self::from(PlacementError::from(limit)),
            over => Self::new(StatusCode::CONFLICT, "/problems/rental-over", "Too late", over.to_string()),
        }
    }
}

impl From<ResumeError> for Problem {
    fn from(error: ResumeError) -> Self {
        let detail = error.to_string();
        match error {
            ResumeError::Over => Self::new(StatusCode::CONFLICT, "/problems/rental-over", "Too late", detail),
            ResumeError::StillSuspending => {
                Self::new(StatusCode::CONFLICT, "/problems/still-suspending", "Not suspended yet", detail).later(2)
            }
            ResumeError::NotPlaced(no_place) => no_place.into(),
            ResumeError::Store(error) => error.into(),
            ResumeError::TakingStock => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(2)
            }
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "rental not resumed");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(5)
            }
        }
    }
}

impl From<RentError> for Problem {
    fn from(error: RentError) -> Self {
        let detail = error.to_string();
        let conflict = |kind, title| Self::new(StatusCode::CONFLICT, kind, title, detail.clone());
        let invalid = |kind, title, field: &str| {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, kind, title, detail.clone()).about(field)
        };
        match error {
            RentError::NotPlaced(no_place) => no_place.into(),
            RentError::NameTaken(_) => conflict("/problems/name-taken", "Name taken").about("name"),
            RentError::KeyReused => {
                invalid("/problems/idempotency-key-reused", "Key used for another request", "Idempotency-Key")
            }
            RentError::Pulling(_) => {
                conflict("/problems/image-pulling", "Image is being pulled").about("image").later(5)
            }
            RentError::Unpullable(_) => invalid("/problems/image-unavailable", "Image cannot be pulled", "image"),
            RentError::Store(error) => error.into(),
            RentError::Starting => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(2)
            }
            RentError::Unconfirmed { id, .. } => {
                let unconfirmed = StatusCode::SERVICE_UNAVAILABLE;
                let problem = Self::new(unconfirmed, "/problems/outcome-unknown", "Outcome unknown", detail).later(5);
                Self { rental_id: Some(id), ..problem }
            }
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "request refused");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not now", detail).later(5)
            }
        }
    }
}
