//! Bodies that FastAPI would refuse, refused in its form: the originals of `rent` and `instances` are made with it.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::extract::Malformed;

/// The form in which the original refuses a body (FastAPI's).
pub(super) fn unprocessable(malformed: Malformed) -> Response {
    let (place, message) = match malformed {
        Malformed::TooLarge => (vec!["body".to_owned()], "body is larger than 256 KiB".to_owned()),
        Malformed::Incomplete => (vec!["body".to_owned()], "body broke off".to_owned()),
        Malformed::NotJson => (vec!["body".to_owned()], "send Content-Type: application/json".to_owned()),
        Malformed::Wrong { field, reason, missing } => {
            let parts = field.split('.').map(str::to_owned).chain(missing).filter(|part| !part.is_empty());
            (std::iter::once("body".to_owned()).chain(parts).collect(), reason)
        }
    };
    let detail = json!({"detail": [{"loc": place, "msg": message, "type": "value_error"}]});
    (StatusCode::UNPROCESSABLE_ENTITY, Json(detail)).into_response()
}
